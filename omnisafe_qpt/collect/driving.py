# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Controllers of MetaDrive's tasks: its own drivers, with speeds and gaps of each episode's own.

The tasks' cost is mainly a term for speed above 10 km/h, and crashes end an episode early. So the
speed at each step is the risk, and the gap to the traffic ahead is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.collect.controller import Family
from omnisafe_qpt.collect.disturbance import Disturbance, draw_disturbance
from omnisafe_qpt.collect.plans import draw_mistuning, draw_moments, draw_risk, draw_waves
from omnisafe_qpt.data.tasks import all_tasks, require_task


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


# Length of each map's route in metres.
ROUTES = {'easy': 400.0, 'medium': 250.0, 'hard': 290.0}

_FREE_SPEED = 10.0  # km/h up to which speed costs nothing
_COST_RATE = 0.01  # cost of a step for each km/h above
_METRES = 1.0 / 36.0  # a step of 0.1 seconds, for each km/h

_CARE_KINDS = {'careful': 0.5, 'slow': 0.2, 'wandering': 0.3}


@dataclass(frozen=True)
class DrivePlan:
    """How to drive an episode.

    Args:
        kind (str): Name of the plan.
        driver (str): MetaDrive's driver, ``idm`` or ``expert``.
        speeds (np.ndarray): Target speed at each step in km/h, shape (steps,).
        gap (float): Distance that ``idm`` keeps from traffic ahead, relative to its usual one.
    """

    kind: str
    driver: str
    speeds: np.ndarray
    gap: float


def draw_drive_plan(
    rng: np.random.Generator,
    steps: int,
    route: float,
    max_cost: float,
    risk: float,
) -> DrivePlan:
    """Draw a plan for an episode.

    - Without risk: ``careful`` drives at about the speed that costs nothing, ``slow`` below it;
      ``wandering`` changes speed.
    - With risk: ``steady`` drives at one higher speed, ``early``, ``late`` and ``bursts`` are
      faster in some of the steps. In ``blind`` the rule-based driver ignores the traffic ahead or
      keeps too little distance. In ``expert`` the trained driver drives.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.
        route (float): Length of the route in metres.
        max_cost (float): The highest cost of an episode that is wanted.
        risk (float): From 0, to cost nearly nothing, to 1, to cost ``max_cost``.

    Returns:
        The plan.
    """
    kind = str(rng.choice(list(_CARE_KINDS), p=list(_CARE_KINDS.values())))
    base = rng.uniform(0.9, 1.1) * _FREE_SPEED
    driver, gap = 'idm', draw_mistuning(rng)
    speeds = np.full(steps, base)
    if kind == 'slow':
        speeds *= rng.uniform(0.3, 0.95)
    elif kind == 'wandering':
        speeds *= 0.9 + 0.3 * draw_waves(rng, steps, 3)
    if risk > 0.0:
        cost = risk * max_cost
        manner = rng.choice(['steady', 'uneven', 'blind', 'expert'], p=[0.35, 0.3, 0.15, 0.2])
        if manner == 'uneven':
            fast = rng.uniform(1.5, 5.0) * _FREE_SPEED
            count = round(cost / (_COST_RATE * (fast - _FREE_SPEED)))
            # The steps in which the car is on the road, so that `late` comes before the end.
            drive = min(steps, round(route / (_METRES * base)))
            kind, dares = draw_moments(rng, drive, count)
            speeds = np.full(steps, base)
            speeds[:drive][dares] = fast
        else:
            kind = str(manner)
            speeds = np.full(steps, steady_speed(route, cost))
        if manner == 'blind':
            gap = float(rng.choice([0.0, rng.uniform(0.0, 0.5)]))
        elif manner == 'expert':
            driver = 'expert'
    return DrivePlan(kind, driver, speeds, gap)


def steady_speed(route: float, cost: float) -> float:
    """Return the speed in km/h, at most 50, at which the whole route costs so much."""
    # A metre at speed v takes 1 / (_METRES * v) steps.
    share = min(cost * _METRES / (_COST_RATE * route), 0.8)
    return _FREE_SPEED / (1.0 - share)


@dataclass
class Driver:
    """Drives according to a plan.

    Args:
        plan (DrivePlan): The plan.
        simulator (Simulator): The simulator, which is asked for the driver's action.
        disturbance (Disturbance): Disturbance of the actions.
    """

    plan: DrivePlan
    simulator: Simulator
    disturbance: Disturbance

    @property
    def kind(self) -> str:
        """Name of the plan."""
        return self.plan.kind

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action; the driver reads the simulator, not the observation."""
        del observation
        plan = self.plan
        action = self.simulator.raw.advise(plan.driver, float(plan.speeds[step]), plan.gap)
        # Clipped first: the rule-based driver's wishes may be large against the noise.
        return self.disturbance.disturb(np.clip(action, -1.0, 1.0))


def make_driver(rng: np.random.Generator, simulator: Simulator, steps: int) -> Driver:
    """Draw a controller for an episode of a MetaDrive task.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        simulator (Simulator): The simulator that the controller reads.
        steps (int): Steps in the episode.

    Returns:
        The controller.
    """
    task = require_task(simulator.env_id)
    route = next(ROUTES[road] for road in ROUTES if task.name.startswith(road))
    plan = draw_drive_plan(rng, steps, route, task.max_cost, draw_risk(rng, safe_share=0.25))
    return Driver(plan, simulator, draw_disturbance(rng, 2, 0.2))


FAMILIES: dict[str, Family] = {
    task.env_id: Family(make_driver) for task in all_tasks() if task.suite == 'metadrive'
}
