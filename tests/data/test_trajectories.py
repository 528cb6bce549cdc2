# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes: cutting, to-go sums, the frontier, and datasets that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import common_helpers
from omnisafe_qpt.data import trajectories as module
from omnisafe_qpt.data.trajectories import Trajectories


def slow_episodes(arrays, horizon=None):
    """Cut arrays into episodes one transition at a time.

    Returns:
        For each episode: its states, actions, rewards, costs, and whether it ended terminally.
    """
    total = len(arrays['rewards'])
    columns = {
        key: np.asarray(arrays[key]).reshape(-1)
        for key in ('rewards', 'costs', 'terminals', 'timeouts')
        if key in arrays
    }
    episodes, first = [], 0
    for row in range(total):
        is_terminal = bool(columns['terminals'][row])
        is_end = is_terminal or row == total - 1
        if 'timeouts' in columns:
            is_end = is_end or bool(columns['timeouts'][row])
        if not is_end:
            reached, following = arrays['next_observations'][row], arrays['observations'][row + 1]
            is_end = any(abs(a - b) > 1e-3 * (1 + abs(b)) for a, b in zip(reached, following))
        if not is_end:
            continue
        length = row + 1 - first
        if 'timeouts' not in columns and horizon is not None and length >= horizon:
            is_terminal = False
        rows = range(first, row + 1)
        episodes.append(
            {
                'states': [arrays['observations'][i] for i in rows]
                + [arrays['next_observations'][row]],
                'actions': [arrays['actions'][i] for i in rows],
                'rewards': [columns['rewards'][i] for i in rows],
                'costs': [columns['costs'][i] for i in rows],
                'terminal': is_terminal,
            },
        )
        first = row + 1
    return episodes


def to_go(values, step):
    total = 0.0
    for value in values[step:]:
        total += float(value)
    return total


def check(found, episodes):
    """Compare trajectories with slowly cut episodes, number by number."""
    assert len(found.rows) == len(episodes)
    assert len(found.table) == sum(len(episode['states']) for episode in episodes)
    last_action = found.obs_dim + found.act_dim
    for index, episode in enumerate(episodes):
        length = len(episode['actions'])
        start = int(found.rows.starts[index])
        assert int(found.rows.lengths[index]) == length
        assert bool(found.rows.terminal[index]) == episode['terminal']
        table = found.table[start : start + length + 1].numpy()
        np.testing.assert_array_equal(table[:, : found.obs_dim], episode['states'])
        np.testing.assert_array_equal(table[:-1, found.obs_dim : last_action], episode['actions'])
        np.testing.assert_array_equal(table[:-1, last_action], episode['rewards'])
        np.testing.assert_array_equal(table[:-1, last_action + 1], episode['costs'])
        assert not table[-1, found.obs_dim :].any()
        for column, key in ((last_action + 2, 'rewards'), (last_action + 3, 'costs')):
            expected = [to_go(episode[key], step) for step in range(length + 1)]
            np.testing.assert_allclose(table[:, column], expected, rtol=1e-6, atol=1e-6)
        assert found.returns[index] == pytest.approx(to_go(episode['rewards'], 0), abs=1e-5)
        assert found.cost_returns[index] == to_go(episode['costs'], 0)
    assert found.num_transitions == sum(len(episode['actions']) for episode in episodes)
    assert not found.rows.return_shift.any()
    assert not found.rows.cost_shift.any()


def error_of(arrays, **kwargs):
    message = common_helpers.error_of(
        Trajectories.from_arrays, arrays, name='some/file.hdf5', **kwargs
    )
    assert message.startswith('some/file.hdf5: ')
    return message


@pytest.mark.parametrize(
    ('lengths', 'ends'),
    [
        ((5, 8, 3), ('terminal', 'timeout', 'terminal')),
        ((9,), ('timeout',)),
        ((9,), ('terminal',)),
        ((1,), ('terminal',)),
        ((1, 1, 1), ('timeout', 'terminal', 'timeout')),
        ((4, 1, 30, 2), ('terminal', 'terminal', 'timeout', 'timeout')),
    ],
)
def test_flags_end_episodes(make_arrays, lengths, ends):
    arrays = make_arrays(lengths, ends)
    found = Trajectories.from_arrays(arrays)
    check(found, slow_episodes(arrays))
    assert found.rows.lengths.tolist() == list(lengths)
    assert found.rows.terminal.tolist() == [end == 'terminal' for end in ends]


def test_a_gap_ends_an_episode_as_a_time_limit_would(make_arrays):
    arrays = make_arrays((20, 15, 25), ('terminal', None, 'terminal'))
    found = Trajectories.from_arrays(arrays)
    check(found, slow_episodes(arrays))
    assert found.rows.lengths.tolist() == [20, 15, 25]
    assert found.rows.terminal.tolist() == [True, False, True]


