# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The 38 tasks of DSRL: environment ids, horizons, reference returns and dataset files.

The table is ``tasks.csv`` beside this module. Horizons, reference returns and costs and the names
of the files are DSRL's own constants (``dsrl.infos``); a reference return is the lowest or highest
of an episode in the dataset, and DSRL's normalised scores are computed from the two.

The cost limits are those that DSRL evaluates at. The targets are the pairs of return and cost that
OSRL, DSRL's collection of algorithms, publishes for CDT (``examples/configs/cdt_configs.py``).
They are a guide, not a promise: for ten tasks some lie above the best return in the dataset
(:attr:`Task.targets_above_data`). CarCircle's third is at cost 50 where the limit is 40, and
mediumdense has none of its own there, so OSRL's default, which is CarCircle's, applies.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omnisafe_qpt.errors import UserError, nearest


# By the names and in the order of the table.
SUITES = {
    'safety_gymnasium': 'Safety-Gymnasium',
    'bullet_safety_gym': 'Bullet-Safety-Gym',
    'metadrive': 'MetaDrive',
}


class Target(NamedTuple):
    """Targets of a policy.

    Args:
        episode_return (float): Undiscounted return of the episode.
        cost (float): Undiscounted cost of the episode.
    """

    episode_return: float
    cost: float


@dataclass(frozen=True)
class Task:
    """One task of DSRL.

    Args:
        name (str): DSRL's short name, ``CarButton1``.
        suite (str): ``safety_gymnasium``, ``bullet_safety_gym`` or ``metadrive``.
        env_id (str): OmniSafe's id of the environment, ``SafetyCarButton1-v0``.
        dsrl_env_id (str): DSRL's id of it, ``OfflineCarButton1Gymnasium-v0``.
        horizon (int): Steps in an episode.
        obs_dim (int): S.
        act_dim (int): A.
        min_return (float): Lowest return in the DSRL dataset, 0 on the normalised scale.
        max_return (float): Highest return in the DSRL dataset, 1 on the normalised scale.
        min_cost (float): Lowest cost of an episode in the DSRL dataset.
        max_cost (float): Highest cost of an episode in the DSRL dataset.
        trajectories (int): Episodes in the DSRL dataset.
        cost_limits (tuple[float, ...]): Limits on the cost of an episode that DSRL evaluates at.
        cdt_targets (tuple[Target, ...]): OSRL's targets for CDT at these limits.
        dataset_file (str): Name of the DSRL dataset's file.
        url (str): URL of the file.
    """

    name: str
    suite: str
    env_id: str
    dsrl_env_id: str
    horizon: int
    obs_dim: int
    act_dim: int
    min_return: float
    max_return: float
    min_cost: float
    max_cost: float
    trajectories: int
    cost_limits: tuple[float, ...]
    cdt_targets: tuple[Target, ...]
    dataset_file: str
    url: str

    @property
    def max_transitions(self) -> int:
        """Transitions in the DSRL dataset if each of its episodes runs to the horizon."""
        return self.trajectories * self.horizon

    @property
    def approximate_bytes(self) -> int:
        """Upper bound of the DSRL dataset's size, its arrays as plain float32."""
        numbers = 2 * self.obs_dim + self.act_dim + 4  # reward, cost and the two flags
        return 4 * numbers * self.max_transitions

    @property
    def targets_above_data(self) -> tuple[Target, ...]:
        """Published targets whose return no episode in the dataset reached."""
        return tuple(
            target for target in self.cdt_targets if target.episode_return > self.max_return
        )


def _limits(text: str) -> tuple[float, ...]:
    """Read ``20;40;80``."""
    return tuple(float(limit) for limit in text.split(';'))


def _targets(text: str) -> tuple[Target, ...]:
    """Parse ``35@20;35@40``, returns at costs."""
    return tuple(Target(*map(float, pair.split('@'))) for pair in text.split(';'))


# Columns that are not text.
_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(('horizon', 'obs_dim', 'act_dim', 'trajectories'), int),
    **dict.fromkeys(('min_return', 'max_return', 'min_cost', 'max_cost'), float),
    'cost_limits': _limits,
    'cdt_targets': _targets,
}


@cache
def all_tasks() -> tuple[Task, ...]:
    """Return the 38 tasks in the order of the table."""
    path = Path(__file__).with_name('tasks.csv')
    with path.open(newline='', encoding='utf-8') as file:
        return tuple(
            Task(**{key: _READERS.get(key, str)(value) for key, value in row.items()})
            for row in csv.DictReader(file)
        )


def find_task(name: str) -> Task | None:
    """Find a task by DSRL's name or by an id of its environment.

    Args:
        name (str): ``CarButton1``, ``SafetyCarButton1-v0`` or ``OfflineCarButton1Gymnasium-v0``.

    Returns:
        The task, or None if DSRL has no such task.
    """
    return next((task for task in all_tasks() if name in _names(task)), None)


def require_task(name: str) -> Task:
    """Find a task by the name that a user gave; see :func:`find_task`.

    Raises:
        UserError: If DSRL has no such task, with similar names.
    """
    task = find_task(name)
    if task is not None:
        return task
    known = {other.lower(): other for task in all_tasks() for other in _names(task)}
    similar = [known[match] for match in nearest(name.lower(), known)]
    hint = f'did you mean {", ".join(similar)}?' if similar else 'omnisafe-qpt tasks lists them'
    raise UserError(f'DSRL has no task {name!r}; {hint}')


def published_target(name: str, cost_limit: float) -> float:
    """Return OSRL's target return for CDT on a task at a cost limit.

    Args:
        name (str): Name of the task, see :func:`find_task`.
        cost_limit (float): Undiscounted cost of an episode.

    Raises:
        UserError: If nothing is published for this task and limit.
    """
    task = find_task(name)
    if task is None:
        raise UserError(
            f'target_return dsrl: {name} is not a task of DSRL, which has no target for '
            'it; give a number, or auto',
        )
    found = {target.cost: target.episode_return for target in task.cdt_targets}
    if cost_limit not in found:
        known = ', '.join(f'{cost:g} (return {found[cost]:g})' for cost in found)
        raise UserError(
            f'target_return dsrl: DSRL has no target for {task.name} at cost limit '
            f'{cost_limit:g}, only at {known}; take one of these limits, or give a number, or auto',
        )
    return found[cost_limit]


def _names(task: Task) -> tuple[str, str, str]:
    return task.name, task.env_id, task.dsrl_env_id


def reference_returns(env_id: str, fallback: tuple[float, float]) -> tuple[float, float]:
    """Return the returns that are 0 and 1 on the normalised scale.

    Args:
        env_id (str): OmniSafe's environment id.
        fallback (tuple[float, float]): Lowest and highest return of the dataset at hand, for an
            environment that is no DSRL task.
    """
    task = find_task(env_id)
    return fallback if task is None else (task.min_return, task.max_return)
