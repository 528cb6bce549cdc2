# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what ``benchmarks.compare`` wrote: the raw rows of finished cells, and nothing else.

A cell is one row (an algorithm with its settings) on one dataset with one seed: two files,
``<suite>/<dataset>/<row>/seed-<n>.csv`` with a line for each evaluated episode and ``.json`` with
what was run. Everything that the report shows is computed from these.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from omnisafe_qpt.data.tasks import Task, all_tasks, find_task
from omnisafe_qpt.errors import UserError


# The columns of a cell's rows, and what each holds.
COLUMNS = {
    'checkpoint': str,
    'cost_limit': float,
    'episode': int,
    'seed': int,
    'return': float,
    'cost': float,
    'length': int,
}

# What a cell's facts must hold, and of what kind.
FACTS: dict[str, type | tuple[type, ...]] = {
    'suite': str,
    'row': str,
    'algo': str,
    'env_id': str,
    'dataset': str,
    'dataset_file': str,
    'dataset_sha256': str,
    'seed': int,
    'reference_returns': list,
    'command': str,
    'config': dict,
    'commit': (str, type(None)),
    'dirty': bool,
    'versions': dict,
    'hardware': dict,
    'threads': int,
    'started': str,
    'updates': int,
    'train_seconds': (int, float),
    'validate_seconds': (int, float),
    'evaluate_seconds': (int, float),
}

# The paper's order, then OmniSafe's own.
_ALGORITHMS = (
    *('QPT', 'BCSafe', 'CDT', 'BCQLag', 'CPQ', 'COptiDICE', 'FISOR'),
    *('VAEBC', 'BCQ', 'CRR', 'CCRR', 'CCRR-fixed'),
)


@dataclass(frozen=True)
class Episode:
    """One evaluated episode.

    Args:
        seed (int): Of the environment.
        episode_return (float): Undiscounted.
        cost (float): Undiscounted.
    """

    seed: int
    episode_return: float
    cost: float


# What the section ``evaluate`` of a row calls an option, and its name among the settings.
_EVALUATE_NAMES = {'rule': 'selection_rule'}


class PlannedCell(NamedTuple):
    """A cell that a suite has, run or not."""

    dataset: str
    env_id: str
    row: str
    algo: str
    seed: int


