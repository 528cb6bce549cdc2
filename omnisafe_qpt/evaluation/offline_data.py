# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A dataset for the checks of a trained run: sizes, unit of actions, held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from omnisafe_qpt.data.actions import (
    ENVIRONMENT,
    NORMALIZED,
    find_unit,
    normalize,
    recorded_unit,
)
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.attributes import UNIT_ATTRIBUTE
from omnisafe_qpt.data.files import SUFFIXES
from omnisafe_qpt.data.holdout import split_off
from omnisafe_qpt.data.resolve import AUTO, SAMPLE, resolve_dataset
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.deployable import Deployable


HELD_OUT = 'held out of training'
TRAINING_DATA = 'training data, not held out'
OTHER_DATA = 'not the training file'


@dataclass(frozen=True)
class Episodes:
    """Episodes of a dataset, and their relation to a run.

    Args:
        trajectories (Trajectories): The episodes, actions in [-1, 1].
        relation (str): Whether the run trained on them, as text.
        path (str): The file, or the name of one of OmniSafe's own datasets.
        sha256 (str or None): SHA-256 of the file.
        warning (str, optional): Warning about the data. Defaults to None.
    """

    trajectories: Trajectories
    relation: str
    path: str
    sha256: str | None
    warning: str | None = None


def read_episodes(dataset: str, networks: Deployable) -> Episodes:
    """Read all episodes of a dataset for a model.

    Args:
        dataset (str): As ``train_cfgs:dataset``.
        networks (Deployable): The model.

    Raises:
        UserError: If the dataset does not exist or is from another environment.
    """
    spec = networks.spec
    path, sha256, warning = dataset, None, None
    if _is_omnisafe_name(dataset):
        from omnisafe_qpt.compat import load_omnisafe_dataset

        trajectories = load_omnisafe_dataset(dataset, spec['horizon'])
    else:
        source = resolve_dataset(dataset, spec['env_id'], '--offline')
        path, warning = str(source.path.resolve()), source.warning
        sha256 = file_sha256(source.path)
        trajectories = Trajectories.load(source.path, horizon=spec['horizon'])
    _check_sizes(trajectories, spec)
    record = spec['dataset']
    is_same = sha256 == record['sha256'] if sha256 else path == record['path']
    if 'action_range' in spec:  # an earlier version used actions unscaled
        if is_same:
            declared = record.get(UNIT_ATTRIBUTE, NORMALIZED)
        else:
            declared = NORMALIZED if sha256 is None else recorded_unit(path)
        unit = find_unit(trajectories, spec['action_range'], declared)
        if unit.name == ENVIRONMENT:
            normalize(trajectories, spec['action_range'])
        if not is_same and unit.warning:
            warning = unit.warning if warning is None else f'{warning}\n{unit.warning}'
    relation = TRAINING_DATA if is_same else OTHER_DATA
    return Episodes(trajectories, relation, path, sha256, warning)


def held_out_part(episodes: Episodes, networks: Deployable) -> Episodes:
    """Select the held-out episodes, if the dataset is the model's own training data.

    Args:
        episodes (Episodes): See :func:`read_episodes`.
        networks (Deployable): The model.

    Raises:
        UserError: If the checkpoint names episodes that do not exist.
    """
    held_out = networks.spec.get('held_out', [])
    if episodes.relation == OTHER_DATA or not held_out:
        return episodes
    trajectories = episodes.trajectories
    if max(held_out) >= len(trajectories.rows):
        raise UserError(
            f'held_out of the checkpoint names episode {max(held_out)}, but {trajectories.name} '
            f'has {len(trajectories.rows)} episodes: the checkpoint is damaged; use another one',
        )
    _, trajectories = split_off(trajectories, torch.tensor(held_out))
    return replace(episodes, trajectories=trajectories, relation=HELD_OUT)


def origin(checkpoint: Path, networks: Deployable, episodes: Episodes) -> dict[str, Any]:
    """Return what a result on a dataset is of: run, checkpoint, environment, dataset.

    Args:
        checkpoint (Path): ``torch_save/epoch-N.pt`` of the run.
        networks (Deployable): The model.
        episodes (Episodes): The dataset.
    """
    return {
        'run': str(checkpoint.parent.parent.resolve()),
        'checkpoint': checkpoint.name,
        'env_id': networks.spec['env_id'],
        'dataset': episodes.path,
        'dataset_sha256': episodes.sha256,
        'dataset_warning': episodes.warning,
    }


def _is_omnisafe_name(dataset: str) -> bool:
    """Return whether only OmniSafe knows this dataset name; OmniSafe takes seconds to import."""
    path = Path(dataset)
    if dataset in (AUTO, SAMPLE) or path.is_file() or path.suffix in SUFFIXES:
        return False
    from omnisafe_qpt.compat import dataset_names

    return dataset in dataset_names()


def _check_sizes(trajectories: Trajectories, spec: dict[str, Any]) -> None:
    for what, given, needed in (
        ('observation', trajectories.obs_dim, spec['obs_dim']),
        ('action', trajectories.act_dim, spec['act_dim']),
    ):
        if given != needed:
            raise UserError(
                f'{trajectories.name} has {what}s of size {given}, {spec["env_id"]} has {needed}: '
                'the dataset is from another environment',
            )
