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
"""Controllers of Safety-Gymnasium's Button tasks.

They decide on the observation and the time step alone, as the policies do that learn from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.collect.controller import Family


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


# Where things lie in the observation of the car in the Button tasks.
_SPEED, _YAW_RATE, _MAGNETOMETER = 4, 8, slice(9, 11)
_RINGS = {
    'buttons': slice(24, 40),
    'goal': slice(40, 56),
    'hazards': slice(56, 72),
    'gremlins': slice(72, 88),
}
_OBSTACLES = ('hazards', 'gremlins', 'buttons')
_LIDAR_RANGE = 3.0  # metres at which a lidar bin reads 0
_STEP_SECONDS = 0.04
_GREMLIN_ORBIT = 0.35  # metres; all gremlins circle in phase, one radian a second
_TURN_RATE = 1.3  # radians a second that the car turns on the spot
_REACTION = 0.1  # seconds until a new course takes effect
_GOAL_CLEARANCE = 0.25  # metres between the car's centre and that of a button it touches
_HEADINGS = np.arange(40) * (2.0 * math.pi / 40)
_DIRECTIONS = np.stack([np.cos(_HEADINGS), np.sin(_HEADINGS)], axis=1)
# The car drives along -y and, as readily, along +y of its own frame: no turn exceeds 90 degrees.
_TURNS = np.abs((_HEADINGS + math.pi) % math.pi - math.pi / 2)


@dataclass(frozen=True)
class Steering:
    """The knobs of :func:`heading_scores`; the weights, margin and look-ahead are the risk knob.

    Args:
        weights (tuple[float, float, float]): How much hazards, gremlins and wrong buttons count.
        radii (tuple[float, float, float]): Metres from the centre of each within which it costs.
        margin (float): Metres around the radii in which the penalty grows to its weight.
        look_ahead (float): Seconds looked ahead.
        patience (float): Seconds after which a danger ahead counts 1/e.
        speed (float): Metres a second assumed on the way.
        turn_cost (float): Score lost per radian of turning.
        stay_score (float): Score of standing still; heading straight for the goal scores 1.
        sharpness (float): How clearly the best heading wins over the second best.
    """

    weights: tuple[float, float, float] = (6.0, 6.0, 6.0)
    radii: tuple[float, float, float] = (0.2, 0.34, 0.3)
    margin: float = 0.15
    look_ahead: float = 2.0
    patience: float = 1.5
    speed: float = 0.7
    turn_cost: float = 0.1
    stay_score: float = -0.3
    sharpness: float = 20.0


@dataclass(frozen=True)
class Scene:
    """What the car's lidar shows, in the car's own frame, in metres.

    Args:
        goal (np.ndarray): The goal button, shape (2,).
        hazards (np.ndarray): Shape (n, 2).
        gremlins (np.ndarray): Shape (n, 2).
        buttons (np.ndarray): The wrong buttons, shape (n, 2).
        east (np.ndarray): The world's x axis, shape (2,).
        north (np.ndarray): The world's y axis, shape (2,).
        phase (float): Angle of the gremlins on their circles.
    """

    goal: np.ndarray
    hazards: np.ndarray
    gremlins: np.ndarray
    buttons: np.ndarray
    east: np.ndarray
    north: np.ndarray
    phase: float


def decode_ring(ring: np.ndarray) -> np.ndarray:
    """Locate the objects that a ring of Safety-Gymnasium's pseudo-lidar shows.

    An object reads in its own bin by closeness, and in the two neighbouring bins in proportion to
    how near it lies to them, which gives its angle back. Objects within a bin of each other merge.

    Args:
        ring (np.ndarray): Readings around the car, counter-clockwise from its x axis.

    Returns:
        Positions in the car's frame, shape (n, 2).
    """
    before, after = np.roll(ring, 1), np.roll(ring, -1)
    sides = before + after
    # The neighbours of a peak sum to the peak; an alias of it has less beside it.
    bins = np.flatnonzero((ring > 0) & (ring >= before) & (ring >= after) & (sides >= 0.9 * ring))
    angles = (bins + after[bins] / sides[bins]) * (2.0 * math.pi / len(ring))
    distances = _LIDAR_RANGE * (1.0 - ring[bins])
    return distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def see_scene(observation: np.ndarray, step: int) -> Scene:
    """Read the scene around the car off an observation of the Button tasks.

    Args:
        observation (np.ndarray): Observation, shape (88,).
        step (int): Steps taken so far, which tells the gremlins' phase.

    Returns:
        The scene.
    """
    observation = observation.astype(np.float64)
    rings = {name: decode_ring(observation[where]) for name, where in _RINGS.items()}
    # Out of the lidar's range the goal is unknown: go straight on.
    goal = rings['goal'][0] if len(rings['goal']) else np.array([0.0, -1.0])
    wrong = rings['buttons']
    wrong = wrong[np.hypot(*(wrong - goal).T) > 0.25]
    # The magnetic field points along the world's -y.
    north = -observation[_MAGNETOMETER]
    north /= max(math.hypot(*north), 1e-9)
    return Scene(
        goal=goal,
        hazards=rings['hazards'],
        gremlins=rings['gremlins'],
        buttons=wrong,
        east=np.array([north[1], -north[0]]),
        north=north,
        phase=_STEP_SECONDS * step,
    )


def heading_scores(scene: Scene, steering: Steering) -> np.ndarray:
    """Score 40 headings and standing still: nearness to the goal's direction less the dangers.

    Each option is played ahead: turn on the spot, then drive straight to where the goal is. The
    time spent close to an obstacle counts against it; gremlins move on meanwhile.

    Args:
        scene (Scene): What the car sees.
        steering (Steering): The knobs.

    Returns:
        Scores of shape (41,), standing still last.
    """
    times = np.arange(0.0, steering.look_ahead + 1e-9, 0.15)  # (T,)
    distance = max(math.hypot(*scene.goal), 1e-6)
    driven = (times - _REACTION - _TURNS[:, None] / _TURN_RATE).clip(0.0) * steering.speed
    driven = driven.clip(max=max(distance - _GOAL_CLEARANCE, 0.15))  # (40, T)
    paths = driven[:, :, None] * _DIRECTIONS[:, None]
    paths = np.concatenate([paths, np.zeros((1, len(times), 2))])  # (41, T, 2)
    scores = _DIRECTIONS @ (scene.goal / distance) - steering.turn_cost * _TURNS
    scores = np.append(scores, steering.stay_score)
    urgency = np.exp(-times / steering.patience) * 0.15
    swing = _GREMLIN_ORBIT * (
        (np.sin(scene.phase + times) - math.sin(scene.phase))[:, None] * scene.east
        + (np.cos(scene.phase + times) - math.cos(scene.phase))[:, None] * scene.north
    )  # (T, 2)
    for name, radius, weight in zip(_OBSTACLES, steering.radii, steering.weights):
        places = getattr(scene, name)[:, None]
        places = places + swing if name == 'gremlins' else places  # (n, T or 1, 2)
        offsets = paths[:, None] - places
        gaps = np.hypot(offsets[..., 0], offsets[..., 1]) - radius  # (41, n, T)
        closeness = (1.0 - gaps / steering.margin).clip(0.0, 3.0)
        scores -= weight * (closeness**2 @ urgency).sum(axis=1)
    return scores


def choose_course(scores: np.ndarray, sharpness: float) -> np.ndarray:
    """Blend the headings by their scores into a course that changes smoothly with the scene.

    Args:
        scores (np.ndarray): Scores of the headings and, last, of standing still.
        sharpness (float): How clearly the best heading wins over the second best.

    Returns:
        A vector of length at most 1, shape (2,); a short one means slow.
    """
    shares = np.exp(sharpness * (scores - scores.max()))
    return shares[:-1] @ _DIRECTIONS / shares.sum()


def wheel_commands(course: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """Turn a course into commands for the two wheels.

    The motors saturate at 0.02, so it is the sign of a command that drives. The commands are left
    of order one and cross zero smoothly at the wanted speed and heading: a policy that imitates
    them with a small error switches at nearly the same place.

    Args:
        course (np.ndarray): Wanted direction in the car's frame, its length the speed, shape (2,).
        observation (np.ndarray): Observation, shape (88,).

    Returns:
        Commands for the left and the right wheel, shape (2,), not clipped.
    """
    length = max(math.hypot(*course), 1e-6)
    sine, cosine = course[0] / length, -course[1] / length
    drive = 0.6 * (1.2 * length * cosine + float(observation[_SPEED]))
    # 2 sin cos turns towards the course with whichever end of the car is nearer to it.
    turn = 1.2 * sine * cosine * min(1.0, 2.0 * length) - 0.1 * float(observation[_YAW_RATE])
    return np.array([drive + turn, drive - turn])


@dataclass
class ButtonDriver:
    """Drives the car of the Button tasks by what its lidar shows.

    Args:
        kind (str): What its knobs are called.
        rng (np.random.Generator): Source of the noise.
        steering (Steering): The knobs.
        noise (float): Standard deviation of the noise on the commands.
        later (Steering, optional): The knobs from ``switch_step`` on. Defaults to None.
        switch_step (int, optional): When ``later`` takes over. Defaults to 0.
        jolt_rate (float, optional): How often a step starts a jolt, some steps of one random
            action, from which the driver has to recover. Defaults to 0.0.
    """

    kind: str
    rng: np.random.Generator
    steering: Steering
    noise: float
    later: Steering | None = None
    switch_step: int = 0
    jolt_rate: float = 0.0
    _jolt: np.ndarray = field(default_factory=lambda: np.zeros(2), init=False)
    _jolt_steps: int = field(default=0, init=False)

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        noise = self.noise * self.rng.standard_normal(2)
        if self._jolt_steps == 0 and self.rng.random() < self.jolt_rate:
            self._jolt_steps = int(self.rng.integers(4, 16))
            self._jolt = self.rng.uniform(-1.0, 1.0, 2)
        if self._jolt_steps > 0:
            self._jolt_steps -= 1
            return self._jolt
        steering = self.steering
        if self.later is not None and step >= self.switch_step:
            steering = self.later
        scores = heading_scores(see_scene(observation, step), steering)
        return wheel_commands(choose_course(scores, steering.sharpness), observation) + noise


def _careful(rng: np.random.Generator, caution: float = 1.0) -> Steering:
    """Draw knobs that keep clear of everything; more caution, more weight and distance."""
    return Steering(
        weights=(caution * rng.uniform(4.5, 7.5),) * 3,
        radii=(0.2, rng.uniform(0.34, 0.38), rng.uniform(0.29, 0.31)),
        margin=caution * rng.uniform(0.15, 0.25),
        look_ahead=rng.uniform(1.8, 2.4),
    )


def _reckless(rng: np.random.Generator) -> Steering:
    """Draw knobs that hardly look at obstacles."""
    return Steering(weights=(rng.uniform(0.0, 1.5),) * 3, margin=0.1, look_ahead=1.0)


def make_button_driver(rng: np.random.Generator, _simulator: Simulator, steps: int) -> ButtonDriver:
    """Draw a driver for an episode of a Button task.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        _simulator (Simulator): Not looked at.
        steps (int): Steps in the episode.

    Returns:
        The driver.
    """
    kinds = {
        'careful': 0.35,
        'very careful': 0.2,
        'bold': 0.1,
        'jolted': 0.1,
        'blind': 0.08,
        'reckless': 0.07,
        'switching': 0.1,
    }
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    caution = {'very careful': 1.5, 'bold': 0.6}.get(kind, 1.0)
    steering = _reckless(rng) if kind == 'reckless' else _careful(rng, caution)
    driver = ButtonDriver(kind, rng, steering, noise=rng.uniform(0.05, 0.2))
    if kind == 'jolted':
        driver.jolt_rate = 0.015
    elif kind == 'blind':
        weights = list(steering.weights)
        weights[rng.integers(3)] = 0.0
        driver.steering = replace(steering, weights=tuple(weights))
    elif kind == 'switching':
        driver.later = _reckless(rng)
        driver.switch_step = int(rng.integers(steps // 4, 3 * steps // 4 + 1))
        if rng.random() < 0.5:
            driver.steering, driver.later = driver.later, driver.steering
    return driver


FAMILIES: dict[str, Family] = {'SafetyCarButton1-v0': Family(make_button_driver)}
