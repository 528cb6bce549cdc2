# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Windows: each against a slow reference, and how they are drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core_helpers import same
from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.data.trajectories import EpisodeRows, Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError


LENGTHS = (5, 1, 9, 3)
ENDS = ('terminal', 'timeout', 'timeout', 'terminal')
FIELDS = ('states', 'actions', 'rewards', 'costs', 'return_to_go', 'cost_to_go')


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS, ENDS)


def slow_windows(arrays, context_len, episodes, shifts):
    """Yield every window of the episodes, position by position, None for padding.

    Args:
        arrays: The dataset.
        context_len: K.
        episodes: Which episodes, by number.
        shifts: For each of them, what is added to its return-to-go and its cost-to-go.
    """
    firsts = [sum(LENGTHS[:episode]) for episode in range(len(LENGTHS))]
    for episode, (return_shift, cost_shift) in zip(episodes, shifts):
        first, length = firsts[episode], LENGTHS[episode]
        for end in range(length + 1):
            window = []
            for step in range(end - context_len + 1, end + 1):
                if step < 0:
                    window.append(None)
                    continue
                row = first + step
                is_last = step == length
                remaining = range(row, first + length)
                window.append(
                    {
                        'states': arrays['next_observations'][row - 1]
                        if is_last
                        else arrays['observations'][row],
                        'actions': None if is_last else arrays['actions'][row],
                        'rewards': None if is_last else arrays['rewards'][row],
                        'costs': None if is_last else arrays['costs'][row],
                        'return_to_go': sum(float(arrays['rewards'][i]) for i in remaining)
                        + return_shift,
                        'cost_to_go': sum(float(arrays['costs'][i]) for i in remaining)
                        + cost_shift,
                        'timestep': step,
                    },
                )
            yield window, end == length and ENDS[episode] == 'terminal'


