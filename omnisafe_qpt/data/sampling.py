# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of samplers: uniform draws of items by index, with a shard per process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.errors import UserError


class BatchSampler(ABC):
    """Draws batches of items uniformly; a subclass indexes and gathers them.

    Args:
        num_items (int): Number of items.
        batch_size (int): B.
        seed (int): Seed of the draws; see :mod:`omnisafe_qpt.data.streams`.
        shard (tuple[int, int]): Rank and number of the processes that share each batch. With the
            same seed all draw the same B items, and each gathers its own B / size of them: laid end
            to end in order of rank, the shards are the whole batch.
        table (torch.Tensor): (N, D) rows of the items; the draws are on its device.

    Attributes:
        generator (torch.Generator): Source of :meth:`sample`.

    Raises:
        UserError: If the batch is not positive or cannot be shared equally.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int,
        shard: tuple[int, int],
        table: torch.Tensor,
    ) -> None:
        """Initialize an instance of :class:`BatchSampler`."""
        if batch_size < 1:
            raise UserError(f'batch_size is {batch_size}; it must be at least 1')
        rank, size = shard
        if batch_size % size:
            raise UserError(
                f'batch_size is {batch_size}; it must be a multiple of the {size} processes that '
                'share it',
            )
        share = batch_size // size
        self.num_items = num_items
        self._batch_size = batch_size
        self._shard = slice(rank * share, (rank + 1) * share)
        self._table = table
        self.generator = torch.Generator(device=table.device)
        self.generator.manual_seed(torch_seed(seed, 'batches'))

    def sample(self) -> Any:
        """Draw B items, and gather those of this shard.

        Nothing here waits for the device or depends on the drawn values, so a CUDA graph can
        contain it, with :attr:`generator` registered.
        """
        return self.batch(self.draw(self.generator))

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Draw the indices of B items, and return those of this shard, (B / size,) int64.

        Args:
            generator (torch.Generator): Source of the draws, on the sampler's device.
        """
        numbers = torch.randint(
            self.num_items,
            (self._batch_size,),
            generator=generator,
            device=self._table.device,
        )
        return numbers[self._shard]

    def batch(self, number: torch.Tensor) -> Any:
        """Gather items by number.

        Args:
            number (torch.Tensor): (B,) int64, as :meth:`gather` takes them.
        """
        return self.unpack(self.gather(number))

    def _take(self, rows: torch.Tensor, pin_memory: bool) -> torch.Tensor:
        """Gather rows of the table, (N,) int64, optionally into page-locked memory."""
        values = torch.empty(
            (len(rows), self._table.shape[1]),
            dtype=self._table.dtype,
            device=self._table.device,
            pin_memory=pin_memory,
        )
        # The same rows as by table[rows], in two thirds of the time.
        return torch.index_select(self._table, 0, rows, out=values)

    @abstractmethod
    def gather(self, number: torch.Tensor, pin_memory: bool = False) -> list[torch.Tensor]:
        """Gather items by index into the tensors of a batch.

        Args:
            number (torch.Tensor): (B,) int64 in [0, num_items).
            pin_memory (bool, optional): Gather into page-locked memory. Defaults to False.
        """

    @abstractmethod
    def unpack(self, parts: list[torch.Tensor]) -> Any:
        """Make the batch from the result of :meth:`gather`, here or copied to another device."""
