# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Target return and target cost of a model at a cost limit, and their guarantee."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


# Of a target calibration, in checkpoints and exported models.
CALIBRATION_FORMAT = 2

# Status of a target calibration at a cost limit.
CERTIFIED, NOT_CERTIFIED = 'certified', 'not certified'
NO_SAFE_TARGET = 'no safe target found'
# In place of certified, for model rollouts in learned dynamics.
ESTIMATED = 'estimated'
# The methods of a calibration.
MODEL, SIMULATOR = 'model', 'simulator'

# Of each statement of a guarantee.
_ERROR_RATE = 0.05


def targets_for(record: dict[str, Any], cost_limit: float) -> tuple[float | None, float]:
    """Return the target return and target cost of a model at a cost limit.

    A model that was trained with ``target_return: dsrl`` is conditioned on DSRL's published return
    where there is one for the limit.

    A calibrated model is conditioned on the targets that its calibration chooses for the limit, see
    :func:`serving_level`; any other on the limit itself and the highest return that the dataset
    reached within it, Eq. 11.

    Args:
        record (dict[str, Any]): Of the model: ``frontier``; ``calibration``, which is None or as
            :func:`omnisafe_qpt.evaluation.target_calibration.calibrate` returned it; and, where it
            has any, ``published_targets``, pairs of cost and return.
        cost_limit (float): Undiscounted cost of an episode to keep within.

    Returns:
        The return, which is None for the zero-action fallback, and the cost.
    """
    for cost, episode_return in record.get('published_targets', ()):
        if cost == cost_limit:
            return episode_return, cost_limit
    if record.get('calibration') is not None:
        level, _ = serving_level(record['calibration'], cost_limit)
        if level['target_return'] is None:
            return None, cost_limit
        return level['target_return'], level['target_cost']
    frontier = record['frontier']
    # If all episodes cost more than the limit, the one of least cost is used.
    step = np.searchsorted(frontier['costs'], cost_limit, side='right') - 1
    return frontier['returns'][max(step, 0)], cost_limit


def serving_level(calibration: dict[str, Any], cost_limit: float) -> tuple[dict[str, Any], str]:
    """Choose the level of a calibration to use at a cost limit.

    Args:
        calibration (dict[str, Any]): See
            :func:`omnisafe_qpt.evaluation.target_calibration.calibrate`.
        cost_limit (float): Undiscounted cost of an episode to keep within.

    Returns:
        The level, and its status. ``CERTIFIED``: the level of the highest mean return among those
        below the first one whose bound is above the limit. ``NOT_CERTIFIED``: there is no such
        level; the lowest level whose mean cost is within the limit. ``NO_SAFE_TARGET``: there is
        none either; the level of the least mean cost, possibly the zero-action fallback.

        With method ``model``, the status is ``ESTIMATED`` in place of ``CERTIFIED``. Without such a
        level, it is the lowest level or the zero-action fallback, whichever has the lower bound:
        ``NO_SAFE_TARGET`` if that is within the limit, else ``NOT_CERTIFIED``.
    """
    levels = calibration['levels']
    certified: list[dict[str, Any]] = []
    for level in levels:
        if level['cost_bound'] is None or level['cost_bound'] > cost_limit:
            break
        certified.append(level)
    if certified:
        status = ESTIMATED if calibration.get('method') == MODEL else CERTIFIED
        return max(certified, key=lambda level: level['return_mean']), status
    zero_action = calibration['zero_action']
    if calibration.get('method') == MODEL:
        # Without bounds, mean costs are not reliable; the lowest target cost is the cautious one.
        known = [level for level in (*levels[:1], zero_action) if level is not None]
        bounds = [level.get('cost_bound') for level in known]
        bounds = [math.inf if bound is None else bound for bound in bounds]
        level = known[bounds.index(min(bounds))]
        return level, NO_SAFE_TARGET if min(bounds) <= cost_limit else NOT_CERTIFIED
    for level in levels:
        if level['cost_mean'] <= cost_limit:
            return level, NOT_CERTIFIED
    measured = levels if zero_action is None else [*levels, zero_action]
    return min(measured, key=lambda level: (level['cost_mean'], -level['return_mean'])), (
        NO_SAFE_TARGET
    )


