# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The policy against a slow forward pass with explicit loops, and what it may look at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from core_helpers import (
    ACT_DIM,
    OBS_DIM,
    policy_inputs,
    random_batch,
    roughen,
    small_policy_config,
)
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import PolicyConfig
from omnisafe_qpt.qpt.scaling import PolicyInputs
from omnisafe_qpt.qpt.transformer import TransformerPolicy
from tape import Tape


def make_policy(seed=0, **changes):
    torch.manual_seed(seed)
    policy = TransformerPolicy(OBS_DIM, ACT_DIM, small_policy_config(**changes))
    return roughen(policy, seed, scale=0.2).eval()


@pytest.fixture(name='policy')
def fixture_policy():
    return make_policy()


def full_batch(num_windows=4, context_len=5, seed=0):
    """Windows without padding."""
    return replace(
        random_batch(num_windows, context_len, seed),
        mask=torch.ones(num_windows, context_len, dtype=torch.bool),
        timesteps=torch.arange(context_len).repeat(num_windows, 1) + 3,
    )


# ---------------------------------------------------------------------- slow reference


def linear(layer, x):
    return layer.weight.double() @ x + layer.bias.double()


def layer_norm(layer, x):
    centred = x - x.mean()
    normed = centred / (centred.square().mean() + layer.eps).sqrt()
    return normed * layer.weight.double() + layer.bias.double()


def attend(attention, tokens, position, num_heads):
    """One token's attention to itself and all before it, head by head."""
    width = tokens[0].numel()
    size = width // num_heads
    query = linear(attention.query, tokens[position])
    keys_values = [linear(attention.key_value, token) for token in tokens[: position + 1]]
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = [query[part] @ kv[:width][part] / math.sqrt(size) for kv in keys_values]
        weights = [math.exp(score) for score in scores]
        heads.append(
            sum(w / sum(weights) * kv[width:][part] for w, kv in zip(weights, keys_values))
        )
    return linear(attention.out, torch.cat(heads))


def slow_window(policy, states, actions, return_to_go, cost_to_go, timesteps):
    """Predict the actions of one window without padding, all tokens through all blocks."""
    config, tokens = policy.config, []
    for k in range(len(states)):
        time = policy.embed_timestep.weight[min(int(timesteps[k]), config.max_timestep)].double()
        for embedded in (
            linear(policy.embed_return, return_to_go[k : k + 1]),
            linear(policy.embed_cost, cost_to_go[k : k + 1]),
            linear(policy.embed_state, states[k]),
            linear(policy.embed_action, actions[k]),
        ):
            tokens.append(layer_norm(policy.embed_norm, embedded + time))
    for block in policy.blocks:
        normed = [layer_norm(block.attention_norm, token) for token in tokens]
        tokens = [
            token + attend(block.attention, normed, position, config.num_heads)
            for position, token in enumerate(tokens)
        ]
        for position, token in enumerate(tokens):
            hidden = linear(block.mlp[0], layer_norm(block.mlp_norm, token))
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            tokens[position] = token + linear(block.mlp[1], hidden)
    state_tokens = tokens[2::4]
    return torch.stack(
        [torch.tanh(linear(policy.head, layer_norm(policy.head_norm, x))) for x in state_tokens]
    )


