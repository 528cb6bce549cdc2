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
"""The ``omnisafe-qpt`` command: what OmniSafe's own command line has no word for.

Exit status: 0 on success, 1 on a user's mistake with one line on stderr, 2 on wrong usage.
Everything heavy is imported by the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (Sequence[str], optional): What follows the program's name. Defaults to
            ``sys.argv``'s.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run_command(options)
    except UserError as error:
        print(f'Error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('Interrupted', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='omnisafe-qpt',
        description="QPT for OmniSafe: deployment and data. Training is OmniSafe's own command: "
        'omnisafe train --algo QPT --env-id SafetyCarButton1-v0',
    )
    parser.add_argument('--version', action='version', version=f'omnisafe-qpt {__version__}')
    commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')
    _add_evaluate(commands)
    data = commands.add_parser('data', help='make datasets', description='Make datasets.')
    _add_collect(data.add_subparsers(title='commands', required=True, metavar='COMMAND'))
    return parser


def _add_command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + '.',
        epilog=f'example:\n  {example}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return value


_positive.__name__ = 'number'  # argparse names the type in its messages


# ------------------------------------------------------------------ evaluate


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(
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
    parser.add_argument('--episodes', type=_positive, default=20, metavar='N', help='default: 20')
    parser.add_argument(
        '--candidates',
        type=_positive,
        metavar='M',
        help="return targets tried at each step; 1 is the plain policy (default: the run's)",
    )
    parser.add_argument(
        '--rule',
        choices=('paper', 'bounded'),
        help="how a candidate is chosen (default: the run's)",
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
        type=_positive,
        metavar='P',
        help='environments run in parallel (default: one a core)',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    parser.set_defaults(run_command=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    if options.json is not None:
        _check_writable(options.json)
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
                    seed=options.seed,
                    device=options.device,
                    processes=options.processes,
                    on_progress=progress.update,
                ),
            )
    _print_evaluation(rows)
    if options.json is not None:
        _write_json(rows, options.json)


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


# ------------------------------------------------------------------ data collect


def _add_collect(commands: Any) -> None:
    parser = _add_command(
        commands,
        'collect',
        'collect a dataset in the simulator with scripted controllers of varied risk',
        'omnisafe-qpt data collect --env-id SafetyCarButton1-v0 --episodes 20 --seed 0 '
        '--out mine.hdf5',
    )
    parser.add_argument('--env-id', required=True, metavar='ID', help="OmniSafe's environment id")
    parser.add_argument('--episodes', type=_positive, required=True, metavar='N')
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
        type=_positive,
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
        type=_positive,
        metavar='BITS',
        help='mantissa bits kept of observations and actions; fewer make a smaller file '
        '(default: 23, all)',
    )
    parser.add_argument(
        '--workers', type=_positive, default=2, metavar='W', help='processes (default: 2)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument('--json', type=Path, metavar='F', help='write a summary to this file')
    parser.set_defaults(run_command=_collect)


def _collect(options: argparse.Namespace) -> None:
    if options.json is not None:
        _check_writable(options.json)
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
        _write_json(summary, options.json)


# ------------------------------------------------------------------ results


def _check_writable(path: Path) -> None:
    """Refuse a result file that cannot be written before the work rather than after it."""
    if path.is_dir():
        raise UserError(f'--json {path}: is a folder; give the name of a file')
    if not path.parent.is_dir():
        raise UserError(f'--json {path}: there is no folder {path.parent}')


def _write_json(content: Any, path: Path) -> None:
    from omnisafe_qpt.data.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
