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
"""Algorithm 1's training half: who is updated by what, in which order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from omnisafe_qpt.core.config import LearnerConfig, OptimizerConfig
from omnisafe_qpt.core.critics import TwinCritic
from omnisafe_qpt.core.losses import (
    critic_loss,
    imitation_loss,
    masked_mean,
    n_step_targets,
    penalty_weight,
)
from omnisafe_qpt.core.scaling import Scaling
from omnisafe_qpt.core.transformer import TransformerPolicy
from omnisafe_qpt.data.windows import SequenceBatch


# OmniSafe's log keys for the two kinds of values.
_VALUE_KEYS = {'reward': 'Qr', 'cost': 'Qc'}


def metric_names(config: LearnerConfig) -> list[str]:
    """List the metrics that a learner with this configuration reports, in their order.

    All are means over the valid steps of a batch, averaged over the updates of an epoch. Values
    are in the critics' units (:class:`omnisafe_qpt.core.scaling.Scaling`).
    """
    names = []
    if config.train_critics:
        for name, key in _VALUE_KEYS.items():
            names += [f'Loss/Loss_{name}_critic', f'{key}/data_{key}', f'{key}/target_{key}']
        names += ['Grad/critic']
    names += ['Loss/Loss_imitation']
    for name, used in (('reward', config.use_reward_critic), ('cost', config.use_cost_critic)):
        if used:
            key = _VALUE_KEYS[name]
            names += [f'{key}/current_{key}', f'Loss/Loss_{name}_penalty']
    return [*names, 'Loss/Loss_actor', 'Grad/actor']


class Learner:
    """QPT's networks, target networks and optimisers, and one update of them all.

    Needs neither an environment nor OmniSafe. Metrics stay on the device until they are asked
    for, so an update never waits for the device.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        scaling (Scaling): Units of the dataset.
        config (LearnerConfig): Everything else.
        device (torch.device or str, optional): Where all of it lives. Defaults to ``'cpu'``.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        scaling: Scaling,
        config: LearnerConfig,
        device: torch.device | str = 'cpu',
    ) -> None:
        """Initialize an instance of :class:`Learner`."""
        self.config = config
        self.device = torch.device(device)
        self.step = 0
        self.scaling = scaling.to(self.device)
        sizes = (obs_dim, act_dim, config.critic_hidden_sizes)
        self.policy = TransformerPolicy(obs_dim, act_dim, config.policy).to(self.device)
        self.reward_critic = TwinCritic(*sizes).to(self.device)
        self.cost_critic = TwinCritic(*sizes).to(self.device)
        self.target_policy = _frozen_copy(self.policy)
        self.target_reward_critic = _frozen_copy(self.reward_critic)
        self.target_cost_critic = _frozen_copy(self.cost_critic)

        self._policy_parameters = list(self.policy.parameters())
        self._critic_parameters = [
            *self.reward_critic.parameters(),
            *self.cost_critic.parameters(),
        ]
        self._policy_optimizer = self._optimizer(self._policy_parameters, config.policy_optimizer)
        self._critic_optimizer = self._optimizer(self._critic_parameters, config.critic_optimizer)
        self._polyak_pairs = self._pair_targets()
        self._metric_sums: dict[str, torch.Tensor] = {}
        self._metric_count = 0
        if config.precision == 'tf32':
            torch.backends.cuda.matmul.allow_tf32 = True

    # ------------------------------------------------------------------ Algorithm 1

    def update(self, batch: SequenceBatch) -> None:
        """Do one iteration of Algorithm 1: critics, policy, target networks.

        Args:
            batch (SequenceBatch): B windows in raw units, on the learner's device.
        """
        self._set_learning_rates()
        with self._autocast():
            states = self.scaling.observation(batch.states)
            history = (
                states,
                batch.actions,
                self.scaling.return_token(batch.return_to_go),
                self.scaling.cost_token(batch.cost_to_go),
                batch.timesteps,
                batch.mask,
            )
            data_values = None
            if self.config.train_critics:
                data_values = self._update_critics(batch, history)
            self._update_policy(batch, history, data_values)
        self._update_targets()
        self.step += 1
        self._metric_count += 1

    def _update_critics(
        self,
        batch: SequenceBatch,
        history: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit the reward and cost critics to their n-step targets, Eq. (6) and (7).

        Returns:
            The values (2, B, K - 1) of the data's actions under the reward and the cost critics,
            without gradient; their scale normalises the policy's penalties.
        """
        states = history[0]
        with torch.no_grad():
            last_action = self.target_policy(*history, last_only=True)[:, 0]
        mask = batch.mask[:, :-1]  # steps before the window's last state
        losses, data_values = [], []
        for name, critic, target_critic, signal in (
            ('reward', self.reward_critic, self.target_reward_critic,
             self.scaling.critic_reward(batch.rewards)),
            ('cost', self.cost_critic, self.target_cost_critic,
             self.scaling.critic_cost(batch.costs)),
        ):  # fmt: skip
            with torch.no_grad():
                bootstrap = self._combine(name, target_critic(states[:, -1], last_action).float())
                bootstrap = torch.where(batch.terminal, 0.0, bootstrap)
                targets = n_step_targets(signal, bootstrap, self.config.gamma)
            values = critic(states[:, :-1], batch.actions[:, :-1]).float()
            loss = critic_loss(values, targets, mask)
            losses.append(loss)
            data_values.append(values.detach())
            self._record(f'Loss/Loss_{name}_critic', loss)
            key = _VALUE_KEYS[name]
            self._record(f'{key}/data_{key}', masked_mean(values.detach(), mask).mean())
            self._record(f'{key}/target_{key}', masked_mean(targets, mask))
        norm = self._descend(
            sum(losses),
            self._critic_optimizer,
            self._critic_parameters,
            self.config.critic_optimizer,
        )
        self._record('Grad/critic', norm)
        return data_values[0], data_values[1]

    def _combine(self, name: str, twin_values: torch.Tensor) -> torch.Tensor:
        """Reduce twin values (2, ...) to one, as the bootstrap of Eq. (6) and (7) does."""
        if name == 'reward':
            return twin_values.amin(0)
        # A cost is never negative, and neither is its sum: an estimate below zero is error only.
        return combine_cost(twin_values, self.config.cost_value).clamp_min(0.0)

    def _update_policy(
        self,
        batch: SequenceBatch,
        history: tuple[torch.Tensor, ...],
        data_values: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Imitate the data, pulled towards reward and away from cost, Eq. (8)."""
        predicted = self.policy(*history).float()
        loss = imitation_loss(predicted, batch.actions, batch.action_mask)
        self._record('Loss/Loss_imitation', loss)
        for name, critic, eta, sign, used in (
            ('reward', self.reward_critic, self.config.eta_reward, -1.0,
             self.config.use_reward_critic),
            ('cost', self.cost_critic, self.config.eta_cost, 1.0,
             self.config.use_cost_critic),
        ):  # fmt: skip
            if not used or data_values is None:
                continue
            values = self._penalty_values(name, critic, history[0], predicted)
            mean_value = masked_mean(values, batch.action_mask).mean()
            data = data_values[0] if name == 'reward' else data_values[1]
            weight = penalty_weight(data, batch.mask[:, :-1], eta)  # Eq. (9), (10)
            loss = loss + sign * weight * mean_value
            key = _VALUE_KEYS[name]
            self._record(f'{key}/current_{key}', mean_value)
            self._record(f'Loss/Loss_{name}_penalty', sign * weight * mean_value)
        self._record('Loss/Loss_actor', loss)
        norm = self._descend(
            loss,
            self._policy_optimizer,
            self._policy_parameters,
            self.config.policy_optimizer,
        )
        self._record('Grad/actor', norm)

    def _penalty_values(
        self,
        name: str,
        critic: TwinCritic,
        states: torch.Tensor,
        actions: torch.Tensor,
    ) -> torch.Tensor:
        """Value the policy's actions, (n, B, K); the critic's own parameters get no gradient."""
        choice = self.config.penalty_critic
        if choice == 'pessimistic':
            twin = critic(states, actions, frozen=True).float()
            return (twin.amin(0) if name == 'reward' else twin.amax(0))[None]
        if choice == 'random':
            member = torch.randint(2, (1,), device=self.device)
        else:
            member = torch.zeros(1, dtype=torch.int64, device=self.device)
        return critic(states, actions, member=member, frozen=True).float()

    def _descend(
        self,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        config: OptimizerConfig,
    ) -> torch.Tensor:
        """Take one optimiser step on ``loss``; returns the gradient's norm before the clip."""
        optimizer.zero_grad(set_to_none=True)
        # Outside autocast, as its manual asks for.
        with torch.autocast(self.device.type, enabled=False):
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
        return norm

    def _update_targets(self) -> None:
        """Move every target network: theta' = rho theta' + (1 - rho) theta."""
        targets, sources = self._polyak_pairs
        with torch.no_grad():
            torch._foreach_lerp_(targets, sources, 1.0 - self.config.polyak)

    # ------------------------------------------------------------------ wiring

    def _optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimizerConfig,
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _set_learning_rates(self) -> None:
        # A function of the step alone, so that there is no scheduler to save and restore.
        ratio = self._lr_ratio(self.step)
        for optimizer, config in (
            (self._policy_optimizer, self.config.policy_optimizer),
            (self._critic_optimizer, self.config.critic_optimizer),
        ):
            for group in optimizer.param_groups:
                group['lr'] = config.lr * ratio

    def _lr_ratio(self, step: int) -> float:
        """Learning rate at an update as a share of its peak: linear warm-up, half cosine."""
        config = self.config
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        remaining = max(1, config.total_steps - config.warmup_steps)
        progress = min(1.0, (step - config.warmup_steps) / remaining)
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return config.lr_final_ratio + (1.0 - config.lr_final_ratio) * cosine

    def _pair_targets(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        pairs = (
            (self.target_policy, self.policy),
            (self.target_reward_critic, self.reward_critic),
            (self.target_cost_critic, self.cost_critic),
        )
        targets = [parameter for target, _ in pairs for parameter in target.parameters()]
        sources = [parameter for _, source in pairs for parameter in source.parameters()]
        return targets, sources

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.precision != 'bf16':
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    # ------------------------------------------------------------------ metrics and state

    def _record(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().float()
        if name in self._metric_sums:
            self._metric_sums[name] += value
        else:
            self._metric_sums[name] = value.clone()

    def pop_metrics(self) -> dict[str, float]:
        """Return each metric's mean over the updates since the last call; waits for the device."""
        if not self._metric_count:
            return {}
        means = torch.stack(list(self._metric_sums.values())) / self._metric_count
        metrics = dict(zip(self._metric_sums, means.tolist()))
        self._metric_sums = {}
        self._metric_count = 0
        return metrics

    _STATEFUL = (
        'scaling',
        'policy',
        'reward_critic',
        'cost_critic',
        'target_policy',
        'target_reward_critic',
        'target_cost_critic',
        '_policy_optimizer',
        '_critic_optimizer',
    )

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs, random number generators apart."""
        state: dict[str, Any] = {
            name.lstrip('_'): getattr(self, name).state_dict() for name in self._STATEFUL
        }
        state['step'] = self.step
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(state[name.lstrip('_')])
        self.step = state['step']


def combine_cost(twin_values: torch.Tensor, how: str) -> torch.Tensor:
    """Reduce twin cost values (2, ...) to one by their ``min`` or ``max``."""
    return twin_values.amin(0) if how == 'min' else twin_values.amax(0)


def _frozen_copy(network: nn.Module) -> Any:
    """Copy a network as its target: equal at the start, in eval mode, never differentiated."""
    return deepcopy(network).requires_grad_(False).eval()
