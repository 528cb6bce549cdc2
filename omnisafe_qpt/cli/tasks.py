# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt tasks``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import (
    add_command,
    check_writable,
    print_table,
    result_console,
    write_json,
)
from omnisafe_qpt.data.tasks import SUITES, Task, all_tasks


if TYPE_CHECKING:
    from rich.table import Table

# Widths for the longest entry of all suites, so that their tables align in 80 columns.
_COLUMNS = {
    'Environment': 29,
    'Steps': 5,
    'Obs/act': 7,
    'Return': 12,
    'Cost≤': 5,
    'Dataset': 11,
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'tasks',
        "list DSRL's 38 tasks: sizes, reference returns, downloaded data, installed simulators",
        'omnisafe-qpt tasks --suite bullet_safety_gym --json tasks.json',
    )
    parser.add_argument('--suite', choices=SUITES, help='only the tasks of this suite')
    parser.add_argument(
        '--json',
        type=Path,
        metavar='F',
        help='write all details to this file, with published targets and URLs of the data',
    )
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.data.resolve import cache_folder
    from omnisafe_qpt.envs.simulators import why_unavailable

    folder, rows = cache_folder(), []
    console = result_console()
    for suite in [options.suite] if options.suite else SUITES:
        obstacle = why_unavailable(suite)
        tasks = [task for task in all_tasks() if task.suite == suite]
        rows += [_describe(task, folder, obstacle) for task in tasks]
        limits = ', '.join(f'{limit:g}' for limit in tasks[0].cost_limits)
        console.print(
            f"{SUITES[suite]}: {len(tasks)} tasks, DSRL's cost limits {limits}; "
            f'simulator {"installed" if obstacle is None else "missing"}',
            style='bold',
        )
        print_table(_table(tasks, folder), console)
        if obstacle is not None:
            # Not wrapped: it ends in a command to copy.
            console.print(obstacle, soft_wrap=True)
        console.print()
    print(
        "Return and cost: range over DSRL's dataset. Datasets here are in\n"
        f'{folder}; ~ is an upper bound of the size of a missing one. To get one:\n'
        f'omnisafe-qpt data download {rows[0]["name"]}',
    )
    if options.json is not None:
        write_json(rows, options.json)


def _table(tasks: list[Task], folder: Path) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column('Environment', no_wrap=True, min_width=_COLUMNS['Environment'])
    for name, width in list(_COLUMNS.items())[1:]:
        table.add_column(name, justify='right', no_wrap=True, min_width=width)
    for task in tasks:
        decimals = 0 if task.max_return >= 100 else 1
        table.add_row(
            task.env_id,
            str(task.horizon),
            f'{task.obs_dim}/{task.act_dim}',
            f'{task.min_return:.{decimals}f} to {task.max_return:.{decimals}f}',
            f'{task.max_cost:.0f}',
            _state(task, folder),
        )
    return table


def _state(task: Task, folder: Path) -> str:
    path = folder / task.dataset_file
    if path.is_file():
        return f'here {_size(path.stat().st_size)}'
    return f'~{_size(task.approximate_bytes)}'


def _size(count: int) -> str:
    return f'{count / 1e9:.1f} GB' if count >= 1e9 else f'{count / 1e6:.0f} MB'


def _describe(task: Task, folder: Path, obstacle: str | None) -> dict[str, Any]:
    """Return all details of a task."""
    path = folder / task.dataset_file
    cached = path.is_file()
    targets = [
        {
            'return': target.episode_return,
            'cost': target.cost,
            'above_data': target in task.targets_above_data,
        }
        for target in task.cdt_targets
    ]
    return {
        **asdict(task),
        'cdt_targets': targets,
        'max_transitions': task.max_transitions,
        'approximate_bytes': task.approximate_bytes,
        'cached': str(path) if cached else None,
        'cached_bytes': path.stat().st_size if cached else None,
        'can_simulate': obstacle is None,
        'why_not': obstacle,
    }
