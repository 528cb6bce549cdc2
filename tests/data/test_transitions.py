# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Transitions: each against a slow reference, how they are drawn, and which episodes are safe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.transitions import TransitionSampler, select_safe
from omnisafe_qpt.errors import UserError
from tape import Tape


LENGTHS = (5, 1, 9, 3)
ENDS = ('terminal', 'timeout', None, 'terminal')
FIELDS = {
    'obs': 'observations',
    'action': 'actions',
    'reward': 'rewards',
    'cost': 'costs',
    'next_obs': 'next_observations',
}


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS, ENDS)


def check(batch, arrays, rows):
    """A batch is these rows of the arrays; terminal where they say so, and never elsewhere."""
    for name, key in FIELDS.items():
        np.testing.assert_array_equal(getattr(batch, name).numpy(), arrays[key][rows])
    assert batch.terminal.tolist() == arrays['terminals'][rows].tolist()


def test_every_transition_of_every_episode(arrays, trajectories):
    sampler = TransitionSampler(trajectories, batch_size=1, seed=0)
    assert sampler.num_items == sum(LENGTHS)
    batch = sampler.batch(torch.arange(sum(LENGTHS)))
    check(batch, arrays, np.arange(sum(LENGTHS)))
    assert batch.terminal.sum() == 2  # of four ends, the others are time limits


def test_an_npz_ends_at_its_horizon_by_a_time_limit(arrays):
    del arrays['timeouts']
    arrays['terminals'][[4, 5, 14, 17]] = True
    trajectories = Trajectories.from_arrays(arrays, horizon=9)
    batch = TransitionSampler(trajectories, 1, seed=0).batch(torch.arange(18))
    assert np.flatnonzero(batch.terminal.numpy()).tolist() == [4, 5, 17]


def test_only_the_given_episodes_are_drawn_each_as_often_as_it_is_given(arrays, trajectories):
    rows = trajectories.rows.select(torch.tensor([3, 0, 3]))
    sampler = TransitionSampler(trajectories, 1, seed=0, rows=rows)
    expected = [15, 16, 17, 0, 1, 2, 3, 4, 15, 16, 17]
    assert sampler.num_items == len(expected)
    check(sampler.batch(torch.arange(len(expected))), arrays, expected)


def test_all_transitions_are_equally_likely(trajectories):
    sampler = TransitionSampler(trajectories, 50_000, seed=1)
    counts = np.bincount(sampler.draw(sampler.generator), minlength=18)
    assert len(counts) == 18
    expected = 50_000 / 18
    # The 99.9 % quantile of chi-squared with 17 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 40.8


def test_shards_end_to_end_are_the_batch(trajectories):
    whole = TransitionSampler(trajectories, 12, seed=3).sample()
    shards = [TransitionSampler(trajectories, 12, seed=3, shard=(i, 3)).sample() for i in range(3)]
    for name in (*FIELDS, 'terminal'):
        joined = torch.cat([getattr(shard, name) for shard in shards])
        assert torch.equal(joined, getattr(whole, name))


def test_the_seed_and_the_generator_fix_what_is_drawn(trajectories):
    samplers = [TransitionSampler(trajectories, 8, seed=seed) for seed in (0, 0, 1)]
    first = [sampler.sample().obs for sampler in samplers]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    state = samplers[0].generator.get_state()
    second = samplers[0].sample().obs
    assert not torch.equal(first[0], second)
    samplers[2].generator.set_state(state)
    assert torch.equal(samplers[2].sample().obs, second)


def test_batches_may_be_made_ahead(trajectories):
    plain = TransitionSampler(trajectories, 8, seed=5)
    ahead = PrefetchSampler(TransitionSampler(trajectories, 8, seed=5), 'cpu')
    try:
        for _ in range(5):
            expected, batch = plain.sample(), ahead.sample()
            for name in (*FIELDS, 'terminal'):
                assert torch.equal(getattr(batch, name), getattr(expected, name))
            assert torch.equal(ahead.generator.get_state(), plain.generator.get_state())
    finally:
        ahead.close()


def test_nothing_waits_for_the_device(trajectories):
    sampler = TransitionSampler(trajectories, 8, seed=0)
    with Tape() as tape:
        sampler.sample()
    assert 'index_select' in tape.names()
    assert tape.waiting() == []


@pytest.mark.parametrize(
    ('batch_size', 'shard', 'message'),
    [(0, (0, 1), 'batch_size is 0'), (9, (0, 2), 'a multiple of the 2 processes')],
)
def test_an_impossible_batch_is_refused(trajectories, batch_size, shard, message):
    with pytest.raises(UserError, match=message):
        TransitionSampler(trajectories, batch_size, seed=0, shard=shard)


def costly(arrays, costs):
    arrays['costs'][:] = 0.0
    for end, cost in zip(np.cumsum(LENGTHS) - 1, costs):
        arrays['costs'][end] = cost
    return Trajectories.from_arrays(arrays, name='here.hdf5')


def test_safe_episodes_are_those_that_cost_at_most_the_limit(arrays):
    trajectories = costly(arrays, [3.0, 10.0, 10.5, 0.0])
    safe = select_safe(trajectories, 10.0)
    assert safe.cost_returns.tolist() == [3.0, 10.0, 0.0]
    assert safe.table is trajectories.table
    sampler = TransitionSampler(safe, 1, seed=0)
    rows = [*range(6), *range(15, 18)]
    check(sampler.batch(torch.arange(sampler.num_items)), arrays, rows)


def test_without_a_safe_episode_the_cheapest_is_named(arrays):
    trajectories = costly(arrays, [12.0, 11.5, 30.0, 14.0])
    with pytest.raises(UserError, match=r'here\.hdf5 has no episode .* of 10; .* costs 11\.5'):
        select_safe(trajectories, 10.0)
