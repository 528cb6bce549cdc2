# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""An OmniSafe environment with numpy arrays, for controllers and recorder."""

from __future__ import annotations

from typing import Any

import numpy as np


class Simulator:
    """One of OmniSafe's environments, with the task's own horizon and actions in [-1, 1].

    Args:
        env_id (str): OmniSafe's environment id.

    Attributes:
        env_id (str): OmniSafe's environment id.
        horizon (int): Steps in an episode.
        observation_space (Box): Its shape is (S,).
        action_space (Box): Its shape is (A,).
        forgets (bool): Whether a reset clears all state of the previous episode. Safety-Gymnasium
            does not guarantee it: SafetyCarCircle1-v0 starts its second episode 1e-16 off.
        raw (Any): The simulator itself, out of all wrappers, for controllers that read positions.

    Raises:
        UserError: If the environment is not known or its simulator is not installed.
    """

    def __init__(self, env_id: str) -> None:
        """Initialize an instance of :class:`Simulator`."""
        # OmniSafe takes seconds to import, and the tables of controllers do not need it. It comes
        # first: its import registers QPT, which imports the modules below.
        import omnisafe  # noqa: F401

        from omnisafe_qpt.compat import unwrapped
        from omnisafe_qpt.envs.environments import horizon_of, make_env
        from omnisafe_qpt.envs.single import SingleEnv

        self.env_id = env_id
        self._env = make_env(env_id)
        self.horizon = horizon_of(self._env)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.forgets = isinstance(unwrapped(self._env), SingleEnv)

    @property
    def raw(self) -> Any:
        """The simulator itself; a reset may replace it."""
        from omnisafe_qpt.compat import simulator_of

        return simulator_of(self._env)

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode.

        Args:
            seed (int): Seed of the episode.

        Returns:
            The first observation, shape (S,), float32.
        """
        return self._env.reset(seed=seed)[0].numpy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, float, bool, bool]:
        """Run one step.

        Args:
            action (np.ndarray): Shape (A,), float32, in [-1, 1].

        Returns:
            Observation of shape (S,), reward, cost, whether the episode ended in a terminal
            state, and whether it was cut by the time limit.
        """
        import torch

        obs, reward, cost, terminated, truncated, _ = self._env.step(torch.from_numpy(action))
        return obs.numpy(), reward.item(), cost.item(), bool(terminated), bool(truncated)

    def close(self) -> None:
        """Close the simulator."""
        self._env.close()
