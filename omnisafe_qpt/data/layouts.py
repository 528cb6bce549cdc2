# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a file's arrays are what: names of several projects, episodes in groups.

DSRL's names are the ones used from here on. :func:`arrange` finds a file's arrays under them: by
the names that other projects give them, in one group for each episode as Minari and robomimic
write them, and without next observations, which are then the following observations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.hdf5 import Broken, check_storage, leaves, members
from omnisafe_qpt.data.memory import check_memory
from omnisafe_qpt.errors import UserError, printable, shell_command


# The arrays of a dataset by DSRL's name, and the name OmniSafe's npz has for each.
NPZ_NAMES = {
    'observations': 'obs',
    'next_observations': 'next_obs',
    'actions': 'action',
    'rewards': 'reward',
    'costs': 'cost',
    'terminals': 'done',
}
# The arrays of one number for each transition.
COLUMNS = ('rewards', 'costs', 'terminals', 'timeouts')
# One flag for both kinds of end, terminal states and time limits.
DONES = 'dones'
# The names that are looked for, the first that is there; upper and lower case are the same.
ALIASES = {
    'observations': ('observations', 'observation', 'obs'),
    'next_observations': ('next_observations', 'next_observation', 'next_obs', 'obs_next'),
    'actions': ('actions', 'action', 'acts', 'act'),
    'rewards': ('rewards', 'reward', 'rews', 'rew'),
    'costs': ('costs', 'cost', 'infos/costs', 'infos/cost', 'info/costs', 'info/cost'),
    'terminals': ('terminals', 'terminal', 'terminations', 'termination', 'terminated'),
    'timeouts': ('timeouts', 'timeout', 'truncations', 'truncation', 'truncated'),
    DONES: ('dones', 'done'),
}
_REQUIRED = ('observations', 'actions', 'rewards', 'costs')
# More names than this are not listed in a message.
_MAX_LISTED = 16
# What every reader keeps of a transition besides its arrays: columns, ends, numbers of rows.
ROW_BYTES = 64
# What an array may hold by numpy's letter for it, and what another one stands for.
_NUMBERS, _FLAGS = 'iuf', 'biuf'
_KINDS = {
    'b': 'true or false',
    'c': 'complex numbers',
    'S': 'text',
    'U': 'text',
    'O': 'objects',
    'V': 'bytes without a type (void)',
    'M': 'times',
    'm': 'times',
}


