# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""What a dataset holds and what is wrong with it, found in one pass over blocks of rows.

Files that training refuses are summarised too, as this is how one finds out why.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.files import (
    HDF5_SUFFIXES,
    check_shapes,
    file_sha256,
    is_gap,
    open_dataset,
    read_attributes,
    row_blocks,
)
from omnisafe_qpt.data.resolve import SAMPLE, SAMPLE_FILE, cache_folder
from omnisafe_qpt.data.tasks import Task, all_tasks, find_task, require_task
from omnisafe_qpt.data.trajectories import _MAX_GAP_SHARE, Frontier
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
# How an episode ends: by a flag, by a jump to another state without one, at the file's end.
ENDS = ('terminal', 'time limit', 'gap', 'cut')
# What a finding means: training refuses the file; results would suffer; good to know.
REFUSED, WARNING, NOTE = 'REFUSED', 'warning', 'note'

# Rows read at a time, so that memory does not grow with the file.
_BLOCK_ROWS = 1 << 15
# More distinct values of a reward or cost than this are not listed.
_MAX_LISTED_VALUES = 6
# Saturated actions exceed 1 by rounding.
_ACTION_TOLERANCE = 1e-5
# DSRL's reference values are sums in another order; as a share of their range.
_REFERENCE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class EpisodeTable:
    """One row for each of E episodes, in the file's order.

    Args:
        starts (np.ndarray): (E,) int64, first transition.
        lengths (np.ndarray): (E,) int64, number of transitions.
        returns (np.ndarray): (E,) float64, undiscounted reward; not finite where a reward is not.
        costs (np.ndarray): (E,) float64, undiscounted cost; likewise.
        ends (np.ndarray): (E,) text, one of :data:`ENDS`.
    """

    starts: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    costs: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.starts)

    @cached_property
    def is_finite(self) -> np.ndarray:
        """(E,) bool, whether both return and cost are numbers."""
        return np.isfinite(self.returns) & np.isfinite(self.costs)

    @cached_property
    def frontier(self) -> Frontier | None:
        """The reward frontier over the finite episodes, None if there are none."""
        if not self.is_finite.any():
            return None
        return Frontier.of(self.returns[self.is_finite], self.costs[self.is_finite])

    def locate(self, transition: int) -> str:
        """Say where a transition is, for messages."""
        episode = int(np.searchsorted(self.starts, transition, side='right')) - 1
        return (
            f'transition {transition} (episode {episode}, step {transition - self.starts[episode]})'
        )


@dataclass(frozen=True)
class ValueRange:
    """What the D columns of an array span; NaN, infinity and what float32 cannot hold left out.

    Args:
        low (np.ndarray): (D,) float32, lowest values, infinite where a column holds no number.
        high (np.ndarray): (D,) float32, highest values, likewise.
        non_finite (int): Rows with a value that is no finite number.
        first_non_finite (tuple[int, int], optional): Row and column of the first such value.
    """

    low: np.ndarray
    high: np.ndarray
    non_finite: int = 0
    first_non_finite: tuple[int, int] | None = None

    @classmethod
    def of(cls, block: np.ndarray) -> ValueRange:
        """Return the range of a block of rows, (N, D) float32."""
        low, high = block.min(axis=0), block.max(axis=0)
        # Both are finite only if every value is; so most blocks need no closer look.
        if np.isfinite(low).all() and np.isfinite(high).all():
            return cls(low, high)
        finite = np.isfinite(block)
        rows = np.flatnonzero(~finite.all(axis=1))
        return cls(
            low=np.where(finite, block, np.inf).min(axis=0),
            high=np.where(finite, block, -np.inf).max(axis=0),
            non_finite=len(rows),
            first_non_finite=(int(rows[0]), int(np.argmin(finite[rows[0]]))),
        )

    def join(self, other: ValueRange, first: int) -> ValueRange:
        """Return the range of these rows and of ``other``, a block that begins at row ``first``."""
        found = self.first_non_finite
        if found is None and other.first_non_finite is not None:
            found = (other.first_non_finite[0] + first, other.first_non_finite[1])
        return ValueRange(
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            non_finite=self.non_finite + other.non_finite,
            first_non_finite=found,
        )

    @property
    def constant(self) -> list[int]:
        """The columns that hold one value only."""
        return np.flatnonzero(self.low == self.high).tolist()


