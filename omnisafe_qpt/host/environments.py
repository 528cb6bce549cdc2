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

"""OmniSafe's environments as evaluation uses them, one or several at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from omnisafe.envs.core import CMDP, make
from omnisafe.envs.wrapper import ActionScale

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.envs import SingleEnv
from omnisafe_qpt.host.plugin import simulator_of, unwrapped, without_auto_reset


def make_env(env_id: str, **kwargs: Any) -> CMDP:
    """Make one of OmniSafe's environments for evaluation.

    Actions are in [-1, 1], whatever the simulator's range. OmniSafe's own time limit, 1000 steps
    whatever the task, and its automatic resets are left out: the simulators keep the tasks'
    horizons themselves.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        kwargs: Passed on, ``render_mode`` and so on.
    """
    env = without_auto_reset(make(env_id, num_envs=1, device=torch.device('cpu'), **kwargs))
    space = env.action_space
    if (space.low == -1.0).all() and (space.high == 1.0).all():
        return env  # scaling to the same range would only cost the last bits of small actions
    return ActionScale(env, device=torch.device('cpu'), low=-1.0, high=1.0)


def horizon_of(env: CMDP) -> int:
    """Return the number of steps after which the environment's task ends an episode.

    Raises:
        UserError: If the environment does not say.
    """
    horizon = unwrapped(env).max_episode_steps
    if not horizon:
        raise UserError('the environment has no max_episode_steps, which QPT needs as its horizon')
    return int(horizon)


# What a step brings: observation, reward, cost, whether the episode has ended.
Outcome = tuple[np.ndarray, float, float, bool]


class NumpyEnvironment:
    """One of OmniSafe's environments with NumPy's and Python's own types.

    Args:
        env_id (str): OmniSafe's environment id.
    """

    def __init__(self, env_id: str) -> None:
        """Initialize an instance of :class:`NumpyEnvironment`."""
        self._env = make_env(env_id)
        self.horizon = horizon_of(self._env)
        self._is_new = not isinstance(unwrapped(self._env), SingleEnv)

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode, which is the same whatever was run before."""
        if self._is_new:
            if not _put_world_in_place(self._env):
                self._env.reset(seed=seed)  # an episode that is thrown away
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
    """Let a Safety-Gymnasium environment build its first episode as it builds all others.

    Otherwise a navigation task builds its first world twice, seconds each, and differs in the last
    bits from what the same seed brings later. Given an empty world, it fills that one, once.

    Returns:
        Whether the environment has such a world.
    """
    task = getattr(simulator_of(env), 'task', None)
    if getattr(task, 'world', env) is not None:
        return False
    from safety_gymnasium.world import World

    task.world = World(task.agent, task._obstacles)
    return True


class EnvironmentSet:
    """Environments of one task in this process, by number, each made when it is first used.

    They are used again and again; an episode depends on its seed and actions only, whatever its
    environment ran before.

    Args:
        env_id (str): OmniSafe's environment id.
    """

    def __init__(self, env_id: str) -> None:
        """Initialize an instance of :class:`EnvironmentSet`."""
        self._env_id = env_id
        self._environments: dict[int, NumpyEnvironment] = {}
        self._unused = [NumpyEnvironment(env_id)]  # which has told the horizon
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
