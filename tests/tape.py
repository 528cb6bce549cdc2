# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A CUDA graph's stand-in on any device: operations taken down once and run again."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# What makes the host wait for a device: its result or its result's size is needed there.
WAITING = {
    '_local_scalar_dense',
    '_unique2',
    'equal',
    'masked_select',
    'nonzero',
    'unique_consecutive',
    'unique_dim',
}


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Tape(TorchDispatchMode):
    """Takes down every operation that runs under it, with the tensors it read and wrote.

    A replay knows those tensors by their memory, and Python's part of the work, its numbers and
    branches, as it was: just what a CUDA graph keeps. Random numbers are drawn anew.
    """

    def __init__(self):
        super().__init__()
        self._calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, results))
        return results

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, results in self._calls:
                known = {x.untyped_storage().data_ptr() for x in tensors_in((args, kwargs))}
                again = function(*args, **kwargs)
                for old, new in zip(tensors_in(results), tensors_in(again)):
                    # A view, and what was changed in place, is up to date already.
                    if old.untyped_storage().data_ptr() not in known:
                        old.copy_(new)

    def names(self):
        return [_name(function) for function, *_ in self._calls]

    def waiting(self):
        """List what would have waited for a device."""
        return [
            str(function)
            for function, args, kwargs, _ in self._calls
            if _waits(function, args, kwargs)
        ]


def _name(function):
    return function._schema.name.split('::')[1]


def _waits(function, args, kwargs):
    name = _name(function)
    if name in {'index', 'index_put', 'index_put_', '_index_put_impl_'}:
        return any(x.dtype in {torch.bool, torch.uint8} for x in tensors_in(args[1]))
    if name == 'repeat_interleave':  # the sum of the repeats is the result's size
        return kwargs.get('output_size') is None
    return name in WAITING
