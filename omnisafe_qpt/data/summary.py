# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Summary of a dataset and its faults, in one pass over blocks of rows.

Files that training refuses are summarised too, with the reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.actions import ENVIRONMENT
from omnisafe_qpt.data.arrays import check_shapes
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.attributes import UNIT_ATTRIBUTE, read_attributes
from omnisafe_qpt.data.checks import REFUSED, Finding, find
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.layouts import ReadOptions
from omnisafe_qpt.data.memory import check_memory
from omnisafe_qpt.data.resolve import identify_task
from omnisafe_qpt.data.scan import (
    ENDS,
    EpisodeTable,
    Inspector,
    LimitRow,
    ValueRange,
    scan_bytes,
)
from omnisafe_qpt.data.tasks import Task, require_task


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
    """The result of ``omnisafe-qpt data info``.

    Args:
        path (Path): The file.
        sha256 (str): Its hash.
        size (int): Its size in bytes.
        attributes (dict[str, Any]): Its metadata.
        arrays (dict[str, tuple]): Shape and type of each array.
        task (Task, optional): The DSRL task, None if it is none or unknown.
        episodes (EpisodeTable): One row for each episode.
        ranges (dict[str, ValueRange]): Range of each array.
        values (dict[str, list[float] | None]): The distinct rewards and costs of a step, None if
            there are many.
        limits (list[LimitRow]): Statistics within each cost limit.
        findings (list[Finding]): Findings, the most severe first.
        notes (tuple[str, ...]): Notes on how the file's arrays were read.
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
        """Return the summary as plain values for JSON; numbers that are not finite become None."""
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


def summarize(
    path: str | os.PathLike[str],
    task: str | None = None,
    cost_limits: Sequence[float] = COST_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetSummary:
    """Summarise a dataset file.

    Observations and actions are read a block at a time, so that an HDF5 file may be larger than
    memory.

    Args:
        path (str or os.PathLike): An HDF5 or npz file; see :mod:`omnisafe_qpt.data.layouts`.
        task (str, optional): DSRL's name or the environment id of the task. Defaults to the file's
            own.
        cost_limits (Sequence[float], optional): Undiscounted costs of an episode, for the
            statistics within limits. Defaults to :data:`COST_LIMITS`.
        on_progress (Callable, optional): Called with the transitions read and their total.

    Raises:
        UserError: If the file cannot be read, or arrays are missing or do not match.
    """
    path = Path(path).expanduser()
    attributes = read_attributes(path)
    known_task = require_task(task) if task else identify_task(path, attributes)
    horizon = None if known_task is None else known_task.horizon
    own_unit = attributes.get(UNIT_ATTRIBUTE) == ENVIRONMENT
    seen = Inspector(known_task, horizon, cost_limits, own_unit)
    with open_dataset(path, ReadOptions(horizon=horizon)) as arrays:
        check_shapes(arrays, str(path))
        check_memory(str(path), scan_bytes(arrays))
        sha256 = file_sha256(path)
        described = {name: (tuple(array.shape), str(array.dtype)) for name, array in arrays.items()}
        seen.read(arrays, on_progress)
    return DatasetSummary(
        path=path,
        sha256=sha256,
        size=path.stat().st_size,
        attributes=attributes,
        arrays=described,
        task=known_task,
        episodes=seen.episodes,
        ranges=seen.ranges,
        values={'rewards': _few_values(seen.rewards), 'costs': _few_values(seen.costs)},
        limits=seen.limits,
        findings=find(seen),
        notes=arrays.notes,
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