class Arrays(dict[str, Any]):
    """Arrays under DSRL's names, each sliceable, with the number of transitions first.

    Attributes:
        names (Mapping[str, Sequence[str]]): The file's names for them.
        notes (tuple[str, ...]): What a user should know of how they were found, a line each.
    """

    names: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a file.

    Args:
        names (Mapping[str, str]): DSRL's names, or ``dones``, and the file's names for them.
        observation_keys (Sequence[str]): Where observations are a group of arrays, those that are
            put side by side, in this order.
        horizon (int, optional): The task's time limit in steps, to tell time limits from terminal
            states where one flag marks both and next observations are missing.
    """

    names: Mapping[str, str] | None = None
    observation_keys: Sequence[str] = ()
    horizon: int | None = None


@dataclass(frozen=True)
class Source:
    """Arrays of a whole file, or of one episode's group.

    Args:
        name (str): The group's, for messages; empty for a whole file.
        leaves (Mapping[str, Any]): The arrays by their names, those of inner groups with a slash.
    """

    name: str
    leaves: Mapping[str, Any]


class Runs:
    """An array put together of runs of rows of other arrays, read as it is sliced.

    Args:
        sources (Sequence[Sequence[Any]]): Of each source the arrays that are put side by side.
        source (np.ndarray): (R,) int64, the source of each run.
        first (np.ndarray): (R,) int64, its first row there, ascending within a source.
        count (np.ndarray): (R,) int64, its number of rows.
        as_rows (bool): Whether a row is a vector even where it is one number.
    """

    def __init__(  # pylint: disable=too-many-arguments
        self,
        sources: Sequence[Sequence[Any]],
        source: np.ndarray,
        first: np.ndarray,
        count: np.ndarray,
        as_rows: bool,
    ) -> None:
        """Initialize an instance of :class:`Runs`."""
        self._sources, self._source, self._first, self._as_rows = sources, source, first, as_rows
        self._ends = np.cumsum(count)
        self._begins = self._ends - count
        arrays = [array for arrays in sources for array in arrays]
        self.dtype = np.result_type(*{array.dtype for array in arrays})
        row = sources[0][0].shape[1:]
        if as_rows:
            row = (sum(math.prod(array.shape[1:]) for array in sources[0]),)
        self.shape: tuple[int, ...] = (int(self._ends[-1]) if len(count) else 0, *row)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows."""
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows."""
        first, last, _ = rows.indices(len(self))
        if last <= first:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        wanted = np.arange(first, last)
        run = np.searchsorted(self._ends, wanted, side='right')
        row = self._first[run] + wanted - self._begins[run]
        # One reading of each source, because a reading costs more than some rows too many.
        borders = np.flatnonzero(np.diff(self._source[run])) + 1
        return np.concatenate(
            [
                self._read(self._sources[self._source[run[part[0]]]], row[part])
                for part in np.split(np.arange(len(wanted)), borders)
            ],
            dtype=self.dtype,
        )

    def _read(self, arrays: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        """Read ascending rows of one source."""
        low, high = int(rows[0]), int(rows[-1]) + 1
        parts = [np.asarray(array[low:high])[rows - low] for array in arrays]
        if self._as_rows:
            parts = [part.reshape(len(rows), -1) for part in parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def find_sources(file: Any, options: ReadOptions) -> list[Source]:
    """Find the arrays of an open HDF5 file: its own, a group's, or those of each episode's group.

    Args:
        file (h5py.File): The file.
        options (ReadOptions): What the user says about it.

    Returns:
        One source of a whole dataset, or one with a name for each episode, by their numbers.

    Raises:
        UserError: If several groups hold a dataset each.
    """
    wanted = [(options.names or {}).get('actions', ''), *ALIASES['actions']]
    root_groups = _groups(file)
    containers = {'': (file, root_groups)}
    containers |= {f'{name}/': (group, None) for name, group in root_groups.items()}
    for prefix, (container, found) in containers.items():
        if _find(container, wanted):
            return [Source('', leaves(container))]
        groups = _groups(container) if found is None else found
        with_actions = [name for name, group in groups.items() if _find(group, wanted)]
        # Episodes have numbers; a group without one, such as train, is a whole dataset.
        whole = [name for name in with_actions if not re.search(r'\d', name)]
        if len(whole) > 1:
            raise UserError(
                f'{file.filename}: the groups {_listed(prefix + name for name in whole)} hold '
                'actions each: if they are datasets, write the one to use into a file of its own; '
                'if they are episodes, number them (episode_0, ...)',
            )
        if whole:
            return [Source('', leaves(groups[whole[0]]))]
        example = next(iter(with_actions), None)
        if example is not None:
            stem = example.rstrip('0123456789')
            # Those without actions too, if they look like the others: that is an error to report.
            names = [
                name
                for name, group in groups.items()
                if name.rstrip('0123456789') == stem or _find(group, wanted)
            ]
            names.sort(key=_with_numbers)
            return [Source(prefix + name, leaves(groups[name])) for name in names]
    return [Source('', leaves(file))]


def _with_numbers(name: str) -> list[Any]:
    """Return a key to sort names by, numbers in them by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', name)]


def _groups(group: Any) -> dict[str, Any]:
    import h5py

    return {name: item for name, item in members(group).items() if isinstance(item, h5py.Group)}


def _find(names: Any, wanted: Sequence[str]) -> str | None:
    """Return the first of the wanted names that is there, as it is written there."""
    present = {name.lower(): name for name in names}
    return next((present[name.lower()] for name in wanted if name.lower() in present), None)


