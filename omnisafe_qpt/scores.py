# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Normalised scores, Eq. (15)-(16), as DSRL defines them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from omnisafe_qpt.data.tasks import find_task


# Added to both sides of the ratio where the cost limit is zero.
_ZERO_LIMIT_EPSILON = 1.0
# 97.5 % quantiles of Student's t with 1, 2, ... 30 degrees of freedom; beyond, the last one, which
# is some 4 % too wide for very many.
_STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
# 95 % quantiles, likewise.
_STUDENT_T_ONE_SIDED = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
    1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
    1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip


def normalized_return(episode_return: float, low: float, high: float) -> float:
    """Return a return on the scale where ``low`` is 0 and ``high`` is 1, Eq. (15).

    The paper multiplies by 100; DSRL does not, and its tables, like the paper's, show values
    about 1.
    """
    return (episode_return - low) / ((high - low) or 1.0)


def normalized_cost(cost: float, cost_limit: float) -> float:
    """Return a cost as a share of the limit, Eq. (16); at most 1 is safe."""
    epsilon = _ZERO_LIMIT_EPSILON if cost_limit == 0 else 0.0
    return (cost + epsilon) / (cost_limit + epsilon)


def reference_returns(env_id: str, fallback: tuple[float, float]) -> tuple[float, float]:
    """Return the returns that are 0 and 1 on the normalised scale.

    Args:
        env_id (str): OmniSafe's environment id.
        fallback (tuple[float, float]): Lowest and highest return of the dataset at hand, for an
            environment that is no DSRL task.
    """
    task = find_task(env_id)
    return fallback if task is None else (task.min_return, task.max_return)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % Student t interval of the mean that values were drawn about.

    It assumes independent values, roughly normal: good for runs with different seeds, of which two
    or three give a wide one (12.7 and 4.3 standard errors to each side).

    Args:
        values (Sequence[float]): One for each run.

    Returns:
        Its two ends, or None for a single value, which tells nothing about the spread.
    """
    if len(values) < 2:
        return None
    mean, half = statistics.fmean(values), _half_width(values, _STUDENT_T)
    return mean - half, mean + half


def mean_bound(values: Sequence[float]) -> float:
    """Return what the mean that values were drawn about stays below with 95 % confidence.

    By Student's t, as :func:`mean_interval`: of four values 2.4 standard errors above their mean,
    of ten 1.8.

    Args:
        values (Sequence[float]): Two or more.
    """
    return statistics.fmean(values) + _half_width(values, _STUDENT_T_ONE_SIDED)


def fixed(value: float, digits: int) -> str:
    """Write a score with that many digits; what rounds to nothing gets no minus."""
    return f'{round(value, digits) + 0.0:.{digits}f}'


def _half_width(values: Sequence[float], quantiles: Sequence[float]) -> float:
    """Return a quantile, chosen by the number of values, times their standard error."""
    quantile = quantiles[min(len(values) - 1, len(quantiles)) - 1]
    return quantile * statistics.stdev(values) / len(values) ** 0.5
