# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Held-out episodes, for checks on data that the model has not seen."""

from __future__ import annotations

import numpy as np
import torch

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


# Not the run's seed, so that runs with different seeds hold out the same episodes.
_SEED = 0


def choose_held_out(trajectories: Trajectories, share: float) -> torch.Tensor:
    """Choose the held-out episodes: the same ones for the same data and share.

    The episodes are sorted by cost, then return, and divided into as many groups of nearly equal
    size as there are held-out episodes. One episode is drawn from each group. So they cover the
    range, and every episode is about equally likely.

    Args:
        trajectories (Trajectories): The dataset of E episodes.
        share (float): The share to hold out.

    Returns:
        (H,) int64, their indices, ascending; empty for a share of 0.

    Raises:
        UserError: If the share is not in [0, 1), or no episode is held out or none is left.
    """
    if not 0 <= share < 1:
        raise UserError(f'train_cfgs:holdout_share is {share}; it must be at least 0 and below 1')
    total = len(trajectories.rows)
    count = round(share * total)
    if share and not 0 < count < total:
        raise UserError(
            f'train_cfgs:holdout_share {share:g} holds out {count} of the {total} episodes in '
            f'{trajectories.name}; at least one must be held out and one must be left',
        )
    order = np.lexsort(trajectories.totals())
    edges = np.arange(count + 1) * total // max(count, 1)
    place = np.random.default_rng(_SEED).random(count)
    chosen = order[edges[:-1] + np.floor(place * np.diff(edges)).astype(np.int64)]
    return torch.from_numpy(np.sort(chosen))


def split_off(
    trajectories: Trajectories,
    chosen: torch.Tensor,
) -> tuple[Trajectories, Trajectories]:
    """Split the episodes into training and held-out ones; both share the table.

    Args:
        trajectories (Trajectories): The dataset of E episodes.
        chosen (torch.Tensor): (H,) int64, the episodes held out.

    Returns:
        The training episodes, and the held-out ones.
    """
    is_chosen = torch.zeros(len(trajectories.rows), dtype=torch.bool)
    is_chosen[chosen] = True
    is_chosen = is_chosen.to(trajectories.table.device)
    return trajectories.select(~is_chosen), trajectories.select(is_chosen)
