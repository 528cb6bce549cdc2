# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU's own linear layer, dropout, Mish and attention against torch's, in double precision."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from omnisafe_qpt.qpt import kernels
from omnisafe_qpt.qpt.kernels import Dropout, Linear, attention, mish


def dropped(probability, shape, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Dropout(probability).train()(torch.ones(shape, dtype=dtype))


# ---------------------------------------------------------------------- linear


@pytest.fixture(name='products')
def fixture_products(monkeypatch):
    """Count the products that do not go the usual way."""
    if kernels._product is None:
        pytest.skip('this build of torch has no such product')
    shapes, product = [], kernels._product

    def spy(x, *args):
        shapes.append(tuple(x.shape))
        return product(x, *args)

    monkeypatch.setattr(kernels, '_product', spy)
    monkeypatch.setattr(kernels, '_ROWS_OF_PRODUCT', 256)
    return shapes


def linear_and_gradients(layer, x, grad):
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(grad.to(y.dtype))
    return [y, x.grad, layer.weight.grad, layer.bias.grad]


@pytest.mark.parametrize('step', [1, 3])
def test_linear_and_its_gradients_equal_torch_in_double_precision(step, products):
    torch.manual_seed(0)
    layer = Linear(24, 40)
    exact = torch.nn.Linear(24, 40).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(30, 13 * step, 24)[:, ::step]  # with a step it is not contiguous
    grad = torch.randn(30, 13, 40)
    found = linear_and_gradients(layer, x, grad)
    assert products == [(30, 13, 24), (30, 13, 40)]
    for ours, expected in zip(found, linear_and_gradients(exact, x.double(), grad.double())):
        torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-5)


def test_linear_leaves_few_rows_and_other_types_to_torch(products):
    layer, x = Linear(24, 40), torch.randn(400, 24)
    plain = torch.nn.Linear(24, 40)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x[:100]), plain(x[:100]))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
    assert Linear(24, 40, device='meta')(x.to('meta')).shape == (400, 40)
    assert not products


def test_linear_without_the_product_is_that_of_torch(monkeypatch):
    monkeypatch.setattr(kernels, '_product', None)
    layer, x = Linear(24, 40), torch.randn(400, 24)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize('rows', [3, 80, 400])
def test_linear_with_gelu_equals_torch_in_double_precision(rows):
    torch.manual_seed(0)
    layer, x = kernels.LinearGELU(24, 40), torch.randn(rows, 24)
    expected = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()))
    with_gradient = layer(x)
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


# ---------------------------------------------------------------------- dropout


@pytest.mark.parametrize('probability', [0.02, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    kept = dropped(probability, (1000, 401))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / (1 - probability)).item()}
    # Within four standard errors, in each of the four elements that share a draw.
    for lane in range(4):
        zeros = kept.flatten()[lane::4] == 0
        error = (probability * (1 - probability) / len(zeros)) ** 0.5
        assert abs(zeros.double().mean().item() - probability) < 4 * error + 2**-16


def test_dropout_of_neighbours_is_independent():
    zeros = (dropped(0.5, 1_000_000) == 0).double() - 0.5
    for distance in range(1, 9):
        assert abs((zeros[distance:] * zeros[:-distance]).mean()) < 4 * 0.25 / 1000


def test_dropout_draws_anew_and_repeats_with_the_seed():
    layer = Dropout(0.3).train()
    x = torch.ones(7, 9)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)


@pytest.mark.parametrize('layer', [Dropout(0.0).train(), Dropout(0.5).eval()])
def test_dropout_is_the_identity_in_evaluation_and_at_zero(layer):
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_passes_gradients_where_it_passes_values():
    x = torch.randn(13, 6).t().requires_grad_()  # not contiguous
    torch.manual_seed(0)
    y = Dropout(0.4).train()(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_dropout_of_bf16_keeps_the_mean():
    """In bf16 the factor 1 / 0.9 would be 0.16 % too small."""
    kept = dropped(0.1, 1 << 20, dtype=torch.bfloat16)
    assert kept.max().item() == pytest.approx(1 / 0.9, rel=1e-6)


# ---------------------------------------------------------------------- Mish


def test_mish_and_its_gradient_equal_torch_in_double_precision():
    x = torch.cat([torch.linspace(-90, 90, 20001), torch.tensor([0.0, -1e-8, 1e-8, 3e4, -3e4])])
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    grad = torch.linspace(-2, 3, len(x))
    y, expected = mish(ours), F.mish(exact)
    y.backward(grad)
    expected.backward(grad.double())
    torch.testing.assert_close(y.double(), expected, atol=1e-30, rtol=1e-6)
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-6, rtol=1e-5)


def test_mish_of_bf16_is_bf16():
    x = torch.linspace(-8, 8, 999).bfloat16().requires_grad_()
    y = mish(x)
    y.sum().backward()
    exact = x.detach().double().requires_grad_()
    F.mish(exact).sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), F.mish(exact), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=4e-3, rtol=1e-2)


# ---------------------------------------------------------------------- attention


def qkv(queries=7, keys=7, dtype=torch.float32):
    """Views with the strides that splitting heads gives, (B, H, T, d)."""
    torch.manual_seed(1)
    tensors = [torch.randn(3, steps, 4, 8) for steps in (queries, keys, keys)]
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in tensors]


def allowed_of(queries=7, keys=7):
    allowed = torch.rand(3, 1, queries, keys, generator=torch.Generator().manual_seed(2)) < 0.6
    allowed[..., 0] = True  # no query without any key
    return allowed


def bias_of(allowed):
    """The same as what is added to scores, in rows that are parts of wider ones."""
    wide = torch.full((*allowed.shape[:-1], allowed.shape[-1] + 3), torch.nan)
    bias = wide[..., : allowed.shape[-1]]
    return bias.copy_(torch.where(allowed, 0.0, -torch.inf))


