# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Reading and writing offline datasets: DSRL's HDF5 layout and OmniSafe's npz.

Both layouts are presented under DSRL's names, one row per transition, whole episodes in order.
OmniSafe's ``done`` mixes terminal states and time limits, so an npz has no ``timeouts``: the two
are told apart by the task's horizon when the episodes are cut
(:meth:`omnisafe_qpt.data.trajectories.Trajectories.from_arrays`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.errors import UserError


HDF5_SUFFIXES = ('.hdf5', '.h5')
# The arrays of a dataset by DSRL's name, and the name OmniSafe's npz has for each.
NPZ_NAMES = {
    'observations': 'obs',
    'next_observations': 'next_obs',
    'actions': 'action',
    'rewards': 'reward',
    'costs': 'cost',
    'terminals': 'done',
}
HDF5_NAMES = (*NPZ_NAMES, 'timeouts')
# Datasets are compressed in blocks of about this many bytes.
_CHUNK_BYTES = 256 * 1024


@contextmanager
def open_dataset(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Any]]:
    """Open a dataset file for reading.

    HDF5 arrays are read from disk only where they are sliced; an npz is decompressed an array at
    a time.

    Args:
        path (str or os.PathLike): A ``.hdf5``/``.h5`` file in DSRL's layout or an ``.npz`` in
            OmniSafe's.

    Yields:
        The arrays under DSRL's names, each sliceable, with the number of transitions first.

    Raises:
        UserError: If the file is absent, cut short, of another kind, or lacks an array.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'{path}: no such dataset file')
    if path.stat().st_size == 0:
        raise UserError(f'{path}: the file is empty; get it again')
    if path.suffix in HDF5_SUFFIXES:
        opener = open_hdf5(path)
    elif path.suffix == '.npz':
        opener = _open_npz(path)
    else:
        raise UserError(
            f'{path}: unknown dataset format {path.suffix!r}; use DSRL HDF5 (.hdf5, .h5) or '
            'OmniSafe npz (.npz)',
        )
    with opener as arrays:
        yield arrays


@contextmanager
def open_hdf5(path: Path) -> Iterator[Mapping[str, Any]]:
    """Open an HDF5 file in DSRL's layout whatever it is called; see :func:`open_dataset`."""
    import h5py  # takes a second, and only this reader needs it

    try:
        file = h5py.File(path, 'r')
    except OSError as error:
        raise UserError(
            f'{path}: not a readable HDF5 file (cut short or corrupt: {_first_line(error)}); '
            'get it again',
        ) from error
    with file:
        try:
            items = {name: file[name] for name in file}
        except (OSError, KeyError, RuntimeError) as error:
            raise UserError(
                f'{path}: not a readable HDF5 file (corrupt: {_first_line(error)}); get it again',
            ) from error
        arrays = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
        _require_names(path, HDF5_NAMES, arrays)
        try:
            yield {name: arrays[name] for name in HDF5_NAMES}
        except OSError as error:
            raise UserError(
                f'{path}: the data cannot be read to the end ({_first_line(error)}); get it again',
            ) from error


@contextmanager
def _open_npz(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        # np.load takes what is no zip archive for a pickle or a single array.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile('no zip archive')
        with np.load(path, allow_pickle=False) as file:
            present = file.files
            arrays = {name: file[key] for name, key in NPZ_NAMES.items() if key in present}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f'{path}: not a readable npz file (cut short or corrupt: {_first_line(error)}); '
            'get it again',
        ) from error
    _require_names(path, NPZ_NAMES.values(), present)
    yield arrays


