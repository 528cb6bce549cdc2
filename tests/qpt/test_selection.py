# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The selection rules in hand-made cases and against loops."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from core_helpers import slow_select, slow_worth
from omnisafe_qpt.cli.common import add_deployment_options
from omnisafe_qpt.qpt.selection import RULES, even_spend
from omnisafe_qpt.runner import metadata


FIXED = [
    # reward values, cost values, budget, choice by paper, by bounded and by discounted_budget
    ([1, 5, 3], [1, 9, 2], 4, 2, 0, 2),  # the best is too dear
    ([1, 5, 3], [3, 2, 1], 4, 1, 1, 1),  # the best is cheap
    ([5, 1, 3], [1, 0, 0], 4, 0, 0, 0),  # candidate 0 is the best
    ([5, 1, 3], [9, 1, 2], 4, 2, 2, 0),  # candidate 0 is too dear itself
    ([1, 5, 5], [2, 2, 1], 4, 1, 1, 1),  # a tie of reward goes to the first
    ([1, 5, 3], [4, 4, 4], 4, 1, 1, 1),  # exactly the budget fits
    ([1, 5, 3], [9, 7, 8], 4, 1, 1, 0),  # none fits: the cheapest, or the unshifted one
    ([1, 5, 3], [9, 7, 7], 4, 1, 1, 0),  # none fits, a tie: the first
    ([1, 5, 3], [1, 1, 2], -1, 0, 0, 0),  # an overdrawn budget
    ([1, 5, 3], [1, 3, 2], 4, 1, 0, 1),  # dearer than candidate 0
    ([-9, -5, -3], [1, 0.5, 9], 4, 1, 1, 1),  # negative values are values
]


@pytest.mark.parametrize(('rewards', 'costs', 'budget', 'paper', 'bounded', 'discounted'), FIXED)
def test_choice_in_hand_made_cases(rewards, costs, budget, paper, bounded, discounted):
    choices = {'paper': paper, 'bounded': bounded, 'discounted_budget': discounted}
    for rule, expected in choices.items():
        chosen, any_feasible = RULES[rule].select(
            torch.tensor([rewards], dtype=torch.float32),
            torch.tensor([costs], dtype=torch.float32),
            torch.tensor([float(budget)]),
        )
        assert chosen.tolist() == [expected]
        assert any_feasible.tolist() == [
            any(cost <= (min(budget, costs[0]) if rule == 'bounded' else budget) for cost in costs)
        ]


def test_every_list_of_the_rules_is_complete():
    parser = argparse.ArgumentParser()
    add_deployment_options(parser)
    (choices,) = (action.choices for action in parser._actions if action.dest == 'rule')
    assert set(choices) == set(RULES) == set(metadata._RULES)


@pytest.mark.parametrize('rule', RULES)
def test_choice_equals_a_loop(rule):
    generator = np.random.default_rng(0)
    # Whole numbers, so that ties and exact fits are common.
    rewards, costs = generator.integers(-3, 4, (2, 300, 4)).astype(np.float32)
    budgets = generator.integers(-4, 4, 300).astype(np.float32)
    chosen, _ = RULES[rule].select(*map(torch.from_numpy, (rewards, costs, budgets)))
    expected = [slow_select(r, c, b, rule) for r, c, b in zip(rewards, costs, budgets)]
    assert chosen.tolist() == expected


@pytest.mark.parametrize('stops', [False, True])
@pytest.mark.parametrize('gamma', [0.0, 0.9, 0.99, 1.0])
def test_an_even_spend_is_worth_what_a_loop_says(gamma, stops):
    expected = [slow_worth(1.0, 20 - step, gamma, stops) for step in range(20)]
    torch.testing.assert_close(even_spend(20, gamma, stops), torch.tensor(expected))


@pytest.mark.parametrize('stops', [False, True])
def test_an_even_spend_is_what_trained_critics_say_of_it(stops):
    """One state, no choice, and a cost in each step: whatever the critics see converges to it."""
    gamma, steps, cost = 0.9, 10, 0.3
    values = [0.0] * (steps + 1)
    for _ in range(300):  # the fixed point of Eq. (7) with a window of two
        # Without the time all states are the same one, and a time limit is bootstrapped through.
        following = values[1:] if stops else [sum(values[:steps]) / steps] * steps
        values[:steps] = [cost + gamma * value for value in following]
    factors = even_spend(steps, gamma, stops)
    for step in range(steps):
        budget = cost * (steps - step)
        assert values[step] == pytest.approx(budget * factors[step].item(), rel=1e-4)
