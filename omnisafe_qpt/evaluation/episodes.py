# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""Evaluation: episodes of the deployed policy in parallel, with the same results every time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from omnisafe_qpt.envs.environments import EnvironmentSet
from omnisafe_qpt.evaluation.batch import (
    Batch,
    BatchResult,
    EnvSlots,
    Progress,
    RemoteEnvSlots,
    Series,
    Trace,
    run_batch,
)
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.qpt.kernels import keep_freed_memory
from omnisafe_qpt.qpt.selection import RULES
from omnisafe_qpt.settings.machine import usable_cores
from omnisafe_qpt.workers import Partial, gather, start_workers, worker_pool


# Episodes, at most, in a call of the policy on a CPU: an environment takes up to 0.2 GB, and the
# fewer batches there are, the fewer cores find one.
_EPISODES_ON_CPU = 5
# Work, at most, in such a call: windows times steps times layers times squared width. The fixed
# cost of a call is about half of that, so that more would help less and less.
_WORK_ON_CPU = 2.5e6
# Batches come in multiples of this, so that two cores finish together.
_BATCHES_ON_CPU = 2

# Episodes at most in a call on another device, where more take hardly longer.
_EPISODES_ON_DEVICE = 16

_SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Evaluation:
    """Results of the deployed policy's episodes, in the order of their seeds.

    Args:
        returns (list[float]): Undiscounted reward of each episode.
        costs (list[float]): Undiscounted cost of each episode.
        lengths (list[int]): Steps of each episode.
        infeasible_share (float): Share of steps at which no candidate was feasible.
        steps_per_second (float): Environment steps of all that was evaluated together, by the time
            from the first reset to the last step; starting the processes is left out.
        traces (list[Trace] or None): Each episode step by step, if that was asked for.
    """

    returns: list[float]
    costs: list[float]
    lengths: list[int]
    infeasible_share: float
    steps_per_second: float
    traces: list[Trace] | None


def default_processes(episodes: int) -> int:
    """Return how many processes to evaluate in: one a core, at most one an episode."""
    return min(usable_cores(), episodes)


