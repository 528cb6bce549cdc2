# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing offline datasets: HDF5 and npz, DSRL's layout and others.

All layouts are presented under DSRL's names, one row per transition, whole episodes in order, and
are read in blocks of rows, so that a dataset need not fit into memory; what is found under which
name, :mod:`omnisafe_qpt.data.layouts` says. OmniSafe's ``done`` mixes terminal states and time
limits. An npz of ours has ``timeouts`` beside it, which OmniSafe ignores; in any other the two are
told apart by the task's horizon when the episodes are cut
(:meth:`omnisafe_qpt.data.trajectories.Trajectories.from_arrays`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import operator
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.hdf5 import member, without_plugins
from omnisafe_qpt.data.layouts import (
    COLUMNS,
    NPZ_NAMES,
    Arrays,
    ReadOptions,
    Source,
    arrange,
    find_sources,
)
from omnisafe_qpt.data.memory import check_memory, format_bytes
from omnisafe_qpt.errors import UserError, WriteError, printable


HDF5_SUFFIXES = ('.hdf5', '.h5')
HDF5_NAMES = (*NPZ_NAMES, 'timeouts')
# What OmniSafe's npz has no name for, and an npz of ours has beside its arrays.
NPZ_TIMEOUTS, NPZ_ATTRIBUTES = 'timeouts', 'hdf5_attributes'
# The attributes that something depends on, both text, and how much all may take.
ENV_ID_ATTRIBUTE, UNIT_ATTRIBUTE = 'env_id', 'action_unit'
_ATTRIBUTE_BYTES = 1 << 24
# What reading damaged HDF5 raises in h5py.
_HDF5_ERRORS = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    SystemError,
)
# More unmarked gaps than this share of the transitions is a broken file, not odd episode ends.
MAX_GAP_SHARE = 0.1
# A next observation further than this from the following observation is the end of an episode.
_GAP_TOLERANCE = 1e-3
# Datasets are compressed in blocks of about this many bytes.
_CHUNK_BYTES = 256 * 1024
# h5py's default. Level 9 makes lidar observations 2 % smaller and takes 15 times as long.
_GZIP_LEVEL = 4
# States are stored once where they come in runs of at least this many transitions on average, and
# in no more runs than this: a reader looks through all runs for each block that it reads.
_MIN_RUN, _MAX_RUNS = 4, 1 << 15
# Room kept for what HDF5 writes when it closes a file.
_SPARE_BYTES = 1 << 23


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
    path, options = _check_file(path), options or ReadOptions()
    try:
        with (_open_npz if path.suffix == '.npz' else open_hdf5)(path, options) as arrays:
            yield arrays
    except MemoryError as error:  # what is free can be taken by another process meanwhile
        raise UserError(
            f'{path}: there is not enough memory to read it; use a smaller file or a machine with '
            'more memory',
        ) from error


def _check_file(path: str | os.PathLike[str]) -> Path:
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
    with _hdf5_file(path) as file:
        with _hdf5_errors(path):
            arrays = arrange(path, find_sources(file, options), options)
        try:
            yield arrays
        except UserError:  # of a file that is written meanwhile, too
            raise
        except OSError as error:
            raise UserError(
                f'{path}: the data cannot be read to the end ({_first_line(error)}); get it again',
            ) from error


@contextmanager
def _hdf5_file(path: Path) -> Iterator[Any]:
    import h5py  # takes a second, and only HDF5 needs it

    with without_plugins(), ExitStack() as stack:
        with _hdf5_errors(path):
            file = stack.enter_context(h5py.File(path, 'r'))
        yield file


@contextmanager
def _hdf5_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _HDF5_ERRORS as error:
        raise UserError(
            f'{path}: not a readable HDF5 file (cut short or corrupt: {_first_line(error)}); '
            'get it again',
        ) from error


@contextmanager
def _open_npz(path: Path, options: ReadOptions) -> Iterator[Arrays]:
    with _npz_arrays(path) as leaves:
        yield arrange(path, [Source('', leaves)], options)