def test_a_difference_of_rounding_is_no_gap(make_arrays):
    arrays = make_arrays((20, 20))
    for key in ('observations', 'next_observations'):
        arrays[key] *= 1000
    arrays['next_observations'][5] *= 1 + 1e-5
    assert len(Trajectories.from_arrays(arrays).rows) == 2
    arrays['next_observations'][5] *= 1.01
    assert Trajectories.from_arrays(arrays).rows.lengths.tolist() == [6, 14, 20]


def test_the_unfinished_last_episode_is_kept(make_arrays):
    arrays = make_arrays((6, 9), ('terminal', None))
    found = Trajectories.from_arrays(arrays)
    check(found, slow_episodes(arrays))
    assert found.rows.lengths.tolist() == [6, 9]
    assert found.rows.terminal.tolist() == [True, False]


def test_both_flags_together_are_a_terminal_end(make_arrays):
    arrays = make_arrays((4, 4), ('terminal', 'timeout'))
    arrays['timeouts'][3] = True
    assert Trajectories.from_arrays(arrays).rows.terminal.tolist() == [True, False]


@pytest.mark.parametrize('horizon', [None, 10])
def test_done_at_the_horizon_is_a_time_limit(make_arrays, horizon):
    arrays = make_arrays((10, 9, 10, 1), ['terminal'] * 4)
    del arrays['timeouts']
    found = Trajectories.from_arrays(arrays, horizon=horizon)
    check(found, slow_episodes(arrays, horizon))
    expected = [True] * 4 if horizon is None else [False, True, False, True]
    assert found.rows.terminal.tolist() == expected


def test_the_horizon_decides_nothing_where_timeouts_are_given(make_arrays):
    arrays = make_arrays((10, 9), ['terminal'] * 2)
    assert Trajectories.from_arrays(arrays, horizon=10).rows.terminal.all()


def test_an_npz_file_is_cut_by_the_horizon(tmp_path, make_arrays):
    arrays = make_arrays((10, 4), ('terminal', 'terminal'))
    path = tmp_path / 'data.npz'
    np.savez(
        path,
        obs=arrays['observations'],
        next_obs=arrays['next_observations'],
        action=arrays['actions'],
        reward=arrays['rewards'],
        cost=arrays['costs'],
        done=arrays['terminals'].astype(np.float32),
    )
    found = Trajectories.load(path, horizon=10)
    assert found.rows.terminal.tolist() == [False, True]
    assert found.name == str(path)
    del arrays['timeouts']
    check(found, slow_episodes(arrays, 10))


def test_columns_and_other_number_types_mean_the_same(make_arrays):
    arrays = make_arrays((5, 8), ('terminal', 'timeout'))
    expected = Trajectories.from_arrays(arrays)
    for key in ('rewards', 'costs', 'terminals', 'timeouts'):
        arrays[key] = arrays[key].astype(np.float64)[:, None]
    arrays['observations'] = arrays['observations'].astype(np.float64)
    found = Trajectories.from_arrays(arrays)
    assert found.table.equal(expected.table)
    assert found.rows.terminal.tolist() == expected.rows.terminal.tolist()


@pytest.mark.parametrize('rows', [1, 2, 7, 16])
def test_blocks_of_any_size_give_the_same(make_arrays, monkeypatch, rows):
    arrays = make_arrays((7, 1, 9, 6, 30), ('terminal', None, None, 'timeout', 'terminal'))
    whole = Trajectories.from_arrays(arrays)
    monkeypatch.setattr(module, '_READ_ROWS', rows)
    found = Trajectories.from_arrays(arrays)
    check(found, slow_episodes(arrays))
    assert found.table.equal(whole.table)


