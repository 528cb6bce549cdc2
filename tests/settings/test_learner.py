# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Every option of the configuration reaches the setting that it is about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from omnisafe.utils.config import Config

from omnisafe_qpt.baselines.config import BCSafeConfig, CPQConfig, FISORConfig
from omnisafe_qpt.qpt.config import (
    DeploymentConfig,
    LearnerConfig,
    OptimizerConfig,
    PolicyConfig,
)
from omnisafe_qpt.settings.files import load_defaults, merge
from omnisafe_qpt.settings.learner import (
    bc_safe_config,
    cpq_config,
    deployment_config,
    fisor_config,
    imitation_config,
    learner_config,
    single_action_config,
)


# All values differ, so that no two can be swapped unseen.
CHANGES = {
    'train_cfgs': {'total_steps': 77},
    'algo_cfgs': {
        'gamma': 0.9,
        'polyak': 0.8,
        'cost_limit': 6.0,
        'eta_reward': 0.11,
        'eta_cost': 0.22,
        'use_reward_critic': False,
        'use_cost_critic': True,
        'use_ensemble': True,
        'candidates': 9,
        'target_spread': 0.33,
        'candidate_shift': 'last',
        'selection_rule': 'bounded',
        'penalty_critic': 'first',
        'cost_value': 'max',
        'warmup_steps': 5,
        'lr_final_ratio': 0.44,
        'precision': 'bf16',
    },
    'model_cfgs': {
        'actor': {
            'context_len': 4,
            'embed_dim': 24,
            'num_layers': 2,
            'num_heads': 3,
            'dropout': 0.05,
            'lr': 0.001,
            'weight_decay': 0.002,
            'max_grad_norm': 0.003,
        },
        'critic': {
            'inputs': 'targets_time',
            'hidden_sizes': [7, 8],
            'lr': 0.004,
            'weight_decay': 0.005,
            'max_grad_norm': 0.006,
        },
    },
}


def make_cfgs(**algo_cfgs: object) -> Config:
    changed = merge(CHANGES, {'algo_cfgs': algo_cfgs})
    return Config.dict2config(merge(load_defaults('SafetyBallRun-v0'), changed))


def test_options_of_the_learner() -> None:
    assert learner_config(make_cfgs(), horizon=123, longest=100) == LearnerConfig(
        policy=PolicyConfig(4, 24, 2, 3, 0.05, max_timestep=99),
        critic_hidden_sizes=(7, 8),
        policy_optimizer=OptimizerConfig(0.001, 0.002, 0.003),
        critic_optimizer=OptimizerConfig(0.004, 0.005, 0.006),
        warmup_steps=5,
        lr_final_ratio=0.44,
        total_steps=77,
        gamma=0.9,
        polyak=0.8,
        eta_reward=0.11,
        eta_cost=0.22,
        use_reward_critic=False,
        use_cost_critic=True,
        train_critics=True,
        penalty_critic='first',
        cost_value='max',
        critic_inputs='targets_time',
        horizon=123,
        precision='bf16',
    )


def test_critics_are_trained_where_something_needs_them() -> None:
    switches = ('use_reward_critic', 'use_cost_critic', 'use_ensemble')
    off = dict.fromkeys(switches, False)
    assert not learner_config(make_cfgs(**off), 10, 10).train_critics
    for switch in switches:
        assert learner_config(make_cfgs(**{**off, switch: True}), 10, 10).train_critics


def test_options_of_deployment() -> None:
    assert deployment_config(make_cfgs()) == DeploymentConfig(
        6.0, 9, 0.33, 'last', 'bounded', 'max'
    )
    without = deployment_config(make_cfgs(use_ensemble=False))
    assert without == DeploymentConfig(6.0, 1, 0.33, 'last', 'bounded', 'max')


