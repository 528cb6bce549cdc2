# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor: what it says about what works, is missing, fails, crashes and hangs.

A package called ``metadrive`` of the test's own, first on the path, plays the broken simulator.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from omnisafe_qpt.cli import doctor, main
from omnisafe_qpt.cli import doctor_checks as checks
from omnisafe_qpt.cli.doctor_checks import CHECKS, FAILED, MISSING, OK, Answer, run_check
from omnisafe_qpt.envs.simulators import METADRIVE_PACKAGES, why_unavailable
from omnisafe_qpt.errors import UserError


@pytest.fixture
def broken_metadrive(tmp_path, monkeypatch):
    """Return a function that installs a MetaDrive whose import runs a line of Python."""

    def install(line, version='0.2.6.0'):
        for package in METADRIVE_PACKAGES:
            name = package.distribution.replace('-', '_')
            installed = version if package.module == 'metadrive' else package.version
            folder = tmp_path / f'{name}-{installed}.dist-info'
            folder.mkdir()
            text = f'Metadata-Version: 2.1\nName: {package.distribution}\nVersion: {installed}\n'
            (folder / 'METADATA').write_text(text, encoding='utf-8')
            (tmp_path / f'{package.module}.py').write_text(line + '\n', encoding='utf-8')
        paths = [str(tmp_path), os.environ.get('PYTHONPATH', '')]
        monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))

    return install


def run_doctor(*arguments, **variables):
    return subprocess.run(
        [sys.executable, '-m', 'omnisafe_qpt.cli', 'doctor', *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, 'COLUMNS': '100', **variables},
        timeout=280,
    )


@pytest.mark.slow
def test_the_command_on_what_is_always_installed(tmp_path):
    result = tmp_path / 'result.json'
    ran = run_doctor('--only', 'omnisafe', 'cache', '--json', str(result))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    content = json.loads(result.read_text(encoding='utf-8'))
    assert content['works'] is True
    assert content['versions']['omnisafe'] == '0.5.0'
    assert content['versions']['python'].startswith('3.1')
    assert [row['state'] for row in content['checks']] == [OK, OK]
    assert re.search(r'omnisafe\s*│ ok\s*│ OmniSafe 0.5.0 knows QPT', ran.stdout)
    assert 'numpy 1.' in ran.stdout
    assert 'Checking cache (2 of 2)' in ran.stderr


@pytest.mark.slow
def test_the_command_on_everything(tmp_path):
    """What is installed here works, and its figures are the recorded ones."""
    result = tmp_path / 'result.json'
    ran = run_doctor('--json', str(result))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    states = {
        row['check']: row['state']
        for row in json.loads(result.read_text(encoding='utf-8'))['checks']
    }
    driving = OK if why_unavailable('metadrive') is None else MISSING
    assert list(states) == list(CHECKS)
    assert {name: state for name, state in states.items() if name != 'rendering'} == {
        **dict.fromkeys(('omnisafe', 'device', 'cache', 'safety-gymnasium', 'bullet'), OK),
        **dict.fromkeys(('metadrive-easy', 'metadrive-medium', 'metadrive-hard'), driving),
    }


def test_a_failure_is_status_1_with_one_line_on_stderr(tmp_path, broken_metadrive):
    broken_metadrive('raise ImportError("libGL.so.1: cannot open shared object file")')
    result = tmp_path / 'result.json'
    ran = run_doctor('--only', 'cache', 'metadrive-hard', '--json', str(result))
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == 'Error: does not work here: metadrive-hard'
    content = json.loads(result.read_text(encoding='utf-8'))
    assert content['works'] is False
    (row,) = (row for row in content['checks'] if row['check'] == 'metadrive-hard')
    assert row['state'] == FAILED
    assert row['detail'] == 'ImportError: libGL.so.1: cannot open shared object file'


def test_what_is_not_installed_is_no_failure_and_names_the_command(broken_metadrive):
    broken_metadrive('', version='0.4.3')
    ran = run_doctor('--only', 'metadrive-easy', 'metadrive-hard', COLUMNS='200')
    assert ran.returncode == 0
    assert 'metadrive-simulator 0.4.3 is installed, not 0.2.6.0' in ran.stdout
    command = 'pip install --no-deps metadrive-simulator==0.2.6.0'
    assert ran.stdout.splitlines()[-1] == f'metadrive-easy, metadrive-hard: {command}'


def test_a_crash_is_reported(broken_metadrive):
    broken_metadrive('import os; print("no more memory", flush=True); os.abort()')
    answer = run_check('metadrive-easy', timeout=60)
    assert answer.state == FAILED
    assert answer.detail == 'crashed with SIGABRT: no more memory'


@pytest.mark.slow
def test_a_simulator_that_hangs_is_stopped_with_its_processes(broken_metadrive, tmp_path):
    pid_file = tmp_path / 'pid'
    broken_metadrive(
        'import subprocess, time, pathlib\n'
        'child = subprocess.Popen(["sleep", "3600"])\n'
        f'pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n'
        'time.sleep(3600)',
    )
    answer = run_check('metadrive-easy', timeout=20)
    assert answer.state == FAILED
    assert answer.detail == 'no answer within 20 s'
    assert '--timeout' in answer.fix
    state = subprocess.run(
        ['ps', '-o', 'stat=', '-p', pid_file.read_text(encoding='utf-8')],
        capture_output=True,
        text=True,
    )
    # The letters after the first, such as N for a low priority, say nothing about that.
    assert state.stdout.strip()[:1] in ('', 'Z'), 'its child is gone, or its parent is to look'


