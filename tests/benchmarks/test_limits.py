# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of cost limits: what is run, what is kept, what is shown."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import pytest

from benchmarks import limits
from omnisafe_qpt.errors import UserError


SPEC = {
    'horizon': 5,
    'step': 7,
    'config': {'seed': 3, 'algo_cfgs': {'batch_size': 2, 'eta_reward': 0.1, 'eta_cost': 0.2}},
}


def row(way='paper', limit=5.0, episodes=2, value=0.5, cost=0.4, env_id='Task', **more):
    return {
        'env_id': env_id,
        'way': way,
        'cost_limit': limit,
        'episodes': episodes,
        'normalized_return': value,
        'normalized_cost': cost,
        **more,
    }


@pytest.fixture(name='asked')
def fixture_asked(monkeypatch, tmp_path):
    """What the benchmark asks to be evaluated, in place of evaluating it."""
    asked = []

    def evaluate_runs(folder, cost_limits, *, on_progress, **options):
        on_progress(1, 2, 'label')
        asked.append((folder, cost_limits, options))
        return [row(limit=limit, dataset=f'{tmp_path}/data.hdf5') for limit in cost_limits]

    def load_networks(folder):
        checkpoint = tmp_path / folder / 'torch_save' / 'epoch-5.pt'
        return SimpleNamespace(spec=SPEC), checkpoint

    monkeypatch.setattr(limits, 'evaluate_runs', evaluate_runs)
    monkeypatch.setattr(limits, 'load_networks', load_networks)
    return asked


def options(path, **changes):
    values = {
        'run': ['task/seed-0'],
        'train': [],
        'rules': ['paper', 'plain'],
        'cost_limits': [5.0, 10.0],
        'episodes': 2,
        'processes': 1,
        'calibration_episodes': 3,
        'json': path,
        'plot': None,
        **changes,
    }
    return argparse.Namespace(**values)


def test_each_rule_of_each_run_gets_the_same_seeds_and_limits(asked, tmp_path):
    result = limits.run(options(tmp_path / 'o.json', run=['task/seed-0', 'task/seed-1']))
    ways = [{'rule': 'paper'}, {'candidates': 1}]
    same = {'episodes': 2, 'seed': 1_000_000, 'processes': 1, 'calibrated': False}
    assert asked == [
        (run, [5.0, 10.0], {**same, **way})
        for run in ('task/seed-0', 'task/seed-1')
        for way in ways
    ]
    assert result == json.loads((tmp_path / 'o.json').read_text())
    assert [(r['run'], r['way'], r['cost_limit']) for r in result['rows']] == [
        (run, way, limit)
        for run in ('task/seed-0', 'task/seed-1')
        for way in ('paper', 'plain')
        for limit in (5.0, 10.0)
    ]
    assert {r['dataset'] for r in result['rows']} == {'data.hdf5'}  # without its folder
    assert result['rows'][0]['training']['updates'] == 7


def test_the_calibrated_way_calibrates_first(asked, tmp_path, monkeypatch):
    calls = []

    def calibrate_run(folder, episodes, *, on_progress, **options):
        on_progress(1, 2)
        assert not asked
        calls.append((folder, episodes, options))
        return {'levels': []}, tmp_path

    monkeypatch.setattr(limits, 'calibrate_run', calibrate_run)
    result = limits.run(options(tmp_path / 'o.json', rules=['calibrated']))
    assert calls == [('task/seed-0', 3, {'rule': 'discounted_budget', 'processes': 1})]
    ((_, _, how),) = asked
    assert (how['rule'], how['calibrated']) == ('discounted_budget', True)
    assert {row['way'] for row in result['rows']} == {'calibrated'}
    assert result['rows'][0]['calibration'] == {'levels': []}
    limits.run(options(tmp_path / 'o.json', rules=['calibrated']))
    assert len(calls) == 1


def test_what_is_known_is_not_run_again(asked, tmp_path):
    path = tmp_path / 'o.json'
    limits.run(options(path, rules=['paper']))
    asked.clear()
    result = limits.run(options(path, rules=['paper'], cost_limits=[5.0, 20.0]))
    assert [limit for _, limit, _ in asked] == [[20.0]]
    assert [r['cost_limit'] for r in result['rows']] == [5.0, 10.0, 20.0]
    assert len(result['commands']) == 2
    limits.run(options(path, rules=['paper'], episodes=3))
    assert asked[-1][1] == [5.0, 10.0]


@pytest.mark.parametrize('train', [[], ['SafetyBallCircle-v0']])
def test_nothing_to_evaluate_is_refused(tmp_path, train):
    with pytest.raises(UserError, match=r'--run or --train|ENV_ID=FILE'):
        limits.run(options(tmp_path / 'o.json', run=[], train=train, seeds=[0], log_dir='runs'))


def test_means_are_over_episodes(capsys):
    rows = [row(episodes=1, value=1.0, cost=5.0), row(episodes=3, value=0.0, cost=1.0)]
    limits._print({'rows': [*rows, row(limit=20.0)]})
    assert '5: 0.25 / 2.00*   20: 0.50 / 0.40' in capsys.readouterr().out


def test_zero_actions_are_no_result(capsys, tmp_path):
    still = {'value': 0.0, 'cost': 0.0, 'zero_action': True}
    rows = [row(**still), row(limit=10.0, **still), row(limit=10.0, value=0.8, cost=1.0)]
    limits._print({'rows': rows})
    printed = capsys.readouterr().out
    assert '5: no safe target found   10: 0.40 / 0.50 (no safe target: 1)' in printed
    limits._plot(rows, tmp_path / 'o.png')


def test_a_plot_is_written(asked, tmp_path):
    limits.run(options(tmp_path / 'o.json', plot=tmp_path / 'o.png'))
    assert (tmp_path / 'o.png').read_bytes().startswith(b'\x89PNG')
    assert len(asked) == 2
