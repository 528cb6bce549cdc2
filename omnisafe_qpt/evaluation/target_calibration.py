# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Target calibration: selects conditioning targets from simulated episodes (online).

The cost of a policy may differ from its target cost: Eq. 14 compares a discounted value with an
undiscounted sum, and a policy imitates the nearest behaviour in its data. So the calibration runs
the policy at increasing target costs, the levels. For a cost limit, deployment then uses the
certified level of the highest mean return (:func:`omnisafe_qpt.runner.serving_level`).

A level is certified for a limit if the upper confidence bound of its mean cost is within the limit,
and the same holds for all lower levels. This is a fixed sequence of tests: at each limit, the
probability that a level passes although its true mean cost exceeds the limit is at most 5 %, the
error of the first such level. Levels may share seeds. The number of episodes may depend on earlier
results, as the bound holds at all times simultaneously (:func:`omnisafe_qpt.scores.mean_bound`).
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import omnisafe  # noqa: F401 - before the modules below, which it loads itself to have QPT

from omnisafe_qpt import schema
from omnisafe_qpt.envs.user_modules import require_environment_of
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import DeploymentOptions, calibrated_settings, deployment_of
from omnisafe_qpt.evaluation.episodes import (
    EpisodePool,
    Series,
    default_processes,
    episode_pool,
)
from omnisafe_qpt.evaluation.target_costs import ladder_targets
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.runner import CALIBRATION_FORMAT, NO_SAFE_TARGET, serving_level
from omnisafe_qpt.runs.checkpoint import replace_checkpoint
from omnisafe_qpt.scores import mean_bound
from omnisafe_qpt.settings.seeds import calibration_seeds


# Limits for which levels are tested, as multiples of the run's cost limit. Other limits use the
# same episodes.
_LIMITS = (0.5, 1.0, 2.0, 4.0)
# The assumed worst cost is at least this multiple of the limit, even if the dataset's is lower.
_LEAST_WORST = 4.0
# One episode gives no estimate of the variance.
_FEWEST_EPISODES = 2
# Episodes before the first test of a level; also the episodes of the zero-action fallback.
_FIRST_LOOK = 4
# Largest number per level; a test compares it with configs/QPT.yaml.
DEFAULT_EPISODES = 80


