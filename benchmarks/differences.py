# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What differs among the cells of one table and makes them less comparable than they look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.rows import Result, Results


# Training may miss a budget of seconds by this share without a word.
_TIME_TOLERANCE = 0.2


def find_differences(results: Results) -> list[str]:
    """Return a sentence for each thing that should be the same and is not."""
    return [
        *_by_dataset(results),
        *_by_row(results),
        *_by_machine(results.cells),
        *_by_time(results),
    ]


def _by_dataset(results: Results) -> Iterator[str]:
    """Data, scale and episodes are the same for all rows on a dataset."""
    for dataset in results.datasets:
        cells = [cell for cell in results.cells if cell.dataset == dataset]
        hashes = _values(cells, lambda cell: cell.facts['dataset_sha256'][:12])
        if len(hashes) > 1:
            yield f'{dataset}: cells ran on different data (sha256 {_named(hashes)})'
        scales = _values(cells, lambda cell: tuple(cell.facts['reference_returns']))
        if len(scales) > 1:
            yield f'{dataset}: returns are normalised in different ways ({_named(scales)})'
        yield from _by_episodes(results, dataset, cells)
        yield from _by_protocol(dataset, cells)


def _by_episodes(results: Results, dataset: str, cells: Sequence[Result]) -> Iterator[str]:
    """Rows with the same seed of training are evaluated on the same episodes."""
    for checkpoint, limit in results.settings:
        for seed in sorted({cell.seed for cell in cells}):
            own = [cell.episodes.get((checkpoint, limit)) for cell in cells if cell.seed == seed]
            episodes = {tuple(row.seed for row in rows) for rows in own if rows is not None}
            if len(episodes) > 1:
                numbers = sorted({len(each) for each in episodes})
                what = f'{" or ".join(map(str, numbers))}' if numbers[1:] else 'different'
                yield (
                    f'{dataset}, seed {seed}, {checkpoint} checkpoint, limit {limit:g}: rows were '
                    f'evaluated on {what} episodes'
                )


def _by_protocol(dataset: str, cells: Sequence[Result]) -> Iterator[str]:
    for name, text in (
        ('cost_limit', 'were trained for different cost limits'),
        ('budget', 'had different budgets'),
        ('epochs', 'chose the best among different numbers of checkpoints'),
        ('validation_episodes', 'chose the best checkpoint by different numbers of episodes'),
    ):
        values = _values(cells, lambda cell, name=name: cell.facts['config']['training'][name])
        if len(values) > 1:
            yield f'{dataset}: cells {text} ({_named(values)})'


def _by_row(results: Results) -> Iterator[str]:
    """The seeds of a row on a dataset differ in the seed alone."""
    for row in results.rows:
        for dataset in results.datasets:
            cells = results.of(row, dataset)
            values = _values(cells, lambda cell: cell.settings)
            if len(values) > 1:
                each = [json.loads(text) for text in values]
                names = [name for name in each[0] if len({repr(one.get(name)) for one in each}) > 1]
                yield f'{row} on {dataset}: seeds differ in their settings ({", ".join(names)})'


def _by_machine(cells: Sequence[Result]) -> Iterator[str]:
    commits = _values(cells, lambda cell: cell.facts['commit'])
    if len(commits) > 1:
        yield f'cells come from different commits ({_named(commits, short=9)})'
    later = [cell for cell in cells if 'evaluation_commit' in cell.facts]
    if later:
        yield f'{len(later)} of {len(cells)} cells were evaluated at another commit than trained'
    dirty = [cell for cell in cells if cell.facts['dirty']]
    if dirty:
        yield f'{len(dirty)} of {len(cells)} cells come from a tree with uncommitted changes'
    hardware = _values(cells, lambda cell: cell.hardware)
    if len(hardware) > 1:
        yield f'cells ran on different hardware, so times do not compare ({_named(hardware)})'
    packages = sorted({name for cell in cells for name in cell.facts['versions']})
    for package in packages:
        versions = _values(cells, lambda cell, name=package: cell.facts['versions'].get(name))
        if len(versions) > 1:
            yield f'cells ran with different versions of {package} ({_named(versions)})'


def _by_time(results: Results) -> Iterator[str]:
    """Budgets of wall-clock were kept."""
    missed: dict[tuple[str, float], list[float]] = {}
    for cell in results.cells:
        wanted = cell.facts['config']['training']['budget'].get('seconds')
        taken = cell.facts['train_seconds']
        if wanted is not None and abs(taken - wanted) > _TIME_TOLERANCE * wanted:
            missed.setdefault((cell.row, wanted), []).append(taken)
    for (row, wanted), seconds in missed.items():
        low, high = min(seconds), max(seconds)
        taken = f'{low:.0f}' if low == high else f'{low:.0f} to {high:.0f}'
        yield f'{row}: trained for {taken} s where the budget is {wanted:.0f} s'


def _values(cells: Iterable[Result], value: Callable[[Result], Any]) -> dict[str, list[Result]]:
    """Group cells by a value, in JSON."""
    groups: dict[str, list[Result]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(value(cell), sort_keys=True), []).append(cell)
    return groups


def _named(values: Iterable[str], short: int | None = None) -> str:
    """List values of :func:`_values`, cut to a length."""
    texts = []
    for value in values:
        decoded = json.loads(value)
        text = decoded if isinstance(decoded, str) else 'unknown' if decoded is None else value
        texts.append(text[:short])
    return ', '.join(texts)
