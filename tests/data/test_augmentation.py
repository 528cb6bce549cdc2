# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Algorithm 2 against a literal reading of it, and hooks by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common_helpers import error_of
from omnisafe_qpt.data.augmentation import augment, load_hook, relabel_frontier
from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError


@pytest.fixture(name='trajectories')
def fixture_trajectories(make_arrays):
    generator = np.random.default_rng(1)
    return Trajectories.from_arrays(make_arrays(generator.integers(1, 30, 40), seed=1))


def with_sums(make_arrays, returns, costs):
    """Make trajectories of one-step episodes with these returns and costs."""
    arrays = make_arrays([1] * len(returns))
    arrays['rewards'][:], arrays['costs'][:] = returns, costs
    return Trajectories.from_arrays(arrays)


def slow_algorithm_2(returns, costs, number, generator):
    """Follow Algorithm 2 an episode at a time.

    Returns:
        For each new episode: kappa, rho, and the number of the episode it relabels.
    """
    c_min, c_max, r_max = min(costs), max(costs), max(returns)
    kappas = [generator.uniform(c_min, c_max) for _ in range(number)]
    relabelled = []
    for kappa in kappas:
        source = None
        for episode, (value, cost) in enumerate(zip(returns, costs)):
            if cost > kappa:
                continue
            # The best return; at equal returns the lower cost.
            rank = (value, -cost)
            if source is None or rank > (returns[source], -costs[source]):
                source = episode
        rho = generator.uniform(returns[source], r_max)
        relabelled.append((kappa, rho, source))
    return relabelled


def check(trajectories, seed, number=200):
    returns, costs = trajectories.returns.tolist(), trajectories.cost_returns.tolist()
    rows = relabel_frontier(trajectories, number, np.random.default_rng(seed))
    expected = slow_algorithm_2(returns, costs, number, np.random.default_rng(seed))
    assert len(rows) == number
    for index, (kappa, rho, source) in enumerate(expected):
        assert rows.starts[index] == trajectories.rows.starts[source]
        assert rows.lengths[index] == trajectories.rows.lengths[source]
        assert rows.terminal[index] == trajectories.rows.terminal[source]
        assert rows.return_shift[index].item() == pytest.approx(rho - returns[source], abs=1e-5)
        assert rows.cost_shift[index].item() == pytest.approx(kappa - costs[source], abs=1e-5)
        assert min(costs) <= kappa <= max(costs)
        assert trajectories.frontier.target_return(kappa) == returns[source]
        assert returns[source] <= rho <= max(returns)


@pytest.mark.parametrize('seed', range(5))
def test_relabelling_is_algorithm_2(trajectories, seed):
    check(trajectories, seed)


def test_equal_returns_and_costs_are_broken_towards_the_cheaper(make_arrays):
    returns = [1.0, 4.0, 4.0, 2.0, 4.0, 6.0, 6.0]
    costs = [0.0, 5.0, 3.0, 3.0, 3.0, 9.0, 9.0]
    check(with_sums(make_arrays, returns, costs), seed=0)


@pytest.mark.parametrize(
    ('returns', 'costs'),
    [([3.0], [2.0]), ([3.0, 1.0, 2.0], [0.0, 0.0, 0.0]), ([2.0, 2.0, 2.0], [1.0, 5.0, 3.0])],
    ids=['one episode', 'no cost', 'one return'],
)
def test_datasets_without_spread(make_arrays, returns, costs):
    check(with_sums(make_arrays, returns, costs), seed=0, number=20)


def test_targets_cover_their_ranges(make_arrays):
    data = with_sums(make_arrays, [0.0, 10.0], [0.0, 8.0])
    rows = relabel_frontier(data, 4000, np.random.default_rng(0))
    # Only the first episode is within any cost below 8.
    assert not rows.starts.any()
    for shift, highest in ((rows.return_shift, 10), (rows.cost_shift, 8)):
        counts = torch.histc(shift, bins=4, min=0, max=highest)
        assert counts.sum() == 4000
        assert (counts > 900).all()


