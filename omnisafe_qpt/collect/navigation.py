# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of Safety-Gymnasium's Goal, Button and Push tasks.

They read positions and velocities from the simulator and steer by :mod:`~.steering`'s rule. Each
episode draws its risk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.pushing import Pusher, box_way
from omnisafe_qpt.collect.robots import ROBOTS, Robot
from omnisafe_qpt.collect.simulator import Simulator
from omnisafe_qpt.collect.steering import (
    SOLID_WEIGHT,
    Obstacles,
    Scene,
    Steering,
    choose_course,
    option_scores,
)


# How far each kind of obstacle reaches from its centre, in units of its size: boxes have corners.
_REACHES = {'vases': 1.3, 'gremlins': 1.4, 'buttons': 1.0, 'pillars': 1.0}


# -- what the simulator shows ---------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """The robot's own frame of reference.

    Args:
        origin (np.ndarray): Where it is, shape (2,).
        axes (np.ndarray): Its x and y axis as columns, shape (2, 2).
    """

    origin: np.ndarray
    axes: np.ndarray

    def locate(self, positions: Any) -> np.ndarray:
        """Turn positions in the world, of shape (..., 3), into places in this frame, (..., 2)."""
        return (np.asarray(positions)[..., :2] - self.origin) @ self.axes


def see_obstacles(task: Any, robot: Robot, frame: Frame) -> list[Obstacles]:
    """Read the obstacles from the simulator: objects with a cost, and all pillars.

    Args:
        task (Any): Safety-Gymnasium's task.
        robot (Robot): The robot in it.
        frame (Frame): The robot's frame.

    Returns:
        The obstacles by kind.
    """
    seen = []
    for kind in ('hazards', 'vases', 'gremlins', 'buttons', 'pillars'):
        things = getattr(task, kind, None)
        if things is None or not (things.is_constrained or kind == 'pillars'):
            continue
        places = frame.locate(things.pos)
        if kind == 'hazards':  # entered by the robot's centre, not touched
            seen.append(Obstacles(kind, places, things.size))
            continue
        radius = _REACHES[kind] * things.size + robot.extent
        if kind == 'gremlins':
            # All circle in phase, clockwise, one radian a second.
            phase = float(task.data.time)
            velocity = things.travel * np.array([math.cos(phase), -math.sin(phase)]) @ frame.axes
            seen.append(Obstacles(kind, places, radius, velocity, turning=-1.0))
        elif kind == 'buttons':
            wrong = np.arange(things.num) != things.goal_button
            seen.append(Obstacles(kind, places[wrong], radius, least_weight=SOLID_WEIGHT))
        else:
            least = SOLID_WEIGHT if kind == 'pillars' else 0.0
            seen.append(Obstacles(kind, places, radius, least_weight=least))
    return seen


def see_scene(task: Any, robot: Robot, steering: Steering, pusher: Pusher) -> Scene:
    """Read the robot's scene from the simulator.

    Args:
        task (Any): Safety-Gymnasium's task.
        robot (Robot): The robot in it.
        steering (Steering): The parameters, which determine where a box is pushed along.
        pusher (Pusher): Plans the pushing, if there is a box.

    Returns:
        The scene.
    """
    velocity = task.agent.get_sensor('velocimeter')[:2]
    frame = Frame(task.agent.pos[:2], task.agent.mat[:2, :2])
    obstacles = see_obstacles(task, robot, frame)
    goal = frame.locate(task.goal.pos)
    if hasattr(task, 'push_box'):
        box = frame.locate(task.push_box.pos)
        way = box_way(box, goal, task, obstacles, steering, robot)
        heeded = [group for group in obstacles if steering.weight_of(group) > 0.0]
        speed = math.hypot(*velocity)
        target, around = pusher.plan(box, way, task.push_box.size, robot, speed, heeded)
        obstacles += around
        reach = 0.05
    else:
        target = goal
        # Buttons have to be touched.
        reach = 0.5 * robot.extent + 0.05 if hasattr(task, 'buttons') else task.goal.size - 0.05
    return Scene(target, reach, velocity, tuple(obstacles))


# -- driving --------------------------------------------------------------------------------------


@dataclass
class Navigator:
    """Drives a robot.

    Args:
        kind (str): Name of its parameters.
        rng (np.random.Generator): Source of the noise.
        task (Any): Safety-Gymnasium's task, which it reads.
        robot (Robot): The robot.
        schedule (Sequence[tuple[int, Steering]]): Steps from which each set of parameters holds.
        noise (float): Standard deviation of the noise on the actions.
        jolt_rate (float): How often a step starts a jolt, some steps of one random action, from
            which the driver has to recover.
    """

    kind: str
    rng: np.random.Generator
    task: Any
    robot: Robot
    schedule: Sequence[tuple[int, Steering]]
    noise: float
    jolt_rate: float = 0.0
    _pusher: Pusher = field(default_factory=Pusher, init=False)
    _jolt: np.ndarray = field(default_factory=lambda: np.zeros(2), init=False)
    _jolt_steps: int = field(default=0, init=False)

    def act(self, _observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for the simulator's state."""
        noise = self.noise * self.rng.standard_normal(2)
        if self._jolt_steps == 0 and self.rng.random() < self.jolt_rate:
            self._jolt_steps = int(self.rng.integers(4, 16))
            self._jolt = self.rng.uniform(-1.0, 1.0, 2)
        if self._jolt_steps > 0:
            self._jolt_steps -= 1
            return self._jolt
        steering = [knobs for start, knobs in self.schedule if start <= step][-1]
        scene = see_scene(self.task, self.robot, steering, self._pusher)
        scores = option_scores(scene, steering, self.robot.body)
        course = steering.pace * choose_course(scores, steering.sharpness)
        yaw_rate = float(self.task.agent.get_sensor('gyro')[2])
        return self.robot.command(course, scene.velocity, yaw_rate) + noise