@dataclass(frozen=True)
class LimitRow:
    """What a dataset offers within a cost limit.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        episodes (int): Episodes that cost at most that.
        share (float): Their share of all.
        target_return (float): The frontier's return: the highest within the limit, or where no
            episode is, that of the cheapest.
        normalized (float, optional): That return on DSRL's scale, None for an unknown task.
    """

    cost_limit: float
    episodes: int
    share: float
    target_return: float
    normalized: float | None


@dataclass(frozen=True)
class Finding:
    """Something about a dataset that a user should know.

    Args:
        level (str): :data:`REFUSED`, :data:`WARNING` or :data:`NOTE`.
        code (str): A short name that programs can rely on.
        text (str): One line: what, how many, where, and how to mend it.
    """

    level: str
    code: str
    text: str


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
            'findings': [vars(finding) for finding in self.findings],
            'training_refuses': self.refusal,
        }
        return _finite_or_none(content)


def count(number: int, unit: str) -> str:
    """Say how many there are: ``1 episode``, ``1,200 episodes``."""
    return f'{number:,} {unit}{"" if number == 1 else "s"}'


def find_dataset_file(name: str) -> Path:
    """Find the file that a path, a DSRL task or ``sample`` means.

    Args:
        name (str): A dataset file; DSRL's name or the environment id of a task, which means its
            file in the cache; or ``sample``, the bundled dataset.

    Raises:
        UserError: If there is no such file; the message says how to get it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f'{path}: is a folder; give a dataset file')
    if path.exists() or path.suffix in (*HDF5_SUFFIXES, '.npz'):
        return path  # opening it says what may be wrong with it
    if name == SAMPLE:
        return SAMPLE_FILE
    try:
        task = require_task(name)
    except UserError as error:
        raise UserError(f'there is no file {name}, and {error}') from error
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
    if 'env_id' in attributes:
        return find_task(str(attributes['env_id']))
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
        path (str or os.PathLike): DSRL HDF5 or OmniSafe npz.
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
    with open_dataset(path) as arrays:
        attributes = read_attributes(path)
        known_task = require_task(task) if task else identify_task(path, attributes)
        check_shapes(arrays, str(path))
        sha256 = file_sha256(path)
        described = {name: (tuple(array.shape), str(array.dtype)) for name, array in arrays.items()}
        columns = _Columns.read(arrays)
        scan = _Scan.read(arrays, columns, on_progress)
    episodes = _cut(columns, scan, known_task)
    facts = _Facts(
        task=known_task,
        columns=columns,
        scan=scan,
        episodes=episodes,
        limits=[_limit_row(limit, episodes, known_task) for limit in cost_limits],
    )
    findings = [finding for check in _CHECKS for finding in check(facts)]
    return DatasetSummary(
        path=path,
        sha256=sha256,
        size=path.stat().st_size,
        attributes=attributes,
        arrays=described,
        task=known_task,
        episodes=episodes,
        ranges=scan.ranges,
        values={'rewards': _few_values(columns.rewards), 'costs': _few_values(columns.costs)},
        limits=facts.limits,
        findings=sorted(
            findings, key=lambda finding: (REFUSED, WARNING, NOTE).index(finding.level)
        ),
    )


# ---------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Columns:
    """The arrays of one number for each of N transitions, which are small enough to keep.

    ``timeouts`` is None in OmniSafe's npz; flags that are no number count as not set.
    """

    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None
    bad_flags: dict[str, int]

    @classmethod
    def read(cls, arrays: Mapping[str, Any]) -> _Columns:
        """Read them from the file's arrays."""
        flags = {
            key: np.asarray(arrays[key][:]).reshape(-1)
            for key in ('terminals', 'timeouts')
            if key in arrays
        }
        return cls(
            rewards=_as_float32(arrays['rewards'][:]).reshape(-1),
            costs=_as_float32(arrays['costs'][:]).reshape(-1),
            terminals=flags['terminals'] > 0,
            timeouts=flags['timeouts'] > 0 if 'timeouts' in flags else None,
            bad_flags={key: int((~np.isfinite(value)).sum()) for key, value in flags.items()},
        )

    @property
    def marked(self) -> np.ndarray:
        """(N,) bool, whether a flag says that an episode ends."""
        return self.terminals if self.timeouts is None else self.terminals | self.timeouts


