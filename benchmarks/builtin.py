# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's six offline algorithms as they are: their data, their units, their trained policies.

They are trained by OmniSafe's own entry with OmniSafe's own hyperparameters. Only what a fair
comparison needs is set: the data in the shape that each of them reads, the cost limit in the unit
that each of them has, no episodes during training, and a checkpoint after each epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from benchmarks.suite import CORRECTED, DataFile
from omnisafe_qpt.baselines.deploy import ObservationPolicy
from omnisafe_qpt.compat import load_actor
from omnisafe_qpt.data.actions import (
    NORMALIZED,
    UNIT_ATTRIBUTE,
    ActionRange,
    find_unit,
    normalized,
    recorded_unit,
)
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.convert import INIT_OBS_ALGORITHM, convert
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.layouts import NPZ_NAMES
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.runs.checkpoint import load_file


# Those that choose actions by their discounted cost from a state on.
_BY_DISCOUNTED_COST = ('BCQLag', 'CCRR')


def limit_options(
    algo: str,
    cost_limit: float,
    horizon: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Express the cost limit of an episode in an algorithm's own unit.

    BCQLag and CCRR hold their limit against the critic's mean value, a discounted sum of costs from
    any state on: with costs spread evenly, L / T a step, that is L (1 - g^T) / ((1 - g) T).
    COptiDICE holds it against the mean cost of a step, L / T. The others know no limit.

    Args:
        algo (str): One of OmniSafe's, or its corrected twin.
        cost_limit (float): L, undiscounted.
        horizon (int): T.
        settings (dict[str, Any]): The algorithm's, for its discount g.

    Returns:
        The option, nested.
    """
    algo = CORRECTED.get(algo, algo)
    if algo in _BY_DISCOUNTED_COST:
        algo_cfgs = settings['algo_cfgs']
        gamma = algo_cfgs.get('cost_gamma', algo_cfgs['gamma'])
        steps = horizon if gamma == 1 else (1 - gamma**horizon) / (1 - gamma)
        return {'lagrange_cfgs': {'cost_limit': cost_limit * steps / horizon}}
    if algo == INIT_OBS_ALGORITHM:
        return {'algo_cfgs': {'cost_limit': cost_limit / horizon}}
    return {}


def prepare_data(
    algo: str,
    data: DataFile,
    folder: Path,
    action_range: ActionRange | None = None,
) -> Path:
    """Write a dataset in the shape that an algorithm reads, unless that was done before.

    Args:
        algo (str): One of OmniSafe's, or its corrected twin.
        data (DataFile): A DSRL HDF5.
        folder (Path): Where prepared files are kept.
        action_range (ActionRange, optional): The environment's. OmniSafe's algorithms act in
            [-1, 1], so that actions in the environment's unit are turned into that. Defaults to
            None, [-1, 1].

    Returns:
        The npz.
    """
    algo = CORRECTED.get(algo, algo)
    shape = 'flat' if algo == INIT_OBS_ALGORITHM else 'columns'
    path = folder / f'{data.path.stem}-{data.sha256[:12]}-{shape}.npz'
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{path}.lock'):  # cells that run at the same time want the same file
        if not path.exists():
            source = path.with_suffix('.hdf5')
            if action_range is None or not _write_normalized(data.path, source, action_range):
                source = data.path
            convert(source, path, algo)
    return path


def _write_normalized(source: Path, out: Path, action_range: ActionRange) -> bool:
    """Write a dataset with its actions in [-1, 1]; returns whether they were not so already."""
    unit = find_unit(Trajectories.load(source), action_range, recorded_unit(source))
    if unit.name == NORMALIZED:
        return False
    with open_dataset(source) as arrays:
        columns = {name: np.asarray(values[:]) for name, values in arrays.items()}
    columns['actions'] = normalized(columns['actions'], action_range)
    write_hdf5(out, columns, {**read_attributes(source), UNIT_ATTRIBUTE: NORMALIZED})
    return True


@contextmanager
def corrected(algo: str) -> Iterator[str]:
    """Let OmniSafe build the corrected twin of an algorithm under the algorithm's own name.

    OmniSafe's registry has no way to replace a class.

    Args:
        algo (str): An algorithm's name, or that of a twin.

    Yields:
        The name under which OmniSafe knows it.
    """
    if algo not in CORRECTED:
        yield algo
        return
    from omnisafe.algorithms.registry import REGISTRY

    from benchmarks.corrected import CCRRFixed

    name = CORRECTED[algo]
    original, REGISTRY._module_dict[name] = REGISTRY._module_dict[name], CCRRFixed
    try:
        yield name
    finally:
        REGISTRY._module_dict[name] = original


class BuiltInPolicy(ObservationPolicy):
    """The trained policy of one of OmniSafe's algorithms, acting as OmniSafe evaluates it.

    A Gaussian policy acts by its mean. VAEBC, BCQ and BCQLag decode a random number (BCQ, unlike in
    its paper, one alone, whatever its critic thinks of it); here it comes from the episode's own
    seed, so that an episode can be repeated. None of the six normalises observations.

    Args:
        config (dict[str, Any]): The run's ``config.json``.
        checkpoint (dict[str, Any]): What ``torch_save/epoch-N.pt`` holds.
        obs_dim (int): S.
        act_dim (int): A.
    """

    def __init__(
        self,
        config: dict[str, Any],
        checkpoint: dict[str, Any],
        obs_dim: int,
        act_dim: int,
    ) -> None:
        """Initialize an instance of :class:`BuiltInPolicy`."""
        super().__init__(self._mean_action, obs_dim, act_dim)
        self._actor = load_actor(config, checkpoint, obs_dim, act_dim).eval()

    def act(
        self,
        observations: torch.Tensor,
        generators: Sequence[np.random.Generator],
    ) -> torch.Tensor:
        """Choose actions.

        Args:
            observations (torch.Tensor): (B, S).
            generators (Sequence[np.random.Generator]): One for each of the B episodes.

        Returns:
            (B, A) actions.
        """
        decoder = getattr(self._actor, 'vae', self._actor)
        if not hasattr(decoder, 'decode'):
            return super().act(observations, generators)
        # OmniSafe's latent is twice as wide as an action.
        noise = np.stack([each.standard_normal(2 * self.act_dim) for each in generators])
        actions = decoder.decode(observations, torch.as_tensor(noise, dtype=torch.float32))
        if decoder is self._actor:
            return actions
        inputs = torch.cat([observations, actions], dim=-1)
        return actions + self._actor.phi * self._actor.perturbation(inputs)

    def _mean_action(self, observations: torch.Tensor) -> torch.Tensor:
        return self._actor.predict(observations, deterministic=True)


def load_policy(run: Path, checkpoint: Path, data: Path) -> BuiltInPolicy:
    """Load a trained policy.

    Args:
        run (Path): The run's folder.
        checkpoint (Path): One of its checkpoints.
        data (Path): The npz that it was trained on, for the sizes.
    """
    config = json.loads((run / 'config.json').read_text(encoding='utf-8'))
    with np.load(data) as arrays:
        obs_dim, act_dim = (
            arrays[NPZ_NAMES[name]].shape[1] for name in ('observations', 'actions')
        )
    return BuiltInPolicy(config, load_file(checkpoint), obs_dim, act_dim)
