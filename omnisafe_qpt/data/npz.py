# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Npz archives row by row: reading untrusted files, writing more than fits into memory.

Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import operator
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.data.memory import check_memory, format_bytes
from omnisafe_qpt.errors import UserError, damage_as_user_error, first_line, printable


_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# RuntimeError: a damaged header declares encryption or (NotImplementedError) an unknown
# compression; KeyError: it has another name.
_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _damage(path: Path) -> AbstractContextManager[None]:
    return damage_as_user_error(path, 'npz', _ERRORS)


@contextmanager
def open_archive(path: Path) -> Iterator[Mapping[str, NpzArray]]:
    """Open an npz file; each array is opened on first access."""
    with ExitStack() as stack:
        with _damage(path):
            # Opened here, because an archive keeps its file open while a stream is open.
            file = stack.enter_context(path.open('rb'))
            archive = stack.enter_context(zipfile.ZipFile(file))
        yield _Archive(path, archive)


class _Archive(Mapping[str, 'NpzArray']):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        names = archive.namelist()
        self._names = [name.removesuffix('.npy') for name in names if name.endswith('.npy')]

    def __getitem__(self, name: str) -> NpzArray:
        return NpzArray(self._path, self._archive, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class NpzArray:
    """An array of an npz file that is read when it is sliced.

    The file is a zip archive of streams, so rows are cheap to read in order. A slice before
    the last one starts again at the first row.

    Args:
        path (Path): The file, for messages.
        archive (zipfile.ZipFile): The same, open.
        key (str): Name of the array.

    Raises:
        UserError: If the array cannot be read, here or in a slice.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, key: str) -> None:
        """Initialize an instance of :class:`NpzArray`."""
        self._path, self._archive, self._key = path, archive, key
        self._in_columns: np.ndarray | None = None
        with _damage(path):
            self._rewind()
            self._check_size()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows."""
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows."""
        first, last, _ = rows.indices(len(self))
        with _damage(self._path):
            if self._fortran_order:
                return self._by_columns()[first:last]
            if first < self._next_row:
                self._rewind()
            self._read(first - self._next_row)
            return self._read(last - first)

    def _rewind(self) -> None:
        """Open the stream and read its header, up to the first row."""
        self._stream = self._archive.open(f'{self._key}.npy')
        version = np.lib.format.read_magic(self._stream)
        if version not in _READ_HEADER:
            raise ValueError(f'array {printable(self._key)!r} has the unknown format {version}')
        try:
            header = _READ_HEADER[version](self._stream)
            self.shape: tuple[int, ...] = tuple(map(operator.index, header[0]))
            self.dtype: np.dtype = header[2]
        except Exception as error:  # the header is evaluated as a literal, which may raise any type
            raise ValueError(
                f'the header of array {printable(self._key)!r}: {first_line(error)}',
            ) from error
        self._fortran_order: bool = header[1]
        self._next_row = 0

    def _check_size(self) -> None:
        """Check that the header declares the same size as the archive, before it is used."""
        info = self._archive.getinfo(f'{self._key}.npy')
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f'{self._path}: array {printable(self._key)!r} is packed by a method other than '
                "numpy's; write the file with numpy.savez",
            )
        if self.dtype.hasobject:  # never unpickled; reading it raises an error
            return
        needed = self.num_bytes
        if min(self.shape, default=0) < 0 or self._stream.tell() + needed != info.file_size:
            raise ValueError(
                f'array {printable(self._key)!r} declares the shape {self.shape}, for which '
                f'{format_bytes(needed)} are needed, and has '
                f'{format_bytes(info.file_size - self._stream.tell())}',
            )

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.dtype.itemsize * math.prod(self.shape)

    def text(self) -> str:
        """Return the text that the array holds, if it is a single one."""
        if self.shape or self.dtype.kind not in 'SU':
            raise UserError(
                f'{self._path}: array {printable(self._key)!r} has the type {self.dtype} and the '
                f'shape {self.shape}; it must be one text',
            )
        with _damage(self._path):
            content = self._stream.read()
            return str(np.frombuffer(content, self.dtype)[0]) if content else ''

    def _read(self, count: int) -> np.ndarray:
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        content = self._stream.read(count * row_bytes)
        if len(content) != count * row_bytes:
            raise EOFError(f'array {self._key!r} ends early')
        self._next_row += count
        if self._next_row == len(self):
            self._stream.read(1)  # the checksum is checked at the end of the stream
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _by_columns(self) -> np.ndarray:
        """Read an array in Fortran order, whose rows cannot be read separately."""
        if self._in_columns is None:
            check_memory(str(self._path), self.num_bytes)
            with self._archive.open(f'{self._key}.npy') as stream:
                self._in_columns = np.lib.format.read_array(stream)
        return self._in_columns


def write_npz(path: Path, arrays: Iterable[tuple[Any, ...]]) -> None:
    """Write arrays as streams, with the result of ``np.savez``.

    Args:
        path (Path): The file to write; it appears only when it is complete.
        arrays (Iterable[tuple]): Name, shape and blocks of rows of each, and optionally how
            ``zipfile`` compresses it.

    Raises:
        WriteError: If the file cannot be written.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for array in arrays:
            _write_array(archive, *array)


def _write_array(
    archive: zipfile.ZipFile,
    key: str,
    shape: tuple[int, ...],
    blocks: Iterable[np.ndarray],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    info = zipfile.ZipInfo(f'{key}.npy')  # of 1980, so that equal data give equal bytes
    info.compress_type = compression
    with archive.open(info, 'w', force_zip64=True) as member:
        for number, block in enumerate(blocks):
            if number == 0:
                descr = np.lib.format.dtype_to_descr(block.dtype)
                header = {'descr': descr, 'fortran_order': False, 'shape': shape}
                np.lib.format.write_array_header_1_0(member, header)
            member.write(np.ascontiguousarray(block).tobytes())
