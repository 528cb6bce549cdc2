# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The work of a suite, done by an engine: collections, trainings, evaluations, and what fails."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.engines import ROOT, Engine, Job, Outcome, Work, error_file
from benchmarks.estimate import START_SECONDS, Estimate, Forecast, collection_seconds
from benchmarks.suite import (
    Cell,
    DataFile,
    Dataset,
    Suite,
    config_hash,
    data_file,
    is_finished,
    read_facts,
    training_record,
)
from omnisafe_qpt.cli.common import write_json


# A line of progress at least this often.
_SECONDS_BETWEEN_LINES = 120.0
# A training whose time is further from its budget is pointed out.
_BUDGET_TOLERANCE = 0.2


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Args:
        suite (Suite): The suite.
        results (Path): Its folder of results.
        data (dict[str, DataFile or None]): The datasets' files, where they are here.
        finished (list[Cell]): Cells that are done.
        pending (list[Cell]): Cells to do.
        estimates (dict[str, Estimate]): Of every cell, by its name.
        work (Path): The work folder.
        data_dir (Path): The folder of collected datasets.
    """

    suite: Suite
    results: Path
    data: dict[str, DataFile | None]
    finished: list[Cell]
    pending: list[Cell]
    estimates: dict[str, Estimate]
    work: Path
    data_dir: Path

    def sha256(self, cell: Cell) -> str | None:
        """Return the hash of a cell's dataset, if its file is here."""
        data = self.data[cell.dataset.name]
        return None if data is None else data.sha256

    def to_collect(self) -> list[Dataset]:
        """List the datasets that pending cells need and that are to be collected."""
        needed = {cell.dataset.name: cell.dataset for cell in self.pending}
        missing = [needed[name] for name in needed if self.data[name] is None]
        return [dataset for dataset in missing if dataset.collect is not None]

    def groups(self, datasets: Collection[str] | None = None) -> list[list[Cell]]:
        """Put together pending cells that train alike; the first seed of everything comes first.

        Args:
            datasets (Collection[str], optional): Only their cells. Defaults to None, all.
        """
        groups: dict[str, list[Cell]] = {}
        for cell in self.pending:
            if datasets is not None and cell.dataset.name not in datasets:
                continue
            groups.setdefault(config_hash(cell.training(self.sha256(cell))), []).append(cell)
        seeds = list(dict.fromkeys(cell.seed for cell in (*self.finished, *self.pending)))
        return sorted(groups.values(), key=lambda cells: seeds.index(cells[0].seed))

    def expect(self, cells: list[Cell]) -> tuple[Hashable, float]:
        """Return the kind of a group of cells, which other seeds share, and its seconds in a job.

        A training that an earlier job has left in the work folder takes no time.
        """
        estimates = [self.estimates[cell.name] for cell in cells]
        training = cells[0].training(self.sha256(cells[0]))
        is_trained = training_record(self.work, training).is_file()
        seconds = START_SECONDS + sum(each.evaluate for each in estimates)
        kind = (cells[0].dataset.name, tuple(cell.row.name for cell in cells), is_trained)
        return kind, seconds if is_trained else seconds + estimates[0].train


@dataclass
class _Task:
    """A group of cells, or the collection of their dataset, on its way.

    Args:
        cells (list[Cell]): Those that are left of it.
        tries (int): How often it was submitted.
        expected (tuple[Hashable, float]): Its kind and its estimate when it was submitted last.
        work (Work): Its job.
        collects (Dataset, optional): What it collects. Defaults to None.
    """

    cells: list[Cell]
    tries: int
    expected: tuple[Hashable, float]
    work: Work
    collects: Dataset | None = None


