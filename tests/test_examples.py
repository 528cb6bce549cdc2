# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The examples are short, and run as their first lines say."""

from __future__ import annotations

import runpy
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from omnisafe_qpt.data.resolve import sample_file


EXAMPLES = Path(__file__).parents[1] / 'examples'


def run(name: str, *arguments: object) -> str:
    path = str(EXAMPLES / name)
    with (
        tempfile.TemporaryFile('w+') as printed,  # a real file, as the Bullet simulators redirect
        mock.patch.object(sys, 'argv', [path, *map(str, arguments)]),
        redirect_stdout(printed),
    ):
        runpy.run_path(path, run_name='__main__')
        printed.seek(0)
        return printed.read()


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('runs')
    output = run('train.py', '--updates', 8, '--calibrate', 'none', '--log-dir', folder)
    return Path(output.splitlines()[-1])


def test_examples_are_short() -> None:
    files = list(EXAMPLES.glob('*.py'))
    assert len(files) >= 4
    assert [file.name for file in files if len(file.read_text('utf-8').splitlines()) > 50] == []


def test_a_run_acts_at_each_limit(trained: Path) -> None:
    output = run('deploy.py', trained, '--limits', 10, 20)
    assert output.count('limit 10: return ') == output.count('limit 20: return ') == 1


def test_several_episodes_go_on_at_once(trained: Path) -> None:
    assert run('vector_env.py', trained).count('limit ') == 4


def test_the_learner_alone() -> None:
    output = run('learner_only.py', sample_file('SafetyBallCircle-v0'), '--updates', 3)
    assert 'Loss/Loss_actor' in output
    assert 'tensor([[' in output
