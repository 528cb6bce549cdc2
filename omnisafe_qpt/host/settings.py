# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""From OmniSafe's configuration to the core's typed settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omnisafe_qpt.core.config import (
    DeploymentConfig,
    LearnerConfig,
    OptimizerConfig,
    PolicyConfig,
)


def learner_config(cfgs: Any, horizon: int) -> LearnerConfig:
    """Build the learner's settings.

    Args:
        cfgs (Config): The run's configuration, ``configs/QPT.yaml`` with the user's changes.
        horizon (int): Steps in an episode, the number of timestep embeddings.

    Raises:
        UserError: If a value is impossible.
    """
    algo, actor, critic = cfgs.algo_cfgs, cfgs.model_cfgs.actor, cfgs.model_cfgs.critic
    return LearnerConfig(
        policy=PolicyConfig(
            context_len=actor.context_len,
            embed_dim=actor.embed_dim,
            num_layers=actor.num_layers,
            num_heads=actor.num_heads,
            dropout=actor.dropout,
            max_timestep=horizon,
        ),
        critic_hidden_sizes=tuple(critic.hidden_sizes),
        policy_optimizer=OptimizerConfig(actor.lr, actor.weight_decay, actor.max_grad_norm),
        critic_optimizer=OptimizerConfig(critic.lr, critic.weight_decay, critic.max_grad_norm),
        warmup_steps=algo.warmup_steps,
        lr_final_ratio=algo.lr_final_ratio,
        total_steps=cfgs.train_cfgs.total_steps,
        gamma=algo.gamma,
        polyak=algo.polyak,
        eta_reward=algo.eta_reward,
        eta_cost=algo.eta_cost,
        use_reward_critic=algo.use_reward_critic,
        use_cost_critic=algo.use_cost_critic,
        train_critics=algo.use_reward_critic or algo.use_cost_critic or algo.use_ensemble,
        penalty_critic=algo.penalty_critic,
        cost_value=algo.cost_value,
        precision=algo.precision,
    )


def deployment_config(cfgs: Any) -> DeploymentConfig:
    """Build the settings of deployment; without the ensemble there is one candidate.

    Args:
        cfgs (Config): The run's configuration.

    Raises:
        UserError: If a value is impossible.
    """
    algo = cfgs.algo_cfgs
    config = DeploymentConfig(
        cost_limit=algo.cost_limit,
        candidates=algo.candidates,
        target_spread=algo.target_spread,
        candidate_shift=algo.candidate_shift,
        rule=algo.selection_rule,
        cost_value=algo.cost_value,
    )
    if algo.use_ensemble:
        return config
    return replace(config, candidates=1)
