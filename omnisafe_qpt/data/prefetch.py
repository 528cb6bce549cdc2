# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Prefetching of batches from a dataset in host memory."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch

from omnisafe_qpt.data.sampling import BatchSampler


# Largest share of a device's free memory for the dataset; networks and activations need the rest.
_DEVICE_SHARE = 0.7


def fits_on(
    device: torch.device | str,
    num_bytes: int,
    free_bytes: int | None = None,
) -> bool:
    """Return whether to keep a dataset on the learner's device.

    A CUDA device keeps it if it takes at most 70 % of the free memory. Other devices use host
    memory, where the dataset already is.

    Args:
        device (torch.device or str): The learner's device.
        num_bytes (int): Size of the dataset, ``trajectories.table.nbytes``.
        free_bytes (int, optional): The device's free memory. Defaults to what CUDA reports.
    """
    device = torch.device(device)
    if free_bytes is None:
        if device.type != 'cuda':
            return True
        free_bytes, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= _DEVICE_SHARE * free_bytes


class PrefetchSampler:
    """A :class:`BatchSampler` in host memory whose batches are prefetched to a device.

    A thread draws and gathers the next few batches on the host and starts copying them to the
    device, so that :meth:`sample` only returns one. The batches and their order are those of the
    inner sampler, for any depth. :attr:`generator` has the state after the last returned batch;
    prefetched batches do not affect it. To resume, set its state as for the inner sampler.

    The thread starts with the first batch. It ends with :meth:`close`, when the sampler is deleted,
    and when the interpreter exits.

    ::

        trajectories = Trajectories.load(path)  # stays on the host
        sampler = PrefetchSampler(WindowSampler(trajectories, 10, 2048, seed=0), 'cuda')
        batch = sampler.sample()  # on the GPU

    On a CUDA device a batch is for the stream that is current where :meth:`sample` is called. It
    cannot be drawn within a CUDA graph, and while one is captured the thread may allocate memory:
    capture with ``capture_error_mode='thread_local'``.

    Args:
        sampler (BatchSampler): A sampler with its table in host memory. Do not use it otherwise.
        device (torch.device or str): Device of the batches.
        depth (int, optional): Largest number of prefetched batches. Defaults to 4.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        device: torch.device | str,
        depth: int = 4,
    ) -> None:
        """Initialize an instance of :class:`PrefetchSampler`."""
        self._sampler = sampler
        self._device = torch.device(device)
        self._depth = depth
        self._worker: _Worker | None = None
        self._stop: weakref.finalize | None = None
        self.generator = sampler.generator
        self.num_items = sampler.num_items

    def sample(self) -> Any:
        """Return the next batch, on the device; see :meth:`sample_parts`."""
        return self.unpack(self.sample_parts())

    def unpack(self, parts: list[torch.Tensor]) -> Any:
        """Make the batch of what :meth:`sample_parts` returned; nothing is copied."""
        return self._sampler.unpack(parts)

    def sample_parts(self) -> list[torch.Tensor]:
        """Return the tensors of the next batch, on the device.

        Raises:
            Exception: The error of the thread. The next call starts anew.
        """
        state = self.generator.get_state()
        if self._worker is None or not self._worker.continues(state):
            self.close()
            self._worker = _Worker(self._sampler, self._device, self._depth, state)
            # Also at exit, where the interpreter does not wait for a daemon's last batch.
            self._stop = weakref.finalize(self, self._worker.stop)
        try:
            made = self._worker.take()
        except BaseException:
            self.close()
            raise
        self.generator.set_state(made.state)
        return made.parts

    def close(self) -> None:
        """End the thread, and drop its prefetched batches."""
        if self._stop is not None:
            self._stop()
        self._worker = self._stop = None


@dataclass(frozen=True)
class _Made:
    """A prefetched batch: its parts, the generator's state after it, and the event of its copy."""

    parts: list[torch.Tensor]
    state: torch.Tensor
    ready: torch.cuda.Event | None


class _Worker:
    """The prefetching thread; it has no reference to the :class:`PrefetchSampler`.

    Args:
        sampler (BatchSampler): Draws and gathers on the host.
        device (torch.device): Device of the batches.
        depth (int): Largest number of prefetched batches.
        state (torch.Tensor): State of the generator before its first batch.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        device: torch.device,
        depth: int,
        state: torch.Tensor,
    ) -> None:
        """Initialize an instance of :class:`_Worker`."""
        self._sampler = sampler
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        self._generator = torch.Generator()
        self._generator.set_state(state)
        self._state = state  # after the last batch taken
        self._made: queue.SimpleQueue[_Made | Exception] = queue.SimpleQueue()
        # A slot per prefetched batch, with the event after which the device no longer uses it.
        self._turns: queue.SimpleQueue[torch.cuda.Event | None] = queue.SimpleQueue()
        for _ in range(depth):
            self._turns.put(None)
        self._is_stopped = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name='prefetch', daemon=True)
        self._thread.start()

    def continues(self, state: torch.Tensor) -> bool:
        """Return whether the next batch is the one that follows a generator's state."""
        # A forked child has this object but not the thread.
        return self._process == os.getpid() and self._state.equal(state)

    def take(self) -> _Made:
        """Return the next batch for use on the current stream, or raise what ended the thread."""
        made = self._made.get()
        if isinstance(made, Exception):
            raise made
        self._state = made.state
        self._turns.put(self._enter(made))
        return made

    def _enter(self, made: _Made) -> torch.cuda.Event | None:
        """Let the current stream wait for a batch; returns an event after its earlier work."""
        if made.ready is None:
            return None
        stream = torch.cuda.current_stream(self._device)
        used = stream.record_event(torch.cuda.Event(blocking=True))
        stream.wait_event(made.ready)
        for part in made.parts:
            part.record_stream(stream)  # not to be reused before this stream has used it
        return used

    def stop(self) -> None:
        """End the thread after its current batch."""
        # In a forked child the missing thread may hold the locks for ever, and garbage collection
        # may delete the sampler within the thread itself.
        self._is_stopped = True
        if self._process == os.getpid():
            self._turns.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                used = self._turns.get()
                if self._is_stopped:
                    return
                if used is not None:
                    # Otherwise pending updates on the device would keep many batches alive.
                    used.synchronize()
                self._made.put(self._make())
        except Exception as error:  # noqa: BLE001 - whatever it is, sample() must raise it
            self._made.put(error)

    def _make(self) -> _Made:
        """Draw and gather a batch, and start its copy to the device."""
        window = self._sampler.draw(self._generator)
        state = self._generator.get_state()
        if self._stream is None:
            return _Made(self._sampler.gather(window), state, ready=None)
        # Gathered into page-locked memory, since only copies from there are asynchronous. The table
        # itself need not be locked: only the CPU reads it, and locking would double it for a while
        # and take memory from other processes. Torch reuses a buffer only when the copies from it
        # are done.
        with torch.cuda.stream(self._stream):
            parts = [
                part.to(self._device, non_blocking=True)
                for part in self._sampler.gather(window, pin_memory=True)
            ]
            return _Made(parts, state, self._stream.record_event())
