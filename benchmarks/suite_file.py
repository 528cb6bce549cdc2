# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Suites as YAML files: reading and checking them. ``benchmarks/README.md`` lists the keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite import (
    ALGORITHMS,
    BEST,
    BUDGETS,
    DEPLOYMENT_OPTIONS,
    LAST,
    NOT_SETTINGS,
    OURS,
    Dataset,
    Row,
    Suite,
    algorithm_defaults,
    config_hash,
)
from omnisafe_qpt.data.resolve import AUTO
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.schema import (
    Check,
    anything,
    mapping,
    maybe,
    number,
    record,
    sequence,
    text,
    whole,
)
from omnisafe_qpt.settings.checks import validate
from omnisafe_qpt.settings.files import read_yaml


_SEEDS, _NAMES = sequence(whole(), 1), sequence(text())
_SUITE_KEYS = {
    'name': text(),
    'datasets': mapping(anything),
    'algorithms': mapping(anything),
    'budget': anything,
    'seeds': _SEEDS,
    'episodes': whole(1),
    'cost_limits': sequence(number(0), 1),
    'epochs': whole(1),
    'validation_episodes': whole(),
    'checkpoints': sequence(text(LAST, BEST), 1),
}
_DEFAULTS = {
    'seeds': [0, 1, 2],
    'episodes': 20,
    'cost_limits': [10.0],
    'epochs': 10,
    'validation_episodes': 4,
    'checkpoints': [LAST, BEST],
}
_DATASET_KEYS = {
    'env_id': text(),
    'file': text(),
    'seeds': _SEEDS,
    'algorithms': _NAMES,
    'budget': anything,
    'collect': mapping(anything),
}
_COLLECT_KEYS = {
    'episodes': whole(1),
    'seed': whole(),
    'candidates': whole(1),
    'select': text('spread', 'density'),
    'safe_share': number(0, 1),
    'max_steps': whole(1),
    'agents': sequence(mapping(anything), 1),
}
_AGENT_KEYS = {'algo': text(), 'steps': whole(1), 'seed': whole(), 'cost_limit': number(0)}
_ROW_KEYS = {
    'algo': text(*ALGORITHMS),
    'preset': maybe(text()),
    'options': maybe(mapping(anything)),
    'evaluate': maybe(mapping(anything)),
    'datasets': _NAMES,
    'seeds': _SEEDS,
}


def load_suite(path: Path, updates: int | None = None) -> Suite:
    """Read a suite.

    Args:
        path (Path): The YAML file; ``benchmarks/README.md`` lists its keys.
        updates (int, optional): Takes the place of all budgets. Defaults to None.

    Raises:
        UserError: If the file cannot be read, or something in it is unknown or impossible.
    """
    where = str(path)
    content = _fields({**_DEFAULTS, **_mapping(read_yaml(path), where)}, _SUITE_KEYS, where)
    for key in ('datasets', 'algorithms'):
        if not content[key]:
            raise UserError(f'{where}: {key} must not be empty')
    datasets, rows = content.pop('datasets'), content.pop('algorithms')
    suite = Suite(
        **{
            **content,
            'path': path,
            'cost_limits': tuple(map(float, content['cost_limits'])),
            'budget': _budget(content['budget'], where, updates),
        },
        datasets={name: _dataset(name, value, where, updates) for name, value in datasets.items()},
        rows={name: _row(name, value, where) for name, value in rows.items()},
    )
    _check(suite)
    return suite


def _mapping(value: Any, where: str) -> dict[str, Any]:
    mapping(anything)(value, where)
    return dict(value)


def _fields(
    value: dict[str, Any],
    known: Mapping[str, Check],
    where: str,
    *may_lack: str,
) -> dict[str, Any]:
    """Check the fields of a part of a suite; its lists become tuples."""
    for key in value:
        if key not in known:
            raise UserError(f'{where}: unknown key {key!r}; known: {", ".join(known)}')
    required = {key: check for key, check in known.items() if key not in may_lack}
    record(required, known)(value, where)
    return {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}


