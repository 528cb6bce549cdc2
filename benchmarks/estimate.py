# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What a suite will take: time from cells that were done before, else from stated constants."""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite import BEST, CORRECTED, OURS, Cell, DataFile, Dataset, Row, config_hash
from omnisafe_qpt.runner import MODEL, SIMULATOR
from omnisafe_qpt.settings.machine import AUTO


# Seconds of an update on one thread, with the preset for CPUs and at full size; OmniSafe's own have
# one size. Processor time on two virtual cores of an AMD EPYC, on BallCircle (QPT and CDT at full
# size: on CarButton1, CDT by its share of operations). Another machine differs by a factor, which
# the first finished cells correct.
_UPDATE_SECONDS = {
    'QPT': (0.022, 16.4),
    'CDT': (0.011, 12.0),
    'BCSafe': (0.003, 0.005),
    'CPQ': (0.013, 0.14),
    'FISOR': (0.024, 0.41),
    'VAEBC': (0.033, 0.033),
    'BCQ': (0.067, 0.067),
    'BCQLag': (0.12, 0.12),
    'CRR': (0.071, 0.071),
    'CCRR': (0.1, 0.1),
    'COptiDICE': (0.04, 0.04),
}
# On a GPU, a guess until a cell was done on one: the launches of an update's kernels.
_GPU_UPDATE_SECONDS = 0.01
# Seconds of a step of evaluation: of the policy (with the preset, at full size), small networks
# apart, and of the simulator with its resets.
_POLICY_SECONDS = {'QPT': (0.0025, 0.02), 'CDT': (0.0015, 0.003), 'FISOR': (0.007, 0.02)}
_SMALL_POLICY_SECONDS = 0.0003
# Of QPT, where these were measured: with the preset, at full size.
_CANDIDATES = (12, 50)
_SIMULATOR_SECONDS = {'bullet_safety_gym': 0.0005, 'safety_gymnasium': 0.005, 'metadrive': 0.01}
_VELOCITY_SECONDS = 0.0003
# Of a step of an agent's training, with its share of the updates.
_AGENT_SECONDS = 0.001
# Of a step in which a controller acts, to one of the simulator alone.
_CONTROLLER_SHARE = 1.5
_TRANSFORMERS = ('QPT', 'CDT')
# Of a job: starting OmniSafe, reading the data, making the simulators.
START_SECONDS = 20.0
# Target costs that a calibration plays in full, about: most are decided in fewer episodes.
_CALIBRATION_LEVELS = 3
# Target calibration on the dataset: learning the dynamics and the rollouts, by the horizon.
_MODEL_SECONDS, _MODEL_STEP_SECONDS = 10.0, 0.3
# A run's checkpoints and its state to resume from, with the preset for CPUs and at full size.
_RUN_BYTES = (8e6, 60e6)
# Of a step in a collected dataset, compressed.
_STEP_BYTES = 200
# How much larger a dataset is in OmniSafe's npz, which is not compressed.
_UNPACKED = 2.0


# What decides how long an update, the validation of a training, and a step of evaluation take.
_DECISIVE = {
    'update': ('algo', 'settings'),
    'validation': ('algo', 'env_id', 'settings', 'epochs', 'validation_episodes'),
    'step': ('algo', 'env_id', 'settings'),
}


def _key(kind: str, training: dict[str, Any], evaluate: dict[str, Any] | None = None) -> str:
    known = {name: training[name] for name in _DECISIVE[kind]}
    return config_hash({'kind': kind, 'evaluate': evaluate, **known})