class SuiteRunner:
    """Hands groups of cells to an engine until all are done or have failed too often.

    Args:
        plan (Plan): What there is to do.
        options (argparse.Namespace): Of the command line.
        engine (Engine): What runs jobs.
    """

    def __init__(self, plan: Plan, options: argparse.Namespace, engine: Engine) -> None:
        """Initialize an instance of :class:`SuiteRunner`."""
        self._plan, self._options, self._engine = plan, options, engine
        self._work = plan.work
        self._commit, self._dirty = git_state()
        self._tasks: dict[Future[Outcome], _Task] = {}  # in the order in which they start
        self._to_collect = plan.to_collect()  # datasets whose collection has not been submitted
        self._done: list[Cell] = []
        self._failed: dict[str, str] = {}
        self._started = time.monotonic()
        self._forecast = Forecast(
            statistics.fmean(plan.expect(cells)[1] for cells in plan.groups()),
        )

    def run(self) -> None:
        """Do all there is to do.

        A dataset is collected while the cells of those before it are trained, so that the first
        results come early: there are never more collections under way than jobs at a time.
        """
        missing = {dataset.name for dataset in self._to_collect}
        for _ in range(self._engine.parallel):
            self._collect_next()
        for cells in self._plan.groups(self._plan.data.keys() - missing):
            self._submit(cells, 1)
        while self._tasks:
            ended = wait(self._tasks, _SECONDS_BETWEEN_LINES, FIRST_COMPLETED).done
            for future in ended:
                self._settle(self._tasks.pop(future), future)
            if not ended:
                running = list(self._tasks.values())[: self._engine.parallel]
                names = ', '.join(task.cells[0].name for task in running)
                self._say(f'running {names[:200]}')

    def _submit(self, cells: list[Cell], tries: int) -> None:
        suite, options = self._plan.suite, self._options
        data = self._plan.data[cells[0].dataset.name]
        for cell in cells:
            error_file(self._work, suite.name, cell.name).unlink(missing_ok=True)
        job = Job(
            suite=str(suite.path.resolve()),
            updates=options.updates,
            cells=tuple(cell.name for cell in cells),
            data=str(data.path),
            data_sha256=data.sha256,
            work=str(self._work),
            results=str(self._plan.results.resolve()),
            threads=options.threads,
            device=options.device,
            commit=self._commit,
            dirty=self._dirty,
        )
        log = self._log(cells[0].name.replace('/', '-'))
        job.save(log.with_suffix('.json'))
        work = Work(('benchmarks.cells', str(log.with_suffix('.json'))), log, options.threads)
        task = _Task(cells, tries, self._plan.expect(cells), work)
        self._tasks[self._engine.submit(work)] = task

    def _collect_next(self) -> None:
        if self._to_collect:
            self._collect(self._to_collect.pop(0), 1)

    def _collect(self, dataset: Dataset, tries: int) -> None:
        self._plan.data_dir.mkdir(parents=True, exist_ok=True)
        path = (self._plan.data_dir / dataset.file).resolve()
        threads = self._options.threads
        log = self._log(f'collect-{dataset.name}')
        collection = {'env_id': dataset.env_id, 'options': dataset.collect, 'out': str(path)}
        write_json({**collection, 'workers': threads}, log.with_suffix('.json'))
        work = Work(('benchmarks.collecting', str(log.with_suffix('.json'))), log, threads)
        cells = [cell for cell in self._plan.pending if cell.dataset == dataset]
        self._tasks[self._engine.submit(work)] = _Task(
            cells, tries, self._expect_collection(dataset), work, dataset
        )

    def _expect_collection(self, dataset: Dataset) -> tuple[Hashable, float]:
        return ('collect', dataset.name), collection_seconds(dataset, self._options.threads)

    def _log(self, name: str) -> Path:
        """Return the new log of a job."""
        folder = self._work / self._plan.suite.name / 'jobs'
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f'{name}.log'
        log.unlink(missing_ok=True)
        return log

    def _settle(self, task: _Task, future: Future[Outcome]) -> None:
        """Take in what a job has brought; what failed is tried again, or told."""
        try:
            how, seconds = future.result()
        except Exception as error:  # noqa: BLE001 - Ray's, where a node is lost
            how, seconds = str(error).strip().splitlines()[-1], 0.0
        if task.collects is not None:
            self._settle_collection(task, how, seconds)
            return
        sha256 = self._plan.sha256(task.cells[0])
        done = [cell for cell in task.cells if is_finished(self._plan.results, cell, sha256)]
        left = [cell for cell in task.cells if cell not in done]
        is_over = task.tries > self._options.retry
        if not left:
            self._forecast.learn(*task.expected, seconds)
        for cell in left:
            self._note_failure(cell, task.work, how)
        if left and not is_over:
            self._submit(left, task.tries + 1)
        for cell in done:
            self._done.append(cell)
            self._say(f'{cell.name} {_outcome(read_facts(self._plan.results, cell.name))}')
        for cell in left:
            verdict = 'FAILED' if is_over else 'failed, to be tried again'
            self._say(f'{cell.name} {verdict}: {self._failed[cell.name]}')

    def _settle_collection(self, task: _Task, how: str, seconds: float) -> None:
        dataset = task.collects
        path = self._plan.data_dir / dataset.file
        if not how and path.is_file():
            self._forecast.learn(*task.expected, seconds)
            self._plan.data[dataset.name] = data_file(path)
            for cells in self._plan.groups({dataset.name}):
                self._submit(cells, 1)
            self._collect_next()
            self._say(f'{dataset.name} collected in {show_duration(seconds)}')
        elif task.tries <= self._options.retry:
            self._collect(dataset, task.tries + 1)
            self._say(f'{dataset.name} could not be collected, to be tried again: {how}')
        else:
            for cell in task.cells:
                self._note_failure(cell, task.work, how)
            self._collect_next()
            self._say(f'{dataset.name} FAILED to be collected: {how}')

    def _note_failure(self, cell: Cell, work: Work, how: str) -> None:
        """Keep the last line of what went wrong; a process that died could not write it itself."""
        path = error_file(self._work, self._plan.suite.name, cell.name)
        if not path.is_file():
            log = (
                work.log.read_text(encoding='utf-8', errors='replace') if work.log.is_file() else ''
            )
            tail = '\n'.join(log.splitlines()[-30:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{tail}\n{how}\n'.lstrip(), encoding='utf-8')
            self._failed[cell.name] = ': '.join([how, *tail.splitlines()[-1:]])
            return
        lines = path.read_text(encoding='utf-8').strip().splitlines()
        self._failed[cell.name] = lines[-1] if lines else how

    def _say(self, what: str) -> None:
        left = f', ETA {show_duration(self._seconds_left())}' if self._tasks else ''
        print(f'[{len(self._done)}/{len(self._plan.pending)}{left}] {what}', flush=True)

    def _seconds_left(self) -> float:
        now = time.monotonic()
        jobs = [
            (*task.expected, 0.0 if task.work.started is None else now - task.work.started)
            for task in self._tasks.values()
        ]
        later = [(*self._expect_collection(dataset), 0.0) for dataset in self._to_collect]
        waiting = {task.collects.name for task in self._tasks.values() if task.collects}
        waiting.update(dataset.name for dataset in self._to_collect)
        later += [(*self._plan.expect(cells), 0.0) for cells in self._plan.groups(waiting)]
        return self._forecast.left([*jobs, *later], self._engine.parallel)

    def summarise(self) -> int:
        """Say how it ended; returns 1 if a cell failed."""
        done = {cell.name for cell in self._done}
        failed = [cell.name for cell in self._plan.pending if cell.name not in done]
        elapsed = show_duration(time.monotonic() - self._started)
        print(f'{len(done)} cells done in {elapsed}; results in {shown(self._plan.results)}')
        for cell in self._done:
            note = _off_budget(cell, read_facts(self._plan.results, cell.name))
            if note:
                print(f'  {cell.name}: {note}')
        for name in failed:
            path = error_file(self._work, self._plan.suite.name, name)
            print(f'FAILED {name}: {self._failed[name]}\n  {shown(path)}', file=sys.stderr)
        return int(bool(failed))


def _outcome(facts: dict[str, Any]) -> str:
    text = f'{facts["updates"]} updates in {show_duration(facts["train_seconds"])}'
    return f'{text}, evaluated in {show_duration(facts["evaluate_seconds"])}'


def _off_budget(cell: Cell, facts: dict[str, Any]) -> str:
    """Say if a training took another time than its budget, as on a machine whose load changes."""
    if 'seconds' not in cell.budget:
        return ''
    ratio = facts['train_seconds'] / cell.budget['seconds']
    if abs(ratio - 1.0) <= _BUDGET_TOLERANCE:
        return ''
    return f'trained {facts["train_seconds"]:.0f} s of a budget of {cell.budget["seconds"]:g} s'


def show_duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def shown(path: Path) -> str:
    """Return a path as short as it can be typed."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def git_state() -> tuple[str | None, bool]:
    """Return git's commit of the code, and whether the code differs from it.

    Results do not count: they change while a suite runs.
    """

    def ask(*arguments: str) -> str | None:
        command = ['git', '-C', str(ROOT), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = ask('rev-parse', 'HEAD')
    if commit is None:
        return None, False
    changes = ask('status', '--porcelain', '--', 'omnisafe_qpt', 'configs', 'benchmarks/*.py')
    return commit.strip(), bool(changes)