def _require_names(path: Path, needed: Any, present: Any) -> None:
    missing = [name for name in needed if name not in set(present)]
    if missing:
        raise UserError(
            f'{path}: array {missing[0]!r} is missing (needed: {", ".join(needed)}; '
            f'found: {", ".join(sorted(present)) or "nothing"})',
        )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a dataset's metadata, empty for an npz.

    Args:
        path (str or os.PathLike): The dataset file.

    Returns:
        The HDF5 root attributes as plain Python values.
    """
    path = Path(path).expanduser()
    if path.suffix not in HDF5_SUFFIXES:
        return {}
    import h5py

    with h5py.File(path, 'r') as file:
        return {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in file.attrs.items()
        }


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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem}-', suffix=path.suffix)
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
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_hdf5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write a dataset in DSRL's HDF5 layout, each state stored once.

    Within an episode the next observation of one transition is the observation of the following
    one, so observations and next_observations are virtual datasets over one array of states: any
    HDF5 reader sees DSRL's layout, at half the size. The same arrays give the same bytes.

    Args:
        path (str or os.PathLike): The file to write; it appears only when it is complete.
        arrays (Mapping[str, np.ndarray]): The arrays of DSRL's layout, N rows each, whole
            episodes in order, the last row of each with ``terminals`` or ``timeouts`` set.
        attributes (Mapping, optional): Metadata for the root attributes. Defaults to None.

    Raises:
        UserError: If the arrays differ in length, the last transition ends no episode, or a next
            observation inside an episode is not the following observation.
    """
    import h5py

    total = len(arrays['rewards'])
    lengths = {name: len(arrays[name]) for name in HDF5_NAMES}
    if set(lengths.values()) != {total}:
        raise UserError(f'{path}: the arrays to be written differ in length: {lengths}')
    ends = np.flatnonzero(arrays['terminals'] | arrays['timeouts'])
    if not len(ends) or ends[-1] != total - 1:
        raise UserError(f'{path}: the last transition must end an episode to be written')
    starts = np.concatenate([[0], ends[:-1] + 1])
    inner = np.setdiff1d(np.arange(total), ends, assume_unique=True)
    observations, next_observations = arrays['observations'], arrays['next_observations']
    if not np.array_equal(next_observations[inner], observations[inner + 1]):
        raise UserError(f'{path}: next_observations differ from the following observations')
    # Rows of `states`: each episode's observations and then its final next observation.
    states = np.insert(observations, ends + 1, next_observations[ends], axis=0)
    with atomic_path(path) as temporary, h5py.File(temporary, 'w', libver='v110') as file:
        file.attrs.update(dict(attributes or {}))
        _create(file, 'states', states)
        for name, offset in (('observations', 0), ('next_observations', 1)):
            first_states = starts + np.arange(len(starts)) + offset
            _create_view(file, name, observations.shape, starts, ends, first_states)
        for name in ('actions', 'rewards', 'costs', 'terminals', 'timeouts'):
            _create(file, name, arrays[name])


def _create(file: Any, name: str, array: np.ndarray) -> None:
    row_bytes = max(1, array[:1].nbytes)
    rows = min(len(array), max(1, _CHUNK_BYTES // row_bytes))
    file.create_dataset(
        name,
        data=array,
        chunks=(rows, *array.shape[1:]),
        compression='gzip',
        compression_opts=9,
        shuffle=True,
        track_times=False,
    )


def _create_view(
    file: Any,
    name: str,
    shape: tuple[int, ...],
    starts: np.ndarray,
    ends: np.ndarray,
    first_states: np.ndarray,
) -> None:
    """Create a virtual dataset whose episodes are runs of rows of ``states``.

    The low-level interface, because only it can leave out the time of creation, without which
    equal data would not give equal bytes.
    """
    from h5py import h5d, h5p, h5s, h5t

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.VIRTUAL)
    creation.set_obj_track_times(False)
    here, there = h5s.create_simple(shape), h5s.create_simple(file['states'].shape)
    for start, end, first_state in zip(starts, ends, first_states):
        count = (int(end + 1 - start), shape[1])
        here.select_hyperslab((int(start), 0), count)
        there.select_hyperslab((int(first_state), 0), count)
        creation.set_virtual(here, b'.', b'states', there)
    h5d.create(
        file.id,
        name.encode(),
        h5t.py_create(file['states'].dtype),
        h5s.create_simple(shape),
        creation,
    )