class CountedReads:
    """An array that counts how often each of its rows is read."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape
        self.reads = np.zeros(len(array), dtype=int)

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.reads[rows] += 1
        return self.array[rows]


def test_every_row_is_read_once(make_arrays, monkeypatch):
    monkeypatch.setattr(module, '_READ_ROWS', 10)
    arrays = make_arrays((7, 1, 9, 6, 30), ('terminal', None, None, 'timeout', 'terminal'))
    counted = {key: CountedReads(array) for key, array in arrays.items()}
    check(Trajectories.from_arrays(counted), slow_episodes(arrays))
    for key, array in counted.items():
        assert (array.reads == 1).all(), key


def test_sums_are_kept_in_double_precision(make_arrays):
    arrays = make_arrays((4000, 50))
    arrays['rewards'][:4000] = 123456.789
    arrays['rewards'][4000:] = 0.001
    found = Trajectories.from_arrays(arrays)
    # In float32, 5e8 would swallow every thousandth after it.
    assert found.returns[1].item() == pytest.approx(0.05, rel=1e-4)
    exact = 4000 * float(np.float32(123456.789))
    assert found.returns[0].item() == np.float32(exact)


def test_without_cost_every_cost_to_go_is_exactly_zero(make_arrays):
    arrays = make_arrays((5, 8))
    arrays['costs'][:] = 0
    found = Trajectories.from_arrays(arrays)
    assert not found.table[:, -1].any()
    assert found.frontier.costs == (0.0,)
    assert found.frontier.returns == (found.returns.max().item(),)


@pytest.mark.parametrize(
    'key', ['observations', 'next_observations', 'actions', 'rewards', 'costs', 'terminals']
)
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('row', [0, 3, 11, 23])  # rows 11 and 23 end episodes
def test_what_is_no_number_is_refused_wherever_it_is(make_arrays, key, value, row):
    arrays = make_arrays((12, 12))
    arrays[key] = arrays[key].astype(np.float32)
    arrays[key][row] = value
    message = error_of(arrays)
    assert key in message
    assert 'NaN' in message
    if key != 'terminals':
        assert f'transition {row}' in message
        assert f': {value})' in message
        assert ('dimension 0' in message) == (arrays[key].ndim == 2)


def test_a_number_beyond_float32_is_refused(make_arrays):
    arrays = make_arrays((12, 12))
    arrays['rewards'] = arrays['rewards'].astype(np.float64)
    arrays['rewards'][4] = 1e300
    message = error_of(arrays)
    assert 'rewards' in message
    assert 'transition 4: inf' in message


@pytest.mark.parametrize(
    ('key', 'change'),
    [
        ('observations', lambda array: array[:, 0]),
        ('observations', lambda array: array[:, :, None]),
        ('observations', lambda array: array[:-1]),
        ('observations', lambda array: array[:, :2]),
        ('observations', lambda array: array[0, 0]),
        ('next_observations', lambda array: array[:-1]),
        ('next_observations', lambda array: array[:, 0]),
        ('actions', lambda array: array[:, 0]),
        ('actions', lambda array: array[1:]),
        ('rewards', lambda array: array[1:]),
        ('rewards', lambda array: np.stack([array, array], axis=1)),
        ('rewards', lambda array: array[0]),
        ('costs', lambda array: array[None]),
        ('costs', lambda array: array[:, None, None]),
        ('terminals', lambda array: array[:-2]),
        ('timeouts', lambda array: array[0]),
        ('timeouts', lambda array: np.stack([array, array], axis=1)),
    ],
)
def test_wrong_shapes_are_refused(make_arrays, key, change):
    arrays = make_arrays((5, 8))
    arrays[key] = change(arrays[key])
    message = error_of(arrays)
    assert 'has shape' in message
    assert 'has shape' in message
    assert key in message


def test_no_transitions_are_refused(make_arrays):
    arrays = {key: value[:0] for key, value in make_arrays((5,)).items()}
    assert 'no transitions' in error_of(arrays)
    arrays['observations'] = arrays['observations'][:, 0]
    assert 'no transitions' in error_of(arrays)


def test_no_marked_end_is_refused(make_arrays):
    message = error_of(make_arrays((50, 50), (None, None)))
    assert 'no episode end' in message
    assert 'mark the last transition' in message


def test_shuffled_transitions_are_refused(make_arrays):
    arrays = make_arrays((30, 30), ('terminal', 'timeout'))
    order = np.random.default_rng(0).permutation(60)
    message = error_of({key: value[order] for key, value in arrays.items()})
    assert 'in order' in message
    assert 'of 60 transitions' in message


def test_selected_episodes_share_the_table(make_arrays):
    found = Trajectories.from_arrays(make_arrays((5, 8, 3)))
    some = found.select(torch.tensor([2, 0]))
    assert some.table is found.table
    assert some.rows.lengths.tolist() == [3, 5]
    assert some.returns.tolist() == found.returns[[2, 0]].tolist()
    assert some.num_transitions == 8
    masked = found.select(torch.tensor([False, True, False]))
    assert masked.cost_returns.tolist() == [found.cost_returns[1].item()]
    same = found.to('cpu')
    assert same.table.equal(found.table)
    assert same.rows.starts.equal(found.rows.starts)


@pytest.mark.parametrize('offset', [0.0, 1e4])
def test_observation_statistics_are_those_of_all_states(make_arrays, monkeypatch, offset):
    arrays = make_arrays((50, 30))
    for key in ('observations', 'next_observations'):
        arrays[key] += np.float32(offset)
        arrays[key][:, 1] = 7.0
    monkeypatch.setattr(module, '_BLOCK_ROWS', 16)
    states = np.concatenate([episode['states'] for episode in slow_episodes(arrays)])
    mean, std = Trajectories.from_arrays(arrays).observation_statistics()
    np.testing.assert_allclose(mean, states.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, states.std(axis=0, dtype=np.float64), rtol=1e-5)
    assert std[1] == 0
