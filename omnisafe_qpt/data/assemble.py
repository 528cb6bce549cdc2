# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A file's arrays under DSRL's names, for any supported layout.

Episodes in groups are concatenated, and missing next observations are the following observations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.arrays import as_flags, episode_bounds
from omnisafe_qpt.data.layouts import (
    COLUMNS,
    DONES,
    NPZ_NAMES,
    Arrays,
    ReadOptions,
    Source,
    check_arrays,
    choose,
    convert_command,
    place,
    weigh_costs,
)
from omnisafe_qpt.data.memory import check_memory
from omnisafe_qpt.data.npz import NpzArray
from omnisafe_qpt.errors import UserError, printable


def arrange(path: Path, sources: Sequence[Source], options: ReadOptions) -> Arrays:
    """Return a file's arrays under DSRL's names.

    Args:
        path (Path): The file, for messages.
        sources (Sequence[Source]): See :func:`find_sources`.
        options (ReadOptions): The user's options for the file.

    Returns:
        The arrays; without ``timeouts`` if one flag marks both kinds of end.

    Raises:
        UserError: If an array is missing or the arrays of a group do not fit together.
    """
    chosen = choose(path, sources[0], options)
    if options.cost_weights:
        (costs,) = chosen['costs']
        sources = [weigh_costs(path, source, costs, options.cost_weights) for source in sources]
    check_arrays(path, sources, chosen)
    if sources[0].name:
        return _Episodes(path, sources, chosen, options).arrays()
    found = {name: sources[0].leaves[names[0]] for name, names in chosen.items()}
    is_plain = all(
        len(names) == 1 and (name in (*COLUMNS, DONES) or found[name].ndim > 1)
        for name, names in chosen.items()
    )
    # Plain arrays are read directly; in our npz, done stands for terminals.
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


def _naming(chosen: Mapping[str, Sequence[str]], leaves: Any) -> tuple[str, ...]:
    """Return a note on which arrays are read, unless the names are DSRL's or OmniSafe's."""
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


