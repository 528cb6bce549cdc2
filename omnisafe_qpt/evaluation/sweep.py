# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of runs at any cost limits: a row of results for each."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from omnisafe_qpt.envs.user_modules import require_environment_of
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    algorithm_of,
    asks_for_returns,
    deployment_of,
    guarantee_of,
    pair_targets,
)
from omnisafe_qpt.evaluation.episodes import (
    Evaluation,
    Series,
    default_processes,
    evaluate_together,
)
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.runner import share_bound
from omnisafe_qpt.runs.checkpoint import checkpoint_path
from omnisafe_qpt.scores import normalized_cost, normalized_return
from omnisafe_qpt.settings.seeds import check_test_seeds


RunPath = str | os.PathLike[str]


@dataclass(frozen=True)
class _Model:
    """A trained model and its file."""

    networks: Deployable
    checkpoint: Path


@dataclass(frozen=True)
class _Wanted:
    """Request for one row: model, deployment settings, targets."""

    model: _Model
    config: DeploymentConfig
    target_return: float | None


def evaluate_runs(
    runs: RunPath | Sequence[RunPath],
    cost_limits: float | Sequence[float] | None = None,
    target_return: float | str | Sequence[float | str] | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    processes: int | None = None,
    traces: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Evaluate runs of one task in its environment, at any cost limits.

    All episodes share the same processes, with simulators created once. Each limit of each run gets
    the same seeds, so that its episodes start alike. A row does not depend on the number of
    processes or on the other rows. A policy that acts on the observation alone, as some baselines
    do, does not depend on the limit: its episodes run once, and their costs are compared with each
    limit.

    Args:
        runs (str, os.PathLike or a sequence of them): Folders of runs, or checkpoints
            (``torch_save/epoch-N.pt``).
        cost_limits (float or sequence, optional): Undiscounted cost that an episode must not
            exceed, one or several. Defaults to each run's own.
        target_return (float, str or sequence, optional): Target return, one for all limits or one
            for each; ``dsrl`` for DSRL's published one. Defaults to that of
            :func:`omnisafe_qpt.load_policy`.
        episodes (int, optional): Episodes per row. Defaults to 20.
        seed (int, optional): Seed of the first episode; it increases by one per episode. Defaults
            to 0.
        processes (int, optional): Processes that run episodes in parallel. Defaults to one per
            core.
        traces (bool, optional): Whether a row holds its episodes step by step. Defaults to False.
        on_progress (Callable, optional): Called with the steps done, the expected total, and the
            current run and limit. Defaults to None.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`.

    Returns:
        A row of plain values for each limit of each run, ordered by run, with everything needed to
        repeat it. With ``traces``, a row's ``traces`` has a dict of lists for each episode, with
        one entry per step: ``actions``; ``rewards``; ``costs``; ``chosen``, index of the selected
        candidate; ``shift`` of its return target; ``feasible``, whether any candidate was; and
        ``cost_value`` of the selected action, in units of cost. With one candidate, or in the
        zero-action fallback, the last two are lists of None. Where the policy acts on the
        observation alone, ``target_return``, ``target_cost``, ``rule`` and ``candidate_shift`` are
        None. With 95 % confidence the share of all episodes over the limit is at most
        ``unsafe_share_bound`` (Clopper-Pearson, from this row's episodes alone). ``guarantee`` is
        the target calibration's statement on the limit: the fields of
        :class:`omnisafe_qpt.runner.Guarantee` with its two texts, or None if it did not choose the
        targets; ``calibrated_bound`` is its ``cost_bound``. ``zero_action`` is True for the
        zero-action fallback, where the calibration found no safe target: then ``target_return`` and
        ``target_cost`` are None.

    Raises:
        UserError: If a run does not exist, runs are of different tasks or algorithms, or a value is
            impossible.
    """
    runs = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    targets = _targets(cost_limits, target_return)
    for name, value, least in (
        ('episodes', episodes, 1),
        ('seed', seed, 0),
        ('processes', processes, 1),
    ):
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (is_whole and value >= least):
            raise UserError(f'{name} is {value}; it must be an integer, at least {least}')
    check_test_seeds(seed, episodes)
    chosen = DeploymentOptions(**options)
    models = _models(runs, chosen)
    require_environment_of(models[0].networks.spec)
    wanted = [
        _Wanted(
            model,
            *deployment_of(model.networks, limit, target, chosen),
        )
        for model in models
        for limit, target in targets
    ]
    series, numbers = _series(wanted, range(seed, seed + episodes))

    def report(done: int, total: int, number: int) -> None:
        if on_progress is not None:
            on_progress(done, total, _doing(series[number], models))

    found = evaluate_together(
        models[0].networks.spec['env_id'],
        series,
        processes or default_processes(episodes * len(series)),
        traces,
        report,
    )
    return [_row(row, series[number].seeds, found[number]) for row, number in zip(wanted, numbers)]


def _series(wanted: Sequence[_Wanted], seeds: range) -> tuple[list[Series], list[int]]:
    """Plan the series of episodes; returns them, and the index of each row's series."""
    series: list[Series] = []
    numbers: list[int] = []
    for row, before in zip(wanted, (None, *wanted)):
        networks = row.model.networks
        if (
            before is None
            or before.model is not row.model
            or before.target_return is not None
            or row.target_return is not None
        ):  # without a target return, episodes do not depend on the limit
            series.append(Series(networks, row.config, row.target_return, seeds))
        numbers.append(len(series) - 1)
    return series, numbers


def _targets(
    cost_limits: float | Sequence[float] | None,
    target_return: float | str | Sequence[float | str] | None,
) -> list[tuple[float | None, float | str | None]]:
    """Pair cost limits with return targets; None is the run's default."""
    limits = _listed('cost limit', cost_limits)
    for limit in limits:
        if limit is not None and limit < 0:
            raise UserError(f'cost limit {limit:g}: it must be at least 0')
        if limits.count(limit) > 1:
            raise UserError(f'cost limit {limit:g} is given twice')
    targets = _listed('target return', target_return, words=True)
    return pair_targets(limits, targets)


def _listed(name: str, values: Any, words: bool = False) -> list[Any]:
    """Return a list of values from one value or several: None, a finite number or a word."""
    if values is None or isinstance(values, (Real, str)):
        values = [values]
    for value in values:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        is_word = words and isinstance(value, str)
        if not (value is None or is_word or (is_number and math.isfinite(value))):
            raise UserError(f'{name} {value}: it must be a finite number')
    return [float(value) if isinstance(value, Real) else value for value in values] or [None]


def _models(runs: list[RunPath], options: DeploymentOptions) -> list[_Model]:
    """Load the models to evaluate.

    Raises:
        UserError: If there is no model, one is given twice, or tasks or algorithms differ.
    """
    if not runs:
        raise UserError('no run to evaluate')
    files = [checkpoint_path(run, options.checkpoint) for run in runs]
    for file in files:
        if sum(file.resolve() == other.resolve() for other in files) > 1:
            raise UserError(f'{file} is given twice')
    models = [_Model(*options.load(file)) for file in files]
    tasks = [model.networks.spec['env_id'] for model in models]
    for task, file in zip(tasks, files):
        if task != tasks[0]:
            raise UserError(
                f'runs of different tasks: {files[0]} is for {tasks[0]}, {file} for {task}; '
                'evaluate each task separately',
            )
    algorithms = [algorithm_of(model.networks.spec) for model in models]
    for algo, file in zip(algorithms, files):
        if algo != algorithms[0]:
            raise UserError(
                f'runs of different algorithms: {files[0]} is of {algorithms[0]}, {file} of '
                f'{algo}; runs are averaged, so evaluate each algorithm separately',
            )
    return models


def _doing(series: Series, models: Sequence[_Model]) -> str:
    """Return a short label for the run and limit."""
    limit = f'limit {series.config.cost_limit:g}'
    if len(models) == 1:
        return limit.capitalize()
    run = next(n for n, model in enumerate(models, 1) if model.networks is series.networks)
    return f'Run {run}/{len(models)}, {limit}'


def _row(wanted: _Wanted, seeds: Sequence[int], result: Evaluation) -> dict[str, Any]:
    """Return a row: results and settings as plain values."""
    spec, config, checkpoint = wanted.model.networks.spec, wanted.config, wanted.model.checkpoint
    is_asked = asks_for_returns(spec)
    zero_action = is_asked and wanted.target_return is None
    # Without a target cost the user gave the return.
    is_chosen = is_asked and config.target_cost is not None
    guarantee = guarantee_of(spec, config) if is_chosen else None
    over = sum(cost > config.cost_limit for cost in result.costs)
    return_mean, cost_mean = statistics.fmean(result.returns), statistics.fmean(result.costs)
    cost_share = normalized_cost(cost_mean, config.cost_limit)
    row = {
        'algo': algorithm_of(spec),
        'env_id': spec['env_id'],
        'cost_limit': config.cost_limit,
        'target_return': wanted.target_return,
        'target_cost': config.used_target_cost if is_asked and not zero_action else None,
        'zero_action': zero_action,
        'calibrated_bound': None if guarantee is None else guarantee.cost_bound,
        'guarantee': None if guarantee is None else guarantee.as_dict(),
        'candidates': config.candidates,
        'rule': config.rule if is_asked else None,
        'candidate_shift': config.candidate_shift if is_asked else None,
        'episodes': len(seeds),
        'seed': seeds[0],
        'returns': result.returns,
        'costs': result.costs,
        'lengths': result.lengths,
        'return_mean': return_mean,
        'return_std': statistics.pstdev(result.returns),
        'cost_mean': cost_mean,
        'cost_std': statistics.pstdev(result.costs),
        'reference_returns': list(spec['reference_returns']),
        'normalized_return': normalized_return(return_mean, *spec['reference_returns']),
        'normalized_cost': cost_share,
        'safe': cost_share <= 1.0,
        'unsafe_share': over / len(seeds),
        'unsafe_share_bound': share_bound(over, len(seeds)),
        'infeasible_share': result.infeasible_share,
        'steps_per_second': result.steps_per_second,
        'dataset': spec['dataset']['path'],
        'dataset_sha256': spec['dataset']['sha256'],
        'run': str(checkpoint.parent.parent.resolve()),
        'checkpoint': checkpoint.name,
        'versions': spec['versions'],
    }
    return row if result.traces is None else {**row, 'traces': result.traces}