def check(batch, expected):
    assert len(batch.terminal) == len(expected)
    for index, (window, is_terminal) in enumerate(expected):
        assert bool(batch.terminal[index]) == is_terminal
        for position, step in enumerate(window):
            where = (index, position)
            assert bool(batch.mask[where]) == (step is not None)
            has_action = step is not None and step['actions'] is not None
            assert bool(batch.action_mask[where]) == has_action
            assert int(batch.timesteps[where]) == (0 if step is None else step['timestep'])
            for name in FIELDS:
                found = getattr(batch, name)[where].numpy()
                assert np.isfinite(found).all()
                if step is not None and step[name] is not None:
                    np.testing.assert_allclose(found, step[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('context_len', [1, 2, 4, 20])
def test_every_window_of_every_episode(arrays, trajectories, context_len):
    sampler = WindowSampler(trajectories, context_len, batch_size=1, seed=0)
    episodes = range(len(LENGTHS))
    expected = list(slow_windows(arrays, context_len, episodes, [(0.0, 0.0)] * len(LENGTHS)))
    assert sampler.num_items == len(expected) == sum(LENGTHS) + len(LENGTHS)
    check(sampler.batch(torch.arange(sampler.num_items)), expected)


def test_a_window_of_a_shifted_row_is_that_of_the_episode_shifted(arrays, trajectories):
    added = trajectories.rows.select(torch.tensor([2, 0, 2]))
    added = EpisodeRows(
        starts=added.starts,
        lengths=added.lengths,
        terminal=added.terminal,
        return_shift=torch.tensor([1.5, -2.0, 0.0]),
        cost_shift=torch.tensor([0.25, 3.0, 7.0]),
    )
    rows = trajectories.rows.append(added)
    sampler = WindowSampler(trajectories, 4, batch_size=1, seed=0, rows=rows)
    shifts = [(0.0, 0.0)] * 4 + [(1.5, 0.25), (-2.0, 3.0), (0.0, 7.0)]
    expected = list(slow_windows(arrays, 4, [0, 1, 2, 3, 2, 0, 2], shifts))
    assert sampler.num_items == len(expected)
    check(sampler.batch(torch.arange(sampler.num_items)), expected)


def test_shapes_and_types(trajectories):
    batch = WindowSampler(trajectories, context_len=4, batch_size=6, seed=0).sample()
    assert batch.states.shape == (6, 4, 3)
    assert batch.actions.shape == (6, 4, 2)
    for name in ('rewards', 'costs', 'return_to_go', 'cost_to_go'):
        assert getattr(batch, name).shape == (6, 4)
        assert getattr(batch, name).dtype == torch.float32
    assert batch.timesteps.dtype == torch.int64
    assert batch.mask.dtype == batch.action_mask.dtype == batch.terminal.dtype == torch.bool
    assert batch.mask.shape == batch.action_mask.shape == (6, 4)
    assert batch.terminal.shape == (6,)


def test_a_window_never_reaches_into_the_episode_before(trajectories):
    sampler = WindowSampler(trajectories, context_len=20, batch_size=1, seed=0)
    batch = sampler.batch(torch.arange(sampler.num_items))
    counts = batch.mask.sum(1).tolist()
    assert counts == [end + 1 for length in LENGTHS for end in range(length + 1)]
    # Left padding: what is valid is at the right end.
    assert batch.mask.equal(batch.mask.sort(dim=1).values)


@pytest.mark.parametrize('batch_size', [1, 7, 4096])
def test_a_batch_is_the_windows_of_the_numbers_drawn(trajectories, batch_size):
    sampler = WindowSampler(trajectories, 3, batch_size, seed=5)
    generator = torch.Generator().manual_seed(torch_seed(5, 'batches'))
    for _ in range(2):
        numbers = torch.randint(sampler.num_items, (batch_size,), generator=generator)
        batch = sampler.sample()
        singly = [sampler.batch(number[None]) for number in numbers[:50]]
        for name, value in vars(batch).items():
            assert len(value) == batch_size
            assert value[:50].equal(torch.cat([vars(single)[name] for single in singly]))


def test_a_large_batch_costs_no_python_per_sample(trajectories):
    def calls(batch_size):
        """Count the calls of Python and C functions while a batch is drawn."""
        sampler, count = WindowSampler(trajectories, 3, batch_size, seed=0), 0

        def see(frame, event, argument):
            nonlocal count
            count += event in ('call', 'c_call')

        sampler.sample()
        sys.setprofile(see)
        try:
            sampler.sample()
        finally:
            sys.setprofile(None)
        return count

    assert 0 < calls(4096) == calls(1)


def test_every_window_is_equally_likely(make_arrays):
    lengths = (1, 40, 4, 99)
    data = Trajectories.from_arrays(make_arrays(lengths))
    sampler = WindowSampler(data, context_len=1, batch_size=100_000, seed=3)
    batch = sampler.sample()
    # All states differ, so the state at the end of a window tells which window it is.
    number = {tuple(state): i for i, state in enumerate(data.table[:, :3].tolist())}
    drawn = [number[tuple(state)] for state in batch.states[:, -1].tolist()]
    counts = np.bincount(drawn, minlength=sampler.num_items)
    expected = 100_000 / sampler.num_items
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = sampler.num_items - 1
    # Five standard deviations of the distribution.
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
    shares = [part.sum() / 100_000 for part in np.split(counts, np.cumsum(lengths) + [1, 2, 3, 4])]
    windows = [(length + 1) / sampler.num_items for length in lengths]
    np.testing.assert_allclose(shares[:4], windows, atol=0.005)


def test_relabelled_rows_are_drawn_too(trajectories):
    rows = trajectories.rows.append(trajectories.rows.select(torch.tensor([2])))
    sampler = WindowSampler(trajectories, 1, batch_size=30_000, seed=0, rows=rows)
    long_start = int(trajectories.rows.starts[2])
    states = trajectories.table[long_start : long_start + LENGTHS[2] + 1, :3]
    drawn = (sampler.sample().states == states[:, None, None][0]).all(-1).float().mean()
    # This state ends a window in two rows.
    assert drawn.item() == pytest.approx(2 / sampler.num_items, abs=0.01)


def test_the_same_seed_gives_the_same_batches(trajectories):
    samplers = [WindowSampler(trajectories, 3, 16, seed) for seed in (1, 1, 2)]
    batches = [[sampler.sample() for _ in range(3)] for sampler in samplers]
    assert all(same(*pair) for pair in zip(batches[0], batches[1]))
    assert not same(batches[0][0], batches[2][0])
    assert not same(batches[0][0], batches[0][1])


def test_nothing_else_moves_the_sampler(trajectories):
    first, second = (WindowSampler(trajectories, 3, 16, seed=1) for _ in range(2))
    state = torch.get_rng_state()
    batch = first.sample()
    assert torch.get_rng_state().equal(state)
    torch.rand(5)
    assert same(second.sample(), batch)


def test_a_restored_generator_continues_exactly(trajectories):
    sampler = WindowSampler(trajectories, 3, 16, seed=1)
    sampler.sample()
    state = sampler.generator.get_state()
    expected = [sampler.sample() for _ in range(3)]
    other = WindowSampler(trajectories, 3, 16, seed=99)
    other.generator.set_state(state)
    assert all(same(other.sample(), batch) for batch in expected)


def test_selected_episodes_alone_are_drawn(trajectories, arrays):
    chosen = trajectories.select(torch.tensor([3, 1]))
    sampler = WindowSampler(chosen, 4, batch_size=1, seed=0)
    expected = list(slow_windows(arrays, 4, [3, 1], [(0.0, 0.0)] * 2))
    check(sampler.batch(torch.arange(sampler.num_items)), expected)


@pytest.mark.parametrize(('context_len', 'batch_size'), [(0, 4), (4, 0), (-1, 4)])
def test_impossible_sizes_are_refused(trajectories, context_len, batch_size):
    name = 'context_len' if context_len < 1 else 'batch_size'
    with pytest.raises(UserError, match=f'{name} is .*; it must be at least 1'):
        WindowSampler(trajectories, context_len, batch_size, seed=0)


@pytest.mark.parametrize('size', [1, 2, 4])
def test_shards_laid_end_to_end_are_the_whole_batch(trajectories, size):
    whole = WindowSampler(trajectories, 3, 12, seed=5)
    shards = [WindowSampler(trajectories, 3, 12, seed=5, shard=(i, size)) for i in range(size)]
    for _ in range(3):
        batch = whole.sample()
        parts = [vars(shard.sample()) for shard in shards]
        for name, value in vars(batch).items():
            assert all(len(part[name]) == 12 // size for part in parts)
            assert value.equal(torch.cat([part[name] for part in parts])), name


def test_a_batch_that_cannot_be_shared_equally_is_refused(trajectories):
    with pytest.raises(UserError, match='batch_size is 12; it must be a multiple of the 5 proc'):
        WindowSampler(trajectories, 3, 12, seed=0, shard=(0, 5))


def test_row_and_window_numbers_do_not_overflow():
    # One row stands for all of an episode of 3 * 2**32 steps and one of 40: it costs no memory.
    length = 3 * 2**32
    row = torch.arange(9.0)[None]
    rows = EpisodeRows(
        starts=torch.tensor([0, length + 1]),
        lengths=torch.tensor([length, 40]),
        terminal=torch.tensor([False, True]),
        return_shift=torch.tensor([0.0, 1.0]),
        cost_shift=torch.tensor([0.0, 2.0]),
    )
    data = Trajectories(row.expand(length + 42, 9), rows, obs_dim=3, act_dim=2)
    sampler = WindowSampler(data, context_len=2, batch_size=20_000, seed=0)
    assert sampler.num_items == length + 42
    batch = sampler.batch(torch.tensor([2**31, 2**32 + 5, length, length + 1, length + 41]))
    ends = [2**31, 2**32 + 5, length, 0, 40]
    assert batch.timesteps.tolist() == [[max(end - 1, 0), end] for end in ends]
    assert batch.return_to_go[:, -1].tolist() == [7.0, 7.0, 7.0, 8.0, 8.0]
    assert batch.cost_to_go[:, -1].tolist() == [8.0, 8.0, 8.0, 10.0, 10.0]
    assert batch.terminal.tolist() == [False, False, False, False, True]
    assert batch.action_mask[:, -1].tolist() == [True, True, False, True, False]
    # Each third of the numbers is as likely as the others, so none is cut to 32 bits.
    thirds = torch.bincount(sampler.sample().timesteps[:, -1] // 2**32, minlength=3)
    assert thirds.tolist() == pytest.approx([20_000 / 3] * 3, rel=0.05)


class DeviceOnly(TorchDispatchMode):
    """Refuses what must wait for a device: its values on the host, and shapes that hang on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert torch.Tag.data_dependent_output not in func.tags, func
        assert torch.Tag.dynamic_output_shape not in func.tags, func
        return func(*args, **(kwargs or {}))


def test_sampling_never_waits_for_the_device(trajectories):
    sampler = WindowSampler(trajectories, 3, 16, seed=0)
    with DeviceOnly():
        batch = sampler.sample()
        with pytest.raises(AssertionError, match='_local_scalar_dense'):
            bool(batch.terminal[0])


def test_relabelling_leaves_the_table_as_it_was(trajectories):
    rows = trajectories.rows
    shifted = EpisodeRows(**{**vars(rows), 'return_shift': torch.ones(4)})
    before = trajectories.table.clone()
    sampler = WindowSampler(trajectories, 4, batch_size=1, seed=0, rows=shifted)
    sampler.batch(torch.arange(sampler.num_items))
    assert trajectories.table.equal(before)
