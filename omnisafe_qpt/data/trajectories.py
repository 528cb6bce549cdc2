# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes as flat tensors: cutting, validating and to-go sums."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from omnisafe_qpt.data.arrays import (
    as_flags,
    block_bytes,
    check_finite,
    check_marked,
    check_order,
    check_shapes,
    is_gap,
    number_blocks,
)
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.frontier import Frontier
from omnisafe_qpt.data.layouts import ROW_BYTES, ReadOptions
from omnisafe_qpt.data.memory import check_memory


# Rows per block, so that a dataset is never in memory twice: for statistics of the table, and for
# reading a file, where a block should stay in the CPU's cache.
_BLOCK_ROWS = 1 << 16
_READ_ROWS = 1 << 14


class Observer(Protocol):
    """Interface: receives the blocks of a dataset while it is loaded, so that it is read once."""

    def begin(self, arrays: Mapping[str, Any]) -> None:
        """Record the arrays, whose shapes match."""

    def add(self, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Record consecutive rows from ``first`` on, float32."""


@dataclass(frozen=True)
class EpisodeRows:
    """Episodes to draw windows from, as references into the flat tensors; E rows.

    A relabelled episode is one more row: no state or action is copied.

    Args:
        starts (torch.Tensor): (E,) int64, first row of the episode in the table.
        lengths (torch.Tensor): (E,) int64, number of transitions L; the episode has L + 1 states.
        terminal (torch.Tensor): (E,) bool, whether the last state is terminal.
        return_shift (torch.Tensor): (E,) added to every return-to-go, Eq. 12.
        cost_shift (torch.Tensor): (E,) added to every cost-to-go, Eq. 12.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    terminal: torch.Tensor
    return_shift: torch.Tensor
    cost_shift: torch.Tensor

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.starts)

    def select(self, index: torch.Tensor | slice) -> EpisodeRows:
        """Return the rows at ``index``, (I,) int64, (E,) bool or a slice."""
        return EpisodeRows(**{name: value[index] for name, value in vars(self).items()})

    def append(self, other: EpisodeRows) -> EpisodeRows:
        """Return these rows followed by those of ``other``."""
        joined = zip(vars(self).items(), vars(other).values())
        return EpisodeRows(**{name: torch.cat([mine, theirs]) for (name, mine), theirs in joined})