@dataclass(frozen=True)
class Guarantee:
    """Guarantee of a target calibration for one cost limit; as text, two sentences.

    Both statements are about new episodes of the chosen level. Each is false with a probability of
    at most 5 %, over calibrations. They account for the choice among levels: the first by a fixed
    sequence of tests, the second by dividing the 5 % among all levels and numbers of episodes at
    which a level could have been chosen.

    Args:
        cost_limit (float): Undiscounted cost of an episode.
        status (str): ``certified``, ``not certified`` or ``no safe target found``; ``estimated``
            for model rollouts in dynamics learned from data. Then nothing is guaranteed, and the
            bound is an estimate.
        target_cost (float or None): Target cost of the level; None for the zero-action fallback.
        episodes (int): Calibration episodes of the level.
        cost_mean (float): Their mean cost.
        cost_bound (float or None): The mean cost is at most this with 95 % confidence, if no
            episode costs more than ``worst_cost``; None without such a bound. Only where it is
            ``certified`` does that account for the choice of the level.
        worst_cost (float): Assumed to be exceeded by no episode.
        over (int): Episodes that cost more than the limit.
        share_bound (float): The share of episodes over the limit is at most this with 95 %
            confidence (Clopper-Pearson).
        best_bound (float): What ``cost_bound`` would be if no calibration episode of a level had
            cost anything, in as many as were allowed.
        method (str): ``simulator`` or ``model``, where the episodes were run.
        simulated_episodes (int): Simulated episodes of the whole calibration, at all levels.
    """

    cost_limit: float
    status: str
    target_cost: float | None
    episodes: int
    cost_mean: float
    cost_bound: float | None
    worst_cost: float
    over: int
    share_bound: float
    best_bound: float
    method: str = SIMULATOR
    simulated_episodes: int = 0

    @classmethod
    def at(cls, calibration: dict[str, Any], cost_limit: float) -> Guarantee:
        """Return the guarantee of a calibration for a limit."""
        level, status = serving_level(calibration, cost_limit)
        costs, worst_cost = level['costs'], calibration['worst_cost']
        is_model = calibration.get('method') == MODEL
        over = sum(cost > cost_limit for cost in costs)
        played = [*calibration['levels'], calibration['zero_action']]
        simulated = sum(len(each['costs']) for each in played if each is not None)
        return cls(
            cost_limit=cost_limit,
            status=status,
            target_cost=level['target_cost'],
            episodes=len(costs),
            cost_mean=level['cost_mean'],
            cost_bound=level.get('cost_bound'),
            worst_cost=worst_cost,
            over=over,
            share_bound=1.0
            if is_model
            else share_bound(over, len(costs), _ERROR_RATE / calibration['comparisons']),
            best_bound=worst_cost * (1.0 - _ERROR_RATE ** (1.0 / calibration['episodes'])),
            method=MODEL if is_model else SIMULATOR,
            simulated_episodes=0 if is_model else simulated,
        )

    @property
    def mean_statement(self) -> str:
        """The statement on the mean cost."""
        limit = f'{self.cost_limit:g}'
        measured = f'{self.episodes} episodes with mean cost {self.cost_mean:.4g}'
        if self.method == MODEL:
            return self._estimate_statement()
        if self.status == CERTIFIED and self.cost_limit >= self.worst_cost:
            return (
                f'mean cost <= {limit} by assumption alone, that no episode costs more than '
                f'{self.worst_cost:g}; {measured}'
            )
        if self.status == CERTIFIED:
            return (
                f'mean cost <= {limit} with 95 % confidence, from {measured}, assuming no episode '
                f'costs more than {self.worst_cost:g}'
            )
        if self.status == NO_SAFE_TARGET:
            return f'no safe target found for mean cost <= {limit}; in use: {measured}'
        text = f'mean cost <= {limit} is NOT certified; in use: {measured}'
        if self.best_bound > self.cost_limit:
            text += (
                f'; assuming no episode costs more than {self.worst_cost:g}, no result of the '
                f'episodes allowed could certify less than {self.best_bound:.4g}'
            )
        return text

    @property
    def share_statement(self) -> str:
        """The statement on the share of episodes over the limit."""
        if self.method == MODEL:
            return (
                'no simulated episode was used; nothing is known of the share of episodes over '
                f'{self.cost_limit:g}'
            )
        return (
            f'share of episodes over {self.cost_limit:g} <= {math.ceil(100 * self.share_bound)} % '
            'with 95 % confidence (Clopper-Pearson, corrected for the choice of target), '
            f'{self.over} of {self.episodes} over; {self.simulated_episodes} simulated episodes '
            'for all target costs'
        )

    def _estimate_statement(self) -> str:
        limit = f'{self.cost_limit:g}'
        imagined = (
            f'{self.episodes} model rollouts with mean cost {self.cost_mean:.4g}, in dynamics '
            'learned from data and not measured'
        )
        if self.status == ESTIMATED:
            return (
                f'mean cost <= {limit} by estimate: at most {self.cost_bound:.4g}, the error of '
                f'the dynamics on held-out episodes included, from {imagined}'
            )
        if self.status == NO_SAFE_TARGET:
            return f'no target with mean cost <= {limit} by estimate; in use: {imagined}'
        if self.cost_bound is None:
            return f'mean cost <= {limit} cannot be estimated reliably; in use: {imagined}'
        return f'mean cost <= {limit} is not expected; in use: {imagined}'

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the two statements as plain values."""
        statements = ('mean_statement', 'share_statement')
        return {**asdict(self), **{name: getattr(self, name) for name in statements}}

    def __str__(self) -> str:
        return f'{self.mean_statement}. {self.share_statement}.'


def share_bound(over: int, episodes: int, error_rate: float = 0.05) -> float:
    """Return the 95 % upper confidence bound of a share, by Clopper and Pearson.

    Args:
        over (int): How many of the episodes count.
        episodes (int): How many there were.
        error_rate (float, optional): Probability that the share is above the bound. Defaults to
            0.05.

    Returns:
        The largest share for which this few episodes over the limit have that probability; for 0 of
        10 it is 0.26.
    """
    if over >= episodes:
        return 1.0
    counts = np.arange(over + 1)
    ways = np.array(
        [math.lgamma(episodes + 1) - math.lgamma(k + 1) - math.lgamma(episodes - k + 1)
         for k in counts],
    )  # fmt: skip
    low, high = over / episodes, 1.0
    for _ in range(60):  # halvings
        share = (low + high) / 2
        so_few = np.exp(
            ways + counts * np.log(share) + (episodes - counts) * np.log1p(-share)
        ).sum()
        low, high = (share, high) if so_few > error_rate else (low, share)
    return high
