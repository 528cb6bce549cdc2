# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deployment: return- and cost-to-go fed back, candidates scored, Eq. (13)-(14), Appendix C.3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import CRITIC_INPUTS, DeploymentConfig, LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.critics import TwinCritic, count_critic_states, critic_states
from omnisafe_qpt.qpt.kernels import keep_freed_memory
from omnisafe_qpt.qpt.learner import Learner, combine_cost
from omnisafe_qpt.qpt.scaling import PolicyInputs, Scaling
from omnisafe_qpt.qpt.transformer import TransformerPolicy
from omnisafe_qpt.qpt.weights import rebuild
from omnisafe_qpt.runner import zero_action
from omnisafe_qpt.schema import (
    LARGEST_NUMBER,
    Check,
    build,
    flag,
    layers,
    maybe,
    number,
    record,
    sequence,
    size,
    text,
)


def _check_action_range(value: Any, path: str) -> None:
    """Take the range of an environment's actions: ``low`` and ``high``, equally many numbers."""
    ends = sequence(number(), 1)
    record({'low': ends, 'high': ends})(value, path)
    low, high = value['low'], value['high']
    if len(low) != len(high) or not all(a < b for a, b in zip(low, high)):
        raise UserError(f'{path} must hold as many numbers high as low, each above its low')


# What the spec of any deployable model holds about its sizes.
SPEC_FIELDS: dict[str, Check] = {'obs_dim': size('obs_dim'), 'act_dim': size('act_dim')}
OPTIONAL_SPEC_FIELDS: dict[str, Check] = {
    'horizon': size('horizon'),
    'action_range': maybe(_check_action_range),
}


def check_spec(spec: Any, check: Check) -> None:
    """Refuse a spec by which no networks can be built.

    Args:
        spec (Any): What a checkpoint holds as the networks' spec.
        check (Check): Of the kind of networks.

    Raises:
        UserError: If a size is missing or impossible.
    """
    check(spec, '')
    action_range, act_dim = spec.get('action_range'), spec['act_dim']
    if action_range is not None and len(action_range['low']) != act_dim:
        raise UserError(f'action_range is of {len(action_range["low"])} numbers, not {act_dim}')


class Deployable(Protocol):
    """A trained model of any algorithm, as whoever runs episodes sees it.

    ``deploy`` gives what has the methods of :class:`RolloutPolicy`. The spec of a model that asks
    for returns and costs has ``policy``; that of one which acts on the observation alone has
    ``actor``.
    """

    spec: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where it acts."""

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> Any:
        """Return the policy that acts in so many episodes at once."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it can be rebuilt from."""


