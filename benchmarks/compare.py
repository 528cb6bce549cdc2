# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Algorithms side by side: each row of a suite on each dataset with each seed, a cell each.

    python -m benchmarks.compare benchmarks/suites/smoke.yaml
    python -m benchmarks.compare benchmarks/suites/local.yaml --data-dir DATA --workers 2
    python -m benchmarks.compare benchmarks/suites/paper.yaml --dry-run
    python -m benchmarks.compare benchmarks/suites/local.yaml --data-dir DATA --only '*/QPT/seed-0'

A cell leaves a CSV with a line for each evaluation episode and a JSON with everything needed to
repeat it, both in benchmarks/results/SUITE. What is finished with the same settings is not done
again, so a suite goes on after a break. Cells that train alike share one training, which stays in
the work folder. `python -m benchmarks.report` makes tables and plots of the results.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks.command import make_parser
from benchmarks.engines import (
    ROOT,
    Engine,
    Job,
    Outcome,
    ProcessEngine,
    RayEngine,
    Work,
    error_file,
)
from benchmarks.estimate import (
    START_SECONDS,
    Estimate,
    Forecast,
    collection_seconds,
    data_bytes,
    estimate,
    recorded_seconds,
)
from benchmarks.suite import (
    Cell,
    DataFile,
    Dataset,
    Suite,
    config_hash,
    data_file,
    find_data,
    is_finished,
    load_suite,
    read_facts,
    training_record,
)
from omnisafe_qpt.cli.common import positive, write_json
from omnisafe_qpt.data.checks import count
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import stop_signals


# A line of progress at least this often.
_SECONDS_BETWEEN_LINES = 120.0
# A training whose time is further from its budget is pointed out.
_BUDGET_TOLERANCE = 0.2


def main() -> int:
    """Run a suite from the command line."""
    options = _parser().parse_args()
    try:
        return run(options)
    except (UserError, OSError) as error:  # a full disk, for instance: finished cells stay
        print(f'Error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Stopped; finished cells stay, and the same command goes on', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('suite', type=Path, metavar='SUITE.yaml')
    parser.add_argument(
        '--results',
        type=Path,
        metavar='DIR',
        help='of this suite (default: benchmarks/results/ and its name)',
    )
    parser.add_argument(
        '--data',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=FILE',
        help='the file of a dataset of the suite',
    )
    parser.add_argument('--data-dir', type=Path, metavar='DIR', help='of files named in the suite')
    parser.add_argument(
        '--only',
        nargs='+',
        action='extend',
        default=[],
        metavar='PATTERN',
        help='cells DATASET/ROW/seed-N, or folders of them; * stands for anything',
    )
    parser.add_argument(
        '--updates',
        type=positive,
        metavar='N',
        help="of each training, in place of the suite's budget: repeats a cell exactly",
    )
    parser.add_argument('--workers', type=positive, default=1, metavar='N', help='jobs at a time')
    parser.add_argument(
        '--threads',
        type=positive,
        default=1,
        metavar='N',
        help='of each job, in training; processes in evaluation (default: 1)',
    )
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--retry', type=int, default=1, metavar='N', help='of a job that failed, times (default: 1)'
    )
    parser.add_argument(
        '--work',
        type=Path,
        default=Path('runs/compare'),
        metavar='DIR',
        help='of trained runs, logs and errors (default: runs/compare)',
    )
    parser.add_argument('--engine', choices=('processes', 'ray'), default='processes')
    parser.add_argument('--ray-address', metavar='A', help="of a cluster, as ray.init's address")
    parser.add_argument(
        '--gpus-per-cell',
        type=float,
        default=0.0,
        metavar='F',
        help='share of a GPU for each job on a Ray cluster (default: 0)',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only list the cells, what is finished, and what the rest will take',
    )
    return parser


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


