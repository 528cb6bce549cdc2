# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the controllers of Run and Circle tasks aim for.

A plan knows the task and no robot: where to be and how fast to go at each step. Half of the
episodes or so keep the limits; the others break them on purpose for some of their steps, and the
risk knob says for how many. :class:`Runner` and :class:`Circler` turn a plan into the velocity
that is wanted now, and a :class:`Robot` turns that into an action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from omnisafe_qpt.collect.disturbance import Disturbance


_CARE_KINDS = {'careful': 0.4, 'slow': 0.2, 'swerving': 0.2, 'wandering': 0.2}


def draw_risk(rng: np.random.Generator, safe_share: float = 0.45) -> float:
    """Draw the risk knob of an episode.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        safe_share (float, optional): How often it is 0. Defaults to 0.45.

    Returns:
        0, or anything up to 1, the highest cost that is wanted in a dataset.
    """
    return 0.0 if rng.random() < safe_share else float(rng.uniform())


def draw_mistuning(rng: np.random.Generator) -> float:
    """Draw a factor for a well-tuned gain: mostly near 1, in every fourth episode far from it."""
    return float(draw_mistunings(rng, 1)[0])


def draw_mistunings(rng: np.random.Generator, number: int) -> np.ndarray:
    """Draw such factors for gains that are all well tuned or all sloppy, shape (number,)."""
    spread = 0.4 if rng.random() < 0.25 else 0.07
    return np.exp(rng.normal(0.0, spread, number))


def draw_moments(rng: np.random.Generator, steps: int, count: int) -> tuple[str, np.ndarray]:
    """Draw the steps of an episode at which a plan breaks a limit.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.
        count (int): How many of them to draw.

    Returns:
        What the pattern is called, ``'early'``, ``'late'`` or ``'bursts'``, and for each step
        whether it is one of them, shape (steps,).
    """
    count = min(count, steps)
    moments = np.zeros(steps, dtype=bool)
    pattern = str(rng.choice(['early', 'late', 'bursts']))
    if pattern == 'early':
        moments[:count] = True
    elif pattern == 'late':
        moments[steps - count :] = True
    else:
        number = int(rng.integers(1, 6))
        for stretch in np.array_split(np.arange(steps), number):
            length = min(round(count / number), len(stretch))
            start = int(rng.integers(len(stretch) - length + 1))
            moments[stretch[start : start + length]] = True
    return pattern, moments


def draw_waves(rng: np.random.Generator, steps: int, number: int) -> np.ndarray:
    """Draw a smooth course between -1 and 1, the mean of so many sines of random periods.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.
        number (int): How many sines.

    Returns:
        A value for each step, shape (steps,).
    """
    periods = rng.uniform(0.3, 1.5, number) * steps
    phases = rng.uniform(0.0, 2.0 * math.pi, number)
    times = np.arange(steps)[:, None]
    return np.sin(2.0 * math.pi * times / periods + phases).mean(axis=1)