def _dataset(name: str, value: Any, where: str, updates: int | None) -> Dataset:
    where = f'{where}: dataset {name}'
    value = {'file': value} if isinstance(value, str) else _mapping(value, where)
    task = find_task(name)
    if 'env_id' not in value and task is None:
        raise UserError(f'{where}: DSRL has no task of this name; give its env_id')
    defaults = {'file': AUTO} if task is None else {'file': AUTO, 'env_id': task.env_id}
    if 'collect' in value:
        options = _mapping(value['collect'], f'{where}: collect')
        _check_collection(options, value, where)
        # Other settings are another file.
        digest = config_hash({'env_id': {**defaults, **value}.get('env_id'), **options})[:8]
        defaults['file'] = f'{name}-{digest}.hdf5'
    optional = ('seeds', 'algorithms', 'budget', 'collect')
    known = _fields({**defaults, **value}, _DATASET_KEYS, where, *optional)
    if 'budget' in known:
        known['budget'] = _budget(known['budget'], where, updates)
    return Dataset(name=name, **known)


def _check_collection(options: dict[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    where = f'{where}: collect'
    optional = _COLLECT_KEYS.keys() - {'episodes'}
    _fields(options, _COLLECT_KEYS, where, *optional)
    for agent in options.get('agents', ()):
        _fields(dict(agent), _AGENT_KEYS, f'{where}: agents', 'seed', 'cost_limit')
    if options.get('candidates', options['episodes']) < options['episodes']:
        raise UserError(f'{where}: candidates must be at least episodes')
    if 'file' in dataset:
        raise UserError(f'{where}: leave out file, or collect')


def _row(name: str, value: Any, where: str) -> Row:
    where = f'{where}: algorithm {name}'
    value = {'algo': value} if isinstance(value, str) else _mapping(value or {}, where)
    value = {key: each for key, each in value.items() if each is not None}
    known = _fields({'algo': name, **value}, _ROW_KEYS, where, *_ROW_KEYS)
    for option in known.get('evaluate', ()):
        if option not in DEPLOYMENT_OPTIONS:
            raise UserError(
                f'{where}: evaluate: unknown key {option!r}; known: '
                f'{", ".join(DEPLOYMENT_OPTIONS)}',
            )
    for key in ('preset', 'evaluate'):
        if known['algo'] not in OURS and known.get(key):
            raise UserError(f'{where}: {known["algo"]} of OmniSafe has no {key}')
    return Row(name=name, **known)


def _budget(value: Any, where: str, updates: int | None) -> dict[str, float]:
    if updates is not None:
        return {'updates': updates}
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in BUDGETS:
        raise UserError(f'{where}: budget must be one of {", ".join(BUDGETS)}, each with a number')
    ((kind, amount),) = value.items()
    (whole(1) if kind == 'updates' else number(1))(amount, f'{where}: budget:{kind}')
    return value


def _check(suite: Suite) -> None:
    """Check what belongs together, and all options against the algorithms' own."""
    where = str(suite.path)
    for name in (suite.name, *suite.datasets, *suite.rows):
        if '/' in name or name.startswith('.'):
            raise UserError(f'{where}: {name!r} cannot be the name of a folder')
    if BEST in suite.checkpoints and not suite.validation_episodes:
        raise UserError(f'{where}: the best checkpoint is chosen by validation_episodes; give some')
    for dataset in suite.datasets.values():
        _check_names(dataset.algorithms, suite.rows, f'{where}: dataset {dataset.name}: algorithms')
    env_id = next(iter(suite.datasets.values())).env_id
    for row in suite.rows.values():
        named = f'{where}: algorithm {row.name}'
        _check_names(row.datasets, suite.datasets, f'{named}: datasets')
        validate(row.options, algorithm_defaults(row.algo, env_id), named)
        for section, name in NOT_SETTINGS:
            if name in (row.options.get(section, {}) if section else row.options):
                raise UserError(f'{named}: {name} is for the suite or the machine to say')
        row.settings(env_id)  # which finds the preset


def _check_names(names: Iterable[str] | None, known: Iterable[str], where: str) -> None:
    for name in names or ():
        if name not in known:
            raise UserError(f'{where}: there is no {name!r}; there are {", ".join(known)}')