@dataclass
class _Scan:
    """What one pass over the large arrays finds.

    Args:
        ranges (dict[str, ValueRange]): What each array spans.
        gaps (np.ndarray): (N,) bool, whether the next observation is not the following one.
        joined (np.ndarray): (N,) bool, whether it is; neither where a number is missing.
        keys (np.ndarray): (N,) uint64, equal for equal transitions.
        wild_actions (np.ndarray): (N,) bool, whether an action is outside [-1, 1].
    """

    ranges: dict[str, ValueRange]
    gaps: np.ndarray
    joined: np.ndarray
    keys: np.ndarray
    wild_actions: np.ndarray

    @classmethod
    def read(
        cls,
        arrays: Mapping[str, Any],
        columns: _Columns,
        on_progress: Callable[[int, int], None] | None,
    ) -> _Scan:
        """Go over the file's arrays block by block."""
        total = len(columns.rewards)
        scan = cls(
            ranges={},
            gaps=np.zeros(total, dtype=bool),
            joined=np.zeros(total, dtype=bool),
            keys=np.zeros(total, dtype=np.uint64),
            wild_actions=np.zeros(total, dtype=bool),
        )
        carried = np.zeros((0, arrays['observations'].shape[1]), dtype=np.float32)
        for first, last in row_blocks(arrays['observations'], _BLOCK_ROWS):
            block = {
                name: _as_float32(arrays[name][first:last])
                for name in ('observations', 'next_observations', 'actions')
            }
            block['rewards'] = columns.rewards[first:last, None]
            block['costs'] = columns.costs[first:last, None]
            scan._add(block, carried, first)
            carried = block['next_observations'][-1:]
            if on_progress is not None:
                on_progress(last, total)
        return scan

    def _add(self, block: dict[str, np.ndarray], carried: np.ndarray, first: int) -> None:
        """Add rows from ``first`` on; ``carried`` is the next observation before them, if any."""
        last = first + len(block['actions'])
        for name, values in block.items():
            span = ValueRange.of(values)
            self.ranges[name] = self.ranges[name].join(span, first) if first else span
        with np.errstate(invalid='ignore'):
            self.wild_actions[first:last] = (np.abs(block['actions']) > 1 + _ACTION_TOLERANCE).any(
                axis=1
            )
        # Of the transition before the block, if there is one, and of all in it but the last.
        reached = np.concatenate([carried, block['next_observations'][:-1]])
        compared = slice(last - 1 - len(reached), last - 1)
        self.gaps[compared], self.joined[compared] = _compare(
            reached,
            block['observations'][last - first - len(reached) :],
        )
        told_apart_by = ('observations', 'actions', 'rewards', 'costs')
        self.keys[first:last] = _row_keys(np.hstack([block[name] for name in told_apart_by]))


def _as_float32(values: Any) -> np.ndarray:
    """Return values as training sees them; what float32 cannot hold becomes infinite."""
    with np.errstate(over='ignore'):
        return np.asarray(values).astype(np.float32, copy=False)


