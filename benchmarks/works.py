# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The works that are timed: an update whole and in parts, steps of deployment, ours and OSRL's."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from omnisafe_qpt.data.windows import SequenceBatch
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.losses import critic_loss, imitation_loss
from omnisafe_qpt.qpt.precision import tf32_products
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import Scaling


PARTS = ('target_policy', 'critics', 'policy', 'penalty', 'optimizers')
# A whole evaluation, where there is a simulator: short episodes.
EVALUATION_ENV, EVALUATION_EPISODES = 'SafetyBallCircle-v0', 2


def deterministic(work: Callable[[], object]) -> Callable[[], None]:
    """Have a work done with torch's deterministic algorithms, as far as it has them."""

    def run_work() -> None:
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.enabled
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.enabled = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                work()
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.enabled = before[1]

    return run_work


def in_precision(precision: str, work: Callable[[], object]) -> Callable[[], None]:
    """Have float32 products of a work done as its precision says, whatever ran before."""

    def run_work() -> None:
        with tf32_products(precision == 'tf32'):
            work()

    return run_work


def update_parts(learner: Learner, batch: SequenceBatch) -> dict[str, Callable[[], None]]:
    """Take an update apart, in its order; each part runs alone, on one batch.

    Args:
        learner (Learner): Whose networks and optimisers to use; its weights change.
        batch (SequenceBatch): B windows on its device.

    Returns:
        By the names in :data:`PARTS`.
    """
    scaling, config = learner.scaling, learner.config
    inputs = scaling.policy_inputs(batch)
    states = inputs.states
    critics = (learner.reward_critic, learner.cost_critic)
    target_critics = (learner.target_reward_critic, learner.target_cost_critic)
    parameters = {
        'policy': list(learner.policy.parameters()),
        'critics': [parameter for critic in critics for parameter in critic.parameters()],
    }
    mask = batch.mask[:, :-1]
    targets = batch.rewards[:, :-1]  # any numbers of that shape
    member = torch.zeros(1, dtype=torch.int64, device=learner.device)
    autocast = functools.partial(
        torch.autocast,
        learner.device.type,
        torch.bfloat16,
        enabled=learner.precision == 'bf16',
    )

    def forget(name: str) -> None:
        for parameter in parameters[name]:
            parameter.grad = None

    def target_policy() -> None:
        with torch.no_grad(), autocast():
            learner.target_policy(inputs, last_only=True)

    def fit_critics() -> None:
        forget('critics')
        with autocast():
            with torch.no_grad():
                for critic in target_critics:
                    critic(states[:, -1], batch.actions[:, -1])
            values = [critic(states[:, :-1], batch.actions[:, :-1]).float() for critic in critics]
        sum(critic_loss(value, targets, mask) for value in values).backward()

    def imitate() -> None:
        forget('policy')
        with autocast():
            predicted = learner.policy(inputs).float()
        imitation_loss(predicted, batch.actions, batch.action_mask).backward()

    def penalize() -> None:
        actions = batch.actions.clone().requires_grad_()
        with autocast():
            values = [
                critic(states, actions, member=member, frozen=True).float() for critic in critics
            ]
        sum(value.mean() for value in values).backward()

    def optimize() -> None:
        for name, optimizer, limits in (
            ('critics', learner._critic_optimizer, config.critic_optimizer),
            ('policy', learner._policy_optimizer, config.policy_optimizer),
        ):
            torch.nn.utils.clip_grad_norm_(parameters[name], limits.max_grad_norm)
            optimizer.step()
        learner._update_targets()

    fit_critics()  # the optimisers need gradients
    imitate()
    return dict(zip(PARTS, (target_policy, fit_critics, imitate, penalize, optimize)))


def acting(
    networks: DeployableNetworks,
    candidates: int,
    episodes: int,
    shift: str,
) -> Callable[[], object]:
    """Make a step of deployment with full windows, up to the actions on the host.

    Args:
        networks (DeployableNetworks): Policy and critics.
        candidates (int): M.
        episodes (int): How many at once.
        shift (str): Which of a candidate's targets are shifted, ``history`` or ``last``.
    """
    obs_dim = networks.spec['obs_dim']
    config = DeploymentConfig(candidates=candidates, candidate_shift=shift, rule='paper')
    rollout = RolloutPolicy(networks, config, num_episodes=episodes)
    rollout.reset(target_return=1.0, seeds=range(episodes))
    random = np.random.default_rng(0)
    observations = random.standard_normal((episodes, obs_dim), dtype=np.float32)
    for _ in range(networks.spec['policy']['context_len']):
        rollout.act(observations)
        rollout.observe(np.zeros(episodes), np.zeros(episodes))
    return lambda: rollout.act(observations).cpu()


def osrl_acting(model: Any, windows: int) -> Callable[[], object]:
    """Make a pass of OSRL's network on as many full windows, as in its rollout.

    Args:
        model (CDT): Its network, in eval mode.
        windows (int): How many.
    """
    device = next(model.parameters()).device
    shape = (windows, model.seq_len)
    inputs = (
        torch.randn(*shape, model.state_dim, device=device),
        torch.rand(*shape, model.action_dim, device=device),
        torch.rand(shape, device=device),
        torch.rand(shape, device=device),
        torch.arange(model.seq_len, device=device).expand(shape),
        None,
        torch.ones(windows, device=device),
    )

    @torch.no_grad()
    def act() -> torch.Tensor:
        return model(*inputs)[0].mean[:, -1].clamp(-1.0, 1.0).cpu()

    return act


def whole_evaluation(config: LearnerConfig) -> tuple[dict[str, Any] | None, str | None]:
    """Evaluate an untrained policy in a simulator, if there is one.

    Args:
        config (LearnerConfig): Sizes of the networks.

    Returns:
        What was measured and None, or None and the reason.
    """
    try:
        environments = importlib.import_module('omnisafe_qpt.envs.environments')
        evaluation = importlib.import_module('omnisafe_qpt.evaluation.episodes')
        env = environments.make_env(EVALUATION_ENV)
    except (ImportError, UserError) as error:
        return None, ' '.join(str(error).split())
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    scaling = Scaling(torch.zeros(obs_dim), torch.ones(obs_dim))
    networks = DeployableNetworks.from_learner(Learner(obs_dim, act_dim, scaling, config), {})
    measure.say('evaluation')
    found = evaluation.evaluate(
        networks,
        EVALUATION_ENV,
        DeploymentConfig(candidates=12, rule='paper'),
        target_return=0.0,
        seeds=range(EVALUATION_EPISODES),
    )
    return {
        'env_id': EVALUATION_ENV,
        'episodes': EVALUATION_EPISODES,
        'candidates': 12,
        'steps': sum(found.lengths),
        'steps_per_second': found.steps_per_second,
        'seconds': sum(found.lengths) / found.steps_per_second,
    }, None
