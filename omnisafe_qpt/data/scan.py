# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a dataset, sound or not: what its arrays span, and its episodes.

Memory does not grow with the observations, and nothing here raises an error about the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from omnisafe_qpt.data.files import block_bytes, is_gap, is_shuffled, row_blocks
from omnisafe_qpt.data.trajectories import Frontier


# How an episode ends: by a flag, by a jump to another state without one, at the file's end.
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
        """(E,) bool, whether both return and cost are numbers."""
        return np.isfinite(self.returns) & np.isfinite(self.costs)

    @cached_property
    def frontier(self) -> Frontier | None:
        """The reward frontier over the finite episodes, None if there are none."""
        if not self.is_finite.any():
            return None
        return Frontier.of(self.returns[self.is_finite], self.costs[self.is_finite])

    def locate(self, transition: int) -> str:
        """Say where a transition is, for messages."""
        episode = int(np.searchsorted(self.starts, transition, side='right')) - 1
        return (
            f'transition {transition} (episode {episode}, step {transition - self.starts[episode]})'
        )


@dataclass(frozen=True)
class LimitRow:
    """What a dataset offers within a cost limit.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        episodes (int): Episodes that cost at most that.
        share (float): Their share of all.
        target_return (float): The frontier's return: the highest within the limit, or where no
            episode is, that of the cheapest.
        normalized (float, optional): That return on DSRL's scale, None for an unknown task.
    """

    cost_limit: float
    episodes: int
    share: float
    target_return: float
    normalized: float | None


@dataclass(frozen=True)
class ValueRange:
    """What the D columns of an array span; NaN, infinity and what float32 cannot hold left out.

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
        # Both are finite only if every value is; so most blocks need no closer look.
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
        """The columns that hold one value only."""
        return np.flatnonzero(self.low == self.high).tolist()


@dataclass(frozen=True)
class Columns:
    """The arrays of one number for each of N transitions, which are small enough to keep.

    ``timeouts`` is None in OmniSafe's npz; flags that are no number count as not set.
    """

    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None
    bad_flags: dict[str, int]

    @classmethod
    def read(cls, arrays: Mapping[str, Any]) -> Columns:
        """Read them from the file's arrays."""
        flags = {
            key: np.asarray(arrays[key][:]).reshape(-1)
            for key in ('terminals', 'timeouts')
            if key in arrays
        }
        return cls(
            rewards=_as_float32(arrays['rewards'][:]).reshape(-1),
            costs=_as_float32(arrays['costs'][:]).reshape(-1),
            terminals=flags['terminals'] > 0,
            timeouts=flags['timeouts'] > 0 if 'timeouts' in flags else None,
            bad_flags={key: int((~np.isfinite(value)).sum()) for key, value in flags.items()},
        )

    @property
    def marked(self) -> np.ndarray:
        """(N,) bool, whether a flag says that an episode ends."""
        return self.terminals if self.timeouts is None else self.terminals | self.timeouts


