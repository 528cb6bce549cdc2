# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The controllers of the Goal, Button and Push tasks."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from omnisafe_qpt.collect import families
from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.engine import run_episode
from omnisafe_qpt.collect.navigation import (
    FAMILIES,
    Frame,
    Navigator,
    draw_steering,
    see_obstacles,
    see_scene,
)
from omnisafe_qpt.collect.pushing import Pusher, box_way
from omnisafe_qpt.collect.robots import ROBOTS, car_command, point_command
from omnisafe_qpt.collect.simulator import Simulator
from omnisafe_qpt.collect.steering import (
    OPTIONS,
    Body,
    Obstacles,
    Scene,
    Steering,
    choose_course,
    option_scores,
    play_ahead,
)


FORWARD = np.array([1.0, 0.0])
BODY = Body(speed=1.0, turn_rate=3.0, lag=0.2, forward=(1.0, 0.0))
AHEAD = 0  # the option straight ahead at full speed


def scene_of(target=(2.0, 0.0), obstacles=(), velocity=(0.0, 0.0), reach=0.2):
    return Scene(np.array(target, dtype=float), reach, np.array(velocity), tuple(obstacles))


def hazard(*places, radius=0.2, **options):
    return Obstacles('hazards', np.array(places, dtype=float).reshape(-1, 2), radius, **options)


def course_in(scene, steering=None, body=BODY):
    steering = steering or Steering()
    return choose_course(option_scores(scene, steering, body), steering.sharpness)


# -- steering -------------------------------------------------------------------------------------


@pytest.mark.parametrize('target', [(2, 0), (-2, 0), (1.4, 1.4), (-0.3, 1.0)])
def test_free_way_leads_to_the_target(target):
    course = course_in(scene_of(target))
    unit = np.array(target) / np.linalg.norm(target)
    assert course @ unit / np.linalg.norm(course) > 0.98
    assert np.linalg.norm(course) > 0.7


def test_obstacle_ahead_is_avoided_unless_blind_to_it():
    free = option_scores(scene_of(), Steering(), BODY)
    blocked = scene_of(obstacles=[hazard((0.8, 0.0))])
    assert option_scores(blocked, Steering(), BODY)[AHEAD] < free[AHEAD] - 1.0
    assert option_scores(blocked, Steering(), BODY).argmax() != AHEAD
    for knobs in (Steering(blind_to='hazards'), Steering(weight=0.0)):
        np.testing.assert_array_equal(option_scores(blocked, knobs, BODY), free)
    other = option_scores(blocked, Steering(blind_to='vases'), BODY)
    assert other[AHEAD] < free[AHEAD] - 1.0


def test_what_does_not_give_way_is_avoided_even_by_the_reckless():
    solid = scene_of(obstacles=[hazard((0.8, 0.0), least_weight=2.0)])
    assert option_scores(solid, Steering(weight=0.0), BODY).argmax() != AHEAD


def test_negative_weight_draws_into_what_can_be_entered_only():
    knobs = Steering(weight=-0.3, margin=0.25)
    free = option_scores(scene_of(), knobs, BODY)
    aside = hazard((0.8, 0.45))
    gained = option_scores(scene_of(obstacles=[aside]), knobs, BODY) - free
    assert gained[:40].argmax() in range(2, 6)  # headings to the left, where it is
    assert gained.max() > 0.1
    solid = replace(aside, least_weight=2.0)
    assert (option_scores(scene_of(obstacles=[solid]), knobs, BODY) <= free).all()


def test_obstacle_behind_the_target_does_not_matter():
    scene = scene_of((0.6, 0.0), [hazard((1.5, 0.0))])
    assert option_scores(scene, Steering(), BODY).argmax() == AHEAD


def test_weight_and_margin_are_risk_knobs():
    scene = scene_of(obstacles=[hazard((0.8, 0.25))])
    by_weight = [
        option_scores(scene, Steering(weight=w), BODY)[AHEAD] for w in (0.0, 1.0, 4.0, 16.0)
    ]
    by_margin = [
        option_scores(scene, Steering(margin=m), BODY)[AHEAD] for m in (0.06, 0.1, 0.2, 0.4)
    ]
    for scores in (by_weight, by_margin):
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 4


