# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The rules that select one of several candidate actions, Eq. 13-14.

To add one, add it to :data:`RULES`. Its name also belongs to two lists that cannot import this
module: the choices of the command line and those of an exported model's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _paper(
    reward_values: torch.Tensor,
    cost_values: torch.Tensor,
    budgets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    fits = cost_values <= budgets[:, None]
    any_fits = fits.any(dim=1)
    return torch.where(any_fits, _best(reward_values, fits), cost_values.argmin(dim=1)), any_fits


def _bounded(
    reward_values: torch.Tensor,
    cost_values: torch.Tensor,
    budgets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _paper(reward_values, cost_values, torch.minimum(budgets, cost_values[:, 0]))


def _unshifted_or_better(
    reward_values: torch.Tensor,
    cost_values: torch.Tensor,
    budgets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    fits = cost_values <= budgets[:, None]
    return torch.where(fits[:, 0], _best(reward_values, fits), 0), fits.any(dim=1)


def _best(reward_values: torch.Tensor, fits: torch.Tensor) -> torch.Tensor:
    return torch.where(fits, reward_values, -torch.inf).argmax(dim=1)


@dataclass(frozen=True)
class SelectionRule:
    """How one candidate of each episode is selected, and which inputs the policy gets for it.

    Args:
        select (Callable): ``(reward_values, cost_values, budgets)`` of shapes (B, M), (B, M) and
            (B,) to the selected candidates, (B,) int64, and whether any candidate is feasible, (B,)
            bool. Candidate 0 is the unshifted one. The budgets are the cost that each episode may
            still incur, discounted or not; see ``discounts_budget``.
        history (int, optional): Steps of history that the policy sees. Defaults to None, its whole
            context.
        discounts_budget (bool, optional): Whether a budget is multiplied by :func:`even_spend`
            before it is compared. Defaults to False.
        clamps_cost (bool, optional): Whether the policy sees a negative cost-to-go as 0, since no
            episode of the data has less. Defaults to False.
    """

    select: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    history: int | None = None
    discounts_budget: bool = False
    clamps_cost: bool = False

    def steps(self, context_len: int) -> int:
        """Return how many steps of a window of K the policy sees."""
        return context_len if self.history is None else min(self.history, context_len)


# By their names. The first one is the paper's.
RULES = {
    # Eq. 13-14: the highest reward value among candidates whose cost value is within the budget; if
    # there is none, the lowest cost value. As in Eq. 14, a discounted value is compared with an
    # undiscounted sum, which is lenient far from the end of an episode.
    'paper': SelectionRule(_paper),
    # The same, but a candidate's cost value must also not exceed that of the unshifted one. While
    # the budget is large, the paper's rule only maximises the reward value and spends the budget
    # early; this rule takes a better action only if it is no riskier.
    'bounded': SelectionRule(_bounded),
    # The highest reward value among candidates whose cost value is within the discounted budget, if
    # the unshifted candidate is within it too; otherwise the unshifted candidate. Where even the
    # unshifted candidate exceeds the budget, the values are averages over all targets in the data
    # and carry little information; always taking the cheapest action then leads away from the data
    # (benchmarks/LIMITS.md). Discounting the budget without this fallback was worse, as hardly any
    # candidate was feasible (BallCircle at limit 10, 3000 updates of 32, 20 episodes: return 0.30
    # and cost 0.93, against 0.55 and 0.19).
    # A short history: from a longer one the policy recognises the behaviour that it has been
    # imitating and continues it, whatever the targets. Training covers every history shorter than
    # the context, as the policy predicts at each state of a window from the steps before it.
    'discounted_budget': SelectionRule(
        _unshifted_or_better, history=3, discounts_budget=True, clamps_cost=True
    ),
}


def even_spend(horizon: int, gamma: float, stops: bool = False) -> torch.Tensor:
    """Return a critic's value of a budget of one that is spent evenly.

    A budget b for n steps is a cost of b / n in each. A critic that does not see the time
    bootstraps at the time limit, as if the episode continued. The value of the same cost in every
    step for ever is b / (n (1 - gamma)). For a critic that stops at the time limit the value is b
    (1 + gamma + ... + gamma^(n-1)) / n.

    The steps left are those to the time limit. An episode may end earlier in a terminal state, at
    an unknown step; the budget is planned for all steps, so part of it then stays unspent.

    Without a discount a value is a plain sum like the budget, so the factor is 1. For a critic that
    does not stop, that value is finite only if all episodes end in terminal states.

    Args:
        horizon (int): Steps of an episode, T.
        gamma (float): Discount of the critics.
        stops (bool, optional): Whether the critics stop at the time limit. Defaults to False.

    Returns:
        (T,) float32, the factor at each step 0 .. T - 1 for the T .. 1 steps left.
    """
    steps_left = torch.arange(horizon, 0, -1, dtype=torch.float64)
    if gamma == 1.0:
        return torch.ones(horizon)
    worth = 1.0 - gamma**steps_left if stops else 1.0
    return (worth / ((1.0 - gamma) * steps_left)).float()
