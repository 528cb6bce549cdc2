# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Training that ends early: ``train_cfgs:patience``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import omnisafe
import pytest

import omnisafe_qpt
from common_helpers import read_csv
from host_helpers import ENV_ID, only_run, small_options, to_resume, train
from omnisafe_qpt.evaluation.episodes import Evaluation
from omnisafe_qpt.runs.checkpoint import checkpoint_path
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation


# Validation returns of the epochs; the costs are within the limit.
RETURNS = (1.0, 5.0, 3.0, 2.0, 4.0, 9.0)


@pytest.fixture(name='parts')
def fixture_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace episodes by given returns; lists the parts of the run that were played."""
    played: list[str] = []

    def play(_: EpochEvaluation, label: str, seeds: range) -> Evaluation | None:
        played.append(label)
        mean_return = RETURNS[played.count('Validating') - 1]
        return Evaluation([mean_return], [1.0], [100], 0.0, 1.0, None) if seeds else None

    monkeypatch.setattr(EpochEvaluation, '_play', play)
    return played


def options_for(dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    return small_options(dataset, log_dir, **{'total_steps': 30, 'patience': 2, **train_cfgs})


def epochs_of(run: Path) -> list[str]:
    return [row['Train/Epoch'] for row in read_csv(run / 'progress.csv')]


def test_training_ends_when_no_epoch_is_better(
    dataset: Path, tmp_path: Path, parts: list[str]
) -> None:
    """As a run ends otherwise; and it goes on with more patience."""
    run = train(options_for(dataset, tmp_path))
    assert epochs_of(run) == ['1.0', '2.0', '3.0', '4.0']
    assert parts == ['Validating'] * 4 + ['Evaluating']
    assert checkpoint_path(run).name == 'epoch-4.pt'
    assert json.loads((run / 'best.json').read_text())['epoch'] == 2
    with pytest.raises(omnisafe_qpt.UserError, match=r'stopped early.*raise train_cfgs:patience'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run))
    train(to_resume(run, patience=4))
    assert epochs_of(run)[4:] == ['5.0', '6.0']
    assert json.loads((run / 'best.json').read_text())['epoch'] == 6


def test_a_break_in_the_last_evaluation_changes_nothing(
    dataset: Path, tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play = EpochEvaluation._play

    def fail(self: EpochEvaluation, label: str, seeds: range) -> Evaluation | None:
        if label == 'Evaluating':
            parts.pop()  # the validation of this epoch, which is repeated
            raise RuntimeError('the power is off')
        return play(self, label, seeds)

    options = options_for(dataset, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EpochEvaluation, '_play', fail)
        with pytest.raises(RuntimeError, match='power'):
            train(options)
    run = train(to_resume(only_run(tmp_path)))
    assert epochs_of(run) == ['1.0', '2.0', '3.0', '4.0']
    assert parts == ['Validating'] * 4 + ['Evaluating']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'evaluate_epoisodes': 0}, 'patience is 2, but no epoch is validated'),
        ({'patience': -1}, 'patience must be at least 0'),
    ],
)
def test_what_cannot_end_a_training_is_refused(
    dataset: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match=message):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options_for(dataset, tmp_path, **changes))
    assert not list(tmp_path.glob('**/config.json'))