def arrange(path: Path, sources: Sequence[Source], options: ReadOptions) -> Arrays:
    """Give a file's arrays under DSRL's names.

    Args:
        path (Path): The file, for messages.
        sources (Sequence[Source]): See :func:`find_sources`.
        options (ReadOptions): What the user says about the file.

    Returns:
        The arrays; without ``timeouts`` where one flag marks both kinds of end.

    Raises:
        UserError: If an array is missing or the arrays of a group do not fit together.
    """
    chosen = _choose(path, sources[0], options)
    _check_arrays(path, sources, chosen)
    if sources[0].name:
        return _Episodes(path, sources, chosen, options).arrays()
    found = {name: sources[0].leaves[names[0]] for name, names in chosen.items()}
    is_plain = all(
        len(names) == 1 and (name in (*COLUMNS, DONES) or found[name].ndim > 1)
        for name, names in chosen.items()
    )
    # Only what is written as it stands is read as it stands; an npz of ours has done for terminals.
    is_ours = set(NPZ_NAMES.values()) <= set(sources[0].leaves) and chosen.get('timeouts') == [
        'timeouts'
    ]
    flags = {*chosen} & {'terminals', 'timeouts', DONES}
    if is_plain and 'next_observations' in found:
        if DONES in found and (is_ours or flags == {DONES}):
            found['terminals'] = found.pop(DONES)
            flags = {'terminals'}
        if DONES not in flags:
            arrays = Arrays(found)
            arrays.names, arrays.notes = chosen, _naming(chosen, sources[0].leaves)
            return arrays
    return _Episodes(path, sources, chosen, options).arrays()


def _check_arrays(
    path: Path,
    sources: Sequence[Source],
    chosen: Mapping[str, list[str]],
) -> None:
    """Refuse arrays that cannot be read as numbers, before any of them is read.

    Raises:
        UserError: If one is missing, is no array of the file, does not hold numbers, or has no
            rows, and if all of them together have more rows than the memory takes.
    """
    total = 0
    for source in sources:
        rows = [0]
        for name, names in chosen.items():
            for leaf in names:
                if leaf not in source.leaves:
                    raise UserError(
                        f'{path}: array {printable(leaf)!r} is missing{_place(source)} '
                        f'(found: {_listed(source.leaves)}); the first group, '
                        f'{printable(sources[0].name)}, has it',
                    )
                rows.append(_check_array(path, source, name, leaf))
        total += max(rows)
    check_memory(str(path), total * ROW_BYTES)


def _check_array(path: Path, source: Source, name: str, leaf: str) -> int:
    """Refuse one array that cannot be read as numbers; return how many rows it declares."""
    array, where = source.leaves[leaf], f'{printable(leaf)}{_place(source)}'
    if isinstance(array, Broken):
        raise UserError(f'{path}: {where} {array.reason}; get it again')
    if hasattr(array, 'id'):  # of HDF5
        check_storage(str(path), where, array)
    is_column = name in (*COLUMNS, DONES)
    needed = 'one number' if is_column else 'one row of numbers'
    needed = f'needed is {needed} for each transition'
    if array.shape is None:
        raise UserError(f'{path}: {where} is empty (a null dataspace); {needed}')
    problem = _type_problem(array, _FLAGS if is_column and name != 'rewards' else _NUMBERS)
    if problem:
        raise UserError(
            f'{path}: {where} holds {problem}; {needed}; store it as float32, or get it again'
        )
    if not array.shape:
        raise UserError(f'{path}: {where} is a single value; {needed}')
    if (is_column and array.shape[1:] not in ((), (1,))) or 0 in array.shape[1:]:
        raise UserError(f'{path}: {where} has shape {tuple(array.shape)}; {needed}')
    return array.shape[0]


def _type_problem(array: Any, allowed: str) -> str:
    """Say what an array holds where it does not hold numbers, nothing where it does."""
    try:
        dtype = array.dtype
    except (TypeError, ValueError, KeyError):  # h5py's, for what numpy has no type for
        return 'what numpy has no type for'
    if dtype.kind in allowed:
        return ''
    inside = dtype.metadata or {}  # h5py's
    if 'ref' in inside:
        return 'references'
    if 'vlen' in inside:
        return 'text' if inside['vlen'] in (str, bytes) else 'rows of different lengths (vlen)'
    if dtype.names is not None:
        return f'records of {_listed(dtype.names)} (compound)'
    if dtype.subdtype is not None:
        return 'arrays (an array type)'
    return _KINDS.get(dtype.kind, f'values of type {dtype}')


