# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A deployed policy as an OmniSafe actor."""

from __future__ import annotations

from typing import Any

import torch
from omnisafe.models.base import Actor
from omnisafe.typing import OmnisafeSpace
from torch.distributions import Distribution

from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable


class DeployedActor(Actor):
    """An actor for OmniSafe's evaluator, with ``predict`` for one environment at a time.

    OmniSafe passes neither rewards nor resets to an actor. Here the environment
    (:class:`omnisafe_qpt.omnisafe_plugin.adapter.DeploymentEnv`) passes them on, through
    :meth:`begin_episode` and :meth:`observe`.

    Args:
        obs_space (OmnisafeSpace): Observation space.
        act_space (OmnisafeSpace): Action space.
        networks (Deployable): The trained model.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Target return of each episode; None for a policy without one.
    """

    def __init__(
        self,
        obs_space: OmnisafeSpace,
        act_space: OmnisafeSpace,
        networks: Deployable,
        config: DeploymentConfig,
        target_return: float | None,
    ) -> None:
        """Initialize an instance of :class:`DeployedActor`."""
        super().__init__(obs_space, act_space, hidden_sizes=[])
        self.networks = networks
        self._rollout = networks.deploy(config)
        self.config = config
        self.target_return = target_return
        self._first_observation: torch.Tensor | None = None

    def begin_episode(self, observation: torch.Tensor, seed: int) -> None:
        """Start an episode.

        Args:
            observation (torch.Tensor): (S,) from the reset.
            seed (int): Seed of the policy's random draws, such as candidates.
        """
        self._rollout.reset(self.target_return, seeds=(seed,))
        self._first_observation = observation

    def observe(self, reward: torch.Tensor, cost: torch.Tensor) -> None:
        """Record the reward and cost of the last action."""
        self._rollout.observe(reward, cost)

    def predict(self, obs: torch.Tensor, deterministic: bool = True) -> torch.Tensor:
        """Return the action for an observation, deterministic given the seed of the episode.

        Args:
            obs (torch.Tensor): (S,) or (1, S).
            deterministic (bool, optional): Without effect. Defaults to True.

        Returns:
            (A,) or (1, A), with the observation's batch dimension and device.
        """
        del deterministic
        device, shape = obs.device, obs.shape
        if self._first_observation is not None:
            # OmniSafe's renderer continues with the last observation of the previous episode.
            obs, self._first_observation = self._first_observation, None
        action = self._rollout.act(obs.reshape(1, -1).cpu())
        return action.reshape(*shape[:-1], -1).to(device)

    def _distribution(self, obs: torch.Tensor) -> Distribution:
        raise NotImplementedError('a deployed policy has no distribution')

    def forward(self, obs: torch.Tensor) -> Distribution:
        """Raise an error: a deployed policy has no distribution."""
        return self._distribution(obs)

    def log_prob(self, act: torch.Tensor) -> torch.Tensor:
        """Raise an error: a deployed policy has no densities."""
        raise NotImplementedError('a deployed policy has no distribution')

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the networks' state dict, from which they can be rebuilt."""
        return self.networks.state_dict(*args, **kwargs)
