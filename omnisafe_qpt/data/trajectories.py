# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Episodes as flat tensors: cutting, validating, to-go sums and the return-cost frontier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.errors import UserError


# A next observation further than this from the following observation is the end of an episode.
_GAP_TOLERANCE = 1e-3
# More unmarked gaps than this share of the transitions is a broken file, not odd episode ends.
_MAX_GAP_SHARE = 0.1
# The arrays of one number for each transition.
_COLUMNS = ('rewards', 'costs', 'terminals', 'timeouts')
# Rows read at a time, so that a dataset is never in memory twice.
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Frontier:
    """The reward frontier of a dataset: the best return that each cost bought.

    Args:
        costs (tuple[float, ...]): Episode costs, strictly increasing.
        returns (tuple[float, ...]): The highest return among episodes with at most that cost,
            strictly increasing.
    """

    costs: tuple[float, ...]
    returns: tuple[float, ...]

    @classmethod
    def of(cls, returns: np.ndarray, costs: np.ndarray) -> Frontier:
        """Compute the frontier of episodes with these returns and costs, both (E,)."""
        order = np.lexsort((-returns, costs))
        best = np.maximum.accumulate(returns[order])
        is_step = np.concatenate([[True], best[1:] > best[:-1]])
        return cls(
            costs=tuple(costs[order][is_step].tolist()),
            returns=tuple(returns[order][is_step].tolist()),
        )

    def target_return(self, cost_limit: float) -> float:
        """Return the highest return with cost at most ``cost_limit``, Eq. (11).

        Eq. (39) asks for a cost *equal* to the limit, a set that is empty for a continuous limit,
        so "at most" is meant. Where every episode costs more than the limit, the episode of
        least cost stands in.

        Args:
            cost_limit (float): Undiscounted cost of an episode.
        """
        step = int(np.searchsorted(self.costs, cost_limit, side='right')) - 1
        return self.returns[max(step, 0)]


@dataclass(frozen=True)
class EpisodeRows:
    """Episodes to draw windows from, as references into the flat tensors; E rows.

    A relabelled episode is one more row: no state or action is copied.

    Args:
        starts (torch.Tensor): (E,) int64, first row of the episode in the table.
        lengths (torch.Tensor): (E,) int64, number of transitions L; the episode has L + 1 states.
        terminal (torch.Tensor): (E,) bool, whether the last state is terminal.
        return_shift (torch.Tensor): (E,) added to every return-to-go, Eq. (12).
        cost_shift (torch.Tensor): (E,) added to every cost-to-go, Eq. (12).
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    terminal: torch.Tensor
    return_shift: torch.Tensor
    cost_shift: torch.Tensor

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.starts)

    def select(self, index: torch.Tensor) -> EpisodeRows:
        """Return the rows at ``index``, (I,) int64 or (E,) bool."""
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
        name (str): Where the data came from, for messages.
    """

    table: torch.Tensor
    rows: EpisodeRows
    obs_dim: int
    act_dim: int
    name: str = 'dataset'

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        horizon: int | None = None,
    ) -> Trajectories:
        """Read a dataset file.

        Args:
            path (str or os.PathLike): DSRL HDF5 or OmniSafe npz.
            horizon (int, optional): The task's time limit in steps. Needed to tell time limits
                from terminal states in an npz. Defaults to None.

        Raises:
            UserError: If the file cannot be read or is no sound dataset; see :meth:`from_arrays`.
        """
        with open_dataset(path) as arrays:
            return cls.from_arrays(arrays, horizon=horizon, name=str(path))

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        horizon: int | None = None,
        name: str = 'dataset',
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

        Raises:
            UserError: If shapes disagree, a number is not finite, no episode end is marked, or
                next observations do not match.
        """
        total, obs_dim, act_dim = _check_shapes(arrays, name)
        terminals = _flags(arrays, 'terminals', name)
        has_timeouts = 'timeouts' in arrays
        timeouts = _flags(arrays, 'timeouts', name) if has_timeouts else np.zeros(total, bool)
        marked = terminals | timeouts
        if not marked.any():
            raise UserError(
                f'{name}: no episode end: neither terminals nor timeouts is set anywhere; '
                'mark the last transition of each episode',
            )
        marked[-1] = True
        ends = np.flatnonzero(marked | _gaps(arrays, marked, name))
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends + 1 - starts
        terminal = terminals[ends]
        if not has_timeouts and horizon is not None:
            terminal &= lengths < horizon

        first_rows = starts + np.arange(len(starts))
        table = np.zeros((total + len(ends), obs_dim + act_dim + 4), dtype=np.float32)
        # What float32 cannot hold becomes infinite, which the check finds.
        with np.errstate(over='ignore'):
            _fill_table(table, arrays, ends, obs_dim, act_dim)
        if not np.isfinite(table).all():
            raise UserError(_describe_non_finite(table, obs_dim, act_dim, name))
        for column in (-4, -3):
            table[:, column + 2] = _sums_to_go(table[:, column], first_rows, lengths)
        zeros = torch.zeros(len(ends))
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

    @cached_property
    def frontier(self) -> Frontier:
        """The reward frontier over all episodes."""
        returns, costs = (sums.double().cpu().numpy() for sums in (self.returns, self.cost_returns))
        return Frontier.of(returns, costs)

    def observation_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the observations, (S,) each, float32.

        Block by block, so that there is no second copy of the data. The sums are of distances
        from the first state, which keeps them small, and are put together in float64.
        """
        states = self.table[:, : self.obs_dim]
        total = torch.zeros(self.obs_dim, dtype=torch.float64, device=states.device)
        squares = torch.zeros_like(total)
        for block in states.split(_BLOCK_ROWS):
            distance = block - states[0]
            total += distance.sum(0)
            squares += distance.square_().sum(0)
        offset = total / len(states)
        variance = (squares / len(states) - offset.square()).clamp_min(0.0)
        return (states[0] + offset).float(), variance.sqrt().float()


