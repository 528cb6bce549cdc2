# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""FISOR, feasibility-guided safe offline reinforcement learning."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from omnisafe_qpt.baselines.config import FISORConfig
from omnisafe_qpt.baselines.learner import BaselineLearner
from omnisafe_qpt.baselines.networks import Denoiser, Ensemble
from omnisafe_qpt.data.transitions import TransitionBatch


# Share of a half cosine that the denoiser's learning rate follows in a run.
_COSINE_SHARE = 2 / 3


def expectile_loss(difference: torch.Tensor, expectile: float) -> torch.Tensor:
    r"""Return the mean of :math:`|\tau - 1(u < 0)| u^2`, the loss of IQL.

    Args:
        difference (torch.Tensor): (B,), u.
        expectile (float): tau; near 1 the minimiser is near the largest value.
    """
    weight = torch.where(difference < 0, 1.0 - expectile, expectile)
    return (weight * difference.square()).mean()


def reversed_expectile_loss(difference: torch.Tensor, expectile: float) -> torch.Tensor:
    r"""Return the mean of :math:`|\tau - 1(u > 0)| u^2`, whose minimiser is near the smallest.

    Args:
        difference (torch.Tensor): (B,), u.
        expectile (float): tau.
    """
    return expectile_loss(-difference, expectile)


