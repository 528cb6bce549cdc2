# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""Objects in processes of their own, whose work runs beside this process's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import GeneratorType
from typing import Any

import torch

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import leave_stopping_to_parent


# How often an idle process looks whether the one that it serves is still there.
_SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Partial:
    """What a generator yields: an answer that more will follow."""

    value: Any


# Status of a process that began to run the script which started it.
_REIMPORTED = 87


class ProcessEnded(UserError):
    """The process of a :class:`RemoteObject` has ended by itself.

    Args:
        exit_code (int): Its status; that of a process that was killed is minus the signal.
    """

    def __init__(self, exit_code: int) -> None:
        """Initialize an instance of :class:`ProcessEnded`."""
        if exit_code == _REIMPORTED:
            reason = (
                'a process that runs episodes imports the script that started it, which would '
                'train or evaluate again: put that part of the script under if __name__ == '
                "'__main__':"
            )
        elif exit_code == 1:  # Python's own for an error
            reason = 'a process that runs episodes could not start; what it wrote above says why'
        else:
            reason = (
                f'a process that runs episodes ended unexpectedly (exit code {exit_code}; out of '
                'memory?): fewer processes need less memory'
            )
        super().__init__(reason)
        self.exit_code = exit_code


def refuse_reimport() -> None:
    """End a process that is to run episodes if it begins to run the script that started it.

    A process that is not forked imports the main module first. Without a guard, the script would
    train and evaluate once more there.

    Raises:
        SystemExit: With a status by which the process that waits for this one knows.
    """
    if getattr(multiprocessing.current_process(), '_inheriting', False):
        raise SystemExit(_REIMPORTED)


class RemoteObject:
    """An object in a process of its own, which is asked now and answers later.

    The process has one torch thread. It ends with the ``with`` block, by force after an error, or
    with this process, however that ends.

    Args:
        build (Callable): Makes the object there; it must have a ``close``.
        fresh (bool, optional): Whether the process must share nothing with this one, which takes
            seconds more. Defaults to False.
    """

    def __init__(self, build: Callable[[], Any], fresh: bool = False) -> None:
        """Initialize an instance of :class:`RemoteObject`."""
        refuse_reimport()
        # A fork shares what is in memory, where importing OmniSafe anew takes seconds. The children
        # touch no CUDA, and with one thread have no use for torch's pool, which a fork leaves out.
        forks = sys.platform == 'linux' and not fresh
        context = multiprocessing.get_context('fork' if forks else 'spawn')
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, build, os.getpid()),
            daemon=True,
        )
        with _interrupts_held():
            self._process.start()
        theirs.close()

    def __enter__(self) -> RemoteObject:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self._process.join(timeout=5)
        self.connection.close()
        self._process.kill()
        self._process.join()

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask for an attribute, or for a call of a method, after whatever was asked before."""
        with contextlib.suppress(OSError):  # it has ended, which will be noticed at the answer
            self.connection.send((name, arguments))

    def answer(self) -> Any:
        """Wait for the next answer; answers come in the order of the questions.

        A generator is answered in parts: what it yields, as :class:`Partial`, then its value.

        Raises:
            UserError: If the object raised one, or its process has ended.
            RuntimeError: If the object raised anything else.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise ProcessEnded(self._process.exitcode) from error
        if not isinstance(answer, _Failure):
            return answer
        if answer.is_users:
            raise UserError(answer.message)
        raise RuntimeError(f'an episode failed in its process:\n{answer.message}')


# -- in the new process ---------------------------------------------------------------------------


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and the like wait: raised within a fork it is lost, or leaves a lock taken."""
    if not hasattr(signal, 'pthread_sigmask'):  # on Windows, where there is no fork
        yield
        return
    held = {signal.SIGINT, getattr(signal, 'SIGHUP', signal.SIGINT)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@dataclass(frozen=True)
class _Failure:
    message: str
    is_users: bool


class _Abandoned(Exception):
    """Nobody is there any more to ask or to hear."""


class _Line:
    """The connection to the process that is served."""

    def __init__(self, connection: Connection, served_process: int) -> None:
        self._connection = connection
        self._served_process = served_process

    def receive(self) -> Any:
        """Wait for a question."""
        try:
            while not self._connection.poll(_SECONDS_BETWEEN_LOOKS):
                self._look()
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise _Abandoned from error

    def send(self, answer: Any) -> None:
        """Send an answer."""
        self._look()
        try:
            self._connection.send(answer)
        except OSError as error:
            raise _Abandoned from error

    def _look(self) -> None:
        # The connection does not tell: processes forked later hold copies of its other end.
        if os.getppid() != self._served_process:
            raise _Abandoned


def _serve(connection: Connection, build: Callable[[], Any], served_process: int) -> None:
    """Answer questions until told to end or left alone."""
    leave_stopping_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    line = _Line(connection, served_process)
    with contextlib.suppress(_Abandoned):
        try:
            with contextlib.closing(build()) as served_object:
                while (question := line.receive()) is not None:
                    _answer(line, served_object, *question)
        except _Abandoned:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side must hear of it
            is_users = isinstance(error, UserError)
            line.send(_Failure(str(error) if is_users else traceback.format_exc(), is_users))


def _answer(line: _Line, served_object: Any, name: str, arguments: tuple[Any, ...]) -> None:
    answer = getattr(served_object, name)
    if callable(answer):
        answer = answer(*arguments)
    if isinstance(answer, GeneratorType):
        answer = _send_parts(line, answer)
    line.send(answer)


def _send_parts(line: _Line, generator: GeneratorType) -> Any:
    while True:
        try:
            line.send(Partial(next(generator)))
        except StopIteration as end:
            return end.value
