# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what ``benchmarks.compare`` wrote: one frame of cells and one of their episodes.

A cell is one row of a table (an algorithm with its settings) on one dataset with one seed. It has
two files: ``<suite>/<dataset>/<row>/seed-<n>.csv`` with a line for each evaluated episode, and
``.json`` with the facts. Everything in the report is computed from these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from omnisafe_qpt.data.tasks import all_tasks, find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.schema import (
    anything,
    flag,
    mapping,
    maybe,
    number,
    read_json,
    record,
    sequence,
    text,
    whole,
)


# The columns of a cell's CSV, and their types.
COLUMNS = {
    'checkpoint': str,
    'cost_limit': float,
    'episode': int,
    'seed': int,
    'return': float,
    'cost': float,
    'length': int,
}
# The facts that a cell must have.
FACTS = {
    **{name: text() for name in ('suite', 'row', 'algo', 'env_id', 'dataset', 'dataset_file')},
    **{name: text() for name in ('dataset_sha256', 'command', 'started')},
    **{name: whole() for name in ('seed', 'threads', 'updates')},
    **{f'{name}_seconds': number(0) for name in ('train', 'validate', 'evaluate')},
    'reference_returns': sequence(number(), 2, 2),
    'config': record(
        {
            'training': record(
                {
                    'settings': mapping(anything),
                    'budget': mapping(number(0)),
                    'cost_limit': number(0),
                    'epochs': whole(1),
                    'validation_episodes': whole(),
                },
            ),
            'evaluate': mapping(anything),
        },
    ),
    'commit': maybe(text()),
    'dirty': flag,
    'versions': mapping(text()),
    'hardware': record({'processor': text(), 'cores': whole(1), 'memory_bytes': number(0)}),
}
# What identifies a cell, and its group of episodes.
CELL = ['dataset', 'row', 'seed']
SETTING = ['checkpoint', 'cost_limit']

# The paper's order, then OmniSafe's own.
_ALGORITHMS = (
    *('QPT', 'BCSafe', 'CDT', 'BCQLag', 'CPQ', 'COptiDICE', 'FISOR'),
    *('VAEBC', 'BCQ', 'CRR', 'CCRR', 'CCRR-fixed'),
)
# Deployment options whose name in the section ``evaluate`` is not that of the setting.
_EVALUATE_NAMES = {'rule': 'selection_rule'}


class PlannedCell(NamedTuple):
    """A cell of a suite, run or not."""

    dataset: str
    env_id: str
    row: str
    algo: str
    seed: int


