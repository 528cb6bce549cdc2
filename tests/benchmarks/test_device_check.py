# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a device: where it runs, and that nothing stops it before it has written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import cuda_checks
from benchmarks import device_check, measure


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition('.')[0] in {'omnisafe', 'gymnasium', 'h5py', 'yaml', 'rich', 'matplotlib',
                                      'scipy', 'huggingface_hub', 'typer', 'safety_gymnasium',
                                      'osrl', 'bullet_safety_gym', 'dsrl', 'pytest', '_pytest'}:
            raise ImportError(name + ' is absent')
sys.meta_path.insert(0, Absent())
"""


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, '-m', 'benchmarks.device_check', *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=measure.ROOT,
        **more,
    )


@pytest.mark.slow
def test_it_runs_with_torch_and_numpy_alone(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(ABSENT)
    path = tmp_path / 'result.json'
    steps = (
        'check rollout_equals_that_on_a_cpu[candidates=6][shift=last]',
        'update float32 graph',
        'osrl update',
        'act 12 last',
        'rate copy',
    )
    done = run(
        *('--device', 'cpu', '--quick', '--json', path, '--steps', *steps),
        env={**os.environ, 'PYTHONPATH': str(tmp_path), 'OMP_NUM_THREADS': '1'},
    )
    result = json.loads(path.read_text())
    assert done.returncode == 1, done.stderr
    assert list(result['failures']) == ['osrl update']
    assert 'osrl is absent' in result['failures']['osrl update']
    assert list(result['steps']) == [name for name in steps if name != 'osrl update']
    assert result['steps'][steps[0]] == 'passed'
    assert result['steps']['update float32 graph']['seconds']['median'] > 0
    assert result['steps']['update float32 graph']['metrics']['Loss/Loss_actor'] != 0
    assert result['steps']['act 12 last']['episodes20']['seconds']['n'] >= 3
    assert result['not_done'] == []
    assert result['stopped_by'] is None
    for key in ('command', 'versions', 'hardware', 'date'):
        assert key in result
    assert 'FAILED osrl update' in done.stdout


def test_every_figure_has_a_step():
    options = device_check.argparse.Namespace(device='cpu', quick=False)
    names = list(device_check.steps(options))
    assert {f'check {name}' for name in (*cuda_checks.CHECKS, *cuda_checks.LAST_CHECKS)} <= {*names}
    for precision in ('float32', 'tf32', 'bf16'):
        for way in ('none', 'graph', 'compile'):
            assert f'update {precision} {way}' in names
    for count in (1, 12, 50):
        assert {f'act {count} history', f'osrl network {count}'} <= {*names}
    assert {'act 12 last', 'act 50 last', 'osrl update'} <= {*names}
    # It leaves its process in a state in which nothing else should be done.
    assert names[-1].startswith('check nothing_goes_on_after_a_failed_capture')


# Stands in for the process that does the steps: each is named by what happens in it.
STEPS = """
import json, os, sys, time
def tell(**what):
    print('@device_check ' + json.dumps(what), flush=True)
for name in sys.argv[sys.argv.index('--steps') + 1:]:
    tell(step=name)
    print('some words', flush=True)
    if name.startswith('fails'):
        tell(step=name, failure='ValueError: the reason')
        sys.exit()
    if name.startswith('dies'):
        os.abort()
    if name.startswith('hangs'):
        time.sleep(600)
    tell(step=name, result='passed')
