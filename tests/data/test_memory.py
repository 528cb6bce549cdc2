# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory is free."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dataset_helpers import (
    READERS,
    refusal,
    sparse,
)
from omnisafe_qpt.data import memory


def test_free_memory_is_what_the_strictest_limit_leaves(tmp_path, monkeypatch):
    meminfo, groups = tmp_path / 'meminfo', tmp_path / 'cgroup'
    meminfo.write_text('MemTotal: 900 kB\nMemAvailable:   500 kB\n')
    monkeypatch.setattr(memory, '_MEMINFO', meminfo)
    monkeypatch.setattr(memory, '_CGROUPS', groups)
    monkeypatch.setattr(memory, '_CGROUP_ROOT', tmp_path / 'groups')
    assert memory.free_memory() == 512_000
    groups.write_text('3:cpu:/\n4:memory:/job\n')
    folder = tmp_path / 'groups' / 'memory' / 'job'
    folder.mkdir(parents=True)
    (folder / 'memory.limit_in_bytes').write_text('300000\n')
    (folder / 'memory.usage_in_bytes').write_text('200000\n')
    assert memory.free_memory() == 100_000
    (folder / 'memory.stat').write_text('cache 9\ntotal_inactive_file 50000\n')
    assert memory.free_memory() == 150_000
    groups.write_text('0::/a/b\n')
    above = tmp_path / 'groups' / 'a'
    (above / 'b').mkdir(parents=True)
    (above / 'b' / 'memory.max').write_text('max\n')
    (above / 'b' / 'memory.current').write_text('7\n')
    assert memory.free_memory() == 512_000
    (above / 'memory.max').write_text('100\n')
    (above / 'memory.current').write_text('90\n')
    assert memory.free_memory() == 10


@pytest.mark.skipif(sys.platform != 'linux', reason='what is used is read from /proc')
def test_the_limit_of_the_process_counts(tmp_path, monkeypatch):
    import resource

    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, 'getrlimit', lambda _: (used + 10**9, used + 10**9))
    assert 0.5e9 < memory.free_memory() <= 1e9
    for reader in READERS:
        assert 'are free' in refusal(sparse(tmp_path / 'data.hdf5', 10**8), reader)
