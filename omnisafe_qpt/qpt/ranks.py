# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Collective operations of the processes that train one model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn


class Ranks:
    """The processes that train one model together, and this one's rank among them.

    All processes hold the same weights, draw the same batch, compute on their own slice of it and
    average the results. With one process every method returns its input, and no process group is
    needed.

    With several, each method is collective: all processes call it, in the same order.

    Args:
        rank (int, optional): The number of this process. Defaults to 0.
        size (int, optional): How many processes there are. Defaults to 1.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Initialize an instance of :class:`Ranks`."""
        self.rank = rank
        self.size = size

    @classmethod
    def from_process_group(cls) -> Ranks:
        """Return the processes of torch's default group; without a group, this one alone."""
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process does the work of only one process, such as writing files."""
        return self.rank == 0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a tensor over the processes, without gradient.

        Args:
            tensor (torch.Tensor): Of the same shape in all processes; not modified.

        Returns:
            The mean, equal in all processes.
        """
        if self.size == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # gloo has no average
        return total / self.size

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Overwrite a tensor with the first process's.

        Args:
            tensor (torch.Tensor): Contiguous, of the same shape in all processes.

        Returns:
            The same tensor.
        """
        if self.size > 1:
            distributed.broadcast(tensor.detach(), src=0)
        return tensor

    def share(self, value: Any) -> Any:
        """Return the first process's value, anything that can be pickled."""
        values = [value]
        if self.size > 1:
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, anything that can be pickled, in order of rank."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make a network average its gradients over the processes in each backward pass.

        Call the returned module instead of the network. The network keeps its parameters and their
        names, and receives the first process's weights.

        Args:
            module (nn.Module): A network with parameters to train, all of which take part in
                every forward pass.
        """
        if self.size == 1:
            return module
        wrapper = nn.parallel.DistributedDataParallel
        # Buffers are constants. Newer versions of torch warn of the former name of the option.
        names = ('forward_sync_buffers', 'broadcast_buffers')
        known = inspect.signature(wrapper).parameters
        options: dict[str, Any] = {next(name for name in names if name in known): False}
        return wrapper(module, gradient_as_bucket_view=True, **options)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process leave the block before the others enter it."""
        if not self.is_first:
            self._wait()
        yield
        if self.is_first:
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            distributed.barrier()
