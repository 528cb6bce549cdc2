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
"""Calibration: what is measured, what a limit is then served by, the command and training."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest
import torch

import omnisafe_qpt
from host_helpers import ENV_ID, HORIZON, Unsteady, make_networks, small_options, use, write_dataset
from omnisafe_qpt.cli import main
from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.data.trajectories import Frontier
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host import algorithm, calibration
from omnisafe_qpt.host.calibration import calibrate, calibrate_run, ladder
from omnisafe_qpt.host.checkpoint import list_checkpoints, load_networks, save_checkpoint
from omnisafe_qpt.host.deployment import calibrated_settings, deployment_of
from omnisafe_qpt.host.evaluation import Evaluation, Series
from omnisafe_qpt.host.limits import evaluate_runs
from omnisafe_qpt.host.seeds import FIRST_VALIDATION_SEED
from omnisafe_qpt.runner import targets_for


def level(asked: float, target: float, return_mean: float, bound: float) -> dict[str, float]:
    return {
        'asked_cost': asked,
        'target_return': target,
        'return_mean': return_mean,
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
# The car that never moves.
STILL = {**level(0.0, 0.0, 1.0, 0.25), 'asked_cost': None, 'target_return': None}
RECORD = {'episodes': 5, 'first_seed': 0, 'settings': SETTINGS, 'levels': LEVELS}
FRONTIER = {'costs': [0.0, 5.0, 30.0], 'returns': [10.0, 50.0, 90.0]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A calibrated run of untrained networks."""
    folder = tmp_path / 'seed-000-now'
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    networks.spec.update(calibration=RECORD, seed=2, versions={'torch': '2'})
    save_checkpoint(folder, 3, networks)
    (folder / 'config.json').write_text('{}')
    return folder


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


def test_of_equal_costs_beyond_the_limit_the_better_one_is_asked_for() -> None:
    levels = [level(0.0, 1.0, 3.0, 7.0), level(1.0, 2.0, 4.0, 7.0), level(2.0, 3.0, 9.0, 8.0)]
    record = {'frontier': FRONTIER, 'calibration': {'levels': levels}}
    assert targets_for(record, 5.0) == (2.0, 1.0)


@pytest.mark.parametrize(
    ('limit', 'expected'),
    [
        (0.5, (10.0, 0.0)),  # within, though holding still costs less
        (0.4, (None, 0.4)),
        (0.1, (None, 0.1)),  # not within either, but the least
    ],
)
def test_where_nothing_asked_for_is_within_the_limit_the_model_holds_still(
    limit: float, expected: tuple[float | None, float]
) -> None:
    record = {'frontier': FRONTIER, 'calibration': {'levels': [*LEVELS, STILL]}}
    assert targets_for(record, limit) == expected


def test_holding_still_is_for_policies_above_the_limit_not_for_uncertain_ones() -> None:
    uncertain = {**level(2.0, 3.0, 9.0, 8.0), 'cost_mean': 4.0}
    costly = level(5.0, 4.0, 11.0, 9.0)
    for still_cost, limit, expected in (
        (0.0, 4.0, (3.0, 2.0)),
        (0.0, 3.9, (None, 3.9)),
        (8.5, 3.9, (3.0, 2.0)),  # standing costs even more
    ):
        levels = [uncertain, costly, {**STILL, 'cost_mean': still_cost, 'cost_bound': still_cost}]
        record = {'frontier': FRONTIER, 'calibration': {'levels': levels}}
        assert targets_for(record, limit) == expected


@pytest.mark.parametrize('record', [{}, {'calibration': None}])
def test_without_calibration_the_frontier_tells(record: dict[str, Any]) -> None:
    frontier = Frontier(tuple(FRONTIER['costs']), tuple(FRONTIER['returns']))
    for limit in (0.0, 4.9, 5.0, 12.0, 30.0, 99.0):
        found = targets_for({'frontier': FRONTIER, **record}, limit)
        assert found == (frontier.target_return(limit), limit)


def test_a_calibration_holds_for_its_own_settings_only(run: Path) -> None:
    networks, _ = load_networks(run)
    config, target = deployment_of(networks, 10.0)
    assert (config.cost_limit, config.asked_cost, target) == (10.0, 2.5, 10.0)
    for change in ({'candidates': 2}, {'rule': 'paced'}, {'candidate_shift': 'last'}):
        config, target = deployment_of(networks, 10.0, **change)
        assert (config.cost_to_ask_for, target) == (10.0, 50.0)
    config, target = deployment_of(networks, 10.0, target_return=33.0)
    assert (config.cost_to_ask_for, target) == (10.0, 33.0)