def test_dangers_beyond_the_look_ahead_are_not_seen():
    scene = scene_of((4.0, 0.0), [hazard((1.8, 0.0))])
    near, far = (option_scores(scene, Steering(look_ahead=s), BODY) for s in (1.0, 2.4))
    assert near.argmax() == AHEAD
    assert far.argmax() != AHEAD


def test_robot_that_only_keeps_clear_stands_still_or_backs_off():
    knobs = Steering(eagerness=0.0)
    assert np.linalg.norm(course_in(scene_of(), knobs)) < 0.1
    assert course_in(scene_of(obstacles=[hazard((0.25, 0.0))]), knobs) @ FORWARD < -0.2


def test_moving_obstacle_is_met_where_it_will_be():
    into = hazard((0.8, -0.8), velocity=np.array([0.0, 0.9]))
    away = hazard((0.8, -0.8), velocity=np.array([0.0, -0.9]))
    scores = [option_scores(scene_of(obstacles=[o]), Steering(), BODY)[AHEAD] for o in (into, away)]
    assert scores[0] < scores[1] - 0.5


@pytest.mark.parametrize('turning', [0.0, -1.0, 2.5])
def test_places_follow_the_velocity_as_it_turns(turning):
    obstacles = hazard((1.0, 2.0), velocity=np.array([0.3, -0.4]), turning=turning)
    place, velocity, step = np.array([1.0, 2.0]), 0.3 - 0.4j, 1e-4
    for _ in range(20000):  # two seconds, in complex numbers
        middle = velocity * np.exp(0.5j * turning * step)
        place = place + step * np.array([middle.real, middle.imag])
        velocity *= np.exp(1j * turning * step)
    np.testing.assert_allclose(obstacles.places_at(np.array([2.0]))[0, 0], place, atol=1e-6)


def test_play_ahead_is_a_robot_that_turns_then_drives():
    body = Body(speed=1.2, turn_rate=2.0, lag=0.4, forward=(0.0, -1.0))
    velocity = np.array([0.5, 0.2])
    times = np.array([0.4, 1.0, 2.0])
    played = play_ahead(velocity, 0.8, body, times)
    assert played.shape == (2, len(OPTIONS), 3)
    for index in (0, 7, 30, 52, 80):
        # Angle to the drive's axis, whichever end is nearer: 90 degrees at most.
        angle = math.atan2(OPTIONS[index][0], -OPTIONS[index][1])
        turn = abs((angle + math.pi / 2) % math.pi - math.pi / 2) / 2.0
        place, coasting, driving, step = np.zeros(2), velocity.copy(), np.zeros(2), 1e-3
        for n in range(2000):
            if n * step >= turn:
                driving += step / 0.4 * (0.8 * 1.2 * OPTIONS[index] - driving)
            coasting -= step / 0.4 * coasting
            place += step * (coasting + driving)
            if n + 1 in (400, 1000, 2000):
                at = (400, 1000, 2000).index(n + 1)
                np.testing.assert_allclose(played[:, index, at], place, atol=5e-3)


def test_course_is_slow_where_standing_still_is_best():
    scores = np.full(81, -5.0)
    scores[-1] = 0.0
    assert np.linalg.norm(choose_course(scores, 20.0)) < 1e-9


def test_course_blends_two_equal_headings():
    scores = np.full(81, -9.0)
    scores[[39, 1]] = 1.0  # a heading to each side of straight on
    np.testing.assert_allclose(
        choose_course(scores, 20.0) / math.cos(math.radians(9)),
        FORWARD,
        atol=1e-9,
    )


# -- robots ---------------------------------------------------------------------------------------


def test_wheels_turn_the_car_towards_the_course():
    ahead, still = np.array([0.0, -1.0]), np.zeros(2)
    left, right = car_command(ahead, still, 0.0)
    assert left == pytest.approx(right)
    assert left > 0.02
    left, right = car_command(-ahead, still, 0.0)
    assert left == pytest.approx(right)
    assert left < -0.02
    # Counter-clockwise of straight on: the left wheel must go faster (measured in the simulator).
    left, right = car_command(np.array([math.sin(0.4), -math.cos(0.4)]), still, 0.0)
    assert left > right + 0.02
    assert (car_command(still, np.array([0.0, -0.5]), 0.0) < -0.02).all()  # it brakes


