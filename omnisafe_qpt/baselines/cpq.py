# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""CPQ, Constraints Penalized Q-learning."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from omnisafe_qpt.baselines.config import CPQConfig
from omnisafe_qpt.baselines.learner import BaselineLearner
from omnisafe_qpt.baselines.networks import ActionVAE, Ensemble, GaussianPolicy
from omnisafe_qpt.data.transitions import TransitionBatch


# Largest alpha, as in OSRL's first release.
_ALPHA_MAX = 1.0


def penalized_reward_target(
    reward: torch.Tensor,
    terminal: torch.Tensor,
    next_reward_value: torch.Tensor,
    next_cost_value: torch.Tensor,
    gamma: float,
    threshold: float,
) -> torch.Tensor:
    r"""The constraints penalized Bellman operator: the value after an unsafe action is 0.

    .. math:: r + \gamma \, 1[Q_c(s', a') \le l] \, Q_r(s', a')

    Args:
        reward (torch.Tensor): (B,).
        terminal (torch.Tensor): (B,) bool, whether the next state is terminal.
        next_reward_value (torch.Tensor): (B,) of the policy's action at the next state.
        next_cost_value (torch.Tensor): (B,) of the same action.
        gamma (float): Discount.
        threshold (float): l, the largest cost value that is safe.
    """
    counts = (next_cost_value <= threshold) & ~terminal
    return reward + gamma * torch.where(counts, next_reward_value, 0.0)


def vae_loss(
    reconstructed: torch.Tensor,
    actions: torch.Tensor,
    divergence: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the mean squared error of actions (B, A) and ``beta`` times the divergence (B,)."""
    return (reconstructed - actions).square().mean() + beta * divergence.mean()


def critic_loss(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared error of values (E, B), summed over critics, a mean over the batch."""
    return (values - target).square().mean(1).sum()


def actor_loss(
    reward_value: torch.Tensor,
    cost_value: torch.Tensor,
    threshold: float,
) -> torch.Tensor:
    """Return the policy's loss: minus the mean of 1[Qc <= l] Qr, both (B,)."""
    return -torch.where(cost_value <= threshold, reward_value, 0.0).mean()


class Multiplier(nn.Module):
    """Alpha, the weight that raises the cost values of unknown actions; initially 0."""

    def __init__(self) -> None:
        """Initialize an instance of :class:`Multiplier`."""
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()), requires_grad=False)

    def follow(self, shortfall: torch.Tensor, lr: float) -> None:
        """Increase alpha if the mean ``shortfall`` of the values is positive, else decrease it."""
        self.alpha.add_(lr * shortfall).clamp_(0.0, _ALPHA_MAX)


