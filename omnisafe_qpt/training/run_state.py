# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The state of a run: saved, verified and restored, for an exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.data.streams import torch_seed
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.base_learner import BaseLearner
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runs.records import read_config
from omnisafe_qpt.runs.resume import describe_changes
from omnisafe_qpt.runs.training_state import (
    load_training_state,
    random_state,
    random_state_kept,
    save_training_state,
    set_random_state,
)


if TYPE_CHECKING:  # imports OmniSafe
    from omnisafe_qpt.training.dataset_loading import TrainingData


# Fields of the training state on random draws and network sizes. Older states lack them.
_STATE_VERSION = 1


@dataclass
class Progress:
    """Progress of a run.

    Args:
        epoch (int): The current epoch; between epochs, the last one done.
        rows (list[dict[str, float]]): The rows of ``progress.csv``, one for each epoch done.
        metrics (dict[str, float] or None): The learner's metrics of an epoch whose updates are done
            but not its episodes.
        update_time (float): Seconds of updates in the current epoch.
        etas (dict[str, Any]): Pairs of ``eta_reward`` and ``eta_cost`` that were ``tried`` and the
            ``chosen`` one; see :class:`omnisafe_qpt.training.eta_search.EtaSearch`.
    """

    epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] | None = None
    update_time: float = 0.0
    etas: dict[str, Any] = field(default_factory=dict)

    def records(self) -> dict[str, Any]:
        """Return what a checkpoint records of it."""
        return {'etas': deepcopy(self.etas)} if 'chosen' in self.etas else {}


