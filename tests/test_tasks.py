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
"""The table of DSRL's tasks against DSRL's own constants."""

from __future__ import annotations

import ast
import importlib.util
import runpy
from collections import Counter
from pathlib import Path

import pytest

from omnisafe_qpt.data.tasks import all_tasks, find_task


@pytest.fixture(name='dsrl', scope='module')
def fixture_dsrl():
    # Importing the package would load every simulator.
    folder = Path(importlib.util.find_spec('dsrl').origin).parent
    return runpy.run_path(str(folder / 'infos.py'))


def test_there_are_38_tasks_in_three_suites():
    tasks = all_tasks()
    assert len(tasks) == 38
    assert Counter(task.suite for task in tasks) == {
        'safety_gymnasium': 21,
        'bullet_safety_gym': 8,
        'metadrive': 9,
    }
    for field in ('name', 'env_id', 'dataset_file', 'url'):
        assert len({getattr(task, field) for task in tasks}) == 38


def test_names_are_all_those_of_dsrl(dsrl):
    assert {task.name for task in all_tasks()} == set(dsrl['DATASET_URLS'])


@pytest.mark.parametrize(
    ('field', 'constants'),
    [
        ('horizon', 'DEFAULT_MAX_EPISODE_STEPS'),
        ('min_return', 'MIN_EPISODE_REWARD'),
        ('max_return', 'MAX_EPISODE_REWARD'),
        ('min_cost', 'MIN_EPISODE_COST'),
        ('max_cost', 'MAX_EPISODE_COST'),
    ],
)
def test_numbers_are_those_of_dsrl(dsrl, field, constants):
    found = {task.name: getattr(task, field) for task in all_tasks()}
    assert found == {name: dsrl[constants][name] for name in found}


def test_files_are_those_of_dsrl(dsrl):
    for task in all_tasks():
        assert task.dataset_file == dsrl['DATASET_URLS'][task.name].rsplit('/', 1)[1]
        assert task.url.startswith('https://huggingface.co/')
        assert task.url.endswith('/' + task.dataset_file)


def test_environment_ids_name_the_task_and_its_version():
    for task in all_tasks():
        prefix = 'SafeMetaDrive-' if task.suite == 'metadrive' else 'Safety'
        version = 'v1' if task.name.endswith('Velocity') else 'v0'
        assert task.env_id == f'{prefix}{task.name}-{version}'
        # DSRL calls the same task SafetyCarButton1Gymnasium-v0 in its files' names.
        plain = task.dataset_file.replace('Gymnasium', '')
        assert plain.startswith(task.env_id + '-')


def test_the_numbers_of_every_task_are_possible():
    for task in all_tasks():
        assert task.min_return < task.max_return
        assert 0 <= task.min_cost < task.max_cost <= task.horizon
        assert task.obs_dim > 0
        assert task.act_dim > 0
        for field, kind in (('horizon', int), ('obs_dim', int), ('max_return', float)):
            assert type(getattr(task, field)) is kind


def test_bullet_tasks_are_the_environments_that_are_added_to_omnisafe():
    # Read, not imported: the module loads OmniSafe, which takes seconds.
    source = Path(importlib.util.find_spec('omnisafe_qpt').origin).parent / 'host' / 'envs.py'
    horizons = next(
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text(encoding='utf-8')).body
        if isinstance(node, ast.AnnAssign) and node.target.id == 'BULLET_HORIZONS'
    )
    bullet = [task for task in all_tasks() if task.suite == 'bullet_safety_gym']
    assert {task.env_id: task.horizon for task in bullet} == horizons


def test_a_task_is_found_by_either_name():
    task = find_task('CarButton1')
    assert task is find_task('SafetyCarButton1-v0')
    assert (task.env_id, task.horizon, task.act_dim) == ('SafetyCarButton1-v0', 1000, 2)
    for task in all_tasks():
        assert find_task(task.name) is task
        assert find_task(task.env_id) is task


@pytest.mark.parametrize('name', ['', 'carbutton1', 'SafetyCarButton1-v1', 'CartPole-v1'])
def test_what_is_no_task_is_not_found(name):
    assert find_task(name) is None
