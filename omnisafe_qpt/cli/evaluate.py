# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt evaluate``: trained runs in their environment, at any cost limits."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import (
    add_checkpoint,
    add_command,
    add_deployment_options,
    add_exogenous,
    add_machine_options,
    add_uncalibrated,
    check_offline,
    check_writable,
    deployment_options,
    positive,
    print_table,
    result_console,
    result_table,
    say,
    target_return,
    write_json,
)
from omnisafe_qpt.cli.offline import run_offline
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.scores import fixed


if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table


# Default.
_EPISODES = 20


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'evaluate',
        'run trained policies of one task in its environment, at any cost limits',
        "omnisafe-qpt evaluate 'runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-000-...' \\\n"
        '    --cost-limit 5 --cost-limit 10 --cost-limit 20 --cost-limit 40 \\\n'
        '    --plot limits.png --json limits.json',
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help="a run's folder, or one of its torch_save/epoch-N.pt; several are averaged",
    )
    add_checkpoint(parser)
    parser.add_argument(
        '--cost-limit',
        type=float,
        action='append',
        metavar='X',
        help="undiscounted cost that an episode must not exceed (default: the run's); may be given "
        'several times',
    )
    parser.add_argument(
        '--target-return',
        type=target_return,
        action='append',
        metavar='R',
        help="target return, with the limit as target cost, or dsrl for DSRL's published one; once "
        "for all limits, or once for each (default: the target calibration's choice; without "
        'one the highest in the dataset within the limit)',
    )
    parser.add_argument(
        '--episodes',
        type=positive,
        metavar='N',
        help=f'for each limit of each run (default: {_EPISODES})',
    )
    add_deployment_options(parser)
    add_uncalibrated(parser)
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='seed of the first episode; increases by one per episode; the same for all limits '
        'and runs (default: 0)',
    )
    add_machine_options(parser)
    parser.add_argument(
        '--offline',
        metavar='DATASET',
        help='no simulator: estimate return and cost in dynamics learned from a dataset (file or '
        'name as in train_cfgs:dataset), and check actions, critics and selection on it; of the '
        "run's own file only the held-out episodes are used, if any",
    )
    add_exogenous(parser)
    parser.add_argument(
        '--no-estimate',
        action='store_true',
        help='with --offline: only the checks, without estimates',
    )
    parser.add_argument(
        '--plot',
        type=Path,
        metavar='F',
        help='plot return and cost against the limit, or with --offline realised against '
        'predicted values of the critics: F.png, F.pdf or F.svg',
    )
    parser.add_argument(
        '--video',
        type=Path,
        metavar='DIR',
        help='write a clip (MP4) of the first episode for each limit of each run to this folder',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='F',
        help='write a row for each limit of each run to this file; with --offline one for each run',
    )
    parser.add_argument(
        '--summary',
        type=Path,
        metavar='F',
        help='write the averages over runs, with their intervals, to this file as JSON',
    )
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    _check_files({f'--{name}': getattr(options, name) for name in ('json', 'summary', 'plot')})
    if check_offline(options):
        run_offline(options)
        return
    if options.no_estimate:
        raise UserError('--no-estimate is for --offline; give both or neither')
    from omnisafe_qpt.evaluation.averages import average_runs
    from omnisafe_qpt.evaluation.sweep import evaluate_runs
    from omnisafe_qpt.plots import check_suffix, plot_limits
    from omnisafe_qpt.progress import ProgressReporter

    if options.plot is not None:
        check_suffix(options.plot)
    film = None if options.video is None else _prepare_film(options)
    progress = ProgressReporter('Evaluating', 1)
    with progress.shown():
        rows = evaluate_runs(
            options.runs,
            options.cost_limit,
            options.target_return,
            episodes=options.episodes or _EPISODES,
            seed=options.seed,
            processes=options.processes,
            traces=film is not None,
            on_progress=progress.update,
            **deployment_options(options),
        )
    traces = [row.pop('traces', None) for row in rows]
    averages = average_runs(rows)
    if options.json is not None:
        write_json(rows, options.json)
    if options.summary is not None:
        write_json(averages, options.summary)
    if options.plot is not None:
        plot_limits(rows, options.plot)
    _print_tables(rows, averages)
    if film is not None:  # last, so that a failure here loses no results
        film([{**row, 'traces': trace} for row, trace in zip(rows, traces)])


def _prepare_film(options: argparse.Namespace) -> Callable[[list[dict[str, Any]]], None]:
    """Check that clips can be made; returns the function that makes them from rows."""
    from omnisafe_qpt.evaluation.video import check_video, write_clips
    from omnisafe_qpt.progress import ProgressReporter

    graphics = check_video(options.video, options.runs[0])

    def film(rows: list[dict[str, Any]]) -> None:
        progress = ProgressReporter('Filming', 1)
        with progress.shown():
            paths = write_clips(rows, options.video, graphics, options.processes, progress.update)
        for path in paths:
            say(f'Video: {path}')

    return film


