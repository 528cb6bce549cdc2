# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the core: impossible values are refused by name, all sensible ones are taken."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product

import pytest

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import (
    DeploymentConfig,
    LearnerConfig,
    OptimizerConfig,
    PolicyConfig,
)


IMPOSSIBLE = [
    (PolicyConfig, {'context_len': 0}, 'context_len'),
    (PolicyConfig, {'embed_dim': 0}, 'embed_dim'),
    (PolicyConfig, {'num_layers': 0}, 'num_layers'),
    (PolicyConfig, {'num_heads': 0}, 'num_heads'),
    (PolicyConfig, {'max_timestep': -1}, 'max_timestep'),
    (PolicyConfig, {'embed_dim': 128, 'num_heads': 6}, 'num_heads'),
    (PolicyConfig, {'dropout': 1.0}, 'dropout'),
    (PolicyConfig, {'dropout': -0.1}, 'dropout'),
    (OptimizerConfig, {'lr': 0.0}, 'lr'),
    (OptimizerConfig, {'weight_decay': -1e-4}, 'weight_decay'),
    (OptimizerConfig, {'max_grad_norm': 0.0}, 'max_grad_norm'),
    (LearnerConfig, {'critic_hidden_sizes': ()}, 'hidden_sizes'),
    (LearnerConfig, {'critic_hidden_sizes': (64, 0)}, 'hidden_sizes'),
    (LearnerConfig, {'warmup_steps': -1}, 'warmup_steps'),
    (LearnerConfig, {'lr_final_ratio': 1.1}, 'lr_final_ratio'),
    (LearnerConfig, {'lr_final_ratio': -0.1}, 'lr_final_ratio'),
    (LearnerConfig, {'total_steps': 0}, 'total_steps'),
    (LearnerConfig, {'gamma': 1.01}, 'gamma'),
    (LearnerConfig, {'gamma': -0.01}, 'gamma'),
    (LearnerConfig, {'polyak': 1.0}, 'polyak'),
    (LearnerConfig, {'polyak': -0.1}, 'polyak'),
    (LearnerConfig, {'eta_reward': -1.0}, 'eta_reward'),
    (LearnerConfig, {'eta_cost': -1.0}, 'eta_cost'),
    (LearnerConfig, {'penalty_critic': 'both'}, 'penalty_critic'),
    (LearnerConfig, {'cost_value': 'mean'}, 'cost_value'),
    (LearnerConfig, {'precision': 'float16'}, 'precision'),
    (LearnerConfig, {'train_critics': False}, 'train_critics'),
    (
        LearnerConfig,
        {'train_critics': False, 'use_reward_critic': False},
        'train_critics',
    ),
    (LearnerConfig, {'policy': PolicyConfig(context_len=1)}, 'context_len'),
    (DeploymentConfig, {'cost_limit': -1.0}, 'cost_limit'),
    (DeploymentConfig, {'candidates': 0}, 'candidates'),
    (DeploymentConfig, {'target_spread': -0.1}, 'target_spread'),
    (DeploymentConfig, {'candidate_shift': 'first'}, 'candidate_shift'),
    (DeploymentConfig, {'rule': 'best'}, 'rule'),
    (DeploymentConfig, {'cost_value': 'mean'}, 'cost_value'),
]


@pytest.mark.parametrize(('kind', 'values', 'option'), IMPOSSIBLE)
def test_impossible_value_is_refused_in_one_line_that_names_the_option(kind, values, option):
    with pytest.raises(UserError) as error:
        kind(**values)
    message = str(error.value)
    assert option in message
    assert 'must be' in message
    assert '\n' not in message


@pytest.mark.parametrize('value', [float('nan'), 10**400], ids=['nan', 'huge'])
@pytest.mark.parametrize(
    ('kind', 'option'),
    [
        (PolicyConfig, 'dropout'),
        (OptimizerConfig, 'lr'),
        (OptimizerConfig, 'weight_decay'),
        (LearnerConfig, 'gamma'),
        (LearnerConfig, 'eta_cost'),
        (DeploymentConfig, 'cost_limit'),
    ],
)
def test_nan_and_huge_numbers_are_refused(kind, option, value):
    with pytest.raises(UserError, match=option):
        kind(**{option: value})


@pytest.mark.parametrize(
    ('kind', 'values'),
    [
        (PolicyConfig, {'embed_dim': 1, 'num_heads': 1, 'num_layers': 1, 'max_timestep': 1}),
        (PolicyConfig, {'dropout': 0.0}),
        (OptimizerConfig, {'weight_decay': 0.0}),
        (LearnerConfig, {'gamma': 1.0, 'lr_final_ratio': 0.0, 'polyak': 0.0}),
        (LearnerConfig, {'gamma': 0.0, 'eta_reward': 0.0, 'eta_cost': 0.0, 'total_steps': 1}),
        (LearnerConfig, {'warmup_steps': 1_000_000}),
        (DeploymentConfig, {'cost_limit': 0.0, 'candidates': 1, 'target_spread': 0.0}),
    ],
)
def test_values_at_their_bounds_are_taken(kind, values):
    config = kind(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_one_step_of_context_is_enough_without_critics():
    config = LearnerConfig(
        policy=PolicyConfig(context_len=1),
        use_reward_critic=False,
        use_cost_critic=False,
        train_critics=False,
    )
    assert config.policy.context_len == 1


@pytest.mark.parametrize(('reward', 'cost'), product([True, False], repeat=2))
def test_critics_may_be_trained_for_deployment_alone(reward, cost):
    # Exp 6 of Table 2 scores candidates with critics that no penalty used.
    assert LearnerConfig(use_reward_critic=reward, use_cost_critic=cost).train_critics


@pytest.mark.parametrize(
    'config', [PolicyConfig(), OptimizerConfig(), LearnerConfig(), DeploymentConfig()]
)
def test_settings_do_not_change(config):
    name = next(iter(vars(config)))
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, getattr(config, name))
