# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt report``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import add_command, check_writable, positive, say, write_json
from omnisafe_qpt.cli.data_info import limit, reading
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from omnisafe_qpt.report.gather import DatasetView, Run


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'report',
        'show a run on one page: results at each cost limit, training, data, settings',
        "omnisafe-qpt report 'runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-000-...' "
        '--cost-limit 10 --cost-limit 40',
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help="a run's folder; several of one task, such as seeds, are averaged",
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='F',
        help="page to write, a self-contained HTML file (default: report.html in the run's "
        'folder, or in the common folder of all runs)',
    )
    parser.add_argument(
        '--cost-limit',
        type=limit,
        action='append',
        metavar='X',
        help='undiscounted cost that an episode must not exceed; may be given several times '
        "(default: 5, 10, 20, 40 and the run's)",
    )
    parser.add_argument(
        '--episodes',
        type=positive,
        metavar='N',
        help='episodes to simulate at each limit of each run (default: 20)',
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--evaluation',
        type=Path,
        metavar='JSON',
        help='read the results from this file of omnisafe-qpt evaluate --json, without simulation',
    )
    source.add_argument(
        '--no-simulator',
        action='store_true',
        help='report on training and data only, without simulation',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='F',
        help='write the results at each limit to this file, as evaluate --json does',
    )
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    _check_options(options)
    from omnisafe_qpt.data.atomic import atomic_path
    from omnisafe_qpt.report.gather import read_runs
    from omnisafe_qpt.report.page import make_page

    runs = read_runs(options.runs)
    path = options.out or _common_folder(runs) / 'report.html'
    check_writable(path, '--out')
    rows = _rows(options, runs)
    page = make_page(runs, rows, _datasets(runs))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding='utf-8')
    say(f'{path}: a self-contained page, for a browser')
    if options.json is not None:
        write_json(
            [{key: row[key] for key in row if key != 'traces'} for row in rows], options.json
        )


def _check_options(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    if options.out is not None:
        check_writable(options.out, '--out')
    simulates = options.evaluation is None and not options.no_simulator
    if not simulates and (options.cost_limit or options.episodes):
        raise UserError(
            '--cost-limit and --episodes set the simulation, which --evaluation and --no-simulator '
            'turn off; leave out one or the other',
        )


def _common_folder(runs: Sequence[Run]) -> Path:
    return Path(os.path.commonpath([run.folder for run in runs]))


def _rows(options: argparse.Namespace, runs: Sequence[Run]) -> list[dict[str, Any]]:
    from omnisafe_qpt.settings.files import OFFLINE_ENV_ID

    if options.no_simulator or (options.evaluation is None and runs[0].env_id == OFFLINE_ENV_ID):
        return []
    if options.evaluation is not None:
        from omnisafe_qpt.report.gather import read_evaluation

        return read_evaluation(options.evaluation, runs)
    return _simulate(options, runs)


def _simulate(options: argparse.Namespace, runs: Sequence[Run]) -> list[dict[str, Any]]:
    from omnisafe_qpt.data.summary import COST_LIMITS
    from omnisafe_qpt.evaluation.sweep import evaluate_runs
    from omnisafe_qpt.progress import ProgressReporter

    limits = {*(options.cost_limit or (*COST_LIMITS, *(run.cost_limit for run in runs)))}
    progress = ProgressReporter('Evaluating', 1)
    try:
        with progress.shown():
            return evaluate_runs(
                [run.folder for run in runs],
                sorted(limits),
                episodes=options.episodes or 20,
                traces=True,
                on_progress=progress.update,
            )
    except UserError as error:
        raise UserError(f'{error} (--no-simulator reports without episodes)') from error


def _datasets(runs: Sequence[Run]) -> list[DatasetView]:
    from omnisafe_qpt.report.gather import read_datasets

    with reading(Path(runs[0].dataset['path'])) as on_progress:
        return read_datasets(runs, on_progress)