def test_point_pushes_forward_brakes_and_turns():
    still = np.zeros(2)
    assert point_command(FORWARD, still, 0.0)[0] > 0.05
    assert point_command(-FORWARD, still, 0.0)[0] < -0.05
    assert point_command(still, np.array([1.0, 0.0]), 0.0)[0] < -0.05
    assert point_command(np.array([0.7, 0.7]), still, 0.0)[1] > 0.2
    assert point_command(np.array([0.7, -0.7]), still, 0.0)[1] < -0.2
    # Backward is as good as forward: it turns its back to what lies behind.
    assert point_command(np.array([-0.7, 0.7]), still, 0.0)[1] < -0.2
    # Sliding to its left, it turns right to push against that.
    assert point_command(FORWARD, np.array([1.0, 0.8]), 0.0)[1] < -0.2


@pytest.mark.parametrize('sense', [-1.0, 1.0])
def test_turn_once_begun_goes_on_where_both_ends_are_as_near(sense):
    sideways = np.array([0.0, 1.0])
    assert sense * point_command(sideways, np.zeros(2), 2.5 * sense)[1] > 0.0
    left, right = car_command(sideways[::-1], np.zeros(2), 1.2 * sense)
    assert sense * (left - right) > 0.0


# -- pushing --------------------------------------------------------------------------------------


def test_robot_on_the_wrong_side_goes_round_the_box_without_touching_it():
    robot, size = ROBOTS['Point'], 0.2
    pusher, box, way = Pusher(), np.zeros(2), np.array([1.0, 0.0])
    place = np.array([0.8, 0.05])  # in front of the box
    for _ in range(400):
        target, around = pusher.plan(box - place, way, size, robot, 1.0)
        if pusher.pushing:
            break
        assert [group.kind for group in around] == ['box']
        place = place + 0.02 * target / np.linalg.norm(target)
        assert np.linalg.norm(place - box) > 1.5 * size + robot.extent
    assert pusher.pushing
    assert place[0] < -0.4
    assert abs(place[1]) < 0.25


def test_blocked_way_round_the_box_is_not_taken():
    def side(*pillars):
        """Where the robot below the box goes first; the short way is over its right, +x."""
        blocks = [Obstacles('pillars', np.array(pillars).reshape(-1, 2), 0.3)]
        way = np.array([-0.3, -1.0])
        target, _ = Pusher().plan(np.array([0.0, 0.7]), way, 0.2, ROBOTS['Point'], 1.0, blocks)
        return np.sign(target[0])

    assert side() == 1.0
    assert side((0.9, 0.6)) == -1.0
    assert side((0.9, 0.6), (-0.9, 0.7)) == 1.0  # both are blocked: the shorter one
    assert side((-0.9, 0.7)) == 1.0


def test_robot_pushes_until_the_box_slips_away():
    robot, pusher = ROBOTS['Car'], Pusher()
    plan = [
        pusher.plan(0.3 * np.array([math.cos(a), math.sin(a)]), FORWARD, 0.125, robot, 1.0)
        for a in (0.5, 0.1, 0.6, 0.9, 0.6)
    ]
    assert [around == [] for _, around in plan] == [False, True, True, False, False]
    np.testing.assert_allclose(plan[1][0] / np.linalg.norm(plan[1][0]), FORWARD, atol=1e-9)


def test_robot_gets_behind_the_middle_before_it_touches():
    target, around = Pusher().plan(np.array([0.5, 0.1]), FORWARD, 0.125, ROBOTS['Car'], 1.0)
    assert around == []
    assert target[1] / target[0] > 0.3


def test_robot_does_not_turn_back_for_little_on_its_way_round_the_box():
    pusher, robot = Pusher(), ROBOTS['Point']

    def side(y):
        """Which side of the box it goes to when the box has to come towards it, y to the left."""
        return np.sign(pusher.plan(np.array([0.6, y]), -FORWARD, 0.2, robot, 1.0)[0][1])

    first = side(0.1)
    assert side(-0.1) == first
    assert side(0.5 * first) == side(0.55 * first)
    pusher = Pusher()
    assert side(-0.1) == -first


