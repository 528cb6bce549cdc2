# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The target costs that are tried, in simulated or in imagined episodes."""

from __future__ import annotations

from omnisafe_qpt.data.frontier import Frontier


# Target costs, as shares of the run's cost limit: closer about the limit, where a model is used.
# The first is no cost at all, as the sequence of tests stands or falls with it.
LADDER = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def ladder(cost_unit: float, frontier: Frontier) -> list[float]:
    """Return the target costs: up to the first beyond which no episode of the data is better.

    Args:
        cost_unit (float): The run's cost limit.
        frontier (Frontier): The dataset's.
    """
    costs = [share * cost_unit for share in LADDER]
    needed = sum(cost < frontier.costs[-1] for cost in costs) + 1
    return costs[:needed]
