# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Training that ends with a target calibration in learned dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import host_helpers
import omnisafe_qpt
from host_helpers import small_options, write_dataset
from omnisafe_qpt.evaluation.deployment import calibrated_settings
from omnisafe_qpt.evaluation.model_calibration import why_unreliable
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.runner import CALIBRATION_FORMAT, serving_level


pytestmark = pytest.mark.usefixtures('small_model')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball.hdf5', episodes=24)


def train(dataset: Path, log_dir: Path, **train_cfgs: Any) -> Path:
    options = small_options(dataset, log_dir, **{'calibrate': 'model', **train_cfgs})
    return host_helpers.train(options)


def test_training_calibrates_on_its_data(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no episode at all in the simulator."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError('an episode was simulated')

    monkeypatch.setattr('omnisafe_qpt.training.epoch_evaluation.evaluate', fail)
    monkeypatch.setattr('omnisafe_qpt.training.epoch_evaluation.calibrate', fail)
    run = train(dataset, tmp_path, evaluate_epoisodes=0, final_evaluate_episodes=0)
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    assert policy.guarantee.method == 'model'
    assert 'not measured' in str(policy.guarantee)


def test_the_reported_episodes_are_those_of_the_choice(dataset: Path, tmp_path: Path) -> None:
    run = train(dataset, tmp_path, evaluate_epoisodes=0, final_evaluate_episodes=1)
    (row,) = omnisafe_qpt.evaluate(run, episodes=1, processes=1, device='cpu')
    assert row['guarantee']['status'] in ('estimated', 'not certified', 'no safe target found')
    assert (run / 'progress.csv').read_text().count('\n') == 3


def test_too_few_episodes_are_refused_before_training(tmp_path: Path) -> None:
    few = write_dataset(tmp_path / 'few.hdf5', episodes=4)
    with pytest.raises(omnisafe_qpt.UserError, match=r'4 episodes.*at least 20'):
        train(few, tmp_path / 'runs')
    assert not list(tmp_path.glob('runs/**/*.pt'))


@pytest.mark.parametrize(
    ('bounds', 'zero_bound', 'limit', 'status', 'target'),
    [
        ((3.0, 8.0), None, 10.0, 'estimated', 5.0),
        ((3.0, 8.0), None, 5.0, 'estimated', 0.0),
        ((None, 3.0), None, 5.0, 'not certified', 0.0),  # nothing is known of the lowest
        ((None, None), 4.0, 5.0, 'no safe target found', None),
        ((12.0, 30.0), 7.0, 10.0, 'no safe target found', None),
        # A stricter limit does not get a costlier policy.
        ((12.0, 30.0), 7.0, 5.0, 'not certified', None),
        ((6.0, 30.0), 7.0, 5.0, 'not certified', 0.0),
    ],
)
def test_what_an_estimate_chooses(
    bounds: tuple[float | None, ...],
    zero_bound: float | None,
    limit: float,
    status: str,
    target: float | None,
) -> None:
    levels = [
        {'target_cost': 5.0 * index, 'cost_bound': bound, 'cost_mean': 1.0, 'return_mean': index}
        for index, bound in enumerate(bounds)
    ]
    zero_action = {**levels[0], 'target_cost': None, 'cost_bound': zero_bound}
    record = {'method': 'model', 'levels': levels, 'zero_action': zero_action}
    level, found = serving_level(record, limit)
    assert (level['target_cost'], found) == (target, status)


def test_without_levels_the_zero_action_is_left() -> None:
    """An exported file may hold such a record."""
    zero_action = {'target_cost': None, 'cost_bound': None, 'cost_mean': 1.0, 'return_mean': 0.0}
    record = {'method': 'model', 'levels': [], 'zero_action': zero_action}
    assert serving_level(record, 10.0) == (zero_action, 'not certified')


LEVEL = {
    'target_cost': 0.0,
    'target_return': 50.0,
    'returns': [1.0, 2.0],
    'costs': [1.0, 3.0],
    'lengths': [20, 20],
    'return_mean': 1.5,
    'cost_mean': 2.0,
    'cost_bound': 4.0,
    'reason': None,
}


def record_with(**level: Any) -> dict[str, Any]:
    """Return the record of a calibration in learned dynamics at one target cost."""
    zero_action = {**LEVEL, 'target_cost': None, 'target_return': None, 'cost_bound': None}
    return {
        'format': CALIBRATION_FORMAT,
        'method': 'model',
        'model': {},
        'episodes': 2,
        'worst_cost': 50.0,
        'comparisons': 1,
        'steps': 0,
        'levels': [{**LEVEL, **level}],
        'zero_action': zero_action,
    }


@pytest.mark.parametrize(
    ('level', 'limit', 'reason'),
    [
        ({}, 4.0, None),
        ({}, 3.9, 'up to 4, above the limit of 3.9'),
        ({'cost_bound': None, 'reason': 'the reason'}, 10.0, 'the reason'),
    ],
)
def test_an_estimate_that_cannot_choose_says_why(
    level: dict[str, Any], limit: float, reason: str | None
) -> None:
    found = why_unreliable(record_with(**level), limit)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ('bound', 'episodes', 'method', 'simulated'),
    [
        (4.0, 100, 'model', 0),
        (None, 100, 'simulator', 2),  # the estimate is not reliable
        (4.0, 99, 'simulator', 2),  # too few episodes for a reliable estimate
    ],
)
def test_auto_simulates_only_where_the_data_do_not_suffice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: float | None,
    episodes: int,
    method: str,
    simulated: int,
) -> None:
    module = 'omnisafe_qpt.training.epoch_evaluation'

    def imagined(_: Any, config: DeploymentConfig, *__: Any) -> Any:
        reason = 'unknown' if bound is None else None
        record = record_with(cost_bound=bound, reason=reason)
        return {**record, 'settings': calibrated_settings(config)}

    def measured(_: Any, config: DeploymentConfig, *__: Any) -> Any:
        record = {**record_with(), 'zero_action': None, 'settings': calibrated_settings(config)}
        del record['method'], record['model']
        return record

    monkeypatch.setattr(f'{module}.imagined_calibration', imagined)
    monkeypatch.setattr(f'{module}.calibrate', measured)
    data = write_dataset(tmp_path / 'data.hdf5', episodes=episodes)
    run = train(data, tmp_path, calibrate='auto', calibrate_episodes=2, final_evaluate_episodes=0)
    guarantee = omnisafe_qpt.load_policy(run, device='cpu').guarantee
    assert (guarantee.method, guarantee.simulated_episodes) == (method, simulated)


def test_without_episodes_auto_does_not_calibrate(dataset: Path, tmp_path: Path) -> None:
    run = train(dataset, tmp_path, calibrate='auto', calibrate_episodes=0)
    assert omnisafe_qpt.load_policy(run, device='cpu').guarantee is None
