# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The MetaDrive environments: against DSRL's own, their seeds, ends and processes.

The tests that drive are skipped where MetaDrive is not installed.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omnisafe.envs.core import make, support_envs

from common_helpers import is_running
from host_helpers import rollout
from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.envs import metadrive
from omnisafe_qpt.envs.environments import EnvironmentSet
from omnisafe_qpt.envs.metadrive import METADRIVE_TASKS
from omnisafe_qpt.envs.simulators import why_unavailable
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.workers import Worker


needs_metadrive = pytest.mark.skipif(
    why_unavailable('metadrive') is not None,
    reason=str(why_unavailable('metadrive')),
)

# Left off the road, full speed into the traffic, and slow along the lane.
LEFT, AHEAD, SLOW = (1.0, 1.0), (0.0, 1.0), (0.0, 0.2)

REFERENCE = Path(__file__).parents[1] / 'metadrive_reference.py'


def drive(env, seed, action, steps):
    return rollout(env, seed, torch.tensor(action).expand(steps, -1))


@pytest.fixture(name='env', scope='module')
def fixture_env():
    env = make('SafeMetaDrive-easydense-v0', width=64, height=48)
    yield env
    env.close()


def process_of(env):
    return env._simulator._process


def test_ids_are_those_of_the_table_and_known_to_omnisafe():
    table = {task.env_id: task.name for task in all_tasks() if task.suite == 'metadrive'}
    assert table == METADRIVE_TASKS
    assert set(table) <= set(support_envs())
    assert 'metadrive' not in sys.modules


def test_without_metadrive_the_error_is_the_command(monkeypatch):
    monkeypatch.setattr(metadrive, 'why_unavailable', lambda suite: f'no {suite}; run: mend it')
    with pytest.raises(
        UserError, match=r'^SafeMetaDrive-harddense-v0: no metadrive; run: mend it$'
    ):
        make('SafeMetaDrive-harddense-v0')


