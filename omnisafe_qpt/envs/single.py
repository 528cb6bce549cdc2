# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of the environments that this package adds to OmniSafe.

It has a module of its own because OmniSafe's import imports all of these environments: whichever of
them is imported first is not complete at that time.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from omnisafe.envs.core import CMDP

from omnisafe_qpt.errors import UserError


# Observation, reward, cost, terminated, truncated and further information of one step.
Step: TypeAlias = tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    dict[str, Any],
]


class SingleEnv(CMDP):
    """Base class of the simulated tasks: one environment, with rendering on request.

    Args:
        env_id (str): Environment id.
        num_envs (int): Number of environments; only one is supported.
        device (torch.device or str): Device of the returned tensors.
        render_mode (str): One of the class's ``render_modes``.

    Attributes:
        need_auto_reset_wrapper (bool): Whether to use auto reset wrapper.
        need_time_limit_wrapper (bool): Whether to use time limit wrapper. The horizon is kept by
            the environment itself, because OmniSafe's offline wrapper assumes 1000 steps.
        render_modes (tuple of str): The supported ways to render.

    Raises:
        UserError: If the options are not supported.
    """

    need_auto_reset_wrapper: bool = True
    need_time_limit_wrapper: bool = False
    render_modes: ClassVar[tuple[str, ...]] = ('rgb_array', 'rgb_array_list')

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        device: torch.device | str,
        render_mode: str,
    ) -> None:
        """Initialize an instance of :class:`SingleEnv`."""
        super().__init__(env_id)
        if num_envs != 1:
            raise UserError(
                f'{env_id} runs one environment per process, not {num_envs}: leave '
                'vector_env_nums at 1 (on-policy algorithms have train_cfgs.parallel instead)',
            )
        if render_mode not in self.render_modes:
            choices = ', '.join(self.render_modes)
            raise UserError(f'render_mode must be one of {choices}, not {render_mode!r}')
        self._env_id = env_id
        self._num_envs = 1
        self._device = torch.device(device)
        self._render_mode = render_mode
        self._frames: list[np.ndarray] = []
        self._random_state = np.random.RandomState()

    def set_seed(self, seed: int) -> None:
        """Set the seed of the episodes to come.

        Args:
            seed (int): Seed to set.
        """
        self._random_state = np.random.RandomState(seed)

    def render(self) -> Any:
        """Render the current state, without a display unless the mode is ``human``.

        Returns:
            An image of shape (height, width, 3), or in ``rgb_array_list`` mode the images since
            the last call or reset, or in ``human`` mode None: the window follows by itself.
        """
        if self._render_mode == 'rgb_array':
            return self._image()
        if self._render_mode == 'rgb_array_list':
            frames, self._frames = self._frames, []
            return frames
        return None

    def _image(self) -> np.ndarray:
        """Draw the current state."""
        raise NotImplementedError

    def _begin_frames(self) -> None:
        self._frames = []
        self._collect_frame()

    def _collect_frame(self) -> None:
        if self._render_mode == 'rgb_array_list':
            self._frames.append(self._image())

    def _tensor(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self._device)
