# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Off-policy evaluation in an environment of two lines, where the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation import estimates
from omnisafe_qpt.evaluation.off_policy.backtest import backtest
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig, DynamicsEnsemble
from omnisafe_qpt.evaluation.off_policy.estimate import (
    DOUBTFUL,
    NOT_USABLE,
    RELIABLE,
    OffPolicyEstimate,
    OffPolicyEvaluator,
)
from omnisafe_qpt.evaluation.off_policy.rollouts import Imagined, Level, exogenous_series, imagine
from omnisafe_qpt.qpt.config import DeploymentConfig


HORIZON = 25
CONFIG = DynamicsConfig(
    members=3, hidden_sizes=(32, 32), signal_sizes=(32, 32), updates=2000, batch_size=128
)
DEPLOYMENT = DeploymentConfig(candidates=1, cost_limit=4.0)


def true_step(position, action):
    """A point moves; beyond 1 each step costs, and beyond 2 the episode ends."""
    position = position + 0.12 * action
    return position, action - 0.2 * action**2, (position > 1.0) * 1.0, position > 2.0


class Mover:
    """A policy that moves by as much as it is asked for, less what it has already cost."""

    def __init__(self):
        self.made = []  # what was deployed

    def deploy(self, config, num_episodes=1):
        del config
        policy = Mover()
        policy.asked, policy.recorded = torch.zeros(num_episodes), []
        self.made.append(policy)
        return policy

    def reset(self, target_return, cost_limit, seeds=(0,), episodes=None):
        assert len(seeds) == len(episodes)
        self.asked[list(episodes)] = 0.0 if target_return is None else float(target_return)

    def act(self, observations):
        assert torch.isfinite(observations).all()
        return (self.asked[:, None] / HORIZON - 0.1 * observations[:, :1]).clamp(-1, 1)

    def observe(self, rewards, costs):
        assert torch.isfinite(torch.as_tensor(rewards)).all()
        assert (torch.as_tensor(costs) >= 0).all()

    def record_actions(self, actions):
        self.recorded.append(actions)


def true_episodes(asked, starts):
    """Mean return, cost and length of the policy in the environment itself."""
    policy = Mover().deploy(DEPLOYMENT, len(starts))
    policy.reset(asked, 0.0, range(len(starts)), range(len(starts)))
    position, running = starts.copy(), np.ones(len(starts))
    totals = np.zeros((3, len(starts)))
    for _ in range(HORIZON):
        obs = torch.tensor(np.stack([position, 0 * position], 1), dtype=torch.float32)
        position, reward, cost, ends = true_step(position, policy.act(obs)[:, 0].numpy())
        totals += np.stack([reward, cost, np.ones_like(cost)]) * running
        running *= ~ends
    return totals.mean(1)


@pytest.fixture(scope='module')
def data():
    """120 episodes of policies that move about in every way."""
    random = np.random.default_rng(0)
    parts = {key: [] for key in ('observations', 'next_observations', 'actions', 'rewards')}
    parts |= {key: [] for key in ('costs', 'terminals', 'timeouts')}
    for _ in range(120):
        position, aim = random.uniform(-0.5, 0.5), random.uniform(-0.4, 1.0)
        for step in range(HORIZON):
            action = np.clip(aim + 0.4 * random.standard_normal(), -1, 1)
            before = position
            position, reward, cost, ends = true_step(position, action)
            parts['observations'].append([before, 0.0])
            parts['next_observations'].append([position, 0.0])
            parts['actions'].append([action])
            parts['rewards'].append(reward)
            parts['costs'].append(cost)
            parts['terminals'].append(ends)
            parts['timeouts'].append(step == HORIZON - 1 and not ends)
            if ends:
                break
    arrays = {
        key: np.asarray(value, dtype=bool if key in ('terminals', 'timeouts') else np.float32)
        for key, value in parts.items()
    }
    return Trajectories.from_arrays(arrays, HORIZON)


@pytest.fixture(scope='module')
def model(data):
    return DynamicsEnsemble.fit(data, CONFIG, seed=1)


def start_states(number):
    return np.random.default_rng(5).uniform(-0.5, 0.5, number)