class CPQLearner(BaselineLearner):
    """Learns critics that give unsafe and unknown actions no value, and a policy from them.

    The cost values of actions outside the data are raised above the limit, so that the indicator in
    the reward target and in the policy's loss treats them as unsafe. An autoencoder of the data's
    actions decides which of the policy's actions are unknown.

    Departures from OSRL: the raised values get a gradient, as in the paper; in OSRL that term is a
    constant. Alpha starts at 0 and changes in proportion to the mean shortfall over the unknown
    actions, as in OSRL's first release, which however counts the known ones among the sampled as 0.
    Later releases start at 1 and change its logarithm; with a gradient the cost values then stay
    far too high for thousands of updates. There is no bootstrap from a terminal state, for cost and
    reward. Both targets use the same action. Observations are standardised, and rewards are in the
    units of all critics here. As in OSRL, the smaller of the two critics is used, also for cost.

    References:
        - Title: Constraints Penalized Q-learning for Safe Offline Reinforcement Learning
        - Authors: Haoran Xu, Xianyuan Zhan, Xiangyu Zhu.
        - URL: `CPQ <https://arxiv.org/abs/2107.09003>`_
    """

    METRICS: ClassVar[tuple[str, ...]] = (
        *('Loss/Loss_actor', 'Loss/Loss_reward_critic', 'Loss/Loss_cost_critic', 'Loss/Loss_vae'),
        *('Qr/data_Qr', 'Qr/current_Qr', 'Qc/data_Qc', 'Qc/current_Qc', 'Qc/unknown_Qc'),
        *('Misc/Alpha', 'Misc/SafeShare'),
    )
    ACTOR: ClassVar[str] = 'cpq'
    _NETWORKS: ClassVar[tuple[str, ...]] = (
        *('actor', 'vae', 'reward_critic', 'cost_critic', 'multiplier'),
        *('target_reward_critic', 'target_cost_critic'),
    )
    _OPTIMIZERS: ClassVar[tuple[str, ...]] = (
        *('_actor_optimizer', '_vae_optimizer'),
        *('_reward_critic_optimizer', '_cost_critic_optimizer'),
    )

    config: CPQConfig

    def _build(self) -> None:
        config, sizes = self.config, (self.obs_dim, self.act_dim)
        self.actor: GaussianPolicy = self._trained(
            GaussianPolicy(*sizes, config.actor_hidden_sizes),
        )
        self.vae: ActionVAE = self._trained(ActionVAE(*sizes, config.vae_hidden_sizes))
        self.reward_critic: Ensemble = self._trained(
            Ensemble(2, sum(sizes), config.critic_hidden_sizes),
        )
        self.cost_critic: Ensemble = self._trained(
            Ensemble(2, sum(sizes), config.critic_hidden_sizes),
        )
        self.multiplier: Multiplier = self._trained(Multiplier())
        self.target_reward_critic = self._following(self.reward_critic, 1.0 - config.polyak)
        self.target_cost_critic = self._following(self.cost_critic, 1.0 - config.polyak)
        self._actor_optimizer = self._adam(config.actor_lr, self.actor)
        self._vae_optimizer = self._adam(config.vae_lr, self.vae)
        self._reward_critic_optimizer = self._adam(config.critic_lr, self.reward_critic)
        self._cost_critic_optimizer = self._adam(config.critic_lr, self.cost_critic)

    def _learn(self, batch: TransitionBatch) -> dict[str, torch.Tensor]:
        obs = self.scaling.observation(batch.obs)
        metrics: dict[str, torch.Tensor] = {}
        self._update_vae(obs, batch, metrics)
        reward_target, cost_target = self._targets(batch)
        self._update_reward_critic(obs, batch, reward_target, metrics)
        self._update_cost_critic(obs, batch, cost_target, metrics)
        self._update_actor(obs, metrics)
        return metrics

    def _update_vae(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        metrics: dict[str, torch.Tensor],
    ) -> None:
        reconstructed, divergence = self.vae(obs, batch.action)
        loss = vae_loss(reconstructed, batch.action, divergence, self.config.vae_beta)
        self._descend(loss, self._vae_optimizer)
        metrics['Loss/Loss_vae'] = loss.detach()

    @torch.no_grad()
    def _targets(self, batch: TransitionBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the targets of the reward and of the cost critics, (B,) each."""
        config = self.config
        next_obs = self.scaling.observation(batch.next_obs)
        next_action = self.actor.sample(next_obs)
        reward_value = self.target_reward_critic(next_obs, next_action).amin(0)
        cost_value = self.target_cost_critic(next_obs, next_action).amin(0)
        reward_target = penalized_reward_target(
            self.scaling.critic_reward(batch.reward),
            batch.terminal,
            reward_value,
            cost_value,
            config.gamma,
            config.threshold,
        )
        return reward_target, batch.cost + config.gamma * cost_value * ~batch.terminal

    def _update_reward_critic(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        target: torch.Tensor,
        metrics: dict[str, torch.Tensor],
    ) -> None:
        values = self.reward_critic(obs, batch.action)
        loss = critic_loss(values, target)
        self._descend(loss, self._reward_critic_optimizer)
        metrics['Loss/Loss_reward_critic'] = loss.detach()
        metrics['Qr/data_Qr'] = values.detach().mean()

    def _update_cost_critic(
        self,
        obs: torch.Tensor,
        batch: TransitionBatch,
        target: torch.Tensor,
        metrics: dict[str, torch.Tensor],
    ) -> None:
        """Fit the costs of the data, and raise the values of unknown actions."""
        unknown = self._unknown_actions(obs)
        values, raised = self.cost_critic(
            *(torch.cat(pair) for pair in zip((obs, batch.action), unknown)),
        ).tensor_split([len(obs)], dim=1)
        loss = critic_loss(values, target)
        alpha, mean_raised = self.multiplier.alpha.clone(), raised.mean()
        self._descend(loss - alpha * raised.mean(1).sum(), self._cost_critic_optimizer)
        shortfall = self.config.unknown_cost * self.config.threshold - mean_raised.detach()
        self.multiplier.follow(self.ranks.average(shortfall), self.config.alpha_lr)
        metrics['Loss/Loss_cost_critic'] = loss.detach()
        metrics['Qc/data_Qc'] = values.detach().mean()
        metrics['Qc/unknown_Qc'] = mean_raised.detach()
        metrics['Misc/Alpha'] = alpha

    @torch.no_grad()
    def _unknown_actions(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the policy's actions that are least like the data's, with their states.

        Returns:
            (U, S) and (U, A).
        """
        config = self.config
        actions = self.actor.sample(obs, config.sampled_actions)
        states = obs.repeat(config.sampled_actions, 1)
        count = max(1, round(config.unknown_share * len(actions)))
        chosen = self.vae.divergence(states, actions).topk(count, sorted=False).indices
        return states[chosen], actions[chosen]

    def _update_actor(self, obs: torch.Tensor, metrics: dict[str, torch.Tensor]) -> None:
        actions = self.actor.sample(obs)
        reward_value = self.reward_critic(obs, actions, frozen=True).amin(0)
        with torch.no_grad():
            cost_value = self.cost_critic(obs, actions).amin(0)
        loss = actor_loss(reward_value, cost_value, self.config.threshold)
        self._descend(loss, self._actor_optimizer)
        metrics['Loss/Loss_actor'] = loss.detach()
        metrics['Qr/current_Qr'] = reward_value.detach().mean()
        metrics['Qc/current_Qc'] = cost_value.mean()
        metrics['Misc/SafeShare'] = (cost_value <= self.config.threshold).float().mean()

    def actor_sizes(self) -> dict[str, Any]:
        """Return the hidden layers."""
        return {'hidden_sizes': list(self.config.actor_hidden_sizes)}

    def actor_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the policy, which acts with its mean."""
        return self.actor.state_dict()