def _check_files(files: dict[str, Path | None]) -> None:
    """Check before the work that the result files can be written."""
    named: dict[Path, str] = {}
    for option, path in files.items():
        if path is not None:
            check_writable(path, option)
            first = named.setdefault(path.resolve(), option)
            if first != option:
                raise UserError(f'{first} and {option} name the same file, {path}')


def _print_tables(rows: list[dict[str, Any]], averages: list[dict[str, Any]]) -> None:
    """Print a table for each run, and one of the means if there are several."""
    console = result_console()
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(f'{row["run"]}, {row["checkpoint"]}', []).append(row)
    for run, own in runs.items():
        console.print(run, soft_wrap=True)
        print_table(_run_table(own), console)
        for line in _statements(own):
            console.print(line)
        console.print()
    if len(runs) > 1:
        print_table(_average_table(averages), console)


def _run_table(rows: list[dict[str, Any]]) -> Table:
    """Make a line for each limit of a run."""
    from omnisafe_qpt.data.checks import count

    first = rows[0]
    title = f'{first["algo"]} on {first["env_id"]}, {first["episodes"]} episodes'
    if first['rule'] is not None:
        title += f', {count(first["candidates"], "candidate")}'
    notes = [
        'mean ± deviation over episodes; unsafe: episodes above the limit;',
        'safe: normalised cost at most 1',
    ]
    if any(row['target_cost'] not in (None, row['cost_limit']) for row in rows):
        notes.append('target: return @ target cost, chosen by the target calibration')
    if any(row['zero_action'] for row in rows):
        notes.append('none: no safe target found, zero-action fallback')
    table = result_table(
        title,
        '\n'.join(notes),
        ('Limit', 'Target', 'Return', 'norm.', 'Cost', 'norm.', 'Unsafe', 'Safe'),
    )
    for row in rows:
        table.add_row(
            f'{row["cost_limit"]:g}',
            _asked(row),
            f'{fixed(row["return_mean"], 1)} ± {row["return_std"]:.1f}',
            f'{fixed(row["normalized_return"], 3)}',
            f'{row["cost_mean"]:.1f} ± {row["cost_std"]:.1f}',
            f'{row["normalized_cost"]:.3f}',
            f'{row["unsafe_share"]:.0%}',
            '-' if row['zero_action'] else 'yes' if row['safe'] else 'NO',
        )
    return table


def _statements(rows: list[dict[str, Any]]) -> list[str]:
    """Print the guarantees at each limit: from these episodes, and from target calibration."""
    lines = []
    for row in rows:
        over = round(row['unsafe_share'] * row['episodes'])
        bound = math.ceil(100 * row['unsafe_share_bound'])
        lines.append(
            f'Limit {row["cost_limit"]:g}: {over} of {row["episodes"]} episodes over: at most '
            f'{bound} % of all, with 95 % confidence (Clopper-Pearson)',
        )
        if row['guarantee'] is not None:
            lines += [
                f'  calibration: {row["guarantee"][name]}'
                for name in ('mean_statement', 'share_statement')
            ]
    return lines


def _asked(row: dict[str, Any]) -> str:
    if row['target_return'] is None:
        return 'none' if row['zero_action'] else '-'
    at = '' if row['target_cost'] == row['cost_limit'] else f' @{row["target_cost"]:g}'
    return f'{row["target_return"]:.1f}{at}'


def _average_table(averages: list[dict[str, Any]]) -> Table:
    """Make a line for each limit, averaged over runs."""
    notes = (
        '±: 95 % Student t interval over runs, wide for two or three;\n'
        'safe: mean normalised cost at most 1, and the number of such runs'
    )
    if any(row['runs_without_target'] for row in averages):
        notes += ';\n-: no safe target found in one of the runs (zero-action fallback)'
    table = result_table(
        f'{averages[0]["algo"]} on {averages[0]["env_id"]}, mean over runs',
        notes,
        ('Limit', 'Return', 'normalised', 'Cost', 'normalised', 'Unsafe', 'Safe'),
    )
    for row in averages:
        verdict = '-' if row['runs_without_target'] else 'yes' if row['safe'] else 'NO'
        table.add_row(
            f'{row["cost_limit"]:g}',
            f'{fixed(row["return_mean"], 1)}',
            f'{fixed(row["normalized_return"], 3)}{_half(row["normalized_return_interval"])}',
            f'{row["cost_mean"]:.1f}',
            f'{row["normalized_cost"]:.3f}{_half(row["normalized_cost_interval"])}',
            f'{row["unsafe_share"]:.0%}',
            f'{verdict} {row["safe_runs"]}/{row["runs"]}',
        )
    return table


def _half(interval: tuple[float, float] | None) -> str:
    return '' if interval is None else f' ± {(interval[1] - interval[0]) / 2:.3f}'
