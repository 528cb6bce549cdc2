# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Resolve a dataset's name to its file: a path, the cache, a download, or a bundled sample."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisafe_qpt.data.attributes import ENV_ID_ATTRIBUTE
from omnisafe_qpt.data.files import SUFFIXES
from omnisafe_qpt.data.tasks import Task, all_tasks, find_task, require_task
from omnisafe_qpt.errors import UserError


AUTO, SAMPLE = 'auto', 'sample'
# Before the name of a dataset that Minari has downloaded or written.
_MINARI = 'minari:'
# The environments of the bundled samples; the first one is that of the quickstart.
SAMPLE_ENV_IDS = ('SafetyBallCircle-v0', 'SafetyCarButton1-v0')


@dataclass(frozen=True)
class DatasetSource:
    """A dataset's file, with its name and a warning.

    Args:
        path (Path): The file.
        name (str): A short name without separators, for run folders.
        warning (str, optional): A warning for the user. Defaults to None.
    """

    path: Path
    name: str
    warning: str | None = None


def cache_folder() -> Path:
    """Return the folder of downloaded datasets: ``$DSRL_DATASET_DIR`` or DSRL's own."""
    return Path(os.environ.get('DSRL_DATASET_DIR') or '~/.dsrl/datasets').expanduser()


def minari_file(dataset: str) -> Path | None:
    """Find the file of a Minari dataset: ``minari:`` and its name, or its folder.

    Args:
        dataset (str): A dataset's name. Minari's are in ``$MINARI_DATASETS_PATH``, by default in
            ``~/.minari/datasets``.

    Returns:
        The file, or None if the name is something else.

    Raises:
        UserError: If there is no such dataset of Minari.
    """
    folder = Path(dataset).expanduser()
    if dataset.startswith(_MINARI):
        root = os.environ.get('MINARI_DATASETS_PATH') or '~/.minari/datasets'
        folder = Path(root).expanduser() / dataset.removeprefix(_MINARI)
    elif not folder.is_dir():
        return None
    path = folder / 'data' / 'main_data.hdf5'
    if path.is_file():
        return path
    if dataset.startswith(_MINARI):
        raise UserError(
            f'{dataset}: there is no {path}; get it with: minari download '
            f'{shlex.quote(dataset.removeprefix(_MINARI))}'
        )
    raise UserError(f'{folder}: is a folder, but not one of Minari; give a dataset file')


def sample_file(env_id: str, option: str = 'train_cfgs:dataset') -> Path:
    """Find the bundled sample of an environment.

    Args:
        env_id (str): OmniSafe's environment id.
        option (str, optional): The option that errors refer to. Defaults to
            ``'train_cfgs:dataset'``.

    Raises:
        UserError: If there is none; the message lists the environments with one.
    """
    if env_id not in SAMPLE_ENV_IDS:
        raise UserError(
            f'there is no bundled sample of {env_id}, only of {" and ".join(SAMPLE_ENV_IDS)}; '
            f'give a dataset file with {option}',
        )
    return Path(__file__).parent / 'sample' / f'{env_id}-sample.hdf5'


def resolve_dataset(
    dataset: str,
    env_id: str,
    option: str = 'train_cfgs:dataset',
) -> DatasetSource:
    """Find the file for a dataset's name.

    Args:
        dataset (str): A path of a DSRL HDF5 or OmniSafe npz file; one of Minari's, see
            :func:`minari_file`; ``sample``, the bundled one of the environment; or ``auto``: the
            environment's DSRL file from the cache, else downloaded, else the bundled sample where
            there is one, with a warning.
        env_id (str): OmniSafe's environment id.
        option (str, optional): The option that errors refer to. Defaults to
            ``'train_cfgs:dataset'``.

    Returns:
        The file, its short name, and a warning if it is a substitute.

    Raises:
        UserError: If there is no such file; the message lists alternatives.
    """
    if dataset == SAMPLE:
        return DatasetSource(sample_file(env_id, option), SAMPLE)
    if dataset == AUTO:
        return _automatic(env_id, option)
    path = Path(dataset).expanduser()
    if path.is_file():
        return DatasetSource(path, path.stem)
    minari = minari_file(dataset)
    if minari is not None:
        name = dataset.removeprefix(_MINARI) if dataset.startswith(_MINARI) else path.name
        return DatasetSource(minari, name.strip('/').replace('/', '-'))
    if path.suffix in SUFFIXES:
        raise UserError(f'{path}: no such dataset file; check {option}')
    raise UserError(
        f'dataset {dataset!r} is neither a file nor a known name; give a .hdf5 or .npz file, '
        "'auto' or 'sample'",
    )


def _automatic(env_id: str, option: str) -> DatasetSource:
    task = find_task(env_id)
    if task is None:
        raise UserError(
            f'there is no DSRL dataset of {env_id}; give your own .hdf5 or .npz file with {option}',
        )
    from omnisafe_qpt.data.download import check_unchanged, download

    path = cache_folder() / task.dataset_file
    if path.exists():
        check_unchanged(task, path)
        return DatasetSource(path, path.stem)
    try:
        download(task, path.parent)
    except UserError as error:
        return _stand_in(task, UserError(f'{error} , or give a file with {option}'))
    return DatasetSource(path, path.stem)


def _stand_in(task: Task, error: UserError) -> DatasetSource:
    if task.env_id not in SAMPLE_ENV_IDS:
        raise error
    return DatasetSource(
        sample_file(task.env_id),
        SAMPLE,
        warning=f'{error}\nUsing the small bundled SAMPLE instead: good for trying things out, '
        'not for results.',
    )


def find_dataset_file(name: str) -> Path:
    """Find the file for a path, a DSRL task or the name of a bundled sample.

    Args:
        name (str): A dataset file; one of Minari's, see :func:`minari_file`; DSRL's name or the
            environment id of a task, which means its file in the cache; ``sample:`` and such a
            name, which means its bundled sample; or ``sample``, the bundled sample of
            SafetyBallCircle-v0.

    Raises:
        UserError: If there is no such file; the message tells how to get it.
    """
    path = Path(name).expanduser()
    minari = minari_file(name)
    if minari is not None:
        return minari
    if path.exists() or path.suffix in SUFFIXES:
        return path  # opening it reports errors
    kind, _, of = name.partition(':')
    if name == SAMPLE:
        return sample_file(SAMPLE_ENV_IDS[0])
    try:
        task = require_task(of if kind == SAMPLE else name)
    except UserError as error:
        raise UserError(f'there is no file {name}, and {error}') from error
    if kind == SAMPLE:
        return sample_file(task.env_id, 'its path')
    cached = cache_folder() / task.dataset_file
    if not cached.is_file():
        raise UserError(
            f'the dataset of {task.name} is not in {cached.parent}; get it with: '
            f'omnisafe-qpt data download {task.name}',
        )
    return cached


def identify_task(path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> Task | None:
    """Return the DSRL task of a file, by its ``env_id`` attribute, else by its name.

    Args:
        path (str or os.PathLike): The file.
        attributes (Mapping[str, Any]): Its metadata.

    Returns:
        The task, or None if the attribute names none, or the name none or more than one.
    """
    if ENV_ID_ATTRIBUTE in attributes:
        return find_task(attributes[ENV_ID_ATTRIBUTE])
    words = {
        re.sub('^(Offline|Safety)|Gymnasium$', '', word).lower()
        for word in re.split('[^A-Za-z0-9]+', Path(path).stem)
    }
    named = [task for task in all_tasks() if task.name.lower() in words]
    return named[0] if len(named) == 1 else None
