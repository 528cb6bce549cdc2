# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The return-cost frontier of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def frontier_episodes(returns: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the episodes on the frontier: each has a higher return than all of no higher cost.

    Ties: among equal costs the highest return, among equal returns the lower cost.

    Args:
        returns (np.ndarray): (E,) undiscounted reward of each episode.
        costs (np.ndarray): (E,) undiscounted cost of each episode.

    Returns:
        Their indices, int64, in order of cost. Costs and returns are strictly increasing.
    """
    order = np.lexsort((-returns, costs))
    best = np.maximum.accumulate(returns[order])
    return order[np.concatenate([[True], best[1:] > best[:-1]])]


@dataclass(frozen=True)
class Frontier:
    """The reward frontier of a dataset: the highest return among episodes with cost <= c.

    Args:
        costs (tuple[float, ...]): Episode costs, strictly increasing.
        returns (tuple[float, ...]): The highest return among episodes with at most that cost,
            strictly increasing.
    """

    costs: tuple[float, ...]
    returns: tuple[float, ...]

    @classmethod
    def of(cls, returns: np.ndarray, costs: np.ndarray) -> Frontier:
        """Compute the frontier of episodes with these returns and costs, both (E,)."""
        found = frontier_episodes(returns, costs)
        return cls(costs=tuple(costs[found].tolist()), returns=tuple(returns[found].tolist()))

    def target_return(self, cost_limit: float) -> float:
        """Return the highest return with cost at most ``cost_limit``, Eq. 11.

        Eq. 39 requires a cost *equal* to the limit; that set is empty for a continuous limit, so
        "at most" is used. If every episode costs more than the limit, the episode of least cost is
        used.

        Args:
            cost_limit (float): Undiscounted cost of an episode.
        """
        step = int(np.searchsorted(self.costs, cost_limit, side='right')) - 1
        return self.returns[max(step, 0)]