class DeployableNetworks(nn.Module):
    """What a trained model needs to act: policy, critics and units.

    Its state dict carries its own sizes as extra state, so that it can be rebuilt from nothing
    else (:meth:`from_state_dict`), and holds only tensors and plain Python values.

    Args:
        spec (dict[str, Any]): ``obs_dim``, ``act_dim``, ``policy`` (:class:`PolicyConfig` as a
            dict), ``critic_hidden_sizes``, and whatever else the checkpoint should tell (horizon,
            frontier, environment, dataset, versions).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        """Initialize an instance of :class:`DeployableNetworks`."""
        super().__init__()
        self.spec = spec
        obs_dim, act_dim = spec['obs_dim'], spec['act_dim']
        self.policy = TransformerPolicy(obs_dim, act_dim, PolicyConfig(**spec['policy']))
        sizes = (
            count_critic_states(self.critic_inputs, obs_dim),
            act_dim,
            spec['critic_hidden_sizes'],
        )
        self.reward_critic = TwinCritic(*sizes)
        self.cost_critic = TwinCritic(*sizes)
        self.scaling = Scaling(torch.zeros(obs_dim), torch.ones(obs_dim))
        self.requires_grad_(False)

    @classmethod
    def from_learner(cls, learner: Learner, spec: dict[str, Any]) -> DeployableNetworks:
        """Copy the online policy and the target critics out of a learner.

        The critics are the target networks, as Eq. (13) and (14) write; the policy is the online
        one, as Algorithm 1 does.

        Args:
            learner (Learner): The learner.
            spec (dict[str, Any]): What the learner does not know: horizon, frontier and so on.
        """
        networks = cls(
            {
                'horizon': learner.config.horizon,
                **spec,
                'obs_dim': len(learner.scaling.obs_mean),
                'act_dim': learner.policy.head.out_features,
                'policy': asdict(learner.config.policy),
                'critic_hidden_sizes': list(learner.config.critic_hidden_sizes),
                'critic_inputs': learner.config.critic_inputs,
                'gamma': learner.config.gamma,
                'has_critics': learner.config.train_critics,
            },
        ).to(learner.device)
        networks.policy.load_state_dict(learner.policy.state_dict())
        networks.reward_critic.load_state_dict(learner.target_reward_critic.state_dict())
        networks.cost_critic.load_state_dict(learner.target_cost_critic.state_dict())
        networks.scaling.load_state_dict(learner.scaling.state_dict())
        return networks.eval()

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> DeployableNetworks:
        """Rebuild networks from their state dict alone.

        Raises:
            UserError: If its sizes are impossible, or a weight does not fit or is not finite.
        """
        check_spec(state.get('_extra_state'), _CHECK_SPEC)
        return rebuild(lambda: cls(state['_extra_state']), state)

    @property
    def device(self) -> torch.device:
        """Where it acts."""
        return self.scaling.obs_mean.device

    @property
    def critic_inputs(self) -> str:
        """What its critics see (:func:`omnisafe_qpt.qpt.critics.critic_states`)."""
        return self.spec.get('critic_inputs', 'state_action')  # older checkpoints do not say

    @property
    def has_critics(self) -> bool:
        """Whether its critics were trained, so that they can choose among candidates."""
        if 'has_critics' in self.spec:
            return self.spec['has_critics']
        # A checkpoint from before this was recorded has the options that decided it.
        options = self.spec.get('config', {}).get('algo_cfgs', {})
        names = ('use_reward_critic', 'use_cost_critic', 'use_ensemble')
        return any(options.get(name, True) for name in names)

    def critic_states(self, *window: torch.Tensor) -> torch.Tensor:
        """Return what its critics take as states.

        Args:
            window (torch.Tensor): States, returns-to-go, costs-to-go and timesteps, as
                :func:`omnisafe_qpt.qpt.critics.critic_states` takes them.
        """
        return critic_states(self.critic_inputs, self.spec.get('horizon', 0), *window)

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> RolloutPolicy:
        """Return a policy that acts with these networks; see :class:`RolloutPolicy`."""
        return RolloutPolicy(self, config, num_episodes)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the sizes and the rest of the spec."""
        return self.spec

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over a spec; its sizes were used when the networks were built."""
        self.spec = state


def _check_policy(value: Any, path: str) -> None:
    build(PolicyConfig, value, path)


_CHECK_SPEC = record(
    {**SPEC_FIELDS, 'policy': _check_policy, 'critic_hidden_sizes': layers(1)},
    {
        **OPTIONAL_SPEC_FIELDS,
        'critic_inputs': text(*CRITIC_INPUTS),
        'gamma': number(0, 1),
        'has_critics': flag,
    },
)


def select_candidate(
    reward_values: torch.Tensor,
    cost_values: torch.Tensor,
    budgets: torch.Tensor,
    rule: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one of each episode's candidates.

    ``paper``, Eq. (13)-(14): the highest reward value among candidates whose cost value fits the
    budget; where none fits, the lowest cost value.

    ``bounded``: the same, but a candidate must also cost no more than the unshifted one
    (candidate 0). While the budget is large, the paper's rule is a plain maximum of the reward
    value and spends it early; this one only ever takes a better action that is no riskier.

    ``paced``: the highest reward value among candidates whose cost value fits, but only where the
    unshifted candidate fits too; where it does not, the unshifted candidate. The budget to compare
    with is what the critics would say of it (:func:`even_spend`). Where the critics see the policy
    itself beyond its budget, their values are averages over all the targets in the data and tell
    little; always taking the cheapest action then leads away from the data
    (``benchmarks/LIMITS.md``).

    ``paper`` and ``bounded`` compare a discounted value with a plain sum, as Eq. (14) writes it.
    That is lenient far from the end of an episode. Discounting the budget without keeping to the
    unshifted candidate was worse, as hardly any candidate fitted (BallCircle at limit 10, 3000
    updates of 32, 20 episodes: return 0.30 and cost 0.93, against 0.55 and 0.19).

    Args:
        reward_values (torch.Tensor): (B, M).
        cost_values (torch.Tensor): (B, M).
        budgets (torch.Tensor): (B,) cost that each episode may still incur; for ``paced`` what the
            critics would say of it.
        rule (str): ``paper``, ``bounded`` or ``paced``.

    Returns:
        (B,) int64, the chosen candidates, and (B,) bool, whether any candidate fitted.
    """
    bound = budgets
    if rule == 'bounded':
        bound = torch.minimum(budgets, cost_values[:, 0])
    feasible = cost_values <= bound[:, None]
    any_feasible = feasible.any(dim=1)
    best_feasible = torch.where(feasible, reward_values, -torch.inf).argmax(dim=1)
    if rule == 'paced':
        return torch.where(feasible[:, 0], best_feasible, 0), any_feasible
    return torch.where(any_feasible, best_feasible, cost_values.argmin(dim=1)), any_feasible


