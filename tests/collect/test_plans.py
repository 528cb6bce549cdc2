# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the controllers of Run and Circle tasks aim for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from omnisafe_qpt.collect.disturbance import Disturbance, draw_disturbance
from omnisafe_qpt.collect.plans import (
    CircleLimits,
    CirclePlan,
    Circler,
    ClosedPath,
    RunLimits,
    Runner,
    RunPlan,
    draw_circle_plan,
    draw_mistuning,
    draw_moments,
    draw_risk,
    draw_run_plan,
    draw_waves,
)


STEPS = 200
RUN = RunLimits(speed=2.0, offset=1.5, top_speed=6.0, max_cost=80.0)
CIRCLE = CircleLimits(radius=7.0, walls=(6.0, math.inf), direction=-1)
BOX = CircleLimits(radius=1.5, walls=(1.1, 1.2), direction=1)
ANGLES = np.linspace(-math.pi, math.pi, 720)


@dataclass
class Glider:
    """A robot that has whatever velocity it is told, a tenth of a second a step."""

    place: np.ndarray
    top_speed: float = 1.0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def locate(self, _observation):
        return self.place

    def drive(self, _observation, velocity):
        self.velocity = velocity
        self.place = self.place + 0.1 * velocity
        return velocity


def quiet():
    return Disturbance(np.random.default_rng(0), 2, 0.0)


def outline(path):
    return np.array([path.point_at(angle) for angle in ANGLES])


# -- what is drawn --------------------------------------------------------------------------------


def test_risk_is_often_zero_and_else_anything_up_to_one():
    rng = np.random.default_rng(0)
    risks = np.array([draw_risk(rng, 0.3) for _ in range(3000)])
    assert (risks == 0.0).mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(np.quantile(risks[risks > 0], [0, 0.5, 1]), [0, 0.5, 1], atol=0.05)


def test_most_gains_are_well_tuned_and_some_are_not():
    rng = np.random.default_rng(0)
    factors = np.array([draw_mistuning(rng) for _ in range(3000)])
    assert np.median(factors) == pytest.approx(1.0, abs=0.02)
    assert (np.abs(np.log(factors)) < 0.2).mean() > 0.75
    assert 0.1 < (np.abs(np.log(factors)) > 0.3).mean() < 0.2


@pytest.mark.parametrize('count', [0, 1, 37, 199, 200, 500])
def test_moments_are_so_many_in_every_pattern(count):
    rng = np.random.default_rng(1)
    drawn = [draw_moments(rng, STEPS, count) for _ in range(60)]
    assert {pattern for pattern, _ in drawn} == {'early', 'late', 'bursts'}
    wanted = min(count, STEPS)
    for pattern, moments in drawn:
        assert moments.shape == (STEPS,)
        if pattern == 'bursts':
            assert abs(moments.sum() - wanted) <= 5
        else:
            where = range(wanted) if pattern == 'early' else range(STEPS - wanted, STEPS)
            np.testing.assert_array_equal(np.flatnonzero(moments), list(where))


@pytest.mark.parametrize('number', [1, 3])
def test_waves_are_smooth_and_bounded(number):
    rng = np.random.default_rng(2)
    waves = np.array([draw_waves(rng, STEPS, number) for _ in range(50)])
    assert np.abs(waves).max() <= 1.0
    assert np.abs(np.diff(waves)).max() <= 2 * math.pi / (0.3 * STEPS)
    assert waves.std(axis=1).mean() > 0.2


# -- Run ------------------------------------------------------------------------------------------


def test_run_plan_without_risk_keeps_the_limits():
    plans = [draw_run_plan(np.random.default_rng(n), STEPS, RUN, 0.0) for n in range(200)]
    assert {plan.kind for plan in plans} == {'careful', 'slow', 'swerving', 'wandering'}
    for plan in plans:
        assert plan.speeds.shape == plan.offsets.shape == (STEPS,)
        assert 0.0 < plan.speeds.min() <= plan.speeds.max() < RUN.speed
        assert np.abs(plan.offsets).max() <= RUN.offset


