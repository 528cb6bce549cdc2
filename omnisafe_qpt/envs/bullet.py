# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""DSRL's eight Bullet tasks as OmniSafe environments.

OmniSafe supports only Safety-Gymnasium. This module adds DSRL's Bullet tasks under the ids of
bullet-safety-gym, with the simulators of DSRL's data. So every algorithm of OmniSafe can train and
evaluate on them, with their own horizons.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from omnisafe.envs.core import env_register
from omnisafe.typing import DEVICE_CPU

from omnisafe_qpt.envs.simulators import why_unavailable
from omnisafe_qpt.envs.single import SingleEnv, Step
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from collections.abc import Iterator


# Steps per episode, equal to dsrl.infos.DEFAULT_MAX_EPISODE_STEPS. The ids are spelt out so that
# OmniSafe can list them without importing a simulator.
BULLET_HORIZONS: dict[str, int] = {
    'SafetyBallRun-v0': 100,
    'SafetyCarRun-v0': 200,
    'SafetyDroneRun-v0': 200,
    'SafetyAntRun-v0': 200,
    'SafetyBallCircle-v0': 200,
    'SafetyCarCircle-v0': 300,
    'SafetyDroneCircle-v0': 300,
    'SafetyAntCircle-v0': 500,
}

# Cars and drones keep the last motor command through a reset, so the same seed would start from a
# different state.
_KEEPS_MOTOR_COMMANDS = ('SafetyCar', 'SafetyDrone')

# Camera positions. Bullet-Safety-Gym's own camera looks back at a runner, so its path is out of the
# image, and shows only the middle of a circle.
_CAMERAS: dict[str, dict[str, Any]] = {
    'Run': {'cam_dist': 9.0, 'cam_yaw': -90.0, 'cam_pitch': -30.0},
    'Circle': {'cam_base_pos': (0.0, 0.0, 0.0), 'cam_dist': 16.0, 'cam_pitch': -80.0},
}
# The ground within the circle; Bullet-Safety-Gym's dark blue hides a blue car.
_CIRCLE_COLOUR = (0.65, 0.75, 1.0, 1.0)


@contextlib.contextmanager
def _plain_streams() -> Iterator[None]:
    """Give bullet-safety-gym the process's own streams while it loads or connects.

    It silences PyBullet by redirecting the file descriptors of ``sys.stdout`` and ``sys.stderr``,
    and looks up the C streams by the names of the Python streams. That fails where the Python
    streams are replaced: in OmniSafe's experiment grid, in notebooks, under test runners.
    """
    replaced = {}
    for name, descriptor in (('stdout', 1), ('stderr', 2)):
        if getattr(sys, name) is not getattr(sys, f'__{name}__'):
            stream: Any = open(descriptor, 'w', closefd=False)  # noqa: SIM115
            stream.buffer.raw.name = f'<{name}>'
            replaced[name] = getattr(sys, name)
            setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in replaced.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


@contextlib.contextmanager
def _drawing_from(random_state: np.random.RandomState) -> Iterator[None]:
    """Use a private random state for code that draws from NumPy's global one."""
    users_state = np.random.get_state()
    np.random.set_state(random_state.get_state())
    try:
        yield
    finally:
        random_state.set_state(np.random.get_state())
        np.random.set_state(users_state)


