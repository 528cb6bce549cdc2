# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A whole update as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.base_learner import BaseLearner


# Updates before the capture, in which optimisers make their state and libraries and compilers
# choose their kernels.
_WARMUP_UPDATES = 3


class CapturedUpdate:
    """Updates with batches from a sampler; on a CUDA device as replays of one CUDA graph.

    An update is hundreds of short kernels, which a GPU may run in less time than Python takes to
    start them. So after a few ordinary updates one is captured, and from there on each update is
    a replay of it. Replays draw the numbers that ordinary updates would draw::

        step = CapturedUpdate(learner, sampler)
        for _ in range(updates):
            step()

    Where the data is on the device, drawing the batch is part of the graph. Where it is prefetched
    from the host, each batch is copied to where the graph looks for it.

    Between two calls the learner may be asked for its metrics, saved and loaded, and generators
    may be set. All updates are ordinary ones on other devices, and with several ranks, whose
    collectives are kept out of graphs here.

    Args:
        learner (BaseLearner): What to update.
        sampler (BatchSampler or PrefetchSampler): Gives batches on the learner's device, all of
            the same shapes.
    """

    def __init__(self, learner: BaseLearner, sampler: BatchSampler | PrefetchSampler) -> None:
        """Initialize an instance of :class:`CapturedUpdate`."""
        self._learner = learner
        self._sampler = sampler
        self._is_capturable = _is_capturable(learner)
        self._is_drawn_inside = sampler.generator.device.type == learner.device.type
        self._warmup = _WARMUP_UPDATES
        # A prefetched batch where the graph looks for it, and the tensors it consists of.
        self._batch: Any = None
        self._parts: list[torch.Tensor] = []
        self._failure: UserError | None = None
        self._replay: Callable[[], None] | None = None

    @property
    def is_captured(self) -> bool:
        """Whether updates are replays by now."""
        return self._replay is not None

    def __call__(self) -> None:
        """Do one update.

        Raises:
            UserError: If no graph can be made of an update. The process cannot go on with CUDA:
                torch's memory may stay in the state of a capture, in which it gives nothing back.
                The updates up to then are done.
        """
        if not self._is_capturable:
            self._learner.update(self._sampler.sample())
            return
        if self._failure is not None:
            raise self._failure
        if not self._is_drawn_inside:
            self._take_batch()
        if self._warmup > 0:
            self._warmup -= 1
            _on_side_stream(self._learner.device, lambda: self._learner.advance(self._iterate))
            return
        if self._replay is None:
            self._replay = self._capture()
        self._learner.advance(self._replay)

    def _iterate(self) -> None:
        self._learner.iterate(self._batch or self._sampler.sample())

    def _take_batch(self) -> None:
        """Put the next batch where the graph looks for it."""
        parts = cast('PrefetchSampler', self._sampler).sample_parts()
        if self._batch is None:
            self._parts, self._batch = parts, self._sampler.unpack(parts)
        else:
            torch._foreach_copy_(self._parts, parts)

    def _capture(self) -> Callable[[], None]:
        generators = [self._sampler.generator] if self._is_drawn_inside else []
        try:
            return _captured(self._learner.device, self._iterate, generators)
        except RuntimeError as error:
            # The first of several errors is the reason, the others are its consequences.
            reason = ' '.join(str(error.__context__ or error).split())
            self._failure = UserError(
                f'no CUDA graph could be made of an update ({reason}), and this process cannot go '
                'on after the attempt; start again with train_cfgs:accelerate none, or in Python '
                'with learner.update(sampler.sample())',
            )
            raise self._failure from error


def _is_capturable(learner: BaseLearner) -> bool:
    return learner.device.type == 'cuda' and learner.ranks.size == 1


def _on_side_stream(device: torch.device, work: Callable[[], None]) -> None:
    """Do work on a stream of its own, as CUDA asks for before a capture."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)


def _captured(
    device: torch.device,
    work: Callable[[], None],
    generators: list[torch.Generator],
) -> Callable[[], None]:
    """Capture work, which is thereby not done.

    Args:
        device (torch.device): A CUDA device.
        work (Callable[[], None]): The work.
        generators (list[torch.Generator]): What it draws from besides the default generator.

    Returns:
        What does the work, each time with new random numbers.

    Raises:
        RuntimeError: If the work cannot be captured. The process is to end then.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # A prefetching thread may ask for memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            work()
    return graph.replay
