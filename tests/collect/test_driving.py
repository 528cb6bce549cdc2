# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers of MetaDrive's tasks, and the drivers that they ask.

The tests that drive are skipped where MetaDrive is not installed.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omnisafe.envs.core import make

from omnisafe_qpt.collect import collect, driving, episodes
from omnisafe_qpt.collect.disturbance import Disturbance
from omnisafe_qpt.collect.driving import DrivePlan, Driver, draw_drive_plan, steady_speed
from omnisafe_qpt.collect.engine import run_episode
from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.envs.simulators import why_unavailable


needs_metadrive = pytest.mark.skipif(
    why_unavailable('metadrive') is not None,
    reason=str(why_unavailable('metadrive')),
)

ENV_ID = 'SafeMetaDrive-easydense-v0'
ROUTE, MAX_COST = 400.0, 80.0


def plan_of(number, risk):
    return draw_drive_plan(np.random.default_rng(number), 1000, ROUTE, MAX_COST, risk)


def ideal_cost(plan):
    """The cost of the speeds alone, for a car that keeps them exactly."""
    arrives = np.searchsorted(np.cumsum(plan.speeds / 36.0), ROUTE)
    return 0.01 * np.maximum(plan.speeds[:arrives] - 10.0, 0.0).sum()


def test_all_nine_tasks_have_a_controller():
    ids = {task.env_id for task in all_tasks() if task.suite == 'metadrive'}
    assert set(driving.FAMILIES) == ids
    assert len(ids) == 9
    assert ids <= set(FAMILIES)
    for env_id in ids:
        simulator = SimpleNamespace(env_id=env_id)
        plan = FAMILIES[env_id].make_controller(np.random.default_rng(0), simulator, 7).plan
        assert plan.speeds.shape == (7,)


@pytest.mark.parametrize('cost', [5.0, 40.0, 80.0])
def test_the_whole_route_at_a_steady_speed_costs_what_is_asked(cost):
    speed = steady_speed(ROUTE, cost)
    steps = ROUTE / (speed / 36.0)
    assert 0.01 * (speed - 10.0) * steps == pytest.approx(cost)
    assert steady_speed(10.0, 1e6) == pytest.approx(50.0)


def test_risk_is_the_cost_of_the_speeds():
    careful = [plan_of(number, 0.0) for number in range(200)]
    risky = [plan_of(number, 0.5) for number in range(400)]
    assert {plan.kind for plan in careful} == {'careful', 'slow', 'wandering'}
    assert {plan.kind for plan in risky} == {
        *('steady', 'early', 'late', 'bursts', 'blind', 'expert'),
    }
    assert max(ideal_cost(plan) for plan in careful) < 15.0
    for plan in risky:
        if plan.kind in ('steady', 'blind', 'expert'):
            # Without the horizon it would be 40; slow drivers do not arrive.
            assert ideal_cost(plan) == pytest.approx(0.5 * MAX_COST, rel=0.3)
    means = [np.mean([ideal_cost(plan_of(n, risk)) for n in range(200)]) for risk in (0.1, 0.5, 1)]
    assert means == sorted(means)
    assert {plan.driver == 'expert' for plan in risky if plan.kind == 'expert'} == {True}
    assert {plan.driver for plan in careful} == {'idm'}
    assert max(plan.gap for plan in risky if plan.kind == 'blind') <= 0.5


def test_plans_repeat():
    for number in range(10):
        first, again = plan_of(number, 0.4), plan_of(number, 0.4)
        assert (first.kind, first.driver, first.gap) == (again.kind, again.driver, again.gap)
        np.testing.assert_array_equal(first.speeds, again.speeds)


class Road:
    """An environment with a road that nobody else uses; it remembers what it was asked."""

    def __init__(self, env_id):
        self.env_id, self.horizon, self.forgets, self.raw = env_id, 30, True, self
        self.asked = []

    def reset(self, seed):
        self._state = np.full(3, seed % 7, dtype=np.float32)
        return self._state

    def advise(self, driver, speed, gap):
        self.asked.append((driver, speed, gap))
        return np.array([0.1 * self._state[0], 0.3 * speed - 2.0])

    def step(self, action):
        self._state = self._state + np.float32([*action, 1.0])
        return self._state, float(action[1]), float(action[0] > 0.2), False, False

    def close(self):
        pass


