# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""What is to be known of rows: defects of OmniSafe's own algorithms, stated beneath them."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.rows import Result, Results
from benchmarks.tables import Points


_SUPERSCRIPTS = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
# What the plugin adds beside QPT.
_BASELINES = ('BCSafe', 'CDT', 'CPQ', 'FISOR')
# The algorithm that a corrected one was made of.
_CORRECTED = {'CCRR-fixed': 'CCRR'}


def _waits_for_multiplier(cell: Result) -> bool:
    """Tell whether a training ended before its Lagrange multiplier was to move."""
    start = cell.settings.get('algo_cfgs.lagrange_start_step')
    return start is not None and cell.facts['updates'] <= start


def _always(cell: Result) -> bool:
    del cell
    return True


# What is known to be wrong with OmniSafe 0.5.0's own algorithms, and which cells it concerns.
_DEFECTS: tuple[tuple[tuple[str, ...], Callable[[Result], bool], str], ...] = (
    (
        ('CCRR',),
        _always,
        (
            'never trains its cost critic: the update meant for it trains the reward critic '
            "towards costs, and the cost of the policy's actions is read off the reward critic"
        ),
    ),
    (
        ('CCRR-fixed',),
        _always,
        'has its cost critic trained and used here (`benchmarks/corrected.py`)',
    ),
    (
        ('COptiDICE',),
        _always,
        (
            'estimates the cost that it holds against the limit without the importance weights '
            'that would make it an upper bound'
        ),
    ),
    (
        ('BCQ', 'BCQLag'),
        _always,
        (
            "acts by one random sample of its decoder, where BCQ's paper takes the best of "
            'several by its critic'
        ),
    ),
    (
        ('BCQLag', 'CCRR', 'CCRR-fixed'),
        _waits_for_multiplier,
        (
            'leaves its Lagrange multiplier at its first value of 1 until `lagrange_start_step` '
            '(150,000 updates unless set), which these trainings do not reach, so that cost has a '
            'fixed weight, whatever the limit'
        ),
    ),
)


def row_notes(results: Results) -> dict[str, str]:
    """Return what is to be known of a row, for those of which something is."""
    notes = {}
    for row, algo in results.algorithms.items():
        cells = [cell for cell in results.cells if cell.row == row]
        known = [
            text
            for algorithms, concerns, text in _DEFECTS
            if algo in algorithms and any(map(concerns, cells))
        ]
        if known:
            name = _CORRECTED.get(algo, algo)
            notes[row] = "OmniSafe's {} {}.".format(name, '; it '.join(known))
    return notes


def note_numbers(results: Results) -> dict[str, str]:
    """Return the raised number of each row that has a note."""
    return {
        row: str(index).translate(_SUPERSCRIPTS) for index, row in enumerate(row_notes(results), 1)
    }


def note_points(results: Results) -> list[Points]:
    """Return the notes beneath a table, or nothing."""
    numbers = note_numbers(results)
    texts = [f'{numbers[row]} {row}: {text}' for row, text in row_notes(results).items()]
    ours = [row for row, algo in results.algorithms.items() if algo in _BASELINES]
    if ours:
        texts.append(
            f"{', '.join(ours)}: this project's implementations; `configs/` and "
            "`omnisafe_qpt/core/baselines/` say where they differ from their authors' code."
        )
    return [Points(tuple(texts))] if texts else []
