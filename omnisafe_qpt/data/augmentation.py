# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Algorithm 2: relabelled episodes for targets that the data cannot meet.

The hook is a function ``(trajectories, num_episodes, generator) -> EpisodeRows``. The paper's is
:func:`relabel_frontier`; another is named in the configuration as ``package.module:function``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import numpy as np
import torch

from omnisafe_qpt.data.frontier import frontier_episodes
from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.data.trajectories import EpisodeRows, Trajectories
from omnisafe_qpt.errors import UserError


AugmentationHook = Callable[[Trajectories, int, np.random.Generator], EpisodeRows]


def relabel_frontier(
    trajectories: Trajectories,
    num_episodes: int,
    generator: np.random.Generator,
) -> EpisodeRows:
    r"""Relabel frontier episodes with infeasible targets, Algorithm 2 and Eq. 11-12.

    .. math::

        \kappa \sim U(c_{min}, c_{max}), \quad \rho \sim U(RF(\kappa), r_{max}), \quad
        \tau^* = \arg\max_{C(\tau) \le \kappa} R(\tau)

    Only the to-go tokens change; rewards and costs, from which the critics learn, stay the same.

    Args:
        trajectories (Trajectories): The dataset; r_max is its highest return.
        num_episodes (int): Number of episodes to add, N.
        generator (np.random.Generator): Source of the targets.

    Returns:
        N episode rows: the frontier episode of each sampled cost, and the shifts of its
        return-to-go and cost-to-go.
    """
    returns, costs = trajectories.totals()
    frontier = frontier_episodes(returns, costs)
    cost_targets = generator.uniform(costs.min(), costs.max(), num_episodes)  # kappa
    source = frontier[np.searchsorted(costs[frontier], cost_targets, side='right') - 1]  # tau*
    return_targets = generator.uniform(returns[source], returns.max())  # rho
    rows = trajectories.rows.select(torch.from_numpy(source).to(trajectories.table.device))
    shifts = {
        'return_shift': return_targets - returns[source],
        'cost_shift': cost_targets - costs[source],
    }
    return EpisodeRows(
        starts=rows.starts,
        lengths=rows.lengths,
        terminal=rows.terminal,
        **{
            name: torch.as_tensor(shift, dtype=torch.float32, device=trajectories.table.device)
            for name, shift in shifts.items()
        },
    )


def load_hook(name: str) -> AugmentationHook:
    """Import the augmentation hook called ``package.module:function``.

    Args:
        name (str): Path of the function.

    Raises:
        UserError: If there is no such function.
    """
    module_name, _, function_name = name.partition(':')
    try:
        hook = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f'augmentation hook {name!r} cannot be imported ({error}); give it as '
            'package.module:function',
        ) from error
    if not callable(hook):
        raise UserError(f'augmentation hook {name!r} is not a function')
    return hook


def augment(
    trajectories: Trajectories,
    fraction: float,
    seed: int,
    hook: AugmentationHook = relabel_frontier,
) -> tuple[EpisodeRows, dict[str, float]]:
    """Append relabelled episodes to the dataset's own.

    Args:
        trajectories (Trajectories): The dataset of E episodes.
        fraction (float): Relabelled episodes as a share of E.
        seed (int): Seed of the targets; see :mod:`omnisafe_qpt.data.streams`.
        hook (AugmentationHook, optional): Relabels episodes. Defaults to :func:`relabel_frontier`.

    Returns:
        All episode rows, original ones first, and a report on the added ones: the number of
        episodes, the number of distinct source episodes, and the ranges of the targets.

    Raises:
        UserError: If the fraction is negative or not finite.
    """
    if not 0 <= fraction < math.inf:
        raise UserError(f'augmentation fraction is {fraction}; it must be 0 or more')
    num_episodes = round(fraction * len(trajectories.rows))
    if num_episodes == 0:
        return trajectories.rows, {'episodes': 0}
    added = hook(trajectories, num_episodes, np.random.default_rng(stream(seed, 'augmentation')))
    table = trajectories.table
    target_return = table[added.starts, -2] + added.return_shift
    target_cost = table[added.starts, -1] + added.cost_shift
    report = {
        'episodes': len(added),
        'source_episodes': len(added.starts.unique()),
        'min_target_return': target_return.min().item(),
        'max_target_return': target_return.max().item(),
        'min_target_cost': target_cost.min().item(),
        'max_target_cost': target_cost.max().item(),
    }
    return trajectories.rows.append(added), report
