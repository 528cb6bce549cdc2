# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The arithmetic precision of training, and what a device supports."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch


PRECISIONS = ('float32', 'tf32', 'bf16', 'bf16_emulated', 'auto')

# Instructions that multiply bf16 numbers: AVX-512 and AMX of x86, and ARM's, as Linux names them.
_BF16_FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16', 'svebf16'}
_CPU_FACTS = Path('/proc/cpuinfo')


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16.

    Without them bf16 is many times slower than float32. Where the instructions of the processor are
    unknown, as outside Linux, the answer is False.
    """
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        facts = _CPU_FACTS.read_text(encoding='utf-8')
    except OSError:
        return False
    found = re.search(r'^(?:flags|Features)\s*:(.*)$', facts, re.MULTILINE)
    return found is not None and not _BF16_FLAGS.isdisjoint(found[1].split())


def resolve_precision(asked: str, device: torch.device) -> tuple[str, str]:
    """Decide on the arithmetic of a run.

    Args:
        asked (str): One of :data:`PRECISIONS`.
        device (torch.device): Device of training.

    Returns:
        ``float32``, ``tf32`` or ``bf16``; and a message for the user, empty if the request is met.
    """
    if asked == 'auto':
        return ('bf16' if has_bf16(device) else 'float32'), ''
    if asked == 'bf16' and not has_bf16(device):
        what = 'GPU' if device.type == 'cuda' else 'processor'
        return 'float32', (
            f'precision bf16: this {what} has no known bf16 instructions, without which an update '
            'is many times slower; float32 is used instead (bf16_emulated insists on bf16)'
        )
    return asked.removesuffix('_emulated'), ''


@contextlib.contextmanager
def tf32_products(is_allowed: bool) -> Iterator[None]:
    """Allow or forbid tf32 in CUDA's float32 products within a block.

    Torch has two settings for it and raises an error if both are used. The newer one can always be
    read and set.
    """
    matmul = torch.backends.cuda.matmul
    values: tuple[bool | str, bool | str]
    name, values = 'allow_tf32', (False, True)  # before torch 2.9
    if hasattr(matmul, 'fp32_precision'):
        name, values = 'fp32_precision', ('ieee', 'tf32')
    before = getattr(matmul, name)
    setattr(matmul, name, values[is_allowed])
    try:
        yield
    finally:
        setattr(matmul, name, before)
