# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import (
    add_checkpoint,
    add_command,
    add_deployment_options,
    add_uncalibrated,
    check_writable,
    deployment_options,
    say,
    target_return,
    write_json,
)
from omnisafe_qpt.errors import UserError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'export',
        'write a trained policy as one ONNX file that runs without torch',
        "omnisafe-qpt export 'runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-000-...' policy.onnx"
        ' --cost-limit 20',
    )
    parser.add_argument('run', help="a run's folder, or one of its torch_save/epoch-N.pt")
    parser.add_argument('out', type=Path, metavar='OUT.onnx', help='the file to write')
    add_checkpoint(parser)
    parser.add_argument(
        '--cost-limit',
        type=float,
        metavar='X',
        help="the file's default, any other can be asked for where it runs (default: the run's)",
    )
    parser.add_argument(
        '--target-return',
        type=target_return,
        metavar='R',
        help="asked for at the file's default limit, or dsrl for DSRL's published one (default: "
        'the choice of the target calibration; without one the highest return that the dataset '
        'reached within it)',
    )
    add_deployment_options(parser)
    add_uncalibrated(parser)
    parser.add_argument('--json', type=Path, metavar='F', help='write what was done to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    check_writable(options.out, 'OUT.onnx')
    if options.out.suffix != '.onnx':
        raise UserError(f'OUT.onnx {options.out}: its name must end in .onnx')
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt import runner
    from omnisafe_qpt.export import export_policy

    report = export_policy(
        options.run,
        options.out,
        cost_limit=options.cost_limit,
        target_return=options.target_return,
        **deployment_options(options),
    )
    target = report['target_return']
    asked = 'zero actions (no safe target found)'
    if target is not None:
        asked = f'target return {target:.1f}'
    say(
        f'{report["env_id"]}, {report["checkpoint"]} of {report["run"]}: {options.out}, '
        f'{report["bytes"] / 1e6:.1f} MB\n'
        f'Candidates: {report["candidates"]}, rule: {report["rule"]}, shift: '
        f'{report["candidate_shift"]}; by default cost limit {report["cost_limit"]:g} and '
        f'{asked}\n'
        f'Actions as torch chooses them, within {report["difference"]:.1g}\n'
        'To run it, with numpy and onnxruntime alone: omnisafe_qpt.runner.OnnxPolicy, or copy the '
        f'folder {Path(runner.__file__).parent}',
    )
    if options.json is not None:
        write_json(report, options.json)
