# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What a process makes of the launcher that started it and others."""

from __future__ import annotations

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.training import distributed as processes
from omnisafe_qpt.training.dataset_loading import stays_on_host
from omnisafe_qpt.training.distributed import Launch, join_processes, report_errors_from_first_rank
from omnisafe_qpt.training.run_state import RunState


VARIABLES = ('MASTER_ADDR', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')


@pytest.fixture
def launch_as(monkeypatch):
    def launch_as(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            if name in variables:
                monkeypatch.setenv(name, str(variables[name]))

    return launch_as


def test_torchrun_says_which_process_this_is(launch_as):
    launch_as()
    assert Launch.from_environment() == Launch(0, 1, 0, 1)
    launch_as(MASTER_ADDR='here', RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    assert Launch.from_environment() == Launch(rank=5, size=8, local_rank=1, local_size=4)
    launch_as(RANK=5, WORLD_SIZE=8)  # of another tool: nobody to connect to
    assert Launch.from_environment() == Launch()


def test_half_an_announcement_is_refused(launch_as):
    launch_as(MASTER_ADDR='here', RANK=0, LOCAL_RANK='')
    with pytest.raises(UserError, match='not WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE: start'):
        Launch.from_environment()


@pytest.mark.parametrize(
    ('requested', 'devices', 'found'),
    [
        ('auto', 4, 'cuda:2'),
        ('cuda', 4, 'cuda:2'),
        ('auto', 0, 'cpu'),
        ('cpu', 4, 'cpu'),
        ('auto', 2, None),  # three processes, two devices
        ('cuda', 0, None),
        ('cuda:1', 4, None),
    ],
)
def test_each_process_has_a_device_of_its_own(requested, devices, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: devices)
    launch = Launch(rank=2, size=3, local_rank=2, local_size=3)
    if found is None:
        with pytest.raises(UserError, match='device'):
            launch.device(requested)
    else:
        assert launch.device(requested) == found


def test_one_process_on_each_machine_may_choose_its_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert Launch(rank=1, size=2).device('cuda:1') == 'cuda:1'


def test_processes_share_the_cores_of_their_machine(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr('omnisafe_qpt.settings.machine.usable_cores', lambda: 7)
    assert Launch().threads('auto') == 7
    assert Launch(size=8, local_size=2).threads('auto') == 3
    assert Launch(size=8, local_size=8).threads('auto') == 1
    assert Launch(size=8, local_size=2).threads(5) == 5
    monkeypatch.setenv('OMP_NUM_THREADS', '4')  # for each process, as torchrun means it
    assert Launch(size=8, local_size=2).threads('auto') == 4


@pytest.mark.parametrize(('device', 'backend'), [('cpu', 'gloo'), ('cuda:1', 'nccl')])
def test_processes_wait_longer_than_an_evaluation_takes(device, backend, launch_as, monkeypatch):
    calls, devices = [], []
    monkeypatch.setattr(torch.cuda, 'set_device', devices.append)
    monkeypatch.setattr(
        distributed,
        'init_process_group',
        lambda *args, **options: calls.append((args, options)),
    )
    monkeypatch.setenv('IN_DIST', '0')
    launch_as()
    join_processes(device)
    assert not calls
    launch_as(MASTER_ADDR='here', RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2)
    join_processes(device)
    ((args, options),) = calls
    assert args == (backend,)
    assert options['timeout'] >= timedelta(hours=12)
    assert devices == ([] if device == 'cpu' else [device])
    assert os.environ['IN_DIST'] == '1'  # or OmniSafe would do it again, and fail


def test_a_batch_is_shared_equally():
    Launch(size=4).check_batch(2048)
    with pytest.raises(UserError, match=r'batch_size is 10 windows .* multiple .* number, 4'):
        Launch(rank=1, size=4).check_batch(10)


@pytest.mark.parametrize(
    ('rank', 'error', 'patience', 'told'),
    [
        (0, UserError('mistake'), 0, UserError),
        (3, UserError('mistake'), 5, UserError),
        (0, RuntimeError('out of memory'), 0, RuntimeError),
        (0, RuntimeError('[gloo/transport/tcp/pair.cc:553] Connection closed'), 10, UserError),
        (1, distributed.DistBackendError('NCCL error'), 10, UserError),
    ],
)
def test_who_fails_first_speaks_first(rank, error, patience, told, launch_as, monkeypatch):
    waited = []
    monkeypatch.setattr(processes.time, 'sleep', waited.append)
    launch_as(MASTER_ADDR='here', RANK=rank, WORLD_SIZE=4, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=4)
    with pytest.raises(told) as raised, report_errors_from_first_rank():
        raise error
    assert sum(waited) == patience
    if patience == 10:
        assert 'another process' in str(raised.value)
    else:
        assert raised.value is error


def test_a_process_without_others_speaks_at_once(launch_as, monkeypatch):
    monkeypatch.setattr(processes.time, 'sleep', None)
    launch_as()
    with pytest.raises(ZeroDivisionError), report_errors_from_first_rank():
        raise ZeroDivisionError


def dropout_of(rank, epoch, seed=3):
    """Random numbers of a process in an epoch, from whatever state it was in."""
    torch.manual_seed(epoch)
    state = RunState(None, None, None, seed, Ranks(rank, 3))
    state.progress.epoch = epoch
    state.separate_dropout()
    return torch.rand(4).tolist()


def test_each_process_drops_out_differently():
    torch.manual_seed(1)
    undisturbed = torch.rand(4).tolist()
    assert dropout_of(rank=0, epoch=1) == undisturbed
    others = [
        dropout_of(rank, epoch, seed) for rank in (1, 2) for epoch in (1, 2) for seed in (3, 4)
    ]
    assert len({tuple(numbers) for numbers in (undisturbed, *others)}) == 9
    assert dropout_of(rank=2, epoch=2, seed=4) == others[-1]


@pytest.mark.parametrize(('wish', 'on_host'), [('auto', True), ('device', False), ('host', True)])
def test_all_processes_keep_the_dataset_in_the_same_place(wish, on_host):
    """Here it fits on this one's device, and not on another's."""
    ranks = SimpleNamespace(average=lambda fits: (fits + 0.0) / 2)
    trajectories = SimpleNamespace(table=torch.zeros(3))
    assert stays_on_host(wish, trajectories, torch.device('cpu'), ranks) == on_host
