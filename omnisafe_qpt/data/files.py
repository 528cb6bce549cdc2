# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Opening dataset files: HDF5 and npz, DSRL's layout and others.

All layouts are presented under DSRL's names, one row per transition, whole episodes in order, and
are read in blocks of rows, so that a dataset need not fit into memory; what is found under which
name, :mod:`omnisafe_qpt.data.layouts` says. OmniSafe's ``done`` mixes terminal states and time
limits. An npz of ours has ``timeouts`` beside it, which OmniSafe ignores; in any other the two are
told apart by the task's horizon when the episodes are cut
(:meth:`omnisafe_qpt.data.trajectories.Trajectories.from_arrays`).
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


@contextmanager
def open_dataset(
    path: str | os.PathLike[str],
    options: ReadOptions | None = None,
) -> Iterator[Arrays]:
    """Open a dataset file for reading.

    Arrays are read from disk only where they are sliced, those of an npz best from first to last.

    Args:
        path (str or os.PathLike): A ``.hdf5``, ``.h5`` or ``.npz`` file in one of the layouts of
            :mod:`omnisafe_qpt.data.layouts`.
        options (ReadOptions, optional): What the user says about it. Defaults to None.

    Yields:
        The arrays under DSRL's names, each sliceable, with the number of transitions first.

    Raises:
        UserError: If the file is absent, cut short, of another kind, or lacks an array.
    """
    path, options = check_file(path), options or ReadOptions()
    try:
        with (_open_npz if path.suffix == '.npz' else open_hdf5)(path, options) as arrays:
            yield arrays
    except MemoryError as error:  # what is free can be taken by another process meanwhile
        raise UserError(
            f'{path}: there is not enough memory to read it; use a smaller file or a machine with '
            'more memory',
        ) from error


def check_file(path: str | os.PathLike[str]) -> Path:
    """Refuse what is no dataset file by its name and size; return its path."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'{path}: no such dataset file')
    if path.stat().st_size == 0:
        raise UserError(f'{path}: the file is empty; get it again')
    if path.suffix not in (*HDF5_SUFFIXES, '.npz'):
        raise UserError(
            f'{path}: unknown dataset format {path.suffix!r}; use HDF5 (.hdf5, .h5) or npz (.npz)',
        )
    return path


@contextmanager
def open_hdf5(path: Path, options: ReadOptions | None = None) -> Iterator[Arrays]:
    """Open an HDF5 file whatever it is called; see :func:`open_dataset`."""
    options = options or ReadOptions()
    with open_file(path) as file:
        with damage(path):
            arrays = arrange(path, find_sources(file, options), options)
        with reading(path):
            yield arrays


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line that an array of an open HDF5 file cannot be read."""
    try:
        yield
    except UserError:  # of a file that is written meanwhile, too
        raise
    except OSError as error:
        raise UserError(
            f'{path}: the data cannot be read to the end ({first_line(error)}); get it again',
        ) from error


@contextmanager
def _open_npz(path: Path, options: ReadOptions) -> Iterator[Arrays]:
    with open_archive(path) as leaves:
        yield arrange(path, [Source('', leaves)], options)
