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
"""``omnisafe-qpt evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import add_command, check_writable, positive, write_json


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'evaluate',
        'run a trained policy in its environment, at any cost limit',
        'omnisafe-qpt evaluate runs/train/QPT-{SafetyCarButton1-v0}-sample/seed-000-... '
        '--cost-limit 20 --episodes 20 --json result.json',
    )
    parser.add_argument('run', help="a run's folder, or one of its torch_save/epoch-N.pt")
    parser.add_argument(
        '--cost-limit',
        type=float,
        action='append',
        metavar='X',
        help="undiscounted cost of an episode to keep within (default: the run's); may be given "
        'several times',
    )
    parser.add_argument(
        '--target-return',
        type=float,
        metavar='R',
        help='return to ask for (default: the highest that the dataset reached within the limit)',
    )
    parser.add_argument('--episodes', type=positive, default=20, metavar='N', help='default: 20')
    parser.add_argument(
        '--candidates',
        type=positive,
        metavar='M',
        help="return targets tried at each step; 1 is the plain policy (default: the run's)",
    )
    parser.add_argument(
        '--rule',
        choices=('paper', 'bounded'),
        help="how a candidate is chosen (default: the run's)",
    )
    parser.add_argument(
        '--candidate-shift',
        choices=('history', 'last'),
        help="where the candidates' targets differ: in the whole history, or in the last step "
        "alone, which takes a fraction of the time (default: the run's)",
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='seed of the first episode, each further one has the next (default: 0)',
    )
    parser.add_argument(
        '--device', metavar='D', help='cpu, cuda or cuda:N (default: CUDA if there)'
    )
    parser.add_argument(
        '--processes',
        type=positive,
        metavar='P',
        help='processes that run episodes at the same time, which does not change the results '
        '(default: one a core)',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.host.deployment import evaluate_run
    from omnisafe_qpt.host.progress import ProgressReporter

    rows = []
    for limit in options.cost_limit or [None]:
        progress = ProgressReporter('Evaluating' if limit is None else f'Cost limit {limit:g}', 1)
        with progress.shown():
            rows.append(
                evaluate_run(
                    options.run,
                    cost_limit=limit,
                    target_return=options.target_return,
                    episodes=options.episodes,
                    candidates=options.candidates,
                    rule=options.rule,
                    candidate_shift=options.candidate_shift,
                    seed=options.seed,
                    device=options.device,
                    processes=options.processes,
                    on_progress=progress.update,
                ),
            )
    _print_evaluation(rows)
    if options.json is not None:
        write_json(rows, options.json)


def _print_evaluation(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = rows[0]
    table = Table(
        title=f'{first["env_id"]}, {first["episodes"]} episodes, {first["candidates"]} candidates',
        caption='mean ± deviation over episodes; safe: normalised cost at most 1',
    )
    for name in ('Limit', 'Target', 'Return', 'norm.', 'Cost', 'norm.', 'Safe'):
        table.add_column(name, justify='right', no_wrap=True)
    for row in rows:
        table.add_row(
            f'{row["cost_limit"]:g}',
            f'{row["target_return"]:.1f}',
            f'{row["return_mean"]:.2f} ± {row["return_std"]:.2f}',
            f'{row["normalized_return"]:.3f}',
            f'{row["cost_mean"]:.2f} ± {row["cost_std"]:.2f}',
            f'{row["normalized_cost"]:.3f}',
            'yes' if row['safe'] else 'NO',
        )
    Console().print(table)
