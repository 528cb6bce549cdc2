# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omnisafe_qpt.errors import UserError, WriteError


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, renamed to ``path`` when the block succeeds.

    A reader never sees an incomplete file, and a failure keeps an earlier file.

    Args:
        path (str or os.PathLike): The final name. Its folder is created if absent.

    Yields:
        The temporary name, with the same suffix.

    Raises:
        WriteError: If the file system refuses; an earlier file stays.
    """
    path = Path(path)
    with write_errors(path), _temporary_file(path) as temporary:
        yield temporary


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Convert errors of writing a file to one line, with the free space.

    Args:
        path (Path): Its final name.

    Raises:
        WriteError: In place of the file system's error.
    """
    try:
        yield
    except (UserError, BrokenPipeError):  # an error without a file
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        remedy = 'make room or choose another folder'
        if error.errno == errno.EFBIG:
            remedy = 'raise the limit on file sizes, ulimit -f'
        elif error.errno in (errno.ENOSPC, errno.EDQUOT) and hasattr(os, 'statvfs'):
            with suppress(OSError):
                disk = os.statvfs(path.parent)
                remedy += f', {disk.f_bavail * disk.f_frsize} bytes are free'
        raise WriteError(f'{path}: cannot be written ({reason}); {remedy}') from error


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'.{path.stem[:80]}-'
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's files are private; a result file gets the permissions of the user's umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
