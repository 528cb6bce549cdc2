# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The epoch loop: updates, evaluation, logging, saving and stopping."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.qpt.base_learner import BaseLearner
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runs.checkpoint import list_checkpoints, save_best, save_checkpoint
from omnisafe_qpt.runs.training_state import random_state_kept
from omnisafe_qpt.signals import Stopped, StopSignal
from omnisafe_qpt.training.cuda_graph import CapturedUpdate
from omnisafe_qpt.training.run_state import RunState


if TYPE_CHECKING:  # both import OmniSafe
    from omnisafe_qpt.runs.run_log import RunLogger
    from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
    from omnisafe_qpt.training.eta_search import EtaSearch


# Updates between two checks of the stop signal with several processes on GPUs; each check waits for
# the GPU.
_UPDATES_BETWEEN_LOOKS = 50


def choose_update(
    accelerate: str,
    algo: str,
    learner: BaseLearner,
    sampler: BatchSampler | PrefetchSampler,
) -> Callable[[], None]:
    """Return the function that does one update.

    Args:
        accelerate (str): ``train_cfgs.accelerate``: ``none``, ``graph`` or ``compile``.
        algo (str): The algorithm, for messages.
        learner (BaseLearner): The learner to update.
        sampler (BatchSampler or PrefetchSampler): The source of batches.

    Returns:
        The function.

    Raises:
        UserError: If the learner cannot be compiled.
    """
    if accelerate == 'none':
        return lambda: learner.update(sampler.sample())
    if accelerate == 'compile':
        if not hasattr(learner, 'compile'):
            raise UserError(
                f'train_cfgs:accelerate compile is not available for {algo}; use graph',
            )
        learner.compile()
    return CapturedUpdate(learner, sampler)


