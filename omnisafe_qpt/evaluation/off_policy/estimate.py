# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The estimate of a policy's return and cost at each level, and its reliability."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnisafe_qpt.data.holdout import choose_held_out, split_off
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.off_policy.backtest import Backtest, backtest
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig, DynamicsEnsemble
from omnisafe_qpt.evaluation.off_policy.rollouts import (
    Imagined,
    Level,
    exogenous_series,
    imagine,
)
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable


# Model rollouts of each ensemble member at each level.
DEFAULT_PARTICLES = 4

RELIABLE, DOUBTFUL, NOT_USABLE = 'reliable', 'doubtful', 'not usable'

# With fewer episodes the dynamics cannot be tested.
_FEWEST_EPISODES = 20
# Share of the episodes held out to test the model.
_HELD_OUT_SHARE = 0.1
# A held-out episode counts for a limit if its predicted cost is at most this multiple of the limit;
# at least this many are needed.
_NEAR = 1.5
_FEWEST_NEAR = 10
# With fewer episodes no estimate is reliable.
RELIABLE_EPISODES = round(_FEWEST_NEAR / _HELD_OUT_SHARE)
# Standard errors of the mean error to add to a bound, 95 % one-sided.
_QUANTILE = 1.68
# Largest share of novel steps in model rollouts; in the data it is 1 %.
_MOST_NOVEL = 0.05


# Called with the current phase, the amount done and its total.
PhaseProgress = Callable[[str, int, int], None]


class TooFewEpisodes(UserError):
    """The dataset is too small to train and test a dynamics model."""


@dataclass(frozen=True)
class Judgement:
    """Assessment of one level at one cost limit.

    Args:
        verdict (str): ``reliable``, ``doubtful`` or ``not usable``.
        reason (str): Why it is not reliable; empty if it is.
        cost_bound (float): Upper bound of the mean cost.
    """

    verdict: str
    reason: str
    cost_bound: float


@dataclass(frozen=True)
class OffPolicyEstimate:
    """Model rollouts at each level, and the test of the model.

    Args:
        levels (tuple[Level, ...]): Targets of the policy.
        imagined (tuple[Imagined, ...]): Model rollouts of each level.
        test (Backtest): The test on held-out episodes.
    """

    levels: tuple[Level, ...]
    imagined: tuple[Imagined, ...]
    test: Backtest

    def near(self, cost_limit: float) -> np.ndarray:
        """Return which held-out episodes count for a limit, (H,) bool.

        Args:
            cost_limit (float): Cost of an episode.
        """
        return self.test.predicted_costs <= _NEAR * cost_limit

    def interval(self, what: str, index: int, cost_limit: float) -> tuple[float, float]:
        """Return an interval for a level's true mean, from the lowest to the highest member.

        It is widened on both sides by the mean error on held-out episodes near the limit and its 95
        % margin, where these widen it.

        Args:
            what (str): ``returns`` or ``costs``.
            index (int): Of the level.
            cost_limit (float): Cost of an episode.
        """
        means = getattr(self.imagined[index], what).mean(1)
        errors = getattr(self.test, what) - getattr(self.test, f'predicted_{what}')
        errors = errors[self.near(cost_limit)]
        if len(errors) < 2:
            return -math.inf, math.inf
        margin = _QUANTILE * errors.std(ddof=1) / len(errors) ** 0.5
        low = float(means.min() + min(0.0, errors.mean() - margin))
        high = float(means.max() + max(0.0, errors.mean() + margin))
        return (max(0.0, low) if what == 'costs' else low), high

    def judge(self, index: int, cost_limit: float) -> Judgement:
        """Assess a level at a limit.

        Args:
            index (int): Of the level.
            cost_limit (float): Cost of an episode that is allowed.
        """
        near, imagined = int(self.near(cost_limit).sum()), self.imagined[index]
        bound = self.interval('costs', index, cost_limit)[1]
        novel = float(imagined.novel.mean())
        if novel > _MOST_NOVEL:
            reason = f'{novel:.0%} of the policy steps are outside the data'
            return Judgement(NOT_USABLE, reason, bound)
        if near < _FEWEST_NEAR:
            reason = f'only {near} held-out episodes are predicted near this limit'
            return Judgement(DOUBTFUL, reason, bound)
        return Judgement(RELIABLE, '', bound)

    def own_cost(self, index: int, least: float) -> float:
        """Return the cost near which the held-out episodes count for a level, for any limit.

        It is the level's own, or what is needed for enough episodes.

        Args:
            index (int): Of the level.
            least (float): Lowest such cost, for levels that cost less.
        """
        predicted = np.sort(self.test.predicted_costs)
        enough = float(predicted[min(_FEWEST_NEAR, len(predicted)) - 1]) / _NEAR
        return max(least, enough, float(self.imagined[index].costs.mean(1).max()))

    def bound(self, index: int, least: float) -> tuple[float | None, str]:
        """Return the estimated upper bound of a level's mean cost, for any limit.

        It uses the error on held-out episodes near the level's own cost.

        Args:
            index (int): Of the level.
            least (float): See :meth:`own_cost`.

        Returns:
            The bound and an empty reason, or None and why there is none.
        """
        judgement = self.judge(index, self.own_cost(index, least))
        reliable = judgement.verdict == RELIABLE
        return (judgement.cost_bound, '') if reliable else (None, judgement.reason)

    def choose(self, cost_limit: float, indices: Iterable[int] | None = None) -> int | None:
        """Return the reliable level of the highest return whose bound is within the limit, if any.

        Args:
            cost_limit (float): Cost of an episode that is allowed.
            indices (Iterable[int], optional): Levels to choose among. Defaults to None, all.
        """
        judged = {
            index: self.judge(index, cost_limit)
            for index in (range(len(self.levels)) if indices is None else indices)
        }
        safe = [
            index
            for index, each in judged.items()
            if each.verdict == RELIABLE and each.cost_bound <= cost_limit
        ]
        return max(safe, key=lambda index: self.imagined[index].returns.mean(), default=None)


