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
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.command import make_parser
from benchmarks.engines import ROOT, Engine, ProcessEngine, RayEngine
from benchmarks.estimate import Forecast, collection_seconds, data_bytes, estimate, recorded_seconds
from benchmarks.suite import Cell, DataFile, Suite, config_hash, find_data, is_finished
from benchmarks.suite_file import load_suite
from benchmarks.suite_runner import Plan, SuiteRunner, show_duration
from omnisafe_qpt.cli.common import positive
from omnisafe_qpt.data.checks import count
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import stop_signals


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
        runner = SuiteRunner(plan, options, engine)
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
        f'trainings, about {show_duration(seconds)} of work on {_device_type(options.device)} '
        f'({show_duration(together)} with {options.workers} at a time) and '
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
        own = f'training {show_duration(each.train)}'
        shared = own if first == cells[0].row.name else f'the training of {first}'
        print(
            f'  {name:<{width}}  seeds {seeds:<10} each about {shared}, '
            f'evaluation {show_duration(each.evaluate)}',
        )
    print('  (* finished)')


if __name__ == '__main__':
    sys.exit(main())
