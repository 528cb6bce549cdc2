# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of the Drone in Bullet-Safety-Gym's Run and Circle tasks.

They use only the observation, with position, velocity, attitude and turning rates.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.collect.bullet import CIRCLE
from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.disturbance import draw_disturbance
from omnisafe_qpt.collect.plans import (
    Circler,
    RunLimits,
    Runner,
    draw_circle_plan,
    draw_mistuning,
    draw_mistunings,
    draw_risk,
    draw_run_plan,
)


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


_GRAVITY = 9.81
# An action of 1 turns the rotors 10 % faster than hovering does, for thrust goes as the square.
_THRUST_PER_ACTION = 0.2
# Rising at this speed, in metres a second, the rotors would lose all of their thrust.
_SLIP_SPEED = 8.76
# The strongest push to the side, in m/s^2, that leaves thrust for staying in the air.
_TOP_PUSH = 4.5
_ROTORS = np.array(
    [
        # Effect of each rotor on climbing, rolling, pitching and yawing. Front and rear rotors turn
        # counter-clockwise, the others clockwise.
        [1.0, 0.0, -1.0, -1.0],
        [1.0, -1.0, 0.0, 1.0],
        [1.0, 0.0, 1.0, -1.0],
        [1.0, 1.0, 0.0, 1.0],
    ],
)


@dataclass(frozen=True)
class FlightGains:
    """Control gains of a drone.

    Args:
        speed (float): Acceleration for each metre a second that is missing, 1/s.
        height (float): Climbing acceleration for each metre that is missing, 1/s^2.
        climb (float): Acceleration against each metre a second of climbing, 1/s.
        tilt (float): Action for each radian of tilt that is missing.
        turning (float): Action against each radian a second of rolling and pitching.
        yawing (float): Action against each radian a second of yawing.
    """

    speed: float
    height: float
    climb: float
    tilt: float
    turning: float
    yawing: float


@dataclass(frozen=True)
class Drone:
    """A quadcopter whose four rotors speed up and slow down by up to a tenth.

    The velocity that is missing asks for an acceleration, the acceleration for a tilt, and the
    tilt for differences between the rotors.

    Args:
        top_speed (float): Metres a second to plan for.
        height (float): Metres above the ground at which to fly.
        gains (FlightGains): Control gains.
    """

    top_speed: float
    height: float
    gains: FlightGains

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""
        return 10.0 * observation[:2].astype(np.float64)

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the action that brings its velocity towards one, shape (4,)."""
        gains = self.gains
        observation = observation.astype(np.float64)
        moving = 5.0 * observation[3:6]
        turning = 10.0 * observation[10:13]
        axes = body_axes(observation[6:10])

        push = gains.speed * (velocity - moving[:2])
        push *= min(1.0, _TOP_PUSH / max(math.hypot(*push), 1e-9))
        lift = gains.height * (self.height - 10.0 * observation[2]) - gains.climb * moving[2]
        wanted = np.array([*push, _GRAVITY + np.clip(lift, -1.0, 1.2)])

        up = axes[:, 2]
        lean = axes.T @ np.cross(up, wanted / np.linalg.norm(wanted))
        rates = axes.T @ turning
        climb = (wanted @ up / _GRAVITY - 1.0 + moving @ up / _SLIP_SPEED) / _THRUST_PER_ACTION
        roll, pitch = gains.tilt * lean[:2] - gains.turning * rates[:2]
        yaw = -gains.yawing * rates[2]
        return _ROTORS @ np.array([climb, roll, pitch, yaw])


def body_axes(quaternion: np.ndarray) -> np.ndarray:
    """Return the axes of a body in the world.

    Args:
        quaternion (np.ndarray): Its attitude (x, y, z, w), of length 1.

    Returns:
        Shape (3, 3), a column for each axis: front, left and up.
    """
    x, y, z, w = quaternion
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross


_RUN_GAINS = FlightGains(speed=3.0, height=8.0, climb=5.0, tilt=12.0, turning=1.8, yawing=0.5)
# The controller acts ten times a second instead of sixty, which is stable only with lower gains.
_CIRCLE_GAINS = FlightGains(speed=2.0, height=0.8, climb=1.5, tilt=3.0, turning=1.1, yawing=0.3)


def draw_gains(rng: np.random.Generator, gains: FlightGains) -> FlightGains:
    """Draw gains near well-tuned ones, sometimes poor ones."""
    tuned = np.array(astuple(gains))
    return FlightGains(*(tuned * draw_mistunings(rng, len(tuned))).tolist())


def make_drone_runner(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Runner:
    """Draw a controller for an episode of DroneRun."""
    limits = RunLimits(speed=1.5, offset=2.0, top_speed=6.5, max_cost=150.0)
    plan = draw_run_plan(rng, steps, limits, draw_risk(rng))
    drone = Drone(limits.top_speed, rng.uniform(0.3, 1.0), draw_gains(rng, _RUN_GAINS))
    return Runner(plan, drone, draw_disturbance(rng, 4, 0.4), reach=rng.uniform(0.5, 2.0))


def make_drone_circler(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Circler:
    """Draw a controller for an episode of DroneCircle."""
    # It drifts out of curves: careful paths keep a distance to the walls, and careful drones do
    # not fly as fast as they could.
    limits = replace(CIRCLE, walls=(4.9, math.inf))
    risk = draw_risk(rng)
    plan = draw_circle_plan(rng, steps, limits, risk)
    drone = Drone(5.6 if risk else 4.6, rng.uniform(0.5, 1.5), draw_gains(rng, _CIRCLE_GAINS))
    # Looking a second ahead compensates for the time to turn its velocity.
    look_ahead = plan.pace * drone.top_speed * draw_mistuning(rng)
    return Circler(plan, drone, draw_disturbance(rng, 4, 0.2), look_ahead)


FAMILIES: dict[str, Family] = {
    'SafetyDroneRun-v0': Family(make_drone_runner),
    'SafetyDroneCircle-v0': Family(make_drone_circler),
}
