# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The operations that are counted from sizes are those that an update and a step carry out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import operations
from benchmarks.works import acting
from core_helpers import (
    ACT_DIM,
    OBS_DIM,
    policy_inputs,
    random_batch,
    small_config,
    small_learner,
    small_policy_config,
)
from omnisafe_qpt.qpt import kernels
from omnisafe_qpt.qpt.config import LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling


@pytest.fixture(autouse=True)
def _products_that_the_counter_knows(monkeypatch):
    """It does not know those that linear layers and small attention take on a CPU."""
    monkeypatch.setattr(kernels, '_product', None)
    monkeypatch.setattr(kernels, '_ROWS_OF_ATTENTION', 0)
    monkeypatch.setattr(kernels, '_MASK_ALIGNMENT', 1)  # what is added to rows is not necessary


CONFIGS = {
    'plain': small_config(),
    'deep, with dropout': small_config(small_policy_config(dropout=0.1, num_layers=3)),
    'one layer': small_config(small_policy_config(num_layers=1)),
    'both critics': small_config(penalty_critic='pessimistic'),
    'wide': small_config(small_policy_config(embed_dim=64), critic_hidden_sizes=(64, 48, 32)),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_the_dense_count_is_what_an_update_does(name):
    learner, batch = small_learner(CONFIGS[name]), random_batch(num_windows=12)
    with FlopCounterMode(display=False) as counter:
        learner.update(batch)
    counted = operations.update_operations(OBS_DIM, ACT_DIM, CONFIGS[name], 12, dense=True)
    assert counter.get_total_flops() == sum(counted.values())


def test_only_the_necessary_is_less():
    sizes = (OBS_DIM, ACT_DIM, CONFIGS['plain'], 12)
    necessary = operations.update_operations(*sizes)
    dense = operations.update_operations(*sizes, dense=True)
    assert all(0 < necessary[part] <= dense[part] for part in dense)
    assert necessary['critics'] == dense['critics']
    assert necessary['penalty'] < dense['penalty']


def test_half_of_the_attention_is_masked():
    config = PolicyConfig(context_len=50, num_layers=4)
    sizes = (OBS_DIM, ACT_DIM, config)
    necessary = operations.policy_products(*sizes, last_only=False).attention
    dense = operations.policy_products(*sizes, last_only=False, dense=True).attention
    assert necessary / dense == pytest.approx(0.5, abs=0.01)


@torch.no_grad()
def test_the_last_state_alone_costs_what_its_forward_pass_does():
    learner, batch = small_learner(), random_batch(num_windows=12)
    config = CONFIGS['plain'].policy
    with FlopCounterMode(display=False) as counter:
        learner.target_policy(policy_inputs(batch), last_only=True)
    products = operations.policy_products(OBS_DIM, ACT_DIM, config, last_only=True, dense=True)
    assert counter.get_total_flops() == 12 * products.forward


def test_a_step_of_the_plain_policy_needs_no_critics():
    config = LearnerConfig()
    plain = operations.acting_operations(88, 2, config, candidates=1, episodes=3)
    policy = operations.policy_products(88, 2, config.policy, last_only=True)
    # The last layer's weights of keys and values are applied to one token instead of to 39.
    assert 0.85 * 3 * policy.forward < plain < 3 * policy.forward
    assert plain < operations.acting_operations(88, 2, config, candidates=2, episodes=3)
    learner = small_learner()
    weights = sum(parameter.numel() for parameter in learner.policy.parameters())
    assert operations.acting_bytes(learner, candidates=1) == 4 * weights
    assert operations.acting_bytes(learner, candidates=2) > 4 * weights


@torch.no_grad()
def test_a_step_of_many_candidates_does_what_is_counted():
    config = LearnerConfig(policy=PolicyConfig(embed_dim=16, num_heads=2), critic_hidden_sizes=(8,))
    learner = Learner(88, 2, Scaling(torch.zeros(88), torch.ones(88)), config)
    act = acting(DeployableNetworks.from_learner(learner, {}), 5, 3, 'history')
    with FlopCounterMode(display=False) as counter:
        act()
    sizes = (88, 2, config.policy)
    masked = (
        operations.policy_products(*sizes, last_only=True, dense=True).forward
        - operations.policy_products(*sizes, last_only=True).forward
    )
    # The return tokens go through the first projections once more than they have to.
    repeated = 3 * 2 * 3 * config.policy.context_len * config.policy.embed_dim**2
    counted = operations.acting_operations(88, 2, config, candidates=5, episodes=3)
    expected = counted + 5 * 3 * masked + repeated
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_bytes_are_those_of_every_number_and_of_the_batch():
    learner = small_learner()
    trained = (learner.policy, learner.reward_critic, learner.cost_critic)
    numbers = sum(p.numel() for network in trained for p in network.parameters())
    none = operations.update_bytes(learner, 0, 9)
    assert none == 32 * numbers
    assert operations.update_bytes(learner, 2, 9) == none + 2 * 5 * 9 * 4


def test_what_is_kept_for_backward_grows_with_the_batch_and_not_with_the_weights():
    config = replace(small_config(), critic_hidden_sizes=(16, 16))
    learner = small_learner(config)
    few, many = (
        operations.saved_bytes(learner, lambda size=size: learner.update(random_batch(size)))
        for size in (20, 40)
    )
    assert 1.8 < many / few < 2.1
