# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a run: validation after each epoch, target calibration and a report at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisafe_qpt.evaluation.deployment import deployment_of
from omnisafe_qpt.evaluation.episodes import Evaluation, default_processes, evaluate
from omnisafe_qpt.evaluation.estimates import check_episodes
from omnisafe_qpt.evaluation.model_calibration import imagined_calibration
from omnisafe_qpt.evaluation.target_calibration import calibrate
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.runs.best import VALIDATION_COST, VALIDATION_RETURN, best_epoch
from omnisafe_qpt.scores import normalized_cost, normalized_return
from omnisafe_qpt.settings.seeds import final_seeds, validation_seeds
from omnisafe_qpt.signals import StopSignal
from omnisafe_qpt.training.dataset_loading import TrainingData


# What episodes tell; without any, these columns are left out.
_METRICS = (
    'Metrics/EpRet',
    'Metrics/EpCost',
    'Metrics/EpLen',
    'Metrics/NormRet',
    'Metrics/NormCost',
)


@dataclass(frozen=True)
class EpisodeSettings:
    """Which episodes a run plays.

    Args:
        validation (int): Episodes after each epoch.
        final (int): Episodes that are reported after the last epoch.
        calibration (int): Simulated episodes of target calibration, at most for each target cost.
        calibrates_on_data (bool): Whether target calibration simulates nothing.
        processes (int or None): Processes that run them; None is one a core.
    """

    validation: int
    final: int
    calibration: int
    calibrates_on_data: bool
    processes: int | None

    @classmethod
    def from_config(cls, train_cfgs: Any) -> EpisodeSettings:
        """Read them from ``train_cfgs`` of the configuration."""
        processes = train_cfgs.evaluate_processes
        # Algorithms that are not conditioned on a cost have neither.
        options = {'calibrate': 'simulator', 'calibrate_episodes': 0, **train_cfgs.todict()}
        on_data = options['calibrate'] == 'model'
        return cls(
            validation=train_cfgs.evaluate_epoisodes,
            final=train_cfgs.final_evaluate_episodes,
            calibration=0 if on_data else options['calibrate_episodes'],
            calibrates_on_data=on_data,
            processes=None if processes == 'auto' else int(processes),
        )

    def after_epoch(self, is_last: bool) -> int:
        """Return how many episodes follow an epoch, imagined ones as one; 0 if none."""
        at_the_end = self.final + self.calibration + self.calibrates_on_data
        return self.validation + (at_the_end if is_last else 0)

    def columns(self, more: Sequence[str]) -> tuple[str, ...]:
        """Name the columns that the episodes fill.

        Args:
            more (Sequence[str]): What the algorithm adds to the metrics.
        """
        validation = (VALIDATION_RETURN, VALIDATION_COST) if self.validation else ()
        # The zero action may be played in calibration.
        are_simulated = self.validation or self.final or self.calibration
        return (*_METRICS, *more, *validation) if are_simulated else ()


@dataclass(frozen=True)
class Deployed:
    """A policy as it acts.

    Args:
        networks (Deployable): The trained model.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Return to ask for; None where the policy is not asked for
            any, and for the zero-action fallback.
    """

    networks: Deployable
    config: DeploymentConfig
    target_return: float | None


