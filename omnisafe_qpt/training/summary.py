# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages at the start and at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from omnisafe_qpt.errors import printable, shell_command
from omnisafe_qpt.evaluation.deployment import guarantee_of
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runner import MODEL
from omnisafe_qpt.runs.run_log import RunLogger
from omnisafe_qpt.scores import fixed
from omnisafe_qpt.settings.files import OFFLINE_ENV_ID
from omnisafe_qpt.training.dataset_loading import TrainingData
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
from omnisafe_qpt.training.eta_search import show_choice
from omnisafe_qpt.training.run_state import RunState


def log_dataset(log: RunLogger, data: TrainingData, cost_limit: float, more: str) -> None:
    """Log the dataset of the run.

    Args:
        log (RunLogger): The run's logger.
        data (TrainingData): The dataset.
        cost_limit (float): Cost limit of the run.
        more (str): Text of the algorithm itself; may be empty.
    """
    trajectories = data.trajectories
    safe = (trajectories.cost_returns <= cost_limit).float().mean().item()
    log.log(
        f'Dataset {data.record["path"]}: {len(trajectories.rows)} episodes, '
        f'{trajectories.num_transitions} transitions, {safe:.0%} within cost {cost_limit:g}',
    )
    for note in trajectories.notes:
        log.log(f'Dataset: {note}')
    for warning in data.warnings:
        log.log(f'WARNING: {warning}', 'yellow', bold=True)
    if data.held_out:
        log.log(
            f'Held out of training: {len(data.held_out)} more episodes, for omnisafe-qpt '
            'evaluate --offline',
        )
    if more:
        log.log(more)


def log_resumed(log: RunLogger, state: RunState, updates: int) -> None:
    """Log the epoch from which the run resumes, if it does.

    Args:
        log (RunLogger): The run's logger.
        state (RunState): The state that was read.
        updates (int): Updates done.
    """
    if state.damage:
        log.log(
            f'WARNING: {state.damage}: the run resumes from the state saved before it',
            'yellow',
            bold=True,
        )
    if state.draws_anew:
        log.log('Batches are drawn anew: the run resumes on another type of device')
    if updates:
        log.log(f'Resumed after epoch {state.progress.epoch}, {updates} updates')
    elif state.resumed_run is not None:
        log.log('Nothing was saved in this run yet: it starts from the beginning')


def log_plan(
    log: RunLogger,
    device: torch.device,
    ranks: Ranks,
    updates: int,
    batch: str,
    target_return: float | None,
    cost_limit: float,
) -> None:
    """Log the plan of the run.

    Args:
        log (RunLogger): The run's logger.
        device (torch.device): Device of the learner.
        ranks (Ranks): The processes that train together.
        updates (int): Requested number of updates.
        batch (str): Size and type of a batch.
        target_return (float or None): Target return of deployment; None for a policy without one.
        cost_limit (float): Cost limit of deployment.
    """
    where = str(device)
    if ranks.size > 1:
        where += f' in {ranks.size} processes'
    asked = '' if target_return is None else f' for return {target_return:.4g}'
    log.log(
        f'Training on {where}: {updates} updates of {batch}; deployed{asked} at cost limit '
        f'{cost_limit:g}',
    )


def print_summary(
    run: Path,
    dataset: str,
    rows: Sequence[dict[str, float]],
    evaluation: EpochEvaluation,
    modules: Sequence[str],
) -> None:
    """Print the result, the paths and the commands to continue with.

    Args:
        run (Path): The run's folder.
        dataset (str): Path of the dataset.
        rows (Sequence[dict[str, float]]): The rows of ``progress.csv``.
        evaluation (EpochEvaluation): Evaluation of the deployed policy.
        modules (Sequence[str]): The user's modules that register the environment.
    """
    lines = [f'Run folder   {run}', f'Dataset      {dataset}', *_result(rows[-1], evaluation)]
    etas = evaluation.deployed.networks.spec.get('etas')
    if etas is not None:
        lines.append(f'Etas         {show_choice(etas)}')
    best = evaluation.best(rows)
    if best is not None and best['epoch'] != len(rows):
        lines.append(
            f'Best epoch   {best["epoch"]}   ({"estimated " if best["method"] == MODEL else ""}'
            f'validation return {best["validation_return"]:.2f}, cost '
            f'{best["validation_cost"]:.2f}; --checkpoint best)',
        )
    imports = ['--import', ','.join(modules)] if modules else []
    evaluate = ['omnisafe-qpt', 'evaluate', str(run), '--cost-limit', '20']
    commands = [
        [*evaluate, '--episodes', '10', *imports],
        ['omnisafe', 'eval', str(run), '--no-render', '--num-episode', '1', *imports],
    ]
    if evaluation.deployed.networks.spec['env_id'] == OFFLINE_ENV_ID:
        commands = [[*evaluate, '--offline', dataset]]
    commands.append(['tensorboard', '--logdir', str(run)])
    lines += ['', 'Next:', *(f'  {shell_command(words)}' for words in commands)]
    # Users copy paths: no wrapping, no markup.
    text = '\n'.join(map(printable, lines))
    Console(soft_wrap=True).print(f'\n{text}', markup=False, highlight=False)


def _result(row: dict[str, float], evaluation: EpochEvaluation) -> list[str]:
    """Return the lines on return, cost and calibration of the last evaluation."""
    deployed, limit = evaluation.deployed, evaluation.cost_limit
    target = deployed.target_return
    guarantee = guarantee_of(deployed.networks.spec, deployed.config)
    lines = []
    if guarantee is not None and guarantee.target_cost is None:
        lines.append('Result       no safe target found: every action is zero (in calibration)')
    if math.isfinite(row.get('Metrics/EpRet', math.nan)):
        verdict = 'within' if row['Metrics/EpCost'] <= limit else 'ABOVE'
        asked = '' if target is None else f'   (target {target:.2f})'
        if guarantee is not None and target is not None and not evaluation.settings.final:
            asked = '   (of validation, before target calibration)'
        lines += [
            f'Return       {fixed(row["Metrics/EpRet"], 2)}{asked}',
            f'Normalised   {fixed(row["Metrics/NormRet"], 2)}',
            f'Cost         {row["Metrics/EpCost"]:.2f}   ({verdict} the limit of {limit:g})',
        ]
    if guarantee is not None:
        lines += [
            f'Calibration  {guarantee.mean_statement}',
            f'             {guarantee.share_statement}',
        ]
    return lines
