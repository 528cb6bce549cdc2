# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Tables: complete at any width, in a terminal and in a pipe."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from omnisafe_qpt.cli import calibrate, data_info, doctor, evaluate, main, offline
from omnisafe_qpt.cli.common import print_table, result_table
from omnisafe_qpt.data.hdf5_writer import write_hdf5


NUMBER = re.compile(r'(?<!\S)[-+@]?\d[\d,.]*(?:e[-+]?\d+)?[%*]?(?!\S)')


def numbers(text):
    return sorted(NUMBER.findall(text))


def printed(show, width, monkeypatch, capsys):
    """Return what is printed, in a pipe without a width if there is none."""
    if width is None:
        monkeypatch.delenv('COLUMNS', raising=False)
    else:
        monkeypatch.setenv('COLUMNS', str(width))
    capsys.readouterr()
    show()
    return capsys.readouterr().out


EPISODES = {'return_mean': -113865.25, 'return_std': 12345.5, 'cost_mean': 10234.75}
ROW = {
    'algo': 'QPT', 'env_id': 'SafetyCarButton1-v0', 'episodes': 20, 'rule': 'discounted_budget',
    'candidates': 12, 'cost_limit': 12345.5, 'target_cost': 98765.25, 'calibrated_bound': None,
    'zero_action': False, 'target_return': -113865.2, 'cost_std': 4567.25, 'safe': True,
    'normalized_return': -12.345, 'normalized_cost': 1023.475, 'unsafe_share': 1.0,
    'run': 'runs/seed-000', 'checkpoint': 'epoch-10', 'unsafe_share_bound': 0.25,
    'guarantee': {
        name: f'with 95 % confidence, from {n} episodes that cost 12345.5 ' * 3
        for n, name in enumerate(('mean_statement', 'share_statement'), 1234)
    },
    **EPISODES,
}  # fmt: skip
LEVELS = {'target_cost': 98765.4, 'target_return': -113865.2, 'return_mean': -113000.5,
          'cost_mean': 10234.8, 'cost_bound': 20234.9, 'costs': [1.0] * 123}  # fmt: skip
CALIBRATION = {
    'predicted_mean': -1138.5, 'realised_mean': -12345.0, 'bias': 0.0001234, 'rmse': 123456.0,
    'correlation': -0.123, 'rank_correlation': 0.456,
    'bins': [{'predicted': -123456.0 - n, 'realised': 654321.0 + n} for n in range(10)],
}  # fmt: skip
ESTIMATED = {
    'cost_limit': 123.5,
    'target_return': -23456.5,
    'target_cost': 98.25,
    'return_mean': -123456.0,
    'return_interval': [-123456.0, 123456.0],
    'cost_mean': 1234.0,
    'cost_interval': [0.0, 12345.0],
    'verdict': 'not usable',
    'reason': '71% of the policy steps are outside the data',
}
ERRORS = {'error_absolute': 12345.0, 'mean': -98765.0}
REPORT = {
    'run': 'runs/seed-000', 'checkpoint': 'epoch-10', 'dataset': 'mine.hdf5', 'data': 'held out',
    'episodes': 1234, 'transitions': 1234567, 'gamma': 0.99, 'time_limit_episodes': 1000,
    'uncounted_weight': 0.25,
    'action_errors': [{
        'episodes': 'within', 'cost_limit': 12345.0, 'num_episodes': 12345, 'num_steps': 1234567,
        'error': 0.0012345, 'mean_action_error': 0.12345,
    }],
    'estimate': {
        'limits': [ESTIMATED] * 2,
        'choices': [None, ESTIMATED],
        'test': {'episodes': 60, **dict.fromkeys(('costs', 'returns'), ERRORS)},
    },
    'calibrations': dict.fromkeys(offline._SUMS, CALIBRATION),
    'candidates': [{
        'candidates': 12, 'rule': 'discounted_budget', 'num_states': 4096, 'cost_limit': 12345.0,
        'target_return': -113865.2, 'overspent_share': 0.123, 'infeasible_share': 0.456,
        'infeasible_within_share': 0.789, 'changed_share': 1.0,
    }],
}  # fmt: skip
CHECK = {'check': 'metadrive-medium', 'state': 'FAILED', 'detail': 'needs 12345 of 67890 ' * 9,
         'fix': 'pip install metadrive'}  # fmt: skip