def _check_shapes(arrays: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    if arrays['observations'].shape[:1] == (0,):
        raise UserError(f'{name}: the dataset has no transitions; get it again')
    for key in ('observations', 'next_observations', 'actions'):
        if len(arrays[key].shape) != 2:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; needed is one row of numbers '
                'for each transition',
            )
    total, obs_dim = arrays['observations'].shape
    act_dim = arrays['actions'].shape[1]
    allowed = dict.fromkeys(_COLUMNS, ((total,), (total, 1)))
    allowed |= {'next_observations': ((total, obs_dim),), 'actions': ((total, act_dim),)}
    for key, shapes in allowed.items():
        if key in arrays and tuple(arrays[key].shape) not in shapes:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; needed for observations of '
                f'shape {(total, obs_dim)} is {shapes[0]}',
            )
    return total, obs_dim, act_dim


def _flags(arrays: Mapping[str, Any], key: str, name: str) -> np.ndarray:
    values = np.asarray(arrays[key][:]).reshape(-1)
    if not np.isfinite(values).all():
        raise UserError(f'{name}: {key} holds NaN or infinity; needed is 0 or 1')
    return values > 0


def _gaps(arrays: Mapping[str, Any], marked: np.ndarray, name: str) -> np.ndarray:
    """Find transitions whose next observation is not the following observation, (N,) bool."""
    total = len(marked)
    gaps = np.zeros(total, dtype=bool)
    for first in range(0, total - 1, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, total - 1)
        reached = np.asarray(arrays['next_observations'][first:last], dtype=np.float32)
        following = np.asarray(arrays['observations'][first + 1 : last + 1], dtype=np.float32)
        if np.array_equal(reached, following):
            continue
        if not np.isfinite(reached).all():
            row = first + int(np.flatnonzero(~np.isfinite(reached).all(axis=1))[0])
            raise UserError(
                f'{name}: next_observations hold NaN or infinity (first: transition {row}); remove '
                'those episodes',
            )
        scale = 1.0 + np.abs(following)
        gaps[first:last] = (np.abs(reached - following) > _GAP_TOLERANCE * scale).any(axis=1)
    unmarked = int((gaps & ~marked).sum())
    if unmarked > _MAX_GAP_SHARE * total:
        raise UserError(
            f'{name}: in {unmarked} of {total} transitions the next observation is not the '
            'following observation; transitions must be in order, whole episodes at a time',
        )
    return gaps


def _fill_table(
    table: np.ndarray,
    arrays: Mapping[str, Any],
    ends: np.ndarray,
    obs_dim: int,
    act_dim: int,
) -> None:
    """Copy the arrays into the table, leaving a row for each episode's final state."""
    total = len(table) - len(ends)
    for first in range(0, total, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, total)
        # A transition's row moves down by one for each episode that ended before it.
        rows = np.arange(first, last)
        rows = rows + np.searchsorted(ends, rows, side='left')
        table[rows, :obs_dim] = arrays['observations'][first:last]
        table[rows, obs_dim : obs_dim + act_dim] = arrays['actions'][first:last]
        table[rows, -4] = np.asarray(arrays['rewards'][first:last]).reshape(-1)
        table[rows, -3] = np.asarray(arrays['costs'][first:last]).reshape(-1)
        inside = ends[(ends >= first) & (ends < last)]
        if len(inside):
            final = np.asarray(arrays['next_observations'][first:last])[inside - first]
            table[inside + 1 + np.searchsorted(ends, inside), :obs_dim] = final


def _sums_to_go(values: np.ndarray, first_rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum each episode's values from every row to its end, in float64; values (N + E,)."""
    before = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    episode_ends = before[first_rows + lengths]
    return np.repeat(episode_ends, lengths + 1) - before[:-1]


def _describe_non_finite(table: np.ndarray, obs_dim: int, act_dim: int, name: str) -> str:
    row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(table)))
    if column < obs_dim:
        what = f'observation dimension {column}'
    elif column < obs_dim + act_dim:
        what = f'action dimension {column - obs_dim}'
    else:
        what = ('reward', 'cost')[column - obs_dim - act_dim]
    count = int((~np.isfinite(table)).any(axis=1).sum())
    return (
        f'{name}: {count} rows hold NaN or infinity (first: {what} = {table[row, column]}, '
        f'about transition {row}); remove those episodes'
    )
