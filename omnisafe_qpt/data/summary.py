# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What a dataset holds and what is wrong with it, found in one pass over blocks of rows.

Files that training refuses are summarised too, as this is how one finds out why.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.actions import ENVIRONMENT
from omnisafe_qpt.data.checks import CHECKS, NOTE, REFUSED, WARNING, Facts, Finding
from omnisafe_qpt.data.files import (
    ENV_ID_ATTRIBUTE,
    HDF5_SUFFIXES,
    UNIT_ATTRIBUTE,
    check_shapes,
    file_sha256,
    open_dataset,
    read_attributes,
)
from omnisafe_qpt.data.layouts import ReadOptions
from omnisafe_qpt.data.memory import check_memory
from omnisafe_qpt.data.resolve import SAMPLE, SAMPLE_ENV_IDS, cache_folder, sample_file
from omnisafe_qpt.data.scan import (
    ENDS,
    Columns,
    EpisodeTable,
    LimitRow,
    Scan,
    ValueRange,
    cut_episodes,
)
from omnisafe_qpt.data.tasks import Task, all_tasks, find_task, require_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.scores import normalized_return


COST_LIMITS = (5.0, 10.0, 20.0, 40.0)
QUANTILES = {
    'min': 0.0,
    '10 %': 0.1,
    '25 %': 0.25,
    'median': 0.5,
    '75 %': 0.75,
    '90 %': 0.9,
    'max': 1.0,
}
# More distinct values of a reward or cost than this are not listed.
_MAX_LISTED_VALUES = 6


@dataclass(frozen=True)
class DatasetSummary:
    """Everything that ``omnisafe-qpt data info`` tells.

    Args:
        path (Path): The file.
        sha256 (str): Its hash.
        size (int): Its size in bytes.
        attributes (dict[str, Any]): Its metadata.
        arrays (dict[str, tuple]): Shape and type of each array.
        task (Task, optional): The DSRL task, None if it is none or unknown.
        episodes (EpisodeTable): One row for each episode.
        ranges (dict[str, ValueRange]): What each array spans.
        values (dict[str, list[float] | None]): The distinct rewards and costs of a step, None
            where they are many.
        limits (list[LimitRow]): What there is within each cost limit.
        findings (list[Finding]): What is wrong or odd, the gravest first.
        notes (tuple[str, ...]): How the file's arrays were read, where that is not plain.
    """

    path: Path
    sha256: str
    size: int
    attributes: dict[str, Any]
    arrays: dict[str, tuple[tuple[int, ...], str]]
    task: Task | None
    episodes: EpisodeTable
    ranges: dict[str, ValueRange]
    values: dict[str, list[float] | None]
    limits: list[LimitRow]
    findings: list[Finding]
    notes: tuple[str, ...]

    @property
    def refusal(self) -> str | None:
        """Why training refuses the file, None if it does not."""
        refused = (finding.text for finding in self.findings if finding.level == REFUSED)
        return next(refused, None)

    @property
    def transitions(self) -> int:
        """Number of transitions over all episodes."""
        return int(self.episodes.lengths.sum())

    def end_counts(self) -> dict[str, int]:
        """Count the episodes of each kind of end."""
        return {end: int((self.episodes.ends == end).sum()) for end in ENDS}

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Return quantiles and the mean of return, cost and length over the finite episodes."""
        episodes = self.episodes
        columns = {
            'return': episodes.returns[episodes.is_finite],
            'cost': episodes.costs[episodes.is_finite],
            'length': episodes.lengths,
        }
        return {name: _quantiles(values) for name, values in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON; what is no finite number becomes None."""
        frontier = self.episodes.frontier
        content = {
            'path': str(self.path),
            'sha256': self.sha256,
            'bytes': self.size,
            'attributes': {key: _plain(value) for key, value in self.attributes.items()},
            'arrays': {
                name: {'shape': list(shape), 'dtype': dtype}
                for name, (shape, dtype) in self.arrays.items()
            },
            'task': self.task.name if self.task else None,
            'env_id': self.task.env_id if self.task else None,
            'episodes': len(self.episodes),
            'transitions': self.transitions,
            'ends': self.end_counts(),
            'quantiles': self.quantiles(),
            'cost_limits': [vars(row) for row in self.limits],
            'frontier': {
                'costs': list(frontier.costs) if frontier else [],
                'returns': list(frontier.returns) if frontier else [],
            },
            'ranges': {
                name: {
                    'low': span.low.tolist(),
                    'high': span.high.tolist(),
                    'non_finite_rows': span.non_finite,
                }
                for name, span in self.ranges.items()
            },
            'values': self.values,
            'notes': list(self.notes),
            'findings': [vars(finding) for finding in self.findings],
            'training_refuses': self.refusal,
        }
        return _finite_or_none(content)


