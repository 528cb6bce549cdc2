# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of files and what files say: no command is injected, no terminal is controlled."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from host_helpers import ENV_ID, small_options, write_dataset
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.layouts import convert_command
from omnisafe_qpt.errors import UserError, printable, shell_command
from omnisafe_qpt.runs.resume import resume_command
from omnisafe_qpt.runs.run_log import folder_name


HOSTILE = [
    "x'; touch owned; '",
    '$(touch owned)',
    '`touch owned`',
    '"; touch owned; "',
    '-rf',
    'a b\tc',
    'line\nbreak; touch owned',
    "quote'\x1b]0;owned\x07",
    'back\\slash\r',
    '\x9b31m\u202e.fdp',
    'umlaut-ä',
    os.fsdecode(b'\xff\xfe'),
    '!history $HOME ~ *',
]


@pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')
@pytest.mark.parametrize('name', HOSTILE)
def test_a_shell_takes_words_as_they_are(tmp_path: Path, name: str) -> None:
    command = shell_command(['printf', '%s\\0', name, 'end'])
    assert command.isprintable()
    done = subprocess.run(
        ['bash', '-c', command], capture_output=True, cwd=tmp_path, check=True, env={'LC_ALL': 'C'}
    )
    assert done.stdout.split(b'\0')[:-1] == [os.fsencode(name), b'end']
    assert not list(tmp_path.iterdir())


def test_plain_commands_stay_readable() -> None:
    command = resume_command('QPT', ENV_ID, Path('runs/QPT-{A}-b/seed-0'), ['mine'])
    assert command == (
        f'omnisafe train --algo QPT --env-id {ENV_ID} --import mine --custom-cfgs '
        "train_cfgs:resume --custom-cfgs 'runs/QPT-{A}-b/seed-0'"
    )


@pytest.mark.parametrize('name', ["x'; touch owned; '", '$(touch owned)'])
def test_each_printed_command_is_quoted(name: str) -> None:
    for command in (
        resume_command(name, name, Path(name), [name]),
        convert_command(Path(name)),
    ):
        assert name in shlex.split(command)


@pytest.mark.parametrize('name', HOSTILE)
def test_names_are_printable_and_fit_a_folder(name: str, tmp_path: Path) -> None:
    assert printable(name).isprintable()
    assert str(UserError(f'{name}: wrong')).isprintable()
    made = folder_name(f'../{name}' + 'ä' * 300)
    assert made.isprintable()
    (tmp_path / f'QPT-{{Env}}-{made}').mkdir()


def test_plain_names_stay_as_they_are() -> None:
    for name in ('SafetyBallCircle-v0-80-886', 'mine.v2', 'größe'):
        assert printable(name) == folder_name(name) == name


def test_a_hostile_dataset_name_reaches_neither_terminal_nor_folder(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import omnisafe

    name = "x'; touch owned; '[red]\x1b]0;owned\x07[/nothing]"
    dataset = write_dataset(tmp_path / f'{name}.hdf5', episodes=3)
    options = small_options(dataset, tmp_path / 'runs', evaluate_epoisodes=0)
    omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options).learn()
    captured = capfd.readouterr()
    assert '\x1b]' not in captured.out + captured.err
    assert '\x07' not in captured.out + captured.err
    assert '[red]?]0;owned?[/nothing]' in captured.out, 'no markup either'
    (run,) = (tmp_path / 'runs').glob('*/seed-*')
    assert str(run.relative_to(tmp_path)).isprintable()
    lines = [line for line in captured.out.splitlines() if line.startswith('  omnisafe-qpt eval')]
    assert shlex.split(lines[0])[2] == str(run)
    for arguments in (['data', 'info', str(dataset)], ['data', 'info', str(dataset) + 'none']):
        main(arguments)
        captured = capfd.readouterr()
        assert '\x1b]' not in captured.out + captured.err


def test_strings_in_files_reach_no_terminal(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import h5py

    dataset = write_dataset(tmp_path / 'data.hdf5', episodes=2)
    with h5py.File(dataset, 'a') as file:
        file.attrs['env_id'] = 'Safety\x1b]0;owned\x07'
        file.attrs['origin\x1b[31m'] = 'x\x1b[2J'
    main(['data', 'info', str(dataset)])
    captured = capfd.readouterr()
    assert '\x1b' not in captured.out + captured.err