def test_defaults_in_python_are_those_of_the_yaml() -> None:
    """Exempt is the number of timestep embeddings, which follows from the environment."""
    cfgs = Config.dict2config(load_defaults('SafetyBallRun-v0'))
    horizon = LearnerConfig().horizon
    config = learner_config(cfgs, horizon, longest=horizon)
    assert config == LearnerConfig()
    assert config.policy == PolicyConfig()
    assert config.policy_optimizer == OptimizerConfig()
    assert deployment_config(cfgs) == DeploymentConfig()


# What builds an algorithm's learner, and options that are not its learner's.
BASELINES = {
    'BCSafe': (lambda cfgs: bc_safe_config(cfgs), BCSafeConfig(), {'cost_limit'}),
    'CPQ': (lambda cfgs: cpq_config(cfgs, 1000), CPQConfig(), set()),
    'FISOR': (lambda cfgs: fisor_config(cfgs, 1000), FISORConfig(), {'cost_limit'}),
}
# The sampler's and the loop's.
NOT_THE_LEARNERS = {'batch_size', 'steps_per_epoch'}


@pytest.mark.parametrize('algo', BASELINES)
def test_defaults_of_a_baseline_are_those_of_its_learner(algo: str) -> None:
    build, expected, _ = BASELINES[algo]
    assert build(Config.dict2config(load_defaults('SafetyBallRun-v0', algo))) == expected


def options_of(section: dict[str, Any], path: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [
        leaf
        for name, value in section.items()
        for leaf in (
            options_of(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]
        )
    ]


@pytest.mark.parametrize('algo', BASELINES)
def test_every_option_of_a_baseline_reaches_one_setting(algo: str) -> None:
    build, usual, not_its = BASELINES[algo]
    defaults = load_defaults('SafetyBallRun-v0', algo)
    reached = []
    for path in (
        ('train_cfgs', 'total_steps'),
        *options_of(defaults['algo_cfgs'], ('algo_cfgs',)),
        *options_of(defaults['model_cfgs'], ('model_cfgs',)),
    ):
        value: Any = defaults
        for name in path:
            value = value[name]
        other: Any = [7, 9] if isinstance(value, list) else type(value)(0.75 * value)
        change = other
        for name in reversed(path):
            change = {name: change}
        found = asdict(build(Config.dict2config(merge(defaults, change))))
        changed = {name: found[name] for name, was in asdict(usual).items() if found[name] != was}
        if path[-1] in NOT_THE_LEARNERS | not_its:
            assert not changed
            continue
        assert [list(v) if isinstance(v, tuple) else v for v in changed.values()] == [other], path
        reached += changed
    assert len(reached) == len(set(reached)), 'no two options are the same setting'
    assert set(asdict(usual)) - set(reached) <= {'horizon'}


def test_cdt_is_qpt_without_critics() -> None:
    changes = {
        'train_cfgs': {'total_steps': 77},
        'algo_cfgs': {
            name: CHANGES['algo_cfgs'][name]
            for name in ('cost_limit', 'warmup_steps', 'lr_final_ratio', 'precision')
        },
        'model_cfgs': {'actor': CHANGES['model_cfgs']['actor']},
    }
    cfgs = Config.dict2config(merge(load_defaults('SafetyBallRun-v0', 'CDT'), changes))
    assert imitation_config(cfgs, horizon=123, longest=100) == LearnerConfig(
        policy=PolicyConfig(4, 24, 2, 3, 0.05, max_timestep=99),
        critic_hidden_sizes=(1,),
        policy_optimizer=OptimizerConfig(0.001, 0.002, 0.003),
        warmup_steps=5,
        lr_final_ratio=0.44,
        total_steps=77,
        use_reward_critic=False,
        use_cost_critic=False,
        train_critics=False,
        horizon=123,
        precision='bf16',
    )
    # Another rule would look at less of the history than the policy was trained with.
    assert single_action_config(cfgs) == DeploymentConfig(6.0, 1, rule='paper')
