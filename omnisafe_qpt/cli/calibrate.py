# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt calibrate``: target calibration of a run, in its simulator or on data alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import (
    add_checkpoint,
    add_command,
    add_deployment_options,
    add_exogenous,
    add_machine_options,
    check_offline,
    check_writable,
    deployment_options,
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
        'choose the target cost for each cost limit: run a trained policy at increasing target '
        'costs in its simulator, or in dynamics learned from a dataset (--offline)',
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
    parser.add_argument(
        '--offline',
        metavar='DATASET',
        help='simulate nothing: run the policy in dynamics learned from this dataset, a file or a '
        'name as in train_cfgs:dataset; the result is an estimate and certifies nothing',
    )
    add_exogenous(parser)
    parser.add_argument('--json', type=Path, metavar='F', help='also write the result to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    record, checkpoint = _calibrate(options)
    if options.json is not None:
        write_json(record, options.json)
    say(f'{checkpoint}, {record["steps"]} simulated steps')
    _print_table(record)


def _calibrate(options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    if check_offline(options):
        from omnisafe_qpt.evaluation.model_calibration import calibrate_offline
        from omnisafe_qpt.progress import phases

        with phases() as show:
            return calibrate_offline(
                options.run,
                options.offline,
                exogenous=options.exogenous,
                on_progress=show,
                **deployment_options(options),
            )
    from omnisafe_qpt.evaluation.target_calibration import calibrate_run
    from omnisafe_qpt.progress import ProgressReporter

    progress = ProgressReporter('Calibrating', 1)
    with progress.shown():
        return calibrate_run(
            options.run,
            options.episodes,
            processes=options.processes,
            on_progress=progress.update,
            **deployment_options(options),
        )


def _print_table(record: dict[str, Any]) -> None:
    """Print a line for each target cost, and the targets for limits near the run's own."""
    columns = ('Target cost', 'Target return', 'Episodes', 'Return', 'Cost', 'Bound')
    table = result_table('', '', columns)
    for level in record['levels']:
        table.add_row(
            f'{level["target_cost"]:g}',
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
    if record.get('method') == 'model':
        _print_estimate(record)
        return
    say(
        'Bound: upper bound of the mean cost with 95 % confidence, if no episode costs more\n'
        f'than {record["worst_cost"]:g}; none where one did. Certified for a cost limit are the\n'
        'target costs below the first one with a bound above the limit. Deployment uses the\n'
        'certified one with the highest return.',
    )


def _print_estimate(record: dict[str, Any]) -> None:
    test = record['model']['test']
    say(
        'Bound: the mean cost that is expected at most, by the most pessimistic of the learned\n'
        f'dynamics and their error on {test["episodes"]} unseen episodes; none where that is not\n'
        'reliable. Nothing was measured in the environment, and nothing is certified.',
    )
    for reason in sorted({level['reason'] for level in record['levels']} - {None}):
        say(f'None: {reason}.')
