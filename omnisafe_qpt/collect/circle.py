# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of Safety-Gymnasium's Circle tasks.

They use only the observation and the time step: the magnetometer gives the heading, the lidar the
circle's centre, and both together the position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.collect import robots
from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.disturbance import draw_disturbance
from omnisafe_qpt.collect.plans import (
    CircleLimits,
    Circler,
    draw_circle_plan,
    draw_mistuning,
    draw_risk,
)


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


_VELOCITY, _YAW_RATE, _MAGNETOMETER, _LIDAR = slice(3, 5), 8, slice(9, 11), slice(-16, None)
_LIDAR_RANGE = 6.0  # metres at which a lidar bin reads 0
_LOOK_AHEAD = {'Point': 0.9, 'Car': 0.5}  # metres
_LIMITS = {
    1: CircleLimits(radius=1.5, walls=(1.125, math.inf), direction=1),
    2: CircleLimits(radius=1.5, walls=(1.125, 1.125), direction=1),
}


def find_centre(ring: np.ndarray) -> np.ndarray:
    """Locate the centre of the circle, the only thing that the lidar shows.

    It reads in its own bin by closeness, and in the two neighbouring bins in proportion to how
    near it lies to them, which gives its angle back.

    Args:
        ring (np.ndarray): Readings around the robot, counter-clockwise from its x axis.

    Returns:
        Its place in the robot's frame in metres, shape (2,).
    """
    own = int(ring.argmax())
    before, after = ring[own - 1], ring[(own + 1) % len(ring)]
    angle = (own + after / max(before + after, 1e-9)) * (2.0 * math.pi / len(ring))
    return _LIDAR_RANGE * (1.0 - ring[own]) * np.array([math.cos(angle), math.sin(angle)])


def read_axes(observation: np.ndarray) -> np.ndarray:
    """Return the robot's own axes in the world, a column for each, shape (2, 2)."""
    # The magnetic field points along the world's -y.
    sine, cosine = -observation[_MAGNETOMETER].astype(np.float64)
    length = max(math.hypot(sine, cosine), 1e-9)
    return np.array([[cosine, -sine], [sine, cosine]]) / length


@dataclass(frozen=True)
class Mover:
    """One of Safety-Gymnasium's robots, controlled by velocities along the world's axes.

    Args:
        robot (robots.Robot): The robot.
    """

    robot: robots.Robot

    @property
    def top_speed(self) -> float:
        """Metres a second that it reaches, roughly."""
        return self.robot.body.speed

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""
        return -read_axes(observation) @ find_centre(observation[_LIDAR].astype(np.float64))

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the action that brings its velocity towards one, shape (2,)."""
        course = velocity @ read_axes(observation) / self.top_speed
        moving = observation[_VELOCITY].astype(np.float64)
        return self.robot.command(course, moving, float(observation[_YAW_RATE]))


def make_circler(rng: np.random.Generator, simulator: Simulator, steps: int) -> Circler:
    """Draw a controller for an episode of a Circle task.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        simulator (Simulator): The simulator; only its id is used.
        steps (int): Steps in the episode.

    Returns:
        The controller.
    """
    # Robots and tasks are named as in SafetyPointCircle1-v0.
    name, level = simulator.env_id.removeprefix('Safety').removesuffix('-v0').split('Circle')
    plan = draw_circle_plan(rng, steps, _LIMITS[int(level)], draw_risk(rng, safe_share=0.5))
    return Circler(
        plan,
        Mover(robots.ROBOTS[name]),
        draw_disturbance(rng, 2, 0.3),
        look_ahead=_LOOK_AHEAD[name] * draw_mistuning(rng),
    )


FAMILIES: dict[str, Family] = {
    f'Safety{name}Circle{level}-v0': Family(make_circler)
    for name in robots.ROBOTS
    for level in _LIMITS
}
