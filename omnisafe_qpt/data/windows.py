# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of K steps, gathered by index arithmetic on the device.

Shape letters, here and everywhere: B batch, K context, S observation, A action, M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.data.trajectories import EpisodeRows, Trajectories
from omnisafe_qpt.errors import UserError


@dataclass(frozen=True)
class SequenceBatch:
    """B windows of K steps, left-padded; padding holds arbitrary finite numbers.

    A window ends at step e of its episode, 0 <= e <= L, and its last position is state s_e. The
    state s_L ends the episode and has no action.

    Args:
        states (torch.Tensor): (B, K, S).
        actions (torch.Tensor): (B, K, A).
        rewards (torch.Tensor): (B, K), per step.
        costs (torch.Tensor): (B, K), per step.
        return_to_go (torch.Tensor): (B, K), undiscounted, after relabelling.
        cost_to_go (torch.Tensor): (B, K), undiscounted, after relabelling.
        timesteps (torch.Tensor): (B, K) int64, step within the episode, 0 in padding.
        mask (torch.Tensor): (B, K) bool, positions that are not padding.
        action_mask (torch.Tensor): (B, K) bool, positions whose state has an action.
        terminal (torch.Tensor): (B,) bool, whether the last state is terminal.
    """

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    costs: torch.Tensor
    return_to_go: torch.Tensor
    cost_to_go: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor
    action_mask: torch.Tensor
    terminal: torch.Tensor


class WindowSampler(BatchSampler):
    """Draws batches of windows uniformly over all windows of all episodes.

    An episode of L transitions has L + 1 windows, one ending at each state, so episodes are drawn
    in proportion to their number of windows.

    Args:
        trajectories (Trajectories): The flat tensors.
        context_len (int): K.
        batch_size (int): B.
        seed (int): Seed of the draws; see :mod:`omnisafe_qpt.data.streams`.
        rows (EpisodeRows, optional): Episodes to draw from, relabelled ones included. Defaults
            to the trajectories' own.
        shard (tuple[int, int], optional): See :class:`BatchSampler`. Defaults to ``(0, 1)``, all of
            each batch.

    Raises:
        UserError: If the context or the batch is not positive, or the batch cannot be shared
            equally.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        context_len: int,
        batch_size: int,
        seed: int,
        rows: EpisodeRows | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Initialize an instance of :class:`WindowSampler`."""
        if context_len < 1:
            raise UserError(f'context_len is {context_len}; it must be at least 1')
        rows = trajectories.rows if rows is None else rows
        self._dims = trajectories.obs_dim, trajectories.act_dim
        self._offsets = torch.arange(1 - context_len, 1, device=trajectories.table.device)
        # Exclusive end of each episode in the index of all windows.
        self._window_ends = (rows.lengths + 1).cumsum(0)
        first_window = self._window_ends - rows.lengths - 1
        terminal_window = torch.where(rows.terminal, self._window_ends - 1, -1)
        # Episode data of a window, concatenated so that two gathers suffice.
        self._episodes = torch.stack(
            [first_window, rows.starts, rows.lengths, terminal_window],
            dim=1,
        )
        self._shifts = torch.stack([rows.return_shift, rows.cost_shift], dim=1)
        super().__init__(int(self._window_ends[-1]), batch_size, seed, shard, trajectories.table)

    def gather(self, number: torch.Tensor, pin_memory: bool = False) -> list[torch.Tensor]:
        """Gather windows by index into the tensors of a batch.

        Args:
            number (torch.Tensor): (B,) int64 in [0, num_items): episodes in order, and within
                one the windows ending at its states 0..L.
            pin_memory (bool, optional): Gather into page-locked memory. Defaults to False.

        Returns:
            The rows of the table with their targets relabelled, (B, K, S + A + 4), and as in
            :class:`SequenceBatch` the timesteps, the two masks and ``terminal``. Copied to another
            device, :meth:`unpack` makes the batch there.
        """
        episode = torch.searchsorted(self._window_ends, number, right=True)
        facts = self._episodes.index_select(0, episode)
        first_window, first_row, length, terminal_window = facts.unbind(1)
        step = (number - first_window)[:, None] + self._offsets  # (B, K), negative in padding
        mask = step >= 0
        timesteps = step.clamp_min(0)
        values = self._take((first_row[:, None] + timesteps).view(-1), pin_memory)
        values = values.view(*step.shape, -1)  # (B, K, S + A + 4)
        values[..., -2:] += self._shifts.index_select(0, episode)[:, None]
        action_mask = mask & (step < length[:, None])
        small = [timesteps, mask, action_mask, number == terminal_window]
        return [values, *(part.pin_memory() if pin_memory else part for part in small)]

    def unpack(self, parts: list[torch.Tensor]) -> SequenceBatch:
        """Make the batch from the result of :meth:`gather`, without copies."""
        values, timesteps, mask, action_mask, terminal = parts
        states, actions, others = values.split([*self._dims, 4], dim=-1)
        rewards, costs, return_to_go, cost_to_go = others.unbind(-1)
        return SequenceBatch(
            states=states,
            actions=actions,
            rewards=rewards,
            costs=costs,
            return_to_go=return_to_go,
            cost_to_go=cost_to_go,
            timesteps=timesteps,
            mask=mask,
            action_mask=action_mask,
            terminal=terminal,
        )