def feasibility_target(
    violation: torch.Tensor,
    terminal: torch.Tensor,
    next_value: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    r"""The feasible Bellman operator: the worst violation from here on, discounted.

    .. math:: (1 - \gamma) h(s) + \gamma \max(h(s), V_h(s'))

    At a terminal state it is h(s).

    Args:
        violation (torch.Tensor): (B,), h(s).
        terminal (torch.Tensor): (B,) bool, whether nothing comes after.
        next_value (torch.Tensor): (B,), the feasible value of the next state.
        gamma (float): Discount.
    """
    worst = torch.where(terminal, violation, torch.maximum(violation, next_value))
    return (1.0 - gamma) * violation + gamma * worst


def feasibility_weights(
    reward_advantage: torch.Tensor,
    cost_value: torch.Tensor,
    cost_state_value: torch.Tensor,
    config: FISORConfig,
) -> torch.Tensor:
    """Return weights of the data's actions for cloning.

    In a feasible state only actions that stay feasible count, weighted by their advantage. In an
    infeasible state the weight falls with the violation.

    Args:
        reward_advantage (torch.Tensor): (B,), Qr(s, a) - Vr(s).
        cost_value (torch.Tensor): (B,), Qh(s, a).
        cost_state_value (torch.Tensor): (B,), Vh(s); the state is feasible if it is not positive.
        config (FISORConfig): Temperatures and largest weights.

    Returns:
        (B,).
    """
    by_reward = (config.reward_temperature * reward_advantage).exp()
    by_cost = (config.cost_temperature * (cost_state_value - cost_value)).exp()
    return torch.where(
        cost_state_value <= 0,
        by_reward.clamp_max(config.max_reward_weight) * (cost_value <= 0),
        by_cost.clamp_max(config.max_cost_weight),
    )


class FISORLearner(BaselineLearner):
    """Learns which states are feasible, and clones the best feasible actions by diffusion.

    The feasible values are those of Hamilton-Jacobi reachability: the smallest achievable maximum
    of future violations. In feasible states the cloned policy stays feasible and maximises the
    reward value; in other states it minimises the violation.

    Departures from the authors' code: the denoiser is updated once with the whole batch, not
    twice with halves of it, and the critics see the whole batch too; weights in infeasible states
    may fall below 1, as in the paper; there is no bootstrap from a terminal state, but there is one
    at a time limit; observations are standardised.

    References:
        - Title: Safe Offline Reinforcement Learning with Feasibility-Guided Diffusion Model
        - Authors: Yinan Zheng, Jianxiong Li, Dongjie Yu, Yujie Yang, Shengbo Eben Li, Xianyuan
          Zhan, Jingjing Liu.
        - URL: `FISOR <https://arxiv.org/abs/2401.10700>`_
    """

    METRICS: ClassVar[tuple[str, ...]] = (
        *('Loss/Loss_actor', 'Loss/Loss_reward_critic', 'Loss/Loss_cost_critic'),
        *('Loss/Loss_reward_value', 'Loss/Loss_cost_value'),
        *('Qr/data_Qr', 'Qc/data_Qc', 'Misc/FeasibleShare', 'Misc/Weight'),
    )
    ACTOR: ClassVar[str] = 'fisor'
    _NETWORKS: ClassVar[tuple[str, ...]] = (
        *('denoiser', 'reward_critic', 'cost_critic', 'reward_value', 'cost_value'),
        *('target_denoiser', 'target_reward_critic', 'target_cost_critic'),
    )
    _OPTIMIZERS: ClassVar[tuple[str, ...]] = (
        *('_denoiser_optimizer', '_critic_optimizer', '_value_optimizer'),
    )

    config: FISORConfig
    reward_critic: Ensemble
    cost_critic: Ensemble
    reward_value: Ensemble
    cost_value: Ensemble

    def _build(self) -> None:
        config, sizes = self.config, (self.obs_dim, self.act_dim)
        self.denoiser: Denoiser = self._trained(
            Denoiser(*sizes, **self._denoiser_sizes(), dropout=config.actor_dropout),
        )
        hidden_sizes = config.critic_hidden_sizes
        for name, members, inputs in (
            ('reward_critic', 2, sum(sizes)),
            ('cost_critic', 2, sum(sizes)),
            ('reward_value', 1, self.obs_dim),
            ('cost_value', 1, self.obs_dim),
        ):
            setattr(self, name, self._trained(Ensemble(members, inputs, hidden_sizes)))
        self._denoiser_optimizer = self._adam(config.actor_lr, self.denoiser)
        self._critic_optimizer = self._adam(config.critic_lr, self.reward_critic, self.cost_critic)
        self._value_optimizer = self._adam(config.critic_lr, self.reward_value, self.cost_value)
        self.target_denoiser = self._following(self.denoiser, 1.0 - config.actor_polyak)
        self.target_reward_critic = self._following(self.reward_critic, 1.0 - config.polyak)
        self.target_cost_critic = self._following(self.cost_critic, 1.0 - config.polyak)

    def _fill_learning_rates(self) -> None:
        """Set the denoiser's rate along a part of a half cosine."""
        progress = min(1.0, self.step / self.config.total_steps)
        ratio = 0.5 * (1.0 + math.cos(math.pi * _COSINE_SHARE * progress))
        for group in self._denoiser_optimizer.param_groups:
            group['lr'].fill_(self.config.actor_lr * ratio)

    def _learn(self, batch: TransitionBatch) -> dict[str, torch.Tensor]:
        obs = self.scaling.observation(batch.obs)
        metrics: dict[str, torch.Tensor] = {}
        weights = self._update_values(obs, batch, metrics)
        self._update_critics(obs, batch, metrics)
        self._update_denoiser(obs, batch, weights, metrics)
        return metrics

    def _update_values(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        metrics: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Fit the state values to the target critics; returns the weights of cloning, (B,)."""
        with torch.no_grad():
            reward_value = self.target_reward_critic(obs, batch.action).amin(0)
            cost_value = self.target_cost_critic(obs, batch.action).amax(0)
        reward_state_value, cost_state_value = self.reward_value(obs)[0], self.cost_value(obs)[0]
        expectile = self.config.expectile
        reward_loss = expectile_loss(reward_value - reward_state_value, expectile)
        cost_loss = reversed_expectile_loss(cost_value - cost_state_value, expectile)
        self._descend(reward_loss + cost_loss, self._value_optimizer)
        metrics['Loss/Loss_reward_value'] = reward_loss.detach()
        metrics['Loss/Loss_cost_value'] = cost_loss.detach()
        metrics['Misc/FeasibleShare'] = (cost_state_value <= 0).float().mean()
        return feasibility_weights(
            reward_value - reward_state_value.detach(),
            cost_value,
            cost_state_value.detach(),
            self.config,
        )

    def _update_critics(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        metrics: dict[str, torch.Tensor],
    ) -> None:
        """Fit the critics to targets from the next state's values."""
        gamma = self.config.gamma
        with torch.no_grad():
            next_obs = self.scaling.observation(batch.next_obs)
            reward = self.scaling.return_token(batch.reward) * self.config.horizon
            reward_target = reward + gamma * self.reward_value(next_obs)[0] * ~batch.terminal
            violation = torch.where(batch.cost > 0, self.config.violation, -1.0)
            next_cost_value = self.cost_value(next_obs)[0]
            cost_target = feasibility_target(violation, batch.terminal, next_cost_value, gamma)
        reward_values = self.reward_critic(obs, batch.action)
        cost_values = self.cost_critic(obs, batch.action)
        reward_loss = (reward_values - reward_target).square().mean()
        cost_loss = (cost_values - cost_target).square().mean()
        self._descend(reward_loss + cost_loss, self._critic_optimizer)
        metrics['Loss/Loss_reward_critic'] = reward_loss.detach()
        metrics['Loss/Loss_cost_critic'] = cost_loss.detach()
        metrics['Qr/data_Qr'] = reward_values.detach().mean()
        metrics['Qc/data_Qc'] = cost_values.detach().mean()

    def _update_denoiser(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        weights: torch.Tensor,
        metrics: dict[str, torch.Tensor],
    ) -> None:
        """Clone the data's actions by diffusion, weighted."""
        step = torch.randint(self.config.diffusion_steps, (len(obs),), device=self.device)
        noise = torch.randn_like(batch.action)
        estimate = self.denoiser(obs, self.denoiser.blur(batch.action, step, noise), step)
        loss = (weights * (estimate - noise).square().sum(-1)).mean()
        self._descend(loss, self._denoiser_optimizer)
        metrics['Loss/Loss_actor'] = loss.detach()
        metrics['Misc/Weight'] = weights.mean()

    def _denoiser_sizes(self) -> dict[str, Any]:
        config = self.config
        return {
            'steps': config.diffusion_steps,
            'width': config.actor_width,
            'blocks': config.actor_blocks,
        }

    def actor_sizes(self) -> dict[str, Any]:
        """Return the sizes of the denoiser and of the cost critics for selection."""
        return {
            'candidates': self.config.candidates,
            'critic_hidden_sizes': list(self.config.critic_hidden_sizes),
            **self._denoiser_sizes(),
        }

    def actor_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the averaged denoiser and of the target cost critics."""
        return {
            f'{name}.{key}': value
            for name, network in (
                ('denoiser', self.target_denoiser),
                ('cost_critic', self.target_cost_critic),
            )
            for key, value in network.state_dict().items()
        }
