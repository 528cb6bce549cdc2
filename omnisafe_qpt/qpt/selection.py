# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The rules by which one of several candidate actions is selected, Eq. 13-14.

To add one, add its name to :data:`omnisafe_qpt.qpt.config.RULES` and its object to :data:`RULES`
here. Deployment, export, the command line and the configuration follow.
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
    """How one of each episode's candidates is selected, and what the policy is shown for it.

    Args:
        select (Callable): ``(reward_values, cost_values, budgets)`` of shapes (B, M), (B, M) and
            (B,) to the selected candidates, (B,) int64, and whether any candidate fits, (B,) bool.
            Candidate 0 is the unshifted one. The budgets are the cost that each episode may still
            incur, or what the critics would say of it, see ``discounts_budget``.
        history (int, optional): Steps of history that the policy is shown. Defaults to None, its
            whole context.
        discounts_budget (bool, optional): Whether a budget is multiplied by :func:`even_spend`
            before it is compared. Defaults to False.
        clamps_cost (bool, optional): Whether a negative cost-to-go is shown to the policy as 0,
            since no episode of the data has less. Defaults to False.
    """

    select: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    history: int | None = None
    discounts_budget: bool = False
    clamps_cost: bool = False

    def steps(self, context_len: int) -> int:
        """Return how many steps of a window of K the policy is shown."""
        return context_len if self.history is None else min(self.history, context_len)


RULES = {
    # Eq. 13-14: the highest reward value among candidates whose cost value fits the budget;
    # where none fits, the lowest cost value. It compares a discounted value with a plain sum, as
    # Eq. 14 writes it, which is lenient far from the end of an episode.
    'paper': SelectionRule(_paper),
    # The same, but a candidate must also cost no more than the unshifted one. While the budget is
    # large, the paper's rule is a plain maximum of the reward value and spends it early; this one
    # only ever takes a better action that is no riskier.
    'bounded': SelectionRule(_bounded),
    # The highest reward value among candidates whose cost value fits the discounted budget, but
    # only where the unshifted candidate fits too; where it does not, the unshifted candidate.
    # Where the critics see the policy itself beyond its budget, their values are averages over all
    # the targets in the data and tell little; always taking the cheapest action then leads away
    # from the data (benchmarks/LIMITS.md). Discounting the budget without keeping to the unshifted
    # candidate was worse, as hardly any candidate fitted (BallCircle at limit 10, 3000 updates of
    # 32, 20 episodes: return 0.30 and cost 0.93, against 0.55 and 0.19).
    #
    # Every history shorter than the context was trained too, as the policy predicts at each state
    # of a window from those before it. From a longer one it tells which behaviour it has been
    # imitating and goes on with that, whatever the targets.
    'paced': SelectionRule(
        _unshifted_or_better, history=3, discounts_budget=True, clamps_cost=True
    ),
}


def even_spend(horizon: int, gamma: float, stops: bool = False) -> torch.Tensor:
    """Return what a critic says of a budget that is spent evenly, for a budget of one.

    A budget b for n steps is a cost of b / n in each. A critic that does not see the time values
    what would come if the episode went on beyond its time limit, where it bootstraps: of the same
    cost in every step for ever it says b / (n (1 - gamma)). One that stops at the time limit says
    b (1 + gamma + ... + gamma^(n-1)) / n.

    The steps left are those to the time limit. Where an episode may end in a terminal state before
    it, nobody knows when: spending is planned for all of them, and what an early end would have
    left of the budget is not spent.

    Without a discount a value is a plain sum, as the budget is, so the factor is 1. A critic that
    does not stop has such values only where all episodes end in terminal states.

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
