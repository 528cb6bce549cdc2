# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
r"""QPT against cloning the safe episodes, on one dataset.

Cloning (BC-Safe in the paper) imitates the episodes within the cost limit, with the same
Transformer, the same sizes and the same number of updates, without return or cost targets. QPT runs
through OmniSafe with the CPU preset, as a user would run it.

    python -m benchmarks.imitation --env-id SafetyBallCircle-v0 --dataset BallCircle.hdf5 \
        --seeds 0 1 --json benchmarks/results/imitation-BallCircle.json
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import torch

from benchmarks.command import make_parser, run_command
from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.learner import Learner
from omnisafe_qpt.core.rollout import DeployableNetworks
from omnisafe_qpt.core.scaling import Scaling
from omnisafe_qpt.data.files import file_sha256
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.checkpoint import versions
from omnisafe_qpt.host.config import load_defaults, load_preset, merge, parse_option
from omnisafe_qpt.host.evaluation import Evaluation, default_processes, evaluate
from omnisafe_qpt.host.limits import evaluate_runs
from omnisafe_qpt.host.progress import ProgressReporter
from omnisafe_qpt.host.settings import learner_config


# Targets divided by this are zero.
_NO_TARGET_UNIT = 1e30


def main() -> int:
    """Run the benchmark from the command line."""
    return run_command(_parser(), run, _print)


def _print(result: dict[str, Any]) -> None:
    for row in result['rows']:
        print(
            f'{row["agent"]:<12} seed {row["seed"]}: return {row["return_mean"]:.1f} '
            f"({row['return_in_dataset_range']:.3f} of the dataset's range), cost "
            f'{row["cost_mean"]:.2f} ({row["normalized_cost"]:.3f} of the limit), '
            f'{row["train_seconds"]:.0f} s of training',
        )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('--env-id', required=True)
    parser.add_argument('--dataset', required=True, type=Path)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--episodes', type=int, default=20)
    parser.add_argument('--preset', default='cpu')
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='SECTION:KEY=VALUE',
        help='an option of QPT to change, for instance algo_cfgs:eta_cost=0.3',
    )
    parser.add_argument('--log-dir', default='runs')
    parser.add_argument('--json', required=True, type=Path)
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate both agents for each seed."""
    defaults = load_defaults(options.env_id)
    custom = merge(load_preset(options.preset), {'logger_cfgs': {'log_dir': options.log_dir}})
    for assignment in options.set:
        key, _, value = assignment.partition('=')
        custom = merge(custom, parse_option(key, value, defaults))
    custom['train_cfgs'].update(
        dataset=str(options.dataset),
        evaluate_epoisodes=1,
        final_evaluate_episodes=1,
        torch_threads=1,
    )
    rows = []
    for seed in options.seeds:
        rows += _qpt_rows(options, merge(custom, {'seed': seed}))
        rows.append(_cloning_row(options, merge(merge(defaults, custom), {'seed': seed})))
    return {
        'command': ' '.join(['python -m benchmarks.imitation', *sys.argv[1:]]),
        'env_id': options.env_id,
        'dataset': options.dataset.name,
        'dataset_sha256': file_sha256(options.dataset),
        'settings': merge(defaults, custom),
        'versions': versions(),
        'hardware': f'{platform.machine()}, {os.cpu_count()} processors, 1 torch thread',
        'date': time.strftime('%Y-%m-%d'),
        'rows': rows,
    }


def _qpt_rows(options: argparse.Namespace, custom: dict[str, Any]) -> list[dict[str, Any]]:
    """Train QPT; evaluate it with the paper's rule, the bounded rule and the plain policy."""
    agent = omnisafe.Agent('QPT', options.env_id, custom_cfgs=custom)
    started = time.perf_counter()
    agent.learn()
    seconds = time.perf_counter() - started
    rows = []
    for name, choice in (
        ('paper', {'rule': 'paper'}),
        ('bounded', {'rule': 'bounded'}),
        ('plain', {'candidates': 1}),
    ):
        (result,) = evaluate_runs(
            agent.agent.logger.log_dir,
            episodes=options.episodes,
            seed=_first_seed(custom['seed']),
            **choice,
        )
        rows.append(
            _row(f'QPT {name}', custom['seed'], options, result['cost_limit'], seconds, result),
        )
    return rows


