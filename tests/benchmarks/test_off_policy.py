# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of off-policy estimates: what is compared, what is kept, what is shown."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import omnisafe
import pytest

from benchmarks import off_policy
from host_helpers import ENV_ID, small_options, write_dataset


@pytest.mark.usefixtures('small_model')
def test_both_ways_are_compared_in_the_same_episodes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = write_dataset(tmp_path / 'ball.hdf5', episodes=24)
    none = {'evaluate_epoisodes': 0, 'final_evaluate_episodes': 0}
    options = small_options(dataset, tmp_path / 'runs', **none)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    found, plot = tmp_path / 'found.json', tmp_path / 'found.png'
    command = ['--run', agent.agent.logger.log_dir, '--episodes', '2', '--cost-limits', '0', '1e6']
    files = ['--json', str(found), '--plot', str(plot)]
    monkeypatch.setattr(sys, 'argv', ['off_policy', *command, *files])
    assert off_policy.main() == 0
    (row,) = json.loads(found.read_text())['rows']
    assert row['levels'][-1]['target_cost'] is None  # zero actions
    assert row['dataset']['path'] == 'ball.hdf5'  # without its folder
    assert [choice['method'] for choice in row['choices']] == ['hindsight', 'model'] * 2
    simulated = {level['target_cost']: level['simulated'] for level in row['levels']}
    for choice in row['choices']:
        if choice['return'] is not None:
            episodes = simulated[choice['target_cost']]
            assert choice['return'] == statistics.fmean(episodes['returns'])
            assert choice['cost'] == statistics.fmean(episodes['costs'])
    *_, best, _ = row['choices']
    returns = [statistics.fmean(episodes['returns']) for episodes in simulated.values()]
    assert best['return'] == max(returns), 'every level is within a limit this high'
    assert plot.read_bytes().startswith(b'\x89PNG')
    assert row['run'] in capsys.readouterr().out

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError('the run was repeated')

    monkeypatch.setattr(off_policy, 'imagined_calibration', fail)
    assert off_policy.main() == 0


def test_the_summary_is_of_the_errors() -> None:
    """Errors of 0 and 1 limits, of which the interval of one level covers the truth."""
    levels = [
        {
            'cost_bound': 1.0,
            'return_mean': 100.0,
            'cost_mean': 20.0,
            'return_interval': [90.0, 110.0],
            'cost_interval': interval,
            'simulated': {'returns': [100.0, 100.0], 'costs': [true - 1.0, true + 1.0]},
        }
        for true, interval in ((20.0, [19.0, 21.0]), (30.0, [19.0, 21.0]))
    ]
    row = {'env_id': 'Task', 'training': {'seed': 0}, 'cost_limit': 10.0, 'levels': levels}
    text = off_policy._summary(off_policy._frame([row]))
    assert 'cost error 0.500' in text
    assert 'covered 0.50 of 2' in text
    assert 'return error 0.0%' in text
