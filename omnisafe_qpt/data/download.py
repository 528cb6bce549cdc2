# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Download of DSRL's datasets from the Hugging Face hub, verified and atomic.

Beside a dataset ``F`` are ``F.sha256``, its hash at download in ``sha256sum``'s format, and a
hidden lock. An interrupted download leaves ``F.VERSION.part``.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.filesize import decimal

from omnisafe_qpt.data.atomic import atomic_path, file_sha256
from omnisafe_qpt.data.files import open_hdf5
from omnisafe_qpt.data.tasks import Task
from omnisafe_qpt.errors import UserError, printable, shell_command


_HUGGING_FACE = 'https://huggingface.co'


@dataclass(frozen=True)
class Dataset:
    """A verified dataset in its folder.

    Args:
        path (Path): The file.
        sha256 (str): Its hash.
        is_new (bool): Whether it was just downloaded.
    """

    path: Path
    sha256: str
    is_new: bool


def download_url(task: Task) -> str:
    """Return the URL of a task's file; ``$HF_ENDPOINT`` sets a mirror."""
    mirror = (os.environ.get('HF_ENDPOINT') or _HUGGING_FACE).rstrip('/')
    return task.url.replace(_HUGGING_FACE, mirror, 1)


def download(task: Task, folder: Path) -> Dataset:
    """Download a task's dataset, or verify an existing one.

    An existing file is never downloaded again: its hash is compared with the recorded one. If none
    is recorded (the user copied the file), its structure is checked and its hash recorded.

    Args:
        task (Task): Which dataset.
        folder (Path): Target folder; created if absent.

    Raises:
        UserError: If it cannot be downloaded, with the command to fetch it by hand; if it cannot be
            written; or if an existing file is damaged or has changed.
    """
    path = folder / task.dataset_file
    with _disk_errors(path):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(task, path):
                if not path.exists():  # else the process with the lock has downloaded it
                    return _bring(task, path)
        return _check(task, path)


def _tell(task: Task, text: str) -> None:
    print(printable(f'{task.name}: {text}'), file=sys.stderr, flush=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Convert errors of the file system to user errors."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read or written ({error.strerror or error}); fix that or choose '
            'another folder with DSRL_DATASET_DIR',
        ) from error


@contextmanager
def _locked(task: Task, path: Path) -> Iterator[None]:
    """Lock the file against other processes, waiting for the lock."""
    lock = FileLock(path.with_name(f'.{path.name}.lock'))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _tell(task, 'another process is downloading it; waiting')
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _bring(task: Task, path: Path) -> Dataset:
    """Download a dataset, verify it, then rename it."""
    try:
        part, announced = _fetch(task, path)
        digest = file_sha256(part)
        try:
            if announced not in (None, digest):
                raise UserError(f'its sha256 is {digest}, not {announced} as announced')
            _check_structure(task, part)
        except UserError as error:
            part.unlink()  # complete but wrong: nothing to resume
            reason = str(error).removeprefix(f'{part}: ').replace('; get it again', '')
            raise UserError(reason) from error
    except UserError as error:
        command = ['curl', '-fL', '-C', '-', '--create-dirs', '-o', str(path), download_url(task)]
        raise UserError(
            f'the DSRL dataset of {task.env_id} is not in {path.parent} and cannot be downloaded '
            f'({error}); fetch it by hand: {shell_command(command)}',
        ) from error
    before = _read_record(path)
    if before is not None and before.sha256 != digest:
        _tell(task, f'it is not the file that was here before (sha256 {before.sha256})')
    os.replace(part, path)
    _write_record(path, digest)
    return Dataset(path, digest, is_new=True)