@dataclass(frozen=True)
class Result:
    """What there is of a finished cell.

    Args:
        path (Path): Its JSON file.
        facts (dict[str, Any]): What is in that file.
        episodes (dict[tuple[str, float], tuple[Episode, ...]]): By checkpoint and cost limit.
    """

    path: Path
    facts: dict[str, Any]
    episodes: dict[tuple[str, float], tuple[Episode, ...]]

    @property
    def cell(self) -> PlannedCell:
        """The cell that it is of."""
        return PlannedCell(*(self.facts[name] for name in PlannedCell._fields))

    @property
    def row(self) -> str:
        """Name of the row in the table."""
        return self.facts['row']

    @property
    def algo(self) -> str:
        """Name of the algorithm."""
        return self.facts['algo']

    @property
    def dataset(self) -> str:
        """Name of the dataset in the suite."""
        return self.facts['dataset']

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.facts['seed']

    @property
    def task(self) -> Task | None:
        """The DSRL task of the environment, or None."""
        return find_task(self.facts['env_id'])

    @property
    def is_dsrl(self) -> bool:
        """Whether the data are DSRL's, as the file's name says.

        DSRL publishes no hashes to hold the file against.
        """
        return self.task is not None and self.facts['dataset_file'] == self.task.dataset_file

    def has_target(self, checkpoint: str, cost_limit: float) -> bool:
        """Tell whether the policy acted: False where it fell back to zero actions.

        Args:
            checkpoint (str): ``last`` or ``best``.
            cost_limit (float): In the units of an episode's cost.
        """
        return not any(
            asked['holds_still']
            for asked in self.facts.get('asked', ())
            if (asked['checkpoint'], asked['cost_limit']) == (checkpoint, cost_limit)
        )

    @property
    def guarantees(self) -> dict[tuple[str, float], dict[str, Any]]:
        """What target calibration says of checkpoints and cost limits; see ``runner.Guarantee``.

        Empty without a calibration, and for one of an earlier version, which certified nothing.
        """
        return {
            (asked['checkpoint'], asked['cost_limit']): asked['guarantee']
            for asked in self.facts.get('asked', ())
            if asked.get('guarantee') is not None
        }

    @property
    def hardware(self) -> str:
        """What it ran on, in words."""
        facts = self.facts['hardware']
        memory = facts['memory_bytes'] / 2**30
        parts = [facts['processor'], f'{facts["cores"]} cores', f'{memory:.0f} GiB']
        if 'card' in facts:
            parts.append(facts['card'])
        parts.append(f'threads of a cell: {self.facts["threads"]}')
        return ', '.join(parts)

    @cached_property
    def trained_settings(self) -> dict[str, Any]:
        """Hyperparameters of the training, which are also those of deployment unless changed."""
        return _flat(self.facts['config']['training']['settings'])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Hyperparameters of training and deployment, by names such as ``algo_cfgs.eta_cost``."""
        settings = dict(self.trained_settings)
        for name, value in self.facts['config']['evaluate'].items():
            setting = f'algo_cfgs.{_EVALUATE_NAMES.get(name, name)}'
            settings[setting if setting in settings else f'evaluate.{name}'] = value
        return settings


def _flat(section: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in section.items():
        name = f'{prefix}{key}'
        flat.update(_flat(value, f'{name}.') if isinstance(value, dict) else {name: value})
    return flat


@dataclass(frozen=True)
class Results:
    """What there is of a suite.

    Args:
        folder (Path): Where it is.
        cells (tuple[Result, ...]): The finished cells, at least one.
        planned (tuple[PlannedCell, ...], optional): All cells of the suite. Defaults to none, if
            they are not known.
    """

    folder: Path
    cells: tuple[Result, ...]
    planned: tuple[PlannedCell, ...] = ()

    @property
    def name(self) -> str:
        """Name of the suite, with that of its folder where it is another."""
        name = self.cells[0].facts['suite']
        return name if name == self.folder.name else f'{name} ({self.folder.name})'

    @cached_property
    def algorithms(self) -> dict[str, str]:
        """The algorithm of each row.

        In the order of the suite. Where that is not known, in the paper's order of algorithms with
        OmniSafe's after it.
        """
        found = {cell.row: cell.algo for cell in self.cells}
        order = sorted(found, key=lambda row: (_rank(found[row]), natural_key(row)))
        return {cell.row: cell.algo for cell in self.planned} | {row: found[row] for row in order}

    @cached_property
    def env_ids(self) -> dict[str, str]:
        """The environment of each dataset, in the order of the suite, or in that of DSRL."""
        found = {cell.dataset: cell.facts['env_id'] for cell in self.cells}
        tasks = [task.env_id for task in all_tasks()]
        order = sorted(
            found,
            key=lambda dataset: (
                tasks.index(found[dataset]) if found[dataset] in tasks else len(tasks),
                natural_key(dataset),
            ),
        )
        planned = {cell.dataset: cell.env_id for cell in self.planned}
        return planned | {dataset: found[dataset] for dataset in order}

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(self.algorithms)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets."""
        return tuple(self.env_ids)

    @cached_property
    def settings(self) -> tuple[tuple[str, float], ...]:
        """Checkpoints and cost limits for which there are episodes, the last checkpoint first."""
        found = {setting for cell in self.cells for setting in cell.episodes}
        return tuple(sorted(found, key=lambda each: (each[0] != 'last', *each)))

    @cached_property
    def missing(self) -> int:
        """Number of planned cells that have not been run."""
        return len(set(self.planned) - {cell.cell for cell in self.cells})

    def of(self, row: str, dataset: str) -> list[Result]:
        """Return the cells of a row on a dataset, in the order of their seeds."""
        return self._by_place.get((row, dataset), [])

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], list[Result]]:
        places: dict[tuple[str, str], list[Result]] = {}
        for cell in sorted(self.cells, key=lambda cell: cell.seed):
            places.setdefault((cell.row, cell.dataset), []).append(cell)
        return places


