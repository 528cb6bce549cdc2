# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration of critics: predicted values against empirical returns-to-go and costs-to-go."""

from __future__ import annotations

from dataclasses import dataclass

import torch


_BINS = 10


@dataclass(frozen=True)
class Bin:
    """States with similar predictions.

    Args:
        count (int): Number of states.
        predicted (float): Mean prediction.
        realised (float): Mean empirical return-to-go or cost-to-go.
        low (float): Its 10 % quantile.
        high (float): Its 90 % quantile.
    """

    count: int
    predicted: float
    realised: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """A critic's predictions against the empirical sums, in units of reward or cost.

    Args:
        num_states (int): State-action pairs of the data.
        predicted_mean (float): Mean prediction.
        realised_mean (float): Mean empirical return-to-go or cost-to-go.
        bias (float): ``predicted_mean`` minus ``realised_mean``.
        rmse (float): Root mean squared difference.
        correlation (float, optional): Pearson's. None where it is undefined, as all predictions or
            all sums are equal.
        rank_correlation (float, optional): Spearman's; likewise.
        bins (tuple[Bin, ...]): Ten bins of equal size, from low to high predictions.
    """

    num_states: int
    predicted_mean: float
    realised_mean: float
    bias: float
    rmse: float
    correlation: float | None
    rank_correlation: float | None
    bins: tuple[Bin, ...]


def discounted_sums(
    values: torch.Tensor,
    steps_left: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """Return the discounted sum of an episode's values from each state to the end.

    Each round doubles the number of steps in the sums, so that episodes of a thousand steps take
    ten rounds over all states.

    Args:
        values (torch.Tensor): (W,) float64, reward or cost of each state; episodes one after
            another.
        steps_left (torch.Tensor): (W,) int64, steps to the last state of its episode.
        gamma (float): Discount.

    Returns:
        (W,) float64.
    """
    sums, reach = values, 1
    while reach <= int(steps_left.max()):
        later = torch.where(steps_left[:-reach] >= reach, sums[reach:], 0.0)
        sums = torch.cat([sums[:-reach] + gamma**reach * later, sums[-reach:]])
        reach *= 2
    return sums


def calibrate(predicted: torch.Tensor, realised: torch.Tensor) -> Calibration:
    """Compare predictions with empirical sums.

    Args:
        predicted (torch.Tensor): (n,) float64, n at least 1.
        realised (torch.Tensor): (n,) float64.
    """
    order = predicted.argsort(stable=True)
    bins = [
        Bin(
            len(part),
            predicted[part].mean().item(),
            realised[part].mean().item(),
            *realised[part].quantile(torch.tensor([0.1, 0.9], dtype=realised.dtype)).tolist(),
        )
        for part in order.tensor_split(min(_BINS, len(order)))
    ]
    difference = predicted - realised
    return Calibration(
        num_states=len(predicted),
        predicted_mean=predicted.mean().item(),
        realised_mean=realised.mean().item(),
        bias=difference.mean().item(),
        rmse=difference.square().mean().sqrt().item(),
        correlation=correlation(predicted, realised),
        rank_correlation=correlation(_ranks(predicted), _ranks(realised)),
        bins=tuple(bins),
    )


def correlation(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Return Pearson's correlation of two (n,) tensors, None where one of them is constant."""
    if any(values.min() == values.max() for values in (first, second)):
        return None
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Rank (n,) values from 1; equal values share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]
