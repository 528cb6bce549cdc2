# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One job of a comparison, in a process of its own: train once, evaluate the cells that share it.

    python -m benchmarks.cells JOB.json

``benchmarks.compare`` writes the job and starts the process. What training left is kept in the
work folder, so that a job that failed later does not train again. The updates that fit into a
budget of seconds are found before training, by a few of them under the same load.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import omnisafe
import pandas as pd
import torch

from benchmarks import builtin
from benchmarks.engines import ROOT, Job, error_file
from benchmarks.rows import COLUMNS
from benchmarks.suite import (
    BEST,
    LAST,
    OURS,
    Cell,
    DataFile,
    config_hash,
    training_record,
)
from benchmarks.suite_file import load_suite
from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.data.resolve import AUTO, SAMPLE
from omnisafe_qpt.data.tasks import reference_returns
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.envs.environments import action_range_of, horizon_of, make_env
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.episodes import Series, evaluate_together
from omnisafe_qpt.evaluation.model_calibration import calibrate_offline
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.evaluation.target_calibration import calibrate_run
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.runner import MODEL
from omnisafe_qpt.runs.best import VALIDATION_COST, VALIDATION_RETURN, best_epoch
from omnisafe_qpt.runs.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_best,
    load_networks,
    save_best,
    versions,
)
from omnisafe_qpt.settings.files import merge
from omnisafe_qpt.settings.machine import hardware, resolve_device
from omnisafe_qpt.settings.seeds import final_seeds, validation_seeds


# What is kept of a policy that is asked for a return and a cost, at each limit.
_ASKED = (
    'cost_limit',
    'target_return',
    'target_cost',
    'zero_action',
    'calibrated_bound',
    'guarantee',
)

# The share of a budget of seconds that goes into finding out how long an update takes, on top of
# it; in two parts, of which the second is timed.
_PROBE_SHARE = 0.04
_FIRST_PROBE = 10  # updates in each part, when nothing is known yet


def main() -> int:
    """Run the job of the command line; returns 1 if one of its cells failed."""
    if sys.platform == 'linux':
        # However whoever started this ends, this ends too.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    return run_job(Job.load(Path(sys.argv[1])))


def run_job(job: Job) -> int:
    """Train unless that was done, and evaluate each cell; a failure is written for its cells.

    Returns:
        The number of cells that failed.
    """
    torch.set_num_threads(job.threads)
    suite = load_suite(Path(job.suite), job.updates)
    cells = [cell for cell in suite.cells() if cell.name in job.cells]
    work = Path(job.work).resolve()
    data = DataFile(Path(job.data), job.data_sha256)
    failed = 0
    for cell in cells:
        errors = error_file(work, suite.name, cell.name)
        try:
            training = train(cell, data, job, work)
            record(cell, training, data, job)
            errors.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told for this cell
            failed += 1
            text = str(error) if isinstance(error, UserError) else traceback.format_exc()
            errors.parent.mkdir(parents=True, exist_ok=True)
            errors.write_text(f'{text.rstrip()}\n', encoding='utf-8')
            print(text, file=sys.stderr, flush=True)
    return failed


