# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The dataset of a run: find it, read it, check it and place it for training."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.panel import Panel

from omnisafe_qpt.compat import dataset_names, load_omnisafe_dataset
from omnisafe_qpt.data.actions import (
    AUTO,
    ENVIRONMENT,
    NORMALIZED,
    Unit,
    action_extremes,
    find_unit,
    normalize,
    recorded_unit,
)
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.attributes import UNIT_ATTRIBUTE
from omnisafe_qpt.data.checks import ACTIONS_OUT_OF_RANGE, WARNING, find
from omnisafe_qpt.data.holdout import choose_held_out, split_off
from omnisafe_qpt.data.prefetch import fits_on
from omnisafe_qpt.data.resolve import DatasetSource, resolve_dataset
from omnisafe_qpt.data.scan import Inspector
from omnisafe_qpt.data.tasks import find_task, reference_returns
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError, printable
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runs.records import read_config


@dataclass(frozen=True)
class Task:
    """What training needs to know of an environment.

    Args:
        horizon (int): Steps of an episode at most.
        obs_dim (int): S.
        act_dim (int): A.
        action_range (dict[str, list[float]]): ``low`` and ``high`` of its actions.
    """

    horizon: int
    obs_dim: int
    act_dim: int
    action_range: dict[str, list[float]]

    @classmethod
    def of_data(cls, trajectories: Trajectories, horizon: int | None) -> Task:
        """Take a task without a simulator from its data.

        Actions beyond [-1, 1] are in a unit of their own, whose range is that of the data.

        Args:
            trajectories (Trajectories): The episodes.
            horizon (int or None): Steps of an episode at most; None for the longest.
        """
        low, high = (each.tolist() for each in action_extremes(trajectories))
        if min(low) >= -1.0 and max(high) <= 1.0:
            low, high = [-1.0] * len(low), [1.0] * len(high)
        longest = int(trajectories.rows.lengths.max())
        return cls(
            horizon or longest,
            trajectories.obs_dim,
            trajectories.act_dim,
            {'low': low, 'high': high},
        )


@dataclass(frozen=True)
class TrainingData:
    """The training data of a run and its records.

    Args:
        task (Task): The task that they are of.
        trajectories (Trajectories): The episodes to train on, actions in [-1, 1].
        record (dict[str, Any]): Name, path, SHA-256 and action unit of the dataset.
        held_out (list[int]): Indices of the episodes held out of training.
        worst_cost (float): Highest cost of an episode, including those held out.
        reference_returns (tuple[float, float]): Returns that are normalised to 0 and 1.
        warnings (list[str]): Warnings about the data.
        is_on_host (bool): Whether the data is in host memory, so that each batch is copied to the
            learner's device.
    """

    task: Task
    trajectories: Trajectories
    record: dict[str, Any]
    held_out: list[int]
    worst_cost: float
    reference_returns: tuple[float, float]
    warnings: list[str]
    is_on_host: bool


