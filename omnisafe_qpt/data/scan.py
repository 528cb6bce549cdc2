# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a dataset, valid or not: ranges of its arrays, and its episodes.

Memory does not grow with the observations, and nothing here raises an error about the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from omnisafe_qpt.data.arrays import (
    as_float32,
    block_bytes,
    episode_bounds,
    is_gap,
    number_blocks,
    too_many_gaps,
)
from omnisafe_qpt.data.frontier import Frontier
from omnisafe_qpt.data.tasks import Task
from omnisafe_qpt.scores import normalized_return


# How an episode ends: by a flag, at a gap between states without a flag, at the file's end.
ENDS = ('terminal', 'time limit', 'gap', 'cut')

# Rows read at a time.
_BLOCK_ROWS = 1 << 15
# Saturated actions exceed 1 by rounding.
_ACTION_TOLERANCE = 1e-5


@dataclass(frozen=True)
class EpisodeTable:
    """One row for each of E episodes, in the file's order.

    Args:
        starts (np.ndarray): (E,) int64, first transition.
        lengths (np.ndarray): (E,) int64, number of transitions.
        returns (np.ndarray): (E,) float64, undiscounted reward; not finite where a reward is not.
        costs (np.ndarray): (E,) float64, undiscounted cost; likewise.
        ends (np.ndarray): (E,) text, one of :data:`ENDS`.
    """

    starts: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    costs: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.starts)

    @cached_property
    def is_finite(self) -> np.ndarray:
        """(E,) bool, whether both return and cost are finite."""
        return np.isfinite(self.returns) & np.isfinite(self.costs)

    @cached_property
    def frontier(self) -> Frontier | None:
        """The reward frontier over the finite episodes, None if there are none."""
        if not self.is_finite.any():
            return None
        return Frontier.of(self.returns[self.is_finite], self.costs[self.is_finite])

    def locate(self, transition: int) -> str:
        """Return the place of a transition as text, for messages."""
        episode = int(np.searchsorted(self.starts, transition, side='right')) - 1
        return (
            f'transition {transition} (episode {episode}, step {transition - self.starts[episode]})'
        )


@dataclass(frozen=True)
class LimitRow:
    """Statistics of a dataset within a cost limit.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        episodes (int): Episodes that cost at most that.
        share (float): Their share of all.
        target_return (float): The frontier's return: the highest within the limit, or that of the
            cheapest episode if none is within.
        normalized (float, optional): That return on DSRL's scale, None for an unknown task.
    """

    cost_limit: float
    episodes: int
    share: float
    target_return: float
    normalized: float | None

    @classmethod
    def of(cls, limit: float, episodes: EpisodeTable, task: Task | None) -> LimitRow:
        """Return the statistics of these episodes."""
        within = int((episodes.costs <= limit).sum())
        target = episodes.frontier.target_return(limit) if episodes.frontier else math.nan
        scale = None if task is None else (task.min_return, task.max_return)
        normalized = None if scale is None else normalized_return(target, *scale)
        return cls(float(limit), within, within / len(episodes), target, normalized)


@dataclass(frozen=True)
class ValueRange:
    """Ranges of the D columns of an array, without NaN, infinity and values beyond float32.

    Args:
        low (np.ndarray): (D,) float32, lowest values, infinite where a column holds no number.
        high (np.ndarray): (D,) float32, highest values, likewise.
        non_finite (int): Rows with a value that is no finite number.
        first_non_finite (tuple[int, int], optional): Row and column of the first such value.
    """

    low: np.ndarray
    high: np.ndarray
    non_finite: int = 0
    first_non_finite: tuple[int, int] | None = None

    @classmethod
    def of(cls, block: np.ndarray) -> ValueRange:
        """Return the range of a block of rows, (N, D) float32."""
        low, high = block.min(axis=0), block.max(axis=0)
        # Both are finite only if every value is, so most blocks need no further check.
        if np.isfinite(low).all() and np.isfinite(high).all():
            return cls(low, high)
        finite = np.isfinite(block)
        rows = np.flatnonzero(~finite.all(axis=1))
        return cls(
            low=np.where(finite, block, np.inf).min(axis=0),
            high=np.where(finite, block, -np.inf).max(axis=0),
            non_finite=len(rows),
            first_non_finite=(int(rows[0]), int(np.argmin(finite[rows[0]]))),
        )

    def join(self, other: ValueRange, first: int) -> ValueRange:
        """Return the range of these rows and of ``other``, a block that begins at row ``first``."""
        found = self.first_non_finite
        if found is None and other.first_non_finite is not None:
            found = (other.first_non_finite[0] + first, other.first_non_finite[1])
        return ValueRange(
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            non_finite=self.non_finite + other.non_finite,
            first_non_finite=found,
        )

    @property
    def constant(self) -> list[int]:
        """The constant columns."""
        return np.flatnonzero(self.low == self.high).tolist()


