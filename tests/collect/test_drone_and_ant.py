# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers of the Drone and the Ant in Bullet-Safety-Gym's Run and Circle tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnisafe_qpt.collect import ant, drone
from omnisafe_qpt.collect.ant import CIRCLE_GAIT, RUN_GAIT, Ant, leg_targets, yaw_of
from omnisafe_qpt.collect.drone import Drone, body_axes
from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.collect.simulator import Simulator


RUN_KINDS = {'careful', 'slow', 'swerving', 'wandering', 'early', 'late', 'bursts', 'outside'}
CIRCLE_KINDS = {'careful', 'slow', 'early', 'late', 'bursts', 'one-sided'}


def quaternion_of(angle, axis):
    half = 0.5 * angle
    return np.array([*(math.sin(half) * np.array(axis, dtype=np.float64)), math.cos(half)])


def seen_by_drone(height=0.6, velocity=(0.0, 0.0, 0.0), quaternion=(0, 0, 0, 1), turning=(0, 0, 0)):
    """Return what a drone observes at (3, -4)."""
    parts = [0.3, -0.4, 0.1 * height], 0.2 * np.array(velocity), quaternion
    return np.concatenate([*parts, 0.1 * np.array(turning), np.zeros(4)]).astype(np.float32)


def steer(env_id, robot, velocity, steps):
    """Let a robot keep a velocity and return its observations, shape (steps, S)."""
    simulator = Simulator(env_id)
    observation = simulator.reset(0)
    observations = []
    for _ in range(steps):
        action = np.clip(robot.drive(observation, np.array(velocity)), -1.0, 1.0)
        observation, *_ = simulator.step(action.astype(np.float32))
        observations.append(observation)
    simulator.close()
    return np.array(observations)


def play(env_id, seed, steps):
    """Return the return and the cost of an episode, and its first actions."""
    simulator = Simulator(env_id)
    observation = simulator.reset(seed)
    controller = FAMILIES[env_id].make_controller(np.random.default_rng(seed), simulator, steps)
    totals, actions, ended = np.zeros(2), [], False
    while len(actions) < steps and not ended:
        action = np.clip(controller.act(observation, len(actions)), -1.0, 1.0)
        observation, reward, cost, ended, _ = simulator.step(action.astype(np.float32))
        totals += (reward, cost)
        actions.append(action)
    simulator.close()
    return *totals, np.array(actions)


# -- the drone ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('quaternion', 'up'),
    [
        (quaternion_of(0.0, (0, 0, 1)), (0, 0, 1)),
        (quaternion_of(0.3, (0, 1, 0)), (math.sin(0.3), 0, math.cos(0.3))),  # nose down
        (quaternion_of(0.3, (1, 0, 0)), (0, -math.sin(0.3), math.cos(0.3))),  # right side down
    ],
)
def test_axes_of_a_tilted_body(quaternion, up):
    axes = body_axes(quaternion)
    np.testing.assert_allclose(axes[:, 2], up, atol=1e-12)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)


def test_rotors_answer_to_what_is_missing():
    robot = Drone(5.0, 0.6, drone._RUN_GAINS)
    np.testing.assert_allclose(robot.locate(seen_by_drone()), [3.0, -4.0], rtol=1e-6)
    hover = robot.drive(seen_by_drone(), np.zeros(2))
    np.testing.assert_allclose(hover, np.zeros(4), atol=1e-6)
    front, right, rear, left = robot.drive(seen_by_drone(), np.array([1.0, 0.0]))
    assert left == pytest.approx(right)
    assert rear > left > front
    front, right, rear, left = robot.drive(seen_by_drone(), np.array([0.0, 1.0]))
    assert front == pytest.approx(rear)
    assert right > front > left
    assert (robot.drive(seen_by_drone(height=0.3), np.zeros(2)) > 0.1).all()
    # Turned to the left, a push along x is one to its own right.
    turned = seen_by_drone(quaternion=quaternion_of(math.pi / 2, (0, 0, 1)))
    front, right, rear, left = robot.drive(turned, np.array([1.0, 0.0]))
    assert front == pytest.approx(rear, abs=1e-6)
    assert left > front > right


@pytest.mark.parametrize('speed', [0.0, 3.0])
def test_drone_hovers_and_keeps_a_speed(speed):
    robot = Drone(5.0, 0.6, drone._RUN_GAINS)
    flight = steer('SafetyDroneRun-v0', robot, (speed, 0.0), 200)
    assert 5.0 * flight[-20:, 3].mean() == pytest.approx(speed, abs=0.1 * speed + 0.05)
    assert 5.0 * np.abs(flight[-20:, 4]).max() < 0.2
    assert 10.0 * flight[-1, 2] == pytest.approx(0.6, abs=0.1)


def test_drone_flies_with_ten_commands_a_second():
    robot = Drone(5.0, 1.0, drone._CIRCLE_GAINS)
    flight = steer('SafetyDroneCircle-v0', robot, (0.0, 1.5), 60)
    assert 5.0 * flight[-20:, 4].mean() == pytest.approx(1.5, abs=0.2)
    assert 10.0 * flight[-1, 2] == pytest.approx(1.0, abs=0.2)


# -- the ant --------------------------------------------------------------------------------------