class EpochEvaluation:
    """Evaluates the policy as it would be deployed.

    Each epoch is validated on the same episodes, by which the best one is chosen. They tell
    nothing new about it then, so the last epoch ends with others: those of target calibration,
    then those that are reported. The zero-action fallback is not run for the second time.

    Args:
        make_networks (Callable): Takes the networks to deploy from the learner.
        env_id (str): The environment.
        horizon (int): Steps of an episode at most.
        settings (EpisodeSettings): Which episodes.
        seed (int): Of the run.
        deployment (DeploymentConfig): How the policy is to be deployed.
        data (TrainingData): What the policy was trained on.
        more_metrics (Callable): What the algorithm logs of an evaluation besides.
        stop_signal (StopSignal): Ends episodes.

    Attributes:
        settings (EpisodeSettings): As given.
        cost_limit (float): The run's.
        deployed (Deployed): The policy of the last :meth:`refresh`, calibrated at the end.
    """

    deployed: Deployed

    def __init__(
        self,
        make_networks: Callable[[], Deployable],
        env_id: str,
        horizon: int,
        settings: EpisodeSettings,
        seed: int,
        deployment: DeploymentConfig,
        data: TrainingData,
        more_metrics: Callable[[Evaluation], dict[str, float]],
        stop_signal: StopSignal,
    ) -> None:
        """Initialize an instance of :class:`EpochEvaluation`."""
        self._make_networks = make_networks
        self._env_id, self._horizon = env_id, horizon
        self.settings, self._seed = settings, seed
        self._deployment, self.cost_limit = deployment, deployment.cost_limit
        self._data, self._reference_returns = data, data.reference_returns
        if settings.calibrates_on_data:
            check_episodes(data.trajectories)  # before anything is trained
        self._more_metrics = more_metrics
        self._stop_signal = stop_signal

    def refresh(self) -> None:
        """Take the networks to deploy from the learner."""
        self._deploy(self._make_networks())

    def _deploy(self, networks: Deployable) -> None:
        self.deployed = Deployed(networks, *deployment_of(networks))

    def run(self, is_last: bool) -> dict[str, float]:
        """Run the deployed policy.

        Args:
            is_last (bool): Whether the run ends here.

        Returns:
            What is logged; nothing without episodes.

        Raises:
            Stopped: If a signal comes.
        """
        row: dict[str, float] = {}
        validation = validation_seeds(self._seed, self.settings.validation)
        evaluation = self._play('Validating', validation)
        if evaluation is not None:
            row[VALIDATION_RETURN] = float(np.mean(evaluation.returns))
            row[VALIDATION_COST] = float(np.mean(evaluation.costs))
        if is_last:
            seeds = final_seeds(self._seed, self.settings.final)
            evaluation = self._calibrate() or self._play('Evaluating', seeds) or evaluation
        if evaluation is None:
            return row
        mean_return = float(np.mean(evaluation.returns))
        mean_cost = float(np.mean(evaluation.costs))
        return {
            **row,
            'Metrics/EpRet': mean_return,
            'Metrics/EpCost': mean_cost,
            'Metrics/EpLen': float(np.mean(evaluation.lengths)),
            'Metrics/NormRet': normalized_return(mean_return, *self._reference_returns),
            'Metrics/NormCost': normalized_cost(mean_cost, self.cost_limit),
            **self._more_metrics(evaluation),
        }

    def best(self, rows: Sequence[dict[str, float]]) -> dict[str, Any] | None:
        """Choose the best epoch, by validation.

        Args:
            rows (Sequence[dict[str, float]]): The rows of ``progress.csv``.

        Returns:
            What ``best.json`` holds; None if no epoch was validated.
        """
        best = best_epoch(rows, self.cost_limit)
        if best is None:
            return None
        seeds = validation_seeds(self._seed, self.settings.validation)
        return {**best, 'first_seed': seeds.start, 'episodes': len(seeds)}

    def _play(self, label: str, seeds: range) -> Evaluation | None:
        """Run an episode for each seed; None without seeds.

        Raises:
            Stopped: If a signal comes.
        """
        if not seeds:
            return None
        with self._episodes_shown(label, len(seeds) * self._horizon) as report:
            return evaluate(
                self.deployed.networks,
                self._env_id,
                self.deployed.config,
                self.deployed.target_return,
                seeds=seeds,
                processes=self.settings.processes or default_processes(len(seeds)),
                on_progress=report,
            )

    def _calibrate(self) -> Evaluation | None:
        """Find the target cost that serves each limit, and deploy what that chooses.

        Returns:
            The episodes of the zero-action fallback, if that is deployed and was simulated.

        Raises:
            Stopped: If a signal comes.
        """
        if not (self.settings.calibration or self.settings.calibrates_on_data):
            return None
        networks = self.deployed.networks
        record = self._imagine() if self.settings.calibrates_on_data else self._simulate()
        networks.spec = {**networks.spec, 'calibration': record}
        self._deploy(networks)
        if self.deployed.target_return is not None or self.settings.calibrates_on_data:
            return None
        played = {name: record['zero_action'][name] for name in ('returns', 'costs', 'lengths')}
        return Evaluation(**played, infeasible_share=0.0, steps_per_second=0.0, traces=None)

    def _simulate(self) -> dict[str, Any]:
        with self._episodes_shown('Calibrating', 1) as report:
            return calibrate(
                self.deployed.networks,
                self._deployment,
                self.settings.calibration,
                self.settings.processes,
                report,
            )

    def _imagine(self) -> dict[str, Any]:
        data = self._data
        with ExitStack() as stack:
            bars: dict[str, Callable[[int, int], None]] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in bars:
                    stack.close()
                    bars[what] = stack.enter_context(self._episodes_shown(what, total))
                bars[what](done, total)

            return imagined_calibration(
                self.deployed.networks,
                self._deployment,
                data.trajectories,
                {'path': data.record['path'], 'sha256': data.record['sha256']},
                seed=self._seed,
                on_progress=report,
            )

    @contextmanager
    def _episodes_shown(self, label: str, steps: int) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of episodes, and end them if a signal comes.

        Args:
            label (str): Of the progress bar.
            steps (int): There will be at most.

        Yields:
            What is to be called, often, with the steps done and the steps there will be.

        Raises:
            Stopped: If a signal came.
        """
        progress = ProgressReporter(label, steps)

        def report(done: int, total: int) -> None:
            self._stop_signal.check()
            progress.update(done, total)

        with self._stop_signal.blamed_for_failures(), progress.shown():
            yield report
