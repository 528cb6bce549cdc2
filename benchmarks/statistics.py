# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of the side-by-side tables: over seeds, and over seeds and tasks together.

The aggregates are those of Agarwal et al., Deep Reinforcement Learning at the Edge of the
Statistical Precipice (2021), as its library rliable computes them: the interquartile mean over all
seeds of all tasks, and intervals from a bootstrap that draws each task's seeds anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omnisafe_qpt.scores import mean_interval


Interval = tuple[float, float]

# One array for each task, seeds along the last axis; the statistic is taken for each of the rest.
TaskStatistic = Callable[[Sequence[np.ndarray]], np.ndarray]

# The share that an interquartile mean leaves out at each end.
_TAIL = 0.25
# How often the bootstrap draws.
REPETITIONS = 10_000
_BOOTSTRAP_SEED = 0
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """What seeds say about one number.

    Args:
        values (tuple[float, ...]): One for each seed: its mean over episodes.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (of the sample, n - 1), or None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """95 % Student t interval of the mean over seeds, or None for a single seed."""
        return mean_interval(self.values)


def mean_of_tasks(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over tasks of their means over seeds."""
    return np.mean([task.mean(axis=-1) for task in tasks], axis=0)


def median_of_tasks(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median over tasks of their means over seeds."""
    return np.median([task.mean(axis=-1) for task in tasks], axis=0)


def interquartile_mean(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the middle half of all seeds of all tasks.

    A quarter of them, rounded down, is left out at each end.
    """
    pooled = np.sort(np.concatenate(list(tasks), axis=-1), axis=-1)
    cut = int(_TAIL * pooled.shape[-1])
    return pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)


def bootstrap_intervals(
    tasks: Sequence[Sequence[float]],
    wanted: Sequence[TaskStatistic],
    repetitions: int = REPETITIONS,
) -> list[Interval] | None:
    """Return 95 % percentile intervals of statistics, by a bootstrap stratified over tasks.

    Each repetition draws, for each task on its own, as many seeds as it has, with replacement. The
    tasks stay: the interval is about other seeds on these tasks, not about other tasks. The same
    values give the same interval.

    Args:
        tasks (Sequence[Sequence[float]]): The values of each task's seeds.
        wanted (Sequence[TaskStatistic]): For example :func:`interquartile_mean`; all of them
            see the same draws.
        repetitions (int, optional): How often seeds are drawn. Defaults to 10,000.

    Returns:
        The two ends of each, or None if no task has more than one seed: all draws are alike then.
    """
    if all(len(task) < 2 for task in tasks):
        return None
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = []
    for task in tasks:
        indices = generator.integers(len(task), size=(repetitions, len(task)))
        drawn.append(np.asarray(task, dtype=np.float64)[indices])
    ends = (np.percentile(statistic(drawn), _PERCENTILES) for statistic in wanted)
    return [(float(low), float(high)) for low, high in ends]
