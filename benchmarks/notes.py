# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Notes on rows, stated beneath the tables: defects, and what only some of the rows had."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.rows import Result, Results
from benchmarks.summary import Board
from benchmarks.tables import Block, Points
from omnisafe_qpt.runner import CERTIFIED


_SUPERSCRIPTS = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
# What the plugin adds beside QPT.
_BASELINES = ('BCSafe', 'CDT', 'CPQ', 'FISOR')


def _waits_for_multiplier(cell: Result) -> bool:
    """Tell whether a training ended before its Lagrange multiplier was to move."""
    start = cell.settings.get('algo_cfgs.lagrange_start_step')
    return start is not None and cell.facts['updates'] <= start


def _always(cell: Result) -> bool:
    del cell
    return True


def _is_calibrated(cell: Result) -> bool:
    """Tell whether a policy was tried in the simulator after training, before its evaluation.

    That holds for the settings of the training alone: deployed with others, it is not used.
    """
    trained = cell.trained_settings
    return (
        trained.get('train_cfgs.calibrate_episodes', 0) > 0
        and cell.settings.get('evaluate.calibrated', True)
        and all(cell.settings[name] == value for name, value in trained.items())
    )


def _is_certified(cell: Result) -> bool:
    """Tell whether the calibration says what it guarantees, as it does today."""
    return _is_calibrated(cell) and bool(cell.guarantees)


def _is_calibrated_as_before(cell: Result) -> bool:
    return _is_calibrated(cell) and not cell.guarantees


# Algorithms whose rows a note is about, which of their cells it is about, and its text. Most notes
# state defects of OmniSafe 0.5.0's own algorithms.
_NOTES: tuple[tuple[tuple[str, ...], Callable[[Result], bool], str], ...] = (
    (
        ('QPT', 'CDT'),
        _is_certified,
        (
            'target calibration in the simulator after training, with at most '
            '`calibrate_episodes` episodes for each target cost. At each limit the policy is '
            'conditioned on the target with the highest return among those whose mean cost is '
            'certified. Rows without this note had no such episodes.'
        ),
    ),
    (
        ('QPT', 'CDT'),
        _is_calibrated_as_before,
        (
            'calibrated in the simulator after training by an earlier version, on '
            '`calibrate_episodes` episodes for each of up to twelve target costs and for zero '
            'actions, **without a guarantee**: the mean cost at the chosen target is '
            'underestimated. Rows without this note had no such episodes.'
        ),
    ),
    (
        ('BCQ', 'BCQLag'),
        _always,
        (
            "one random sample of the decoder is the action, where BCQ's paper takes the best of "
            'several by its critic.'
        ),
    ),
    (
        ('BCQLag', 'CCRR', 'CCRR-fixed'),
        _waits_for_multiplier,
        (
            'the Lagrange multiplier stays at its first value of 1 until `lagrange_start_step` '
            '(150,000 updates unless set), which these trainings do not reach: cost has a fixed '
            'weight, whatever the limit.'
        ),
    ),
    (
        ('CCRR',),
        _always,
        (
            'the cost critic is never trained. The update meant for it trains the reward critic '
            "towards costs, and the cost of the policy's actions is read off the reward critic."
        ),
    ),
    (
        ('COptiDICE',),
        _always,
        (
            'the estimate of cost that is held against the limit lacks the importance weights '
            'that would make it an upper bound.'
        ),
    ),
    (
        ('CCRR-fixed',),
        _always,
        "OmniSafe's CCRR with its cost critic trained and used (`benchmarks/corrected.py`).",
    ),
)


def _rows_by_note(results: Results) -> dict[str, list[str]]:
    """Return the rows that each note is about, where there are any."""
    rows = {}
    for algorithms, concerns, text in _NOTES:
        about = [
            row
            for row, algo in results.algorithms.items()
            if algo in algorithms
            and any(concerns(cell) for cell in results.cells if cell.row == row)
        ]
        if about:
            rows[text] = about
    return rows


def numbered(results: Results) -> dict[str, str]:
    """Return the name of each row, with the raised numbers of its notes."""
    numbers: dict[str, list[str]] = {row: [] for row in results.rows}
    for index, rows in enumerate(_rows_by_note(results).values(), 1):
        for row in rows:
            numbers[row].append(str(index).translate(_SUPERSCRIPTS))
    return {row: row + ','.join(each) for row, each in numbers.items()}


def _fallbacks(boards: Sequence[Board]) -> list[str]:
    """Name the rows, datasets, limits and seeds for which no safe target was found."""
    places: dict[tuple[str, str], list[str]] = {}
    for board in boards:
        for key, score in board.scores.items():
            seeds = [str(seed) for seed, found in zip(score.seeds, score.targets) if not found]
            if seeds:
                at = f'at limit {board.cost_limit:g} (seed {", ".join(seeds)})'
                places.setdefault(key, []).append(at)
    return [f'{row} on {dataset} {", ".join(at)}' for (row, dataset), at in places.items()]


def _certified(boards: Sequence[Board]) -> list[str]:
    """Say for rows with a target calibration in how many trainings a limit was certified."""
    places: dict[tuple[str, str], list[str]] = {}
    for board in boards:
        for cell in board.results.cells:
            found = cell.guarantees.get((board.checkpoint, board.cost_limit))
            if found is not None and _is_certified(cell):
                places.setdefault((cell.row, cell.dataset), []).append(found['status'])
    return [
        f'{row} on {dataset} {statuses.count(CERTIFIED)} of {len(statuses)}'
        for (row, dataset), statuses in places.items()
    ]


def notes(boards: Sequence[Board]) -> list[Block]:
    """Return what stands beneath a table, or nothing.

    Args:
        boards (Sequence[Board]): What the table shows, all of the same suite.
    """
    results = boards[0].results
    blocks: list[Block] = []
    found = _rows_by_note(results)
    if found:
        blocks.append("Notes on rows; OmniSafe's own algorithms are run without changes:")
        blocks.append(
            Points(
                tuple(
                    f'{str(index).translate(_SUPERSCRIPTS)} {", ".join(rows)}: {text}'
                    for index, (text, rows) in enumerate(found.items(), 1)
                ),
            ),
        )
    certified = _certified(boards)
    if certified:
        blocks.append(
            '**Certified** that the mean cost is within the limit with 95 % confidence, of the '
            f'seeds and limits shown: {"; ".join(certified)}.'
        )
    fallbacks = _fallbacks(boards)
    if fallbacks:
        blocks.append(f'**No safe target found**, every action is zero: {"; ".join(fallbacks)}.')
    ours = [row for row, algo in results.algorithms.items() if algo in _BASELINES]
    if ours:
        blocks.append(
            f"{', '.join(ours)}: this project's implementations. `configs/` and "
            "`omnisafe_qpt/baselines/` say where they differ from their authors' code.",
        )
    return blocks