def run(options: argparse.Namespace) -> int:
    """Do what is left of a suite; returns 1 if a cell failed.

    Args:
        options (argparse.Namespace): Of the command line.

    Raises:
        UserError: If the suite or the data are not as they should be.
    """
    suite = load_suite(options.suite, options.updates)
    plan = make_plan(suite, options)
    _print_plan(plan, options)
    if options.dry_run:
        return 0
    if not plan.pending:
        return 0
    with _ended_by_signals():
        engine = _make_engine(options)
        runner = _Runner(plan, options, engine)
        try:
            runner.run()
        finally:
            engine.stop()
    return runner.summarise()


def make_plan(suite: Suite, options: argparse.Namespace) -> Plan:
    """Find the data, and what is finished.

    Args:
        suite (Suite): The suite.
        options (argparse.Namespace): Of the command line.

    Raises:
        UserError: If a dataset that is needed cannot be had, or an option fits nothing.
    """
    cells = suite.cells(options.only)
    results = options.results or ROOT / 'benchmarks' / 'results' / suite.name
    files = dict(_data_option(pair, suite) for pair in options.data)
    work = options.work.resolve()
    data_dir = (options.data_dir or work / 'collected').expanduser()
    data: dict[str, DataFile | None] = {}
    finished, pending = [], []
    for dataset in {cell.dataset.name: cell.dataset for cell in cells}.values():
        folder = options.data_dir if dataset.collect is None else data_dir
        data[dataset.name] = find_data(dataset, files, folder, may_download=False)
        found = data[dataset.name]
        sha256 = None if found is None else found.sha256
        unfinished = []
        for cell in cells:
            if cell.dataset == dataset:
                is_done = is_finished(results, cell, sha256)
                (finished if is_done else unfinished).append(cell)
        if unfinished and found is None and not options.dry_run:
            data[dataset.name] = find_data(dataset, files, folder, may_download=True)
        pending += unfinished
    device = _device_type(options.device)
    recorded = recorded_seconds(results, device)
    estimates = {cell.name: estimate(cell, recorded, device) for cell in cells}
    return Plan(suite, results, data, finished, pending, estimates, work, data_dir)


def _data_option(pair: str, suite: Suite) -> tuple[str, Path]:
    name, _, file = pair.partition('=')
    if name not in suite.datasets or not file:
        raise UserError(
            f'--data {pair}: give NAME=FILE with one of {", ".join(suite.datasets)}',
        )
    return name, Path(file)


def _device_type(device: str) -> str:
    if device != 'auto':
        return device.partition(':')[0]
    import torch

    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _make_engine(options: argparse.Namespace) -> Engine:
    if options.engine == 'ray':
        return RayEngine(
            options.ray_address,
            options.workers,
            options.threads,
            options.gpus_per_cell,
            options.retry,
        )
    return ProcessEngine(options.workers)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C within a block, so that nothing is left running."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in stop_signals()
        if number != signal.SIGINT
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


class _Runner:
    """Hands groups of cells to an engine until all are done or have failed too often.

    Args:
        plan (Plan): What there is to do.
        options (argparse.Namespace): Of the command line.
        engine (Engine): What runs jobs.
    """

    def __init__(self, plan: Plan, options: argparse.Namespace, engine: Engine) -> None:
        """Initialize an instance of :class:`_Runner`."""
        self._plan, self._options, self._engine = plan, options, engine
        self._work = plan.work
        self._commit, self._dirty = git_state()
        self._tasks: dict[Future[Outcome], _Task] = {}  # in the order in which they start
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
        self._to_collect = self._plan.to_collect()
        for _ in range(self._engine.parallel):
            self._collect_next()
        missing = {dataset.name for dataset in self._plan.to_collect()}
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
            self._say(f'{dataset.name} collected in {_duration(seconds)}')
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
        left = f', ETA {_duration(self._seconds_left())}' if self._tasks else ''
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
        elapsed = _duration(time.monotonic() - self._started)
        print(f'{len(done)} cells done in {elapsed}; results in {_shown(self._plan.results)}')
        for cell in self._done:
            note = _off_budget(cell, read_facts(self._plan.results, cell.name))
            if note:
                print(f'  {cell.name}: {note}')
        for name in failed:
            path = error_file(self._work, self._plan.suite.name, name)
            print(f'FAILED {name}: {self._failed[name]}\n  {_shown(path)}', file=sys.stderr)
        return int(bool(failed))


