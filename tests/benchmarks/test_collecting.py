# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Datasets that a suite collects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.attributes import read_attributes


ROOT = Path(__file__).parents[2]


def collect(folder: Path, env_id: str, options: dict) -> Path:
    folder.mkdir(exist_ok=True)
    out = folder / 'data.hdf5'
    collection = {'env_id': env_id, 'options': options, 'out': str(out), 'workers': 1}
    (folder / 'job.json').write_text(json.dumps(collection), encoding='utf-8')
    subprocess.run(
        [sys.executable, '-m', 'benchmarks.collecting', str(folder / 'job.json')],
        check=True,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    return out


@pytest.mark.slow
def test_the_same_collection_elsewhere_is_the_same_file(tmp_path: Path) -> None:
    options = {'episodes': 2, 'seed': 3, 'max_steps': 20}
    files = [collect(tmp_path / name, 'SafetyBallRun-v0', options) for name in ('here', 'there')]
    assert file_sha256(files[0]) == file_sha256(files[1])


@pytest.mark.slow
def test_agents_are_trained_once_and_give_the_same_file_elsewhere(tmp_path: Path) -> None:
    agents = [
        {'algo': 'PPO', 'steps': 2000},
        {'algo': 'PPOLag', 'steps': 2000, 'cost_limit': 5, 'seed': 1},
    ]
    options = {'episodes': 4, 'seed': 3, 'max_steps': 50, 'agents': agents}
    env_id = 'SafetyHopperVelocity-v1'
    files = [collect(tmp_path / name, env_id, options) for name in ('here', 'there')]
    assert file_sha256(files[0]) == file_sha256(files[1])
    policies = json.loads(read_attributes(files[0])['policies'])
    labels = {policy['algorithm'] for policy in policies}
    assert labels == {'PPO', 'PPOLag'}
    (run,) = (tmp_path / 'here' / 'agents' / env_id).glob('PPOLag-2000-limit-5-seed-1')
    assert json.loads((run / 'config.json').read_text())['lagrange_cfgs']['cost_limit'] == 5.0
    before = (run / 'config.json').stat().st_mtime_ns
    files[0].unlink()
    collect(tmp_path / 'here', env_id, options)
    assert (run / 'config.json').stat().st_mtime_ns == before
