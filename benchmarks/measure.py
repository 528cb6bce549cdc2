# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the timing benchmarks share: a clock, works timed in turn, the chip's rates, the record.

Times are taken in rounds: each round measures every work once, one after the other, so that what
else the machine does weighs on all alike. A ratio of two works is the median of its rounds' ratios.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.qpt.precision import tf32_products
from omnisafe_qpt.settings.machine import hardware
from omnisafe_qpt.version import __version__


HORIZON = 1000
ROOT = Path(__file__).resolve().parents[1]  # where `python -m benchmarks...` runs
# A measurement shorter than this repeats its work: clocks and the processor's state would blur it.
_SHORTEST = 0.02
_MAX_REPEATS = 500
# Before it is timed a work runs this often; on CUDA, also until it is compiled and captured. On a
# CPU one run is enough of a work that takes this many seconds.
_WARM_UPS = {'cpu': 2, 'cuda': 12}
_LONG = 3.0
_MATRIX_SIZE = {'cpu': 1024, 'cuda': 8192}
_COPY_BYTES = {'cpu': 1 << 28, 'cuda': 1 << 31}


class Timer:
    """Times named works on one device, in turn.

    Args:
        device (torch.device): Waited for before a clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        """Initialize an instance of :class:`Timer`."""
        self.device = device
        self._run: dict[str, Callable[[], object]] = {}
        self._repeats: dict[str, int] = {}
        self.seconds: dict[str, list[float]] = {}

    def add(self, name: str, run: Callable[[], object]) -> None:
        """Add a work, and run it until it is warm.

        Args:
            name (str): Its name in the results.
            run (Callable): Does it once.
        """
        for _ in range(_WARM_UPS[self.device.type]):
            seconds = self._seconds(run, 1)
            if self.device.type == 'cpu' and seconds > _LONG:
                break
        self._run[name] = run
        self._repeats[name] = min(max(1, round(_SHORTEST / max(seconds, 1e-9))), _MAX_REPEATS)
        self.seconds[name] = []

    def time(self, rounds: int | None, budget: float = 0.0) -> None:
        """Time every work once a round, right after one run that is not timed.

        In training an update follows an update: it finds its memory and its weights as the last
        one left them, not as another work did.

        Args:
            rounds (int, optional): How often; None for as often as fits into the budget, at least
                3 times and at most 15.
            budget (float, optional): Seconds. Defaults to 0.
        """
        started = time.perf_counter()
        total = rounds
        done = 0
        while total is None or done < total:
            for name, run in self._run.items():
                run()
                self.seconds[name].append(self._seconds(run, self._repeats[name]))
            done += 1
            if total is None:
                seconds = time.perf_counter() - started
                total = min(max(int(budget / seconds), 3), 15)
                say(f'{total} rounds of {seconds:.0f} s')

    def _seconds(self, run: Callable[[], object], repeats: int) -> float:
        synchronize(self.device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(self.device)
        return (time.perf_counter() - started) / repeats

    def median(self, name: str) -> float:
        """Return the median seconds of one run of a work."""
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Return the median ratio of two works within a round; None where either is absent."""
        if ours not in self.seconds or theirs not in self.seconds:
            return None
        pairs = zip(self.seconds[ours], self.seconds[theirs])
        return statistics.median(mine / other for mine, other in pairs)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return each work's seconds: the median, and how they spread over the rounds."""
        return {
            name: spread(seconds) | {'repeats': self._repeats[name]}
            for name, seconds in self.seconds.items()
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """Describe several measurements of the same by their median, quartiles and extremes."""
    names = ('min', 'lower_quartile', 'median', 'upper_quartile', 'max')
    values = np.quantile(seconds, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    return {**dict(zip(names, values)), 'n': len(seconds)}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def say(what: str) -> None:
    """Tell on standard error what is being done."""
    print(f'{time.strftime("%H:%M:%S")} {what}', file=sys.stderr, flush=True)


# ------------------------------------------------------------------ data


def synthetic_arrays(
    transitions: int,
    obs_dim: int,
    act_dim: int,
    seed: int,
    horizon: int = HORIZON,
) -> dict[str, np.ndarray]:
    """Make episodes of noise under DSRL's names, those of higher reward at more cost.

    States and next states share their memory: a state that ends an episode is the next one's first.

    Args:
        transitions (int): N.
        obs_dim (int): S.
        act_dim (int): A.
        seed (int): Of the noise.
        horizon (int, optional): Steps of an episode. Defaults to 1000.
    """
    random = np.random.default_rng(seed)
    step = np.arange(transitions)
    rates = random.uniform(0.005, 0.1, -(-transitions // horizon))[step // horizon]
    states = random.standard_normal((transitions + 1, obs_dim), dtype=np.float32)
    timeouts = step % horizon == horizon - 1
    timeouts[-1] = True
    return {
        'observations': states[:-1],
        'next_observations': states[1:],
        'actions': random.uniform(-1, 1, (transitions, act_dim)).astype(np.float32),
        'rewards': (rates * random.random(transitions)).astype(np.float32),
        'costs': (random.random(transitions) < rates).astype(np.float32),
        'terminals': np.zeros(transitions, dtype=bool),
        'timeouts': timeouts,
    }


def needed_bytes(transitions: int, obs_dim: int, act_dim: int) -> int:
    """Return the size in float32 of what a dataset's user needs once.

    Observations, actions, rewards, costs, return-to-go and cost-to-go.
    """
    return 4 * transitions * (obs_dim + act_dim + 4)


# ------------------------------------------------------------------ the chip


def matrix_product(device: torch.device, precision: str) -> tuple[Callable[[], object], int]:
    """Make a large matrix product, which shows how many operations a chip can do.

    Of random numbers, as zeros are multiplied faster.

    Args:
        device (torch.device): Where.
        precision (str): ``float32``, ``tf32`` or ``bf16``.

    Returns:
        The work, and its operations.
    """
    size = _MATRIX_SIZE[device.type]
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)

    def multiply() -> None:
        with tf32_products(precision == 'tf32'):
            torch.mm(left, right, out=out)

    return multiply, 2 * size**3


def large_copy(device: torch.device) -> tuple[Callable[[], object], int]:
    """Make a large copy within a device's memory, which shows its bandwidth.

    Returns:
        The work, and the bytes that it reads and writes.
    """
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


# ------------------------------------------------------------------ memory


def reset_peak(device: torch.device) -> int | None:
    """Begin to measure the peak of memory, and return what is held already.

    Returns:
        Bytes; None where the system does not tell (on a CPU, all but Linux).
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    if sys.platform == 'linux':
        # What was freed and kept for later use would hide what is taken next.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')
    except OSError:
        return None
    return _status_bytes('VmRSS')


def peak_bytes(device: torch.device) -> int | None:
    """Return the peak of memory since :func:`reset_peak`, or None where it is not told."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes('VmHWM')


def peak_of(work: Callable[[], Any], device: torch.device) -> tuple[int | None, Any]:
    """Do a work; returns the most memory that it took beyond what was held, and its outcome.

    Args:
        work (Callable): The work.
        device (torch.device): Whose memory is meant.
    """
    before = reset_peak(device)
    outcome = work()
    synchronize(device)
    after = peak_bytes(device)
    return None if before is None or after is None else after - before, outcome


def touch_memory(num_bytes: int) -> None:
    """Use and free as much memory as a work will need, before the work is timed.

    On a virtual machine, memory that none has used since it started is slow the first time: 0.15 to
    2.4 s were measured for the same table of 1 GB.
    """
    np.ones(num_bytes, dtype=np.uint8)


def process_peak_bytes() -> int | None:
    """Return the peak of this process's memory on the host since the last :func:`reset_peak`."""
    return _status_bytes('VmHWM')


def _status_bytes(field: str) -> int | None:
    try:
        status = Path('/proc/self/status').read_text(encoding='utf-8')
    except OSError:
        return None
    return 1024 * int(re.search(rf'{field}:\s*(\d+) kB', status)[1])


# ------------------------------------------------------------------ the record


def record(module: str, device: torch.device, extra_versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what a result depends on: command, versions, machine, its load, and the date."""
    return {
        'command': ' '.join([f'python -m {module}', *sys.argv[1:]]),
        'versions': {
            'python': platform.python_version(),
            'omnisafe-qpt': __version__,
            'torch': str(torch.__version__),
            'numpy': importlib.metadata.version('numpy'),
            **extra_versions,
        },
        'hardware': hardware(device),
        'load_average': os.getloadavg(),
        'date': time.strftime('%Y-%m-%d'),
    }
