# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The records in a run's folder, checked on reading, as the folder may be from someone else."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.weights import UNITS, check_finite
from omnisafe_qpt.runner import CALIBRATION_FORMAT
from omnisafe_qpt.schema import (
    Check,
    anything,
    build,
    checked,
    flag,
    mapping,
    maybe,
    number,
    plain,
    read_json,
    record,
    sequence,
    show,
    size,
    text,
    whole,
)
from omnisafe_qpt.settings.checks import LARGEST_SEED, check_choices, check_counts, validate
from omnisafe_qpt.settings.files import known_part, load_defaults, merge
from omnisafe_qpt.settings.machine import AUTO


CONFIG_FILE, PROGRESS_FILE = 'config.json', 'progress.csv'

_SECTION = mapping(anything)
_EPOCH = whole(1, 10**9)
_PAIR = sequence(number(), 2, 2)


def _check_frontier(value: Any, path: str) -> None:
    record({'costs': sequence(number(), 1), 'returns': sequence(number(), 1)})(value, path)
    costs = list(value['costs'])
    if len(costs) != len(value['returns']) or costs != sorted(costs):
        raise UserError(f'{path} must hold increasing costs, and as many returns')


def _check_deployment(value: Any, path: str) -> None:
    # Checkpoints of earlier versions lack these two.
    build(DeploymentConfig, value, path, 'candidate_shift', 'target_cost')


_PLAYED = {
    'target_return': maybe(number()),
    'returns': sequence(number(), 1),
    'costs': sequence(number(), 1),
    'lengths': sequence(whole(1), 1),
    'return_mean': number(),
    'cost_mean': number(),
}
_LEVEL = record(
    {**_PLAYED, 'target_cost': number(0), 'cost_bound': maybe(number())}, {'reason': maybe(text())}
)
_CALIBRATION = record(
    {
        'episodes': whole(1),
        'settings': mapping(plain),
        'worst_cost': number(0),
        'comparisons': whole(1),
        'levels': sequence(_LEVEL, 1),
        'zero_action': maybe(
            record(_PLAYED, {'reason': maybe(text()), 'cost_bound': maybe(number())})
        ),
    },
    {'method': text('simulator', 'model'), 'model': mapping(plain)},
)


def _check_target(value: Any, path: str) -> None:
    if value != AUTO:
        maybe(number())(value, path)


def _check_calibration(value: Any, path: str) -> None:
    mapping(anything)(value, path)
    if value.get('format') == CALIBRATION_FORMAT:  # others are not used
        _CALIBRATION(value, path)


_PAIR_OF_ETAS = {'eta_reward': number(0), 'eta_cost': number(0)}
_ETAS = record(
    {},
    {
        'tried': sequence(record({**_PAIR_OF_ETAS, 'returns': sequence(maybe(number()))})),
        'chosen': record(_PAIR_OF_ETAS),
    },
)
_DATASET = record(
    {'path': text(), 'sha256': maybe(text())},
    {'name': text(), 'action_unit': text('normalized', 'environment')},
)

# The spec of a checkpoint without the sizes of networks, which are checked when these are built.
# Later additions are optional.
_SPEC_OPTIONAL: dict[str, Check] = {
    'algo': text(),
    'env_module': maybe(text()),
    'worst_cost': number(),
    'seed': whole(0, LARGEST_SEED),
    'held_out': sequence(whole()),
    'hardware': record(
        {
            'machine': anything,
            'processor': anything,
            'cores': maybe(whole()),
            'threads': whole(),
            'memory_bytes': number(0, 1e18),
        },
        {'card': text(), 'card_memory_bytes': number(0, 1e18)},
    ),
    'config': record(
        {}, {'train_cfgs': _SECTION, 'algo_cfgs': record({}, {'gamma': number(0, 1)})}
    ),
    'step': whole(),
    'etas': _ETAS,
    'calibration': maybe(_check_calibration),
    'published_targets': sequence(_PAIR),
    'target_return': _check_target,
}
CHECKPOINT_SPEC = record(
    {
        'env_id': text(),
        'frontier': _check_frontier,
        'deployment': _check_deployment,
        'reference_returns': _PAIR,
        'dataset': _DATASET,
        'versions': mapping(text()),
    },
    _SPEC_OPTIONAL,
)
# For a policy that is conditioned on return and cost; not needed to build its networks.
TRANSFORMER_SPEC = record({'horizon': size('horizon')})


_CONFIG = record(
    {
        'algo': text(),
        'env_id': text(),
        'seed': whole(0, LARGEST_SEED),
        'train_cfgs': record({}, {'dataset': maybe(text())}),
        'algo_cfgs': record({'cost_limit': number(0)}),
        'logger_cfgs': _SECTION,
        'model_cfgs': _SECTION,
        'dataset_record': record(
            {'name': text(), 'path': text(), 'sha256': maybe(text())},
            {'action_unit': text('normalized', 'environment')},
        ),
    },
)


