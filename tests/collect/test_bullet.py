# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers of the Ball and the Car in Bullet-Safety-Gym's Run and Circle tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnisafe_qpt.collect import bullet, collect
from omnisafe_qpt.collect.bullet import Ball, Car
from omnisafe_qpt.collect.simulator import Simulator


def seen_by_car(heading, velocity=(0.0, 0.0)):
    """Return what a car observes at (3, -4) that is turned backwards to a heading."""
    yaw = heading + math.pi
    return np.array([0.3, -0.4, *velocity, math.sin(yaw), math.cos(yaw), 0.0], dtype=np.float32)


def play(env_id, seed, steps):
    """Return the kind, return and cost of an episode, and its controller's first action."""
    rng = np.random.default_rng(seed)
    simulator = Simulator(env_id)
    observation = simulator.reset(seed)
    controller = bullet.FAMILIES[env_id].make_controller(rng, simulator, steps)
    totals, actions = np.zeros(2), []
    for step in range(steps):
        action = np.clip(controller.act(observation, step), -1.0, 1.0).astype(np.float32)
        observation, reward, cost, *_ = simulator.step(action)
        totals += (reward, cost)
        actions.append(action)
    simulator.close()
    return controller.kind, *totals, actions


# -- commands -------------------------------------------------------------------------------------


def test_ball_is_pushed_towards_the_velocity():
    ball = Ball(top_speed=7.0, gain=0.5)
    observation = np.array([0.3, -0.4, 0.2, 0.0, 0, 0, 0], dtype=np.float32)  # 1 m/s along x
    np.testing.assert_allclose(ball.locate(observation), [3.0, -4.0], rtol=1e-6)
    x, y = ball.drive(observation, np.array([1.0, 0.0]))
    assert x == pytest.approx(0.06)
    assert y == pytest.approx(0.0)
    x, y = ball.drive(observation, np.array([0.0, 2.0]))
    assert x == pytest.approx(-0.5)
    assert y == pytest.approx(1.12)


def test_car_goes_backwards_straight_on():
    car = Car(top_speed=3.4, gain=1.0, steering=2.0)
    np.testing.assert_allclose(car.locate(seen_by_car(0.0)), [3.0, -4.0], rtol=1e-6)
    for heading in (0.0, 1.0, 3.0):
        velocity = 2.0 * np.array([math.cos(heading), math.sin(heading)])
        throttle, steering = car.drive(seen_by_car(heading), velocity)
        assert throttle < -1.0
        assert steering == pytest.approx(0.0, abs=1e-6)
        throttle, _ = car.drive(seen_by_car(heading, velocity), velocity)
        assert throttle == pytest.approx(-2.0 / 3.45, abs=1e-6)
        throttle, _ = car.drive(seen_by_car(heading, 2.0 * velocity), velocity)
        assert throttle > 0.0


def test_car_turns_by_the_shorter_way_and_never_stops():
    car = Car(top_speed=3.4, gain=1.0, steering=2.0)
    for heading, error in ((0.0, 0.5), (2.8, 0.7), (-2.8, -0.7), (1.0, -2.5)):
        velocity = np.array([math.cos(heading + error), math.sin(heading + error)])
        throttle, steering = car.drive(seen_by_car(heading), velocity)
        assert steering == pytest.approx(-2.0 * error, abs=1e-5)
        assert throttle < 0.0


# -- in the simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('env_id', 'steps', 'numbers'),
    [
        ('SafetyBallRun-v0', 100, 8),
        ('SafetyBallCircle-v0', 200, 5),
        ('SafetyCarRun-v0', 200, 3),
        ('SafetyCarCircle-v0', 300, 3),
    ],
)
def test_risk_buys_return_with_cost(monkeypatch, env_id, steps, numbers):
    def play_all(risk):
        monkeypatch.setattr(bullet, 'draw_risk', lambda *_, **__: risk)
        episodes = [play(env_id, seed, steps) for seed in range(numbers)]
        return np.array([episode[1:3] for episode in episodes])

    safe, risky = play_all(0.0), play_all(1.0)
    assert np.median(safe[:, 1]) <= 10.0
    assert np.median(risky[:, 1]) > 20.0
    assert risky[:, 0].max() > safe[:, 0].max()


def test_episode_repeats_for_a_seed():
    first, again, other = (play('SafetyBallCircle-v0', seed, 30) for seed in (5, 5, 6))
    assert first[:3] == again[:3]
    np.testing.assert_array_equal(first[3], again[3])
    assert first[1] != other[1]


def test_collection_trades_return_for_cost(tmp_path):
    summary = collect(
        'SafetyBallRun-v0',
        30,
        0,
        tmp_path / 'ball.hdf5',
        workers=1,
        progress=False,
    )
    assert 0.3 < summary['safe_share'] < 0.7
    assert summary['cost_min'] == 0.0
    assert summary['cost_max'] > 60.0
    assert summary['return_min'] < 200.0
    assert 350.0 < summary['best_safe_return'] < 700.0
    assert summary['return_max'] > 1.5 * summary['best_safe_return']
    assert len(summary['kinds']) >= 6
