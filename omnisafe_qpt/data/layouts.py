# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of dataset files: array names of several projects, episodes in groups.

The package uses DSRL's names. Other projects use other names, and Minari and robomimic write one
group per episode. :mod:`omnisafe_qpt.data.assemble` returns the arrays under DSRL's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.hdf5 import Broken, check_storage, leaves, members
from omnisafe_qpt.data.memory import check_memory
from omnisafe_qpt.errors import UserError, printable, shell_command


# The arrays of a dataset by DSRL's name, with the name in OmniSafe's npz.
NPZ_NAMES = {
    'observations': 'obs',
    'next_observations': 'next_obs',
    'actions': 'action',
    'rewards': 'reward',
    'costs': 'cost',
    'terminals': 'done',
}
HDF5_NAMES = (*NPZ_NAMES, 'timeouts')
# The arrays of one number for each transition.
COLUMNS = ('rewards', 'costs', 'terminals', 'timeouts')
# One flag for both kinds of end, terminal states and time limits.
DONES = 'dones'
# Accepted names, in order of preference; case is ignored.
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
# Bytes per transition that every reader keeps besides the arrays: columns, ends, row indices.
ROW_BYTES = 64
# numpy's codes of accepted types, and names of the others.
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
        notes (tuple[str, ...]): Notes on how the arrays were found, a line each.
    """

    names: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """The user's options for reading a file.

    Args:
        names (Mapping[str, str]): DSRL's names, or ``dones``, and the file's names for them.
        observation_keys (Sequence[str]): If observations are a group of arrays, those to
            concatenate, in this order.
        horizon (int, optional): The task's time limit in steps, to tell time limits from terminal
            states where one flag marks both and next observations are missing.
        cost_weights (Sequence[float]): If there are several costs, (N, k), the weight of each; the
            cost is their weighted sum.
    """

    names: Mapping[str, str] | None = None
    observation_keys: Sequence[str] = ()
    horizon: int | None = None
    cost_weights: Sequence[float] = ()


@dataclass(frozen=True)
class Source:
    """Arrays of a whole file, or of one episode's group.

    Args:
        name (str): Name of the group, for messages; empty for a whole file.
        leaves (Mapping[str, Any]): The arrays by their names, those of inner groups with a slash.
    """

    name: str
    leaves: Mapping[str, Any]


def find_sources(file: Any, options: ReadOptions) -> list[Source]:
    """Find the arrays of an open HDF5 file: its own, a group's, or those of each episode's group.

    Args:
        file (h5py.File): The file.
        options (ReadOptions): The user's options for it.

    Returns:
        One source of a whole dataset, or one named source per episode, in order.

    Raises:
        UserError: If several groups hold a dataset each.
    """
    wanted = [(options.names or {}).get('actions', ''), *ALIASES['actions']]
    root_groups = _groups(file)
    containers: dict[str, tuple[Any, dict[str, Any] | None]] = {'': (file, root_groups)}
    containers |= {f'{name}/': (group, None) for name, group in root_groups.items()}
    for prefix, (container, found) in containers.items():
        if _find(container, wanted):
            return [Source('', leaves(container))]
        groups = _groups(container) if found is None else found
        with_actions = [name for name, group in groups.items() if _find(group, wanted)]
        # Groups of episodes have numbers; a group without one, such as train, is a dataset.
        whole = [name for name in with_actions if not re.search(r'\d', name)]
        if len(whole) > 1:
            raise UserError(
                f'{file.filename}: the groups {_listed(prefix + name for name in whole)} hold '
                'actions each: if they are datasets, write the one to use to a separate file; '
                'if they are episodes, number them (episode_0, ...)',
            )
        if whole:
            return [Source('', leaves(groups[whole[0]]))]
        example = next(iter(with_actions), None)
        if example is not None:
            stem = example.rstrip('0123456789')
            # Also those without actions, if they look like the others: that is an error to report.
            names = [
                name
                for name, group in groups.items()
                if name.rstrip('0123456789') == stem or _find(group, wanted)
            ]
            names.sort(key=_natural_key)
            return [Source(prefix + name, leaves(groups[name])) for name in names]
    return [Source('', leaves(file))]


def _natural_key(name: str) -> list[Any]:
    """Return a key that sorts the numbers in names by value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', name)]


def _groups(group: Any) -> dict[str, Any]:
    import h5py

    return {name: item for name, item in members(group).items() if isinstance(item, h5py.Group)}


def _find(names: Any, wanted: Sequence[str]) -> str | None:
    """Return the first wanted name that exists, in its original spelling."""
    present = {name.lower(): name for name in names}
    return next((present[name.lower()] for name in wanted if name.lower() in present), None)


def check_arrays(
    path: Path,
    sources: Sequence[Source],
    chosen: Mapping[str, list[str]],
) -> None:
    """Check that arrays can be read as numbers, before any is read.

    Raises:
        UserError: If one is missing, is not an array of the file, does not hold numbers, or has no
            rows, or all together need more memory than is free.
    """
    total = 0
    for source in sources:
        rows = [0]
        for name, names in chosen.items():
            for leaf in names:
                if leaf not in source.leaves:
                    raise UserError(
                        f'{path}: array {printable(leaf)!r} is missing{place(source)} '
                        f'(found: {_listed(source.leaves)}); the first group, '
                        f'{printable(sources[0].name)}, has it',
                    )
                rows.append(_check_array(path, source, name, leaf))
        total += max(rows)
    check_memory(str(path), total * ROW_BYTES)


