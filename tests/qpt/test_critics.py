# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The batched twins against two separate networks."""

from __future__ import annotations

import pytest
import torch

from core_helpers import normal, plain_network
from omnisafe_qpt.qpt.critics import TwinCritic


OBS_DIM, ACT_DIM = 4, 2
SIZES = (16, 12, 8)


@pytest.fixture(name='critic')
def fixture_critic():
    torch.manual_seed(0)
    return TwinCritic(OBS_DIM, ACT_DIM, SIZES)


@pytest.mark.parametrize('batch_shape', [(7,), (3, 5), (2, 3, 4)])
def test_equal_to_two_separate_networks(critic, batch_shape):
    states, actions = normal(*batch_shape, OBS_DIM), normal(*batch_shape, ACT_DIM, seed=1)
    values = critic(states, actions)
    assert values.shape == (2, *batch_shape)
    for member in range(2):
        expected = plain_network(critic, member)(torch.cat([states, actions], -1))[..., 0]
        torch.testing.assert_close(values[member], expected)


def test_gradients_equal_those_of_separate_networks(critic):
    states, actions = normal(6, OBS_DIM), normal(6, ACT_DIM, seed=1)
    critic(states, actions).square().sum().backward()
    for member in range(2):
        network = plain_network(critic, member)
        network(torch.cat([states, actions], -1)).square().sum().backward()
        for layer, weight, bias in zip(network[::2], critic.weights, critic.biases):
            torch.testing.assert_close(weight.grad[member], layer.weight.grad.T)
            torch.testing.assert_close(bias.grad[member, 0], layer.bias.grad)


def test_the_twins_differ_and_do_not_touch_each_other(critic):
    states, actions = normal(6, OBS_DIM), normal(6, ACT_DIM, seed=1)
    before = critic(states, actions)
    assert not torch.allclose(before[0], before[1])
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter[1] += 1.0
    after = critic(states, actions)
    assert torch.equal(after[0], before[0])
    assert (after[1] != before[1]).all()


def test_depth_is_that_of_the_hidden_layers_and_the_output(critic):
    assert [tuple(weight.shape[1:]) for weight in critic.weights] == [
        (6, 16),
        (16, 12),
        (12, 8),
        (8, 1),
    ]
    assert [tuple(bias.shape) for bias in critic.biases] == [
        (2, 1, 16),
        (2, 1, 12),
        (2, 1, 8),
        (2, 1, 1),
    ]


@pytest.mark.parametrize('members', [[0], [1], [1, 0], [1, 1]])
def test_member_chooses_the_network(critic, members):
    states, actions = normal(3, 5, OBS_DIM), normal(3, 5, ACT_DIM, seed=1)
    both = critic(states, actions)
    chosen = critic(states, actions, member=torch.tensor(members))
    assert chosen.shape == (len(members), 3, 5)
    for row, member in zip(chosen, members):
        torch.testing.assert_close(row, both[member])


@pytest.mark.parametrize('member', [None, torch.tensor([1])])
def test_frozen_gives_gradient_to_the_inputs_alone(critic, member):
    states, actions = normal(6, OBS_DIM), normal(6, ACT_DIM, seed=1).requires_grad_()
    values = critic(states, actions, member=member, frozen=True)
    torch.testing.assert_close(values, critic(states, actions, member=member))
    values.sum().backward()
    assert actions.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_start_as_torch_starts_a_linear_layer():
    torch.manual_seed(0)
    critic = TwinCritic(90, 10, (400,))
    for weight, bias, fan_in in zip(critic.weights, critic.biases, (100, 400)):
        bound = fan_in**-0.5
        for tensor in (weight, bias):
            assert tensor.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
