# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The device, the acceleration and the threads that this machine has."""

from __future__ import annotations

import os

import pytest
import torch

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings import machine
from omnisafe_qpt.settings.machine import resolve_acceleration, resolve_device, resolve_threads


@pytest.mark.parametrize(
    ('requested', 'devices', 'found'),
    [
        ('auto', 0, 'cpu'),
        ('auto', 2, 'cuda:0'),
        ('cpu', 2, 'cpu'),
        ('cuda', 1, 'cuda:0'),
        ('cuda:1', 2, 'cuda:1'),
        ('cuda', 0, None),
        ('cuda:2', 2, None),
        ('mps', 0, None),
        ('cuda:', 1, None),
        (0, 1, None),
    ],
)
def test_the_device_is_one_that_exists(requested, devices, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: devices)
    if found is None:
        with pytest.raises(UserError, match='device'):
            resolve_device(requested)
    else:
        assert resolve_device(requested) == found


def test_several_processes_have_no_graph_of_their_updates():
    assert resolve_acceleration('auto', 'cuda:1', processes=1) == 'graph'
    assert resolve_acceleration('auto', 'cuda:1', processes=2) == 'none'
    assert resolve_acceleration('none', 'cuda:1', processes=2) == 'none'
    with pytest.raises(UserError, match='a single process: with 2 processes use auto'):
        resolve_acceleration('compile', 'cuda:1', processes=2)


@pytest.fixture
def system_files(monkeypatch):
    """Four processors, two to a core, of which this process may use all."""
    folder = '/sys/devices/system/cpu'
    lines = {
        f'{folder}/cpu{cpu}/topology/thread_siblings_list': f'{cpu % 2},{cpu % 2 + 2}'
        for cpu in range(4)
    }
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(machine, '_read_line', lambda path: lines.get(path, ''))
    return lines


def test_threads_are_the_physical_cores_at_hand(system_files, monkeypatch):
    assert resolve_threads('auto') == 2
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {1, 3})
    assert resolve_threads('auto') == 1
    system_files.clear()  # a system that says nothing about its cores
    assert resolve_threads('auto') == 2


def test_threads_keep_to_a_containers_quota_and_to_sixteen(system_files, monkeypatch):
    system_files['/sys/fs/cgroup/cpu.max'] = 'max 100000'
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(10, 40)))
    assert resolve_threads('auto') == 16
    system_files['/sys/fs/cgroup/cpu.max'] = '350000 100000'
    assert resolve_threads('auto') == 3
    system_files['/sys/fs/cgroup/cpu.max'] = '50000 100000'
    assert resolve_threads('auto') == 1


@pytest.mark.usefixtures('system_files')
def test_threads_follow_what_they_are_told(monkeypatch):
    assert resolve_threads(5) == 5
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    assert resolve_threads('auto') == 7
    monkeypatch.setenv('OMP_NUM_THREADS', '4,2')  # nested parallelism: no single number
    assert resolve_threads('auto') == 2
    for wrong in (0, True, 1.5, 'many'):
        with pytest.raises(UserError, match='torch_threads must be auto or a positive integer'):
            resolve_threads(wrong)
