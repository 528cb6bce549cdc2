# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""An ensemble of learned dynamics: next observation, reward, cost and termination."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.transitions import TransitionBatch, TransitionSampler
from omnisafe_qpt.errors import UserError


@dataclass(frozen=True)
class DynamicsConfig:
    """Settings of a :class:`DynamicsEnsemble` and its training.

    Args:
        members (int): E, independent models.
        hidden_sizes (tuple[int, ...]): Hidden layers of the networks of the observation's change.
        signal_sizes (tuple[int, ...]): Hidden layers of those of reward, cost and termination.
        updates (int): Training updates.
        batch_size (int): Transitions of each member in an update.
        lr (float): Peak learning rate: linear warm-up, cosine decay.
        left_out (float): Share of episodes that each member leaves out; drawn per member.
        range_margin (float): Predicted observations are clipped to the data's range, widened by
            this share of its width on both sides.
        exogenous (tuple[int, ...]): Components of the observation that no action changes, such as
            weather and prices. They are replayed from recorded episodes and not predicted.
    """

    members: int = 5
    hidden_sizes: tuple[int, ...] = (128, 128, 128)
    signal_sizes: tuple[int, ...] = (128, 128)
    updates: int = 3000
    batch_size: int = 256
    lr: float = 5e-3
    left_out: float = 0.1
    range_margin: float = 0.25
    exogenous: tuple[int, ...] = ()

    @classmethod
    def for_horizon(cls, horizon: int, exogenous: Sequence[int] = ()) -> DynamicsConfig:
        """Return the settings for episodes of this many steps, over which errors compound.

        Args:
            horizon (int): Largest number of steps in an episode.
            exogenous (Sequence[int], optional): See above. Defaults to ().
        """
        least, most = _UPDATES
        updates = min(most, max(least, _UPDATES_PER_STEP * horizon))
        return cls(updates=updates, exogenous=tuple(exogenous))


def check_exogenous(exogenous: Sequence[int], obs_dim: int) -> None:
    """Check that the exogenous components are some of the observation's, but not all.

    Args:
        exogenous (Sequence[int]): The components.
        obs_dim (int): Size of the observation.

    Raises:
        UserError: If they are not.
    """
    if not set(exogenous) < set(range(obs_dim)):
        raise UserError(
            f'exogenous components {", ".join(map(str, exogenous))}: they must be some, '
            f'but not all, of the components of the observation, 0 to {obs_dim - 1}',
        )


_WARMUP_UPDATES = 100
# Updates for each step of the horizon, and their range.
_UPDATES_PER_STEP, _UPDATES = 10, (3_000, 6_000)
_FINAL_LR_RATIO = 0.02
# Number of transitions to measure the ensemble's usual disagreement.
_REFERENCE_TRANSITIONS = 20_000


