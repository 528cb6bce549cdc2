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
"""The controllers of the Button tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnisafe_qpt.collect import navigation
from omnisafe_qpt.collect.navigation import (
    ButtonDriver,
    Scene,
    Steering,
    choose_course,
    decode_ring,
    heading_scores,
    make_button_driver,
    see_scene,
    wheel_commands,
)


FORWARD = np.array([0.0, -1.0])


def ring_of(places, bins=16):
    """What Safety-Gymnasium's pseudo-lidar reads for objects at these places, worked out here."""
    ring = np.zeros(bins)
    for x, y in places:
        closeness = max(0.0, 3.0 - math.hypot(x, y)) / 3.0
        where = (math.atan2(y, x) % (2 * math.pi)) / (2 * math.pi / bins)
        own, share = int(where), where - int(where)
        for index, value in ((own, 1.0), (own + 1, share), (own - 1, 1.0 - share)):
            ring[index % bins] = max(ring[index % bins], value * closeness)
    return ring


def scene_of(goal=(0.0, -2.0), hazards=(), gremlins=(), buttons=(), phase=0.0):
    def places(points):
        return np.array(points, dtype=np.float64).reshape(-1, 2)

    return Scene(
        goal=np.array(goal, dtype=np.float64),
        hazards=places(hazards),
        gremlins=places(gremlins),
        buttons=places(buttons),
        east=np.array([1.0, 0.0]),
        north=np.array([0.0, 1.0]),
        phase=phase,
    )


def course_in(scene, steering=None):
    steering = steering or Steering()
    return choose_course(heading_scores(scene, steering), steering.sharpness)


def observation_of(**rings):
    observation = np.zeros(88, dtype=np.float32)
    observation[9:11] = (0.0, -0.5)  # the car's axes are the world's
    for name, places in rings.items():
        observation[navigation._RINGS[name]] = ring_of(places)
    return observation


# -- what the lidar shows -------------------------------------------------------------------------


@pytest.mark.parametrize('angle', np.linspace(0.01, 6.27, 23))
@pytest.mark.parametrize('distance', [0.2, 1.0, 2.5])
def test_ring_gives_an_object_back(angle, distance):
    place = distance * np.array([math.cos(angle), math.sin(angle)])
    np.testing.assert_allclose(decode_ring(ring_of([place])), [place], atol=1e-9)


def test_ring_gives_several_objects_back():
    places = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, -2.0]])
    found = decode_ring(ring_of(places))
    assert len(found) == len(places)
    for place in places:
        assert np.linalg.norm(found - place, axis=1).min() < 1e-9


def test_empty_ring_has_no_object():
    assert decode_ring(np.zeros(16)).shape == (0, 2)


def test_goal_button_is_no_obstacle():
    scene = see_scene(observation_of(goal=[(0, -1)], buttons=[(0, -1), (1.5, 0.3)]), 0)
    np.testing.assert_allclose(scene.goal, [0, -1], atol=1e-6)
    np.testing.assert_allclose(scene.buttons, [[1.5, 0.3]], atol=1e-6)


def test_magnetometer_and_step_give_axes_and_phase():
    observation = observation_of(goal=[(0, -1)])
    observation[9:11] = (-0.5, 0.0)  # the field, the world's -y, lies along the car's -x
    scene = see_scene(observation, 50)
    np.testing.assert_allclose(scene.north, [1, 0], atol=1e-9)
    np.testing.assert_allclose(scene.east, [0, -1], atol=1e-9)
    assert scene.phase == pytest.approx(2.0)


# -- steering -------------------------------------------------------------------------------------


@pytest.mark.parametrize('goal', [(0, -2), (0, 2), (1.4, 1.4), (-2, 0)])
def test_free_way_leads_to_the_goal(goal):
    course = course_in(scene_of(goal))
    unit = np.array(goal) / np.linalg.norm(goal)
    assert course @ unit / np.linalg.norm(course) > 0.98
    assert np.linalg.norm(course) > 0.7


@pytest.mark.parametrize('kind', ['hazards', 'gremlins', 'buttons'])
def test_obstacle_ahead_is_avoided_unless_blind_to_it(kind):
    obstacle = {kind: [(0.0, -0.6)]}
    blind = Steering(weights=tuple(0.0 if kind == k else 6.0 for k in navigation._OBSTACLES))
    free = heading_scores(scene_of(), blind)
    np.testing.assert_allclose(heading_scores(scene_of(**obstacle), blind), free)
    ahead = int(np.argmax(navigation._DIRECTIONS @ FORWARD))
    assert heading_scores(scene_of(**obstacle), Steering())[ahead] < free[ahead] - 1.0
    assert np.argmax(heading_scores(scene_of(**obstacle), Steering())) != ahead


