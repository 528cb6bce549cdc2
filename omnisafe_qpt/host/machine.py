# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The machine that something ran on, for records."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the processor, torch's threads, the memory and, on CUDA, the card."""
    pages = {name: os.sysconf(name) for name in ('SC_PAGE_SIZE', 'SC_PHYS_PAGES')}
    found = {
        'machine': platform.machine(),
        'processor': _processor(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'memory_bytes': pages['SC_PAGE_SIZE'] * pages['SC_PHYS_PAGES'],
        'device': device.type,
    }
    if device.type == 'cuda':
        card = torch.cuda.get_device_properties(device)
        found |= {
            'card': card.name,
            'card_memory_bytes': card.total_memory,
            'cuda': torch.version.cuda,
        }
    return found


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return platform.processor()
    named = re.search(r'model name\s*:\s*(.+)', lines)
    return named[1] if named else platform.processor()
