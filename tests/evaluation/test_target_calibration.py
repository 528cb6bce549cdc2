# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Target calibration: what is played, what a limit is then served by, the command and training.

test_calibration_guarantee.py holds the guarantee against known distributions.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import omnisafe
import pytest
import torch

import omnisafe_qpt
from host_helpers import (
    ENV_ID,
    HORIZON,
    Unsteady,
    make_networks,
    small_options,
    untrained_run,
    use,
    write_dataset,
)
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.frontier import Frontier
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation import target_calibration as calibration
from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    calibrated_settings,
    deployment_of,
)
from omnisafe_qpt.evaluation.episodes import EpisodePool, Evaluation, Series
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.evaluation.target_calibration import (
    DEFAULT_EPISODES,
    calibrate,
    calibrate_run,
    looks,
)
from omnisafe_qpt.evaluation.target_costs import ladder
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.runner import (
    CALIBRATION_FORMAT,
    CERTIFIED,
    NO_SAFE_TARGET,
    NOT_CERTIFIED,
    Guarantee,
    serving_level,
    share_bound,
    targets_for,
)
from omnisafe_qpt.runs.checkpoint import list_checkpoints, load_networks, save_checkpoint
from omnisafe_qpt.scores import mean_bound
from omnisafe_qpt.settings.files import load_defaults
from omnisafe_qpt.settings.seeds import FIRST_CALIBRATION_SEED
from omnisafe_qpt.training import epoch_evaluation


def level(asked: float | None, target: float | None, mean: float, bound: float) -> dict[str, Any]:
    """A level of five episodes, all of which cost as much as its bound."""
    return {
        'target_cost': asked,
        'target_return': target,
        'returns': [mean] * 5,
        'costs': [bound] * 5,
        'lengths': [HORIZON] * 5,
        'return_mean': mean,
        'cost_mean': bound,
        'cost_bound': bound,
    }


