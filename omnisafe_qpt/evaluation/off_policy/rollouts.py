# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a deployed policy in learned dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsEnsemble
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable


@dataclass(frozen=True)
class Level:
    """What a policy is asked for.

    Args:
        target_return (float or None): Return; None for the zero-action fallback.
        target_cost (float): Cost.
    """

    target_return: float | None
    target_cost: float


@dataclass(frozen=True)
class Imagined:
    """Episodes at one level, (E, P) each: those of a member are in a row.

    Args:
        returns (np.ndarray): Undiscounted.
        costs (np.ndarray): Undiscounted.
        lengths (np.ndarray): Steps.
        novel (np.ndarray): Share of an episode's steps at which the members disagree more than on
            99 % of the data.
    """

    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray
    novel: np.ndarray


@torch.no_grad()
def imagine(
    networks: Deployable,
    config: DeploymentConfig,
    model: DynamicsEnsemble,
    starts: torch.Tensor,
    levels: Sequence[Level],
    horizon: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Imagined]:
    """Roll the deployed policy out in the model, at all levels at once.

    Args:
        networks (Deployable): The trained model.
        config (DeploymentConfig): How it is deployed.
        model (DynamicsEnsemble): Stands in for the environment.
        starts (torch.Tensor): (E P, S) first observations; each level has the same.
        levels (Sequence[Level]): What to ask for.
        horizon (int): Steps of an episode at most.
        seed (int, optional): Fixes candidates, binary costs and termination. Defaults to 0.
        on_progress (Callable, optional): Called with the steps done and the horizon.

    Returns:
        One for each level.
    """
    members = model.config.members
    particles = len(starts) // members  # P
    # (E, levels, P) flattened: the model wants each member's particles together.
    numbers = torch.arange(members * len(levels) * particles).view(members, len(levels), particles)
    policy = networks.deploy(config, numbers.numel())
    for number, level in enumerate(levels):
        policy.reset(
            level.target_return,
            level.target_cost,
            # The same candidates at each level.
            seeds=range(seed, seed + members * particles),
            episodes=numbers[:, number].flatten().tolist(),
        )
    device = starts.device
    generator = torch.Generator(device).manual_seed(torch_seed(seed, 'dynamics', 2))
    obs = starts.unflatten(0, (members, -1)).repeat(1, len(levels), 1).flatten(0, 1)
    running = torch.ones(len(obs), device=device)
    totals = torch.zeros(4, len(obs), device=device)  # return, cost, steps, novel steps
    for step in range(horizon):
        made = model.step(obs, policy.act(obs), generator)
        rewards, costs = made.rewards * running, made.costs * running
        novel = (made.disagreement > model.usual_disagreement).float()
        totals += torch.stack([rewards, costs, running, novel * running])
        policy.observe(rewards, costs)
        obs = torch.where(running[:, None] > 0, made.obs, obs)
        running = running * ~made.terminal
        if on_progress is not None:
            on_progress(step + 1, horizon)
        # Now and then, as it waits for the device.
        if step % 20 == 19 and not running.any():
            break
    shape = (4, members, len(levels), particles)
    returns, costs, lengths, novel = totals.view(shape).cpu().double().numpy()
    return [
        Imagined(returns[:, k], costs[:, k], lengths[:, k], novel[:, k] / lengths[:, k])
        for k in range(len(levels))
    ]
