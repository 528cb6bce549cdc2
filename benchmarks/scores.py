# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""From episodes to scores: over seeds, over tasks, and which rows stand out.

The statistics over tasks are those of Agarwal et al., Deep Reinforcement Learning at the Edge of
the Statistical Precipice (2021), as its library rliable computes them: the interquartile mean over
all seeds of all tasks, and intervals from a bootstrap that draws each task's seeds anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import pandas as pd

from benchmarks.rows import CELL, SETTING, Results
from omnisafe_qpt.data.tasks import SUITES, find_task
from omnisafe_qpt.scores import mean_interval, normalized_cost, normalized_return


# Returns that are equal as shown share the mark of the best.
DECIMALS = 2
NONE, UNSAFE, SAFE, BEST = 'none', 'unsafe', 'safe', 'best'
# A mean of costs that equals the limit may miss it by rounding.
_ROUNDING = 1e-9
_OTHER_TASKS = 'Other'

# How often the bootstrap draws.
REPETITIONS = 10_000
_BOOTSTRAP_SEED = 0
_PERCENTILES = (2.5, 97.5)
Interval = tuple[float, float]


def is_safe(costs: pd.Series) -> pd.Series:
    """Return which normalised costs are within the limit, Eq. 16."""
    return costs <= 1.0 + _ROUNDING


def mark(averages: pd.DataFrame, may_be_best: pd.Series | bool = True) -> pd.Series:
    """Mark what is safe, and the highest return among the safe.

    Those that are equal to the decimals shown share the mark. A row with zero-action fallbacks is
    never marked safe or best.

    Args:
        averages (pd.DataFrame): What stands side by side: ``returns``, ``costs`` (normalised), and
            ``fallbacks``, the number of its parts without a safe target.
        may_be_best (pd.Series or bool, optional): Which can be the best. Defaults to all.
    """
    within = is_safe(averages.costs)
    safe = within & (averages.fallbacks == 0)
    shown = averages.returns.map(lambda value: round(float(value), DECIMALS))
    best = safe & may_be_best & (shown == shown[safe & may_be_best].max())
    marks = pd.Series(NONE, averages.index, dtype=object)
    return marks.mask(~within, UNSAFE).mask(safe, SAFE).mask(best, BEST)


def score_seeds(results: Results) -> pd.DataFrame:
    """Return a line for each checkpoint, limit and cell.

    Columns: ``returns`` and ``costs`` (normalised means over episodes), ``episodes``, ``above``
    (episodes over the limit), ``fallback`` (whether every action was zero, because no safe target
    was found), ``guarantee`` (the status that target calibration stated, or None), ``path``.
    """
    episodes = results.episodes
    seeds = (
        episodes.assign(above=episodes.cost > episodes.cost_limit)
        .groupby([*SETTING, *CELL], sort=False)
        .agg(
            returns=('return', fmean),
            costs=('cost', fmean),
            episodes=('cost', 'size'),
            above=('above', 'sum'),
        )
        .reset_index()
        .merge(results.cells[[*CELL, 'reference_returns', 'asked', 'path']], on=CELL)
        .sort_values('seed', kind='stable')
    )
    asked = [
        next((each for each in cell.asked or () if _is_at(each, cell)), {})
        for cell in seeds.itertuples()
    ]
    return seeds.assign(
        returns=[
            normalized_return(value, *references)
            for value, references in zip(seeds.returns, seeds.reference_returns)
        ],
        costs=list(map(normalized_cost, seeds.costs, seeds.cost_limit)),
        fallback=[each.get('zero_action', False) for each in asked],
        guarantee=[(each.get('guarantee') or {}).get('status') for each in asked],
    )


def _is_at(asked: dict[str, object], cell: tuple) -> bool:
    return (asked['checkpoint'], asked['cost_limit']) == (cell.checkpoint, cell.cost_limit)


