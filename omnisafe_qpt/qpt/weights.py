# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Networks from a checkpoint, built only if the weights in the file fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.schema import LARGEST_NUMBER, show


Module = TypeVar('Module', bound=nn.Module)

# The units of observations, returns and costs; all are divisors, so none may be zero.
UNITS = ('obs_std', 'return_unit', 'cost_unit')


def rebuild(build: Callable[[], Module], state: Mapping[str, Any]) -> Module:
    """Build networks and load their weights, if these are complete, fit and are finite.

    The networks are first built without memory, so that a wrong size in the file allocates nothing.

    Args:
        build (Callable[[], nn.Module]): Builds the networks, with any weights.
        state (Mapping[str, Any]): Their state dict.

    Raises:
        UserError: If a weight is missing, unknown, of another shape or type, NaN or infinite, or a
            unit is not positive.
    """
    with torch.device('meta'):
        expected = build().state_dict()
    check_weights(expected, state)
    for name in (f'scaling.{unit}' for unit in UNITS):
        if name in expected and not bool((state[name] > 0).all()):
            raise UserError(f'{name} is not positive')
    networks = build()
    networks.load_state_dict(state)
    return networks.eval()


def check_weights(expected: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check that weights fit and are finite.

    Args:
        expected (Mapping[str, Any]): The state dict of networks of the right sizes.
        state (Mapping[str, Any]): The state dict to check.

    Raises:
        UserError: If a weight is missing, unknown, of another shape or type, NaN or infinite.
    """
    for name in state:
        if name not in expected:
            raise UserError(f'{show(name)} is not a weight of these networks')
    stored: dict[int, int] = {}  # bytes of each block of memory that holds weights
    needed = 0
    for name, like in expected.items():
        if name not in state:
            raise UserError(f'the weight {name} is missing')
        if not isinstance(like, torch.Tensor):
            continue
        value = state[name]
        check_finite(name, value)
        for what, has, wanted in (
            ('type', value.dtype, like.dtype),
            ('shape', tuple(value.shape), tuple(like.shape)),
        ):
            if has != wanted:
                raise UserError(f'the weight {name} has {what} {has}; it must be {wanted}')
        if not value.is_contiguous():  # a few stored numbers may be expanded to many
            raise UserError(f'the weight {name} is not contiguous')
        storage = value.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        needed += value.numel() * value.element_size()
    if needed > sum(stored.values()):
        raise UserError('weights share memory, so there are fewer than the networks need')


def check_finite(name: str, value: Any) -> None:
    """Check that a weight is a plain tensor of finite numbers whose squares do not overflow.

    Args:
        name (str): Of the weight.
        value (Any): The weight.

    Raises:
        UserError: If the check fails.
    """
    is_tensor = isinstance(value, torch.Tensor)
    if not is_tensor or value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise UserError(f'the weight {name} is {show(value)}; it must be a plain tensor')
    if value.is_floating_point() and not bool((value.abs() <= LARGEST_NUMBER).all()):  # nor NaN
        raise UserError(
            f'the weight {name} holds NaN, infinity or a number beyond {LARGEST_NUMBER:g}'
        )
