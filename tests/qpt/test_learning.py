# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The mechanisms on a task whose answer is known: only a working cost critic keeps the limit.

A vehicle drives for 20 steps. Its action sets its speed, its reward is its speed, and on about
half of the steps there is a hazard in view, where a speed above 0.4 costs 1. At most 2 may be
spent. Each recorded driver has a favourite speed and keeps to it but for noise, hazard or not:
drivers who stay within the limit are slow everywhere. The best that the limit allows is to be fast
where there is no hazard and slow where there is one, which nobody in the data does.

With seeds 0 to 6 (64 episodes each; mean return / mean cost):

- the data: 9.2 to 10.5 / 5.5 to 6.4
- cloning all drivers: 8.9 to 10.1 / 6.2 to 7.8
- cloning safe drivers: 3.3 to 4.2 / 0.0
- QPT without the cost term: 9.2 to 12.4 / 7.1 to 9.4
- QPT, plain policy: 6.4 to 9.8 / 0.0 to 0.2
- QPT, paper's rule, 8 candidates: 9.8 to 10.6 / 0.2 to 1.1
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.qpt.config import (
    DeploymentConfig,
    LearnerConfig,
    OptimizerConfig,
    PolicyConfig,
)
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import Scaling


HORIZON = 20
COST_LIMIT = 2.0
DRIVERS = 300
UPDATES = 400
SEED = 0
CLONING = {'use_reward_critic': False, 'use_cost_critic': False, 'train_critics': False}


class Outcome(NamedTuple):
    """Means over episodes, and the share of episodes within the limit."""

    mean_return: float
    mean_cost: float
    safe_share: float


def observations_of(hazards):
    """(E, T) hazards to (E, T, 2) observations: the hazard and the time."""
    times = np.arange(hazards.shape[1]) / HORIZON
    return np.stack([hazards, np.broadcast_to(times, hazards.shape)], axis=-1).astype(np.float32)


def cost_of(hazards, speed):
    return ((hazards > 0) & (speed > 0.4)).astype(np.float32)


def record_drivers(seed):
    generator = np.random.default_rng(seed)
    hazards = generator.random((DRIVERS, HORIZON + 1)) < 0.5
    favourite = generator.random((DRIVERS, 1))
    speed = favourite + 0.25 * generator.standard_normal((DRIVERS, HORIZON))
    speed = speed.clip(0, 1).astype(np.float32)
    observations = observations_of(hazards)
    last = np.tile(np.arange(HORIZON) == HORIZON - 1, DRIVERS)
    return Trajectories.from_arrays(
        {
            'observations': observations[:, :-1].reshape(-1, 2),
            'next_observations': observations[:, 1:].reshape(-1, 2),
            'actions': 2 * speed.reshape(-1, 1) - 1,
            'rewards': speed.reshape(-1),
            'costs': cost_of(hazards[:, :-1], speed).reshape(-1),
            'terminals': np.zeros_like(last),
            'timeouts': last,
        },
    )


def train(trajectories, rows=None, **switches):
    torch.manual_seed(SEED)
    config = LearnerConfig(
        policy=PolicyConfig(
            context_len=4,
            embed_dim=32,
            num_layers=1,
            num_heads=2,
            dropout=0.0,
            max_timestep=HORIZON - 1,
        ),
        critic_hidden_sizes=(64, 64),
        policy_optimizer=OptimizerConfig(lr=2e-3),
        critic_optimizer=OptimizerConfig(lr=2e-3, weight_decay=0.0, max_grad_norm=10.0),
        warmup_steps=20,
        lr_final_ratio=0.05,
        total_steps=UPDATES,
        gamma=0.5,  # what an action costs shows at once
        polyak=0.95,
        eta_reward=2.0,
        eta_cost=2.0,
        **switches,
    )
    learner = Learner(2, 1, Scaling.from_data(trajectories, COST_LIMIT), config)
    sampler = WindowSampler(trajectories, 4, 32, SEED, rows)
    for _ in range(UPDATES):
        learner.update(sampler.sample())
    return learner


def drive(learner, target_return, cost_limit=COST_LIMIT, candidates=1, episodes=64):
    """Deploy on unseen hazards."""
    networks = DeployableNetworks.from_learner(learner, {'horizon': HORIZON})
    policy = RolloutPolicy(networks, DeploymentConfig(candidates=candidates), episodes)
    policy.reset(float(target_return), float(cost_limit), seeds=range(episodes))
    hazards = np.random.default_rng(123).random((episodes, HORIZON)) < 0.5
    observations = observations_of(hazards)
    returns, costs = np.zeros(episodes), np.zeros(episodes)
    for t in range(HORIZON):
        speed = (policy.act(observations[:, t])[:, 0].numpy() + 1) / 2
        cost = cost_of(hazards[:, t], speed)
        policy.observe(speed, cost)
        returns += speed
        costs += cost
    return Outcome(returns.mean(), costs.mean(), (costs <= COST_LIMIT).mean())


def imitate(trajectories):
    """Clone the episodes, and ask for what they are worth on average."""
    learner = train(trajectories, **CLONING)
    return drive(learner, trajectories.returns.mean(), trajectories.cost_returns.mean())


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name='drivers', scope='module')
def fixture_drivers():
    return record_drivers(SEED)


def test_data_breaks_the_limit_more_often_than_not(drivers):
    assert drivers.cost_returns.mean() > 2 * COST_LIMIT
    assert 0.1 < (drivers.cost_returns <= COST_LIMIT).float().mean() < 0.5


def test_cloning_all_drivers_breaks_the_limit(drivers):
    outcome = imitate(drivers)
    assert outcome.mean_cost > 2 * COST_LIMIT
    assert outcome.safe_share < 0.1


@pytest.mark.slow
def test_qpt_without_the_cost_term_breaks_the_limit(drivers):
    rows, _ = augment(drivers, 0.3, SEED)
    learner = train(drivers, rows, use_cost_critic=False)
    outcome = drive(learner, drivers.frontier.target_return(COST_LIMIT))
    assert outcome.mean_cost > 2 * COST_LIMIT
    assert outcome.safe_share < 0.1


def test_qpt_keeps_the_limit_and_is_faster_than_cloning_safe_drivers(drivers):
    cautious = imitate(drivers.select(drivers.cost_returns <= COST_LIMIT))
    assert cautious.mean_cost <= COST_LIMIT
    rows, _ = augment(drivers, 0.3, SEED)
    learner = train(drivers, rows)
    target_return = drivers.frontier.target_return(COST_LIMIT)
    for candidates in (1, 8):
        outcome = drive(learner, target_return, candidates=candidates)
        assert outcome.mean_cost <= COST_LIMIT
        assert outcome.safe_share > 0.9
        assert outcome.mean_return > cautious.mean_return + 2
