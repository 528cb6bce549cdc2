# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Converting datasets to DSRL's HDF5 or to the npz of OmniSafe's built-in offline algorithms.

The source may have any layout of :mod:`omnisafe_qpt.data.layouts`.

An npz holds what OmniSafe reads, all in float32: ``obs``, ``action``, ``reward``, ``cost``,
``next_obs`` and ``done``. ``done`` is set in terminal states only: the built-in algorithms do not
bootstrap where it is set, and a time limit is no reason not to bootstrap. COptiDICE needs rewards,
costs and ``done`` of shape (N,), and ``init_obs``, the first observation of each transition's
episode; the others need shape (N, 1). OmniSafe ignores two further arrays, ``timeouts`` and
``hdf5_attributes``, which make the conversion back to HDF5 exact.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.actions import ENVIRONMENT
from omnisafe_qpt.data.arrays import (
    NUMBERS,
    as_flags,
    as_float32,
    block_bytes,
    check_finite,
    check_marked,
    check_order,
    check_shapes,
    episode_bounds,
    is_gap,
    row_blocks,
)
from omnisafe_qpt.data.attributes import (
    ENV_ID_ATTRIBUTE,
    NPZ_ATTRIBUTES,
    UNIT_ATTRIBUTE,
    read_attributes,
)
from omnisafe_qpt.data.files import HDF5_SUFFIXES, SUFFIXES, open_dataset, reading
from omnisafe_qpt.data.hdf5_writer import write_hdf5_blocks
from omnisafe_qpt.data.layouts import COLUMNS, DONES, HDF5_NAMES, NPZ_NAMES, Arrays, ReadOptions
from omnisafe_qpt.data.memory import check_memory, format_bytes
from omnisafe_qpt.data.npz import write_npz
from omnisafe_qpt.errors import UserError


# OmniSafe's offline algorithms that need rewards, costs and done of shape (N, 1), and the one that
# needs shape (N,).
COLUMN_ALGORITHMS = ('VAEBC', 'BCQ', 'BCQLag', 'CRR', 'CCRR')
INIT_OBS_ALGORITHM = 'COptiDICE'
BUILT_INS = (*COLUMN_ALGORITHMS, INIT_OBS_ALGORITHM)

