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
"""Which of the collected episodes are kept."""

from __future__ import annotations

import math

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
    """Choose episodes whose returns and costs are spread.

    Episodes above ``max_cost`` are dropped. Among the safe ones and among the others, the one
    with the highest return comes first, and then always the one farthest from those chosen, in
    the plane of return and cost. Where one group has too few, the other one fills up.

    Args:
        returns (np.ndarray): Return of each candidate.
        costs (np.ndarray): Cost of each candidate.
        count (int): How many to choose.

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