@dataclass
class Scan:
    """What one pass over the large arrays finds.

    Args:
        ranges (dict[str, ValueRange]): What each array spans.
        gaps (np.ndarray): (N,) bool, whether the next observation is not the following one.
        joined (np.ndarray): (N,) bool, whether it is; neither where a number is missing.
        keys (np.ndarray): (N,) uint64, equal for equal transitions.
        wild_actions (np.ndarray): (N,) bool, whether an action is outside [-1, 1].
    """

    ranges: dict[str, ValueRange]
    gaps: np.ndarray
    joined: np.ndarray
    keys: np.ndarray
    wild_actions: np.ndarray

    @classmethod
    def empty(cls, total: int) -> Scan:
        """Return what is known of ``total`` transitions before any is seen."""
        return cls(
            ranges={},
            gaps=np.zeros(total, dtype=bool),
            joined=np.zeros(total, dtype=bool),
            keys=np.zeros(total, dtype=np.uint64),
            wild_actions=np.zeros(total, dtype=bool),
        )

    @staticmethod
    def block_bytes(arrays: Mapping[str, Any]) -> int:
        """Return how much memory :meth:`read` takes at most for a block of the file's arrays."""
        return block_bytes(arrays, _BLOCK_ROWS)

    def read(
        self,
        arrays: Mapping[str, Any],
        columns: Columns,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Go over the file's arrays block by block."""
        for first, last in row_blocks(arrays['observations'], _BLOCK_ROWS):
            block = {
                name: _as_float32(arrays[name][first:last])
                for name in ('observations', 'next_observations', 'actions')
            }
            block['rewards'] = columns.rewards[first:last]
            block['costs'] = columns.costs[first:last]
            self.add(first, block)
            if on_progress is not None:
                on_progress(last, len(columns.rewards))

    def episode_keys(self, episodes: EpisodeTable) -> np.ndarray:
        """Return a number for each episode, (E,) uint64, equal for equal episodes."""
        steps = np.arange(len(self.keys)) - np.repeat(episodes.starts, episodes.lengths)
        keys = _mix(self.keys + _mix(steps.astype(np.uint64)))
        return np.add.reduceat(keys, episodes.starts)

    def add(self, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Add the next rows.

        Args:
            first (int): Number of the first of them.
            block (Mapping[str, np.ndarray]): The arrays' rows, float32.
        """
        last = first + len(block['actions'])
        block = {name: values.reshape(last - first, -1) for name, values in block.items()}
        carried = self._carried if first else block['next_observations'][:0]
        self._carried = block['next_observations'][-1:].copy()  # a view would keep the block
        for name, values in block.items():
            span = ValueRange.of(values)
            self.ranges[name] = self.ranges[name].join(span, first) if first else span
        with np.errstate(invalid='ignore'):
            self.wild_actions[first:last] = (np.abs(block['actions']) > 1 + _ACTION_TOLERANCE).any(
                axis=1
            )
        # Of the transition before the block, if there is one, and of all in it but the last.
        reached = np.concatenate([carried, block['next_observations'][:-1]])
        compared = slice(last - 1 - len(reached), last - 1)
        self.gaps[compared], self.joined[compared] = _compare(
            reached,
            block['observations'][last - first - len(reached) :],
        )
        told_apart_by = ('observations', 'actions', 'rewards', 'costs')
        self.keys[first:last] = _row_keys([block[name] for name in told_apart_by])


def _as_float32(values: Any) -> np.ndarray:
    """Return values as training sees them; what float32 cannot hold becomes infinite."""
    with np.errstate(over='ignore'):
        return np.asarray(values).astype(np.float32, copy=False)


def _compare(reached: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows differ and which agree, as training does; neither where one is NaN."""
    differs = np.flatnonzero((reached != following).any(axis=1))  # few, so that the rest is cheap
    gaps = np.zeros(len(reached), dtype=bool)
    with np.errstate(invalid='ignore'):
        gaps[differs] = is_gap(reached[differs], following[differs])
    joined = ~gaps
    if not np.isfinite(following).all():
        joined &= np.isfinite(following).all(axis=1)
    joined[differs] &= np.isfinite(reached[differs]).all(axis=1)
    return gaps, joined


def _row_keys(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return a number for each row of arrays side by side, float32 -> (N,) uint64."""
    keys = np.zeros(len(parts[0]), dtype=np.uint64)
    generator = np.random.default_rng(0)
    for part in parts:
        weights = generator.integers(1, 1 << 63, part.shape[1], dtype=np.uint64)
        bits = np.ascontiguousarray(part).view(np.uint32).astype(np.uint64)
        keys += bits @ (2 * weights + 1)  # equal rows give equal sums
    return keys


def _mix(keys: np.ndarray) -> np.ndarray:
    """Scatter numbers over all 64 bits, so that their sums tell different sets apart."""
    # The finaliser of SplitMix64.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def cut_episodes(columns: Columns, scan: Scan, horizon: int | None) -> EpisodeTable:
    """Cut the transitions into episodes where training would.

    Where the transitions are in no order, jumps say nothing, and the flags alone count.
    """
    marked = columns.marked
    is_end = marked.copy() if is_shuffled(marked, scan.gaps) else marked | scan.gaps
    is_end[-1] = True
    ends = np.flatnonzero(is_end)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    terminal = columns.terminals[ends]
    if columns.timeouts is None and horizon is not None:
        terminal = terminal & (lengths < horizon)
    kinds = [terminal, marked[ends], ends < len(marked) - 1]
    return EpisodeTable(
        starts=starts,
        lengths=lengths,
        returns=np.add.reduceat(columns.rewards, starts, dtype=np.float64),
        costs=np.add.reduceat(columns.costs, starts, dtype=np.float64),
        ends=np.select(kinds, ENDS[:3], default=ENDS[3]),
    )