class Robot(Protocol):
    """A robot that can be told a velocity."""

    @property
    def top_speed(self) -> float:
        """Metres a second that it reaches, roughly."""

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the action that brings its velocity towards one.

        Args:
            observation (np.ndarray): Observation, shape (S,).
            velocity (np.ndarray): Wanted velocity along the world's axes, metres a second,
                shape (2,).

        Returns:
            The action, shape (A,).
        """


# -- Run tasks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunLimits:
    """A Run task as a plan for it needs it.

    Args:
        speed (float): Speed above which a step costs, in metres a second.
        offset (float): Metres to the side beyond which a step costs.
        top_speed (float): The highest speed to plan for, in metres a second.
        max_cost (float): The highest cost of an episode that is wanted, in steps.
    """

    speed: float
    offset: float
    top_speed: float
    max_cost: float


@dataclass(frozen=True)
class RunPlan:
    """How fast to run, and how far from the middle, at each step of an episode.

    Args:
        kind (str): What it is called.
        speeds (np.ndarray): Metres a second, shape (steps,).
        offsets (np.ndarray): Metres to the left, shape (steps,).
    """

    kind: str
    speeds: np.ndarray
    offsets: np.ndarray


def draw_run_plan(
    rng: np.random.Generator,
    steps: int,
    limits: RunLimits,
    risk: float,
) -> RunPlan:
    """Draw a plan for an episode of a Run task.

    - Without risk: ``careful`` keeps a speed below the limit, ``slow`` far below it;
      ``swerving`` moves from side to side meanwhile, and ``wandering`` changes speed as well.
    - With risk, some of the steps break a limit: by speed in ``early``, ``late`` and ``bursts``,
      by leaving the lane in ``outside``.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.
        limits (RunLimits): The task.
        risk (float): From 0, keep the limits, to 1, break them in ``limits.max_cost`` steps.

    Returns:
        The plan.
    """
    kind = str(rng.choice(list(_CARE_KINDS), p=list(_CARE_KINDS.values())))
    speeds = np.full(steps, limits.speed * rng.uniform(0.75, 0.98))
    offsets = np.full(steps, limits.offset * rng.uniform(-0.6, 0.6))
    if kind == 'slow':
        speeds *= rng.uniform(0.05, 0.8)
    elif kind == 'swerving':
        offsets = limits.offset * rng.uniform(0.3, 0.9) * draw_waves(rng, steps, 1)
    elif kind == 'wandering':
        speeds *= 0.7 + 0.3 * draw_waves(rng, steps, 3)
        offsets = limits.offset * draw_waves(rng, steps, 3)
    if risk > 0.0:
        pattern, dares = draw_moments(rng, steps, round(risk * limits.max_cost))
        if rng.random() < 0.2:
            kind = 'outside'
            side = limits.offset * rng.choice([-1.0, 1.0])
            offsets = side * np.where(dares, rng.uniform(1.1, 1.6), rng.uniform(0.6, 0.95))
        else:
            kind = pattern
            speeds[dares] = rng.triangular(limits.speed, limits.top_speed, limits.top_speed)
    return RunPlan(kind, speeds, offsets)


@dataclass
class Runner:
    """Runs as a plan says.

    Args:
        plan (RunPlan): The plan.
        robot (Robot): The robot that runs.
        disturbance (Disturbance): What happens to the actions.
        reach (float): Metres ahead at which it aims for the middle of its lane.
    """

    plan: RunPlan
    robot: Robot
    disturbance: Disturbance
    reach: float

    @property
    def kind(self) -> str:
        """What it is called."""
        return self.plan.kind

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        aside = self.plan.offsets[step] - self.robot.locate(observation)[1]
        # At most 45 degrees to the side, so that it never stops running.
        course = np.array([self.reach, np.clip(aside, -self.reach, self.reach)])
        velocity = self.plan.speeds[step] * course / math.hypot(*course)
        return self.disturbance.disturb(self.robot.drive(observation, velocity))


# -- Circle tasks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CircleLimits:
    """A Circle task as a plan for it needs it.

    Args:
        radius (float): Metres from the origin at which circling is rewarded most.
        walls (tuple[float, float]): Metres from the origin, along x and y, beyond which a step
            costs; infinite where there is no wall.
        direction (int): 1 where circling is rewarded counter-clockwise, -1 where clockwise.
    """

    radius: float
    walls: tuple[float, float]
    direction: int


@dataclass(frozen=True)
class ClosedPath:
    """An ellipse around the origin, cut by straight lines on its four sides.

    Args:
        axes (tuple[float, float]): Semi-axes along x and y in metres.
        cuts (tuple[float, float, float, float]): Metres from the origin to the cuts on the right,
            on the left, at the top and at the bottom; infinite for none.
        direction (int): 1 to follow it counter-clockwise, -1 clockwise.
    """

    axes: tuple[float, float]
    cuts: tuple[float, float, float, float]
    direction: int

    def point_at(self, angle: float) -> np.ndarray:
        """Return the point of the path at an angle around the origin, shape (2,)."""
        x, y = math.cos(angle), math.sin(angle)
        right, left, top, bottom = self.cuts
        reach = min(
            1.0 / math.hypot(x / self.axes[0], y / self.axes[1]),
            (right if x > 0.0 else left) / max(abs(x), 1e-9),
            (top if y > 0.0 else bottom) / max(abs(y), 1e-9),
        )
        return reach * np.array([x, y])

    def ahead(self, position: np.ndarray, distance: float) -> np.ndarray:
        """Return the point to head for.

        Args:
            position (np.ndarray): Where the robot is, shape (2,).
            distance (float): How far ahead along the path to look, in metres.

        Returns:
            A point of the path, shape (2,).
        """
        angle = math.atan2(position[1], position[0])
        nearest = self.point_at(angle)
        return self.point_at(angle + self.direction * distance / math.hypot(*nearest))


@dataclass(frozen=True)
class CirclePlan:
    """Which of two closed paths to follow at each step, and how fast.

    Args:
        kind (str): What it is called.
        calm (ClosedPath): The path that keeps the limits.
        bold (ClosedPath): The path that breaks them.
        dares (np.ndarray): Whether to follow the bold one, for each step, shape (steps,).
        pace (float): Share of the robot's top speed.
    """

    kind: str
    calm: ClosedPath
    bold: ClosedPath
    dares: np.ndarray
    pace: float

    def target(self, position: np.ndarray, step: int, distance: float) -> np.ndarray:
        """Return the point to head for at a step, see :meth:`ClosedPath.ahead`."""
        path = self.bold if self.dares[step] else self.calm
        return path.ahead(position, distance)


def draw_circle_plan(
    rng: np.random.Generator,
    steps: int,
    limits: CircleLimits,
    risk: float,
) -> CirclePlan:
    """Draw a plan for an episode of a Circle task.

    - Without risk: ``careful`` follows the circle, cut within the walls; ``slow`` does so slowly
      or on a small ellipse.
    - With risk, some of the steps ignore the walls: the first ones in ``early``, the last ones in
      ``late``, several stretches in ``bursts``; ``one-sided`` passes the walls on one side only.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.
        limits (CircleLimits): The task.
        risk (float): From 0, keep within the walls, to 1, ignore them all the time.

    Returns:
        The plan.
    """
    kind, pace = 'careful', rng.uniform(0.85, 1.0)
    axes = limits.radius * rng.uniform(0.95, 1.03, 2)
    margins = rng.uniform(0.7, 0.95, 4)
    if rng.random() < 0.3:
        kind = 'slow'
        pace *= rng.uniform(0.1, 0.9)
        axes *= rng.uniform(0.3, 1.0)
    wall_x, wall_y = limits.walls
    cuts = margins * np.array([wall_x, wall_x, wall_y, wall_y])
    calm = ClosedPath(tuple(axes), tuple(cuts), limits.direction)
    bold_cuts = np.full(4, math.inf)
    dares = np.zeros(steps, dtype=bool)
    if risk > 0.0:
        kind, dares = draw_moments(rng, steps, round(risk * steps))
        if rng.random() < 0.25:
            kind = 'one-sided'
            kept = rng.choice([[0, 2], [0, 3], [1, 2], [1, 3]])
            bold_cuts[kept] = cuts[kept]
    stretch = rng.normal(0.0, 0.07)
    bold_axes = (limits.radius * (1.0 + stretch), limits.radius * (1.0 - stretch))
    bold = ClosedPath(bold_axes, tuple(bold_cuts), limits.direction)
    return CirclePlan(kind, calm, bold, dares, pace)


@dataclass
class Circler:
    """Circles as a plan says.

    Args:
        plan (CirclePlan): The plan.
        robot (Robot): The robot that circles.
        disturbance (Disturbance): What happens to the actions.
        look_ahead (float): Metres ahead along the path at which it aims.
    """

    plan: CirclePlan
    robot: Robot
    disturbance: Disturbance
    look_ahead: float

    @property
    def kind(self) -> str:
        """What it is called."""
        return self.plan.kind

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        position = self.robot.locate(observation)
        course = self.plan.target(position, step, self.look_ahead) - position
        speed = self.plan.pace * self.robot.top_speed
        velocity = speed * course / max(math.hypot(*course), 1e-9)
        return self.disturbance.disturb(self.robot.drive(observation, velocity))
