# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""MetaDrive's own drivers: what they would do in the current state of an episode.

For the simulator's process; it imports MetaDrive when a driver is first asked.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


# Values of an observation before the lasers.
_OWN_STATE = 19

# Throttle of the expert for each km/h below its highest speed.
_THROTTLE_GAIN = 0.3


class Drivers:
    """The rule-based driver and the trained one, for one episode.

    They read the simulator's state and do not change it. The rule-based driver remembers the lane
    that it has chosen and the errors of its steering.

    Args:
        vehicle (BaseVehicle): MetaDrive's vehicle of the agent.
        seed (int): For the rule-based driver, which changes lanes at random steps.
    """

    def __init__(self, vehicle: Any, seed: int) -> None:
        """Initialize an instance of :class:`Drivers`."""
        from metadrive.policy.idm_policy import IDMPolicy

        self._vehicle = vehicle
        self._idm = IDMPolicy(vehicle, seed)

    def idm(self, obs: np.ndarray, speed: float, gap: float) -> np.ndarray:
        """Return the action of the rule-based driver (IDM).

        Args:
            obs (np.ndarray): The observation, which it does not use.
            speed (float): The speed that it aims at, in km/h.
            gap (float): The distance that it keeps from traffic ahead, relative to its usual one.
                0 ignores that traffic.

        Returns:
            Steering, and throttle or brake. Shape (2,).
        """
        del obs
        driver, kind = self._idm, type(self._idm)
        driver.NORMAL_SPEED = driver.target_speed = speed
        driver.DISTANCE_WANTED = gap * kind.DISTANCE_WANTED
        driver.TIME_WANTED = gap * kind.TIME_WANTED
        driver.disable_idm_deceleration = gap == 0.0
        return np.array(driver.act(), dtype=np.float64)

    def expert(self, obs: np.ndarray, speed: float, gap: float) -> np.ndarray:
        """Return the mean action of the trained driver (PPO), which has learned to drive fast.

        Args:
            obs (np.ndarray): The observation, shape (259,).
            speed (float): The speed above which it gets no more throttle, in km/h.
            gap (float): Accepted for the other driver's sake.

        Returns:
            Steering, and throttle or brake. Shape (2,).
        """
        del gap
        vehicle = self._vehicle
        near = vehicle.lidar.get_surrounding_vehicles_info(
            vehicle,
            vehicle.lidar.get_surrounding_objects(vehicle),
            num_others=4,
        )
        features = np.concatenate([obs[:_OWN_STATE], near, obs[_OWN_STATE:]])
        weights = _expert_weights()
        for layer in ('fc_1', 'fc_2'):
            features = np.tanh(features @ weights[f'{layer}/kernel'] + weights[f'{layer}/bias'])
        # The other half of the output is the spread of its distribution.
        steering, throttle = (features @ weights['fc_out/kernel'] + weights['fc_out/bias'])[:2]
        return np.array([steering, min(throttle, _THROTTLE_GAIN * (speed - vehicle.speed))])


@lru_cache(maxsize=1)
def _expert_weights() -> dict[str, np.ndarray]:
    from metadrive.examples.ppo_expert.numpy_expert import ckpt_path

    with np.load(ckpt_path) as arrays:
        return {name.removeprefix('default_policy/'): arrays[name] for name in arrays.files}