class DatasetLoader:
    """Finds the dataset at once and reads it on demand, consistently in all processes.

    Args:
        env_id (str): The environment.
        train_cfgs (Config): ``train_cfgs`` of the run.
        ranks (Ranks): The processes that train together.

    Attributes:
        record (dict[str, Any]): Name, path and SHA-256, for the run's records.

    Raises:
        UserError: If there is no such dataset, or it differs between machines.
    """

    def __init__(self, env_id: str, train_cfgs: Any, ranks: Ranks) -> None:
        """Initialize an instance of :class:`DatasetLoader`."""
        self._env_id, self._cfgs, self._ranks = env_id, train_cfgs, ranks
        self.record: dict[str, Any] = {}
        # None for one of OmniSafe's own datasets.
        self._source = self._find()

    def _find(self) -> DatasetSource | None:
        dataset = str(self._cfgs.dataset)
        if dataset in dataset_names():
            self.record = {'name': dataset, 'path': dataset, 'sha256': None}
            return None
        source = self._resolve(dataset)
        if source.warning and self._ranks.is_first:
            reason, _, consequence = source.warning.partition('\n')
            console = Console(stderr=True)
            # The reason ends in a command to copy, which a panel would wrap.
            console.print(printable(reason), soft_wrap=True, markup=False, highlight=False)
            console.print(Panel(consequence, title='DATASET', border_style='bold red'))
        sha256 = file_sha256(source.path)
        self.record = {
            'name': source.name,
            'path': str(Path(source.path).resolve()),
            'sha256': sha256,
        }
        if sha256 != self._ranks.share(sha256):
            raise UserError(f'{source.path} is not the same file on all machines')
        return source

    def _resolve(self, dataset: str) -> DatasetSource:
        """Find the file in the first process, which may download it; then in all."""
        if self._ranks.is_first:
            return self._ranks.share(resolve_dataset(dataset, self._env_id))
        source = self._ranks.share(None)
        if not Path(source.path).is_file():
            raise UserError(
                f'{source.path}: no such dataset file on {platform.node()}; the processes on all '
                'machines need it at the same path',
            )
        return source

    def load(
        self,
        task: Task | None,
        cost_limit: float,
        device: torch.device,
    ) -> TrainingData:
        """Read the dataset, check it against the task, and hold episodes out.

        Args:
            task (Task or None): Whose transitions it holds; None without a simulator, for the task
                that the data tell of.
            cost_limit (float): The run's, by which the data is judged.
            device (torch.device): The learner's.

        Raises:
            UserError: If the data is not suitable for training.
        """
        inspector = None
        horizon = self._cfgs.horizon if task is None else task.horizon
        if self._ranks.is_first:
            inspector = Inspector(find_task(self._env_id), horizon, (cost_limit,))
        trajectories = self._read(horizon, inspector)
        if task is None:
            task = Task.of_data(trajectories, horizon)
        self._check_dimensions(trajectories, task)
        findings = [] if inspector is None else find(inspector)
        unit = self._normalize_actions(trajectories, task.action_range)
        if unit.warning or unit.name == ENVIRONMENT:
            findings = [each for each in findings if each.code != ACTIONS_OUT_OF_RANGE]
        warnings = [each.text for each in findings if each.level == WARNING]
        warnings += [unit.warning] if unit.warning else []
        # Over all episodes, also those held out of training.
        worst_cost = trajectories.cost_returns.max().item()
        held_out = choose_held_out(trajectories, self._cfgs.holdout_share)
        trajectories, _ = split_off(trajectories, held_out)
        is_on_host = stays_on_host(self._cfgs.data_device, trajectories, device, self._ranks)
        returns = trajectories.returns
        return TrainingData(
            task=task,
            trajectories=trajectories if is_on_host else trajectories.to(device),
            record={**self.record, UNIT_ATTRIBUTE: unit.name},
            held_out=held_out.tolist(),
            worst_cost=worst_cost,
            reference_returns=reference_returns(
                self._env_id, (returns.min().item(), returns.max().item())
            ),
            warnings=warnings,
            is_on_host=is_on_host,
        )

    def _read(self, horizon: int | None, inspector: Inspector | None) -> Trajectories:
        if self._source is not None:
            return Trajectories.load(self._source.path, horizon, inspector)
        if horizon is None:
            raise UserError(
                f"{self._cfgs.dataset} is one of OmniSafe's own datasets, which have a simulator: "
                'give its --env-id, or a file'
            )
        with self._ranks.first_alone():  # it may download
            return load_omnisafe_dataset(self._cfgs.dataset, horizon, inspector)

    def _check_dimensions(self, trajectories: Trajectories, task: Task) -> None:
        for what, given, needed in (
            ('observation', trajectories.obs_dim, task.obs_dim),
            ('action', trajectories.act_dim, task.act_dim),
        ):
            if given != needed:
                raise UserError(
                    f'{trajectories.name} has {what}s of size {given}, {self._env_id} has '
                    f'{needed}: the dataset is of another environment',
                )

    def _normalize_actions(
        self,
        trajectories: Trajectories,
        action_range: dict[str, list[float]],
    ) -> Unit:
        """Scale the data's actions to [-1, 1]; returns their original unit.

        Older runs, which had no such choice, used the actions unscaled.
        """
        declared = self._cfgs.action_unit
        if self._cfgs.resume is not None:
            record = read_config(Path(self._cfgs.resume))['dataset_record']
            declared = record.get(UNIT_ATTRIBUTE, NORMALIZED)
        elif declared == AUTO:
            # OmniSafe's own datasets were recorded with its action scaling.
            declared = NORMALIZED if self._source is None else recorded_unit(self._source.path)
        unit = find_unit(trajectories, action_range, declared)
        if unit.name == ENVIRONMENT:
            normalize(trajectories, action_range)
        return unit


def stays_on_host(
    wish: str,
    trajectories: Trajectories,
    device: torch.device,
    ranks: Ranks,
) -> bool:
    """Return whether to keep the dataset in host memory; alike in all processes.

    Args:
        wish (str): ``train_cfgs.data_device``: ``host``, ``device`` or ``auto``.
        trajectories (Trajectories): The dataset.
        device (torch.device): The learner's.
        ranks (Ranks): The processes.
    """
    if wish != 'auto':
        return wish == 'host'
    fits = torch.tensor(float(fits_on(device, trajectories.table.nbytes)))
    return ranks.average(fits.to(device)).item() < 1.0
