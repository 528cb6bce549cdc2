# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""``omnisafe-qpt calibrate``: what a trained run really costs when it is asked for a cost."""

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
    result_table,
    write_json,
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'calibrate',
        'measure what a trained policy costs at each cost it is asked for, and keep to that from '
        'then on',
        "omnisafe-qpt calibrate 'runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-000-...' \\\n"
        '    --episodes 20',
    )
    parser.add_argument(
        'run',
        metavar='RUN',
        help="a run's folder, or one of its torch_save/epoch-N.pt, where the result is kept",
    )
    add_checkpoint(parser)
    parser.add_argument(
        '--episodes',
        type=positive,
        default=10,
        metavar='N',
        help='for each of about ten costs, with seeds of validation (default: 10)',
    )
    add_deployment_options(parser)
    add_machine_options(parser)
    parser.add_argument('--json', type=Path, metavar='F', help='write the result to this file too')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.host.calibration import calibrate_run
    from omnisafe_qpt.host.progress import ProgressReporter

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
    print(f'{checkpoint}, {record["episodes"]} episodes each')
    _print_table(record)


def _print_table(record: dict[str, Any]) -> None:
    """Print a line for each cost asked for."""
    from rich.console import Console

    table = result_table(
        '',
        '',
        ('Asked cost', 'Asked return', 'Return', 'Cost', 'Bound'),
    )
    for level in record['levels']:
        names = ('asked_cost', 'target_return', 'return_mean', 'cost_mean', 'cost_bound')
        table.add_row(*('still' if level[name] is None else f'{level[name]:.1f}' for name in names))
    Console().print(table)
    print(
        'A cost limit is served by the line of the highest return whose bound is within it; if\n'
        'there is none, by the least bound, which may be to hold still if no other mean cost is\n'
        'within. Bound: the mean cost is below it with 95 % confidence.',
    )
