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

from collections.abc import Callable
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

    Keyword Args:
        options: Passed on to :func:`make_env`.
    """

    def __init__(self, env_id: str, **options: Any) -> None:
        """Initialize an instance of :class:`NumpyEnvironment`."""
        self._env = make_env(env_id, **options)
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


class DrawnEnvironment(NumpyEnvironment):
    """An environment with pictures, from where its task can be followed.

    One to a process, which should draw nothing else: the OpenGL contexts of MuJoCo's simulators do
    not go together, nor with a fork. Drawing does not change an episode.

    Args:
        env_id (str): OmniSafe's environment id.
        size (tuple[int, int]): Width and height of the pictures.
    """

    def __init__(self, env_id: str, size: tuple[int, int]) -> None:
        """Initialize an instance of :class:`DrawnEnvironment`."""
        width, height = size
        super().__init__(env_id, render_mode='rgb_array', width=width, height=height)
        self._mujoco = None
        if not isinstance(unwrapped(self._env), SingleEnv):
            self._mujoco = _MujocoView(simulator_of(self._env))

    def steps_per_second(self) -> float:
        """Return how many steps a second of simulated time has, once an episode was begun."""
        if self._mujoco is None:
            return float(self._env.metadata['render_fps'])
        return self._mujoco.steps_per_second()

    def picture(self) -> np.ndarray:
        """Draw the current state, (height, width, 3) uint8."""
        if self._mujoco is not None:
            self._mujoco.prepare(self._env.render)
        return np.ascontiguousarray(self._env.render())


# Within which Safety-Gymnasium's navigation tasks put nearly all there is, in metres.
_WORLD_RADIUS = 1.7


class _MujocoView:
    """How a simulator of Safety-Gymnasium is drawn.

    Args:
        simulator (Any): Of a navigation task, which has a world, or of a velocity task, whose own
            camera follows the robot.
    """

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        self._world = getattr(simulator, 'task', None)
        self._is_ready = False
        if self._world is not None:
            simulator.render_parameters.camera_id = -1  # the one that can be moved

    def steps_per_second(self) -> float:
        """Return how many steps a second of simulated time has."""
        if self._world is None:
            return 1.0 / self._simulator.dt
        # The environment says 30 whatever the robot.
        return 1.0 / (self._world.model.opt.timestep * self._world.sim_conf.frameskip_binom_n)

    def prepare(self, render: Callable[[], Any]) -> None:
        """Make ready for a picture."""
        import mujoco

        if not self._is_ready:
            # Without a graphics card, a picture then takes a quarter of the time.
            quality = (self._world or self._simulator).model.vis.quality
            quality.offsamples, quality.shadowsize = 0, 1024
            render()  # which makes the viewer
            self._viewer().scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._is_ready = True
        if self._world is not None:
            self._move_camera()

    def _viewer(self) -> Any:
        if self._world is not None:
            return self._world.viewer
        return self._simulator.mujoco_renderer.viewer

    def _move_camera(self) -> None:
        """Look at the whole world from above, and follow an agent that leaves it."""
        position = np.asarray(self._world.agent.pos)[:2]
        camera = self._viewer().cam
        camera.lookat[:] = (*(position - position.clip(-_WORLD_RADIUS, _WORLD_RADIUS)), 0.0)
        camera.distance, camera.azimuth, camera.elevation = 3.0 * _WORLD_RADIUS, 90.0, -60.0


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
