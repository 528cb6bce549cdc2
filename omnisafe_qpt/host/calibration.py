# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""What a trained model brings when it is asked for a return and a cost, measured once for all.

A model need not keep to what it is asked for. Eq. (14) compares a discounted value with a plain
sum, and a policy imitates the nearest behaviour in its data, which may cost more or less. So the
model is asked for a ladder of costs in validation episodes. From then on it is asked, at any cost
limit, for the step of the ladder that returned the most within that limit
(:func:`omnisafe_qpt.runner.targets_for`). Holding still is measured too, as a last resort where the
policy keeps no limit whatever it is asked for.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import omnisafe  # noqa: F401 - before the modules below, which it loads itself to have QPT

from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks
from omnisafe_qpt.data.trajectories import Frontier
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.checkpoint import LAST, load_transformer, replace_checkpoint
from omnisafe_qpt.host.config import resolve_device
from omnisafe_qpt.host.deployment import calibrated_settings, deployment_of
from omnisafe_qpt.host.evaluation import Evaluation, Series, default_processes, evaluate_together
from omnisafe_qpt.host.imports import require_environment_of
from omnisafe_qpt.host.seeds import validation_seeds
from omnisafe_qpt.scores import mean_bound


# Costs asked for, as shares of the run's cost limit: closer about the limit, where a model is used.
_LADDER = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
# One episode tells nothing of how much they differ.
_FEWEST_EPISODES = 2


def calibrate_run(  # pylint: disable=too-many-arguments
    run: str | os.PathLike[str],
    episodes: int = 10,
    *,
    candidates: int | None = None,
    rule: str | None = None,
    candidate_shift: str | None = None,
    device: str | None = None,
    processes: int | None = None,
    checkpoint: str | int = LAST,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Calibrate a trained run, and keep the result in its checkpoint in place of an earlier one.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        episodes (int, optional): See :func:`calibrate`. Defaults to 10.
        candidates (int, optional): Return targets tried at each step. Defaults to the run's.
        rule (str, optional): ``paper``, ``bounded`` or ``paced``. Defaults to the run's.
        candidate_shift (str, optional): ``history`` or ``last``. Defaults to the run's.
        device (str, optional): ``cpu``, ``cuda`` or ``cuda:N``. Defaults to CUDA if there is a
            device.
        processes (int, optional): See :func:`calibrate`. Defaults to one a core.
        checkpoint (str or int, optional): Which of the run's: ``last``, ``best`` or a number of
            epochs. Defaults to ``'last'``.
        on_progress (Callable, optional): See :func:`calibrate`. Defaults to None.

    Returns:
        What :func:`calibrate` returned, and the checkpoint.

    Raises:
        UserError: If the run does not exist, is of an algorithm that is not asked for anything, or
            a value is impossible.
    """
    networks, path = load_transformer(run, resolve_device(device or 'auto'), checkpoint)
    require_environment_of(networks.spec)
    config, _ = deployment_of(networks, None, None, candidates, rule, candidate_shift)
    record = calibrate(networks, config, episodes, processes, on_progress)
    networks.spec = {**networks.spec, 'calibration': record}
    replace_checkpoint(path, networks)
    return record, path


def calibrate(
    networks: DeployableNetworks,
    config: DeploymentConfig,
    episodes: int,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure what a model brings at each step of the ladder.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        config (DeploymentConfig): Candidates and selection rule.
        episodes (int): How many for each step, with seeds of validation: none that is reported is
            among them.
        processes (int, optional): Processes that run episodes at the same time, which does not
            change the results. Defaults to one a core.
        on_progress (Callable, optional): Called with the steps done and the steps there will be
            at most. Defaults to None.

    Returns:
        A record of plain values: ``episodes``, ``first_seed``, ``settings`` (those of deployment
        that it holds for) and ``levels``, for each step of the ladder a dict of ``asked_cost``,
        ``target_return`` (both None for holding still), ``return_mean``, ``cost_mean`` and
        ``cost_bound``, below which the mean cost is with 95 % confidence
        (:func:`omnisafe_qpt.scores.mean_bound`).

    Raises:
        UserError: If there are too few episodes, or the environment refuses.
        RuntimeError: If an environment failed in its process.
    """
    if not isinstance(episodes, int) or episodes < _FEWEST_EPISODES:
        raise UserError(
            f'{episodes} episodes of calibration; it must be a whole number, at least '
            f'{_FEWEST_EPISODES}',
        )
    spec = networks.spec
    frontier = Frontier(tuple(spec['frontier']['costs']), tuple(spec['frontier']['returns']))
    seeds = validation_seeds(spec['seed'], episodes)
    series = [
        Series(networks, replace(config, asked_cost=cost), frontier.target_return(cost), seeds)
        for cost in ladder(networks.scaling.cost_unit.item(), frontier)
    ]
    series.append(Series(networks, replace(config, asked_cost=None), None, seeds))

    def report(done: int, total: int, _: int) -> None:
        if on_progress is not None:
            on_progress(done, total)

    found = evaluate_together(
        spec['env_id'],
        series,
        processes or default_processes(episodes * len(series)),
        on_progress=report,
    )
    return {
        'episodes': episodes,
        'first_seed': seeds.start,
        'settings': calibrated_settings(config),
        'levels': [_level(*each) for each in zip(series, found)],
    }


def ladder(cost_unit: float, frontier: Frontier) -> list[float]:
    """Return the costs to ask for: up to the first beyond which no episode of the data is better.

    Args:
        cost_unit (float): The run's cost limit.
        frontier (Frontier): The dataset's.
    """
    costs = [share * cost_unit for share in _LADDER]
    needed = sum(cost < frontier.costs[-1] for cost in costs) + 1
    return costs[:needed]


def _level(series: Series, result: Evaluation) -> dict[str, float | None]:
    return {
        'asked_cost': series.config.asked_cost,
        'target_return': series.target_return,
        'return_mean': statistics.fmean(result.returns),
        'cost_mean': statistics.fmean(result.costs),
        'cost_bound': mean_bound(result.costs),
    }
