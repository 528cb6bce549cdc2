# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes kept out of training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnisafe_qpt.data import trajectories as module
from omnisafe_qpt.data.holdout import choose_held_out, split_off
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


@pytest.mark.parametrize(('episodes', 'share', 'count'), [(40, 0.1, 4), (7, 0.5, 4), (2, 0.5, 1)])
def test_the_share_asked_for_is_held_out_and_no_episode_twice(make_arrays, episodes, share, count):
    data = Trajectories.from_arrays(make_arrays((4,) * episodes))
    chosen = choose_held_out(data, share)
    assert len(chosen) == count
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    left, held_out = split_off(data, chosen)
    assert len(left.rows) == episodes - count
    assert not set(left.rows.starts.tolist()) & set(held_out.rows.starts.tolist())
    assert held_out.rows.starts.tolist() == data.rows.starts[chosen].tolist()
    assert left.table is data.table


def test_the_choice_repeats_and_is_not_that_of_the_global_generators(make_arrays):
    data = Trajectories.from_arrays(make_arrays((3,) * 50))
    first = choose_held_out(data, 0.2)
    np.random.seed(5)
    torch.manual_seed(5)
    assert choose_held_out(data, 0.2).tolist() == first.tolist()


def test_held_out_episodes_are_of_all_costs_and_returns(make_arrays):
    """One of every ten in order of cost; where all costs are the same, in order of return."""
    for factor in (1.0, 0.0):
        arrays = make_arrays((5,) * 200)
        arrays['costs'] *= factor
        arrays['costs'][::5] += factor * np.random.default_rng(1).uniform(0, 50, 200)
        data = Trajectories.from_arrays(arrays)
        chosen = set(choose_held_out(data, 0.1).tolist())
        key = data.cost_returns if factor else data.returns
        order = key.argsort(stable=True).tolist()
        groups = [order[first : first + 10] for first in range(0, 200, 10)]
        assert [len(chosen & set(group)) for group in groups] == [1] * 20
        places = {group.index(episode) for group in groups for episode in chosen & set(group)}
        assert len(places) > 5, 'not always the same place in its group'


def test_nothing_is_held_out_unless_asked_for(make_arrays):
    data = Trajectories.from_arrays(make_arrays((5, 8, 3)))
    chosen = choose_held_out(data, 0.0)
    assert chosen.tolist() == []
    left, held_out = split_off(data, chosen)
    assert (len(left.rows), len(held_out.rows)) == (3, 0)


@pytest.mark.parametrize(
    ('share', 'message'),
    [
        (-0.1, r'holdout_share is -0\.1; it must be at least 0 and below 1'),
        (1.0, 'at least 0 and below 1'),
        (float('nan'), 'at least 0 and below 1'),
        (0.01, r'holdout_share 0\.01 holds out 0 of the 4 episodes'),
        (0.99, r'holds out 4 of the 4 episodes .* one must be left'),
    ],
)
def test_impossible_shares_are_refused(make_arrays, share, message):
    with pytest.raises(UserError, match=message):
        choose_held_out(Trajectories.from_arrays(make_arrays((3, 3, 3, 3))), share)


@pytest.mark.parametrize('kept', [[0, 2], [1], [2, 3]])
def test_scales_are_those_of_the_episodes_left(make_arrays, monkeypatch, kept):
    arrays = make_arrays((20, 9, 30, 1))
    arrays['observations'][20:29] += 100.0
    arrays['next_observations'][20:29] += 100.0
    monkeypatch.setattr(module, '_BLOCK_ROWS', 8)
    data = Trajectories.from_arrays(arrays)
    ends = np.cumsum([20, 9, 30, 1])
    states = np.concatenate(
        [
            part
            for episode in kept
            for end in [ends[episode]]
            for part in (
                arrays['observations'][end - data.rows.lengths[episode].item() : end],
                arrays['next_observations'][end - 1 : end],
            )
        ],
    ).astype(np.float64)
    mean, std = data.select(torch.tensor(kept)).observation_statistics()
    np.testing.assert_allclose(mean, states.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, states.std(0), rtol=1e-4, atol=1e-6)
