# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``omnisafe-qpt tasks`` prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from omnisafe_qpt import cli
from omnisafe_qpt.data.tasks import all_tasks, find_task
from omnisafe_qpt.envs import simulators


@pytest.fixture(name='folder', autouse=True)
def fixture_folder(tmp_path, monkeypatch):
    folder = tmp_path / 'data'
    folder.mkdir()
    monkeypatch.setenv('DSRL_DATASET_DIR', str(folder))
    monkeypatch.setenv('COLUMNS', '80')
    obstacles = {'metadrive': 'MetaDrive [is] not installed; run: pip install ' + 'package ' * 20}
    monkeypatch.setattr(simulators, 'why_unavailable', obstacles.get)
    return folder


def rows_of(text):
    """The lines of the tables by their first word."""
    return {line.split()[0]: line for line in text.splitlines() if line.startswith('Safe')}


def test_every_task_has_a_line_of_80_columns(capsys):
    assert cli.main(['tasks']) == 0
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert {task.env_id for task in all_tasks()} <= set(rows)
    for task in all_tasks():
        line = rows[task.env_id]
        assert len(line) <= 80
        assert '…' not in line
        assert line.split()[1:3] == [str(task.horizon), f'{task.obs_dim}/{task.act_dim}']
    assert rows['SafetyCarGoal1-v0'].split()[3:] == ['0.0', 'to', '39.9', '120', '~1.0', 'GB']
    assert rows['SafetyHopperVelocity-v1'].split()[3:6] == ['37', 'to', '1911']


def test_what_is_here_and_what_is_not_can_be_told_apart(folder, capsys):
    (folder / find_task('CarGoal1').dataset_file).write_bytes(bytes(2_500_000))
    cli.main(['tasks'])
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert rows['SafetyCarGoal1-v0'].endswith('here 2 MB')
    assert rows['SafetyCarGoal2-v0'].endswith('~2.5 GB')
    assert str(folder) in text


def test_what_cannot_be_simulated_is_said_once_in_one_piece(capsys):
    cli.main(['tasks'])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if 'not installed' in line] == [
        simulators.why_unavailable('metadrive'),
    ]
    assert sum(line.endswith('simulator installed') for line in lines) == 2
    assert sum(line.endswith('simulator missing') for line in lines) == 1


def test_a_suite_can_be_chosen(capsys):
    cli.main(['tasks', '--suite', 'bullet_safety_gym'])
    text = capsys.readouterr().out
    assert len(rows_of(text)) == 8
    assert 'cost limits 10, 20, 40' in text
    assert 'MetaDrive' not in text
    with pytest.raises(SystemExit) as caught:
        cli.main(['tasks', '--suite', 'bullet'])
    assert caught.value.code == 2


def test_everything_is_in_the_json(folder, tmp_path):
    goal = find_task('CarGoal1')
    (folder / goal.dataset_file).write_bytes(b'12345')
    path = tmp_path / 'tasks.json'
    cli.main(['tasks', '--json', str(path)])
    rows = {row['name']: row for row in json.loads(path.read_text())}
    assert list(rows) == [task.name for task in all_tasks()]
    assert rows['CarGoal1'] == {
        'name': 'CarGoal1',
        'suite': 'safety_gymnasium',
        'env_id': 'SafetyCarGoal1-v0',
        'dsrl_env_id': 'OfflineCarGoal1Gymnasium-v0',
        'horizon': 1000,
        'obs_dim': 72,
        'act_dim': 2,
        'min_return': goal.min_return,
        'max_return': goal.max_return,
        'min_cost': 0.0,
        'max_cost': 120.0,
        'trajectories': 1671,
        'cost_limits': [20.0, 40.0, 80.0],
        'cdt_targets': [
            {'return': 40.0, 'cost': cost, 'above_data': True} for cost in (20.0, 40.0, 80.0)
        ],
        'dataset_file': goal.dataset_file,
        'url': goal.url,
        'max_transitions': 1_671_000,
        'approximate_bytes': 4 * (2 * 72 + 2 + 4) * 1_671_000,
        'cached': str(folder / goal.dataset_file),
        'cached_bytes': 5,
        'can_simulate': True,
        'why_not': None,
    }
    assert rows['CarGoal2']['cached'] is None
    assert rows['easysparse']['can_simulate'] is False
    assert rows['easysparse']['why_not'] == simulators.why_unavailable('metadrive')
    above = [target['above_data'] for target in rows['CarCircle1']['cdt_targets']]
    assert above == [False, False, True]


def test_a_json_file_that_cannot_be_written_is_refused(tmp_path, capsys):
    assert cli.main(['tasks', '--json', str(tmp_path / 'no' / 'tasks.json')]) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    assert '--json' in captured.err


def test_nothing_heavy_is_imported():
    program = (
        'import sys\n'
        'from omnisafe_qpt import cli\n'
        'cli.main(["tasks"])\n'
        'heavy = {"torch", "h5py", "omnisafe", "gymnasium", "huggingface_hub", "pandas"}\n'
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    ran = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == '[]'
