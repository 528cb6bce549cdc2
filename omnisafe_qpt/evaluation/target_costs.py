# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The target costs of target calibration and of off-policy evaluation."""

from __future__ import annotations

from omnisafe_qpt.data.frontier import Frontier
from omnisafe_qpt.qpt.deployable import Deployable


# Target costs, as multiples of the run's cost limit: denser near the limit, where a model is used.
# The first is zero, as every later test depends on the first one.
LADDER = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def ladder(cost_unit: float, frontier: Frontier) -> list[float]:
    """Return the target costs, up to the first one that reaches the data's best return.

    Args:
        cost_unit (float): The run's cost limit.
        frontier (Frontier): The dataset's.
    """
    costs = [share * cost_unit for share in LADDER]
    needed = sum(cost < frontier.costs[-1] for cost in costs) + 1
    return costs[:needed]


def ladder_targets(networks: Deployable) -> list[tuple[float, float]]:
    """Return a model's target returns and target costs, by increasing cost.

    Args:
        networks (Deployable): The model, of an algorithm that takes targets.
    """
    found = networks.spec['frontier']
    frontier = Frontier(tuple(found['costs']), tuple(found['returns']))
    costs = ladder(networks.scaling.cost_unit.item(), frontier)
    return [(frontier.target_return(cost), cost) for cost in costs]