# A policy that costs little up to 5 and far too much beyond; what it returns does not rise evenly.
LEVELS = [
    level(0.0, 10.0, 3.0, 0.5),
    level(2.5, 10.0, 8.0, 2.0),
    level(5.0, 50.0, 6.0, 4.0),
    level(10.0, 50.0, 9.0, 25.0),
    level(20.0, 60.0, 12.0, 30.0),
]
SETTINGS = calibrated_settings(DeploymentConfig(candidates=4, rule='paper'))
ZERO_ACTION = {**level(None, None, 1.0, 0.25), 'cost_bound': None}
RECORD = {
    'format': CALIBRATION_FORMAT,
    'episodes': 5,
    'first_seed': 0,
    'settings': SETTINGS,
    'worst_cost': 80.0,
    'comparisons': 20,
    'steps': 0,
    'levels': LEVELS,
    'zero_action': None,
}
FRONTIER = {'costs': [0.0, 5.0, 30.0], 'returns': [10.0, 50.0, 90.0]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A calibrated run of untrained networks."""
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    networks.spec.update(calibration=RECORD, seed=2, versions={'torch': '2'})
    return untrained_run(tmp_path / 'seed-000-now', networks)


# -- which level serves a limit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('limit', 'expected'),
    [
        (0.5, (10.0, 0.0)),
        (1.9, (10.0, 0.0)),
        (2.0, (10.0, 2.5)),
        (10.0, (10.0, 2.5)),  # asking for 10 costs 25; asking for 5 returns less than for 2.5
        (25.0, (50.0, 10.0)),
        (1000.0, (60.0, 20.0)),
        (0.0, (10.0, 0.0)),  # nothing is within: the least
    ],
)
def test_a_limit_is_served_by_what_returned_the_most_within_it(
    limit: float, expected: tuple[float, float]
) -> None:
    assert targets_for({'frontier': FRONTIER, 'calibration': RECORD}, limit) == expected


def serve(limit: float, levels: Any, zero_action: Any = None) -> tuple[float | None, float]:
    calibration = {**RECORD, 'levels': levels, 'zero_action': zero_action}
    return targets_for({'frontier': FRONTIER, 'calibration': calibration}, limit)


def test_levels_beyond_the_first_that_fails_are_not_used() -> None:
    for bound in (12.0, None):
        failed = {**level(1.0, 2.0, 5.0, 12.0), 'cost_bound': bound}
        levels = [level(0.0, 1.0, 3.0, 2.0), failed, level(2.0, 3.0, 9.0, 3.0)]
        assert serve(10.0, levels) == (1.0, 0.0)
        assert serve_status(10.0, levels) == CERTIFIED
    assert serve(12.0, [levels[0], level(1.0, 2.0, 5.0, 12.0), levels[2]]) == (3.0, 2.0)


def serve_status(limit: float, levels: Any, zero_action: Any = None) -> str:
    return serving_level({**RECORD, 'levels': levels, 'zero_action': zero_action}, limit)[1]


def test_of_equal_costs_beyond_the_limit_the_better_one_is_asked_for() -> None:
    levels = [level(0.0, 1.0, 3.0, 7.0), level(1.0, 2.0, 4.0, 7.0), level(2.0, 3.0, 9.0, 8.0)]
    assert serve(5.0, levels) == (2.0, 1.0)
    assert serve_status(5.0, levels) == NO_SAFE_TARGET


@pytest.mark.parametrize(
    ('limit', 'expected'),
    [
        (0.5, (10.0, 0.0)),  # within, though the zero action costs less
        (0.4, (None, 0.4)),
        (0.1, (None, 0.1)),  # not within either, but the least
    ],
)
def test_where_no_level_is_within_the_limit_every_action_is_zero(
    limit: float, expected: tuple[float | None, float]
) -> None:
    assert serve(limit, LEVELS, ZERO_ACTION) == expected
    assert (serve_status(limit, LEVELS, ZERO_ACTION) == NO_SAFE_TARGET) == (limit < 0.5)


def test_the_fallback_is_for_policies_above_the_limit_not_for_uncertain_ones() -> None:
    uncertain = {**level(2.0, 3.0, 9.0, 8.0), 'cost_mean': 4.0}
    costly = level(5.0, 4.0, 11.0, 9.0)
    for zero_cost, limit, expected, status in (
        (0.0, 4.0, (3.0, 2.0), NOT_CERTIFIED),
        (0.0, 3.9, (None, 3.9), NO_SAFE_TARGET),
        (8.5, 3.9, (3.0, 2.0), NO_SAFE_TARGET),  # no action costs even more
    ):
        zero_action = {**ZERO_ACTION, 'cost_mean': zero_cost}
        assert serve(limit, [uncertain, costly], zero_action) == expected
        assert serve_status(limit, [uncertain, costly], zero_action) == status


@pytest.mark.parametrize('record', [{}, {'calibration': None}])
def test_without_calibration_the_frontier_tells(record: dict[str, Any]) -> None:
    frontier = Frontier(tuple(FRONTIER['costs']), tuple(FRONTIER['returns']))
    for limit in (0.0, 4.9, 5.0, 12.0, 30.0, 99.0):
        found = targets_for({'frontier': FRONTIER, **record}, limit)
        assert found == (frontier.target_return(limit), limit)


def test_a_calibration_holds_for_its_own_settings_only(run: Path) -> None:
    networks, _ = load_networks(run)
    config, target = deployment_of(networks, 10.0)
    assert (config.cost_limit, config.target_cost, target) == (10.0, 2.5, 10.0)
    for change in ({'candidates': 2}, {'rule': 'discounted_budget'}, {'candidate_shift': 'last'}):
        config, target = deployment_of(networks, 10.0, options=DeploymentOptions(**change))
        assert (config.used_target_cost, target) == (10.0, 50.0)
    config, target = deployment_of(networks, 10.0, target_return=33.0)
    assert (config.used_target_cost, target) == (10.0, 33.0)


def test_a_calibration_of_the_rules_former_name_still_holds(run: Path) -> None:
    networks, _ = load_networks(run)
    spec, record = networks.spec, networks.spec['calibration']
    config, _ = deployment_of(networks, 10.0, options=DeploymentOptions(rule='discounted_budget'))
    settings = {**calibrated_settings(config), 'rule': 'paced'}
    networks.spec = {
        **spec,
        'calibration': {**record, 'settings': settings},
        'deployment': {**spec['deployment'], 'rule': 'paced'},
    }
    config, target = deployment_of(networks, 10.0)
    assert (config.rule, config.target_cost, target) == ('discounted_budget', 2.5, 10.0)


def test_a_checkpoint_with_former_field_names_still_loads(run: Path) -> None:
    networks, _ = load_networks(run)
    record = networks.spec['calibration']

    def former(fields: dict[str, Any]) -> dict[str, Any]:
        return {{'target_cost': 'asked_cost'}.get(name, name): fields[name] for name in fields}

    networks.spec = {
        **networks.spec,
        'calibration': {**record, 'levels': [former(level) for level in record['levels']]},
        'deployment': former(networks.spec['deployment']),
    }
    save_checkpoint(run, 3, networks)
    loaded, _ = load_networks(run)
    assert loaded.spec['calibration'] == record
    assert deployment_of(loaded, 10.0)[0].target_cost == 2.5


def test_the_runs_own_target_comes_first(run: Path) -> None:
    networks, _ = load_networks(run)
    networks.spec['target_return'] = 77.0
    config, target = deployment_of(networks, 10.0)
    assert (config.used_target_cost, target) == (10.0, 77.0)
    assert deployment_of(networks, 5.0)[1] == 10.0


# -- playing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('costs', 'unit', 'expected'),
    [
        ((0.0,), 10.0, [0.0]),
        ((0.0, 4.0), 10.0, [0.0, 5.0]),
        ((3.0, 10.0), 10.0, [0.0, 5.0, 10.0]),
        ((0.0, 1.0), 2.0, [0.0, 1.0]),
    ],
)
def test_the_ladder_ends_where_no_episode_of_the_data_is_better(
    costs: tuple[float, ...], unit: float, expected: list[float]
) -> None:
    frontier = Frontier(costs, tuple(range(len(costs))))
    assert ladder(unit, frontier) == pytest.approx(expected)


def test_a_ladder_has_an_end_whatever_the_data_cost() -> None:
    assert ladder(10.0, Frontier((0.0, 900.0), (0.0, 1.0)))[-1] == 80.0


@pytest.mark.parametrize('episodes', [2, 3, 4, 5, 10, 80, 150])
def test_looks_grow_and_end_with_all_episodes(episodes: int) -> None:
    found = looks(episodes)
    assert found[-1] == episodes
    assert found == sorted(set(found))


def test_the_default_of_the_command_is_that_of_training() -> None:
    train_cfgs = load_defaults(ENV_ID, 'QPT')['train_cfgs']
    assert train_cfgs['calibrate_episodes'] == DEFAULT_EPISODES


class Answers:
    """In the simulators' place: costs that are a function of the target cost.

    Args:
        cost (Callable): Maps the target cost, None for the zero action, to that of each episode.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, cost: Callable[[float | None], float]
    ) -> None:
        self._cost = cost
        self.played: list[tuple[float | None, list[int]]] = []
        monkeypatch.setattr(calibration, 'episode_pool', self.pool)

    @contextmanager
    def pool(self, env_id: str, series: list[Series], processes: int) -> Iterator[Any]:
        assert (env_id, processes) == (ENV_ID, 1)
        self._series = series
        yield SimpleNamespace(horizon=10, play=self.play)

    def play(self, seeds: list[Any], on_progress: Any) -> list[Evaluation | None]:
        found: list[Evaluation | None] = []
        for series, own in zip(self._series, seeds):
            if not own:
                found.append(None)
                continue
            asked, count = series.config.target_cost, len(own)
            self.played.append((asked, list(own)))
            on_progress(10 * count, 10 * count, 0)
            found.append(
                Evaluation(
                    returns=[series.target_return or 0.0] * count,
                    costs=[self._cost(asked)] * count,
                    lengths=[10] * count,
                    infeasible_share=0.0,
                    steps_per_second=1.0,
                    traces=None,
                ),
            )
        return found

    def episodes(self) -> dict[float | None, int]:
        """How many were played of each target cost."""
        counts: dict[float | None, int] = {}
        for asked, own in self.played:
            counts[asked] = counts.get(asked, 0) + len(own)
        return counts


