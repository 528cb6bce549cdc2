# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of policies for a loop of your own: checks and properties."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from .actions import in_environment_units
from .checks import LARGEST_NUMBER
from .targets import Guarantee


class LoopPolicy(ABC):
    """A policy for a loop of your own, for one episode or for several at once.

    Call :meth:`reset` at the start of an episode, then :meth:`act` and :meth:`observe` in turn.
    Sizes, numbers and the order of calls are checked before any state changes, so you can continue
    after an error. Subclasses compute the actions, and begin the first episode.

    Args:
        obs_dim (int): S.
        num_episodes (int, optional): B, the number of parallel episodes. Then observations,
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
                f'num_episodes is {num_episodes}; it must be an integer, at least 1',
            )
        self._action_range = action_range
        self.num_episodes = num_episodes
        self._count = 1 if num_episodes is None else num_episodes
        self._obs_dim = obs_dim
        # Targets of an episode: return, NaN for the zero-action fallback, and cost.
        self._targets = np.zeros((self._count, 2))
        # The target cost of a calibrated model may differ from the limit.
        self._limits = np.zeros(self._count)
        self._is_given = np.zeros(self._count, dtype=bool)  # whether the user gave the return
        self._awaits_observe = False

    @property
    def cost_limit(self) -> float | np.ndarray:
        """Undiscounted cost that an episode must not exceed."""
        return self._shown(self._limits)

    @property
    def target_return(self) -> float | np.ndarray:
        """Target return: undiscounted, of a whole episode.

        NaN for the zero-action fallback, where the calibration found no safe target.
        """
        return self._shown(self._targets[:, 0])

    @property
    def guarantee(self) -> Guarantee | list[Guarantee | None] | None:
        """The target calibration's guarantee for the cost limit.

        None for a model without a calibration for its settings, and if the target return is the
        user's or the run's own.
        """
        found = [
            None if is_given else self._guarantee_for(limit)
            for limit, is_given in zip(self._limits.tolist(), self._is_given)
        ]
        return found[0] if self.num_episodes is None else found

    @property
    def remaining_budget(self) -> float | np.ndarray:
        """Remaining cost budget of the episode; below 0 once the limit is exceeded."""
        return self._shown(self._remaining()[:, 1] + (self._limits - self._targets[:, 1]))

    @property
    def remaining_return(self) -> float | np.ndarray:
        """Remaining target return of the episode; NaN for the zero-action fallback."""
        return self._shown(np.where(self._is_fallback, np.nan, self._remaining()[:, 0]))

    def reset(
        self,
        seed: int | Sequence[int] = 0,
        episodes: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Begin an episode, or several.

        Args:
            seed (int or Sequence[int], optional): Seed of the candidates: the same seed and
                observations give the same actions. One for each episode begun; a single number is
                the first episode's, and increases by one per episode. Defaults to 0.
            episodes (Sequence[int] or np.ndarray, optional): Which of several to begin, by number
                or as (B,) bool; the others continue. Defaults to all.

        Raises:
            UserError: If the seeds or the episodes are invalid, or some episodes are begun while
                others wait for :meth:`observe`.
        """
        rows = self._rows(episodes)
        seeds = self._seeds(seed, len(rows))
        if self._awaits_observe and len(rows) < self._count:
            raise self.error('reset of some episodes between act and observe; call observe first')
        for row, row_seed in zip(rows, seeds):
            self._begin(row, row_seed)
        self._awaits_observe = False

    def act(self, obs: Any) -> np.ndarray:
        """Return the action for an observation.

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
        """Record the reward and the cost of the last action.

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
        """Change the cost limit, at any step of an episode, also for later episodes.

        The policy continues as if the new limit had held from the start of the episode. The cost so
        far counts, so the remaining budget changes by the difference of the limits, and the
        remaining return by that of the target returns. The to-go tokens of the history shift
        equally.

        Args:
            cost_limit (float, Sequence[float] or np.ndarray): Undiscounted cost of an episode,
                for all episodes or one each.
            target_return (float, Sequence[float] or np.ndarray, optional): Target return of a whole
                episode, undiscounted, with the limit as target cost. Defaults to the choice of the
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
        """Return the default targets at a limit."""

    @abstractmethod
    def _guarantee_for(self, cost_limit: float) -> Guarantee | None:
        """Return the calibration's guarantee for a limit, if :meth:`_targets_for` uses it."""

    @abstractmethod
    def _begin(self, row: int, seed: int) -> None:
        """Begin an episode with its targets."""

    @abstractmethod
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        """Return actions (B, A) in [-1, 1] at observations (B, S)."""

    def _accept(self, actions: np.ndarray) -> None:  # noqa: B027 (a hook)
        """Record that these actions (B, A), the last ones selected, are sent."""

    @abstractmethod
    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        """Record rewards and costs, each (B,)."""

    @abstractmethod
    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        """Change the targets of n running episodes, (n, 2)."""

    @abstractmethod
    def _remaining(self) -> np.ndarray:
        """Return the remaining return and cost, (B, 2)."""

    def _rows(self, episodes: Sequence[int] | np.ndarray | None) -> list[int]:
        """Return the indices of a selection of episodes."""
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

    def _seeds(self, seed: int | Sequence[int], count: int) -> Sequence[int] | np.ndarray:
        """Return a seed for each of some episodes."""
        seeds: Sequence[int] | np.ndarray
        if isinstance(seed, Integral):
            seeds = range(int(seed), int(seed) + count)
        else:
            seeds = np.atleast_1d(seed)
        if len(seeds) != count:
            raise self.error(f'{len(seeds)} seeds for {count} episodes')
        if any(not isinstance(value, Integral) or value < 0 for value in seeds):
            raise self.error(f'seed is {seed}; it must be an integer, 0 or more')
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
        except OverflowError:
            array = np.array(np.inf)  # an integer beyond float64
        except (TypeError, ValueError) as error:
            kind = type(values).__name__
            raise self.error(f'{name} must be an array of numbers; this is a {kind}') from error
        if not (np.abs(array) <= LARGEST_NUMBER).all():  # not so for NaN
            raise self.error(
                f'{name} holds NaN or infinity, or a number beyond {LARGEST_NUMBER:g}; the policy '
                'does not act on it',
            )
        return array

    def _shown(self, values: np.ndarray) -> float | np.ndarray:
        return float(values[0]) if self.num_episodes is None else values.copy()
