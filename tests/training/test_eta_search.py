# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of ``eta_reward`` and ``eta_cost`` within a run: ``algo_cfgs:tune_etas``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from host_helpers import only_run, small_options, to_resume, train, write_dataset
from omnisafe_qpt.cli import main
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.signals import Stopped
from omnisafe_qpt.training import eta_search
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
from omnisafe_qpt.training.eta_search import best_trial


PAIRS = [(0.1, 0.1), (0.3, 0.3), (0.3, 0.1), (0.1, 0.03)]
# Estimated returns of the pairs at two limits.
ESTIMATES = [[None, 5.0], [2.0, 5.0], [3.0, 5.0], [None, 9.0]]
BEST = {'eta_reward': 0.3, 'eta_cost': 0.1}


def options_for(dataset: Path, log_dir: Path, **algo_cfgs: Any) -> dict[str, Any]:
    """Ten updates in two epochs, the choice after five."""
    options = small_options(dataset, log_dir, evaluate_epoisodes=0, final_evaluate_episodes=0)
    options['algo_cfgs'].update({'tune_etas': True, **algo_cfgs})
    return options


@pytest.fixture(name='trials')
def fixture_trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Replace the estimates by given ones; lists the weights of each policy that is estimated."""
    tried: list[tuple[float, float]] = []

    def estimate(self: EpochEvaluation) -> list[float | None]:
        assert self.deployed.networks.spec['step'] == 10
        pair = current[0].config.eta_reward, current[0].config.eta_cost
        tried.append(pair)
        torch.rand(3)  # an estimate may draw what it likes
        return ESTIMATES[PAIRS.index(pair)] if pair in PAIRS else [1.0]

    current: list[Learner] = []
    original = Learner.__init__

    def init(self: Learner, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        current[:] = [self]

    monkeypatch.setattr(Learner, '__init__', init)
    monkeypatch.setattr(EpochEvaluation, 'estimate_returns', estimate)
    monkeypatch.setattr(EpochEvaluation, 'check_estimable', lambda _: None)
    return tried


def assert_same_weights(run: Path, expected: Path) -> None:
    mine, its = (dict(load_networks(each)[0].named_parameters()) for each in (run, expected))
    assert len(its) > 20
    assert all(torch.equal(mine[name], value) for name, value in its.items())


def test_the_best_pair_trains_the_second_half(
    dataset: Path, tmp_path: Path, trials: list[tuple[float, float]], capsys: Any
) -> None:
    """The trials leave no trace: the first half is that of a run with the own weights."""
    run = train(options_for(dataset, tmp_path / 'tuned'))
    assert trials == PAIRS
    record = load_networks(run)[0].spec['etas']
    assert record['chosen'] == BEST
    assert [each['returns'] for each in record['tried']] == ESTIMATES
    assert 'eta_reward 0.3, eta_cost 0.1, chosen among 4 pairs' in capsys.readouterr().out
    page = tmp_path / 'report.html'
    assert main(['report', str(run), '--out', str(page)]) == 0
    assert 'chosen among 4 pairs' in page.read_text(encoding='utf-8')

    iterate = Learner.iterate

    def changed(self: Learner, batch: Any) -> None:
        if self.step == 5:
            self.config = eta_search.replace(self.config, **BEST)
        iterate(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, 'iterate', changed)
        expected = train(options_for(dataset, tmp_path / 'plain', tune_etas=False))
    assert_same_weights(run, expected)
    assert 'etas' not in load_networks(expected)[0].spec


@pytest.mark.parametrize('where', ['trial', 'before', 'after'])
def test_a_stopped_run_goes_on_like_an_unbroken_one(
    dataset: Path,
    tmp_path: Path,
    trials: list[tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    expected = train(options_for(dataset, tmp_path / 'unbroken'))
    trials.clear()
    with monkeypatch.context() as patch:
        stop_at(patch, {'before': 2, 'trial': 5 + 5 + 5 + 2, 'after': 5 + 20 + 2}[where])
        with pytest.raises(Stopped):
            train(options_for(dataset, tmp_path / 'broken'))
    if where == 'trial':
        assert trials == PAIRS[:2]
    run = train(to_resume(only_run(tmp_path / 'broken')))
    assert trials == PAIRS, 'no pair is tried again'
    assert_same_weights(run, expected)
    assert load_networks(run)[0].spec['etas'] == load_networks(expected)[0].spec['etas']


def stop_at(patch: pytest.MonkeyPatch, update: int) -> None:
    """Send a signal in an update, counted over run and trials."""
    iterate: Callable[..., None] = Learner.iterate
    count = 0

    def counted(self: Learner, batch: Any) -> None:
        nonlocal count
        count += 1
        if count == update:
            signal.raise_signal(signal.SIGINT)
        iterate(self, batch)

    patch.setattr(Learner, 'iterate', counted)


def test_too_few_episodes_keep_the_own_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_dataset(tmp_path / 'few.hdf5', episodes=4)
    run = train(options_for(few, tmp_path / 'runs', eta_cost=0.2))
    said = ' '.join(capsys.readouterr().out.split())
    assert 'eta_reward 0.1, eta_cost 0.2 are kept' in said
    assert 'at least 100' in said
    record = load_networks(run)[0].spec['etas']
    assert record == {'tried': [], 'chosen': {'eta_reward': 0.1, 'eta_cost': 0.2}}


def test_a_term_that_is_off_is_not_varied(
    dataset: Path, tmp_path: Path, trials: list[tuple[float, float]]
) -> None:
    train(options_for(dataset, tmp_path, use_reward_critic=False))
    assert trials == [(0.1, 0.1), (0.1, 0.3), (0.1, 0.03)]


@pytest.mark.parametrize(
    ('returns', 'best'),
    [
        ([[1.0, 2.0], [1.0, 3.0], [2.0, 2.0]], 1),
        ([[1.0, 2.0], [1.0, 2.2]], 0),  # not clearly better
        ([[None, 9.0], [1.0, 1.0]], 1),  # within more limits
        ([[None, None], [None, None]], 0),
    ],
)
def test_which_trial_is_the_best(returns: list[list[float | None]], best: int) -> None:
    tried = [{'number': number, 'returns': each} for number, each in enumerate(returns)]
    assert best_trial(tried, margin=0.2)['number'] == best


def test_several_processes_are_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, 'from_process_group', lambda: Ranks(0, 2))
    with pytest.raises(UserError, match='tune_etas is for one process'):
        train(options_for(dataset, tmp_path))
    assert not list(tmp_path.glob('**/config.json'))


def test_estimates_are_those_of_target_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half, once, twice and four times the cost limit."""
    level = {'asked_cost': 0.0, 'cost_mean': 1.0, 'return_mean': 2.0, 'cost_bound': 8.0}
    record = {
        'method': 'model',
        'levels': [level, {**level, 'return_mean': 5.0, 'cost_bound': 30.0}],
        'zero_action': None,
    }
    found = []
    module = 'omnisafe_qpt.training.epoch_evaluation'
    monkeypatch.setattr(f'{module}.imagined_calibration', lambda *_: record)
    monkeypatch.setattr(EpochEvaluation, '_learned_dynamics', lambda *_: None)
    monkeypatch.setattr(EpochEvaluation, 'check_estimable', lambda _: None)
    original = EpochEvaluation.estimate_returns

    def watched(self: EpochEvaluation) -> list[float | None]:
        found.append((self.estimated_limits, original(self)))
        return found[-1][1]

    monkeypatch.setattr(EpochEvaluation, 'estimate_returns', watched)
    train(options_for(write_dataset(tmp_path / 'data.hdf5', episodes=4), tmp_path / 'runs'))
    assert found[0] == ([5.0, 10.0, 20.0, 40.0], [None, 2.0, 2.0, 5.0])
