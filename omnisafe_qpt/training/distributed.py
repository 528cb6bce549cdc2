# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Training in several processes, as ``torchrun`` starts them.

OmniSafe can join the processes of a launcher, but its timeouts are shorter than an evaluation.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.machine import AUTO, resolve_device, resolve_threads


# How long a process waits for the others, which may be evaluating. The end of a process is noticed
# at once: its connections break, and torchrun ends the rest.
_PATIENCE = timedelta(days=1)

# Seconds of delay for two reports: an error in a process other than the first, since the first one
# most likely has the same error; and the end of another process, which that process explains
# itself. The launcher ends all processes once the first process with an error has ended.
_SECONDS_BEHIND_FIRST = 5.0
_SECONDS_BEHIND_ALL = 10.0


@dataclass(frozen=True)
class Launch:
    """Rank of this process and number of processes, from ``torchrun``'s environment variables.

    Args:
        rank (int, optional): Rank over all machines. Defaults to 0.
        size (int, optional): Number of processes. Defaults to 1.
        local_rank (int, optional): Rank on this machine. Defaults to 0.
        local_size (int, optional): Number of processes on this machine. Defaults to 1.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> Launch:
        """Read the launcher's variables; without a launcher there is one process.

        Raises:
            UserError: If some of the variables are missing.
        """
        if not _is_launched():
            return cls()
        names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')
        missing = [name for name in names if not os.environ.get(name, '').isdigit()]
        if missing:
            raise UserError(
                f'MASTER_ADDR is set, which announces several processes, but not '
                f'{", ".join(missing)}: start them with torchrun, or unset MASTER_ADDR',
            )
        return cls(*(int(os.environ[name]) for name in names))

    def device(self, requested: str) -> str:
        """Return this process's device for ``train_cfgs.device``.

        Args:
            requested (str): ``auto``, ``cpu``, ``cuda`` or, for one process, ``cuda:N``.

        Raises:
            UserError: If the device does not exist here, or all processes would share it.
        """
        device = resolve_device(requested)
        if self.local_size == 1 or device == 'cpu':
            return device
        if requested not in (AUTO, 'cuda'):
            raise UserError(
                f'each of {self.local_size} processes needs its own device: device must be '
                f'auto, cuda or cpu, not {requested}; select devices by CUDA_VISIBLE_DEVICES',
            )
        try:
            return resolve_device(f'cuda:{self.local_rank}')
        except UserError as error:
            raise UserError(
                f'{self.local_size} processes need as many CUDA devices: {error}',
            ) from error

    def threads(self, requested: str | int) -> int:
        """Return this process's number of threads for ``train_cfgs.torch_threads``.

        Args:
            requested (str or int): ``auto`` or a number for each process.

        Raises:
            UserError: If it is neither.
        """
        count = resolve_threads(requested)
        if requested == AUTO and not os.environ.get('OMP_NUM_THREADS'):
            return max(1, count // self.local_size)
        return count

    def check_batch(self, batch_size: int) -> None:
        """Check that a batch can be divided among the processes.

        Raises:
            UserError: If it is not a multiple of the number of processes.
        """
        if batch_size % self.size:
            raise UserError(
                f'algo_cfgs:batch_size is {batch_size} windows over all processes; it must be a '
                f'multiple of their number, {self.size}',
            )


def join_processes(device: str) -> None:
    """Join the launcher's process group, if there is one, for the lifetime of this process.

    Args:
        device (str): This process's device.
    """
    import torch
    from torch import distributed

    if not _is_launched() or distributed.is_initialized():
        return
    is_cuda = device != 'cpu'
    if is_cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        'nccl' if is_cuda else 'gloo',
        timeout=_PATIENCE,
        device_id=torch.device(device) if is_cuda else None,
    )
    os.environ['IN_DIST'] = '1'  # tells OmniSafe that the group exists


def leave_processes() -> None:
    """Leave the process group; only for a process without an error.

    Leaving waits for the others, which may never arrive after an error.
    """
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def report_errors_from_first_rank() -> Iterator[None]:
    """Report an error from one process only, even if all have it.

    Raises:
        UserError: In place of the error that another process's end causes in this one.
    """
    try:
        yield
    except Exception as error:
        if not _is_launched():
            raise
        if _is_connection_lost(error):
            time.sleep(_SECONDS_BEHIND_ALL)
            raise UserError(
                'another process of this run has ended; see its message',
            ) from error
        if os.environ.get('RANK') != '0':
            time.sleep(_SECONDS_BEHIND_FIRST)
        raise


def _is_launched() -> bool:
    return os.environ.get('MASTER_ADDR') is not None  # OmniSafe checks this variable


def _is_connection_lost(error: Exception) -> bool:
    from torch import distributed

    # gloo raises no type of its own.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and 'gloo' in str(error)
    )