@dataclass(frozen=True)
class Results:
    """The results of a suite.

    Args:
        folder (Path): The suite's folder.
        cells (pd.DataFrame): The finished cells, at least one: their facts, and ``path``,
            ``training`` (its configuration), ``trained`` and ``settings`` (flat hyperparameters of
            training, and with those of deployment), ``is_dsrl``, ``machine``.
        episodes (pd.DataFrame): Their episodes: dataset, row, ``seed`` of training, checkpoint,
            cost_limit, episode, ``env_seed``, return, cost.
        planned (tuple[PlannedCell, ...], optional): All cells of the suite, if known.
    """

    folder: Path
    cells: pd.DataFrame
    episodes: pd.DataFrame
    planned: tuple[PlannedCell, ...] = ()

    @property
    def name(self) -> str:
        """Name of the suite, with that of its folder where it is another."""
        name = self.cells.suite.iloc[0]
        return name if name == self.folder.name else f'{name} ({self.folder.name})'

    @cached_property
    def algorithms(self) -> dict[str, str]:
        """Algorithm of each row: in the suite's order if known, else in the paper's."""
        found = dict(zip(self.cells.row, self.cells.algo))
        order = sorted(found, key=lambda row: (_rank(found[row], _ALGORITHMS), natural_key(row)))
        return {cell.row: cell.algo for cell in self.planned} | {row: found[row] for row in order}

    @cached_property
    def env_ids(self) -> dict[str, str]:
        """Environment of each dataset: in the suite's order if known, else in DSRL's."""
        found = dict(zip(self.cells.dataset, self.cells.env_id))
        tasks = [task.env_id for task in all_tasks()]
        order = sorted(found, key=lambda name: (_rank(found[name], tasks), natural_key(name)))
        planned = {cell.dataset: cell.env_id for cell in self.planned}
        return planned | {dataset: found[dataset] for dataset in order}

    @property
    def rows(self) -> list[str]:
        """Names of the rows."""
        return list(self.algorithms)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets."""
        return list(self.env_ids)

    @cached_property
    def settings(self) -> list[tuple[str, float]]:
        """Checkpoints and cost limits of the episodes, the last checkpoint first."""
        found = set(self.episodes[SETTING].itertuples(index=False, name=None))
        return sorted(found, key=lambda each: (each[0] != 'last', *each))

    @property
    def missing(self) -> int:
        """Number of planned cells that have not been run."""
        run = self.cells[list(PlannedCell._fields)].itertuples(index=False, name=None)
        return len(set(self.planned) - set(run))

    def expected_seeds(self, dataset: str, row: str) -> int:
        """Return how many seeds a row should have: planned, else those of any row."""
        planned = [cell for cell in self.planned if (cell.dataset, cell.row) == (dataset, row)]
        return len(planned) or self.cells[self.cells.dataset == dataset].seed.nunique()


def natural_key(text: str) -> list[Any]:
    """Return a key that sorts ``candidates-5`` before ``candidates-12``."""
    parts = re.split(r'(\d+(?:\.\d+)?)', text)
    return [float(part) if index % 2 else part for index, part in enumerate(parts)]


def _rank(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def read_results(folders: Iterable[str | Path]) -> list[Results]:
    """Read all finished cells below some folders, each suite's together, in the order given.

    Args:
        folders (Iterable[str or Path]): Folders of suites, or of several of them, which are taken
            by their names.

    Raises:
        UserError: If there is no cell, or a file is damaged; the message names the file.
    """
    suites: dict[Path, dict[Path, dict[str, Any]]] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder of results')
        paths = _cell_paths(folder)
        if not paths:
            raise UserError(
                f'{folder}: no results in it (DATASET/ROW/seed-N.csv); '
                'python -m benchmarks.compare makes them',
            )
        for path in paths:
            suites.setdefault(path.parents[2], {})[path] = read_json(path, record(FACTS))
    return [_gather(folder, facts) for folder, facts in suites.items()]


def _cell_paths(folder: Path) -> list[Path]:
    """Find the JSON files of cells below a folder, each of which must have its CSV beside it."""
    rows, facts = (
        {path.with_suffix('') for path in folder.glob(f'**/seed-*{suffix}')}
        for suffix in ('.csv', '.json')
    )
    for path in sorted(rows ^ facts):
        there, absent = ('.csv', '.json') if path in rows else ('.json', '.csv')
        raise UserError(
            f'{path}{absent}: is missing beside {path.name}{there}; '
            f'remove {path.name}{there} and run the cell again',
        )
    return [path.with_suffix('.json') for path in sorted(facts)]


def _gather(folder: Path, facts: dict[Path, dict[str, Any]]) -> Results:
    cells = pd.DataFrame([_with_derived(path, each) for path, each in facts.items()])
    episodes = _read_episodes(path.with_suffix('.csv') for path in facts)
    episodes = episodes.rename(columns={'seed': 'env_seed'})
    keys = cells[CELL].assign(path=[path.with_suffix('.csv') for path in facts])
    return Results(folder, cells, episodes.merge(keys, on='path'))


def _with_derived(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    training, task = facts['config']['training'], find_task(facts['env_id'])
    trained = dict(flat(training['settings']))
    settings = dict(trained)
    for name, value in facts['config']['evaluate'].items():
        setting = f'algo_cfgs.{_EVALUATE_NAMES.get(name, name)}'
        settings[setting if setting in settings else f'evaluate.{name}'] = value
    return {
        **{name: facts[name] for name in FACTS},
        **{name: facts.get(name) for name in ('asked', 'converted_limit', 'evaluation_commit')},
        'path': path,
        'training': training,
        'trained': trained,
        'settings': settings,
        'has_task': task is not None,
        # DSRL publishes no hashes to compare with: only the file's name tells.
        'is_dsrl': task is not None and facts['dataset_file'] == task.dataset_file,
        'machine': _machine(facts),
    }


def _machine(facts: dict[str, Any]) -> str:
    hardware = facts['hardware']
    memory = f'{hardware["memory_bytes"] / 2**30:.0f} GiB'
    parts = [hardware['processor'], f'{hardware["cores"]} cores', memory, hardware.get('card')]
    return ', '.join([*filter(None, parts), f'threads of a cell: {facts["threads"]}'])


def flat(section: dict[str, Any], prefix: str = '') -> Iterable[tuple[str, Any]]:
    """Yield the leaves of nested sections, by names such as ``algo_cfgs.eta_cost``."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _read_lines(path: Path) -> pd.DataFrame:
    """Read a cell's CSV as text, with the number of each line."""
    try:
        lines = pd.read_csv(
            path,
            header=None,
            names=[*COLUMNS, 'more'],
            dtype=str,
            skip_blank_lines=False,
            na_filter=False,
        )
    except (OSError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path}: not readable ({reason}); run the cell again') from error
    header = list(lines.iloc[0]) if len(lines) else []
    if header != [*COLUMNS, '']:
        raise UserError(
            f'{path}: has columns {", ".join(filter(None, header))}; they must be '
            f'{", ".join(COLUMNS)}',
        )
    if len(lines) == 1:
        raise UserError(f'{path}: no episodes in it; remove it and run the cell again')
    return lines[1:].assign(path=path, line=range(2, len(lines) + 1))


def _read_episodes(paths: Iterable[Path]) -> pd.DataFrame:
    """Read the CSVs of cells."""
    lines = pd.concat(map(_read_lines, paths), ignore_index=True)

    def refuse(is_wrong: pd.Series, what: str) -> None:
        for line in lines[is_wrong].to_dict('records'):
            raise UserError('{path}, line {line}: '.format(**line) + what.format(**line))

    refuse(lines.more != '', 'more values than columns')
    for name, kind in COLUMNS.items():
        if kind is not str:
            numbers = pd.to_numeric(lines[name], errors='coerce')
            is_number = np.isfinite(numbers) & ((kind is float) | (numbers % 1 == 0))
            refuse(~is_number, f'{name} is {{{name}!r}}, which it cannot be')
    refuse(lines.duplicated(['path', *SETTING, 'episode']), 'episode {episode} is there twice')
    return lines.astype(COLUMNS).sort_values(['path', *SETTING, 'episode'])