def test_the_shift_is_added_to_every_step_and_to_nothing_else(trajectories):
    rows = relabel_frontier(trajectories, 3, np.random.default_rng(2))
    for index in range(3):
        one = rows.select(torch.tensor([index]))
        source = int((trajectories.rows.starts == one.starts).nonzero())
        original = trajectories.select(torch.tensor([source]))
        new, old = (
            WindowSampler(original, 5, 1, seed=0, rows=chosen) for chosen in (one, original.rows)
        )
        windows = torch.arange(new.num_items)
        assert new.num_items == old.num_items
        changed, unchanged = vars(new.batch(windows)), vars(old.batch(windows))
        for name, shift in (('return_to_go', one.return_shift), ('cost_to_go', one.cost_shift)):
            difference = changed.pop(name) - unchanged.pop(name)
            np.testing.assert_allclose(difference, shift.expand(difference.shape), atol=1e-5)
        for name, value in changed.items():
            assert value.equal(unchanged[name]), name


def test_episodes_are_appended_without_copying_data(trajectories):
    table = trajectories.table.clone()
    rows, report = augment(trajectories, fraction=0.3, seed=0)
    assert len(rows) == 40 + 12
    assert report['episodes'] == 12
    for name, value in vars(rows).items():
        assert value[:40].equal(vars(trajectories.rows)[name])
        assert value.dtype == vars(trajectories.rows)[name].dtype
    assert len(trajectories.rows) == 40
    assert trajectories.table.equal(table)


def test_the_report_says_what_was_added(trajectories):
    _, report = augment(trajectories, fraction=2.0, seed=4)
    returns, costs = trajectories.returns.tolist(), trajectories.cost_returns.tolist()
    draws = np.random.default_rng(stream(4, 'augmentation'))
    expected = slow_algorithm_2(returns, costs, 80, draws)
    kappas, rhos, sources = zip(*expected)
    assert report.pop('episodes') == 80
    assert report.pop('source_episodes') == len(set(sources)) > 1
    assert report == pytest.approx(
        {
            'min_target_return': min(rhos),
            'max_target_return': max(rhos),
            'min_target_cost': min(kappas),
            'max_target_cost': max(kappas),
        },
        rel=1e-5,
    )


def test_the_seed_decides_the_targets(trajectories):
    first, again, other = (augment(trajectories, 0.5, seed)[0] for seed in (0, 0, 1))
    assert first.return_shift.equal(again.return_shift)
    assert first.cost_shift.equal(again.cost_shift)
    assert not first.cost_shift.equal(other.cost_shift)


@pytest.mark.parametrize('fraction', [0, 0.0, 0.01])
def test_no_share_adds_nothing(trajectories, fraction):
    rows, report = augment(trajectories, fraction, seed=0)
    assert rows is trajectories.rows
    assert report == {'episodes': 0}


@pytest.mark.parametrize('fraction', [-0.1, float('nan'), float('inf')])
def test_an_impossible_share_is_refused(trajectories, fraction):
    with pytest.raises(UserError, match=f'fraction is {fraction}; it must be 0 or more'):
        augment(trajectories, fraction, seed=0)


def test_a_hook_of_the_user_is_called_by_name(trajectories, tmp_path, monkeypatch):
    (tmp_path / 'my_relabelling.py').write_text(
        'def repeat_first(trajectories, num_episodes, generator):\n'
        '    return trajectories.rows.select([0] * num_episodes)\n',
    )
    monkeypatch.syspath_prepend(tmp_path)
    hook = load_hook('my_relabelling:repeat_first')
    rows, report = augment(trajectories, 0.1, seed=0, hook=hook)
    assert rows.starts[40:].tolist() == [0, 0, 0, 0]
    assert report['episodes'] == 4
    assert report['source_episodes'] == 1
    assert report['min_target_return'] == report['max_target_return']
    assert report['max_target_return'] == trajectories.returns[0].item()


def test_the_default_hook_is_found_by_its_name():
    assert load_hook('omnisafe_qpt.data.augmentation:relabel_frontier') is relabel_frontier


@pytest.mark.parametrize(
    'name',
    [
        'no_such_module_anywhere:hook',
        'math:no_such_function',
        'math',
        'math.floor',
        ':floor',
        '.math:floor',
        '',
        'math:pi',
    ],
)
def test_a_hook_that_is_none_is_refused(name):
    message = error_of(load_hook, name)
    assert f'augmentation hook {name!r}' in message
    assert 'package.module:function' in message or 'is not a function' in message
