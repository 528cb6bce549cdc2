# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Data of a report, read from run folders, datasets and evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.scan import EpisodeTable
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError, shell_command
from omnisafe_qpt.plots import Relabelled, relabel
from omnisafe_qpt.runs.checkpoint import (
    BEST_FILE,
    find_run,
    list_checkpoints,
    load_best,
    load_networks,
)
from omnisafe_qpt.runs.records import read_config, read_progress
from omnisafe_qpt.runs.resume import run_settings
from omnisafe_qpt.schema import (
    checked,
    flag,
    maybe,
    number,
    read_json,
    record,
    sequence,
    text,
    whole,
)
from omnisafe_qpt.settings.files import load_defaults, merge


_ALGORITHMS = ('QPT', 'CDT')
_HOOK = 'augmentation_hook'
_NUMBERS = sequence(number(), 1)
# Required fields of an evaluation's rows.
_ROW = {
    'algo': text(),
    'env_id': text(),
    'run': text(),
    'checkpoint': text(),
    'cost_limit': number(0),
    'target_return': maybe(number()),
    'zero_action': flag,
    'candidates': whole(1),
    'rule': text(),
    'episodes': whole(1),
    'seed': whole(),
    'returns': _NUMBERS,
    'costs': _NUMBERS,
    'return_mean': number(),
    'return_std': number(0),
    'cost_mean': number(),
    'cost_std': number(0),
    'reference_returns': sequence(number(), 2, 2),
    'normalized_return': number(),
    'normalized_cost': number(),
    'safe': flag,
    'unsafe_share': number(0, 1),
}
_TRACE = record(
    {
        'actions': sequence(_NUMBERS, 1),
        **dict.fromkeys(('rewards', 'costs', 'chosen', 'shift'), _NUMBERS),
        'feasible': sequence(maybe(flag), 1),
        'cost_value': sequence(maybe(number()), 1),
    },
)
_ROW_OPTIONAL = {
    'traces': maybe(sequence(_TRACE)),
    'guarantee': maybe(record({'mean_statement': text(), 'share_statement': text()})),
}


@dataclass(frozen=True)
class Run:
    """Data of a run's folder.

    Args:
        folder (Path): The folder.
        config (dict[str, Any]): Its ``config.json``.
        progress (dict[str, np.ndarray]): The columns of ``progress.csv``, a number an epoch.
        checkpoints (dict[int, Path]): The checkpoint for each number of epochs, rising.
        spec (dict[str, Any]): Records of the last checkpoint; empty without one.
        best (dict[str, Any], optional): Its ``best.json``.
    """

    folder: Path
    config: dict[str, Any]
    progress: dict[str, np.ndarray]
    checkpoints: dict[int, Path]
    spec: dict[str, Any]
    best: dict[str, Any] | None

    @property
    def algo(self) -> str:
        """The algorithm, QPT or CDT."""
        return self.config['algo']

    @property
    def env_id(self) -> str:
        """OmniSafe's id of the environment."""
        return self.config['env_id']

    @property
    def cost_limit(self) -> float:
        """Cost limit of training, undiscounted."""
        return float(self.config['algo_cfgs']['cost_limit'])

    @property
    def seed(self) -> int:
        """The run's seed, also of the relabelling."""
        return int(self.config['seed'])

    @property
    def dataset(self) -> dict[str, Any]:
        """Name, path and sha256 of the dataset; the last is None for one of OmniSafe's own."""
        return self.config['dataset_record']

    @property
    def updates(self) -> int:
        """Updates done."""
        return int(self.progress['TotalSteps'][-1])

    @property
    def total_updates(self) -> int:
        """Requested number of updates."""
        return int(self.config['train_cfgs']['total_steps'])

    @property
    def seconds(self) -> float:
        """Time of all epochs, including those before a resume."""
        return float(self.progress['Time/Epoch'].sum())

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options by their path: ``algo_cfgs:gamma``; records of the run are left out."""
        known = flatten(load_defaults(self.env_id, self.algo))
        return {path: value for path, value in flatten(self.config).items() if path in known}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The options that differ from the defaults and affect the model, by their path."""
        defaults = load_defaults(self.env_id, self.algo)
        chosen, usual = flatten(run_settings(self.config, defaults)), flatten(defaults)
        return {path: value for path, value in chosen.items() if value != usual[path]}

    @property
    def command(self) -> str:
        """A command line that trains with the same settings, one option per line."""
        lines = [shell_command(['omnisafe', 'train', '--algo', self.algo, '--env-id', self.env_id])]
        for path, value in self.settings.items():
            text = value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))
            lines.append(shell_command(['--custom-cfgs', path, '--custom-cfgs', text]))
        return ' \\\n    '.join(lines)


@dataclass(frozen=True)
class DatasetView:
    """A run's dataset, or the reason why it cannot be shown.

    Args:
        record (dict[str, Any]): Its name, path and sha256, as the run recorded them.
        cost_limit (float): The run's.
        episodes (EpisodeTable, optional): The episodes that the run was trained on.
        held_out (int): Number of held-out episodes in the file.
        relabelled (Relabelled, optional): The run's relabelled episodes.
        problem (str, optional): Why there are no episodes, or else no relabelled ones.
    """

    record: dict[str, Any]
    cost_limit: float
    episodes: EpisodeTable | None = None
    held_out: int = 0
    relabelled: Relabelled | None = None
    problem: str | None = None


