# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Test of learned dynamics on held-out episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsEnsemble
from omnisafe_qpt.evaluation.off_policy.rollouts import exogenous_series
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable


@dataclass(frozen=True)
class Backtest:
    """H held-out episodes and the model's predictions for them, (H,) each.

    Args:
        returns (np.ndarray): Returns in the data.
        costs (np.ndarray): Costs in the data.
        lengths (np.ndarray): Lengths in the data.
        predicted_returns (np.ndarray): Means over the members.
        predicted_costs (np.ndarray): Means over the members.
        predicted_lengths (np.ndarray): Means over the members.
    """

    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray
    predicted_returns: np.ndarray
    predicted_costs: np.ndarray
    predicted_lengths: np.ndarray


@torch.no_grad()
def backtest(
    networks: Deployable,
    config: DeploymentConfig,
    model: DynamicsEnsemble,
    held_out: Trajectories,
    on_progress: Callable[[int, int], None] | None = None,
) -> Backtest:
    """Replay held-out episodes in the model, with the policy correcting the drift.

    A plain replay of the data's actions would overstate the error, because nothing would correct
    the drift as the acting policy does. So the action is the data's action, plus the policy's
    action in the model's state, minus its action in the data's state. The targets of the policy are
    the return and cost of the episode.

    Args:
        networks (Deployable): The trained model.
        config (DeploymentConfig): Settings of deployment; with one candidate.
        model (DynamicsEnsemble): Trained without these episodes.
        held_out (Trajectories): H episodes, on the model's device.
        on_progress (Callable, optional): Called with the steps done and their total.
    """
    config, members = replace(config, candidates=1), model.config.members
    rows, count = held_out.rows, len(held_out.rows)
    targets = [each.tolist() for each in (held_out.returns, held_out.cost_returns)]
    in_data, in_model = networks.deploy(config, count), networks.deploy(config, members * count)
    for episode, (target_return, target_cost) in enumerate(zip(*targets)):
        in_data.reset(target_return, target_cost, (0,), [episode])
        copies = range(episode, members * count, count)
        in_model.reset(target_return, target_cost, [0] * members, list(copies))
    obs_dim, act_dim = held_out.obs_dim, held_out.act_dim
    longest = int(rows.lengths.max())
    obs = held_out.table[rows.starts, :obs_dim].repeat(members, 1)
    series = exogenous_series(held_out, model.config.exogenous, longest)
    running = torch.ones(members * count, device=obs.device)
    totals = torch.zeros(3, members * count, device=obs.device)
    for step in range(longest):
        # Ended episodes stay at their last row and no longer count.
        row = rows.starts + rows.lengths.clamp_max(step + 1) - 1
        state, action, signals = held_out.table[row].split([obs_dim, act_dim, 4], dim=-1)
        difference = in_model.act(obs) - in_data.act(state).repeat(members, 1)
        taken = (action.repeat(members, 1) + difference).clamp(-1.0, 1.0)
        in_data.record_actions(action)
        in_model.record_actions(taken)
        running = running * (rows.lengths > step).repeat(members)
        recorded = None if series is None else series[:, step].repeat(members, 1)
        made = model.step(obs, taken, recorded=recorded)
        rewards, costs = made.rewards * running, made.costs * running
        totals += torch.stack([rewards, costs, running])
        in_data.observe(signals[:, 0], signals[:, 1])
        in_model.observe(rewards, costs)
        obs = torch.where(running[:, None] > 0, made.obs, obs)
        running = running * ~made.terminal
        if on_progress is not None:
            on_progress(step + 1, longest)
    predicted = totals.view(3, members, count).mean(1).cpu().double().numpy()
    lengths = rows.lengths.cpu().double().numpy()
    returns, cost_returns = (np.asarray(each) for each in targets)
    return Backtest(returns, cost_returns, lengths, *predicted)
