# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that run episodes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from omnisafe_qpt.collect.episodes import Episode, Recipe, Recorder
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import leave_stopping_to_parent, stop_signals


_SECONDS_BETWEEN_CHECKS = 0.2


def run_episodes(
    recipe: Recipe,
    numbers: Sequence[int],
    workers: int,
    check: Callable[[], None] | None = None,
) -> Iterator[Episode]:
    """Run episodes in so many processes, or in this one where it is just one.

    Args:
        recipe (Recipe): What decides the episodes.
        numbers (Sequence[int]): Their numbers.
        workers (int): Processes at most.
        check (Callable, optional): Called every now and then; what it raises ends the episodes.
            Defaults to None.

    Yields:
        The episodes, each as soon as it is finished.

    Raises:
        UserError: If a process ends unexpectedly, or an episode meets a user's mistake.
        RuntimeError: If an episode fails otherwise.
    """
    workers = min(workers, len(numbers))
    if workers <= 1:
        yield from _run_here(recipe, numbers, check)
        return
    context = _context()
    crew = [_Worker(context, recipe) for _ in range(workers)]
    waiting = list(reversed(numbers))
    try:
        for worker in crew:
            worker.begin(waiting.pop())
        busy = {worker.connection: worker for worker in crew}
        while busy:
            if check is not None:
                check()
            for connection in wait(list(busy), timeout=_SECONDS_BETWEEN_CHECKS):
                worker = busy[connection]
                yield worker.finish()
                if waiting:
                    worker.begin(waiting.pop())
                else:
                    del busy[connection]
    finally:
        for worker in crew:
            worker.close()


def _run_here(
    recipe: Recipe,
    numbers: Sequence[int],
    check: Callable[[], None] | None,
) -> Iterator[Episode]:
    import torch

    # One thread, as in the other processes: more of them may add up in another order.
    threads = torch.get_num_threads()
    with Recorder(recipe, check) as recorder:
        for number in numbers:
            torch.set_num_threads(1)
            try:
                episode = recorder.record(number)
            finally:
                torch.set_num_threads(threads)
            yield episode


def _context() -> Any:
    """Choose how processes start.

    Not forked from this one, which may hold threads, a GPU or a simulator: from a server that has
    imported OmniSafe once for all, where the system has such servers.
    """
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    from multiprocessing import forkserver

    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['omnisafe', 'omnisafe_qpt.envs.environments'])
    with _ignoring_interrupts():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C and a lost terminal for a moment, so that what is started does so for good.

    They reach the whole group of processes, and this one alone decides what to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals can be set in the main thread only
        return
    handlers = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in stop_signals()
        if number != signal.SIGTERM
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Worker:
    """One process that runs an episode at a time."""

    def __init__(self, context: Any, recipe: Recipe) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, recipe), daemon=True)
        self._process.start()
        theirs.close()
        self._number = -1

    def begin(self, number: int) -> None:
        """Give it an episode to run."""
        self._number = number
        with contextlib.suppress(OSError):  # it has ended, which finish will find
            self.connection.send(number)

    def finish(self) -> Episode:
        """Take the episode that it has run."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise UserError(
                f'the process running episode {self._number} ended unexpectedly (exit code '
                f'{self._process.exitcode}; out of memory?); the same command goes on with what '
                'is finished, and fewer --workers need less memory',
            ) from error
        if isinstance(answer, Episode):
            return answer
        if answer.is_users:
            raise UserError(answer.message)
        raise RuntimeError(f'episode {self._number} failed in its process:\n{answer.message}')

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        self._process.terminate()
        self._process.join(timeout=5)


@dataclass(frozen=True)
class _Failure:
    message: str
    is_users: bool


def _serve(connection: Connection, recipe: Recipe) -> None:
    """Run the episodes that are asked for until the other end is closed."""
    import torch

    leave_stopping_to_parent()  # where it was spawned
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError), Recorder(recipe) as recorder:
        while True:
            connection.send(_answer(recorder, connection.recv()))


def _answer(recorder: Recorder, number: int) -> Episode | _Failure:
    try:
        return recorder.record(number)
    except UserError as error:
        return _Failure(str(error), is_users=True)
    except Exception:  # noqa: BLE001 - whatever it is, the first process must hear of it
        return _Failure(traceback.format_exc(), is_users=False)