@pytest.mark.parametrize('risk', [0.2, 0.6, 1.0])
def test_run_plan_breaks_a_limit_in_the_share_of_steps_that_risk_says(risk):
    plans = [draw_run_plan(np.random.default_rng(n), STEPS, RUN, risk) for n in range(200)]
    assert {plan.kind for plan in plans} == {'early', 'late', 'bursts', 'outside'}
    for plan in plans:
        fast, outside = plan.speeds > RUN.speed, np.abs(plan.offsets) > RUN.offset
        assert not (fast & outside).any()
        assert outside.any() == (plan.kind == 'outside')
        assert abs((fast | outside).sum() - risk * RUN.max_cost) <= 5
        assert plan.speeds.max() <= RUN.top_speed


def test_plans_repeat_for_a_seed():
    def draw(seed):
        rng = np.random.default_rng(seed)
        run = draw_run_plan(rng, STEPS, RUN, 0.5)
        circle = draw_circle_plan(rng, STEPS, CIRCLE, 0.5)
        return run.kind, run.speeds.tolist(), circle.kind, circle.calm, circle.dares.tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_runner_takes_up_its_speed_and_its_lane():
    plan = RunPlan('x', np.full(STEPS, 2.0), np.full(STEPS, -1.2))
    robot = Glider(np.zeros(2))
    runner = Runner(plan, robot, quiet(), reach=1.0)
    assert runner.kind == 'x'
    for step in range(STEPS):
        velocity = runner.act(np.zeros(1), step)
        assert math.hypot(*velocity) == pytest.approx(2.0)
        assert velocity[0] >= abs(velocity[1]) - 1e-9
    assert robot.place[1] == pytest.approx(-1.2, abs=1e-3)


# -- Circle ---------------------------------------------------------------------------------------


def test_closed_path_is_an_ellipse_cut_on_its_four_sides():
    points = outline(ClosedPath((3.0, 2.0), (2.5, 1.5, 1.0, math.inf), 1))
    assert points[:, 0].max() == pytest.approx(2.5)
    assert points[:, 0].min() == pytest.approx(-1.5)
    assert points[:, 1].max() == pytest.approx(1.0, abs=1e-4)
    assert points[:, 1].min() == pytest.approx(-2.0, abs=1e-4)
    level = (points[:, 0] / 3.0) ** 2 + (points[:, 1] / 2.0) ** 2
    assert level.max() <= 1.0 + 1e-9
    on_a_cut = np.isclose(points[:, [0]], [2.5, -1.5]).any(axis=1) | np.isclose(points[:, 1], 1.0)
    np.testing.assert_allclose(level[~on_a_cut], 1.0)
    np.testing.assert_allclose(np.arctan2(points[:, 1], points[:, 0])[1:-1], ANGLES[1:-1])


@pytest.mark.parametrize('direction', [1, -1])
def test_point_ahead_lies_so_far_along_the_circle(direction):
    path = ClosedPath((2.0, 2.0), (math.inf,) * 4, direction)
    for place in ([0.1, 0.0], [2.0, 0.0], [9.0, 0.0]):
        ahead = path.ahead(np.array(place), 1.0)
        np.testing.assert_allclose(ahead, [2 * math.cos(0.5), direction * 2 * math.sin(0.5)])


@pytest.mark.parametrize('limits', [CIRCLE, BOX])
def test_circle_plan_without_risk_stays_within_the_walls(limits):
    plans = [draw_circle_plan(np.random.default_rng(n), STEPS, limits, 0.0) for n in range(50)]
    assert {plan.kind for plan in plans} == {'careful', 'slow'}
    for plan in plans:
        assert not plan.dares.any()
        assert (np.abs(outline(plan.calm)).max(axis=0) < limits.walls).all()
        assert 0.0 < plan.pace <= 1.0


