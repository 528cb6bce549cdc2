# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of the Ball and the Car in Bullet-Safety-Gym's Run and Circle tasks.

They use only the observation, with position, velocity and heading, and the time step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.disturbance import draw_disturbance
from omnisafe_qpt.collect.plans import (
    CircleLimits,
    Circler,
    RunLimits,
    Runner,
    draw_circle_plan,
    draw_mistuning,
    draw_risk,
    draw_run_plan,
)


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


CIRCLE = CircleLimits(radius=7.0, walls=(6.0, math.inf), direction=-1)


@dataclass(frozen=True)
class Ball:
    """A ball that is pushed by forces along the world's axes.

    Args:
        top_speed (float): Metres a second to plan for.
        gain (float): Force for each metre a second that is missing.
    """

    top_speed: float
    gain: float

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""
        return 10.0 * observation[:2].astype(np.float64)

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the force that brings its velocity towards one, shape (2,)."""
        # A force of 0.06 holds a metre a second against the friction.
        return self.gain * (velocity - 5.0 * observation[2:4]) + 0.06 * velocity


@dataclass(frozen=True)
class Car:
    """A car with four wheels, which the tasks place with its back to the front.

    Args:
        top_speed (float): Metres a second to plan for.
        gain (float): Throttle for each metre a second that is missing.
        steering (float): Steering for each radian of heading that is missing.
    """

    top_speed: float
    gain: float
    steering: float

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""
        return 10.0 * observation[:2].astype(np.float64)

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return throttle and steering that bring its velocity towards one, shape (2,)."""
        # It is driven backwards: the signs of throttle and steering are those of that.
        back = -observation[[5, 4]].astype(np.float64)
        speed = math.hypot(*velocity)
        along, across = velocity @ back, back[0] * velocity[1] - back[1] * velocity[0]
        error = math.atan2(across, along)
        # Slower where it has to turn, but never at rest, where it cannot turn.
        wanted = speed * max(math.cos(error), 0.3)
        missing = wanted - observation[2:4] @ back
        # Full throttle holds 3.45 metres a second.
        return -np.array([wanted / 3.45 + self.gain * missing, self.steering * error])


def make_ball_runner(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Runner:
    """Draw a controller for an episode of BallRun."""
    limits = RunLimits(speed=2.5, offset=2.0, top_speed=14.0, max_cost=80.0)
    plan = draw_run_plan(rng, steps, limits, draw_risk(rng))
    ball = Ball(top_speed=limits.top_speed, gain=draw_mistuning(rng))
    return Runner(plan, ball, draw_disturbance(rng, 2, 0.4), reach=rng.uniform(0.5, 2.0))


def make_car_runner(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Runner:
    """Draw a controller for an episode of CarRun."""
    # The car needs some steps to exceed the limit, which cost nothing: ten more steps reach DSRL's
    # highest cost, 40. It also fails to exceed the limit more often than other robots.
    limits = RunLimits(speed=1.5, offset=2.0, top_speed=4.0, max_cost=50.0)
    plan = draw_run_plan(rng, steps, limits, draw_risk(rng, safe_share=0.3))
    car = Car(
        top_speed=limits.top_speed,
        gain=1.5 * draw_mistuning(rng),
        steering=2.0 * draw_mistuning(rng),
    )
    return Runner(plan, car, draw_disturbance(rng, 2, 0.25), reach=rng.uniform(1.0, 3.0))


def make_ball_circler(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Circler:
    """Draw a controller for an episode of BallCircle."""
    plan = draw_circle_plan(rng, steps, CIRCLE, draw_risk(rng))
    ball = Ball(top_speed=8.0, gain=rng.uniform(0.5, 2.0))
    # At this look-ahead the gain turns the velocity as fast as the circle turns.
    look_ahead = 0.26 / ball.gain * plan.pace * ball.top_speed * draw_mistuning(rng)
    return Circler(plan, ball, draw_disturbance(rng, 2, 0.4), look_ahead)


def make_car_circler(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Circler:
    """Draw a controller for an episode of CarCircle."""
    plan = draw_circle_plan(rng, steps, CIRCLE, draw_risk(rng))
    car = Car(
        # Above its top speed: most episodes drive at full throttle, which is optimal.
        top_speed=4.0,
        gain=draw_mistuning(rng),
        steering=2.0 * draw_mistuning(rng),
    )
    return Circler(plan, car, draw_disturbance(rng, 2, 0.2), look_ahead=3.3 * draw_mistuning(rng))


FAMILIES: dict[str, Family] = {
    'SafetyBallRun-v0': Family(make_ball_runner),
    'SafetyBallCircle-v0': Family(make_ball_circler),
    'SafetyCarRun-v0': Family(make_car_runner),
    'SafetyCarCircle-v0': Family(make_car_circler),
}
