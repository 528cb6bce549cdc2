# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Each equation against plain loops over windows and steps."""

from __future__ import annotations

import math

import pytest
import torch

from core_helpers import normal
from omnisafe_qpt.qpt import losses


B, K, A = 5, 6, 3


def left_padded_mask():
    # Every number of valid steps, and a window of padding alone.
    return torch.arange(K) >= torch.tensor([0, 1, 3, K - 1, K])[:, None]


def pad(values, mask, extra, garbage):
    """Append padding on the left, filled with garbage, in windows and in time."""
    leading, trailing = values.shape[: values.dim() - extra], values.shape[values.dim() - extra :]
    shape = (*leading[:-2], leading[-2] + 2, leading[-1] + 4, *trailing)
    padded = torch.full(shape, garbage)
    index = (..., slice(0, leading[-2]), slice(4, None), *[slice(None)] * extra)
    padded[index] = values
    padded_mask = torch.zeros(leading[-2] + 2, leading[-1] + 4, dtype=torch.bool)
    padded_mask[: leading[-2], 4:] = mask
    return padded, padded_mask


# ---------------------------------------------------------------------- masked mean


def test_masked_mean_is_the_sum_over_the_number_of_valid_entries():
    values, mask = normal(2, B, K), left_padded_mask()
    means = losses.masked_mean(values, mask)
    assert means.shape == (2,)
    for network in range(2):
        valid = [values[network, b, k].item() for b in range(B) for k in range(K) if mask[b, k]]
        assert means[network].item() == pytest.approx(sum(valid) / len(valid), rel=1e-5)


@pytest.mark.parametrize('garbage', [0.0, 1e30, float('inf'), float('nan')])
def test_padding_is_no_part_of_a_mean(garbage):
    values, mask = normal(B, K).abs(), left_padded_mask()
    mean = losses.masked_mean(values, mask)
    assert mean > 0
    assert losses.masked_mean(*pad(values, mask, 0, garbage)).item() == pytest.approx(mean.item())


def test_mean_over_nothing_is_zero():
    mask = torch.zeros(B, K, dtype=torch.bool)
    assert losses.masked_mean(torch.full((B, K), float('inf')), mask) == 0
    assert losses.masked_mean(normal(2, B, K), mask).tolist() == [0.0, 0.0]


def test_means_over_parts_average_to_the_mean_over_all_of_them():
    """With the average of their counts, as processes that share a batch have it."""
    values, actions, mask = normal(2, B, K, A), normal(B, K, A, seed=1), left_padded_mask()
    parts = [slice(0, 3), slice(3, B)]
    count = sum(mask[part].sum() for part in parts) / 2
    assert mask[parts[0]].sum() != mask[parts[1]].sum()

    def averaged(loss):
        return sum(loss(part) for part in parts) / 2

    torch.testing.assert_close(
        averaged(lambda part: losses.masked_mean(values[:, part, :, 0], mask[part], count)),
        losses.masked_mean(values[..., 0], mask),
    )
    torch.testing.assert_close(
        averaged(
            lambda part: losses.imitation_loss(values[0, part], actions[part], mask[part], count)
        ),
        losses.imitation_loss(values[0], actions, mask),
    )
    torch.testing.assert_close(
        averaged(
            lambda part: losses.critic_loss(
                values[:, part, :, 0], actions[part, :, 0], mask[part], count
            )
        ),
        losses.critic_loss(values[..., 0], actions[..., 0], mask),
    )
    torch.testing.assert_close(
        averaged(lambda part: losses.mean_magnitude(values[:, part, :, 0], mask[part], count)),
        losses.mean_magnitude(values[..., 0], mask),
    )


# ---------------------------------------------------------------------- Eq. 3


def test_imitation_loss_is_equation_3():
    predicted, actions, mask = normal(B, K, A), normal(B, K, A, seed=1), left_padded_mask()
    total = number = 0
    for b in range(B):
        for k in range(K):
            if mask[b, k]:
                for a in range(A):
                    total += (actions[b, k, a] - predicted[b, k, a]).item() ** 2
                    number += 1
    loss = losses.imitation_loss(predicted, actions, mask)
    assert loss.item() == pytest.approx(total / number, rel=1e-5)


def test_padding_changes_no_imitation_loss_nor_its_gradient():
    actions, mask = normal(B, K, A, seed=1), left_padded_mask()
    predicted = normal(B, K, A).requires_grad_()
    loss = losses.imitation_loss(predicted, actions, mask)
    assert loss > 0
    (gradient,) = torch.autograd.grad(loss, predicted)
    padded, padded_mask = pad(predicted, mask, 1, 7e3)
    padded_loss = losses.imitation_loss(padded, pad(actions, mask, 1, -9e3)[0], padded_mask)
    assert padded_loss.item() == pytest.approx(loss.item())
    (padded_gradient,) = torch.autograd.grad(padded_loss, predicted)
    torch.testing.assert_close(padded_gradient, gradient)
    assert gradient[mask].abs().min() > 0
    assert gradient[~mask].abs().max() == 0


def test_imitation_loss_of_padding_alone_is_zero():
    predicted = normal(B, K, A).requires_grad_()
    loss = losses.imitation_loss(predicted, normal(B, K, A), torch.zeros(B, K, dtype=torch.bool))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert gradient.abs().max() == 0


# ---------------------------------------------------------------------- Eq. 6-7