def test_rollouts_bring_what_the_environment_does(data, model):
    starts = start_states(60)
    states = torch.tensor(np.stack([starts, 0 * starts], 1), dtype=torch.float32)
    asked = (5.0, 12.0, 20.0)
    levels = [Level(value, 4.0) for value in asked]
    found = imagine(Mover(), DEPLOYMENT, model, states, levels, HORIZON)
    for value, level in zip(asked, found):
        assert level.returns.shape == (3, 20)
        truth = true_episodes(value, starts)
        means = [level.returns.mean(), level.costs.mean(), level.lengths.mean()]
        assert (np.abs(np.array(means) - truth) < [0.2, 0.4, 0.4]).all(), (means, truth)
        assert level.novel.mean() < 0.05
    costs = [level.costs.mean() for level in found]
    assert costs[0] < 0.5 < 3.0 < max(costs)


def test_a_policy_that_leaves_the_data_is_noticed(model):
    far = torch.full((30, 2), 40.0)
    (found,) = imagine(Mover(), DEPLOYMENT, model, far, [Level(5.0, 4.0)], HORIZON)
    assert found.novel.mean() > 0.5


def test_the_same_seed_brings_the_same(data):
    short = replace(CONFIG, updates=20)
    levels, drawn = [Level(9.0, 4.0), Level(None, 0.0)], []
    for seed in (3, 3, 4):
        torch.rand(7)  # whatever else is drawn
        evaluator = OffPolicyEvaluator(data, HORIZON, seed, dynamics=short)
        drawn.append(evaluator.evaluate(Mover(), DEPLOYMENT, levels))
    first, again, other = (each.imagined[0].returns for each in drawn)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_learning_leaves_torchs_generator_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DynamicsEnsemble.fit(data, replace(CONFIG, updates=2))
    assert torch.equal(torch.rand(3), expected)


def test_held_out_episodes_are_followed(data, model):
    """Where the policy does the same in both states, the data's own actions are taken."""
    networks, chosen = Mover(), data.select(torch.arange(12))
    test = backtest(networks, DEPLOYMENT, model, chosen)
    np.testing.assert_allclose(test.costs, chosen.cost_returns.numpy())
    np.testing.assert_allclose(test.predicted_costs, test.costs, atol=2.0)
    np.testing.assert_allclose(test.predicted_returns, test.returns, atol=1.0)
    np.testing.assert_allclose(test.predicted_lengths, test.lengths, atol=2.5)
    in_data, in_model = (torch.stack(each.recorded)[..., 0] for each in networks.made)
    assert (in_model[:, :12] - in_data).abs().mean() < 0.02


@pytest.fixture(scope='module')
def days():
    """60 days whose demand no action changes; unserved demand costs. Also their demands."""
    random = np.random.default_rng(0)
    demand = random.uniform(0.2, 1.0, (60, 1)) + 0.15 * random.standard_normal((60, HORIZON))
    served = (
        demand + random.uniform(-0.5, 0.5, (60, 1)) + 0.1 * random.standard_normal((60, HORIZON))
    )
    actions = np.clip(served, -1, 1)
    store = np.cumsum(0.02 * actions, 1) - 0.02 * actions
    obs = np.stack([demand, store], -1)
    following = np.concatenate([obs[:, 1:], 0 * obs[:, :1]], 1)  # as logs have it at a time limit
    ends = np.tile(np.arange(HORIZON) == HORIZON - 1, 60)
    arrays = {
        'observations': obs.reshape(-1, 2).astype(np.float32),
        'next_observations': following.reshape(-1, 2).astype(np.float32),
        'actions': actions.reshape(-1, 1).astype(np.float32),
        'rewards': -actions.ravel().astype(np.float32),
        'costs': (demand - actions).clip(0).ravel().astype(np.float32),
        'terminals': np.zeros(len(ends), dtype=bool),
        'timeouts': ends,
    }
    return Trajectories.from_arrays(arrays, HORIZON), demand


