# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Notes, warnings and origin of the rows of a suite, for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from benchmarks.rows import Results
from benchmarks.scores import Board
from benchmarks.tables import span, trainings
from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.runner import CERTIFIED, MODEL, SIMULATOR


_SUPERSCRIPTS = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
# What the plugin adds beside QPT.
_BASELINES = set(ALGORITHMS) - {'QPT'}


def _waits_for_multiplier(cell: Any) -> bool:
    """Return whether a training ended before its Lagrange multiplier could change."""
    start = cell.settings.get('algo_cfgs.lagrange_start_step')
    return start is not None and cell.updates <= start


def _is_calibrated(cell: Any) -> bool:
    """Return whether target calibration ran between training and evaluation.

    It holds for the deployment settings of the training alone: with others it is not used.
    """
    where = cell.trained.get('train_cfgs.calibrate', SIMULATOR)  # earlier versions had no other
    episodes = cell.trained.get('train_cfgs.calibrate_episodes', 0)
    return (
        (where == MODEL or (where != 'none' and episodes > 0))
        and cell.settings.get('evaluate.calibrated', True)
        and all(cell.settings[name] == value for name, value in cell.trained.items())
    )


def _methods(cell: Any) -> set[str]:
    """Return where target calibration of this version ran the policy."""
    guarantees = [each.get('guarantee') for each in cell.asked or ()]
    return {each.get('method', SIMULATOR) for each in guarantees if each}


def _is_estimated(cell: Any) -> bool:
    return _is_calibrated(cell) and MODEL in _methods(cell)


def _is_certified(cell: Any) -> bool:
    """Return whether target calibration states a guarantee, as in this version."""
    return _is_calibrated(cell) and SIMULATOR in _methods(cell)


def _is_calibrated_as_before(cell: Any) -> bool:
    return _is_calibrated(cell) and not _methods(cell)


def _always(cell: Any) -> bool:
    del cell
    return True


# Algorithms whose rows a note is about, which of their cells it is about, and its text. Most notes
# state defects of OmniSafe 0.5.0's own algorithms.
_NOTES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ('QPT', 'CDT'),
        _is_estimated,
        (
            'target calibration on the dataset, **without a simulated episode**. At each limit '
            'the policy is conditioned on the target with the highest return among those whose '
            'estimated mean cost is within the limit.'
        ),
    ),
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


# Training may miss a budget of seconds by this share without a warning.
_TIME_TOLERANCE = 0.2
# More warnings are cut.
_MAX_WARNINGS = 12
# Algorithms whose policy is conditioned on a limit; the others act the same at every limit.
_ADAPTING = ('QPT', 'CDT')


def row_notes(results: Results) -> dict[str, list[str]]:
    """Return the rows that each note is about, where there are any."""
    notes = {}
    for algorithms, concerns, text in _NOTES:
        about = {cell.row for cell in results.cells.itertuples() if concerns(cell)}
        rows = [
            row for row, algo in results.algorithms.items() if row in about and algo in algorithms
        ]
        if rows:
            notes[text] = rows
    return notes


def raised(number: int) -> str:
    """Write the number of a note."""
    return str(number).translate(_SUPERSCRIPTS)


def numbered(results: Results) -> dict[str, str]:
    """Return the name of each row, with the raised numbers of its notes."""
    notes = row_notes(results).values()
    return {
        row: row + ','.join(raised(at) for at, rows in enumerate(notes, 1) if row in rows)
        for row in results.rows
    }


def certified(board: Board) -> list[str]:
    """Say for rows with a guarantee in how many trainings the limit was certified."""
    known = {cell.path for cell in board.results.cells.itertuples() if _is_certified(cell)}
    seeds = board.seeds[board.seeds.guarantee.notna() & board.seeds.path.isin(known)]
    return [
        f'{row} on {dataset} {(statuses == CERTIFIED).sum()} of {len(statuses)}'
        for (dataset, row), statuses in seeds.groupby(['dataset', 'row']).guarantee
    ]