def _compare(reached: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows differ and which agree, as training does; neither where one is NaN."""
    with np.errstate(invalid='ignore'):
        gaps = is_gap(reached, following)
    are_numbers = np.isfinite(reached).all(axis=1) & np.isfinite(following).all(axis=1)
    return gaps, ~gaps & are_numbers


def _row_keys(rows: np.ndarray) -> np.ndarray:
    """Return a number for each row, (N, D) float32 -> (N,) uint64, equal for equal rows."""
    weights = np.random.default_rng(0).integers(1, 1 << 63, rows.shape[1], dtype=np.uint64)
    bits = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    return (bits * (2 * weights + 1)).sum(axis=1, dtype=np.uint64)


def _mix(keys: np.ndarray) -> np.ndarray:
    """Scatter numbers over all 64 bits, so that their sums tell different sets apart."""
    # The finaliser of SplitMix64.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


# --------------------------------------------------------------------- episodes


def _cut(columns: _Columns, scan: _Scan, task: Task | None) -> EpisodeTable:
    """Cut the transitions into episodes where training would.

    Where the transitions are in no order, jumps say nothing, and the flags alone count.
    """
    marked = columns.marked
    is_end = marked.copy() if _is_shuffled(marked, scan.gaps) else marked | scan.gaps
    is_end[-1] = True
    ends = np.flatnonzero(is_end)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    terminal = columns.terminals[ends]
    if columns.timeouts is None and task is not None:
        terminal = terminal & (lengths < task.horizon)
    kinds = [terminal, marked[ends], ends < len(marked) - 1]
    return EpisodeTable(
        starts=starts,
        lengths=lengths,
        returns=np.add.reduceat(columns.rewards, starts, dtype=np.float64),
        costs=np.add.reduceat(columns.costs, starts, dtype=np.float64),
        ends=np.select(kinds, ENDS[:3], default=ENDS[3]),
    )


def _is_shuffled(marked: np.ndarray, gaps: np.ndarray) -> bool:
    return int((gaps & ~marked).sum()) > _MAX_GAP_SHARE * len(marked)


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
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.decode(errors='replace') if isinstance(value, bytes) else value


def _finite_or_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite_or_none(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# ----------------------------------------------------------------------- checks


@dataclass(frozen=True)
class _Facts:
    """What the checks look at."""

    task: Task | None
    columns: _Columns
    scan: _Scan
    episodes: EpisodeTable
    limits: list[LimitRow]

    @property
    def has_one_flag(self) -> bool:
        """Whether one flag stands for both kinds of end, as in OmniSafe's npz."""
        return self.columns.timeouts is None

    def first(self, rows: np.ndarray) -> str:
        """Say how often (N,) bool is true and where for the first time."""
        found = np.flatnonzero(rows)
        return f'{len(found)}, first: {self.episodes.locate(int(found[0]))}'


def _check_flags(facts: _Facts) -> Iterator[Finding]:
    for key, bad in facts.columns.bad_flags.items():
        if bad:
            yield Finding(
                REFUSED,
                'flags_not_finite',
                f'{key} holds NaN or infinity in {count(bad, "transition")}; store 0 or 1',
            )
    if not facts.columns.marked.any():
        yield Finding(
            REFUSED,
            'no_end_marked',
            'no episode end is marked; set terminals or timeouts at the last transition of each '
            'episode',
        )


def _check_order(facts: _Facts) -> Iterator[Finding]:
    unmarked = facts.scan.gaps & ~facts.columns.marked
    if _is_shuffled(facts.columns.marked, facts.scan.gaps):
        yield Finding(
            REFUSED,
            'not_in_order',
            'the next observation is not the following observation, and no end is marked, in '
            f'{unmarked.sum()} of {len(unmarked)} transitions; store the transitions in order, '
            'whole episodes at a time',
        )
    elif unmarked.any():
        yield Finding(
            WARNING,
            'unmarked_ends',
            'episodes without an end flag, cut where the next observation is not the following '
            f'one ({facts.first(unmarked)}): training takes these ends for time limits; set '
            'terminals or timeouts there',
        )


def _check_finite(facts: _Facts) -> Iterator[Finding]:
    for name, span in facts.scan.ranges.items():
        if span.first_non_finite is None:
            continue
        row, column = span.first_non_finite
        place = f'dimension {column}, ' if len(span.low) > 1 else ''
        yield Finding(
            REFUSED,
            'not_finite',
            f'{name}: NaN, infinity or numbers beyond float32 in '
            f'{count(span.non_finite, "transition")} '
            f'(first: {place}{facts.episodes.locate(row)}); remove those episodes',
        )


def _check_sizes(facts: _Facts) -> Iterator[Finding]:
    if facts.task is None:
        return
    for name, needed in (
        ('observations', facts.task.obs_dim),
        ('actions', facts.task.act_dim),
    ):
        given = len(facts.scan.ranges[name].low)
        if given != needed:
            yield Finding(
                REFUSED,
                'wrong_sizes',
                f'{name} have {given} numbers, those of {facts.task.env_id} {needed}: the data are '
                'of another environment, or of another version of it',
            )


def _check_actions(facts: _Facts) -> Iterator[Finding]:
    span = facts.scan.ranges['actions']
    if facts.scan.wild_actions.any():
        yield Finding(
            WARNING,
            'actions_out_of_range',
            f'actions outside [-1, 1] ({facts.first(facts.scan.wild_actions)}; from '
            f'{span.low.min():.4g} to {span.high.max():.4g}): the policy cannot imitate them; '
            "divide by the action space's bounds",
        )
    if span.constant:
        yield Finding(
            WARNING,
            'constant_actions',
            f'{_dimensions(span.constant)} of the actions without any change: there is nothing '
            'to learn about them; check the recording',
        )


def _check_lengths(facts: _Facts) -> Iterator[Finding]:
    lengths = facts.episodes.lengths
    if facts.task is not None and (lengths > facts.task.horizon).any():
        longer = np.flatnonzero(lengths > facts.task.horizon)
        yield Finding(
            WARNING,
            'over_horizon',
            f'{count(len(longer), "episode")} longer than the {facts.task.horizon} steps of '
            f'{facts.task.env_id} (first: episode {longer[0]}, {lengths[longer[0]]} steps): is an '
            'end left unmarked?',
        )
    single = np.flatnonzero(lengths == 1)
    if len(single):
        yield Finding(
            WARNING,
            'single_steps',
            f'{count(len(single), "episode")} of one transition (first: episode {single[0]}, '
            f'transition {facts.episodes.starts[single[0]]}): is an end marked twice or too early?',
        )


def _check_time_limits(facts: _Facts) -> Iterator[Finding]:
    ends = facts.episodes.ends == 'terminal'
    last = facts.episodes.starts + facts.episodes.lengths - 1
    if facts.has_one_flag:
        if facts.task is None and ends.any():
            yield Finding(
                NOTE,
                'npz_without_task',
                f'{count(int(ends.sum()), "end")} counted as terminal: an npz does not tell time '
                "limits from terminal states, only the task's horizon does; name it with --task",
            )
        return
    also_timeout = facts.columns.timeouts[last]
    if facts.task is not None:
        also_timeout = also_timeout | (facts.episodes.lengths == facts.task.horizon)
    both = np.flatnonzero(ends & also_timeout)
    if len(both):
        yield Finding(
            WARNING,
            'time_limits_as_terminals',
            f'{count(len(both), "end")} at the time limit with terminals set (first: episode '
            f'{both[0]}, transition {last[both[0]]}): the critics will take these states for '
            'worthless; set timeouts alone',
        )


def _check_last_end(facts: _Facts) -> Iterator[Finding]:
    if facts.episodes.ends[-1] == 'cut':
        yield Finding(
            WARNING,
            'last_not_ended',
            f'the last episode ({len(facts.episodes) - 1}) has no end flag after '
            f'{facts.episodes.lengths[-1]} steps: training takes it for a time limit; set '
            'timeouts, or remove the episode if it is incomplete',
        )


def _check_final_states(facts: _Facts) -> Iterator[Finding]:
    replaced = facts.columns.marked & facts.scan.joined
    if replaced.any():
        yield Finding(
            WARNING,
            'final_state_replaced',
            "episodes whose final next observation is the following episode's first observation "
            f'({facts.first(replaced)}): store the state before the reset, or unset the flag if '
            'the episode goes on',
        )


def _check_duplicates(facts: _Facts) -> Iterator[Finding]:
    episodes = facts.episodes
    step = np.arange(len(facts.scan.keys)) - np.repeat(episodes.starts, episodes.lengths)
    keys = _mix(facts.scan.keys + _mix(step.astype(np.uint64)))
    keys = np.add.reduceat(keys, episodes.starts)
    _, original, inverse = np.unique(keys, return_index=True, return_inverse=True)
    copies = np.flatnonzero(original[inverse] != np.arange(len(keys)))
    if len(copies):
        yield Finding(
            WARNING,
            'duplicates',
            f'{count(len(copies), "repeated episode")} (first: episode {copies[0]} is episode '
            f'{original[inverse[copies[0]]]} again); remove the copies',
        )


def _check_costs(facts: _Facts) -> Iterator[Finding]:
    costs = facts.columns.costs
    if (costs < 0).any():
        yield Finding(
            WARNING,
            'negative_costs',
            f'costs below 0 ({facts.first(costs < 0)}; least: {np.nanmin(costs):.4g}): an episode '
            'could earn back what it spent; store costs of 0 and more',
        )
    if not costs.any():
        yield Finding(
            WARNING,
            'no_costs',
            'every cost is 0: there is nothing to learn about safety; was the cost recorded?',
        )
    if not facts.columns.rewards.any():
        yield Finding(
            WARNING,
            'no_rewards',
            'every reward is 0: there is nothing to learn about return; was the reward recorded?',
        )


def _check_limits(facts: _Facts) -> Iterator[Finding]:
    missed = [f'{row.cost_limit:g}' for row in facts.limits if row.episodes == 0]
    if missed and facts.episodes.is_finite.any():
        cheapest = facts.episodes.costs[facts.episodes.is_finite].min()
        yield Finding(
            WARNING,
            'no_safe_episode',
            f'no episode costs at most {", ".join(missed)} (the cheapest costs {cheapest:.4g}): '
            "at these limits the target return falls back to the cheapest episode's; collect safer "
            'episodes or raise the limit',
        )


def _check_frontier(facts: _Facts) -> Iterator[Finding]:
    frontier = facts.episodes.frontier
    if frontier is not None and len(frontier.costs) == 1 and len(facts.episodes) > 1:
        yield Finding(
            NOTE,
            'flat_frontier',
            'the cheapest episode also has the highest return: the target is the same at every '
            'cost limit, and relabelling asks for no more return',
        )


def _check_reference(facts: _Facts) -> Iterator[Finding]:
    task = facts.task
    if task is None:
        return
    for name, values, low, high in (
        ('return', facts.episodes.returns, task.min_return, task.max_return),
        ('cost', facts.episodes.costs, task.min_cost, task.max_cost),
    ):
        slack = _REFERENCE_TOLERANCE * (high - low)
        outside = np.flatnonzero((values < low - slack) | (values > high + slack))
        if len(outside):
            yield Finding(
                NOTE,
                f'{name}_outside_reference',
                f"the {name} of {count(len(outside), 'episode')} is outside DSRL's {low:.4g} to "
                f'{high:.4g} for {task.name} (first: episode {outside[0]}, '
                f"{values[outside[0]]:.4g}): not DSRL's data, or other units",
            )


def _check_observations(facts: _Facts) -> Iterator[Finding]:
    constant = facts.scan.ranges['observations'].constant
    if constant:
        yield Finding(
            NOTE,
            'constant_observations',
            f'{_dimensions(constant)} of the observations without any change: harmless, but check '
            'that they are meant to be there',
        )


def _check_task(facts: _Facts) -> Iterator[Finding]:
    if facts.task is None:
        yield Finding(
            NOTE,
            'unknown_task',
            'the file does not tell its task, so that horizon, sizes and reference values are not '
            'checked; name it with --task if DSRL has it',
        )


def _dimensions(indices: list[int]) -> str:
    """Name dimensions, runs of them shortened: ``3 dimensions (4-5, 9)``."""
    splits = np.flatnonzero(np.diff(indices) > 1) + 1
    runs = [
        f'{run[0]}' if len(run) == 1 else f'{run[0]}-{run[-1]}'
        for run in np.split(np.array(indices), splits)
    ]
    shown = ', '.join(runs[:8]) + (', ...' if len(runs) > 8 else '')
    return f'{count(len(indices), "dimension")} ({shown})'


# In the order in which training meets what it refuses.
_CHECKS: tuple[Callable[[_Facts], Iterator[Finding]], ...] = (
    _check_flags,
    _check_order,
    _check_finite,
    _check_sizes,
    _check_lengths,
    _check_last_end,
    _check_time_limits,
    _check_final_states,
    _check_actions,
    _check_costs,
    _check_limits,
    _check_frontier,
    _check_duplicates,
    _check_reference,
    _check_observations,
    _check_task,
)
