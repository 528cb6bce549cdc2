# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation in training: validation after each epoch, calibration and report at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisafe_qpt.errors import printable
from omnisafe_qpt.evaluation.deployment import deployment_of
from omnisafe_qpt.evaluation.episodes import Evaluation, default_processes, evaluate
from omnisafe_qpt.evaluation.model_calibration import imagined_calibration, why_unreliable
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig, check_exogenous
from omnisafe_qpt.evaluation.off_policy.estimate import (
    RELIABLE_EPISODES,
    OffPolicyEvaluator,
    PhaseProgress,
    TooFewEpisodes,
    check_episodes,
)
from omnisafe_qpt.evaluation.off_policy.rollouts import Level
from omnisafe_qpt.evaluation.target_calibration import calibrate
from omnisafe_qpt.progress import ProgressReporter, phases
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.runner import ESTIMATED, MODEL, SIMULATOR, serving_level
from omnisafe_qpt.runs.best import VALIDATION_COST, VALIDATION_RETURN, best_epoch, has_stalled
from omnisafe_qpt.scores import normalized_cost, normalized_return
from omnisafe_qpt.settings.machine import AUTO
from omnisafe_qpt.settings.seeds import final_seeds, validation_seeds
from omnisafe_qpt.signals import StopSignal
from omnisafe_qpt.training.dataset_loading import TrainingData
from omnisafe_qpt.training.episode_settings import EpisodeSettings


# Policies are compared at these multiples of the run's cost limit.
_SHARES_OF_THE_LIMIT = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Deployed:
    """A deployed policy: networks, settings and target return.

    Args:
        networks (Deployable): The trained model.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Target return; None for a policy without one, and for the
            zero-action fallback.
    """

    networks: Deployable
    config: DeploymentConfig
    target_return: float | None


