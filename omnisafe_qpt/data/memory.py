# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Check of the free memory against the sizes that a file declares."""

from __future__ import annotations

import os
import re
from pathlib import Path

from omnisafe_qpt.errors import UserError


# Smaller sizes are not checked.
_SMALL = 1 << 26
_UNITS = ('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')
_MEMINFO = Path('/proc/meminfo')
_CGROUPS = Path('/proc/self/cgroup')
_CGROUP_ROOT = Path('/sys/fs/cgroup')
_INACTIVE = re.compile(r'^(?:total_)?inactive_file (\d+)', re.MULTILINE)


def free_memory() -> int | None:
    """Return how many bytes this process can still allocate, None if unknown.

    It is the minimum of the machine's free memory, the rest of the control group's limit (a
    container) and the rest of the address space limit (``ulimit -v``).
    """
    found = [value for value in (_of_machine(), _of_cgroups(), _of_process()) if value is not None]
    return max(0, min(found)) if found else None


def check_memory(name: str, needed: int) -> None:
    """Check that a file's arrays fit into the free memory.

    Args:
        name (str): The file, for messages.
        needed (int): Bytes, as the file declares them.

    Raises:
        UserError: If fewer bytes are free.
    """
    free = free_memory() if needed > _SMALL else None
    if free is not None and needed > free:
        raise UserError(
            f'{name}: reading it needs {format_bytes(needed)} of memory by the sizes that it '
            f'declares, and {format_bytes(free)} are free; use a smaller file or a machine with '
            'more memory, or get the file again if it should be smaller',
        )


def format_bytes(count: float) -> str:
    """Format a number of bytes: ``23.1 GB``.

    Without rich, as files are also read with only torch and numpy installed.
    """
    count = min(count, 10**24)  # a damaged file may declare more than a float holds
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} {_UNITS[-1]}'


def _of_machine() -> int | None:
    text = _text(_MEMINFO)
    match = re.search(r'^MemAvailable:\s*(\d+) kB', text, re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return None


def _of_cgroups() -> int | None:
    """Return the rest of the limits of the control groups (version 2 or 1), with their parents."""
    found = []
    for line in _text(_CGROUPS).splitlines():
        _, controllers, path = line.split(':', 2)
        if controllers == '':
            root, limit, usage = _CGROUP_ROOT, 'memory.max', 'memory.current'
        elif 'memory' in controllers.split(','):
            root, limit = _CGROUP_ROOT / 'memory', 'memory.limit_in_bytes'
            usage = 'memory.usage_in_bytes'
        else:
            continue
        # Inside a container the group's own files may be at the root.
        folder = root / path.lstrip('/')
        for place in (folder, *folder.parents):
            texts = _text(place / limit).strip(), _text(place / usage).strip()
            if texts[0].isdigit() and texts[1].isdigit():
                # The file cache counts as used, but is freed when memory is needed.
                cache = re.search(_INACTIVE, _text(place / 'memory.stat'))
                found.append(int(texts[0]) - int(texts[1]) + (int(cache[1]) if cache else 0))
            if place == root:
                break
    return min(found, default=None)


def _of_process() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _text(Path('/proc/self/statm')).split()
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return limit - int(used[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii')
    except (OSError, UnicodeDecodeError):
        return ''
