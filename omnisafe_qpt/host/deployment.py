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

from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.data.trajectories import Frontier
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.checkpoint import LAST, load_networks
from omnisafe_qpt.host.config import resolve_device
from omnisafe_qpt.runner import LoopPolicy


if TYPE_CHECKING:
    from omnisafe.envs.core import CMDP
    from omnisafe.models.base import Actor


class DeployedPolicy(LoopPolicy):
    """A trained policy in the user's own loop, for one episode or for several at once.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float): Return to ask for.
        num_episodes (int, optional): See :class:`omnisafe_qpt.runner.LoopPolicy`. Defaults to
            None, one episode.
    """

    error = UserError

    def __init__(
        self,
        networks: DeployableNetworks,
        config: DeploymentConfig,
        target_return: float,
        num_episodes: int | None = None,
    ) -> None:
        """Initialize an instance of :class:`DeployedPolicy`."""
        self._spec = networks.spec
        super().__init__(self._spec['obs_dim'], num_episodes)
        self._rollout = RolloutPolicy(networks, config, self._count)
        self.set_cost_limit(config.cost_limit, target_return)
        self.reset()

    def _target_return_for(self, cost_limit: float) -> float:
        return _target_return_for(self._spec, cost_limit)

    def _begin(self, row: int, seed: int) -> None:
        self._rollout.reset(*self._targets[row].tolist(), seeds=(seed,), episodes=(row,))

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return self._rollout.act(observations).cpu().numpy()

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        self._rollout.observe(rewards, costs)

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        self._rollout.retarget(*targets.T.tolist(), rows)

    def _remaining(self) -> np.ndarray:
        return self._rollout.remaining.cpu().numpy()


def load_policy(  # pylint: disable=too-many-arguments
    run: str | os.PathLike[str],
    cost_limit: float | None = None,
    target_return: float | None = None,
    device: str | None = None,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
    num_episodes: int | None = None,
    checkpoint: str | int = LAST,
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
        rule (str, optional): ``paper``, ``bounded`` or ``paced``. Defaults to the run's.
        candidate_shift (str, optional): ``history`` or ``last``; see
            :class:`omnisafe_qpt.core.config.DeploymentConfig`. Defaults to the run's.
        num_episodes (int, optional): How many episodes go on at once, for a vector environment;
            then observations are (B, S). Defaults to None, one episode and observations (S,).
        checkpoint (str or int, optional): Which of the run's: ``last``, ``best`` or a number of
            epochs. Defaults to ``'last'``.

    Returns:
        The policy, at the start of an episode.

    Raises:
        UserError: If the run or the device does not exist, or a value is impossible.
    """
    networks, _ = load_networks(run, resolve_device(device or 'auto'), checkpoint)
    config, target_return = deployment_of(
        networks,
        cost_limit,
        target_return,
        candidates,
        rule,
        candidate_shift,
    )
    return DeployedPolicy(networks, config, target_return, num_episodes)


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
    if target_return is None:
        target_return = _target_return_for(spec, config.cost_limit)
    return config, float(target_return)


def _target_return_for(spec: dict[str, Any], cost_limit: float) -> float:
    """Return the frontier's return at a limit, or the run's own if it has one for this limit."""
    if spec['target_return'] != 'auto' and cost_limit == spec['deployment']['cost_limit']:
        return float(spec['target_return'])
    frontier = Frontier(tuple(spec['frontier']['costs']), tuple(spec['frontier']['returns']))
    return frontier.target_return(cost_limit)


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
    from omnisafe_qpt.host.adapter import DeploymentEnv
    from omnisafe_qpt.host.environments import make_env
    from omnisafe_qpt.host.seeds import final_seeds

    networks, _ = load_networks(Path(save_dir) / 'torch_save' / model_name)
    config, target_return = deployment_of(networks)
    options = {key: value for key, value in env_kwargs.items() if key not in ('env_id', 'num_envs')}
    env = make_env(env_kwargs['env_id'], **options)
    spaces = (env.observation_space, env.action_space)
    actor = QPTActor(*spaces, networks, config, target_return)
    return DeploymentEnv(env, actor, final_seeds(cfgs['seed'], 1).start), actor
