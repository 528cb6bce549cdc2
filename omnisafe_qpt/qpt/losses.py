# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The equations of the paper as functions of tensors.

Every mean is over valid entries only: the masked sum divided by their count. Processes that share a
batch pass the count: each divides by the average count of all processes, so that the average of
their means is the mean over the whole batch.
"""

from __future__ import annotations

import torch


# Smallest mean |Q| that is divided by, as a share of the data's estimate. Smaller values occur
# early in training or where every cost is zero, and would make the penalty explode.
_FLOOR_SHARE = 0.1


def masked_mean(
    values: torch.Tensor,
    mask: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Average ``values`` where ``mask`` holds; 0 if it holds nowhere.

    Args:
        values (torch.Tensor): (..., B, K).
        mask (torch.Tensor): (B, K) bool.
        count (torch.Tensor, optional): () positive, the divisor of the sum. Defaults to None,
            the number of entries where ``mask`` holds.

    Returns:
        (...) means over the last two dimensions.
    """
    # where, not a product: padding may hold infinity, and infinity times zero is NaN.
    total = torch.where(mask, values, 0.0).sum(dim=(-2, -1))
    return total / (mask.sum().clamp_min(1) if count is None else count)


def imitation_loss(
    predicted: torch.Tensor,
    actions: torch.Tensor,
    action_mask: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the predicted actions, Eq. 3.

    Args:
        predicted (torch.Tensor): (B, K, A).
        actions (torch.Tensor): (B, K, A).
        action_mask (torch.Tensor): (B, K) bool, states that have an action.
        count (torch.Tensor, optional): As for :func:`masked_mean`.

    Returns:
        () mean over valid steps and action dimensions.
    """
    return masked_mean((predicted - actions).square().mean(-1), action_mask, count)


def n_step_targets(
    rewards: torch.Tensor,
    bootstrap: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    r"""n-step targets within a window, Eq. 6-7, for rewards and costs alike.

    .. math::

        \hat{Q}_m = r_m + \gamma \hat{Q}_{m+1}, \quad \hat{Q}_e = \text{bootstrap}

    Args:
        rewards (torch.Tensor): (..., B, K) rewards or costs; the last position is not used.
        bootstrap (torch.Tensor): (..., B) value of the window's last state, 0 where it is terminal.
        gamma (float): Discount.

    Returns:
        (..., B, K - 1) targets for positions 0 .. K - 2.
    """
    target = bootstrap
    targets = []
    for step in range(rewards.shape[-1] - 2, -1, -1):
        target = rewards[..., step] + gamma * target
        targets.append(target)
    return torch.stack(targets[::-1], dim=-1)


def combine_cost(twin_values: torch.Tensor, how: str) -> torch.Tensor:
    """Reduce twin cost values (2, ...) to one by their ``min`` or ``max``."""
    return twin_values.amin(0) if how == 'min' else twin_values.amax(0)


def critic_loss(
    values: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error of both networks, Eq. 6-7: mean over steps, sum over networks.

    Args:
        values (torch.Tensor): (..., 2, B, K - 1) values of the data's state-action pairs.
        targets (torch.Tensor): (..., B, K - 1), without gradient.
        mask (torch.Tensor): (B, K - 1) bool, steps before the window's last that are no padding.
        count (torch.Tensor, optional): As for :func:`masked_mean`.

    Returns:
        (...) the losses.
    """
    return masked_mean((values - targets.unsqueeze(-3)).square(), mask, count).sum(-1)


def mean_magnitude(
    data_values: torch.Tensor,
    mask: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean |Q(s, a)| over the data, the denominator of Eq. 9-10.

    Args:
        data_values (torch.Tensor): (..., B, K') values of the data's state-action pairs.
        mask (torch.Tensor): (B, K') bool.
        count (torch.Tensor, optional): As for :func:`masked_mean`.

    Returns:
        (...) means, without gradient.
    """
    return masked_mean(data_values.detach().abs(), mask, count)


def magnitude_floor(mean_total: torch.Tensor, mean_length: float, gamma: float) -> torch.Tensor:
    """Return the lower bound of the mean |Q| in Eq. 9-10, from the episodes of the data.

    It scales with the data's rewards or costs, so that their unit does not change the weight of a
    penalty.

    Args:
        mean_total (torch.Tensor): (...) mean of the absolute return, or of the cost, of an episode,
            in the critics' units.
        mean_length (float): Mean steps of an episode.
        gamma (float): Discount.

    Returns:
        (...) a share of the value of an episode of mean length with the same amount in each step; a
        share of one unit where all are zero.
    """
    steps = mean_length if gamma == 1 else (1 - gamma**mean_length) / (1 - gamma)
    value = mean_total * (steps / mean_length)
    return _FLOOR_SHARE * torch.where(value > 0, value, 1.0)


def penalty_weight(
    magnitude: torch.Tensor,
    eta: float,
    floor: torch.Tensor,
) -> torch.Tensor:
    r"""Weight of a penalty term, Eq. 9-10.

    .. math::

        \alpha = \frac{\eta}{\mathbb{E} [ |Q(s, a)| ]}

    Args:
        magnitude (torch.Tensor): () mean |Q| over the data.
        eta (float): eta_1 or eta_2.
        floor (torch.Tensor): () lower bound of the divisor (:func:`magnitude_floor`).

    Returns:
        () the weight.
    """
    return eta / magnitude.clamp_min(floor)