@dataclass(frozen=True)
class Trajectories:
    """Whole episodes in one table, in order.

    An episode of L transitions has L + 1 rows: states s_0..s_L, and in the first L rows the action,
    reward and cost taken there. In the last row these are zero, as are its to-go sums. One matrix
    holds it all, so that a batch of windows is a single gather.

    Args:
        table (torch.Tensor): (N + E, S + A + 4) float32; columns are the state, action, reward,
            cost, return-to-go and cost-to-go.
        rows (EpisodeRows): The E episodes.
        obs_dim (int): S.
        act_dim (int): A.
        name (str): Source of the data, for messages.
        notes (tuple[str, ...]): Notes on how the data was read, a line each.
    """

    table: torch.Tensor
    rows: EpisodeRows
    obs_dim: int
    act_dim: int
    name: str = 'dataset'
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        horizon: int | None = None,
        observer: Observer | None = None,
    ) -> Trajectories:
        """Read a dataset file.

        Args:
            path (str or os.PathLike): An HDF5 or npz file; see :mod:`omnisafe_qpt.data.layouts`.
            horizon (int, optional): The task's time limit in steps. Needed to tell time limits
                from terminal states where one flag marks both. Defaults to None.
            observer (Observer, optional): Receives the blocks. Defaults to None.

        Raises:
            UserError: If the file cannot be read or is not a valid dataset; see
                :meth:`from_arrays`.
        """
        with open_dataset(path, ReadOptions(horizon=horizon)) as arrays:
            loaded = cls.from_arrays(arrays, horizon=horizon, name=str(path), observer=observer)
            return replace(loaded, notes=arrays.notes)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        horizon: int | None = None,
        name: str = 'dataset',
        observer: Observer | None = None,
    ) -> Trajectories:
        """Build trajectories from arrays under DSRL's names.

        An episode ends where ``terminals`` or ``timeouts`` is set, where the next observation is
        not the following observation, and at the last transition; the latter two count as time
        limits. Without ``timeouts``, a terminal flag at the horizon is a time limit.

        Args:
            arrays (Mapping): ``observations`` and ``next_observations`` (N, S), ``actions``
                (N, A), ``rewards``, ``costs``, ``terminals`` and optionally ``timeouts`` (N,) or
                (N, 1).
            horizon (int, optional): The task's time limit in steps. Defaults to None.
            name (str, optional): Named in errors. Defaults to ``'dataset'``.
            observer (Observer, optional): Receives the blocks. Defaults to None.

        Raises:
            UserError: If shapes disagree, they take more memory than is free, a number is not
                finite, no episode end is marked, or next observations do not match.
        """
        total, obs_dim, act_dim = check_shapes(arrays, name)
        row_bytes = 4 * (obs_dim + act_dim + 4) + ROW_BYTES
        check_memory(name, total * row_bytes + block_bytes(arrays, _READ_ROWS))
        if observer is not None:
            observer.begin(arrays)
        flags = {
            key: as_flags(arrays[key][:], key, name)
            for key in ('terminals', 'timeouts')
            if key in arrays
        }
        terminals, has_timeouts = flags['terminals'], 'timeouts' in flags
        marked = terminals | flags['timeouts'] if has_timeouts else terminals.copy()
        check_marked(marked, name)
        marked[-1] = True
        table, starts = _read_table(arrays, marked, name, observer)
        lengths = np.diff(starts, append=total)
        terminal = terminals[starts + lengths - 1]
        if not has_timeouts and horizon is not None:
            terminal &= lengths < horizon

        first_rows = starts + np.arange(len(starts))
        table[:, -2:] = _sums_to_go(table[:, -4:-2], first_rows, lengths)
        zeros = torch.zeros(len(starts))
        return cls(
            table=torch.from_numpy(table),
            rows=EpisodeRows(
                starts=torch.from_numpy(first_rows),
                lengths=torch.from_numpy(lengths),
                terminal=torch.from_numpy(terminal),
                return_shift=zeros,
                cost_shift=zeros.clone(),
            ),
            obs_dim=obs_dim,
            act_dim=act_dim,
            name=name,
        )

    def to(self, device: torch.device | str) -> Trajectories:
        """Return the same trajectories with every tensor on ``device``."""
        rows = EpisodeRows(**{name: value.to(device) for name, value in vars(self.rows).items()})
        return replace(self, table=self.table.to(device), rows=rows)

    def select(self, index: torch.Tensor) -> Trajectories:
        """Return trajectories with only the episodes at ``index``; the table is shared."""
        return replace(self, rows=self.rows.select(index))

    @property
    def num_transitions(self) -> int:
        """Number of transitions over all episodes."""
        return int(self.rows.lengths.sum())

    @cached_property
    def returns(self) -> torch.Tensor:
        """(E,) undiscounted reward of each episode."""
        return self.table[self.rows.starts, -2]

    @cached_property
    def cost_returns(self) -> torch.Tensor:
        """(E,) undiscounted cost of each episode."""
        return self.table[self.rows.starts, -1]

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the returns and costs of the episodes, (E,) float64 each."""
        returns, costs = (sums.double().cpu().numpy() for sums in (self.returns, self.cost_returns))
        return returns, costs

    @cached_property
    def frontier(self) -> Frontier:
        """The reward frontier over all episodes."""
        return Frontier.of(*self.totals())

    def observation_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the observations, (S,) each, float32.

        Computed block by block, without a second copy of the data. The sums are of differences from
        the first state, which keeps them small, and accumulate in float64.
        """
        states = self.table[:, : self.obs_dim]
        first = states[self.rows.starts[0]]
        total = torch.zeros(self.obs_dim, dtype=torch.float64, device=states.device)
        squares = torch.zeros_like(total)
        for block, used in zip(states.split(_BLOCK_ROWS), self._used_rows().split(_BLOCK_ROWS)):
            distance = (block - first).mul_(used[:, None])
            total += distance.sum(0)
            squares += distance.square_().sum(0)
        count = int((self.rows.lengths + 1).sum())
        offset = total / count
        variance = (squares / count - offset.square()).clamp_min(0.0)
        return (first + offset).float(), variance.sqrt().float()

    def _used_rows(self) -> torch.Tensor:
        """Return which rows of the table belong to these distinct episodes; bool."""
        change = torch.zeros(len(self.table) + 1, dtype=torch.int64, device=self.table.device)
        change[self.rows.starts] += 1
        change[self.rows.starts + self.rows.lengths + 1] -= 1
        return change[:-1].cumsum(0) > 0


