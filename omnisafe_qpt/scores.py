# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Normalised scores, Eq. 15-16, as DSRL defines them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


# Added to both sides of the ratio where the cost limit is zero.
_ZERO_LIMIT_EPSILON = 1.0
# 97.5 % quantiles of Student's t with 1, 2, ... 30 degrees of freedom; the last one also for more,
# where it is up to 4 % too wide.
_STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def normalized_return(episode_return: float, low: float, high: float) -> float:
    """Return a return on the scale where ``low`` is 0 and ``high`` is 1, Eq. 15.

    The paper multiplies by 100; DSRL does not, and its tables, like the paper's, show values
    about 1.
    """
    return (episode_return - low) / ((high - low) or 1.0)


def normalized_cost(cost: float, cost_limit: float) -> float:
    """Return a cost as a share of the limit, Eq. 16; at most 1 is safe."""
    epsilon = _ZERO_LIMIT_EPSILON if cost_limit == 0 else 0.0
    return (cost + epsilon) / (cost_limit + epsilon)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % Student t interval of the mean.

    It assumes independent values, roughly normal: good for runs with different seeds, of which two
    or three give a wide one (12.7 and 4.3 standard errors to each side).

    Args:
        values (Sequence[float]): One for each run.

    Returns:
        Its two ends, or None for a single value, which has no spread.
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    quantile = _STUDENT_T[min(len(values) - 1, len(_STUDENT_T)) - 1]
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def mean_bound(
    values: Sequence[float],
    largest: float,
    error_rate: float = 0.05,
) -> float | None:
    """Return the 95 % upper confidence bound of a mean, if no value exceeds ``largest``.

    If the mean were m or more, the product of (largest - value) / (largest - m) over the values so
    far would be a nonnegative supermartingale that starts at 1: the capital of a gambler who bets
    the most that he can on values below m. By Ville's inequality it would ever reach 20 with a
    probability of at most 1/20. The bound is the least m for which it has reached 20. So it holds
    whatever the distribution, and after any number of values, however that number was decided
    (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2024).

    After n values of 0 it is ``largest * (1 - 0.05 ** (1 / n))``; no bound that holds for all
    distributions is lower.

    Args:
        values (Sequence[float]): Independent, from 0 to ``largest``, in the order drawn.
        largest (float): No value exceeds it, by assumption.
        error_rate (float, optional): Probability that the mean is above the bound. Defaults to
            0.05.

    Returns:
        The bound, or None if a value exceeds ``largest``: then the assumption is false.
    """
    if max(values, default=0.0) > largest:
        return None
    bound, log_product = largest, math.log(error_rate)
    for count, value in enumerate(values, start=1):
        if value == largest:
            break  # all capital is lost; what was reached before stays
        log_product += math.log(largest - value)
        bound = min(bound, largest - math.exp(log_product / count))
    return bound


def fixed(value: float, digits: int) -> str:
    """Format a score with this many digits, without a negative zero."""
    return f'{round(value, digits) + 0.0:.{digits}f}'
