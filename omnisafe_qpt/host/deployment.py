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
"""Trained models in use: loading a policy, OmniSafe's evaluator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.data.trajectories import Frontier
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.checkpoint import LAST, load_networks
from omnisafe_qpt.host.config import resolve_device


if TYPE_CHECKING:
    from omnisafe.envs.core import CMDP
    from omnisafe.models.base import Actor


class DeployedPolicy:
    """A trained policy in the user's own loop, for one episode or for several at once.

    Call :meth:`reset` at the start of an episode, then :meth:`act` and :meth:`observe` in turn. A
    call that is refused, with a :class:`omnisafe_qpt.UserError`, changes nothing: go on with a
    better one.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float): Return to ask for.
        num_episodes (int, optional): B, how many episodes go on at once. Then observations,
            actions, rewards and costs have a first axis for them, and so have the properties.
            Defaults to None, one episode without that axis.
    """

    def __init__(
        self,
        networks: DeployableNetworks,
        config: DeploymentConfig,
        target_return: float,
        num_episodes: int | None = None,
    ) -> None:
        """Initialize an instance of :class:`DeployedPolicy`."""
        if num_episodes is not None and num_episodes < 1:
            raise UserError(f'num_episodes is {num_episodes}; it must be at least 1')
        self.num_episodes = num_episodes
        self._count = 1 if num_episodes is None else num_episodes
        self._spec = networks.spec
        self._rollout = RolloutPolicy(networks, config, self._count)
        self._cost_limits = np.full(self._count, config.cost_limit, dtype=np.float64)
        self._target_returns = np.full(self._count, target_return, dtype=np.float64)
        self._awaits_observe = False
        self.reset()

    @property
    def cost_limit(self) -> float | np.ndarray:
        """Undiscounted cost of an episode that the policy is to keep within."""
        return self._shown(self._cost_limits)

    @property
    def target_return(self) -> float | np.ndarray:
        """Undiscounted return of an episode that the policy is asked for."""
        return self._shown(self._target_returns)

    @property
    def remaining_budget(self) -> float | np.ndarray:
        """What the rest of the episode may still cost; below 0 once the limit is exceeded."""
        return self._shown(self._rollout.remaining[:, 1].cpu().numpy())

    @property
    def remaining_return(self) -> float | np.ndarray:
        """What the rest of the episode is asked to return."""
        return self._shown(self._rollout.remaining[:, 0].cpu().numpy())

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
        seeds = _seeds(seed, len(rows))
        if self._awaits_observe and len(rows) < self._count:
            raise UserError('reset of some episodes between act and observe; call observe first')
        for row, row_seed in zip(rows, seeds):
            targets = self._target_returns[row], self._cost_limits[row]
            self._rollout.reset(*targets, seeds=(row_seed,), episodes=(row,))
        self._awaits_observe = False

    def act(self, obs: np.ndarray | torch.Tensor) -> np.ndarray:
        """Choose the action at an observation.

        Args:
            obs (np.ndarray or torch.Tensor): (S,) in the environment's own units, or (B, S).

        Returns:
            (A,) or (B, A) float32 in [-1, 1].

        Raises:
            UserError: If the observation has another size or holds NaN or infinity, or the last
                action's reward and cost are not known yet.
        """
        if self._awaits_observe:
            raise UserError(
                'act was called twice in a row; tell the policy the reward and cost of the last '
                'action first: observe(reward, cost)',
            )
        size = (self._spec['obs_dim'],)
        actions = self._rollout.act(self._batched('observation', obs, size)).cpu().numpy()
        self._awaits_observe = True
        return actions[0] if self.num_episodes is None else actions

    def observe(
        self,
        reward: float | np.ndarray | torch.Tensor,
        cost: float | np.ndarray | torch.Tensor,
    ) -> None:
        """Take in the reward and the cost that the last action brought.

        Args:
            reward (float, np.ndarray or torch.Tensor): Of one step, or (B,).
            cost (float, np.ndarray or torch.Tensor): Of one step, or (B,).

        Raises:
            UserError: If a number is NaN or infinity, there are not as many as episodes, or there
                was no action.
        """
        if not self._awaits_observe:
            raise UserError('observe was called without an action before it; call act(obs) first')
        self._rollout.observe(self._batched('reward', reward), self._batched('cost', cost))
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
                an episode to ask for. Defaults to the highest return that the dataset reached
                within the limit, or the run's own if it was trained with one for this limit.
            episodes (Sequence[int] or np.ndarray, optional): Which of several are meant, by
                number or as (B,) bool. Defaults to all.

        Raises:
            UserError: If a limit is negative, or a number is not finite.
        """
        rows = self._rows(episodes)
        limits = _numbers('cost_limit', cost_limit, len(rows))
        if not (limits >= 0).all():
            raise UserError(f'cost_limit is {cost_limit}; it must be 0 or more')
        if target_return is None:
            target_return = [_target_return_for(self._spec, limit) for limit in limits]
        targets = _numbers('target_return', target_return, len(rows))
        self._rollout.retarget(targets, limits, rows)
        self._cost_limits[rows], self._target_returns[rows] = limits, targets

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
            raise UserError(
                f'episodes is {episodes}; it must be numbers from 0 to {self._count - 1}, each '
                f'once, or {self._count} times true or false',
            )
        return numbers

    def _batched(self, name: str, values: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return values as (B, *shape), on the host."""
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
        expected = shape if self.num_episodes is None else (self._count, *shape)
        array = _as_numbers(name, values)
        if array.shape != expected:
            raise UserError(f'{name} has shape {array.shape}; the policy takes {expected}')
        return array.reshape(self._count, *shape)

    def _shown(self, values: np.ndarray) -> float | np.ndarray:
        return float(values[0]) if self.num_episodes is None else values.copy()


def _as_numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f'{name} is no array of numbers: {type(values).__name__}') from error


def _numbers(name: str, values: Any, count: int) -> np.ndarray:
    """Return one number for each of some episodes, where one is given for all or each."""
    array = _as_numbers(name, values)
    if array.shape not in ((), (count,)):
        raise UserError(f'{name} has shape {array.shape}; give one for all, or {count}')
    return np.broadcast_to(array, (count,))


def _seeds(seed: int | Sequence[int], count: int) -> Sequence[int]:
    """Return a seed for each of some episodes."""
    seeds = range(seed, seed + count) if isinstance(seed, Integral) else list(seed)
    if len(seeds) != count:
        raise UserError(f'{len(seeds)} seeds for {count} episodes')
    if any(not isinstance(value, Integral) or value < 0 for value in seeds):
        raise UserError(f'seed is {seed}; it must be a whole number, 0 or more')
    return seeds


def load_policy(  # pylint: disable=too-many-arguments
    run: str | os.PathLike[str],
    cost_limit: float | None = None,
    target_return: float | None = None,
    device: str | None = None,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
    num_episodes: int | None = None,
    checkpoint: str | int = LAST,
) -> DeployedPolicy:
    """Load a trained policy.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        cost_limit (float, optional): Undiscounted cost of an episode to keep within, any number.
            Defaults to the run's.
        target_return (float, optional): Return to ask for. Defaults to the highest return that
            the dataset reached within the cost limit, or the run's own if one was given there.
        device (str, optional): ``cpu``, ``cuda`` or ``cuda:N``. Defaults to CUDA if there is a
            device.
        candidates (int, optional): Return targets tried at each step. Defaults to the run's.
        rule (str, optional): ``paper`` or ``bounded``. Defaults to the run's.
        candidate_shift (str, optional): ``history`` or ``last``; see
            :class:`omnisafe_qpt.core.config.DeploymentConfig`. Defaults to the run's.
        num_episodes (int, optional): How many episodes go on at once, for a vector environment;
            then observations are (B, S). Defaults to None, one episode and observations (S,).
        checkpoint (str or int, optional): Which of the run's: ``last``, ``best`` or a number of
            epochs. Defaults to ``'last'``.

    Returns:
        The policy, at the start of an episode.

    Raises:
        UserError: If the run or the device does not exist, or a value is impossible.
    """
    networks, _ = load_networks(run, resolve_device(device or 'auto'), checkpoint)
    config, target_return = deployment_of(
        networks,
        cost_limit,
        target_return,
        candidates,
        rule,
        candidate_shift,
    )
    return DeployedPolicy(networks, config, target_return, num_episodes)


def deployment_of(  # pylint: disable=too-many-arguments
    networks: DeployableNetworks,
    cost_limit: float | None = None,
    target_return: float | None = None,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
) -> tuple[DeploymentConfig, float]:
    """Return a model's deployment settings with some of them replaced, and its target return."""
    spec = networks.spec
    given = {
        'cost_limit': cost_limit,
        'candidates': candidates,
        'rule': rule,
        'candidate_shift': candidate_shift,
    }
    trained = DeploymentConfig(**spec['deployment'])
    config = replace(trained, **{key: value for key, value in given.items() if value is not None})
    if target_return is None:
        target_return = _target_return_for(spec, config.cost_limit)
    return config, float(target_return)


def _target_return_for(spec: dict[str, Any], cost_limit: float) -> float:
    """Return the frontier's return at a limit, or the run's own if it has one for this limit."""
    if spec['target_return'] != 'auto' and cost_limit == spec['deployment']['cost_limit']:
        return float(spec['target_return'])
    frontier = Frontier(tuple(spec['frontier']['costs']), tuple(spec['frontier']['returns']))
    return frontier.target_return(cost_limit)


def build_evaluation(
    save_dir: str,
    model_name: str,
    cfgs: dict[str, Any],
    env_kwargs: dict[str, Any],
) -> tuple[CMDP, Actor]:
    """Build what OmniSafe's evaluator needs for a run of QPT.

    Args:
        save_dir (str): The run's folder.
        model_name (str): The checkpoint, ``epoch-N.pt``.
        cfgs (dict[str, Any]): The run's configuration.
        env_kwargs (dict[str, Any]): For the environment, ``env_id`` and rendering among them.

    Returns:
        The environment, which feeds rewards, costs and resets back, ends episodes at the task's
        horizon and seeds them from the run's seed; and the deployed policy.
    """
    from omnisafe_qpt.host.actor import QPTActor
    from omnisafe_qpt.host.adapter import DeploymentEnv, evaluation_seed
    from omnisafe_qpt.host.environments import make_env

    networks, _ = load_networks(Path(save_dir) / 'torch_save' / model_name)
    config, target_return = deployment_of(networks)
    options = {key: value for key, value in env_kwargs.items() if key not in ('env_id', 'num_envs')}
    env = make_env(env_kwargs['env_id'], **options)
    spaces = (env.observation_space, env.action_space)
    actor = QPTActor(*spaces, networks, config, target_return)
    return DeploymentEnv(env, actor, evaluation_seed(cfgs['seed'])), actor