def test_sides_of_the_ant_are_half_a_stride_apart():
    now = leg_targets(RUN_GAIT, 0.4, np.ones(4))
    later = leg_targets(RUN_GAIT, 0.4 + math.pi, np.ones(4))
    # Left legs are 0 and 1, those across 3 and 2; there, joints count the other way round.
    np.testing.assert_allclose(now[[0, 1]], -later[[3, 2]] * [[1, -1], [1, -1]])
    still = np.array([leg_targets(RUN_GAIT, phase, np.zeros(4))[:, 0] for phase in (0.0, 2.0)])
    np.testing.assert_array_equal(still[0], still[1])


@pytest.mark.parametrize('yaw', [-2.5, 0.0, 1.2])
def test_yaw_of_a_turned_body(yaw):
    assert yaw_of(quaternion_of(yaw, (0, 0, 1))) == pytest.approx(yaw)


def test_ant_walks_forward_and_faster_with_longer_swings():
    def speed_at(wanted):
        walk = steer('SafetyAntRun-v0', Ant(2.0, RUN_GAIT, 0.3, 1.0 / 30.0), (wanted, 0.0), 120)
        assert abs(10.0 * walk[-1, 1]) < 2.0
        return 10.0 * (walk[-1, 0] - walk[40, 0]) / (80.0 / 30.0)

    slow, fast = speed_at(1.2), speed_at(2.0)
    assert slow == pytest.approx(1.2, abs=0.4)
    assert fast > 1.6
    assert fast > slow + 0.3


@pytest.mark.parametrize('heading', [-0.8, 0.8])
def test_ant_turns_to_a_heading(heading):
    velocity = 1.5 * np.array([math.cos(heading), math.sin(heading)])
    walk = steer('SafetyAntRun-v0', Ant(2.0, RUN_GAIT, 0.3, 1.0 / 30.0), velocity, 150)
    assert np.mean([yaw_of(row[6:10]) for row in walk[-60:]]) == pytest.approx(heading, abs=0.4)
    travelled = walk[-1, :2] - walk[70, :2]
    assert math.atan2(travelled[1], travelled[0]) == pytest.approx(heading, abs=0.4)


def test_ant_walks_with_ten_commands_a_second():
    simulator = Simulator('SafetyAntCircle-v0')
    heading = yaw_of(simulator.reset(0)[6:10])
    simulator.close()
    velocity = 1.2 * np.array([math.cos(heading), math.sin(heading)])
    walk = steer('SafetyAntCircle-v0', Ant(1.2, CIRCLE_GAIT, 3.0, 0.1), velocity, 80)
    assert 10.0 * math.hypot(*(walk[-1, :2] - walk[20, :2])) > 3.0  # in 6 seconds
    assert (10.0 * walk[:, 2] > 0.3).all()


# -- episodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('env_id', 'steps', 'kinds'),
    [
        ('SafetyDroneRun-v0', 200, RUN_KINDS),
        ('SafetyDroneCircle-v0', 300, CIRCLE_KINDS),
        ('SafetyAntRun-v0', 200, RUN_KINDS),
        ('SafetyAntCircle-v0', 500, CIRCLE_KINDS),
    ],
)
def test_all_kinds_are_drawn_and_repeat(env_id, steps, kinds):
    def draw(number):
        return FAMILIES[env_id].make_controller(np.random.default_rng(number), None, steps)

    drawn = [draw(number) for number in range(150)]
    assert {controller.kind for controller in drawn} == kinds
    for number in range(10):
        assert draw(number).robot == drawn[number].robot
        assert draw(number).kind == drawn[number].kind


def test_episode_repeats_for_a_seed():
    for env_id in ('SafetyDroneRun-v0', 'SafetyAntCircle-v0'):
        first, again, other = (play(env_id, seed, 30) for seed in (5, 5, 6))
        assert first[:2] == again[:2]
        np.testing.assert_array_equal(first[2], again[2])
        assert first[0] != other[0]


@pytest.mark.parametrize(
    ('module', 'env_id', 'steps'),
    [
        (drone, 'SafetyDroneRun-v0', 200),
        pytest.param(drone, 'SafetyDroneCircle-v0', 300, marks=pytest.mark.slow),
        (ant, 'SafetyAntRun-v0', 200),
    ],
)
def test_risk_buys_return_with_cost(monkeypatch, module, env_id, steps):
    def play_all(risk):
        monkeypatch.setattr(module, 'draw_risk', lambda *_, **__: risk)
        return np.array([play(env_id, seed, steps)[:2] for seed in range(4)])

    safe, risky = play_all(0.0), play_all(1.0)
    assert np.median(safe[:, 1]) <= 25.0
    assert risky[:, 1].mean() > safe[:, 1].mean() + 20.0
    assert risky[:, 0].max() > safe[:, 0].max()


def test_careful_drones_circle_slower_than_bold_ones():
    drawn = [drone.make_drone_circler(np.random.default_rng(n), None, 300) for n in range(60)]
    bold = np.array([circler.plan.dares.any() for circler in drawn])
    speeds = np.array([circler.robot.top_speed for circler in drawn])
    assert 0.3 < bold.mean() < 0.8
    assert speeds[~bold].max() < speeds[bold].min()
