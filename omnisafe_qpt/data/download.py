# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""DSRL's datasets from Hugging Face into a folder, checked and never half-written.

Beside a dataset ``F`` lie ``F.sha256``, its hash in ``sha256sum``'s format, recorded when it
first came, and a hidden lock. While it is on its way it is ``F.part``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from omnisafe_qpt.data.files import atomic_path, file_sha256, open_hdf5
from omnisafe_qpt.data.tasks import Task
from omnisafe_qpt.data.transfer import (
    PartialFile,
    TransferError,
    TransferProgress,
    fetch,
)
from omnisafe_qpt.errors import UserError, shell_command


_HUGGING_FACE = 'https://huggingface.co'


@dataclass(frozen=True)
class Dataset:
    """A dataset in its folder, whole and unchanged.

    Args:
        path (Path): The file.
        sha256 (str): Its hash.
        is_new (bool): Whether it came just now.
    """

    path: Path
    sha256: str
    is_new: bool


def download_url(task: Task) -> str:
    """Return where a task's file is fetched from; ``$HF_ENDPOINT`` names a mirror."""
    mirror = (os.environ.get('HF_ENDPOINT') or _HUGGING_FACE).rstrip('/')
    return task.url.replace(_HUGGING_FACE, mirror, 1)


def download(task: Task, folder: Path) -> Dataset:
    """Get a task's dataset, or check the one that is there.

    What is there is never downloaded again: its hash is compared with the one recorded, and where
    none is, put there by hand, its structure is checked and its hash recorded.

    Args:
        task (Task): Which dataset.
        folder (Path): Where to put it; made if it is absent.

    Raises:
        UserError: If it cannot be had, with the command that fetches it by hand; if it cannot be
            written; or if what is there is damaged or has changed.
    """
    path = folder / task.dataset_file
    with _disk_failures_told(path):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with TransferProgress(task.name) as progress, _locked(path, progress):
                if not path.exists():  # else the process that had the lock brought it
                    return _bring(task, path, progress)
        return _check(task, path)


@contextmanager
def _disk_failures_told(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read or written ({error.strerror or error}); mend that or choose '
            'another folder with DSRL_DATASET_DIR',
        ) from error


@contextmanager
def _locked(path: Path, progress: TransferProgress) -> Iterator[None]:
    """Keep other processes from writing the same file, waiting for one that does."""
    lock = FileLock(path.with_name(f'.{path.name}.lock'))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say('another process is downloading it, waiting for that')
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _bring(task: Task, path: Path, progress: TransferProgress) -> Dataset:
    url = download_url(task)
    partial = PartialFile(path.with_name(f'{path.name}.part'))
    try:
        identity = fetch(url, partial, progress, _most_bytes(task))
        progress.say('complete, checking it')
        digest = file_sha256(partial.path)
        try:
            if identity.sha256 not in (None, digest):
                raise TransferError(f'its sha256 is {digest}, not {identity.sha256} as announced')
            _check_structure(task, partial.path)
        except (TransferError, UserError):
            partial.drop()  # complete and wrong: nothing to go on with
            raise
    except (TransferError, UserError) as error:
        reason = str(error).removeprefix(f'{partial.path}: ').replace('; get it again', '')
        raise UserError(
            f'the DSRL dataset of {task.env_id} is not in {path.parent} and cannot be downloaded '
            f'({reason}); fetch it by hand: '
            + shell_command(['curl', '-fL', '-C', '-', '--create-dirs', '-o', str(path), url]),
        ) from error
    before = _read_record(path)
    if before is not None and before.sha256 != digest:
        progress.say(f'it is not the file that was here before (sha256 {before.sha256})')
    partial.finish(path)
    _write_record(path, digest)
    return Dataset(path, digest, is_new=True)


def _most_bytes(task: Task) -> int:
    """Return how large a task's file can be: with all numbers in 8 bytes, and twice that."""
    numbers = task.max_transitions * (2 * task.obs_dim + task.act_dim + 4)
    return 2 * 8 * numbers + (64 << 20)


def _check_structure(task: Task, path: Path) -> None:
    """Refuse a file that is no dataset of the task.

    Raises:
        UserError: With what is wrong.
    """
    with open_hdf5(path) as arrays:
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    widths = {
        'observations': task.obs_dim,
        'next_observations': task.obs_dim,
        'actions': task.act_dim,
    }
    for name, width in widths.items():
        if len(shapes[name]) != 2 or shapes[name][1] != width:
            raise UserError(
                f'{path}: {name} has shape {shapes[name]}, where {task.env_id} has {width} numbers '
                'a transition',
            )
    lengths = {name: shape[:1] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1 or lengths['rewards'] == (0,):
        raise UserError(f'{path}: the arrays are empty or differ in length: {shapes}')


# ---------------------------------------------------------------------------- the recorded hash


@dataclass(frozen=True)
class _Record:
    """What was written down of a file when it came.

    Size and time of modification tell in no time that a file is the same; where they differ, as
    after a copy, the hash decides.
    """

    sha256: str
    stamp: str | None


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.sha256')


def _stamp(path: Path) -> str:
    status = path.stat()
    return f'# {status.st_size} bytes, modified at {status.st_mtime_ns} ns'


def _read_record(path: Path) -> _Record | None:
    """Read the recorded hash, None if there is none."""
    try:
        lines = _record_path(path).read_text(encoding='utf-8').splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    digests = [line[:64] for line in lines if re.match('[0-9a-f]{64} ', line)]
    stamps = [line for line in lines if line.startswith('#')]
    return _Record(digests[0], next(iter(stamps), None)) if digests else None


def _write_record(path: Path, digest: str) -> None:
    with atomic_path(_record_path(path)) as temporary:
        temporary.write_text(f'{_stamp(path)}\n{digest}  {path.name}\n', encoding='utf-8')


def _check(task: Task, path: Path) -> Dataset:
    """Check a file that is there against its record, or record it if it has none."""
    digest = file_sha256(path)
    record = _read_record(path)
    if record is None:
        try:
            _check_structure(task, path)
        except UserError as error:
            raise UserError(f'{error}: delete the file and run this again') from error
    elif record.sha256 != digest:
        raise UserError(
            f'{path}: has changed since it was recorded in {_record_path(path).name}; delete it '
            'to download it again, or give it by its path to use it as it is',
        )
    if record is None or record.stamp != _stamp(path):
        with suppress(OSError):  # a shared folder that is only readable needs no record
            _write_record(path, digest)
    return Dataset(path, digest, is_new=False)


def check_unchanged(task: Task, path: Path) -> None:
    """Check a dataset that is there, at no cost unless it looks different from what was recorded.

    A file without a record is taken as it is; what reads it says what may be wrong.

    Raises:
        UserError: If it has changed since it was recorded.
    """
    with _disk_failures_told(path):
        record = _read_record(path)
        if record is not None and record.stamp != _stamp(path):
            _check(task, path)