def test_obstacle_behind_the_goal_does_not_matter():
    scene = scene_of(goal=(0, -0.6), hazards=[(0, -1.3)])
    ahead = int(np.argmax(navigation._DIRECTIONS @ FORWARD))
    assert np.argmax(heading_scores(scene, Steering())) == ahead


def test_weight_is_a_risk_knob():
    scene = scene_of(hazards=[(0.15, -0.8)])
    ahead = int(np.argmax(navigation._DIRECTIONS @ FORWARD))
    scores = [
        heading_scores(scene, Steering(weights=(weight,) * 3))[ahead] for weight in (0, 1, 4, 16)
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_gremlins_move_on_while_the_car_drives():
    # At phase 0 gremlins move along the world's x, at phase pi against it.
    ahead = int(np.argmax(navigation._DIRECTIONS @ FORWARD))
    into, away = (
        heading_scores(scene_of(gremlins=[(-0.55, -0.6)], phase=phase), Steering())[ahead]
        for phase in (0.0, math.pi)
    )
    assert into < away - 0.1


def test_car_backs_off_a_button_that_it_touches():
    course = course_in(scene_of(goal=(0, 2), buttons=[(0, -0.27)]))
    assert course @ FORWARD < -0.5


def test_course_is_slow_where_standing_still_is_best():
    scores = np.full(41, -5.0)
    scores[-1] = 0.0
    assert np.linalg.norm(choose_course(scores, 20.0)) < 1e-9


def test_course_blends_two_equal_headings():
    scores = np.full(41, -9.0)
    scores[[29, 31]] = 1.0  # a heading to each side of straight on
    np.testing.assert_allclose(
        choose_course(scores, 20.0) / math.cos(math.radians(9)),
        FORWARD,
        atol=1e-9,
    )


def test_wheels_turn_the_car_towards_the_course():
    still = observation_of()
    left, right = wheel_commands(FORWARD, still)
    assert left == pytest.approx(right)
    assert left > 0.02
    left, right = wheel_commands(-FORWARD, still)
    assert left == pytest.approx(right)
    assert left < -0.02
    # Counter-clockwise of straight on: the left wheel must go faster (measured in the simulator).
    left, right = wheel_commands(np.array([math.sin(0.4), -math.cos(0.4)]), still)
    assert left > right + 0.02


def test_wheels_brake_a_car_that_shall_stand():
    moving = observation_of()
    moving[navigation._SPEED] = -0.5  # forward
    assert (wheel_commands(np.zeros(2), moving) < -0.02).all()


# -- drivers --------------------------------------------------------------------------------------


def test_switching_driver_changes_its_knobs_at_the_step():
    observation = observation_of(goal=[(0, -2)], hazards=[(0, -0.6)])
    careful, blind = Steering(), Steering(weights=(0.0, 0.0, 0.0))

    def drive(step, **options):
        driver = ButtonDriver('x', np.random.default_rng(0), noise=0.0, **options)
        return driver.act(observation, step)

    switching = {'steering': careful, 'later': blind, 'switch_step': 10}
    np.testing.assert_array_equal(drive(9, **switching), drive(9, steering=careful))
    np.testing.assert_array_equal(drive(10, **switching), drive(10, steering=blind))
    assert not np.allclose(drive(9, **switching), drive(10, **switching))


def test_jolt_holds_one_action_for_some_steps():
    driver = ButtonDriver('x', np.random.default_rng(0), Steering(), 0.1, jolt_rate=1.0)
    observation = observation_of(goal=[(0, -2)])
    actions = np.array([driver.act(observation, step) for step in range(60)])
    repeats = (actions[1:] == actions[:-1]).all(axis=1)
    assert repeats.mean() > 0.7
    assert not repeats.all()


def test_all_kinds_of_driver_are_drawn_and_repeat():
    def draw(number):
        return make_button_driver(np.random.default_rng(number), None, 1000)

    drivers = [draw(number) for number in range(200)]
    kinds = {driver.kind for driver in drivers}
    assert kinds == {
        'careful',
        'very careful',
        'bold',
        'jolted',
        'blind',
        'reckless',
        'switching',
    }
    for number in range(20):
        assert draw(number).steering == drivers[number].steering
    mean_weight = {
        kind: np.mean([driver.steering.weights for driver in drivers if driver.kind == kind])
        for kind in kinds
    }
    assert mean_weight['reckless'] < mean_weight['bold'] < mean_weight['careful']
    assert mean_weight['careful'] < mean_weight['very careful']
    assert all(0.0 in d.steering.weights for d in drivers if d.kind == 'blind')
