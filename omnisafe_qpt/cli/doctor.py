# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import (
    add_command,
    check_writable,
    positive,
    print_table,
    result_console,
    write_json,
)
from omnisafe_qpt.errors import UserError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'doctor',
        'check the installation on this machine, and print fixes',
        'omnisafe-qpt doctor --only omnisafe safety-gymnasium',
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='CHECK',
        help='some of: omnisafe, device, cache, safety-gymnasium, bullet, rendering, '
        'metadrive-easy, metadrive-medium, metadrive-hard (default: all, in about a minute)',
    )
    parser.add_argument(
        '--timeout',
        type=positive,
        default=300,
        metavar='S',
        help='seconds after which a check counts as failed (default: 300)',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from rich.console import Console

    from omnisafe_qpt.cli.doctor_checks import CHECKS, FAILED, run_check, versions

    names = options.only or list(CHECKS)
    for name in names:
        if name not in CHECKS:
            raise UserError(f'--only {name} is not a check; choose from {", ".join(CHECKS)}')
    found = versions()
    rows = []
    console = Console(stderr=True, highlight=False)
    for number, name in enumerate(names, start=1):
        step = f'Checking {name} ({number} of {len(names)})'
        if not console.is_terminal:  # where a spinner can be erased
            console.print(step)
        with console.status(step):
            rows.append({'check': name, **vars(run_check(name, options.timeout))})
    failed = [row['check'] for row in rows if row['state'] == FAILED]
    _print_answers(found, rows)
    if options.json is not None:
        write_json({'works': not failed, 'versions': found, 'checks': rows}, options.json)
    if failed:
        raise UserError(f'does not work here: {", ".join(failed)}')


def _print_answers(found: dict[str, str], rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {'ok': 'green', 'missing': 'yellow', 'FAILED': 'red'}
    installed = [f'{name} {version}' for name, version in found.items() if version]
    table = Table()
    for name in ('Check', 'State', 'Found'):
        table.add_column(name, overflow='fold', no_wrap=name != 'Found')
    for row in rows:
        state = Text(row['state'], style=colours[row['state']])
        table.add_row(row['check'], state, Text(row['detail']))
    console = result_console()
    console.print(', '.join(installed))
    print_table(table, console)
    # Below the table without wrapping, so that commands can be copied.
    fixes: dict[str, list[str]] = {}
    for row in rows:
        if row['fix']:
            fixes.setdefault(row['fix'], []).append(row['check'])
    for fix, checks in fixes.items():
        console.print(Text(f'{", ".join(checks)}: {fix}'), soft_wrap=True)