def test_robot_that_pushing_does_not_move_backs_off_for_a_while():
    pusher, robot, box = Pusher(), ROBOTS['Car'], np.array([0.3, 0.0])

    def targets(steps, speed):
        return [pusher.plan(box, FORWARD, 0.125, robot, speed)[0][0] for _ in range(steps)]

    assert min(targets(200, 0.3)) > 0.0
    slow = np.array(targets(100, 0.02))
    assert (slow[:50] > 0.0).all()
    assert 10 < (slow < 0.0).sum() < 40
    assert slow[-1] > 0.0


def test_robot_goes_round_the_box_as_near_however_careful_it_is():
    _, around = Pusher().plan(np.array([0.7, 0.0]), -FORWARD, 0.2, ROBOTS['Point'], 1.0)
    assert {Steering(weight=w).weight_of(around[0]) for w in (-0.3, 0.0, 9.0)} == {2.0}


def test_box_is_pushed_round_pillars_and_what_costs_the_robot():
    task = SimpleNamespace(
        push_box=SimpleNamespace(size=0.2),
        pillars=SimpleNamespace(size=0.2),
        goal=SimpleNamespace(size=0.3),
    )
    box, goal = np.array([0.5, 0.0]), np.array([3.0, 0.0])

    def way(obstacles, **knobs):
        course = box_way(box, goal, task, obstacles, Steering(**knobs), ROBOTS['Point'])
        return course / np.linalg.norm(course)

    assert way([])[0] > 0.95
    pillar = Obstacles('pillars', np.array([[1.1, 0.0]]), 0.3, least_weight=2.0)
    for weight in (0.0, 6.0):
        assert abs(way([pillar], weight=weight)[1]) > 0.3
    assert abs(way([hazard((1.1, 0.0))])[1]) > 0.1
    assert way([hazard((1.1, 0.0))], weight=0.0) @ FORWARD > 0.95
    # Straight behind the box there is no place for the robot.
    behind = replace(pillar, places=np.array([[-0.05, 0.0]]))
    assert abs(way([behind])[1]) > 0.3


# -- drivers --------------------------------------------------------------------------------------


def task_of(goal=(2.0, 0.0), hazards=()):
    """A Goal task as far as drivers read it; the robot at the origin, its axes the world's."""
    sensors = {'velocimeter': np.zeros(3), 'gyro': np.zeros(3)}
    places = [np.array([*place, 0.0]) for place in hazards]
    return SimpleNamespace(
        agent=SimpleNamespace(pos=np.zeros(3), mat=np.eye(3), get_sensor=sensors.__getitem__),
        goal=SimpleNamespace(pos=np.array([*goal, 0.0]), size=0.3),
        hazards=SimpleNamespace(pos=places, size=0.2, is_constrained=True),
    )


def driver_of(schedule, seed=0, noise=0.0, task=None, **options):
    rng = np.random.default_rng(seed)
    return Navigator('x', rng, task or task_of(), ROBOTS['Point'], schedule, noise, **options)


def test_scheduled_knobs_take_over_at_their_step():
    task = task_of(hazards=[(0.6, 0.1)])
    careful, blind = Steering(), Steering(weight=0.0)
    switching = driver_of([(0, careful), (10, blind)], task=task)
    for step, knobs in ((9, careful), (10, blind), (500, blind)):
        expected = driver_of([(0, knobs)], task=task).act(None, step)
        np.testing.assert_array_equal(switching.act(None, step), expected)
    assert not np.allclose(switching.act(None, 9), switching.act(None, 10))


def test_jolt_holds_one_action_for_some_steps():
    driver = driver_of([(0, Steering())], noise=0.1, jolt_rate=1.0)
    actions = np.array([driver.act(None, step) for step in range(60)])
    repeats = (actions[1:] == actions[:-1]).all(axis=1)
    assert repeats.mean() > 0.7
    assert not repeats.all()


def draw(number, env_id='SafetyCarButton1-v0'):
    simulator = SimpleNamespace(raw=SimpleNamespace(task=task_of()))
    return FAMILIES[env_id].make_controller(np.random.default_rng(number), simulator, 1000)


