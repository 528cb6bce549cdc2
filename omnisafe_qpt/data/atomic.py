# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files whole or not at all, and their hashes."""

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
    """Give a temporary name beside ``path`` that becomes ``path`` when the block succeeds.

    A reader never sees a half-written file, and a failure leaves what was there before.

    Args:
        path (str or os.PathLike): The final name. Its folder is made if it is absent.

    Yields:
        The temporary name, with the same suffix.

    Raises:
        WriteError: If the file system refuses; what was there before stays.
    """
    path = Path(path)
    with write_errors(path), _temporary_file(path) as temporary:
        yield temporary


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say in one line that a file cannot be written, and how much room there is.

    Args:
        path (Path): Its final name.

    Raises:
        WriteError: In place of what the file system raises.
    """
    try:
        yield
    except (UserError, BrokenPipeError):  # which is of no file
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
        # mkstemp's files are private; a result file gets what the user's umask gives any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
