# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The robots of Safety-Gymnasium's navigation tasks: how they move, and commands for their motors.

The motors saturate far below an action of 1, so it is the sign of a command that drives. The
commands are left of order one and cross zero smoothly at the wanted speed and heading: a policy
that imitates them with a small error switches at nearly the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from omnisafe_qpt.collect.steering import Body


@dataclass(frozen=True)
class Robot:
    """A robot.

    Args:
        body (Body): How it moves.
        extent (float): Metres from its centre to what it touches things with.
        command (Callable): From a course, its velocity, both of shape (2,) in its own frame, and
            its yaw rate to an action of shape (2,), not clipped.
        push_gains (tuple[float, float]): By how much of the angle between a box and where it is
            to go the robot turns past that course, before it touches the box and after.
    """

    body: Body
    extent: float
    command: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    push_gains: tuple[float, float]


def point_command(course: np.ndarray, velocity: np.ndarray, yaw_rate: float) -> np.ndarray:
    """Turn a course into the point's forward force and turning speed.

    The point slides: it has to push against its sideways speed to get on course.

    Args:
        course (np.ndarray): Wanted velocity as a share of the full speed, shape (2,).
        velocity (np.ndarray): Its velocity, shape (2,).
        yaw_rate (float): Radians a second, counter-clockwise.

    Returns:
        The action, shape (2,), not clipped.
    """
    error = course - velocity / _POINT_BODY.speed
    push = course + 1.5 * error
    length = max(math.hypot(*push), 1e-6)
    cosine, sine = push / length
    # 2 sin cos turns towards the push with whichever end of the point is nearer to it; where both
    # are as near, it turns on as it does.
    turning = (6.0 * sine * cosine + 0.9 * sine**2 * yaw_rate) * min(1.0, 2.0 * length)
    return np.array([2.0 * error[0] + 0.1 * course[0], 0.33 * turning + 0.6 * (turning - yaw_rate)])


def car_command(course: np.ndarray, velocity: np.ndarray, yaw_rate: float) -> np.ndarray:
    """Turn a course into commands for the car's left and right wheel.

    Args:
        course (np.ndarray): Wanted velocity as a share of the full speed, shape (2,).
        velocity (np.ndarray): Its velocity, shape (2,).
        yaw_rate (float): Radians a second, counter-clockwise.

    Returns:
        The action, shape (2,), not clipped.
    """
    length = max(math.hypot(*course), 1e-6)
    sine, cosine = course[0] / length, -course[1] / length  # it drives along -y
    drive = 0.8 * (length * cosine + velocity[1] / _CAR_BODY.speed) + 0.1 * length * cosine
    # As for the point: no turn exceeds 90 degrees.
    turn = (1.2 * sine * cosine + 0.2 * sine**2 * yaw_rate) * min(1.0, 2.0 * length)
    turn -= 0.1 * yaw_rate
    return np.array([drive + turn, drive - turn])


_POINT_BODY = Body(speed=1.5, turn_rate=3.0, lag=0.5, forward=(1.0, 0.0))
_CAR_BODY = Body(speed=0.8, turn_rate=1.3, lag=0.15, forward=(0.0, -1.0))
ROBOTS = {
    'Point': Robot(_POINT_BODY, extent=0.13, command=point_command, push_gains=(1.0, 1.0)),
    'Car': Robot(_CAR_BODY, extent=0.2, command=car_command, push_gains=(2.0, 0.0)),
}
