# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Single transitions, gathered by index arithmetic on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.data.trajectories import EpisodeRows, Trajectories
from omnisafe_qpt.errors import UserError


@dataclass(frozen=True)
class TransitionBatch:
    """B transitions in raw units.

    Args:
        obs (torch.Tensor): (B, S), the state of the action.
        action (torch.Tensor): (B, A).
        reward (torch.Tensor): (B,).
        cost (torch.Tensor): (B,).
        next_obs (torch.Tensor): (B, S).
        terminal (torch.Tensor): (B,) bool, whether the next state is terminal; False at a time
            limit.
    """

    obs: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    cost: torch.Tensor
    next_obs: torch.Tensor
    terminal: torch.Tensor


class TransitionSampler(BatchSampler):
    """Draws batches of transitions uniformly over all episodes.

    Args:
        trajectories (Trajectories): The flat tensors.
        batch_size (int): B.
        seed (int): Seed of the draws; see :mod:`omnisafe_qpt.data.streams`.
        rows (EpisodeRows, optional): Episodes to draw from. Defaults to the trajectories' own.
        shard (tuple[int, int], optional): See :class:`BatchSampler`. Defaults to ``(0, 1)``, all of
            each batch.

    Raises:
        UserError: If the batch is not positive or cannot be shared equally.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        batch_size: int,
        seed: int,
        rows: EpisodeRows | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Initialize an instance of :class:`TransitionSampler`."""
        rows = trajectories.rows if rows is None else rows
        self._dims = trajectories.obs_dim, trajectories.act_dim
        # Exclusive end of each episode in the index of all transitions.
        self._ends = rows.lengths.cumsum(0)
        # Within an episode, transitions have the order of its rows in the table.
        self._row_offsets = rows.starts - (self._ends - rows.lengths)
        self._terminal_numbers = torch.where(rows.terminal, self._ends - 1, -1)
        super().__init__(int(self._ends[-1]), batch_size, seed, shard, trajectories.table)

    def gather(self, number: torch.Tensor, pin_memory: bool = False) -> list[torch.Tensor]:
        """Gather transitions by index into the tensors of a batch.

        Args:
            number (torch.Tensor): (B,) int64 in [0, num_items): episodes in order, and within
                one the steps 0..L - 1.
            pin_memory (bool, optional): Gather into page-locked memory. Defaults to False.

        Returns:
            The rows of the table at both ends of each transition, (2, B, S + A + 4), and as in
            :class:`TransitionBatch` ``terminal``. Copied to another device, :meth:`unpack` makes
            the batch there.
        """
        episode = torch.searchsorted(self._ends, number, right=True)
        row = number + self._row_offsets.index_select(0, episode)
        values = self._take(torch.cat([row, row + 1]), pin_memory)
        terminal = number == self._terminal_numbers.index_select(0, episode)
        return [values.view(2, len(row), -1), terminal.pin_memory() if pin_memory else terminal]

    def unpack(self, parts: list[torch.Tensor]) -> TransitionBatch:
        """Make the batch from the result of :meth:`gather`, without copies."""
        (here, there), terminal = parts
        obs, action, others = here.split([*self._dims, 4], dim=-1)
        return TransitionBatch(
            obs=obs,
            action=action,
            reward=others[:, 0],
            cost=others[:, 1],
            next_obs=there[:, : self._dims[0]],
            terminal=terminal,
        )


def select_safe(trajectories: Trajectories, cost_limit: float) -> Trajectories:
    """Select the episodes of cost at most ``cost_limit``; the table is shared.

    Args:
        trajectories (Trajectories): All episodes.
        cost_limit (float): Undiscounted cost of an episode.

    Raises:
        UserError: If there is none.
    """
    is_safe = trajectories.cost_returns <= cost_limit
    if not is_safe.any():
        raise UserError(
            f'{trajectories.name} has no episode within the cost limit of {cost_limit:g}; the '
            f'cheapest costs {trajectories.cost_returns.min().item():g}: give a cost_limit of at '
            'least that',
        )
    return trajectories.select(is_safe)
