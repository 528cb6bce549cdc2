# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The environment and the policy for OmniSafe's evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omnisafe.envs.core import CMDP, Wrapper
from omnisafe.models.base import Actor

from omnisafe_qpt.envs.environments import horizon_of, make_env
from omnisafe_qpt.envs.single import Step
from omnisafe_qpt.envs.user_modules import require_environment_of
from omnisafe_qpt.evaluation.deployment import deployment_of
from omnisafe_qpt.omnisafe_plugin.actor import DeployedActor
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.settings.seeds import final_seeds


class DeploymentEnv(Wrapper):
    """An environment that passes resets, rewards and costs to the actor.

    Args:
        env (CMDP): The environment.
        actor (DeployedActor): The actor.
        seed (int): Seed of the first episode; it increases by one per episode.
    """

    def __init__(self, env: CMDP, actor: DeployedActor, seed: int) -> None:
        """Initialize an instance of :class:`DeploymentEnv`."""
        super().__init__(env)
        self._actor = actor
        self._next_seed = seed
        self._horizon = horizon_of(env)
        self._steps = 0

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start an episode, here and in the actor."""
        if seed is None:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        self._steps = 0
        obs, info = self._env.reset(seed=seed, options=options)
        self._actor.begin_episode(obs, seed)
        return obs, info

    def step(self, action: torch.Tensor) -> Step:
        """Run one step and feed its reward and cost back."""
        obs, reward, cost, terminated, truncated, info = self._env.step(action)
        self._actor.observe(reward, cost)
        self._steps += 1
        truncated = torch.logical_or(truncated, torch.as_tensor(self._steps >= self._horizon))
        return obs, reward, cost, terminated, truncated, info


def build_evaluation(
    save_dir: str,
    model_name: str,
    cfgs: dict[str, Any],
    env_kwargs: dict[str, Any],
) -> tuple[CMDP, Actor]:
    """Build the environment and the actor for OmniSafe's evaluator.

    Args:
        save_dir (str): The run's folder.
        model_name (str): The checkpoint, ``epoch-N.pt``.
        cfgs (dict[str, Any]): The run's configuration.
        env_kwargs (dict[str, Any]): Arguments of the environment, with ``env_id`` and rendering.

    Returns:
        The environment, which passes rewards, costs and resets to the actor, ends episodes at the
        task's horizon and seeds them from the run's seed; and the deployed policy.
    """
    networks, _ = load_networks(Path(save_dir) / 'torch_save' / model_name)
    require_environment_of(networks.spec)
    config, target_return = deployment_of(networks)
    options = {key: value for key, value in env_kwargs.items() if key not in ('env_id', 'num_envs')}
    env = make_env(env_kwargs['env_id'], **options)
    spaces = (env.observation_space, env.action_space)
    actor = DeployedActor(*spaces, networks, config, target_return)
    return DeploymentEnv(env, actor, final_seeds(cfgs['seed'], 1).start), actor