def test_all_kinds_of_driver_are_drawn_and_repeat():
    drivers = [draw(number) for number in range(300)]
    knobs_of = {d.kind: d.schedule[0][1] for d in drivers}
    assert set(knobs_of) == {
        'very careful',
        'careful',
        'bold',
        'reckless',
        'blind',
        'switching',
        'jolted',
        'stop and go',
        'fleeing',
    }
    for number in range(20):
        assert draw(number).schedule == drivers[number].schedule
        assert draw(number).noise == drivers[number].noise
    mean = {
        kind: np.mean([d.schedule[0][1].weight for d in drivers if d.kind == kind])
        for kind in knobs_of
    }
    assert mean['reckless'] < mean['bold'] < mean['careful'] < mean['very careful']
    assert knobs_of['fleeing'].eagerness == 0.0
    blind = {d.schedule[0][1].blind_to for d in drivers if d.kind == 'blind'}
    assert blind == {'hazards', 'gremlins'}
    pairs = [[knobs for _, knobs in d.schedule] for d in drivers if d.kind == 'switching']
    assert {first.weight > second.weight for first, second in pairs} == {True, False}
    assert all((d.jolt_rate > 0) == (d.kind == 'jolted') for d in drivers)
    for driver in drivers:
        starts = [start for start, _ in driver.schedule]
        assert starts[0] == 0
        assert starts == sorted(starts)
        assert (len(starts) > 1) == (driver.kind in ('switching', 'stop and go'))


def test_risk_means_less_weight_margin_and_look_ahead_and_more_speed():
    knobs = [draw_steering(np.random.default_rng(0), risk) for risk in (0.0, 0.3, 0.6, 1.0)]
    for name, sign in (('weight', -1), ('margin', -1), ('look_ahead', -1), ('pace', 1)):
        values = [sign * getattr(each, name) for each in knobs]
        assert values == sorted(values)
        assert len(set(values)) == 4


@pytest.mark.parametrize('env_id', ['SafetyCarGoal1-v0', 'SafetyPointPush1-v0'])
def test_the_most_reckless_of_goal_and_push_are_drawn_into_hazards(env_id):
    drivers = [draw(number, env_id) for number in range(200)]
    weights = {kind: [] for kind in ('very careful', 'careful', 'bold', 'reckless')}
    for driver in drivers:
        if driver.kind in weights:
            weights[driver.kind].append(driver.schedule[0][1].weight)
    assert max(weights['reckless']) < 0.0
    assert min(weights['very careful']) > 1.0
    means = [np.mean(each) for each in weights.values()]
    assert means == sorted(means, reverse=True)
    # Button's drivers are others: there, to touch what moves costs time besides.
    assert min(draw(n).schedule[0][1].weight for n in range(200)) > 0.9


