# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

import re

import pytest

from omnisafe_qpt import progress


def test_lines_tell_what_is_done_and_when_it_will_end(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    reporter = progress.ProgressReporter('Training', 10_000, done=1000, unit='updates')
    with reporter.shown():
        for step in range(1001, 1041):
            clock[0] += 1.0
            reporter.update(step)
    lines = capsys.readouterr().out.splitlines()
    # One a ten seconds; one update a second of 10000, of which 1000 were done before.
    assert len(lines) == 4
    assert lines[0] == 'Training: 1010/10000 updates, 1.0/s, ETA 2:29:50'
    assert re.fullmatch(r'Training: 1040/10000 updates, 1\.0/s, ETA 2:29:20', lines[-1])


def test_the_total_may_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    reporter = progress.ProgressReporter('Evaluating', 200)
    with reporter.shown():
        clock[0] = 20.0
        reporter.update(100, 120)
    assert capsys.readouterr().out.strip() == 'Evaluating: 100/120 steps, 5.0/s, ETA 0:00:04'
