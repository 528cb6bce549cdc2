# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of DSRL's tasks against DSRL's own constants and the simulators."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from http_helpers import dataset_bytes
from omnisafe_qpt.data.tasks import SUITES, all_tasks, find_task, published_target, require_task
from omnisafe_qpt.envs.simulators import why_unavailable
from omnisafe_qpt.errors import UserError


# These end an episode early when they fall over.
FALLING = {'HopperVelocity', 'Walker2dVelocity'}
# An episode of each of these takes less than a second.
QUICK = {'BallRun', 'BallCircle', 'CarRun', 'DroneRun', 'SwimmerVelocity', 'HalfCheetahVelocity'}
# Prints what dsrl registers with gymnasium, safety_gymnasium and gym.
REGISTRATIONS = """
import json
import dsrl, gym, gymnasium
specs = {**gym.envs.registry, **gymnasium.envs.registry}
print(json.dumps({
    name: {'horizon': spec.max_episode_steps, **spec.kwargs}
    for name, spec in specs.items() if name.startswith('Offline')
}))
"""


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
    assert list(SUITES) == list(dict.fromkeys(task.suite for task in tasks))
    for field in ('name', 'env_id', 'dsrl_env_id', 'dataset_file', 'url'):
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


def test_environments_are_those_that_dsrl_registers():
    # In a process of its own: dsrl imports old libraries that complain to whoever imports them.
    ran = subprocess.run([sys.executable, '-c', REGISTRATIONS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    registered = json.loads(ran.stdout.splitlines()[-1])
    for task in all_tasks():
        assert registered[task.dsrl_env_id]['horizon'] == task.horizon
        # The id for users of gymnasium is an alias; the data are declared at the other.
        source = registered[task.dsrl_env_id.replace('Gymnasium', '')]
        assert source['dataset_url'].endswith('/' + task.dataset_file)
        assert source['min_episode_reward'] == task.min_return
        assert source['max_episode_reward'] == task.max_return
        assert source['max_episode_cost'] == task.max_cost


def test_file_names_tell_the_number_of_episodes_and_bound_the_cost():
    for task in all_tasks():
        cost, episodes = re.fullmatch(r'.*-v\d-(\d+)-(\d+)\.hdf5', task.dataset_file).groups()
        assert task.trajectories == int(episodes)
        assert int(cost) * 0.9 <= task.max_cost <= int(cost) + 0.1


def test_environment_ids_name_the_task_and_its_version():
    for task in all_tasks():
        prefix = 'SafeMetaDrive-' if task.suite == 'metadrive' else 'Safety'
        version = 'v1' if task.name.endswith('Velocity') else 'v0'
        assert task.env_id == f'{prefix}{task.name}-{version}'
        # DSRL calls the same task SafetyCarButton1Gymnasium-v0 in its files' names.
        plain = task.dataset_file.replace('Gymnasium', '')
        assert plain.startswith(task.env_id + '-')


def test_targets_are_given_for_the_limits_of_the_suite():
    for task in all_tasks():
        limits = (20, 40, 80) if task.suite == 'safety_gymnasium' else (10, 20, 40)
        assert task.cost_limits == limits
        costs = tuple(target.cost for target in task.cdt_targets)
        assert costs == ((10, 20, 50) if task.name in ('CarCircle', 'mediumdense') else limits)
        returns = [target.episode_return for target in task.cdt_targets]
        assert returns == sorted(returns)
        assert task.min_return < returns[0]
    assert find_task('CarCircle1').cdt_targets == ((20.0, 20.0), (22.5, 40.0), (25.0, 80.0))


@pytest.mark.parametrize('task', all_tasks(), ids=lambda task: task.name)
def test_a_published_target_is_found_or_refused_with_the_limits_that_have_one(task):
    for target in task.cdt_targets:
        assert published_target(task.env_id, target.cost) == target.episode_return
    if task.suite == 'safety_gymnasium':
        with pytest.raises(UserError, match=f'no target for {task.name} at cost limit 10') as error:
            published_target(task.env_id, 10.0)
        assert '\n' not in str(error.value)
        for target in task.cdt_targets:
            assert f'{target.cost:g} (return {target.episode_return:g})' in str(error.value)
    else:  # 17 of 38
        assert published_target(task.name, 10) > 0


def test_what_is_no_task_has_no_published_target():
    with pytest.raises(UserError, match='MyRobot-v0 is not a task'):
        published_target('MyRobot-v0', 10.0)


def test_targets_above_the_data_are_pointed_out():
    above = {task.name: task.targets_above_data for task in all_tasks() if task.targets_above_data}
    assert set(above) == {
        *('PointGoal2', 'CarCircle1', 'CarGoal1', 'CarGoal2', 'HalfCheetahVelocity'),
        *('CarRun', 'CarCircle', 'mediumsparse', 'mediummean', 'mediumdense'),
    }
    assert above['CarCircle1'] == ((25.0, 80.0),)  # 24.94 is the best in the dataset
    assert len(above['CarGoal1']) == 3


@pytest.mark.parametrize('name', ['BallRun', 'CarButton1', 'easysparse'])
def test_the_approximate_size_is_that_of_a_plain_file(name):
    task = replace(find_task(name), trajectories=20)
    size = len(dataset_bytes(task, transitions=task.max_transitions))
    # It takes the flags for float32, as some files have them; these are of one byte.
    assert 0.8 * task.approximate_bytes < size < 1.05 * task.approximate_bytes


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
    source = Path(importlib.util.find_spec('omnisafe_qpt').origin).parent / 'envs' / 'bullet.py'
    horizons = next(
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text(encoding='utf-8')).body
        if isinstance(node, ast.AnnAssign) and node.target.id == 'BULLET_HORIZONS'
    )
    bullet = [task for task in all_tasks() if task.suite == 'bullet_safety_gym']
    assert {task.env_id: task.horizon for task in bullet} == horizons


def test_a_task_is_found_by_any_of_its_names():
    task = find_task('CarButton1')
    assert task is find_task('SafetyCarButton1-v0')
    assert (task.env_id, task.horizon, task.act_dim) == ('SafetyCarButton1-v0', 1000, 2)
    for task in all_tasks():
        assert find_task(task.name) is task
        assert find_task(task.env_id) is task
        assert require_task(task.dsrl_env_id) is task


@pytest.mark.parametrize('name', ['', 'carbutton1', 'SafetyCarButton1-v1', 'CartPole-v1'])
def test_what_is_no_task_is_not_found(name):
    assert find_task(name) is None


def test_what_is_no_task_is_refused_with_what_was_meant():
    with pytest.raises(UserError, match=r"'CARBUTON1'; did you mean CarButton1,"):
        require_task('CARBUTON1')
    with pytest.raises(UserError, match='omnisafe-qpt tasks'):
        require_task('?')


def simulated_tasks():
    """The tasks of the two suites that every installation has; MetaDrive has tests of its own."""
    return [task for task in all_tasks() if task.suite != 'metadrive']


def make(task):
    from omnisafe_qpt.envs.environments import make_env

    assert why_unavailable(task.suite) is None
    return make_env(task.env_id)


@pytest.mark.parametrize('task', simulated_tasks(), ids=lambda task: task.name)
def test_sizes_and_horizons_are_those_of_the_simulator(task):
    from omnisafe_qpt.envs.environments import horizon_of

    env = make(task)
    assert env.observation_space.shape == (task.obs_dim,)
    assert env.action_space.shape == (task.act_dim,)
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()
    assert horizon_of(env) == task.horizon
    env.close()


def check_an_episode(task):
    env = make(task)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (task.obs_dim,)
    length, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        observation, _, _, terminated, truncated, _ = env.step(torch.zeros(task.act_dim))
        length += 1
    assert observation.shape == (task.obs_dim,)
    if task.name in FALLING:
        assert terminated
        assert not truncated
        assert length < task.horizon
    else:
        assert not terminated
        assert truncated
        assert length == task.horizon
    env.close()


@pytest.mark.parametrize(
    'task',
    [task for task in simulated_tasks() if task.name in QUICK | FALLING],
    ids=lambda task: task.name,
)
def test_an_episode_ends_at_the_horizon_or_by_falling(task):
    check_an_episode(task)


@pytest.mark.slow
@pytest.mark.parametrize(
    'task',
    [task for task in simulated_tasks() if task.name not in QUICK | FALLING],
    ids=lambda task: task.name,
)
def test_an_episode_of_the_others_ends_at_the_horizon(task):
    check_an_episode(task)
