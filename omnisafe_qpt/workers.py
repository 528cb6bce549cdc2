# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Worker processes: evaluation and collection run their simulators in them.

No library pool does what is needed here. If the parent is killed, the workers of
``ProcessPoolExecutor`` and loky stay behind; if a worker dies, ``multiprocessing.Pool`` waits for
ever. None of them addresses one worker, whose simulators keep their state, or tells progress.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import reprlib
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from types import GeneratorType
from typing import Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import StopSignal, leave_stopping_to_parent


# How often an idle worker checks that its parent is alive.
_PARENT_CHECK_SECONDS = 2.0
# How often `dispatch` calls the caller's check.
_CHECK_SECONDS = 0.2
_SECONDS_TO_CLOSE = 5.0

# Exit code of a worker that began to run the script which started it.
_REIMPORTED = 87


class WorkerDied(UserError):
    """A worker process has ended by itself.

    Args:
        exit_code (int, optional): Its exit code; minus the signal's number if a signal killed it;
            None while it is not gone.
    """

    def __init__(self, exit_code: int | None) -> None:
        """Initialize an instance of :class:`WorkerDied`."""
        if exit_code == _REIMPORTED:
            reason = (
                'a worker process imports the script that started it, which would train or '
                "evaluate again: put that part of the script under if __name__ == '__main__':"
            )
        elif exit_code == 1:  # Python's own for an error
            reason = 'a worker process could not start; its error is printed above'
        else:
            reason = (
                f'a worker process ended unexpectedly (exit code {exit_code}; out of memory?): '
                'fewer processes need less memory'
            )
        super().__init__(reason)
        self.exit_code = exit_code


class ParentExited(Exception):
    """The parent process has exited."""


def refuse_reimport() -> None:
    """End a worker that begins to run the script that started it.

    A process that is not forked imports the main module first. Without a guard, the script would
    train and evaluate once more there.

    Raises:
        SystemExit: With an exit code that :class:`WorkerDied` explains.
    """
    if getattr(multiprocessing.current_process(), '_inheriting', False):
        raise SystemExit(_REIMPORTED)


@dataclass(frozen=True)
class Partial:
    """What a generator yields in a worker: its final value comes later."""

    value: Any


# -- one worker -----------------------------------------------------------------------------------


class Worker:
    """A process that holds an object and runs its methods.

    The process has one torch thread. It ends with the ``with`` block, killed after an error, and
    when this process ends, however that happens.

    Args:
        build (Callable): Makes the object in the worker; the object must have a ``close``.
        fresh (bool, optional): Whether the worker must share nothing with this process, which
            takes seconds more. Defaults to False.

    Attributes:
        connection (Connection): Is ready to be read when a result has come.
    """

    def __init__(self, build: Callable[[], Any], fresh: bool = False) -> None:
        """Initialize an instance of :class:`Worker`."""
        refuse_reimport()
        # A fork shares what is in memory, where importing OmniSafe anew takes seconds. The children
        # touch no CUDA, and with one thread have no use for torch's pool, which a fork leaves out.
        forks = sys.platform == 'linux' and not fresh
        context: ForkContext | SpawnContext = (
            multiprocessing.get_context('fork') if forks else multiprocessing.get_context('spawn')
        )
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_run_worker,
            args=(theirs, build, os.getpid()),
            daemon=True,
        )
        with StopSignal() as stop:  # what a signal raises within a fork is lost
            self._process.start()
        theirs.close()
        if stop.received is not None:
            self._process.kill()
            signal.raise_signal(stop.received)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self._process.join(_SECONDS_TO_CLOSE)
        self.connection.close()
        self._process.kill()
        self._process.join()

    def submit(self, name: str, *arguments: Any) -> None:
        """Request a call of a method, or the value of an attribute, after all earlier requests."""
        with contextlib.suppress(OSError):  # it has died, which the result will tell
            self.connection.send((name, arguments))

    def result(self) -> Any:
        """Wait for the next result; results come in the order of the requests.

        The values that a generator yields come first, each as a :class:`Partial`.

        Raises:
            UserError: If the method raised one, or the worker has died.
            RuntimeError: If the method raised anything else.
        """
        try:
            return receive(self.connection)
        except (EOFError, OSError) as error:
            self._process.join(_SECONDS_TO_CLOSE)
            raise WorkerDied(self._process.exitcode) from error


