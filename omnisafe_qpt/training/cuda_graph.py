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


# Ordinary updates before the capture: in them optimisers create their state, and libraries and
# compilers choose their kernels.
_WARMUP_UPDATES = 3


class CapturedUpdate:
    """Update step with batches from a sampler; on a CUDA device a replay of one CUDA graph.

    An update is hundreds of short kernels, which a GPU may run in less time than Python takes to
    start them. So after a few ordinary updates one is captured, and each later update replays it.
    Replays draw the same random numbers as ordinary updates::

        step = CapturedUpdate(learner, sampler)
        for _ in range(updates):
            step()

    If the data is on the device, drawing the batch is part of the graph. If it is prefetched from
    host memory, each batch is copied to the tensors that the graph reads.

    Between two calls you may read the learner's metrics, save and load it, and set generators. On
    other devices, and with several ranks, all updates are ordinary ones; collectives are not
    captured.

    Args:
        learner (BaseLearner): The learner to update.
        sampler (BatchSampler or PrefetchSampler): Returns batches on the learner's device, all of
            the same shapes.
    """

    def __init__(self, learner: BaseLearner, sampler: BatchSampler | PrefetchSampler) -> None:
        """Initialize an instance of :class:`CapturedUpdate`."""
        self._learner = learner
        self._sampler = sampler
        self._is_capturable = _is_capturable(learner)
        self._is_drawn_inside = sampler.generator.device.type == learner.device.type
        self._warmup = _WARMUP_UPDATES
        # The prefetched batch that the graph reads, and its tensors.
        self._batch: Any = None
        self._parts: list[torch.Tensor] = []
        self._failure: UserError | None = None
        self._replay: Callable[[], None] | None = None

    @property
    def is_captured(self) -> bool:
        """Whether updates are replays already."""
        return self._replay is not None

    def __call__(self) -> None:
        """Do one update.

        Raises:
            UserError: If an update cannot be captured. The process cannot use CUDA afterwards:
                torch's memory may remain in the state of a capture, in which it frees nothing.
                Earlier updates are done.
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
        """Copy the next batch to the tensors that the graph reads."""
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
            # The first of several errors is the cause of the others.
            reason = ' '.join(str(error.__context__ or error).split())
            self._failure = UserError(
                f'no CUDA graph could be made of an update ({reason}), and this process cannot '
                'continue; start again with train_cfgs:accelerate none, or in Python '
                'with learner.update(sampler.sample())',
            )
            raise self._failure from error


def _is_capturable(learner: BaseLearner) -> bool:
    return learner.device.type == 'cuda' and learner.ranks.size == 1


def _on_side_stream(device: torch.device, work: Callable[[], None]) -> None:
    """Do work on a separate stream, as CUDA requires before a capture."""
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
    """Capture work as a CUDA graph, without executing it.

    Args:
        device (torch.device): A CUDA device.
        work (Callable[[], None]): The work.
        generators (list[torch.Generator]): Its generators besides the default one.

    Returns:
        A function that does the work, each time with new random numbers.

    Raises:
        RuntimeError: If the work cannot be captured. The process must then end.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # A prefetching thread may allocate memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            work()
    return graph.replay
