# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Where jobs run: processes of this machine, or a Ray cluster.

Each job is a process of its own either way. OmniSafe and the simulators keep state that cannot be
undone, and a job that dies takes nothing with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.errors import UserError


ROOT = Path(__file__).resolve().parents[1]

# After being asked to end, before being made to.
_SECONDS_TO_END = 15.0
_THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


@dataclass(frozen=True)
class Job:
    """A training and the cells that share it.

    Args:
        suite (str): The suite's file.
        updates (int or None): That take the place of the suite's budget.
        cells (tuple[str, ...]): The names of the cells.
        data (str): The dataset's file.
        data_sha256 (str): Its hash.
        work (str): The work folder.
        results (str): The suite's folder of results.
        threads (int): Of torch; also processes that run episodes.
        device (str): ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        commit (str or None): Git's, of the code.
        dirty (bool): Whether the code differs from it.
    """

    suite: str
    updates: int | None
    cells: tuple[str, ...]
    data: str
    data_sha256: str
    work: str
    results: str
    threads: int
    device: str
    commit: str | None
    dirty: bool

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        write_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read what :meth:`save` wrote."""
        content = json.loads(path.read_text(encoding='utf-8'))
        return cls(**{**content, 'cells': tuple(content['cells'])})


def error_file(work: Path, suite: str, cell_name: str) -> Path:
    """Return where the failure of a cell is told."""
    return work / suite / f'{cell_name}.error.txt'


@dataclass(frozen=True)
class Work:
    """A job on its way.

    Args:
        number (int): Tells it from others.
        job (Path): The job's file.
        log (Path): Where its output goes.
        threads (int): That it uses.
    """

    number: int
    job: Path
    log: Path
    threads: int

    def start(self) -> subprocess.Popen[bytes]:
        """Start its process, in a group of its own that can be ended as one."""
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(self.threads)),
            'PYTHONPATH': _python_path(),
        }
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open('ab') as log:
            return subprocess.Popen(
                [sys.executable, '-m', 'benchmarks.cells', str(self.job)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _python_path() -> str:
    """Return the variable's value with which ``benchmarks`` can be imported."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])


class Engine(Protocol):
    """Runs jobs side by side."""

    @property
    def has_room(self) -> bool:
        """Whether another job may be submitted."""

    @property
    def running(self) -> list[Work]:
        """The jobs that were submitted and have not been told as finished."""

    @property
    def parallel(self) -> int:
        """How many jobs run at a time."""

    def seconds(self, work: Work) -> float:
        """Return how long a job has run; 0 where it may not have started."""

    def submit(self, work: Work) -> None:
        """Start a job, now or as soon as there is room."""

    def finished(self) -> list[tuple[Work, str, float]]:
        """Return the jobs that ended since the last call, how, and how many seconds they ran."""

    def stop(self) -> None:
        """End all that runs, and wait until it has ended."""


def ending(code: int) -> str:
    """Say how a process ended, by its exit code; empty if all is well."""
    if code == 0:
        return ''
    if code < 0:
        with contextlib.suppress(ValueError):
            return f'killed by {signal.Signals(-code).name}'
    return f'exit code {code}'


