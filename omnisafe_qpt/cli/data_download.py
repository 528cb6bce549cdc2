# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt data download``."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import add_command, check_writable, say, write_json
from omnisafe_qpt.data.tasks import SUITES, Task, all_tasks, require_task
from omnisafe_qpt.errors import UserError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'download',
        "download DSRL's datasets from Hugging Face, or verify existing ones",
        'omnisafe-qpt data download CarButton1 SafetyBallRun-v0\n\n'
        'A stopped download resumes. An existing dataset is compared\n'
        'with the sha256 recorded at download, and never downloaded again. HF_ENDPOINT sets a\n'
        'mirror, DSRL_DATASET_DIR the folder of datasets for training.',
    )
    parser.add_argument(
        'task',
        nargs='*',
        metavar='TASK',
        help="DSRL's name of a task or its environment id; omnisafe-qpt tasks lists them",
    )
    parser.add_argument('--suite', choices=SUITES, help='all tasks of this suite')
    parser.add_argument('--all', action='store_true', help='all 38 tasks, about 46 GB')
    parser.add_argument(
        '--folder',
        type=Path,
        metavar='DIR',
        help='target folder (default: $DSRL_DATASET_DIR, else ~/.dsrl/datasets)',
    )
    parser.add_argument(
        '--json',
        type=Path,
        metavar='F',
        help='write file, size, sha256 and state of each dataset to this file',
    )
    parser.set_defaults(run_command=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if sum(map(bool, (options.task, options.suite, options.all))) != 1:
        parser.error('give one or more tasks, or --suite, or --all')
    tasks = _select(options)
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.data.resolve import cache_folder

    folder = options.folder.expanduser() if options.folder else cache_folder()
    if len(tasks) > 1:
        _print_estimate(tasks, folder)
    try:
        rows = [_get(task, folder) for task in tasks]
    except KeyboardInterrupt:
        say('The partial download is kept: the same command resumes it.', file=sys.stderr)
        raise
    if options.json is not None:
        write_json(rows, options.json)
    failed = [row for row in rows if row['error'] is not None]
    if len(tasks) == 1 and failed:
        raise UserError(failed[0]['error'])
    for row in failed:
        say(f'{row["name"]}: {row["error"]}', file=sys.stderr)
    if failed:
        names = ', '.join(row['name'] for row in failed)
        raise UserError(f'{len(failed)} of {len(tasks)} datasets not downloaded: {names}')


def _select(options: argparse.Namespace) -> list[Task]:
    if options.task:
        return list(dict.fromkeys(map(require_task, options.task)))
    return [task for task in all_tasks() if options.all or task.suite == options.suite]


def _print_estimate(tasks: list[Task], folder: Path) -> None:
    from rich.filesize import decimal

    absent = [task for task in tasks if not (folder / task.dataset_file).exists()]
    size = decimal(sum(task.approximate_bytes for task in absent))
    say(f'{len(tasks)} datasets: {len(absent)} to download to {folder}, at most {size}')


def _get(task: Task, folder: Path) -> dict[str, Any]:
    """Download one dataset and print the result."""
    from rich.filesize import decimal

    from omnisafe_qpt.data.download import download, download_url

    row: dict[str, Any] = {'name': task.name, 'env_id': task.env_id, 'url': download_url(task)}
    row |= dict.fromkeys(('path', 'bytes', 'sha256', 'error'))
    try:
        dataset = download(task, folder)
    except UserError as error:
        return row | {'state': 'failed', 'error': str(error)}
    size = dataset.path.stat().st_size
    state = 'downloaded' if dataset.is_new else 'unchanged'
    say(f'{task.name}: {state}, {decimal(size)}, {dataset.path}')
    return row | {
        'state': state,
        'path': str(dataset.path),
        'bytes': size,
        'sha256': dataset.sha256,
    }
