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
"""``omnisafe-qpt data collect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import add_command, check_writable, positive, write_json


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'collect',
        'collect a dataset in the simulator with scripted controllers of varied risk',
        'omnisafe-qpt data collect --env-id SafetyCarButton1-v0 --episodes 20 --seed 0 '
        '--out mine.hdf5',
    )
    parser.add_argument('--env-id', required=True, metavar='ID', help="OmniSafe's environment id")
    parser.add_argument('--episodes', type=positive, required=True, metavar='N')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='the same seed gives the same file (default: 0)',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='F', help='HDF5 file to write')
    parser.add_argument(
        '--candidates',
        type=positive,
        metavar='M',
        help='collect M episodes and keep N with a spread of returns and costs (default: N)',
    )
    parser.add_argument(
        '--safe-share',
        type=float,
        default=0.5,
        metavar='X',
        help='with --candidates, share of the kept episodes within --cost-limit (default: 0.5)',
    )
    parser.add_argument(
        '--cost-limit',
        type=float,
        default=10.0,
        metavar='C',
        help='cost up to which an episode counts as safe (default: 10)',
    )
    parser.add_argument(
        '--precision',
        type=positive,
        metavar='BITS',
        help='mantissa bits kept of observations and actions; fewer make a smaller file '
        '(default: 23, all)',
    )
    parser.add_argument(
        '--workers', type=positive, default=2, metavar='W', help='processes (default: 2)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument('--json', type=Path, metavar='F', help='write a summary to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.collect import FLOAT32_BITS, collect

    summary = collect(
        options.env_id,
        options.episodes,
        options.seed,
        options.out,
        candidates=options.candidates,
        safe_share=options.safe_share,
        cost_limit=options.cost_limit,
        precision=options.precision or FLOAT32_BITS,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(
        f'{summary["out"]}: {summary["episodes"]} episodes, {summary["transitions"]} transitions, '
        f'{summary["bytes"] / 1e6:.1f} MB; return {summary["return_min"]:.2f} to '
        f'{summary["return_max"]:.2f}, cost {summary["cost_min"]:g} to {summary["cost_max"]:g}, '
        f'{summary["safe_share"]:.0%} within {options.cost_limit:g}',
    )
    if options.json is not None:
        write_json(summary, options.json)
