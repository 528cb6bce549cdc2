# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the learners and of deployment from OmniSafe's configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omnisafe_qpt.baselines.config import BCSafeConfig, CPQConfig, FISORConfig
from omnisafe_qpt.qpt.config import (
    DeploymentConfig,
    LearnerConfig,
    OptimizerConfig,
    PolicyConfig,
)


def learner_config(cfgs: Any, horizon: int, longest: int) -> LearnerConfig:
    """Build the settings of QPT's learner.

    Args:
        cfgs (Config): The run's configuration, ``configs/QPT.yaml`` with the user's changes.
        horizon (int): Steps in an episode.
        longest (int): Steps of the longest episode in the data.

    Raises:
        UserError: If a value is impossible.
    """
    algo, actor, critic = cfgs.algo_cfgs, cfgs.model_cfgs.actor, cfgs.model_cfgs.critic
    return LearnerConfig(
        policy=_policy_config(actor, longest),
        critic_hidden_sizes=tuple(critic.hidden_sizes),
        policy_optimizer=_optimizer_config(actor),
        critic_optimizer=_optimizer_config(critic),
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
        critic_inputs=critic.inputs,
        horizon=horizon,
        precision=algo.precision,
    )


def imitation_config(cfgs: Any, horizon: int, longest: int) -> LearnerConfig:
    """Build the settings of CDT's learner: QPT's without critics.

    Args:
        cfgs (Config): The run's configuration, ``configs/CDT.yaml`` with the user's changes.
        horizon (int): Steps in an episode.
        longest (int): Steps of the longest episode in the data.

    Raises:
        UserError: If a value is impossible.
    """
    algo, actor = cfgs.algo_cfgs, cfgs.model_cfgs.actor
    return LearnerConfig(
        policy=_policy_config(actor, longest),
        critic_hidden_sizes=(1,),  # there are no critics
        policy_optimizer=_optimizer_config(actor),
        warmup_steps=algo.warmup_steps,
        lr_final_ratio=algo.lr_final_ratio,
        total_steps=cfgs.train_cfgs.total_steps,
        use_reward_critic=False,
        use_cost_critic=False,
        train_critics=False,
        horizon=horizon,
        precision=algo.precision,
    )


def _policy_config(actor: Any, longest: int) -> PolicyConfig:
    return PolicyConfig(
        context_len=actor.context_len,
        embed_dim=actor.embed_dim,
        num_layers=actor.num_layers,
        num_heads=actor.num_heads,
        dropout=actor.dropout,
        max_timestep=longest - 1,
    )


def _optimizer_config(network: Any) -> OptimizerConfig:
    return OptimizerConfig(network.lr, network.weight_decay, network.max_grad_norm)


def deployment_config(cfgs: Any) -> DeploymentConfig:
    """Build the settings of QPT's deployment; without the ensemble there is one candidate.

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


def single_action_config(cfgs: Any) -> DeploymentConfig:
    """Build the settings of deployment for a policy without candidates.

    Args:
        cfgs (Config): The run's configuration.

    Raises:
        UserError: If the cost limit is impossible.
    """
    # The paper's rule uses the whole history, as in training; other rules use less.
    return DeploymentConfig(cost_limit=cfgs.algo_cfgs.cost_limit, candidates=1, rule='paper')


def bc_safe_config(cfgs: Any) -> BCSafeConfig:
    """Build the settings of BC-Safe's learner.

    Args:
        cfgs (Config): The run's configuration, ``configs/BCSafe.yaml`` with the user's changes.

    Raises:
        UserError: If a value is impossible.
    """
    actor = cfgs.model_cfgs.actor
    return BCSafeConfig(
        total_steps=cfgs.train_cfgs.total_steps,
        actor_lr=actor.lr,
        actor_hidden_sizes=tuple(actor.hidden_sizes),
    )


def cpq_config(cfgs: Any, horizon: int) -> CPQConfig:
    """Build the settings of CPQ's learner.

    Args:
        cfgs (Config): The run's configuration, ``configs/CPQ.yaml`` with the user's changes.
        horizon (int): Steps in an episode.

    Raises:
        UserError: If a value is impossible.
    """
    algo, models = cfgs.algo_cfgs, cfgs.model_cfgs
    return CPQConfig(
        total_steps=cfgs.train_cfgs.total_steps,
        cost_limit=algo.cost_limit,
        horizon=horizon,
        gamma=algo.gamma,
        polyak=algo.polyak,
        actor_lr=models.actor.lr,
        critic_lr=models.critic.lr,
        vae_lr=models.vae.lr,
        alpha_lr=algo.alpha_lr,
        actor_hidden_sizes=tuple(models.actor.hidden_sizes),
        critic_hidden_sizes=tuple(models.critic.hidden_sizes),
        vae_hidden_sizes=tuple(models.vae.hidden_sizes),
        vae_beta=models.vae.beta,
        sampled_actions=algo.sampled_actions,
        unknown_share=algo.unknown_share,
        unknown_cost=algo.unknown_cost,
    )


def fisor_config(cfgs: Any, horizon: int) -> FISORConfig:
    """Build the settings of FISOR's learner.

    Args:
        cfgs (Config): The run's configuration, ``configs/FISOR.yaml`` with the user's changes.
        horizon (int): Steps in an episode.

    Raises:
        UserError: If a value is impossible.
    """
    algo, actor, critic = cfgs.algo_cfgs, cfgs.model_cfgs.actor, cfgs.model_cfgs.critic
    return FISORConfig(
        total_steps=cfgs.train_cfgs.total_steps,
        horizon=horizon,
        gamma=algo.gamma,
        polyak=algo.polyak,
        actor_lr=actor.lr,
        critic_lr=critic.lr,
        actor_width=actor.width,
        actor_blocks=actor.blocks,
        actor_dropout=actor.dropout,
        actor_polyak=algo.actor_polyak,
        critic_hidden_sizes=tuple(critic.hidden_sizes),
        diffusion_steps=algo.diffusion_steps,
        candidates=algo.candidates,
        violation=algo.violation,
        expectile=algo.expectile,
        reward_temperature=algo.reward_temperature,
        cost_temperature=algo.cost_temperature,
        max_reward_weight=algo.max_reward_weight,
        max_cost_weight=algo.max_cost_weight,
    )