"""


@pytest.fixture
def do_steps(monkeypatch, tmp_path):
    """Run the command on steps that take no time, in this process."""
    wait_for = device_check._Run._wait_for

    def wait(run, name, limit):
        return wait_for(run, name, 2.0 if name == 'hangs' and not stops else limit)

    stops = []

    def do(*names, stopped_by=None):
        monkeypatch.setattr(device_check, '_WORKER', (sys.executable, '-c', STEPS))
        monkeypatch.setattr(device_check._Run, '_wait_for', wait)
        monkeypatch.setattr(device_check, 'steps', lambda options: dict.fromkeys(names))
        path = tmp_path / 'result.json'
        monkeypatch.setattr(sys, 'argv', ['device_check', '--device', 'cpu', '--json', str(path)])
        if stopped_by is not None:

            def stop():
                while not path.exists() or 'a' not in json.loads(path.read_text())['steps']:
                    time.sleep(0.05)
                os.kill(os.getpid(), stopped_by)

            stops.append(threading.Thread(target=stop))
            stops[0].start()
        status = device_check.main()
        return status, json.loads(path.read_text())

    return do


def test_a_step_that_fails_dies_or_hangs_stops_no_other(do_steps, capsys):
    names = ('a', 'fails', 'b', 'dies', 'c', 'hangs', 'd')
    status, result = do_steps(*names)
    assert status == 1
    assert result['steps'] == dict.fromkeys('abcd', 'passed')
    assert list(result['failures']) == ['fails', 'dies', 'hangs']
    assert result['failures']['fails'] == 'ValueError: the reason'
    assert f'status {-signal.SIGABRT}' in result['failures']['dies']
    assert 'some words' in result['failures']['dies']
    assert 'longer than 2 s' in result['failures']['hangs']
    assert result['not_done'] == []
    assert 'FAILED dies' in capsys.readouterr().out


def test_all_steps_done_is_status_0(do_steps):
    assert do_steps('a', 'b')[0] == 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_was_found_is_written_when_it_is_stopped(do_steps, number):
    before = signal.getsignal(number)
    status, result = do_steps('a', 'hangs', 'b', stopped_by=number)
    assert status == 128 + number
    assert result['steps'] == {'a': 'passed'}
    assert result['not_done'] == ['hangs', 'b']
    assert result['stopped_by'] == number.name
    assert signal.getsignal(number) == before


def test_time_that_is_up_ends_it(do_steps, monkeypatch):
    def left(run):
        return 0.0 if run._result['failures'] else 60.0

    monkeypatch.setattr(device_check._Run, '_seconds_left', left)
    status, result = do_steps('a', 'hangs', 'b')
    assert status == 1
    assert result['steps'] == {'a': 'passed'}
    assert 'hangs' in result['failures']
    assert result['not_done'] == ['b']
    assert result['stopped_by'] == 'time'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ((), 'torch finds no CUDA device'),
        (('--device', 'cpu', '--minutes', '0'), '--minutes is 0'),
        (('--device', 'cpu', '--json', 'absent/result.json'), 'there is no folder absent'),
        (('--device', 'cpu', '--steps', 'absent'), 'there is no such step'),
    ],
)
def test_options_that_cannot_work_are_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['device_check', *options])
    assert device_check.main() == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count('\n') == 1
    assert not shown.out


def test_the_help_has_an_example():
    done = run('--help')
    assert done.returncode == 0
    assert 'python -m benchmarks.device_check --json' in done.stdout
    assert '--worker' not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('name', cuda_checks.CHECKS)
def test_the_checks_themselves_on_a_cpu(name, monkeypatch):
    monkeypatch.setattr(cuda_checks, 'DEVICE', 'cpu')
    monkeypatch.setattr(cuda_checks, 'BACKEND', 'eager')
    monkeypatch.setattr(cuda_checks, 'WINDOWS', 8)
    try:
        cuda_checks.run_check(name)
    except cuda_checks.Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    'name',
    [
        'a_batch_of_the_papers_size_is_that_of_a_cpu',
        'attention_of_the_papers_size[dtype=torch.float32][compiled=False]',
        'attention_of_the_papers_size[dtype=torch.bfloat16][compiled=False]',
        'captured_updates_equal_ordinary_ones[changes={}][prefetched=True]',
    ],
)
def test_some_checks_on_a_cpu(name, monkeypatch):
    test_the_checks_themselves_on_a_cpu(name, monkeypatch)