@pytest.mark.parametrize('limits', [CIRCLE, BOX])
def test_circle_plan_with_risk_passes_the_walls_for_so_long(limits):
    plans = [draw_circle_plan(np.random.default_rng(n), STEPS, limits, 0.4) for n in range(100)]
    assert {plan.kind for plan in plans} == {'early', 'late', 'bursts', 'one-sided'}
    for plan in plans:
        assert abs(plan.dares.sum() - 0.4 * STEPS) <= 5
        points = outline(plan.bold)
        sides = (points[:, 0].max(), -points[:, 0].min())
        passed = sum(side > limits.walls[0] for side in sides)
        assert passed == (1 if plan.kind == 'one-sided' else 2)


@pytest.mark.parametrize('start', [(0.2, 0.1), (-2.0, 2.0), (8.0, 0.0)])
def test_circler_comes_to_its_path_and_goes_round_it(start):
    calm = ClosedPath((7.0, 7.0), (5.0, 5.5, math.inf, math.inf), -1)
    bold = ClosedPath((7.0, 7.0), (math.inf,) * 4, -1)
    dares = np.arange(600) >= 300
    robot = Glider(np.array(start), top_speed=4.0)
    circler = Circler(CirclePlan('x', calm, bold, dares, 0.5), robot, quiet(), look_ahead=0.5)
    places = []
    for step in range(600):
        assert math.hypot(*circler.act(np.zeros(1), step)) == pytest.approx(2.0)
        places.append(robot.place)
    places = np.array(places)
    first, second = places[60:300], places[360:]
    assert first[:, 0].max() == pytest.approx(5.0, abs=0.1)
    assert first[:, 0].min() == pytest.approx(-5.5, abs=0.1)
    np.testing.assert_allclose(np.hypot(*second.T), 7.0, atol=0.1)
    turned = np.diff(np.unwrap(np.arctan2(places[60:, 1], places[60:, 0])))
    assert (turned < 0.0).all()


# -- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('persistence', [0.0, 0.9])
def test_noise_has_its_scale_and_its_persistence(persistence):
    disturbance = Disturbance(np.random.default_rng(0), 2, 0.3, persistence)
    noise = np.array([disturbance.disturb(np.ones(2)) for _ in range(20000)]) - 1.0
    np.testing.assert_allclose(noise.std(axis=0), 0.3, atol=0.03)
    for column in noise.T:
        assert np.corrcoef(column[:-1], column[1:])[0, 1] == pytest.approx(persistence, abs=0.03)


def test_jolts_hold_one_random_action():
    disturbance = Disturbance(np.random.default_rng(0), 2, 0.1, jolt_rate=0.02)
    actions = np.array([disturbance.disturb(np.full(2, 5.0)) for _ in range(3000)])
    jolted = np.abs(actions).max(axis=1) <= 1.0
    assert 0.05 < jolted.mean() < 0.3
    held = (actions[1:] == actions[:-1]).all(axis=1)
    assert held[jolted[1:]].mean() > 0.75
    assert not held[~jolted[1:]].any()


def test_disturbances_are_of_all_sorts():
    rng = np.random.default_rng(0)
    drawn = [draw_disturbance(rng, 3, 0.4) for _ in range(200)]
    moved = np.array([disturbance.disturb(np.zeros(3)) for disturbance in drawn])
    assert moved.shape == (200, 3)
    assert np.abs(moved).max() > 0.4
    scales = np.array([disturbance._scale for disturbance in drawn])
    assert 0.3 < scales.max() <= 0.4
    assert 0.06 < np.median(scales) < 0.14  # a quarter of the largest: weak more often than strong
    persistent = np.array([disturbance._persistence > 0 for disturbance in drawn])
    assert 0.35 < persistent.mean() < 0.65
    assert 0.03 < np.mean([disturbance._jolt_rate > 0 for disturbance in drawn]) < 0.2
