# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in the user's own loop, and the runner of exported ones: numpy and onnxruntime suffice.

This file imports nothing of the package: copy it to a machine that has no torch, together with the
model that ``omnisafe-qpt export`` wrote, and use :class:`OnnxPolicy`. It is used as the policy of
``omnisafe_qpt.load_policy`` is, and acts the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Of the inputs, outputs and metadata of an exported model.
FORMAT = 3
# Of a target calibration, in checkpoints and exported models.
CALIBRATION_FORMAT = 2

# What a target calibration may say of a cost limit.
CERTIFIED, NOT_CERTIFIED = 'certified', 'not certified'
NO_SAFE_TARGET = 'no safe target found'

# The stream of candidates from an episode's seed, as in data/streams.py: the seed's own is the
# simulator's.
_CANDIDATES = (2,)

# Beyond this, the squares in the networks' norms may overflow, and the action would be NaN.
_LARGEST_NUMBER = 1e15

# Of each statement of a guarantee.
_ERROR_RATE = 0.05


def targets_for(record: dict[str, Any], cost_limit: float) -> tuple[float | None, float]:
    """Return which return and which cost to condition a model on at a cost limit.

    A model that was trained with ``target_return: dsrl`` is conditioned on DSRL's published return
    where there is one for the limit.

    A calibrated model is conditioned on the targets that its calibration chooses for the limit, see
    :func:`serving_level`; any other on the limit itself and the highest return that the dataset
    reached within it, Eq. (11).

    Args:
        record (dict[str, Any]): Of the model: ``frontier``; ``calibration``, which is None or as
            :func:`omnisafe_qpt.evaluation.target_calibration.calibrate` returned it; and, where it
            has any, ``published_targets``, pairs of cost and return.
        cost_limit (float): Undiscounted cost of an episode to keep within.

    Returns:
        The return, which is None for the zero-action fallback, and the cost.
    """
    for cost, episode_return in record.get('published_targets', ()):
        if cost == cost_limit:
            return episode_return, cost_limit
    if record.get('calibration') is not None:
        level, _ = serving_level(record['calibration'], cost_limit)
        if level['target_return'] is None:
            return None, cost_limit
        return level['target_return'], level['asked_cost']
    frontier = record['frontier']
    # Where all episodes cost more than the limit, the one of least cost stands in.
    step = np.searchsorted(frontier['costs'], cost_limit, side='right') - 1
    return frontier['returns'][max(step, 0)], cost_limit


def serving_level(calibration: dict[str, Any], cost_limit: float) -> tuple[dict[str, Any], str]:
    """Choose the target cost that serves a limit among those that a calibration has played.

    Args:
        calibration (dict[str, Any]): See
            :func:`omnisafe_qpt.evaluation.target_calibration.calibrate`.
        cost_limit (float): Undiscounted cost of an episode to keep within.

    Returns:
        The level, and what that says of the limit. ``CERTIFIED``: of the levels from the lowest up
        to the first whose bound is above the limit, the one of the highest mean return.
        ``NOT_CERTIFIED``: there is none; the lowest whose mean cost is within the limit.
        ``NO_SAFE_TARGET``: none is; the least mean cost, which may be the zero action's.
    """
    levels = calibration['levels']
    certified: list[dict[str, Any]] = []
    for level in levels:
        if level['cost_bound'] is None or level['cost_bound'] > cost_limit:
            break
        certified.append(level)
    if certified:
        return max(certified, key=lambda level: level['return_mean']), CERTIFIED
    for level in levels:
        if level['cost_mean'] <= cost_limit:
            return level, NOT_CERTIFIED
    zero_action = calibration['zero_action']
    measured = levels if zero_action is None else [*levels, zero_action]
    return min(measured, key=lambda level: (level['cost_mean'], -level['return_mean'])), (
        NO_SAFE_TARGET
    )


