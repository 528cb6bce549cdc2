# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt data collect``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from omnisafe_qpt.cli.common import add_command, check_writable, positive, say, write_json


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'collect',
        'collect a dataset in the simulator, with scripted controllers or trained agents',
        'omnisafe-qpt data collect --env-id SafetyCarButton1-v0 --episodes 20 --seed 0 '
        '--out mine.hdf5\n'
        '  omnisafe-qpt data collect --env-id SafeMetaDrive-easysparse-v0 --episodes 60 '
        '--out drive.hdf5\n'
        "  omnisafe-qpt data collect --env-id SafetyHopperVelocity-v1 --agent 'RUN:all' "
        "--agent 'OTHER_RUN:40:2' \\\n      --episodes 300 --seed 0 --out hopper.hdf5\n\n"
        'Finished episodes are kept beside the file; after an interruption the same command goes '
        'on.',
    )
    parser.add_argument('--env-id', required=True, metavar='ID', help="OmniSafe's environment id")
    parser.add_argument(
        '--list',
        action=_ListEnvironments,
        help='print the environments that have scripted controllers, and exit',
    )
    parser.add_argument('--episodes', type=positive, required=True, metavar='N')
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='the same seed gives the same file (default: 0)',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='F', help='HDF5 file to write')
    _add_behaviours(parser)
    _add_selection(parser)
    parser.add_argument(
        '--precision',
        type=positive,
        metavar='BITS',
        help='mantissa bits of observations and actions to keep; fewer make a smaller file '
        '(default: 23, all)',
    )
    parser.add_argument(
        '--max-steps',
        type=positive,
        metavar='T',
        help="truncate episodes after this many steps (default: the task's horizon)",
    )
    parser.add_argument(
        '--workers',
        type=positive,
        metavar='W',
        help='processes; no effect on the result (default: one per core)',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace an existing file, and delete an unfinished collection with other settings',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write a summary to this file')
    parser.set_defaults(run_command=_run)


def _add_behaviours(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'who acts',
        'Without --agent, the scripted controllers of the task, with their own noise.',
    )
    group.add_argument(
        '--agent',
        action='append',
        default=[],
        metavar='RUN[:EPOCH][:WEIGHT]',
        help='folder of an OmniSafe run in this environment, of any algorithm with a policy; '
        "EPOCH: a checkpoint's number, last (default), or all, which divides WEIGHT among all "
        'checkpoints; WEIGHT: probability relative to the others (default: 1; after '
        'RUN directly, with a decimal point); scripted[:WEIGHT] adds the scripted controllers; '
        'may be given several times',
    )
    group.add_argument(
        '--noise',
        type=float,
        metavar='X',
        help="noise on agents' actions: each episode draws its standard deviation from 0 to "
        'X; half of the episodes white, half slowly varying (default: 0.2)',
    )
    group.add_argument(
        '--switch',
        type=float,
        metavar='P',
        help="share of the agents' episodes that switch to another agent at a random step "
        '(default: 0.2)',
    )
    group.add_argument(
        '--sample',
        type=float,
        metavar='P',
        help="share of the agents' episodes in which actions are drawn from the policy's "
        'distribution, not its mean (default: 0.5)',
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('selection of episodes')
    group.add_argument(
        '--candidates',
        type=positive,
        metavar='M',
        help='collect M episodes and keep at most N (default: N)',
    )
    group.add_argument(
        '--select',
        choices=('spread', 'density'),
        help="spread: N episodes spread over returns and costs; density: DSRL's density filter, "
        "at most N; both drop costs above those of DSRL's dataset (default: spread with "
        '--candidates, else all are kept)',
    )
    group.add_argument(
        '--safe-share',
        type=float,
        default=0.5,
        metavar='X',
        help='with spread, share of the kept episodes within --cost-limit (default: 0.5)',
    )
    group.add_argument(
        '--cost-limit',
        type=float,
        default=10.0,
        metavar='C',
        help='largest cost of a safe episode (default: 10)',
    )
    group.add_argument(
        '--density',
        type=int,
        nargs=4,
        metavar=('COST_BINS', 'RETURN_BINS', 'MOST', 'LEAST'),
        help='with density: the grid, the most episodes per cell, and the number up to '
        "which a cell's episodes are dropped as outliers (default: 60 50 10 1, DSRL's)",
    )


class _ListEnvironments(argparse.Action):
    """Print the environments with scripted controllers and exit, like ``--version``."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from omnisafe_qpt.collect import supported_env_ids

        say('\n'.join(supported_env_ids()))
        parser.exit()


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    try:
        summary = _collect(options)
    except KeyboardInterrupt:
        say('Finished episodes are kept: the same command continues with them', file=sys.stderr)
        raise
    say(
        f'{summary["out"]}: {summary["episodes"]} episodes, {summary["transitions"]} transitions, '
        f'{summary["bytes"] / 1e6:.1f} MB; return {summary["return_min"]:.2f} to '
        f'{summary["return_max"]:.2f}, cost {summary["cost_min"]:g} to {summary["cost_max"]:g}, '
        f'{summary["safe_share"]:.0%} within {options.cost_limit:g}',
    )
    if options.json is not None:
        write_json(summary, options.json)


def _collect(options: argparse.Namespace) -> dict[str, Any]:
    from omnisafe_qpt.collect import collect
    from omnisafe_qpt.collect.episodes import FLOAT32_BITS

    return collect(
        options.env_id,
        options.episodes,
        options.seed,
        options.out,
        agents=options.agent,
        noise=options.noise,
        switch=options.switch,
        sample=options.sample,
        candidates=options.candidates,
        select=options.select,
        safe_share=options.safe_share,
        cost_limit=options.cost_limit,
        density=options.density,
        precision=options.precision or FLOAT32_BITS,
        max_steps=options.max_steps,
        workers=options.workers,
        overwrite=options.overwrite,
    )
