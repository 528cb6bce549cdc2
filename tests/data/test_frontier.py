# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The frontier, against brute force."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from omnisafe_qpt.data.frontier import Frontier


def slow_target_return(returns, costs, limit):
    """Return the best return within the limit, else that of the best of the cheapest episodes."""
    best = None
    for value, cost in zip(returns, costs):
        if cost <= limit and (best is None or value > best):
            best = value
    if best is None:
        cheapest = min(costs)
        best = max(value for value, cost in zip(returns, costs) if cost == cheapest)
    return best


@pytest.mark.parametrize('seed', range(20))
def test_the_frontier_agrees_with_brute_force(seed):
    generator = np.random.default_rng(seed)
    # Few distinct values, so that returns and costs tie often.
    number = int(generator.integers(1, 40))
    returns = generator.integers(-5, 5, number).astype(float)
    costs = generator.integers(3, 10, number).astype(float)
    frontier = Frontier.of(returns, costs)
    limits = np.arange(0, 13, 0.5)
    found = [frontier.target_return(limit) for limit in limits]
    assert found == [slow_target_return(returns, costs, limit) for limit in limits]
    assert found == sorted(found)
    for points in (frontier.costs, frontier.returns):
        assert all(first < second for first, second in pairwise(points))
    episodes = set(zip(costs, returns))
    assert episodes.issuperset(zip(frontier.costs, frontier.returns))


def test_the_frontier_at_beyond_and_below_its_costs():
    frontier = Frontier.of(np.array([1.0, 5.0, 3.0, 9.0]), np.array([10.0, 20.0, 30.0, 40.0]))
    assert frontier == Frontier(costs=(10.0, 20.0, 40.0), returns=(1.0, 5.0, 9.0))
    limits = {-1: 1, 0: 1, 9.99: 1, 10: 1, 19.99: 1, 20: 5, 39.9: 5, 40: 9, 1e9: 9, np.inf: 9}
    for limit, expected in limits.items():
        assert frontier.target_return(limit) == expected