def _fetch(task: Task, path: Path) -> tuple[Path, str | None]:
    """Download a dataset into a partial file, resuming an earlier download.

    ``huggingface_hub.hf_hub_download`` restarts after an interruption (its issue 4196). So two
    lower functions are called: one reads size and version, the other transfers, with retries and
    resume.

    Returns:
        The file and the sha256 that the hub announces; None if it announces another version.

    Raises:
        UserError: If the server does not send the file, with the reason in a few words.
    """
    url = download_url(task)
    with _network_errors():
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.file_download import http_get

        about = get_hf_file_metadata(url, token=False, retry_on_errors=True)
    size, version = about.size, about.etag or ''
    if size is None or size < 0 or not re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', version):
        raise UserError('the server announces no size or version, as Hugging Face does')
    if size > 4 * task.approximate_bytes + (64 << 20):  # twice all numbers in 8 bytes
        raise UserError(f'the server announces {size} bytes, too many for this dataset')
    sha256 = version if len(version) == 64 else None
    part = path.with_name(f'{path.name}.{version[:16]}.part')
    _drop_parts(path, keep=part)  # the others are of outdated versions
    done = part.stat().st_size if part.exists() else 0
    if done and (sha256 is None or done > size):  # a mismatch of the rest could not be detected
        part.unlink()
        done = 0
    free = shutil.disk_usage(path.parent).free
    if size - done > free:
        reason = f'{decimal(size - done)} are missing and {decimal(free)} are free'
        raise OSError(errno.ENOSPC, reason, str(part))
    _tell(task, f'{decimal(size)} from {url}' + (f', {decimal(done)} are here' if done else ''))
    with _BoundedFile(part, size) as file:
        try:
            with _network_errors(), _error_texts_unread():
                http_get(
                    url,
                    file,
                    resume_size=done,
                    headers={'Accept-Encoding': 'identity'},
                    expected_size=size,
                    displayed_filename=task.name,
                )
        except _WrongSizeError:
            part.unlink()
            raise
        file.flush()
        os.fsync(file.fileno())
    return part, sha256


def _drop_parts(path: Path, keep: Path | None = None) -> None:
    for part in path.parent.glob(f'{path.name}.*.part'):
        if part != keep:
            part.unlink(missing_ok=True)


class _WrongSizeError(UserError):
    """The server sent a different number of bytes than it announced."""


class _BoundedFile(io.BufferedWriter):
    """A file for appending at most the announced bytes; a server may never stop."""

    def __init__(self, path: Path, size: int) -> None:
        """Initialize an instance of :class:`_BoundedFile`."""
        super().__init__(open(path, 'ab', buffering=0))  # noqa: SIM115 - closed with this one
        self._size = size

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write bytes unless they are too many."""
        if self.tell() + len(data) > self._size:
            raise _WrongSizeError(f'the server sends more than the {self._size} bytes announced')
        return super().write(data)


@contextmanager
def _error_texts_unread() -> Iterator[None]:
    """Do not read the text that comes with an error status, which may be endless."""
    from huggingface_hub import get_session

    def refuse(response: Any) -> None:
        if response.request.method == 'GET' and response.is_error:
            raise UserError(
                f'the server answered {response.status_code} {response.reason_phrase[:80]}'
            )

    hooks = get_session().event_hooks['response']
    hooks.append(refuse)
    try:
        yield
    finally:
        hooks.remove(refuse)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Convert errors of huggingface_hub and its libraries to a short reason."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # many types, from several libraries
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the local file
        kind = _WrongSizeError if type(error) is OSError else UserError
        raise kind(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Return the short reason from a chain of exceptions."""
    response = getattr(error, 'response', None)
    if response is not None:
        return f'the server answered {response.status_code} {response.reason_phrase[:80]}'
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return 'the server does not answer'
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).partition('\n')[0][:200] or type(error).__name__


def _check_structure(task: Task, path: Path) -> None:
    """Check that a file is a dataset of the task.

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
    """Record of a file at download.

    Equal size and modification time show quickly that a file is unchanged. If they differ, as after
    a copy, the hash decides.
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
    """Verify an existing file against its record, or record it if it has none."""
    digest = file_sha256(path)
    record = _read_record(path)
    if record is None:
        try:
            _check_structure(task, path)
        except UserError as error:
            raise UserError(f'{error}: delete the file and run this again') from error
        with suppress(OSError):
            _drop_parts(path)
    elif record.sha256 != digest:
        raise UserError(
            f'{path}: has changed since it was recorded in {_record_path(path).name}; delete it '
            'to download it again, or give it by its path to use it as it is',
        )
    if record is None or record.stamp != _stamp(path):
        with suppress(OSError):  # a read-only shared folder needs no record
            _write_record(path, digest)
    return Dataset(path, digest, is_new=False)


def check_unchanged(task: Task, path: Path) -> None:
    """Verify an existing dataset, quickly unless size or time differ from the record.

    A file without a record is accepted; reading it reports errors.

    Raises:
        UserError: If it has changed since it was recorded.
    """
    with _disk_errors(path):
        record = _read_record(path)
        if record is not None and record.stamp != _stamp(path):
            _check(task, path)
