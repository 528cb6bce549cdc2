# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers of Safety-Gymnasium's Circle tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnisafe_qpt.collect import circle, collect
from omnisafe_qpt.collect.circle import Mover, find_centre, make_circler, read_axes
from omnisafe_qpt.collect.disturbance import Disturbance
from omnisafe_qpt.collect.plans import CirclePlan, Circler, ClosedPath
from omnisafe_qpt.collect.robots import ROBOTS
from omnisafe_qpt.collect.simulator import Simulator


def observe(place, heading, velocity=(0.0, 0.0), size=28):
    """Return what a robot observes, worked out here."""
    cosine, sine = math.cos(heading), math.sin(heading)
    to_robot = np.array([[cosine, sine], [-sine, cosine]])
    observation = np.zeros(size, dtype=np.float32)
    observation[3:5] = to_robot @ velocity
    observation[9:11] = to_robot @ [0.0, -0.5]
    x, y = to_robot @ -np.array(place)
    where = (math.atan2(y, x) % (2 * math.pi)) / (2 * math.pi / 16)
    own, share = int(where), where - int(where)
    closeness = 1.0 - math.hypot(x, y) / 6.0
    for index, value in ((own, 1.0), (own + 1, share), (own - 1, 1.0 - share)):
        observation[size - 16 + index % 16] = value * closeness
    return observation


class Named:
    """A simulator of which only the id is known."""

    def __init__(self, env_id):
        self.env_id = env_id


@pytest.mark.parametrize('place', [(1.5, 0.0), (-0.3, 0.8), (0.01, -2.0), (-3.0, -4.0)])
@pytest.mark.parametrize('heading', [0.0, 0.4, 2.9, -1.7])
@pytest.mark.parametrize('size', [28, 40])
def test_position_and_heading_are_read_off_the_observation(place, heading, size):
    observation = observe(place, heading, size=size)
    axes = read_axes(observation)
    np.testing.assert_allclose(axes[:, 0], [math.cos(heading), math.sin(heading)], atol=1e-6)
    np.testing.assert_allclose(axes[:, 1], [-math.sin(heading), math.cos(heading)], atol=1e-6)
    for robot in ROBOTS.values():
        np.testing.assert_allclose(Mover(robot).locate(observation), place, atol=1e-5)


def test_centre_out_of_sight_is_no_error():
    assert np.isfinite(find_centre(np.zeros(16))).all()


@pytest.mark.parametrize('heading', [0.0, 2.0])
def test_robots_drive_where_they_are_told(heading):
    north = np.array([math.cos(heading), math.sin(heading)])
    force, turn = Mover(ROBOTS['Point']).drive(observe((1, 0), heading), north)
    assert force > 0.5
    assert turn == pytest.approx(0.0, abs=1e-5)
    # The car drives along its -y.
    left, right = Mover(ROBOTS['Car']).drive(observe((1, 0), heading + math.pi / 2, size=40), north)
    assert left == pytest.approx(right, abs=1e-5)
    assert left > 0.1


@pytest.mark.parametrize('level', [1, 2])
@pytest.mark.parametrize('robot', ['Point', 'Car'])
def test_controllers_of_a_task_repeat_and_know_its_walls(robot, level):
    simulator = Named(f'Safety{robot}Circle{level}-v0')
    assert circle.FAMILIES[simulator.env_id].make_controller is make_circler

    def draw(number):
        return make_circler(np.random.default_rng(number), simulator, 500)

    controllers = [draw(number) for number in range(100)]
    kinds = {'careful', 'slow', 'early', 'late', 'bursts', 'one-sided'}
    assert {controller.kind for controller in controllers} == kinds
    for number, controller in enumerate(controllers[:10]):
        assert draw(number).plan.calm == controller.plan.calm
    for controller in controllers:
        right, left, top, bottom = controller.plan.calm.cuts
        assert max(right, left) < 1.125
        assert (max(top, bottom) < 1.125) == (level == 2)
        assert controller.robot.robot is ROBOTS[robot]


# -- in the simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize('robot', ['Point', pytest.param('Car', marks=pytest.mark.slow)])
def test_bold_path_earns_more_and_costs(robot):
    simulator = Simulator(f'Safety{robot}Circle2-v0')
    mover = Mover(ROBOTS[robot])
    calm = ClosedPath((1.5, 1.5), (0.85,) * 4, 1)
    bold = ClosedPath((1.5, 1.5), (math.inf,) * 4, 1)
    plan = CirclePlan('x', calm, bold, np.arange(500) >= 250, 1.0)
    quiet = Disturbance(np.random.default_rng(0), 2, 0.0)
    circler = Circler(plan, mover, quiet, look_ahead=0.7)
    observation, rewards, costs = simulator.reset(0), [], []
    for step in range(500):
        place = simulator.raw.task.agent.pos[:2]
        np.testing.assert_allclose(mover.locate(observation), place, atol=0.02)
        action = np.clip(circler.act(observation, step), -1.0, 1.0).astype(np.float32)
        observation, reward, cost, *_ = simulator.step(action)
        rewards.append(reward)
        costs.append(cost)
    simulator.close()
    assert sum(costs[:250]) == 0.0
    assert sum(costs[250:]) > 150.0
    assert sum(rewards[300:]) > 1.2 * sum(rewards[50:250])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('env_id', 'return_range'),
    [('SafetyPointCircle1-v0', (20.0, 50.0)), ('SafetyCarCircle2-v0', (8.0, 17.0))],
)
def test_collection_trades_return_for_cost(tmp_path, env_id, return_range):
    summary = collect(env_id, 40, 0, tmp_path / 'circle.hdf5', workers=2, progress=False)
    assert 0.3 < summary['safe_share'] < 0.7
    assert summary['cost_min'] == 0.0
    assert summary['cost_max'] > 150.0
    assert summary['return_min'] < return_range[0]
    assert summary['return_max'] > return_range[1]
    assert summary['best_safe_return'] < summary['return_max']
