# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of the Ant in Bullet-Safety-Gym's Run and Circle tasks.

The ant trots: its hips and ankles follow sines of a phase that advances with time, the legs of its
right half a stride behind those of its left. Longer swings of the hips make it faster, and unequal
ones of the two sides turn it. Besides the phase, actions depend on the observation alone.
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
    draw_risk,
    draw_run_plan,
)


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


# The legs in the order of the motors: front left, rear left, rear right, front right.
_FRONT = np.array([True, False, False, True])
_LEFT = np.array([1.0, 1.0, -1.0, -1.0])
# Where an ankle's angle counts the other way round.
_ANKLE_SIGN = np.array([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class LegCycle:
    """How a front or a rear leg moves in a stride, as shares of the joints' ranges.

    Args:
        hip_centre (float): Where the hip swings around; 1 is all the way back.
        hip_swing (float): Amplitude of the hip at full speed.
        hip_phase (float): Phase of the hip in radians.
        ankle_centre (float): Where the ankle swings around; 1 is bent most.
        ankle_swing (float): Amplitude of the ankle.
        ankle_phase (float): Phase of the ankle in radians.
    """

    hip_centre: float
    hip_swing: float
    hip_phase: float
    ankle_centre: float
    ankle_swing: float
    ankle_phase: float


@dataclass(frozen=True)
class Gait:
    """A way of walking.

    Args:
        strides (float): Strides a second.
        front (LegCycle): The front legs.
        rear (LegCycle): The rear legs.
        hip_gain (float): Action for each unit of hip angle that is missing.
        hip_damping (float): Action against each unit of the hip's observed speed.
        ankle_gain (float): The same for ankles.
        ankle_damping (float): The same for ankles.
        turn_gain (float): Difference of the sides' swings for each radian of heading.
        turn_damping (float): The same against each radian a second of turning.
    """

    strides: float
    front: LegCycle
    rear: LegCycle
    hip_gain: float
    hip_damping: float
    ankle_gain: float
    ankle_damping: float
    turn_gain: float
    turn_damping: float


# Both gaits were found by the cross-entropy method (populations of 16 to 40, some dozens of
# generations) on the task's return with slight noise on the actions. Without further noise, the
# first one reaches 2.0 metres a second and a return of 820 to 840 in AntRun. The second one,
# started from the first, reaches 1.1 metres a second and a return of 180 in 400 steps of AntCircle.
RUN_GAIT = Gait(
    strides=1.73,
    front=LegCycle(0.64, 1.03, 0.73, 0.10, 0.78, 0.53),
    rear=LegCycle(-0.25, 0.92, 2.70, -0.17, 0.65, 5.20),
    hip_gain=1.44,
    hip_damping=0.63,
    ankle_gain=1.01,
    ankle_damping=0.51,
    turn_gain=0.6,
    turn_damping=0.11,
)
CIRCLE_GAIT = Gait(
    strides=1.39,
    front=LegCycle(0.64, 1.02, 0.84, -0.18, 0.57, 0.57),
    rear=LegCycle(-0.38, 0.91, 2.43, -0.34, 0.69, 4.55),
    hip_gain=0.81,
    hip_damping=0.07,
    ankle_gain=0.69,
    ankle_damping=0.31,
    turn_gain=0.99,
    turn_damping=0.09,
)


@dataclass
class Ant:
    """A trotting ant.

    Args:
        top_speed (float): Metres a second that the gait reaches with full swings.
        gait (Gait): The way of walking.
        phase (float): Phase of the stride at the first step, in radians.
        step_seconds (float): Seconds between two actions.
    """

    top_speed: float
    gait: Gait
    phase: float
    step_seconds: float

    def locate(self, observation: np.ndarray) -> np.ndarray:
        """Return where it is in metres, shape (2,)."""
        return 10.0 * observation[:2].astype(np.float64)

    def drive(self, observation: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the action of the next step on the way to a velocity, shape (8,)."""
        observation = observation.astype(np.float64)
        gait = self.gait
        missing = math.atan2(velocity[1], velocity[0]) - yaw_of(observation[6:10])
        missing = math.remainder(missing, 2.0 * math.pi)
        turn = gait.turn_gain * missing - gait.turn_damping * observation[12] / 0.15
        # Swings below 0.4 of the full ones hardly move it, and above they are about in proportion.
        share = min(math.hypot(*velocity) / self.top_speed, 1.0) ** 1.2
        targets = leg_targets(gait, self.phase, share * (1.0 - _LEFT * np.clip(turn, -1.0, 1.0)))
        self.phase += 2.0 * math.pi * gait.strides * self.step_seconds
        # Angles were halved in the observation; its speeds are tenths of radians, halved.
        angles, speeds = 2.0 * observation[13:29].reshape(4, 2, 2).transpose(2, 0, 1)
        gains = np.array([gait.hip_gain, gait.ankle_gain])
        dampings = np.array([gait.hip_damping, gait.ankle_damping])
        return (gains * (targets - angles) - dampings * speeds).reshape(8)


def yaw_of(quaternion: np.ndarray) -> float:
    """Return the heading of a body, radians counter-clockwise from the x axis.

    Args:
        quaternion (np.ndarray): Its attitude (x, y, z, w).
    """
    x, y, z, w = quaternion
    return math.atan2(2.0 * (x * y + z * w), 1.0 - 2.0 * (y * y + z * z))


def leg_targets(gait: Gait, phase: float, swings: np.ndarray) -> np.ndarray:
    """Return the target angles of hips and ankles.

    Args:
        gait (Gait): The way of walking.
        phase (float): Phase of the left legs' stride in radians.
        swings (np.ndarray): For each leg, the share of its full swing, shape (4,).

    Returns:
        Angles as shares of the joints' ranges, hip and ankle of each leg, shape (4, 2).
    """
    cycles = np.where(_FRONT, _column(gait.front), _column(gait.rear))
    hip_centre, hip_swing, hip_phase, ankle_centre, ankle_swing, ankle_phase = cycles
    phases = phase + math.pi * (_LEFT < 0.0)
    hips = hip_centre + swings * hip_swing * np.sin(phases + hip_phase)
    ankles = ankle_centre + ankle_swing * np.sin(phases + ankle_phase)
    return np.stack([_LEFT * hips, _ANKLE_SIGN * ankles], axis=1)


def _column(cycle: LegCycle) -> np.ndarray:
    return np.array(astuple(cycle))[:, None]


def draw_gait(rng: np.random.Generator, gait: Gait) -> Gait:
    """Draw a gait near the given one, sometimes a poor one."""
    # Roots, as a gait breaks down sooner than the steering of a wheel.
    return replace(
        gait,
        strides=gait.strides * draw_mistuning(rng) ** 0.25,
        hip_gain=gait.hip_gain * draw_mistuning(rng) ** 0.5,
        ankle_gain=gait.ankle_gain * draw_mistuning(rng) ** 0.5,
        turn_gain=gait.turn_gain * draw_mistuning(rng) ** 0.5,
    )


def make_ant_runner(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Runner:
    """Draw a controller for an episode of AntRun."""
    # The limit is 1.5 metres a second, but the speed swings by 0.3 around its mean in each stride.
    limits = RunLimits(speed=1.25, offset=2.0, top_speed=2.3, max_cost=180.0)
    plan = draw_run_plan(rng, steps, limits, draw_risk(rng, safe_share=0.3))
    # Other first phases turn it aside.
    ant = Ant(2.0, draw_gait(rng, RUN_GAIT), rng.normal(0.3, 0.3), step_seconds=1.0 / 30.0)
    return Runner(plan, ant, draw_disturbance(rng, 8, 0.1), reach=rng.uniform(1.0, 3.0))


def make_ant_circler(rng: np.random.Generator, _simulator: Simulator, steps: int) -> Circler:
    """Draw a controller for an episode of AntCircle."""
    plan = draw_circle_plan(rng, steps, CIRCLE, draw_risk(rng))
    # It falls over if it starts with the other phases.
    phase = rng.uniform(1.5, 5.5)
    ant = Ant(1.2, draw_gait(rng, CIRCLE_GAIT), phase, step_seconds=0.1)
    return Circler(plan, ant, draw_disturbance(rng, 8, 0.1), look_ahead=2.0 * draw_mistuning(rng))


FAMILIES: dict[str, Family] = {
    'SafetyAntRun-v0': Family(make_ant_runner),
    'SafetyAntCircle-v0': Family(make_ant_circler),
}
