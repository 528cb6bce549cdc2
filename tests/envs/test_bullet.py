# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The Bullet environments: their horizons, costs, seeds and pictures."""

from __future__ import annotations

import io

import gymnasium
import numpy as np
import pytest
import torch
from omnisafe.adapter.offline_adapter import OfflineAdapter
from omnisafe.envs.core import make, support_envs
from omnisafe.utils.config import Config

from host_helpers import rollout
from omnisafe_qpt.envs.bullet import BULLET_HORIZONS, _plain_streams
from omnisafe_qpt.errors import UserError


ACTION_SIZES = {'Ball': 2, 'Car': 2, 'Drone': 4, 'Ant': 8}


def random_actions(env_id, seed, scale=1.0, steps=None):
    size = {'Ball': 2, 'Car': 2, 'Drone': 4, 'Ant': 8}[
        env_id[6:].partition('Run')[0].partition('Ci')[0]
    ]
    generator = torch.Generator().manual_seed(seed)
    steps = steps or BULLET_HORIZONS[env_id]
    return scale * (2 * torch.rand(steps, size, generator=generator) - 1)


@pytest.fixture(params=BULLET_HORIZONS)
def env_id(request):
    return request.param


@pytest.fixture
def env(env_id):
    env = make(env_id)
    yield env
    env.close()


def test_are_known_to_omnisafe():
    assert set(BULLET_HORIZONS) <= set(support_envs())
    assert len(support_envs()) == len(set(support_envs()))


def test_horizons_are_those_of_dsrl():
    infos = pytest.importorskip('dsrl.infos')
    for env_id, horizon in BULLET_HORIZONS.items():
        task = env_id[len('Safety') : -len('-v0')]
        assert infos.DEFAULT_MAX_EPISODE_STEPS[task] == horizon


def test_episodes_end_at_the_horizon_or_by_falling(env, env_id):
    rows = rollout(env, 0, random_actions(env_id, 0, scale=0.02))
    terminated, truncated = rows[-1, -2], rows[-1, -1]
    assert rows[:-1, -2:].sum() == 0
    assert terminated or truncated
    assert truncated == (len(rows) - 1 == BULLET_HORIZONS[env_id])
    if 'Ball' in env_id or 'Car' in env_id:  # nothing that could fall
        assert not terminated
    assert env.max_episode_steps == BULLET_HORIZONS[env_id]


def test_a_fall_is_terminal_and_not_a_time_limit():
    env = make('SafetyDroneRun-v0')
    tilt = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(200, 1)
    rows = rollout(env, 0, tilt)
    env.close()
    assert len(rows) - 1 < 200
    assert rows[-1, -2] == 1
    assert rows[-1, -1] == 0


def test_an_episode_depends_on_its_seed_and_actions_only(env, env_id):
    actions = random_actions(env_id, 1, steps=30)
    first = rollout(env, 7, actions)
    # Full motor commands just before a reset are what Bullet carries over.
    rollout(env, 8, random_actions(env_id, 2, scale=10.0, steps=30).sign())
    again = rollout(env, 7, actions)
    assert torch.equal(first, again)

    other = make(env_id)
    np.random.seed(99)
    fresh = rollout(other, 7, actions)
    assert torch.equal(first, fresh)
    assert not torch.equal(first[0], rollout(other, 8, actions)[0])
    other.close()


def test_an_episode_does_not_depend_on_where_the_one_before_ended():
    """A ball that is put down near to where it was must not find its old points of contact."""
    env = make('SafetyBallRun-v0')
    slow = torch.tensor([-0.0417, 0.0106]).repeat(20, 1)
    expected = rollout(env, 6, slow)
    for steps in (3, 5, 12, 20):
        rollout(env, 5, slow[:steps])
        assert torch.equal(rollout(env, 6, slow), expected), steps
    env.close()


@pytest.mark.parametrize('env_id', ['SafetyAntCircle-v0', 'SafetyCarRun-v0'])
def test_set_seed_fixes_the_episodes_to_come(env_id):
    starts = []
    for _ in range(2):
        env = make(env_id)
        env.set_seed(3)
        starts.append([env.reset()[0] for _ in range(3)])
        env.close()
    assert all(torch.equal(one, two) for one, two in zip(*starts, strict=True))
    assert not torch.equal(starts[0][0], starts[0][1])


def test_numpys_global_state_is_left_alone():
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    env = make('SafetyCarCircle-v0')
    rollout(env, 0, random_actions('SafetyCarCircle-v0', 0, steps=5))
    env.reset()
    env.close()
    assert np.array_equal(np.random.random(3), expected)


def test_cost_is_one_outside_the_bounds():
    """The ball runs along +y until it has left the lane |y| <= 2."""
    env = make('SafetyBallRun-v0')
    rows = rollout(env, 0, torch.tensor([0.0, 1.0]).repeat(100, 1))
    env.close()
    y, cost = rows[1:, 1] / 0.1, rows[1:, -3]
    assert cost[0] == 0
    assert set(cost.tolist()) == {0.0, 1.0}
    assert (cost[y > 2.01] == 1).all()
    assert (y > 2.01).any()


