# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt calibrate``: target calibration of a trained run, in its simulator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import (
    add_checkpoint,
    add_command,
    add_deployment_options,
    add_machine_options,
    check_writable,
    positive,
    print_table,
    result_table,
    say,
    write_json,
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'calibrate',
        'calibrate targets online: run a trained policy at increasing target costs in its '
        'simulator; deployment then uses the best certified target cost for each limit',
        "omnisafe-qpt calibrate 'runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-000-...' \\\n"
        '    --episodes 150',
    )
    parser.add_argument(
        'run',
        metavar='RUN',
        help="a run's folder, or one of its torch_save/epoch-N.pt; stores the result",
    )
    add_checkpoint(parser)
    parser.add_argument(
        '--episodes',
        type=positive,
        metavar='N',
        help='largest number per target cost; to certify a mean cost of L takes at least 3 W / L, '
        'where W is the cost of the worst episode in the dataset (default: 80)',
    )
    add_deployment_options(parser)
    add_machine_options(parser)
    parser.add_argument('--json', type=Path, metavar='F', help='also write the result to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.evaluation.target_calibration import calibrate_run
    from omnisafe_qpt.progress import ProgressReporter

    progress = ProgressReporter('Calibrating', 1)
    with progress.shown():
        record, checkpoint = calibrate_run(
            options.run,
            options.episodes,
            candidates=options.candidates,
            rule=options.rule,
            candidate_shift=options.candidate_shift,
            device=options.device,
            processes=options.processes,
            checkpoint=options.checkpoint,
            on_progress=progress.update,
        )
    if options.json is not None:
        write_json(record, options.json)
    say(f'{checkpoint}, {record["steps"]} simulated steps')
    _print_table(record)


def _print_table(record: dict[str, Any]) -> None:
    """Print a line for each target cost, and the targets for limits near the run's own."""
    columns = ('Target cost', 'Target return', 'Episodes', 'Return', 'Cost', 'Bound')
    table = result_table('', '', columns)
    for level in record['levels']:
        table.add_row(
            f'{level["asked_cost"]:g}',
            f'{level["target_return"]:.1f}',
            str(len(level['costs'])),
            f'{level["return_mean"]:.1f}',
            f'{level["cost_mean"]:.1f}',
            'none' if level['cost_bound'] is None else f'{level["cost_bound"]:.1f}',
        )
    zero = record['zero_action']
    if zero is not None:
        means = f'{zero["return_mean"]:.1f}', f'{zero["cost_mean"]:.1f}'
        table.add_row('zero action', '-', str(len(zero['costs'])), *means, '-')
    print_table(table)
    say(
        'Bound: upper bound of the mean cost with 95 % confidence, if no episode costs more\n'
        f'than {record["worst_cost"]:g}; none where one did. Certified for a cost limit are the\n'
        'target costs below the first one with a bound above the limit. Deployment uses the\n'
        'certified one with the highest return.',
    )
