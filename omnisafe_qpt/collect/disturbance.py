# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Noise on the actions of controllers and agents."""

from __future__ import annotations

import math

import numpy as np


class Disturbance:
    """Noise on the actions, with occasional jolts from which a controller must recover.

    Args:
        rng (np.random.Generator): Source of the noise.
        size (int): Number of action components.
        scale (float): Standard deviation of the noise.
        persistence (float, optional): Correlation of the noise from one step to the next; 0 is
            white noise, above it an Ornstein-Uhlenbeck process. Defaults to 0.0.
        jolt_rate (float, optional): Probability that a step starts a jolt, some steps of one random
            action. Defaults to 0.0.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: int,
        scale: float,
        persistence: float = 0.0,
        jolt_rate: float = 0.0,
    ) -> None:
        """Initialize an instance of :class:`Disturbance`."""
        self._rng = rng
        self._scale = scale
        self._persistence = persistence
        self._jolt_rate = jolt_rate
        self._noise = scale * rng.standard_normal(size)
        self._jolt = np.zeros(size)
        self._jolt_steps = 0

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """Return the disturbed action, shape (A,)."""
        fresh = self._scale * self._rng.standard_normal(len(self._noise))
        self._noise = (
            self._persistence * self._noise + math.sqrt(1.0 - self._persistence**2) * fresh
        )
        if self._jolt_steps == 0 and self._rng.random() < self._jolt_rate:
            self._jolt_steps = int(self._rng.integers(4, 16))
            self._jolt = self._rng.uniform(-1.0, 1.0, len(self._noise))
        if self._jolt_steps > 0:
            self._jolt_steps -= 1
            return self._jolt
        return action + self._noise


def draw_disturbance(rng: np.random.Generator, size: int, top_scale: float) -> Disturbance:
    """Draw the disturbance of an episode.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        size (int): Number of action components.
        top_scale (float): The largest standard deviation of the noise.

    Returns:
        White or correlated noise in equal parts, weak more often than strong; every tenth episode
        has jolts, too.
    """
    return Disturbance(
        rng,
        size,
        scale=top_scale * rng.uniform() ** 2,
        persistence=rng.choice([0.0, rng.uniform(0.7, 0.95)]),
        jolt_rate=rng.choice([0.0, 0.02], p=[0.9, 0.1]),
    )