def _outcome(facts: dict[str, Any]) -> str:
    text = f'{facts["updates"]} updates in {_duration(facts["train_seconds"])}'
    return f'{text}, evaluated in {_duration(facts["evaluate_seconds"])}'


def _off_budget(cell: Cell, facts: dict[str, Any]) -> str:
    """Say if a training took another time than its budget, as on a machine whose load changes."""
    if 'seconds' not in cell.budget:
        return ''
    ratio = facts['train_seconds'] / cell.budget['seconds']
    if abs(ratio - 1.0) <= _BUDGET_TOLERANCE:
        return ''
    return f'trained {facts["train_seconds"]:.0f} s of a budget of {cell.budget["seconds"]:g} s'


def _print_plan(plan: Plan, options: argparse.Namespace) -> None:
    """Print the cells, and what those that are left will take."""
    suite = plan.suite
    budget = ', '.join(f'{amount:g} {kind}' for kind, amount in suite.budget.items())
    limits = ', '.join(f'{limit:g}' for limit in suite.cost_limits)
    print(
        f'{suite.name}: {len(plan.finished) + len(plan.pending)} cells, {budget} of training each, '
        f'{count(suite.episodes, "episode")} at cost limit {limits}',
    )
    if options.dry_run:
        _print_cells(plan)
    groups = plan.groups()
    expected = [plan.expect(cells) for cells in groups]
    expected += [
        (('collect', each.name), collection_seconds(each, options.threads))
        for each in plan.to_collect()
    ]
    seconds = sum(each for _, each in expected)
    jobs = [(*each, 0.0) for each in expected]
    together = Forecast(1.0).left(jobs, options.workers)
    disk = sum(plan.estimates[cells[0].name].disk for cells in groups)
    disk += data_bytes(plan.pending, plan.data)
    print(
        f'Finished: {len(plan.finished)}. Left: {len(plan.pending)} cells of {len(groups)} '
        f'trainings, about {_duration(seconds)} of work on {_device_type(options.device)} '
        f'({_duration(together)} with {options.workers} at a time) and '
        f'{disk / 1e9:.1f} GB of disk',
    )
    missing = [name for name, data in plan.data.items() if data is None]
    if missing:
        others = f' and {len(missing) - 3} others' if len(missing) > 3 else ''
        print(f'Data not here yet: {", ".join(missing[:3])}{others}')


def _print_cells(plan: Plan) -> None:
    """Print a line for each row on each dataset."""
    lines: dict[str, list[Cell]] = {}
    trained_by: dict[str, str] = {}
    for cell in (*plan.finished, *plan.pending):
        lines.setdefault(f'{cell.dataset.name}/{cell.row.name}', []).append(cell)
    width = max(map(len, lines))
    for name, cells in lines.items():
        seeds = ' '.join(
            f'{cell.seed}{"*" if cell in plan.finished else ""}'
            for cell in sorted(cells, key=lambda cell: cell.seed)
        )
        each = plan.estimates[cells[0].name]
        training = config_hash(cells[0].training(plan.sha256(cells[0])))
        first = trained_by.setdefault(training, cells[0].row.name)
        own = f'training {_duration(each.train)}'
        shared = own if first == cells[0].row.name else f'the training of {first}'
        print(
            f'  {name:<{width}}  seeds {seeds:<10} each about {shared}, '
            f'evaluation {_duration(each.evaluate)}',
        )
    print('  (* finished)')


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _shown(path: Path) -> str:
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


if __name__ == '__main__':
    sys.exit(main())