def find_dataset_file(name: str) -> Path:
    """Find the file that a path, a DSRL task or a bundled sample's name means.

    Args:
        name (str): A dataset file; DSRL's name or the environment id of a task, which means its
            file in the cache; ``sample:`` and such a name, which means its bundled sample; or
            ``sample``, the bundled sample of SafetyBallCircle-v0.

    Raises:
        UserError: If there is no such file; the message says how to get it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f'{path}: is a folder; give a dataset file')
    if path.exists() or path.suffix in (*HDF5_SUFFIXES, '.npz'):
        return path  # opening it says what may be wrong with it
    kind, _, of = name.partition(':')
    if name == SAMPLE:
        return sample_file(SAMPLE_ENV_IDS[0])
    try:
        task = require_task(of if kind == SAMPLE else name)
    except UserError as error:
        raise UserError(f'there is no file {name}, and {error}') from error
    if kind == SAMPLE:
        return sample_file(task.env_id, 'its path')
    cached = cache_folder() / task.dataset_file
    if not cached.is_file():
        raise UserError(
            f'the dataset of {task.name} is not in {cached.parent}; get it with: '
            f'omnisafe-qpt data download {task.name}',
        )
    return cached


def identify_task(path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> Task | None:
    """Tell which DSRL task a file is of, by its ``env_id`` attribute, else by its name.

    Args:
        path (str or os.PathLike): The file.
        attributes (Mapping[str, Any]): Its metadata.

    Returns:
        The task, or None if the attribute names none, or the name none or more than one.
    """
    if ENV_ID_ATTRIBUTE in attributes:
        return find_task(attributes[ENV_ID_ATTRIBUTE])
    words = {
        re.sub('^(Offline|Safety)|Gymnasium$', '', word).lower()
        for word in re.split('[^A-Za-z0-9]+', Path(path).stem)
    }
    named = [task for task in all_tasks() if task.name.lower() in words]
    return named[0] if len(named) == 1 else None


def summarize(
    path: str | os.PathLike[str],
    task: str | None = None,
    cost_limits: Sequence[float] = COST_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetSummary:
    """Look through a dataset file.

    Observations and actions are read a block at a time, so that an HDF5 file may be larger than
    memory.

    Args:
        path (str or os.PathLike): An HDF5 or npz file; see :mod:`omnisafe_qpt.data.layouts`.
        task (str, optional): DSRL's name or the environment id of the task; what the file says
            of itself by default.
        cost_limits (Sequence[float], optional): Undiscounted costs of an episode for which to
            tell what the dataset offers. Defaults to :data:`COST_LIMITS`.
        on_progress (Callable, optional): Called with the transitions read and their total.

    Raises:
        UserError: If the file cannot be read, or its arrays lack or do not fit each other, so
            that nothing can be said about episodes.
    """
    path = Path(path).expanduser()
    attributes = read_attributes(path)
    known_task = require_task(task) if task else identify_task(path, attributes)
    horizon = None if known_task is None else known_task.horizon
    own_unit = attributes.get(UNIT_ATTRIBUTE) == ENVIRONMENT
    inspector = Inspector(known_task, horizon, cost_limits, own_unit)
    with open_dataset(path, ReadOptions(horizon=horizon)) as arrays:
        check_shapes(arrays, str(path))
        check_memory(str(path), Scan.block_bytes(arrays))
        sha256 = file_sha256(path)
        described = {name: (tuple(array.shape), str(array.dtype)) for name, array in arrays.items()}
        inspector.begin(arrays)
        inspector.scan.read(arrays, inspector.columns, on_progress)
    facts = inspector.facts()
    columns, episodes = facts.columns, facts.episodes
    return DatasetSummary(
        path=path,
        sha256=sha256,
        size=path.stat().st_size,
        attributes=attributes,
        arrays=described,
        task=known_task,
        episodes=episodes,
        ranges=facts.scan.ranges,
        values={'rewards': _few_values(columns.rewards), 'costs': _few_values(columns.costs)},
        limits=facts.limits,
        findings=find(facts),
        notes=arrays.notes,
    )


class Inspector:
    """Sees a dataset while it is read, and tells what is wrong or odd about it.

    Args:
        task (Task, optional): The DSRL task, None if it is none or unknown.
        horizon (int, optional): The time limit in steps, if it is known.
        cost_limits (Sequence[float]): Undiscounted costs of an episode.
        declares_own_unit (bool, optional): Whether the file says that actions are in the
            environment's own unit. Defaults to False.
    """

    columns: Columns
    scan: Scan

    def __init__(
        self,
        task: Task | None,
        horizon: int | None,
        cost_limits: Sequence[float],
        declares_own_unit: bool = False,
    ) -> None:
        """Initialize an instance of :class:`Inspector`."""
        self._declares_own_unit = declares_own_unit
        self._task, self._horizon, self._cost_limits = task, horizon, cost_limits

    def begin(self, arrays: Mapping[str, Any]) -> None:
        """Take note of the arrays, whose shapes fit together."""
        self.columns = Columns.read(arrays)
        self.scan = Scan.empty(len(self.columns.rewards))

    def add(self, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Take note of the rows from ``first`` on, which follow one another, float32."""
        self.scan.add(first, block)

    def facts(self) -> Facts:
        """Return what the checks look at, after all rows."""
        episodes = cut_episodes(self.columns, self.scan, self._horizon)
        return Facts(
            task=self._task,
            horizon=self._horizon,
            columns=self.columns,
            scan=self.scan,
            episodes=episodes,
            limits=[_limit_row(limit, episodes, self._task) for limit in self._cost_limits],
            declares_own_unit=self._declares_own_unit,
        )


def find(facts: Facts) -> list[Finding]:
    """Return what is wrong or odd about a dataset, the gravest first."""
    return sorted(
        (finding for check in CHECKS for finding in check(facts)),
        key=lambda finding: (REFUSED, WARNING, NOTE).index(finding.level),
    )


def _limit_row(limit: float, episodes: EpisodeTable, task: Task | None) -> LimitRow:
    within = int((episodes.costs <= limit).sum())
    target = episodes.frontier.target_return(limit) if episodes.frontier else math.nan
    return LimitRow(
        cost_limit=float(limit),
        episodes=within,
        share=within / len(episodes),
        target_return=target,
        normalized=normalized_return(target, task.min_return, task.max_return) if task else None,
    )


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys((*QUANTILES, 'mean'), math.nan)
    found = np.quantile(values, list(QUANTILES.values())).tolist()
    return {**dict(zip(QUANTILES, found)), 'mean': float(values.mean())}


def _few_values(values: np.ndarray) -> list[float] | None:
    distinct = np.unique(values[np.isfinite(values)])
    return distinct.tolist() if len(distinct) <= _MAX_LISTED_VALUES else None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _finite_or_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite_or_none(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