class OffPolicyEvaluator:
    """Evaluates deployed policies in dynamics learned from data.

    A tenth of the episodes is held out of the dynamics and tests them.

    Args:
        trajectories (Trajectories): Episodes, on the device to use; actions in [-1, 1].
        horizon (int): Largest number of steps in an episode.
        seed (int, optional): Seed of all random draws. Defaults to 0.
        particles (int, optional): P, model rollouts of each member at each level. Defaults to
            :data:`DEFAULT_PARTICLES`.
        dynamics (DynamicsConfig, optional): The dynamics' settings. Defaults to those for the
            horizon.
        on_progress (Callable, optional): Called with the current phase, the amount done and its
            total.

    Attributes:
        seed (int): As given.
        worst_cost (float): Cost of the worst episode.

    Raises:
        TooFewEpisodes: If the dataset is too small.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        horizon: int,
        seed: int = 0,
        particles: int = DEFAULT_PARTICLES,
        dynamics: DynamicsConfig | None = None,
        on_progress: PhaseProgress | None = None,
    ) -> None:
        """Initialize an instance of :class:`OffPolicyEvaluator`."""
        check_episodes(trajectories)
        dynamics = dynamics or DynamicsConfig.for_horizon(horizon)
        self._horizon, self.seed = horizon, seed
        self.worst_cost = trajectories.cost_returns.max().item()
        known, self._held_out = split_off(
            trajectories, choose_held_out(trajectories, _HELD_OUT_SHARE)
        )
        self._model = DynamicsEnsemble.fit(
            known, dynamics, seed, _phase('Learning dynamics', on_progress)
        )
        random = np.random.default_rng(seed)
        first = random.integers(len(trajectories.rows), size=dynamics.members * particles)
        chosen = trajectories.select(torch.from_numpy(first).to(trajectories.table.device))
        self._starts = chosen.table[chosen.rows.starts, : chosen.obs_dim]
        self._exogenous = exogenous_series(chosen, dynamics.exogenous, horizon)

    def roll_out(
        self,
        networks: Deployable,
        config: DeploymentConfig,
        levels: Sequence[Level],
        on_progress: PhaseProgress | None = None,
    ) -> list[Imagined]:
        """Roll a policy out at each level, without the test.

        Args:
            networks (Deployable): The trained model, of any algorithm.
            config (DeploymentConfig): Settings of deployment.
            levels (Sequence[Level]): Targets of the policy.
            on_progress (Callable, optional): As above.
        """
        return imagine(
            networks,
            config,
            self._model,
            self._starts,
            levels,
            self._horizon,
            self.seed,
            _phase('Rolling out', on_progress),
            self._exogenous,
        )

    def evaluate(
        self,
        networks: Deployable,
        config: DeploymentConfig,
        levels: Sequence[Level],
        on_progress: PhaseProgress | None = None,
    ) -> OffPolicyEstimate:
        """Estimate a policy's return and cost at each level, and test the dynamics with it.

        Args:
            networks (Deployable): The trained model, of any algorithm.
            config (DeploymentConfig): Settings of deployment.
            levels (Sequence[Level]): Targets of the policy.
            on_progress (Callable, optional): As above.
        """
        report = _phase('Testing dynamics', on_progress)
        test = backtest(networks, config, self._model, self._held_out, report)
        imagined = self.roll_out(networks, config, levels, on_progress)
        return OffPolicyEstimate(tuple(levels), tuple(imagined), test)


def check_episodes(trajectories: Trajectories, fewest: int = _FEWEST_EPISODES) -> None:
    """Check that a dataset is large enough.

    Args:
        trajectories (Trajectories): Its episodes.
        fewest (int, optional): Needed number. Defaults to the fewest for any test.

    Raises:
        TooFewEpisodes: If it is too small.
    """
    found = len(trajectories.rows)
    if found < fewest:
        raise TooFewEpisodes(
            f'{trajectories.name} has {found} episodes; an estimate needs at least {fewest}, a '
            'tenth of them for its test',
        )


def _phase(name: str, on_progress: PhaseProgress | None) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(name, done, total)
