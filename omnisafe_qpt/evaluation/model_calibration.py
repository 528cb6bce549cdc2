# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Target calibration without a simulator: model rollouts in dynamics learned from data.

The record has the form of :mod:`omnisafe_qpt.evaluation.target_calibration`'s, so that deployment
treats both alike, but it certifies nothing.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    calibrated_settings,
    deployment_of,
)
from omnisafe_qpt.evaluation.estimates import (
    finite,
    ladder_levels,
    make_evaluator,
    model_test,
)
from omnisafe_qpt.evaluation.off_policy.estimate import (
    DEFAULT_PARTICLES,
    OffPolicyEstimate,
    OffPolicyEvaluator,
    PhaseProgress,
)
from omnisafe_qpt.evaluation.offline_data import read_episodes
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.runner import CALIBRATION_FORMAT, ESTIMATED, MODEL, serving_level
from omnisafe_qpt.runs.checkpoint import replace_checkpoint


# The model's error at a level is that of episodes near the level's cost, or near this share of the
# run's cost limit if that is higher, or of the fewest episodes that say anything.
_LEAST_NEAR = 0.5


def calibrate_offline(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    seed: int = 0,
    particles: int = DEFAULT_PARTICLES,
    exogenous: Sequence[int] | None = None,
    on_progress: PhaseProgress | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """Calibrate a trained run in learned dynamics, and store the record in its checkpoint.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        dataset (str or os.PathLike): As ``train_cfgs:dataset``.
        seed (int, optional): Seed of all random draws. Defaults to 0.
        particles (int, optional): Model rollouts of each ensemble member at each level.
        exogenous (Sequence[int], optional): Components of the observation that no action changes.
            Model rollouts replay them from the dataset. Defaults to those of the run's training.
        on_progress (Callable, optional): Called with the current phase, the amount done and its
            total.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`.

    Returns:
        The record, and the checkpoint.

    Raises:
        UserError: If the run or the dataset does not exist, they do not fit, or the run's algorithm
            is not conditioned on a cost.
        TooFewEpisodes: If the dataset is too small.
    """
    chosen = DeploymentOptions(**options)
    networks, path = chosen.load_transformer(run)
    data = read_episodes(str(dataset), networks)
    config, _ = deployment_of(networks, None, None, chosen)
    evaluator = make_evaluator(networks, data, seed, particles, exogenous, on_progress)
    dataset_record = {'path': data.path, 'sha256': data.sha256}
    record = imagined_calibration(networks, config, evaluator, dataset_record, on_progress)
    networks.spec = {**networks.spec, 'calibration': record}
    replace_checkpoint(path, networks)
    return record, path


def imagined_calibration(
    networks: Deployable,
    config: DeploymentConfig,
    evaluator: OffPolicyEvaluator,
    dataset: dict[str, Any],
    on_progress: PhaseProgress | None = None,
) -> dict[str, Any]:
    """Calibrate a model in dynamics that are learned from episodes.

    Args:
        networks (Deployable): The trained model, on the device to use.
        config (DeploymentConfig): Candidates and selection rule.
        evaluator (OffPolicyEvaluator): With the learned dynamics.
        dataset (dict[str, Any]): ``path`` and ``sha256`` of the file of its episodes.
        on_progress (Callable, optional): Called with the current phase, the amount done and its
            total.

    Returns:
        A record as by :func:`omnisafe_qpt.evaluation.target_calibration.calibrate`, of method
        ``model``. Its bounds are estimates.
    """
    result = evaluator.evaluate(networks, config, ladder_levels(networks), on_progress)
    least = _LEAST_NEAR * networks.scaling.cost_unit.item()
    played = [_level(result, index, least) for index in range(len(result.levels))]
    zero_action = played.pop()
    return {
        'format': CALIBRATION_FORMAT,
        'method': MODEL,
        'model': {'dataset': dataset, 'test': model_test(result)},
        'episodes': len(played[0]['costs']),
        'first_seed': evaluator.seed,
        'settings': calibrated_settings(config),
        'worst_cost': evaluator.worst_cost,
        'comparisons': 1,
        'steps': 0,
        'levels': played,
        'zero_action': {**zero_action, 'target_cost': None},
    }


def why_unreliable(record: dict[str, Any], cost_limit: float) -> str | None:
    """Return why a record of :func:`imagined_calibration` cannot choose a target cost for a limit.

    Args:
        record (dict[str, Any]): The record.
        cost_limit (float): Undiscounted cost of an episode to keep within.

    Returns:
        A reason, or None if it can.
    """
    if serving_level(record, cost_limit)[1] == ESTIMATED:
        return None
    lowest = record['levels'][0]
    if lowest['reason'] is not None:
        return lowest['reason']
    return (
        f'at target cost {lowest["target_cost"]:g} the mean cost may be up to '
        f'{lowest["cost_bound"]:.4g}, above the limit of {cost_limit:g}'
    )


def _level(result: OffPolicyEstimate, index: int, least: float) -> dict[str, Any]:
    level, imagined = result.levels[index], result.imagined[index]
    bound, reason = result.bound(index, least)
    own = result.own_cost(index, least)
    played = {
        'returns': imagined.returns.flatten().tolist(),
        'costs': imagined.costs.flatten().tolist(),
        'lengths': [int(length) for length in imagined.lengths.flatten()],
    }
    return {
        'target_cost': level.target_cost,
        'target_return': level.target_return,
        **played,
        'return_mean': statistics.fmean(played['returns']),
        'cost_mean': statistics.fmean(played['costs']),
        'return_interval': finite(result.interval('returns', index, own)),
        'cost_interval': finite(result.interval('costs', index, own)),
        'cost_bound': bound,
        'reason': reason or None,
    }