@torch.no_grad()
def slow_policy(policy, batch):
    """Padding is simply left out."""
    predicted = torch.zeros(*batch.actions.shape, dtype=torch.float64)
    for b, mask in enumerate(batch.mask):
        window = [x[b, mask] for x in policy_inputs(batch)[:-1]]
        window = [x.double() if x.is_floating_point() else x for x in window]
        predicted[b, mask] = slow_window(policy, *window)
    return predicted.float()


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize(('num_layers', 'num_heads'), [(1, 1), (2, 4), (3, 2)])
def test_equal_to_a_slow_forward_pass(seed, num_layers, num_heads):
    policy = make_policy(seed, num_layers=num_layers, num_heads=num_heads, dropout=0.3)
    batch = random_batch(6, seed=seed)
    expected = slow_policy(policy, batch)
    assert (expected[batch.mask].std(0) > 0.1).all()  # not the same action everywhere
    with torch.no_grad():
        predicted = policy(policy_inputs(batch))
        last = policy(policy_inputs(batch), last_only=True)
    assert predicted.shape == expected.shape
    assert last.shape == (6, 1, ACT_DIM)
    torch.testing.assert_close(predicted[batch.mask], expected[batch.mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(last[:, 0], expected[:, -1], atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- candidates


def candidate_inputs(num_windows=4, candidates=3):
    """Windows, some padded, and random returns-to-go for each candidate, (B, M, K)."""
    inputs = policy_inputs(random_batch(num_windows))
    assert not inputs.mask.all()
    generator = torch.Generator().manual_seed(7)
    return inputs, torch.randn(
        num_windows, candidates, inputs.return_to_go.shape[1], generator=generator
    )


@torch.no_grad()
@pytest.mark.parametrize(('num_layers', 'candidates'), [(1, 3), (3, 1), (3, 6), (2, 29)])
def test_candidates_equal_windows_of_their_own(num_layers, candidates):
    policy = make_policy(num_layers=num_layers)
    inputs, return_to_go = candidate_inputs(candidates=candidates)
    whole = policy.candidate_actions(inputs, return_to_go)
    last = policy.last_candidate_actions(inputs, return_to_go[..., -1])
    assert whole.shape == last.shape == (len(inputs.states), candidates, ACT_DIM)
    for candidate in range(candidates):
        own = return_to_go[:, candidate]
        expected = policy(inputs._replace(return_to_go=own), last_only=True)[:, 0]
        torch.testing.assert_close(whole[:, candidate], expected, atol=1e-6, rtol=0)
        own = torch.cat([inputs.return_to_go[:, :-1], own[:, -1:]], dim=1)
        expected = policy(inputs._replace(return_to_go=own), last_only=True)[:, 0]
        torch.testing.assert_close(last[:, candidate], expected, atol=1e-6, rtol=0)
    if candidates > 1:
        assert whole.std(1).min() > 1e-3
        assert last.std(1).min() > 1e-4


# ---------------------------------------------------------------------- causality


def changed_steps(policy, batch, field, step):
    """The steps whose action changes when one entry of the history does."""
    value = getattr(batch, field).clone()
    value[:, step] += 1
    with torch.no_grad():
        before = policy(policy_inputs(batch))
        after = policy(policy_inputs(replace(batch, **{field: value})))
    different = (before - after).abs().amax(-1) > 1e-5  # (B, K)
    assert (different == different[0]).all()
    return different[0].nonzero().flatten().tolist()


@pytest.mark.parametrize('step', range(5))
@pytest.mark.parametrize('field', ['return_to_go', 'cost_to_go', 'states', 'timesteps'])
def test_what_is_known_before_acting_changes_this_action_and_later_ones(policy, field, step):
    assert changed_steps(policy, full_batch(), field, step) == list(range(step, 5))


@pytest.mark.parametrize('step', range(5))
def test_an_action_changes_later_actions_only(policy, step):
    assert changed_steps(policy, full_batch(), 'actions', step) == list(range(step + 1, 5))


def test_earlier_actions_do_not_move_by_a_bit(policy):
    batch, later = full_batch(), full_batch(seed=9)
    spliced = {
        name: torch.cat([getattr(batch, name)[:, :3], getattr(later, name)[:, 3:]], dim=1)
        for name in ('states', 'actions', 'return_to_go', 'cost_to_go')
    }
    with torch.no_grad():
        before = policy(policy_inputs(batch))
        after = policy(policy_inputs(replace(batch, **spliced)))
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-6, rtol=0)
    assert (after[:, 3:] - before[:, 3:]).abs().max() > 0.1


def test_order_of_steps_matters(policy):
    batch = full_batch()
    order = [1, 0, 2, 3, 4]
    swapped = {
        name: getattr(batch, name)[:, order]
        for name in ('states', 'actions', 'return_to_go', 'cost_to_go')
    }
    with torch.no_grad():
        before = policy(policy_inputs(batch), last_only=True)
        after = policy(policy_inputs(replace(batch, **swapped)), last_only=True)
    assert (before - after).abs().max() > 1e-3


# ---------------------------------------------------------------------- padding


@pytest.mark.parametrize('valid', [1, 2, 4])
def test_a_padded_window_equals_the_shorter_one(policy, valid):
    batch = full_batch()
    mask = torch.arange(5) >= 5 - valid
    padded = replace(batch, mask=mask.repeat(4, 1))
    with torch.no_grad():
        short = policy(PolicyInputs(*(x[:, 5 - valid :] for x in policy_inputs(batch))))
        long = policy(policy_inputs(padded))
    torch.testing.assert_close(long[:, 5 - valid :], short, atol=1e-6, rtol=0)


@pytest.mark.parametrize('garbage', [0.0, -3.0, 1e6])
def test_content_of_padding_is_irrelevant(policy, garbage):
    batch = random_batch()
    filled = {}
    for name in ('states', 'actions', 'return_to_go', 'cost_to_go'):
        value = getattr(batch, name).clone()
        value[~batch.mask] = garbage
        filled[name] = value
    filled['timesteps'] = batch.timesteps.masked_fill(~batch.mask, 17)
    with torch.no_grad():
        before = policy(policy_inputs(batch))
        after = policy(policy_inputs(replace(batch, **filled)))
    torch.testing.assert_close(after[batch.mask], before[batch.mask], atol=1e-6, rtol=0)


def test_rows_of_padding_alone_stay_finite(policy):
    batch = full_batch()
    batch.mask[1] = False
    policy.zero_grad()
    predicted = policy(policy_inputs(batch))
    assert torch.isfinite(predicted).all()
    predicted.square().sum().backward()
    for name, parameter in policy.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('steps', [1, 2, 3, 5])
def test_the_mask_is_causal_hides_padding_and_is_aligned(policy, steps, dtype):
    """In every layer, for all queries and for some: rows start at multiples of 16 bytes."""
    mask = torch.rand(6, steps, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[0], mask[1] = True, False
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        bias = policy._bias(mask)
    size = 4 * steps - 1
    assert bias.shape == (6, 1, size, size)
    assert bias.dtype == dtype
    for window in range(6):
        for query in range(size):
            for key in range(size):
                is_allowed = query == key or (key <= query and mask[window, key // 4])
                expected = 0.0 if is_allowed else -torch.inf
                assert bias[window, 0, query, key] == expected, (window, query, key)
    for queries in (slice(None), slice(-1, None), slice(2, None, 4)):
        part = bias[:, :, queries]
        assert part.stride(-1) == 1
        assert all(stride * bias.itemsize % 16 == 0 for stride in part.stride()[:-1])
        assert part.storage_offset() * bias.itemsize % 16 == 0


def test_what_is_the_same_in_every_mask_is_made_once(policy):
    """A forward pass neither draws a triangle nor keeps one in the checkpoint."""
    with Tape() as tape:
        policy(policy_inputs(full_batch()))
    assert not {'tril', 'triu', 'eye', 'full'} & set(tape.names())
    assert not [name for name in policy.state_dict() if 'causal' in name]


# ---------------------------------------------------------------------- the rest


def test_every_weight_gets_a_finite_gradient(policy):
    batch = random_batch()
    policy(policy_inputs(batch)).square().sum().backward()
    for name, parameter in policy.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_steps_above_the_maximum_share_the_last_embedding(policy):
    batch = full_batch()
    maximum = policy.config.max_timestep
    outputs = []
    with torch.no_grad():
        for timestep in (maximum - 1, maximum, maximum + 1, maximum + 1000):
            timesteps = torch.full_like(batch.timesteps, timestep)
            outputs.append(policy(policy_inputs(replace(batch, timesteps=timesteps))))
    assert torch.equal(outputs[1], outputs[2])
    assert torch.equal(outputs[1], outputs[3])
    assert not torch.allclose(outputs[0], outputs[1])


def test_actions_lie_in_the_unit_box():
    policy = make_policy()
    with torch.no_grad():
        policy.head.weight *= 1000
        actions = policy(policy_inputs(random_batch()))
    assert actions.abs().max() <= 1
    assert actions.abs().max() > 0.99


def test_dropout_acts_in_training_only():
    policy = make_policy(dropout=0.5)
    inputs = policy_inputs(full_batch())
    with torch.no_grad():
        assert torch.equal(policy(inputs), policy(inputs))
        policy.train()
        assert not torch.allclose(policy(inputs), policy(inputs))


def test_no_randomness_without_dropout(policy):
    policy.train()
    inputs = policy_inputs(full_batch())
    state = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(policy(inputs), policy(inputs))
    assert torch.equal(torch.get_rng_state(), state)


def test_heads_must_divide_the_width():
    with pytest.raises(
        UserError, match=r'num_heads is 3; it must be a divisor of embed_dim \(64\)'
    ):
        PolicyConfig(embed_dim=64, num_heads=3)


def test_one_step_of_context():
    policy = make_policy(context_len=1)
    batch = full_batch(context_len=1)
    with torch.no_grad():
        predicted = policy(policy_inputs(batch))
    torch.testing.assert_close(predicted, slow_policy(policy, batch), atol=1e-5, rtol=0)