@contextmanager
def _npz_arrays(path: Path) -> Iterator[_NpzArrays]:
    with ExitStack() as stack:
        with _npz_errors(path):
            # Opened here, because an archive leaves its file open while a stream in it is.
            file = stack.enter_context(path.open('rb'))
            archive = stack.enter_context(zipfile.ZipFile(file))
        yield _NpzArrays(path, archive)


class _NpzArrays(Mapping[str, 'NpzArray']):
    """The arrays of an npz file, each opened when it is asked for."""

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


@contextmanager
def _npz_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # RuntimeError: a damaged header says that it is encrypted, or, as NotImplementedError, asks for
    # a compression that there is not; KeyError: it has another name.
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        OverflowError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f'{path}: not a readable npz file (cut short or corrupt: {_first_line(error)}); '
            'get it again',
        ) from error


_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpzArray:
    """An array of an npz file that is read as it is sliced.

    The file is a zip archive of streams, so rows are cheap to read in order and dear to go back
    to: a slice before the last one starts again at the first row.

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
        with _npz_errors(path):
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
        with _npz_errors(self._path):
            if self._fortran_order:
                return self._by_columns()[first:last]
            if first < self._next_row:
                self._rewind()
            self._read(first - self._next_row)
            return self._read(last - first)

    def _rewind(self) -> None:
        """Open the stream, read its header and stand at the first row."""
        self._stream = self._archive.open(f'{self._key}.npy')
        version = np.lib.format.read_magic(self._stream)
        if version not in _READ_HEADER:
            raise ValueError(f'array {printable(self._key)!r} has the unknown format {version}')
        try:
            header = _READ_HEADER[version](self._stream)
            self.shape: tuple[int, ...] = tuple(map(operator.index, header[0]))
            self.dtype: np.dtype = header[2]
        except Exception as error:  # numpy evaluates the header as a literal, which may be anything
            raise ValueError(
                f'the header of array {printable(self._key)!r}: {_first_line(error)}',
            ) from error
        self._fortran_order: bool = header[1]
        self._next_row = 0

    def _check_size(self) -> None:
        """Refuse a header that declares another size than the archive, before that is believed."""
        info = self._archive.getinfo(f'{self._key}.npy')
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f'{self._path}: array {printable(self._key)!r} is packed by another method than '
                "numpy's; write the file with numpy.savez",
            )
        if self.dtype.hasobject:  # never unpickled, and refused where it is to be read
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
                f'shape {self.shape}; needed is one text',
            )
        if self.num_bytes > _ATTRIBUTE_BYTES:
            raise UserError(_too_many_attributes(self._path))
        with _npz_errors(self._path):
            content = self._stream.read()
            return str(np.frombuffer(content, self.dtype)[0]) if content else ''

    def _read(self, count: int) -> np.ndarray:
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        content = self._stream.read(count * row_bytes)
        if len(content) != count * row_bytes:
            raise EOFError(f'array {self._key!r} ends early')
        self._next_row += count
        if self._next_row == len(self):
            self._stream.read(1)  # the end of the stream is where its checksum is checked
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _by_columns(self) -> np.ndarray:
        """Read an array that is stored column by column, whose rows cannot be read apart."""
        if self._in_columns is None:
            check_memory(str(self._path), self.num_bytes)
            with self._archive.open(f'{self._key}.npy') as stream:
                self._in_columns = np.lib.format.read_array(stream)
        return self._in_columns


def check_shapes(arrays: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    """Check that arrays under DSRL's names belong to the same transitions.

    Args:
        arrays (Mapping): ``observations`` and ``next_observations`` (N, S), ``actions`` (N, A),
            and the columns, (N,) or (N, 1).
        name (str): Named in errors.

    Returns:
        N, S and A.

    Raises:
        UserError: If there is no transition, or a shape does not fit.
    """
    if arrays['observations'].shape[:1] == (0,):
        raise UserError(f'{name}: the dataset has no transitions')
    for key in ('observations', 'next_observations', 'actions'):
        if len(arrays[key].shape) != 2:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; needed is one row of numbers '
                'for each transition',
            )
    total, obs_dim = arrays['observations'].shape
    act_dim = arrays['actions'].shape[1]
    if not (obs_dim and act_dim):
        raise UserError(
            f'{name}: {"actions" if obs_dim else "observations"} hold no numbers (shape '
            f'{tuple(arrays["actions" if obs_dim else "observations"].shape)}); needed is one row '
            'of numbers for each transition',
        )
    allowed = dict.fromkeys(COLUMNS, ((total,), (total, 1)))
    allowed |= {'next_observations': ((total, obs_dim),), 'actions': ((total, act_dim),)}
    for key, shapes in allowed.items():
        if key in arrays and tuple(arrays[key].shape) not in shapes:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; needed for observations of '
                f'shape {(total, obs_dim)} is {shapes[0]}',
            )
    return total, obs_dim, act_dim


def block_bytes(arrays: Mapping[str, Any], rows: int) -> int:
    """Return how much memory a block of :func:`row_blocks` of all arrays takes at most.

    Args:
        arrays (Mapping[str, Any]): The arrays, which are read, in float64 at most as a rule, and
            turned to float32.
        rows (int): About how many rows a block should have.
    """
    step = min(_block_rows(arrays['observations'], rows), len(arrays['observations']))
    return sum(12 * step * math.prod(array.shape[1:]) for array in arrays.values())


def row_blocks(array: Any, rows: int) -> Iterator[tuple[int, int]]:
    """Split an array's rows into blocks to be read one after another.

    HDF5 decompresses whole chunks. Where the array has some, blocks begin and end at theirs, so
    that none is decompressed twice.

    Args:
        array (Any): An array of :func:`open_dataset`, or any other.
        rows (int): About how many rows a block should have.

    Yields:
        First row of a block and the first one after it.
    """
    step = _block_rows(array, rows)
    for first in range(0, len(array), step):
        yield first, min(first + step, len(array))


def _block_rows(array: Any, rows: int) -> int:
    chunk_rows = (getattr(array, 'chunks', None) or (1,))[0]
    # Never much larger than asked for, because blocks bound the memory.
    return max(rows // chunk_rows, 1) * chunk_rows if chunk_rows <= 4 * rows else rows


def is_gap(reached: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Tell where next observations are not the following observations, beyond rounding.

    Args:
        reached (np.ndarray): (N, S), next observation of each transition.
        following (np.ndarray): (N, S), observation of the transition after it.

    Returns:
        (N,) bool. What is not a number is no gap.
    """
    return (np.abs(reached - following) > _GAP_TOLERANCE * (1.0 + np.abs(following))).any(axis=1)


