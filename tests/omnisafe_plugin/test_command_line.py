# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The real command lines, in processes of their own, from another directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common_helpers import run_command
from host_helpers import ENV_ID, HORIZON, command_line_options, small_options, write_dataset


def customised(**options: str) -> list[str]:
    return command_line_options(
        {key.replace('__', ':'): value for key, value in options.items()},
    )


def train_arguments(options: dict[str, Any]) -> list[str]:
    options = {key: value for key, value in options.items() if key != 'seed'}
    log_dir = options.pop('logger_cfgs')['log_dir']
    custom = command_line_options({**options, 'logger_cfgs': {'use_tensorboard': False}})
    return ['train', '--algo', 'QPT', '--env-id', ENV_ID, '--log-dir', log_dir, *custom]


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('elsewhere')


@pytest.fixture(scope='module')
def trained(place: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    write_dataset(place / 'my.data.hdf5', episodes=4)
    # Relative names, with dots in them, from the user's own folder.
    options = small_options(Path('my.data.hdf5'), Path('logs'))
    done = run_command('omnisafe', *train_arguments(options), cwd=place)
    assert done.returncode == 0, done.stderr
    (run,) = (place / 'logs' / 'train' / f'QPT-{{{ENV_ID}}}-my.data').iterdir()
    return done, run


def test_train_ends_with_what_to_do_next(
    trained: tuple[subprocess.CompletedProcess[str], Path],
    place: Path,
) -> None:
    done, run = trained
    config = json.loads((run / 'config.json').read_text(encoding='utf-8'))
    assert config['train_cfgs']['total_steps'] == 10, "OmniSafe's flag would say 10000000"
    assert config['model_cfgs']['critic']['hidden_sizes'] == [16, 16, 16]
    summary = done.stdout[done.stdout.rindex('Run folder') :]
    for line in (
        'Return ',
        'Cost ',
        f"omnisafe-qpt evaluate '{run.relative_to(place)}'",
        'omnisafe eval ',
    ):
        assert line in summary
    assert 'Traceback' not in done.stdout + done.stderr


def test_evaluate_prints_a_table_and_writes_the_rows(
    trained: tuple[subprocess.CompletedProcess[str], Path],
    place: Path,
) -> None:
    _, run = trained
    arguments = ['evaluate', run, '--cost-limit', 5, '--cost-limit', 40, '--episodes', 2,
                 '--candidates', 2, '--seed', 7, '--json', 'rows.json']  # fmt: skip
    done = run_command('omnisafe-qpt', *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    assert ENV_ID in done.stdout
    rows = json.loads((place / 'rows.json').read_text(encoding='utf-8'))
    assert [row['cost_limit'] for row in rows] == [5, 40]
    for row in rows:
        assert row['env_id'] == ENV_ID
        assert row['lengths'] == [HORIZON, HORIZON]
        assert row['return_mean'] == pytest.approx(sum(row['returns']) / 2)
        assert row['normalized_cost'] == pytest.approx(row['cost_mean'] / row['cost_limit'])
        assert row['safe'] == (row['normalized_cost'] <= 1)
        assert (row['candidates'], row['episodes'], row['seed']) == (2, 2, 7)
        assert row['run'] == str(run)
        assert row['checkpoint'] == 'epoch-2.pt'
        assert len(row['dataset_sha256']) == 64
        assert row['steps_per_second'] > 0


@pytest.mark.slow
def test_evaluate_prints_in_a_terminal_of_ascii(
    trained: tuple[subprocess.CompletedProcess[str], Path],
    place: Path,
) -> None:
    _, run = trained
    arguments = ['evaluate', run, '--episodes', 1, '--candidates', 1]
    done = run_command('omnisafe-qpt', *arguments, cwd=place, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert ' ? ' in done.stdout


def test_omnisafe_eval_runs_the_run(
    trained: tuple[subprocess.CompletedProcess[str], Path],
    place: Path,
) -> None:
    _, run = trained
    done = run_command('omnisafe', 'eval', run.parent, '--no-render', '--num-episode', 1, cwd=place)
    assert done.returncode == 0, done.stderr
    assert f'Average episode length: {float(HORIZON)}' in done.stdout


def assert_one_line_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith('Error')]
    assert len(errors) == 1, done.stderr
    for part in parts:
        assert part in errors[0]


@pytest.mark.parametrize(
    ('changes', 'parts'),
    [
        pytest.param(
            *({'train_cfgs__dataset': 'no.such.hdf5'}, ['no.such.hdf5', 'no such']),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({'train_cfgs__dataset': 'sample'}, ['sample', 'SafetyCarButton1-v0']),
            marks=pytest.mark.slow,
        ),
        ({'algo_cfgs__gama': '0.9'}, ['gama', 'gamma']),
    ],
)
def test_a_users_mistake_is_one_line(
    place: Path,
    changes: dict[str, str],
    parts: list[str],
) -> None:
    arguments = ['--algo', 'QPT', '--env-id', ENV_ID, '--log-dir', 'refused']
    done = run_command('omnisafe', 'train', *arguments, *customised(**changes), cwd=place)
    assert_one_line_error(done, *parts)
    assert not (place / 'refused').exists(), 'a refused run leaves nothing behind'


@pytest.mark.slow
def test_mistakes_of_the_own_command(place: Path) -> None:
    done = run_command('omnisafe-qpt', 'evaluate', 'nowhere', cwd=place)
    assert_one_line_error(done, 'nowhere', 'no such run folder')
    done = run_command('omnisafe-qpt', 'evaluate', 'nowhere', '--json', 'no/where.json', cwd=place)
    assert_one_line_error(done, 'no/where.json', 'there is no folder')
    assert run_command('omnisafe-qpt', 'evaluate', cwd=place).returncode == 2
    assert (
        run_command('omnisafe-qpt', 'evaluate', 'x', '--episodes', '0', cwd=place).returncode == 2
    )
    assert run_command('omnisafe-qpt', cwd=place).returncode == 2


def imported(report: str) -> set[str]:
    """Return the packages that Python names when it tells of its imports.

    Args:
        report (str): Lines such as ``import time:  12 |  34 |   json.decoder``.
    """
    modules = {line.rpartition('|')[2].strip() for line in report.splitlines() if '|' in line}
    # The heading, and what the standard library's copy looks for in vain.
    return {module.partition('.')[0] for module in modules} - {'imported package', 'org'}


@pytest.mark.parametrize(
    'command',
    [(), ('evaluate',), ('report',), ('data',), ('data', 'collect')],
)
def test_help_answers_at_once_with_an_example(place: Path, command: tuple[str, ...]) -> None:
    """At once: it imports nothing but the standard library and this package."""
    watched = {'PYTHONPROFILEIMPORTTIME': '1'}
    done = run_command('omnisafe-qpt', *command, '--help', cwd=place, **watched)
    assert done.returncode == 0
    bare = subprocess.run(
        [sys.executable, '-c', 'pass'],
        env={**os.environ, **watched},
        capture_output=True,
        text=True,
        check=True,
    )
    others = imported(done.stderr) - imported(bare.stderr) - set(sys.stdlib_module_names)
    assert others == {'omnisafe_qpt'}
    assert 'omnisafe' in done.stdout
    if command and command != ('data',):
        assert 'example:\n  omnisafe-qpt ' in done.stdout