def calibrate_run(
    run: str | os.PathLike[str],
    episodes: int | None = None,
    *,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """Calibrate a trained run and store the record in its checkpoint, replacing an earlier one.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        episodes (int, optional): See :func:`calibrate`. Defaults to :data:`DEFAULT_EPISODES`.
        processes (int, optional): See :func:`calibrate`. Defaults to one per core.
        on_progress (Callable, optional): See :func:`calibrate`. Defaults to None.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`.

    Returns:
        The result of :func:`calibrate`, and the checkpoint.

    Raises:
        UserError: If the run does not exist, is of an algorithm that is not conditioned on a cost,
            or a value is impossible.
    """
    chosen = DeploymentOptions(**options)
    networks, path = chosen.load_transformer(run)
    schema.checked(path, networks.spec, schema.record({'seed': schema.whole()}))
    require_environment_of(networks.spec)
    config, _ = deployment_of(networks, None, None, chosen)
    episodes = DEFAULT_EPISODES if episodes is None else episodes
    record = calibrate(networks, config, episodes, processes, on_progress)
    networks.spec = {**networks.spec, 'calibration': record}
    replace_checkpoint(path, networks)
    return record, path


def calibrate(
    networks: Deployable,
    config: DeploymentConfig,
    episodes: int,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a model at increasing target costs, with as few episodes as the tests need.

    Levels are tested at half, once, twice and four times the run's cost limit. A limit is open
    while all lower levels have passed at it. A level runs until it has passed at each open limit or
    is unlikely to. The first level that passes at none ends the calibration.

    Args:
        networks (Deployable): The trained model, on the device to use.
        config (DeploymentConfig): Candidates and selection rule.
        episodes (int): Largest number per level.
        processes (int, optional): Processes that run episodes in parallel; no effect on the
            results. Defaults to one per core.
        on_progress (Callable, optional): Called with the steps done and an estimate of the total.
            Defaults to None.

    Returns:
        A record of plain values: ``format``; ``episodes``, the largest number per level;
        ``first_seed``, the same for all levels; ``settings`` of deployment that it holds for;
        ``worst_cost``, the assumed largest cost of an episode; ``comparisons``, the number of
        possible statements on the share of episodes over a limit; ``steps`` simulated; ``levels``,
        by increasing target cost, a dict of ``target_cost``, ``target_return``,
        ``returns``, ``costs`` and ``lengths`` of its episodes, the means ``return_mean`` and
        ``cost_mean``, and ``cost_bound`` (:func:`omnisafe_qpt.scores.mean_bound`; None if an
        episode cost more than ``worst_cost``); and ``zero_action``, likewise, if no level was
        within the run's limit.

    Raises:
        UserError: If there are too few or too many episodes, or the environment refuses.
        RuntimeError: If an environment fails in a worker process.
    """
    if not isinstance(episodes, int) or episodes < _FEWEST_EPISODES:
        raise UserError(
            f'{episodes} episodes of calibration; it must be an integer, at least '
            f'{_FEWEST_EPISODES}',
        )
    spec, cost_unit = networks.spec, networks.scaling.cost_unit.item()
    seeds = calibration_seeds(spec['seed'], episodes)
    series = [
        Series(networks, replace(config, target_cost=cost), target_return, seeds)
        for target_return, cost in ladder_targets(networks)
    ]
    zero_action = Series(networks, replace(config, target_cost=None), None, seeds)
    worst_cost = max(_worst_cost(spec), _LEAST_WORST * cost_unit)
    record: dict[str, Any] = {
        'format': CALIBRATION_FORMAT,
        'episodes': episodes,
        'first_seed': seeds.start,
        'settings': calibrated_settings(config),
        'worst_cost': worst_cost,
        # The zero-action fallback runs once.
        'comparisons': len(series) * len(looks(episodes)) + 1,
        'steps': 0,
        'levels': [],
        'zero_action': None,
    }
    processes = min(processes or default_processes(episodes), episodes)
    with episode_pool(spec['env_id'], [*series, zero_action], processes) as pool:
        player = _LevelPlayer(pool, [*series, zero_action], worst_cost, on_progress)
        limits = [share * cost_unit for share in _LIMITS]
        for number in range(len(series)):
            level, limits = player.play_level(number, limits)
            record['levels'].append(level)
            if not limits:
                break
        if serving_level(record, config.cost_limit)[1] == NO_SAFE_TARGET:
            record['zero_action'] = player.play_zero_action()
    record['steps'] = player.steps
    return record


class _LevelPlayer:
    """Runs levels in rounds, each with its next seeds.

    Args:
        pool (EpisodePool): Runs the episodes.
        series (Sequence[Series]): The levels and, last, the zero-action fallback; all have the same
            seeds.
        worst_cost (float): Assumed largest cost of an episode.
        on_progress (Callable, optional): See :func:`calibrate`.
    """

    def __init__(
        self,
        pool: EpisodePool,
        series: Sequence[Series],
        worst_cost: float,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.steps = 0
        self._pool = pool
        self._series = series
        self._seeds = series[0].seeds
        self._worst_cost = worst_cost
        self._on_progress = on_progress

    def play_level(self, number: int, limits: list[float]) -> tuple[dict[str, Any], list[float]]:
        """Run a level until it is decided at all of these limits.

        Returns:
            The level's record, and the limits at which it passed.
        """
        level: dict[str, Any] = {'returns': [], 'costs': [], 'lengths': []}
        for look in looks(len(self._seeds)):
            self._play(number, level, look)
            bound = mean_bound(level['costs'], self._worst_cost)
            passed = [limit for limit in limits if bound is not None and bound <= limit]
            prospect = self._prospect(level['costs'])
            if all(limit in passed or prospect > limit for limit in limits):
                break
        return {**_means(self._series[number], level), 'cost_bound': bound}, passed

    def play_zero_action(self) -> dict[str, Any]:
        """Run a few episodes of the zero-action fallback."""
        record: dict[str, Any] = {'returns': [], 'costs': [], 'lengths': []}
        self._play(len(self._series) - 1, record, min(_FIRST_LOOK, len(self._seeds)))
        return _means(self._series[-1], record)

    def _prospect(self, costs: list[float]) -> float:
        """Return the final bound if the remaining mean is one standard error lower."""
        error = statistics.stdev(costs) / len(costs) ** 0.5
        lower = max(0.0, statistics.fmean(costs) - error)
        bound = mean_bound([*costs, *[lower] * (len(self._seeds) - len(costs))], self._worst_cost)
        return math.inf if bound is None else bound

    def _play(self, number: int, record: dict[str, Any], until: int) -> None:
        """Add episodes to a record up to this number."""
        seeds: list[Sequence[int]] = [()] * len(self._series)
        seeds[number] = self._seeds[len(record['costs']) : until]
        horizon, most = self._pool.horizon, len(self._seeds)
        # The rest after this round is an estimate: half of the possible episodes, then as in levels
        # so far.
        usual = self.steps // number if number else horizon * most // 2
        rest = horizon * (most - until) // 2 + usual * max(0, len(self._series) - 2 - number)

        def report(done: int, total: int, _: int) -> None:
            if self._on_progress is not None:
                self._on_progress(self.steps + done, self.steps + total + rest)

        found = self._pool.play(seeds, report)[number]
        assert found is not None
        for name, values in (
            ('returns', found.returns),
            ('costs', found.costs),
            ('lengths', found.lengths),
        ):
            record[name] += values
        self.steps += sum(found.lengths)


def looks(episodes: int) -> list[int]:
    """Return the numbers of episodes after which a level is tested, up to ``episodes``."""
    found = [min(_FIRST_LOOK, episodes)]
    while found[-1] < episodes:
        found.append(min(episodes, found[-1] + max(_FIRST_LOOK, found[-1] // 3)))
    return found


def _worst_cost(spec: dict[str, Any]) -> float:
    """Return the cost of the dataset's worst episode; older runs record only a lower bound."""
    return spec.get('worst_cost', spec['frontier']['costs'][-1])


def _means(series: Series, played: dict[str, Any]) -> dict[str, Any]:
    return {
        'target_cost': series.config.target_cost,
        'target_return': series.target_return,
        **played,
        'return_mean': statistics.fmean(played['returns']),
        'cost_mean': statistics.fmean(played['costs']),
    }
