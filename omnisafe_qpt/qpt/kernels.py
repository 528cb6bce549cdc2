# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers, dropout, Mish and attention, faster on a CPU than torch's own.

Each computes the same as the torch function named in its docstring, which runs on every other
device. On a CPU torch is slow in four places: it has two libraries for matrix products and takes
the slower one for float32; it draws dropout masks one element at a time; it evaluates Mish through
three transcendental functions; and attention with dropout takes a slow path. Together these were a
third of an update.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


# oneDNN's product with the transposed weight plus the bias, in the same arithmetic as torch's usual
# float32 product. It is not part of torch's documented interface, so it may be missing.
_product: Any = getattr(torch.ops.mkldnn, '_linear_pointwise', None)

# On a Zen 3 it is 10 to 15 % slower below this many rows, and as much faster at twice as many.
_ROWS_OF_PRODUCT = 4096


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if not _has_product(x):
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _product(x, self.weight, self.bias, 'none', [], '')
        return _Linear.apply(x, self.weight, self.bias)


class LinearGELU(Linear):
    """:class:`torch.nn.Linear` followed by :func:`torch.nn.functional.gelu`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        x = super().forward(x)
        if torch.is_grad_enabled() or not _is_cpu(x):
            return F.gelu(x)
        return torch.ops.aten.gelu_(x)  # in place: faster without a new write to memory


def _has_product(x: torch.Tensor) -> bool:
    if _product is None or not _is_plain_float32(x):
        return False
    return x.numel() // x.shape[-1] >= _ROWS_OF_PRODUCT


def _is_plain_float32(x: torch.Tensor) -> bool:
    return _is_cpu(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')


def _is_cpu(x: torch.Tensor) -> bool:
    # torch can compile and export only its own functions, on any device.
    return x.device.type == 'cpu' and not torch.compiler.is_compiling()


class _Linear(torch.autograd.Function):
    """A linear layer through oneDNN."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias, 'none', [], '')

    @staticmethod
    def backward(
        ctx: Any,
        grad: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, weight.t(), None, 'none', [], '')
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias


class Dropout(nn.Module):
    """:class:`torch.nn.Dropout`, the identity at probability 0.

    Args:
        probability (float): Share of elements set to zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        """Initialize an instance of :class:`Dropout`."""
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop elements in training mode."""
        if not self.training or self.probability == 0.0:
            return x
        if not _is_cpu(x):
            return F.dropout(x, self.probability)
        return x * _keep_mask(x, self.probability)


