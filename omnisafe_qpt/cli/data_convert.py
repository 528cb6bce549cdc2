# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt data convert``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import add_command, check_writable, positive, say, write_json
from omnisafe_qpt.cli.data_info import reading
from omnisafe_qpt.errors import UserError, shell_command
from omnisafe_qpt.schema import LARGEST_NUMBER


if TYPE_CHECKING:
    from omnisafe_qpt.data.convert import Conversion


# Logs that data/tables.py reads.
_TABLES = ('.csv', '.parquet')
# As in data/convert.py, whose import is too slow for --help.
_BUILT_INS = ('VAEBC', 'BCQ', 'BCQLag', 'CRR', 'CCRR', 'COptiDICE')


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'convert',
        "convert a dataset to DSRL's HDF5 or to the npz of OmniSafe's own offline algorithms",
        'omnisafe-qpt data convert BallRun.hdf5 BallRun.npz --for COptiDICE\n'
        '  omnisafe-qpt data convert mine.hdf5 BallRun.hdf5 --map costs=info/hazard\n'
        '  omnisafe-qpt data convert log.csv mine.hdf5 --columns columns.yaml\n\n'
        "Minari's and robomimic's files are read too, one group for each episode, and the usual\n"
        'names of other projects; omnisafe-qpt data info shows how arrays are mapped.',
    )
    parser.add_argument(
        'source',
        type=Path,
        metavar='IN',
        help='.hdf5, .h5, .npz, .csv or .parquet to read, or minari:NAME',
    )
    parser.add_argument(
        'out',
        type=Path,
        metavar='OUT',
        help="file to write: .hdf5 or .h5 for DSRL's layout, .npz for OmniSafe's",
    )
    parser.add_argument(
        '--map',
        dest='names',
        type=_pair,
        action='append',
        default=[],
        metavar='NAME=ARRAY',
        help="which array of IN is DSRL's observations, next_observations, actions, rewards, "
        'costs, terminals or timeouts, or dones, one flag at every end; may be given several '
        'times (default: the usual names)',
    )
    parser.add_argument(
        '--observation-keys',
        type=lambda text: text.split(','),
        default=[],
        metavar='A,B,...',
        help='if observations are a group of arrays: those to concatenate, in this order',
    )
    parser.add_argument(
        '--cost-weights',
        type=_weights,
        default=(),
        metavar='A,B,...',
        help='if there are several costs for each transition: their weights in the sum',
    )
    parser.add_argument(
        '--for',
        dest='algorithm',
        choices=_BUILT_INS,
        metavar='ALGORITHM',
        help=f'the built-in algorithm of an npz, of {", ".join(_BUILT_INS)}; COptiDICE needs other '
        'shapes than the rest (default: any but COptiDICE)',
    )
    parser.add_argument(
        '--columns',
        type=Path,
        metavar='F',
        help='of a CSV or Parquet log with one row for each step: a YAML file that names the '
        'columns of episode, observations, actions, rewards and costs, and if there are any of '
        'time and terminals',
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        '--horizon',
        type=positive,
        metavar='N',
        help="the task's time limit in steps, where an end is not terminal; needed where "
        'one flag marks both, as the done of an npz without timeouts',
    )
    limit.add_argument('--env-id', metavar='ID', help='a DSRL task; sets the time limit')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
    parser.add_argument('--json', type=Path, metavar='F', help='write a summary to this file')
    parser.set_defaults(run_command=_run)


