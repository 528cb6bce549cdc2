# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Units: what is scaled how, and back again."""

from __future__ import annotations

import pytest
import torch

from omnisafe_qpt.qpt.scaling import Scaling


def make_scaling(**changes):
    values = {
        'obs_mean': torch.tensor([1.0, -2.0, 0.5]),
        'obs_std': torch.tensor([2.0, 0.0, 4.0]),
        'max_abs_return': 40.0,
        'cost_unit': 8.0,
        **changes,
    }
    return Scaling(**values)


def test_observations_are_standardised_dimension_by_dimension():
    states = torch.tensor([[[1.0, -2.0, 0.5], [3.001, -2.0, 8.502]]])
    expected = torch.tensor([[[0.0, 0.0, 0.0], [2.001 / 2.001, 0.0, 8.002 / 4.001]]])
    torch.testing.assert_close(make_scaling().observation(states), expected)


def test_a_constant_dimension_is_not_blown_up():
    assert make_scaling().observation(torch.tensor([1.0, -1.999, 0.5]))[1].abs() < 1.01


def test_tokens_are_shares_of_the_largest_return_and_of_the_cost_unit():
    scaling = make_scaling()
    assert scaling.return_token(torch.tensor([40.0, -10.0])).tolist() == [1.0, -0.25]
    assert scaling.cost_token(torch.tensor([8.0, 2.0])).tolist() == [1.0, 0.25]


def test_critics_see_rewards_and_costs_in_their_own_units():
    scaling = make_scaling()
    # The best episode of the dataset is worth ten to the reward critics.
    assert scaling.critic_reward(torch.tensor([40.0, -4.0])).tolist() == [10.0, -1.0]
    assert scaling.critic_cost(torch.tensor([8.0, 1.0])).tolist() == [1.0, 0.125]


@pytest.mark.parametrize('max_abs_return', [0.003, 1.0, 12345.6])
@pytest.mark.parametrize('cost_unit', [0.5, 10.0])
def test_values_come_back_from_the_critics_units(max_abs_return, cost_unit):
    scaling = make_scaling(max_abs_return=max_abs_return, cost_unit=cost_unit)
    values = torch.tensor([-3.0, 0.0, 0.25, 700.0])
    torch.testing.assert_close(scaling.reward_value(scaling.critic_reward(values)), values)
    torch.testing.assert_close(scaling.cost_value(scaling.critic_cost(values)), values)
    assert not torch.equal(scaling.critic_cost(values), scaling.critic_reward(values))


def test_all_zero_returns_and_costs_keep_their_unit():
    scaling = make_scaling(max_abs_return=0.0, cost_unit=0.0)
    zero = torch.zeros(2)
    for scaled in (
        scaling.return_token(zero),
        scaling.cost_token(zero),
        scaling.critic_reward(zero),
        scaling.critic_cost(zero),
    ):
        assert scaled.tolist() == [0.0, 0.0]


def test_scales_travel_with_the_state_dict():
    source = make_scaling()
    other = Scaling(torch.zeros(3), torch.ones(3))
    other.load_state_dict(source.state_dict())
    states = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.observation(states), source.observation(states))
    assert other.cost_value(torch.tensor(1.0)) == 8.0
    assert other.reward_value(torch.tensor(10.0)) == 40.0


def test_scales_are_not_trained():
    assert list(make_scaling().parameters()) == []