def _check_array(path: Path, source: Source, name: str, leaf: str) -> int:
    """Check that an array can be read as numbers; returns its declared number of rows."""
    array, where = source.leaves[leaf], f'{printable(leaf)}{place(source)}'
    if isinstance(array, Broken):
        raise UserError(f'{path}: {where} {array.reason}; get it again')
    if hasattr(array, 'id'):  # of HDF5
        check_storage(str(path), where, array)
    is_column = name in (*COLUMNS, DONES)
    needed = 'one number' if is_column else 'one row of numbers'
    needed = f'it must be {needed} for each transition'
    if array.shape is None:
        raise UserError(f'{path}: {where} is empty (a null dataspace); {needed}')
    problem = _type_problem(array, _FLAGS if is_column and name != 'rewards' else _NUMBERS)
    if problem:
        raise UserError(
            f'{path}: {where} holds {problem}; {needed}; store it as float32, or get it again'
        )
    if not array.shape:
        raise UserError(f'{path}: {where} is a single value; {needed}')
    is_wrong = array.shape[1:] not in ((), (1,)) if is_column else len(array.shape) > 2
    if name == 'costs' and len(array.shape) == 2 and array.shape[1] > 1:
        weights = ','.join('1' * array.shape[1])
        needed += f'; add several up: {convert_command(path)} --cost-weights {weights}'
    if is_wrong or 0 in array.shape[1:]:
        raise UserError(f'{path}: {where} has shape {tuple(array.shape)}; {needed}')
    return array.shape[0]


def _type_problem(array: Any, allowed: str) -> str:
    """Return the name of an array's type if it does not hold numbers, else an empty text."""
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


def weigh_costs(path: Path, source: Source, leaf: str, weights: Sequence[float]) -> Source:
    """Replace several costs by their weighted sum.

    Args:
        path (Path): The file, for messages.
        source (Source): A whole dataset or an episode.
        leaf (str): The name of the costs, (N, k).
        weights (Sequence[float]): (k,).

    Raises:
        UserError: If there are not as many costs as weights.
    """
    array = source.leaves.get(leaf)
    if array is None or isinstance(array, Broken) or _type_problem(array, _FLAGS):
        return source  # which is refused later
    where = f'{printable(leaf)}{place(source)}'
    if array.shape is None or tuple(array.shape[1:]) != (len(weights),):
        raise UserError(
            f'{path}: {where} has shape {array.shape}, and --cost-weights has {len(weights)} '
            'numbers; give one for each column'
        )
    if hasattr(array, 'id'):  # of HDF5
        check_storage(str(path), where, array)
    check_memory(str(path), array.shape[0] * (len(weights) + 1) * 8)
    total = np.asarray(array[:], dtype=np.float64) @ np.asarray(weights, dtype=np.float64)
    return Source(source.name, {**source.leaves, leaf: total.astype(np.float32)})


def choose(path: Path, source: Source, options: ReadOptions) -> dict[str, list[str]]:
    """Find the names of the arrays to read, several for observations in parts.

    Args:
        path (Path): The file, for messages.
        source (Source): A whole dataset or the first episode.
        options (ReadOptions): What the user says about the file.

    Raises:
        UserError: If an array is missing, or the user's options do not fit.
    """
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
                f'(found{place(source)}: {_listed(source.leaves)})',
            )
    if {'terminals', 'timeouts'} <= chosen.keys():
        chosen.pop(DONES, None)  # it gives no more information
    _check_complete(path, source, chosen)
    if options.observation_keys and '/' not in chosen['observations'][0]:
        raise UserError(
            f'--observation-keys: the observations of {path} are one array, '
            f'{chosen["observations"][0]!r}; leave the option out',
        )
    return chosen


def _check_complete(path: Path, source: Source, chosen: Mapping[str, list[str]]) -> None:
    """Raise the error for a missing array, with the arrays of the file."""
    needed = [*_REQUIRED, *([] if DONES in chosen else ['terminals'])]
    missing = next((name for name in needed if name not in chosen), None)
    if missing is not None:
        advice = ''
        if missing == 'costs':
            advice = '; if it is not, record it (with Minari: DataCollector(record_infos=True))'
        raise UserError(
            f'{path}: array {missing!r} is missing (found{place(source)}: '
            f'{_listed(source.leaves)}); if it is there by another name, convert the file: '
            f'{convert_command(path)} --map {missing}=NAME{advice}',
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
                'name those to concatenate, in the order of the environment: '
                f'{convert_command(path)} --observation-keys {flat}'
            )
        raise UserError(
            f'{path}: {printable(group)}{place(source)} is a group of arrays '
            f'({_listed(inside)}); {advice}',
        )
    for key in keys or inside:
        if key not in inside:
            raise UserError(
                f'--observation-keys {key}: {path} has no such array in '
                f'{printable(group)}{place(source)} '
                f'(found: {_listed(inside)})',
            )
    return [f'{group}/{key}' for key in keys or inside]


def convert_command(path: Path) -> str:
    """Return the command to convert a file, without its options."""
    return shell_command(['omnisafe-qpt', 'data', 'convert', str(path), 'OUT.hdf5'])


def place(source: Source) -> str:
    """Return the group of an array as text, for messages; empty for a whole file."""
    return f' in group {printable(source.name)}' if source.name else ''


def _listed(names: Any) -> str:
    names = [printable(name) for name in sorted(names)]
    more = f' and {len(names) - _MAX_LISTED} more' if len(names) > _MAX_LISTED else ''
    return ', '.join(names[:_MAX_LISTED]) + more if names else 'nothing'
