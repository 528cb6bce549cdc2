# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress on screen: a bar with an ETA on a terminal, periodic lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


# Interval of lines without a terminal.
_SECONDS_BETWEEN_LINES = 10.0


class ProgressReporter:
    """Shows the progress of long work and its ETA.

    Args:
        label (str): Label of the work.
        total (int): Total number of steps.
        done (int, optional): Steps done in an earlier session. Defaults to 0.
        unit (str, optional): Unit of a step. Defaults to ``'steps'``.
        quiet (bool, optional): Whether to show nothing. Defaults to False.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        unit: str = 'steps',
        quiet: bool = False,
    ) -> None:
        """Initialize an instance of :class:`ProgressReporter`."""
        self._console = Console(quiet=quiet)
        self._label, self._unit = label, unit
        self._first, self._done, self._total = done, done, total
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[ProgressReporter]:
        """Show progress while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),  # so that the rest fits 80 columns
            MofNCompleteColumn(),
            TextColumn(self._unit),
            TimeElapsedColumn(),
            TextColumn('ETA'),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        with self._bar:
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done)
            yield self
        self._bar = None

    def update(self, done: int, total: int | None = None, label: str | None = None) -> None:
        """Update the steps done, and optionally the total and the label."""
        self._done = done
        self._total = self._total if total is None else total
        self._label = self._label if label is None else label
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=done,
                total=self._total,
                description=self._label,
            )
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (done - self._first) / (now - self._started)
            left = (self._total - done) / max(rate, 1e-9)
            self._console.print(
                f'{self._label}: {done}/{self._total} {self._unit}, {rate:.1f}/s, '
                f'ETA {timedelta(seconds=round(left))}',
                highlight=False,
            )


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of one phase; yields what to call with the steps done and their total."""
    progress = ProgressReporter(label, total)
    with progress.shown():
        yield progress.update


@contextmanager
def phases(
    shown: Callable[[str, int], AbstractContextManager[Callable[[int, int], None]]] = bar,
) -> Iterator[Callable[[str, int, int], None]]:
    """Show the phases of some work, one after the other.

    Args:
        shown (Callable, optional): Shows one phase, as :func:`bar` does. Defaults to :func:`bar`.

    Yields:
        What to call with a phase's name, the steps of it that are done, and their total.
    """
    with ExitStack() as stack:
        reports: dict[str, Callable[[int, int], None]] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in reports:
                stack.close()
                reports[phase] = stack.enter_context(shown(phase, total))
            reports[phase](done, total)

        yield report