@dataclass(frozen=True)
class Board:
    """The scores of a suite at one checkpoint and cost limit.

    Args:
        results (Results): The suite's results.
        checkpoint (str): ``last`` or ``best``.
        cost_limit (float): Of an episode.
        seeds (pd.DataFrame): Lines of :func:`score_seeds`.
    """

    results: Results
    checkpoint: str
    cost_limit: float
    seeds: pd.DataFrame

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of rows over their seeds, by dataset and row.

        Columns: ``returns`` and ``costs`` (means over seeds), ``*_std`` and ``*_interval`` (NaN and
        None for one seed), ``*_values`` (of seeds), ``seeds``, ``parts`` (their number),
        ``fallbacks`` (how many of them), ``has_target`` (for any), ``safe_seeds``, ``episodes``
        (of each seed), ``unsafe_share`` (of all episodes), ``mark`` (among rows on that dataset).
        """
        seeds = self.seeds.assign(safe=is_safe(self.seeds.costs) & ~self.seeds.fallback)
        groups = seeds.groupby(['dataset', 'row'], sort=False)
        scores = groups.agg(
            returns=('returns', fmean),
            costs=('costs', fmean),
            returns_std=('returns', 'std'),
            costs_std=('costs', 'std'),
            returns_values=('returns', list),
            costs_values=('costs', list),
            seeds=('seed', list),
            parts=('seed', 'size'),
            fallbacks=('fallback', 'sum'),
            has_target=('fallback', lambda fallback: not fallback.all()),
            safe_seeds=('safe', 'sum'),
            episodes=('episodes', list),
            paths=('path', list),
        )
        scores['returns_interval'] = scores.returns_values.map(mean_interval)
        scores['costs_interval'] = scores.costs_values.map(mean_interval)
        scores['unsafe_share'] = groups.above.sum() / groups.episodes.sum()
        scores['mark'] = pd.concat(
            [mark(side_by_side) for _, side_by_side in scores.groupby('dataset', sort=False)],
        )
        return scores

    @property
    def groups(self) -> dict[str, list[str]]:
        """The datasets of each of DSRL's suites of tasks."""
        groups: dict[str, list[str]] = {}
        for dataset in self.results.datasets:
            task = find_task(self.results.env_ids[dataset])
            groups.setdefault(SUITES[task.suite] if task else _OTHER_TASKS, []).append(dataset)
        return groups

    def averages(self, datasets: Sequence[str]) -> pd.DataFrame:
        """Average each row over the datasets that it was run on; only complete rows can be best.

        Columns: ``returns``, ``costs``, ``parts`` (the datasets), ``fallbacks`` (datasets where a
        seed has no safe target), ``has_target``, ``mark``.
        """
        scores = self.scores[self.scores.index.isin(datasets, level='dataset')]
        averages = (
            scores.assign(fallback=scores.fallbacks > 0)
            .groupby('row', sort=False)
            .agg(
                returns=('returns', fmean),
                costs=('costs', fmean),
                parts=('costs', 'size'),
                fallbacks=('fallback', 'sum'),
                has_target=('has_target', 'any'),
            )
        )
        return averages.assign(mark=mark(averages, averages.parts == len(datasets)))


def make_boards(results: Results) -> list[Board]:
    """Return a board for each checkpoint and cost limit, the last checkpoint first."""
    seeds = score_seeds(results)
    return [
        Board(results, *at, seeds[(seeds.checkpoint == at[0]) & (seeds.cost_limit == at[1])])
        for at in results.settings
    ]


# -- over tasks and seeds -------------------------------------------------------------------------

# One array for each task, seeds along the last axis; the statistic is taken for each of the rest.
TaskStatistic = Callable[[Sequence[np.ndarray]], np.ndarray]


def mean_of_tasks(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over tasks of their means over seeds."""
    return np.mean([np.mean(task, axis=-1) for task in tasks], axis=0)


def median_of_tasks(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median over tasks of their means over seeds."""
    return np.median([np.mean(task, axis=-1) for task in tasks], axis=0)


def interquartile_mean(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of all seeds of all tasks without a quarter, rounded down, at each end."""
    pooled = np.sort(np.concatenate(list(tasks), axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)


STATISTICS: dict[str, TaskStatistic] = {
    'mean': mean_of_tasks,
    'median': median_of_tasks,
    'IQM': interquartile_mean,
}


def bootstrap_intervals(
    tasks: Sequence[Sequence[float]],
    statistics: Sequence[TaskStatistic],
) -> list[Interval] | None:
    """Return 95 % percentile intervals of statistics, by a bootstrap stratified over tasks.

    Each repetition draws, for each task on its own, as many seeds as it has, with replacement. The
    tasks stay: the interval is about other seeds, not other tasks. The same values give the same
    interval.

    Args:
        tasks (Sequence[Sequence[float]]): The values of each task's seeds.
        statistics (Sequence[TaskStatistic]): All of them see the same draws.

    Returns:
        The ends of each, or None if no task has more than one seed.
    """
    if all(len(task) < 2 for task in tasks):
        return None
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = [
        np.asarray(task)[generator.integers(len(task), size=(REPETITIONS, len(task)))]
        for task in tasks
    ]
    return [tuple(np.percentile(each(drawn), _PERCENTILES)) for each in statistics]
