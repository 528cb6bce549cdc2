# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Selection of the collected episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from omnisafe_qpt.errors import UserError


def select_spread(
    returns: np.ndarray,
    costs: np.ndarray,
    count: int,
    *,
    safe_share: float,
    cost_limit: float,
    max_cost: float,
) -> list[int]:
    """Select episodes with spread returns and costs.

    Episodes above ``max_cost`` are dropped. Among the safe ones and among the others, the one
    with the highest return comes first, and then always the one farthest from those chosen, in
    the plane of return and cost. Where one group has too few, the other one fills up.

    Args:
        returns (np.ndarray): Return of each candidate.
        costs (np.ndarray): Cost of each candidate.
        count (int): Number to select.

    Keyword Args:
        safe_share (float): Share of the chosen ones that is to be within ``cost_limit``.
        cost_limit (float): The cost up to which an episode is safe.
        max_cost (float): The cost up to which an episode is of use at all.

    Returns:
        Indices of the chosen candidates in rising order.

    Raises:
        UserError: If fewer than ``count`` candidates are of use.
    """
    safe = np.flatnonzero(costs <= cost_limit)
    others = np.flatnonzero((costs > cost_limit) & (costs <= max_cost))
    if len(safe) + len(others) < count:
        raise UserError(
            f'only {len(safe) + len(others)} of {len(costs)} candidates have a cost of at most '
            f'{max_cost:g}; ask for more candidates or fewer episodes',
        )
    wanted = max(min(len(safe), math.ceil(safe_share * count)), count - len(others))
    chosen = []
    for group, number in ((safe, wanted), (others, count - wanted)):
        points = np.stack([returns[group], costs[group]], axis=1)
        chosen += group[_farthest_points(points, number)].tolist()
    return sorted(chosen)


def _farthest_points(points: np.ndarray, count: int) -> list[int]:
    """Choose rows that lie far apart, beginning with the largest first coordinate."""
    if count == 0:
        return []
    points = points / np.maximum(np.ptp(points, axis=0), 1e-9)
    chosen = [int(points[:, 0].argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        latest = points[chosen[-1]]
        distance = np.minimum(distance, ((points - latest) ** 2).sum(axis=1))
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


class Density(NamedTuple):
    """Settings of DSRL's density filter; the defaults are those of its ``filter_trajectory``.

    Args:
        cost_bins (int, optional): Cells along the cost axis. Defaults to 60.
        return_bins (int, optional): Cells along the return axis. Defaults to 50.
        most (int, optional): Episodes kept of a cell at most. Defaults to 10.
        least (int, optional): A cell with no more episodes than this is dropped. Defaults to 1.
    """

    cost_bins: int = 60
    return_bins: int = 50
    most: int = 10
    least: int = 1

    @classmethod
    def checked(cls, values: Sequence[int] | None) -> Density:
        """Build the settings from the user's four numbers, or the defaults.

        Raises:
            UserError: If one of them is impossible.
        """
        density = cls() if values is None else cls(*values)
        if min(density.cost_bins, density.return_bins, density.most) < 1 or density.least < 0:
            raise UserError(
                f'density {" ".join(map(str, density))}: the bins and MOST must be at least 1, '
                'LEAST at least 0',
            )
        return density


def density_filter(
    returns: np.ndarray,
    costs: np.ndarray,
    density: Density,
    rng: np.random.Generator,
) -> list[int]:
    """Choose episodes as DSRL's density filter does.

    The ranges of cost and return are divided into cells. A crowded cell keeps ``density.most``
    random episodes. The episodes of a cell with at most ``density.least`` are dropped as outliers.

    Args:
        returns (np.ndarray): Return of each candidate.
        costs (np.ndarray): Cost of each candidate.
        density (Density): The settings.
        rng (np.random.Generator): For the draws.

    Returns:
        Indices of the chosen candidates in rising order.
    """
    cells = np.stack(
        [_cells(costs, density.cost_bins), _cells(returns, density.return_bins)],
        axis=1,
    )
    _, cell_of = np.unique(cells, axis=0, return_inverse=True)
    chosen: list[int] = []
    for cell in range(cell_of.max(initial=-1) + 1):
        members = np.flatnonzero(cell_of == cell)
        if len(members) > density.most:
            members = rng.choice(members, density.most, replace=False)
        elif len(members) <= density.least:
            continue
        chosen += members.tolist()
    return sorted(chosen)


def _cells(values: np.ndarray, bins: int) -> np.ndarray:
    """Return the cell indices of values; the largest value has its own cell, as in DSRL."""
    width = np.ptp(values) / bins if len(values) else 0.0
    if width == 0.0:
        return np.zeros(len(values))
    return (values - values.min()) // width