@pytest.mark.slow
@needs_metadrive
def test_is_dsrls_environment_step_for_step(env):
    """On all nine tasks in one process, and on one through a process of its own."""
    pytest.importorskip('dsrl')
    ran = subprocess.run(
        [sys.executable, str(REFERENCE)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    assert {name: task['equal'] for name, task in results['tasks'].items()} == dict.fromkeys(
        METADRIVE_TASKS.values(),
        True,
    )
    assert min(task['steps'] for task in results['tasks'].values()) > 30
    assert len({task['digest'] for task in results['tasks'].values()}) == 9, 'no two are alike'
    assert results['ends'] == ['crash', 'out_of_road']
    rows = drive(env, 2, AHEAD, 120)[:, :-1].numpy()
    assert hashlib.md5(rows.tobytes()).hexdigest() == results['tasks']['easydense']['digest']


@needs_metadrive
def test_an_episode_depends_on_its_seed_and_actions_only(env):
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    first = drive(env, 7, AHEAD, 60)
    drive(env, 8, LEFT, 40)
    again = drive(env, 7, AHEAD, 60)
    other = drive(env, 8, AHEAD, 60)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.array_equal(np.random.random(3), expected), "NumPy's global state is left alone"


@needs_metadrive
def test_two_environments_can_be_used_at_once(env):
    """OmniSafe evaluates in a second environment in the midst of a training episode."""
    alone = drive(env, 3, AHEAD, 20)
    env.reset(seed=3)
    other = make('SafeMetaDrive-easydense-v0')
    both = [other.reset(seed=3)[0]]
    for _ in range(20):
        env.step(torch.tensor(SLOW))
        both.append(other.step(torch.tensor(AHEAD))[0])
    other.close()
    assert torch.equal(torch.stack(both), alone[:, :-4])


@needs_metadrive
def test_set_seed_fixes_the_episodes_to_come(env):
    starts = []
    for _ in range(2):
        env.set_seed(3)
        starts.append([drive(env, None, AHEAD, 30)[-1] for _ in range(2)])
    assert torch.equal(starts[0][0], starts[1][0])
    assert torch.equal(starts[0][1], starts[1][1])
    assert not torch.equal(starts[0][0], starts[0][1])


@needs_metadrive
def test_leaving_the_road_is_terminal_and_costs(env):
    rows = drive(env, 0, LEFT, 200)
    assert rows[:-1, -2:].sum() == 0
    assert rows[-1, -2] == 1
    assert rows[-1, -1] == 0
    assert rows[-1, -3] >= 1
    assert rows[-1, -4] == -5


@needs_metadrive
def test_the_horizon_truncates(env, monkeypatch):
    assert env.max_episode_steps == 1000
    monkeypatch.setattr(metadrive, '_HORIZON', 5)
    rows = drive(env, 0, SLOW, 10)
    assert len(rows) - 1 == 5
    assert rows[-1, -2] == 0
    assert rows[-1, -1] == 1


@needs_metadrive
def test_evaluation_runs_several_in_parallel(env):
    """Also while this process has one in use."""
    env.reset(seed=0)
    action = np.float32(AHEAD)
    with Worker(partial(EnvironmentSet, 'SafeMetaDrive-easydense-v0')) as envs:
        for name, arguments in (
            ('horizon', ()),
            ('reset', ({0: 4, 1: 5},)),
            ('step', ({0: action, 1: action},)),
        ):
            envs.submit(name, *arguments)
        horizon, observations, outcomes = envs.result(), envs.result(), envs.result()
    assert horizon == 1000
    for seed, start, outcome in zip((4, 5), observations, outcomes, strict=True):
        rows = drive(env, seed, AHEAD, 1)
        assert np.array_equal(rows[0, :-4], start)
        assert np.array_equal(rows[1, :-4], outcome[0])
        assert rows[1, -3] == outcome[2]


@needs_metadrive
def test_the_process_ends_with_its_users():
    """Also if that one is killed and can close nothing."""
    program = (
        'import time\n'
        'from omnisafe_qpt.envs.metadrive_process import SimulatorProcess\n'
        'simulator = SimulatorProcess("easysparse")\n'
        'simulator.request("reset", 0)\n'
        'print(simulator._process.pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE) as user:
        pid = int(user.stdout.readline())
        assert is_running(pid)
        user.kill()
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


@needs_metadrive
def test_what_goes_wrong_over_there_is_told(env):
    env.reset()
    with pytest.raises(RuntimeError, match=r'(?s)^step\(.*failed.*Traceback.*Error'):
        env.step(torch.tensor([]))
    env.reset()
    env.step(torch.tensor(SLOW))
    process_of(env).send_signal(signal.SIGKILL)
    with pytest.raises(RuntimeError, match='ended with status -9'):
        env.step(torch.tensor(SLOW))
    env.close()


@needs_metadrive
def test_an_interrupted_request_leaves_no_stale_answer(env, monkeypatch):
    rows = drive(env, 2, AHEAD, 5)
    pid = process_of(env).pid

    def interrupted(connection):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(env._simulator._connection), 'recv', interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(torch.tensor(SLOW))
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match='has been closed'):
        env.step(torch.tensor(SLOW))
    env.close()
    with pytest.raises(RuntimeError, match='needs a reset'):
        env.step(torch.tensor(SLOW))
    assert torch.equal(drive(env, 2, AHEAD, 5), rows), 'a reset starts another process'


@needs_metadrive
def test_the_process_is_renewed_now_and_then(env, monkeypatch):
    """Whatever it has piled up goes with it; the episodes do not notice."""
    rows = drive(env, 4, AHEAD, 5)
    pid = process_of(env).pid
    monkeypatch.setattr(metadrive, '_EPISODES_PER_PROCESS', 2)
    again = [drive(env, 4, AHEAD, 5) for _ in range(2)]
    assert process_of(env).pid != pid
    assert not is_running(pid)
    assert torch.equal(again[0], rows)
    assert torch.equal(again[1], rows)


@needs_metadrive
def test_renders_from_above_and_says_nothing(env, capfd):
    env.reset(seed=0)
    image = env.render()
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    car = image[20:28, 28:36].reshape(-1, 3).mean(axis=0)
    assert car[1] > car[0] + 50, 'the car is green and in the middle'
    assert env.metadata['render_fps'] == 10
    assert capfd.readouterr() == ('', '')


@needs_metadrive
def test_collects_the_frames_of_an_episode(env, monkeypatch):
    monkeypatch.setattr(env, '_render_mode', 'rgb_array_list')
    drive(env, 0, AHEAD, 2)
    assert len(env.render()) == 3
    assert env.render() == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_envs': 2}, 'one environment per process'),
        ({'render_mode': 'human'}, 'render_mode must be one of rgb_array, rgb_array_list'),
    ],
)
def test_refuses_what_it_cannot_do(options, message):
    with pytest.raises(UserError, match=message):
        make('SafeMetaDrive-easysparse-v0', **options)


@pytest.mark.slow
@needs_metadrive
def test_a_standing_car_stays_to_the_horizon(env):
    rows = drive(env, 0, (0.0, 0.0), 1010)
    assert len(rows) - 1 == 1000
    assert rows[-1, -2] == 0
    assert rows[:-1, -1].sum() == 0


@pytest.mark.slow
@needs_metadrive
@pytest.mark.parametrize(
    ('algo', 'steps', 'options'),
    [
        # An epoch must hold a whole episode, which an untrained driver takes to the horizon.
        ('PPOLag', 1000, ('algo_cfgs:update_iters', '1')),
        # Evaluates in a second environment while an episode of the first goes on.
        (
            'DDPGLag',
            100,
            (
                *('algo_cfgs:start_learning_steps', '50', 'algo_cfgs:update_cycle', '50'),
                *('train_cfgs:eval_episodes', '1'),
            ),
        ),
    ],
)
def test_omnisafes_own_algorithms_train(algo, steps, options, tmp_path):
    command = [str(Path(sys.executable).with_name('omnisafe')), 'train', '--algo', algo]
    command += ['--env-id', 'SafeMetaDrive-easysparse-v0', '--total-steps', str(2 * steps)]
    command += ['--log-dir', str(tmp_path), '--torch-threads', '1']
    common = ('algo_cfgs:steps_per_epoch', str(steps), 'logger_cfgs:use_wandb', 'False')
    for word in (*options, *common):
        command += ['--custom-cfgs', word]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    (progress,) = tmp_path.glob('**/progress.csv')
    assert len(progress.read_text(encoding='utf-8').splitlines()) == 3