def calibrated(run: Path, episodes: int = 80, **options: Any) -> dict[str, Any]:
    networks, _ = load_networks(run)
    networks.spec['worst_cost'] = 80.0
    config = DeploymentConfig(candidates=4, rule='bounded')
    return calibrate(networks, config, episodes, 1, **options)


def test_levels_are_played_from_the_lowest_up_with_the_same_seeds(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, seen = Answers(monkeypatch, lambda asked: 0.5 * (asked or 0.0)), []
    record = calibrated(run, on_progress=lambda *steps: seen.append(steps))
    # The cost unit of make_networks is 10, its frontier ends at 30.
    asked = [0.0, 5.0, 10.0, 15.0, 20.0, 30.0]
    assert [each['target_cost'] for each in record['levels']] == asked
    assert list(answers.episodes()) == asked
    assert [each['target_return'] for each in record['levels']] == [10.0, *[50.0] * 4, 90.0]
    for cost in asked:
        own = [seed for at, seeds in answers.played for seed in seeds if at == cost]
        assert own == list(range(record['first_seed'], record['first_seed'] + len(own)))
    assert record['first_seed'] >= FIRST_CALIBRATION_SEED
    assert record['steps'] == 10 * sum(answers.episodes().values())
    assert record['settings'] == calibrated_settings(DeploymentConfig(candidates=4, rule='bounded'))
    assert record['zero_action'] is None
    for each in record['levels']:
        assert each['cost_bound'] == mean_bound(each['costs'], record['worst_cost'])
        assert len(each['costs']) == len(each['returns']) == answers.episodes()[each['target_cost']]
    # At each limit that episodes are spent on, the highest cost within it by a margin is certified.
    for limit, least in ((5.0, 0.0), (10.0, 10.0), (20.0, 20.0), (40.0, 30.0)):
        found, status = serving_level(record, limit)
        assert status == CERTIFIED
        passed = [each for each in record['levels'] if each['cost_bound'] <= limit]
        assert passed[-1]['target_cost'] >= least
        assert found['return_mean'] == max(each['return_mean'] for each in passed)
    done, total = seen[-1]
    assert done == record['steps'] <= total


def test_a_level_gets_no_more_episodes_than_decide(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What costs nothing is done with the first look at which the lowest limit is certified."""
    answers = Answers(monkeypatch, lambda _: 0.0)
    calibrated(run, 300)
    enough = next(look for look in looks(300) if 80.0 * (1 - 0.05 ** (1 / look)) <= 5.0)
    assert set(answers.episodes().values()) == {enough}
    assert enough < 60


def test_nothing_is_played_beyond_a_level_that_is_over_every_limit(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(monkeypatch, lambda asked: 0.0 if asked in (None, 0.0) else 60.0)
    record = calibrated(run)
    assert list(answers.episodes()) == [0.0, 5.0]
    assert answers.episodes()[5.0] <= 4
    assert record['zero_action'] is None
    assert serving_level(record, 10.0)[0]['target_cost'] == 0.0


@pytest.mark.parametrize('cost', [60.0, 145.0])
def test_where_nothing_is_safe_few_episodes_tell(
    run: Path, monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    """More than the worst cost that was assumed is no exception."""
    answers = Answers(monkeypatch, lambda asked: 0.0 if asked is None else cost)
    record = calibrated(run)
    assert list(answers.episodes()) == [0.0, None]
    assert sum(answers.episodes().values()) <= 8
    assert record['zero_action']['costs'] == [0.0] * 4
    level, status = serving_level(record, 10.0)
    assert status == NO_SAFE_TARGET
    assert level is record['zero_action']


def test_few_episodes_certify_nothing_and_the_zero_action_is_not_played(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(monkeypatch, lambda asked: 0.0 if asked == 0.0 else 9.0)
    record = calibrated(run, 10)
    level, status = serving_level(record, 10.0)
    assert (status, level['target_cost']) == (NOT_CERTIFIED, 0.0)
    assert None not in answers.episodes()
    found = Guarantee.at(record, 10.0)
    assert found.best_bound == pytest.approx(80.0 * (1 - 0.05**0.1))
    assert found.best_bound > 10.0
    assert found.over == 0
    assert found.share_bound > 1 - 0.05**0.1  # the price of the choice
    networks, _ = load_networks(run)
    frontier = Frontier(*map(tuple, (FRONTIER['costs'], FRONTIER['returns'])))
    levels = len(ladder(networks.scaling.cost_unit.item(), frontier))
    # Each level after each look, or the zero action after its one.
    assert record['comparisons'] == levels * len(looks(10)) + 1


def test_one_episode_over_the_assumed_worst_cost_voids_a_level(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, lambda asked: 80.5 if asked == 10.0 else 0.0)
    record = calibrated(run)
    assert [each['cost_bound'] is None for each in record['levels']] == [False, False, True]
    assert serving_level(record, 1000.0)[0]['target_cost'] == 5.0


def test_data_without_costs_make_no_assumption_that_proves_everything(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, lambda _: 0.0)
    networks, _ = load_networks(run)
    networks.spec['worst_cost'] = 0.0
    record = calibrate(networks, DeploymentConfig(candidates=4), 4, 1)
    assert record['worst_cost'] == 40.0
    assert serving_level(record, 10.0)[1] == NOT_CERTIFIED


def test_the_episodes_of_a_calibration_are_the_same_in_any_number_of_processes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Unsteady)
    networks, _ = load_networks(run)
    config = DeploymentConfig(candidates=2)
    records = [calibrate(networks, config, 10, processes) for processes in (1, 3)]
    assert records[0] == records[1]
    assert len(records[0]['levels']) > 1


def test_one_episode_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r'1 episodes of calibration; it must be .*at least 2'):
        calibrate_run(run, 1)


def test_the_checkpoint_keeps_all_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, lambda _: 0.0)
    before, path = load_networks(run)
    record, written = calibrate_run(run, 2, rule='discounted_budget', device='cpu', processes=1)
    after, _ = load_networks(run)
    assert written == path
    assert after.spec == {**before.spec, 'calibration': record}
    assert record['settings']['rule'] == 'discounted_budget'
    for name, values in before.state_dict().items():
        if name != '_extra_state':
            torch.testing.assert_close(after.state_dict()[name], values, rtol=0, atol=0)


# -- in use ---------------------------------------------------------------------------------------


def test_rows_name_the_limit_and_what_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Unsteady)
    choice: dict[str, Any] = {'episodes': 2, 'device': 'cpu', 'processes': 1}
    rows = evaluate_runs(run, [10.0, 0.25], **choice)
    assert [(row['cost_limit'], row['target_cost'], row['target_return']) for row in rows] == [
        (10.0, 2.5, 10.0),
        (0.25, 0.0, 10.0),
    ]
    assert [row['calibrated_bound'] for row in rows] == [2.0, 0.5]
    assert rows[0]['normalized_cost'] == pytest.approx(statistics.fmean(rows[0]['costs']) / 10)
    # The episodes are those of a model that is asked for 2.5 outright.
    (outright,) = evaluate_runs(run, 2.5, 10.0, **choice)
    assert outright['returns'] == rows[0]['returns']
    assert outright['calibrated_bound'] is None
    (plain,) = evaluate_runs(run, 10.0, calibrated=False, **choice)
    assert (plain['target_cost'], plain['target_return']) == (10.0, 50.0)
    assert plain['returns'] != rows[0]['returns']
    assert plain['calibrated_bound'] is None


def test_a_loaded_policy_asks_for_one_cost_and_counts_from_the_limit(run: Path) -> None:
    policy, outright = (
        omnisafe_qpt.load_policy(run, device='cpu', **options)
        for options in ({'cost_limit': 10.0}, {'cost_limit': 2.5, 'target_return': 10.0})
    )
    observations = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    for step, observation in enumerate(observations):
        np.testing.assert_array_equal(policy.act(observation), outright.act(observation))
        assert policy.cost_limit == 10.0
        assert policy.remaining_budget == pytest.approx(10.0 - 0.5 * step)
        assert policy.remaining_return == pytest.approx(10.0 - 3.0 * step)
        for each in (policy, outright):
            each.observe(3.0, 0.5)
    policy.set_cost_limit(25.0)  # served by asking for 10 and a return of 50
    outright.set_cost_limit(10.0, 50.0)
    np.testing.assert_array_equal(policy.act(observations[0]), outright.act(observations[0]))
    assert (policy.cost_limit, policy.target_return) == (25.0, 50.0)
    assert policy.remaining_budget == pytest.approx(25.0 - 2.0)
    plain = omnisafe_qpt.load_policy(run, device='cpu', calibrated=False)
    assert plain.target_return == 50.0


@pytest.fixture
def still_run(run: Path) -> Path:
    """One whose calibration has holding still for limits below 0.5."""
    networks, path = load_networks(run)
    networks.spec['calibration'] = {**RECORD, 'zero_action': ZERO_ACTION}
    save_checkpoint(run, 3, networks)
    return path


def test_a_model_that_holds_still_takes_the_zero_action(
    still_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Unsteady)
    rows = evaluate_runs(still_run, [0.25, 0.5], episodes=3, device='cpu', processes=1, traces=True)
    keys = ('zero_action', 'target_return', 'target_cost', 'calibrated_bound', 'rule')
    assert [rows[0][key] for key in keys] == [True, None, None, None, 'paper']
    assert [rows[1][key] for key in keys] == [False, 10.0, 0.0, 0.5, 'paper']
    assert rows[0]['infeasible_share'] == 0.0
    for row, is_still in zip(rows, (True, False)):
        for trace in row['traces']:
            assert (np.abs(trace['actions']).max() == 0.0) == is_still
    # What is simulated with the zero action, by hand.
    for seed, episode_return in enumerate(rows[0]['returns']):
        environment, total, has_ended = Unsteady(ENV_ID), 0.0, False
        environment.reset(seed + rows[0]['seed'])
        while not has_ended:
            _, reward, _, has_ended = environment.step(np.zeros(2, dtype=np.float32))
            total += reward
        assert episode_return == pytest.approx(total)


def test_a_loaded_policy_holds_still_while_its_limit_asks_for_it(still_run: Path) -> None:
    policy = omnisafe_qpt.load_policy(still_run, cost_limit=0.25, device='cpu', num_episodes=2)
    observation = np.random.default_rng(0).standard_normal((2, 7))
    assert np.all(policy.act(observation) == 0.0)
    assert np.isnan([policy.target_return, policy.remaining_return]).all()
    policy.observe([1.0, 1.0], [0.125, 0.0])
    np.testing.assert_allclose(policy.remaining_budget, [0.125, 0.25])
    policy.set_cost_limit(2.0, episodes=[1])
    is_still = (policy.act(observation) == 0.0).all(axis=1)
    assert is_still.tolist() == [True, False]
    np.testing.assert_allclose(policy.target_return, [np.nan, 10.0])
    np.testing.assert_allclose(policy.remaining_return, [np.nan, 9.0])
    np.testing.assert_allclose(policy.remaining_budget, [0.125, 2.0])


def train(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    levels: Any,
    zero_action: Any,
    **train_cfgs: Any,
) -> Any:
    """Train for seconds, with a calibration that finds this."""

    def found(networks: Any, config: DeploymentConfig, *_: Any) -> dict[str, Any]:
        del networks
        settings = calibrated_settings(config)
        return {**RECORD, 'settings': settings, 'levels': levels, 'zero_action': zero_action}

    monkeypatch.setattr(epoch_evaluation, 'calibrate', found)
    train_cfgs = {'calibrate': 'simulator', 'calibrate_episodes': 2, **train_cfgs}
    options = small_options(write_dataset(tmp_path / 'data.hdf5'), tmp_path, **train_cfgs)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    return agent, agent.learn()


def test_a_run_whose_only_episodes_are_of_calibration_may_find_no_safe_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {'evaluate_epoisodes': 0, 'final_evaluate_episodes': 0}
    _, result = train(tmp_path, monkeypatch, [level(2.0, 8.0, 1.0, 40.0)], ZERO_ACTION, **none)
    assert result == (1.0, 0.25, HORIZON)


def test_what_was_validated_before_calibration_is_not_shown_as_what_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    none = {'final_evaluate_episodes': 0}
    agent, _ = train(tmp_path, monkeypatch, [level(2.0, 8.0, 1.0, 1.0)], None, **none)
    assert agent.agent._evaluation.deployed.target_return is not None
    (shown,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith('Return  ')
    )
    assert f'{agent.agent._evaluation.deployed.target_return:.2f}' not in shown
    assert 'before target calibration' in shown


def test_the_worst_cost_is_of_all_episodes_those_held_out_too(tmp_path: Path) -> None:
    found = []
    for name, options in (('whole', {}), ('part', {'holdout_share': 0.5})):
        options = small_options(write_dataset(tmp_path / f'{name}.hdf5'), tmp_path, **options)
        agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options).agent
        found.append((agent._spec['worst_cost'], len(agent._trajectories.rows)))
    assert found[0][0] == found[1][0]
    assert found[0][1] > found[1][1]


def test_a_limit_that_no_episode_is_assumed_to_exceed_claims_no_evidence() -> None:
    found = Guarantee.at({**RECORD, 'levels': LEVELS[:1]}, RECORD['worst_cost'])
    assert found.status == CERTIFIED
    assert '95 %' not in found.mean_statement
    assert '95 %' in Guarantee.at({**RECORD, 'levels': LEVELS[:1]}, 10.0).mean_statement


def test_a_trained_model_without_a_safe_target_says_so_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    agent, result = train(tmp_path, monkeypatch, [level(2.0, 8.0, 1.0, 40.0)], ZERO_ACTION)
    assert agent.agent._evaluation.deployed.target_return is None
    assert result == (1.0, 0.25, HORIZON)  # what the calibration measured: not simulated again
    said = capsys.readouterr().out
    assert NO_SAFE_TARGET in said
    assert '(target' not in said
    run = agent.agent.logger.log_dir
    plot, rows, page = (tmp_path / f'limits.{kind}' for kind in ('png', 'json', 'html'))
    command = ['evaluate', run, '--episodes', '2', '--plot', str(plot), '--json', str(rows)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert NO_SAFE_TARGET in ' '.join(said.split())
    assert '10 none' in ' '.join(said.split())
    assert plot.exists()
    (row,) = json.loads(rows.read_text())
    assert row['zero_action']
    assert row['guarantee']['status'] == NO_SAFE_TARGET
    assert main(['report', run, '--evaluation', str(rows), '--out', str(page)]) == 0
    assert f'Cost limit 10: {NO_SAFE_TARGET}' in page.read_text()
    command = ['report', run, '--episodes', '2', '--out', str(page)]
    assert main(command) == 0
    assert 'Every action was zero' not in page.read_text(), 'some limits have a target'
    assert main([*command, '--cost-limit', '10']) == 0
    assert 'Every action was zero' in page.read_text()


@pytest.mark.parametrize('bound', [10.0, 10.5])
def test_the_end_of_training_says_whether_the_limit_is_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, bound: float
) -> None:
    levels = [{**level(2.0, 8.0, 1.0, bound), 'cost_mean': 7.0}, level(5.0, 9.0, 1.0, 40.0)]
    agent, _ = train(tmp_path, monkeypatch, levels, None)
    assert agent.agent._evaluation.deployed.config.target_cost == 2.0
    said = capsys.readouterr().out
    spec = agent.agent._evaluation.deployed.networks.spec
    found = Guarantee.at(spec['calibration'], 10.0)
    assert found.status == (CERTIFIED if bound <= 10.0 else NOT_CERTIFIED)
    assert found.mean_statement in said
    assert found.share_statement in said
    assert '(target 8.00)' in said


def test_training_calibrates_its_last_checkpoint(tmp_path: Path) -> None:
    options = small_options(
        write_dataset(tmp_path / 'data.hdf5'),
        tmp_path,
        calibrate='simulator',
        calibrate_episodes=2,
    )
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    run = Path(agent.agent.logger.log_dir)
    first, last = (load_networks(path)[0].spec for path in list_checkpoints(run).values())
    assert first.get('calibration') is None
    record = last['calibration']
    assert record['episodes'] == 2
    assert record['settings']['candidates'] == 3
    assert last['worst_cost'] == agent.agent._trajectories.cost_returns.max().item()
    again, _ = calibrate_run(run, 2, device='cpu', processes=2)
    assert again == record
    # The last row of progress.csv is of the model as it is deployed from now on.
    target = targets_for(last, options.get('cost_limit', 10.0))
    assert agent.agent._evaluation.deployed.target_return == target[0]
    assert agent.agent._evaluation.deployed.config.used_target_cost == target[1]


def test_no_episode_of_training_is_played_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the same networks: those of the last epoch validate, calibrate and are reported."""
    played: list[int] = []
    play = EpisodePool.play_batches

    def noted(pool: Any, batches: Any, *arguments: Any) -> Any:
        played.append([seed for batch in batches for seed in batch.seeds])
        return play(pool, batches, *arguments)

    monkeypatch.setattr(EpisodePool, 'play_batches', noted)
    options = small_options(
        write_dataset(tmp_path / 'data.hdf5'),
        tmp_path,
        calibrate='simulator',
        calibrate_episodes=2,
    )
    omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options).learn()
    validation, *calibration_rounds, final = played[1:]  # played[0] is the first epoch's
    rounds = {seed for each in calibration_rounds for seed in each}
    assert calibration_rounds
    assert not rounds & {*validation, *final}
    assert not set(validation) & set(final)


# -- the guarantee --------------------------------------------------------------------------------


def test_a_loaded_policy_has_the_guarantee_of_each_limit(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=2)
    policy.set_cost_limit([2.0, 0.25])
    certified, nothing = policy.guarantee
    assert certified == Guarantee.at(RECORD, 2.0)
    assert (certified.status, certified.target_cost, certified.episodes) == (CERTIFIED, 2.5, 5)
    assert nothing.status == NO_SAFE_TARGET
    assert omnisafe_qpt.load_policy(run, 2.0, device='cpu').guarantee == certified
    policy.set_cost_limit(2.0, 33.0, episodes=[1])  # the user's own target return
    assert policy.guarantee == [certified, None]
    for options in ({'calibrated': False}, {'candidates': 2}, {'target_return': 3.0}):
        assert omnisafe_qpt.load_policy(run, 2.0, device='cpu', **options).guarantee is None


def test_a_calibration_of_an_earlier_version_is_not_trusted(run: Path, capsys: Any) -> None:
    networks, path = load_networks(run)
    old = {name: RECORD[name] for name in ('episodes', 'first_seed', 'settings', 'levels')}
    networks.spec['calibration'] = old
    save_checkpoint(run, 3, networks)
    capsys.readouterr()
    policy = omnisafe_qpt.load_policy(run, 10.0, device='cpu')
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert f'omnisafe-qpt calibrate {path}' in said
    assert policy.guarantee is None
    assert policy.target_return == 50.0  # of the frontier


@pytest.mark.parametrize(('limit', 'share'), [(1.9, 1.0), (2.0, 0.0)])
def test_the_share_over_the_limit_is_counted_at_each_limit(limit: float, share: float) -> None:
    found = Guarantee.at({**RECORD, 'levels': LEVELS[1:]}, limit)
    assert found.over == share * found.episodes
    assert found.share_bound == share_bound(found.over, 5, 0.05 / RECORD['comparisons'])
    assert str(math.ceil(100 * found.share_bound)) in found.share_statement


# -- commands -------------------------------------------------------------------------------------


def test_the_commands(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    use(monkeypatch, Unsteady)
    shared = [str(run), '--device', 'cpu', '--processes', '1']
    evaluate = ['evaluate', *shared, '--episodes', '2', '--cost-limit', '10']
    assert main([*evaluate, '--cost-limit', '0.25']) == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert '10.0 @2.5' in said
    for limit in (10.0, 0.25):
        assert Guarantee.at(RECORD, limit).mean_statement in said
    assert main([*evaluate, '--uncalibrated']) == 0
    said = capsys.readouterr().out
    assert '@' not in said
    assert 'calibration' not in said
    results = run.parent / 'calibration.json'
    assert main(['calibrate', *shared, '--episodes', '2', '--json', str(results)]) == 0
    said = capsys.readouterr().out
    record = json.loads(results.read_text())
    assert load_networks(run)[0].spec['calibration'] == record
    words = [row.split() for row in said.splitlines()]
    for found in record['levels']:
        names = ('target_return', 'return_mean', 'cost_mean')
        target, *means = (f'{found[name]:.1f}' for name in names)
        line = [f'{found["target_cost"]:g}', target, str(len(found['costs'])), *means]
        assert line in [row[:5] for row in words]


def test_the_commands_refuse_in_one_line(run: Path, capsys: Any) -> None:
    assert main(['calibrate', str(run), '--episodes', '1']) == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert main(['calibrate', str(run / 'nothing')]) == 1
    assert 'no such run folder' in capsys.readouterr().err
