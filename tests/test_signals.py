# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What asks a process to end: Ctrl-C, SIGTERM, and SIGHUP unless it is ignored."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnisafe_qpt.signals import (
    Stopped,
    StopSignal,
    leave_stopping_to_parent,
    stop_signals,
)


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', NUMBERS)
def test_each_is_remembered_until_it_is_asked_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped) as caught:
            stop.check()
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in stop_signals()
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_processes_of_ours_leave_a_hangup_to_their_parent() -> None:
    leave_stopping_to_parent()
    assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN


PROGRAM = """
import sys, time
from pathlib import Path
from rich.console import Console
from omnisafe_qpt.signals import StopSignal
console = Console()
with StopSignal('Saving') as stop:
    console.print('begun')
    while stop.received is None:
        time.sleep(0.01)
    for _ in range(3):
        console.print('still working')
        print('To go on', file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(stop.received.name)
"""


def test_what_is_saved_after_a_terminal_is_lost_does_not_fail_at_what_it_prints(
    tmp_path: Path,
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, str(tmp_path / 'saved')],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    text = b''
    while b'begun' not in text:
        text += os.read(ours, 100)
    os.close(ours)  # the ssh session breaks off
    assert process.wait(timeout=30) == 0
    assert (tmp_path / 'saved').read_text() == 'SIGHUP'


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize('command', [['nohup'], []])
def test_nohup_is_respected(tmp_path: Path, command: list[str]) -> None:
    program = PROGRAM.replace("'begun'", "'begun', flush=True").replace('console.print', 'print')
    process = subprocess.Popen(
        [*command, sys.executable, '-c', program, str(tmp_path / 'saved')],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == 'begun\n'
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert (process.poll() is None) == bool(command)
    process.terminate()
    process.communicate(timeout=30)
    assert (tmp_path / 'saved').read_text() == ('SIGTERM' if command else 'SIGHUP')
