# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Units of recorded actions: [-1, 1], as in training, or the environment's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.data.attributes import UNIT_ATTRIBUTE, read_attributes
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from omnisafe_qpt.data.trajectories import Trajectories


AUTO, NORMALIZED, ENVIRONMENT = 'auto', 'normalized', 'environment'

# Tolerance for rounding, as a share of the range.
_TOLERANCE = 1e-3
# Normalised actions this close to 1 fill their range.
_FILLED = 0.99
_BLOCK_ROWS = 1 << 16

# ``low`` and ``high`` of an environment's actions, A numbers each.
ActionRange = dict[str, list[float]]


@dataclass(frozen=True)
class Unit:
    """The unit of a dataset's actions.

    Args:
        name (str): :data:`NORMALIZED` or :data:`ENVIRONMENT`.
        warning (str): A warning in one line; may be empty.
    """

    name: str
    warning: str = ''


def find_unit(data: Trajectories, action_range: ActionRange, declared: str = AUTO) -> Unit:
    """Detect the unit of actions, and check that they are within its range.

    If values fit both units, the environment's is assumed, unless they fill [-1, 1] and not the
    environment's range.

    Args:
        data (Trajectories): The dataset.
        action_range (ActionRange): The environment's.
        declared (str, optional): The unit, if it is known. Defaults to ``'auto'``.

    Raises:
        UserError: If none is declared and values fit neither, or the declared one is unknown.
    """
    low, high = _bounds(action_range)
    if (low == -1.0).all() and (high == 1.0).all():
        return Unit(NORMALIZED)  # both are the same; `data info` tells what is out of range
    if declared not in (AUTO, NORMALIZED, ENVIRONMENT):
        raise UserError(
            f'{data.name}: {UNIT_ATTRIBUTE} is {declared!r}; it must be {NORMALIZED} or '
            f'{ENVIRONMENT}',
        )
    least, most = action_extremes(data)
    fits = {
        NORMALIZED: _is_within(least, most, -np.ones_like(low), np.ones_like(high)),
        ENVIRONMENT: _is_within(least, most, low, high),
    }
    found = f'actions from {_show(least)} to {_show(most)}'
    ranges = {
        NORMALIZED: '[-1, 1]',
        ENVIRONMENT: f"the environment's {_show(low)} to {_show(high)}",
    }
    if declared != AUTO:
        if fits[declared]:
            return Unit(declared)
        return Unit(
            declared,
            f'{found} are outside {ranges[declared]}, the range of their declared unit: the '
            'policy cannot imitate them',
        )
    if not any(fits.values()):
        raise UserError(
            f'{data.name}: {found} are outside {ranges[NORMALIZED]} and outside '
            f'{ranges[ENVIRONMENT]}: the dataset is from another environment, or in another unit; '
            f'declare it with train_cfgs:action_unit {NORMALIZED} or {ENVIRONMENT} to train anyway',
        )
    if not all(fits.values()):
        return Unit(NORMALIZED if fits[NORMALIZED] else ENVIRONMENT)
    largest = max(np.abs(least).max(), np.abs(most).max())
    in_own_range = 2.0 * (np.stack([least, most]) - low) / (high - low) - 1.0
    fills_own = np.abs(in_own_range).max() >= _FILLED
    name = NORMALIZED if largest >= _FILLED and not fills_own else ENVIRONMENT
    return Unit(
        name,
        f'{found} fit both {ranges[NORMALIZED]} and {ranges[ENVIRONMENT]}: they are assumed to be '
        f'in the unit {name}; if that is wrong, declare the other one, train_cfgs:action_unit '
        f'{ENVIRONMENT if name == NORMALIZED else NORMALIZED}',
    )


def recorded_unit(path: str | os.PathLike[str]) -> str:
    """Return the unit of actions that a dataset file declares, else ``auto``."""
    return str(read_attributes(path).get(UNIT_ATTRIBUTE, AUTO))


def normalize(data: Trajectories, action_range: ActionRange) -> None:
    """Scale actions in the environment's unit to [-1, 1], in place.

    Dimensions with the range [-1, 1] do not change. The row of an episode's last state, which has
    no action, stays zero.

    Args:
        data (Trajectories): The dataset, on the CPU.
        action_range (ActionRange): The environment's.
    """
    is_last = np.zeros(len(data.table), dtype=bool)
    is_last[(data.rows.starts + data.rows.lengths).numpy()] = True
    table = data.table.numpy()
    actions = table[:, data.obs_dim : data.obs_dim + data.act_dim]
    for first in range(0, len(actions), _BLOCK_ROWS):
        block = actions[first : first + _BLOCK_ROWS]
        block[:] = np.where(
            is_last[first : first + _BLOCK_ROWS, None],
            block,
            normalized(block, action_range),
        )


def normalized(actions: np.ndarray, action_range: ActionRange) -> np.ndarray:
    """Scale actions (..., A) of a range to [-1, 1], float32."""
    low, high = _bounds(action_range)
    scaled = 2.0 * (actions.astype(np.float64) - low) / (high - low) - 1.0
    return np.where((low == -1.0) & (high == 1.0), actions, scaled.astype(np.float32))


def _bounds(action_range: ActionRange) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.asarray(action_range[end], dtype=np.float64) for end in ('low', 'high'))
    return low, high


def action_extremes(data: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of each action, (A,) each, as float64.

    The rows of last states hold zeros, which are not actions.
    """
    is_action = np.ones(len(data.table), dtype=bool)
    is_action[(data.rows.starts + data.rows.lengths).numpy()] = False
    actions = data.table.numpy()[:, data.obs_dim : data.obs_dim + data.act_dim]
    least, most = np.full(data.act_dim, np.inf), np.full(data.act_dim, -np.inf)
    for first in range(0, len(actions), _BLOCK_ROWS):
        block = actions[first : first + _BLOCK_ROWS][is_action[first : first + _BLOCK_ROWS]]
        if len(block):
            least, most = np.minimum(least, block.min(0)), np.maximum(most, block.max(0))
    return least, most


def _is_within(least: np.ndarray, most: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    slack = _TOLERANCE * (high - low)
    return bool((least >= low - slack).all() and (most <= high + slack).all())


def _show(values: np.ndarray) -> str:
    """Format one number for all dimensions if they are equal, else each of them."""
    texts = [f'{value:.4g}' for value in values]
    if len(set(texts)) == 1:
        return texts[0]
    return f'({", ".join(texts[:6])}{", ..." if len(texts) > 6 else ""})'
