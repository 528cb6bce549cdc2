# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a dataset's arrays, and reading them in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from omnisafe_qpt.data.layouts import COLUMNS
from omnisafe_qpt.errors import UserError


# Arrays that every reader converts to float32.
NUMBERS = ('observations', 'next_observations', 'actions', 'rewards', 'costs')
# A next observation further than this from the following observation is the end of an episode.
_GAP_TOLERANCE = 1e-3
# Above this share of unmarked gaps the file is damaged.
_MAX_GAP_SHARE = 0.1


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
        if len(arrays[key].shape) != 2 or 0 in arrays[key].shape[1:]:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; it needs one row of numbers '
                'for each transition',
            )
    total, obs_dim = arrays['observations'].shape
    act_dim = arrays['actions'].shape[1]
    allowed: dict[str, tuple[tuple[int, ...], ...]]
    allowed = dict.fromkeys(COLUMNS, ((total,), (total, 1)))
    allowed |= {'next_observations': ((total, obs_dim),), 'actions': ((total, act_dim),)}
    for key, shapes in allowed.items():
        if key in arrays and tuple(arrays[key].shape) not in shapes:
            raise UserError(
                f'{name}: {key} has shape {tuple(arrays[key].shape)}; for observations of '
                f'shape {(total, obs_dim)} it must be {shapes[0]}',
            )
    return total, obs_dim, act_dim


def block_bytes(arrays: Mapping[str, Any], rows: int) -> int:
    """Return an upper bound of the memory for a block of :func:`row_blocks` of all arrays.

    Args:
        arrays (Mapping[str, Any]): The arrays, usually of at most float64, which are converted to
            float32.
        rows (int): Approximate number of rows in a block.
    """
    step = min(_block_rows(arrays['observations'], rows), len(arrays['observations']))
    return sum(12 * step * math.prod(array.shape[1:]) for array in arrays.values())


def row_blocks(array: Any, rows: int) -> Iterator[tuple[int, int]]:
    """Split an array's rows into blocks to be read one after another.

    HDF5 decompresses whole chunks. Blocks begin and end at chunks, so that none is decompressed
    twice.

    Args:
        array (Any): An array of :func:`open_dataset`, or any other.
        rows (int): Approximate number of rows in a block.

    Yields:
        First row of a block and the first one after it.
    """
    step = _block_rows(array, rows)
    for first in range(0, len(array), step):
        yield first, min(first + step, len(array))


def number_blocks(
    arrays: Mapping[str, Any],
    rows: int,
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Read all numbers once, block by block.

    Args:
        arrays (Mapping[str, Any]): The arrays under DSRL's names.
        rows (int): Approximate number of rows in a block.

    Yields:
        First row of a block, the first one after it, and :data:`NUMBERS` of these rows in float32.
    """
    for first, last in row_blocks(arrays['observations'], rows):
        yield first, last, {name: as_float32(arrays[name][first:last]) for name in NUMBERS}


def _block_rows(array: Any, rows: int) -> int:
    chunk_rows = (getattr(array, 'chunks', None) or (1,))[0]
    # Never much larger than requested, because blocks bound the memory.
    return max(rows // chunk_rows, 1) * chunk_rows if chunk_rows <= 4 * rows else rows


def is_gap(reached: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return where next observations differ from the following observations, beyond rounding.

    Args:
        reached (np.ndarray): (N, S), next observation of each transition.
        following (np.ndarray): (N, S), observation of the transition after it.

    Returns:
        (N,) bool. NaN is not a gap.
    """
    with np.errstate(over='ignore', invalid='ignore'):
        tolerance = _GAP_TOLERANCE * (1.0 + np.abs(following))
        return (np.abs(reached - following) > tolerance).any(axis=1)


def check_marked(marked: np.ndarray, name: str) -> None:
    """Check that some transition marks the end of an episode.

    Args:
        marked (np.ndarray): (N,) bool, the transitions with a flag of either kind.
        name (str): Named in errors.

    Raises:
        UserError: If there is none.
    """
    if not marked.any():
        raise UserError(
            f'{name}: no episode end: neither terminals nor timeouts is set anywhere; '
            'mark the last transition of each episode',
        )


def too_many_gaps(gaps: int, total: int) -> bool:
    """Return whether there are more gaps without an end flag than training accepts."""
    return gaps > _MAX_GAP_SHARE * total


def check_order(gaps: int, total: int, name: str) -> None:
    """Check that transitions follow one another.

    Args:
        gaps (int): Transitions without an end flag whose next observation is not the following
            observation.
        total (int): All transitions.
        name (str): Named in errors.

    Raises:
        UserError: If there are too many.
    """
    if too_many_gaps(gaps, total):
        raise UserError(
            f'{name}: in {gaps} or more of {total} transitions the next observation is not the '
            'following observation; transitions must be in order, whole episodes at a time',
        )


def check_finite(values: np.ndarray, rows: Sequence[int], array: str, name: str) -> None:
    """Check that rows hold finite numbers.

    Args:
        values (np.ndarray): (n,) or (n, D) float32.
        rows (Sequence[int]): Their numbers.
        array (str): The array's name.
        name (str): Named in errors.

    Raises:
        UserError: If one is NaN or infinite.
    """
    if np.isfinite(values).all():
        return
    values = values.reshape(len(values), -1)
    row, column = np.argwhere(~np.isfinite(values))[0]
    dimension = f', dimension {column}' if values.shape[1] > 1 else ''
    raise UserError(
        f'{name}: {array} hold NaN, infinity or numbers beyond float32 (first: transition '
        f'{rows[row]}{dimension}: {values[row, column]}); remove those episodes',
    )


def as_flags(values: Any, array: str, name: str) -> np.ndarray:
    """Return flags as (N,) bool.

    Args:
        values (Any): (N,) or (N, 1), above 0 where set.
        array (str): The array's name.
        name (str): Named in errors.

    Raises:
        UserError: If one is NaN or infinite.
    """
    values = np.asarray(values).reshape(-1)
    if not np.isfinite(values).all():
        raise UserError(f'{name}: {array} holds NaN or infinity; it must be 0 or 1')
    return values > 0


def as_float32(values: Any) -> np.ndarray:
    """Return values as float32, as in training; larger values become infinite."""
    with np.errstate(over='ignore'):
        return np.asarray(values).astype(np.float32, copy=False)


def episode_bounds(is_end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last transition of each episode, (E,) int64 each.

    Args:
        is_end (np.ndarray): (N,) bool, whether an episode ends; the last transition counts anyway.
    """
    ends = np.flatnonzero(is_end)
    if not len(ends) or ends[-1] != len(is_end) - 1:
        ends = np.append(ends, len(is_end) - 1)
    return np.concatenate([[0], ends[:-1] + 1]), ends
