# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One dataset of a suite, in a process of its own: train its agents, then collect its episodes.

    python -m benchmarks.collecting COLLECTION.json

``benchmarks.compare`` writes the collection and starts the process. Agents are OmniSafe's own
algorithms, for tasks without scripted controllers. A trained agent stays beside the data and is not
trained again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli import main as run_qpt_command


# Of an agent's training, so that its checkpoints differ in return and cost.
_CHECKPOINTS = 10
_STEPS_PER_EPOCH = 20_000


def main() -> int:
    """Make the dataset of the command line; returns the exit status."""
    collection = json.loads(Path(sys.argv[1]).read_text(encoding='utf-8'))
    out, options = Path(collection['out']), dict(collection['options'])
    # With relative paths, the file's record of its command does not depend on where it is made.
    os.chdir(out.parent)
    words = ['--env-id', collection['env_id'], '--out', out.name]
    for agent in options.pop('agents', ()):
        words += ['--agent', f'{train_agent(agent, collection["env_id"])}:all']
    for name, value in {**options, 'workers': collection['workers']}.items():
        words += [f'--{name.replace("_", "-")}', str(value)]
    return run_qpt_command(['data', 'collect', *words])


def train_agent(agent: dict[str, Any], env_id: str) -> Path:
    """Train one of OmniSafe's algorithms with its own settings, unless that was done.

    Args:
        agent (dict[str, Any]): ``algo`` and ``steps``; if wanted ``seed`` (0) and ``cost_limit``.
        env_id (str): The environment.

    Returns:
        The run, a folder in ``agents``.
    """
    algo, steps, seed = agent['algo'], agent['steps'], agent.get('seed', 0)
    limit = agent.get('cost_limit')
    name = f'{algo}-{steps}' + ('' if limit is None else f'-limit-{limit:g}')
    run = Path('agents') / env_id / f'{name}-seed-{seed}'
    if not run.is_dir():
        import omnisafe

        unfinished = run.with_name(f'{run.name}.unfinished')
        shutil.rmtree(unfinished, ignore_errors=True)
        epochs = max(1, steps // _STEPS_PER_EPOCH)
        settings: dict[str, Any] = {
            'seed': seed,
            'train_cfgs': {'total_steps': steps, 'vector_env_nums': 1, 'torch_threads': 1},
            'algo_cfgs': {'steps_per_epoch': min(steps, _STEPS_PER_EPOCH)},
            'logger_cfgs': {
                'log_dir': str(unfinished),
                'save_model_freq': max(1, epochs // _CHECKPOINTS),
                'use_wandb': False,
                'use_tensorboard': False,
            },
        }
        if limit is not None:
            settings['lagrange_cfgs'] = {'cost_limit': float(limit)}
        omnisafe.Agent(algo, env_id, custom_cfgs=settings).learn()
        (config,) = unfinished.rglob('config.json')
        config.parent.rename(run)
        shutil.rmtree(unfinished)
    return run


if __name__ == '__main__':
    sys.exit(main())
