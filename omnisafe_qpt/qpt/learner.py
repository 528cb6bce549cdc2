# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The training half of Algorithm 1: one update of critics, policy and target networks."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from omnisafe_qpt.data.windows import SequenceBatch
from omnisafe_qpt.qpt.base_learner import BaseLearner, frozen_copy
from omnisafe_qpt.qpt.config import LearnerConfig, OptimizerConfig
from omnisafe_qpt.qpt.critics import TwinCritic, count_critic_states, critic_states
from omnisafe_qpt.qpt.losses import (
    combine_cost,
    critic_loss,
    imitation_loss,
    magnitude_floor,
    masked_mean,
    mean_magnitude,
    n_step_targets,
    penalty_weight,
)
from omnisafe_qpt.qpt.precision import resolve_precision, tf32_products
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import PolicyInputs, Scaling
from omnisafe_qpt.qpt.transformer import TransformerPolicy


# OmniSafe's log keys for the two kinds of values.
_VALUE_KEYS = {'reward': 'Qr', 'cost': 'Qc'}


def metric_names(config: LearnerConfig) -> list[str]:
    """Return the names of the metrics that this configuration reports, in order.

    All are means over the valid steps of a batch, averaged over the updates of an epoch. Values
    are in the critics' units (:class:`omnisafe_qpt.qpt.scaling.Scaling`).
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


class Learner(BaseLearner):
    """QPT's networks, target networks and optimisers, and one update of them.

    Needs neither an environment nor OmniSafe.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        scaling (Scaling): Units of the dataset.
        config (LearnerConfig): The other settings.
        device (torch.device or str, optional): Device of the networks. Defaults to ``'cpu'``.
        ranks (Ranks, optional): The processes that train this model together. Each updates with its
            own slice of a batch; the result equals one process with the whole batch. Defaults to
            None, this process alone.

    Attributes:
        precision (str): ``float32``, ``tf32`` or ``bf16``: the configured precision as resolved for
            this device; see :func:`omnisafe_qpt.qpt.precision.resolve_precision`.
    """

    # The trained networks, then their target networks in the same order.
    _NETWORKS = (
        *('policy', 'reward_critic', 'cost_critic'),
        *('target_policy', 'target_reward_critic', 'target_cost_critic'),
    )
    _OPTIMIZERS = ('_policy_optimizer', '_critic_optimizer')

    config: LearnerConfig

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        scaling: Scaling,
        config: LearnerConfig,
        device: torch.device | str = 'cpu',
        ranks: Ranks | None = None,
    ) -> None:
        """Initialize an instance of :class:`Learner`."""
        super().__init__(metric_names(config), scaling, device, ranks)
        self.config = config
        self.precision, notice = resolve_precision(config.precision, self.device)
        if notice:
            warnings.warn(notice, stacklevel=2)
        state_dim = count_critic_states(config.critic_inputs, obs_dim)
        sizes = (state_dim, act_dim, config.critic_hidden_sizes)
        self.policy = TransformerPolicy(obs_dim, act_dim, config.policy).to(self.device)
        self.reward_critic = TwinCritic(*sizes).to(self.device)
        self.cost_critic = TwinCritic(*sizes).to(self.device)
        # Called in place of the networks wherever these need a gradient. Created before the targets
        # are copied, since all processes receive the first one's weights here.
        self._trained_policy = self.ranks.wrap(self.policy)
        self._trained_critics = [
            self.ranks.wrap(critic) for critic in (self.reward_critic, self.cost_critic)
        ]
        self.target_policy = frozen_copy(self.policy)
        self.target_reward_critic = frozen_copy(self.reward_critic)
        self.target_cost_critic = frozen_copy(self.cost_critic)

        self._policy_parameters = list(self.policy.parameters())
        self._critic_parameters = [
            *self.reward_critic.parameters(),
            *self.cost_critic.parameters(),
        ]
        self._policy_optimizer = self._optimizer(self._policy_parameters, config.policy_optimizer)
        self._critic_optimizer = self._optimizer(self._critic_parameters, config.critic_optimizer)
        self._polyak_pairs = self._pair_targets()
        self._magnitude_floors = magnitude_floor(
            self.scaling.mean_totals(), self.scaling.mean_length, config.gamma
        )
        self._first_member = torch.zeros(1, dtype=torch.int64, device=self.device)

    def compile(self, backend: str = 'inductor') -> None:
        """Compile the targets and both losses, networks included, with :func:`torch.compile`.

        For CUDA in a single process. Call it before the first update, which then compiles. All
        batches must have the same shapes.

        Args:
            backend (str, optional): Backend of :func:`torch.compile`. Defaults to ``'inductor'``.
        """
        for name in ('compute_targets', 'critic_loss', 'policy_loss'):
            method = getattr(self, name)
            compiled = torch.compile(method, backend=backend, fullgraph=True, dynamic=False)
            setattr(self, name, compiled)

    # ------------------------------------------------------------------ Algorithm 1

    def iterate(self, batch: SequenceBatch) -> None:
        """Do the work of an update on the device: critics, policy, target networks (Algorithm 1).

        Args:
            batch (SequenceBatch): B windows in raw units, on the learner's device.
        """
        metrics: dict[str, torch.Tensor] = {}
        with self._arithmetic():
            inputs = self.scaling.policy_inputs(batch)
            value_count, action_count = self._count(batch.mask[:, :-1], batch.action_mask)
            magnitudes = None
            if self.config.train_critics:
                targets = self.compute_targets(batch, inputs)
                losses, magnitudes = self.critic_loss(batch, inputs, targets, value_count, metrics)
                metrics['Grad/critic'] = self._descend_critics(losses.sum())
                magnitudes = self.ranks.average(magnitudes)
            loss = self.policy_loss(batch, inputs, magnitudes, action_count, metrics)
            metrics['Grad/actor'] = self._descend_policy(loss)
        self._update_targets()
        self._accumulate(metrics)

    def _count(self, *masks: torch.Tensor) -> torch.Tensor:
        """Count each mask's valid entries, on average over the processes; positive."""
        counts = torch.stack([mask.sum() for mask in masks]).float()
        return self.ranks.average(counts).clamp_min(1 / self.ranks.size)

    @torch.no_grad()
    def compute_targets(self, batch: SequenceBatch, inputs: PolicyInputs) -> torch.Tensor:
        """n-step targets of the reward and the cost critics, Eq. 6-7.

        Args:
            batch (SequenceBatch): B windows in raw units.
            inputs (PolicyInputs): The same for the policy.

        Returns:
            (2, B, K - 1) for the steps before the windows' last states.
        """
        last_state = self._critic_states(inputs)[:, -1]
        last_action = self.target_policy(inputs, last_only=True)[:, 0]
        reward_value = self.target_reward_critic(last_state, last_action).float().amin(0)
        cost_values = self.target_cost_critic(last_state, last_action).float()
        # Costs and their sums are never negative, so an estimate below zero is an error.
        cost_value = combine_cost(cost_values, self.config.cost_value).clamp_min(0.0)
        bootstrap = torch.stack([reward_value, cost_value])
        rewards = self.scaling.critic_reward(batch.rewards)
        costs = self.scaling.critic_cost(batch.costs)
        return n_step_targets(
            torch.stack([rewards, costs]),
            torch.where(self._is_over(batch), 0.0, bootstrap),
            self.config.gamma,
        )

    def critic_loss(
        self,
        batch: SequenceBatch,
        inputs: PolicyInputs,
        targets: torch.Tensor,
        count: torch.Tensor,
        metrics: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the reward and the cost critics, Eq. 6-7.

        Args:
            batch (SequenceBatch): B windows in raw units.
            inputs (PolicyInputs): The same for the policy.
            targets (torch.Tensor): (2, B, K - 1), see :meth:`compute_targets`.
            count (torch.Tensor): () steps to average over.
            metrics (dict[str, torch.Tensor]): Receives the metrics.

        Returns:
            The losses (2,), and without gradient the mean |Q| of the data's actions (2, n), which
            normalises the policy's penalties. n is 2, one for each twin; or 1 where the penalty
            uses the reduced value.
        """
        mask = batch.mask[:, :-1]
        states, actions = self._critic_states(inputs)[:, :-1], batch.actions[:, :-1]
        values = torch.stack(  # (2, 2, B, K - 1), kinds and twins
            [critic(states, actions).float() for critic in self._trained_critics]
        )
        losses = critic_loss(values, targets, mask, count)
        mean_values = masked_mean(values.detach(), mask, count).mean(-1)
        mean_targets = masked_mean(targets, mask, count)
        for index, (name, key) in enumerate(_VALUE_KEYS.items()):
            metrics[f'Loss/Loss_{name}_critic'] = losses[index].detach()
            metrics[f'{key}/data_{key}'] = mean_values[index]
            metrics[f'{key}/target_{key}'] = mean_targets[index]
        if self.config.penalty_critic == 'pessimistic':
            values = torch.stack([_pessimistic(*each) for each in zip(_VALUE_KEYS, values)])
        return losses, mean_magnitude(values, mask, count)

    def policy_loss(
        self,
        batch: SequenceBatch,
        inputs: PolicyInputs,
        magnitudes: torch.Tensor | None,
        count: torch.Tensor,
        metrics: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Loss of the policy: imitation, minus the reward term, plus the cost term, Eq. 8.

        Args:
            batch (SequenceBatch): B windows in raw units.
            inputs (PolicyInputs): The same for the policy.
            magnitudes (torch.Tensor, optional): (2, n) mean |Q|, see :meth:`critic_loss`; None
                where no critics are trained.
            count (torch.Tensor): () actions to average over.
            metrics (dict[str, torch.Tensor]): Receives the metrics.

        Returns:
            () the loss.
        """
        predicted = self._trained_policy(inputs).float()
        states = self._critic_states(inputs)

        def pull(kind: int, critic: TwinCritic, eta: float) -> torch.Tensor:
            """Return alpha E[Q(s, pi(s))], alpha by Eq. 9 for rewards and Eq. 10 for costs.

            Numerator and denominator use the same twin: the denominator its values before this
            update of the critics, the numerator its values after it. The denominator leaves out the
            window's last step: the critics' loss has no value there, and computing one would cost a
            forward pass. Over all windows both means count each step of an episode equally often,
            except its last K, so the means are close.
            """
            name, key = list(_VALUE_KEYS.items())[kind]
            member = self._penalty_member()
            values = self._penalty_values(name, critic, states, predicted, member)
            mean_value = masked_mean(values, batch.action_mask, count)
            assert magnitudes is not None  # penalties need critics (LearnerConfig)
            magnitude = magnitudes[kind].index_select(0, member)[0]
            metrics[f'{key}/current_{key}'] = mean_value.detach()
            return penalty_weight(magnitude, eta, self._magnitude_floors[kind]) * mean_value

        loss = imitation_loss(predicted, batch.actions, batch.action_mask, count)
        metrics['Loss/Loss_imitation'] = loss.detach()
        if self.config.use_reward_critic:
            reward_penalty = -pull(0, self.reward_critic, self.config.eta_reward)
            metrics['Loss/Loss_reward_penalty'] = reward_penalty.detach()
            loss = loss + reward_penalty
        if self.config.use_cost_critic:
            cost_penalty = pull(1, self.cost_critic, self.config.eta_cost)
            metrics['Loss/Loss_cost_penalty'] = cost_penalty.detach()
            loss = loss + cost_penalty
        metrics['Loss/Loss_actor'] = loss.detach()
        return loss

    def _critic_states(self, inputs: PolicyInputs) -> torch.Tensor:
        """Return the state input of the critics, (B, K, ...).

        The targets are those that the policy sees, also for relabelled episodes: conditioned on
        them, the policy imitates the relabelled episode, and so gets the rewards and costs of that
        episode.
        """
        return critic_states(
            self.config.critic_inputs,
            self.config.horizon,
            inputs.states,
            inputs.return_to_go,
            inputs.cost_to_go,
            inputs.timesteps,
        )

    def _is_over(self, batch: SequenceBatch) -> torch.Tensor:
        """Return whether the bootstrap value of the windows' last states is zero, (B,) bool.

        Critics that do not see the time bootstrap at a time limit: they cannot know when it comes,
        so they estimate the value as if the episode continued.
        """
        if self.config.critic_inputs != 'targets_time':
            return batch.terminal
        return batch.terminal | (batch.timesteps[:, -1] >= self.config.horizon)

    def _penalty_member(self) -> torch.Tensor:
        """Return the index of the twin in the policy's loss, (1,) int64."""
        if self.config.penalty_critic == 'random':
            return self.ranks.broadcast(torch.randint(2, (1,), device=self.device))
        return self._first_member

    def _penalty_values(
        self,
        name: str,
        critic: TwinCritic,
        states: torch.Tensor,
        actions: torch.Tensor,
        member: torch.Tensor,
    ) -> torch.Tensor:
        """Return the values of the policy's actions, (B, K); critic parameters get no gradient."""
        if self.config.penalty_critic == 'pessimistic':
            return _pessimistic(name, critic(states, actions, frozen=True).float())[0]
        return critic(states, actions, member=member, frozen=True).float()[0]

    def _descend_critics(self, loss: torch.Tensor) -> torch.Tensor:
        config = self.config.critic_optimizer
        return self._descend(loss, self._critic_optimizer, self._critic_parameters, config)

    def _descend_policy(self, loss: torch.Tensor) -> torch.Tensor:
        config = self.config.policy_optimizer
        return self._descend(loss, self._policy_optimizer, self._policy_parameters, config)

    def _descend(
        self,
        loss: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        config: OptimizerConfig,
    ) -> torch.Tensor:
        """Take one optimiser step on ``loss``; returns the gradient's norm before the clip."""
        optimizer.zero_grad(set_to_none=True)
        # Outside autocast, as torch's documentation requires.
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

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an exact resume needs, without the random number generators."""
        return {**super().state_dict(), 'magnitude_floors': self._magnitude_floors.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, here or on another device."""
        super().load_state_dict(state)
        if 'magnitude_floors' in state:  # older states have none
            self._magnitude_floors.copy_(state['magnitude_floors'])

    def _optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimizerConfig,
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=torch.tensor(config.lr, device=self.device),
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
            capturable=self.device.type == 'cuda',
        )

    def _fill_learning_rates(self) -> None:
        ratio = self._lr_ratio(self.step)
        for optimizer, config in (
            (self._policy_optimizer, self.config.policy_optimizer),
            (self._critic_optimizer, self.config.critic_optimizer),
        ):
            for group in optimizer.param_groups:
                group['lr'].fill_(config.lr * ratio)

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
        networks = [getattr(self, name) for name in self._NETWORKS]
        parameters = [parameter for network in networks for parameter in network.parameters()]
        half = len(parameters) // 2
        return parameters[half:], parameters[:half]

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute in the configured precision, then restore the setting of the process."""
        with contextlib.ExitStack() as stack:
            if self.precision == 'tf32':
                stack.enter_context(tf32_products(True))
            enabled = self.precision == 'bf16'
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=enabled))
            yield


def _pessimistic(name: str, twin_values: torch.Tensor) -> torch.Tensor:
    """Reduce twin values (2, ...) to the worse of them, (1, ...)."""
    return twin_values.amin(0, True) if name == 'reward' else twin_values.amax(0, True)