def natural_key(text: str) -> list[Any]:
    """Return a key that sorts ``candidates-5`` before ``candidates-12``."""
    parts = re.split(r'(\d+(?:\.\d+)?)', text)
    return [float(part) if index % 2 else part for index, part in enumerate(parts)]


def _rank(algo: str) -> int:
    return _ALGORITHMS.index(algo) if algo in _ALGORITHMS else len(_ALGORITHMS)


def read_results(folders: Sequence[str | Path]) -> list[Results]:
    """Read all finished cells below some folders, each suite's together, in the order given.

    Args:
        folders (Sequence[str or Path]): Folders of suites, or of several of them, which are taken
            by their names.

    Raises:
        UserError: If there is no cell, or one is not what it should be; the message names the file.
    """
    suites: dict[Path, list[Result]] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder of results')
        paths = list(_cell_paths(folder))
        if not paths:
            raise UserError(
                f'{folder}: no results in it (DATASET/ROW/seed-N.csv); '
                'python -m benchmarks.compare makes them',
            )
        for path in paths:
            cells = suites.setdefault(path.parents[2], [])
            if path not in [cell.path for cell in cells]:
                cells.append(read_cell(path))
    return [Results(folder, tuple(cells)) for folder, cells in suites.items()]


def _cell_paths(folder: Path) -> Iterator[Path]:
    """Find the JSON files of cells below a folder, and see that none lacks its CSV or is lacked."""
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
    for path in sorted(facts):
        yield path.with_suffix('.json')


def read_cell(path: Path) -> Result:
    """Read a cell.

    Args:
        path (Path): Its JSON file; its CSV is beside it.

    Raises:
        UserError: If either file is not what it should be; the message names it.
    """
    facts = _read_facts(path)
    episodes: dict[tuple[str, float], dict[int, Episode]] = {}
    rows_path = path.with_suffix('.csv')
    for line, row in _read_rows(rows_path):
        group = episodes.setdefault((row['checkpoint'], row['cost_limit']), {})
        if row['episode'] in group:
            raise UserError(f'{rows_path}, line {line}: episode {row["episode"]} is there twice')
        group[row['episode']] = Episode(row['seed'], row['return'], row['cost'])
    if not episodes:
        raise UserError(f'{rows_path}: no episodes in it; remove it and run the cell again')
    ordered = {
        setting: tuple(group[number] for number in sorted(group))
        for setting, group in episodes.items()
    }
    return Result(path, facts, ordered)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: not readable JSON ({error}); run the cell again') from error
    if not isinstance(facts, dict):
        raise UserError(f'{path}: not the facts of a cell; run the cell again')
    for name, kind in FACTS.items():
        if name not in facts:
            raise UserError(f'{path}: {name!r} is missing; run the cell again')
        if not isinstance(facts[name], kind):
            raise UserError(f'{path}: {name!r} is {facts[name]!r}, which it cannot be')
    return facts


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each line's number and values."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: not readable ({error}); run the cell again') from error
    reader = csv.DictReader(text.splitlines(), restval='', restkey='too many')
    columns = reader.fieldnames or []
    for wrong, names in (
        ('unknown', [name for name in columns if name not in COLUMNS]),
        ('missing', [name for name in COLUMNS if name not in columns]),
    ):
        if names:
            raise UserError(
                f'{path}: {wrong} columns: {", ".join(names)}; they are {", ".join(COLUMNS)}',
            )
    for row in reader:
        yield reader.line_num, _read_row(row, path, reader.line_num)


def _read_row(row: dict[str, Any], path: Path, line: int) -> dict[str, Any]:
    if 'too many' in row:
        raise UserError(f'{path}, line {line}: more values than columns')
    values = {}
    for name, kind in COLUMNS.items():
        try:
            values[name] = kind(row[name])
        except ValueError:
            raise UserError(f'{path}, line {line}: {name} is {row[name]!r}, no number') from None
        if kind is float and not math.isfinite(values[name]):
            raise UserError(f'{path}, line {line}: {name} is {row[name]!r}, which is not finite')
    return values
