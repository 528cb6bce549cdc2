# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Worker processes: results, errors, and that no process stays behind."""

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
import torch

from common_helpers import is_running
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.workers import Partial, Worker, worker_pool


class Counter:
    """An object to call."""

    def __init__(self, first: int) -> None:
        self.first = first

    def plus(self, number: int) -> int:
        return self.first + number

    def up_to(self, last: int) -> Iterator[int]:
        yield from range(self.first, last)
        return 'done'

    def fail(self, error: type[BaseException] | int) -> None:
        if error == 0:
            time.sleep(3600)  # the test would not end
        if isinstance(error, int):
            os._exit(error)
        raise error('the wheels came off')

    def close(self) -> None:
        pass


def test_results_come_in_the_order_of_the_requests() -> None:
    with Worker(partial(Counter, 3)) as counter:
        counter.submit('plus', 1)
        counter.submit('up_to', 5)
        counter.submit('first')
        results = [counter.result() for _ in range(5)]
    assert results == [4, Partial(3), Partial(4), 'done', 3]
    assert not multiprocessing.active_children()


def test_a_worker_goes_on_after_an_error() -> None:
    with Worker(partial(Counter, 3)) as counter:
        counter.submit('fail', ValueError)
        counter.submit('plus', 1)
        with pytest.raises(RuntimeError):
            counter.result()
        assert counter.result() == 4


@pytest.mark.parametrize('processes', [1, 2, 3])
def test_a_pool_runs_each_task_once(processes: int) -> None:
    checks = []
    threads = torch.get_num_threads()
    with worker_pool(partial(Counter, 3), processes) as pool:
        assert pool.get('first') == 3
        for _ in range(2):
            events = list(pool.dispatch('up_to', [5, 3, 4, 6], lambda: checks.append(0)))
    expected = {0: [3, 4], 1: [], 2: [3], 3: [3, 4, 5]}
    assert {number: [event for of, event in events if of == number] for number in range(4)} == {
        number: [*map(Partial, values), 'done'] for number, values in expected.items()
    }
    assert checks
    assert torch.get_num_threads() == threads
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ('error', 'kind', 'message'),
    [
        (ValueError, RuntimeError, r'(?s)fail\(.*failed.*ValueError: the wheels came off'),
        (EOFError, RuntimeError, '(?s)EOFError: the wheels came off'),
        (UserError, UserError, '^the wheels came off$'),
        (7, UserError, r'^[^\n]*ended unexpectedly \(exit code 7; out of memory\?\)[^\n]*$'),
    ],
)
def test_an_error_in_a_worker_is_raised_and_ends_all(
    error: type[Exception] | int,
    kind: type[Exception],
    message: str,
) -> None:
    """At once: the other worker may be in the middle of something long."""
    with (
        pytest.raises(kind, match=message),
        worker_pool(partial(Counter, 3), 2) as pool,
    ):
        list(pool.dispatch('fail', [0, error]))
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r'^[^\n]*exit code -9[^\n]*$'),
        worker_pool(partial(Counter, 3), 2) as pool,
    ):
        list(pool.dispatch('fail', [0, 0], multiprocessing.active_children()[0].kill))


def test_what_the_check_raises_ends_all() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), worker_pool(partial(Counter, 3), 2) as pool:
        list(pool.dispatch('fail', [0, 0], stop))
    assert not multiprocessing.active_children()


def test_an_object_that_cannot_be_made_is_told() -> None:
    def build() -> None:
        raise UserError('there is no road')

    with (
        pytest.raises(UserError, match='there is no road'),
        worker_pool(build, 2) as pool,
    ):
        pool.get('first')


PROGRAM = """
import os, time
from omnisafe_qpt.workers import Worker

class Busy:
    def work(self):
        while True:
            time.sleep(0.05)
            yield os.getpid()
    def close(self):
        pass

with Worker(Busy) as idle, Worker(Busy) as busy:
    busy.submit('work')
    print(busy.result().value, idle._process.pid, flush=True)
    while True:
        busy.result()
"""


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    """Idle ones and busy ones; Ctrl-C reaches all, and the parent alone reports it."""
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
import os, signal, threading, time
from omnisafe_qpt.workers import Worker

class Idle:
    def close(self):
        pass

# Any thread may receive the signal.
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
with Worker(Idle):
    print('went on')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='processes are forked on Linux alone')
def test_an_interruption_while_a_worker_is_forked_is_not_lost() -> None:
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