class Inspector:
    """Collects statistics of a dataset while it is read: ranges, gaps, episodes.

    Args:
        task (Task, optional): The DSRL task, None if it is none or unknown.
        horizon (int, optional): The time limit in steps, if it is known.
        cost_limits (Sequence[float]): Undiscounted costs of an episode.
        declares_own_unit (bool, optional): Whether the file declares actions in the environment's
            own unit. Defaults to False.

    Attributes:
        rewards, costs (np.ndarray): (N,) float32.
        terminals, timeouts (np.ndarray): (N,) bool; what is no number is not set. Without
            ``timeouts``, which are None then, one flag stands for both kinds of end.
        marked (np.ndarray): (N,) bool, whether a flag says that an episode ends.
        bad_flags (dict[str, int]): Number of invalid flags in an array.
        ranges (dict[str, ValueRange]): Range of each array.
        gaps (np.ndarray): (N,) bool, whether the next observation is not the following one.
        joined (np.ndarray): (N,) bool, whether it is; neither where a number is missing.
        wild_actions (np.ndarray): (N,) bool, whether an action is outside [-1, 1].
    """

    def __init__(
        self,
        task: Task | None,
        horizon: int | None,
        cost_limits: Sequence[float],
        declares_own_unit: bool = False,
    ) -> None:
        """Initialize an instance of :class:`Inspector`."""
        self.task, self.horizon, self._cost_limits = task, horizon, cost_limits
        self.declares_own_unit = declares_own_unit

    def begin(self, arrays: Mapping[str, Any]) -> None:
        """Record the arrays, whose shapes match."""
        self.rewards, self.costs = (
            as_float32(arrays[name][:]).reshape(-1) for name in ('rewards', 'costs')
        )
        flags = {
            name: np.asarray(arrays[name][:]).reshape(-1)
            for name in ('terminals', 'timeouts')
            if name in arrays
        }
        self.bad_flags = {name: int((~np.isfinite(each)).sum()) for name, each in flags.items()}
        self.terminals = flags['terminals'] > 0
        self.timeouts = flags['timeouts'] > 0 if 'timeouts' in flags else None
        self.marked = self.terminals if self.timeouts is None else self.terminals | self.timeouts
        self.ranges: dict[str, ValueRange] = {}
        self.gaps, self.joined, self.wild_actions = np.zeros((3, len(self.rewards)), dtype=bool)
        self._keys = np.zeros(len(self.rewards), dtype=np.uint64)

    def read(
        self,
        arrays: Mapping[str, Any],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Go over the file's arrays block by block."""
        self.begin(arrays)
        for first, last, block in number_blocks(arrays, _BLOCK_ROWS):
            self.add(first, block)
            if on_progress is not None:
                on_progress(last, len(self.rewards))

    def add(self, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Record consecutive rows from ``first`` on, float32."""
        last = first + len(block['actions'])
        block = {name: values.reshape(last - first, -1) for name, values in block.items()}
        carried = self._carried if first else block['next_observations'][:0]
        # A view would keep the block.
        self._carried: np.ndarray = block['next_observations'][-1:].copy()
        for name, values in block.items():
            span = ValueRange.of(values)
            self.ranges[name] = self.ranges[name].join(span, first) if first else span
        with np.errstate(invalid='ignore'):
            is_wild = np.abs(block['actions']) > 1 + _ACTION_TOLERANCE
        self.wild_actions[first:last] = is_wild.any(axis=1)
        # For the transition before the block, if there is one, and all in it except the last.
        reached = np.concatenate([carried, block['next_observations'][:-1]])
        compared = slice(last - 1 - len(reached), last - 1)
        self.gaps[compared], self.joined[compared] = _compare(
            reached,
            block['observations'][last - first - len(reached) :],
        )
        told_apart_by = ('observations', 'actions', 'rewards', 'costs')
        self._keys[first:last] = _row_keys([block[name] for name in told_apart_by])

    @cached_property
    def unmarked_gaps(self) -> np.ndarray:
        """(N,) bool, gaps without an end flag."""
        return self.gaps & ~self.marked

    @cached_property
    def is_shuffled(self) -> bool:
        """Whether training refuses the order of the transitions."""
        return too_many_gaps(int(self.unmarked_gaps.sum()), len(self.gaps))

    @cached_property
    def episodes(self) -> EpisodeTable:
        """The episodes, cut where training would.

        If the transitions are not in order, gaps have no meaning, and only the flags count.
        """
        starts, ends = episode_bounds(self.marked if self.is_shuffled else self.marked | self.gaps)
        lengths = ends + 1 - starts
        terminal = self.terminals[ends]
        if self.timeouts is None and self.horizon is not None:
            terminal = terminal & (lengths < self.horizon)
        kinds = [terminal, self.marked[ends], ends < len(self.marked) - 1]
        return EpisodeTable(
            starts=starts,
            lengths=lengths,
            returns=np.add.reduceat(self.rewards, starts, dtype=np.float64),
            costs=np.add.reduceat(self.costs, starts, dtype=np.float64),
            ends=np.select(kinds, ENDS[:3], default=ENDS[3]),
        )

    @cached_property
    def limits(self) -> list[LimitRow]:
        """Statistics within each cost limit."""
        return [LimitRow.of(limit, self.episodes, self.task) for limit in self._cost_limits]

    def episode_keys(self) -> np.ndarray:
        """Return a hash of each episode, (E,) uint64, equal for equal episodes."""
        starts, lengths = self.episodes.starts, self.episodes.lengths
        steps = np.arange(len(self._keys)) - np.repeat(starts, lengths)
        return np.add.reduceat(_mix(self._keys + _mix(steps.astype(np.uint64))), starts)

    def first(self, rows: np.ndarray) -> str:
        """Return how often (N,) bool is true, and the first place, as text."""
        found = np.flatnonzero(rows)
        return f'{len(found)}, first: {self.episodes.locate(int(found[0]))}'


def scan_bytes(arrays: Mapping[str, Any]) -> int:
    """Return an upper bound of :meth:`Inspector.read`'s memory for a block of the arrays."""
    return block_bytes(arrays, _BLOCK_ROWS)


def _compare(reached: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows differ and which agree, as in training; neither where one is NaN."""
    # Few rows differ, so the exact comparison of these is cheap.
    differs = np.flatnonzero((reached != following).any(axis=1))
    gaps = np.zeros(len(reached), dtype=bool)
    gaps[differs] = is_gap(reached[differs], following[differs])
    joined = ~gaps
    if not np.isfinite(following).all():
        joined &= np.isfinite(following).all(axis=1)
    joined[differs] &= np.isfinite(reached[differs]).all(axis=1)
    return gaps, joined


def _row_keys(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return a hash of each row of concatenated arrays, float32 -> (N,) uint64."""
    keys = np.zeros(len(parts[0]), dtype=np.uint64)
    generator = np.random.default_rng(0)
    for part in parts:
        weights = generator.integers(1, 1 << 63, part.shape[1], dtype=np.uint64)
        bits = np.ascontiguousarray(part).view(np.uint32).astype(np.uint64)
        keys += bits @ (2 * weights + 1)  # equal rows give equal sums
    return keys


def _mix(keys: np.ndarray) -> np.ndarray:
    """Mix numbers over all 64 bits, so that sums of different sets differ."""
    # The finaliser of SplitMix64.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