def flatten(nested: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return a nested dictionary's values by their paths, in OmniSafe's spelling: ``a:b:c``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}:')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the runs of a report.

    Args:
        folders (Sequence[str]): Runs' folders.

    Raises:
        UserError: If one is no run of QPT or CDT, has no finished epoch, cannot be read, or is of
            another task or algorithm than the first.
    """
    found = dict.fromkeys(find_run(folder).resolve() for folder in folders)
    runs = [_read_run(folder) for folder in found]
    for run in runs[1:]:
        if run.env_id != runs[0].env_id:
            raise UserError(
                f'{run.folder} is of {run.env_id}, {runs[0].folder} of {runs[0].env_id}; a report '
                'is about one task',
            )
        if run.algo != runs[0].algo:
            raise UserError(
                f'{run.folder} is of {run.algo}, {runs[0].folder} of {runs[0].algo}; a report is '
                'about one algorithm',
            )
    return runs


def _read_run(folder: Path) -> Run:
    config = read_config(folder, _ALGORITHMS, 'a report is about a run of QPT or CDT')
    # Options added later have their defaults.
    config = merge(load_defaults(config['env_id'], config['algo']), config)
    checkpoints = list_checkpoints(folder)
    return Run(
        folder=folder,
        config=config,
        progress=_read_progress(folder),
        checkpoints=checkpoints,
        spec=load_networks(folder)[0].spec if checkpoints else {},
        best=load_best(folder) if (folder / BEST_FILE).is_file() else None,
    )


def _read_progress(folder: Path) -> dict[str, np.ndarray]:
    rows = read_progress(folder)
    if not rows:
        raise UserError(f'{folder}: no epoch is finished yet, progress.csv has no row')
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read_datasets(
    runs: Sequence[Run],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[DatasetView]:
    """Read each dataset that the runs were trained on, once.

    Args:
        runs (Sequence[Run]): The runs; the first of a dataset says how it was augmented.
        on_progress (Callable, optional): Called with the transitions read and their total.
    """
    first_of: dict[str, Run] = {}
    for run in runs:
        first_of.setdefault(run.dataset['sha256'] or run.dataset['path'], run)
    return [_read_dataset(run, on_progress) for run in first_of.values()]


def _read_dataset(run: Run, on_progress: Callable[[int, int], None] | None) -> DatasetView:
    record, limit = run.dataset, run.cost_limit
    path = Path(record['path'])

    def without(problem: str) -> DatasetView:
        return DatasetView(record, limit, problem=problem)

    if record['sha256'] is None:
        return without("one of OmniSafe's own datasets, which are not analysed here")
    if not path.is_file():
        return without('the file is no longer at its path in training')
    task = find_task(run.env_id)
    try:
        summary = summarize(path, task.env_id if task else None, (limit,), on_progress)
    except UserError as error:
        return without(f'the file can no longer be read: {error}')
    if summary.sha256 != record['sha256']:
        return without('the file has changed since training; its sha256 differs')
    held_out = run.spec.get('held_out', [])
    if max(held_out, default=-1) >= len(summary.episodes):
        return without(f'the checkpoint holds episode {max(held_out)} out, which it does not have')
    is_seen = np.ones(len(summary.episodes), dtype=bool)
    is_seen[held_out] = False
    names = [column.name for column in fields(EpisodeTable)]
    columns = {name: getattr(summary.episodes, name)[is_seen] for name in names}
    episodes = EpisodeTable(**columns)
    view = DatasetView(record, limit, episodes, len(held_out))
    algo = run.config['algo_cfgs']
    hook = algo[_HOOK]
    if algo['use_augmentation'] and hook != load_defaults(run.env_id, run.algo)['algo_cfgs'][_HOOK]:
        return replace(view, problem=f'{hook} relabelled, which only training runs')
    fraction = algo['augmentation_fraction'] if algo['use_augmentation'] else 0.0
    return replace(view, relabelled=relabel(episodes, fraction, run.seed))


def read_evaluation(path: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Read the results of ``omnisafe-qpt evaluate --json`` for these runs.

    Args:
        path (Path): The file.
        runs (Sequence[Run]): The runs.

    Returns:
        The rows that are about one of the runs, by rising limit.

    Raises:
        UserError: If the file is no such evaluation, or none of one of the runs.
    """
    content = read_json(path)
    rows = content if isinstance(content, list) else []
    if not rows or not all(isinstance(row, dict) and set(row) >= _ROW.keys() for row in rows):
        raise UserError(f'{path}: was not written by omnisafe-qpt evaluate --json')
    checked(path, rows, sequence(record(_ROW, _ROW_OPTIONAL)))
    # By name, as runs may have been moved.
    evaluated = {Path(row['run']).name for row in rows}
    for run in runs:
        if run.folder.name not in evaluated or run.env_id != rows[0]['env_id']:
            raise UserError(
                f'{path}: holds no evaluation of {run.folder.name} in {run.env_id}, but of '
                f'{", ".join(sorted(evaluated))} in {rows[0]["env_id"]}',
            )
    names = {run.folder.name for run in runs}
    chosen = [row for row in rows if Path(row['run']).name in names]
    return sorted(chosen, key=lambda row: row['cost_limit'])


@dataclass(frozen=True)
class LimitResult:
    """Results of the runs at one limit.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        rows (list[dict[str, Any]]): The evaluation's row for each run.
    """

    cost_limit: float
    rows: list[dict[str, Any]]

    @property
    def episodes(self) -> int:
        """Episodes of all runs."""
        return sum(len(row['costs']) for row in self.rows)

    @property
    def traces(self) -> list[dict[str, list[Any]]]:
        """The steps of all episodes, if stored."""
        return [trace for row in self.rows for trace in row.get('traces') or []]


def by_limit(rows: Sequence[dict[str, Any]]) -> list[LimitResult]:
    """Put the rows of each limit together, by rising limit."""
    limits = sorted({row['cost_limit'] for row in rows})
    return [
        LimitResult(limit, [row for row in rows if row['cost_limit'] == limit]) for limit in limits
    ]
