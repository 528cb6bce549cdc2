# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of this package's offline algorithms, with OmniSafe's interface.

OmniSafe's training loop reads no dataset files, cannot resume, and evaluates only policies that act
on the observation alone. So the loop is :class:`omnisafe_qpt.training.trainer.Trainer`. Registry,
logger, command line and evaluator are OmniSafe's.
"""

from __future__ import annotations

import atexit
import signal
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omnisafe.algorithms.offline.base import BaseOffline
from omnisafe.utils.config import Config

from omnisafe_qpt.compat import unwrapped
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.envs.environments import NumpyEnvironment, action_range_of
from omnisafe_qpt.envs.user_modules import modules_of
from omnisafe_qpt.errors import UserError, WriteError, shell_command
from omnisafe_qpt.evaluation.episodes import Evaluation
from omnisafe_qpt.qpt.base_learner import BaseLearner
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.qpt.precision import resolve_precision
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.runs.best import has_stalled
from omnisafe_qpt.runs.checkpoint import versions
from omnisafe_qpt.runs.resume import foreign_hook, resume_command
from omnisafe_qpt.runs.run_log import RunLogger, check_log_dir, check_wandb, folder_name
from omnisafe_qpt.runs.training_state import random_state_kept
from omnisafe_qpt.settings.files import OFFLINE_ENV_ID, load_defaults
from omnisafe_qpt.settings.machine import hardware
from omnisafe_qpt.signals import Stopped, StopSignal
from omnisafe_qpt.training.dataset_loading import DatasetLoader, Task
from omnisafe_qpt.training.distributed import leave_processes, report_errors_from_first_rank
from omnisafe_qpt.training.episode_settings import EpisodeSettings
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
from omnisafe_qpt.training.eta_search import EtaSearch
from omnisafe_qpt.training.run_state import RunState
from omnisafe_qpt.training.summary import log_dataset, log_plan, log_resumed, print_summary
from omnisafe_qpt.training.trainer import Schedule, Trainer, choose_update


class OfflineAlgorithm(BaseOffline):
    """Base class: an offline algorithm of OmniSafe with a learner, sampler and deployable model.

    A subclass provides them through the abstract methods; the algorithm itself is in
    :mod:`omnisafe_qpt.qpt`. All state of training is in the learner, the sampler's generator and
    the global generators, so that a run can be resumed exactly.

    Several processes, started by ``torchrun``, share each batch.
    """

    # Arguments: sizes, units, :meth:`_learner_config`, device and ranks.
    _learner_class: Callable[..., BaseLearner]
    # Elements of a batch, for messages.
    _unit = 'transitions'
    # Advice after losses that are not finite.
    _remedy = 'lower learning rates'
    # Keys of :meth:`_evaluation_metrics`.
    _evaluation_keys: tuple[str, ...] = ()

    def __init__(self, env_id: str, cfgs: Config) -> None:
        """Initialize an instance of :class:`OfflineAlgorithm`."""
        self._ranks = Ranks.from_process_group()
        self._has_learned = False
        with report_errors_from_first_rank():
            super().__init__(env_id, cfgs)

    def _init_env(self) -> None:
        """Make the environment, and read the dataset."""
        train_cfgs = self._cfgs.train_cfgs
        if self._device.type == 'cpu':
            # OmniSafe has already divided it into this process's share.
            torch.set_num_threads(train_cfgs.torch_threads)
        self._set_determinism()
        if self._cfgs.logger_cfgs.use_wandb and self._ranks.is_first:
            check_wandb()
        if self._ranks.is_first:
            check_log_dir(self._cfgs)
        self._episodes = EpisodeSettings.from_config(
            train_cfgs, has_simulator=self._env_id != OFFLINE_ENV_ID
        )
        self._deployment = self._make_deployment()
        # Before the simulator, which may take seconds to start.
        loader = DatasetLoader(self._env_id, train_cfgs, self._ranks)
        task = None if self._env_id == OFFLINE_ENV_ID else self._make_task()
        self._data = loader.load(task, self._deployment.cost_limit, self._device)
        self._trajectories = self._data.trajectories

    def _make_task(self) -> Task:
        """Make the environment for its spaces and horizon; episodes run in others."""
        self._env = NumpyEnvironment(self._env_id)
        with random_state_kept():
            self._env.check()
        env = self._env.env
        return Task(
            horizon=self._env.horizon,
            obs_dim=env.observation_space.shape[0],
            act_dim=env.action_space.shape[0],
            action_range=action_range_of(env),
        )

    def _set_determinism(self) -> None:
        """Undo OmniSafe's global determinism on a GPU unless it is requested.

        It disables cuDNN and uses slower kernels, for example in the backward pass of attention. On
        a CPU the same operations are deterministic anyway.
        """
        if self._device.type == 'cuda' and not self._cfgs.train_cfgs.deterministic:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.enabled = True
        # Filling new tensors with NaN detects reads of uninitialised memory. There are none here,
        # and it costs time in each step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def _init_model(self) -> None:
        """Build the learner in the dataset's units."""
        config, self._precision_notice = self._learner_config(), ''
        if hasattr(config, 'precision'):
            precision, notice = resolve_precision(config.precision, self._device)
            if notice:  # logged instead of the learner's warning
                config, self._precision_notice = replace(config, precision=precision), notice
        self._learner = self._learner_class(
            self._trajectories.obs_dim,
            self._trajectories.act_dim,
            self._make_scaling(),
            config,
            self._device,
            self._ranks,
        )

    def _init(self) -> None:
        """Set up the sampler, and read the state to resume from."""
        train_cfgs = self._cfgs.train_cfgs
        sampler = self._make_sampler(
            batch_size=self._cfgs.algo_cfgs.batch_size,
            seed=self._cfgs.seed,  # OmniSafe's seed differs between processes
            shard=(self._ranks.rank, self._ranks.size),
        )
        self._sampler = PrefetchSampler(sampler, self._device) if self._data.is_on_host else sampler
        self._update = self._make_update(train_cfgs.accelerate)
        self._state = RunState(
            self._learner,
            self._sampler,
            self._data,
            self._cfgs.seed,
            self._ranks,
            None if train_cfgs.resume is None else Path(train_cfgs.resume),
        )
        self._state.load(train_cfgs.total_steps)
        rows, patience = self._state.progress.rows, self._episodes.patience
        if has_stalled(rows, self._deployment.cost_limit, patience):
            raise UserError(
                f'{train_cfgs.resume} stopped early: no better epoch in the last {patience}; '
                'to train on, raise train_cfgs:patience, or set it to 0',
            )

    def _make_update(self, accelerate: str) -> Callable[[], None]:
        return choose_update(accelerate, self._cfgs.algo, self._learner, self._sampler)

    # ------------------------------------------------------------------ what a subclass says

    def _make_scaling(self) -> Scaling:
        """Return the units that the networks are trained in."""
        return Scaling.from_data(self._trajectories, self._deployment.cost_limit)

    @abstractmethod
    def _make_deployment(self) -> DeploymentConfig:
        """Return the settings of deployment from the configuration."""

    @abstractmethod
    def _learner_config(self) -> Any:
        """Return the settings of the learner from the configuration."""

    @abstractmethod
    def _make_sampler(self, **options: Any) -> Any:
        """Return the sampler of batches.

        Args:
            options (Any): ``batch_size``, ``seed`` and ``shard``, as
                :class:`omnisafe_qpt.data.windows.WindowSampler` takes them.
        """

    @abstractmethod
    def _make_networks(self, spec: dict[str, Any]) -> Deployable:
        """Return the networks to deploy.

        Args:
            spec (dict[str, Any]): Further entries of the checkpoint's spec.
        """

    def _evaluation_metrics(self, evaluation: Evaluation) -> dict[str, float]:
        """Return metrics of an evaluation other than returns, costs and lengths."""
        del evaluation
        return {}

    def _describe_data(self) -> str:
        """Return one more line on the data for the start of a run; may be empty."""
        return ''

    @property
    def _target_return(self) -> float | None:
        """Target return of deployment; None for a policy without one."""
        return None

    def _train(self) -> None:
        """Do one update; OmniSafe requires this method, the trainer does not use it."""
        self._update()

    # ------------------------------------------------------------------ the run's log

    def _init_log(self) -> None:
        """Register the metrics of all algorithms.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Metrics/EpRet            | Return of the deployed policy.                           |
        +--------------------------+----------------------------------------------------------+
        | Metrics/EpCost           | Cost of the deployed policy.                             |
        +--------------------------+----------------------------------------------------------+
        | Metrics/EpLen            | Length of its episodes.                                  |
        +--------------------------+----------------------------------------------------------+
        | Metrics/NormRet          | Normalised return, Eq. 15, not times 100.                |
        +--------------------------+----------------------------------------------------------+
        | Metrics/NormCost         | Normalised cost, Eq. 16; at most 1 is safe.              |
        +--------------------------+----------------------------------------------------------+
        | Validation/EpRet, EpCost | Return and cost by which the best epoch is chosen.       |
        +--------------------------+----------------------------------------------------------+
        | Time/UpdatesPerSecond    | Updates per second, evaluation left out.                 |
        +--------------------------+----------------------------------------------------------+

        ``Metrics/`` are those of validation, except in the last epoch, which ends with episodes of
        other seeds. Without episodes their columns are left out. The learner's metrics, such as
        ``Loss/``, are means over all updates of the epoch.
        """
        self._cfgs.recurisve_update({'dataset_record': self._data.record})
        self._changes = self._state.describe_changes(self._cfgs.todict())
        # The resolved setting, for later runs that start from these settings.
        self._cfgs.train_cfgs.resume = None
        if self._state.resumed_run is not None:
            self._cfgs.logger_cfgs.log_dir = str(self._state.resumed_run.parents[1])
        self._logger = RunLogger(
            self._cfgs,
            # The short name: a path would nest folders.
            f'{self._cfgs.exp_name}-{folder_name(self._data.record["name"])}',
            self._state.resumed_run,
        )
        self._run = Path(self._ranks.share(self._logger.log_dir))
        for key in (
            'Train/Epoch',
            'TotalSteps',
            *self._episodes.columns(self._evaluation_keys),
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

        SIGINT, SIGTERM and SIGHUP save the state, print the resume command and end the run; a
        second Ctrl-C ends it at once.

        Returns:
            Mean return, cost and length of an episode in the last evaluation, as in the last row of
            ``progress.csv``; None each for a run without episodes.

        Raises:
            UserError: If a loss or a weight is not finite; the last good checkpoint is kept.
            Stopped: After SIGINT, a kind of KeyboardInterrupt.
            SystemExit: After SIGTERM or SIGHUP, with status 143 or 129.
        """
        if self._has_learned:
            raise UserError(
                f'this agent has been trained or stopped; to continue, make another one with '
                f'train_cfgs:resume {shell_command([str(self._run)])}',
            )
        self._has_learned = True
        notice = 'Saving the state to resume from; Ctrl-C again ends at once'
        stop_signal = StopSignal(notice if self._ranks.is_first else '')
        self._evaluation = self._make_evaluation(stop_signal)
        progress = self._state.progress
        try:
            with stop_signal:
                self._logger.begin(progress.rows)
                self._describe()
                self._make_trainer(stop_signal).train()
        except Stopped as stopped:
            if stopped.signal != signal.SIGINT:
                raise SystemExit(stopped.exit_status) from stopped
            raise
        except WriteError as error:
            raise WriteError(
                f'{error}; the state saved before is intact, to resume from it: '
                f'{self._resume_command()}',
            ) from error
        finally:
            self.epoch = progress.epoch
            self._logger.close()
        row = self._ranks.share(progress.rows[-1] if progress.rows else None)
        if self._ranks.is_first:
            dataset = self._data.record['path']
            print_summary(self._run, dataset, progress.rows, self._evaluation, self._modules)
        atexit.register(leave_processes)
        return row.get('Metrics/EpRet'), row.get('Metrics/EpCost'), row.get('Metrics/EpLen')

    def _make_evaluation(self, stop_signal: StopSignal) -> EpochEvaluation:
        return EpochEvaluation(
            make_networks=lambda: self._make_networks(
                {**self._spec, 'step': self._learner.step, **self._state.progress.records()}
            ),
            env_id=self._env_id,
            horizon=self._data.task.horizon,
            settings=self._episodes,
            seed=self._cfgs.seed,
            deployment=self._deployment,
            data=self._data,
            more_metrics=self._evaluation_metrics,
            stop_signal=stop_signal,
        )

    def _make_trainer(self, stop_signal: StopSignal) -> Trainer:
        return Trainer(
            update=self._update,
            learner=self._learner,
            sampler=self._sampler,
            schedule=Schedule(
                self._cfgs.train_cfgs.total_steps,
                self._cfgs.algo_cfgs.steps_per_epoch,
                self._cfgs.logger_cfgs.save_model_freq,
            ),
            state=self._state,
            evaluation=self._evaluation,
            log=self._logger,
            run=self._run,
            ranks=self._ranks,
            stop_signal=stop_signal,
            resume_command=self._resume_command(),
            remedy=self._remedy,
            eta_search=self._make_eta_search(stop_signal),
        )

    def _make_eta_search(self, stop_signal: StopSignal) -> EtaSearch | None:
        """Return what chooses the weights of the penalty terms; None if they stay."""
        del stop_signal
        return None

    def _describe(self) -> None:
        """Log the start of the run."""
        log, limit = self._logger, self._deployment.cost_limit
        log_dataset(log, self._data, limit, self._describe_data())
        log_resumed(log, self._state, self._learner.step)
        if self._precision_notice:
            log.log(self._precision_notice, 'yellow')
        if self._changes:
            log.log(f'Changed since it was stopped: {self._changes}', 'yellow')
        log_plan(
            log,
            self._device,
            self._ranks,
            updates=self._cfgs.train_cfgs.total_steps,
            batch=f'{self._cfgs.algo_cfgs.batch_size} {self._unit}',
            target_return=self._target_return,
            cost_limit=limit,
        )

    # ------------------------------------------------------------------ what a run records

    @property
    def _modules(self) -> list[str]:
        """The user's modules that register the environment."""
        recorded = self._cfgs.train_cfgs.todict().get('import')
        return modules_of(recorded, self._env_module)

    @property
    def _env_module(self) -> str:
        if self._env_id == OFFLINE_ENV_ID:
            return 'omnisafe_qpt.envs.offline'
        return type(unwrapped(self._env.env)).__module__

    def _resume_command(self) -> str:
        hook = foreign_hook(self._cfgs.todict(), load_defaults(self._env_id, self._cfgs.algo))
        return resume_command(
            self._cfgs.algo, self._env_id, self._run, self._modules, hook is not None
        )

    @cached_property
    def _spec(self) -> dict[str, Any]:
        """The deployment records of the checkpoint, in plain values."""
        frontier = self._trajectories.frontier
        return {
            'algo': self._cfgs.algo,
            'env_id': self._env_id,
            'env_module': self._env_module,
            'horizon': self._data.task.horizon,
            'action_range': self._data.task.action_range,
            'frontier': {'costs': list(frontier.costs), 'returns': list(frontier.returns)},
            'worst_cost': self._data.worst_cost,
            'reference_returns': list(self._data.reference_returns),
            'deployment': asdict(self._deployment),
            'seed': self._cfgs.seed,
            'dataset': self._data.record,
            'held_out': self._data.held_out,
            'versions': versions(),
            'hardware': hardware(self._device),
            'config': self._cfgs.todict(),
        }

    @property
    def cost_limit(self) -> float:
        """The cost limit of training, for OmniSafe's plots."""
        return self._deployment.cost_limit
