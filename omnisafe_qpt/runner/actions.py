# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Actions of policies, in [-1, 1], and in the units of an environment."""

from __future__ import annotations

import numpy as np


def in_environment_units(
    actions: np.ndarray,
    action_range: dict[str, list[float]] | None,
) -> np.ndarray:
    """Scale a policy's actions to an environment's range.

    Args:
        actions (np.ndarray): (..., A) float32 in [-1, 1].
        action_range (dict[str, list[float]] or None): The environment's ``low`` and ``high``, A
            numbers each. None leaves the actions as they are.

    Returns:
        (..., A) float32 within the range. A number whose range is [-1, 1] stays as it is.
    """
    if action_range is None:
        return actions
    low, high = (np.asarray(action_range[end], dtype=np.float32) for end in ('low', 'high'))
    is_same = (low == -1.0) & (high == 1.0)
    scaled = low + (high - low) * (actions + np.float32(1.0)) / np.float32(2.0)
    return np.where(is_same, actions, scaled.clip(low, high))


def zero_action(act_dim: int, action_range: dict[str, list[float]] | None) -> np.ndarray:
    """Return the policy's action for which the environment's action is zero.

    Args:
        act_dim (int): A.
        action_range (dict[str, list[float]] or None): See :func:`in_environment_units`.

    Returns:
        (A,) float32 in [-1, 1]: 0 in the environment's unit, or the value in its range nearest to
        0.
    """
    if action_range is None:
        return np.zeros(act_dim, dtype=np.float32)
    low, high = (np.asarray(action_range[end], dtype=np.float64) for end in ('low', 'high'))
    return (2.0 * (np.clip(0.0, low, high) - low) / (high - low) - 1.0).astype(np.float32)