def test_the_driver_is_asked_for_the_plan_and_its_wishes_are_clipped():
    plan = DrivePlan('x', 'idm', np.array([5.0, 20.0]), 0.7)
    road = Road(ENV_ID)
    road.reset(2)
    driver = Driver(plan, road, Disturbance(np.random.default_rng(0), 2, 0.0))
    actions = [driver.act(np.zeros(3), step) for step in range(2)]
    assert road.asked == [('idm', 5.0, 0.7), ('idm', 20.0, 0.7)]
    np.testing.assert_allclose(actions, [[0.2, -0.5], [0.2, 1.0]])


def test_an_interrupted_collection_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(episodes, 'Simulator', Road)
    unbroken, broken = tmp_path / 'a' / 'cars.hdf5', tmp_path / 'b' / 'cars.hdf5'
    collect(ENV_ID, 4, 1, unbroken, workers=1, progress=False)
    count = iter(range(1000))

    class Breaking(Road):
        def step(self, action):
            if next(count) == 70:
                raise KeyboardInterrupt
            return super().step(action)

    with monkeypatch.context() as patch:
        patch.setattr(episodes, 'Simulator', Breaking)
        with pytest.raises(KeyboardInterrupt):
            collect(ENV_ID, 4, 1, broken, workers=1, progress=False)
    collect(ENV_ID, 4, 1, broken, workers=1, progress=False)
    assert broken.read_bytes() == unbroken.read_bytes()


# -- in the simulator -----------------------------------------------------------------------------


@pytest.fixture(name='env', scope='module')
def fixture_env():
    env = make(ENV_ID)
    yield env
    env.close()


def drive(env, seed, steps, choose):
    """Run some steps; return the rows, the actions and the last information."""
    obs, _ = env.reset(seed=seed)
    rows, actions, info = [obs], [], {}
    for _ in range(steps):
        actions.append(torch.as_tensor(choose(env), dtype=torch.float32).clip(-1.0, 1.0))
        obs, *signals, info = env.step(actions[-1])
        rows.append(torch.cat([obs, torch.stack(signals)]))
        if signals[2] or signals[3]:
            break
    return torch.cat(rows), actions, info


@needs_metadrive
def test_advice_does_not_change_the_episode(env):
    def ask_both(env):
        env.advise('expert', 40.0)
        return env.advise('idm', 30.0, 0.5)

    advised, actions, _ = drive(env, 5, 60, ask_both)
    recorded = iter(actions)
    replayed, _, _ = drive(env, 5, 60, lambda _: next(recorded))
    assert torch.equal(advised, replayed)
    again, _, _ = drive(env, 5, 60, ask_both)
    # The drivers forget the episode before.
    assert torch.equal(advised, again)


@needs_metadrive
def test_an_episode_is_that_of_the_environment_of_evaluation(env):
    """Observations, rewards and costs, for the actions that were recorded."""
    episode = run_episode(ENV_ID, 3, 0, max_steps=50)
    seed = int(np.random.default_rng(np.random.SeedSequence([3, 0])).integers(2**31))
    obs, _ = env.reset(seed=seed)
    states, rewards, costs = [obs.numpy()], [], []
    for action in episode.actions:
        obs, reward, cost, _, _, info = env.step(torch.from_numpy(action))
        states.append(obs.numpy())
        rewards.append(reward.item())
        costs.append(cost.item())
        speeding = 0.01 * max(0.0, info['velocity'] - 10.0)
        # Closeness costs 0.0001 at most.
        assert -1e-6 < costs[-1] - speeding < 2e-4 or info['crash'] or info['out_of_road']
    assert np.array_equal(episode.states, np.stack(states))
    assert np.array_equal(episode.rewards, np.float32(rewards))
    assert np.array_equal(episode.costs, np.float32(costs))


