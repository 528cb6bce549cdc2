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

from omnisafe_qpt.data.tasks import find_task


# Added to both sides of the ratio where the cost limit is zero.
_ZERO_LIMIT_EPSILON = 1.0


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
