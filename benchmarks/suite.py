# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Suites: their datasets, rows and cells, and the state of a cell.

A cell is one row of a table on one dataset with one seed. Cells that train alike and differ in
how they are evaluated share one training.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.convert import BUILT_INS
from omnisafe_qpt.data.resolve import AUTO, SAMPLE, cache_folder, resolve_dataset
from omnisafe_qpt.data.tasks import Task, find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.files import load_defaults, load_preset, merge, read_yaml


# OmniSafe's CCRR with its cost critic trained, which OmniSafe's own never is.
CORRECTED = {'CCRR-fixed': 'CCRR'}
# In the order of the paper's Table 1.
OURS = ('QPT', 'BCSafe', 'CDT', 'CPQ', 'FISOR')
ALGORITHMS = (*OURS, *BUILT_INS, *CORRECTED)

LAST, BEST = 'last', 'best'
BUDGETS = ('updates', 'seconds')
# How a trained policy may be deployed, as `omnisafe_qpt.evaluation.sweep.evaluate_runs` takes it.
DEPLOYMENT_OPTIONS = ('candidates', 'rule', 'candidate_shift', 'target_return', 'calibrated')

# What belongs to the machine, to the run, or to the suite itself rather than to a row.
NOT_SETTINGS = (
    ('', 'seed'),
    ('', 'logger_cfgs'),
    ('train_cfgs', 'device'),
    ('train_cfgs', 'torch_threads'),
    ('train_cfgs', 'total_steps'),
    ('train_cfgs', 'dataset'),
    ('train_cfgs', 'evaluate_epoisodes'),
    ('train_cfgs', 'final_evaluate_episodes'),
    ('train_cfgs', 'evaluate_processes'),
    ('train_cfgs', 'resume'),
    ('train_cfgs', 'preset'),
    ('train_cfgs', 'accelerate'),
    ('train_cfgs', 'data_device'),
    ('train_cfgs', 'parallel'),
    ('train_cfgs', 'vector_env_nums'),
    ('algo_cfgs', 'steps_per_epoch'),
)


@dataclass(frozen=True)
class Dataset:
    """A dataset of a suite.

    Args:
        name (str): Its name in tables and folders.
        env_id (str): OmniSafe's environment id.
        file (str): ``auto`` (DSRL's), ``sample`` (the bundled one), or a file.
        seeds (tuple[int, ...], optional): The seeds to train with. Defaults to None, the suite's.
        algorithms (tuple[str, ...], optional): The rows to train. Defaults to None, all.
        budget (dict[str, float], optional): Of a training. Defaults to None, the suite's.
        collect (dict[str, Any], optional): Options of ``omnisafe-qpt data collect``, which makes
            the file where it is missing, and ``agents`` to train for it; see
            :mod:`benchmarks.collecting`. Defaults to None.
    """

    name: str
    env_id: str
    file: str
    seeds: tuple[int, ...] | None = None
    algorithms: tuple[str, ...] | None = None
    budget: dict[str, float] | None = None
    collect: dict[str, Any] | None = None

    @property
    def task(self) -> Task | None:
        """Its task, if it is one of DSRL's."""
        return find_task(self.env_id)


@dataclass(frozen=True)
class Row:
    """A row of the table: an algorithm with its options.

    Args:
        name (str): Its name in tables and folders.
        algo (str): One of :data:`ALGORITHMS`.
        preset (str, optional): Of the algorithm. Defaults to None.
        options (dict[str, Any], optional): Nested, as in the algorithm's YAML file.
        evaluate (dict[str, Any], optional): See :data:`DEPLOYMENT_OPTIONS`.
        datasets (tuple[str, ...], optional): Defaults to None, all.
        seeds (tuple[int, ...], optional): Defaults to None, the dataset's.
    """

    name: str
    algo: str
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def settings(self, env_id: str) -> dict[str, Any]:
        """Return all hyperparameters: the defaults, the preset, the row's options."""
        settings = algorithm_defaults(self.algo, env_id)
        if self.preset is not None:
            settings = merge(settings, _preset(self.preset, self.algo, env_id))
        settings = merge(settings, self.options)
        for section, name in NOT_SETTINGS:
            (settings[section] if section else settings).pop(name, None)
        return settings


