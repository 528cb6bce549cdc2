# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Training on a dataset without a simulator: ``--env-id Offline-v0``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest

import host_helpers
import omnisafe_qpt
from host_helpers import small_options
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsEnsemble
from omnisafe_qpt.evaluation.off_policy.estimate import OffPolicyEvaluator
from omnisafe_qpt.evaluation.off_policy.rollouts import Imagined
from omnisafe_qpt.runs.checkpoint import load_best
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation


ENV_ID = 'Offline-v0'
HORIZON = 9
pytestmark = pytest.mark.usefixtures('small_model')


def write(path: Path, largest_action: float = 1.0, episodes: int = 24) -> Path:
    """Logs of an unknown system: fractional costs, large rewards, nothing after the last step."""
    random = np.random.default_rng(0)
    total = episodes * HORIZON
    observations = random.standard_normal((total, 3)).astype(np.float32)
    following = np.roll(observations, -1, axis=0)
    last = np.arange(total) % HORIZON == HORIZON - 1
    following[last] = 0.0
    actions = random.uniform(-1, 1, (total, 2)).astype(np.float32) * largest_action
    actions[0] = largest_action, -largest_action
    write_hdf5(
        path,
        {
            'observations': observations,
            'next_observations': following,
            'actions': actions,
            'rewards': -1e5 * random.random(total, dtype=np.float32),
            'costs': 0.3 * random.random(total, dtype=np.float32),
            'terminals': np.zeros(total, dtype=bool),
            'timeouts': last,
        },
    )
    return path


def options_for(dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    options = small_options(dataset, log_dir, **train_cfgs)
    for name in ('evaluate_epoisodes', 'final_evaluate_episodes', 'calibrate_episodes'):
        if name not in train_cfgs:
            del options['train_cfgs'][name]
    return options


def train(dataset: Path, log_dir: Path, algo: str = 'QPT', **train_cfgs: Any) -> Path:
    options = options_for(dataset, log_dir, **train_cfgs)
    if algo == 'BCSafe':
        options['algo_cfgs'] = {'steps_per_epoch': 5, 'batch_size': 8}
        del options['model_cfgs']
    return host_helpers.train(options, algo, ENV_ID)


def test_a_dataset_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / 'log.hdf5')
    run = train(dataset, tmp_path / 'runs')
    assert f'--offline {dataset}' in capsys.readouterr().out.replace('\n', ' ')
    policy = omnisafe_qpt.load_policy(run, cost_limit=2.0, device='cpu')
    action = policy.act(np.zeros(3, dtype=np.float32))
    assert action.shape == (2,)
    assert np.abs(action).max() <= 1.0
    assert policy.guarantee.method == 'model'
    record = json.loads((run / 'config.json').read_text())
    assert record['train_cfgs']['evaluate_epoisodes'] == 0
    page = tmp_path / 'report.html'
    assert main(['report', str(run), '--out', str(page)]) == 0
    assert page.read_text(encoding='utf-8')
    found = tmp_path / 'found.json'
    command = ['evaluate', str(run), '--offline', str(dataset), '--json', str(found)]
    assert main(command) == 0
    (checks,) = json.loads(found.read_text())
    assert checks['estimate']['limits'][0]['length_mean'] == HORIZON