def test_exogenous_components_are_replayed(days):
    """A policy that ignores the demand leaves as much of it unserved as it truly would."""
    trajectories, demand = days
    config = replace(CONFIG, exogenous=(0,))
    model = DynamicsEnsemble.fit(trajectories, config, seed=1)
    series = exogenous_series(trajectories, config.exogenous, HORIZON)
    assert series.shape == (60, HORIZON, 1)
    np.testing.assert_allclose(series[:, :-1, 0], demand[:, 1:], atol=1e-6)
    assert series[:, -1].isnan().all()
    starts = trajectories.table[trajectories.rows.starts, :2]
    levels = [Level(0.4 * HORIZON, 0.0)]
    (found,) = imagine(Steady(), DEPLOYMENT, model, starts, levels, HORIZON, recorded=series)
    truth = (demand - 0.4).clip(0).sum(1).reshape(3, 20)
    assert np.abs(found.costs - truth).mean() < 0.4
    assert np.corrcoef(found.costs.ravel(), truth.ravel())[0, 1] > 0.99
    (guessed,) = imagine(Steady(), DEPLOYMENT, model, starts, levels, HORIZON)
    assert np.abs(guessed.costs - truth).mean() > 2 * np.abs(found.costs - truth).mean()


class Steady(Mover):
    """A policy that takes the same action all the time."""

    def deploy(self, config, num_episodes=1):
        policy = Steady()
        policy.asked, policy.recorded = torch.zeros(num_episodes), []
        return policy

    def act(self, observations):
        assert torch.isfinite(observations).all()
        return (self.asked[:, None] / HORIZON).clamp(-1, 1)


@pytest.mark.slow
def test_the_test_on_held_out_episodes_replays_too(days):
    trajectories, _ = days
    errors = []
    for exogenous in ((), (0,)):
        model = DynamicsEnsemble.fit(trajectories, replace(CONFIG, exogenous=exogenous), seed=1)
        test = backtest(Steady(), DEPLOYMENT, model, trajectories.select(torch.arange(12)))
        errors.append(np.abs(test.predicted_costs - test.costs).mean())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize('exogenous', [(2,), (0, 1)])
def test_impossible_exogenous_components_are_refused(data, exogenous):
    with pytest.raises(UserError, match='exogenous'):
        DynamicsEnsemble.fit(data, replace(CONFIG, exogenous=exogenous))


def fake(costs, novel=0.0, truth=0.0, near=20):
    """Two levels with these mean costs; held-out episodes cost so much more than predicted."""
    shape = (3, 4)
    imagined = tuple(
        Imagined(
            np.full(shape, 10.0 + index), np.full(shape, cost), np.full(shape, 9.0),
            np.full(shape, novel),
        )
        for index, cost in enumerate(costs)
    )  # fmt: skip
    predicted = np.where(np.arange(40) < near, 3.0, 30.0)
    zeros = np.zeros(40)
    test = SimpleNamespace(
        costs=predicted + truth, predicted_costs=predicted, returns=zeros, predicted_returns=zeros
    )
    return OffPolicyEstimate((Level(1.0, 1.0), Level(2.0, 2.0)), imagined, test)


def test_a_level_with_few_episodes_near_is_bounded_by_the_nearest():
    bound, reason = fake((1.0, 3.9), near=5, truth=2.0).bound(0, 2.0)
    assert (bound, reason) == (pytest.approx(3.0), '')


@pytest.mark.parametrize(
    ('given', 'verdict', 'chosen'),
    [
        ({'costs': (1.0, 3.9)}, RELIABLE, 1),
        ({'costs': (1.0, 4.1)}, RELIABLE, 0),
        ({'costs': (1.0, 3.9), 'truth': 2.0}, RELIABLE, 0),  # underestimated by 2
        ({'costs': (1.0, 3.9), 'truth': -2.0}, RELIABLE, 1),  # overestimates are no reason
        ({'costs': (1.0, 3.9), 'truth': 5.0}, RELIABLE, None),
        ({'costs': (1.0, 3.9), 'novel': 0.06}, NOT_USABLE, None),
        ({'costs': (1.0, 3.9), 'near': 9}, DOUBTFUL, None),
    ],
)
def test_what_is_chosen_at_a_limit_of_4(given, verdict, chosen):
    found = fake(**given)
    assert found.judge(0, 4.0).verdict == verdict
    assert bool(found.judge(0, 4.0).reason) == (verdict != RELIABLE)
    assert found.choose(4.0) == chosen


def test_an_interval_of_too_few_episodes_is_none_in_json():
    level = estimates._level(fake((1.0, 3.9), near=1), 0, 4.0)
    assert level['cost_interval'] is level['return_interval'] is None
    json.dumps(level, allow_nan=False)