class RunState:
    """The state that an exact resume of a run needs.

    It is read in two steps: :meth:`load` before anything in the run's folder changes, and
    :meth:`restore_random_state` just before the first update.

    Args:
        learner (BaseLearner): The learner.
        sampler (BatchSampler or PrefetchSampler): The source of its batches.
        data (TrainingData): The dataset, which must stay the same.
        seed (int): Of the run.
        ranks (Ranks): The processes that train together.
        resumed_run (Path, optional): The folder of the run that is resumed. Defaults to None.

    Attributes:
        progress (Progress): Progress of the run; the trainer updates it.
        resumed_run (Path or None): As given.
        damage (str): Why the previous state was used instead of the last one; empty if the last one
            was used.
        draws_anew (bool): Whether batches are drawn from a new generator.
    """

    def __init__(
        self,
        learner: BaseLearner,
        sampler: BatchSampler | PrefetchSampler,
        data: TrainingData,
        seed: int,
        ranks: Ranks,
        resumed_run: Path | None = None,
    ) -> None:
        """Initialize an instance of :class:`RunState`."""
        self._learner, self._sampler = learner, sampler
        self._data, self._seed, self._ranks = data, seed, ranks
        self.resumed_run = resumed_run
        self.progress = Progress()
        self.damage, self.draws_anew = '', False
        self._loaded: dict[str, Any] | None = None
        self._has_own_dropout = False

    # ------------------------------------------------------------------ save

    def save(self, run: Path, epochs_done: int, shares: Sequence[dict[str, Any]] = ()) -> None:
        """Write the state to resume from.

        Args:
            run (Path): The run's folder.
            epochs_done (int): Epochs that are logged; more updates may be done.
            shares (Sequence[dict[str, Any]], optional): Each process's own state within an epoch.
                Defaults to none, which suffices between epochs.
        """
        save_training_state(
            run,
            {
                'version': _STATE_VERSION,
                'epoch': epochs_done,
                'metrics': self.progress.metrics,
                'update_time': self.progress.update_time,
                'etas': self.progress.etas,
                'learner': self._learner.state_dict(),
                'learner_config': self._learner_settings(),
                'sampler': self._sampler.generator.get_state(),
                'random': random_state(),
                'shares': list(shares),
                'rows': self.progress.rows,
                'dataset': self._data.record,
                'held_out': self._data.held_out,
                'torch': str(torch.__version__),
                'processes': self._ranks.size,
            },
            keeps_last=not self.damage,  # it is the damaged one; the previous one is intact
        )
        self.damage = ''

    def gather_shares(self) -> list[dict[str, Any]]:
        """Return each process's own state within an epoch; collective."""
        return self._ranks.gather(
            {'random': random_state(), 'metrics': self._learner.state_dict()['metrics']},
        )

    def _learner_settings(self) -> dict[str, Any]:
        """Return the learner's configuration with its precision resolved for this device."""
        settings = asdict(self._learner.config)
        if isinstance(self._learner, Learner):
            settings['precision'] = self._learner.precision
        return settings

    # ------------------------------------------------------------------ restore

    def load(self, total_steps: int) -> None:
        """Read and verify the state to resume from, if there is one, and load it into the learner.

        Args:
            total_steps (int): Requested number of updates.

        Raises:
            UserError: If the state cannot be read or does not fit.
        """
        if self.resumed_run is None:
            return
        self._check_same_dataset(self.resumed_run)
        state, self.damage = load_training_state(self.resumed_run)
        if state is None:
            return
        etas = state.get('etas', {})
        if 'chosen' in etas and isinstance(self._learner, Learner):
            self._learner.config = replace(
                self._learner.config,
                eta_reward=etas['chosen']['eta_reward'],
                eta_cost=etas['chosen']['eta_cost'],
            )
        self._check_same_run(state, total_steps)
        self._restore_learner(state)
        self._loaded = state
        self.progress = Progress(
            state['epoch'],
            state['rows'],
            state.get('metrics'),
            state.get('update_time', 0.0),
            etas,
        )

    def _restore_learner(self, state: dict[str, Any]) -> None:
        """Load the learner and the sampler, and verify the random states.

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
        except Exception as error:  # torch raises many types
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            raise UserError(
                f'{self.resumed_run}: its training state does not fit its settings ({reason}); it '
                'is damaged or from another run; start a new run',
            ) from error

    def restore_random_state(self) -> None:
        """Restore the random number generators."""
        state, self._loaded = self._loaded, None
        self._has_own_dropout = False
        if state is not None:
            set_random_state(state['random'])
            self._restore_share(state.get('shares', ()))

    def _restore_share(self, shares: Sequence[dict[str, Any]]) -> None:
        """Restore each process's own state, if as many processes stopped within an epoch."""
        self._has_own_dropout = len(shares) == self._ranks.size
        if self._has_own_dropout:
            share = shares[self._ranks.rank]
            set_random_state(share['random'])
            self._learner.load_metrics(share['metrics'])
        elif shares:
            sums = torch.stack([share['metrics']['sums'] for share in shares]).mean(0)
            self._learner.load_metrics({**shares[0]['metrics'], 'sums': sums})

    def _restore_sampler(self, state: torch.Tensor) -> None:
        """Restore the sampler, if it still draws on the same type of device."""
        generator = self._sampler.generator
        if len(state) == len(generator.get_state()):
            generator.set_state(state)
            return
        generator.manual_seed(torch_seed(self._seed, 'batches', self._learner.step))
        self.draws_anew = True

    def separate_dropout(self) -> None:
        """Seed dropout differently in each process, at the start of an epoch.

        All but the first are seeded again at each epoch, so that any number of processes can resume
        a run without their states.
        """
        if not self._ranks.is_first and not self._has_own_dropout:
            epoch = self.progress.epoch
            torch.manual_seed(torch_seed(self._seed, 'dropout', self._ranks.rank, epoch))
        self._has_own_dropout = False

    # ------------------------------------------------------------------ verify

    def _check_same_dataset(self, run: Path) -> None:
        """Check that the data is the same; its path may have changed."""
        before, now = read_config(run)['dataset_record'], self._data.record
        key = 'name' if before['sha256'] is None else 'sha256'
        if before[key] != now[key]:
            raise UserError(
                f'{run} was trained on another dataset ({before["path"]}); give the same one with '
                'train_cfgs:dataset',
            )

    def _check_same_run(self, state: dict[str, Any], total_steps: int) -> None:
        """Check that the saved state fits the settings.

        The number of updates may differ, as a run may be extended.
        """
        resume = self.resumed_run
        if state.get('version') != _STATE_VERSION:
            raise UserError(
                f'{resume} was started with another version of omnisafe-qpt, which draws different '
                'random numbers; resume it with that version, or start a new run',
            )
        # None in older runs, which held out no episodes; other versions may choose differently.
        if state.get('held_out', []) != self._data.held_out:
            raise UserError(
                f'{resume} holds out different episodes than this version of omnisafe-qpt, so '
                'it would train on them; resume it with the version that started it',
            )
        self._check_same_settings(state['learner_config'])
        if len(state['rows']) != state['epoch']:
            raise UserError(
                f'{resume}: its training state is for epoch {state["epoch"]} and has '
                f'{len(state["rows"])} rows; it is damaged or from another run; start a new run',
            )
        done = state['learner']['step']
        # The last updates may be done, but not their epoch.
        if done > total_steps or (done == total_steps and state.get('metrics') is None):
            raise UserError(
                f'{resume} has done {done} updates, and {total_steps} are requested: nothing is '
                'left; extend it with --total-steps',
            )

    def _check_same_settings(self, before: dict[str, Any]) -> None:
        now = self._learner_settings()
        for name in before:
            if name != 'total_steps' and _plain(before[name]) != _plain(now.get(name)):
                same = 'the same settings'
                if name == 'precision':
                    insisting = {'bf16': 'bf16_emulated'}.get(before[name], before[name])
                    same = f'algo_cfgs:precision {insisting}'
                raise UserError(
                    f'{self.resumed_run} was trained with {name} = {before[name]}, now it is '
                    f'{now.get(name)}; resume with {same}',
                )

    def describe_changes(self, config: dict[str, Any]) -> str:
        """Return the allowed changes of settings since the run was stopped, as text.

        Args:
            config (dict[str, Any]): The complete configuration.
        """
        if self.resumed_run is None:
            return ''
        changes = describe_changes(self.resumed_run, config)
        for name, now in (('torch', str(torch.__version__)), ('processes', self._ranks.size)):
            before = now if self._loaded is None else self._loaded.get(name, now)
            if before != now:
                changes += f'{", " if changes else ""}{name} {before} -> {now}'
        return changes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