class Driver:
    """Stands in for MetaDrive's own: a return of 10 and a cost of 1 a step."""

    def __init__(self, task, driver):
        assert driver == 'idm'

    def reset(self, seed):
        self.steps = 0

    def step(self, action):
        self.steps += 1
        return None, 10.0, 1.0, self.steps == 50, {}


@pytest.mark.parametrize(
    ('expected', 'state'),
    [((520.0, 51.0), OK), ((550.0, 50.0), FAILED), ((500.0, 55.0), FAILED)],
)
def test_the_figures_of_the_driver_are_compared(monkeypatch, expected, state):
    from omnisafe_qpt.envs import metadrive_process

    monkeypatch.setattr(checks, 'why_unavailable', lambda suite: None)
    monkeypatch.setattr(metadrive_process, 'prepare_imports', lambda: None)
    monkeypatch.setattr(metadrive_process, 'Simulator', Driver)
    monkeypatch.setitem(checks.IDM_EPISODES, 'hardmean', (0, *expected))
    answer = checks._check_metadrive('hardmean')
    assert answer.state == state
    assert 'return 500.0, cost 50.0' in answer.detail
    assert ('expected' in answer.detail) == (state == FAILED)


def test_a_cache_that_cannot_be_written_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('', encoding='utf-8')
    monkeypatch.setenv('DSRL_DATASET_DIR', str(tmp_path / 'file' / 'datasets'))
    answer = checks._check_cache()
    assert answer.state == FAILED
    assert 'cannot be written' in answer.detail
    assert 'DSRL_DATASET_DIR' in answer.fix
    monkeypatch.setenv('DSRL_DATASET_DIR', str(tmp_path / 'new' / 'datasets'))
    assert checks._check_cache().state == OK
    assert not (tmp_path / 'new').exists()


def test_rendering_names_what_to_set_for_other_programs(monkeypatch):
    from omnisafe_qpt.evaluation import video

    monkeypatch.setattr(video, 'find_graphics', lambda _: {'MUJOCO_GL': 'osmesa'})
    answer = checks._check_rendering()
    assert answer.state == OK
    assert 'with MUJOCO_GL=osmesa' in answer.detail
    assert answer.fix.startswith('export MUJOCO_GL=osmesa,')
    monkeypatch.setattr(video, 'find_graphics', lambda _: {})
    monkeypatch.setenv('MUJOCO_GL', 'egl')
    assert checks._check_rendering() == Answer(OK, 'images with MUJOCO_GL=egl; clips')


def test_rendering_that_fails_is_missing_with_what_was_tried(monkeypatch):
    from omnisafe_qpt.evaluation import video

    def none_works(env_id, graphics):
        return f'{graphics["MUJOCO_GL"]} is not there'

    for name in ('MUJOCO_GL', 'DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(video, '_why_not', none_works)
    monkeypatch.setattr(sys, 'platform', 'linux')
    answer = checks._check_rendering()
    assert answer.state == MISSING
    assert answer.detail.endswith(
        '(tried MUJOCO_GL=egl: egl is not there; MUJOCO_GL=osmesa: osmesa is not there)'
    )
    assert answer.fix.startswith('set MUJOCO_GL=egl, which needs EGL (apt-get install libegl1')


def test_a_missing_ffmpeg_is_missing(monkeypatch):
    from omnisafe_qpt.evaluation import video

    def nothing_found():
        raise UserError('clips need ffmpeg: pip install imageio-ffmpeg')

    monkeypatch.setattr(video, 'find_graphics', lambda _: {})
    monkeypatch.setattr(video, 'ffmpeg_program', nothing_found)
    answer = checks._check_rendering()
    assert answer.state == MISSING
    assert 'pip install imageio-ffmpeg' in answer.fix


def test_a_graphics_setting_with_which_nothing_loads_is_explained():
    """MuJoCo, and OmniSafe with it, does not even load then."""
    ran = run_doctor('--only', 'safety-gymnasium', MUJOCO_GL='nonsense')
    assert ran.returncode == 1
    found = ' '.join(ran.stdout.replace('│', ' ').split())
    assert 'MuJoCo does not load with MUJOCO_GL=nonsense' in found


def test_another_omnisafe_is_a_failure_with_the_command(monkeypatch):
    monkeypatch.setattr(checks.metadata, 'version', lambda name: '0.9.0')
    answer = checks._check_omnisafe()
    assert (answer.state, answer.fix) == (FAILED, 'pip install omnisafe==0.5.0')
    assert 'OmniSafe 0.9.0 is installed' in answer.detail


def test_unknown_checks_are_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(checks, 'run_check', lambda *_: pytest.fail('made a check'))
    assert main(['doctor', '--only', 'cache', 'metadrive']) == 1
    error = capsys.readouterr().err
    assert error.startswith('Error: --only metadrive is not a check; choose from omnisafe, device')
    assert error.count('\n') == 1


def test_the_help_names_every_check(capsys):
    with pytest.raises(SystemExit):
        main(['doctor', '--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert ', '.join(CHECKS) in text


def test_fixes_are_printed_whole_however_narrow_the_screen(monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '40')
    fix = 'pip install --no-deps ' + ' '.join(f'package{i}==1.0' for i in range(9))
    rows = [
        {'check': 'bullet', 'state': MISSING, 'detail': 'x' * 50, 'fix': fix, 'seconds': 1.0},
        {'check': 'cache', 'state': OK, 'detail': 'fine', 'fix': '', 'seconds': 1.0},
    ]
    doctor._print_answers({'python': '3.11'}, rows)
    assert f'bullet: {fix}' in capsys.readouterr().out.splitlines()
