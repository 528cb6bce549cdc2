# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Opening dataset files: HDF5 and npz, in DSRL's and other layouts.

All layouts are presented under DSRL's names (:mod:`omnisafe_qpt.data.layouts`), one row per
transition, whole episodes in order. They are read in blocks of rows, so that a dataset need not fit
into memory. OmniSafe's ``done`` mixes terminal states and time limits. Our npz files also have
``timeouts``, which OmniSafe ignores; in others the task's horizon distinguishes the two when the
episodes are cut (:meth:`omnisafe_qpt.data.trajectories.Trajectories.from_arrays`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnisafe_qpt.data.assemble import arrange
from omnisafe_qpt.data.hdf5 import damage, open_file
from omnisafe_qpt.data.layouts import Arrays, ReadOptions, Source, find_sources
from omnisafe_qpt.data.npz import open_archive
from omnisafe_qpt.errors import UserError, first_line


HDF5_SUFFIXES = ('.hdf5', '.h5')
SUFFIXES = (*HDF5_SUFFIXES, '.npz')


@contextmanager
def open_dataset(
    path: str | os.PathLike[str],
    options: ReadOptions | None = None,
) -> Iterator[Arrays]:
    """Open a dataset file for reading.

    Arrays are read from disk only when sliced; those of an npz are best read in order.

    Args:
        path (str or os.PathLike): A ``.hdf5``, ``.h5`` or ``.npz`` file in one of the layouts of
            :mod:`omnisafe_qpt.data.layouts`.
        options (ReadOptions, optional): The user's options for it. Defaults to None.

    Yields:
        The arrays under DSRL's names, each sliceable, with the number of transitions first.

    Raises:
        UserError: If the file is absent, cut short, of another kind, or lacks an array.
    """
    path, options = check_file(path), options or ReadOptions()
    try:
        with (_open_npz if path.suffix == '.npz' else open_hdf5)(path, options) as arrays:
            yield arrays
    except MemoryError as error:  # another process may take the free memory meanwhile
        raise UserError(
            f'{path}: there is not enough memory to read it; use a smaller file or a machine with '
            'more memory',
        ) from error


def check_file(path: str | os.PathLike[str]) -> Path:
    """Check a dataset file's name and size; returns its path."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'{path}: no such dataset file')
    if path.stat().st_size == 0:
        raise UserError(f'{path}: the file is empty; get it again')
    if path.suffix not in SUFFIXES:
        raise UserError(
            f'{path}: unknown dataset format {path.suffix!r}; use HDF5 (.hdf5, .h5) or npz (.npz), '
            'or convert a log: omnisafe-qpt data convert LOG.csv OUT.hdf5 --columns F',
        )
    return path


@contextmanager
def open_hdf5(path: Path, options: ReadOptions | None = None) -> Iterator[Arrays]:
    """Open an HDF5 file of any name; see :func:`open_dataset`."""
    options = options or ReadOptions()
    with open_file(path) as file:
        with damage(path):
            arrays = arrange(path, find_sources(file, options), options)
        with reading(path):
            yield arrays


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert errors of reading an open HDF5 file to one line."""
    try:
        yield
    except UserError:  # also for a file that is being written
        raise
    except OSError as error:
        raise UserError(
            f'{path}: the data cannot be read to the end ({first_line(error)}); get it again',
        ) from error


@contextmanager
def _open_npz(path: Path, options: ReadOptions) -> Iterator[Arrays]:
    with open_archive(path) as leaves:
        yield arrange(path, [Source('', leaves)], options)
