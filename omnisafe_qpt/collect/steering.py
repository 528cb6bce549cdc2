# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A steering rule among obstacles, in the manner of vector-field histograms: plain geometry.

Headings at two speeds are played ahead and scored: the way gained towards a target, less the time
spent close to obstacles. Everything is in the frame of a robot, in metres and seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


# A robot that drives against a fixed obstacle gets stuck, so all robots avoid it.
SOLID_WEIGHT = 2.0
_STEP = 0.2  # seconds between the predicted moments
_TIMES = np.arange(1, 16) * _STEP
_LATER = 15.0  # in steps
_HEADINGS = np.arange(40) * (2.0 * math.pi / 40)
UNITS = np.stack([np.cos(_HEADINGS), np.sin(_HEADINGS)], axis=1)
# Options of the robot: each heading at full and at half speed, and, last, no motion.
OPTIONS = np.concatenate([UNITS, 0.5 * UNITS, np.zeros((1, 2))])  # (81, 2)
_UNIT_OPTIONS = np.concatenate([UNITS, UNITS, np.zeros((1, 2))])


@dataclass(frozen=True)
class Body:
    """How a robot moves.

    Args:
        speed (float): Metres a second at full drive.
        turn_rate (float): Radians a second at which it turns on the spot.
        lag (float): Seconds in which its speed gets 63 % nearer to the wanted one.
        forward (tuple[float, float]): The direction that its drive pushes in. It drives backward
            as readily, so that it never turns by more than 90 degrees.
    """

    speed: float
    turn_rate: float
    lag: float
    forward: tuple[float, float]


@dataclass(frozen=True)
class Obstacles:
    """Obstacles of one kind, which move alike.

    Args:
        kind (str): What they are.
        places (np.ndarray): Their centres, shape (n, 2).
        radius (float): Distance between the robot's centre and theirs at which harm begins.
        velocity (np.ndarray, optional): Shape (2,). Defaults to standing still.
        turning (float, optional): Radians a second by which the velocity turns. Defaults to 0.0.
        least_weight (float, optional): The weight of those that no robot should drive into.
            Defaults to 0.0.
    """

    kind: str
    places: np.ndarray
    radius: float
    velocity: np.ndarray | None = None
    turning: float = 0.0
    least_weight: float = 0.0

    def places_at(self, times: np.ndarray) -> np.ndarray:
        """Return where they will be.

        Args:
            times (np.ndarray): Seconds from now, shape (T,).

        Returns:
            Centres of shape (n, T, 2).
        """
        places = np.repeat(self.places[:, None], len(times), axis=1)
        if self.velocity is None:
            return places
        # sin(w t) / w and (1 - cos(w t)) / w, which stay finite as w vanishes.
        half = 0.5 * self.turning * times
        chord = times * np.sinc(half / math.pi)
        left = np.array([-self.velocity[1], self.velocity[0]])
        swing = (chord * np.cos(half))[:, None] * self.velocity
        return places + swing + (chord * np.sin(half))[:, None] * left


@dataclass(frozen=True)
class Steering:
    """Parameters of :func:`option_scores`; weight, margin, look-ahead and pace follow the risk.

    Args:
        weight (float): How much time close to obstacles counts against the way to the target.
            Below 0 the robot makes detours into those that it can enter.
        margin (float): Metres around an obstacle in which the penalty grows to its weight.
        look_ahead (float): Seconds that obstacles are looked for, at most 3.
        pace (float): Share of the robot's full speed that is used.
        eagerness (float): How much the way to the target counts. With 0 the robot only keeps
            clear of obstacles.
        blind_to (str, optional): A kind of obstacle that is not seen. Defaults to none.
        sharpness (float): How clearly the best option wins over the second best.
    """

    weight: float = 6.0
    margin: float = 0.15
    look_ahead: float = 2.0
    pace: float = 1.0
    eagerness: float = 1.0
    blind_to: str = ''
    sharpness: float = 20.0

    def weight_of(self, obstacles: Obstacles) -> float:
        """Return how much obstacles of a kind count."""
        if obstacles.kind == 'box':  # costs nothing, however careful the robot is
            return obstacles.least_weight
        weight = 0.0 if obstacles.kind == self.blind_to else self.weight
        return max(weight, obstacles.least_weight) if obstacles.least_weight > 0.0 else weight