_STATES = ('observations', 'next_observations')
# Rows in memory at a time, of each array.
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Conversion:
    """Report of a conversion.

    Args:
        out (str): The file.
        transitions (int): N.
        terminals (int): Transitions into terminal states.
        timeouts (int): Transitions at which a time limit ends the episode, or a gap.
        over_horizon (int): Episodes longer than the horizon, if one was needed.
        rounded (tuple[str, ...]): Arrays that were rounded to float32.
        bytes (int): Size of the file.
        env_id (str, optional): The environment, if the source names it.
        notes (tuple[str, ...]): Notes on how the source was read.
    """

    out: str
    transitions: int
    terminals: int
    timeouts: int
    over_horizon: int
    rounded: tuple[str, ...]
    bytes: int
    env_id: str | None
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    algorithm: str | None = None,
    horizon: int | None = None,
    overwrite: bool = False,
    names: Mapping[str, str] | None = None,
    observation_keys: Sequence[str] = (),
    cost_weights: Sequence[float] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert a dataset to DSRL's HDF5 or to OmniSafe's npz, by the suffix of ``out``.

    Rows are read and written in blocks, so that the memory hardly grows with the file.

    Args:
        source (str or os.PathLike): The file to read.
        out (str or os.PathLike): The file to write; it appears only when it is complete.
        algorithm (str, optional): OmniSafe's built-in algorithm for an npz. Defaults to None, any
            except COptiDICE.
        horizon (int, optional): The task's time limit in steps. Needed to tell time limits from
            terminal states where one flag marks both. Defaults to None.
        overwrite (bool, optional): Whether to replace ``out``. Defaults to False.
        names (Mapping[str, str], optional): DSRL's names, or ``dones`` for one flag at every end,
            and the source's names for them. Defaults to None, for those that are well known.
        observation_keys (Sequence[str], optional): Where observations are a group of arrays,
            those that are put side by side, in this order. Defaults to none.
        cost_weights (Sequence[float], optional): Where there are several costs, the weight of each
            in their sum. Defaults to none.
        on_progress (Callable, optional): Called with the bytes read and their total.

    Raises:
        UserError: If the names do not fit, ``source`` is no dataset that training accepts, the
            horizon is needed and absent, there is less memory or room on the disk than the sizes
            that ``source`` declares need, or ``out`` exists or cannot be written.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    _check_names(source, out, overwrite)
    to_npz = out.suffix == '.npz'
    if algorithm not in (None, *BUILT_INS):
        raise UserError(
            f'--for {algorithm}: not an offline algorithm of OmniSafe; use one of '
            f'{", ".join(BUILT_INS)}',
        )
    if algorithm is not None and not to_npz:
        raise UserError(f'--for {algorithm} is only for an npz, which {out} is not')
    attributes = read_attributes(source)
    with open_dataset(
        source, ReadOptions(names, observation_keys, horizon, cost_weights)
    ) as arrays:
        if (source.suffix == '.npz') == to_npz and not cost_weights:
            _check_layout(source, out, arrays)
        with_init_obs = algorithm == INIT_OBS_ALGORITHM
        # Each array is read once, and the states once more, to find where episodes end.
        to_read = [*NUMBERS, *_STATES, *(['observations'] if with_init_obs else [])]
        reader = _Reader(source, arrays, to_read, on_progress)
        if not reader.has_timeouts and horizon is None:
            raise UserError(
                f"{source}: has no array 'timeouts', and one flag may be set at time limits "
                "too, as OmniSafe's collector does; give the task's time limit with --horizon "
                'or --env-id',
            )
        _check_room(out, reader)
        differs, gaps = reader.seams()
        terminals, timeouts, over_horizon = _episode_ends(reader, gaps, horizon)
        if to_npz:
            is_first = np.concatenate([[True], (terminals | timeouts | gaps)[:-1]])
            begins = is_first if with_init_obs else None
            write_npz(out, _npz_arrays(reader, terminals, timeouts, begins, attributes))
        else:
            blocks = _hdf5_blocks(reader, terminals, timeouts)
            write_hdf5_blocks(out, blocks, np.flatnonzero(differs), attributes)
    return Conversion(
        out=str(out),
        transitions=reader.total,
        terminals=int(terminals.sum()),
        timeouts=int((timeouts & ~terminals).sum()),
        over_horizon=over_horizon,
        rounded=reader.rounded,
        bytes=out.stat().st_size,
        env_id=attributes.get(ENV_ID_ATTRIBUTE),
        notes=(*arrays.notes, *_unit_notes(out, attributes)),
    )


def _check_layout(source: Path, out: Path, arrays: Arrays) -> None:
    """Check that the source does not already have the target layout."""
    own = {name: [name] for name in HDF5_NAMES}
    if out.suffix == '.npz':
        own = {name: [key] for name, key in NPZ_NAMES.items() if name != 'terminals'}
        own[DONES] = [NPZ_NAMES['terminals']]
        own |= {'timeouts': ['timeouts']} if 'timeouts' in arrays else {}
    if not arrays.notes and dict(arrays.names) == own:
        raise UserError(
            f'{out}: would have the format of {source}; there is nothing to convert',
        )


def _check_names(source: Path, out: Path, overwrite: bool) -> None:
    """Check the names of the files."""
    for path in (source, out):
        if path.suffix not in SUFFIXES:
            raise UserError(
                f'{path}: unknown dataset format {path.suffix!r}; use .hdf5 or .h5 for DSRL and '
                '.npz for OmniSafe',
            )
    check_out(source, out, overwrite)


