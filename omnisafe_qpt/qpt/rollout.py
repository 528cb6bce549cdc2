# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deployment: to-go tokens updated at each step, candidates scored, Eq. 13-14, Appendix C.3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.checks import (
    check_actions,
    checked_episodes,
    checked_observations,
    checked_signals,
    checked_targets,
)
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig
from omnisafe_qpt.qpt.critics import TwinCritic
from omnisafe_qpt.qpt.kernels import keep_freed_memory
from omnisafe_qpt.qpt.losses import combine_cost
from omnisafe_qpt.qpt.scaling import PolicyInputs, Scaling
from omnisafe_qpt.qpt.selection import RULES, even_spend
from omnisafe_qpt.qpt.transformer import TransformerPolicy
from omnisafe_qpt.runner import zero_action


# Batch size, in numbers, below which more threads hardly help, and cost much time where other
# processes use the same cores.
_SINGLE_THREAD_WORK = 1 << 14


@contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """Use one thread for a small forward pass on a CPU."""
    threads = torch.get_num_threads()
    if threads > 1 and work < _SINGLE_THREAD_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Choice:
    """The candidates selected in the last step and their values, on the policy's device.

    Args:
        candidate (torch.Tensor): (B,) int64, their indices; 0 is the unshifted one.
        feasible (torch.Tensor): (B,) bool, whether any candidate was feasible.
        reward_value (torch.Tensor): (B,) of the selected actions, in units of reward.
        cost_value (torch.Tensor): (B,) of the selected actions, in units of cost.
        shift (torch.Tensor): (B,) difference of their return-to-go from the target.
    """

    candidate: torch.Tensor
    feasible: torch.Tensor
    reward_value: torch.Tensor
    cost_value: torch.Tensor
    shift: torch.Tensor