class _Networks(nn.Module):
    """E networks of linear layers with LayerNorm and SiLU, evaluated together.

    Without LayerNorm small errors grow over long model rollouts (benchmarks/OFF_POLICY.md).
    """

    def __init__(self, members: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # as torch initialises a linear layer
            self.weights.append(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, fan_out).uniform_(-bound, bound))
        for width in sizes[1:-1]:
            self.scales.append(torch.ones(members, 1, width))
            self.shifts.append(torch.zeros(members, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (E, N, in) to (E, N, out)."""
        for weight, bias, scale, shift in zip(self.weights, self.biases, self.scales, self.shifts):
            x = F.layer_norm(torch.baddbmm(bias, x, weight), bias.shape[-1:])
            x = F.silu(torch.addcmul(shift, x, scale))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


@dataclass(frozen=True)
class Step:
    """Predictions for N particles in one step.

    Args:
        obs (torch.Tensor): (N, S) next observations, in raw units.
        rewards (torch.Tensor): (N,).
        costs (torch.Tensor): (N,).
        terminal (torch.Tensor): (N,) bool.
        disagreement (torch.Tensor): (N,) standard deviation of the members' changes of the
            observation, in units of the data's changes, averaged over its predicted components.
    """

    obs: torch.Tensor
    rewards: torch.Tensor
    costs: torch.Tensor
    terminal: torch.Tensor
    disagreement: torch.Tensor


class DynamicsEnsemble(nn.Module):
    """E models of an environment, each two networks.

    One predicts the change of the observation from observation and action. The other predicts
    reward, cost and termination from observation, action and that change, so that a cost with a
    threshold in the next observation stays sharp. Train with :meth:`fit`.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (DynamicsConfig): Sizes.

    Raises:
        UserError: If the exogenous components are not some of the observation's, or are all.
    """

    obs_mean: torch.Tensor
    obs_std: torch.Tensor
    change_mean: torch.Tensor
    change_std: torch.Tensor
    signal_mean: torch.Tensor
    signal_std: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    usual_disagreement: torch.Tensor

    def __init__(self, obs_dim: int, act_dim: int, config: DynamicsConfig) -> None:
        """Initialize an instance of :class:`DynamicsEnsemble`."""
        super().__init__()
        self.config, self.obs_dim = config, obs_dim
        check_exogenous(config.exogenous, obs_dim)
        self._exogenous = list(config.exogenous)
        self._predicted = [each for each in range(obs_dim) if each not in config.exogenous]
        self.change = _Networks(config.members, [obs_dim + act_dim, *config.hidden_sizes, obs_dim])
        # Reward, cost, termination.
        self.signals = _Networks(config.members, [2 * obs_dim + act_dim, *config.signal_sizes, 3])
        for name in ('obs_mean', 'change_mean', 'low', 'high'):
            self.register_buffer(name, torch.zeros(obs_dim))
        for name in ('obs_std', 'change_std'):
            self.register_buffer(name, torch.ones(obs_dim))
        # Of reward and cost.
        self.register_buffer('signal_mean', torch.zeros(2))
        self.register_buffer('signal_std', torch.ones(2))
        # 99 % quantile over the data's transitions.
        self.register_buffer('usual_disagreement', torch.tensor(0.0))
        self.has_binary_costs, self.terminates = False, False

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        config: DynamicsConfig | None = None,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DynamicsEnsemble:
        """Train an ensemble on episodes.

        Args:
            trajectories (Trajectories): The episodes, on the device to train on; actions in
                [-1, 1]. Relabelled rows are not used.
            config (DynamicsConfig, optional): Sizes and training.
            seed (int, optional): Seed of weights, batches and left-out episodes. Defaults to 0.
            on_progress (Callable, optional): Called with the updates done and their total.
        """
        config, device = config or DynamicsConfig(), trajectories.table.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, 'dynamics'))
            model = cls(trajectories.obs_dim, trajectories.act_dim, config).to(device)
            owned, counts = _member_transitions(trajectories, config)
        sampler = TransitionSampler(trajectories, config.batch_size, seed)
        everything = sampler.unpack(sampler.gather(torch.arange(sampler.num_items, device=device)))
        model._read_units(everything)
        generator = torch.Generator(device).manual_seed(torch_seed(seed, 'dynamics', 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        for update in range(config.updates):
            for group in optimizer.param_groups:
                group['lr'] = config.lr * _lr_ratio(update, config.updates)
            place = torch.rand(
                config.members, config.batch_size, generator=generator, device=device
            )
            drawn = owned.gather(1, (place * counts).long())
            batch = sampler.unpack(sampler.gather(drawn.flatten()))
            optimizer.zero_grad(set_to_none=True)
            model._loss(batch).backward()
            optimizer.step()
            if on_progress is not None:
                on_progress(update + 1, config.updates)
        model._measure_disagreement(everything)
        return model.requires_grad_(False).eval()

    # ------------------------------------------------------------------ use

    @torch.no_grad()
    def step(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        generator: torch.Generator | None = None,
        recorded: torch.Tensor | None = None,
    ) -> Step:
        """Advance particles by one step, each in the model of its member.

        Args:
            obs (torch.Tensor): (E P, S) in raw units; the first P are the first member's.
            actions (torch.Tensor): (E P, A).
            generator (torch.Generator, optional): Draws binary costs and termination. Defaults to
                None: the expected cost, and termination where it is more likely than not.
            recorded (torch.Tensor, optional): (E P, X) exogenous components of the next
                observations; NaN where they are unknown. Defaults to None, all predicted.
        """
        members = self.config.members
        states = self._standardize(obs)
        inputs = torch.cat([states, actions], dim=-1)
        changes = self.change(inputs.expand(members, *inputs.shape))  # (E, E P, S)
        disagreement = self._disagreement(changes)
        own = changes.unflatten(1, (members, -1)).diagonal(dim1=0, dim2=1).permute(2, 0, 1)
        if recorded is not None:
            self._replay(own, obs, recorded)
        signals = self.signals(
            torch.cat([inputs.unflatten(0, (members, -1)), own], dim=-1)
        ).flatten(0, 1)
        change = own.flatten(0, 1) * self.change_std + self.change_mean
        obs = (obs + change).clamp(self.low, self.high)
        rewards, costs = (signals[:, :2] * self.signal_std + self.signal_mean).unbind(-1)
        ends = signals[:, 2].sigmoid()
        if self.has_binary_costs:
            costs = _drawn(signals[:, 1].sigmoid(), generator)
        terminal = torch.zeros_like(ends)
        if self.terminates:
            terminal = (ends > 0.5).float() if generator is None else _drawn(ends, generator)
        return Step(obs, rewards, costs.clamp_min(0.0), terminal.bool(), disagreement)

    def _replay(self, changes: torch.Tensor, obs: torch.Tensor, recorded: torch.Tensor) -> None:
        """Replace the changes (E, P, S) of exogenous components by recorded ones where known."""
        columns = self._exogenous
        known = recorded - obs[:, columns] - self.change_mean[columns]
        known = (known / self.change_std[columns]).view_as(changes[..., columns])
        changes[..., columns] = torch.where(known.isnan(), changes[..., columns], known)

    # ------------------------------------------------------------------ training

    def _read_units(self, data: TransitionBatch) -> None:
        changes = data.next_obs - data.obs
        self.obs_mean.copy_(data.obs.mean(0))
        self.obs_std.copy_(_positive(data.obs.std(0)))
        self.change_mean.copy_(changes.mean(0))
        self.change_std.copy_(_positive(changes.std(0)))
        signals = torch.stack([data.reward, data.cost], dim=-1)
        self.signal_mean.copy_(signals.mean(0))
        self.signal_std.copy_(_positive(signals.std(0)))
        low = torch.minimum(data.obs.amin(0), data.next_obs.amin(0))
        high = torch.maximum(data.obs.amax(0), data.next_obs.amax(0))
        margin = self.config.range_margin * (high - low)
        self.low.copy_(low - margin)
        self.high.copy_(high + margin)
        self.has_binary_costs = bool(((data.cost == 0) | (data.cost == 1)).all())
        self.terminates = bool(data.terminal.any())

    def _loss(self, batch: TransitionBatch) -> torch.Tensor:
        """Return the mean over transitions (E B), in the order of the members."""
        members = self.config.members
        states = self._standardize(batch.obs)
        changes = (batch.next_obs - batch.obs - self.change_mean) / self.change_std
        inputs = torch.cat([states, batch.action], dim=-1).unflatten(0, (members, -1))
        changes = changes.unflatten(0, (members, -1))
        loss = 2.0 * F.smooth_l1_loss(self.change(inputs), changes)
        # Reward, cost and termination are trained on the data's changes.
        predicted = self.signals(torch.cat([inputs, changes], dim=-1)).flatten(0, 1)
        rewards = (batch.reward - self.signal_mean[0]) / self.signal_std[0]
        loss = loss + F.mse_loss(predicted[:, 0], rewards)
        if self.has_binary_costs:
            loss = loss + F.binary_cross_entropy_with_logits(predicted[:, 1], batch.cost)
        else:
            costs = (batch.cost - self.signal_mean[1]) / self.signal_std[1]
            loss = loss + F.mse_loss(predicted[:, 1], costs)
        if self.terminates:
            ends = batch.terminal.float()
            loss = loss + F.binary_cross_entropy_with_logits(predicted[:, 2], ends)
        return loss

    @torch.no_grad()
    def _measure_disagreement(self, data: TransitionBatch) -> None:
        every = max(1, len(data.obs) // _REFERENCE_TRANSITIONS)
        inputs = torch.cat([self._standardize(data.obs[::every]), data.action[::every]], dim=-1)
        changes = self.change(inputs.expand(self.config.members, *inputs.shape))
        usual = self._disagreement(changes).double().cpu().quantile(0.99)
        self.usual_disagreement.copy_(usual)

    def _disagreement(self, changes: torch.Tensor) -> torch.Tensor:
        return changes[..., self._predicted].std(0, unbiased=False).mean(-1)

    def _standardize(self, obs: torch.Tensor) -> torch.Tensor:
        return (obs - self.obs_mean) / self.obs_std


def _member_transitions(
    trajectories: Trajectories,
    config: DynamicsConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the training episodes of each member.

    Returns:
        The indices of their transitions, (E, most), and the number of valid ones, (E, 1).
    """
    lengths = trajectories.rows.lengths
    episodes = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    # Logs often have no next observation at a time limit, and zeros in its place.
    is_usable = torch.ones_like(episodes, dtype=torch.bool)
    is_usable[lengths.cumsum(0) - 1] = trajectories.rows.terminal | (lengths == 1)
    count = round(config.left_out * len(lengths))
    owned = []
    for _ in range(config.members):
        kept = torch.ones(len(lengths), dtype=torch.bool)
        kept[torch.randperm(len(lengths))[:count]] = False
        owned.append((kept.to(lengths.device)[episodes] & is_usable).nonzero().flatten())
    counts = torch.tensor([[len(numbers)] for numbers in owned], device=lengths.device)
    return nn.utils.rnn.pad_sequence(owned, batch_first=True), counts


def _lr_ratio(update: int, updates: int) -> float:
    if update < _WARMUP_UPDATES:
        return (update + 1) / _WARMUP_UPDATES
    progress = (update - _WARMUP_UPDATES) / max(1, updates - _WARMUP_UPDATES)
    return _FINAL_LR_RATIO + (1 - _FINAL_LR_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))


def _positive(std: torch.Tensor) -> torch.Tensor:
    """Return scales without zeros, for components that never change."""
    return torch.where(std > 1e-6, std, 1.0)


def _drawn(probability: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    if generator is None:
        return probability
    return torch.bernoulli(probability, generator=generator)
