# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deferred handling of SIGINT, SIGTERM and SIGHUP at safe points.

An exception raised directly in the handler may be lost (Python drops exceptions during the deletion
of an object) or interrupt an atomic operation.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


# One Ctrl-C may arrive twice, from the terminal and from a launcher.
_SECONDS_OF_ONE_PRESS = 1.0

_SECONDS_AFTER_A_FAILURE = 0.5


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end.

    They are Ctrl-C, SIGTERM and, unless it is ignored as under nohup, SIGHUP: a lost terminal.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, 'SIGHUP', None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    return numbers


class Stopped(KeyboardInterrupt):
    """Raised at a safe point after a signal from the user or a scheduler.

    Args:
        number (signal.Signals): The received signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        """Initialize an instance of :class:`Stopped`."""
        super().__init__(number.name)
        self.signal = number

    @property
    def exit_status(self) -> int:
        """Exit status in a shell after this signal: 129, 130 or 143."""
        return 128 + self.signal


class StopSignal:
    """Remembers the first SIGINT, SIGTERM or SIGHUP that comes while the ``with`` block runs.

    A second Ctrl-C ends the process, and those that it started, at once. SIGHUP stays ignored
    where it was, as under nohup. In other threads than the main one, where Python has no signals,
    nothing is remembered.

    Args:
        notice (str, optional): What to say on stderr when the signal comes. Defaults to nothing.

    Attributes:
        received (signal.Signals or None): The signal.
    """

    def __init__(self, notice: str = '') -> None:
        """Initialize an instance of :class:`StopSignal`."""
        self.received: signal.Signals | None = None
        self._notice = notice
        self._time = 0.0
        self._handlers: dict[int, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> StopSignal:
        """Install the signal handlers."""
        self._terminals = [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the earlier signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has been received.

        Raises:
            Stopped: If so.
        """
        if self.received is not None:
            raise Stopped(self.received)

    @contextlib.contextmanager
    def blamed_for_failures(self) -> Iterator[None]:
        """Attribute a failure in the block to a signal that arrives with it.

        Sent to a whole group of processes, it may end others before this one hears of it.

        Raises:
            Stopped: In place of the failure.
        """
        try:
            yield
        except Exception:
            time.sleep(_SECONDS_AFTER_A_FAILURE)
            self.check()
            raise

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        for descriptor in self._terminals:
            if not _is_terminal(descriptor):  # the terminal is gone: later prints must not fail
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)
        if self.received is None:
            self.received, self._time = signal.Signals(number), now
            if self._notice:
                # Not by way of sys.stderr, which may be at work when a signal comes.
                with contextlib.suppress(OSError):  # the terminal may be gone
                    os.write(2, f'{self._notice}\n'.encode())
        elif number == signal.SIGINT and now - self._time > _SECONDS_OF_ONE_PRESS:
            _end_at_once(128 + number)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def leave_stopping_to_parent() -> None:
    """Ignore Ctrl-C and a lost terminal: they reach the parent as well, which ends this process."""
    for number in stop_signals():
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


def _end_at_once(status: int) -> None:
    for process in multiprocessing.active_children():
        process.kill()
    if sys.stdout.isatty():
        os.write(1, b'\x1b[?25h\n')  # a progress bar hides the cursor
    os._exit(status)
