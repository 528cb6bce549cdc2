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
    """What OmniSafe's evaluator calls: ``predict``, one environment at a time.

    OmniSafe's actors know neither rewards nor the beginning of an episode. Here the environment
    (:class:`omnisafe_qpt.omnisafe_plugin.adapter.DeploymentEnv`) passes them on, through
    :meth:`begin_episode` and :meth:`observe`.

    Args:
        obs_space (OmnisafeSpace): Observation space.
        act_space (OmnisafeSpace): Action space.
        networks (Deployable): The trained model.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Return to ask for at the start of each episode; None where
            the policy is not asked for any.
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
            observation (torch.Tensor): (S,) what the reset returned.
            seed (int): Fixes whatever the policy draws, such as candidates.
        """
        self._rollout.reset(self.target_return, seeds=(seed,))
        self._first_observation = observation

    def observe(self, reward: torch.Tensor, cost: torch.Tensor) -> None:
        """Take in the reward and cost of the last action."""
        self._rollout.observe(reward, cost)

    def predict(self, obs: torch.Tensor, deterministic: bool = True) -> torch.Tensor:
        """Choose the action at an observation; the seed of the episode fixes it.

        Args:
            obs (torch.Tensor): (S,) or (1, S).
            deterministic (bool, optional): Without effect. Defaults to True.

        Returns:
            (A,) or (1, A), as the observation has it, on its device.
        """
        del deterministic
        device, shape = obs.device, obs.shape
        if self._first_observation is not None:
            # OmniSafe's renderer goes on with the last observation of the previous episode.
            obs, self._first_observation = self._first_observation, None
        action = self._rollout.act(obs.reshape(1, -1).cpu())
        return action.reshape(*shape[:-1], -1).to(device)

    def _distribution(self, obs: torch.Tensor) -> Distribution:
        raise NotImplementedError('a deployed policy has no distribution')

    def forward(self, obs: torch.Tensor) -> Distribution:
        """Refuse: a deployed policy has no distribution."""
        return self._distribution(obs)

    def log_prob(self, act: torch.Tensor) -> torch.Tensor:
        """Refuse: a deployed policy has no densities."""
        raise NotImplementedError('a deployed policy has no distribution')

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the networks' state, from which they can be rebuilt alone."""
        return self.networks.state_dict(*args, **kwargs)