def evaluate(
    networks: Deployable,
    env_id: str,
    config: DeploymentConfig,
    target_return: float | None,
    seeds: Sequence[int],
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run one episode of the deployed policy for each seed; see :func:`evaluate_together`.

    Args:
        networks (Deployable): The trained model, on the device to use.
        env_id (str): OmniSafe's environment id.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Target return; None where the policy takes none.
        seeds (Sequence[int]): One for each episode.
        processes (int, optional): Processes that run episodes at the same time. Defaults to 1,
            which on a CPU is this one.
        on_progress (Callable, optional): Called with the steps done and the steps there will be
            at most. Defaults to None.

    Raises:
        UserError: If the environment raises one, or a worker process has died.
        RuntimeError: If an episode fails in a worker process.
    """

    def report(done: int, total: int, _: int) -> None:
        if on_progress is not None:
            on_progress(done, total)

    series = Series(networks, config, target_return, seeds)
    return evaluate_together(env_id, [series], processes, on_progress=report)[0]


def evaluate_together(
    env_id: str,
    series: Sequence[Series],
    processes: int = 1,
    traced: bool = False,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> list[Evaluation]:
    """Run several series of episodes in the same processes, whose simulators are made once.

    A seed fixes the environment's episode and the candidates, so the same seeds give comparable
    episodes for other models and limits. A series gives the same bits with any number of processes
    and whatever other series there are: its episodes are divided into batches by their number
    alone, and share the policy's calls with no other series. Neither the global random state nor
    the networks' training mode matters or is changed.

    Args:
        env_id (str): OmniSafe's environment id.
        series (Sequence[Series]): What to run, all with networks on the same device.
        processes (int, optional): Processes that run episodes at the same time. Defaults to 1,
            which on a CPU is this one.
        traced (bool, optional): Whether to keep the episodes step by step. Defaults to False.
        on_progress (Callable, optional): Called with the steps done, the steps there will be at
            most, and the number of the first series that is not complete. Defaults to None.

    Returns:
        The results of each series.

    Raises:
        UserError: If the environment raises one, or a worker process has died.
        RuntimeError: If an episode fails in a worker process.
    """
    batches = _plan(series, [each.seeds for each in series])
    processes = min(processes, _most_processes(batches, series[0].device))
    with episode_pool(env_id, series, processes, traced) as pool:
        found = pool.play_batches(batches, on_progress)
    return [each for each in found if each is not None]  # as every series has seeds


@contextmanager
def episode_pool(
    env_id: str,
    series: Sequence[Series],
    processes: int = 1,
    traced: bool = False,
) -> Iterator[EpisodePool]:
    """Start the processes and simulators of :func:`evaluate_together`, for several rounds.

    Args:
        env_id (str): OmniSafe's environment id.
        series (Sequence[Series]): All that may be played; their own seeds do not matter.
        processes (int, optional): See :func:`evaluate_together`. Defaults to 1.
        traced (bool, optional): See :func:`evaluate_together`. Defaults to False.

    Yields:
        The pool, which stays ready between rounds and ends with the ``with`` block.
    """
    start = _start_whole_batches if series[0].device.type == 'cpu' else _start_alternating
    with start(env_id, series, processes, traced) as (horizon, run):
        yield EpisodePool(series, horizon, run)


class EpisodePool:
    """Plays rounds of episodes in processes that are started once; see :func:`episode_pool`.

    Args:
        series (Sequence[Series]): What may be played.
        horizon (int): Most steps of an episode.
        run (Callable): Runs batches.
    """

    def __init__(self, series: Sequence[Series], horizon: int, run: _Run) -> None:
        """Initialize an instance of :class:`EpisodePool`."""
        self.horizon = horizon
        self._series = series
        self._run = run

    def play(
        self,
        seeds: Sequence[Sequence[int]],
        on_progress: Callable[[int, int, int], None] | None = None,
    ) -> list[Evaluation | None]:
        """Run a round.

        Args:
            seeds (Sequence[Sequence[int]]): Those of each series in this round.
            on_progress (Callable, optional): See :func:`evaluate_together`. Defaults to None.

        Returns:
            The results of each series in this round; None where it had no seeds.
        """
        return self.play_batches(_plan(self._series, seeds), on_progress)

    def play_batches(
        self,
        batches: list[Batch],
        on_progress: Callable[[int, int, int], None] | None = None,
    ) -> list[Evaluation | None]:
        """Run a round that is already divided into batches; see :meth:`play`."""
        results: dict[int, BatchResult] = {}
        started = time.perf_counter()
        done, total = 0, self.horizon * sum(len(batch.seeds) for batch in batches)
        first = 0  # of the batches that are not complete
        for number, event in self._run(batches):
            if not isinstance(event, Partial):
                results[number] = event
                while first in results:
                    first += 1
                continue
            progress = event.value
            done, total = done + progress.steps, total - progress.skipped
            if on_progress is not None and progress.steps:
                on_progress(done, total, batches[first].series)
        speed = done / (time.perf_counter() - started)
        of_series: list[list[BatchResult]] = [[] for _ in self._series]
        for number, batch in enumerate(batches):
            of_series[batch.series].append(results[number])
        return [_evaluation(each, speed) if each else None for each in of_series]


# The number of a batch, and its progress (a Partial of a Progress) or its result.
_Events = Iterator[tuple[int, 'Partial | BatchResult']]
_Run = Callable[[list[Batch]], _Events]


def _evaluation(results: list[BatchResult], steps_per_second: float) -> Evaluation:
    traces = [each for batch in results for each in batch.traces or ()]
    infeasible_steps = sum(batch.infeasible_share * sum(batch.lengths) for batch in results)
    return Evaluation(
        returns=[value for batch in results for value in batch.returns],
        costs=[value for batch in results for value in batch.costs],
        lengths=[value for batch in results for value in batch.lengths],
        infeasible_share=infeasible_steps / sum(sum(batch.lengths) for batch in results),
        steps_per_second=steps_per_second,
        traces=traces if results[0].traces is not None else None,
    )


# -- which episodes share the policy's calls ------------------------------------------------------


def _plan(series: Sequence[Series], seeds: Sequence[Sequence[int]]) -> list[Batch]:
    """Divide the episodes of a round into batches."""
    return [
        Batch(number, part)
        for number, (each, own) in enumerate(zip(series, seeds))
        if len(own)
        for part in _split(own, each)
    ]


def _most_processes(batches: list[Batch], device: torch.device) -> int:
    """Return how many processes find work at the same time."""
    if device.type == 'cpu':
        return len(batches)
    return sum(sorted(len(batch.seeds) for batch in batches)[-2:])  # two batches alternate


def _split(seeds: Sequence[int], series: Series) -> list[list[int]]:
    """Divide the episodes of a series into batches.

    Results differ in the last bits with the size of a batch: it must not depend on the machine's
    cores, or the same seeds would bring other episodes elsewhere.
    """
    if series.device.type == 'cpu':
        largest = min(_EPISODES_ON_CPU, max(1, int(_WORK_ON_CPU / _work(series))))
        multiple = _BATCHES_ON_CPU
    else:
        largest, multiple = _EPISODES_ON_DEVICE, 2  # two batches alternate
    count = min(len(seeds), multiple * math.ceil(len(seeds) / (multiple * largest)))
    return [part.tolist() for part in np.array_split(np.asarray(seeds), count)]


def _work(series: Series) -> int:
    """Return the work of the policy for a step of an episode, in the unit of ``_WORK_ON_CPU``."""
    policy, config = series.networks.spec.get('policy'), series.config
    if policy is None:  # it acts on the observation alone
        return 1
    windows = config.candidates if config.candidate_shift == 'history' else 1
    steps = RULES[config.rule].steps(policy['context_len'])
    return windows * steps * policy['num_layers'] * policy['embed_dim'] ** 2


# -- where batches run ----------------------------------------------------------------------------


@contextmanager
def _start_whole_batches(
    env_id: str,
    series: Sequence[Series],
    processes: int,
    traced: bool,
) -> Iterator[tuple[int, _Run]]:
    """Run each batch in one process, the policy too, for a policy on the CPU.

    Each core always has something to do, and nothing has to be sent at each step.
    """
    with worker_pool(partial(_BatchRunner, env_id, series, traced), processes) as pool:
        yield pool.get('horizon'), partial(pool.dispatch, 'run')


class _BatchRunner:
    """Runs batches in its process; see :func:`_start_whole_batches`."""

    def __init__(self, env_id: str, series: Sequence[Series], traced: bool) -> None:
        keep_freed_memory()
        self._series = series
        self._traced = traced
        self._environments = EnvironmentSet(env_id)
        self.horizon = self._environments.horizon

    def run(self, batch: Batch) -> Generator[Progress, None, BatchResult]:
        """Run a batch; yields progress from time to time."""
        slots, series = EnvSlots(self._environments), self._series[batch.series]
        steps = run_batch(series, batch.seeds, slots, self.horizon, self._traced)
        return (yield from _from_time_to_time(steps))

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


def _from_time_to_time(
    reports: Generator[Progress, None, BatchResult],
) -> Generator[Progress, None, BatchResult]:
    """Add up progress and yield the sums from time to time."""
    steps = skipped = 0
    last = time.monotonic()
    while True:
        try:
            report = next(reports)
        except StopIteration as end:
            yield Progress(steps, skipped)
            return end.value
        steps, skipped = steps + report.steps, skipped + report.skipped
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            yield Progress(steps, skipped)
            steps, skipped, last = 0, 0, time.monotonic()


@contextmanager
def _start_alternating(
    env_id: str,
    series: Sequence[Series],
    processes: int,
    traced: bool,
) -> Iterator[tuple[int, _Run]]:
    """Run the policy in this process and the simulators in workers, for a policy on a GPU.

    Two batches run at a time: while the policy acts for one, the other's simulators work.
    """
    with start_workers(partial(EnvironmentSet, env_id), processes) as workers:
        horizon = gather(workers, 'horizon')[0]

        def run(batches: list[Batch]) -> _Events:
            size = max(len(batch.seeds) for batch in batches)
            free = [RemoteEnvSlots(workers, 0), RemoteEnvSlots(workers, size)]
            waiting = deque(enumerate(batches))
            running: deque[tuple[int, Generator[Progress, None, BatchResult], RemoteEnvSlots]] = (
                deque()
            )
            while waiting or running:
                while waiting and free:
                    number, batch = waiting.popleft()
                    slots = free.pop()
                    steps = run_batch(series[batch.series], batch.seeds, slots, horizon, traced)
                    running.append((number, steps, slots))
                number, steps, slots = running.popleft()
                try:
                    progress = next(steps)
                except StopIteration as end:
                    free.append(slots)
                    yield number, end.value
                else:
                    running.append((number, steps, slots))
                    yield number, Partial(progress)

        yield horizon, run
