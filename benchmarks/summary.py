# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""From raw rows to scores: what each row of a table reached, and which rows stand out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from benchmarks.rows import Result, Results
from benchmarks.statistics import Estimate
from benchmarks.tables import Mark
from omnisafe_qpt.data.tasks import SUITES, find_task
from omnisafe_qpt.scores import normalized_cost, normalized_return


# Returns that are equal as shown share the mark of the best.
DECIMALS = 2
# A mean of costs that equals the limit may miss it by rounding.
_ROUNDING = 1e-9
_OTHER_TASKS = 'Other'

_Key = TypeVar('_Key')


def is_safe(cost: float) -> bool:
    """Tell whether a normalised cost keeps within the limit, Eq. (16)."""
    return cost <= 1.0 + _ROUNDING


@dataclass(frozen=True)
class Average:
    """Normalised return and cost, averaged over something.

    Args:
        episode_return (float): Normalised return.
        cost (float): Normalised cost.
        parts (int): Number of what it was averaged over.
        fallbacks (int, optional): Number of those parts in which, for a seed at least, every
            action is zero because no safe target was found. Defaults to 0.
        has_target (bool, optional): Whether a safe target was found for any seed. Defaults to True.
    """

    episode_return: float
    cost: float
    parts: int
    fallbacks: int = 0
    has_target: bool = True

    @property
    def is_safe(self) -> bool:
        """Whether the cost is within the limit, and zero actions have no part in that."""
        return is_safe(self.cost) and not self.fallbacks


@dataclass(frozen=True)
class Score:
    """What a row reached on a dataset, at one checkpoint and cost limit.

    Args:
        seeds (tuple[int, ...]): Seeds of training that there are.
        returns (Estimate): Normalised return of each seed, mean over its episodes.
        costs (Estimate): Normalised cost of each seed, mean over its episodes.
        episodes (tuple[int, ...]): Number of episodes of each seed.
        unsafe_share (float): Share of all episodes that cost more than the limit.
        targets (tuple[bool, ...]): For each seed, whether a safe target was found. Where none was,
            every action is zero.
    """

    seeds: tuple[int, ...]
    returns: Estimate
    costs: Estimate
    episodes: tuple[int, ...]
    unsafe_share: float
    targets: tuple[bool, ...]

    @property
    def average(self) -> Average:
        """The means over seeds."""
        return Average(
            self.returns.mean,
            self.costs.mean,
            len(self.seeds),
            self.targets.count(False),
            any(self.targets),
        )

    @property
    def safe_seeds(self) -> int:
        """Number of seeds for which a target was found and whose mean cost is within the limit."""
        return sum(found and is_safe(cost) for cost, found in zip(self.costs.values, self.targets))


def score_cells(cells: Sequence[Result], checkpoint: str, cost_limit: float) -> Score | None:
    """Return what a row reached on a dataset.

    Args:
        cells (Sequence[Result]): Those of its seeds.
        checkpoint (str): ``last`` or ``best``.
        cost_limit (float): In the units of an episode's cost.

    Returns:
        None if no seed has been evaluated so.
    """
    seeds, returns, costs, episodes, targets = [], [], [], [], []
    above = 0
    for cell in cells:
        rows = cell.episodes.get((checkpoint, cost_limit))
        if rows is None:
            continue
        seeds.append(cell.seed)
        mean_return = statistics.fmean(row.episode_return for row in rows)
        mean_cost = statistics.fmean(row.cost for row in rows)
        returns.append(normalized_return(mean_return, *cell.facts['reference_returns']))
        costs.append(normalized_cost(mean_cost, cost_limit))
        episodes.append(len(rows))
        targets.append(cell.has_target(checkpoint, cost_limit))
        above += sum(row.cost > cost_limit for row in rows)
    if not seeds:
        return None
    return Score(
        tuple(seeds),
        Estimate(tuple(returns)),
        Estimate(tuple(costs)),
        tuple(episodes),
        above / sum(episodes),
        tuple(targets),
    )


def mark_all(averages: Mapping[_Key, Average]) -> dict[_Key, Mark]:
    """Mark what is safe, and the highest return among the safe.

    Those that are equal to the decimals shown share the mark. Where zero actions have a part in an
    average it is neither.

    Args:
        averages (Mapping[Key, Average]): What stands side by side.
    """
    safe = {key: each for key, each in averages.items() if each.is_safe}
    shown = {key: round(each.episode_return, DECIMALS) for key, each in safe.items()}
    highest = max(shown.values(), default=None)
    return {
        key: _mark(each) if key not in safe else Mark.BEST if shown[key] == highest else Mark.SAFE
        for key, each in averages.items()
    }


def _mark(average: Average) -> Mark:
    """Mark an average that cannot be the best."""
    if average.is_safe:
        return Mark.SAFE
    return Mark.NONE if is_safe(average.cost) else Mark.UNSAFE


@dataclass(frozen=True)
class Board:
    """The scores of a suite at one checkpoint and cost limit.

    Args:
        results (Results): The suite's finished cells.
        checkpoint (str): ``last`` or ``best``.
        cost_limit (float): In the units of an episode's cost.
    """

    results: Results
    checkpoint: str
    cost_limit: float

    @cached_property
    def scores(self) -> dict[tuple[str, str], Score]:
        """What there is, by row and dataset."""
        scores = {
            (row, dataset): score_cells(
                self.results.of(row, dataset), self.checkpoint, self.cost_limit
            )
            for row in self.results.rows
            for dataset in self.results.datasets
        }
        return {key: score for key, score in scores.items() if score is not None}

    @cached_property
    def marks(self) -> dict[tuple[str, str], Mark]:
        """How the scores stand out among those of the same dataset."""
        marks = {}
        for dataset in self.results.datasets:
            averages = {key: score.average for key, score in self._on(dataset)}
            marks.update(mark_all(averages))
        return marks

    def _on(self, dataset: str) -> Iterable[tuple[tuple[str, str], Score]]:
        return ((key, score) for key, score in self.scores.items() if key[1] == dataset)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The datasets of each of DSRL's suites of tasks, and all, where there are several."""
        groups: dict[str, list[str]] = {}
        for dataset in self.results.datasets:
            task = find_task(self.results.env_ids[dataset])
            name = _OTHER_TASKS if task is None else SUITES[task.suite]
            groups.setdefault(name, []).append(dataset)
        return {name: tuple(datasets) for name, datasets in groups.items()}

    def averages(self, datasets: Sequence[str]) -> dict[str, Average]:
        """Average each row over those of some datasets that it was run on."""
        averages = {}
        for row in self.results.rows:
            parts = [
                self.scores[row, dataset].average
                for dataset in datasets
                if (row, dataset) in self.scores
            ]
            if parts:
                averages[row] = Average(
                    statistics.fmean(part.episode_return for part in parts),
                    statistics.fmean(part.cost for part in parts),
                    len(parts),
                    sum(part.fallbacks > 0 for part in parts),
                    any(part.has_target for part in parts),
                )
        return averages

    def mark_averages(self, datasets: Sequence[str]) -> dict[str, Mark]:
        """Mark averages over datasets; best is only among rows that were run on all of them."""
        averages = self.averages(datasets)
        complete = {row: each for row, each in averages.items() if each.parts == len(datasets)}
        marks = mark_all(complete)
        return {row: _mark(each) for row, each in averages.items()} | marks
