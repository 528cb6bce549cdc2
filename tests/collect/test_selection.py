# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Which episodes of a collection are kept; DSRL's own filter is the reference for its filter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from omnisafe_qpt.collect.selection import Density, density_filter, select_spread
from omnisafe_qpt.errors import UserError


# -- spread ---------------------------------------------------------------------------------------


def selected(returns, costs, count, safe_share=0.5, max_cost=250.0):
    return select_spread(
        np.array(returns, dtype=float),
        np.array(costs, dtype=float),
        count,
        safe_share=safe_share,
        cost_limit=10.0,
        max_cost=max_cost,
    )


def test_selection_keeps_the_safe_share_and_the_extremes():
    rng = np.random.default_rng(0)
    returns = rng.uniform(0, 30, 100)
    costs = np.concatenate([rng.uniform(0, 10, 50), rng.uniform(11, 240, 50)])
    chosen = selected(returns, costs, 20, safe_share=0.6)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 20
    assert sum(index < 50 for index in chosen) == 12
    assert int(returns[:50].argmax()) in chosen
    # Twelve of fifty, chosen to lie apart, reach nearly as far as all of them.
    safe = [index for index in chosen if index < 50]
    assert np.ptp(returns[safe]) > 0.9 * np.ptp(returns[:50])


def test_selection_prefers_what_differs():
    chosen = selected([0, 0.1, 0.2, 30, 15], [0, 0, 0, 0, 0], 3, safe_share=1.0)
    assert 3 in chosen
    assert 4 in chosen


def test_selection_drops_what_costs_too_much_and_fills_up():
    assert selected([1, 2, 3, 4], [0, 300, 50, 60], 3) == [0, 2, 3]
    assert selected([1, 2, 3, 4], [0, 1, 2, 60], 4) == [0, 1, 2, 3]
    with pytest.raises(UserError, match='only 3 of 4 candidates'):
        selected([1, 2, 3, 4], [0, 300, 50, 60], 4)


# -- DSRL's density filter ------------------------------------------------------------------------


@pytest.fixture(name='grid_filter', scope='module')
def fixture_grid_filter():
    return pytest.importorskip('dsrl.offline_env').grid_filter


def clustered(seed, count=400):
    """Episodes in a few crowds, as policies give them, with whole-numbered costs."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform([0, 0], [900, 80], (6, 2))
    points = centres[rng.integers(6, size=count)] + rng.normal(0, [30, 4], (count, 2))
    return points[:, 0], np.round(np.abs(points[:, 1]))


def dsrl_indices(grid_filter, returns, costs, density):
    return grid_filter(
        costs,
        returns,
        xbins=density.cost_bins,
        ybins=density.return_bins,
        max_num_per_bin=density.most,
        min_num_per_bin=density.least,
    )


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize(('bins', 'least'), [((60, 50), 1), ((10, 50), 2), ((7, 3), 0)])
def test_without_crowded_cells_the_filter_is_dsrls(grid_filter, seed, bins, least):
    returns, costs = clustered(seed)
    density = Density(*bins, most=1000, least=least)
    chosen = density_filter(returns, costs, density, np.random.default_rng(0))
    expected = sorted(dsrl_indices(grid_filter, returns, costs, density))
    assert len(expected) > 0
    assert chosen == expected


@pytest.mark.parametrize('density', [Density(), Density(10, 50, 5, 2), Density(4, 4, 3, 1)])
def test_crowded_cells_keep_as_many_as_dsrl_leaves(grid_filter, density):
    returns, costs = clustered(7, count=2000)
    chosen = density_filter(returns, costs, density, np.random.default_rng(0))
    expected = dsrl_indices(grid_filter, returns, costs, density)
    # Which of a crowd stay is drawn at random; how many of each cell is not.
    everyone = Density(density.cost_bins, density.return_bins, most=10**6, least=0)

    def cell(index):
        step_c = np.ptp(costs) / everyone.cost_bins
        step_r = np.ptp(returns) / everyone.return_bins
        return (costs[index] - costs.min()) // step_c, (returns[index] - returns.min()) // step_r

    assert len(chosen) == len(set(chosen)) < 2000
    assert Counter(map(cell, chosen)) == Counter(map(cell, expected))


def test_the_seed_decides_who_stays():
    returns, costs = clustered(3, count=1000)
    density = Density(3, 3, 5, 0)
    first, again, other = (
        density_filter(returns, costs, density, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_equal_costs_and_returns_share_one_cell():
    same = np.zeros(6)
    rng = np.random.default_rng(0)
    assert len(density_filter(same, same, Density(most=4), rng)) == 4
    assert density_filter(same, same, Density(least=6), rng) == []
    assert density_filter(np.zeros(0), np.zeros(0), Density(), rng) == []


@pytest.mark.parametrize('values', [(0, 50, 10, 1), (60, 0, 10, 1), (60, 50, 0, 1), (6, 5, 1, -1)])
def test_impossible_settings_are_refused(values):
    with pytest.raises(UserError, match='density'):
        Density.checked(values)
