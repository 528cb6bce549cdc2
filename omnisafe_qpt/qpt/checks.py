# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a policy's inputs and actions: no action that is not finite leaves it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.schema import LARGEST_NUMBER


def _is_usable(values: torch.Tensor) -> bool:
    return bool((values.abs() <= LARGEST_NUMBER).all())  # not so for NaN


def checked_episodes(
    episodes: Sequence[int] | None,
    num_episodes: int,
    seeds: Sequence[int],
) -> Sequence[int]:
    """Check that there is a seed for each episode to begin, and return which these are.

    Args:
        episodes (Sequence[int] or None): Which of the B; None for all.
        num_episodes (int): B.
        seeds (Sequence[int]): The seeds.

    Raises:
        UserError: If there are not as many seeds as episodes.
    """
    episodes = range(num_episodes) if episodes is None else episodes
    if len(seeds) != len(episodes):
        raise UserError(f'reset got {len(seeds)} seeds for {len(episodes)} episodes')
    return episodes


def checked_observations(
    observations: np.ndarray | torch.Tensor,
    shape: tuple[int, int],
) -> torch.Tensor:
    """Check observations and return them as float32, on their own device.

    Args:
        observations (np.ndarray or torch.Tensor): Of B episodes. Check them in host memory, before
            the transfer, to avoid a wait for the GPU.
        shape (tuple[int, int]): Required shape, (B, S).

    Raises:
        UserError: If an observation has another size or is not finite.
    """
    observations = torch.as_tensor(observations, dtype=torch.float32)
    if observations.shape != shape:
        raise UserError(
            f'observation has shape {tuple(observations.shape)}; the policy was trained on {shape}',
        )
    if not _is_usable(observations):
        raise UserError(
            'observation holds NaN or infinity, or a number beyond '
            f'{LARGEST_NUMBER:g}; the policy will not act on it',
        )
    return observations


def checked_signals(*signals: float | np.ndarray | torch.Tensor) -> list[torch.Tensor]:
    """Check rewards and costs and return them as float32.

    A value that is not finite would stay in the history: attention multiplies even padding, by
    zero.

    Args:
        signals (float, np.ndarray or torch.Tensor): Rewards, costs.

    Raises:
        UserError: If a number is not finite.
    """
    received = [torch.as_tensor(value, dtype=torch.float32) for value in signals]
    if not all(map(_is_usable, received)):
        raise UserError('reward or cost is NaN or infinity; the policy cannot go on from it')
    return received


def check_actions(actions: torch.Tensor, *values: torch.Tensor) -> None:
    """Check that actions are finite; waits for the device, as sending them does anyway.

    Args:
        actions (torch.Tensor): The selected actions.
        values (torch.Tensor): Critic values of the candidates.

    Raises:
        UserError: If one is NaN or infinite.
    """
    finite = torch.stack([each.isfinite().all() for each in (actions, *values)])
    if not bool(finite.all()):
        raise UserError(
            'the action or its value would be NaN or infinite, so none is sent and the policy is '
            'as before: its networks overflow at this observation, or its weights are damaged; use '
            'another checkpoint',
        )


def checked_targets(target_return: float | None, cost_limit: float) -> tuple[float, float]:
    """Check the targets of an episode; without a target return it is 0 and never used."""
    target_return = 0.0 if target_return is None else target_return
    for name, value in (('target_return', target_return), ('cost_limit', cost_limit)):
        if not abs(value) <= LARGEST_NUMBER:  # not so for NaN
            raise UserError(f'{name} is {value}; it must be a finite number')
    return target_return, cost_limit
