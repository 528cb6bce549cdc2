# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""DSRL's nine MetaDrive tasks as OmniSafe environments.

Creating an environment checks that MetaDrive is installed; OmniSafe can list the ids without it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from omnisafe.envs.core import env_register
from omnisafe.typing import DEVICE_CPU

from omnisafe_qpt.envs.metadrive_process import MAPS, TRAFFIC_DENSITIES, SimulatorProcess
from omnisafe_qpt.envs.simulators import why_unavailable
from omnisafe_qpt.envs.single import SingleEnv, Step
from omnisafe_qpt.errors import UserError


# DSRL's task names by environment id.
METADRIVE_TASKS: dict[str, str] = {
    f'SafeMetaDrive-{road}{traffic}-v0': f'{road}{traffic}'
    for road in MAPS
    for traffic in TRAFFIC_DENSITIES
}

_HORIZON = 1000

# The simulator leaks about 0.2 MB per episode.
_EPISODES_PER_PROCESS = 1000


@env_register
class SafeMetaDriveEnv(SingleEnv):
    """One of DSRL's MetaDrive tasks: drive to the end of a road with traffic.

    An episode depends only on its seed and its actions. The simulator runs in its own process,
    which starts at the first reset, so several environments can be used at once. An episode is
    ``terminated`` by arrival, a crash or leaving the road, and ``truncated`` by the task's horizon.

    Args:
        env_id (str): Environment id, one of :data:`METADRIVE_TASKS`.
        num_envs (int, optional): Number of environments; only one is supported. Defaults to 1.
        device (torch.device or str, optional): Device of the returned tensors. Defaults to
            ``torch.device('cpu')``.

    Keyword Args:
        render_mode (str, optional): ``rgb_array`` or ``rgb_array_list``, seen from above.
            Defaults to ``rgb_array``.
        camera_name (str, optional): Accepted for OmniSafe's sake; these tasks have one camera.
        camera_id (int, optional): Accepted for OmniSafe's sake; these tasks have one camera.
        width (int, optional): The width of the rendered image. Defaults to 256.
        height (int, optional): The height of the rendered image. Defaults to 256.

    Raises:
        UserError: If the options are not supported or MetaDrive is not installed.
    """

    _support_envs: ClassVar[list[str]] = list(METADRIVE_TASKS)

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
        """Initialize an instance of :class:`SafeMetaDriveEnv`."""
        super().__init__(env_id, num_envs, device, render_mode)
        reason = why_unavailable('metadrive')
        if reason is not None:
            raise UserError(f'{env_id}: {reason}')
        self._image_size = (width, height)
        self._simulator: SimulatorProcess | None = None
        self._episodes = 0
        self._steps = 0
        self._observation_space = Box(0.0, 1.0, (259,), np.float32)
        self._action_space = Box(-1.0, 1.0, (2,), np.float32)
        self._metadata = {'render_modes': list(self.render_modes), 'render_fps': 10}

    @property
    def max_episode_steps(self) -> int:
        """The max steps per episode."""
        return _HORIZON

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start an episode.

        Args:
            seed (int, optional): The seed of this episode and of later ones. Defaults to None,
                which continues with the current random state.
            options (dict[str, Any], optional): Accepted for OmniSafe's sake; there are none.

        Returns:
            observation: The initial observation.
            info: Some information logged by the environment.
        """
        if seed is not None:
            self.set_seed(seed)
        if self._episodes >= _EPISODES_PER_PROCESS:
            self.close()
        if self._simulator is None:
            self._simulator = SimulatorProcess(METADRIVE_TASKS[self._env_id])
            self._episodes = 0
        self._episodes += 1
        self._steps = 0
        obs = self._simulator.request('reset', int(self._random_state.randint(2**31)))
        self._begin_frames()
        return self._tensor(obs), {}

    def step(self, action: torch.Tensor) -> Step:
        """Run one step of the simulator.

        Args:
            action (torch.Tensor): Steering, and throttle or brake. Shape (2,).

        Returns:
            observation: The agent's observation of the current environment.
            reward: The amount of reward returned after previous action.
            cost: The amount of cost returned after previous action.
            terminated: Whether the car has arrived, crashed or left the road.
            truncated: Whether the task's horizon has been reached.
            info: Some information logged by the environment.
        """
        self._steps += 1
        answer = self._running().request('step', action.detach().cpu().numpy())
        obs, reward, cost, terminated, info = answer
        self._collect_frame()
        truncated = self._steps >= _HORIZON
        signals = (self._tensor(value) for value in (reward, cost, terminated, truncated))
        return self._tensor(obs), *signals, info

    def advise(self, driver: str, speed: float, gap: float = 1.0) -> np.ndarray:
        """Return what one of MetaDrive's own drivers would do; the episode does not change.

        Args:
            driver (str): ``idm``, which follows rules, or ``expert``, trained by PPO.
            speed (float): The speed that it aims at, in km/h.
            gap (float, optional): The distance that ``idm`` keeps from traffic ahead, relative to
                its usual one; 0 ignores that traffic. Defaults to 1.0.

        Returns:
            Steering, and throttle or brake, possibly beyond [-1, 1]. Shape (2,).
        """
        return self._running().request('advise', driver, speed, gap)

    def close(self) -> None:
        """End the simulator's process; a reset starts a new one."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _running(self) -> SimulatorProcess:
        if self._simulator is None:
            raise RuntimeError(f'{self._env_id} needs a reset first')
        return self._simulator

    def _image(self) -> np.ndarray:
        return self._running().request('render', *self._image_size)
