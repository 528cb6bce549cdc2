# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a trained model on whole episodes of data, without an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from omnisafe_qpt.data.trajectories import EpisodeRows, Trajectories
from omnisafe_qpt.data.windows import SequenceBatch, WindowSampler
from omnisafe_qpt.evaluation.critic_calibration import Calibration, calibrate, discounted_sums
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.losses import combine_cost
from omnisafe_qpt.qpt.rollout import RolloutPolicy


# Number of states in the check of candidates. A share is then known to within 0.016, at 95 %.
DEFAULT_STATES = 4096
# Windows in one forward pass: a GPU needs many, a CPU's cache few.
_WINDOWS = {'cpu': 512, 'cuda': 16384}
# Smallest number of states in a batch of the check of candidates; each has its own candidates.
_LEAST_STATES = 64


@dataclass(frozen=True)
class ActionError:
    """Error of the policy's actions against the data's, and of a constant action.

    Args:
        episodes (str): Which episodes: ``all``, or those ``within`` or ``over`` the cost limit.
        cost_limit (float, optional): That limit; None for all episodes.
        num_episodes (int): Number of episodes.
        num_steps (int): Their transitions.
        error (float, optional): Mean squared error of the policy, over steps and action
            dimensions. None where there is no step.
        mean_action_error (float, optional): The same error for the mean action of all the data.
    """

    episodes: str
    cost_limit: float | None
    num_episodes: int
    num_steps: int
    error: float | None
    mean_action_error: float | None


@dataclass(frozen=True)
class CandidateShares:
    """Statistics of the selection among candidates at states of the data.

    Args:
        num_states (int): Number of states.
        overspent_share (float): Share of states at which the episode has already exceeded the
            limit.
        infeasible_share (float): Share of states without a feasible candidate.
        infeasible_within_share (float, optional): The same among states that are not overspent.
            None if all are.
        changed_share (float): Share of states at which a shifted candidate is selected.
    """

    num_states: int
    overspent_share: float
    infeasible_share: float
    infeasible_within_share: float | None
    changed_share: float


