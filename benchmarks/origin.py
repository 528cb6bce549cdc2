# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a suite's figures come from: budget, time, code, versions, hardware, data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.rows import Result, Results
from benchmarks.tables import NOT_RUN, Block, Entry, Points, Table


def origin(results: Results) -> Iterator[Block]:
    """Say everything, the effort in a table."""
    cells = results.cells
    yield _effort_table(results)
    yield _data_table(results)
    yield Points(
        (
            f'Budget: {budgets(results)}.',
            f'Total: {_total(cells)}.',
            f'Code: {_code(cells)}.',
            f'Versions: {_listed(cells, _versions)}.',
            f'Hardware: {_listed(cells, lambda cell: cell.hardware)}.',
        ),
    )


def _data_table(results: Results) -> Table:
    """Say what each dataset is, and the limits that OmniSafe's algorithms were given in its units.

    These are the cost limit of an episode in units that each of them has of its own.
    """
    limits: dict[str, dict[str, str]] = {}
    files: dict[str, tuple[str, str]] = {}
    for cell in results.cells:
        digest = f'`{cell.facts["dataset_sha256"][:12]}`'
        files.setdefault(cell.dataset, (cell.facts['dataset_file'], digest))
        for name, value in _flat_limits(cell.facts.get('converted_limit', {})):
            limits.setdefault(f'{cell.row}: `{name}`', {})[cell.dataset] = f'{value:.4g}'
    header = ('dataset', 'environment', 'file', 'sha256', *limits)
    lines = [
        (
            *(Entry(dataset), Entry(results.env_ids[dataset]), *map(Entry, files[dataset])),
            *(Entry(by_dataset.get(dataset, '')) for by_dataset in limits.values()),
        )
        for dataset in results.datasets
        if dataset in files
    ]
    return Table(header, tuple(lines))


def _effort_table(results: Results) -> Table:
    header = (
        *('row', 'trainings', 'updates', 'training, min'),
        *('validation and calibration, min', 'evaluation, min'),
    )
    lines = []
    for row in results.rows:
        cells = [cell for cell in results.cells if cell.row == row]
        if not cells:
            lines.append((Entry(row), Entry(NOT_RUN), *([Entry('')] * (len(header) - 2))))
            continue
        minutes = (
            _span([cell.facts[f'{name}_seconds'] / 60 for cell in cells], '.1f')
            for name in ('train', 'validate', 'evaluate')
        )
        updates = _span([cell.facts['updates'] for cell in cells], ',')
        entries = (str(len(_trainings(cells))), updates, *minutes)
        lines.append((Entry(row), *map(Entry, entries)))
    return Table(header, tuple(lines))


def _span(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f'{low} to {high}'


def _trainings(cells: Sequence[Result]) -> list[Result]:
    """Return one cell for each training: cells that only act differently share theirs."""
    by_training: dict[str, Result] = {}
    for cell in cells:
        key = json.dumps(cell.facts['config']['training'], sort_keys=True)
        by_training.setdefault(key, cell)
    return list(by_training.values())


def budgets(results: Results) -> str:
    """Say how long or for how many updates cells were trained; by dataset where that differs."""
    texts: dict[str, list[str]] = {}
    for cell in results.cells:
        training = cell.facts['config']['training']
        ((kind, amount),) = training['budget'].items()
        of = f'{amount:,} updates' if kind == 'updates' else f'{amount / 60:.4g} min of updates'
        text = (
            f'{of} a training, for cost limit {training["cost_limit"]:g}; checkpoints: '
            f'{training["epochs"]}, episodes of validation for each: '
            f'{training["validation_episodes"]}'
        )
        names = texts.setdefault(text, [])
        if cell.dataset not in names:
            names.append(cell.dataset)
    if len(texts) == 1:
        return next(iter(texts))
    return '; '.join(f'{text} ({", ".join(names)})' for text, names in texts.items())


def _total(cells: Sequence[Result]) -> str:
    training = sum(
        cell.facts['train_seconds'] + cell.facts['validate_seconds'] for cell in _trainings(cells)
    )
    evaluation = sum(cell.facts['evaluate_seconds'] for cell in cells)
    days = sorted(cell.facts['started'][:10] for cell in cells)
    when = days[0] if days[0] == days[-1] else f'{days[0]} to {days[-1]}'
    return (
        f'cells: {len(cells)}, trainings: {len(_trainings(cells))}, '
        f'{_hours(training + evaluation)} one after the other ({_hours(training)} of it training '
        f'and validation), {when}'
    )


def _hours(seconds: float) -> str:
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def _code(cells: Sequence[Result]) -> str:
    commits = dict.fromkeys(
        (cell.facts['commit'] or 'unknown')[:9]
        + (' with uncommitted changes' * cell.facts['dirty'])
        for cell in cells
    )
    return f'commit {", ".join(commits)}'


def _versions(cell: Result) -> str:
    return ', '.join(f'{name} {version}' for name, version in cell.facts['versions'].items())


def _listed(cells: Sequence[Result], text: Callable[[Result], str]) -> str:
    return '; or '.join(dict.fromkeys(map(text, cells)))


def _flat_limits(section: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat_limits(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value