@pytest.mark.parametrize('patience', [0, 1])
def test_the_best_epoch_is_that_of_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Within the limit of 10, the highest return; with patience 1 the next epoch is the last."""
    estimates = iter([(3.0, 2.0), (5.0, 8.0), (9.0, 12.0), (4.0, 0.0)])

    def roll_out(*_: Any) -> list[Imagined]:
        episode_return, cost = next(estimates)
        shape = (2, 3)
        return [
            Imagined(
                np.full(shape, episode_return), np.full(shape, cost), np.ones(shape), np.ones(shape)
            )
        ]

    monkeypatch.setattr(OffPolicyEvaluator, 'roll_out', roll_out)
    monkeypatch.setattr(EpochEvaluation, '_imagine', lambda _: None)
    run = train(write(tmp_path / 'log.hdf5'), tmp_path / 'runs', total_steps=20, patience=patience)
    best = load_best(run)
    assert (best['epoch'], best['method']) == (2, 'model')
    costs = [2.0, 8.0, 12.0] if patience else [2.0, 8.0, 12.0, 0.0]
    assert [row['validation_cost'] for row in best['epochs']] == costs
    policy = omnisafe_qpt.load_policy(run, device='cpu', checkpoint='best')
    assert policy.act(np.zeros(3, dtype=np.float32)).shape == (2,)


def test_exogenous_components_are_those_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In validation and calibration, and by default in later estimates."""
    replayed: list[tuple[int, ...]] = []

    def fit(trajectories: Any, config: Any, *arguments: Any) -> Any:
        replayed.append(config.exogenous)
        return original(trajectories, config, *arguments)

    original = DynamicsEnsemble.fit
    monkeypatch.setattr(DynamicsEnsemble, 'fit', fit)
    dataset = write(tmp_path / 'log.hdf5')
    run = train(dataset, tmp_path / 'runs', exogenous='0,2')
    assert replayed == [(0, 2)]
    for command, given, expected in (
        ('evaluate', [], (0, 2)),
        ('evaluate', ['--exogenous', '1'], (1,)),
        ('calibrate', [], (0, 2)),
    ):
        assert main([command, str(run), '--offline', str(dataset), *given]) == 0
        assert replayed[-1] == expected


def test_exogenous_components_that_the_data_lack_are_refused_before_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match='components of the observation, 0 to 2'):
        train(write(tmp_path / 'log.hdf5'), tmp_path / 'runs', exogenous='0-3')
    assert not list(tmp_path.glob('runs/**/*.pt'))


def test_what_needs_a_simulator_says_what_does_not(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(write(tmp_path / 'log.hdf5'), tmp_path / 'runs')
    for command in ('evaluate', 'calibrate'):
        capsys.readouterr()
        assert main([command, str(run)]) == 1
        said = capsys.readouterr().err
        assert said.count('\n') == 1
        assert '--offline' in said


def test_actions_of_another_range_come_back_in_it(tmp_path: Path) -> None:
    run = train(write(tmp_path / 'log.hdf5', largest_action=40.0), tmp_path / 'runs')
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    largest = max(
        np.abs(policy.act(np.full(3, value, dtype=np.float32))).max() for value in _observed(policy)
    )
    assert 1.0 < largest <= 40.0


def _observed(policy: Any) -> Any:
    for value in np.linspace(-3, 3, 7):
        yield value
        policy.observe(0.0, 0.0)


def test_the_horizon_is_that_of_the_data_or_the_users(tmp_path: Path) -> None:
    dataset = write(tmp_path / 'log.hdf5')
    for given, expected in ((None, HORIZON), (12, 12)):
        run = train(dataset, tmp_path / f'runs{expected}', horizon=given, calibrate='none')
        networks = omnisafe_qpt.load_policy(run, device='cpu')
        assert networks._spec['horizon'] == expected
        assert networks.guarantee is None


def test_a_baseline_trains_likewise(tmp_path: Path) -> None:
    run = train(write(tmp_path / 'log.hdf5'), tmp_path / 'runs', 'BCSafe')
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    assert np.isfinite(policy.act(np.zeros(3, dtype=np.float32))).all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'evaluate_epoisodes': 2}, 'evaluate_epoisodes is 2: there is no simulator'),
        ({'calibrate': 'simulator'}, 'calibrate simulator'),
        ({'horizon': 0}, 'horizon must be a whole number'),
        ({'exogenous': '0-'}, 'train_cfgs:exogenous: .*such as 0-5,8'),
        ({'dataset': None}, 'no DSRL dataset of Offline-v0'),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    dataset = write(tmp_path / 'log.hdf5')
    if 'dataset' in changes:
        dataset, changes = Path('auto'), {}
    options = options_for(dataset, tmp_path / 'runs', **changes)
    with pytest.raises(omnisafe_qpt.UserError, match=message):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert not (tmp_path / 'runs').exists()


def test_a_horizon_is_for_data_without_a_simulator(tmp_path: Path) -> None:
    options = options_for(write(tmp_path / 'log.hdf5'), tmp_path / 'runs', horizon=5)
    with pytest.raises(omnisafe_qpt.UserError, match='SafetyBallCircle-v0 has its own'):
        omnisafe.Agent('QPT', 'SafetyBallCircle-v0', custom_cfgs=options)
