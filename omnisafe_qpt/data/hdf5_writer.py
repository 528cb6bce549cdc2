# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Writing datasets in DSRL's HDF5 layout, block by block, each state once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.data.layouts import HDF5_NAMES
from omnisafe_qpt.errors import UserError


# Datasets are compressed in blocks of about this many bytes.
_CHUNK_BYTES = 256 * 1024
# h5py's default. Level 9 makes lidar observations 2 % smaller and takes 15 times as long.
_GZIP_LEVEL = 4
# States are stored once if their runs have at least this many transitions on average, and there are
# at most this many runs: a reader searches all runs for each block.
_MIN_RUN, _MAX_RUNS = 4, 1 << 15
# Room for the data that HDF5 writes when it closes a file.
_SPARE_BYTES = 1 << 23


def write_hdf5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays in memory in DSRL's HDF5 layout; see :func:`write_hdf5_blocks`.

    Args:
        path (str or os.PathLike): The file to write; it appears only when it is complete.
        arrays (Mapping[str, np.ndarray]): The arrays of DSRL's layout, N rows each, whole
            episodes in order, the last row of each with ``terminals`` or ``timeouts`` set.
        attributes (Mapping, optional): Metadata for the root attributes. Defaults to None.

    Raises:
        UserError: If the arrays differ in length, the last transition ends no episode, or a next
            observation inside an episode is not the following observation.
    """
    total = len(arrays['rewards'])
    lengths = {name: len(arrays[name]) for name in HDF5_NAMES}
    if set(lengths.values()) != {total}:
        raise UserError(f'{path}: the arrays differ in length: {lengths}')
    ends = np.flatnonzero(arrays['terminals'] | arrays['timeouts'])
    if not len(ends) or ends[-1] != total - 1:
        raise UserError(f'{path}: the last transition must end an episode')
    inner = np.setdiff1d(np.arange(total), ends, assume_unique=True)
    if not np.array_equal(arrays['next_observations'][inner], arrays['observations'][inner + 1]):
        raise UserError(f'{path}: next_observations differ from the following observations')
    write_hdf5_blocks(path, [arrays], ends, attributes)


def write_hdf5_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[Mapping[str, np.ndarray]],
    ends: np.ndarray,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a dataset in DSRL's HDF5 layout block by block, each state stored once.

    Within a run of transitions the next observation of one is the observation of the following
    one, so observations and next_observations are virtual datasets over one array of states: any
    HDF5 reader sees DSRL's layout, at half the size. Where the runs are too short or too many for
    that, next observations are stored as they are. The same blocks give the same bytes.

    Args:
        path (str or os.PathLike): The file to write; it appears only when it is complete.
        blocks (Iterable[Mapping[str, np.ndarray]]): The arrays of DSRL's layout, any number of
            consecutive rows at a time.
        ends (np.ndarray): (R,) int64, ascending: the transitions whose next observation is not
            the following observation, with the last transition of all.
        attributes (Mapping, optional): Metadata for the root attributes. Defaults to None.

    Raises:
        WriteError: If the file cannot be written.
    """
    import h5py

    total = int(ends[-1]) + 1
    is_shared = len(ends) <= min(total // _MIN_RUN, _MAX_RUNS)
    with atomic_path(path) as temporary, h5py.File(temporary, 'w', libver='v110') as file:
        file.attrs.update(dict(attributes or {}))
        datasets: dict[str, Any] = {}
        written: dict[str, int] = {}
        row = 0
        for block in blocks:
            _check_room(temporary, block)
            last = row + len(block['rewards'])
            inside = ends[np.searchsorted(ends, row) : np.searchsorted(ends, last)] - row
            row = last
            for name, rows in (_with_states(block, inside) if is_shared else block).items():
                if name not in datasets:
                    count = total + len(ends) if name == 'states' else total
                    datasets[name], written[name] = _create(file, name, count, rows), 0
                first, written[name] = written[name], written[name] + len(rows)
                datasets[name][first : written[name]] = rows
        if is_shared:
            _create_views(file, ends)


def _check_room(path: Path, block: Mapping[str, np.ndarray]) -> None:
    """Raise an error before the disk is full, because HDF5 crashes on a failed write."""
    needed = sum(array.nbytes for array in block.values()) + _SPARE_BYTES
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, f'{os.strerror(errno.ENOSPC)}, {needed} bytes are needed')
    limit = _file_size_limit()
    if limit is not None and path.stat().st_size + needed > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _file_size_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def _with_states(block: Mapping[str, np.ndarray], ends: np.ndarray) -> dict[str, np.ndarray]:
    """Replace observations by states: each run's observations and its final next observation."""
    observations, reached = block['observations'], block['next_observations']
    states = np.insert(observations, ends + 1, reached[ends], axis=0)
    others = [name for name in HDF5_NAMES if name not in ('observations', 'next_observations')]
    return {'states': states} | {name: block[name] for name in others}


def _create(file: Any, name: str, total: int, like: np.ndarray) -> Any:
    """Create a dataset for ``total`` rows with the type of ``like``.

    While it is open, HDF5 keeps the chunk that is being written in its cache, so that one which is
    written in parts is compressed once.
    """
    row_bytes = like.dtype.itemsize * int(np.prod(like.shape[1:], dtype=int))
    rows = min(total, max(1, _CHUNK_BYTES // max(1, row_bytes)))
    return file.create_dataset(
        name,
        shape=(total, *like.shape[1:]),
        dtype=like.dtype,
        chunks=(rows, *like.shape[1:]),
        compression='gzip',
        compression_opts=_GZIP_LEVEL,
        shuffle=True,
        track_times=False,
    )


def _create_views(file: Any, ends: np.ndarray) -> None:
    """Create observations and next_observations as virtual datasets of runs of rows of ``states``.

    Only the low-level interface can leave out the creation time, so that equal data gives equal
    bytes.
    """
    from h5py import h5d, h5p, h5s, h5t

    starts = np.concatenate([[0], ends[:-1] + 1])
    shape = (int(ends[-1]) + 1, *file['states'].shape[1:])
    here, there = h5s.create_simple(shape), h5s.create_simple(file['states'].shape)
    for name, offset in ((b'observations', 0), (b'next_observations', 1)):
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_layout(h5d.VIRTUAL)
        creation.set_obj_track_times(False)
        for run, (start, end) in enumerate(zip(starts, ends)):
            count = (int(end + 1 - start), shape[1])
            here.select_hyperslab((int(start), 0), count)
            there.select_hyperslab((int(start) + run + offset, 0), count)
            creation.set_virtual(here, b'.', b'states', there)
        here.select_all()
        h5d.create(file.id, name, h5t.py_create(file['states'].dtype), here, creation)
