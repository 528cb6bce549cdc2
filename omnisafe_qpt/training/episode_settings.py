# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""How a run is evaluated: the settings of validation, calibration and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runner import MODEL, SIMULATOR
from omnisafe_qpt.runs.best import VALIDATION_COST, VALIDATION_RETURN
from omnisafe_qpt.schema import components
from omnisafe_qpt.settings.machine import AUTO


# Columns that come from episodes; left out without any.
_METRICS = (
    'Metrics/EpRet',
    'Metrics/EpCost',
    'Metrics/EpLen',
    'Metrics/NormRet',
    'Metrics/NormCost',
)


@dataclass(frozen=True)
class EpisodeSettings:
    """The episodes in each part of a run.

    Args:
        validation (int): Episodes after each epoch.
        final (int): Episodes of the report after the last epoch.
        calibrate (str): Where target calibration runs the policy: ``model``, in dynamics learned
            from the data; ``simulator``; ``auto``, the first that is reliable; or ``none``.
        calibration (int): Largest number of simulated episodes of target calibration for each
            target cost.
        validates_on_data (bool): Whether each epoch is validated in the dynamics that calibration
            learns from the data, for want of a simulator.
        patience (int): Epochs without a better one after which training ends; 0 for never.
        exogenous (tuple[int, ...]): Components of the observation that the dynamics replay.
        processes (int or None): Worker processes; None is one per core.
    """

    validation: int
    final: int
    calibrate: str
    calibration: int
    validates_on_data: bool
    patience: int
    exogenous: tuple[int, ...]
    processes: int | None

    @classmethod
    def from_config(cls, train_cfgs: Any, has_simulator: bool) -> EpisodeSettings:
        """Read the settings from ``train_cfgs``.

        Args:
            train_cfgs (Any): Of the configuration.
            has_simulator (bool): Whether episodes can be run.

        Raises:
            UserError: If training is to end by a validation that does not take place.
        """
        processes = train_cfgs.evaluate_processes
        # Algorithms that are not conditioned on a cost have neither.
        options = {'calibrate': 'none', 'calibrate_episodes': 0, **train_cfgs.todict()}
        calibrate, episodes = options['calibrate'], options['calibrate_episodes']
        if calibrate != MODEL and not episodes:
            calibrate = 'none'
        elif calibrate == AUTO and not has_simulator:
            calibrate = MODEL
        validates_on_data = calibrate == MODEL and not has_simulator
        if train_cfgs.patience and not (train_cfgs.evaluate_epoisodes or validates_on_data):
            raise UserError(
                f'train_cfgs:patience is {train_cfgs.patience}, but no epoch is validated, which '
                'needs train_cfgs:evaluate_epoisodes above 0, or Offline-v0 and calibrate model',
            )
        return cls(
            validation=train_cfgs.evaluate_epoisodes,
            final=train_cfgs.final_evaluate_episodes,
            calibrate=calibrate,
            calibration=episodes if calibrate in (AUTO, SIMULATOR) else 0,
            validates_on_data=validates_on_data,
            patience=train_cfgs.patience,
            exogenous=components(options.get('exogenous')),
            processes=None if processes == AUTO else int(processes),
        )

    def after_epoch(self, is_last: bool) -> int:
        """Return the number of episodes after an epoch; work on the data counts as one."""
        at_the_end = self.final + self.calibration + (self.calibrate == MODEL)
        return self.validation + self.validates_on_data + (at_the_end if is_last else 0)

    def columns(self, more: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns that the episodes fill.

        Args:
            more (Sequence[str]): Further metrics of the algorithm.
        """
        is_validated = self.validation or self.validates_on_data
        validation = (VALIDATION_RETURN, VALIDATION_COST) if is_validated else ()
        # Calibration may run the zero-action fallback.
        are_simulated = self.validation or self.final or self.calibration
        return (*_METRICS, *more, *validation) if are_simulated else validation
