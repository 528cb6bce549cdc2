# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Pushing the box of the Push tasks to the goal. In the robot's frame, in metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omnisafe_qpt.collect.robots import Robot
from omnisafe_qpt.collect.steering import (
    SOLID_WEIGHT,
    UNITS,
    Body,
    Obstacles,
    Scene,
    Steering,
    option_scores,
)


_BOX_CORNER = 1.5  # the box of the Push tasks has columns at its corners
_PUSH_ANGLE, _LOSE_ANGLE = math.radians(15), math.radians(45)  # of a robot behind the box
_CIRCLE_PART = math.radians(45)
_CIRCLE_GAP = 0.15  # metres between that circle and where robot and box may touch
_NEAR = 0.2  # metres outside the circle from which on the robot may push
_KEPT_SIDE = 1.0  # radians that the way around may be longer before the robot turns back
_STUCK_SPEED, _STUCK_STEPS, _BACKING_STEPS = 0.1, 60, 20  # jammed against the box
_GAP = 0.15  # metres that the robot needs beside an obstacle on its way around the box
_BOX_BODY = Body(speed=0.7, turn_rate=1e3, lag=0.1, forward=(1.0, 0.0))  # it goes where pushed


def box_way(
    box: np.ndarray,
    goal: np.ndarray,
    task: Any,
    obstacles: Sequence[Obstacles],
    steering: Steering,
    robot: Robot,
) -> np.ndarray:
    """Choose the box's direction: to the goal, clear of pillars and of obstacles behind it.

    The robot has to have a place behind the box.

    Args:
        box (np.ndarray): Centre of the box in the robot's frame, shape (2,).
        goal (np.ndarray): The goal, shape (2,).
        task (Any): Safety-Gymnasium's task.
        obstacles (Sequence[Obstacles]): What the robot keeps clear of.
        steering (Steering): The robot's knobs.
        robot (Robot): The robot.

    Returns:
        A course, shape (2,).
    """
    width = _BOX_CORNER * task.push_box.size
    around = [
        replace(
            group,
            places=group.places - box,
            radius=task.pillars.size + width if group.kind == 'pillars' else group.radius,
        )
        for group in obstacles
    ]
    scene = Scene(goal - box, task.goal.size - 0.05, np.zeros(2), tuple(around))
    scores = option_scores(scene, replace(steering, eagerness=1.0), _BOX_BODY)
    scores = scores[: len(UNITS)]
    behind = box - (width + robot.extent + 0.1) * UNITS
    for group in obstacles:
        if steering.weight_of(group) > 0.0:
            gaps = np.hypot(*(behind[:, None] - group.places).T).min(axis=0) - group.radius
            scores -= gaps < 0.0
    # A blend of the best with its neighbours, which does not jump as the robot turns.
    shares = np.exp(steering.sharpness * (scores - scores.max()))
    return (shares * (UNITS @ UNITS[scores.argmax()] > 0.7)) @ UNITS


@dataclass
class Pusher:
    """Plans the robot's path to push a box in a direction: around it, then against it.

    Args:
        pushing (bool, optional): Whether the robot is behind the box. Defaults to False.
    """

    pushing: bool = False
    _side: float = field(default=0.0, init=False)  # which way around the box it goes
    _slow_steps: int = field(default=0, init=False)
    _backing_steps: int = field(default=0, init=False)

    def plan(
        self,
        box: np.ndarray,
        way: np.ndarray,
        size: float,
        robot: Robot,
        speed: float,
        obstacles: Sequence[Obstacles] = (),
    ) -> tuple[np.ndarray, list[Obstacles]]:
        """Return where to go now.

        Args:
            box (np.ndarray): Centre of the box in the robot's frame, shape (2,).
            way (np.ndarray): Where the box is to move, shape (2,), any length.
            size (float): The box's half width.
            robot (Robot): The robot.
            speed (float): How fast it is, in metres a second.
            obstacles (Sequence[Obstacles], optional): What may block the way around the box.

        Returns:
            A place, shape (2,), and the box as an obstacle, where the way is around it.
        """
        clear = _BOX_CORNER * size + robot.extent
        circle = clear + _CIRCLE_GAP
        distance = math.hypot(*box)
        bearing, wanted = math.atan2(box[1], box[0]), math.atan2(way[1], way[0])
        error = (bearing - wanted + math.pi) % (2.0 * math.pi) - math.pi
        if self._is_stuck(speed):
            return -1.5 * box / distance, []
        is_behind = abs(error) < (_LOSE_ANGLE if self.pushing else _PUSH_ANGLE)
        self.pushing = is_behind and distance < circle + _NEAR
        if self.pushing:
            self._side = 0.0
            # To turn past the box's middle brings the robot behind it.
            before, touching = robot.push_gains
            course = wanted + (touching if distance < clear + 0.05 else before) * error
            return 1.5 * np.array([math.cos(course), math.sin(course)]), []
        # Along a circle around the box, a part at a time.
        turn = _way_around(box, bearing + math.pi, error, circle, obstacles, self._side)
        self._side = math.copysign(1.0, turn)
        angle = bearing + math.pi + math.copysign(min(abs(turn), _CIRCLE_PART), turn)
        place = box + circle * np.array([math.cos(angle), math.sin(angle)])
        return place, [Obstacles('box', box[None], clear - 0.1, least_weight=SOLID_WEIGHT)]

    def _is_stuck(self, speed: float) -> bool:
        """Return whether the robot must back off, because pushing has not moved it for a while."""
        if self._backing_steps > 0:
            self._backing_steps -= 1
        elif self.pushing and speed < _STUCK_SPEED:
            self._slow_steps += 1
            if self._slow_steps > _STUCK_STEPS:
                self._slow_steps, self._backing_steps = 0, _BACKING_STEPS
                self.pushing = False
        else:
            self._slow_steps = 0
        return self._backing_steps > 0


def _way_around(
    box: np.ndarray,
    start: float,
    error: float,
    radius: float,
    obstacles: Sequence[Obstacles],
    side: float,
) -> float:
    """Choose the angle to go on a circle around the box: the shorter way that is not blocked.

    The robot does not turn back for a small gain, which would make it oscillate behind the box.
    """
    ways = []
    for turn in (-error, math.copysign(2.0 * math.pi, error) - error):
        angles = start + turn * np.linspace(0.0, 1.0, 24)
        places = box + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        is_blocked = any(
            (np.hypot(*(places[:, None] - group.places).T) < group.radius + _GAP).any()
            for group in obstacles
        )
        ways.append((is_blocked, abs(turn) - _KEPT_SIDE * (side * turn > 0.0), turn))
    return min(ways)[2]
