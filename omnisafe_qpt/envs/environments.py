# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""OmniSafe's environments for evaluation, one or several at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from omnisafe.envs.core import CMDP, Wrapper, make

from omnisafe_qpt.compat import environment_class, simulator_of, unwrapped, without_auto_reset
from omnisafe_qpt.envs.single import SingleEnv
from omnisafe_qpt.envs.user_environments import check_spaces, is_users, make_users
from omnisafe_qpt.envs.user_modules import require_environment
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runner import in_environment_units


def make_env(env_id: str, **kwargs: Any) -> CMDP:
    """Make one of OmniSafe's environments for evaluation.

    Actions are in [-1, 1] for any range of the simulator. OmniSafe's time limit of 1000 steps for
    every task and its automatic resets are left out: the simulators apply the tasks' horizons
    themselves. Users' environments are checked and return float32 tensors.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        kwargs: Options of the environment, such as ``render_mode``.

    Raises:
        UserError: If the environment is not registered, or its spaces are not vectors of numbers,
            with bounds for actions.
    """
    require_environment(env_id)
    if is_users(environment_class(env_id)):
        env = make_users(env_id, kwargs)
    else:
        env = without_auto_reset(make(env_id, num_envs=1, device=torch.device('cpu'), **kwargs))
        check_spaces(env, env_id)
    action_range = action_range_of(env)
    return env if is_normalized(action_range) else _NormalizedActions(env, action_range)


def action_range_of(env: CMDP) -> dict[str, list[float]]:
    """Return the range of an environment's actions: ``low`` and ``high``, A numbers each."""
    space = unwrapped(env).action_space
    return {
        end: np.asarray(getattr(space, end), dtype=np.float32).tolist() for end in ('low', 'high')
    }


def is_normalized(action_range: dict[str, list[float]]) -> bool:
    """Return whether a range is [-1, 1] in every dimension."""
    return set(action_range['low']) == {-1.0} and set(action_range['high']) == {1.0}


def horizon_of(env: CMDP) -> int:
    """Return the number of steps after which the environment's task ends an episode.

    Raises:
        UserError: If the environment does not define it.
    """
    horizon = unwrapped(env).max_episode_steps
    try:
        steps = int(horizon or 0)
    except (TypeError, ValueError):
        steps = 0
    if steps < 1:
        raise UserError(
            f'{type(unwrapped(env)).__name__} has max_episode_steps {horizon}: the environment '
            'must define the number of steps after which an episode ends, the horizon of training',
        )
    return steps


class _NormalizedActions(Wrapper):
    """An environment that takes actions in [-1, 1].

    Args:
        env (CMDP): The environment.
        action_range (dict[str, list[float]]): See :func:`action_range_of`.
    """

    def __init__(self, env: CMDP, action_range: dict[str, list[float]]) -> None:
        super().__init__(env)
        self._action_range = action_range
        self._action_space = spaces.Box(-1.0, 1.0, env.action_space.shape)

    def step(self, action: torch.Tensor) -> tuple[Any, ...]:
        """Run one step."""
        scaled = in_environment_units(action.detach().cpu().numpy(), self._action_range)
        return self._env.step(torch.from_numpy(scaled))


# Result of a step: observation, reward, cost, whether the episode has ended.
Outcome = tuple[np.ndarray, float, float, bool]


class NumpyEnvironment:
    """One of OmniSafe's environments, with NumPy's and Python's types.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        options: Passed on to :func:`make_env`.
    """

    def __init__(self, env_id: str, **options: Any) -> None:
        """Initialize an instance of :class:`NumpyEnvironment`."""
        self._env_id = env_id
        self._env = make_env(env_id, **options)
        self.horizon = horizon_of(self._env)
        self._is_new = not isinstance(unwrapped(self._env), SingleEnv)

    @property
    def env(self) -> CMDP:
        """The environment itself."""
        return self._env

    def check(self) -> None:
        """Run a reset and a step, to find errors in them early.

        Raises:
            UserError: If one of them fails, or returns a value that is not finite.
        """
        found: dict[str, np.ndarray | float] = {'first observation': self.reset(0)}
        action = np.zeros(self._env.action_space.shape, dtype=np.float32)
        obs, reward, cost, _ = self.step(action)
        found |= {'observation': obs, 'reward': reward, 'cost': cost}
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise UserError(f'{self._env_id}: its {name} is not finite: {value}')

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode; it does not depend on earlier episodes."""
        if self._is_new:
            if not _put_world_in_place(self._env):
                self._env.reset(seed=seed)  # an episode that is discarded
            self._is_new = False
        return self._env.reset(seed=seed)[0].numpy()

    def step(self, action: np.ndarray) -> Outcome:
        """Run one step."""
        obs, reward, cost, terminated, truncated, _ = self._env.step(torch.from_numpy(action))
        return obs.numpy(), reward.item(), cost.item(), bool(terminated) or bool(truncated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _put_world_in_place(env: CMDP) -> bool:
    """Make a Safety-Gymnasium environment build its first episode like all others.

    Otherwise a navigation task builds its first world twice, which takes seconds, and the episode
    differs in the last bits from a later one with the same seed. Given an empty world, it builds it
    once.

    Returns:
        Whether the environment has such a world.
    """
    simulator = simulator_of(env)
    task: Any = getattr(simulator, 'task', None) if is_mujoco(simulator) else None
    if getattr(task, 'world', env) is not None:
        return False
    from safety_gymnasium.world import World

    task.world = World(task.agent, task._obstacles)
    return True


def is_mujoco(simulator: Any) -> bool:
    """Return whether a simulator is Safety-Gymnasium's."""
    return type(simulator).__module__.partition('.')[0] == 'safety_gymnasium'


class EnvironmentSet:
    """Environments of one task in this process, by index, each created on first use.

    They are reused; an episode depends only on its seed and actions.

    Args:
        env_id (str): OmniSafe's environment id.
    """

    def __init__(self, env_id: str) -> None:
        """Initialize an instance of :class:`EnvironmentSet`."""
        self._env_id = env_id
        self._environments: dict[int, NumpyEnvironment] = {}
        self._unused = [NumpyEnvironment(env_id)]  # already made to read the horizon
        self.horizon = self._unused[0].horizon

    def reset(self, seeds: dict[int, int]) -> list[np.ndarray]:
        """Start an episode in each of these environments and return the observations."""
        return [self._numbered(number).reset(seed) for number, seed in seeds.items()]

    def step(self, actions: dict[int, np.ndarray]) -> list[Outcome]:
        """Run one step in each of these environments."""
        return [self._environments[number].step(action) for number, action in actions.items()]

    def close(self) -> None:
        """Close all environments."""
        for environment in (*self._unused, *self._environments.values()):
            environment.close()

    def _numbered(self, number: int) -> NumpyEnvironment:
        if number not in self._environments:
            made = self._unused.pop() if self._unused else NumpyEnvironment(self._env_id)
            self._environments[number] = made
        return self._environments[number]
