# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the offline algorithms of this package share: data, loop, evaluation, the run's folder.

OmniSafe's loop trains without a dataset's files, has no resume, and evaluates policies that act on
the observation alone. Its registry, logger, command line and evaluator are used.
"""

from __future__ import annotations

import atexit
import math
import platform
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from omnisafe.algorithms.offline.base import BaseOffline
from omnisafe.utils.config import Config
from rich.console import Console
from rich.panel import Panel

from omnisafe_qpt.compat import dataset_names, load_omnisafe_dataset
from omnisafe_qpt.data.actions import (
    AUTO,
    ENVIRONMENT,
    NORMALIZED,
    UNIT_ATTRIBUTE,
    find_unit,
    normalize,
    recorded_unit,
)
from omnisafe_qpt.data.checks import ACTIONS_OUT_OF_RANGE, WARNING
from omnisafe_qpt.data.files import file_sha256
from omnisafe_qpt.data.holdout import choose_held_out, split_off
from omnisafe_qpt.data.prefetch import PrefetchSampler, fits_on
from omnisafe_qpt.data.resolve import DatasetSource, resolve_dataset
from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.data.summary import Inspector, find
from omnisafe_qpt.data.tasks import find_task, reference_returns
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.envs.user_modules import modules_of
from omnisafe_qpt.errors import UserError, WriteError, printable, shell_command
from omnisafe_qpt.evaluation.deployment import deployment_of, guarantee_of
from omnisafe_qpt.evaluation.episodes import Evaluation
from omnisafe_qpt.omnisafe_plugin.actor import DeployedActor
from omnisafe_qpt.omnisafe_plugin.adapter import DeploymentAdapter
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.qpt.base_learner import BaseLearner
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.qpt.precision import resolve_precision
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.runs.best import VALIDATION_COST, VALIDATION_RETURN, best_epoch
from omnisafe_qpt.runs.checkpoint import (
    list_checkpoints,
    load_training_state,
    random_state,
    random_state_kept,
    save_best,
    save_checkpoint,
    save_training_state,
    set_random_state,
    versions,
)
from omnisafe_qpt.runs.records import read_config
from omnisafe_qpt.runs.resume import describe_changes, foreign_hook, resume_command
from omnisafe_qpt.runs.run_log import RunLogger, check_log_dir, check_wandb, folder_name
from omnisafe_qpt.scores import fixed, normalized_cost, normalized_return
from omnisafe_qpt.settings.files import load_defaults
from omnisafe_qpt.settings.machine import hardware
from omnisafe_qpt.settings.seeds import final_seeds, validation_seeds
from omnisafe_qpt.signals import Stopped, StopSignal
from omnisafe_qpt.training.cuda_graph import CapturedUpdate
from omnisafe_qpt.training.distributed import leave_processes, report_errors_from_first_rank


# What episodes tell; without any, these columns are left out.
_METRICS = (
    'Metrics/EpRet',
    'Metrics/EpCost',
    'Metrics/EpLen',
    'Metrics/NormRet',
    'Metrics/NormCost',
)

# Updates between two looks at whether several processes on GPUs are to stop, each of which waits
# for the GPU.
_UPDATES_BETWEEN_LOOKS = 50


# Of the training state: what a seed draws, and the sizes of the networks. Older states have none.
_STATE_VERSION = 1


class OfflineAlgorithm(BaseOffline):
    """An offline algorithm of OmniSafe whose learner, sampler and deployable model are given.

    A subclass says which, through the methods that are abstract here; the algorithm itself is in
    :mod:`omnisafe_qpt.qpt`. All that changes in training is in the learner, the sampler's
    generator and the global generators, so that a run can be resumed exactly.

    Several processes, started by ``torchrun``, share each batch. The first of them alone reads
    the time, evaluates, logs and saves; the others wait for it at the end of each epoch.
    """

    # Built of the sizes, the units, :meth:`_learner_config`, the device and the ranks.
    _learner_class: type[BaseLearner]
    # What a batch is made of, for messages.
    _unit = 'transitions'
    # What to try after losses that are no longer finite.
    _remedy = 'lower learning rates'
    # What :meth:`_evaluation_metrics` returns.
    _evaluation_keys: tuple[str, ...] = ()

    def __init__(self, env_id: str, cfgs: Config) -> None:
        """Initialize an instance of :class:`OfflineAlgorithm`."""
        self._ranks = Ranks.from_process_group()
        self._has_learned = False
        with report_errors_from_first_rank():
            super().__init__(env_id, cfgs)

    def _init_env(self) -> None:
        """Make the environment, and read the dataset that stands in for it in training."""
        if self._device.type == 'cpu':
            # OmniSafe has divided what is this process's share already.
            torch.set_num_threads(self._cfgs.train_cfgs.torch_threads)
        self._set_determinism()
        if self._cfgs.logger_cfgs.use_wandb and self._ranks.is_first:
            check_wandb()
        if self._ranks.is_first:
            check_log_dir(self._cfgs)
        self._deployment = self._make_deployment()
        source = self._find_dataset()  # before the simulator, which may take seconds to start
        self._env: DeploymentAdapter = DeploymentAdapter(self._env_id, self._cfgs)
        self._trajectories = self._load_dataset(source)

    def _set_determinism(self) -> None:
        """Undo OmniSafe's global determinism on a GPU unless it is asked for.

        There it switches cuDNN off and takes slower kernels, for attention's backward pass among
        others. On a CPU the same operations are deterministic anyway.
        """
        if self._device.type == 'cuda' and not self._cfgs.train_cfgs.deterministic:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.enabled = True
        # Filling every new tensor with NaN guards against reading uninitialised memory, which
        # nothing here does, and costs time at each step.
        torch.utils.deterministic.fill_uninitialized_memory = False

    def _find_dataset(self) -> DatasetSource | None:
        """Find the file of ``train_cfgs.dataset``, None for one of OmniSafe's own datasets.

        What it turned out to be is recorded in the run.
        """
        dataset = str(self._cfgs.train_cfgs.dataset)
        if dataset in dataset_names():
            self._dataset_record = {'name': dataset, 'path': dataset, 'sha256': None}
            return None
        source = self._resolve_dataset(dataset)
        if source.warning and self._ranks.is_first:
            reason, _, consequence = source.warning.partition('\n')
            console = Console(stderr=True)
            # The reason ends in a command to copy, which a panel would break into pieces.
            console.print(printable(reason), soft_wrap=True, markup=False, highlight=False)
            console.print(Panel(consequence, title='DATASET', border_style='bold red'))
        self._dataset_record = {
            'name': source.name,
            'path': str(Path(source.path).resolve()),
            'sha256': file_sha256(source.path),
        }
        if self._dataset_record['sha256'] != self._ranks.share(self._dataset_record['sha256']):
            raise UserError(f'{source.path} is not the same file on all machines')
        return source

    def _resolve_dataset(self, dataset: str) -> DatasetSource:
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

    def _load_dataset(self, source: DatasetSource | None) -> Trajectories:
        inspector = None
        if self._ranks.is_first:
            limits = (self._deployment.cost_limit,)
            inspector = Inspector(find_task(self._env_id), self._env.horizon, limits)
        if source is None:
            with self._ranks.first_alone():  # it may download
                trajectories = load_omnisafe_dataset(
                    self._cfgs.train_cfgs.dataset,
                    self._env.horizon,
                    inspector,
                )
        else:
            trajectories = Trajectories.load(source.path, self._env.horizon, inspector)
        self._check_dimensions(trajectories)
        findings = [] if inspector is None else find(inspector.facts())
        unit_warning = self._normalize_actions(trajectories, source)
        if unit_warning or self._dataset_record[UNIT_ATTRIBUTE] == ENVIRONMENT:
            findings = [each for each in findings if each.code != ACTIONS_OUT_OF_RANGE]
        self._data_warnings = [each.text for each in findings if each.level == WARNING]
        self._data_warnings += [unit_warning] if unit_warning else []
        # Of all episodes that are known, those held out of training too.
        self._worst_cost = trajectories.cost_returns.max().item()
        held_out = choose_held_out(trajectories, self._cfgs.train_cfgs.holdout_share)
        self._held_out: list[int] = held_out.tolist()
        trajectories, _ = split_off(trajectories, held_out)
        self._is_prefetched = self._stays_on_host(trajectories)
        return trajectories if self._is_prefetched else trajectories.to(self._device)

    def _normalize_actions(self, trajectories: Trajectories, source: DatasetSource | None) -> str:
        """Bring the data's actions into [-1, 1], and record in which unit they were.

        A run from before there was a choice took them as they are.

        Returns:
            A warning; empty if nothing is doubtful.
        """
        declared = self._cfgs.train_cfgs.action_unit
        resume = self._cfgs.train_cfgs.resume
        if resume is not None:
            record = read_config(Path(resume))['dataset_record']
            declared = record.get(UNIT_ATTRIBUTE, NORMALIZED)
        elif declared == AUTO:
            # OmniSafe's own datasets were recorded behind its scaling of actions.
            declared = NORMALIZED if source is None else recorded_unit(source.path)
        unit = find_unit(trajectories, self._env.action_range, declared)
        if unit.name == ENVIRONMENT:
            normalize(trajectories, self._env.action_range)
        self._dataset_record[UNIT_ATTRIBUTE] = unit.name
        return unit.warning

    def _stays_on_host(self, trajectories: Trajectories) -> bool:
        """Decide ``train_cfgs.data_device``, alike in all processes: devices draw differently."""
        wish = self._cfgs.train_cfgs.data_device
        if wish != 'auto':
            return wish == 'host'
        fits = torch.tensor(float(fits_on(self._device, trajectories.table.nbytes)))
        return self._ranks.average(fits.to(self._device)).item() < 1.0

    def _check_dimensions(self, trajectories: Trajectories) -> None:
        for what, given, space in (
            ('observation', trajectories.obs_dim, self._env.observation_space),
            ('action', trajectories.act_dim, self._env.action_space),
        ):
            if given != space.shape[0]:
                raise UserError(
                    f'{trajectories.name} has {what}s of size {given}, {self._env_id} has '
                    f'{space.shape[0]}: the dataset is of another environment',
                )

    def _init_model(self) -> None:
        """Build the learner in the dataset's units."""
        config, self._precision_notice = self._learner_config(), ''
        if hasattr(config, 'precision'):
            precision, notice = resolve_precision(config.precision, self._device)
            if notice:  # said in the log instead of as a warning of the learner
                config, self._precision_notice = replace(config, precision=precision), notice
        self._learner = self._learner_class(
            self._trajectories.obs_dim,
            self._trajectories.act_dim,
            Scaling.from_data(self._trajectories, self._deployment.cost_limit),
            config,
            self._device,
            self._ranks,
        )

    def _init(self) -> None:
        """Set up the sampler, and read the state to continue from."""
        sampler = self._make_sampler(
            batch_size=self._cfgs.algo_cfgs.batch_size,
            seed=self._cfgs.seed,  # OmniSafe's differs between processes
            shard=(self._ranks.rank, self._ranks.size),
        )
        self._sampler = PrefetchSampler(sampler, self._device) if self._is_prefetched else sampler
        self._train_step = self._choose_train_step()
        resume = self._cfgs.train_cfgs.resume
        self._resumed_run = None if resume is None else Path(resume)
        self._damage, self._draws_anew = '', False
        self._resumed = self._load_resumed()

    def _choose_train_step(self) -> Callable[[], None]:
        """Decide how an update runs, ``train_cfgs.accelerate``."""
        accelerate = self._cfgs.train_cfgs.accelerate
        if accelerate == 'none':
            return self._train
        if accelerate == 'compile':
            if not hasattr(self._learner, 'compile'):
                raise UserError(
                    f'train_cfgs:accelerate compile is not there for {self._cfgs.algo}: use graph',
                )
            self._learner.compile()
        return CapturedUpdate(self._learner, self._sampler)

    # ------------------------------------------------------------------ what a subclass says

    @abstractmethod
    def _make_deployment(self) -> DeploymentConfig:
        """Read the settings of deployment out of the configuration."""

    @abstractmethod
    def _learner_config(self) -> Any:
        """Read the settings of the learner out of the configuration."""

    @abstractmethod
    def _make_sampler(self, **options: Any) -> Any:
        """Set up the sampler of batches.

        Args:
            options (Any): ``batch_size``, ``seed`` and ``shard``, as
                :class:`omnisafe_qpt.data.windows.WindowSampler` takes them.
        """

    @abstractmethod
    def _make_networks(self, spec: dict[str, Any]) -> Deployable:
        """Take what is deployed out of the learner.

        Args:
            spec (dict[str, Any]): What the learner does not know and the checkpoint should tell.
        """

    def _evaluation_metrics(self, evaluation: Evaluation) -> dict[str, float]:
        """Return what is logged of an evaluation besides returns, costs and lengths."""
        del evaluation
        return {}

    def _describe_data(self) -> str:
        """Say what else of the data is worth a line at the start; empty if nothing."""
        return ''

    @property
    def _target_return(self) -> float | None:
        """The return asked for at deployment; None where the policy is not asked for any."""
        return None

    # ------------------------------------------------------------------ the run's log

    def _init_log(self) -> None:
        """Log what all algorithms have.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Metrics/EpRet            | Return of the deployed policy.                           |
        +--------------------------+----------------------------------------------------------+
        | Metrics/EpCost           | Cost of the deployed policy.                             |
        +--------------------------+----------------------------------------------------------+
        | Metrics/EpLen            | Length of its episodes.                                  |
        +--------------------------+----------------------------------------------------------+
        | Metrics/NormRet          | Normalised return, Eq. (15), not times 100.              |
        +--------------------------+----------------------------------------------------------+
        | Metrics/NormCost         | Normalised cost, Eq. (16); at most 1 is safe.            |
        +--------------------------+----------------------------------------------------------+
        | Validation/EpRet, EpCost | Return and cost by which the best epoch is chosen.       |
        +--------------------------+----------------------------------------------------------+
        | Time/UpdatesPerSecond    | Updates per second, evaluation left out.                 |
        +--------------------------+----------------------------------------------------------+

        Metrics are those of validation but in the last epoch, which ends with episodes of other
        seeds. Without episodes, the columns that they fill are left out. What the learner tells, in
        ``Loss/`` and the like, is a mean over all updates of the epoch.
        """
        self._cfgs.recurisve_update({'dataset_record': self._dataset_record})
        self._changes = self._describe_changes()
        # What it is from now on, for whoever starts from its settings.
        self._cfgs.train_cfgs.resume = None
        if self._resumed_run is not None:
            self._cfgs.logger_cfgs.log_dir = str(self._resumed_run.parents[1])
        self._logger = RunLogger(
            self._cfgs,
            # The short name: a path would nest folders.
            f'{self._cfgs.exp_name}-{folder_name(self._dataset_record["name"])}',
            self._resumed_run,
        )
        self._run = Path(self._ranks.share(self._logger.log_dir))
        train_cfgs = self._cfgs.train_cfgs
        validation = (VALIDATION_RETURN, VALIDATION_COST) if train_cfgs.evaluate_epoisodes else ()
        metrics = (*_METRICS, *self._evaluation_keys)
        calibrates = train_cfgs.todict().get('calibrate_episodes', 0)  # may play the zero action
        if not (validation or train_cfgs.final_evaluate_episodes or calibrates):
            metrics = ()
        for key in (
            'Train/Epoch',
            'TotalSteps',
            *metrics,
            *validation,
            *self._learner.metric_names,
            'Time/Total',
            'Time/Epoch',
            'Time/Update',
            'Time/Evaluate',
            'Time/UpdatesPerSecond',
        ):
            self._logger.register_key(key)

    # ------------------------------------------------------------------ training

    @report_errors_from_first_rank()
    def learn(self) -> tuple[float | None, float | None, float | None]:
        """Train, evaluate each epoch, and end with a summary on screen.

        SIGINT, SIGTERM and SIGHUP save the state to resume from, say how, and end it; at once after
        a second Ctrl-C.

        Returns:
            ep_ret: Mean return of the last evaluation, as in the last row of ``progress.csv``; all
                three are None where the run has no episodes.
            ep_cost: Its mean cost.
            ep_len: Its mean length.

        Raises:
            UserError: If a loss or a weight is no longer finite; the last good checkpoint is kept.
            Stopped: After SIGINT, a kind of KeyboardInterrupt.
            SystemExit: After SIGTERM or SIGHUP, with status 143 or 129.
        """
        if self._has_learned:
            raise UserError(
                f'this agent has been trained or stopped; to go on make another one with '
                f'train_cfgs:resume {shell_command([str(self._run)])}',
            )
        self._has_learned = True
        notice = 'Saving what is needed to go on; Ctrl-C again ends at once'
        self._stop_signal = StopSignal(notice if self._ranks.is_first else '')
        try:
            with self._stop_signal:
                self._run_epochs()
        except Stopped as stopped:
            if stopped.signal != signal.SIGINT:
                raise SystemExit(stopped.exit_status) from stopped
            raise
        except WriteError as error:
            raise WriteError(
                f'{error}; what was saved before is whole, to go on from it: '
                f'{self._resume_command()}',
            ) from error
        finally:
            self._logger.close()
        row = self._ranks.share(self._rows[-1] if self._rows else None)
        if self._ranks.is_first:
            self._summarise(row)
        atexit.register(leave_processes)
        return row.get('Metrics/EpRet'), row.get('Metrics/EpCost'), row.get('Metrics/EpLen')

    def _run_epochs(self) -> None:
        """Do the epochs that are left."""
        self._resume()
        self._describe()
        total_steps = self._cfgs.train_cfgs.total_steps
        steps_per_epoch = self._cfgs.algo_cfgs.steps_per_epoch
        epochs = math.ceil(total_steps / steps_per_epoch)
        progress = ProgressReporter(
            'Training',
            total_steps,
            done=self._learner.step,
            unit='updates',
            quiet=not self._ranks.is_first,
        )
        # The time of earlier sessions counts, up to the last epoch that they finished.
        start_time = time.time() - (self._rows[-1]['Time/Total'] if self._rows else 0.0)
        for epoch in range(self.epoch + 1, epochs + 1):
            self.epoch = epoch
            self._separate_dropout()
            if self._metrics is None:  # otherwise it was stopped after its last update
                last_step = min(epoch * steps_per_epoch, total_steps)
                self._metrics = self._train_epoch(last_step, progress)
            eval_time = time.time()
            self._save_before_episodes(is_last=epoch == epochs)
            self._evaluate_or_stop(is_last=epoch == epochs)
            eval_time = time.time() - eval_time
            updates = self._learner.step - (self._rows[-1]['TotalSteps'] if self._rows else 0)
            values = {
                **self._metrics,
                'Time/Evaluate': eval_time,
                'Time/Update': self._update_time,
                'Time/UpdatesPerSecond': updates / self._update_time,
                'Time/Epoch': self._update_time + eval_time,
                'Time/Total': time.time() - start_time,
                'Train/Epoch': epoch,
                'TotalSteps': self._learner.step,
            }
            self._log_row(values if self._ranks.is_first else {})
            self._metrics, self._update_time = None, 0.0
            if self._ranks.is_first:
                self._rows = self._logger.read_rows()
                self._save(is_last=epoch == epochs)

    def _separate_dropout(self) -> None:
        """Give each process a dropout of its own.

        All but the first start anew at each epoch, so that a run can be resumed, by any number of
        processes, without their states.
        """
        if not self._ranks.is_first and not self._has_own_dropout:
            torch.manual_seed(torch_seed(self._cfgs.seed, 'dropout', self._ranks.rank, self.epoch))
        self._has_own_dropout = False

    def _log_row(self, values: dict[str, float]) -> None:
        """Log an epoch, in all processes: OmniSafe's logger averages over what they hold.

        The others hold nothing, and wait here for the first to evaluate.
        """
        self._logger.store(values)
        self._logger.dump_tabular()

    def _train_epoch(self, last_step: int, progress: ProgressReporter) -> dict[str, float]:
        """Update until ``last_step`` updates are done in all; returns the epoch's mean metrics.

        Raises:
            UserError: If one of them or a weight is no longer finite, or no CUDA graph can be made
                of an update.
            Stopped: If a signal has come; the state is saved.
        """
        started = time.time() - self._update_time
        try:
            with progress.shown():
                while self._learner.step < last_step and not self._is_to_stop():
                    self._train_step()
                    progress.update(self._learner.step)
                metrics = self._learner.metrics()  # waits for the device
        finally:
            if self._is_prefetched:
                self._sampler.close()  # no thread of ours is about when evaluation forks
        self._update_time = time.time() - started
        self._check_finite(metrics)
        if self._learner.step < last_step:
            self._save_and_stop()
        return self._learner.pop_metrics()

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Refuse to go on, and to save anything, once numbers are no longer finite.

        Metrics are of the weights before each update, so the weights are looked at as well.
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
            f'{broken[0]} in epoch {self.epoch}: training has stopped and nothing of this epoch is '
            f'saved{kept}; start a new run with {self._remedy}',
        )

    def _is_to_stop(self) -> bool:
        """Whether a signal has come, to any of the processes: all have to stop at one update."""
        has_come = self._stop_signal.received is not None
        if self._ranks.size == 1:
            return has_come
        if self._device.type == 'cuda' and self._learner.step % _UPDATES_BETWEEN_LOOKS:
            return False
        flag = torch.tensor(float(has_come), device=self._device)
        return self._ranks.average(flag).item() > 0.0

    def _save_before_episodes(self, is_last: bool) -> None:
        """Save an epoch's updates, as episodes may fail; in all processes."""
        train_cfgs = self._cfgs.train_cfgs
        episodes = train_cfgs.evaluate_epoisodes
        if is_last:
            episodes += train_cfgs.final_evaluate_episodes
            episodes += train_cfgs.todict().get('calibrate_episodes', 0)
        if not episodes:
            return
        self._save_within_epoch()
        if self._ranks.is_first and (is_last or self._is_due):
            with random_state_kept():
                self._refresh_actor()
                save_checkpoint(self._run, self.epoch, self._actor.networks)

    def _save_within_epoch(self) -> None:
        """Save the state before the end of an epoch; in all processes."""
        share = {'random': random_state(), 'metrics': self._learner.state_dict()['metrics']}
        shares = self._ranks.gather(share)
        if self._ranks.is_first:
            self._save_state(self.epoch - 1, shares)

    @property
    def _is_due(self) -> bool:
        """Whether the epoch has a checkpoint whatever it brings."""
        return self.epoch % self._cfgs.logger_cfgs.save_model_freq == 0

    def _saved_updates(self) -> str:
        return (
            f'in the episodes after epoch {self.epoch}, whose updates are saved; to go on with '
            f'them: {self._resume_command()}'
        )

    @property
    def _modules(self) -> list[str]:
        """The user's own modules, which register the environment."""
        return modules_of(self._cfgs.train_cfgs.todict().get('import'), self._env.module)

    def _resume_command(self) -> str:
        hook = foreign_hook(self._cfgs.todict(), load_defaults(self._env_id, self._cfgs.algo))
        return resume_command(
            self._cfgs.algo, self._env_id, self._run, self._modules, hook is not None
        )

    def _save_and_stop(self) -> NoReturn:
        """Save the state within the epoch, say how to go on, and stop; in all processes.

        Raises:
            Stopped: Always.
        """
        self._save_within_epoch()
        if self._ranks.is_first:
            print(
                f'Stopped after {self._learner.step} of {self._cfgs.train_cfgs.total_steps} '
                'updates. To go on: '
                f'{self._resume_command()}'
                f'{" (by way of torchrun, as before)" if self._ranks.size > 1 else ""}',
                file=sys.stderr,
            )
        self._ranks.share(None)  # a launcher ends all processes as soon as one ends
        raise Stopped(self._stop_signal.received or signal.SIGTERM)

    def _train(self) -> None:  # type: ignore[override]
        """Do one update."""
        self._learner.update(self._sampler.sample())

    def _evaluate_or_stop(self, is_last: bool) -> None:
        """Evaluate in the first process; the others wait until it has done or has to stop.

        Training goes on as if there had been no evaluation.
        """
        is_stopped = False
        if self._ranks.is_first:
            try:
                with random_state_kept():
                    self._refresh_actor()
                    self._evaluate(is_last)
            except Stopped:
                is_stopped = True
            except UserError as error:
                raise UserError(f'{error} ({self._saved_updates()})') from error
            except Exception:
                print(self._saved_updates(), file=sys.stderr)
                raise
        if self._ranks.share(is_stopped):
            self._save_and_stop()

    def _evaluate(self, is_last: bool = False) -> None:
        """Run the deployed policy and log what it reached.

        Each epoch is validated on the same episodes, by which the best one is chosen. They tell
        nothing new about it then, so the last epoch ends with others: those of target calibration,
        then those that are reported. The zero-action fallback is not run for the second time.
        """
        train_cfgs, seed = self._cfgs.train_cfgs, self._cfgs.seed
        evaluation = self._play('Validating', validation_seeds(seed, train_cfgs.evaluate_epoisodes))
        if evaluation is not None:
            self._logger.store(
                {
                    VALIDATION_RETURN: float(np.mean(evaluation.returns)),
                    VALIDATION_COST: float(np.mean(evaluation.costs)),
                },
            )
        if is_last:
            seeds = final_seeds(seed, train_cfgs.final_evaluate_episodes)
            evaluation = self._calibrate() or self._play('Evaluating', seeds) or evaluation
        if evaluation is None:
            return
        mean_return = float(np.mean(evaluation.returns))
        mean_cost = float(np.mean(evaluation.costs))
        self._logger.store(
            {
                'Metrics/EpRet': mean_return,
                'Metrics/EpCost': mean_cost,
                'Metrics/EpLen': float(np.mean(evaluation.lengths)),
                'Metrics/NormRet': normalized_return(mean_return, *self._reference_returns),
                'Metrics/NormCost': normalized_cost(mean_cost, self._deployment.cost_limit),
                **self._evaluation_metrics(evaluation),
            },
        )

    def _play(self, label: str, seeds: range) -> Evaluation | None:
        """Run an episode for each seed; None without seeds.

        Raises:
            Stopped: If a signal comes.
        """
        if not seeds:
            return None
        with self._episodes_shown(label, len(seeds) * self._env.horizon) as report:
            return self._env.evaluate(seeds, self._actor, report)

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

    def _refresh_actor(self) -> None:
        """Take the networks to deploy from the learner."""
        spec = {**self._spec, 'step': self._learner.step}
        self._deploy(self._make_networks(spec))

    def _deploy(self, networks: Deployable) -> None:
        """Act with these networks from now on, as they are to be deployed at the cost limit."""
        self._actor: DeployedActor = DeployedActor(
            self._env.observation_space,
            self._env.action_space,
            networks,
            *deployment_of(networks),
        )

    def _calibrate(self) -> Evaluation | None:
        """Choose target costs, where an algorithm is conditioned on them, and deploy the choice.

        Returns:
            Episodes of what is deployed, where it needs no others.
        """
        return None

    # ------------------------------------------------------------------ what a run records

    @cached_property
    def _reference_returns(self) -> tuple[float, float]:
        returns = self._trajectories.returns
        return reference_returns(self._env_id, (returns.min().item(), returns.max().item()))

    @cached_property
    def _spec(self) -> dict[str, Any]:
        """What deployment needs to know besides the networks, in plain values."""
        frontier = self._trajectories.frontier
        return {
            'algo': self._cfgs.algo,
            'env_id': self._env_id,
            'env_module': self._env.module,
            'horizon': self._env.horizon,
            'action_range': self._env.action_range,
            'frontier': {'costs': list(frontier.costs), 'returns': list(frontier.returns)},
            'worst_cost': self._worst_cost,
            'reference_returns': list(self._reference_returns),
            'deployment': asdict(self._deployment),
            'seed': self._cfgs.seed,
            'dataset': self._dataset_record,
            'held_out': self._held_out,
            'versions': versions(),
            'hardware': hardware(self._device),
            'config': self._cfgs.todict(),
        }

    @property
    def cost_limit(self) -> float:
        """The cost limit of training, for OmniSafe's plots."""
        return self._deployment.cost_limit

    def _save(self, is_last: bool) -> None:
        """Write the state to resume from, and at its turn, at its best or at the end a checkpoint.

        The state comes last: whatever is broken off is done again.
        """
        self._logger.check_folder()
        best = best_epoch(self._rows, self._deployment.cost_limit)
        is_best = best is not None and best['epoch'] == self.epoch
        if is_last or is_best or self._is_due:
            save_checkpoint(self._run, self.epoch, self._actor.networks)
        if best is not None:
            seeds = validation_seeds(self._cfgs.seed, self._cfgs.train_cfgs.evaluate_epoisodes)
            save_best(self._run, {**best, 'first_seed': seeds.start, 'episodes': len(seeds)})
        self._save_state(self.epoch)

    def _save_state(self, epochs_done: int, shares: Sequence[dict[str, Any]] = ()) -> None:
        """Write the state to resume from.

        Args:
            epochs_done (int): Epochs that are logged; updates may be further.
            shares (Sequence[dict[str, Any]], optional): What each process has for itself within
                an epoch. Defaults to none, which is enough between epochs.
        """
        self._logger.check_folder()
        save_training_state(
            self._run,
            {
                'version': _STATE_VERSION,
                'epoch': epochs_done,
                'metrics': self._metrics,
                'update_time': self._update_time,
                'learner': self._learner.state_dict(),
                'learner_config': self._learner_settings(),
                'sampler': self._sampler.generator.get_state(),
                'random': random_state(),
                'shares': list(shares),
                'rows': self._rows,
                'dataset': self._dataset_record,
                'held_out': self._held_out,
                'torch': str(torch.__version__),
                'processes': self._ranks.size,
            },
            keeps_last=not self._damage,  # it is the damaged one, and the one before is sound
        )
        self._damage = ''

    def _learner_settings(self) -> dict[str, Any]:
        """Return the learner's configuration with what its precision became on this device."""
        settings = asdict(self._learner.config)
        if 'precision' in settings:
            settings['precision'] = self._learner.precision
        return settings

    def _load_resumed(self) -> dict[str, Any] | None:
        """Read the state to continue from; None where there is nothing yet."""
        if self._resumed_run is None:
            return None
        self._check_same_dataset(self._resumed_run)
        state, self._damage = load_training_state(self._resumed_run)
        if state is not None:
            self._check_same_run(state)
            self._restore(state)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over the learner and the random states, before anything in the folder changes.

        Raises:
            UserError: If they do not fit.
        """
        shares = state.get('shares', ())  # older states have none
        try:
            self._learner.load_state_dict(state['learner'])
            with random_state_kept():
                for each in (state['random'], *(share['random'] for share in shares)):
                    set_random_state(each)
                self._restore_share(shares)
            self._restore_sampler(state['sampler'])
        except Exception as error:  # torch raises many kinds
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            raise UserError(
                f'{self._resumed_run}: its training state does not fit its settings ({reason}); it '
                'is damaged or of another run: start a new run',
            ) from error

    def _resume(self) -> None:
        """Continue from the state that was read, where the run stood."""
        state, self._resumed = self._resumed, None
        self._rows: list[dict[str, float]] = [] if state is None else state['rows']
        self._logger.begin(self._rows)
        self._metrics: dict[str, float] | None = None
        self._update_time, self._has_own_dropout = 0.0, False
        if state is None:
            return
        set_random_state(state['random'])
        self._restore_share(state.get('shares', ()))
        self.epoch = state['epoch']
        self._metrics, self._update_time = state.get('metrics'), state.get('update_time', 0.0)

    def _restore_share(self, shares: Sequence[dict[str, Any]]) -> None:
        """Let each process go on where it was, if as many were stopped within an epoch."""
        self._has_own_dropout = len(shares) == self._ranks.size
        if self._has_own_dropout:
            share = shares[self._ranks.rank]
            set_random_state(share['random'])
            self._learner.load_metrics(share['metrics'])
        elif shares:
            sums = torch.stack([share['metrics']['sums'] for share in shares]).mean(0)
            self._learner.load_metrics({**shares[0]['metrics'], 'sums': sums})

    def _restore_sampler(self, state: torch.Tensor) -> None:
        """Let the sampler go on where it was, if it still draws on the same kind of device."""
        generator = self._sampler.generator
        if len(state) == len(generator.get_state()):
            generator.set_state(state)
            return
        generator.manual_seed(torch_seed(self._cfgs.seed, 'batches', self._learner.step))
        self._draws_anew = True

    def _check_same_dataset(self, run: Path) -> None:
        """Refuse to go on with other data, wherever they lie by now."""
        before, now = read_config(run)['dataset_record'], self._dataset_record
        key = 'name' if before['sha256'] is None else 'sha256'
        if before[key] != now[key]:
            raise UserError(
                f'{run} was trained on another dataset ({before["path"]}); give the same one with '
                'train_cfgs:dataset',
            )

    def _check_same_run(self, state: dict[str, Any]) -> None:
        """Refuse to go on with what the saved state does not fit.

        The number of updates may differ: a run may be made longer.
        """
        resume = self._resumed_run
        if state.get('version') != _STATE_VERSION:
            raise UserError(
                f'{resume} was started with another version of omnisafe-qpt, which draws other '
                'random numbers; resume it with that version, or start a new run',
            )
        # None in runs from before there was such a thing; another version may choose otherwise.
        if state.get('held_out', []) != self._held_out:
            raise UserError(
                f'{resume} holds out other episodes than this version of omnisafe-qpt chooses, so '
                'it would train on them; resume it with the version that it was started with',
            )
        before, now = state['learner_config'], self._learner_settings()
        for name in before:
            if name != 'total_steps' and _plain(before[name]) != _plain(now.get(name)):
                same = 'the same settings'
                if name == 'precision':
                    insisting = {'bf16': 'bf16_emulated'}.get(before[name], before[name])
                    same = f'algo_cfgs:precision {insisting}'
                raise UserError(
                    f'{resume} was trained with {name} = {before[name]}, now it is '
                    f'{now.get(name)}; resume with {same}',
                )
        if len(state['rows']) != state['epoch']:
            raise UserError(
                f'{resume}: its training state is of epoch {state["epoch"]} and has '
                f'{len(state["rows"])} rows: it is damaged or of another run: start a new run',
            )
        done, total = state['learner']['step'], self._cfgs.train_cfgs.total_steps
        # The last updates may be done and their epoch not.
        if done > total or (done == total and state.get('metrics') is None):
            raise UserError(
                f'{resume} has done {done} updates, and {total} are asked for: nothing is left; '
                'make it longer with --total-steps',
            )

    # ------------------------------------------------------------------ what the user reads

    def _describe_changes(self) -> str:
        """Say what is not as it was before the run was stopped, and is not refused."""
        if self._resumed_run is None:
            return ''
        changes = describe_changes(self._resumed_run, self._cfgs.todict())
        for name, now in (('torch', str(torch.__version__)), ('processes', self._ranks.size)):
            before = now if self._resumed is None else self._resumed.get(name, now)
            if before != now:
                changes += f'{", " if changes else ""}{name} {before} -> {now}'
        return changes

    def _describe(self) -> None:
        """Say what is about to happen."""
        data = self._trajectories
        limit = self._deployment.cost_limit
        safe = (data.cost_returns <= limit).float().mean().item()
        self._logger.log(
            f'Dataset {self._dataset_record["path"]}: {len(data.rows)} episodes, '
            f'{data.num_transitions} transitions, {safe:.0%} within cost {limit:g}',
        )
        for note in data.notes:
            self._logger.log(f'Dataset: {note}')
        for warning in self._data_warnings:
            self._logger.log(f'WARNING: {warning}', 'yellow', bold=True)
        if self._held_out:
            self._logger.log(
                f'Held out of training: {len(self._held_out)} more episodes, for omnisafe-qpt '
                'evaluate --offline',
            )
        more = self._describe_data()
        if more:
            self._logger.log(more)
        self._describe_resumed()
        if self._precision_notice:
            self._logger.log(self._precision_notice, 'yellow')
        if self._changes:
            self._logger.log(f'Changed since it was stopped: {self._changes}', 'yellow')
        where = str(self._device)
        if self._ranks.size > 1:
            where += f' in {self._ranks.size} processes'
        target = self._target_return
        asked = '' if target is None else f' for return {target:.4g}'
        self._logger.log(
            f'Training on {where}: {self._cfgs.train_cfgs.total_steps} updates of '
            f'{self._cfgs.algo_cfgs.batch_size} {self._unit}; deployed{asked} at cost limit '
            f'{limit:g}',
        )

    def _describe_resumed(self) -> None:
        """Say from where the run goes on."""
        if self._damage:
            self._logger.log(
                f'WARNING: {self._damage}: the run goes on from the state that was saved before it',
                'yellow',
                bold=True,
            )
        if self._draws_anew:
            self._logger.log('Batches are drawn anew: the run continues on another kind of device')
        if self._learner.step:
            self._logger.log(f'Resumed after epoch {self.epoch}, {self._learner.step} updates')
        elif self._resumed_run is not None:
            self._logger.log('Nothing was saved in this run yet: it starts from the beginning')

    def _summarise(self, row: dict[str, float]) -> None:
        """End with the result, where it is, and what to do next."""
        limit, target = self._deployment.cost_limit, self._actor.target_return
        lines = [f'Run folder   {self._run}', f'Dataset      {self._dataset_record["path"]}']
        guarantee = guarantee_of(self._actor.networks.spec, self._actor.config)
        if guarantee is not None and guarantee.target_cost is None:
            lines.append('Result       no safe target found: every action is zero (in calibration)')
        if math.isfinite(row.get('Metrics/EpRet', math.nan)):
            verdict = 'within' if row['Metrics/EpCost'] <= limit else 'ABOVE'
            asked = '' if target is None else f'   (target {target:.2f})'
            is_final = self._cfgs.train_cfgs.final_evaluate_episodes > 0
            if guarantee is not None and target is not None and not is_final:
                asked = '   (of validation, before target calibration)'
            lines += [
                f'Return       {fixed(row["Metrics/EpRet"], 2)}{asked}',
                f'Normalised   {fixed(row["Metrics/NormRet"], 2)}',
                f'Cost         {row["Metrics/EpCost"]:.2f}   ({verdict} the limit of {limit:g})',
            ]
        if guarantee is not None:
            lines += [
                f'Calibration  {guarantee.mean_statement}',
                f'             {guarantee.share_statement}',
            ]
        best = best_epoch(self._rows, limit)
        if best is not None and best['epoch'] != self.epoch:
            lines.append(
                f'Best epoch   {best["epoch"]}   (validation return '
                f'{best["validation_return"]:.2f}, cost {best["validation_cost"]:.2f}; '
                '--checkpoint best)',
            )
        run = str(self._run)
        imports = ['--import', ','.join(self._modules)] if self._modules else []
        evaluate = ['omnisafe-qpt', 'evaluate', run, '--cost-limit', '20', '--episodes', '10']
        commands = (
            [*evaluate, *imports],
            ['omnisafe', 'eval', run, '--no-render', '--num-episode', '1', *imports],
            ['tensorboard', '--logdir', run],
        )
        lines += ['', 'Next:', *(f'  {shell_command(words)}' for words in commands)]
        # Paths must be copied whole: no wrapping, no markup.
        text = '\n'.join(map(printable, lines))
        Console(soft_wrap=True).print(f'\n{text}', markup=False, highlight=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