# -- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A training that is done, as it is kept.

    Args:
        run (str): The run's folder.
        data (str): The file that it read.
        horizon (int): Steps of an episode.
        reference_returns (tuple[float, float]): 0 and 1 on the normalised scale.
        updates (int): How many were done.
        train_seconds (float): They took, evaluation and start left out.
        probe (dict[str, float] or None): How their number was found.
        validate_seconds (float): Taken by validation.
        started (str): When, in UTC.
        commit (str or None): Git's, of the code.
        dirty (bool): Whether the code differed from it.
        versions (dict[str, str]): Of what it depends on.
        hardware (dict[str, Any]): That it ran on.
    """

    run: str
    data: str
    horizon: int
    reference_returns: tuple[float, float]
    updates: int
    train_seconds: float
    probe: dict[str, float] | None
    validate_seconds: float
    started: str
    commit: str | None
    dirty: bool
    versions: dict[str, str]
    hardware: dict[str, Any]


def train(cell: Cell, data: DataFile, job: Job, work: Path) -> Training:
    """Train a cell's policy, or find what an earlier job has trained.

    Args:
        cell (Cell): The cell.
        data (DataFile): Its dataset.
        job (Job): How to run.
        work (Path): The work folder.
    """
    identity = cell.training(data.sha256)
    known = training_record(work, identity)
    folder = known.parent
    if known.is_file():
        training = Training(**json.loads(known.read_text(encoding='utf-8'))['training'])
        if Path(training.run).is_dir():
            print(f'Trained before: {training.run}', flush=True)
            return training
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trainer = _Trainer(cell, data, job, work, folder)
    training = trainer.train()
    write_json({'identity': identity, 'training': asdict(training)}, known)
    return training


class _Trainer:
    """Trains one cell's policy through OmniSafe's own entry.

    Args:
        cell (Cell): The cell.
        data (DataFile): Its dataset.
        job (Job): How to run.
        work (Path): The work folder.
        folder (Path): Where this training is kept.
    """

    def __init__(self, cell: Cell, data: DataFile, job: Job, work: Path, folder: Path) -> None:
        """Initialize an instance of :class:`_Trainer`."""
        self._cell, self._job, self._folder = cell, job, folder
        self._algo, self._env_id = cell.row.algo, cell.dataset.env_id
        self._is_ours = self._algo in OURS
        self._device = resolve_device(job.device)
        task = cell.dataset.task
        self._horizon = _of_env(cell, horizon_of) if task is None else task.horizon
        self._references = _references(cell, data, self._horizon)
        self._data = data.path
        if not self._is_ours:
            # The actions of DSRL's tasks are all in [-1, 1].
            action_range = _of_env(cell, action_range_of) if task is None else None
            self._data = builtin.prepare_data(self._algo, data, work / 'data', action_range)

    def train(self) -> Training:
        """Find the number of updates, do them, and choose the best checkpoint."""
        started = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())
        updates, probe = self._find_updates()
        epochs = min(self._cell.suite.epochs, updates)
        # The built-ins save at the end of whole epochs only.
        updates = updates // epochs * epochs
        run = self._learn(updates, epochs, self._folder, validates=True)
        progress = _progress(run)
        validate_seconds = float(progress['Time/Evaluate'].sum())
        if self._is_ours:
            validate_seconds += self._calibrate_best(run)
        else:
            validate_seconds = self._validate(run)
        return Training(
            run=str(run),
            data=str(self._data),
            horizon=self._horizon,
            reference_returns=self._references,
            updates=int(progress['TotalSteps'].iloc[-1]),
            train_seconds=float(progress['Time/Update'].sum()),
            probe=probe,
            validate_seconds=validate_seconds,
            started=started,
            commit=self._job.commit,
            dirty=self._job.dirty,
            versions=versions(),
            hardware=hardware(torch.device(self._device)),
        )

    def _find_updates(self) -> tuple[int, dict[str, float] | None]:
        """Return how many updates the budget allows, and how that was found."""
        budget = self._cell.budget
        if 'updates' in budget:
            return int(budget['updates']), None
        seconds = self._time_update(_FIRST_PROBE)
        enough = math.ceil(budget['seconds'] * _PROBE_SHARE / 2 / seconds)
        timed = _FIRST_PROBE
        if enough > _FIRST_PROBE:
            seconds, timed = self._time_update(enough), enough
        updates = max(1, int(budget['seconds'] / seconds))
        return updates, {'seconds_per_update': seconds, 'timed_updates': timed}

    def _time_update(self, updates: int) -> float:
        """Train twice so many updates; returns the seconds of one of the second half.

        The first half takes in whatever is done once: graphs, compilation, memory.
        """
        folder = self._folder / 'probe'
        run = self._learn(2 * updates, 2, folder, validates=False)
        seconds = float(_progress(run)['Time/Update'].iloc[-1]) / updates
        shutil.rmtree(folder)
        return seconds

    def _learn(self, updates: int, epochs: int, folder: Path, validates: bool) -> Path:
        """Train; returns the run's folder."""
        options = self._options(updates, epochs, folder, validates)
        before = Path.cwd()
        # OmniSafe puts the dataset's name, folders and all, into the name of the run's folder.
        os.chdir(self._data.parent)
        try:
            with builtin.corrected(self._algo) as name:
                agent = omnisafe.Agent(name, self._env_id, custom_cfgs=options)
                agent.learn()
        finally:
            os.chdir(before)
        return Path(agent.agent.logger.log_dir)

    def _options(self, updates: int, epochs: int, folder: Path, validates: bool) -> dict[str, Any]:
        cell = self._cell
        options: dict[str, Any] = {
            'seed': cell.seed,
            'train_cfgs': {
                'device': self._device,
                'torch_threads': self._job.threads,
                'total_steps': updates,
                'dataset': self._data.name,
                'evaluate_epoisodes': 0,
            },
            'algo_cfgs': {'steps_per_epoch': updates // epochs},
            'logger_cfgs': {
                'log_dir': str(folder),
                'use_tensorboard': False,
                'use_wandb': False,
                'save_model_freq': 1,
            },
        }
        limit, settings = cell.suite.cost_limits[0], cell.row.settings(self._env_id)
        if not self._is_ours:
            converted = builtin.limit_options(self._algo, limit, self._horizon, settings)
            return merge(merge(converted, cell.row.options), options)
        options['train_cfgs'] |= {
            'dataset': str(self._data),
            'preset': cell.row.preset,
            'final_evaluate_episodes': 0,
            'evaluate_epoisodes': cell.suite.validation_episodes if validates else 0,
            'evaluate_processes': self._job.threads,
        }
        if not validates and 'calibrate' in settings['train_cfgs']:
            options['train_cfgs']['calibrate'] = 'none'
        # Kept are the last one and the best so far; the rest would only fill the disk.
        options['logger_cfgs']['save_model_freq'] = epochs + 1
        if 'cost_limit' in settings['algo_cfgs']:
            options['algo_cfgs']['cost_limit'] = limit
        return merge(cell.row.options, options)

    def _calibrate_best(self, run: Path) -> float:
        """Calibrate the best checkpoint as training did the last; returns the seconds."""
        if BEST not in self._cell.suite.checkpoints:
            return 0.0
        started = time.perf_counter()
        best, last = (checkpoint_path(run, which) for which in (BEST, LAST))
        record = load_networks(last)[0].spec.get('calibration')
        if record is None or best == last:
            return 0.0
        if record.get('method') == MODEL:
            calibrate_offline(best, self._data, seed=self._cell.seed, device=self._device)
        else:
            processes = self._job.threads
            calibrate_run(best, record['episodes'], device=self._device, processes=processes)
        return time.perf_counter() - started

    def _validate(self, run: Path) -> float:
        """Choose a built-in's best checkpoint by the rule that ours have; returns the seconds."""
        suite, started = self._cell.suite, time.perf_counter()
        seeds = validation_seeds(self._cell.seed, suite.validation_episodes)
        if not seeds:
            return 0.0
        limit = suite.cost_limits[0]
        files = list_checkpoints(run)
        policies = [builtin.load_policy(run, file, self._data) for file in files.values()]
        config = DeploymentConfig(cost_limit=limit, candidates=1)
        series = [Series(policy, config, 0.0, seeds) for policy in policies]
        found = evaluate_together(self._env_id, series, self._job.threads)
        rows = [
            {
                'Train/Epoch': epoch,
                VALIDATION_RETURN: statistics.fmean(each.returns),
                VALIDATION_COST: statistics.fmean(each.costs),
            }
            for epoch, each in zip(files, found)
        ]
        best = best_epoch(rows, limit)
        save_best(run, {**best, 'first_seed': seeds.start, 'episodes': len(seeds)})
        for epoch, file in files.items():
            if epoch not in (best['epoch'], max(files)):
                file.unlink()
        return time.perf_counter() - started


def _progress(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / 'progress.csv')


def _of_env(cell: Cell, ask: Callable[[Any], Any]) -> Any:
    """Return what is asked of a cell's environment."""
    env = make_env(cell.dataset.env_id)
    try:
        return ask(env)
    finally:
        env.close()


def _references(cell: Cell, data: DataFile, horizon: int) -> tuple[float, float]:
    if cell.dataset.task is not None:
        return reference_returns(cell.dataset.env_id, (0.0, 1.0))
    returns = Trajectories.load(data.path, horizon=horizon).returns
    return returns.min().item(), returns.max().item()


# -- evaluation -----------------------------------------------------------------------------------


def record(cell: Cell, training: Training, data: DataFile, job: Job) -> None:
    """Evaluate a cell and write its result: first the episodes, then the facts.

    Args:
        cell (Cell): The cell.
        training (Training): What was trained for it.
        data (DataFile): Its dataset.
        job (Job): How to run.
    """
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    evaluated: dict[Path, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for checkpoint in cell.suite.checkpoints:
        file = checkpoint_path(training.run, checkpoint)
        if file not in evaluated:  # the last one may be the best
            evaluated[file] = _episodes(cell, training, file, job)
        for known, new in zip((rows, asked), evaluated[file]):
            known += [{'checkpoint': checkpoint, **row} for row in new]
    seconds = time.perf_counter() - started
    path = Path(job.results) / cell.name
    with atomic_path(f'{path}.csv') as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(
            temporary, index=False, lineterminator='\n'
        )
    facts = _facts(cell, training, data, job, seconds)
    write_json({**facts, 'asked': asked} if asked else facts, Path(f'{path}.json'))


def _episodes(
    cell: Cell,
    training: Training,
    file: Path,
    job: Job,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the test episodes of a checkpoint at each cost limit.

    Returns:
        A row for each episode, and for each limit what a model was asked for, if it was.
    """
    suite = cell.suite
    asked: list[dict[str, Any]] = []
    seeds = final_seeds(cell.seed, suite.episodes)
    if cell.row.algo in OURS:
        found = evaluate_runs(
            file,
            list(suite.cost_limits),
            episodes=len(seeds),
            seed=seeds.start,
            processes=job.threads,
            device=resolve_device(job.device),
            **cell.row.evaluate,
        )
        columns = [(row['returns'], row['costs'], row['lengths']) for row in found]
        asked = [{name: row[name] for name in _ASKED} for row in found if row['rule'] is not None]
    else:
        policy = builtin.load_policy(Path(training.run), file, Path(training.data))
        config = DeploymentConfig(cost_limit=suite.cost_limits[0], candidates=1)
        series = [Series(policy, config, 0.0, seeds)]
        (found,) = evaluate_together(cell.dataset.env_id, series, job.threads)
        # No limit moves this policy: the same episodes count for each.
        columns = [(found.returns, found.costs, found.lengths)] * len(suite.cost_limits)
    episodes = [
        {
            'cost_limit': limit,
            'episode': episode,
            'seed': seeds[episode],
            'return': returns[episode],
            'cost': costs[episode],
            'length': lengths[episode],
        }
        for limit, (returns, costs, lengths) in zip(suite.cost_limits, columns)
        for episode in range(len(seeds))
    ]
    return episodes, asked


def _facts(
    cell: Cell,
    training: Training,
    data: DataFile,
    job: Job,
    evaluate_seconds: float,
) -> dict[str, Any]:
    """Return all that is to be known of a result."""
    suite, config = cell.suite, cell.config(data.sha256)
    facts = {
        'status': 'finished',
        'suite': suite.name,
        'row': cell.row.name,
        'algo': cell.row.algo,
        'env_id': cell.dataset.env_id,
        'dataset': cell.dataset.name,
        'dataset_file': data.path.name,
        'dataset_sha256': data.sha256,
        'seed': cell.seed,
        'episodes': suite.episodes,
        'horizon': training.horizon,
        'reference_returns': list(training.reference_returns),
        'cost_limits': list(suite.cost_limits),
        'command': rerun_command(cell, training.updates, data.path.name),
        'config': config,
        'config_hash': config_hash(config),
        'commit': training.commit,
        'dirty': training.dirty,
        'versions': training.versions,
        'hardware': training.hardware,
        'threads': job.threads,
        'started': training.started,
        'updates': training.updates,
        'probe': training.probe,
        'train_seconds': training.train_seconds,
        'validate_seconds': training.validate_seconds,
        'evaluate_seconds': evaluate_seconds,
    }
    if cell.row.algo not in OURS:
        facts['converted_limit'] = builtin.limit_options(
            cell.row.algo,
            suite.cost_limits[0],
            training.horizon,
            config['training']['settings'],
        )
    if BEST in suite.checkpoints:
        best = load_best(Path(training.run))
        names = ('rule', 'epoch', 'is_within_limit', 'epochs', 'first_seed', 'episodes')
        facts['best'] = {name: best[name] for name in names}
    if training.commit != job.commit:
        facts['evaluation_commit'] = job.commit
    return facts


def rerun_command(cell: Cell, updates: int, data_file: str) -> str:
    """Return the command that repeats a cell, with as many updates, beside the first result.

    Args:
        cell (Cell): The cell.
        updates (int): As many as were done.
        data_file (str): The dataset's file, without its folder, which is the user's.
    """
    path = cell.suite.path
    path = path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path.name
    words = ['python', '-m', 'benchmarks.compare', str(path), '--only', cell.name]
    if 'seconds' in cell.budget:
        words += ['--updates', str(updates)]
    task = cell.dataset.task
    is_found = cell.dataset.file == AUTO and task is not None and data_file == task.dataset_file
    if not is_found and cell.dataset.file != SAMPLE:
        words += ['--data', f'{cell.dataset.name}={data_file}']
    words += ['--results', f'benchmarks/results/{cell.suite.name}-again']
    return shlex.join(words)


if __name__ == '__main__':
    sys.exit(main())