@contextlib.contextmanager
def start_workers(build: Callable[[], Any], count: int) -> Iterator[list[Worker]]:
    """Start workers that end with the ``with`` block; see :class:`Worker`."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(build)) for _ in range(count)]


def gather(workers: Sequence[Worker], name: str) -> list[Any]:
    """Return the value of an attribute in each worker, which all workers get at the same time."""
    for worker in workers:
        worker.submit(name)
    return [worker.result() for worker in workers]


# -- a pool ---------------------------------------------------------------------------------------

# Called now and then while tasks run; what it raises ends them.
Check = Callable[[], None]


@contextlib.contextmanager
def worker_pool(
    build: Callable[[], Any],
    processes: int,
) -> Iterator[WorkerPool | LocalPool]:
    """Start a pool that ends with the ``with`` block.

    Args:
        build (Callable): Makes the object of each process; the object must have a ``close``.
        processes (int): Processes; with one, the object is made and used in this process.
    """
    if processes > 1:
        with start_workers(build, processes) as workers:
            yield WorkerPool(workers)
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: several threads may add up in another order
    try:
        with contextlib.closing(build()) as target:
            yield LocalPool(target)
    finally:
        torch.set_num_threads(threads)


class WorkerPool:
    """Workers that take the next task as soon as they are free.

    Args:
        workers (list[Worker]): With equal objects.
    """

    def __init__(self, workers: list[Worker]) -> None:
        """Initialize an instance of :class:`WorkerPool`."""
        self._workers = workers

    def get(self, name: str) -> Any:
        """Return the value of an attribute, once all workers are ready."""
        return gather(self._workers, name)[0]

    def dispatch(
        self,
        name: str,
        tasks: Sequence[Any],
        check: Check | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Call a method once for each task.

        Args:
            name (str): The method's name.
            tasks (Sequence): The argument of each call.
            check (Callable, optional): See :data:`Check`. Defaults to None.

        Yields:
            The number of a task and its result, or a :class:`Partial` that comes before it.

        Raises:
            UserError: If the method raised one, or a worker has died.
            RuntimeError: If the method raised anything else.
        """
        waiting = deque(enumerate(tasks))
        busy: dict[Any, tuple[Worker, int]] = {}

        def start(worker: Worker) -> None:
            if waiting:
                number, task = waiting.popleft()
                worker.submit(name, task)
                busy[worker.connection] = worker, number

        for worker in self._workers:
            start(worker)
        while busy:
            if check is not None:
                check()
            for connection in wait(list(busy), None if check is None else _CHECK_SECONDS):
                worker, number = busy[connection]
                result = worker.result()
                if not isinstance(result, Partial):
                    del busy[connection]
                    start(worker)
                yield number, result


class LocalPool:
    """Stands in for a :class:`WorkerPool` in this process, one task after the other.

    Args:
        target (Any): The object whose methods run the tasks.
    """

    def __init__(self, target: Any) -> None:
        """Initialize an instance of :class:`LocalPool`."""
        self._target = target

    def get(self, name: str) -> Any:
        """Return the value of an attribute."""
        return getattr(self._target, name)

    def dispatch(
        self,
        name: str,
        tasks: Sequence[Any],
        check: Check | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Call a method once for each task; see :meth:`WorkerPool.dispatch`."""
        for number, task in enumerate(tasks):
            if check is not None:
                check()
            for result in _results(self._target, name, task):
                yield number, result


def _results(target: Any, name: str, *arguments: Any) -> Iterator[Any]:
    """Call a method or get an attribute; a generator's values come as they are yielded."""
    result = getattr(target, name)
    if callable(result):
        result = result(*arguments)
    if isinstance(result, GeneratorType):
        result = yield from _partials(result)
    yield result


def _partials(generator: GeneratorType) -> Generator[Partial, None, Any]:
    while True:
        try:
            value = next(generator)
        except StopIteration as end:
            return end.value
        yield Partial(value)


# -- between the processes ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """An error in the worker: a user error's line, or a traceback and the call that failed."""

    message: str
    is_user_error: bool


def receive(connection: Connection) -> Any:
    """Wait for the next result of :func:`serve`.

    Raises:
        UserError: If the method raised one.
        RuntimeError: If the method raised anything else.
        EOFError: If the worker has ended.
    """
    result = connection.recv()
    if not isinstance(result, _Failure):
        return result
    raise (UserError if result.is_user_error else RuntimeError)(result.message)


def _run_worker(connection: Connection, build: Callable[[], Any], parent: int) -> None:
    os.environ['OMP_NUM_THREADS'] = '1'  # if torch is imported later
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    serve(connection, build, parent)


def serve(connection: Connection, build: Callable[[], Any], parent: int) -> None:
    """Run the methods of an object until told to end, or until the parent has exited.

    Args:
        connection (Connection): To the parent.
        build (Callable): Makes the object, which must have a ``close``.
        parent (int): The parent's process id.
    """
    leave_stopping_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = _Channel(connection, parent)
    with (
        contextlib.suppress(ParentExited),
        channel.sending_failures('its start'),
        contextlib.closing(build()) as target,
    ):
        while (request := channel.receive()) is not None:
            name, arguments = request
            call = f'{name}({", ".join(map(reprlib.repr, arguments))})'
            with channel.sending_failures(call):
                for result in _results(target, name, *arguments):
                    channel.send(result)


class _Channel:
    """A worker's connection to its parent."""

    def __init__(self, connection: Connection, parent: int) -> None:
        self._connection = connection
        self._parent = parent

    def receive(self) -> Any:
        """Wait for a request."""
        try:
            while not self._connection.poll(_PARENT_CHECK_SECONDS):
                self._check_parent()
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise ParentExited from error

    def send(self, result: Any) -> None:
        """Send a result."""
        self._check_parent()
        try:
            self._connection.send(result)
        except OSError as error:
            raise ParentExited from error

    @contextlib.contextmanager
    def sending_failures(self, call: str) -> Iterator[None]:
        """Send an error in the block to the parent, and go on after the block."""
        try:
            yield
        except ParentExited:
            raise
        except UserError as error:
            self.send(_Failure(str(error), is_user_error=True))
        except Exception:  # noqa: BLE001 - whatever it is, the parent must know
            message = f'{call} failed in a worker process:\n{traceback.format_exc()}'
            self.send(_Failure(message, is_user_error=False))

    def _check_parent(self) -> None:
        # The connection does not tell: processes forked later hold copies of its other end.
        if os.getppid() != self._parent:
            raise ParentExited