def _cloning_row(options: argparse.Namespace, cfgs: dict[str, Any]) -> dict[str, Any]:
    """Clone the safe episodes: no targets, no critics, no candidates."""
    from omnisafe.utils.config import Config

    torch.manual_seed(cfgs['seed'])
    everything = Trajectories.load(options.dataset)
    limit = cfgs['algo_cfgs']['cost_limit']
    safe = everything.select(everything.cost_returns <= limit)
    if not len(safe.rows):
        raise UserError(f'{options.dataset} has no episode within cost {limit:g} to clone')
    for key in ('use_reward_critic', 'use_cost_critic', 'use_ensemble'):
        cfgs['algo_cfgs'][key] = False
    horizon = int(everything.rows.lengths.max())
    learner = Learner(
        everything.obs_dim,
        everything.act_dim,
        Scaling(*everything.observation_statistics()),
        learner_config(Config.dict2config(cfgs), horizon),
    )
    sampler = WindowSampler(safe, cfgs['model_cfgs']['actor']['context_len'],
                            cfgs['algo_cfgs']['batch_size'], cfgs['seed'])  # fmt: skip
    progress = ProgressReporter('Cloning', learner.config.total_steps, unit='updates')
    started = time.perf_counter()
    with progress.shown():
        while learner.step < learner.config.total_steps:
            batch = sampler.sample()
            blind = torch.zeros_like(batch.return_to_go)
            learner.update(dataclasses.replace(batch, return_to_go=blind, cost_to_go=blind))
            progress.update(learner.step)
    seconds = time.perf_counter() - started
    networks = _Blind.from_learner(learner, {})
    first = _first_seed(cfgs['seed'])
    result = evaluate(
        networks,
        options.env_id,
        DeploymentConfig(cost_limit=0.0, candidates=1),
        target_return=0.0,
        seeds=range(first, first + options.episodes),
        processes=default_processes(options.episodes),
    )
    return _row('clone safe', cfgs['seed'], options, limit, seconds, _plain(result))


class _Blind(DeployableNetworks):
    """Networks that see no targets, at deployment as in training."""

    @classmethod
    def from_learner(cls, learner: Learner, spec: dict[str, Any]) -> _Blind:
        """Copy the policy, and put zeros for its targets."""
        networks = super().from_learner(learner, spec)
        networks.scaling.return_unit.fill_(_NO_TARGET_UNIT)
        networks.scaling.cost_unit.fill_(_NO_TARGET_UNIT)
        return networks


def _first_seed(seed: int) -> int:
    return 1_000_000 + 1000 * seed


def _plain(result: Evaluation) -> dict[str, Any]:
    return {'returns': result.returns, 'costs': result.costs}


def _row(  # pylint: disable=too-many-arguments
    agent: str,
    seed: int,
    options: argparse.Namespace,
    limit: float,
    train_seconds: float,
    result: dict[str, Any],
) -> dict[str, Any]:
    returns = Trajectories.load(options.dataset).returns
    low, high = returns.min().item(), returns.max().item()
    return_mean, cost_mean = float(np.mean(result['returns'])), float(np.mean(result['costs']))
    return {
        'agent': agent,
        'seed': seed,
        'episodes': options.episodes,
        'cost_limit': limit,
        'return_mean': return_mean,
        'return_in_dataset_range': (return_mean - low) / (high - low),
        'cost_mean': cost_mean,
        'normalized_cost': cost_mean / limit,
        'train_seconds': train_seconds,
        'returns': result['returns'],
        'costs': result['costs'],
    }


if __name__ == '__main__':
    sys.exit(main())
