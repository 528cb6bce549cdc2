# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Objects in other processes: their answers, and that no process stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from omnisafe_qpt.workers import Partial, RemoteObject


class Counter:
    """Something to ask."""

    def __init__(self, first: int) -> None:
        self.first = first

    def plus(self, number: int) -> int:
        return self.first + number

    def up_to(self, last: int) -> Iterator[int]:
        yield from range(self.first, last)
        return 'done'

    def close(self) -> None:
        pass


def test_answers_come_in_the_order_of_the_questions() -> None:
    with RemoteObject(partial(Counter, 3)) as counter:
        counter.ask('plus', 1)
        counter.ask('up_to', 5)
        counter.ask('first')
        answers = [counter.answer() for _ in range(5)]
    assert answers == [4, Partial(3), Partial(4), 'done', 3]
    assert not multiprocessing.active_children()


PROGRAM = """
import os, sys, time
from omnisafe_qpt.workers import RemoteObject

class Busy:
    def work(self):
        while True:
            time.sleep(0.05)
            yield os.getpid()
    def close(self):
        pass

with RemoteObject(Busy) as idle, RemoteObject(Busy) as busy:
    busy.ask('work')
    print(busy.answer().value, idle._process.pid, flush=True)
    while True:
        busy.answer()
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_they_serve(how: signal.Signals) -> None:
    """Idle ones and busy ones; Ctrl-C reaches all, and one alone reports it."""
    with subprocess.Popen(
        [sys.executable, '-c', PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        pids = [int(word) for word in program.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        if how == signal.SIGINT:
            os.killpg(program.pid, how)
        else:
            program.send_signal(how)
        program.wait(timeout=60)
        deadline = time.monotonic() + 60
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, pids))
        assert program.stderr.read().count('Traceback') == (how == signal.SIGINT)


INTERRUPTED_FORK = """
import os, signal
from omnisafe_qpt.workers import RemoteObject

class Idle:
    def close(self):
        pass

os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
with RemoteObject(Idle):
    print('went on')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='processes are forked on Linux alone')
def test_an_interruption_while_a_process_is_forked_is_not_lost() -> None:
    """Python drops what is raised in the functions that it calls at a fork."""
    done = subprocess.run(
        [sys.executable, '-c', INTERRUPTED_FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 'went on' not in done.stdout
    assert done.stderr.rstrip().endswith('KeyboardInterrupt')
    assert 'Exception ignored' not in done.stderr