class EpochEvaluation:
    """Evaluates the policy in training as in deployment.

    Each epoch is validated on the same episodes, and the best one is chosen by them. Their result
    is biased for that epoch, so the last epoch ends with different episodes: target calibration,
    then the report. The zero-action fallback is not run twice. Without a simulator, an epoch is
    validated by model rollouts in dynamics that are learned from the data.

    Args:
        make_networks (Callable): Returns the networks to deploy.
        env_id (str): The environment.
        horizon (int): Largest number of steps in an episode.
        settings (EpisodeSettings): Number of episodes in each part.
        seed (int): Of the run.
        deployment (DeploymentConfig): Settings of deployment.
        data (TrainingData): The training data.
        more_metrics (Callable): Returns further metrics of an evaluation.
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
        # Before anything is trained.
        check_exogenous(settings.exogenous, data.trajectories.obs_dim)
        if settings.calibrate == MODEL:
            check_episodes(data.trajectories)
        self._evaluator: OffPolicyEvaluator | None = None
        self._more_metrics = more_metrics
        self._stop_signal = stop_signal

    def refresh(self) -> None:
        """Take the networks to deploy from the learner."""
        self._deploy(self._make_networks())

    def _deploy(self, networks: Deployable) -> None:
        self.deployed = Deployed(networks, *deployment_of(networks))

    def run(self, is_last: bool, rows: Sequence[dict[str, float]]) -> tuple[dict[str, float], bool]:
        """Evaluate the deployed policy.

        Args:
            is_last (bool): Whether this is the last epoch of the schedule.
            rows (Sequence[dict[str, float]]): The rows of the epochs before this one.

        Returns:
            The metrics to log, empty without episodes; and whether this epoch is the last one, as
            it also is if too many have passed since the best one.

        Raises:
            Stopped: If a signal comes.
        """
        row: dict[str, float] = {}
        validation = validation_seeds(self._seed, self.settings.validation)
        evaluation = self._play('Validating', validation)
        if evaluation is not None:
            row[VALIDATION_RETURN] = float(np.mean(evaluation.returns))
            row[VALIDATION_COST] = float(np.mean(evaluation.costs))
        if self.settings.validates_on_data:
            row = self._estimate()
        epochs = [*rows, {'Train/Epoch': len(rows) + 1, **row}]
        if not is_last and has_stalled(epochs, self.cost_limit, self.settings.patience):
            print(f'Stopping early: no better epoch in the last {self.settings.patience}')
            is_last = True
        if is_last:
            seeds = final_seeds(self._seed, self.settings.final)
            evaluation = self._calibrate() or self._play('Evaluating', seeds) or evaluation
        if evaluation is None:
            return row, is_last
        mean_return = float(np.mean(evaluation.returns))
        mean_cost = float(np.mean(evaluation.costs))
        metrics = {
            'Metrics/EpRet': mean_return,
            'Metrics/EpCost': mean_cost,
            'Metrics/EpLen': float(np.mean(evaluation.lengths)),
            'Metrics/NormRet': normalized_return(mean_return, *self._reference_returns),
            'Metrics/NormCost': normalized_cost(mean_cost, self.cost_limit),
            **self._more_metrics(evaluation),
        }
        return {**row, **metrics}, is_last

    def best(self, rows: Sequence[dict[str, float]]) -> dict[str, Any] | None:
        """Return the best epoch by validation.

        Args:
            rows (Sequence[dict[str, float]]): The rows of ``progress.csv``.

        Returns:
            The content of ``best.json``; None if no epoch was validated.
        """
        best = best_epoch(rows, self.cost_limit)
        if best is None:
            return None
        if self.settings.validates_on_data:
            return {**best, 'method': MODEL}
        seeds = validation_seeds(self._seed, self.settings.validation)
        return {**best, 'method': SIMULATOR, 'first_seed': seeds.start, 'episodes': len(seeds)}

    def check_estimable(self) -> None:
        """Check that there are enough episodes for a reliable estimate.

        Raises:
            TooFewEpisodes: If there are not.
        """
        check_episodes(self._data.trajectories, RELIABLE_EPISODES)

    @property
    def return_range(self) -> float:
        """Difference of the returns that are normalised to 0 and 1."""
        low, high = self._reference_returns
        return high - low

    @property
    def estimated_limits(self) -> list[float]:
        """The cost limits of :meth:`estimate_returns`."""
        return [share * self.cost_limit for share in _SHARES_OF_THE_LIMIT]

    def estimate_returns(self) -> list[float | None]:
        """Estimate the deployed policy's return at several cost limits, in learned dynamics.

        Returns:
            For each limit, the return at the target cost that target calibration would choose; None
            where none is reliably within the limit.

        Raises:
            Stopped: If a signal comes.
        """
        record = self._imagined_record()
        found = [serving_level(record, limit) for limit in self.estimated_limits]
        return [level['return_mean'] if status == ESTIMATED else None for level, status in found]

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
        """Calibrate the target cost for each limit, and deploy the result.

        Returns:
            The episodes of the zero-action fallback, if it is deployed and was simulated.

        Raises:
            Stopped: If a signal comes.
        """
        record = None
        if self.settings.calibrate in (AUTO, MODEL):
            record = self._imagine()
        if record is None and self.settings.calibration:
            record = self._simulate()
        if record is None:
            return None
        networks = self.deployed.networks
        networks.spec = {**networks.spec, 'calibration': record}
        self._deploy(networks)
        if self.deployed.target_return is not None or record.get('method') == MODEL:
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

    def _imagine(self) -> dict[str, Any] | None:
        """Calibrate on the data; with ``auto``, None if the estimate is not reliable."""
        try:
            if self.settings.calibrate == AUTO:
                self.check_estimable()
            record = self._imagined_record()
            reason = why_unreliable(record, self.cost_limit)
        except TooFewEpisodes as error:
            reason = str(error)
        if self.settings.calibrate == MODEL or reason is None:
            return record
        print(printable(f'Calibrating in the simulator, as the data do not suffice: {reason}'))
        return None

    def _imagined_record(self) -> dict[str, Any]:
        record = self._data.record
        with phases(self._episodes_shown) as report:
            return imagined_calibration(
                self.deployed.networks,
                self._deployment,
                self._learned_dynamics(report),
                {'path': record['path'], 'sha256': record['sha256']},
                report,
            )

    def _estimate(self) -> dict[str, float]:
        """Validate the deployed policy in learned dynamics."""
        deployed = self.deployed
        level = Level(deployed.target_return, deployed.config.used_target_cost)
        with phases(self._episodes_shown) as report:
            evaluator = self._learned_dynamics(report)
            (found,) = evaluator.roll_out(deployed.networks, deployed.config, [level], report)
        return {
            VALIDATION_RETURN: float(found.returns.mean()),
            VALIDATION_COST: float(found.costs.mean()),
        }

    def _learned_dynamics(self, on_progress: PhaseProgress) -> OffPolicyEvaluator:
        """Return the dynamics learned from the data; they do not depend on the policy."""
        if self._evaluator is None:
            self._evaluator = OffPolicyEvaluator(
                self._data.trajectories.to(self.deployed.networks.device),
                self._horizon,
                self._seed,
                dynamics=DynamicsConfig.for_horizon(self._horizon, self.settings.exogenous),
                on_progress=on_progress,
            )
        return self._evaluator

    @contextmanager
    def _episodes_shown(self, label: str, steps: int) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of episodes, and end them if a signal comes.

        Args:
            label (str): Of the progress bar.
            steps (int): Largest number of steps.

        Yields:
            A callback for the steps done and the total; call it often.

        Raises:
            Stopped: If a signal came.
        """
        progress = ProgressReporter(label, steps)

        def report(done: int, total: int) -> None:
            self._stop_signal.check()
            progress.update(done, total)

        with self._stop_signal.blamed_for_failures(), progress.shown():
            yield report
