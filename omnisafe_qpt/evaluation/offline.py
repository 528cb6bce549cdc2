# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a trained run on a dataset, without its environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from omnisafe_qpt.data.prefetch import fits_on
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    deployment_of,
    forget_zero_action,
    pair_targets,
)
from omnisafe_qpt.evaluation.diagnostics import DEFAULT_STATES, OfflineChecks
from omnisafe_qpt.evaluation.offline_data import held_out_part, origin, read_episodes
from omnisafe_qpt.qpt.config import DeploymentConfig


def evaluate_offline(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    cost_limits: Sequence[float] | None = None,
    target_return: float | str | Sequence[float | str] | None = None,
    *,
    seed: int = 0,
    num_states: int = DEFAULT_STATES,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Check a trained run on a dataset: its actions, its critics and its selection of candidates.

    On the run's own training data the checks use only the held-out episodes, if there are any
    (``train_cfgs:holdout_share``).

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        dataset (str or os.PathLike): As ``train_cfgs:dataset``: a DSRL HDF5 or OmniSafe npz file,
            ``auto``, ``sample``, or a name of OmniSafe's own datasets.
        cost_limits (Sequence[float], optional): Undiscounted costs of an episode: limits that
            divide the episodes and that the check of candidates uses. Defaults to the run's.
        target_return (float, str or sequence, optional): Target return, one for all limits or one
            for each; see :func:`omnisafe_qpt.load_policy`.
        seed (int, optional): Seed of the states in the check of candidates, and of the candidates.
            Defaults to 0.
        num_states (int, optional): Largest number of states in the check of candidates. Defaults to
            :data:`omnisafe_qpt.evaluation.diagnostics.DEFAULT_STATES`.
        on_progress (Callable, optional): Called with the windows done and their total. Defaults to
            None.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`.

    Returns:
        Plain values: the run, the dataset and the settings; ``data``, whether the run trained on
        these episodes; ``action_errors``, a list as by :meth:`OfflineChecks.action_errors`;
        ``calibrations``, as by :meth:`OfflineChecks.calibrations`, None where the run trained no
        critics; and ``candidates``, for each limit the result of
        :meth:`OfflineChecks.candidate_shares`, None where the run's policy has no candidates.

    Raises:
        UserError: If the run or the dataset does not exist, their environments differ, or a value
            is impossible.
    """
    if num_states < 1:
        raise UserError(f'num_states is {num_states}; it must be at least 1')
    chosen = DeploymentOptions(**options)
    networks, path = chosen.load_transformer(run)
    forget_zero_action(networks)
    deployments = [
        deployment_of(networks, limit, target, chosen)
        for limit, target in _pairs(cost_limits, target_return)
    ]
    limits = [config.cost_limit for config, _ in deployments]
    data = held_out_part(read_episodes(str(dataset), networks), networks)
    algo_cfgs = networks.spec.get('config', {}).get('algo_cfgs', {})
    gamma = algo_cfgs.get('gamma', networks.spec.get('gamma'))
    has_critics = networks.has_critics
    config = deployments[0][0]
    done = 0

    def advance(windows: int) -> None:
        nonlocal done
        done += windows
        if on_progress is not None:
            on_progress(min(done, total), total)

    trajectories = data.trajectories
    if fits_on(networks.device, trajectories.table.nbytes):
        trajectories = trajectories.to(networks.device)
    checks = OfflineChecks(networks, trajectories, gamma, config.cost_value, advance)
    has_choice = has_critics and config.candidates > 1
    total = checks.count_windows(config.candidates, len(limits) * has_choice, num_states)
    terminal = int(trajectories.rows.terminal.sum())
    return {
        **origin(path, networks, data),
        'data': data.relation,
        'episodes': len(trajectories.rows),
        'transitions': trajectories.num_transitions,
        'terminal_episodes': terminal,
        'time_limit_episodes': len(trajectories.rows) - terminal,
        'gamma': gamma,
        'uncounted_weight': checks.uncounted_weight,
        'action_errors': [asdict(error) for error in checks.action_errors(limits)],
        'calibrations': _plain(checks.calibrations()) if has_critics else None,
        'candidates': [
            _choices(checks, config, target, num_states, seed) for config, target in deployments
        ]
        if has_choice
        else None,
        'versions': networks.spec['versions'],
    }


def _choices(
    checks: OfflineChecks,
    config: DeploymentConfig,
    target_return: float | None,
    num_states: int,
    seed: int,
) -> dict[str, Any]:
    assert target_return is not None  # as the fallback, which has none, was taken out
    shares = checks.candidate_shares(config, target_return, num_states, seed)
    assert shares is not None  # as there are several candidates
    return {
        'cost_limit': config.cost_limit,
        'target_return': target_return,
        'candidates': config.candidates,
        'rule': config.rule,
        'candidate_shift': config.candidate_shift,
        'seed': seed,
        **asdict(shares),
    }


def _pairs(
    cost_limits: Sequence[float] | None,
    target_return: float | str | Sequence[float | str] | None,
) -> list[tuple[float | None, float | str | None]]:
    """Pair cost limits with return targets; None is the run's default."""
    targets: list[float | str | None]
    if isinstance(target_return, str) or not isinstance(target_return, Sequence):
        targets = [target_return]
    else:
        targets = [*target_return]
    return pair_targets([*cost_limits] if cost_limits else [None], targets)


def _plain(calibrations: dict[str, Any]) -> dict[str, Any]:
    return {name: asdict(calibration) for name, calibration in calibrations.items()}
