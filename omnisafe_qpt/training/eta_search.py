# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the weights of the penalty terms within a run, without a simulator."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.sampling import BatchSampler
from omnisafe_qpt.evaluation.off_policy.estimate import TooFewEpisodes
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.runs.training_state import random_state_kept
from omnisafe_qpt.signals import StopSignal


if TYPE_CHECKING:  # imports OmniSafe
    from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation


# Another pair must be better than the run's own by this share of the range of returns: estimates of
# the return err by about 1 %.
_MARGIN = 0.02
# The pairs that are tried, as multiples of the run's own eta_reward and eta_cost. On each of the
# measured datasets another one is the best (benchmarks/OFF_POLICY.md).
_FACTORS = ((1.0, 1.0), (3.0, 3.0), (3.0, 1.0), (1.0, 0.3))


class EtaSearch:
    """Chooses ``eta_reward`` and ``eta_cost`` in the middle of a run.

    By then the critics are of use, so that half a run is enough to compare. From the same state the
    rest of the run is trained with each pair. Each policy's return at several cost limits is
    estimated in learned dynamics, where the target cost is chosen as by target calibration. The
    best pair trains the run from that state on.

    Args:
        learner (Learner): The learner of the run.
        sampler (BatchSampler or PrefetchSampler): The source of its batches.
        make_update (Callable): Returns a function that does one update, with the learner's weights
            of the terms.
        evaluation (EpochEvaluation): Estimates the policy.
        total_steps (int): Updates of the run.
        log (Callable[[str], None]): Prints a line.
        stop_signal (StopSignal): Requests the end of the run.

    Attributes:
        at (int): Updates before the choice.
    """

    def __init__(
        self,
        learner: Learner,
        sampler: BatchSampler | PrefetchSampler,
        make_update: Callable[[], Callable[[], None]],
        evaluation: EpochEvaluation,
        total_steps: int,
        log: Callable[[str], None],
        stop_signal: StopSignal,
    ) -> None:
        """Initialize an instance of :class:`EtaSearch`."""
        self._learner, self._sampler, self._make_update = learner, sampler, make_update
        self._evaluation, self._total_steps = evaluation, total_steps
        self._log, self._stop_signal = log, stop_signal
        self.at = total_steps // 2

    def choose(self, record: dict[str, Any], save: Callable[[], None]) -> Callable[[], None]:
        """Choose the weights, and set those of the learner.

        Args:
            record (dict[str, Any]): The progress of the search: ``tried``, the pairs with the
                estimated returns. It is continued, and gets ``chosen``.
            save (Callable): Saves the run's state, after each pair.

        Returns:
            The function that does one update with them.

        Raises:
            Stopped: If a signal comes; the learner has the state of before.
        """
        tried = record.setdefault('tried', [])
        pairs = self._pairs()
        try:
            self._evaluation.check_estimable()
            for pair in pairs[len(tried) :]:
                with self._rewound():
                    returns = self._try(pair)
                tried.append({**pair, 'returns': returns})
                self._log(f'{show_pair(pair)}: {self._show_returns(returns)}')
                save()
        except TooFewEpisodes as error:
            self._log(f'{show_pair(pairs[0])} are kept: {error}')
            tried[:] = []
        margin = _MARGIN * self._evaluation.return_range
        chosen = best_trial(tried, margin) if tried else pairs[0]
        record['chosen'] = {name: chosen[name] for name in pairs[0]}
        if tried:
            found = any(each is not None for trial in tried for each in trial['returns'])
            reason = '' if found else ', as no estimate is reliable'
            self._log(f'Going on with {show_pair(record["chosen"])}{reason}')
        self._set(record['chosen'])
        return self._make_update()

    def _pairs(self) -> list[dict[str, float]]:
        """Return the pairs to try, the run's own first. A term that is off has no multiples."""
        config = self._learner.config
        pairs = dict.fromkeys(
            (
                _times(config.eta_reward, reward if config.use_reward_critic else 1.0),
                _times(config.eta_cost, cost if config.use_cost_critic else 1.0),
            )
            for reward, cost in _FACTORS
        )
        return [{'eta_reward': reward, 'eta_cost': cost} for reward, cost in pairs]

    def _set(self, pair: dict[str, float]) -> None:
        self._learner.config = replace(
            self._learner.config, eta_reward=pair['eta_reward'], eta_cost=pair['eta_cost']
        )

    def _try(self, pair: dict[str, float]) -> list[float | None]:
        """Train the rest of the run, and estimate the policy's return at each limit."""
        self._set(pair)
        update = self._make_update()
        progress = ProgressReporter(
            f'Trying {show_pair(pair)}', self._total_steps, self._learner.step, 'updates'
        )
        with progress.shown():
            while self._learner.step < self._total_steps:
                self._stop_signal.check()
                update()
                progress.update(self._learner.step)
        if self._learner.broken():
            return [None] * len(self._evaluation.estimated_limits)
        self._evaluation.refresh()
        return self._evaluation.estimate_returns()

    @contextmanager
    def _rewound(self) -> Iterator[None]:
        """Restore the learner, its batches and the random state after the block."""
        learner, sampler = self._learner, self._sampler
        config, state = learner.config, deepcopy(learner.state_dict())
        batches = sampler.generator.get_state()
        try:
            with random_state_kept():
                yield
        finally:
            if isinstance(sampler, PrefetchSampler):
                sampler.close()
            sampler.generator.set_state(batches)
            learner.config = config
            learner.load_state_dict(state)

    def _show_returns(self, returns: list[float | None]) -> str:
        found = ', '.join('-' if each is None else f'{each:.4g}' for each in returns)
        limits = ', '.join(f'{limit:g}' for limit in self._evaluation.estimated_limits)
        return f'estimated return {found} at cost limits {limits}'


def best_trial(tried: list[dict[str, Any]], margin: float) -> dict[str, Any]:
    """Return the pair whose estimate is within most limits; then that of the highest mean return.

    Args:
        tried (list[dict[str, Any]]): The pairs with their ``returns``; None where the estimate is
            not reliable or over the limit. The first one is the run's own.
        margin (float): Difference of mean returns up to which the run's own pair is kept.
    """

    def rank(trial: dict[str, Any]) -> tuple[int, float]:
        known = [each for each in trial['returns'] if each is not None]
        return len(known), statistics.fmean(known) if known else 0.0

    best = max(tried, key=rank)
    (limits, mean), (own_limits, own_mean) = rank(best), rank(tried[0])
    return tried[0] if limits == own_limits and mean - own_mean <= margin else best


def _times(eta: float, factor: float) -> float:
    return float(f'{eta * factor:.6g}')  # as one would type it: 0.3, not 0.30000000000000004


def show_pair(pair: dict[str, float]) -> str:
    """Format a pair for a message."""
    return f'eta_reward {pair["eta_reward"]:g}, eta_cost {pair["eta_cost"]:g}'


def show_choice(record: dict[str, Any]) -> str:
    """Format the record of a finished search."""
    return f'{show_pair(record["chosen"])}, chosen among {len(record["tried"])} pairs'