def _keep_mask(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Draw zeros with this probability, and elsewhere the factor that keeps the mean.

    Always in float32: bf16 would round the factor and so shift every mean. Four elements
    share one 64-bit draw of torch's generator, which rounds the probability to a multiple of
    2^-16.
    """
    draws = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = draws.view(torch.int16)[: x.numel()].view(x.shape)
    mask = torch.empty(x.shape)
    torch.ge(uniform, round(probability * 2**16) - 2**15, out=mask)
    return mask.mul_(1.0 / (1.0 - probability))


def mish(x: torch.Tensor) -> torch.Tensor:
    """Compute :func:`torch.nn.functional.mish`, x tanh(softplus(x))."""
    if not _is_cpu(x):
        return F.mish(x)
    return _Mish.apply(x) if torch.is_grad_enabled() else _mish(x)


def _mish(x: torch.Tensor) -> torch.Tensor:
    return _tanh_softplus(torch.sigmoid(x.float())).mul_(x).to(x.dtype)


class _Mish(torch.autograd.Function):
    """Mish through one sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return _mish(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        # With t the tanh(softplus(x)): dt/dx = (1 - t^2) sigmoid(x).
        sigmoid = torch.sigmoid(x.float())
        tanh = _tanh_softplus(sigmoid)
        slope = torch.addcmul(sigmoid, sigmoid * tanh, tanh, value=-1.0).mul_(x).add_(tanh)
        return slope.mul_(grad).to(grad.dtype)


def _tanh_softplus(sigmoid: torch.Tensor) -> torch.Tensor:
    """Compute tanh(softplus(x)) from sigmoid(x) = s: n / (2 - n) with n = s (2 - s).

    Neither overflows for large x nor loses its digits for very negative ones.
    """
    n = (2.0 - sigmoid).mul_(sigmoid)
    return n.div_(2.0 - n)


# Rows of a mask start at multiples of this many elements, 16 bytes at least.
_MASK_ALIGNMENT = 8


def aligned(size: int) -> int:
    """Return the padded row width of a mask over this many keys.

    CUDA's memory-efficient attention requires rows that start at multiples of 16 bytes. Torch
    copies other masks in each layer, and its compiler has failed on them.
    """
    return -(-size // _MASK_ALIGNMENT) * _MASK_ALIGNMENT


# Up to this many queries over all windows, torch's own attention is faster.
_ROWS_OF_ATTENTION = 400


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    dropout: float,
) -> torch.Tensor:
    """Compute :func:`torch.nn.functional.scaled_dot_product_attention`.

    On a CPU always in float32: the backward pass of such small bf16 products is several times
    slower.

    Args:
        query (torch.Tensor): (B, H, Q, d).
        key (torch.Tensor): (B, H, T, d).
        value (torch.Tensor): (B, H, T, d).
        bias (torch.Tensor): (B, 1, Q, T), 0 where a query may look at a key and -inf elsewhere, in
            the precision of the query.
        dropout (float): Of the attention weights.

    Returns:
        (B, H, Q, d).
    """
    if not _is_cpu(query) or _is_small(query, dropout):
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)
    if torch.is_grad_enabled() or dropout > 0.0:
        return _Attention.apply(query, key, value, bias.float().contiguous(), dropout)
    with torch.autocast('cpu', enabled=False):
        query, key, value = (x.float() for x in (query, key, value))
        # Rows of a multiple of eight scores are faster. The padding is never read.
        size = key.shape[2]
        added = aligned(size) - size
        key, bias = F.pad(key, (0, 0, 0, added)), F.pad(bias.float(), (0, added), value=-torch.inf)
        scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
        scores = scores.unflatten(0, (len(bias), -1))  # (B, H, Q, T plus padding)
        torch.add(bias, scores, alpha=1.0 / math.sqrt(query.shape[-1]), out=scores)
        weights = torch.softmax(scores, -1, out=scores)[..., :size].flatten(0, 1)
        return torch.bmm(weights, value.flatten(0, 1)).unflatten(0, (len(bias), -1))


def _attention_weights(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Weigh keys (B H, T, d) for queries (B H, Q, d), which are scaled in place."""
    query *= 1.0 / math.sqrt(query.shape[-1])  # fewer elements than the scores
    scores = torch.bmm(query, key.transpose(1, 2))
    scores.unflatten(0, (len(bias), -1)).add_(bias)
    return scores.softmax(-1)


def _is_small(query: torch.Tensor, dropout: float) -> bool:
    rows = query.shape[0] * query.shape[2]
    return rows <= _ROWS_OF_ATTENTION and query.dtype == torch.float32 and dropout == 0.0


class _Attention(torch.autograd.Function):
    """Attention by batched products, with as few copies as possible."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor,
        dropout: float,
    ) -> torch.Tensor:
        query, key, value = map(_as_batch, (query, key, value))  # (B H, Q or T, d)
        with torch.autocast('cpu', enabled=False):
            weights = _attention_weights(query, key, bias)
            mask = _keep_mask(weights, dropout) if dropout > 0.0 else None
            dropped = weights if mask is None else weights * mask
            mixed = torch.bmm(dropped, value)
        ctx.save_for_backward(query, key, value, weights, mask, dropped)
        return mixed.unflatten(0, (len(bias), -1))

    @staticmethod
    def backward(
        ctx: Any,
        grad: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, mask, dropped = ctx.saved_tensors
        batch_shape = grad.shape[:2]
        grad = _as_batch(grad)
        grad_value = torch.bmm(dropped.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        if mask is not None:
            grad_weights *= mask
        # Softmax: dL/ds = w (dL/dw - sum_j w_j dL/dw_j).
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, torch.float32)
        grad_query = torch.bmm(grad_scores, key).mul_(1.0 / math.sqrt(query.shape[-1]))
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        grads = (x.unflatten(0, batch_shape) for x in (grad_query, grad_key, grad_value))
        return *grads, None, None


def branch_bias(bias: torch.Tensor, num_shared: int, branches: int) -> torch.Tensor:
    """Repeat the rows of the tokens that sequences do not share.

    Args:
        bias (torch.Tensor): (B, 1, P + L, P + L) of one sequence.
        num_shared (int): P.
        branches (int): M, of L tokens each, which follow the shared ones.

    Returns:
        (B, 1, P + M L, P + L), each token's bias to the shared tokens and to its own branch.
    """
    shared, own = bias[:, :, :num_shared], bias[:, :, num_shared:]
    own = own[:, :, None].expand(-1, -1, branches, -1, -1).flatten(2, 3)
    return torch.cat([shared, own], dim=2)


def branch_mask(bias: torch.Tensor, num_shared: int, branches: int) -> torch.Tensor:
    """Expand the bias of one sequence to all branches laid end to end.

    Args:
        bias (torch.Tensor): (B, 1, P + L, P + L) of one sequence.
        num_shared (int): P.
        branches (int): M, of L tokens each, which follow the shared ones.

    Returns:
        (B, 1, P + M L, P + M L), a part of wider rows as :func:`aligned` makes them.
    """
    rows = branch_bias(bias, num_shared, branches)
    size = rows.shape[2]
    own = bias[:, :, None, num_shared:, None, num_shared:]  # (B, 1, 1, L, 1, L)
    branch = torch.arange(branches, device=bias.device)
    apart = torch.where(branch[:, None] == branch, 0.0, -torch.inf).to(bias.dtype)
    own = (own + apart[:, None, :, None]).flatten(4, 5).flatten(2, 3)  # (B, 1, M L, M L)
    own = F.pad(own, (0, 0, num_shared, 0), value=-torch.inf)  # no shared token sees them
    mask = torch.cat([rows[..., :num_shared], own], dim=-1)
    return F.pad(mask, (0, aligned(size) - size))[..., :size]


def branching_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    num_shared: int,
    branches: int,
) -> torch.Tensor:
    """Attend within sequences that share a prefix: the shared tokens, then each branch.

    The same as :func:`attention` with :func:`branch_mask`, for a number of branches at which that
    mask would be mostly empty. Shared tokens do not attend to the others. For inference only.

    Args:
        query (torch.Tensor): (B, H, P + M L, d) of all tokens, or (B, H, M, d) of the last one of
            each branch.
        key (torch.Tensor): (B, H, P + M L, d).
        value (torch.Tensor): (B, H, P + M L, d).
        bias (torch.Tensor): (B, 1, P + M L or M, P + L), of these queries; see :func:`branch_bias`.
        num_shared (int): P.
        branches (int): M, of L tokens each.

    Returns:
        As ``query``.
    """
    first = num_shared if query.shape[2] == key.shape[2] else 0  # query of a branch
    to_shared = query @ key[:, :, :num_shared].transpose(-1, -2)  # (B, H, Q, P)
    own_query = query[:, :, first:].unflatten(2, (branches, -1))
    # (B, H, M, L, d); batched products this small are slower.
    own_key, own_value = (x[:, :, num_shared:].unflatten(2, (branches, -1)) for x in (key, value))
    to_own = (own_query[..., None, :] * own_key[..., None, :, :]).sum(-1).flatten(2, 3)
    scores = torch.cat([to_shared, F.pad(to_own, (0, 0, first, 0))], dim=-1)  # (B, H, Q, P + L)
    weights = torch.add(bias, scores, alpha=1.0 / math.sqrt(query.shape[-1])).softmax(-1)
    mixed = weights[..., :num_shared] @ value[:, :, :num_shared]
    own = mixed[:, :, first:].unflatten(2, (branches, -1))
    own_weights = weights[:, :, first:, num_shared:].unflatten(2, (branches, -1))
    for i in range(own_key.shape[3]):
        own.addcmul_(own_weights[..., i : i + 1], own_value[..., i : i + 1, :])
    return mixed


def _as_batch(x: torch.Tensor) -> torch.Tensor:
    """Copy (B, H, T, d) to float32 (B H, T, d), in one pass."""
    return x.to(torch.float32, memory_format=torch.contiguous_format, copy=True).flatten(0, 1)


# glibc's numbers of two settings, with their new values: blocks of at least this size are mapped
# from the system and returned to it, and free memory beyond this amount is returned.
_MMAP_THRESHOLD = (-3, 64 << 20)
_TRIM_THRESHOLD = (-1, 512 << 20)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse.

    By default glibc soon returns it to the system and gets it again page by page. That costs a
    fifth of the time of a step with 50 candidates and of a navigation task's reset. The process
    keeps up to half a gigabyte. With another C library this does nothing.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        set_option(option, value)