def even_spend(horizon: int, gamma: float, stops: bool = False) -> torch.Tensor:
    """Return what a critic says of a budget that is spent evenly, for a budget of one.

    A budget b for n steps is a cost of b / n in each. A critic that does not see the time values
    what would come if the episode went on beyond its time limit, where it bootstraps: of the same
    cost in every step for ever it says b / (n (1 - gamma)). One that stops at the time limit says
    b (1 + gamma + ... + gamma^(n-1)) / n.

    The steps left are those to the time limit. Where an episode may end in a terminal state before
    it, nobody knows when: spending is planned for all of them, and what an early end would have
    left of the budget is not spent.

    Without a discount a value is a plain sum, as the budget is, so the factor is 1. A critic that
    does not stop has such values only where all episodes end in terminal states.

    Args:
        horizon (int): Steps of an episode, T.
        gamma (float): Discount of the critics.
        stops (bool, optional): Whether the critics stop at the time limit. Defaults to False.

    Returns:
        (T,) float32, the factor at each step 0 .. T - 1 for the T .. 1 steps left.
    """
    steps_left = torch.arange(horizon, 0, -1, dtype=torch.float64)
    if gamma == 1.0:
        return torch.ones(horizon)
    worth = 1.0 - gamma**steps_left if stops else 1.0
    return (worth / ((1.0 - gamma) * steps_left)).float()


# Steps of history that the rule ``paced`` acts on. Every shorter history than the context was
# trained too, as the policy predicts at each state of a window from those before it. From a longer
# one it tells which behaviour it has been imitating and goes on with that, whatever the targets.
PACED_HISTORY = 3


# Numbers in a batch of tokens below which more threads hardly help, and cost much time where other
# processes want the same cores.
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


def _is_usable(values: torch.Tensor) -> bool:
    return bool((values.abs() <= LARGEST_NUMBER).all())  # not so for NaN


def checked_observations(
    observations: np.ndarray | torch.Tensor,
    shape: tuple[int, int],
) -> torch.Tensor:
    """Return observations as float32, on the device where they are, if a policy can act on them.

    Args:
        observations (np.ndarray or torch.Tensor): Of B episodes. Best checked on the host, before
            the transfer, so that a GPU need not be waited for.
        shape (tuple[int, int]): (B, S), which they must have.

    Raises:
        UserError: If an observation has another size or is not finite.
    """
    observations = torch.as_tensor(observations, dtype=torch.float32)
    if observations.shape != shape:
        raise UserError(
            f'observation has shape {tuple(observations.shape)}; the policy was trained on {shape}',
        )
    if not _is_usable(observations):
        raise UserError(
            'observation holds NaN or infinity, or a number beyond '
            f'{LARGEST_NUMBER:g}; the policy will not act on it',
        )
    return observations


def checked_signals(*signals: float | np.ndarray | torch.Tensor) -> list[torch.Tensor]:
    """Return rewards and costs as float32, if a policy can go on from them.

    One that is not finite would stay in the history for good: attention multiplies even padding,
    by zero.

    Args:
        signals (float, np.ndarray or torch.Tensor): Rewards, costs.

    Raises:
        UserError: If a number is not finite.
    """
    received = [torch.as_tensor(value, dtype=torch.float32) for value in signals]
    if not all(map(_is_usable, received)):
        raise UserError('reward or cost is NaN or infinity; the policy cannot go on from it')
    return received


@dataclass(frozen=True)
class Choice:
    """Which candidates were chosen in the last step, and by which values; on the policy's device.

    Args:
        candidate (torch.Tensor): (B,) int64, their numbers; 0 is the unshifted one.
        feasible (torch.Tensor): (B,) bool, whether any candidate fitted.
        reward_value (torch.Tensor): (B,) of the chosen actions, in units of reward.
        cost_value (torch.Tensor): (B,) of the chosen actions, in units of cost.
        shift (torch.Tensor): (B,) return that they ask for beyond the target.
    """

    candidate: torch.Tensor
    feasible: torch.Tensor
    reward_value: torch.Tensor
    cost_value: torch.Tensor
    shift: torch.Tensor