def read_config(
    run: Path,
    algorithms: Collection[str] = tuple(ALGORITHMS),
    purpose: str = 'this is for runs of omnisafe-qpt',
) -> dict[str, Any]:
    """Read the configuration of a run of one of this package's algorithms.

    Args:
        run (Path): The run's folder.
        algorithms (Collection[str], optional): Accepted algorithms. Defaults to all.
        purpose (str, optional): The end of the message for a run of another algorithm.

    Raises:
        UserError: If ``config.json`` cannot be read, is of another algorithm, lacks an entry, or
            holds an impossible value.
    """
    path = run / CONFIG_FILE
    config = read_json(path, record({'algo': text()}))
    algo = config['algo'] if config['algo'].isprintable() else show(config['algo'])
    if algo not in algorithms:
        raise UserError(f'{run}: a run of {algo}; {purpose}')
    checked(path, config, _CONFIG)
    defaults = load_defaults(config['env_id'], config['algo'])
    settings = known_part(config, defaults)
    validate(settings, defaults, str(path))
    try:
        complete = merge(defaults, settings)
        check_counts(complete)
        check_choices(complete)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    return config


_VALIDATED = {'epoch': _EPOCH, 'validation_return': number(), 'validation_cost': number()}
BEST_RECORD = record(
    {
        'rule': text(),
        **_VALIDATED,
        'checkpoint': text(),
        'cost_limit': number(0),
        'is_within_limit': flag,
        'epochs': sequence(record(_VALIDATED), 1),
    },
    {'method': text('simulator', 'model'), 'first_seed': whole(), 'episodes': whole()},
)

# Columns of progress.csv that are read by name.
_PROGRESS_COLUMNS = {
    'Train/Epoch': number(1, 1e9),
    'TotalSteps': number(0),
    'Time/Total': number(0, 1e10),
    'Time/Epoch': number(0, 1e7),
    'Time/UpdatesPerSecond': number(0),
}
_LARGEST_PROGRESS = 1 << 28
# Range of float32; other columns may be NaN in epochs without a value.
LARGEST_FLOAT = 3.5e38
_ANY_COLUMN = number(-LARGEST_FLOAT, LARGEST_FLOAT)


def read_progress(run: Path) -> list[dict[str, float]]:
    """Read a run's ``progress.csv`` without an incomplete last row.

    Args:
        run (Path): The run's folder.

    Raises:
        UserError: If it cannot be read, lacks a column or holds an impossible value.
    """
    path = run / PROGRESS_FILE
    if not path.is_file():
        raise UserError(f'{run}: has no {PROGRESS_FILE}; training has not begun there')
    try:
        if path.stat().st_size > _LARGEST_PROGRESS:
            raise UserError(f'{path}: larger than {_LARGEST_PROGRESS >> 20} MiB')
        with path.open(newline='', encoding='utf-8') as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except (ValueError, csv.Error) as error:
        raise UserError(f'{path}: is damaged, not a CSV file ({error})') from error
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    if rows and len(rows[-1]) < len(names):
        rows.pop()  # it is being written, or the run was killed meanwhile
    found = [_read_row(path, number, names, row) for number, row in enumerate(rows, start=1)]
    missing = [name for name in _PROGRESS_COLUMNS if found and name not in names]
    if missing or len(set(names)) < len(names):
        fault = f'the column {missing[0]} is missing' if missing else 'columns have the same name'
        raise UserError(f'{path}: {fault}: the file is damaged; restore it')
    return found


def _read_row(path: Path, count: int, names: list[str], cells: list[str]) -> dict[str, float]:
    if len(cells) != len(names):
        raise UserError(
            f'{path}: row {count} has {len(cells)} values, not {len(names)}: restore it'
        )
    row = {}
    for name, cell in zip(names, cells):
        where = f'{name} in row {count}'
        try:
            row[name] = float(cell)
            if name in _PROGRESS_COLUMNS or not math.isnan(row[name]):
                _PROGRESS_COLUMNS.get(name, _ANY_COLUMN)(row[name], where)
        except ValueError as error:  # UserError is one
            reason = error if isinstance(error, UserError) else f'{where} is {show(cell)}'
            raise UserError(
                f'{path}: cannot be read, {reason}: the file is damaged; restore it',
            ) from error
    return row


def _tensor(value: Any, path: str) -> None:
    try:
        check_finite(path, value)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def _check_learner(value: Any, path: str) -> None:
    """Check a learner's state: all tensors are finite."""
    record({'step': whole(), 'scaling': mapping(_tensor)})(value, path)
    for name in UNITS:
        if not bool((value['scaling'].get(name, torch.zeros(1)) > 0).all()):
            raise UserError(f'{path}:scaling:{name} is not positive')
    waiting = [(path, value)]
    while waiting:
        where, each = waiting.pop()
        if isinstance(each, torch.Tensor):
            _tensor(each, where)
        elif isinstance(each, dict):
            waiting += [(f'{where}:{name}', inner) for name, inner in each.items()]


def _check_row(value: Any, path: str) -> None:
    record({name: number(0) for name in ('Train/Epoch', 'TotalSteps', 'Time/Total')})(value, path)
    for name, each in value.items():
        if not isinstance(each, float):  # NaN in an epoch without a value
            number()(each, f'{path}:{name}')


# Versions, settings and the dataset are compared with the run's before it resumes.
TRAINING_STATE = record(
    {
        'epoch': whole(),
        'learner': _check_learner,
        'learner_config': record({'total_steps': whole(1)}),
        'sampler': _tensor,
        'random': record({'python': plain, 'numpy': plain, 'torch': _tensor}),
        'rows': sequence(_check_row),
    },
    {
        'version': anything,
        'metrics': maybe(mapping(number(-LARGEST_FLOAT, LARGEST_FLOAT))),
        'update_time': number(0, 1e10),
        'etas': _ETAS,
        'shares': sequence(record({'random': mapping(anything), 'metrics': mapping(anything)})),
        'held_out': sequence(whole()),
        'torch': text(),
        'processes': whole(1),
    },
)
