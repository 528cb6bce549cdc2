# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""How a robot brings the box of the Push tasks to the goal. In the robot's frame, in metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from omnisafe_qpt.collect.robots import Robot
from omnisafe_qpt.collect.steering import (
    OPTIONS,
    SOLID_WEIGHT,
    Body,
    Obstacles,
    Scene,
    Steering,
    option_scores,
)


_BOX_CORNER = 1.5  # the box of the Push tasks has columns at its corners
_PUSH_ANGLE, _LOSE_ANGLE = math.radians(15), math.radians(45)  # of a robot behind the box
_CIRCLE_PART = math.radians(45)
_GAP = 0.15  # metres that the robot needs beside an obstacle on its way around the box
_BOX_BODY = Body(speed=0.7, turn_rate=1e3, lag=0.1, forward=(1.0, 0.0))  # it goes where pushed


def box_way(
    box: np.ndarray,
    goal: np.ndarray,
    task: Any,
    obstacles: Sequence[Obstacles],
    steering: Steering,
) -> np.ndarray:
    """Choose where the box is to move: to the goal, clear of pillars, and of what costs behind it.

    Args:
        box (np.ndarray): Centre of the box in the robot's frame, shape (2,).
        goal (np.ndarray): The goal, shape (2,).
        task (Any): Safety-Gymnasium's task.
        obstacles (Sequence[Obstacles]): What the robot keeps clear of.
        steering (Steering): The robot's knobs.

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
    return OPTIONS[:-1][scores[:-1].argmax()]


@dataclass
class Pusher:
    """Decides where to go so that a box moves as wanted: around it, then against it.

    Args:
        pushing (bool, optional): Whether the robot is behind the box. Defaults to False.
    """

    pushing: bool = False

    def plan(
        self,
        box: np.ndarray,
        way: np.ndarray,
        size: float,
        robot: Robot,
        obstacles: Sequence[Obstacles] = (),
    ) -> tuple[np.ndarray, list[Obstacles]]:
        """Return where to go now.

        Args:
            box (np.ndarray): Centre of the box in the robot's frame, shape (2,).
            way (np.ndarray): Where the box is to move, shape (2,), any length.
            size (float): The box's half width.
            robot (Robot): The robot.
            obstacles (Sequence[Obstacles], optional): What may block the way around the box.

        Returns:
            A place, shape (2,), and the box as an obstacle, where the way is around it.
        """
        clear = _BOX_CORNER * size + robot.extent
        distance = math.hypot(*box)
        bearing, wanted = math.atan2(box[1], box[0]), math.atan2(way[1], way[0])
        error = (bearing - wanted + math.pi) % (2.0 * math.pi) - math.pi
        self.pushing = abs(error) < (_LOSE_ANGLE if self.pushing else _PUSH_ANGLE)
        if self.pushing:
            # The box's corners hold the robot, so that the two move as one. Before they touch,
            # the robot goes past the near side, which brings it behind the middle.
            course = wanted if distance < clear + 0.05 else bearing + error
            return 1.5 * np.array([math.cos(course), math.sin(course)]), []
        # Along a circle around the box, a part at a time; away from it first, not to drag it.
        turn = _way_around(box, bearing + math.pi, error, clear + 0.15, obstacles)
        part = min(abs(turn), _CIRCLE_PART if distance > clear else 0.3 * _CIRCLE_PART)
        angle = bearing + math.pi + math.copysign(part, turn)
        place = box + (clear + 0.15) * np.array([math.cos(angle), math.sin(angle)])
        return place, [Obstacles('box', box[None], clear, least_weight=SOLID_WEIGHT)]


def _way_around(
    box: np.ndarray,
    start: float,
    error: float,
    radius: float,
    obstacles: Sequence[Obstacles],
) -> float:
    """Choose the angle to go on a circle around the box: the shorter way that is not blocked."""
    ways = []
    for turn in (-error, math.copysign(2.0 * math.pi, error) - error):
        angles = start + turn * np.linspace(0.0, 1.0, 24)
        places = box + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        is_blocked = any(
            (np.hypot(*(places[:, None] - group.places).T) < group.radius + _GAP).any()
            for group in obstacles
        )
        ways.append((is_blocked, abs(turn), turn))
    return min(ways)[2]
