# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of observations, returns, rewards and costs to the networks' units and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import SequenceBatch


# Added to standard deviations, so that a nearly constant dimension is not amplified.
_STD_FLOOR = 1e-3
# Value of a whole episode with the best return, in units of the reward critics. Values are then of
# order one, and gradients neither vanish nor need clipping.
_CRITIC_RETURN = 10.0


class PolicyInputs(NamedTuple):
    """Inputs of the policy for B windows, in the networks' units; padding is on the left.

    Args:
        states (torch.Tensor): (B, K, S).
        actions (torch.Tensor): (B, K, A); the last one is not used.
        return_to_go (torch.Tensor): (B, K).
        cost_to_go (torch.Tensor): (B, K).
        timesteps (torch.Tensor): (B, K) int64, step within the episode.
        mask (torch.Tensor): (B, K) bool, False in padding.
    """

    states: torch.Tensor
    actions: torch.Tensor
    return_to_go: torch.Tensor
    cost_to_go: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor


class Scaling(nn.Module):
    """Scales computed from a dataset, kept in the checkpoint beside the weights.

    Args:
        obs_mean (torch.Tensor): (S,) mean of the observations.
        obs_std (torch.Tensor): (S,) standard deviation of the observations.
        max_abs_return (float): Largest absolute return of an episode.
        cost_unit (float): Cost that is scaled to 1, as a token and for the cost critics; the cost
            limit of training is a good choice.
        mean_abs_return (float): Mean absolute return of an episode.
        mean_cost (float): Mean cost of an episode.
        mean_length (float): Mean steps of an episode. Only training uses these three means, to
            normalise the penalties of Eq. 8; they are not in the checkpoint. Train with
            :meth:`from_data`, which sets them.
    """

    obs_mean: torch.Tensor
    obs_std: torch.Tensor
    return_unit: torch.Tensor
    cost_unit: torch.Tensor

    def __init__(
        self,
        obs_mean: torch.Tensor,
        obs_std: torch.Tensor,
        max_abs_return: float = 1.0,
        cost_unit: float = 1.0,
        mean_abs_return: float = 0.0,
        mean_cost: float = 0.0,
        mean_length: float = 1.0,
    ) -> None:
        """Initialize an instance of :class:`Scaling`."""
        super().__init__()
        self.register_buffer('obs_mean', obs_mean.float())
        self.register_buffer('obs_std', obs_std.float() + _STD_FLOOR)
        # All-zero returns or costs keep their unit: there is no scale.
        self.register_buffer('return_unit', torch.tensor(max_abs_return or 1.0))
        self.register_buffer('cost_unit', torch.tensor(cost_unit or 1.0))
        self._mean_totals = mean_abs_return, mean_cost
        self.mean_length = mean_length

    @classmethod
    def from_data(cls, trajectories: Trajectories, cost_unit: float) -> Scaling:
        """Compute the scales from a dataset.

        Args:
            trajectories (Trajectories): The dataset.
            cost_unit (float): Cost that is scaled to 1.
        """
        returns = trajectories.returns.abs()
        return cls(
            *trajectories.observation_statistics(),
            max_abs_return=returns.max().item(),
            cost_unit=cost_unit,
            mean_abs_return=returns.mean().item(),
            mean_cost=trajectories.cost_returns.mean().item(),
            mean_length=trajectories.rows.lengths.float().mean().item(),
        )

    def mean_totals(self) -> torch.Tensor:
        """Return an episode's mean absolute return and mean cost in the critics' units, (2,)."""
        mean_return, mean_cost = (torch.full_like(self.cost_unit, x) for x in self._mean_totals)
        return torch.stack([self.critic_reward(mean_return), self.critic_cost(mean_cost)])

    def policy_inputs(self, batch: SequenceBatch) -> PolicyInputs:
        """Scale windows in raw units for the policy."""
        return PolicyInputs(
            self.observation(batch.states),
            batch.actions,
            self.return_token(batch.return_to_go),
            self.cost_token(batch.cost_to_go),
            batch.timesteps,
            batch.mask,
        )

    def observation(self, states: torch.Tensor) -> torch.Tensor:
        """Standardise states, (..., S)."""
        return (states - self.obs_mean) / self.obs_std

    def return_token(self, return_to_go: torch.Tensor) -> torch.Tensor:
        """Scale a return-to-go for the policy."""
        return return_to_go / self.return_unit

    def cost_token(self, cost_to_go: torch.Tensor) -> torch.Tensor:
        """Scale a cost-to-go for the policy."""
        return cost_to_go / self.cost_unit

    def critic_reward(self, reward: torch.Tensor) -> torch.Tensor:
        """Scale rewards for the reward critics."""
        return reward * (_CRITIC_RETURN / self.return_unit)

    def critic_cost(self, cost: torch.Tensor) -> torch.Tensor:
        """Scale costs for the cost critics."""
        return cost / self.cost_unit

    def reward_value(self, critic_value: torch.Tensor) -> torch.Tensor:
        """Convert a reward critic's value to reward, the inverse of :meth:`critic_reward`."""
        return critic_value * (self.return_unit / _CRITIC_RETURN)

    def cost_value(self, critic_value: torch.Tensor) -> torch.Tensor:
        """Convert a cost critic's value to cost, the inverse of :meth:`critic_cost`."""
        return critic_value * self.cost_unit
