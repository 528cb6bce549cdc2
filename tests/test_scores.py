# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Normalised scores, Eq. 15-16."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from omnisafe_qpt.data.tasks import all_tasks, reference_returns
from omnisafe_qpt.runner import share_bound
from omnisafe_qpt.scores import (
    fixed,
    mean_bound,
    mean_interval,
    normalized_cost,
    normalized_return,
)


@pytest.mark.parametrize(
    ('value', 'low', 'high', 'expected'),
    [
        (2.0, 2.0, 12.0, 0.0),
        (12.0, 2.0, 12.0, 1.0),
        (7.0, 2.0, 12.0, 0.5),
        (14.5, 2.0, 12.0, 1.25),
        (0.0, 2.0, 12.0, -0.2),
        (-5.0, -10.0, -2.0, 0.625),
    ],
)
def test_the_return_is_scaled_between_the_references(value, low, high, expected):
    assert normalized_return(value, low, high) == pytest.approx(expected)


def test_a_dataset_of_one_return_has_a_finite_score():
    assert normalized_return(5.0, 5.0, 5.0) == 0
    assert normalized_return(7.0, 5.0, 5.0) == 2


@pytest.mark.parametrize(
    ('cost', 'limit', 'expected'),
    [(0.0, 10.0, 0.0), (10.0, 10.0, 1.0), (25.0, 10.0, 2.5), (0.1, 0.5, 0.2)],
)
def test_the_cost_is_a_share_of_the_limit(cost, limit, expected):
    assert normalized_cost(cost, limit) == pytest.approx(expected)


@pytest.mark.parametrize(('cost', 'expected'), [(0.0, 1.0), (1.0, 2.0), (9.0, 10.0)])
def test_at_limit_zero_only_no_cost_is_safe(cost, expected):
    assert normalized_cost(cost, 0.0) == normalized_cost(cost, 0) == expected


def test_the_references_of_a_dsrl_task_are_dsrls():
    fallback = (-1.0, 1.0)
    for task in all_tasks():
        assert reference_returns(task.env_id, fallback) == (task.min_return, task.max_return)
    low, high = reference_returns('SafetyBallCircle-v0', fallback)
    assert low < high
    assert (low, high) != fallback


def test_another_environment_takes_the_fallback():
    assert reference_returns('Other-v0', (3.0, 8.0)) == (3.0, 8.0)


def share_within(bound, degrees):
    """Student's t between minus and plus a bound, by adding its density up."""
    middles = (np.arange(200_000) + 0.5) / 200_000 * bound
    densities = (1 + middles**2 / degrees) ** (-(degrees + 1) / 2)
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    return 2 * bound * scale * densities.mean()


@pytest.mark.parametrize('number', range(2, 32))
def test_the_interval_holds_95_of_100_of_students_t(number):
    values = np.random.default_rng(number).normal(3.0, 2.0, number)
    low, high = mean_interval(values.tolist())
    assert (low + high) / 2 == pytest.approx(values.mean())
    standard_error = values.std(ddof=1) / math.sqrt(number)
    bound = (high - low) / 2 / standard_error
    assert share_within(bound, number - 1) == pytest.approx(0.95, abs=1e-4)


def wealth(values, mean, largest):
    """Bet all that may be bet on values below a mean; returns the most that was ever owned."""
    capital = most = 1.0
    for value in values:
        capital *= 1.0 + (mean - value) / (largest - mean)
        most = max(most, capital)
    return most


@pytest.mark.parametrize('seed', range(5))
def test_the_bound_is_the_least_mean_against_which_a_gambler_has_won_twentyfold(seed):
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.0, 9.0, 60) * (generator.random(60) < 0.3)
    values[50:] = 80.0 if seed == 4 else values[50:]
    bound = mean_bound(values.tolist(), 80.0)
    assert wealth(values, bound + 1e-6, 80.0) > 20.0 > wealth(values, bound - 1e-6, 80.0)
    assert mean_bound(values.tolist(), 80.0, 0.01) > bound > values[:50].mean()


@pytest.mark.parametrize(('values', 'bound'), [
    ([], 80.0), ([80.0], 80.0), ([0.0] * 46, 80.0 * (1 - 0.05 ** (1 / 46))), ([81.0], None),
    ([0.0] * 200 + [81.0], None), ([7.0] * 5, 80.0 - 73.0 * 0.05 ** (1 / 5)),
])  # fmt: skip
def test_the_bound_at_its_edges(values, bound):
    found = mean_bound(values, 80.0)
    assert found == (None if bound is None else pytest.approx(bound))


def test_no_costs_do_not_make_the_bound_zero():
    assert mean_bound([0.0] * 10, 80.0) == pytest.approx(20.7, abs=0.1)
    assert mean_bound([0.0] * 45, 80.0) > 5.0 > mean_bound([0.0] * 47, 80.0)


@pytest.mark.parametrize(('over', 'episodes'), [(0, 1), (0, 10), (1, 10), (3, 46), (45, 46)])
@pytest.mark.parametrize('error_rate', [0.05, 0.001])
def test_the_share_bound_is_that_of_clopper_and_pearson(over, episodes, error_rate):
    bound = Fraction(share_bound(over, episodes, error_rate))
    so_few = sum(
        math.comb(episodes, k) * bound**k * (1 - bound) ** (episodes - k) for k in range(over + 1)
    )
    assert float(so_few) == pytest.approx(error_rate)


def test_what_few_episodes_say_of_the_share_over_the_limit():
    assert share_bound(0, 10) == pytest.approx(1 - 0.05**0.1)
    assert share_bound(10, 10) == 1.0
    assert share_bound(0, 0) == 1.0
    assert 0.005 < share_bound(50, 10_000) < 0.0065 < share_bound(100, 10_000) < 0.013


def test_many_values_have_an_interval_a_little_too_wide():
    low, high = mean_interval([-1.0, 1.0] * 500)
    assert 1.96 < (high - low) / 2 * math.sqrt(999) < 2.05


def test_one_value_has_no_interval():
    assert mean_interval([4.0]) is None


@pytest.mark.parametrize(
    ('value', 'digits', 'text'),
    [(-0.004, 2, '0.00'), (-0.006, 2, '-0.01'), (0.0, 1, '0.0'), (12.345, 1, '12.3')],
)
def test_what_rounds_to_nothing_has_no_minus(value, digits, text):
    assert fixed(value, digits) == text
