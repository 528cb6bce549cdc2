# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead: the same as without, whatever the depth, and a thread that always ends."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core_helpers import batch_to, random_trajectories, same
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.prefetch import PrefetchSampler, fits_on
from omnisafe_qpt.data.windows import WindowSampler


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(name='data')
def fixture_data():
    trajectories = random_trajectories()
    return trajectories, augment(trajectories, 0.5, seed=0)[0]


def plain_sampler(data, seed=1, **changes):
    trajectories, rows = data
    return WindowSampler(trajectories, 4, 12, seed, rows=rows, **changes)


def ahead(data, depth=3, device='cpu', **changes):
    return PrefetchSampler(plain_sampler(data, **changes), device, depth)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert not prefetch_threads()
    yield
    if prefetch_threads():
        gc.collect()
    assert not prefetch_threads()


@pytest.mark.parametrize('depth', [1, 2, 7])
@pytest.mark.parametrize('shard', [(0, 1), (1, 3)])
def test_the_batches_are_those_of_the_sampler_within(data, depth, shard):
    plain, sampler = plain_sampler(data, shard=shard), ahead(data, depth, shard=shard)
    assert sampler.num_items == plain.num_items
    held = [sampler.sample() for _ in range(20)]  # kept, so that none may be written over
    for batch in held:
        assert same(batch, plain.sample())


def test_the_generator_stands_where_it_would_without(data):
    plain, sampler = plain_sampler(data), ahead(data)
    assert sampler.generator.get_state().equal(plain.generator.get_state())
    for _ in range(5):
        plain.sample()
        sampler.sample()
        time.sleep(0.005)  # in which batches are made ahead
        assert sampler.generator.get_state().equal(plain.generator.get_state())


@pytest.mark.parametrize('drawn_before', [0, 2])
def test_a_restored_generator_continues_exactly(data, drawn_before):
    sampler = ahead(data)
    for _ in range(3):
        sampler.sample()
    state = sampler.generator.get_state()
    expected = [sampler.sample() for _ in range(6)]
    others = [ahead(data, depth=5, seed=99), plain_sampler(data, seed=99)]
    for other in others:
        for _ in range(drawn_before):
            other.sample()
        other.generator.set_state(state)
        assert all(same(other.sample(), batch) for batch in expected)


def test_the_global_generator_stays_where_it_is(data):
    state = torch.get_rng_state()
    sampler = ahead(data)
    sampler.sample()
    sampler.close()
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize('depth', [1, 4])
def test_no_more_is_made_ahead_than_was_asked_for(data, monkeypatch, depth):
    sampler = plain_sampler(data)
    made = []
    gather = sampler.gather
    monkeypatch.setattr(sampler, 'gather', lambda window: made.append(1) or gather(window))
    sampler = PrefetchSampler(sampler, 'cpu', depth)
    assert not made
    for taken in (1, 2, 3):
        sampler.sample()
        wait_until(lambda: len(made) == taken + depth)  # noqa: B023
        time.sleep(0.02)
        assert len(made) == taken + depth


def test_an_error_in_the_thread_is_raised_where_the_batch_is_asked_for(data, monkeypatch):
    plain, sampler = plain_sampler(data), plain_sampler(data)
    gather, calls = sampler.gather, []

    def failing(window):
        calls.append(window)
        if len(calls) == 3:
            raise RuntimeError('out of memory')
        return gather(window)

    monkeypatch.setattr(sampler, 'gather', failing)
    sampler = PrefetchSampler(sampler, 'cpu', depth=4)
    assert same(sampler.sample(), plain.sample())
    assert same(sampler.sample(), plain.sample())
    with pytest.raises(RuntimeError, match='out of memory'):
        sampler.sample()
    wait_until(lambda: not prefetch_threads())
    for _ in range(3):  # nothing is lost: the batch that failed comes next
        assert same(sampler.sample(), plain.sample())


def test_the_thread_ends_with_close_and_starts_again(data):
    plain, sampler = plain_sampler(data), ahead(data)
    sampler.close()
    assert not prefetch_threads()
    for _ in range(2):
        assert same(sampler.sample(), plain.sample())
        assert len(prefetch_threads()) == 1
        sampler.close()
        assert not prefetch_threads()


@pytest.mark.parametrize('in_cycle', [False, True])
def test_the_thread_ends_when_the_sampler_is_dropped(data, in_cycle):
    sampler = ahead(data)
    sampler.sample()
    assert len(prefetch_threads()) == 1
    if in_cycle:
        sampler.itself = sampler
    del sampler
    gc.collect()
    assert not prefetch_threads()


SCRIPT = """
import os, sys, torch
from core_helpers import random_trajectories
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.windows import WindowSampler

data = random_trajectories()
plain = WindowSampler(data, 4, {batch_size}, 1)
sampler = PrefetchSampler(WindowSampler(data, 4, {batch_size}, 1), 'cpu')
same = lambda: sampler.sample().states.equal(plain.sample().states)
assert same()
"""


