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
"""The 38 tasks of DSRL: environment ids, horizons, reference returns and dataset files.

The table is ``tasks.csv`` beside this module. Reference returns are those of the DSRL datasets,
which its normalised scores use.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One task of DSRL.

    Args:
        name (str): DSRL's short name, ``CarButton1``.
        suite (str): ``safety_gymnasium``, ``bullet_safety_gym`` or ``metadrive``.
        env_id (str): OmniSafe's id of the environment, ``SafetyCarButton1-v0``.
        horizon (int): Steps in an episode.
        obs_dim (int): S.
        act_dim (int): A.
        min_return (float): Lowest return in the DSRL dataset, 0 on the normalised scale.
        max_return (float): Highest return in the DSRL dataset, 1 on the normalised scale.
        min_cost (float): Lowest cost of an episode in the DSRL dataset.
        max_cost (float): Highest cost of an episode in the DSRL dataset.
        dataset_file (str): Name of the DSRL dataset's file.
        url (str): Where it can be had.
    """

    name: str
    suite: str
    env_id: str
    horizon: int
    obs_dim: int
    act_dim: int
    min_return: float
    max_return: float
    min_cost: float
    max_cost: float
    dataset_file: str
    url: str


@cache
def all_tasks() -> tuple[Task, ...]:
    """Return the 38 tasks in the order of the table."""
    integers = ('horizon', 'obs_dim', 'act_dim')
    numbers = ('min_return', 'max_return', 'min_cost', 'max_cost')
    path = Path(__file__).with_name('tasks.csv')
    with path.open(newline='', encoding='utf-8') as file:
        return tuple(
            Task(
                **{
                    key: int(value)
                    if key in integers
                    else float(value)
                    if key in numbers
                    else value
                    for key, value in row.items()
                },
            )
            for row in csv.DictReader(file)
        )


def find_task(name: str) -> Task | None:
    """Find a task by DSRL's name or by its environment id.

    Args:
        name (str): ``CarButton1`` or ``SafetyCarButton1-v0``.

    Returns:
        The task, or None if DSRL has no such task.
    """
    return next((task for task in all_tasks() if name in (task.name, task.env_id)), None)