@env_register
class BulletSafetyEnv(SingleEnv):
    """One of DSRL's Bullet tasks.

    An episode depends only on its seed and its actions, not on earlier episodes. The simulator
    draws from a private random state; Bullet itself ignores seeds and draws from NumPy's global
    state, which does not change here. Simulators that keep motor commands over a reset are built
    anew. An episode is ``terminated`` by falling over and ``truncated`` by the task's horizon.

    Args:
        env_id (str): Environment id, one of :data:`BULLET_HORIZONS`.
        num_envs (int, optional): Number of environments; only one is supported. Defaults to 1.
        device (torch.device or str, optional): Device of the returned tensors. Defaults to
            ``torch.device('cpu')``.

    Keyword Args:
        render_mode (str, optional): ``rgb_array``, ``rgb_array_list`` or ``human``. Defaults to
            ``rgb_array``.
        camera_name (str, optional): Accepted for OmniSafe's sake; these tasks have one camera.
        camera_id (int, optional): Accepted for OmniSafe's sake; these tasks have one camera.
        width (int, optional): The width of the rendered image. Defaults to 256.
        height (int, optional): The height of the rendered image. Defaults to 256.

    Raises:
        UserError: If the options are not supported or bullet-safety-gym is not installed.
    """

    render_modes: ClassVar[tuple[str, ...]] = ('rgb_array', 'rgb_array_list', 'human')

    _support_envs: ClassVar[list[str]] = list(BULLET_HORIZONS)

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        device: torch.device | str = DEVICE_CPU,
        *,
        render_mode: str = 'rgb_array',
        camera_name: str | None = None,
        camera_id: int | None = None,
        width: int = 256,
        height: int = 256,
    ) -> None:
        """Initialize an instance of :class:`BulletSafetyEnv`."""
        super().__init__(env_id, num_envs, device, render_mode)
        _check_display(render_mode)
        self._image_size = (width, height)
        self._rebuilds = env_id.startswith(_KEEPS_MOTOR_COMMANDS)
        self._stepped = False
        self._env = self._build()
        self._observation_space = self._env.observation_space
        self._action_space = self._env.action_space
        self._metadata = {
            'render_modes': list(self.render_modes),
            'render_fps': round(1.0 / self._simulator.dt),
        }

    @property
    def max_episode_steps(self) -> int:
        """The max steps per episode."""
        return BULLET_HORIZONS[self._env_id]

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start an episode.

        Args:
            seed (int, optional): The seed of this episode and of later ones. Defaults to None,
                which continues with the current random state.
            options (dict[str, Any], optional): Passed on to the simulator. Defaults to None.

        Returns:
            observation: The initial observation.
            info: Some information logged by the environment.
        """
        if seed is not None:
            self.set_seed(seed)
        if self._stepped and self._rebuilds:
            self._env.close()
            self._env = self._build()
        elif self._stepped:
            self._forget_contacts()
        self._stepped = False
        with _drawing_from(self._random_state):
            obs, info = self._env.reset(options=options)
        self._begin_frames()
        return self._tensor(obs), info

    def step(self, action: torch.Tensor) -> Step:
        """Run one step of the simulator.

        Args:
            action (torch.Tensor): Action to take.

        Returns:
            observation: The agent's observation of the current environment.
            reward: The amount of reward returned after previous action.
            cost: The amount of cost returned after previous action.
            terminated: Whether the episode has ended, for instance by falling over.
            truncated: Whether the task's horizon has been reached.
            info: Some information logged by the environment.
        """
        self._stepped = True
        obs, reward, terminated, truncated, info = self._env.step(action.detach().cpu().numpy())
        self._collect_frame()
        return (
            self._tensor(obs),
            self._tensor(reward),
            self._tensor(info['cost']),
            self._tensor(terminated),
            self._tensor(truncated),
            info,
        )

    def close(self) -> None:
        """Disconnect the simulator."""
        self._env.close()

    @property
    def _simulator(self) -> Any:
        return self._env.unwrapped

    def _build(self) -> gymnasium.Env:
        """Connect a new simulator."""
        # Building draws random numbers too. They are always the same, so that an episode's start
        # does not depend on how often the simulator was built.
        with _plain_streams(), _drawing_from(np.random.RandomState(0)):
            try:
                import bullet_safety_gym  # noqa: F401
            except ImportError as error:
                reason = why_unavailable('bullet_safety_gym') or f'{type(error).__name__}: {error}'
                raise UserError(f'{self._env_id}: {reason}') from error
            env = gymnasium.make(
                self._env_id,
                max_episode_steps=self.max_episode_steps,
                # The checker only warns about the simulator's float64 observations.
                disable_env_checker=True,
                graphics=self._render_mode == 'human',
            )
        self._set_scene(env.unwrapped)
        return env

    def _forget_contacts(self) -> None:
        """Move all movable bodies out of contact.

        Bullet keeps contact points from step to step. A body that a reset places near its old
        position would have those of the last episode, and start differently than in a new
        simulator.
        """
        bullet = self._simulator.bc
        for index in range(bullet.getNumBodies()):
            body = bullet.getBodyUniqueId(index)
            if bullet.getDynamicsInfo(body, -1)[0] > 0.0:  # its mass; fixed bodies have none
                far = (0.0, 0.0, 1000.0 * (index + 1))
                bullet.resetBasePositionAndOrientation(body, far, (0.0, 0.0, 0.0, 1.0))
        bullet.performCollisionDetection()

    def _set_scene(self, simulator: Any) -> None:
        kind = 'Circle' if 'Circle' in self._env_id else 'Run'
        camera = simulator.world.camera
        camera.update(**_CAMERAS[kind])
        camera.render_width, camera.render_height = self._image_size
        if kind == 'Circle':
            zone = simulator.task.circle.body_id
            simulator.bc.changeVisualShape(zone, -1, rgbaColor=_CIRCLE_COLOUR)

    def _image(self) -> np.ndarray:
        simulator = self._simulator
        # A red ball, nearly transparent, lies around the agent and shows costs. PyBullet's own
        # renderer, which needs no graphics system, draws it opaque.
        hidden = (1.0, 0.0, 0.0, 0.0)
        simulator.bc.changeVisualShape(simulator.agent.violation_body_id, -1, rgbaColor=hidden)
        return np.asarray(simulator.render(mode='rgb_array'), dtype=np.uint8)


def _check_display(render_mode: str) -> None:
    """Check that there is a display for a window: PyBullet would end the whole process.

    Raises:
        UserError: If there is none.
    """
    if render_mode == 'human' and sys.platform == 'linux' and not os.environ.get('DISPLAY'):
        raise UserError('render_mode human needs a display (DISPLAY is not set): use rgb_array')