class Networks(Protocol):
    """Networks to act with: see :class:`omnisafe_qpt.qpt.deployable.DeployableNetworks`."""

    spec: dict[str, Any]
    policy: TransformerPolicy
    reward_critic: TwinCritic
    cost_critic: TwinCritic
    scaling: Scaling

    @property
    def critic_inputs(self) -> str:
        """Inputs of the critics."""

    def critic_states(self, *window: torch.Tensor) -> torch.Tensor:
        """Return the state input of the critics."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""


class RolloutPolicy:
    """The deployed policy over B episodes at once: ``reset``, ``act``, ``observe``.

    All candidates of all episodes go through the Transformer in one pass. The candidates of an
    episode share states, actions and cost-to-go; the return-to-go of candidate j is shifted by a
    constant drawn at the reset from the episode's own seed, and candidate 0 is not shifted. The
    shift applies to the whole history, or to the last return-to-go only. In the second case the
    candidates share all earlier tokens, and many candidates cost little more than one.

    An episode may also run the zero-action fallback: every action is zero in the environment's
    unit. It is for a model whose target calibration found no safe target.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        config (DeploymentConfig): Candidates and selection rule.
        num_episodes (int, optional): B. Defaults to 1.
    """

    def __init__(
        self,
        networks: Networks,
        config: DeploymentConfig,
        num_episodes: int = 1,
    ) -> None:
        """Initialize an instance of :class:`RolloutPolicy`."""
        self._networks = networks.eval()
        self._critics = TwinCritic.joined(networks.reward_critic, networks.cost_critic)
        self._config = config
        self.num_episodes = num_episodes
        spec = networks.spec
        self._obs_dim, self._act_dim = spec['obs_dim'], spec['act_dim']
        self._device = networks.scaling.obs_mean.device
        context_len = spec['policy']['context_len']
        self._rule = RULES[config.rule]
        self._seen = self._rule.steps(context_len)
        tokens, candidates = 4 * self._seen - 1, config.candidates
        if config.candidate_shift == 'last':
            tokens, candidates = tokens + 3 * (candidates - 1), 1
        self._work = num_episodes * candidates * tokens * spec['policy']['embed_dim']
        if self._device.type == 'cpu':
            keep_freed_memory()
        shape = (num_episodes, context_len)
        self._states = torch.zeros(*shape, self._obs_dim, device=self._device)
        self._actions = torch.zeros(*shape, self._act_dim, device=self._device)
        # Per step: return-to-go, cost-to-go.
        self._to_go = torch.zeros(*shape, 2, device=self._device)
        self._timesteps = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._mask = torch.zeros(shape, dtype=torch.bool, device=self._device)
        # Targets at the start of the episode (return, cost), and what is left of them.
        self._targets = torch.zeros(num_episodes, 2, device=self._device)
        self._now = torch.zeros(num_episodes, 2, device=self._device)
        self._step = torch.zeros(num_episodes, dtype=torch.int64, device=self._device)
        self._shifts = torch.zeros(num_episodes, config.candidates, device=self._device)
        # Which episodes are running: steps of the others are not counted.
        self._running = torch.ones(num_episodes, dtype=torch.bool, device=self._device)
        # Which episodes run the zero-action fallback, and whether all do; the latter avoids a wait
        # for the device in each step.
        self._is_fallback = torch.zeros(num_episodes, dtype=torch.bool, device=self._device)
        self._all_fallback = False
        self._zero_action = torch.from_numpy(
            zero_action(self._act_dim, spec.get('action_range'))
        ).to(self._device)
        self._infeasible_steps = torch.zeros((), dtype=torch.int64, device=self._device)
        self._scored_steps = torch.zeros_like(self._infeasible_steps)
        # Of the last step: selected candidates, feasibility, all reward and cost values.
        self._scored: tuple[torch.Tensor, ...] | None = None
        if self._rule.discounts_budget:
            # Checkpoints that do not record it have the default.
            gamma = spec.get('gamma', LearnerConfig.gamma)
            stops = networks.critic_inputs == 'targets_time'
            self._even_spend = even_spend(spec['horizon'], gamma, stops).to(self._device)

    @property
    def choice(self) -> Choice | None:
        """The selection of the last step; None if there was none.

        There is none right after a reset, with one candidate, or while all episodes run the
        zero-action fallback.
        """
        if self._scored is None:
            return None
        chosen, any_feasible, reward_values, cost_values = self._scored
        reward_value, cost_value, shift = (
            values.gather(1, chosen[:, None])[:, 0]
            for values in (reward_values, cost_values, self._shifts)
        )
        reward_value = self._networks.scaling.reward_value(reward_value)
        return Choice(chosen, any_feasible, reward_value, cost_value, shift)

    def reset(
        self,
        target_return: float | None,
        cost_limit: float | None = None,
        seeds: Sequence[int] = (0,),
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Begin new episodes.

        Args:
            target_return (float or None): Target return, undiscounted; None for the zero-action
                fallback.
            cost_limit (float, optional): Undiscounted cost that must not be exceeded. Defaults to
                the target cost of the configuration.
            seeds (Sequence[int], optional): One for each episode begun; they fix the candidates.
                Defaults to ``(0,)``.
            episodes (Sequence[int], optional): Which of the B to begin. Defaults to all.

        Raises:
            UserError: If a target is not finite, or there are not as many seeds as episodes.
        """
        episodes = checked_episodes(episodes, self.num_episodes, seeds)
        cost_limit = self._config.used_target_cost if cost_limit is None else cost_limit
        targets = checked_targets(target_return, cost_limit)
        self._set_fallback(episodes, [target_return is None] * len(episodes))
        self._scored = None
        spread = self._config.target_spread * self._networks.scaling.return_unit
        for episode, seed in zip(episodes, seeds):
            self._mask[episode] = False
            self._step[episode] = 0
            self._running[episode] = True
            self._now[episode] = torch.tensor(targets, device=self._device)
            self._targets[episode] = self._now[episode]
            # The simulator draws from the same seed.
            generator = np.random.default_rng(stream(seed, 'candidates'))
            shifts = torch.as_tensor(
                generator.standard_normal(self._config.candidates),
                dtype=torch.float32,
                device=self._device,
            )
            shifts[0] = 0.0
            self._shifts[episode] = shifts * spread

    def retarget(
        self,
        target_returns: Sequence[float | None],
        cost_limits: Sequence[float],
        episodes: Sequence[int],
    ) -> None:
        """Change the targets of running episodes, as if they had begun with them.

        All their to-go tokens shift by the difference, also in the history. A window therefore
        stays consistent with training: its tokens differ only by the rewards and costs received.

        Args:
            target_returns (Sequence[float or None]): Target return of each whole episode; None for
                the zero-action fallback.
            cost_limits (Sequence[float]): Cost that each whole episode must not exceed.
            episodes (Sequence[int]): Which of the B.

        Raises:
            UserError: If a target is not finite.
        """
        pairs = [checked_targets(*pair) for pair in zip(target_returns, cost_limits)]
        targets = torch.as_tensor(
            np.array(pairs, dtype=np.float32).reshape(-1, 2), device=self._device
        )
        episodes = list(episodes)
        self._set_fallback(episodes, [asked is None for asked in target_returns])
        difference = targets - self._targets[episodes]
        self._now[episodes] += difference
        self._to_go[episodes] += difference[:, None]
        self._targets[episodes] = targets

    def _set_fallback(self, episodes: Sequence[int], are_fallback: list[bool]) -> None:
        """Record which episodes run the zero-action fallback."""
        self._is_fallback[list(episodes)] = torch.tensor(
            are_fallback, dtype=torch.bool, device=self._device
        )
        self._all_fallback = bool(self._is_fallback.all())

    @property
    def remaining(self) -> torch.Tensor:
        """What is left of the target return and of the cost limit, (B, 2)."""
        return self._now.clone()

    def finish(self, episodes: Sequence[int]) -> None:
        """Mark episodes as ended; their steps do not count until their next reset.

        Args:
            episodes (Sequence[int]): Which of the B.
        """
        self._running[list(episodes)] = False

    @torch.inference_mode()
    def act(self, observations: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Select the actions for new observations.

        Args:
            observations (np.ndarray or torch.Tensor): (B, S).

        Returns:
            (B, A) actions in [-1, 1], on the policy's device.

        Raises:
            UserError: If an observation has another size or is not finite, or an action would not
                be. The policy is then unchanged.
        """
        shape = (self.num_episodes, self._obs_dim)
        windows = (self._states, self._actions, self._to_go, self._timesteps, self._mask)
        # The entries that the newest step pushes out, to restore them if it is refused.
        oldest = [window[:, :1].clone() for window in windows]
        self._push(checked_observations(observations, shape).to(self._device))
        try:
            actions, scored = self._chosen_actions()
            check_actions(actions, *(scored or ())[2:])
        except UserError:
            for window, first in zip(windows, oldest):
                window.copy_(torch.cat([first, window[:, :-1]], dim=1))
            raise
        self._scored = scored
        if scored is not None:
            counted = self._running & ~self._is_fallback
            self._infeasible_steps += (counted & ~scored[1]).sum()
            self._scored_steps += counted.sum()
        self._actions[:, -1] = actions
        self._step += 1
        return actions

    def _chosen_actions(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Return the actions (B, A) for the newest observations, and :meth:`_score`'s result."""
        if self._all_fallback:
            return self._zero_action.expand(self.num_episodes, -1), None
        with _threads_for(self._work):
            actions, scored = self._choose()
        return torch.where(self._is_fallback[:, None], self._zero_action, actions), scored

    def _choose(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Return the selected candidates (B, A), and the result of :meth:`_score`."""
        candidates = self._candidate_actions()  # (B, M, A)
        if self._config.candidates == 1:  # no selection, so no critics
            return candidates[:, 0], None
        scored = self._score(candidates)
        chosen = scored[0][:, None, None].expand(-1, 1, self._act_dim)
        return candidates.gather(1, chosen)[:, 0], scored

    def observe(
        self,
        rewards: float | np.ndarray | torch.Tensor,
        costs: float | np.ndarray | torch.Tensor,
    ) -> None:
        """Record the rewards and costs of the last actions, one number for each episode.

        Args:
            rewards (float, np.ndarray or torch.Tensor): (B,) rewards.
            costs (float, np.ndarray or torch.Tensor): (B,) costs.

        Raises:
            UserError: If a number is not finite.
        """
        received = [
            value.to(self._device).reshape(-1).expand(self.num_episodes)
            for value in checked_signals(rewards, costs)
        ]
        self._now -= torch.stack(received, dim=-1)

    def record_actions(self, actions: torch.Tensor) -> None:
        """Record that the executed actions differ from the last ones selected.

        Args:
            actions (torch.Tensor): (B, A) in [-1, 1].
        """
        self._actions[:, -1] = actions

    def pop_infeasible_share(self) -> float:
        """Return the share of steps, since the last call, at which no candidate was feasible."""
        share = self._infeasible_steps.item() / max(1, self._scored_steps.item())
        self._infeasible_steps.zero_()
        self._scored_steps.zero_()
        return share

    def _push(self, observations: torch.Tensor) -> None:
        """Shift every window by one step and put the newest at its end."""
        for history, newest in (
            (self._states, observations),
            (self._actions, torch.zeros_like(self._actions[:, -1])),
            (self._to_go, self._now),
            (self._timesteps, self._step),
            (self._mask, torch.ones_like(self._mask[:, -1])),
        ):
            history.copy_(torch.cat([history[:, 1:], newest[:, None]], dim=1))

    def _candidate_actions(self) -> torch.Tensor:
        """Return the actions of all candidates, (B, M, A), from one forward pass."""
        policy, scaling = self._networks.policy, self._networks.scaling
        states, actions, to_go, timesteps, mask = (
            history[:, -self._seen :]
            for history in (self._states, self._actions, self._to_go, self._timesteps, self._mask)
        )
        return_to_go, cost_to_go = self._tokens(to_go)
        inputs = PolicyInputs(
            scaling.observation(states), actions, return_to_go, cost_to_go, timesteps, mask
        )
        shifts = scaling.return_token(self._shifts)  # (B, M)
        if self._config.candidate_shift == 'last':
            return policy.last_candidate_actions(inputs, return_to_go[:, -1:] + shifts)
        return policy.candidate_actions(inputs, return_to_go[:, None] + shifts[..., None])

    def _tokens(self, to_go: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale returns-to-go and costs-to-go (..., 2) for the networks; each (...)."""
        cost_to_go = to_go[..., 1]
        if self._rule.clamps_cost:
            cost_to_go = cost_to_go.clamp_min(0.0)
        scaling = self._networks.scaling
        return scaling.return_token(to_go[..., 0]), scaling.cost_token(cost_to_go)

    def _score(self, candidates: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Select among candidates (B, M, A) by the critics' values.

        Returns:
            (B,) indices of the selected ones, (B,) whether any is feasible, and all reward and cost
            values, (B, M) each.
        """
        scaling = self._networks.scaling
        # Critics that see targets get the unshifted candidate's targets for every action: the
        # policy continues with them whichever candidate is selected. With its own target, the
        # candidate with the highest target would have the highest value for any action.
        states = self._networks.critic_states(
            scaling.observation(self._states[:, -1:]),
            *self._tokens(self._to_go[:, -1:]),
            self._timesteps[:, -1:],
        )
        reward_values, cost_values = self._critics(states, candidates).tensor_split(2)
        reward_values = reward_values.amin(0)
        cost_values = scaling.cost_value(combine_cost(cost_values, self._config.cost_value))
        budgets = self._now[:, 1]
        if self._rule.discounts_budget:
            step = self._timesteps[:, -1].clamp_max(len(self._even_spend) - 1)
            budgets = budgets * self._even_spend[step]
        chosen, any_feasible = self._rule.select(reward_values, cost_values, budgets)
        return chosen, any_feasible, reward_values, cost_values
