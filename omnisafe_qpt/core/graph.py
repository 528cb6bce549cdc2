# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""A whole update as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from omnisafe_qpt.core.base_learner import BaseLearner
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.sampling import BatchSampler


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
    may be set. All updates are ordinary ones on other devices, with several replicas, whose
    collectives are kept out of graphs here, and after a capture that failed.

    Args:
        learner (BaseLearner): What to update.
        sampler (BatchSampler or PrefetchSampler): Gives batches on the learner's device, all of
            the same shapes.

    Attributes:
        failure (str or None): Why the capture failed, if it did. No update was lost by it.
    """

    def __init__(self, learner: BaseLearner, sampler: BatchSampler | PrefetchSampler) -> None:
        """Initialize an instance of :class:`CapturedUpdate`."""
        self.failure: str | None = None
        self._learner = learner
        self._sampler = sampler
        self._is_capturable = _is_capturable(learner)
        self._is_drawn_inside = sampler.generator.device.type == learner.device.type
        self._warmup = _WARMUP_UPDATES
        self._batch: Any = None
        self._replay: Callable[[], None] | None = None

    @property
    def is_captured(self) -> bool:
        """Whether updates are replays by now."""
        return self._replay is not None

    def __call__(self) -> None:
        """Do one update."""
        if not self._is_capturable:
            self._learner.update(self._sampler.sample())
            return
        if not self._is_drawn_inside:
            self._take_batch()
        if self._warmup > 0:
            self._warmup -= 1
            _on_side_stream(self._learner.device, lambda: self._learner.advance(self._iterate))
            return
        if self._replay is None:
            self._capture()
        self._learner.advance(self._replay or self._iterate)

    def _iterate(self) -> None:
        self._learner.iterate(self._batch or self._sampler.sample())

    def _take_batch(self) -> None:
        """Put the next batch where the graph looks for it."""
        batch = self._sampler.sample()
        if self._batch is None:
            self._batch = batch
        else:
            torch._foreach_copy_(_tensors(self._batch), _tensors(batch))

    def _capture(self) -> None:
        generators = [self._sampler.generator] if self._is_drawn_inside else []
        try:
            self._replay = _captured(self._learner.device, self._iterate, generators)
        except RuntimeError as error:
            self._is_capturable = False
            # The first of several errors is the reason, the others are its consequences.
            self.failure = str(error.__context__ or error)


def _tensors(batch: Any) -> list[torch.Tensor]:
    return [getattr(batch, field.name) for field in fields(batch)]


def _is_capturable(learner: BaseLearner) -> bool:
    return learner.device.type == 'cuda' and learner.replicas.size == 1


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
        RuntimeError: If the work cannot be captured. Generators and stream are as they were.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        all_generators = [
            *generators,
            torch.cuda.default_generators[torch.cuda.current_device()],
        ]
        states = [generator.clone_state() for generator in all_generators]
        graph = torch.cuda.CUDAGraph()
        try:
            for generator in generators:
                graph.register_generator_state(generator)
            # A prefetching thread may ask for memory meanwhile.
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):
                work()
        except RuntimeError:
            # A capture that breaks leaves its stream current, and generators waiting for its end.
            torch.cuda.set_stream(stream)
            for generator, state in zip(all_generators, states):
                generator.graphsafe_set_state(state)
            raise
    return graph.replay
