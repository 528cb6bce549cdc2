# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The README's command on each of DSRL's 38 tasks, with a small dataset in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common_helpers import read_csv, run_command
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.tasks import Task, all_tasks
from omnisafe_qpt.envs.simulators import why_unavailable


# Their episodes may end before the horizon.
ENDING = ('metadrive', 'HopperVelocity', 'Walker2dVelocity', 'AntVelocity', 'Ant', 'Drone')
EPISODES, STEPS = 3, 20


def write_data(path: Path, task: Task) -> None:
    generator = np.random.default_rng(0)
    count = EPISODES * STEPS
    states = generator.normal(size=(EPISODES, STEPS + 1, task.obs_dim)).astype(np.float32)
    ends = np.arange(1, count + 1) % STEPS == 0
    write_hdf5(
        path,
        {
            'observations': states[:, :-1].reshape(count, -1),
            'next_observations': states[:, 1:].reshape(count, -1),
            'actions': generator.uniform(-1, 1, (count, task.act_dim)).astype(np.float32),
            'rewards': generator.normal(size=count).astype(np.float32),
            'costs': generator.integers(0, 2, count).astype(np.float32),
            'terminals': np.zeros(count, dtype=bool),
            'timeouts': ends,
        },
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('task', all_tasks(), ids=lambda task: task.name)
def test_it_trains_on_its_cached_dataset_and_plays_to_the_horizon(
    task: Task, tmp_path: Path
) -> None:
    reason = why_unavailable(task.suite) if task.suite == 'metadrive' else None
    if reason is not None:
        pytest.skip(reason)
    cache = tmp_path / 'cache'
    cache.mkdir()
    write_data(cache / task.dataset_file, task)
    options = {
        'algo_cfgs:batch_size': 4,
        'algo_cfgs:steps_per_epoch': 2,
        'model_cfgs:actor:embed_dim': 16,
        'model_cfgs:actor:num_layers': 1,
        'model_cfgs:actor:num_heads': 2,
        'train_cfgs:torch_threads': 1,
        'train_cfgs:calibrate': 'none',
        'train_cfgs:evaluate_epoisodes': 0,
        'train_cfgs:final_evaluate_episodes': 1,
        'train_cfgs:evaluate_processes': 1,
    }
    words = ['omnisafe', 'train', '--algo', 'QPT', '--env-id', task.env_id, '--total-steps', 2]
    words += ['--log-dir', tmp_path / 'runs']
    for name, value in options.items():
        words += ['--custom-cfgs', name, '--custom-cfgs', value]
    done = run_command(*words, cwd=tmp_path, DSRL_DATASET_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    (progress,) = tmp_path.rglob('progress.csv')
    (row,) = read_csv(progress)
    length = float(row['Metrics/EpLen'])
    may_end = task.suite in ENDING or task.name.startswith(ENDING)
    assert 1 <= length <= task.horizon
    assert length == task.horizon or may_end