def _choose(path: Path, source: Source, options: ReadOptions) -> dict[str, list[str]]:
    """Find the names of the arrays that are read, several for observations in parts."""
    chosen: dict[str, list[str]] = {}
    given = dict(options.names or {})
    for name in given:
        if name not in ALIASES:
            raise UserError(f'--map {name}={given[name]}: map one of {", ".join(ALIASES)}')
    for name, aliases in ALIASES.items():
        wanted = [given[name]] if name in given else aliases
        others = {given[other] for other in given if other != name}
        leaf = _find(source.leaves.keys() - others, wanted)
        if leaf is not None:
            chosen[name] = [leaf]
        elif name in ('observations', 'next_observations'):
            parts = _choose_parts(path, source, wanted, options.observation_keys)
            chosen |= {name: parts} if parts else {}
        if name in given and name not in chosen:
            raise UserError(
                f'--map {name}={printable(given[name])}: {path} has no such array '
                f'(found{_place(source)}: {_listed(source.leaves)})',
            )
    if {'terminals', 'timeouts'} <= chosen.keys():
        chosen.pop(DONES, None)  # it can tell nothing more
    _check_complete(path, source, chosen)
    if options.observation_keys and '/' not in chosen['observations'][0]:
        raise UserError(
            f'--observation-keys: the observations of {path} are one array, '
            f'{chosen["observations"][0]!r}; leave the option out',
        )
    return chosen


def _check_complete(path: Path, source: Source, chosen: Mapping[str, list[str]]) -> None:
    """Refuse a file that lacks an array, with what it has."""
    needed = [*_REQUIRED, *([] if DONES in chosen else ['terminals'])]
    missing = next((name for name in needed if name not in chosen), None)
    if missing is not None:
        advice = ''
        if missing == 'costs':
            advice = '; if it is not, record it (with Minari: DataCollector(record_infos=True))'
        raise UserError(
            f'{path}: array {missing!r} is missing (found{_place(source)}: '
            f'{_listed(source.leaves)}); if it is there by another name, convert the file: '
            f'{_convert(path)} --map {missing}=NAME{advice}',
        )


def _choose_parts(
    path: Path,
    source: Source,
    wanted: Sequence[str],
    keys: Sequence[str],
) -> list[str]:
    """Find the arrays of a group of observations; empty if there is no such group."""
    group = _find(
        {name[: slash.start()] for name in source.leaves for slash in re.finditer('/', name)},
        wanted,
    )
    if group is None:
        return []
    inside = {
        name.removeprefix(f'{group}/'): array
        for name, array in source.leaves.items()
        if name.startswith(f'{group}/')
    }
    if not keys and len(inside) > 1:
        flat = ','.join(sorted(name for name, array in inside.items() if array.ndim <= 2))
        advice = 'none of them has one row of numbers for each transition'
        if flat:
            advice = (
                'name those to put side by side, in the order of the environment: '
                f'{_convert(path)} --observation-keys {flat}'
            )
        raise UserError(
            f'{path}: {printable(group)}{_place(source)} is a group of arrays '
            f'({_listed(inside)}); {advice}',
        )
    for key in keys or inside:
        if key not in inside:
            raise UserError(
                f'--observation-keys {key}: {path} has no such array in '
                f'{printable(group)}{_place(source)} '
                f'(found: {_listed(inside)})',
            )
        if inside[key].ndim > 2:
            raise UserError(
                f'{path}: {printable(f"{group}/{key}")}{_place(source)} has shape '
                f'{tuple(inside[key].shape)}; needed is one row of numbers for each transition',
            )
    return [f'{group}/{key}' for key in keys or inside]


def _convert(path: Path) -> str:
    return shell_command(['omnisafe-qpt', 'data', 'convert', str(path), 'OUT.hdf5'])


def _place(source: Source) -> str:
    return f' in group {printable(source.name)}' if source.name else ''


def _listed(names: Any) -> str:
    names = [printable(name) for name in sorted(names)]
    more = f' and {len(names) - _MAX_LISTED} more' if len(names) > _MAX_LISTED else ''
    return ', '.join(names[:_MAX_LISTED]) + more if names else 'nothing'


def _naming(chosen: Mapping[str, Sequence[str]], leaves: Any) -> tuple[str, ...]:
    """Say which arrays are read, unless the file has the names of DSRL or of OmniSafe."""
    if all([name] == names for name, names in chosen.items()):
        return ()
    if set(NPZ_NAMES.values()) <= set(leaves):
        return ()
    pairs = ', '.join(
        f'{name} from {printable(" + ".join(names))}'
        for name, names in chosen.items()
        if [name] != names
    )
    return (f'names of the file: {pairs}',)


def _rows(array: Any) -> int:
    return array.shape[0] if array.shape else 0


def _num_bytes(array: Any) -> int:
    """Return what an array takes in memory if it is read whole, nothing where it is not."""
    is_read = not hasattr(array, 'chunks')  # of an npz
    return math.prod(array.shape) * array.dtype.itemsize if is_read else 0