def recorded_seconds(results: Path, device: str) -> dict[str, float]:
    """Return what finished cells took, the median for each key of :func:`_key`.

    Args:
        results (Path): The suite's folder of results; those beside it are read too.
        device (str): ``cpu`` or ``cuda``; cells of other devices are left out.
    """
    found: dict[str, list[float]] = {}
    for path in results.parent.glob('*/*/*/seed-*.json'):
        try:
            facts = json.loads(path.read_text(encoding='utf-8'))
            if facts['hardware']['device'] != device:
                continue
            training, evaluate = facts['config']['training'], facts['config']['evaluate']
            taken = {
                _key('update', training): facts['train_seconds'] / facts['updates'],
                _key('validation', training): facts['validate_seconds'],
                _key('step', training, evaluate): facts['evaluate_seconds'] / _test_steps(facts),
            }
        except (KeyError, OSError, ValueError, ZeroDivisionError):
            continue
        for key, seconds in taken.items():
            found.setdefault(key, []).append(seconds)
    return {key: statistics.median(each) for key, each in found.items()}


def _test_steps(facts: dict[str, Any]) -> float:
    checkpoints = len(facts['config']['checkpoints'])
    limits = len(facts['cost_limits']) if facts['algo'] in _TRANSFORMERS else 1
    return facts['episodes'] * facts['horizon'] * checkpoints * limits


@dataclass(frozen=True)
class Estimate:
    """What one cell will take.

    Args:
        train (float): Seconds of training with its validation, if it is not trained yet.
        evaluate (float): Seconds of evaluation.
        disk (float): Bytes of the training's run.
    """

    train: float
    evaluate: float
    disk: float


def estimate(cell: Cell, recorded: Mapping[str, float], device: str) -> Estimate:
    """Estimate what a cell will take in one process.

    Args:
        cell (Cell): The cell.
        recorded (Mapping[str, float]): What :func:`recorded_seconds` found.
        device (str): ``cpu`` or ``cuda``.
    """
    suite, training = cell.suite, cell.training(None)
    algo = CORRECTED.get(cell.row.algo, cell.row.algo)
    is_large = _is_large(cell.row)
    update = recorded.get(_key('update', training))
    if update is None:
        update = _UPDATE_SECONDS[algo][is_large] if device == 'cpu' else _GPU_UPDATE_SECONDS
    budget = cell.budget
    train = budget['seconds'] if 'seconds' in budget else budget['updates'] * update

    step = recorded.get(_key('step', training, cell.row.evaluate))
    if step is None:
        step = _policy_seconds(cell.row, training) + _simulator_seconds(cell.dataset)
    horizon = _horizon(cell.dataset)
    limits = len(suite.cost_limits) if algo in _TRANSFORMERS else 1
    test_episodes = suite.episodes * limits * len(suite.checkpoints)
    has_best = BEST in suite.checkpoints
    validation_episodes = suite.epochs * suite.validation_episodes
    train_cfgs = training['settings']['train_cfgs']
    # With auto there may be fewer.
    if train_cfgs.get('calibrate') in (AUTO, SIMULATOR):
        episodes = train_cfgs['calibrate_episodes']
        validation_episodes += _CALIBRATION_LEVELS * episodes * (1 + has_best)
    guess = step * horizon * validation_episodes
    # Auto without episodes to simulate does not calibrate.
    has_model = {MODEL: True, AUTO: train_cfgs.get('calibrate_episodes')}
    if algo in _TRANSFORMERS and has_model.get(train_cfgs.get('calibrate')):
        guess += _MODEL_SECONDS + _MODEL_STEP_SECONDS * horizon
    validate = recorded.get(_key('validation', training), guess)
    return Estimate(
        train=train + validate,
        evaluate=step * horizon * test_episodes,
        disk=_RUN_BYTES[is_large and algo in OURS],
    )


def collection_seconds(dataset: Dataset, workers: int) -> float:
    """Estimate what the collection of a dataset will take, by the steps of its simulator.

    Args:
        dataset (Dataset): With the options of a collection.
        workers (int): Processes.
    """
    episodes = dataset.collect.get('candidates', dataset.collect['episodes'])
    step = _CONTROLLER_SHARE * _simulator_seconds(dataset)
    agents = sum(agent['steps'] for agent in dataset.collect.get('agents', ()))
    return START_SECONDS + episodes * _horizon(dataset) * step / workers + agents * _AGENT_SECONDS


def _is_large(row: Row) -> bool:
    """Whether a row has its algorithm's full size."""
    return row.preset != 'cpu'