def without_target(board: Board) -> list[str]:
    """Name the rows, datasets and seeds for which no safe target was found."""
    seeds = board.seeds[board.seeds.fallback]
    at = f'at limit {board.cost_limit:g}'
    return [
        f'{row} on {dataset} {at} (seed {", ".join(map(str, each))})'
        for (dataset, row), each in seeds.groupby(['dataset', 'row']).seed
    ]


def own_baselines(results: Results) -> list[str]:
    """Return the rows of this project's own implementations of other algorithms."""
    return [row for row, algo in results.algorithms.items() if algo in _BASELINES]


def fixed_rows(results: Results) -> list[str]:
    """Return the rows that act the same at every limit."""
    return [row for row, algo in results.algorithms.items() if algo not in _ADAPTING]


# -- warnings -------------------------------------------------------------------------------------


def warnings(results: Results) -> list[str]:
    """Return a sentence for each thing that should be the same for all cells and is not."""
    return [
        *_by_dataset(results),
        *_by_row(results),
        *_by_machine(results.cells),
        *_by_time(results),
    ]


def cut(texts: list[str]) -> list[str]:
    """Return the first of some warnings, and how many there are besides."""
    more = len(texts) - _MAX_WARNINGS
    return [*texts[:_MAX_WARNINGS], *([f'and {more} more of this kind'] if more > 0 else [])]


def _by_dataset(results: Results) -> Iterator[str]:
    """Data, scale, episodes and protocol are the same for all rows on a dataset."""
    for dataset in results.datasets:
        cells = results.cells[results.cells.dataset == dataset]
        hashes = _distinct(cells.dataset_sha256.str[:12])
        if len(hashes) > 1:
            yield f'{dataset}: cells ran on different data (sha256 {", ".join(hashes)})'
        scales = _distinct(cells.reference_returns)
        if len(scales) > 1:
            yield f'{dataset}: returns are normalised in different ways ({", ".join(scales)})'
        yield from _by_episodes(results, dataset)
        for name, text in (
            ('cost_limit', 'were trained for different cost limits'),
            ('budget', 'had different budgets'),
            ('epochs', 'chose the best among different numbers of checkpoints'),
            ('validation_episodes', 'chose the best checkpoint by different numbers of episodes'),
        ):
            values = _distinct(cells.training.str[name])
            if len(values) > 1:
                yield f'{dataset}: cells {text} ({", ".join(values)})'


def _by_episodes(results: Results, dataset: str) -> Iterator[str]:
    """Rows with the same seed of training are evaluated on the same episodes."""
    episodes = results.episodes[results.episodes.dataset == dataset]
    for checkpoint, limit in results.settings:
        here = episodes[(episodes.checkpoint == checkpoint) & (episodes.cost_limit == limit)]
        for seed, rows in here.groupby('seed'):
            each = set(rows.groupby('row').env_seed.agg(tuple))
            if len(each) > 1:
                numbers = sorted({len(one) for one in each})
                what = ' or '.join(map(str, numbers)) if len(numbers) > 1 else 'different'
                yield (
                    f'{dataset}, seed {seed}, {checkpoint} checkpoint, limit {limit:g}: rows were '
                    f'evaluated on {what} episodes'
                )


def _by_row(results: Results) -> Iterator[str]:
    """The seeds of a row on a dataset differ in the seed alone."""
    for (row, dataset), cells in results.cells.groupby(['row', 'dataset'], sort=False):
        settings = pd.DataFrame(list(cells.settings), dtype=object).astype(str)
        names = settings.columns[settings.nunique() > 1]
        if len(names):
            yield f'{row} on {dataset}: seeds differ in their settings ({", ".join(names)})'