class _Episodes:
    """Puts together what is not a plain table of DSRL's or OmniSafe's.

    Args:
        path (Path): The file, for messages.
        sources (Sequence[Source]): A whole dataset, or one source for each episode.
        chosen (Mapping[str, list[str]]): The names of the arrays.
        options (ReadOptions): What the user says about the file.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[Source],
        chosen: Mapping[str, list[str]],
        options: ReadOptions,
    ) -> None:
        """Initialize an instance of :class:`_Episodes`."""
        self._path, self._chosen, self._horizon = path, chosen, options.horizon
        self._is_grouped = bool(sources[0].name)
        # An episode that was begun and not recorded has nothing to learn from.
        self._sources = [each for each in sources if _rows(each.leaves[chosen['actions'][0]])]
        if not self._sources:
            raise UserError(f'{path}: the dataset has no transitions')
        self._lengths = np.array([_rows(s.leaves[chosen['actions'][0]]) for s in self._sources])
        self._check_lengths()
        self._has_final_state = self._is_grouped and all(
            _rows(source.leaves[chosen['observations'][0]]) == length + 1
            for source, length in zip(self._sources, self._lengths)
        )
        self._derives = 'next_observations' not in chosen and not self._has_final_state
        if self._derives and not self._is_grouped:
            # Rows are read twice, for which an npz would begin anew each time.
            used = [sources[0].leaves[name] for names in chosen.values() for name in names]
            check_memory(str(path), sum(map(_num_bytes, used)))
            kept = {
                name: array if hasattr(array, 'chunks') else np.asarray(array[:])
                for name, array in (
                    (name, sources[0].leaves[name]) for names in chosen.values() for name in names
                )
            }
            self._sources = [Source('', kept)]
        self._leaves = self._sources[0].leaves

    def _check_lengths(self) -> None:
        for source, length in zip(self._sources, self._lengths):
            for name in (name for names in self._chosen.values() for name in names):
                array, example = source.leaves[name], self._sources[0].leaves[name]
                can_be_longer = self._is_grouped and (
                    name in self._chosen['observations'] or '/' in name
                )
                if _rows(array) not in (length, length + can_be_longer):
                    raise UserError(
                        f'{self._path}: {printable(name)}{_place(source)} has shape '
                        f'{tuple(array.shape)}; '
                        f'needed for {length} actions is {(int(length), *array.shape[1:])}',
                    )
                if array.shape[1:] != example.shape[1:]:
                    raise UserError(
                        f'{self._path}: {printable(name)}{_place(source)} has rows of shape '
                        f'{tuple(array.shape[1:])}, in the first group {tuple(example.shape[1:])}',
                    )

    def arrays(self) -> Arrays:
        """Return the arrays under DSRL's names."""
        offsets = np.cumsum(self._lengths) - self._lengths
        total = int(self._lengths.sum())
        terminals, timeouts, is_mixed = self._ends()
        source = np.arange(len(self._sources))
        kept = reached = (source, np.zeros_like(offsets), self._lengths)
        notes = list(_naming(self._chosen, self._leaves))
        if self._is_grouped:
            groups = ' to '.join(printable(self._sources[end].name) for end in (0, -1))
            notes.append(f'one group for each of {len(self._sources)} episodes, {groups}')
        if self._derives:
            if is_mixed:
                terminals, timeouts = self._told_apart(terminals)
                if self._horizon is None:
                    notes.append('one flag marks every end: all are taken for terminal states')
            is_last = np.zeros(total, dtype=bool)
            is_last[offsets + self._lengths - 1] = True
            ends = np.flatnonzero(terminals | timeouts | is_last)
            starts = np.concatenate([[0], ends[:-1] + 1])
            source = np.searchsorted(offsets, starts, side='right') - 1
            first, lengths = starts - offsets[source], ends + 1 - starts
            is_terminal = terminals[ends]
            kept = (source, first, lengths - ~is_terminal)
            # The next observation of a terminal state's transition has no effect: it is repeated.
            reached = tuple(
                np.stack([inner, last], axis=1).reshape(-1)
                for inner, last in (
                    (source, source),
                    (first + 1, first + lengths - 1),
                    (lengths - 1, is_terminal.astype(np.int64)),
                )
            )
            is_kept = np.ones(total, dtype=bool)
            is_kept[ends[~is_terminal]] = False
            timeouts = timeouts & is_kept
            shortened = ends[~is_terminal & (lengths > 1)]
            timeouts[shortened - 1] = True
            terminals, timeouts, is_mixed = terminals[is_kept], timeouts[is_kept], False
            notes.append(
                'next_observations are missing: they are the following observations, and the last '
                f'transition of {int((~is_terminal).sum())} episodes, which no terminal state '
                'ends, has none and is left out',
            )
        arrays = Arrays(
            {
                'observations': self._runs('observations', kept),
                'next_observations': self._next(kept, reached),
                'actions': self._runs('actions', kept),
                'rewards': self._runs('rewards', kept),
                'costs': self._runs('costs', kept),
                'terminals': terminals,
            },
        )
        if not is_mixed:
            arrays['timeouts'] = timeouts
        arrays.names, arrays.notes = self._chosen, tuple(notes)
        return arrays

    def _next(self, kept: Any, reached: Any) -> Runs:
        if self._derives:
            return self._runs('observations', reached)
        if 'next_observations' in self._chosen:
            return self._runs('next_observations', kept)
        source, first, count = kept
        return self._runs('observations', (source, first + 1, count))

    def _runs(self, name: str, runs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Runs:
        source, first, count = runs
        leaves = self._chosen[name]
        arrays = [[each.leaves[leaf] for leaf in leaves] for each in self._sources]
        if name not in ('observations', 'next_observations'):
            # What a reset tells comes before the first transition.
            surplus = np.array([_rows(parts[0]) for parts in arrays]) - self._lengths
            first = first + surplus[source]
        is_row = name not in COLUMNS
        for part in arrays[0]:
            if is_row and part.ndim > 2:
                raise UserError(
                    f'{self._path}: {printable(leaves[0])}{_place(self._sources[0])} has shape '
                    f'{tuple(part.shape)}; needed is one row of numbers for each transition',
                )
        return Runs(arrays, source, first, count, as_rows=is_row)

    def _flags(self, name: str) -> np.ndarray | None:
        """Read an array of flags, (N,) bool; None if the file has none of the kind."""
        if name not in self._chosen:
            return None
        leaf = self._chosen[name][0]
        parts = []
        for source, length in zip(self._sources, self._lengths):
            values = np.asarray(source.leaves[leaf][:])
            parts.append(values[len(values) - length :].reshape(length, -1)[:, 0])
        flags = np.concatenate(parts)
        if not np.isfinite(flags).all():
            raise UserError(f'{self._path}: {leaf} holds NaN or infinity; needed is 0 or 1')
        return flags > 0

    def _ends(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Tell where episodes end.

        Returns:
            Terminals and timeouts, (N,) bool each, and whether the former stand for both kinds.
        """
        terminals, timeouts, dones = map(self._flags, ('terminals', 'timeouts', DONES))
        total = int(self._lengths.sum())
        is_last = np.zeros(total, dtype=bool)
        if self._is_grouped:
            is_last[np.cumsum(self._lengths) - 1] = True
            if dones is not None:
                # robomimic's also tell success, after which a demonstration may go on.
                dones = dones & is_last
        none = np.zeros(total, dtype=bool)
        if terminals is None and timeouts is None:
            if self._is_grouped and not dones[is_last].all():  # then they mark terminal states
                return dones, is_last & ~dones, False
            return dones, none, True
        if terminals is None:
            terminals = dones & ~timeouts
        elif timeouts is None and dones is None and not self._is_grouped:
            if 'next_observations' not in self._chosen:
                raise UserError(
                    f'{self._path}: has neither next_observations nor timeouts, so that an end at '
                    'a time limit cannot be found; add one of them, or, if '
                    f'{self._chosen["terminals"][0]!r} marks every end, convert the file: '
                    f'{_convert(self._path)} --map dones={self._chosen["terminals"][0]}',
                )
            return terminals, none, True
        elif timeouts is None:
            timeouts = none if dones is None else dones & ~terminals
        return terminals, timeouts | (is_last & ~terminals), False

    def _told_apart(self, dones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell terminal states from time limits by the horizon, where it is known."""
        ends = np.flatnonzero(dones)
        timeouts = np.zeros_like(dones)
        if self._horizon is not None:
            lengths = np.diff(ends, prepend=-1)
            timeouts[ends[lengths >= self._horizon]] = True
        return dones & ~timeouts, timeouts