@dataclass(frozen=True)
class Scene:
    """Inputs of a robot's decision.

    Args:
        target (np.ndarray): Where to go, shape (2,).
        reach (float): Distance from the target at which it is reached.
        velocity (np.ndarray): The robot's own velocity, shape (2,).
        obstacles (tuple[Obstacles, ...]): What to keep clear of.
    """

    target: np.ndarray
    reach: float
    velocity: np.ndarray
    obstacles: tuple[Obstacles, ...]


def play_ahead(velocity: np.ndarray, pace: float, body: Body, times: np.ndarray) -> np.ndarray:
    """Predict where each of :data:`OPTIONS` takes the robot: turn, then drive straight.

    Args:
        velocity (np.ndarray): The robot's velocity, shape (2,).
        pace (float): Share of the full speed that is used.
        body (Body): How the robot moves.
        times (np.ndarray): Seconds from now, shape (T,).

    Returns:
        Positions of shape (2, 81, T).
    """
    turns = np.arccos(np.abs(_UNIT_OPTIONS @ np.array(body.forward)).clip(max=1.0))  # (81,)
    turns /= body.turn_rate
    driving = (times - turns[:, None]).clip(0.0)  # (81, T)
    gained = driving - body.lag * (1.0 - np.exp(-driving / body.lag))
    coasted = body.lag * (1.0 - np.exp(-times / body.lag))  # (T,)
    wanted = pace * body.speed * OPTIONS.T
    return wanted[:, :, None] * gained + velocity[:, None, None] * coasted


def option_scores(scene: Scene, steering: Steering, body: Body) -> np.ndarray:
    """Score each of :data:`OPTIONS` by the way it gains, less the dangers on it.

    The way to the target counts 1 for the best option and -1 for the worst. What comes later
    counts less, and what would come after the target is reached does not count.

    Args:
        scene (Scene): What the robot sees.
        steering (Steering): The parameters.
        body (Body): How the robot moves.

    Returns:
        Scores of shape (81,).
    """
    paths = play_ahead(scene.velocity, steering.pace, body, _TIMES)  # (2, 81, T)
    away = np.hypot(*(paths - scene.target[:, None, None]))
    missing = np.minimum.accumulate(np.maximum(away - scene.reach, 0.0), axis=1)  # (81, T)
    # What is missing at the end is made up later: a turn that pays only then is worth it.
    delays = missing.sum(axis=1) + _LATER * missing[:, -1]
    best, worst = delays.min(), delays.max()
    scores = steering.eagerness * (1.0 - 2.0 * (delays - best) / max(worst - best, 1e-6))
    near = round(steering.look_ahead / _STEP)
    times, paths, missing = _TIMES[:near], paths[:, :, :near], missing[:, :near]
    urgency = np.exp(-times / steering.look_ahead) * _STEP
    centres, radii, weights = [], [], []
    for group in scene.obstacles:
        weight = steering.weight_of(group)
        if weight != 0.0 and len(group.places) > 0:
            centres.append(group.places_at(times))
            radii += [group.radius] * len(group.places)
            weights += [weight] * len(group.places)
    if centres:
        x, y = np.moveaxis(np.concatenate(centres), 2, 0)  # (n, T) each
        gaps = np.sqrt((paths[0][:, None] - x) ** 2 + (paths[1][:, None] - y) ** 2)  # (81, n, T)
        gaps -= np.array(radii)[:, None]
        closeness = (1.0 - gaps / steering.margin).clip(0.0, 3.0) ** 2
        before = np.concatenate([np.ones((len(OPTIONS), 1)), missing[:, :-1] > 0.0], axis=1)
        scores -= ((np.array(weights) @ closeness) * before) @ urgency
    return scores


def choose_course(scores: np.ndarray, sharpness: float) -> np.ndarray:
    """Blend the options by their scores into a course that changes smoothly with the scene.

    Args:
        scores (np.ndarray): Scores of :data:`OPTIONS`, shape (81,).
        sharpness (float): How clearly the best option wins over the second best.

    Returns:
        A vector of length at most 1, shape (2,); a short one means slow.
    """
    shares = np.exp(sharpness * (scores - scores.max()))
    return shares @ OPTIONS / shares.sum()
