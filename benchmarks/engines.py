# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Where jobs run: processes of this machine, or a Ray cluster.

Each job is a process of its own either way, in a process group of its own: OmniSafe and the
simulators keep state that cannot be undone, a job that dies takes no other with it, and a job that
hangs can be ended with all that it started. A pool of reused workers (``ProcessPoolExecutor``,
joblib) gives none of these, so threads of a pool wait for the processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.errors import UserError


ROOT = Path(__file__).resolve().parents[1]

# After being asked to end, before being made to.
_SECONDS_TO_END = 15.0
_SECONDS_BETWEEN_LOOKS = 0.1
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


# How a job ended, empty if all is well, and how many seconds it ran.
Outcome = tuple[str, float]


@dataclass
class Work:
    """A job on its way.

    Args:
        command (tuple[str, ...]): A Python module and its arguments.
        log (Path): Where its output goes.
        threads (int): That it uses.
        started (float, optional): When it started on this machine, by the monotonic clock.
    """

    command: tuple[str, ...]
    log: Path
    threads: int
    started: float | None = None

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
                [sys.executable, '-m', *self.command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, stopped: threading.Event | None = None) -> Outcome:
        """Run its process until it ends or is to be stopped; nothing that it started stays."""
        self.started = time.monotonic()
        process = self.start()
        stopped = stopped or threading.Event()
        try:
            while process.poll() is None and not stopped.wait(_SECONDS_BETWEEN_LOOKS):
                pass
        finally:
            _end_group(process)
        return _ending(process.returncode), time.monotonic() - self.started


def _python_path() -> str:
    """Return the variable's value with which ``benchmarks`` can be imported."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])


def _ending(code: int) -> str:
    """Say how a process ended, by its exit code; empty if all is well."""
    if code == 0:
        return ''
    if code < 0:
        with contextlib.suppress(ValueError):
            return f'killed by {signal.Signals(-code).name}'
    return f'exit code {code}'


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)


class Engine(Protocol):
    """Runs jobs side by side, in the order in which they are submitted."""

    parallel: int  # at a time

    def submit(self, work: Work) -> Future[Outcome]:
        """Start a job as soon as there is room."""

    def stop(self) -> None:
        """End all that runs, and wait until it has ended."""


class ProcessEngine:
    """Runs jobs in processes of this machine.

    Args:
        workers (int): At the same time.
    """

    def __init__(self, workers: int) -> None:
        """Initialize an instance of :class:`ProcessEngine`."""
        self.parallel = workers
        self._pool = ThreadPoolExecutor(workers)
        self._stopped = threading.Event()

    def submit(self, work: Work) -> Future[Outcome]:
        """Start a job as soon as there is room."""
        return self._pool.submit(work.run, self._stopped)

    def stop(self) -> None:
        """End all that runs, and wait until it has ended."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)


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
        self._run = ray.remote(**options)(Work.run)
        here = ray.cluster_resources()
        room = [here.get('CPU', 0.0) / threads]
        if gpus:
            room.append(here.get('GPU', 0.0) / gpus)
        self.parallel = max(int(min(room)), 1)
        self._tasks: list[Any] = []

    def submit(self, work: Work) -> Future[Outcome]:
        """Hand a job to Ray, which queues what it has no room for."""
        self._tasks.append(self._run.remote(work))
        return self._tasks[-1].future()

    def stop(self) -> None:
        """End all that runs, and leave the cluster."""
        _, left = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in left:
            self._ray.cancel(task)  # a plain interrupt lets the node end the job's process
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=_SECONDS_TO_END)
        self._ray.shutdown()