@dataclass(frozen=True)
class Schedule:
    """Length of a run and interval of its checkpoints.

    Args:
        total_steps (int): Updates.
        steps_per_epoch (int): Updates in an epoch.
        save_every (int): Epochs between two checkpoints that are always kept.
    """

    total_steps: int
    steps_per_epoch: int
    save_every: int

    @property
    def epochs(self) -> int:
        """Number of epochs; the last one may be shorter."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def last_step(self, epoch: int) -> int:
        """Return the number of updates done after an epoch."""
        return min(epoch * self.steps_per_epoch, self.total_steps)


class Trainer:
    """Trains a learner epoch by epoch.

    Several processes may share each batch. Only the first one measures the time, evaluates, logs
    and saves; the others wait for it at the end of each epoch.

    Args:
        update (Callable[[], None]): Does one update; see :func:`choose_update`.
        learner (BaseLearner): The learner that it updates.
        sampler (BatchSampler or PrefetchSampler): The source of its batches.
        schedule (Schedule): Length of the run.
        state (RunState): Progress of the run and its saved state.
        evaluation (EpochEvaluation): Evaluates the deployed policy.
        log (RunLogger): The run's logger, already started.
        run (Path): The run's folder.
        ranks (Ranks): The processes that train together.
        stop_signal (StopSignal): Requests the end of the run.
        resume_command (str): Command that resumes the run.
        remedy (str): Advice after losses that are not finite.
        eta_search (EtaSearch, optional): Chooses the weights of the penalty terms on the way.
            Defaults to None: they stay.
    """

    def __init__(
        self,
        update: Callable[[], None],
        learner: BaseLearner,
        sampler: BatchSampler | PrefetchSampler,
        schedule: Schedule,
        state: RunState,
        evaluation: EpochEvaluation,
        log: RunLogger,
        run: Path,
        ranks: Ranks,
        stop_signal: StopSignal,
        resume_command: str,
        remedy: str,
        eta_search: EtaSearch | None = None,
    ) -> None:
        """Initialize an instance of :class:`Trainer`."""
        self._update = update
        self._learner, self._sampler = learner, sampler
        self._schedule = schedule
        self._state, self._progress = state, state.progress
        self._evaluation = evaluation
        self._log, self._run = log, run
        self._ranks = ranks
        self._stop_signal = stop_signal
        self._resume_command = resume_command
        self._remedy, self._eta_search = remedy, eta_search

    def train(self) -> None:
        """Train the remaining epochs.

        Raises:
            UserError: If a loss or a weight is not finite; the last good checkpoint is kept.
            WriteError: If something cannot be written; earlier files stay intact.
            Stopped: If a signal has come; the state is saved.
        """
        progress, epochs = self._progress, self._schedule.epochs
        self._state.restore_random_state()
        self._bar = self._new_bar()
        # The time of earlier sessions counts, up to their last finished epoch.
        start_time = time.time() - (progress.rows[-1]['Time/Total'] if progress.rows else 0.0)
        for epoch in range(progress.epoch + 1, epochs + 1):
            progress.epoch, is_last = epoch, epoch == epochs
            self._state.separate_dropout()
            if progress.metrics is None:  # else the run was stopped after its last update
                progress.metrics = self._train_epoch(self._schedule.last_step(epoch))
            eval_time = time.time()
            self._save_before_episodes(is_last)
            evaluated, is_last = self._evaluate_or_stop(is_last)
            eval_time = time.time() - eval_time
            updates = self._learner.step - (progress.rows[-1]['TotalSteps'] if progress.rows else 0)
            values = {
                **progress.metrics,
                **evaluated,
                'Time/Evaluate': eval_time,
                'Time/Update': progress.update_time,
                'Time/UpdatesPerSecond': updates / progress.update_time,
                'Time/Epoch': progress.update_time + eval_time,
                'Time/Total': time.time() - start_time,
                'Train/Epoch': epoch,
                'TotalSteps': self._learner.step,
            }
            self._log_row(values if self._ranks.is_first else {})
            progress.metrics, progress.update_time = None, 0.0
            if self._ranks.is_first:
                progress.rows = self._log.read_rows()
                self._save(is_last)
            if is_last:
                break

    def _new_bar(self) -> ProgressReporter:
        return ProgressReporter(
            'Training',
            self._schedule.total_steps,
            done=self._learner.step,
            unit='updates',
            quiet=not self._ranks.is_first,
        )

    def _log_row(self, values: dict[str, float]) -> None:
        """Log an epoch, in all processes: OmniSafe's logger averages over what they hold.

        The other processes hold nothing, and wait here while the first one evaluates.
        """
        self._log.store(values)
        self._log.dump_tabular()

    # ------------------------------------------------------------------ updates

    def _train_epoch(self, last_step: int) -> dict[str, float]:
        """Update until the run has done ``last_step`` updates; returns the epoch's mean metrics.

        Raises:
            UserError: If a metric or a weight is not finite, or an update cannot be captured as a
                CUDA graph.
            Stopped: After a signal. The state is saved.
        """
        search = self._eta_search
        if search is not None and 'chosen' not in self._progress.etas:
            if self._learner.step <= search.at < last_step:
                self._update_until(search.at)
            if self._learner.step == search.at:
                self._choose_etas(search)
        metrics = self._update_until(last_step)
        self._check_finite(metrics)
        if self._learner.step < last_step:
            self._save_and_stop()
        return self._learner.pop_metrics()

    def _update_until(self, last_step: int) -> dict[str, float]:
        """Update until a step or a signal; returns the epoch's mean metrics so far."""
        started = time.time() - self._progress.update_time
        try:
            with self._bar.shown():
                while self._learner.step < last_step and not self._is_to_stop():
                    self._update()
                    self._bar.update(self._learner.step)
                metrics = self._learner.metrics()  # waits for the device
        finally:
            if isinstance(self._sampler, PrefetchSampler):
                self._sampler.close()  # no prefetching thread may run when evaluation forks
        self._progress.update_time = time.time() - started
        return metrics

    def _choose_etas(self, search: EtaSearch) -> None:
        """Choose the weights of the penalty terms; the state is saved before and on the way.

        Raises:
            Stopped: After a signal. The state is saved.
        """
        self._save_within_epoch()
        try:
            self._update = search.choose(self._progress.etas, self._save_within_epoch)
        except Stopped:
            self._save_and_stop()
        self._save_within_epoch()
        self._bar = self._new_bar()  # its rate leaves out the search

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Stop the run, without saving, if a metric or a weight is not finite.

        Metrics describe the weights before each update, so the weights are checked as well.
        """
        broken = [
            f'{name} is {value}' for name, value in metrics.items() if not math.isfinite(value)
        ]
        broken += [f'{name} has weights that are not finite' for name in self._learner.broken()]
        if not broken:
            return
        checkpoints = list(list_checkpoints(self._run).values())
        kept = f' (the last good checkpoint is {checkpoints[-1]})' if checkpoints else ''
        raise UserError(
            f'{broken[0]} in epoch {self._progress.epoch}: training has stopped; nothing of '
            f'this epoch is saved{kept}; start a new run with {self._remedy}',
        )

    # ------------------------------------------------------------------ stops

    def _is_to_stop(self) -> bool:
        """Whether any process got a stop signal: all must stop at the same update."""
        has_come = self._stop_signal.received is not None
        if self._ranks.size == 1:
            return has_come
        device = self._learner.device
        if device.type == 'cuda' and self._learner.step % _UPDATES_BETWEEN_LOOKS:
            return False
        flag = torch.tensor(float(has_come), device=device)
        return self._ranks.average(flag).item() > 0.0

    def _save_and_stop(self) -> NoReturn:
        """Save the state within the epoch, log how to resume, and stop; in all processes.

        Raises:
            Stopped: Always.
        """
        self._save_within_epoch()
        if self._ranks.is_first:
            print(
                f'Stopped after {self._learner.step} of {self._schedule.total_steps} '
                f'updates. To resume: {self._resume_command}'
                f'{" (by way of torchrun, as before)" if self._ranks.size > 1 else ""}',
                file=sys.stderr,
            )
        self._ranks.share(None)  # a launcher ends all processes as soon as one ends
        raise Stopped(self._stop_signal.received or signal.SIGTERM)

    # ------------------------------------------------------------------ episodes

    def _evaluate_or_stop(self, is_last: bool) -> tuple[dict[str, float], bool]:
        """Evaluate in the first process; the others wait until it has done or has to stop.

        Evaluation does not affect training.

        Returns:
            The metrics to log, empty in the others; and whether this epoch is the last one.
        """
        is_stopped = False
        evaluated: dict[str, float] = {}
        if self._ranks.is_first:
            try:
                with random_state_kept():
                    self._evaluation.refresh()
                    evaluated, is_last = self._evaluation.run(is_last, self._progress.rows)
            except Stopped:
                is_stopped = True
            except UserError as error:
                raise UserError(f'{error} ({self._saved_updates()})') from error
            except Exception:
                print(self._saved_updates(), file=sys.stderr)
                raise
        is_stopped, is_last = self._ranks.share((is_stopped, is_last))
        if is_stopped:
            self._save_and_stop()
        return evaluated, is_last

    def _saved_updates(self) -> str:
        return (
            f'in the episodes after epoch {self._progress.epoch}, whose updates are saved; to '
            f'resume: {self._resume_command}'
        )

    # ------------------------------------------------------------------ saves

    @property
    def _is_due(self) -> bool:
        """Whether the epoch always gets a checkpoint."""
        return self._progress.epoch % self._schedule.save_every == 0

    def _save_before_episodes(self, is_last: bool) -> None:
        """Save an epoch's updates, as episodes may fail; in all processes."""
        if not self._evaluation.settings.after_epoch(is_last):
            return
        self._save_within_epoch()
        if self._ranks.is_first and (is_last or self._is_due):
            with random_state_kept():
                self._evaluation.refresh()
                save_checkpoint(self._run, self._progress.epoch, self._evaluation.deployed.networks)

    def _save_within_epoch(self) -> None:
        """Save the state before the end of an epoch; in all processes."""
        shares = self._state.gather_shares()
        if self._ranks.is_first:
            self._log.check_folder()
            self._state.save(self._run, self._progress.epoch - 1, shares)

    def _save(self, is_last: bool) -> None:
        """Write the state to resume from; and a checkpoint if due, best so far or last.

        The state is written last, so that an interrupted save is repeated.
        """
        self._log.check_folder()
        epoch, best = self._progress.epoch, self._evaluation.best(self._progress.rows)
        is_best = best is not None and best['epoch'] == epoch
        if is_last or is_best or self._is_due:
            save_checkpoint(self._run, epoch, self._evaluation.deployed.networks)
        if best is not None:
            save_best(self._run, best)
        self._state.save(self._run, epoch)