def check_marked(marked: np.ndarray, name: str) -> None:
    """Refuse a dataset in which no episode ends.

    Args:
        marked (np.ndarray): (N,) bool, the transitions with a flag of either kind.
        name (str): Named in errors.

    Raises:
        UserError: If none has.
    """
    if not marked.any():
        raise UserError(
            f'{name}: no episode end: neither terminals nor timeouts is set anywhere; '
            'mark the last transition of each episode',
        )


def is_shuffled(marked: np.ndarray, gaps: np.ndarray) -> bool:
    """Tell whether there are more gaps without an end flag than training takes."""
    return int((gaps & ~marked).sum()) > MAX_GAP_SHARE * len(marked)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a dataset's metadata, empty for an npz of OmniSafe's.

    Args:
        path (str or os.PathLike): The dataset file.

    Returns:
        The attributes of the HDF5 file and of its group ``data`` as plain Python values, texts,
        numbers and arrays of them. What is nested becomes JSON; what is neither is left out.

    Raises:
        UserError: If the file is absent, cut short or of another kind, the attributes are too
            many, or one that something depends on is no text.
    """
    path = _check_file(path)
    if path.suffix in HDF5_SUFFIXES:
        with _hdf5_file(path) as file, _hdf5_errors(path):
            # robomimic's are those of its group of episodes.
            found = _hdf5_attributes(path, member(file, 'data')) | _hdf5_attributes(path, file)
    else:
        found = _npz_attributes(path)
    plain = {key: _plain_attribute(value) for key, value in found.items()}
    attributes = {key: value for key, value in plain.items() if value is not None}
    for key in (ENV_ID_ATTRIBUTE, UNIT_ATTRIBUTE):
        if key in found and not isinstance(attributes.get(key), str):
            raise UserError(
                f'{path}: attribute {key!r} is no text but {type(found[key]).__name__}; store it '
                'as text, or remove it',
            )
    return attributes


def _too_many_attributes(path: Path) -> str:
    return (
        f'{path}: its attributes take more than {format_bytes(_ATTRIBUTE_BYTES)}; remove those '
        'that are no metadata'
    )


def _hdf5_attributes(path: Path, holder: Any) -> dict[str, Any]:
    """Read the attributes of a file, group or dataset; none of anything else."""
    from h5py import h5a

    found: dict[str, Any] = {}
    if not hasattr(holder, 'attrs'):
        return found
    size = 0
    for key in holder.attrs:
        attribute = h5a.open(holder.id, key.encode('utf-8', 'surrogateescape'))
        count = attribute.get_space().get_simple_extent_npoints()  # none of an empty one
        size += count * attribute.get_type().get_size()
        if size > _ATTRIBUTE_BYTES:
            raise UserError(_too_many_attributes(path))
        try:
            found[printable(key)] = holder.attrs[key]
        except (TypeError, ValueError, KeyError):  # of a type that numpy does not have
            found[printable(key)] = None
    return found


def _npz_attributes(path: Path) -> dict[str, Any]:
    with _npz_arrays(path) as arrays:
        if NPZ_ATTRIBUTES not in set(arrays):
            return {}
        text = arrays[NPZ_ATTRIBUTES].text()
    try:
        found = json.loads(text)
        json.dumps(found)  # which may be too deep, too
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: array {NPZ_ATTRIBUTES!r} is no JSON ({_first_line(error)}); remove it',
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f'{path}: array {NPZ_ATTRIBUTES!r} holds {type(found).__name__}; needed is a JSON '
            'object, or no such array',
        )
    return {printable(key): value for key, value in found.items()}


def _plain_attribute(value: Any) -> Any:
    """Turn metadata into what every format can hold; None for what has no such form."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode('utf-8', 'replace')
        # Neither unfinished characters nor zeros can be stored as text.
        return text.encode('utf-8', 'replace').decode().replace('\0', '')
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float)):
        return value if isinstance(value, float) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in 'biuf':
            return value
        is_text = value.dtype.kind in 'SUO' and all(isinstance(t, (str, bytes)) for t in value.flat)
        return [_plain_attribute(text) for text in value.flat] if is_text else None
    if isinstance(value, (list, dict)):
        return _plain_nested(value)
    return None


def _plain_nested(value: list[Any] | dict[str, Any]) -> Any:
    """Keep a list of texts or an array of numbers as it is; the rest becomes JSON."""
    with suppress(ValueError, OverflowError):  # of unequal lengths, too deep
        if isinstance(value, list) and np.asarray(value).dtype.kind in 'biuf':
            return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_plain_attribute(item) for item in value]
    return _plain_attribute(json.dumps(value))


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
        raise UserError(f'{path}: the arrays to be written differ in length: {lengths}')
    ends = np.flatnonzero(arrays['terminals'] | arrays['timeouts'])
    if not len(ends) or ends[-1] != total - 1:
        raise UserError(f'{path}: the last transition must end an episode to be written')
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
    """Raise before the disk is full, because HDF5 crashes if it cannot write what it holds."""
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
    """Create a dataset for ``total`` rows such as those of ``like``.

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
    starts = np.concatenate([[0], ends[:-1] + 1])
    shape = (int(ends[-1]) + 1, *file['states'].shape[1:])
    for name, offset in (('observations', 0), ('next_observations', 1)):
        first_states = starts + np.arange(len(starts)) + offset
        _create_view(file, name, shape, starts, ends, first_states)


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