def check_actions(actions: torch.Tensor, *values: torch.Tensor) -> None:
    """Refuse actions that are not finite; waits for the device, as who sends them does anyway.

    Args:
        actions (torch.Tensor): What a policy has chosen.
        values (torch.Tensor): By which it has chosen among candidates.

    Raises:
        UserError: If one is NaN or infinite.
    """
    finite = torch.stack([each.isfinite().all() for each in (actions, *values)])
    if not bool(finite.all()):
        raise UserError(
            'the action or its value would be NaN or infinite, so none is sent and the policy is '
            'as before: its networks overflow at this observation, or its weights are damaged; use '
            'another checkpoint',
        )


def _checked_targets(target_return: float | None, cost_limit: float) -> tuple[float, float]:
    """Return what an episode starts from; without a target return it is 0, and never acted on."""
    target_return = 0.0 if target_return is None else target_return
    for name, value in (('target_return', target_return), ('cost_limit', cost_limit)):
        if not abs(value) <= LARGEST_NUMBER:  # not so for NaN
            raise UserError(f'{name} is {value}; it must be a finite number')
    return target_return, cost_limit


class RolloutPolicy:
    """The deployed policy over B episodes at once: ``reset``, ``act``, ``observe``.

    All candidates of all episodes go through the Transformer in one pass. The candidates of an
    episode share states, actions and cost-to-go; the return-to-go of candidate j is shifted by a
    constant drawn at the reset from the episode's own seed, and candidate 0 is not shifted. The
    shift is of the whole history, or of the last return-to-go only: then the candidates share all
    that comes before, and many cost little more than one.

    An episode may also be one of the zero-action fallback, in which every action is zero in the
    environment's own unit: for a model whose target calibration found no safe target.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        config (DeploymentConfig): Candidates and selection rule.
        num_episodes (int, optional): B. Defaults to 1.
    """

    def __init__(
        self,
        networks: DeployableNetworks,
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
        # Steps of the window that the policy is shown.
        self._seen = min(PACED_HISTORY, context_len) if config.rule == 'paced' else context_len
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
        # What was asked for at the beginning: return, cost. And what of it is left.
        self._targets = torch.zeros(num_episodes, 2, device=self._device)
        self._now = torch.zeros(num_episodes, 2, device=self._device)
        self._step = torch.zeros(num_episodes, dtype=torch.int64, device=self._device)
        self._shifts = torch.zeros(num_episodes, config.candidates, device=self._device)
        # Which episodes are going on: the others' steps are not counted.
        self._running = torch.ones(num_episodes, dtype=torch.bool, device=self._device)
        # Which are of the zero-action fallback, and whether all are, so that no step has to wait
        # for the device to tell.
        self._is_fallback = torch.zeros(num_episodes, dtype=torch.bool, device=self._device)
        self._all_fallback = False
        self._zero_action = torch.from_numpy(
            zero_action(self._act_dim, spec.get('action_range'))
        ).to(self._device)
        self._infeasible_steps = torch.zeros((), dtype=torch.int64, device=self._device)
        self._scored_steps = torch.zeros_like(self._infeasible_steps)
        # Of the last step: candidates chosen, whether any fitted, all reward and cost values.
        self._scored: tuple[torch.Tensor, ...] | None = None
        if config.rule == 'paced':
            # A checkpoint that does not say has the default.
            gamma = spec.get('gamma', LearnerConfig.gamma)
            stops = networks.critic_inputs == 'targets_time'
            self._even_spend = even_spend(spec['horizon'], gamma, stops).to(self._device)

    @property
    def choice(self) -> Choice | None:
        """What was chosen in the last step; None without a choice.

        That is right after a reset, with one candidate, or while all episodes are of the
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
            target_return (float or None): Return to ask for, undiscounted; None for the zero-action
                fallback.
            cost_limit (float, optional): Undiscounted cost that must not be exceeded. Defaults
                to what the configuration asks for.
            seeds (Sequence[int], optional): One for each episode begun; they fix the candidates.
                Defaults to ``(0,)``.
            episodes (Sequence[int], optional): Which of the B to begin. Defaults to all.

        Raises:
            UserError: If a target is not finite, or there are not as many seeds as episodes.
        """
        episodes = range(self.num_episodes) if episodes is None else episodes
        if len(seeds) != len(episodes):
            raise UserError(f'reset got {len(seeds)} seeds for {len(episodes)} episodes')
        cost_limit = self._config.cost_to_ask_for if cost_limit is None else cost_limit
        targets = _checked_targets(target_return, cost_limit)
        self._set_fallback(episodes, [target_return is None] * len(episodes))
        self._scored = None
        spread = self._config.target_spread * self._networks.scaling.return_unit
        for episode, seed in zip(episodes, seeds):
            self._mask[episode] = False
            self._step[episode] = 0
            self._running[episode] = True
            self._now[episode] = torch.tensor(targets, device=self._device)
            self._targets[episode] = self._now[episode]
            # The simulator draws from the seed itself.
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
        """Go on as if episodes had begun with other targets.

        All their to-go tokens shift by the difference, those of the history too. So a window
        stays one of training, where tokens differ by what was received and by nothing else.

        Args:
            target_returns (Sequence[float or None]): Return to ask for, of each whole episode;
                None for the zero-action fallback.
            cost_limits (Sequence[float]): Cost that each whole episode must not exceed.
            episodes (Sequence[int]): Which of the B.

        Raises:
            UserError: If a target is not finite.
        """
        pairs = [_checked_targets(*pair) for pair in zip(target_returns, cost_limits)]
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
        """Note whether episodes are of the zero-action fallback."""
        self._is_fallback[list(episodes)] = torch.tensor(
            are_fallback, dtype=torch.bool, device=self._device
        )
        self._all_fallback = bool(self._is_fallback.all())

    @property
    def remaining(self) -> torch.Tensor:
        """What is left of the target return and of the cost limit, (B, 2)."""
        return self._now.clone()

    def finish(self, episodes: Sequence[int]) -> None:
        """Say that episodes have ended; until their next reset they do not count.

        Args:
            episodes (Sequence[int]): Which of the B.
        """
        self._running[list(episodes)] = False

    @torch.inference_mode()
    def act(self, observations: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Choose the actions at new observations.

        Args:
            observations (np.ndarray or torch.Tensor): (B, S).

        Returns:
            (B, A) actions in [-1, 1], on the policy's device.

        Raises:
            UserError: If an observation has another size or is not finite, or an action would not
                be. Then the policy is as it was before.
        """
        shape = (self.num_episodes, self._obs_dim)
        windows = (self._states, self._actions, self._to_go, self._timesteps, self._mask)
        # What the newest step pushes out, in case it is refused.
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
        """Return the actions (B, A) for the newest observations, and how :meth:`_score` chose."""
        if self._all_fallback:
            return self._zero_action.expand(self.num_episodes, -1), None
        with _threads_for(self._work):
            actions, scored = self._choose()
        return torch.where(self._is_fallback[:, None], self._zero_action, actions), scored

    def _choose(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Return the best candidates (B, A), and how :meth:`_score` chose them."""
        candidates = self._candidate_actions()  # (B, M, A)
        if self._config.candidates == 1:  # the plain policy, which needs no critics
            return candidates[:, 0], None
        scored = self._score(candidates)
        chosen = scored[0][:, None, None].expand(-1, 1, self._act_dim)
        return candidates.gather(1, chosen)[:, 0], scored

    def observe(
        self,
        rewards: float | np.ndarray | torch.Tensor,
        costs: float | np.ndarray | torch.Tensor,
    ) -> None:
        """Take in what the last actions brought, one number for each episode.

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
        if self._config.rule == 'paced':
            cost_to_go = cost_to_go.clamp_min(0.0)  # no episode of the data has less
        scaling = self._networks.scaling
        return scaling.return_token(to_go[..., 0]), scaling.cost_token(cost_to_go)

    def _score(self, candidates: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Choose among candidates (B, M, A) by the critics' values.

        Returns:
            (B,) indices of those chosen, (B,) whether any fits, and all reward and cost values,
            (B, M) each.
        """
        scaling = self._networks.scaling
        # Critics that see targets see those of the unshifted candidate beside every action: the
        # policy goes on with them, whichever is taken. Were each beside its own, the highest target
        # would have the highest value, whatever its action.
        states = self._networks.critic_states(
            scaling.observation(self._states[:, -1:]),
            *self._tokens(self._to_go[:, -1:]),
            self._timesteps[:, -1:],
        )
        reward_values, cost_values = self._critics(states, candidates).tensor_split(2)
        reward_values = reward_values.amin(0)
        cost_values = scaling.cost_value(combine_cost(cost_values, self._config.cost_value))
        budgets = self._now[:, 1]
        if self._config.rule == 'paced':
            step = self._timesteps[:, -1].clamp_max(len(self._even_spend) - 1)
            budgets = budgets * self._even_spend[step]
        chosen, any_feasible = select_candidate(
            reward_values, cost_values, budgets, self._config.rule
        )
        return chosen, any_feasible, reward_values, cost_values
