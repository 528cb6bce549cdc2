# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes kept out of training, for checks on data that the model has not seen."""

from __future__ import annotations

import numpy as np
import torch

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


# Not the run's seed: runs that differ in their seed alone are to be compared on the same episodes.
_SEED = 0


def choose_held_out(trajectories: Trajectories, share: float) -> torch.Tensor:
    """Choose the episodes that training does not see: the same ones for the same data and share.

    In order of cost, and of return where the cost is the same, the episodes are cut into as many
    groups as are held out, equal but for one, and one episode is drawn of each. So they
    are of all kinds, and every episode is about as likely as any other.

    Args:
        trajectories (Trajectories): The dataset of E episodes.
        share (float): The share of them to hold out.

    Returns:
        (H,) int64, their numbers, ascending; none for a share of 0.

    Raises:
        UserError: If the share is not at least 0 and below 1, or if with it no episode is held
            out or none is left.
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
    returns, costs = (
        sums.double().cpu().numpy() for sums in (trajectories.returns, trajectories.cost_returns)
    )
    order = np.lexsort((returns, costs))
    edges = np.arange(count + 1) * total // max(count, 1)
    place = np.random.default_rng(_SEED).random(count)
    chosen = order[edges[:-1] + np.floor(place * np.diff(edges)).astype(np.int64)]
    return torch.from_numpy(np.sort(chosen))


def split_off(
    trajectories: Trajectories,
    chosen: torch.Tensor,
) -> tuple[Trajectories, Trajectories]:
    """Part the episodes that are left from those that are held out; both share the table.

    Args:
        trajectories (Trajectories): The dataset of E episodes.
        chosen (torch.Tensor): (H,) int64, the episodes held out.

    Returns:
        The episodes left, and those held out.
    """
    is_chosen = torch.zeros(len(trajectories.rows), dtype=torch.bool)
    is_chosen[chosen] = True
    is_chosen = is_chosen.to(trajectories.table.device)
    return trajectories.select(~is_chosen), trajectories.select(is_chosen)