@pytest.mark.parametrize('queries', [7, 2, 1])
def test_attention_and_its_gradients_equal_torch_in_double_precision(queries):
    inputs, allowed = qkv(queries), allowed_of(queries)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    grad = torch.randn(3, 4, queries, 8)
    mixed = attention(*inputs, bias_of(allowed), 0.0)
    expected = F.scaled_dot_product_attention(*exact, allowed)
    mixed.backward(grad)
    expected.backward(grad.double())
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=1e-5)
    for x, y in zip(inputs, exact):
        torch.testing.assert_close(x.grad.double(), y.grad, atol=2e-6, rtol=1e-5)


def test_attention_drops_weights_after_the_softmax():
    inputs, allowed, grad = qkv(), allowed_of(), torch.randn(3, 4, 7, 8)
    torch.manual_seed(5)
    mixed = attention(*inputs, bias_of(allowed), 0.3)
    mixed.backward(grad)
    torch.manual_seed(5)
    keep = kernels._keep_mask(torch.empty(12, 7, 7), 0.3).unflatten(0, (3, 4)).double()
    assert 0.15 < (keep == 0).double().mean() < 0.45
    exact = [x.detach().double().requires_grad_() for x in inputs]
    query, key, value = exact
    scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(~allowed, -torch.inf)
    expected = (scores.softmax(-1) * keep) @ value
    expected.backward(grad.double())
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=1e-5)
    for x, y in zip(inputs, exact):
        torch.testing.assert_close(x.grad.double(), y.grad, atol=2e-6, rtol=1e-5)


def test_attention_leaves_its_inputs_alone():
    inputs = qkv()
    before = [x.detach().clone() for x in inputs]
    attention(*inputs, bias_of(allowed_of()), 0.1).sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before))


def test_attention_under_autocast_is_float32_inside():
    inputs, allowed = qkv(dtype=torch.bfloat16), allowed_of()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = attention(*inputs, bias_of(allowed), 0.0)
    mixed.sum().backward()
    expected = F.scaled_dot_product_attention(*exact, allowed)
    expected.sum().backward()
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=1e-5)
    for x, y in zip(inputs, exact):
        assert x.grad.dtype == torch.bfloat16
        torch.testing.assert_close(x.grad.double(), y.grad, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize('batch', [1, 40])
@pytest.mark.parametrize('branches', [3, 24, 29])  # one group, equal groups, one of them smaller
@pytest.mark.parametrize('is_all', [True, False])
def test_branches_attend_as_sequences_of_their_own(is_all, branches, batch):
    num_shared, length = 4, 2
    torch.manual_seed(2)
    query, key, value = torch.randn(3, batch, 2, num_shared + branches * length, 8).unbind(0)
    total = num_shared + length
    allowed = torch.rand(batch, 1, total, total) < 0.7
    allowed |= torch.eye(total, dtype=torch.bool)
    allowed[..., :num_shared, num_shared:] = False
    last = slice(num_shared + length - 1, None, length)
    asked = query if is_all else query[:, :, last]
    bias = kernels.branch_bias(bias_of(allowed), num_shared, branches)
    bias = bias if is_all else bias[:, :, last]
    mixed = kernels.branching_attention(asked, key, value, bias, num_shared, branches)
    assert mixed.shape == asked.shape
    for branch in range(branches):
        first = num_shared + branch * length
        tokens = [*range(num_shared), *range(first, first + length)]
        expected = F.scaled_dot_product_attention(
            *(x[:, :, tokens].double() for x in (query, key, value)), allowed
        )
        if is_all:
            found = mixed[:, :, tokens]
        else:
            found, expected = mixed[:, :, branch], expected[:, :, -1]
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_a_token_may_look_at_its_own_branch_and_at_what_is_shared():
    num_shared, branches, length = 4, 3, 2
    allowed = torch.rand(5, 1, num_shared + length, num_shared + length) < 0.7
    mask = kernels.branch_mask(bias_of(allowed), num_shared, branches)
    total = num_shared + branches * length
    assert mask.shape == (5, 1, total, total)
    assert all(stride * mask.itemsize % 16 == 0 for stride in mask.stride()[:-1])
    # Which branch a token is in, and where it would be in a sequence of its own.
    places = [(None, i) for i in range(num_shared)]
    places += [(j, num_shared + i) for j in range(branches) for i in range(length)]
    for row, (branch, query) in enumerate(places):
        for column, (other, key) in enumerate(places):
            connected = other is None or other == branch
            expected = allowed[:, 0, query, key] & torch.tensor(connected)
            if branch is not None or other is None:  # shared tokens look at no others
                assert torch.equal(mask[:, 0, row, column] == 0.0, expected)


# ---------------------------------------------------------------------- other devices


def test_other_devices_take_the_operations_of_torch(monkeypatch):
    """Torch's meta device stands in for any that is not a CPU."""
    for name in ('_Mish', '_Attention', '_keep_mask'):
        monkeypatch.delattr(kernels, name)
    x = torch.empty(3, 4, 7, 8, device='meta')
    assert mish(x).shape == x.shape
    assert Dropout(0.5).train()(x).shape == x.shape
    bias = torch.empty(3, 1, 7, 7, device='meta')
    assert attention(x, x, x, bias, 0.1).shape == x.shape


# ---------------------------------------------------------------------- memory


def test_freed_memory_is_kept():
    """Page faults of the same three blocks of 40 MB, asked for and freed again and again."""
    if platform.libc_ver()[0] != 'glibc':
        pytest.skip('another C library')
    code = """
import resource, torch
from omnisafe_qpt.qpt.kernels import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(10 << 20) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
faults()
usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 1000
    assert kept < 0.2 * usual
