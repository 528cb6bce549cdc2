# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Access to OmniSafe's internals, for known versions.

Only this module and the folder ``omnisafe_plugin`` use internals of OmniSafe and Safety-Gymnasium.
Support for another release of OmniSafe needs changes only in these two.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable

    from omnisafe_qpt.data.trajectories import Observer, Trajectories


KNOWN_VERSIONS = ('0.5.0',)


class UnknownOmniSafe(Exception):
    """The installed OmniSafe lacks a required attribute."""


def reach(owner: Any, name: str) -> Any:
    """Return an attribute of OmniSafe that other versions may lack.

    Raises:
        UnknownOmniSafe: If it is missing.
    """
    if not hasattr(owner, name):
        raise UnknownOmniSafe(f'{owner.__name__} has no {name}')
    return getattr(owner, name)


@functools.cache
def check_version() -> None:
    """Warn once if the installed version of OmniSafe is unknown."""
    version = omnisafe_version()
    if version not in KNOWN_VERSIONS:
        print(
            f'omnisafe-qpt was written for OmniSafe {" or ".join(KNOWN_VERSIONS)}, and OmniSafe '
            f'{version} is installed: its algorithms may fail; {remedy()}',
            file=sys.stderr,
        )


def omnisafe_version() -> str:
    """Return the version of the installed OmniSafe."""
    from importlib import metadata

    try:
        return metadata.version('omnisafe')
    except metadata.PackageNotFoundError:
        return 'of unknown version'


def remedy() -> str:
    """Return the command that installs a known version of OmniSafe."""
    return f"pip install 'omnisafe=={KNOWN_VERSIONS[-1]}'"


def without_auto_reset(env: Any) -> Any:
    """Disable the automatic reset of an OmniSafe environment.

    OmniSafe always enables automatic resets of Safety-Gymnasium. Evaluation resets with its own
    seed, and each reset of a navigation task takes seconds.

    Args:
        env (CMDP): An environment as ``omnisafe.envs.core.make`` returns it, unwrapped.

    Returns:
        The same environment.
    """
    inner: Any = getattr(env, '_env', None)
    if type(inner).__name__ == 'SafeAutoResetWrapper':
        import gymnasium

        # One plain wrapper in its place: OmniSafe looks for the horizon at this depth.
        env._env = gymnasium.Wrapper(inner.env)
    return env


def unwrapped(env: Any) -> Any:
    """Return an OmniSafe environment without its wrappers, which hide its horizon.

    Args:
        env (CMDP): The environment; a wrapper's ``max_episode_steps`` is None.
    """
    from omnisafe.envs.core import Wrapper

    while isinstance(env, Wrapper):
        env = env._env
    return env


def simulator_of(env: Any) -> Any:
    """Return the simulator inside an OmniSafe environment, without wrappers.

    Args:
        env (CMDP): The environment; each of OmniSafe's keeps its simulator as ``_env``.

    Returns:
        The simulator; the environment itself if it has none, as users' environments.
    """
    env = unwrapped(env)
    simulator = getattr(env, '_env', env)
    return getattr(simulator, 'unwrapped', simulator)


def environment_class(env_id: str) -> type:
    """Return the class that OmniSafe has for an environment."""
    from omnisafe.envs import core

    return reach(core, 'ENV_REGISTRY').get_class(env_id, None)


# Keys of the policy in OmniSafe's checkpoints: online algorithms, offline ones, VAE-BC.
_POLICY_NAMES = ('pi', 'actor', 'vae')
# Policy types of the offline algorithms, which their settings lack; all others are Gaussian.
_OFFLINE_ACTORS = {'BCQ': 'perturbation', 'BCQLag': 'perturbation', 'VAEBC': 'vae'}


def policy_parameters(checkpoint: Any) -> dict[str, Any] | None:
    """Return the policy's parameters from a run's checkpoint.

    Args:
        checkpoint (Any): Content of ``torch_save/epoch-N.pt``.

    Returns:
        The parameters, or None if the algorithm plans with a model and has no policy.
    """
    if not isinstance(checkpoint, dict) or 'dynamics' in checkpoint:
        return None
    return next((checkpoint[name] for name in _POLICY_NAMES if name in checkpoint), None)


def load_actor(config: dict[str, Any], checkpoint: Any, obs_dim: int, act_dim: int) -> Any:
    """Build the policy of a run of one of OmniSafe's own algorithms.

    OmniSafe's evaluator does this in private code, with its own environment, and not for offline
    algorithms.

    Args:
        config (dict[str, Any]): The run's ``config.json``.
        checkpoint (Any): Content of ``torch_save/epoch-N.pt``.
        obs_dim (int): Size of the policy's input.
        act_dim (int): A.

    Returns:
        The ``omnisafe.models.base.Actor``.

    Raises:
        KeyError: If a setting is missing.
        RuntimeError: If the parameters do not fit the settings.
    """
    import numpy as np
    from gymnasium.spaces import Box
    from omnisafe.models.actor import ActorBuilder

    models = config['model_cfgs']
    sizes = models.get('actor', models)  # VAE-BC keeps them one level higher
    actor = ActorBuilder(
        obs_space=Box(-np.inf, np.inf, (obs_dim,)),
        act_space=Box(-1.0, 1.0, (act_dim,)),
        hidden_sizes=sizes['hidden_sizes'],
        activation=sizes['activation'],
        weight_initialization_mode=models['weight_initialization_mode'],
    ).build_actor(
        models.get('actor_type') or _OFFLINE_ACTORS.get(config['algo'], 'gaussian_learning'),
    )
    actor.load_state_dict(policy_parameters(checkpoint))
    return actor


def frozen_normalizer(checkpoint: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the observation normaliser of a run's policy, as saved in the checkpoint.

    OmniSafe's own ``Normalizer`` updates its statistics with every input.

    Args:
        checkpoint (dict[str, Any]): Content of ``torch_save/epoch-N.pt``.

    Returns:
        A function of a tensor of shape (S,).
    """
    state = checkpoint.get('obs_normalizer')
    if state is None or state['_count'] <= 1:
        return lambda observation: observation

    def normalize(observation: Any) -> Any:
        scaled = (observation - state['_mean']) / state['_std']
        return scaled.clamp(-state['_clip'], state['_clip'])

    return normalize


def dataset_names() -> list[str]:
    """Return the dataset names of OmniSafe's loader, which has no public list."""
    from omnisafe.common.offline.dataset import OfflineDataset

    return list(reach(OfflineDataset, '_name_to_metadata'))


def load_omnisafe_dataset(
    name: str,
    horizon: int,
    observer: Observer | None = None,
) -> Trajectories:
    """Read one of OmniSafe's own datasets with OmniSafe's own loader, which may download it.

    Args:
        name (str): One of :func:`dataset_names`.
        horizon (int): The task's time limit in steps.
        observer (Observer, optional): Receives the blocks. Defaults to None.
    """
    import torch
    from omnisafe.common.offline.dataset import OfflineDataset

    from omnisafe_qpt.data.trajectories import Trajectories

    dataset = OfflineDataset(name, device=torch.device('cpu'))
    arrays = {
        'observations': dataset.obs,
        'next_observations': dataset.next_obs,
        'actions': dataset.action,
        'rewards': dataset.reward,
        'costs': dataset.cost,
        'terminals': dataset.done,
    }
    return Trajectories.from_arrays(
        {key: value.numpy() for key, value in arrays.items()},
        horizon=horizon,
        name=name,
        observer=observer,
    )
