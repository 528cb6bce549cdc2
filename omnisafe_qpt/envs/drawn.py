# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Environments with pictures, for video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from omnisafe_qpt.compat import simulator_of
from omnisafe_qpt.envs.environments import NumpyEnvironment, is_mujoco


_FRAMES_PER_SECOND = 30.0

# Within which Safety-Gymnasium's navigation tasks put nearly all there is, in metres.
_WORLD_RADIUS = 1.7


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
        simulator = simulator_of(self._env)
        if is_mujoco(simulator):
            self._mujoco = _MujocoView(simulator)

    def steps_per_second(self) -> float:
        """Return how many steps a second of simulated time has, once an episode was begun."""
        if self._mujoco is None:
            # Which users' environments need not say.
            metadata = getattr(self._env, 'metadata', {})
            return float(metadata.get('render_fps', _FRAMES_PER_SECOND))
        return self._mujoco.steps_per_second()

    def picture(self) -> np.ndarray:
        """Draw the current state, (height, width, 3) uint8."""
        if self._mujoco is not None:
            self._mujoco.prepare(self._env.render)
        return np.ascontiguousarray(self._env.render())


class _MujocoView:
    """How a simulator of Safety-Gymnasium is drawn.

    Args:
        simulator (Any): Of a navigation task, which has a world, or of a velocity task, whose own
            camera follows the robot.
    """

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        self._world: Any = getattr(simulator, 'task', None)
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