def check_out(source: Path, out: Path, overwrite: bool) -> None:
    """Check that a file can be written without loss.

    Args:
        source (Path): The file to read.
        out (Path): The file to write.
        overwrite (bool): Whether it may exist.

    Raises:
        UserError: If ``out`` is the source or a folder, or exists and may not.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f'{out}: is the source file; give another name')
    if out.is_dir():
        raise UserError(f'{out}: is a folder; give the name of a file')
    if out.exists() and not overwrite:
        raise UserError(f'{out}: exists; give another name or --overwrite')


def _check_room(out: Path, reader: _Reader) -> None:
    """Check by the declared sizes that the disk has enough room."""
    if not out.parent.is_dir():
        return  # it is created, or its error reported, when the file is written
    # A compressed HDF5 file takes less, by an unknown amount. It has each state once; whether next
    # observations are stored too is known only while writing.
    states = 1 if out.suffix in HDF5_SUFFIXES else 2
    row = states * math.prod(reader.shape('observations')[1:])
    row += math.prod(reader.shape('actions')[1:]) + len(COLUMNS)
    needed, free = 4 * row * reader.total, shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(
            f'{out}: up to {format_bytes(needed)} are needed on the disk, and '
            f'{format_bytes(free)} are free; make room or choose another folder',
        )


def _unit_notes(out: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Return a note if OmniSafe's own algorithms cannot use the unit of actions."""
    if out.suffix != '.npz' or attributes.get(UNIT_ATTRIBUTE) != ENVIRONMENT:
        return []
    note = (
        "actions are in the environment's own unit, where OmniSafe's own algorithms take [-1, 1]: "
        'scale them first, or train one of this package, which scales them itself'
    )
    return [note]