def run(ending, batch_size=12):
    script = SCRIPT.format(batch_size=batch_size) + textwrap.dedent(ending)
    return subprocess.run(
        [sys.executable, '-c', script],
        cwd=Path(__file__).parents[1],
        # Several OpenMP threads cannot work before and after a fork, with or without prefetching.
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_interpreter_exits_while_a_batch_is_made():
    result = run('sampler.sample()', batch_size=200_000)  # so large that the thread is at work
    assert (result.returncode, result.stderr) == (0, '')


def test_an_error_ends_the_interpreter_while_the_thread_waits():
    result = run("import time; time.sleep(0.2); sys.exit('as it should')")
    assert (result.returncode, result.stderr) == (1, 'as it should\n')


def test_a_forked_process_leaves_in_peace_and_may_draw_for_itself():
    # Forked at once after a batch is taken, when the thread is at work.
    result = run(
        """
        for draws in (9, 0):  # more than was made ahead, and none
            assert same()
            child = os.fork()
            if not child:
                assert all(same() for _ in range(draws))
                sys.exit(7)
            assert os.waitpid(child, 0)[1] == 7 << 8
            assert same()
        """,
        batch_size=20_000,
    )
    assert (result.returncode, result.stderr) == (0, '')


class Device:
    """Stands in for CUDA: notes what is asked of it, and is done with nothing until told so."""

    def __init__(self, monkeypatch):
        self.notes = []
        self.is_done = threading.Event()
        self._place = threading.local()  # a thread's current stream
        empty = torch.empty

        def pinned_empty(*args, pin_memory=False, **kwargs):
            if pin_memory:
                self.notes.append(('gather', self.current_stream().name))
            return empty(*args, **kwargs)

        def to(tensor, device, non_blocking=False):
            self.notes.append(('copy', self.current_stream().name, device.type, non_blocking))
            return tensor.clone()

        for name in ('Stream', 'Event', 'stream', 'current_stream'):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch, 'empty', pinned_empty)
        monkeypatch.setattr(torch.Tensor, 'to', to)
        monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)
        monkeypatch.setattr(
            torch.Tensor,
            'record_stream',
            lambda _, stream: self.notes.append(('keep for', stream.name)),
        )

    def Stream(self, device=None, name='side'):
        return SimpleNamespace(
            name=name,
            record_event=lambda event=None: self.notes.append(('mark', name)) or event or name,
            wait_event=lambda event: self.notes.append((name, 'waits for', event)),
        )

    def Event(self, blocking):
        assert blocking
        return SimpleNamespace(synchronize=lambda: self.is_done.wait(60))

    @contextlib.contextmanager
    def stream(self, stream):
        self._place.stream = stream
        yield
        del self._place.stream

    def current_stream(self, device=None):
        return getattr(self._place, 'stream', None) or self.Stream(name='main')


def test_copies_run_on_a_stream_of_their_own_in_order(data, monkeypatch):
    device = Device(monkeypatch)
    plain, sampler = plain_sampler(data), ahead(data, depth=1, device='cuda')
    made = [('gather', 'side'), *[('copy', 'side', 'cuda', True)] * 5, ('mark', 'side')]
    # What came before is marked first, the batch is waited for before it is used, and its memory
    # stays till then.
    taken = [('mark', 'main'), ('main', 'waits for', 'side'), *[('keep for', 'main')] * 5]
    device.is_done.set()
    for _ in range(3):
        assert same(sampler.sample(), plain.sample())
        wait_until(lambda: len(device.notes) == 2 * len(made) + len(taken))
        assert [note for note in device.notes if 'main' in note] == taken
        assert [note for note in device.notes if 'side' in note and note[0] != 'main'] == made * 2
        device.notes[:] = made  # of the batch that is ahead now
    sampler.close()


def test_no_more_batches_are_made_than_a_slow_device_can_use(data, monkeypatch):
    device = Device(monkeypatch)
    plain, sampler = plain_sampler(data), ahead(data, depth=2, device='cuda')
    for _ in range(2):
        assert same(sampler.sample(), plain.sample())
    time.sleep(0.05)
    assert device.notes.count(('gather', 'side')) == 2
    device.is_done.set()
    wait_until(lambda: device.notes.count(('gather', 'side')) == 4)
    for _ in range(4):
        assert same(sampler.sample(), plain.sample())
    sampler.close()


@pytest.mark.parametrize(
    ('num_bytes', 'free_bytes', 'fits'),
    [(0, 0, True), (70, 100, True), (71, 100, False), (56 << 30, 80 << 30, True), (1, 0, False)],
)
def test_a_dataset_may_take_seventy_percent_of_the_free_memory(num_bytes, free_bytes, fits):
    assert fits_on('cuda', num_bytes, free_bytes) is fits


def test_where_there_is_only_the_host_everything_fits():
    assert fits_on('cpu', 1 << 60)


@needs_cuda
def test_free_memory_is_asked_of_the_device():
    free, _ = torch.cuda.mem_get_info()
    assert fits_on('cuda', free // 2)
    assert not fits_on('cuda', free)


@needs_cuda
@pytest.mark.parametrize('depth', [1, 3])
def test_batches_on_the_device_are_those_of_the_host(data, depth):
    plain, sampler = plain_sampler(data), ahead(data, depth, device='cuda')
    for _ in range(20):
        batch = sampler.sample()
        assert all(value.is_cuda for value in vars(batch).values())
        assert same(batch_to(batch, 'cpu'), plain.sample())
        assert sampler.generator.get_state().equal(plain.generator.get_state())


@needs_cuda
def test_a_batch_stays_until_the_device_has_used_it(data):
    plain, sampler = plain_sampler(data), ahead(data, device='cuda')
    sampler.sample(), plain.sample()
    seen = []
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(50):
            torch.cuda._sleep(1_000_000)  # what uses the batch comes late
            seen.append(batch_to(sampler.sample(), 'cuda').states.clone())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(states.cpu().equal(plain.sample().states) for states in seen)
