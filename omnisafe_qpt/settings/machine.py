# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: device, threads, cores, and a description for records."""

from __future__ import annotations

import os
import pathlib
import platform
import re
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


# A default for automatic values, which accepts text or a number instead. Here, as this module needs
# nothing but the standard library.
AUTO = 'auto'
MAX_TORCH_THREADS = 16


def resolve_device(requested: str) -> str:
    """Return the existing device for ``train_cfgs.device``.

    Args:
        requested (str): ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        ``cpu`` or ``cuda:N``.

    Raises:
        UserError: If the device does not exist here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == AUTO:
        return 'cuda:0' if count else 'cpu'
    match = re.fullmatch(r'cpu|cuda(?::(\d+))?', str(requested))
    if match is None:
        raise UserError(f'device must be auto, cpu, cuda or cuda:N, not {requested!r}')
    if match[0] == 'cpu':
        return 'cpu'
    index = int(match[1] or 0)
    if index >= count:
        raise UserError(
            f'device {requested} does not exist: torch {torch.__version__} sees {count} CUDA '
            'device(s); use cpu or auto, or install a CUDA build of torch',
        )
    return f'cuda:{index}'


def resolve_acceleration(requested: str, device: str, processes: int = 1) -> str:
    """Return the supported acceleration for ``train_cfgs.accelerate``.

    Args:
        requested (str): ``auto``, ``none``, ``graph`` or ``compile``.
        device (str): The device to train on.
        processes (int, optional): Processes that train together. Defaults to 1.

    Returns:
        The acceleration; for ``auto`` it is ``graph`` on CUDA in a single process, else ``none``.

    Raises:
        UserError: If it is not supported here.
    """
    is_possible = device != 'cpu' and processes == 1
    if requested == AUTO:
        return 'graph' if is_possible else 'none'
    if requested != 'none' and not is_possible:
        where = f'with {processes} processes' if processes > 1 else 'on the CPU'
        raise UserError(
            f'train_cfgs:accelerate {requested} needs CUDA and a single process: {where} use auto '
            'or none',
        )
    return requested


def resolve_threads(requested: str | int) -> int:
    """Return the number of threads for ``train_cfgs.torch_threads``.

    Args:
        requested (str or int): ``auto`` or a number.

    Returns:
        The number; for ``auto`` OMP_NUM_THREADS if it is set, else the physical cores that this
        process may use, at most 16.

    Raises:
        UserError: If it is neither.
    """
    if requested == AUTO:
        value = os.environ.get('OMP_NUM_THREADS', '')
        return int(value) if value.isdigit() and int(value) > 0 else usable_cores()
    if isinstance(requested, bool) or not isinstance(requested, int) or requested < 1:
        raise UserError(f'torch_threads must be auto or a positive integer, not {requested!r}')
    return requested


def usable_cores() -> int:
    """Return the number of physical cores for this process, within a container's quota."""
    if hasattr(os, 'sched_getaffinity'):
        processors: Iterable[int] = os.sched_getaffinity(0)
    else:
        processors = range(os.cpu_count() or 1)
    cores = {
        _read_line(f'/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list')
        or str(processor)
        for processor in processors
    }
    count = len(cores)
    quota, _, period = _read_line('/sys/fs/cgroup/cpu.max').partition(' ')
    if quota.isdigit() and period.isdigit():
        count = min(count, int(quota) // int(period))
    return max(1, min(count, MAX_TORCH_THREADS))


def _read_line(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding='utf-8').strip()
    except OSError:
        return ''


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the processor, torch's threads, the memory and the CUDA device, for records."""
    import torch

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
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return platform.processor()
    named = re.search(r'model name\s*:\s*(.+)', lines)
    return named[1] if named else platform.processor()