def _policy_seconds(row: Row, training: dict[str, Any]) -> float:
    is_large = _is_large(row)
    seconds = _POLICY_SECONDS.get(row.algo, (_SMALL_POLICY_SECONDS,) * 2)[is_large]
    if row.algo != 'QPT':
        return seconds
    settings = training['settings']['algo_cfgs']
    candidates = row.evaluate.get('candidates', settings['candidates'])
    if not settings['use_ensemble']:
        candidates = 1
    # A fifth of a step does not depend on their number.
    return seconds * (0.2 + 0.8 * candidates / _CANDIDATES[is_large])


def _simulator_seconds(dataset: Dataset) -> float:
    if 'Velocity' in dataset.env_id:
        return _VELOCITY_SECONDS
    return _SIMULATOR_SECONDS[dataset.task.suite if dataset.task else 'safety_gymnasium']


class Forecast:
    """How long jobs will take, from their estimates and from the jobs that have ended.

    A job of a kind that has ended before takes as long as that one did. The estimates of all others
    are off by a factor, the machine's speed and load, which the ended jobs tell: the time that they
    ran over their estimates. The time since the start would count the jobs that still run, too.

    Args:
        usual (float): Estimate of an average job in seconds. The factor counts one such job as if
            it had taken as long as estimated, so that a first short job, which mostly starts up,
            says little about long ones.
    """

    def __init__(self, usual: float) -> None:
        """Initialize an instance of :class:`Forecast`."""
        self._took: dict[Hashable, list[float]] = {}
        self._expected = self._measured = usual

    def learn(self, kind: Hashable, expected: float, seconds: float) -> None:
        """Take in a job that has ended.

        Args:
            kind (Hashable): What decides how long a job takes, which others may share.
            expected (float): Its estimate in seconds.
            seconds (float): How long it ran.
        """
        self._took.setdefault(kind, []).append(seconds)
        self._expected += expected
        self._measured += seconds

    def seconds(self, kind: Hashable, expected: float) -> float:
        """Return how long a job will take.

        Args:
            kind (Hashable): See :meth:`learn`.
            expected (float): Its estimate in seconds.
        """
        if kind in self._took:
            return statistics.median(self._took[kind])
        return expected * self._measured / self._expected

    def left(self, jobs: Sequence[tuple[Hashable, float, float]], parallel: int) -> float:
        """Return the seconds until all jobs have ended.

        Args:
            jobs (Sequence): Kind, estimate and the seconds so far of each job, in the order in
                which they start.
            parallel (int): Jobs at a time; those beyond wait for the others.
        """
        # One that is late is taken to be nearly done.
        ends = [
            max(self.seconds(kind, expected) - so_far, 0.1 * so_far)
            for kind, expected, so_far in jobs[:parallel]
        ]
        heapq.heapify(ends)
        for kind, expected, _ in jobs[parallel:]:
            heapq.heappush(ends, heapq.heappop(ends) + self.seconds(kind, expected))
        return max(ends, default=0.0)


def data_bytes(cells: Iterable[Cell], data: Mapping[str, DataFile | None]) -> float:
    """Return how much data will be fetched and prepared.

    Args:
        cells (Iterable[Cell]): To do.
        data (Mapping[str, DataFile or None]): The datasets' files by name, where they are here.
    """
    total = 0.0
    for name, dataset in {cell.dataset.name: cell.dataset for cell in cells}.items():
        file = data[name]
        if file is not None:
            size = _UNPACKED * file.path.stat().st_size
        else:
            size = _missing_bytes(dataset)
            total += size
        if any(cell.row.algo not in OURS for cell in cells if cell.dataset.name == name):
            total += size
    return total


def _missing_bytes(dataset: Dataset) -> float:
    if dataset.collect is not None:
        return dataset.collect['episodes'] * _horizon(dataset) * _STEP_BYTES
    return dataset.task.approximate_bytes if dataset.task else 0.0


def _horizon(dataset: Dataset) -> int:
    return dataset.task.horizon if dataset.task else 1000
