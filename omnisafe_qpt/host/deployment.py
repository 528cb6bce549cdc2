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
"""Trained models in use: loading a policy, OmniSafe's evaluator."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.data.trajectories import Frontier
from omnisafe_qpt.host.checkpoint import load_networks
from omnisafe_qpt.host.config import resolve_device


if TYPE_CHECKING:
    from omnisafe.envs.core import CMDP
    from omnisafe.models.base import Actor


class DeployedPolicy:
    """A trained policy for one environment at a time, in the user's own loop.

    Call :meth:`reset` at the start of an episode, then :meth:`act` and :meth:`observe` in turn.

    Args:
        networks (DeployableNetworks): The trained model.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float): Return to ask for.
    """

    def __init__(
        self,
        networks: DeployableNetworks,
        config: DeploymentConfig,
        target_return: float,
    ) -> None:
        """Initialize an instance of :class:`DeployedPolicy`."""
        self._rollout = RolloutPolicy(networks, config)
        self.config = config
        self.target_return = target_return
        self.reset()

    @property
    def cost_limit(self) -> float:
        """Undiscounted cost of an episode that the policy is to keep within."""
        return self.config.cost_limit

    def reset(self, seed: int = 0) -> None:
        """Begin an episode.

        Args:
            seed (int, optional): Fixes the candidates: the same seed and observations give the
                same actions. Defaults to 0.
        """
        self._rollout.reset(self.target_return, seeds=(seed,))

    def act(self, obs: np.ndarray | torch.Tensor) -> np.ndarray:
        """Choose the action at an observation.

        Args:
            obs (np.ndarray or torch.Tensor): (S,) in the environment's own units.

        Returns:
            (A,) float32 in [-1, 1].

        Raises:
            UserError: If the observation has another size, or holds NaN or infinity.
        """
        if isinstance(obs, torch.Tensor):
            obs = obs.cpu()
        return self._rollout.act(np.asarray(obs, dtype=np.float32)[None])[0].cpu().numpy()

    def observe(self, reward: float, cost: float) -> None:
        """Take in the reward and the cost that the last action brought.

        Args:
            reward (float): Of one step.
            cost (float): Of one step.
        """
        self._rollout.observe(float(reward), float(cost))


def load_policy(  # pylint: disable=too-many-arguments
    run: str | os.PathLike[str],
    cost_limit: float | None = None,
    target_return: float | None = None,
    device: str | None = None,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
) -> DeployedPolicy:
    """Load a trained policy.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        cost_limit (float, optional): Undiscounted cost of an episode to keep within, any number.
            Defaults to the run's.
        target_return (float, optional): Return to ask for. Defaults to the highest return that
            the dataset reached within the cost limit, or the run's own if one was given there.
        device (str, optional): ``cpu``, ``cuda`` or ``cuda:N``. Defaults to CUDA if there is a
            device.
        candidates (int, optional): Return targets tried at each step. Defaults to the run's.
        rule (str, optional): ``paper`` or ``bounded``. Defaults to the run's.
        candidate_shift (str, optional): ``history`` or ``last``; see
            :class:`omnisafe_qpt.core.config.DeploymentConfig`. Defaults to the run's.

    Raises:
        UserError: If the run or the device does not exist, or a value is impossible.
    """
    networks, _ = load_networks(run, resolve_device(device or 'auto'))
    config, target_return = deployment_of(
        networks,
        cost_limit,
        target_return,
        candidates,
        rule,
        candidate_shift,
    )
    return DeployedPolicy(networks, config, target_return)


def deployment_of(  # pylint: disable=too-many-arguments
    networks: DeployableNetworks,
    cost_limit: float | None = None,
    target_return: float | None = None,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
) -> tuple[DeploymentConfig, float]:
    """Return a model's deployment settings with some of them replaced, and its target return."""
    spec = networks.spec
    given = {
        'cost_limit': cost_limit,
        'candidates': candidates,
        'rule': rule,
        'candidate_shift': candidate_shift,
    }
    trained = DeploymentConfig(**spec['deployment'])
    config = replace(trained, **{key: value for key, value in given.items() if value is not None})
    if target_return is None and config.cost_limit == trained.cost_limit:
        target_return = None if spec['target_return'] == 'auto' else spec['target_return']
    if target_return is None:
        frontier = Frontier(tuple(spec['frontier']['costs']), tuple(spec['frontier']['returns']))
        target_return = frontier.target_return(config.cost_limit)
    return config, float(target_return)


def build_evaluation(
    save_dir: str,
    model_name: str,
    cfgs: dict[str, Any],
    env_kwargs: dict[str, Any],
) -> tuple[CMDP, Actor]:
    """Build what OmniSafe's evaluator needs for a run of QPT.

    Args:
        save_dir (str): The run's folder.
        model_name (str): The checkpoint, ``epoch-N.pt``.
        cfgs (dict[str, Any]): The run's configuration.
        env_kwargs (dict[str, Any]): For the environment, ``env_id`` and rendering among them.

    Returns:
        The environment, which feeds rewards, costs and resets back, ends episodes at the task's
        horizon and seeds them from the run's seed; and the deployed policy.
    """
    from omnisafe_qpt.host.actor import QPTActor
    from omnisafe_qpt.host.adapter import DeploymentEnv, evaluation_seed
    from omnisafe_qpt.host.environments import make_env

    networks, _ = load_networks(Path(save_dir) / 'torch_save' / model_name)
    config, target_return = deployment_of(networks)
    options = {key: value for key, value in env_kwargs.items() if key not in ('env_id', 'num_envs')}
    env = make_env(env_kwargs['env_id'], **options)
    spaces = (env.observation_space, env.action_space)
    actor = QPTActor(*spaces, networks, config, target_return)
    return DeploymentEnv(env, actor, evaluation_seed(cfgs['seed'])), actor