@needs_metadrive
def test_speed_earns_and_costs(env):
    slow, _, _ = drive(env, 1, 150, lambda env: env.advise('idm', 9.0))
    fast, _, info = drive(env, 1, 150, lambda env: env.advise('idm', 25.0))
    signals = 4
    totals = [rows[259:].reshape(-1, 259 + signals)[:, 259:261].sum(dim=0) for rows in (slow, fast)]
    assert totals[0][1] < 0.1
    assert totals[1][1] > 10.0
    assert totals[1][0] > 2.0 * totals[0][0]
    assert info['velocity'] == pytest.approx(25.0, abs=3.0)


@needs_metadrive
def test_traffic_ahead_is_heeded_only_with_a_gap(env):
    throttles = []

    def compare(env):
        throttles.append([env.advise('idm', 60.0, gap)[1] for gap in (0.0, 1.0)])
        return env.advise('idm', 60.0)

    drive(env, 2, 150, compare)
    blind, careful = np.array(throttles).T
    assert (blind > -0.5).all()
    assert (blind > careful + 1.0).any(), 'there was somebody to brake for'


@needs_metadrive
def test_the_expert_is_metadrives(tmp_path):
    """Its own function observes the surroundings anew, which takes ten times as long."""
    program = (
        'import os\n'
        'import numpy as np\n'
        'from omnisafe_qpt.envs.metadrive_process import Simulator, prepare_imports\n'
        'prepare_imports()\n'
        'simulator = Simulator("mediumdense")\n'
        'simulator.reset(3)\n'
        'from metadrive.examples.ppo_expert.numpy_expert import expert\n'
        'for _ in range(40):\n'
        '    theirs = expert(simulator._env.vehicle, deterministic=True)\n'
        '    ours = simulator.advise("expert", 1000.0, 1.0)\n'
        '    np.testing.assert_allclose(ours, theirs, atol=1e-4)\n'
        '    simulator.step(np.clip(ours, -1, 1).astype(np.float32))\n'
        'assert simulator._env.vehicle.speed > 10.0\n'
        'ours = simulator.advise("expert", 5.0, 1.0)\n'
        'assert ours[1] < -1.0, "brakes above the speed that it may have"\n'
        'os._exit(0)\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@needs_metadrive
def test_three_real_episodes_are_the_same_bytes(tmp_path, monkeypatch):
    """With one process, with two, and after an interruption."""
    options = {'max_steps': 25, 'progress': False}
    files = [tmp_path / name / 'cars.hdf5' for name in ('one', 'two', 'broken')]
    for workers, out in ((1, files[0]), (2, files[1])):
        collect(ENV_ID, 3, 0, out, workers=workers, **options)
    step, count = episodes.Simulator.step, iter(range(1000))

    def breaking(simulator, action):
        if next(count) == 40:
            raise KeyboardInterrupt
        return step(simulator, action)

    with monkeypatch.context() as patch:
        patch.setattr(episodes.Simulator, 'step', breaking)
        with pytest.raises(KeyboardInterrupt):
            collect(ENV_ID, 3, 0, files[2], workers=1, **options)
    assert len(list(files[2].parent.glob('.cars.hdf5.partial/*.npz'))) == 1
    collect(ENV_ID, 3, 0, files[2], workers=1, **options)
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


@needs_metadrive
@pytest.mark.slow
@pytest.mark.parametrize('road', ['easy', 'medium', 'hard'])
def test_careful_drivers_arrive_where_the_horizon_lets_them(road):
    """Nearly within the cost limit, which leaves the easy road's end out of reach."""
    env_id = f'SafeMetaDrive-{road}sparse-v0'
    with closing(make(env_id)) as env:
        rows, _, info = drive(env, 2, 1000, lambda env: env.advise('idm', 11.0))
    cost = rows[259:].reshape(-1, 263)[:, 260].sum()
    assert cost < 12.0
    assert info['arrive_dest'] == (road != 'easy')
