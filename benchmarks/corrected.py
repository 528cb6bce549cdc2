# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's CCRR with a cost critic that is trained. Imports OmniSafe."""

from __future__ import annotations

import torch
from omnisafe.algorithms.offline.c_crr import CCRR
from torch import nn


class CCRRFixed(CCRR):
    """CCRR whose cost critic learns costs, and whose policy uses what it learned.

    In OmniSafe 0.5.0 the cost critic's update trains the reward critic towards costs, and the mean
    cost of the policy's actions, which also drives the multiplier, is read off the reward critic.
    All else is as it was.
    """

    def _update_cost_critic(
        self,
        obs: torch.Tensor,
        action: torch.Tensor,
        cost: torch.Tensor,
        next_obs: torch.Tensor,
        done: torch.Tensor,
    ) -> None:
        with torch.no_grad():
            next_action = self._actor.predict(next_obs, deterministic=False)
            following = torch.min(*self._target_cost_critic(next_obs, next_action))  # (B,)
            discount = self._cfgs.algo_cfgs.gamma * (1.0 - done.squeeze(1))
            target = cost.squeeze(1) + discount * following
        values = self._cost_critic(obs, action)
        loss = sum(nn.functional.mse_loss(value, target) for value in values)
        self._cost_critic_optimizer.zero_grad()
        loss.backward()
        self._cost_critic_optimizer.step()
        self._logger.store(
            **{
                'Loss/Loss_cost_critic': loss.item(),
                'Qc/data_Qc': values[0].mean().item(),
                'Qc/target_Qc': target.mean().item(),
            },
        )

    def _update_actor(self, obs: torch.Tensor, action: torch.Tensor) -> None:
        algo_cfgs = self._cfgs.algo_cfgs
        with torch.no_grad():
            samples = algo_cfgs.sampled_action_num
            repeated = obs.repeat_interleave(samples, dim=0)
            sampled = self._actor.predict(repeated, deterministic=False)
            data, policy = {}, {}
            for name, critic in (('Qr', self._reward_critic), ('Qc', self._cost_critic)):
                data[name] = torch.min(*critic(obs, action))  # (B,)
                policy[name] = torch.min(*critic(repeated, sampled)).view(-1, samples).mean(1)
            multiplier = self._lagrange.lagrangian_multiplier.item()
            advantage = (data['Qr'] - policy['Qr']) - multiplier * (data['Qc'] - policy['Qc'])
            weight = torch.exp(advantage / algo_cfgs.beta).clamp(max=1e10)

        self._actor(obs)
        loss = -(weight * self._actor.log_prob(action)).mean()
        self._actor_optimizer.zero_grad()
        loss.backward()
        self._actor_optimizer.step()

        if self.epoch * algo_cfgs.steps_per_epoch > algo_cfgs.lagrange_start_step:
            self._lagrange.update_lagrange_multiplier(policy['Qc'].mean().item())
        self._logger.store(
            **{
                'Loss/Loss_actor': loss.item(),
                'Qr/current_Qr': data['Qr'].mean().item(),
                'Qc/current_Qc': data['Qc'].mean().item(),
                'Train/PolicyStd': self._actor.std,
                'Metrics/LagrangeMultiplier': self._lagrange.lagrangian_multiplier,
            },
        )
