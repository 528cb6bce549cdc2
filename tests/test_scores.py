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
"""Normalised scores, Eq. (15)-(16)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.scores import (
    fixed,
    mean_bound,
    mean_interval,
    normalized_cost,
    normalized_return,
    reference_returns,
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


@pytest.mark.parametrize('number', range(2, 32))
def test_the_bound_is_above_95_of_100_of_students_t(number):
    values = np.random.default_rng(number).normal(3.0, 2.0, number)
    standard_error = values.std(ddof=1) / math.sqrt(number)
    bound = (mean_bound(values.tolist()) - values.mean()) / standard_error
    assert share_within(bound, number - 1) == pytest.approx(0.9, abs=1e-4)  # half of it below


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