@dataclass(frozen=True)
class Guarantee:
    """What a target calibration says of one cost limit; as text, two sentences.

    Both statements are about new episodes of the level that serves the limit, and are false with a
    probability of at most 5 % each, over calibrations. The choice among levels is accounted for:
    in the first by testing them in a fixed sequence, in the second by dividing the 5 % among all
    levels and numbers of episodes at which they could have been chosen.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        status (str): ``certified``, ``not certified`` or ``no safe target found``.
        target_cost (float or None): Of the level; None for the zero-action fallback.
        episodes (int): Of calibration, of the level.
        cost_mean (float): Their mean cost.
        cost_bound (float or None): The mean cost is at most this with 95 % confidence, if no
            episode costs more than ``worst_cost``; None without such a bound. Only where it is
            ``certified`` does that account for the choice of the level.
        worst_cost (float): Assumed to be exceeded by no episode.
        over (int): Episodes that cost more than the limit.
        share_bound (float): The share of episodes over the limit is at most this with 95 %
            confidence (Clopper-Pearson).
        best_bound (float): What ``cost_bound`` would be if no calibration episode of a level had
            cost anything, in as many as were allowed.
    """

    cost_limit: float
    status: str
    target_cost: float | None
    episodes: int
    cost_mean: float
    cost_bound: float | None
    worst_cost: float
    over: int
    share_bound: float
    best_bound: float

    @classmethod
    def at(cls, calibration: dict[str, Any], cost_limit: float) -> Guarantee:
        """Read off a calibration what it says of a limit."""
        level, status = serving_level(calibration, cost_limit)
        costs, worst_cost = level['costs'], calibration['worst_cost']
        over = sum(cost > cost_limit for cost in costs)
        return cls(
            cost_limit=cost_limit,
            status=status,
            target_cost=level['asked_cost'],
            episodes=len(costs),
            cost_mean=level['cost_mean'],
            cost_bound=level.get('cost_bound'),
            worst_cost=worst_cost,
            over=over,
            share_bound=share_bound(over, len(costs), _ERROR_RATE / calibration['comparisons']),
            best_bound=worst_cost * (1.0 - _ERROR_RATE ** (1.0 / calibration['episodes'])),
        )

    @property
    def mean_statement(self) -> str:
        """What holds of the mean cost."""
        limit = f'{self.cost_limit:g}'
        measured = f'{self.episodes} episodes with mean cost {self.cost_mean:.4g}'
        if self.status == CERTIFIED and self.cost_limit >= self.worst_cost:
            return (
                f'mean cost <= {limit} by assumption alone, that no episode costs more than '
                f'{self.worst_cost:g}; {measured}'
            )
        if self.status == CERTIFIED:
            return (
                f'mean cost <= {limit} with 95 % confidence, from {measured}, assuming no episode '
                f'costs more than {self.worst_cost:g}'
            )
        if self.status == NO_SAFE_TARGET:
            return f'no safe target found for mean cost <= {limit}; in use: {measured}'
        text = f'mean cost <= {limit} is NOT certified; in use: {measured}'
        if self.best_bound > self.cost_limit:
            text += (
                f'; assuming no episode costs more than {self.worst_cost:g}, no result of the '
                f'episodes allowed could certify less than {self.best_bound:.4g}'
            )
        return text

    @property
    def share_statement(self) -> str:
        """What holds of the share of episodes over the limit."""
        return (
            f'share of episodes over {self.cost_limit:g} <= {math.ceil(100 * self.share_bound)} % '
            'with 95 % confidence (Clopper-Pearson, corrected for the choice of target), '
            f'{self.over} of {self.episodes} over'
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the two statements as plain values."""
        statements = ('mean_statement', 'share_statement')
        return {**asdict(self), **{name: getattr(self, name) for name in statements}}

    def __str__(self) -> str:
        return f'{self.mean_statement}. {self.share_statement}.'


def share_bound(over: int, episodes: int, error_rate: float = 0.05) -> float:
    """Return what a share is at most with 95 % confidence, by Clopper and Pearson.

    Args:
        over (int): How many of the episodes count.
        episodes (int): How many there were.
        error_rate (float, optional): Probability that the share is above the bound. Defaults to
            0.05.

    Returns:
        The largest share with which so few are over with that probability: of 10 episodes with
        none over, 0.26.
    """
    if over >= episodes:
        return 1.0
    counts = np.arange(over + 1)
    ways = np.array(
        [math.lgamma(episodes + 1) - math.lgamma(k + 1) - math.lgamma(episodes - k + 1)
         for k in counts],
    )  # fmt: skip
    low, high = over / episodes, 1.0
    for _ in range(60):  # halvings
        share = (low + high) / 2
        so_few = np.exp(
            ways + counts * np.log(share) + (episodes - counts) * np.log1p(-share)
        ).sum()
        low, high = (share, high) if so_few > error_rate else (low, share)
    return high


def in_environment_units(
    actions: np.ndarray,
    action_range: dict[str, list[float]] | None,
) -> np.ndarray:
    """Turn a policy's actions into what an environment's ``step`` takes.

    Args:
        actions (np.ndarray): (..., A) float32 in [-1, 1].
        action_range (dict[str, list[float]] or None): The environment's ``low`` and ``high``, A
            numbers each. None leaves the actions as they are.

    Returns:
        (..., A) float32 within the range. A number whose range is [-1, 1] stays as it is.
    """
    if action_range is None:
        return actions
    low, high = (np.asarray(action_range[end], dtype=np.float32) for end in ('low', 'high'))
    is_same = (low == -1.0) & (high == 1.0)
    scaled = low + (high - low) * (actions + np.float32(1.0)) / np.float32(2.0)
    return np.where(is_same, actions, scaled.clip(low, high))


def zero_action(act_dim: int, action_range: dict[str, list[float]] | None) -> np.ndarray:
    """Return what a policy sends for an environment's ``step`` to take zeros.

    Args:
        act_dim (int): A.
        action_range (dict[str, list[float]] or None): See :func:`in_environment_units`.

    Returns:
        (A,) float32 in [-1, 1]: 0 in the environment's unit, or what its range has nearest to 0.
    """
    if action_range is None:
        return np.zeros(act_dim, dtype=np.float32)
    low, high = (np.asarray(action_range[end], dtype=np.float64) for end in ('low', 'high'))
    return (2.0 * (np.clip(0.0, low, high) - low) / (high - low) - 1.0).astype(np.float32)


class LoopPolicy(ABC):
    """A policy in the user's own loop, for one episode or for several at once.

    Call :meth:`reset` at the start of an episode, then :meth:`act` and :meth:`observe` in turn.
    Here sizes, numbers and the order of calls are checked, before anything changes: after a
    refusal, go on with a better call. Subclasses act, and begin the first episode.

    Args:
        obs_dim (int): S.
        num_episodes (int, optional): B, how many episodes go on at once. Then observations,
            actions, rewards and costs have a first axis for them, and so have the properties.
            Defaults to None, one episode without that axis.
        action_range (dict[str, list[float]], optional): See :func:`in_environment_units`.
            Defaults to None.
    """

    error: type[Exception] = ValueError

    def __init__(
        self,
        obs_dim: int,
        num_episodes: int | None = None,
        action_range: dict[str, list[float]] | None = None,
    ) -> None:
        """Initialize an instance of :class:`LoopPolicy`."""
        is_count = isinstance(num_episodes, Integral) and not isinstance(num_episodes, bool)
        if num_episodes is not None and not (is_count and num_episodes >= 1):
            raise self.error(
                f'num_episodes is {num_episodes}; it must be a whole number, at least 1',
            )
        self._action_range = action_range
        self.num_episodes = num_episodes
        self._count = 1 if num_episodes is None else num_episodes
        self._obs_dim = obs_dim
        # Asked for of an episode: return, which is NaN for the zero-action fallback, and cost.
        self._targets = np.zeros((self._count, 2))
        # A calibrated model may be asked for another cost than the limit.
        self._limits = np.zeros(self._count)
        self._is_given = np.zeros(self._count, dtype=bool)  # whether the user gave the return
        self._awaits_observe = False

    @property
    def cost_limit(self) -> float | np.ndarray:
        """Undiscounted cost of an episode that the policy is to keep within."""
        return self._shown(self._limits)

    @property
    def target_return(self) -> float | np.ndarray:
        """Undiscounted return of an episode that the policy is asked for.

        NaN for the zero-action fallback, where the calibration found no safe target.
        """
        return self._shown(self._targets[:, 0])

    @property
    def guarantee(self) -> Guarantee | list[Guarantee | None] | None:
        """What the target calibration says of the cost limit.

        None for a model without a calibration for its settings, and where the target return is
        given by the user or is the run's own.
        """
        found = [
            None if is_given else self._guarantee_for(limit)
            for limit, is_given in zip(self._limits.tolist(), self._is_given)
        ]
        return found[0] if self.num_episodes is None else found

    @property
    def remaining_budget(self) -> float | np.ndarray:
        """What the rest of the episode may still cost; below 0 once the limit is exceeded."""
        return self._shown(self._remaining()[:, 1] + (self._limits - self._targets[:, 1]))

    @property
    def remaining_return(self) -> float | np.ndarray:
        """What the rest of the episode is asked to return; NaN for the zero-action fallback."""
        return self._shown(np.where(self._is_fallback, np.nan, self._remaining()[:, 0]))

    def reset(
        self,
        seed: int | Sequence[int] = 0,
        episodes: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Begin an episode, or several.

        Args:
            seed (int or Sequence[int], optional): Fixes the candidates: the same seed and
                observations give the same actions. One for each episode begun; a single number
                is the first one's, and each further one has the next. Defaults to 0.
            episodes (Sequence[int] or np.ndarray, optional): Which of several to begin, by number
                or as (B,) bool; the others go on. Defaults to all.

        Raises:
            UserError: If the seeds or the episodes make no sense, or some episodes are begun
                while others wait for :meth:`observe`.
        """
        rows = self._rows(episodes)
        seeds = self._seeds(seed, len(rows))
        if self._awaits_observe and len(rows) < self._count:
            raise self.error('reset of some episodes between act and observe; call observe first')
        for row, row_seed in zip(rows, seeds):
            self._begin(row, row_seed)
        self._awaits_observe = False

    def act(self, obs: Any) -> np.ndarray:
        """Choose the action at an observation.

        Args:
            obs (np.ndarray or torch.Tensor): (S,) in the environment's own units, or (B, S).

        Returns:
            (A,) or (B, A) float32 in the environment's own units, for its ``step``.

        Raises:
            UserError: If the observation has another size or holds NaN or infinity, the last
                action's reward and cost are not known yet, or the action would not be finite.
        """
        if self._awaits_observe:
            raise self.error(
                'act was called twice in a row; tell the policy the reward and cost of the last '
                'action first: observe(reward, cost)',
            )
        chosen = self._choose(self._batched('observation', obs, (self._obs_dim,)))
        actions = in_environment_units(chosen, self._action_range)
        # Both, as infinity would be clipped to the environment's range.
        if not (np.isfinite(chosen).all() and np.isfinite(actions).all()):
            raise self.error(
                'the action would be NaN or infinite, so none is sent and the policy is as before: '
                'its networks overflow at this observation, or its file is damaged',
            )
        self._accept(chosen)
        self._awaits_observe = True
        return actions[0] if self.num_episodes is None else actions

    def observe(self, reward: Any, cost: Any) -> None:
        """Take in the reward and the cost that the last action brought.

        Args:
            reward (float, np.ndarray or torch.Tensor): Of one step, or (B,).
            cost (float, np.ndarray or torch.Tensor): Of one step, or (B,).

        Raises:
            UserError: If a number is NaN or infinity, there are not as many as episodes, or there
                was no action.
        """
        if not self._awaits_observe:
            raise self.error('observe was called without an action before it; call act(obs) first')
        self._receive(self._batched('reward', reward), self._batched('cost', cost))
        self._awaits_observe = False

    def set_cost_limit(
        self,
        cost_limit: float | Sequence[float] | np.ndarray,
        target_return: float | Sequence[float] | np.ndarray | None = None,
        episodes: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Change the cost limit, at any moment of an episode and for those that follow.

        The policy goes on as if the new limit had held from the start of the episode: what it
        has spent counts, so the remaining budget changes by the difference of the limits, and
        the remaining return by that of the target returns. The history that the policy looks
        back on shifts alike.

        Args:
            cost_limit (float, Sequence[float] or np.ndarray): Undiscounted cost of an episode,
                for all episodes or one each.
            target_return (float, Sequence[float] or np.ndarray, optional): Undiscounted return of
                an episode to ask for, at a cost of the limit. Defaults to the choice of the
                target calibration, which may be the zero-action fallback; without one to the
                highest that the dataset reached within the limit, or the model's own target at its
                own limit.
            episodes (Sequence[int] or np.ndarray, optional): Which of several are meant, by
                number or as (B,) bool. Defaults to all.

        Raises:
            UserError: If a limit is negative, or a number is not finite.
        """
        rows = self._rows(episodes)
        limits = self._one_each('cost_limit', cost_limit, len(rows))
        if (limits < 0).any():
            raise self.error(f'cost_limit is {cost_limit}; it must be 0 or more')
        if target_return is None:
            found = [self._targets_for(limit) for limit in limits]
            targets = np.array(found, dtype=np.float64).reshape(-1, 2)  # None becomes NaN
        else:
            returns = self._one_each('target_return', target_return, len(rows))
            targets = np.stack([returns, limits], axis=-1)
        self._retarget(rows, targets)
        self._targets[rows], self._limits[rows] = targets, limits
        self._is_given[rows] = target_return is not None

    @property
    def _is_fallback(self) -> np.ndarray:
        return np.isnan(self._targets[:, 0])

    @abstractmethod
    def _targets_for(self, cost_limit: float) -> tuple[float | None, float]:
        """Return which return and cost to ask for at a limit when the user does not say."""

    @abstractmethod
    def _guarantee_for(self, cost_limit: float) -> Guarantee | None:
        """Return what the calibration says of a limit, if :meth:`_targets_for` goes by it."""

    @abstractmethod
    def _begin(self, row: int, seed: int) -> None:
        """Begin an episode with its targets."""

    @abstractmethod
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        """Return actions (B, A) in [-1, 1] at observations (B, S)."""

    def _accept(self, actions: np.ndarray) -> None:  # noqa: B027 (a hook)
        """Take in that these actions (B, A), the last that were chosen, are sent."""

    @abstractmethod
    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        """Take in rewards and costs, each (B,)."""

    @abstractmethod
    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        """Go on as if n episodes had begun with other targets (n, 2)."""

    @abstractmethod
    def _remaining(self) -> np.ndarray:
        """Return what is left of return and cost, (B, 2)."""

    def _rows(self, episodes: Sequence[int] | np.ndarray | None) -> list[int]:
        """Turn a choice of episodes into their numbers."""
        if episodes is None:
            return list(range(self._count))
        given = np.asarray(episodes)
        if given.dtype == bool and given.shape == (self._count,):
            return np.flatnonzero(given).tolist()
        numbers = given.reshape(-1).tolist()
        is_choice = set(numbers) <= set(range(self._count)) and len(set(numbers)) == len(numbers)
        if not is_choice or (numbers and given.dtype.kind not in 'iu'):
            raise self.error(
                f'episodes is {episodes}; it must be numbers from 0 to {self._count - 1}, each '
                f'once, or {self._count} times true or false',
            )
        return numbers

    def _seeds(self, seed: int | Sequence[int], count: int) -> Sequence[int]:
        """Return a seed for each of some episodes."""
        seeds = range(seed, seed + count) if isinstance(seed, Integral) else np.atleast_1d(seed)
        if len(seeds) != count:
            raise self.error(f'{len(seeds)} seeds for {count} episodes')
        if any(not isinstance(value, Integral) or value < 0 for value in seeds):
            raise self.error(f'seed is {seed}; it must be a whole number, 0 or more')
        return seeds

    def _batched(self, name: str, values: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return values as (B, *shape) float32."""
        expected = shape if self.num_episodes is None else (self._count, *shape)
        array = self._as_numbers(name, values)
        if array.shape != expected:
            raise self.error(f'{name} has shape {array.shape}; the policy takes {expected}')
        return array.reshape(self._count, *shape).astype(np.float32)

    def _one_each(self, name: str, values: Any, count: int) -> np.ndarray:
        """Return a number for each of some episodes, where one is given for all or each."""
        array = self._as_numbers(name, values)
        if array.shape not in ((), (count,)):
            raise self.error(f'{name} has shape {array.shape}; give one for all, or {count}')
        return np.broadcast_to(array, (count,))

    def _as_numbers(self, name: str, values: Any) -> np.ndarray:
        """Return values as finite float64, on the host if they are a tensor."""
        values = values.detach().cpu() if hasattr(values, 'detach') else values
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            kind = type(values).__name__
            raise self.error(f'{name} must be an array of numbers; this is a {kind}') from error
        if not (np.abs(array) <= _LARGEST_NUMBER).all():  # not so for NaN
            raise self.error(
                f'{name} holds NaN or infinity, or a number beyond {_LARGEST_NUMBER:g}; the policy '
                'does not act on it',
            )
        return array

    def _shown(self, values: np.ndarray) -> float | np.ndarray:
        return float(values[0]) if self.num_episodes is None else values.copy()


class OnnxPolicy(LoopPolicy):
    """A policy that ``omnisafe-qpt export`` wrote, run by onnxruntime.

    Its refusals are ValueErrors.

    Args:
        path (str or os.PathLike): The exported model.
        cost_limit (float, optional): Undiscounted cost of an episode to keep within. Defaults to
            the model's.
        target_return (float, optional): See :meth:`set_cost_limit`.
        num_episodes (int, optional): See :class:`LoopPolicy`.
        threads (int, optional): CPU threads of a step; more hardly help so small a network.
            Defaults to 1.
        providers (Sequence[str], optional): Where onnxruntime computes. Defaults to the CPU.

    Attributes:
        metadata (dict[str, Any]): What the model says of itself: environment, sizes, candidates,
            selection rule, cost limit, frontier, dataset, versions.
        session (onnxruntime.InferenceSession): The model itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no exported policy or a damaged one, or a value is impossible. All of
            the file is checked before anything of it runs; no other file is read.
    """

    def __init__(  # pylint: disable=too-many-arguments
        self,
        path: str | os.PathLike[str],
        cost_limit: float | None = None,
        target_return: float | None = None,
        num_episodes: int | None = None,
        threads: int = 1,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> None:
        """Initialize an instance of :class:`OnnxPolicy`."""
        self.session, self.metadata = _open(path, threads, providers)
        context_len, obs_dim, act_dim, candidates = (
            self.metadata[name] for name in ('context_len', 'obs_dim', 'act_dim', 'candidates')
        )
        super().__init__(obs_dim, num_episodes, self.metadata.get('action_range'))
        self._zero_action = zero_action(act_dim, self._action_range)
        count = self._count
        # What the model is given, by its names: windows of the last steps, and the candidates.
        self._inputs = {
            'states': np.zeros((count, context_len, obs_dim), dtype=np.float32),
            'actions': np.zeros((count, context_len, act_dim), dtype=np.float32),
            'to_go': np.zeros((count, context_len, 2), dtype=np.float32),  # return, cost
            'timesteps': np.zeros((count, context_len), dtype=np.int64),
            'mask': np.zeros((count, context_len), dtype=bool),
            'shifts': np.zeros((count, candidates), dtype=np.float32),
        }
        self._now = np.zeros((count, 2), dtype=np.float32)  # left of return and cost
        self._step = np.zeros(count, dtype=np.int64)
        self._try_out(path)
        limit = self.metadata['cost_limit'] if cost_limit is None else cost_limit
        self.set_cost_limit(limit, target_return)
        self.reset()

    def _try_out(self, path: str | os.PathLike[str]) -> None:
        """Refuse a graph that fails at its first step, or whose action is none."""
        first = {name: values[:1].copy() for name, values in self._inputs.items()}
        first['mask'][:, -1] = True
        try:
            (actions,) = self.session.run(['action'], first)
        except Exception as error:  # onnxruntime raises many kinds
            raise ValueError(
                f'{_printable(os.fspath(path))}: the graph does not run ({_reason(error)}); export '
                'it again',
            ) from error
        act_dim = len(self._zero_action)
        if actions.shape != (1, act_dim) or not np.isfinite(actions).all():
            raise ValueError(
                f'{_printable(os.fspath(path))}: the graph does not give {act_dim} finite numbers '
                'as an action; export it again',
            )

    def _targets_for(self, cost_limit: float) -> tuple[float | None, float]:
        if cost_limit == self.metadata['cost_limit']:
            return self.metadata['target_return'], self.metadata['asked_cost']
        return targets_for(self.metadata, cost_limit)

    def _guarantee_for(self, cost_limit: float) -> Guarantee | None:
        calibration = self.metadata['calibration']
        # The file's default targets may have been given by the user.
        is_chosen = self._targets_for(cost_limit) == targets_for(
            {**self.metadata, 'published_targets': ()}, cost_limit
        )
        return Guarantee.at(calibration, cost_limit) if calibration and is_chosen else None

    def _begin(self, row: int, seed: int) -> None:
        shifts = self._inputs['shifts'][row]
        draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_CANDIDATES))
        shifts[:] = draws.standard_normal(len(shifts))
        shifts[0] = 0.0  # candidate 0 asks for the target itself
        shifts *= np.float32(self.metadata['shift_scale'])
        self._inputs['mask'][row] = False
        self._now[row], self._step[row] = np.nan_to_num(self._targets[row]), 0

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        self._newest = {
            name: np.concatenate([self._inputs[name][:, 1:], newest[:, None]], axis=1)
            for name, newest in (
                ('states', observations),
                ('actions', np.zeros_like(self._inputs['actions'][:, -1])),
                ('to_go', self._now),
                ('timesteps', self._step),
                ('mask', np.ones_like(self._step, dtype=bool)),
            )
        }
        (actions,) = self.session.run(['action'], {**self._inputs, **self._newest})
        return np.where(self._is_fallback[:, None], self._zero_action, actions)

    def _accept(self, actions: np.ndarray) -> None:
        self._inputs.update(self._newest)
        self._inputs['actions'][:, -1] = actions
        self._step += 1

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        self._now -= np.stack([rewards, costs], axis=-1)

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        # In float32 as torch's, so that both come to the same numbers.
        before, after = np.nan_to_num([self._targets[rows], targets]).astype(np.float32)
        difference = after - before
        self._now[rows] += difference
        self._inputs['to_go'][rows] += difference[:, None]

    def _remaining(self) -> np.ndarray:
        return self._now


def _open(
    path: str | os.PathLike[str],
    threads: int,
    providers: Sequence[str],
) -> tuple[InferenceSession, dict[str, Any]]:
    """Open an exported model after everything in its file was checked.

    Returns:
        The session and the metadata.
    """
    # Here, as the class above is for those too who have only torch.
    import onnxruntime

    shown = _printable(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{shown}: no such file')
    try:
        content = _read(path)
        metadata = _check_file(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised, once
        try:
            # From what was checked, not from the file, which may be another one by now.
            session = onnxruntime.InferenceSession(
                content,
                options,
                providers=list(providers),
                enable_fallback=0,  # which prints, and tries the same again
            )
        except Exception as error:  # onnxruntime raises many kinds for a broken file
            raise ValueError(
                f'cannot be read as an ONNX model ({_reason(error)}); export it again',
            ) from error
        _check_graph(session, metadata)
    except ValueError as error:
        raise ValueError(f'{shown}: {error}') from error
    return session, metadata


def _printable(text: str) -> str:
    # As errors.printable, of which this file knows nothing.
    return ''.join(letter if letter.isprintable() else '?' for letter in text)


def _reason(error: BaseException) -> str:
    """Return the first line of an exception's text; its name where it has none."""
    lines = str(error).strip().splitlines()
    return _printable(lines[0])[:300] if lines else type(error).__name__


# ---------------------------------------------------------------------- what is in the file

# A file of the format is one protobuf message, which has to be shorter.
_MOST_BYTES = 2**31
_LONGEST_TEXT = 4096

# The digest's entry of the metadata, up to the digest: its name, and a text of 66 bytes, which is
# JSON as all others are.
_DIGEST = 'omnisafe_qpt_sha256'
_DIGEST_LENGTH = 64
BLANK_DIGEST = '0' * _DIGEST_LENGTH
_DIGEST_MARK = _DIGEST.encode() + bytes([0x12, _DIGEST_LENGTH + 2]) + b'"'

# ONNX's numbers of its fields and types, of onnx.proto.
_GRAPH, _METADATA, _TRAINING, _FUNCTIONS = 7, 14, 20, 25
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
_ATTRIBUTE, _DOMAIN = 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_OTHERS = (5, 10), (6, 11, 22, 23)
_DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DOUBLE_DATA = 2, 4, 8, 9, 10
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_FLOAT, _INT32, _INT64, _BOOL, _DOUBLE = 1, 6, 7, 9, 11
_NOTHING = memoryview(b'')
_BYTES_OF = {0: None, 1: 8, 2: None, 5: 4}  # of each kind of field; None where it says so itself


def sealed(content: bytes) -> bytes:
    """Write a model's SHA-256 into its metadata, where ``BLANK_DIGEST`` stands.

    The digest is of all bytes of the file, with ``BLANK_DIGEST`` in its place. It shows damage; it
    is no signature.

    Args:
        content (bytes): Of a file.

    Raises:
        ValueError: If there is no place for it.
    """
    place = _digest_place(content)
    return content[: place.start] + _digest(content, place).encode() + content[place.stop :]


def _digest_place(content: bytes) -> slice:
    if content.count(_DIGEST_MARK) != 1:
        raise ValueError(f'damaged: it has no metadata field {_DIGEST}; copy or export it again')
    start = content.index(_DIGEST_MARK) + len(_DIGEST_MARK)
    return slice(start, start + _DIGEST_LENGTH)


def _digest(content: bytes, place: slice) -> str:
    digest = hashlib.sha256(memoryview(content)[: place.start])
    digest.update(BLANK_DIGEST.encode())
    digest.update(memoryview(content)[place.stop :])
    return digest.hexdigest()


def _read(path: str | os.PathLike[str]) -> bytes:
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError('the file is empty (0 bytes); copy or export it again')
    if size >= _MOST_BYTES:
        raise ValueError(f'cannot be an ONNX model: {size} bytes, and 2 GiB is the most')
    with open(path, 'rb') as file:
        return file.read(size)


def _check_file(content: bytes) -> dict[str, Any]:
    """Check a file's bytes, before anything is built of them; returns the metadata.

    Raises:
        ValueError: If there is damage, or something that no exported policy has.
    """
    try:
        entries = _metadata_entries(content)
    except ValueError as error:
        raise ValueError(
            f'cannot be read as an ONNX model ({error}); copy or export it again',
        ) from error
    metadata = {name: _parsed(name, text) for name, text in entries.items()}
    if 'omnisafe_qpt_format' not in metadata:
        raise ValueError('not a policy that omnisafe-qpt exported')
    version = metadata['omnisafe_qpt_format']
    if version != FORMAT or isinstance(version, (bool, float)):
        raise ValueError(
            f'has format {_shown(version)}, this runner reads {FORMAT}; export it again, or use '
            'the runner.py of the version that exported it',
        )
    place = _digest_place(content)
    if content[place] != _digest(content, place).encode():
        raise ValueError(
            f'damaged: its SHA-256 is not the one in its metadata field {_DIGEST}; copy or export '
            'it again',
        )
    check_metadata(metadata)
    for field, value in _fields(memoryview(content)):
        if field == _GRAPH:
            _check_parts(value)
        elif field in (_TRAINING, _FUNCTIONS):
            raise ValueError('the graph has functions, which no exported policy has')
    return metadata


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Read the fields of a protobuf message: numbers as int, the rest as memoryview.

    Raises:
        ValueError: If it is cut short or no such message.
    """
    place, size = 0, len(message)

    def number() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            if place >= size:
                break
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError('cut short or no protobuf message')

    while place < size:
        key = number()
        kind = key & 7
        if kind not in _BYTES_OF or not key >> 3:
            raise ValueError('no protobuf message')
        if kind == 0:
            yield key >> 3, number()
            continue
        length = _BYTES_OF[kind] or number()
        if length > size - place:
            raise ValueError('cut short or no protobuf message')
        place += length
        yield key >> 3, message[place - length : place]


def _message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError('a field has another type than in ONNX')
    return value


def _metadata_entries(content: bytes) -> dict[str, str]:
    entries: dict[str, str] = {}
    for field, value in _fields(memoryview(content)):
        if field == _METADATA:
            entry = dict(_fields(_message(value)))
            name, text = (str(bytes(_message(entry.get(i, _NOTHING))), 'utf-8') for i in (1, 2))
            if name in entries:
                raise ValueError(f'the metadata field {_printable(name)} is there twice')
            entries[name] = text
    return entries


def _parsed(name: str, text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f'it holds {constant}')

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError) else _reason(error)
        raise ValueError(
            f'the metadata field {_printable(name)[:80]} cannot be read ({reason}); export it '
            'again',
        ) from error


def _check_parts(graph: Any) -> None:
    """Check a graph's nodes and tensors."""
    for field, value in _fields(_message(graph)):
        if field == _INITIALIZER:
            _check_tensor(value)
        elif field == _SPARSE_INITIALIZER:
            raise ValueError('the graph has sparse initializers, which no exported policy has')
        elif field == _NODE:
            _check_node(value)


def _check_node(node: Any) -> None:
    for field, value in _fields(_message(node)):
        if field == _DOMAIN and bytes(_message(value)) not in (b'', b'ai.onnx'):
            raise ValueError('the graph has an operator that is not of ONNX itself')
        if field != _ATTRIBUTE:
            continue
        for part, content in _fields(_message(value)):
            if part in _ATTRIBUTE_OTHERS:
                raise ValueError('the graph has graphs within, which no exported policy has')
            if part in _ATTRIBUTE_TENSORS:
                _check_tensor(content)


def _check_tensor(tensor: Any) -> None:
    """Refuse a tensor whose numbers are elsewhere, or not finite."""
    name, kind, numbers = '', 0, []
    for field, value in _fields(_message(tensor)):
        if field == _NAME:
            name = _printable(str(bytes(_message(value)), 'utf-8', 'replace'))[:80]
        elif field == _DATA_TYPE:
            kind = value
        elif field in (_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA):
            numbers.append(_message(value))
        elif field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value):
            raise ValueError(
                'the weights are in another file (external_data), which is never read; export the '
                'policy again',
            )
    if kind not in (_FLOAT, _INT32, _INT64, _BOOL, _DOUBLE):
        raise ValueError(f'the initializer {name} has a type that no exported policy has')
    if kind in (_FLOAT, _DOUBLE):
        _check_numbers(name, numbers, np.dtype('<f4' if kind == _FLOAT else '<f8'))


def _check_numbers(name: str, numbers: list[memoryview], dtype: np.dtype) -> None:
    for data in numbers:
        if len(data) % dtype.itemsize:
            raise ValueError(f'the initializer {name} is cut short')
        values = np.frombuffer(data, dtype)
        # Attention masks are of 0 and -inf; nothing else has an infinity.
        if not np.isfinite(values).all() and not ((values == 0) | (values == -np.inf)).all():
            raise ValueError(
                f'the initializer {name} has numbers that are not finite: damaged, or exported '
                'from a damaged checkpoint; export another one',
            )


# ---------------------------------------------------------------------- what it says of itself


def _is_number(value: Any, low: float = -_LARGEST_NUMBER, high: float = _LARGEST_NUMBER) -> bool:
    # NaN is within no bounds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, 1, most)


def _are_numbers(value: Any, count: int | None = None) -> bool:
    """Whether this is a list of so many numbers; of at least one by default."""
    if not isinstance(value, list) or not all(map(_is_number, value)):
        return False
    return bool(value) if count is None else len(value) == count


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_frontier(value: Any) -> bool:
    if not isinstance(value, dict) or not _are_numbers(value.get('costs')):
        return False
    costs = value['costs']
    return costs == sorted(costs) and _are_numbers(value.get('returns'), len(costs))


def _is_level(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {'asked_cost', 'target_return'} <= value.keys()
        and all(
            value.get(name) is None or _is_number(value[name], low)
            for name, low in (
                ('asked_cost', 0.0),
                ('target_return', -_LARGEST_NUMBER),
                ('cost_bound', 0.0),
            )
        )
        and _is_number(value.get('cost_mean'))
        and _is_number(value.get('return_mean'))
        and _are_numbers(value.get('costs'))
    )


def _is_calibration(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.get('format') != CALIBRATION_FORMAT:
        return False
    levels, fallback = value.get('levels'), value.get('zero_action')
    return (
        isinstance(levels, list)
        and all(
            _is_level(level) and 'cost_bound' in level and level['asked_cost'] is not None
            for level in levels
        )
        and (_is_level(fallback) if fallback is not None else bool(levels))
        and _is_count(value.get('episodes'), 10**9)
        and _is_count(value.get('comparisons'), 10**9)
        and _is_number(value.get('worst_cost'), 0.0)
    )


# Of each field of the metadata: what it must be, in words and as a check. Ranges of actions are
# checked with the number of actions.
_ROOM = 100_000
_IS_COUNT = f'a whole number from 1 to {_ROOM}'
_IS_POSITIVE = f'a number above 0, at most {_LARGEST_NUMBER:g}'
_IS_FROM_0 = f'a number from 0 to {_LARGEST_NUMBER:g}'
_SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'env_id': ('printable text', _is_text),
    **dict.fromkeys(
        ('obs_dim', 'act_dim', 'context_len'),
        (_IS_COUNT, lambda value: _is_count(value, _ROOM)),
    ),
    'candidates': ('a whole number from 1 to 10000', lambda value: _is_count(value, 10_000)),
    'horizon': ('a whole number from 1 to 1000000000', lambda value: _is_count(value, 10**9)),
    **dict.fromkeys(
        ('cost_limit', 'asked_cost', 'target_spread', 'shift_scale'),
        (_IS_FROM_0, lambda value: _is_number(value, 0.0)),
    ),
    **dict.fromkeys(
        ('return_unit', 'cost_unit'),
        (_IS_POSITIVE, lambda value: _is_number(value, 0.0) and value > 0),
    ),
    'target_return': ('a number or null', lambda value: value is None or _is_number(value)),
    'calibration': (
        f'null or a target calibration of format {CALIBRATION_FORMAT} with finite numbers',
        _is_calibration,
    ),
    'frontier': ('costs, rising, and as many returns', _is_frontier),
    'published_targets': (
        'a list of pairs of cost and return',
        lambda value: isinstance(value, list) and all(_are_numbers(pair, 2) for pair in value),
    ),
    'candidate_shift': ('history or last', lambda value: value in ('history', 'last')),
    'rule': ('paper, bounded or paced', lambda value: value in ('paper', 'bounded', 'paced')),
    'reference_returns': ('two numbers', lambda value: _are_numbers(value, 2)),
    **dict.fromkeys(('dataset', 'run', 'checkpoint'), ('printable text', _is_text)),
    'dataset_sha256': ('text or null', lambda value: value is None or _is_text(value)),
    **dict.fromkeys(('trained_with', 'exported_with'), ('names and versions', _are_texts)),
}
# Numbers of the windows, of one episode.
_MOST_NUMBERS = 2**26


def check_metadata(metadata: dict[str, Any]) -> None:
    """Refuse metadata that no policy has, before anything is allocated by it.

    Args:
        metadata (dict[str, Any]): As JSON has it.

    Raises:
        ValueError: If a field is missing or impossible; the message names it.
    """
    for name, (expected, is_right) in _SCHEMA.items():
        if name not in metadata:
            raise ValueError(f'the metadata field {name} is missing; export it again')
        if not is_right(metadata[name]):
            _refuse(name, metadata[name], expected)
    obs_dim, act_dim, context_len = (
        metadata[name] for name in ('obs_dim', 'act_dim', 'context_len')
    )
    if context_len * (obs_dim + act_dim) > _MOST_NUMBERS:
        _refuse('context_len', context_len, f'smaller, for {obs_dim} + {act_dim} numbers a step')
    _check_range(metadata.get('action_range'), act_dim)


def _check_range(action_range: Any, act_dim: int) -> None:
    if action_range is None:
        return
    ends = action_range if isinstance(action_range, dict) else {}
    low, high = ends.get('low'), ends.get('high')
    is_right = _are_numbers(low, act_dim) and _are_numbers(high, act_dim)
    if not is_right or not (np.float32(low) < np.float32(high)).all():
        _refuse('action_range', action_range, f'null, or low and high, {act_dim} numbers each')


def _refuse(name: str, value: Any, expected: str) -> None:
    raise ValueError(
        f'the metadata field {name} is {_shown(value)}; it must be {expected}; export it again',
    )


def _shown(value: Any) -> str:
    """Show a value of JSON in a few letters."""
    if isinstance(value, (dict, list)):
        return 'another list or object'
    text = _printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 40 else f'{text[:40]}...'


# ---------------------------------------------------------------------- the graph


def _check_graph(session: InferenceSession, metadata: dict[str, Any]) -> None:
    """Refuse a graph that does not fit the metadata, or does not run."""
    context_len, obs_dim, act_dim, candidates = (
        metadata[name] for name in ('context_len', 'obs_dim', 'act_dim', 'candidates')
    )
    inputs = {
        'states': ('tensor(float)', [context_len, obs_dim]),
        'actions': ('tensor(float)', [context_len, act_dim]),
        'to_go': ('tensor(float)', [context_len, 2]),
        'timesteps': ('tensor(int64)', [context_len]),
        'mask': ('tensor(bool)', [context_len]),
        'shifts': ('tensor(float)', [candidates]),
    }
    outputs = {'action': ('tensor(float)', [act_dim]), 'candidate': ('tensor(int64)', [])}
    for kind, expected, nodes in (
        ('input', inputs, session.get_inputs()),
        ('output', outputs, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        unknown = found.keys() - expected.keys() if kind == 'input' else ()
        for name in unknown:
            raise ValueError(
                f'the graph has an {kind} {_printable(name)[:80]}, which no policy has'
            )
        for name, (dtype, shape) in expected.items():
            if name not in found:
                raise ValueError(f'the graph has no {kind} {name}')
            node = found[name]
            is_right = node.type == dtype and len(node.shape) == len(shape) + 1
            # Any number of episodes, so that the first is a name.
            if not is_right or isinstance(node.shape[0], int) or node.shape[1:] != shape:
                sizes = ', '.join(map(str, ['episodes', *shape]))
                raise ValueError(
                    f'the {kind} {name} of the graph is {node.type} of shape '
                    f'{_printable(str(node.shape))[:80]}; by the metadata it must be {dtype} of '
                    f'shape [{sizes}]; export it again',
                )