@dataclass(frozen=True)
class Nerve:
    """Weight of obstacles as a function of the risk, for some tasks.

    Args:
        last (float): Final value.
        power (float): Exponent of the decrease: the higher, the lower the weight at medium risks.
        least (float, optional): Lower bound. Defaults to none.
        pull (float, optional): Metres around hazards from which those with a weight below 0 are
            drawn into them. Defaults to 0.25.
    """

    last: float
    power: float
    least: float = -math.inf
    pull: float = 0.25

    def weight_at(self, risk: float) -> float:
        """Return the weight at a risk from 0 to 1."""
        return max(self.least, self.last + (9.0 - self.last) * (1.0 - risk) ** self.power)


# With less weight than 1.4 robots run into gremlins, which costs more and is no faster.
_AMONG_GREMLINS = Nerve(0.6, 1.5, 1.4)


def draw_steering(
    rng: np.random.Generator,
    risk: float,
    nerve: Nerve = _AMONG_GREMLINS,
) -> Steering:
    """Draw steering parameters for a risk.

    Args:
        rng (np.random.Generator): Random generator.
        risk (float): From 0, slow and well clear of everything, to 1, straight and at full speed.
        nerve (Nerve, optional): Weight as a function of the risk. Defaults to that of the Button
            tasks.

    Returns:
        The parameters.
    """
    weight = nerve.weight_at(risk) * rng.uniform(0.7, 1.3)
    return Steering(
        weight=weight,
        # Hazards that draw a robot on do so from farther away, or it would linger in the middle.
        margin=0.25 - 0.13 * risk if weight > 0.0 else nerve.pull,
        look_ahead=2.4 - 0.6 * risk,
        pace=min(1.0, 0.5 + 0.5 * risk + rng.uniform(-0.05, 0.05)),
    )


# Probability of each type of driver, with its range of risks.
_KINDS = {
    'very careful': (0.15, 0.0, 0.15),
    'careful': (0.25, 0.15, 0.4),
    'bold': (0.18, 0.4, 0.75),
    'reckless': (0.2, 0.75, 1.0),
    'blind': (0.06, 0.2, 0.6),
    'switching': (0.06, 0.0, 0.3),
    'jolted': (0.04, 0.0, 0.5),
    'stop and go': (0.03, 0.0, 0.5),
    'fleeing': (0.03, 0.0, 0.4),
}


def make_navigator(
    rng: np.random.Generator,
    simulator: Simulator,
    steps: int,
    *,
    robot: Robot,
    blind_to: tuple[str, ...],
    nerve: Nerve,
) -> Navigator:
    """Draw a driver for an episode.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        simulator (Simulator): The simulator that the driver reads.
        steps (int): Steps in the episode.

    Keyword Args:
        robot (Robot): The robot of the task.
        blind_to (tuple[str, ...]): The kinds of obstacle that a blind driver may not see.
        nerve (Nerve): Weight of obstacles as a function of the risk.

    Returns:
        The driver.
    """
    kind = str(rng.choice(list(_KINDS), p=[share for share, _, _ in _KINDS.values()]))
    steering = draw_steering(rng, rng.uniform(*_KINDS[kind][1:]), nerve)
    still = replace(steering, eagerness=0.0)
    schedule = [(0, steering)]
    if kind == 'blind':
        schedule = [(0, replace(steering, blind_to=str(rng.choice(blind_to))))]
    elif kind == 'switching':
        both = [steering, draw_steering(rng, rng.uniform(0.7, 1.0), nerve)]
        if rng.random() < 0.5:
            both.reverse()
        schedule = [(0, both[0]), (int(rng.integers(steps // 4, 3 * steps // 4 + 1)), both[1])]
    elif kind == 'stop and go':
        starts = np.cumsum(rng.integers(20, 120, size=steps // 20)).tolist()
        schedule += [(start, (still, steering)[n % 2]) for n, start in enumerate(starts)]
    elif kind == 'fleeing':
        schedule = [(0, still)]
    return Navigator(
        kind,
        rng,
        simulator.raw.task,
        robot,
        schedule,
        noise=rng.uniform(0.05, 0.2),
        jolt_rate=0.015 if kind == 'jolted' else 0.0,
    )


# The obstacles that a blind driver does not see, and the weight of obstacles. Hazards can be driven
# through, and a straight path rarely meets one, so drivers of high risk must seek them.
_TASKS = {
    'Goal1': (('hazards',), Nerve(-0.25, 4.0)),
    'Goal2': (('hazards', 'vases'), Nerve(0.1, 4.0)),
    'Button1': (('hazards', 'gremlins'), _AMONG_GREMLINS),
    'Button2': (('hazards', 'gremlins'), _AMONG_GREMLINS),
    'Push1': (('hazards',), Nerve(-0.5, 6.0, pull=0.4)),
    'Push2': (('hazards',), Nerve(-0.5, 6.0, pull=0.4)),
}


def _families() -> dict[str, Family]:
    """Return the controllers of the twelve tasks."""
    return {
        f'Safety{name}{task}-v0': Family(
            partial(make_navigator, robot=robot, blind_to=blind_to, nerve=nerve),
        )
        for name, robot in ROBOTS.items()
        for task, (blind_to, nerve) in _TASKS.items()
    }


FAMILIES: dict[str, Family] = _families()