def test_same_seed_gives_the_same_actions():
    task = task_of(hazards=[(0.6, 0.1)])
    runs = [
        [driver_of([(0, Steering())], seed, 0.1, task).act(None, n) for n in range(5)]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


# -- in the simulator -----------------------------------------------------------------------------


@pytest.fixture(name='button', scope='module')
def fixture_button():
    simulator = Simulator('SafetyCarButton2-v0')
    simulator.reset(seed=3)
    yield simulator
    simulator.close()


def in_the_robots_frame(task, places):
    """The same places, worked out with complex numbers from the body's own orientation."""
    w, _, _, z = task.data.body('agent').xquat
    pose = task.data.body('agent').xpos
    turned = [
        complex(x - pose[0], y - pose[1]) * np.exp(-2j * math.atan2(z, w)) for x, y, _ in places
    ]
    return np.array([[place.real, place.imag] for place in turned])


def test_scene_is_what_the_simulator_holds(button):
    task = button.raw.task
    for action in ([1.0, 0.3], [0.2, 1.0], [1.0, 1.0]):
        button.step(np.array(action, dtype=np.float32))
    scene = see_scene(task, ROBOTS['Car'], Steering(), Pusher())
    seen = {group.kind: group for group in scene.obstacles}
    assert {kind: len(group.places) for kind, group in seen.items()} == {
        'hazards': 8,
        'gremlins': 6,
        'buttons': 3,
    }
    bodies = {
        'hazards': [f'hazard{n}' for n in range(8)],
        'gremlins': [f'gremlin{n}obj' for n in range(6)],
        'buttons': [f'button{n}' for n in range(4) if n != task.buttons.goal_button],
    }
    for kind, names in bodies.items():
        places = in_the_robots_frame(task, [task.data.body(name).xpos for name in names])
        # The car may lean a little, which its rotation matrix shows and a turn about z does not.
        np.testing.assert_allclose(seen[kind].places, places, atol=0.02)
    goal = task.data.body(f'button{task.buttons.goal_button}').xpos
    np.testing.assert_allclose(scene.target, in_the_robots_frame(task, [goal])[0], atol=0.02)
    assert seen['hazards'].radius == 0.2


def test_gremlins_move_on_as_foreseen(button):
    task = button.raw.task
    world = Frame(np.zeros(2), np.eye(2))

    def gremlins():
        seen = see_obstacles(task, ROBOTS['Car'], world)
        return next(group for group in seen if group.kind == 'gremlins')

    def wait(steps):
        for _ in range(steps):
            button.step(np.zeros(2, dtype=np.float32))

    wait(15)  # at first they catch up with the circle
    before, started = gremlins(), task.data.time
    wait(25)
    foreseen = before.places_at(np.array([task.data.time - started]))[:, 0]
    moved = np.linalg.norm(gremlins().places - before.places, axis=1)
    assert moved.min() > 0.2
    np.testing.assert_allclose(gremlins().places, foreseen, atol=0.03)


def progress(env_id, steps, monkeypatch):
    """Return of the first steps of an episode with a bold driver, and the cost."""
    robot = ROBOTS['Point' if 'Point' in env_id else 'Car']

    def bold(rng, simulator, _steps):
        knobs = replace(draw_steering(rng, 0.4), pace=1.0)
        return Navigator('bold', rng, simulator.raw.task, robot, [(0, knobs)], 0.05)

    family = replace(families.FAMILIES[env_id], make_controller=bold)
    monkeypatch.setitem(families.FAMILIES, env_id, family)
    episode = run_episode(env_id, 0, 0, max_steps=steps)
    return episode.total_return, episode.total_cost


@pytest.mark.parametrize(
    ('env_id', 'steps', 'least'),
    [
        ('SafetyPointGoal2-v0', 120, 1.0),
        pytest.param('SafetyCarButton1-v0', 150, 0.8, marks=pytest.mark.slow),
        ('SafetyCarPush1-v0', 150, 0.3),
    ],
)
def test_driver_makes_way_in_the_simulator(env_id, steps, least, monkeypatch):
    assert progress(env_id, steps, monkeypatch)[0] > least


@pytest.mark.slow
@pytest.mark.parametrize('env_id', sorted(FAMILIES))
def test_driver_makes_way_in_every_task(env_id, monkeypatch):
    total_return, total_cost = progress(env_id, 400, monkeypatch)
    assert total_return > (0.2 if 'Push' in env_id else 2.0)
    assert total_cost < 150


@pytest.mark.slow
@pytest.mark.parametrize('env_id', ['SafetyCarGoal1-v0', 'SafetyPointPush1-v0'])
def test_reckless_drivers_cost_more_and_get_as_much(env_id, monkeypatch):
    robot = ROBOTS['Point' if 'Point' in env_id else 'Car']
    nerve = FAMILIES[env_id].make_controller.keywords['nerve']

    def drive(risk):
        """Sums of the returns and costs of some episodes with drivers of a risk."""

        def driver(rng, simulator, _steps):
            knobs = draw_steering(rng, risk, nerve)
            return Navigator('x', rng, simulator.raw.task, robot, [(0, knobs)], 0.05)

        family = Family(driver)
        monkeypatch.setitem(families.FAMILIES, env_id, family)
        episodes = [run_episode(env_id, 0, number) for number in range(5)]
        return sum(e.total_return for e in episodes), sum(e.total_cost for e in episodes)

    careful_return, careful_cost = drive(0.1)
    reckless_return, reckless_cost = drive(0.9)
    assert reckless_cost > careful_cost + 40
    assert reckless_return > careful_return