def test_is_the_simulator_behind_dsrl(env_id):
    """DSRL's own environment, driven through NumPy's global state, gives the same episode."""
    pytest.importorskip('dsrl')
    with _plain_streams():
        theirs = gymnasium.make(f'Offline{env_id[len("Safety") :]}', disable_env_checker=True)
    ours = make(env_id)
    actions = random_actions(env_id, 4, steps=40)
    rows = rollout(ours, 11, actions)
    np.random.seed(11)
    obs, _ = theirs.reset()
    assert np.array_equal(rows[0, :-4], np.float32(obs))
    for row, action in zip(rows[1:], actions, strict=False):
        obs, reward, terminated, truncated, info = theirs.step(action.numpy())
        signals = [reward, info['cost'], terminated, truncated]
        assert np.array_equal(row, np.float32([*obs, *signals]))
    assert theirs.spec.max_episode_steps == BULLET_HORIZONS[env_id]
    ours.close()
    theirs.close()


def test_omnisafes_offline_evaluation_stops_at_the_horizon():
    """OmniSafe would wrap the environment into a limit of 1000 steps if it asked for one."""

    class Still:
        @staticmethod
        def predict(obs, deterministic):
            assert deterministic
            return torch.zeros(obs.shape[0], 2)

    class Log(list):
        store = list.append

    cfgs = Config.dict2config({'train_cfgs': {'device': 'cpu'}})
    adapter = OfflineAdapter('SafetyCarRun-v0', 0, cfgs)
    log = Log()
    adapter.evaluate(2, Still(), log)
    assert [row['Metrics/EpLen'] for row in log] == [200, 200]


@pytest.mark.parametrize('env_id', ['SafetyBallCircle-v0', 'SafetyCarRun-v0'])
def test_renders_without_a_display(env_id):
    env = make(env_id, render_mode='rgb_array', camera_name='track', width=64, height=48)
    env.reset(seed=0)
    image = env.render()
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert image.std() > 0  # not blank
    assert env.metadata['render_fps'] == (10 if 'Circle' in env_id else 30)
    env.close()


@pytest.mark.parametrize('env_id', ['SafetyBallRun-v0', 'SafetyAntCircle-v0'])
def test_the_agent_is_in_the_picture_and_nothing_hides_it(env_id):
    """Bullet's mark of a cost is a red ball around the agent, opaque without a graphics card."""
    env = make(env_id, render_mode='rgb_array', width=160, height=120)
    forward = torch.zeros(ACTION_SIZES['Ball' if 'Ball' in env_id else 'Ant'])
    forward[0] = 1.0
    costs = rollout(env, 3, [forward] * 30)[:, -3]
    image = env.render().astype(int)
    assert not ((image[..., 0] > 120) & (image[..., 1:].max(-1) < 40)).any()
    simulator = env._env.unwrapped
    camera = simulator.world.camera
    view = simulator.bc.computeViewMatrixFromYawPitchRoll(
        camera.cam_base_pos, camera.cam_dist, camera.cam_yaw, camera.cam_pitch, 0, 2
    )
    projection = simulator.bc.computeProjectionMatrixFOV(60, 160 / 120, 0.1, 100.0)
    bodies = np.asarray(simulator.bc.getCameraImage(160, 120, view, projection)[4])
    assert (bodies == simulator.agent.body_id).sum() >= 20
    assert costs.sum() > 0 or 'Ant' in env_id
    env.close()


@pytest.mark.parametrize('env_id', ['SafetyCarCircle-v0', 'SafetyBallRun-v0'])
def test_pictures_change_nothing(env_id):
    actions = random_actions(env_id, 5, steps=15)
    expected = rollout(make(env_id), 4, actions)
    drawn = make(env_id, render_mode='rgb_array_list', width=16, height=16)
    for _ in range(2):  # in the second, what the first has drawn is there
        torch.testing.assert_close(rollout(drawn, 4, actions), expected, rtol=0, atol=0)
    drawn.close()


def test_collects_the_frames_of_an_episode():
    env = make('SafetyBallRun-v0', render_mode='rgb_array_list', width=16, height=16)
    rollout(env, 0, random_actions('SafetyBallRun-v0', 0, steps=3))
    assert len(env.render()) == 4
    assert env.render() == []
    env.reset()
    assert len(env.render()) == 1
    env.close()


def test_is_silent_also_where_stdout_is_not_a_file(capfd, monkeypatch):
    """As in OmniSafe's experiment grid and in notebooks, where Bullet alone fails to connect."""
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr('sys.stdout', stream)
        env = make('SafetyDroneRun-v0')
        env.reset()
        env.close()
    assert stream.getvalue() == ''
    assert capfd.readouterr().out == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_envs': 2}, 'one environment per process'),
        ({'render_mode': 'depth_array'}, 'render_mode must be one of'),
    ],
)
def test_refuses_what_it_cannot_do(options, message):
    with pytest.raises(UserError, match=message):
        make('SafetyBallRun-v0', **options)


def test_refuses_a_window_without_a_display(monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    with pytest.raises(UserError, match='DISPLAY is not set'):
        make('SafetyBallRun-v0', render_mode='human')