class Runs:
    """An array composed of runs of rows from other arrays, read when it is sliced.

    Args:
        sources (Sequence[Sequence[Any]]): For each source the arrays to concatenate along columns.
        source (np.ndarray): (R,) int64, the source of each run.
        first (np.ndarray): (R,) int64, its first row there, ascending within a source.
        count (np.ndarray): (R,) int64, its number of rows.
        as_rows (bool): Whether a row is a vector even if it is one number.
    """

    def __init__(
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
        # One read per source, because a read costs more than some extra rows.
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


def _rows(array: Any) -> int:
    return array.shape[0] if array.shape else 0


class _Episodes:
    """Assembles a dataset that is not a plain table of DSRL's or OmniSafe's layout.

    Args:
        path (Path): The file, for messages.
        sources (Sequence[Source]): A whole dataset, or one source for each episode.
        chosen (Mapping[str, list[str]]): The names of the arrays.
        options (ReadOptions): The user's options for the file.
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
        # An episode without transitions has no data.
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
            # Rows are read twice; an npz would start again each time.
            leaves = {n: sources[0].leaves[n] for names in chosen.values() for n in names}
            archived = [name for name, array in leaves.items() if isinstance(array, NpzArray)]
            check_memory(str(path), sum(leaves[name].num_bytes for name in archived))
            leaves |= {name: leaves[name][:] for name in archived}
            self._sources = [Source('', leaves)]

    def _check_lengths(self) -> None:
        for source, length in zip(self._sources, self._lengths):
            for name in (name for names in self._chosen.values() for name in names):
                array, example = source.leaves[name], self._sources[0].leaves[name]
                can_be_longer = self._is_grouped and (
                    name in self._chosen['observations'] or '/' in name
                )
                if _rows(array) not in (length, length + can_be_longer):
                    raise UserError(
                        f'{self._path}: {printable(name)}{place(source)} has shape '
                        f'{tuple(array.shape)}; '
                        f'for {length} actions it must be {(int(length), *array.shape[1:])}',
                    )
                if array.shape[1:] != example.shape[1:]:
                    raise UserError(
                        f'{self._path}: {printable(name)}{place(source)} has rows of shape '
                        f'{tuple(array.shape[1:])}, in the first group {tuple(example.shape[1:])}',
                    )

    def arrays(self) -> Arrays:
        """Return the arrays under DSRL's names."""
        terminals, timeouts, is_mixed = self._ends()
        kept = (np.arange(len(self._sources)), np.zeros_like(self._lengths), self._lengths)
        reached = kept
        notes = list(_naming(self._chosen, self._sources[0].leaves))
        if self._is_grouped:
            groups = ' to '.join(printable(self._sources[end].name) for end in (0, -1))
            notes.append(f'one group for each of {len(self._sources)} episodes, {groups}')
        if self._derives:
            if is_mixed and self._horizon is not None:
                terminals, timeouts = self._told_apart(terminals, self._horizon)
            elif is_mixed:
                notes.append('one flag marks every end: all are treated as terminal states')
            before = len(terminals)
            kept, reached, terminals, timeouts = self._following(terminals, timeouts)
            is_mixed = False
            notes.append(
                'next_observations are missing: they are the following observations, and the last '
                f'transition of {before - len(terminals)} episodes, which no terminal state ends, '
                'has none and is left out',
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

    def _following(self, terminals: np.ndarray, timeouts: np.ndarray) -> tuple[Any, ...]:
        """Use the following observations as next observations.

        An episode without a terminal state loses its last transition.

        Returns:
            The runs of transitions that are kept, those of their next observations, and the flags
            of the former, (N,) bool each.
        """
        offsets = np.cumsum(self._lengths) - self._lengths
        is_end = terminals | timeouts
        is_end[offsets[1:] - 1] = True
        starts, ends = episode_bounds(is_end)
        source = np.searchsorted(offsets, starts, side='right') - 1
        first, lengths = starts - offsets[source], ends + 1 - starts
        is_terminal = terminals[ends]
        # The next observation of a terminal state's transition has no effect: it is repeated.
        reached = tuple(
            np.stack([inner, last], axis=1).reshape(-1)
            for inner, last in (
                (source, source),
                (first + 1, first + lengths - 1),
                (lengths - 1, is_terminal.astype(np.int64)),
            )
        )
        is_kept = np.ones(len(terminals), dtype=bool)
        is_kept[ends[~is_terminal]] = False
        timeouts = timeouts & is_kept
        timeouts[ends[~is_terminal & (lengths > 1)] - 1] = True
        kept = (source, first, lengths - ~is_terminal)
        return kept, reached, terminals[is_kept], timeouts[is_kept]

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
            # The entry of the reset comes before the first transition.
            surplus = np.array([_rows(parts[0]) for parts in arrays]) - self._lengths
            first = first + surplus[source]
        return Runs(arrays, source, first, count, as_rows=name not in COLUMNS)

    def _flags(self, name: str) -> np.ndarray | None:
        """Read an array of flags, (N,) bool; None if the file has none of the kind."""
        if name not in self._chosen:
            return None
        leaf = self._chosen[name][0]
        parts = [
            np.asarray(source.leaves[leaf][:])[-length:].reshape(-1)
            for source, length in zip(self._sources, self._lengths)
        ]
        return as_flags(np.concatenate(parts), leaf, str(self._path))

    def _ends(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return where episodes end.

        Returns:
            Terminals and timeouts, (N,) bool each, and whether the former stand for both kinds.
        """
        terminals, timeouts, dones = map(self._flags, ('terminals', 'timeouts', DONES))
        none = np.zeros(int(self._lengths.sum()), dtype=bool)
        is_last = none.copy()
        if self._is_grouped:
            is_last[np.cumsum(self._lengths) - 1] = True
        elif timeouts is None and dones is None:
            if 'next_observations' not in self._chosen:
                leaf = self._chosen['terminals'][0]
                raise UserError(
                    f'{self._path}: has neither next_observations nor timeouts, so that an end at '
                    f'a time limit cannot be found; add one of them, or, if {leaf!r} marks every '
                    f'end, convert the file: {convert_command(self._path)} --map dones={leaf}',
                )
            return none if terminals is None else terminals, none, True
        if dones is not None:
            # robomimic's also mark success, after which a demonstration may continue.
            dones = dones & is_last if self._is_grouped else dones
            if timeouts is not None:
                terminals = dones & ~timeouts
            elif terminals is not None:
                timeouts = dones & ~terminals
            elif self._is_grouped and not dones[is_last].all():  # they mark terminal states
                return dones, is_last & ~dones, False
            else:
                return dones, none, True
        terminals = none if terminals is None else terminals
        timeouts = none if timeouts is None else timeouts
        return terminals, timeouts | (is_last & ~terminals), False

    @staticmethod
    def _told_apart(dones: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinguish terminal states from time limits by the horizon."""
        starts, ends = episode_bounds(dones)
        timeouts = np.zeros_like(dones)
        timeouts[ends[ends + 1 - starts >= horizon]] = True
        timeouts &= dones
        return dones & ~timeouts, timeouts