def show_tasks():
    assert main(['tasks']) == 0


SHOWN = {
    'tasks': show_tasks,
    'evaluate': lambda: evaluate._print_tables(
        [ROW, {**ROW, 'run': 'runs/seed-001'}],
        [{
            **ROW, 'runs': 2, 'safe_runs': 1, 'runs_without_target': 1,
            'normalized_return_interval': (-20.5, 20.5),
            'normalized_cost_interval': (-2000.5, 2000.5),
        }],
    ),
    'evaluate --offline': lambda: offline._print_report(REPORT),
    'calibrate': lambda: calibrate._print_table(
        {'levels': [LEVELS] * 3, 'zero_action': LEVELS, 'worst_cost': 98765.5}
    ),
    'doctor': lambda: doctor._print_answers({'torch': '2.7.1', 'mujoco': '2.3.3'}, [CHECK]),
}  # fmt: skip


@pytest.mark.parametrize('width', [80, 60, 40, None])
@pytest.mark.parametrize('name', SHOWN)
def test_no_width_cuts_a_number(name, width, monkeypatch, capsys):
    whole = printed(SHOWN[name], 500, monkeypatch, capsys)
    text = printed(SHOWN[name], width, monkeypatch, capsys)
    assert len(numbers(whole)) > 3
    assert numbers(text) == numbers(whole)
    assert '…' not in text
    if width is None:
        assert text == whole or max(map(len, text.splitlines())) > 80
    elif width >= 60 and name == 'evaluate':
        assert max(map(len, text.splitlines())) <= width


@pytest.fixture(name='wide')
def fixture_wide(tmp_path, make_arrays):
    """A dataset whose numbers are long, returns of six digits and a sign among them."""
    arrays = make_arrays((400, 300, 500), obs_dim=40, act_dim=4)
    arrays['rewards'] = np.float32(-113.865) * (1 + np.arange(1200, dtype=np.float32) // 100)
    arrays['costs'] = np.float32(123.456) * (np.arange(1200) % 7 == 0)
    arrays['actions'] *= np.array([1, 0.5, 0.25, 12.5], dtype=np.float32)
    path = tmp_path / 'data.hdf5'
    write_hdf5(path, arrays, {'seeds': np.arange(1000, 1400), 'step': 0.0123456789})
    return path


@pytest.mark.parametrize('width', [80, 60, 40, None])
def test_data_info_is_whole_at_any_width(wide, tmp_path, width, monkeypatch, capsys):
    out = tmp_path / 'info.json'
    command = ['data', 'info', str(wide), '--json', str(out)]
    text = printed(lambda: main(command), width, monkeypatch, capsys)
    content = json.loads(out.read_text(encoding='utf-8'))
    assert '…' not in text
    found = NUMBER.findall(text)
    told = [value for row in content['quantiles'].values() for value in row.values()]
    for span in content['ranges'].values():
        told += [min(span['low']), max(span['high'])]
    for row in content['cost_limits']:
        told += [row['cost_limit'], row['episodes']]
    for value in told:
        assert data_info._number(value) in found or f'{value:g}' in found, value
    # The range of each dimension of the actions.
    line = ' '.join(text.split())
    for number, (low, high) in enumerate(
        zip(*(content['ranges']['actions'][k] for k in ('low', 'high')))
    ):
        assert f'{number}: {data_info._number(low)} to {data_info._number(high)}' in line
    # Metadata that are shortened end with a whole number.
    shown = re.search(r'seeds: (.*?) \.\.\. ', line)[1]
    assert {int(number) for number in re.findall(r'\d+', shown)} <= set(range(1000, 1400))


def test_a_table_too_wide_becomes_a_list_of_all_its_entries(monkeypatch, capsys):
    table = result_table('Title', 'caption', ('Limit', *(f'column{n}' for n in range(9))))
    rows = [[str(10**6 + 100 * row + column) for column in range(10)] for row in range(3)]
    for row in rows:
        table.add_row(*row)
    text = printed(lambda: print_table(table), 60, monkeypatch, capsys)
    assert numbers(text) == sorted(number for row in rows for number in row)
    assert text.split()[:3] == ['Title', 'Limit', '1000000']
    assert 'caption' in text
    wide = printed(lambda: print_table(table), None, monkeypatch, capsys)
    assert len(wide.splitlines()) < len(text.splitlines())
    assert numbers(wide) == numbers(text)