def _pair(text: str) -> tuple[str, str]:
    name, equals, array = text.partition('=')
    if not (name and equals and array):
        raise argparse.ArgumentTypeError(f'{text} is not NAME=ARRAY')
    return name, array


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(map(float, text.split(',')))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not numbers such as 1,0.5') from error
    if not all(0.0 <= weight <= LARGEST_NUMBER for weight in weights) or not any(weights):
        raise argparse.ArgumentTypeError(
            f'{text}: weights must be from 0 to {LARGEST_NUMBER:g}, and not all zero'
        )
    return weights


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from dataclasses import asdict

    from omnisafe_qpt.data.convert import COLUMN_ALGORITHMS
    from omnisafe_qpt.data.resolve import minari_file

    options.source = minari_file(str(options.source)) or options.source
    done = _convert_table(options) if _is_table(options) else _convert(options)
    purpose = ''
    if done.out.endswith('.npz'):
        purpose = f' for {options.algorithm or ", ".join(COLUMN_ALGORITHMS)}'
    say(
        f'{done.out}: {done.transitions} transitions{purpose}, {done.terminals} into terminal '
        f'states, {done.timeouts} cut by a time limit, {done.bytes / 1e6:.1f} MB',
    )
    for note in done.notes:
        say(f'{options.source}: {note}')
    if done.rounded:
        say(f'Rounded to float32: {", ".join(done.rounded)}')
    if done.over_horizon:
        say(f'Longer than the time limit: {done.over_horizon} episodes; check the task')
    unknown = 'Offline-v0' if options.columns is not None else 'ENV_ID'
    named = done.env_id if done.env_id and done.env_id.isprintable() else unknown
    say(_training(done.out, options.algorithm, options.env_id or named))
    if options.json is not None:
        write_json(asdict(done), options.json)


def _is_table(options: argparse.Namespace) -> bool:
    is_table = options.source.suffix.lower() in _TABLES
    if is_table != (options.columns is not None):
        raise UserError(
            f'{options.source}: --columns F is for {" and ".join(_TABLES)} logs, and they need it'
        )
    if is_table:
        for name in ('names', 'observation_keys', 'cost_weights', 'algorithm', 'horizon'):
            if getattr(options, name):
                option = {'names': 'map', 'algorithm': 'for'}.get(name, name.replace('_', '-'))
                raise UserError(f'--{option} is not for tables; leave it out')
    return is_table


def _convert_table(options: argparse.Namespace) -> Conversion:
    from omnisafe_qpt.data.tables import convert_table
    from omnisafe_qpt.settings.files import read_yaml

    columns = read_yaml(options.columns)
    if options.env_id is not None:
        columns['env_id'] = options.env_id
    return convert_table(options.source, options.out, columns, options.overwrite)


def _convert(options: argparse.Namespace) -> Conversion:
    from omnisafe_qpt.data.convert import convert

    with reading(options.source, 'Converting') as on_progress:
        return convert(
            options.source,
            options.out,
            algorithm=options.algorithm,
            horizon=_horizon(options),
            overwrite=options.overwrite,
            names=dict(options.names),
            observation_keys=options.observation_keys,
            cost_weights=options.cost_weights,
            on_progress=on_progress,
        )


def _training(out: str, algorithm: str | None, env_id: str) -> str:
    """Return how to train on the file."""
    path = str(Path(out).resolve())
    if not path.endswith('.npz'):
        words = ['omnisafe', 'train', '--algo', 'QPT', '--env-id', env_id]
        words += ['--custom-cfgs', 'train_cfgs:dataset', '--custom-cfgs', path]
        return f'To train on it: {shell_command(words)}'
    agent = f'{(algorithm or _BUILT_INS[0])!r}, {env_id!r}'
    return (
        "To train on it, in Python, as OmniSafe's command line takes no file for these:\n\n"
        'import omnisafe\n'
        f"agent = omnisafe.Agent({agent}, custom_cfgs={{'train_cfgs': {{'dataset': {path!r}}}}})\n"
        'agent.learn()'
    )


def _horizon(options: argparse.Namespace) -> int | None:
    if options.env_id is None:
        return options.horizon
    from omnisafe_qpt.data.tasks import find_task

    task = find_task(options.env_id)
    if task is None:
        raise UserError(f'--env-id {options.env_id} is not a task of DSRL; give --horizon instead')
    return task.horizon