def _read_table(
    arrays: Mapping[str, Any],
    marked: np.ndarray,
    name: str,
    observer: Observer | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read every row once, cutting episodes where flags or gaps end them.

    Args:
        arrays (Mapping): See :meth:`Trajectories.from_arrays`.
        marked (np.ndarray): (N,) bool, transitions that a flag ends, and the last one.
        name (str): Named in errors.
        observer (Observer, optional): Receives each block.

    Returns:
        The table without its to-go sums, (N + E, S + A + 4), and the first transition of each
        episode, (E,) int64.

    Raises:
        UserError: If a number is not finite, or too few transitions follow one another.
    """
    total, obs_dim = arrays['observations'].shape
    last_action = obs_dim + arrays['actions'].shape[1]
    num_ends = int(marked.sum())
    # Not np.zeros: only here does numpy request huge pages, which fill several times faster.
    table = np.empty((total + num_ends, last_action + 4), dtype=np.float32)
    is_first = np.concatenate([[True], marked[:-1]])  # of its episode
    num_episodes = num_gaps = 0  # so far
    carried = np.zeros((1, obs_dim), dtype=np.float32)
    for first, last, block in number_blocks(arrays, _READ_ROWS):
        # Here, while the block is in the CPU's cache.
        if observer is not None:
            observer.add(first, block)
        for key, values in block.items():
            # Next observations equal the following ones except where an episode ends.
            if key != 'next_observations':
                check_finite(values, range(first, last), key, name)
        breaks, reached, is_new = _breaks(block, carried, is_first[first:last], first, name)
        carried = block['next_observations'][-1:].copy()  # a view would keep the block
        if is_new.any():
            num_gaps += int(is_new.sum())
            check_order(num_gaps, total, name)
            is_first[first + breaks[is_new]] = True
            table.resize((total + num_ends + num_gaps, table.shape[1]), refcheck=False)
        # Each earlier episode has one additional row.
        episodes = num_episodes - 1 + np.cumsum(is_first[first:last])
        num_episodes = int(episodes[-1]) + 1
        rows = np.arange(first, last) + episodes
        table[rows, :obs_dim] = block['observations']
        table[rows, obs_dim:last_action] = block['actions']
        table[rows, -4] = block['rewards'].reshape(-1)
        table[rows, -3] = block['costs'].reshape(-1)
        final_rows = rows[breaks] - 1
        if first == 0:  # nothing ends before the first row
            final_rows, reached = final_rows[1:], reached[1:]
        table[final_rows, :obs_dim], table[final_rows, obs_dim:] = reached, 0.0
    check_finite(carried, [total - 1], 'next_observations', name)
    table[-1, :obs_dim], table[-1, obs_dim:] = carried, 0.0
    return table, np.flatnonzero(is_first)


def _breaks(
    block: Mapping[str, np.ndarray],
    carried: np.ndarray,
    is_first: np.ndarray,
    offset: int,
    name: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the rows of a block that begin an episode.

    Args:
        block (Mapping): Consecutive rows of the arrays, n of them.
        carried (np.ndarray): (1, S), next observation of the transition before the block.
        is_first (np.ndarray): (n,) bool, rows that begin an episode by a flag before them.
        offset (int): Number of the block's first transition, for errors.
        name (str): Named in errors.

    Returns:
        The rows, (b,) int64; the last state of the episode before each, (b, S); and whether only a
        gap marks it, (b,) bool.

    Raises:
        UserError: If a next observation that is not the following observation is not finite.
    """
    observations, reached = block['observations'], block['next_observations']
    differs = 1 + np.flatnonzero(reached[:-1] != observations[1:]) // observations.shape[1]
    rows = np.unique(np.concatenate([[0], np.flatnonzero(is_first), differs]))
    states = np.concatenate([carried, reached[rows[1:] - 1]])
    check_finite(states, offset + rows - 1, 'next_observations', name)
    is_new = ~is_first[rows] & is_gap(states, observations[rows])
    is_break = is_first[rows] | is_new
    return rows[is_break], states[is_break], is_new[is_break]


def _sums_to_go(values: np.ndarray, first_rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return sums of each episode's values from every row to the end, in float64; (N + E, 2)."""
    before = np.zeros((len(values) + 1, 2))
    np.cumsum(values, axis=0, dtype=np.float64, out=before[1:])
    sums = np.repeat(before[first_rows + lengths], lengths + 1, axis=0)
    sums -= before[:-1]
    return sums
