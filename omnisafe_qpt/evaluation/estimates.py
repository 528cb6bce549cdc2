# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Off-policy evaluation of a run: its return and cost at any limits, from a dataset alone."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    asks_for_returns,
    deployment_of,
)
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig
from omnisafe_qpt.evaluation.off_policy.estimate import (
    DEFAULT_PARTICLES,
    OffPolicyEstimate,
    OffPolicyEvaluator,
    PhaseProgress,
)
from omnisafe_qpt.evaluation.off_policy.rollouts import Level
from omnisafe_qpt.evaluation.offline_data import Episodes, origin, read_episodes
from omnisafe_qpt.evaluation.target_costs import ladder_targets
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.schema import components


def estimate_run(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    cost_limits: Sequence[float] | None = None,
    *,
    seed: int = 0,
    particles: int = DEFAULT_PARTICLES,
    exogenous: Sequence[int] | None = None,
    on_progress: PhaseProgress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Estimate a run's return and cost at cost limits, without its environment.

    The policy is rolled out in dynamics learned from the dataset. There is no guarantee. The model
    is tested on a held-out tenth of the episodes; the verdict depends on that test and on the model
    rollouts.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        dataset (str or os.PathLike): As ``train_cfgs:dataset``.
        cost_limits (Sequence[float], optional): Undiscounted costs of an episode. Defaults to the
            run's.
        seed (int, optional): Seed of all random draws. Defaults to 0.
        particles (int, optional): Model rollouts of each ensemble member at each level. Defaults to
            :data:`omnisafe_qpt.evaluation.off_policy.estimate.DEFAULT_PARTICLES`.
        exogenous (Sequence[int], optional): Components of the observation that no action changes.
            Model rollouts replay them from the dataset. Defaults to those of the run's training.
        on_progress (Callable, optional): Called with the current phase, the amount done and its
            total.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`.

    Returns:
        Plain values: ``limits``, for each limit the run's targets (``target_return``,
        ``target_cost``), the estimates ``return_mean`` and ``cost_mean`` with their intervals (None
        where too few held-out episodes are near the limit), the share of ``novel`` steps,
        ``verdict`` and ``reason``; ``choices``, for each limit the target cost and return that the
        model would choose, or None; ``test``, the model's errors on held-out episodes;
        ``dataset``, ``seconds`` and the settings.

    Raises:
        UserError: If the run or the dataset does not exist, or they do not fit.
        TooFewEpisodes: If the dataset is too small.
    """
    began = time.perf_counter()
    chosen = DeploymentOptions(**options)
    networks, path = chosen.load(run)
    data = read_episodes(str(dataset), networks)
    limits: Sequence[float | None] = cost_limits or [None]
    deployments = [deployment_of(networks, limit, None, chosen) for limit in limits]
    levels = [Level(target, config.used_target_cost) for config, target in deployments]
    num_asked = len(levels)
    if asks_for_returns(networks.spec):
        levels += ladder_levels(networks)
    evaluator = make_evaluator(networks, data, seed, particles, exogenous, on_progress)
    result = evaluator.evaluate(networks, deployments[0][0], levels, on_progress)
    asked = [config.cost_limit for config, _ in deployments]
    return {
        **origin(path, networks, data),
        'seed': seed,
        'particles': particles,
        'limits': [_level(result, index, limit) for index, limit in enumerate(asked)],
        'choices': [_choice(result, range(num_asked, len(levels)), limit) for limit in asked],
        'test': model_test(result),
        'seconds': time.perf_counter() - began,
    }


def make_evaluator(
    networks: Deployable,
    data: Episodes,
    seed: int,
    particles: int,
    exogenous: Sequence[int] | None,
    on_progress: PhaseProgress | None,
) -> OffPolicyEvaluator:
    """Learn the dynamics for a model from a dataset.

    Args:
        networks (Deployable): The model, on the device to use.
        data (Episodes): The dataset.
        seed (int): See :func:`estimate_run`.
        particles (int): See :func:`estimate_run`.
        exogenous (Sequence[int] or None): See :func:`estimate_run`.
        on_progress (Callable or None): See :func:`estimate_run`.

    Raises:
        TooFewEpisodes: If the dataset is too small.
    """
    horizon = networks.spec['horizon']
    if exogenous is None:
        train_cfgs = networks.spec.get('config', {}).get('train_cfgs', {})
        exogenous = components(train_cfgs.get('exogenous'))
    return OffPolicyEvaluator(
        data.trajectories.to(networks.device),
        horizon,
        seed,
        particles,
        DynamicsConfig.for_horizon(horizon, exogenous),
        on_progress,
    )


def ladder_levels(networks: Deployable) -> list[Level]:
    """Return the levels of target calibration, and last the zero-action fallback.

    Args:
        networks (Deployable): The model, of an algorithm that takes targets.
    """
    return [*(Level(*targets) for targets in ladder_targets(networks)), Level(None, 0.0)]


def _level(result: OffPolicyEstimate, index: int, cost_limit: float) -> dict[str, Any]:
    level, imagined = result.levels[index], result.imagined[index]
    judgement = result.judge(index, cost_limit)
    return {
        'cost_limit': cost_limit,
        'target_return': level.target_return,
        'target_cost': level.target_cost,
        'return_mean': float(imagined.returns.mean()),
        'return_interval': finite(result.interval('returns', index, cost_limit)),
        'cost_mean': float(imagined.costs.mean()),
        'cost_interval': finite(result.interval('costs', index, cost_limit)),
        'length_mean': float(imagined.lengths.mean()),
        'novel_share': float(imagined.novel.mean()),
        'verdict': judgement.verdict,
        'reason': judgement.reason,
    }


def finite(interval: tuple[float, float]) -> list[float] | None:
    """Return an interval as JSON can hold it; None where too few episodes say anything.

    Args:
        interval (tuple[float, float]): Its ends.
    """
    return list(interval) if all(map(math.isfinite, interval)) else None


def _choice(
    result: OffPolicyEstimate,
    indices: range,
    cost_limit: float,
) -> dict[str, Any] | None:
    index = result.choose(cost_limit, indices)
    return None if index is None else _level(result, index, cost_limit)


def model_test(result: OffPolicyEstimate) -> dict[str, Any]:
    """Return the model's errors on held-out episodes as plain values."""
    test = result.test
    found: dict[str, Any] = {'episodes': len(test.costs)}
    for what in ('returns', 'costs', 'lengths'):
        errors = getattr(test, what) - getattr(test, f'predicted_{what}')
        found[what] = {
            'mean': float(getattr(test, what).mean()),
            'error_mean': float(errors.mean()),
            'error_absolute': float(np.abs(errors).mean()),
        }
    return found
