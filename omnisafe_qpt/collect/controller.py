# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What a scripted controller is, and how the controllers of a task are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np


if TYPE_CHECKING:
    from omnisafe_qpt.collect.simulator import Simulator


class Controller(Protocol):
    """Chooses the actions of one episode.

    One that has to know what its actions brought has a method ``observe(reward, cost)`` besides,
    called after each step.
    """

    @property
    def kind(self) -> str:
        """What it is called in the dataset's metadata."""

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation.

        Args:
            observation (np.ndarray): Observation as it is recorded, shape (S,).
            step (int): Steps taken in the episode so far.

        Returns:
            The action, shape (A,); what lies outside [-1, 1] is clipped.
        """


@dataclass(frozen=True)
class Family:
    """How the controllers of some tasks are drawn.

    Args:
        make_controller (Callable): From the episode's random generator, the simulator, which has
            just been reset, and the number of steps in the episode to a controller. A controller
            may read the simulator's state at each step; it must not change it.
    """

    make_controller: Callable[[np.random.Generator, Simulator, int], Controller]