class _Reader:
    """Reads a dataset in blocks, all numbers as float32.

    Args:
        path (Path): The file, for messages.
        arrays (Mapping): Arrays from :func:`open_dataset`.
        to_read (Sequence[str]): The arrays that will be read, one name per read.
        on_progress (Callable, optional): Called with the bytes read and their total.

    Raises:
        UserError: If the arrays' shapes do not fit together.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, Any],
        to_read: Sequence[str],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Initialize an instance of :class:`_Reader`."""
        self._path, self._arrays, self._on_progress = path, arrays, on_progress
        self._bytes_read, self._bytes_to_read = 0, sum(map(self.num_bytes, to_read))
        self.name = str(path)
        self.total = check_shapes(arrays, self.name)[0]
        row_bytes = self.num_bytes('observations') // self.total
        self._rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
        check_memory(self.name, block_bytes(arrays, self._rows))
        self.rounded = tuple(
            name for name in NUMBERS if not np.can_cast(arrays[name].dtype, np.float32)
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape, (N, S), (N, A) or (N,)."""
        return self._arrays[name].shape if name not in COLUMNS else (self.total,)

    def num_bytes(self, name: str) -> int:
        """Return an array's size in memory."""
        array = self._arrays[name]
        return array.dtype.itemsize * math.prod(array.shape)

    @property
    def has_timeouts(self) -> bool:
        """Whether time limits are distinguished from terminal states."""
        return 'timeouts' in self._arrays

    def flags(self, name: str) -> np.ndarray:
        """Return an array of flags, (N,) bool."""
        return as_flags(self._arrays[name][:], name, self.name)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield an array in consecutive blocks, with equal rows for all arrays."""
        array = self._arrays[name]
        for first, last in row_blocks(self._arrays['observations'], self._rows):
            with reading(self._path):  # so that an error is not attributed to the written file
                block = as_float32(array[first:last])
            check_finite(block, range(first, last), name, self.name)
            yield block.reshape(-1) if name in COLUMNS else block
            self._bytes_read += self.num_bytes(name) * (last - first) // self.total
            if self._on_progress is not None:
                self._on_progress(self._bytes_read, self._bytes_to_read)

    def seams(self) -> tuple[np.ndarray, np.ndarray]:
        """Compare next observations with the following observations.

        Returns:
            Where they differ in any bit, (N,) bool, and where they differ by more than rounding,
            (N,) bool. The last transition is in both, as nothing follows it.
        """
        differs, gaps = np.zeros((2, self.total), dtype=bool)
        first, carried = 0, None
        for observations, reached in zip(self.blocks(_STATES[0]), self.blocks(_STATES[1])):
            carried = observations[:1] if carried is None else carried
            before = np.concatenate([carried, reached[:-1]])
            carried = reached[-1:].copy()  # a view would keep the block
            bits = (before.view(np.uint32), np.ascontiguousarray(observations).view(np.uint32))
            rows = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
            differs[first + rows - 1] = True
            gaps[first + rows - 1] = is_gap(before[rows], observations[rows])
            first += len(observations)
        differs[-1] = gaps[-1] = True
        return differs, gaps


def _episode_ends(
    reader: _Reader,
    gaps: np.ndarray,
    horizon: int | None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Distinguish terminal states from time limits, by the horizon if one flag marks both.

    Returns:
        Terminals and timeouts, (N,) bool each, and how many episodes are over the horizon.

    Raises:
        UserError: If training would refuse the flags or the order of the transitions.
    """
    done = reader.flags('terminals')
    timeouts = reader.flags('timeouts') if reader.has_timeouts else np.zeros_like(done)
    marked = done | timeouts
    check_marked(marked, reader.name)
    marked[-1] = True  # nothing follows it
    check_order(int((gaps & ~marked).sum()), reader.total, reader.name)
    if reader.has_timeouts:
        return done, timeouts, 0
    starts, ends = episode_bounds(done | gaps)
    lengths = ends + 1 - starts
    timeouts[ends] = ~done[ends] | (lengths >= horizon)
    return done & ~timeouts, timeouts, int((lengths > horizon).sum())


def _hdf5_blocks(
    reader: _Reader,
    terminals: np.ndarray,
    timeouts: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    first = 0
    for numbers in zip(*(reader.blocks(name) for name in NUMBERS)):
        rows = slice(first, first + len(numbers[0]))
        first = rows.stop
        yield dict(zip(NUMBERS, numbers)) | {
            'terminals': terminals[rows],
            'timeouts': timeouts[rows],
        }


def _npz_arrays(
    reader: _Reader,
    terminals: np.ndarray,
    timeouts: np.ndarray,
    is_first: np.ndarray | None,
    attributes: Mapping[str, Any],
) -> Iterator[tuple[Any, ...]]:
    """Yield the arrays for :func:`write_npz`.

    With ``is_first``, which marks the first transitions of episodes, they are for COptiDICE.
    """
    column = (reader.total, 1) if is_first is None else (reader.total,)
    for name in NUMBERS:
        shape = column if name in COLUMNS else reader.shape(name)
        yield NPZ_NAMES[name], shape, reader.blocks(name)
    yield NPZ_NAMES['terminals'], column, [terminals.astype(np.float32)]
    if is_first is not None:
        # An observation repeated for a whole episode compresses to a few percent, and is read as
        # fast as from a disk. Other arrays hardly shrink and would be slow to read.
        shape = reader.shape('observations')
        yield 'init_obs', shape, _first_observations(reader, is_first), zipfile.ZIP_DEFLATED
    yield 'timeouts', timeouts.shape, [timeouts]
    if attributes:
        text = np.array(json.dumps(attributes, default=np.ndarray.tolist))
        yield NPZ_ATTRIBUTES, (), [text]


def _first_observations(reader: _Reader, is_first: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each transition the first observation of its episode, in blocks."""
    first, carried = 0, None
    for observations in reader.blocks('observations'):
        begins = is_first[first : first + len(observations)]
        # The latest beginning at or before each row, -1 where that lies in an earlier block.
        latest = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), -1))
        block = observations[latest]
        if carried is not None:
            block[latest < 0] = carried
        yield block
        carried = block[-1].copy()
        first += len(observations)