def test_the_runs_own_target_comes_first(run: Path) -> None:
    networks, _ = load_networks(run)
    networks.spec['target_return'] = 77.0
    config, target = deployment_of(networks, 10.0)
    assert (config.cost_to_ask_for, target) == (10.0, 77.0)
    assert deployment_of(networks, 5.0)[1] == 10.0


# -- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('costs', 'unit', 'expected'),
    [
        ((0.0,), 10.0, [0.0]),
        ((0.0, 4.0), 10.0, [0.0, 1.0, 2.5, 5.0]),
        ((3.0, 10.0), 10.0, [0.0, 1.0, 2.5, 5.0, 7.5, 10.0]),
        ((0.0, 1.0), 2.0, [0.0, 0.2, 0.5, 1.0]),
    ],
)
def test_the_ladder_ends_where_no_episode_of_the_data_is_better(
    costs: tuple[float, ...], unit: float, expected: list[float]
) -> None:
    frontier = Frontier(costs, tuple(range(len(costs))))
    assert ladder(unit, frontier) == pytest.approx(expected)


def test_a_ladder_has_an_end_whatever_the_data_cost() -> None:
    assert ladder(10.0, Frontier((0.0, 900.0), (0.0, 1.0)))[-1] == 80.0


class Answers:
    """In the simulators' place: costs that are a function of what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.series: list[Series] = []
        monkeypatch.setattr(calibration, 'evaluate_together', self)

    def __call__(
        self, env_id: str, series: list[Series], processes: int, on_progress: Any
    ) -> list[Evaluation]:
        del env_id, processes
        self.series = series
        on_progress(1, 2, 0)
        return [
            Evaluation(
                returns=[each.target_return or 0.0, (each.target_return or 0.0) + 2],
                costs=[each.config.cost_to_ask_for, each.config.cost_to_ask_for + 6.0],
                lengths=[9, 9],
                infeasible_share=0.0,
                steps_per_second=1.0,
                traces=None,
            )
            for each in series
        ]


def test_every_level_is_asked_for_and_written_down(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, _ = load_networks(run)
    answers, seen = Answers(monkeypatch), []
    config = DeploymentConfig(candidates=4, rule='bounded')
    record = calibrate(networks, config, 2, on_progress=lambda *steps: seen.append(steps))
    assert seen == [(1, 2)]
    # The cost unit of make_networks is 10, its frontier ends at 30.
    asked = [0.0, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0]
    targets = [10.0, 10.0, 10.0, 50.0, 50.0, 50.0, 50.0, 50.0, 90.0]
    assert [each.config for each in answers.series] == [
        replace(config, asked_cost=cost) for cost in (*asked, None)
    ]
    assert [each.target_return for each in answers.series] == [*targets, None]
    assert all(list(each.seeds) == [record['first_seed'], record['first_seed'] + 1]
               for each in answers.series)  # fmt: skip
    assert record['first_seed'] >= FIRST_VALIDATION_SEED
    assert record['settings'] == calibrated_settings(config)
    *levels, still = record['levels']
    assert len(levels) == len(asked)
    assert (still['asked_cost'], still['target_return'], still['return_mean']) == (None, None, 1.0)
    for found, cost, target in zip(levels, asked, targets):
        spread = statistics.stdev([cost, cost + 6.0])
        assert found == pytest.approx(
            {
                'asked_cost': cost,
                'target_return': target,
                'return_mean': target + 1,
                'cost_mean': cost + 3,
                'cost_bound': cost + 3 + 6.314 * spread / math.sqrt(2),
            },
        )


def test_one_episode_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match='1 episodes of calibration; it must be at least 2'):
        calibrate_run(run, 1)


def test_the_checkpoint_keeps_all_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch)
    before, path = load_networks(run)
    record, written = calibrate_run(run, 2, rule='paced', device='cpu')
    after, _ = load_networks(run)
    assert written == path
    assert after.spec == {**before.spec, 'calibration': record}
    assert record['settings']['rule'] == 'paced'
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
    assert [(row['cost_limit'], row['asked_cost'], row['target_return']) for row in rows] == [
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
    assert (plain['asked_cost'], plain['target_return']) == (10.0, 50.0)
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
    networks.spec['calibration'] = {**RECORD, 'levels': [*LEVELS, STILL]}
    save_checkpoint(run, 3, networks)
    return path


def test_a_model_that_holds_still_takes_the_zero_action(
    still_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Unsteady)
    rows = evaluate_runs(still_run, [0.25, 0.5], episodes=3, device='cpu', processes=1, traces=True)
    keys = ('holds_still', 'target_return', 'asked_cost', 'calibrated_bound', 'rule')
    assert [rows[0][key] for key in keys] == [True, None, None, 0.25, 'paper']
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


def test_a_trained_model_that_holds_still_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def found(networks: Any, config: DeploymentConfig, *_: Any) -> dict[str, Any]:
        del networks
        levels = [level(2.0, 8.0, 1.0, 40.0), STILL]
        return {**RECORD, 'settings': calibrated_settings(config), 'levels': levels}

    monkeypatch.setattr(algorithm, 'calibrate', found)
    options = small_options(write_dataset(tmp_path / 'data.hdf5'), tmp_path, calibrate_episodes=2)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    assert agent.agent._actor.target_return is None
    said = capsys.readouterr().out
    assert 'Calibration  nothing was within the limit: the policy HOLDS STILL' in said
    assert '(target' not in said
    run = agent.agent.logger.log_dir
    plot = tmp_path / 'limits.png'
    assert main(['evaluate', run, '--episodes', '2', '--plot', str(plot)]) == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert 'found nothing within it, so that the policy holds still' in said
    assert '10 still' in said
    assert plot.exists()


def test_training_calibrates_its_last_checkpoint(tmp_path: Path) -> None:
    options = small_options(write_dataset(tmp_path / 'data.hdf5'), tmp_path, calibrate_episodes=2)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    run = Path(agent.agent.logger.log_dir)
    first, last = (load_networks(path)[0].spec for path in list_checkpoints(run).values())
    assert first.get('calibration') is None
    record = last['calibration']
    assert record['episodes'] == 2
    assert record['settings']['candidates'] == 3
    again, _ = calibrate_run(run, 2, device='cpu', processes=2)
    assert again == record
    # The last row of progress.csv is of the model as it is deployed from now on.
    target = targets_for(last, options.get('cost_limit', 10.0))
    assert agent.agent._actor.target_return == target[0]
    assert agent.agent._actor.config.asked_cost == target[1]


@pytest.mark.parametrize('bound', [10.0, 10.5])
def test_the_end_of_training_says_that_nothing_was_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, bound: float
) -> None:
    def found(networks: Any, config: DeploymentConfig, *_: Any) -> dict[str, Any]:
        del networks
        levels = [level(5.0, 9.0, 1.0, bound + 30.0), level(2.0, 8.0, 1.0, bound)]
        return {**RECORD, 'settings': calibrated_settings(config), 'levels': levels}

    monkeypatch.setattr(algorithm, 'calibrate', found)
    options = small_options(write_dataset(tmp_path / 'data.hdf5'), tmp_path, calibrate_episodes=2)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    assert agent.agent._actor.config.asked_cost == 2.0
    said = capsys.readouterr().out
    assert ('Calibration  nothing was within the limit' in said) == (bound > 10.0)
    assert '(target 8.00)' in said


# -- commands -------------------------------------------------------------------------------------


def test_the_commands(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    use(monkeypatch, Unsteady)
    shared = [str(run), '--device', 'cpu', '--processes', '1']
    evaluate = ['evaluate', *shared, '--episodes', '2', '--cost-limit', '10']
    assert main([*evaluate, '--cost-limit', '0.25']) == 0
    said = capsys.readouterr().out
    assert '10.0 @2.5' in said
    assert 'limit 0.25: the calibration found nothing within it' in said
    assert main([*evaluate, '--uncalibrated']) == 0
    said = capsys.readouterr().out
    assert '@' not in said
    assert 'calibration' not in said
    results = run.parent / 'calibration.json'
    assert main(['calibrate', *shared, '--episodes', '2', '--json', str(results)]) == 0
    said = capsys.readouterr().out
    record = json.loads(results.read_text())
    assert load_networks(run)[0].spec['calibration'] == record
    *levels, still = record['levels']
    assert len(levels) == 9
    assert still['asked_cost'] is None
    assert ['still', 'still'] in [row.split()[:2] for row in said.splitlines()]
    for found in levels:
        line = [f'{found[name]:.1f}' for name in ('asked_cost', 'target_return', 'return_mean')]
        assert '  '.join(line).split() in [row.split()[:3] for row in said.splitlines()]


def test_the_commands_refuse_in_one_line(run: Path, capsys: Any) -> None:
    assert main(['calibrate', str(run), '--episodes', '1']) == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert main(['calibrate', str(run / 'nothing')]) == 1
    assert 'no such run folder' in capsys.readouterr().err