@pytest.mark.parametrize('gamma', [0.0, 0.5, 0.99, 1.0])
def test_targets_are_the_sums_of_equation_6(gamma):
    rewards, bootstrap = normal(B, K), normal(B, seed=1)
    targets = losses.n_step_targets(rewards, bootstrap, gamma)
    assert targets.shape == (B, K - 1)
    last = K - 1  # t in the paper, the window's last state
    for b in range(B):
        for m in range(last):
            expected = gamma ** (last - m) * bootstrap[b].item()
            for j in range(m, last):
                expected += gamma ** (j - m) * rewards[b, j].item()
            assert targets[b, m].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_last_reward_is_part_of_no_target():
    rewards, bootstrap = normal(B, K), normal(B, seed=1)
    targets = losses.n_step_targets(rewards, bootstrap, 0.9)
    changed = rewards.clone()
    changed[:, -1] = float('nan')
    assert torch.equal(losses.n_step_targets(changed, bootstrap, 0.9), targets)


def test_two_steps_of_context_make_a_one_step_target():
    targets = losses.n_step_targets(torch.tensor([[3.0, 100.0]]), torch.tensor([10.0]), 0.5)
    assert targets.tolist() == [[8.0]]


def test_rewards_and_costs_at_once_are_each_by_itself():
    signals, bootstrap, values = normal(2, B, K), normal(2, B, seed=1), normal(2, 2, B, K, seed=2)
    mask = left_padded_mask()[:, 1:]
    targets = losses.n_step_targets(signals, bootstrap, 0.9)
    critic_losses = losses.critic_loss(values[..., 1:], targets, mask)
    for kind in range(2):
        alone = losses.n_step_targets(signals[kind], bootstrap[kind], 0.9)
        torch.testing.assert_close(targets[kind], alone)
        torch.testing.assert_close(
            critic_losses[kind], losses.critic_loss(values[kind, :, :, 1:], alone, mask)
        )


def test_critic_loss_is_the_mean_over_steps_and_the_sum_over_networks():
    values, targets, mask = normal(2, B, K), normal(B, K, seed=1), left_padded_mask()
    expected = 0.0
    for network in range(2):
        errors = [
            (targets[b, m] - values[network, b, m]).item() ** 2
            for b in range(B)
            for m in range(K)
            if mask[b, m]
        ]
        expected += sum(errors) / len(errors)
    assert losses.critic_loss(values, targets, mask).item() == pytest.approx(expected, rel=1e-5)


def test_padding_changes_no_critic_loss():
    values, targets, mask = normal(2, B, K), normal(B, K, seed=1), left_padded_mask()
    loss = losses.critic_loss(values, targets, mask)
    assert loss > 0
    padded, padded_mask = pad(values, mask, 0, 1e4)
    padded_targets = pad(targets, mask, 0, -1e4)[0]
    assert losses.critic_loss(padded, padded_targets, padded_mask).item() == pytest.approx(
        loss.item()
    )


def test_critic_loss_of_padding_alone_is_zero():
    mask = torch.zeros(B, K, dtype=torch.bool)
    assert losses.critic_loss(normal(2, B, K), normal(B, K), mask) == 0


# ---------------------------------------------------------------------- Eq. 9-10


def penalty_weight(values, mask, eta):
    return losses.penalty_weight(losses.mean_magnitude(values, mask).mean(), eta, torch.tensor(0.1))


@pytest.mark.parametrize('gamma', [0.0, 0.9, 0.99, 1.0])
def test_the_floor_is_a_tenth_of_what_an_even_episode_is_worth(gamma):
    expected = 0.1 * sum(gamma**k * 6.0 / 40 for k in range(40))
    found = losses.magnitude_floor(torch.tensor([6.0, 0.0]), 40, gamma)
    assert found.tolist() == pytest.approx([expected, 0.1])


@pytest.mark.parametrize('networks', [1, 2])
def test_penalty_weight_is_equation_9(networks):
    values, mask = 5 * normal(networks, B, K), left_padded_mask()
    sizes = [
        abs(values[n, b, k].item())
        for n in range(networks)
        for b in range(B)
        for k in range(K)
        if mask[b, k]
    ]
    expected = 0.3 / (sum(sizes) / len(sizes))
    assert penalty_weight(values, mask, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_padding_changes_no_penalty_weight():
    values, mask = 5 * normal(2, B, K), left_padded_mask()
    weight = penalty_weight(values, mask, 0.3)
    assert weight > 0
    padded = penalty_weight(*pad(values, mask, 0, 1e6), 0.3)
    assert padded.item() == pytest.approx(weight.item())


@pytest.mark.parametrize('scale', [0.0, 1e-8, 1e-3])
def test_values_near_zero_do_not_let_the_penalty_explode(scale):
    weight = penalty_weight(scale * normal(2, B, K), left_padded_mask(), 0.3)
    assert math.isfinite(weight.item())
    assert weight.item() == pytest.approx(0.3 / 0.1)


def test_floor_leaves_ordinary_values_alone():
    mask = torch.ones(B, K, dtype=torch.bool)
    assert penalty_weight(torch.full((1, B, K), -0.2), mask, 0.3).item() == pytest.approx(1.5)


def test_no_gradient_passes_through_the_weight():
    values = normal(2, B, K).requires_grad_()
    weight = penalty_weight(values, left_padded_mask(), 0.3)
    assert not weight.requires_grad