def end_process(process: subprocess.Popen[bytes], seconds: float = _SECONDS_TO_END) -> None:
    """End a process and all that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


class ProcessEngine:
    """Runs jobs in processes of this machine.

    Args:
        workers (int): At the same time.
    """

    def __init__(self, workers: int) -> None:
        """Initialize an instance of :class:`ProcessEngine`."""
        self.parallel = workers
        self._processes: dict[int, tuple[Work, subprocess.Popen[bytes]]] = {}
        self._started: dict[int, float] = {}

    @property
    def has_room(self) -> bool:
        """Whether another job may be submitted."""
        return len(self._processes) < self.parallel

    @property
    def running(self) -> list[Work]:
        """The jobs that run."""
        return [work for work, _ in self._processes.values()]

    def seconds(self, work: Work) -> float:
        """Return how long a job has run."""
        return time.monotonic() - self._started[work.number]

    def submit(self, work: Work) -> None:
        """Start a job."""
        self._started[work.number] = time.monotonic()
        self._processes[work.number] = (work, work.start())

    def finished(self) -> list[tuple[Work, str, float]]:
        """Return the jobs that ended since the last call, how, and how many seconds they ran."""
        ended = [pair for pair in self._processes.values() if pair[1].poll() is not None]
        for work, process in ended:
            end_process(process)  # what it may have left behind
            del self._processes[work.number]
        return [(work, ending(process.returncode), self.seconds(work)) for work, process in ended]

    def stop(self) -> None:
        """End all that runs, and wait until it has ended."""
        processes = [process for _, process in self._processes.values()]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            end_process(process)
        self._processes.clear()


class RayEngine:
    """Runs jobs on a Ray cluster, whose nodes must see this folder and the data at the same paths.

    Ray runs a job again by itself where the node under it is lost.

    Args:
        address (str, optional): Of the cluster. Defaults to None, one on this machine.
        workers (int): At the same time, on a cluster on this machine.
        threads (int): Processors for each job.
        gpus (float): Share of a GPU for each job.
        retries (int): How often Ray starts a job anew.

    Raises:
        UserError: If Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str | None,
        workers: int,
        threads: int,
        gpus: float,
        retries: int,
    ) -> None:
        """Initialize an instance of :class:`RayEngine`."""
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--engine ray needs Ray, which is not here: pip install 'omnisafe-qpt[ray]'",
            ) from error
        self._ray = ray
        size = {} if address else {'num_cpus': workers * threads}
        try:
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                logging_level='error',
                log_to_driver=False,
                runtime_env={'env_vars': {'PYTHONPATH': _python_path()}},
                **size,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f'--ray-address {address}: {error}') from error
        options = {'num_cpus': threads, 'num_gpus': gpus, 'max_retries': retries}
        self._run = ray.remote(**options)(_run_on_node)
        here = ray.cluster_resources()
        room = [here.get('CPU', 0.0) / threads]
        if gpus:
            room.append(here.get('GPU', 0.0) / gpus)
        self.parallel = max(int(min(room)), 1)
        self._tasks: dict[Any, Work] = {}

    @property
    def has_room(self) -> bool:
        """Whether another job may be submitted: Ray queues what it has no room for."""
        return True

    @property
    def running(self) -> list[Work]:
        """The jobs that run or wait."""
        return list(self._tasks.values())

    def seconds(self, work: Work) -> float:
        """Return 0: Ray does not say when a job began."""
        return 0.0

    def submit(self, work: Work) -> None:
        """Hand a job to Ray."""
        self._tasks[self._run.remote(work)] = work

    def finished(self) -> list[tuple[Work, str, float]]:
        """Return the jobs that ended since the last call, how, and how many seconds they ran."""
        ended: list[tuple[Work, str, float]] = []
        if not self._tasks:
            return ended
        for task in self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)[0]:
            try:
                code, seconds = self._ray.get(task)
                how = ending(code)
            except self._ray.exceptions.RayError as error:
                how, seconds = str(error).strip().splitlines()[-1], 0.0
            ended.append((self._tasks.pop(task), how, seconds))
        return ended

    def stop(self) -> None:
        """End all that runs, and leave the cluster."""
        for task in self._tasks:
            # A plain interrupt lets the node end the job's process.
            self._ray.cancel(task)
        if self._tasks:
            self._ray.wait(
                list(self._tasks),
                num_returns=len(self._tasks),
                timeout=_SECONDS_TO_END,
            )
        self._tasks.clear()
        self._ray.shutdown()


def _run_on_node(work: Work) -> tuple[int, float]:
    """Run a job on a node of the cluster; returns its exit code and how many seconds it ran."""
    started = time.monotonic()
    process = work.start()
    try:
        return process.wait(), time.monotonic() - started
    finally:
        end_process(process)
