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
"""What a suite will take: time from cells that were done before, else from stated constants."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite import BEST, CORRECTED, OURS, Cell, DataFile, config_hash


# Seconds of an update on one thread of a server's processor: with the preset for CPUs, and at full
# size. OmniSafe's have one size. Measured on two virtual cores of an AMD EPYC; another machine
# differs by a factor, which the first finished cells correct.
_UPDATE_SECONDS = {
    'QPT': (0.036, 16.4),
    'CDT': (0.015, 8.0),
    'BCSafe': (0.003, 0.1),
    'CPQ': (0.02, 0.5),
    'FISOR': (0.03, 0.5),
    'VAEBC': (0.03, 0.03),
    'BCQ': (0.08, 0.08),
    'BCQLag': (0.15, 0.15),
    'CRR': (0.05, 0.05),
    'CCRR': (0.09, 0.09),
    'COptiDICE': (0.03, 0.03),
}
# On a GPU, not measured: the launches of an update's kernels, or its operations at full size.
_GPU_UPDATE_SECONDS = 0.01
# Steps a second of one process, simulator and policy: with a Transformer, and with a small network.
_STEPS_PER_SECOND = {
    'bullet_safety_gym': (250.0, 900.0),
    'safety_gymnasium': (120.0, 400.0),
    'metadrive': (60.0, 90.0),
}
_TRANSFORMERS = ('QPT', 'CDT')
# Starting OmniSafe, reading the data, making the simulators.
_START_SECONDS = 20.0
# A run's checkpoints and its state to resume from, with the preset for CPUs and at full size.
_RUN_BYTES = (8e6, 60e6)
# How much larger a dataset is in OmniSafe's npz, which is not compressed.
_UNPACKED = 2.0


@dataclass(frozen=True)
class Recorded:
    """What finished cells took.

    Args:
        update_seconds (dict[str, float]): Of one update, by the hash of what decides it.
        step_seconds (dict[str, float]): Of one step of evaluation, alike.
    """

    update_seconds: dict[str, float]
    step_seconds: dict[str, float]

    @classmethod
    def load(cls, results: Path, device: str) -> Recorded:
        """Read all results beside a suite's.

        Args:
            results (Path): The suite's folder of results.
            device (str): ``cpu`` or ``cuda``; cells of other devices are left out.
        """
        updates: dict[str, list[float]] = {}
        steps: dict[str, list[float]] = {}
        for path in results.parent.glob('*/*/*/seed-*.json'):
            try:
                facts = json.loads(path.read_text(encoding='utf-8'))
                if facts['hardware']['device'] != device:
                    continue
                training, evaluate = facts['config']['training'], facts['config']['evaluate']
                update = facts['train_seconds'] / facts['updates']
                step = facts['evaluate_seconds'] / _test_steps(facts)
            except (KeyError, OSError, ValueError, ZeroDivisionError):
                continue
            updates.setdefault(_update_key(training), []).append(update)
            steps.setdefault(_step_key(training, evaluate), []).append(step)
        return cls(
            *({key: statistics.median(found[key]) for key in found} for found in (updates, steps))
        )


def _test_steps(facts: dict[str, Any]) -> float:
    checkpoints = len(facts['config']['checkpoints'])
    limits = len(facts['cost_limits']) if facts['algo'] in _TRANSFORMERS else 1
    return facts['episodes'] * facts['horizon'] * checkpoints * limits


def _update_key(training: dict[str, Any]) -> str:
    return config_hash({name: training[name] for name in ('algo', 'settings')})


def _step_key(training: dict[str, Any], evaluate: dict[str, Any]) -> str:
    names = ('algo', 'env_id', 'settings')
    return config_hash({**{name: training[name] for name in names}, 'evaluate': evaluate})


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


def estimate(cell: Cell, recorded: Recorded, device: str) -> Estimate:
    """Estimate what a cell will take in one process.

    Args:
        cell (Cell): The cell.
        recorded (Recorded): What finished cells took.
        device (str): ``cpu`` or ``cuda``.
    """
    suite, training = cell.suite, cell.training(None)
    algo = CORRECTED.get(cell.row.algo, cell.row.algo)
    is_large = cell.row.preset is None
    update = recorded.update_seconds.get(_update_key(training))
    if update is None:
        update = _UPDATE_SECONDS[algo][is_large] if device == 'cpu' else _GPU_UPDATE_SECONDS
    budget = cell.budget
    train = budget['seconds'] if 'seconds' in budget else budget['updates'] * update

    step = recorded.step_seconds.get(_step_key(training, cell.row.evaluate))
    if step is None:
        group = cell.dataset.task.suite if cell.dataset.task else 'safety_gymnasium'
        step = 1.0 / _STEPS_PER_SECOND[group][algo not in _TRANSFORMERS]
    horizon = cell.dataset.task.horizon if cell.dataset.task else 1000
    limits = len(suite.cost_limits) if algo in _TRANSFORMERS else 1
    test_episodes = suite.episodes * limits * len(suite.checkpoints)
    validation_episodes = suite.epochs * suite.validation_episodes * (BEST in suite.checkpoints)
    return Estimate(
        train=_START_SECONDS + train + step * horizon * validation_episodes,
        evaluate=step * horizon * test_episodes,
        disk=_RUN_BYTES[is_large and algo in OURS],
    )


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
            size = dataset.task.approximate_bytes if dataset.task else 0.0
            total += size
        if any(cell.row.algo not in OURS for cell in cells if cell.dataset.name == name):
            total += size
    return total