@dataclass(frozen=True)
class Suite:
    """Definition of a comparison.

    Args:
        path (Path): The YAML file.
        name (str): Of the folder of results.
        datasets (dict[str, Dataset]): By name.
        rows (dict[str, Row]): By name.
        seeds (tuple[int, ...]): Of training.
        episodes (int): Of evaluation, for each checkpoint and limit.
        cost_limits (tuple[float, ...]): To evaluate at. The first is that of training.
        budget (dict[str, float]): ``updates``, or ``seconds`` of updates.
        epochs (int): Parts of a training, after each of which a checkpoint is validated.
        validation_episodes (int): After each epoch, to choose the best one.
        checkpoints (tuple[str, ...]): ``last``, ``best``.
    """

    path: Path
    name: str
    datasets: dict[str, Dataset]
    rows: dict[str, Row]
    seeds: tuple[int, ...]
    episodes: int
    cost_limits: tuple[float, ...]
    budget: dict[str, float]
    epochs: int
    validation_episodes: int
    checkpoints: tuple[str, ...]

    def cells(self, only: Iterable[str] = ()) -> list[Cell]:
        """List the cells whose names fit one of the patterns, or all if there is none.

        Raises:
            UserError: If a pattern fits none.
        """
        cells = [
            Cell(self, dataset, row, seed)
            for dataset in self.datasets.values()
            for row in self.rows.values()
            for seed in self._seeds(dataset, row)
        ]
        chosen = []
        for pattern in only:
            fitting = [cell for cell in cells if _fits(cell.name, pattern)]
            if not fitting:
                raise UserError(
                    f'--only {pattern}: no cell of {self.name} has such a name; names are like '
                    f'{cells[0].name}, and * stands for anything',
                )
            chosen += fitting
        return [cell for cell in cells if cell in chosen] if only else cells

    def _seeds(self, dataset: Dataset, row: Row) -> list[int]:
        if row.datasets is not None and dataset.name not in row.datasets:
            return []
        if dataset.algorithms is not None and row.name not in dataset.algorithms:
            return []
        seeds = self.seeds if dataset.seeds is None else dataset.seeds
        return [seed for seed in seeds if row.seeds is None or seed in row.seeds]


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern is of the cell or of a folder that it is in."""
    return any(fnmatch.fnmatchcase(name, each) for each in (pattern, f'{pattern.rstrip("/")}/*'))


@dataclass(frozen=True)
class Cell:
    """One row on one dataset with one seed.

    Args:
        suite (Suite): The suite.
        dataset (Dataset): One of its datasets.
        row (Row): One of its rows.
        seed (int): Of training.
    """

    suite: Suite
    dataset: Dataset
    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Its name, also that of its files without their suffixes."""
        return f'{self.dataset.name}/{self.row.name}/seed-{self.seed}'

    @property
    def budget(self) -> dict[str, float]:
        """What a training may take."""
        return self.dataset.budget or self.suite.budget

    def training(self, dataset_sha256: str | None) -> dict[str, Any]:
        """Return all that its training depends on, in plain values.

        Args:
            dataset_sha256 (str, optional): Of the dataset's file; None if the file is not here.
        """
        return {
            'algo': self.row.algo,
            'env_id': self.dataset.env_id,
            'dataset_sha256': dataset_sha256,
            'seed': self.seed,
            'cost_limit': self.suite.cost_limits[0],
            'budget': dict(self.budget),
            'epochs': self.suite.epochs,
            'validation_episodes': self.suite.validation_episodes,
            'settings': self.row.settings(self.dataset.env_id),
        }

    def config(self, dataset_sha256: str | None) -> dict[str, Any]:
        """Return all that its result depends on besides the code, in plain values."""
        return {
            'training': self.training(dataset_sha256),
            'episodes': self.suite.episodes,
            'cost_limits': list(self.suite.cost_limits),
            'checkpoints': list(self.suite.checkpoints),
            'evaluate': dict(self.row.evaluate),
        }


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a hash of plain values that does not depend on their order."""
    text = json.dumps(config, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def training_record(work: Path, training: Mapping[str, Any]) -> Path:
    """Return the file that says that a training is done; what it has left is in its folder.

    Args:
        work (Path): The work folder.
        training (Mapping[str, Any]): All that the training depends on, see :meth:`Cell.training`.
    """
    return work / 'trainings' / config_hash(training)[:16] / 'training.json'


def is_finished(results: Path, cell: Cell, dataset_sha256: str | None) -> bool:
    """Whether a cell's result is there and came from the settings that it has now.

    Options that a later version of an algorithm has added are left out of the comparison, as a
    resumed run leaves them out: their defaults keep what was. So is the dataset's hash where the
    file is not here.

    Args:
        results (Path): The suite's folder of results.
        cell (Cell): The cell.
        dataset_sha256 (str, optional): Of the dataset's file; None if the file is not here.
    """
    facts = read_facts(results, cell.name)
    if facts is None:
        return False
    config = cell.config(dataset_sha256)
    if dataset_sha256 is None:
        config['training']['dataset_sha256'] = facts['dataset_sha256']
    return config_hash(_as_recorded(config, facts['config'])) == facts['config_hash']


def read_facts(results: Path, cell_name: str) -> dict[str, Any] | None:
    """Read the facts of a finished cell; None if there are none."""
    try:
        facts = json.loads((results / f'{cell_name}.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    has_rows = (results / f'{cell_name}.csv').is_file()
    return facts if has_rows and facts.get('status') == 'finished' else None


def _as_recorded(config: Any, recorded: Any) -> Any:
    """Leave out what a record does not have."""
    if not isinstance(config, dict) or not isinstance(recorded, dict):
        return config
    return {key: _as_recorded(config[key], recorded[key]) for key in config if key in recorded}


# -- algorithms -----------------------------------------------------------------------------------


def algorithm_defaults(algo: str, env_id: str) -> dict[str, Any]:
    """Load the default configuration of an algorithm, OmniSafe's own ones included.

    Args:
        algo (str): One of :data:`ALGORITHMS`.
        env_id (str): OmniSafe's environment id.
    """
    if algo in OURS:
        return merge(_our_defaults(env_id, algo), {})  # a copy
    content = _omnisafe_yaml(CORRECTED.get(algo, algo))
    return merge(content['defaults'], content.get(env_id) or {})


# A suite of hundreds of cells asks for the same few files again and again.
_our_defaults, _preset = cache(load_defaults), cache(load_preset)


@cache
def _omnisafe_yaml(algo: str) -> dict[str, Any]:
    # Found without importing OmniSafe, which takes seconds.
    package = Path(importlib.util.find_spec('omnisafe').origin).parent
    return read_yaml(package / 'configs' / 'offline' / f'{algo}.yaml')


# -- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataFile:
    """The file of a dataset.

    Args:
        path (Path): Where it is.
        sha256 (str): Its hash.
    """

    path: Path
    sha256: str


def find_data(
    dataset: Dataset,
    files: Mapping[str, Path],
    folder: Path | None,
    may_download: bool,
) -> DataFile | None:
    """Find a dataset's file.

    Args:
        dataset (Dataset): The dataset.
        files (Mapping[str, Path]): Files given by the datasets' names, which come first.
        folder (Path, optional): Where files named in the suite are.
        may_download (bool): Whether to fetch what is not here, and to fail if that fails.

    Returns:
        The file, or None if it is not here and may not be fetched, or is to be collected.

    Raises:
        UserError: If it cannot be had.
    """
    given = files.get(dataset.name)
    if given is not None:
        path = given.expanduser()
    elif dataset.file in (AUTO, SAMPLE):
        path = _shipped_data(dataset, may_download)
    else:
        path = (folder or Path()).expanduser() / dataset.file
    if path is not None and path.is_file():
        return data_file(path)
    if not may_download or (given is None and dataset.collect is not None):
        return None
    raise UserError(
        f'{dataset.name}: no file {path}; give it with --data {dataset.name}=FILE, or its folder '
        'with --data-dir DIR',
    )


def data_file(path: Path) -> DataFile:
    """Return a file that is there, with its hash."""
    return DataFile(path.resolve(), _sha256(path.resolve()))


def _shipped_data(dataset: Dataset, may_download: bool) -> Path | None:
    if dataset.file == AUTO and not may_download:
        return None if dataset.task is None else cache_folder() / dataset.task.dataset_file
    option = f'--data {dataset.name}=FILE'
    source = resolve_dataset(dataset.file, dataset.env_id, option)
    if source.warning is not None:
        # What a user who tries things out is glad of would make a table false.
        raise UserError(f'{dataset.name}: {source.warning.splitlines()[0]}')
    return source.path


@cache
def _sha256(path: Path) -> str:
    return file_sha256(path)