class OfflineChecks:
    """Compares a trained model with whole episodes of data.

    It covers every state s_0..s_L of every episode: W = N + E states of N transitions in E
    episodes. Each is at the end of its window of K steps, as in deployment.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        trajectories (Trajectories): The episodes, on the same device or in host memory.
        gamma (float): Discount of the critics.
        cost_value (str): How twin cost values are reduced to one, ``min`` or ``max``.
        advance (Callable[[int], None], optional): Called with the number of windows processed since
            the last call. Defaults to None.
    """

    def __init__(
        self,
        networks: DeployableNetworks,
        trajectories: Trajectories,
        gamma: float,
        cost_value: str,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Initialize an instance of :class:`OfflineChecks`."""
        self._networks = networks.eval()
        self._device = networks.device
        self._trajectories = trajectories
        self._gamma = gamma
        self._cost_value = cost_value
        self._advance = advance or (lambda windows: None)
        rows = trajectories.rows
        # For every state: its episode, its row in the table, and the steps to the end.
        numbers = torch.arange(len(rows), device=rows.lengths.device)
        self._episode = numbers.repeat_interleave(rows.lengths + 1)
        ends = (rows.lengths + 1).cumsum(0)[self._episode]
        state = torch.arange(len(self._episode), device=ends.device)
        self._steps_left = ends - 1 - state
        self._rows = (rows.starts + rows.lengths)[self._episode] - self._steps_left
        self._has_action = (self._steps_left > 0).cpu()
        # Whether the critics' bootstrap value is zero at the last state of an episode, (E,).
        is_over = rows.terminal
        if networks.critic_inputs == 'targets_time':
            is_over = is_over | (rows.lengths >= networks.spec['horizon'])
        self._is_over = is_over[self._episode]

    def count_windows(self, candidates: int, limits: int, num_states: int) -> int:
        """Return the number of windows in all checks, for progress.

        Args:
            candidates (int): M; with 1 there is no selection.
            limits (int): Number of cost limits in the check of candidates.
            num_states (int): Largest number of states in it.
        """
        states = min(num_states, int(self._has_action.sum()))
        return len(self._rows) + (limits * candidates * states if candidates > 1 else 0)

    # ------------------------------------------------------------------ actions

    def action_errors(self, cost_limits: Sequence[float]) -> list[ActionError]:
        """Compare the policy's actions with the data's, conditioned on the data's to-go tokens.

        Each action counts once, at the end of its window.

        Args:
            cost_limits (Sequence[float]): For each, there is also a result for the episodes within
                it and one for those over it.
        """
        actions = self._columns(self._trajectories.obs_dim, self._trajectories.act_dim)
        predicted, _ = self._predictions
        squares = (predicted - actions).square().mean(1)[self._has_action]
        actions = actions[self._has_action]
        constant = (actions - actions.mean(0)).square().mean(1)
        costs = self._trajectories.cost_returns.cpu()
        everything = torch.ones_like(costs, dtype=torch.bool)
        groups: list[tuple[str, float | None, torch.Tensor]] = [('all', None, everything)]
        for limit in cost_limits:
            groups += [('within', limit, costs <= limit), ('over', limit, costs > limit)]
        episode = self._episode.cpu()[self._has_action]
        found = []
        for name, of_limit, is_chosen in groups:
            chosen = is_chosen[episode]
            errors = (_mean(values[chosen]) for values in (squares, constant))
            found.append(
                ActionError(name, of_limit, int(is_chosen.sum()), int(chosen.sum()), *errors),
            )
        return found

    # ------------------------------------------------------------------ critics

    @property
    def uncounted_weight(self) -> float:
        """Mean share of the discount weight of a value that lies after the time limit."""
        weight = self._gamma ** self._steps_left.double()
        weight = torch.where(self._is_over, 0.0, weight)
        return weight.cpu()[self._has_action].mean().item()

    def calibrations(self) -> dict[str, Calibration]:
        """Compare the critics' values of the data's actions with empirical sums.

        A value is the minimum of the twins for reward and ``cost_value`` of them for cost, as in
        deployment. If a time limit ended an episode, a critic's value includes the steps after it,
        but the empirical sum does not. So there are two sums: ``discounted``, to the end of the
        episode; and ``completed``, which adds the critic's value of the last state, as the training
        target does. ``completed`` is left out where both are equal: without a time limit, or if the
        critics stop there.

        Returns:
            ``reward_discounted``, ``reward_completed``, ``cost_discounted``, ``cost_completed``,
            and ``cost_to_go``: the cost value against the undiscounted cost-to-go, which a budget
            limits.
        """
        _, values = self._predictions
        steps_left, chosen = self._steps_left.cpu(), self._has_action
        received = self._columns(self._trajectories.act_dim + self._trajectories.obs_dim, 4).T
        goes_on = ~self._is_over.cpu()
        found = {}
        for index, kind in enumerate(('reward', 'cost')):
            predicted = values[index]
            sums = {'discounted': received[index]}
            if goes_on.any():
                last_values = predicted.clamp_min(0.0) if kind == 'cost' else predicted
                sums['completed'] = torch.where(chosen | ~goes_on, received[index], last_values)
            for name, step_values in sums.items():
                realised = discounted_sums(step_values, steps_left, self._gamma)
                found[f'{kind}_{name}'] = calibrate(predicted[chosen], realised[chosen])
        found['cost_to_go'] = calibrate(values[1][chosen], received[3][chosen])
        return found

    # ------------------------------------------------------------------ candidates

    def candidate_shares(
        self,
        config: DeploymentConfig,
        target_return: float,
        num_states: int = DEFAULT_STATES,
        seed: int = 0,
    ) -> CandidateShares | None:
        """Select among candidates at states of the data, as in deployment with a cost limit.

        The history of a state is the data's. Its targets are the target return and the cost limit
        minus the data's rewards and costs so far. So the budget is the limit minus the cost so far.

        Args:
            config (DeploymentConfig): Cost limit, candidates, rule.
            target_return (float): Target return at the start of an episode.
            num_states (int, optional): Largest number of states to draw. Defaults to
                :data:`DEFAULT_STATES`.
            seed (int, optional): Seed of the states and the candidates. Defaults to 0.

        Returns:
            The statistics, or None with one candidate.
        """
        if config.candidates == 1:
            return None
        numbers = self._draw(num_states, seed)
        size = max(_LEAST_STATES, _WINDOWS[self._device.type] // config.candidates)
        size = min(size, len(numbers))
        policy = _PlacedPolicy(self._networks, config, num_episodes=size)
        policy.reset(target_return, seeds=range(seed, seed + size))
        # A shift of each episode turns the data's to-go sums into those of the targets.
        data = self._trajectories
        sampler = self._sampler(
            replace(
                data.rows,
                return_shift=target_return - data.returns,
                cost_shift=config.used_target_cost - data.cost_returns,
            ),
        )
        found: list[torch.Tensor] = []
        # The policy's batch has a fixed size: the last one is padded with the first states.
        filled = numbers[torch.arange(-(-len(numbers) // size) * size) % len(numbers)]
        for batch in self._batches(sampler, filled, size):
            policy.place(batch)
            policy.act(batch.states[:, -1].cpu())
            choice = policy.choice
            assert choice is not None  # as there are candidates
            found.append(
                torch.stack(
                    [batch.cost_to_go[:, -1] < 0, ~choice.feasible, choice.candidate != 0],
                ),
            )
            self._advance(size * config.candidates)
        overspent, infeasible, changed = torch.cat(found, dim=1)[:, : len(numbers)].cpu().double()
        within = infeasible[overspent == 0]
        return CandidateShares(
            num_states=len(numbers),
            overspent_share=overspent.mean().item(),
            infeasible_share=infeasible.mean().item(),
            infeasible_within_share=_mean(within),
            changed_share=changed.mean().item(),
        )

    def _draw(self, num_states: int, seed: int) -> torch.Tensor:
        """Draw states that have an action, without repetition and in order; all if few."""
        states = self._has_action.nonzero()[:, 0]
        if len(states) > num_states:
            generator = torch.Generator().manual_seed(seed)
            states = states[torch.randperm(len(states), generator=generator)[:num_states]]
        return states.sort().values

    # ------------------------------------------------------------------ passes over the data

    @cached_property
    def _predictions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the policy's actions (W, A) and the values (2, W) at all states; float64, CPU.

        Values are those of the reward and the cost critics for the data's action; at the last state
        of an episode for the policy's action. They are in units of reward and cost.
        """
        networks, scaling = self._networks, self._networks.scaling
        size = _WINDOWS[self._device.type]
        actions, values = [], []
        numbers = torch.arange(len(self._rows))
        for batch in self._batches(self._sampler(), numbers, size):
            inputs = scaling.policy_inputs(batch)
            predicted = networks.policy(inputs, last_only=True)[:, 0]
            states = networks.critic_states(
                inputs.states, inputs.return_to_go, inputs.cost_to_go, inputs.timesteps
            )[:, -1]
            taken = torch.where(batch.action_mask[:, -1:], batch.actions[:, -1], predicted)
            reward_value = networks.reward_critic(states, taken).amin(0)
            cost_value = combine_cost(
                networks.cost_critic(states, taken),
                self._cost_value,
            )
            actions.append(predicted)
            values.append(
                torch.stack([scaling.reward_value(reward_value), scaling.cost_value(cost_value)]),
            )
            self._advance(len(predicted))
        return torch.cat(actions).double().cpu(), torch.cat(values, dim=1).double().cpu()

    def _sampler(self, rows: EpisodeRows | None = None) -> WindowSampler:
        return WindowSampler(
            self._trajectories,
            context_len=self._networks.spec['policy']['context_len'],
            batch_size=1,  # draws nothing
            seed=0,
            rows=rows,
        )

    def _batches(
        self,
        sampler: WindowSampler,
        numbers: torch.Tensor,
        size: int,
    ) -> Iterator[SequenceBatch]:
        """Yield batches of the windows with these indices, on the networks' device."""
        for part in numbers.to(self._trajectories.table.device).split(size):
            yield sampler.unpack([each.to(self._device) for each in sampler.gather(part)])

    def _columns(self, first: int, count: int) -> torch.Tensor:
        """Return columns of the table at every state, (W, count) float64, on the CPU."""
        table = self._trajectories.table[:, first : first + count]
        return table[self._rows].cpu().double()


class _PlacedPolicy(RolloutPolicy):
    """A policy that continues recorded episodes from any state."""

    def place(self, batch: SequenceBatch) -> None:
        """Load B windows as the history, without their last state, on which the policy will act.

        Args:
            batch (SequenceBatch): The windows, their to-go sums those of the policy's targets.
        """
        to_go = torch.stack([batch.return_to_go, batch.cost_to_go], dim=-1)
        for history, window in (
            (self._states, batch.states),
            (self._actions, batch.actions),
            (self._to_go, to_go),
            (self._timesteps, batch.timesteps),
            (self._mask, batch.mask),
        ):
            # The state before the last step, which acting appends.
            history[:, 1:] = window[:, :-1]
        self._now.copy_(to_go[:, -1])
        self._step.copy_(batch.timesteps[:, -1])


def _mean(values: torch.Tensor) -> float | None:
    return values.mean().item() if len(values) else None