def _by_machine(cells: pd.DataFrame) -> Iterator[str]:
    commits = [each[:9] for each in _distinct(cells.commit)]
    if len(commits) > 1:
        yield f'cells come from different commits ({", ".join(commits)})'
    later, dirty = cells.evaluation_commit.notna().sum(), cells.dirty.sum()
    if later:
        yield f'{later} of {len(cells)} cells were evaluated at another commit than trained'
    if dirty:
        yield f'{dirty} of {len(cells)} cells come from a tree with uncommitted changes'
    machines = _distinct(cells.machine)
    if len(machines) > 1:
        yield f'cells ran on different hardware, so times do not compare ({", ".join(machines)})'
    for package in sorted({name for each in cells.versions for name in each}):
        versions = _distinct(cells.versions.str.get(package))
        if len(versions) > 1:
            yield f'cells ran with different versions of {package} ({", ".join(versions)})'


def _by_time(results: Results) -> Iterator[str]:
    """Budgets of seconds were kept."""
    cells = results.cells
    wanted = cells.training.map(lambda training: training['budget'].get('seconds')).astype(float)
    missed = (cells.train_seconds - wanted).abs() > _TIME_TOLERANCE * wanted
    keys = [cells.row[missed], wanted[missed]]
    for (row, seconds), taken in cells.train_seconds[missed].groupby(keys, sort=False):
        yield (
            f'{row}: trained for {span(taken, "{:.0f}".format)} s where the budget is '
            f'{seconds:.0f} s'
        )


def _distinct(values: pd.Series) -> list[str]:
    """Return the different values as text, in their order."""
    return list(
        dict.fromkeys(
            value
            if isinstance(value, str)
            else 'unknown'
            if value is None
            else json.dumps(value, sort_keys=True)
            for value in values
        )
    )


# -- where the figures come from ------------------------------------------------------------------


def protocol(results: Results) -> str:
    """Say how many seeds and episodes there are."""
    seeds = results.cells.groupby(['row', 'dataset']).size()
    episodes = results.episodes.groupby(['dataset', 'row', 'seed', 'checkpoint', 'cost_limit'])
    return f'Seeds: {span(seeds)}, episodes of each: {span(episodes.size())}.'


def budgets(results: Results) -> str:
    """Say how long or for how many updates cells were trained; by dataset where that differs."""
    texts: dict[str, dict[str, None]] = {}
    for cell in results.cells.itertuples():
        training = cell.training
        ((kind, amount),) = training['budget'].items()
        of = f'{amount:,} updates' if kind == 'updates' else f'{amount / 60:.4g} min of updates'
        text = (
            f'{of} a training, for cost limit {training["cost_limit"]:g}; checkpoints: '
            f'{training["epochs"]}, episodes of validation for each: '
            f'{training["validation_episodes"]}'
        )
        texts.setdefault(text, {})[cell.dataset] = None
    if len(texts) == 1:
        return next(iter(texts))
    return '; '.join(f'{text} ({", ".join(names)})' for text, names in texts.items())


def origin(results: Results) -> dict[str, str]:
    """Say what the figures took, and the code, versions and hardware that they come from."""
    cells = results.cells
    own = trainings(cells)
    training = own.train_seconds.sum() + own.validate_seconds.sum()
    total = training + cells.evaluate_seconds.sum()
    days = cells.started.str[:10]
    when = days.min() if days.nunique() == 1 else f'{days.min()} to {days.max()}'
    commits = dict.fromkeys(
        (commit or 'unknown')[:9] + ' with uncommitted changes' * dirty
        for commit, dirty in zip(cells.commit, cells.dirty)
    )
    versions = dict.fromkeys(
        ', '.join(f'{name} {version}' for name, version in each.items()) for each in cells.versions
    )
    return {
        'Budget': budgets(results),
        'Total': f'cells: {len(cells)}, trainings: {len(own)}, {_hours(total)} one after the other '
        f'({_hours(training)} of it training and validation), {when}',
        'Code': f'commit {", ".join(commits)}',
        'Versions': '; or '.join(versions),
        'Hardware': '; or '.join(dict.fromkeys(cells.machine)),
    }


def _hours(seconds: float) -> str:
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'
