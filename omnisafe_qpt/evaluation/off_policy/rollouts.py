# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a deployed policy in learned dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsEnsemble
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable


@dataclass(frozen=True)
class Level:
    """Targets of a policy.

    Args:
        target_return (float or None): Return; None for the zero-action fallback.
        target_cost (float): Cost.
    """

    target_return: float | None
    target_cost: float


@dataclass(frozen=True)
class Imagined:
    """Model rollouts at one level, (E, P) each: one row per member.

    Args:
        returns (np.ndarray): Undiscounted.
        costs (np.ndarray): Undiscounted.
        lengths (np.ndarray): Steps per episode.
        novel (np.ndarray): Share of steps at which the members disagree more than on 99 % of the
            data.
    """

    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray
    novel: np.ndarray


def exogenous_series(
    trajectories: Trajectories,
    columns: Sequence[int],
    steps: int,
) -> torch.Tensor | None:
    """Return components of each episode's next observations.

    Args:
        trajectories (Trajectories): E episodes.
        columns (Sequence[int]): X components of the observation.
        steps (int): T.

    Returns:
        (E, T, X); NaN after the end of an episode, and at a time limit, where logs often have no
        next observation. None without columns.
    """
    if not columns:
        return None
    rows, step = trajectories.rows, torch.arange(1, steps + 1, device=trajectories.table.device)
    last = (rows.lengths - (~rows.terminal).long())[:, None]  # with a known state
    numbers = rows.starts[:, None] + torch.minimum(step, last)
    series = trajectories.table[numbers][..., list(columns)]
    return series.masked_fill((step > last)[..., None], torch.nan)


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
    recorded: torch.Tensor | None = None,
) -> list[Imagined]:
    """Roll the deployed policy out in the model, at all levels at once.

    Args:
        networks (Deployable): The trained model.
        config (DeploymentConfig): Settings of deployment.
        model (DynamicsEnsemble): Replaces the environment.
        starts (torch.Tensor): (E P, S) first observations, the same for each level.
        levels (Sequence[Level]): Targets of the policy.
        horizon (int): Largest number of steps in an episode.
        seed (int, optional): Seed of candidates, binary costs and termination. Defaults to 0.
        on_progress (Callable, optional): Called with the steps done and the horizon.
        recorded (torch.Tensor, optional): (E P, T, X) exogenous components to replay, see
            :func:`exogenous_series`. Defaults to None, all are predicted.

    Returns:
        One for each level.
    """
    members = model.config.members
    particles = len(starts) // members  # P
    # (E, levels, P) flattened: the model needs each member's particles together.
    numbers = torch.arange(members * len(levels) * particles).view(members, len(levels), particles)
    policy = networks.deploy(config, numbers.numel())
    for number, level in enumerate(levels):
        policy.reset(
            level.target_return,
            level.target_cost,
            # Equal seeds: the same candidates at each level.
            seeds=range(seed, seed + members * particles),
            episodes=numbers[:, number].flatten().tolist(),
        )
    device = starts.device
    generator = torch.Generator(device).manual_seed(torch_seed(seed, 'dynamics', 2))
    obs = starts.unflatten(0, (members, -1)).repeat(1, len(levels), 1).flatten(0, 1)
    if recorded is not None:
        recorded = recorded.unflatten(0, (members, -1)).repeat(1, len(levels), 1, 1).flatten(0, 1)
    running = torch.ones(len(obs), device=device)
    totals = torch.zeros(4, len(obs), device=device)  # return, cost, steps, novel steps
    for step in range(horizon):
        following = None if recorded is None else recorded[:, step]
        made = model.step(obs, policy.act(obs), generator, following)
        rewards, costs = made.rewards * running, made.costs * running
        novel = (made.disagreement > model.usual_disagreement).float()
        totals += torch.stack([rewards, costs, running, novel * running])
        policy.observe(rewards, costs)
        obs = torch.where(running[:, None] > 0, made.obs, obs)
        running = running * ~made.terminal
        if on_progress is not None:
            on_progress(step + 1, horizon)
        # Only from time to time, as it waits for the device.
        if step % 20 == 19 and not running.any():
            break
    shape = (4, members, len(levels), particles)
    returns, costs, lengths, novel = totals.view(shape).cpu().double().numpy()
    return [
        Imagined(returns[:, k], costs[:, k], lengths[:, k], novel[:, k] / lengths[:, k])
        for k in range(len(levels))
    ]
