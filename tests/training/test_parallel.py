# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one process does with the whole batch."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import omnisafe
import pytest
import torch

from common_helpers import SCRIPTS, read_csv, run_command
from host_helpers import ENV_ID, command_line_options, only_run, small_options
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.settings.files import merge
from parallel_helpers import CASES, run_processes, train, use_ranks


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_processes(tmp_path_factory.mktemp('processes'))


@pytest.mark.parametrize('case', CASES)
def test_two_processes_learn_what_one_does(found: list[dict[str, Any]], case: str) -> None:
    alone = train(CASES[case], Ranks())
    first, second = (process[case] for process in found)
    # The shares differ in how much of them is padding, so that means of means would be wrong.
    assert first['steps'] != second['steps']
    assert [sum(steps) for steps in zip(first['steps'], second['steps'])] == alone['steps']
    for name, tensor in alone['tensors'].items():
        assert torch.equal(first['tensors'][name], second['tensors'][name]), name
        # A weight may move by 1e-3 or 2e-3 in each of six updates.
        difference = (first['tensors'][name] - tensor).abs()
        if name.endswith('key_value.bias'):
            # No attention depends on a bias of all keys: its gradient is rounding errors only.
            difference = difference[len(difference) // 2 :]
        assert difference.max() < 2e-5, name
    assert first['metrics'] == second['metrics']
    assert first['metrics'] == pytest.approx(alone['metrics'], rel=1e-4, abs=1e-6)


def test_what_ranks_do_together(found: list[dict[str, Any]]) -> None:
    first, second = (process['ranks'] for process in found)
    for mine in (first, second):
        assert mine['average'].tolist() == [0.5, 1.5, 2.5]
        assert mine['integers'].tolist() == [2.0]
        assert mine['broadcast'].tolist() == [0]
        assert mine['shared'] == 'of 0'
    assert second['given'].tolist() == [1.0, 2.0, 3.0]  # as it was
    assert second['entered'] >= first['left']


def test_one_process_needs_no_others() -> None:
    mine = use_ranks(Ranks())
    assert mine['average'] is mine['given']
    assert mine['shared'] == 'of 0'
    module = torch.nn.Linear(1, 1)
    assert Ranks.from_process_group().wrap(module) is module


# ------------------------------------------------------------------ OmniSafe's command line


def run_together(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes."""
    launcher = ['torchrun', '--standalone', '--nproc-per-node', '2']
    return run_command(*launcher, *arguments, cwd=cwd)


def train_together(options: dict[str, Any], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``omnisafe train`` in two processes."""
    log_dir = options['logger_cfgs'].pop('log_dir')
    arguments = ['--algo', 'QPT', '--env-id', ENV_ID, '--log-dir', log_dir]
    return run_together(
        '--no-python',
        SCRIPTS / 'omnisafe',
        'train',
        *arguments,
        *command_line_options(options),
        cwd=cwd,
    )


def without_dropout(options: dict[str, Any]) -> dict[str, Any]:
    options['model_cfgs']['actor']['dropout'] = 0.0
    return options


def results_of(run: Path) -> list[dict[str, float]]:
    """Read ``progress.csv`` without what the clock says."""
    return [
        {name: float(value) for name, value in row.items() if not name.startswith('Time/')}
        for row in read_csv(run / 'progress.csv')
    ]


@pytest.fixture(scope='module')
def together(
    dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the output of a run in two processes."""
    folder = tmp_path_factory.mktemp('together')
    done = train_together(without_dropout(small_options(dataset, folder)), folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder), done


@pytest.mark.slow
def test_a_run_in_two_processes_is_the_run_in_one(
    together: tuple[Path, subprocess.CompletedProcess[str]],
    dataset: Path,
    tmp_path: Path,
) -> None:
    omnisafe.Agent(
        'QPT', ENV_ID, custom_cfgs=without_dropout(small_options(dataset, tmp_path))
    ).learn()
    rows, expected = results_of(together[0]), results_of(only_run(tmp_path))
    assert len(rows) == len(expected) == 2
    for row, expected_row in zip(rows, expected):
        assert row == pytest.approx(expected_row, rel=1e-3, abs=1e-5)
    names = {path.relative_to(together[0]) for path in together[0].rglob('*')}
    assert names == {path.relative_to(only_run(tmp_path)) for path in only_run(tmp_path).rglob('*')}


@pytest.mark.slow
def test_one_process_speaks_for_both(
    together: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = together
    for once in ('Loading QPT.yaml', 'Training on cpu in 2 processes', 'Run folder'):
        assert done.stdout.count(once) == 1, once
    assert 'omnisafe_qpt' not in done.stderr  # such as a warning that names our line


@pytest.mark.slow
def test_a_run_in_two_processes_can_be_resumed(dataset: Path, tmp_path: Path) -> None:
    """With dropout, which each process draws for itself, and from a file of settings."""
    for name, total_steps in (('whole', 10), ('half', 5)):
        options = small_options(dataset, tmp_path / name, evaluate_epoisodes=2)
        options['train_cfgs']['total_steps'] = total_steps
        done = train_together(options, tmp_path)
        assert done.returncode == 0, done.stderr
    resume = {'device': 'cpu', 'total_steps': 10, 'resume': str(only_run(tmp_path / 'half'))}
    (tmp_path / 'resume.yaml').write_text(
        f'algo: QPT\nenv_id: {ENV_ID}\ntrain_cfgs: {resume}\n',
        encoding='utf-8',
    )
    done = run_together(
        '--no-python',
        SCRIPTS / 'omnisafe',
        'train-config',
        'resume.yaml',
        '--log-dir',
        'resumed',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run, whole = only_run(tmp_path / 'half'), only_run(tmp_path / 'whole')
    assert not (tmp_path / 'resumed').exists(), 'it goes on in its own folder'
    rows, expected = results_of(run), results_of(whole)
    for row in (rows[0], expected[0]):  # the half's last epoch ended with the final episodes
        for name in [name for name in row if name.startswith('Metrics/')]:
            del row[name]
    assert rows == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'algo_cfgs': {'batch_size': 9}}, 'it must be a multiple of their number, 2'),
        ({'train_cfgs': {'dataset': 'missing.hdf5'}}, 'missing.hdf5: no such dataset file'),
        ({'train_cfgs': {'accelerate': 'graph'}}, 'accelerate graph needs CUDA'),
    ],
)
def test_a_mistake_is_told_once(
    dataset: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    options = merge(small_options(dataset, tmp_path), changes)
    done = train_together(options, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count('Error: ') == 1 + done.stderr.count('ChildFailedError: ')
    assert done.stderr.count(message) == 1, done.stderr


SCRIPT = """
import os
import sys

import omnisafe
from omnisafe_qpt.qpt.learner import Learner

update, rank = Learner.update, int(os.environ['RANK'])

def fail(self, batch):
    assert len(batch.states) == 4, 'half of the batch'
    if self.step == 7 and rank == int(sys.argv[1]):
        raise OSError('broken on purpose')
    update(self, batch)

Learner.update = fail
agent = omnisafe.Agent('QPT', '{env_id}', custom_cfgs={options})
result = agent.learn()
agent.evaluate(num_episodes=1)
print(f'rank {{rank}}: {{result}}')
"""


@pytest.mark.slow
@pytest.mark.parametrize('broken', [None, 0, 1])
def test_a_script_runs_or_fails_in_two_processes(
    dataset: Path,
    tmp_path: Path,
    broken: int | None,
) -> None:
    options = small_options(dataset, tmp_path)
    script = SCRIPT.format(env_id=ENV_ID, options=options)
    (tmp_path / 'script.py').write_text(script, encoding='utf-8')
    done = run_together('script.py', -1 if broken is None else broken, cwd=tmp_path)
    if broken is None:
        assert done.returncode == 0, done.stderr
        row = results_of(only_run(tmp_path))[-1]
        result = tuple(row[f'Metrics/{name}'] for name in ('EpRet', 'EpCost', 'EpLen'))
        for rank in (0, 1):
            assert f'rank {rank}: {result}' in done.stdout
        checkpoints = 2  # evaluated by one process only
        assert done.stdout.count('Average episode reward') == checkpoints
    else:
        assert done.returncode == 1
        assert done.stderr.count('OSError: broken on purpose') == 1
        assert 'Connection closed' not in done.stderr
