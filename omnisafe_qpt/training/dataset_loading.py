# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The dataset of a run: found, read, checked, and put where training draws batches from."""

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
from omnisafe_qpt.envs.environments import NumpyEnvironment, action_range_of
from omnisafe_qpt.errors import UserError, printable
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runs.records import read_config


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained on, and what is known of it.

    Args:
        trajectories (Trajectories): The episodes to train on, actions in [-1, 1].
        record (dict[str, Any]): Name, path, SHA-256 and action unit of the dataset.
        held_out (list[int]): Numbers of the episodes that training does not see.
        worst_cost (float): Highest cost of an episode, those held out included.
        reference_returns (tuple[float, float]): Returns that are normalised to 0 and 1.
        warnings (list[str]): What is doubtful in it.
        is_on_host (bool): Whether batches are copied to the learner's device one by one.
    """

    trajectories: Trajectories
    record: dict[str, Any]
    held_out: list[int]
    worst_cost: float
    reference_returns: tuple[float, float]
    warnings: list[str]
    is_on_host: bool


class DatasetLoader:
    """Finds the dataset at once, and reads it on demand, alike in all processes.

    Args:
        env_id (str): The environment.
        train_cfgs (Config): ``train_cfgs`` of the run.
        ranks (Ranks): The processes that train together.

    Attributes:
        record (dict[str, Any]): What it turned out to be, for the run's records.

    Raises:
        UserError: If there is no such dataset, or not the same one on all machines.
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
            # The reason ends in a command to copy, which a panel would break into pieces.
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
        """Find the file in the first process, which may download it, and hence in all."""
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
        environment: NumpyEnvironment,
        cost_limit: float,
        device: torch.device,
    ) -> TrainingData:
        """Read the dataset, check it against the environment, and hold episodes out.

        Args:
            environment (NumpyEnvironment): Whose transitions it holds.
            cost_limit (float): The run's, by which the data is judged.
            device (torch.device): The learner's.

        Raises:
            UserError: If it cannot be trained on.
        """
        inspector = None
        if self._ranks.is_first:
            inspector = Inspector(find_task(self._env_id), environment.horizon, (cost_limit,))
        trajectories = self._read(environment.horizon, inspector)
        self._check_dimensions(trajectories, environment)
        findings = [] if inspector is None else find(inspector)
        unit = self._normalize_actions(trajectories, action_range_of(environment.env))
        if unit.warning or unit.name == ENVIRONMENT:
            findings = [each for each in findings if each.code != ACTIONS_OUT_OF_RANGE]
        warnings = [each.text for each in findings if each.level == WARNING]
        warnings += [unit.warning] if unit.warning else []
        # Of all episodes that are known, those held out of training too.
        worst_cost = trajectories.cost_returns.max().item()
        held_out = choose_held_out(trajectories, self._cfgs.holdout_share)
        trajectories, _ = split_off(trajectories, held_out)
        is_on_host = stays_on_host(self._cfgs.data_device, trajectories, device, self._ranks)
        returns = trajectories.returns
        return TrainingData(
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

    def _read(self, horizon: int, inspector: Inspector | None) -> Trajectories:
        if self._source is not None:
            return Trajectories.load(self._source.path, horizon, inspector)
        with self._ranks.first_alone():  # it may download
            return load_omnisafe_dataset(self._cfgs.dataset, horizon, inspector)

    def _check_dimensions(self, trajectories: Trajectories, environment: NumpyEnvironment) -> None:
        for what, given, space in (
            ('observation', trajectories.obs_dim, environment.env.observation_space),
            ('action', trajectories.act_dim, environment.env.action_space),
        ):
            if given != space.shape[0]:
                raise UserError(
                    f'{trajectories.name} has {what}s of size {given}, {self._env_id} has '
                    f'{space.shape[0]}: the dataset is of another environment',
                )

    def _normalize_actions(
        self,
        trajectories: Trajectories,
        action_range: dict[str, list[float]],
    ) -> Unit:
        """Bring the data's actions into [-1, 1]; returns in which unit they were.

        A run from before there was a choice took them as they are.
        """
        declared = self._cfgs.action_unit
        if self._cfgs.resume is not None:
            record = read_config(Path(self._cfgs.resume))['dataset_record']
            declared = record.get(UNIT_ATTRIBUTE, NORMALIZED)
        elif declared == AUTO:
            # OmniSafe's own datasets were recorded behind its scaling of actions.
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
    """Decide where a dataset is kept, alike in all processes: devices draw differently.

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
