# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, stopped or go wrong: what is kept, and how they go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest
import torch

import omnisafe_qpt
from common_helpers import SCRIPTS, leaves, read_csv
from host_helpers import (
    ENV_ID,
    command_line_options,
    make_networks,
    only_run,
    small_options,
    to_resume,
    train,
)
from omnisafe_qpt.cli import main
from omnisafe_qpt.evaluation.episodes import Evaluation
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.runs import checkpoint as checkpoint_module
from omnisafe_qpt.runs.best import best_epoch
from omnisafe_qpt.runs.checkpoint import checkpoint_path, save_best, save_checkpoint
from omnisafe_qpt.runs.resume import latest_run
from omnisafe_qpt.runs.run_log import RunLogger
from omnisafe_qpt.runs.training_state import random_state
from omnisafe_qpt.settings.seeds import (
    FIRST_CALIBRATION_SEED,
    FIRST_VALIDATION_SEED,
    calibration_seeds,
    check_test_seeds,
    final_seeds,
    validation_seeds,
)
from omnisafe_qpt.signals import Stopped, StopSignal
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
from omnisafe_qpt.training.run_state import RunState


def options_of(dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    """Four epochs of three updates, with dropout."""
    train_cfgs = {'total_steps': 12, 'final_evaluate_episodes': 1, **train_cfgs}
    options = small_options(dataset, log_dir, **train_cfgs)
    options['algo_cfgs']['steps_per_epoch'] = 3
    return options


def rows_of(run: Path) -> list[dict[str, str]]:
    """Read ``progress.csv`` as text, without what the clock says."""
    rows = read_csv(run / 'progress.csv')
    return [{key: row[key] for key in row if not key.startswith('Time/')} for row in rows]


def assert_same_run(run: Path, expected: Path) -> None:
    """Every weight, moment and random state, every logged number, and which epoch is the best."""
    names = sorted(path.name for path in (expected / 'torch_save').iterdir())
    assert sorted(path.name for path in (run / 'torch_save').iterdir()) == names
    for name in (*(f'torch_save/{name}' for name in names), 'training_state.pt'):
        mine, its = (dict(leaves(torch.load(place / name))) for place in (run, expected))
        tensors = [path for path, value in its.items() if isinstance(value, torch.Tensor)]
        assert len(tensors) > 50
        for path in tensors:
            assert torch.equal(mine[path], its[path]), f'{name}{path}'
    assert rows_of(run) == rows_of(expected)
    assert (run / 'best.json').exists() == (expected / 'best.json').exists()
    if (expected / 'best.json').exists():
        assert (run / 'best.json').read_text() == (expected / 'best.json').read_text()
    assert not list(run.rglob('.*')), 'what a kill broke off is cleared away'


@pytest.fixture(scope='module')
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(options_of(dataset, tmp_path_factory.mktemp('unbroken')))


# ------------------------------------------------------------------ SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(owner: Any, name: str, turn: int, fails_first: bool = True) -> None:
    """Let a function kill its process when it is called for this many-th time."""
    original, calls = getattr(owner, name), []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == turn and fails_first:
            die()
        result = original(*arguments, **options)
        if len(calls) == turn:
            die()
        return result

    setattr(owner, name, function)


def dying_in_a_write(turn: int) -> None:
    """Kill the process when half of a file is written."""
    original, calls = torch.save, []

    class Torn:
        def __init__(self, file: Any) -> None:
            self._file, self._left = file, 20_000

        def write(self, data: bytes) -> int:
            self._file.write(bytes(data)[: self._left])
            self._left -= len(data)
            if self._left <= 0:
                self._file.flush()
                die()
            return len(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def save(content: Any, file: Any) -> None:
        calls.append(content)
        original(content, Torn(file) if len(calls) == turn else file)

    checkpoint_module.torch.save = save


# What happens in a session until it is killed, and the epochs in the state that is kept then. An
# epoch writes state and checkpoint before its episodes, then checkpoint and state again.
KILLS: list[tuple[str, Callable[[], None], int | None]] = [
    ('before the first update', lambda: dying(RunState, 'restore_random_state', 1), None),
    ('within the first state', lambda: dying_in_a_write(1), None),
    ('within the first checkpoint', lambda: dying_in_a_write(2), 0),
    ('between checkpoint and state', lambda: dying(RunState, 'save', 4), 1),
    ('in an update', lambda: dying(Learner, 'update', 2), 2),
    ('in an evaluation', lambda: dying(EpochEvaluation, '_play', 1), 2),
    ('within a state', lambda: dying_in_a_write(4), 2),
    ('when config.json is to be written', lambda: dying(RunLogger, 'save_config', 1), 2),
    ('when progress.csv is written', lambda: dying(RunLogger, 'begin', 1, fails_first=False), 2),
]  # fmt: skip


def test_a_run_killed_wherever_it_hurts_ends_like_an_unbroken_one(
    unbroken: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    fork = multiprocessing.get_context('fork')

    def session(options: dict[str, Any], prepare: Callable[[], None]) -> int | None:
        def work() -> None:
            prepare()
            train(options)

        process = fork.Process(target=work)
        process.start()
        process.join(timeout=60)
        process.kill()
        return process.exitcode

    options = options_of(dataset, tmp_path)
    for name, prepare, epochs in KILLS:
        assert session(options, prepare) == -signal.SIGKILL, name
        run = only_run(tmp_path)
        state = run / 'training_state.pt'
        assert state.exists() == (epochs is not None), name
        assert epochs is None or torch.load(state)['epoch'] == epochs, name
        json.loads((run / 'config.json').read_text())
        options = to_resume(run)
    assert session(options, lambda: None) == 0
    assert_same_run(run, unbroken)


def start(options: dict[str, Any], cwd: Path) -> subprocess.Popen[str]:
    """Start the real command."""
    options = {key: dict(value) if isinstance(value, dict) else value
               for key, value in options.items()}  # fmt: skip
    log_dir = options.get('logger_cfgs', {}).pop('log_dir', cwd)
    arguments = ['--algo', 'QPT', '--env-id', ENV_ID, '--log-dir', str(log_dir)]
    return subprocess.Popen(
        [str(SCRIPTS / 'omnisafe'), 'train', *arguments, *command_line_options(options)],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '200'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    try:
        output, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == status, output[-2000:] + errors
    return output, errors


def rows_there(log_dir: Path) -> int:
    files = list(log_dir.rglob('progress.csv'))
    return max(len(files[0].read_text().splitlines()) - 1, 0) if files else 0


def has_begun(log_dir: Path, since: float) -> bool:
    return any(file.stat().st_mtime > since for file in log_dir.rglob('config.json'))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize('episodes', [1, 0])
def test_a_run_killed_twenty_times_ends_like_an_unbroken_one(
    dataset: Path,
    tmp_path: Path,
    episodes: int,
) -> None:
    """The real command, one and the same each time, killed at random moments."""
    generator = random.Random(episodes)
    # Epochs without episodes are short, and twenty kills must not see the end of the run.
    epochs = 60 if episodes else 300
    train_cfgs = {
        'total_steps': epochs * 3,
        'evaluate_epoisodes': episodes,
        'evaluate_processes': 2,
        'final_evaluate_episodes': 2 * episodes,
    }
    finish(start(options_of(dataset, tmp_path / 'unbroken', **train_cfgs), tmp_path))
    broken = tmp_path / 'broken'
    options = options_of(dataset, broken, resume='latest', **train_cfgs)
    for number in range(20):
        started, rows = time.time(), rows_there(broken)
        process = start(options, tmp_path)
        try:
            if number % 5 == 0:  # while it starts
                time.sleep(generator.uniform(0.0, 3.0))
            else:
                goal = rows + generator.choice([0, 1, 2])
                deadline = time.monotonic() + 120
                while not has_begun(broken, started) or rows_there(broken) < goal:
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                time.sleep(generator.uniform(0.0, 0.5))
            assert process.poll() is None, 'it was to be killed before its end'
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
    finish(start(options, tmp_path))
    assert_same_run(only_run(broken), only_run(tmp_path / 'unbroken'))


# ------------------------------------------------------------------ SIGINT, SIGTERM, SIGHUP

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stopping(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, turn: int, number: int
) -> None:
    """Send this process a signal when a method is called for this many-th time."""
    original, calls = getattr(kind, name), []

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == turn:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **options)

    monkeypatch.setattr(kind, name, method)


@pytest.mark.parametrize(
    ('kind', 'name', 'turn', 'number', 'updates'),
    [
        (Learner, 'update', 5, signal.SIGINT, 5),
        (EpochEvaluation, '_play', 2, signal.SIGTERM, 6),
        pytest.param(  # validation of the last epoch
            *(EpochEvaluation, '_play', 4, signal.SIGINT, 12), marks=pytest.mark.slow
        ),
        (EpochEvaluation, '_play', 5, signal.SIGTERM, 12),  # the last evaluation
        pytest.param(*(Learner, 'update', 5, signal.SIGHUP, 5), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_within_the_epoch(
    unbroken: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type,
    name: str,
    turn: int,
    number: signal.Signals,
    updates: int,
) -> None:
    handlers = [signal.getsignal(each) for each in STOPPING]
    with monkeypatch.context() as patch:
        stopping(patch, kind, name, turn, number)
        expected = KeyboardInterrupt if number == signal.SIGINT else SystemExit
        with pytest.raises(expected) as error:
            train(options_of(dataset, tmp_path))
    status = error.value.exit_status if number == signal.SIGINT else error.value.code
    assert status == 128 + number
    assert [signal.getsignal(each) for each in STOPPING] == handlers
    run = only_run(tmp_path)
    said = capsys.readouterr().err
    assert f'Stopped after {updates} of 12 updates. To resume: omnisafe train --algo QPT' in said
    assert f"--custom-cfgs train_cfgs:resume --custom-cfgs '{run}'" in said
    assert torch.load(run / 'training_state.pt')['learner']['step'] == updates
    torch.rand(3)  # what is drawn in between does not matter
    train(to_resume(run))
    assert_same_run(run, unbroken)


def children_of(pid: int) -> list[str]:
    listed = subprocess.run(
        ['ps', '-o', 'pid=,args=', '-g', str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'to_group'),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)],
)
def test_a_signal_in_an_evaluation_leaves_no_process(
    dataset: Path,
    tmp_path: Path,
    number: signal.Signals,
    to_group: bool,
) -> None:
    """Ctrl-C and some schedulers reach the simulators' processes too."""
    options = options_of(dataset, tmp_path, evaluate_epoisodes=400, evaluate_processes=2)
    process = start(options, tmp_path)
    deadline = time.monotonic() + 120
    while len(children_of(process.pid)) < 3:  # itself and two simulators
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, errors = finish(process, 128 + number)
    assert 'Traceback' not in errors
    assert errors.count('Stopped after 3 of 12 updates. To resume: ') == 1
    assert children_of(process.pid) == []


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(dataset: Path, tmp_path: Path) -> None:
    """With dropout, whose state each process has for itself."""

    def start_two(options: dict[str, Any], log_dir: Path) -> subprocess.Popen[str]:
        options.pop('logger_cfgs', None)
        arguments = ['--algo', 'QPT', '--env-id', ENV_ID, '--log-dir', str(log_dir)]
        return subprocess.Popen(
            [str(SCRIPTS / 'torchrun'), '--standalone', '--nproc-per-node', '2', '--no-python',
             str(SCRIPTS / 'omnisafe'), 'train', *arguments, *command_line_options(options)],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def options(log_dir: Path) -> dict[str, Any]:
        long = options_of(dataset, log_dir, total_steps=600)
        long['algo_cfgs']['steps_per_epoch'] = 200
        return long

    whole = options(tmp_path / 'whole')
    finish(start_two(whole, tmp_path / 'whole'))
    process = start_two(options(tmp_path / 'half'), tmp_path / 'half')
    deadline = time.monotonic() + 120
    while rows_there(tmp_path / 'half') < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)  # torchrun sends it to both
    _, errors = process.communicate(timeout=60)
    assert errors.count('updates. To resume: ') == 1
    run = only_run(tmp_path / 'half')
    state = torch.load(run / 'training_state.pt')
    assert state['learner']['step'] % 200, 'within an epoch'
    assert len(state['shares']) == 2
    finish(start_two(to_resume(run), tmp_path))
    assert_same_run(run, only_run(tmp_path / 'whole'))


def test_a_second_interruption_ends_at_once() -> None:
    code = (
        'import time\n'
        'from omnisafe_qpt.signals import StopSignal\n'
        "with StopSignal('later'):\n"
        "    print('ready', flush=True)\n"
        '    while True:\n'
        '        time.sleep(0.05)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == 'later\n'
    process.send_signal(signal.SIGINT)  # the same press once more, by way of a launcher
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_a_signal_is_not_lost_where_an_exception_would_be() -> None:
    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)  # an interruption raised here would be dropped

    with StopSignal() as stop:
        stop.check()
        Finalised()
        assert stop.received == signal.SIGINT
        with pytest.raises(Stopped) as error:
            stop.check()
    assert error.value.exit_status == 130
    assert isinstance(error.value, KeyboardInterrupt)


# ------------------------------------------------------------------ evaluation and training


def test_evaluation_does_not_change_what_is_learned(
    unbroken: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    options = options_of(dataset, tmp_path, evaluate_epoisodes=0, final_evaluate_episodes=0)
    run = train(options)
    for name in ('epoch-1.pt', 'epoch-4.pt'):
        mine, its = (
            torch.load(place / 'torch_save' / name)['pi'] for place in (run, unbroken)
        )  # fmt: skip
        for key, value in its.items():
            assert not isinstance(value, torch.Tensor) or torch.equal(mine[key], value), key
    rows = rows_of(run)
    assert not any(name.startswith(('Metrics/', 'Validation/')) for name in rows[0])
    assert not (run / 'best.json').exists()
    with pytest.raises(omnisafe_qpt.UserError, match='no best checkpoint'):
        checkpoint_path(run, 'best')
    assert checkpoint_path(run).name == 'epoch-4.pt'


def test_simulators_may_draw_what_they_like(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, states = EpochEvaluation._play, []

    def drawing(self: EpochEvaluation, label: str, seeds: range) -> Any:
        torch.rand(1)
        np.random.rand()
        random.random()
        return play(self, label, seeds)

    def watched(self: RunState, run: Path, epochs_done: int, shares: Any = ()) -> None:
        states.append([str(value) for _, value in leaves(random_state())])

    monkeypatch.setattr(RunState, 'save', watched)
    for method in (play, drawing):
        monkeypatch.setattr(EpochEvaluation, '_play', method)
        train(options_of(dataset, tmp_path, total_steps=3))
    assert states[0] == states[1]


# ------------------------------------------------------------------ last, best and numbers


def test_seeds_of_validation_calibration_and_reports_are_never_the_same() -> None:
    for seed in (0, 1, 3, 49_999, 99_998, 99_999, 123_456_789):
        chosen, reported = validation_seeds(seed, 10_000), final_seeds(seed, 10_000)
        calibrated = calibration_seeds(seed, 10_000)
        assert chosen.start >= FIRST_VALIDATION_SEED > reported.stop - 1 >= reported.start >= 0
        assert calibrated.start >= FIRST_CALIBRATION_SEED >= chosen.stop
        assert calibrated.stop < 2**31
    for reserved in (FIRST_VALIDATION_SEED, FIRST_CALIBRATION_SEED):
        with pytest.raises(omnisafe_qpt.UserError, match='calibration'):
            check_test_seeds(reserved, 1)
    assert final_seeds(3, 2) == range(40_000, 40_002)
    assert not set(validation_seeds(0, 50)) & set(validation_seeds(1, 50))
    for function in (validation_seeds, calibration_seeds, final_seeds):
        with pytest.raises(omnisafe_qpt.UserError, match='10000 at most'):
            function(0, 10_001)


def test_each_epoch_is_validated_on_the_same_seeds_and_the_last_tested_on_others(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played, play = [], EpochEvaluation._play

    def watched(self: EpochEvaluation, label: str, seeds: range) -> Any:
        played.append(seeds)
        return play(self, label, seeds)

    monkeypatch.setattr(EpochEvaluation, '_play', watched)
    run = train(options_of(dataset, tmp_path, total_steps=6, evaluate_epoisodes=2))
    validation = range(FIRST_VALIDATION_SEED + 30_000, FIRST_VALIDATION_SEED + 30_002)
    assert played == [validation, validation, range(40_000, 40_001)]
    first, last = rows_of(run)
    assert first['Validation/EpRet'] == first['Metrics/EpRet']
    assert last['Validation/EpRet'] != last['Metrics/EpRet']


def row(epoch: int, mean_return: float, cost: float) -> dict[str, float]:
    return {'Train/Epoch': epoch, 'Validation/EpRet': mean_return, 'Validation/EpCost': cost}


@pytest.mark.parametrize(
    ('rows', 'epoch'),
    [
        ([row(1, 5.0, 10.0), row(2, 9.0, 10.1), row(3, 4.0, 0.0)], 1),
        ([row(1, 5.0, 20.0), row(2, 1.0, 11.0), row(3, 9.0, 12.0)], 2),
        ([row(1, 5.0, 3.0), row(2, 5.0, 0.0)], 1),
        ([{'Train/Epoch': 1.0}, row(2, float('nan'), float('nan')), row(3, 0.0, 99.0)], 3),
    ],
)
def test_the_rule_of_the_best_epoch(rows: list[dict[str, float]], epoch: int) -> None:
    best = best_epoch(rows, 10.0)
    assert best is not None
    assert best['epoch'] == epoch
    assert best['checkpoint'] == f'torch_save/epoch-{epoch}.pt'
    assert (best['validation_cost'] <= 10.0) == best['is_within_limit']


def test_without_validation_no_epoch_is_the_best() -> None:
    assert best_epoch([], 10.0) is None
    assert best_epoch([row(1, float('nan'), float('nan'))], 10.0) is None


def test_the_best_checkpoint_is_always_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([(1.0, 0.0), (5.0, 9.0), (6.0, 11.0), (3.0, 0.0), (99.0, 0.0)])

    def played(self: EpochEvaluation, label: str, seeds: range) -> Evaluation:
        mean_return, cost = next(figures)
        return Evaluation([mean_return], [cost], [100], 0.0, 1.0, None)

    monkeypatch.setattr(EpochEvaluation, '_play', played)
    options = options_of(dataset, tmp_path)
    options['logger_cfgs']['save_model_freq'] = 100
    run = train(options)
    assert [path.name for path in sorted((run / 'torch_save').iterdir())] == [
        f'epoch-{epoch}.pt' for epoch in (1, 2, 4)
    ]
    best = json.loads((run / 'best.json').read_text())
    assert (best['epoch'], best['validation_return'], best['validation_cost']) == (2, 5.0, 9.0)
    assert best['first_seed'] == FIRST_VALIDATION_SEED + 30_000
    assert checkpoint_path(run, 'best').name == 'epoch-2.pt'
    assert checkpoint_path(run).name == 'epoch-4.pt'
    assert rows_of(run)[-1]['Metrics/EpRet'] == '99.0', 'the last row reports other episodes'


def best_of(epoch: int) -> dict[str, Any]:
    validated = {'epoch': epoch, 'validation_return': 1.0, 'validation_cost': 0.0}
    return {
        **validated,
        'rule': 'the highest return within the limit',
        'checkpoint': f'torch_save/epoch-{epoch}.pt',
        'cost_limit': 10.0,
        'is_within_limit': True,
        'epochs': [validated],
    }


def test_checkpoints_by_name_and_number(tmp_path: Path) -> None:
    run = tmp_path / 'seed-000-now'
    for epoch in (2, 9, 10):
        save_checkpoint(run, epoch, make_networks(3, 2, 5, ENV_ID))
    (run / 'config.json').write_text('{}')
    save_best(run, best_of(9))
    for which, epoch in (('last', 10), ('best', 9), (2, 2), ('2', 2)):
        assert checkpoint_path(run, which).name == f'epoch-{epoch}.pt'
    assert checkpoint_path(run / 'torch_save' / 'epoch-2.pt', 'best').stem == 'epoch-2'
    for which in (3, 'first', -1, '²'):
        with pytest.raises(omnisafe_qpt.UserError, match=r'no checkpoint .*; there are last, best'):
            checkpoint_path(run, which)
    save_best(run, best_of(7))
    with pytest.raises(omnisafe_qpt.UserError, match='no checkpoint best'):
        checkpoint_path(run, 'best')


@pytest.mark.parametrize(('which', 'name'), [('1', 'epoch-1.pt'), ('last', 'epoch-4.pt')])
def test_evaluate_takes_the_checkpoint_asked_for(
    unbroken: Path, tmp_path: Path, which: str, name: str
) -> None:
    arguments = ['evaluate', str(unbroken), '--checkpoint', which, '--episodes', '1']
    rows = tmp_path / 'rows.json'
    assert main([*arguments, '--device', 'cpu', '--json', str(rows)]) == 0
    assert [row['checkpoint'] for row in json.loads(rows.read_text())] == [name]


def test_evaluate_leaves_the_seeds_of_validation_alone(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(FIRST_VALIDATION_SEED - 1)
    for seed in ('-1', str(FIRST_VALIDATION_SEED), last):
        assert main(['evaluate', str(unbroken), '--episodes', '2', '--seed', seed]) == 1
    assert capsys.readouterr().err.count('seeds of evaluated episodes go from 0 to 999999999') == 2
    assert main(['evaluate', str(unbroken), '--episodes', '1', '--seed', last]) == 0


# ------------------------------------------------------------------ numbers that break down


@pytest.mark.slow
def test_a_run_that_breaks_down_keeps_what_was_good(
    unbroken: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update, turns = Learner.update, []

    def breaking(self: Learner, batch: Any) -> None:
        update(self, batch)
        turns.append(1)
        if len(turns) == 9:  # the last update of the third epoch: no metric shows it
            with torch.no_grad():
                next(self.policy.parameters()).view(-1)[0] = torch.inf

    monkeypatch.setattr(Learner, 'update', breaking)
    with pytest.raises(
        omnisafe_qpt.UserError,
        match=r'policy has weights that are not finite in epoch 3.*last good .*epoch-2\.pt',
    ):
        train(options_of(dataset, tmp_path))
    run = only_run(tmp_path)
    assert checkpoint_path(run).name == 'epoch-2.pt'
    assert len(rows_of(run)) == 2
    assert torch.load(run / 'training_state.pt')['epoch'] == 2
    monkeypatch.setattr(Learner, 'update', update)
    train(to_resume(run))
    assert_same_run(run, unbroken)


def test_a_stop_does_not_save_what_is_broken(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, turns = Learner.update, []

    def breaking(self: Learner, batch: Any) -> None:
        update(self, batch)
        turns.append(1)
        if len(turns) == 4:
            with torch.no_grad():
                self.cost_critic.weights[0].fill_(torch.nan)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, 'update', breaking)
    with pytest.raises(omnisafe_qpt.UserError, match='in epoch 2'):
        train(options_of(dataset, tmp_path))
    state = torch.load(only_run(tmp_path) / 'training_state.pt')
    assert state['epoch'] == 1
    assert state['learner']['step'] == 3


@pytest.mark.slow
def test_absurd_learning_rates_end_in_one_line(dataset: Path, tmp_path: Path) -> None:
    options = options_of(dataset, tmp_path)
    options['algo_cfgs']['warmup_steps'] = 12
    options['model_cfgs']['actor']['lr'] = 1e38
    process = start(options, tmp_path)
    output, errors = finish(process, 1)
    assert 'Traceback' not in output + errors
    (line,) = [line for line in errors.splitlines() if line.startswith('Error: ')]
    assert ' in epoch 1: training has stopped' in line
    assert not list(tmp_path.rglob('*.pt'))


# ------------------------------------------------------------------ what may differ


@pytest.mark.parametrize(
    ('section', 'name', 'value', 'message'),
    [
        ('algo_cfgs', 'batch_size', 16, 'algo_cfgs:batch_size = 8, not 16'),
        ('algo_cfgs', 'use_augmentation', False, 'algo_cfgs:use_augmentation = True, not'),
        ('algo_cfgs', 'cost_limit', 20.0, r'algo_cfgs:cost_limit = 10\.0, not 20\.0'),
        ('train_cfgs', 'preset', 'cpu', 'train_cfgs:preset = None, not cpu'),
        ('train_cfgs', 'total_steps', 12, 'has done 12 updates.* --total-steps'),
        (None, 'seed', 4, 'seed = 3, not 4'),
    ],
)
def test_other_settings_are_refused(
    unbroken: Path,
    section: str | None,
    name: str,
    value: Any,
    message: str,
) -> None:
    before = (unbroken / 'config.json').read_bytes()
    options = to_resume(unbroken)
    (options if section is None else options.setdefault(section, {}))[name] = value
    with pytest.raises(omnisafe_qpt.UserError, match=message) as error:
        train(options)
    assert '\n' not in str(error.value)
    assert (unbroken / 'config.json').read_bytes() == before


def test_what_may_differ_is_said(
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(unbroken, tmp_path / unbroken.parent.name / unbroken.name)
    changes = {'total_steps': 15, 'data_device': 'host', 'evaluate_epoisodes': 2}
    assert train(to_resume(run, **changes)) == run
    said = ' '.join(capsys.readouterr().out.split())
    assert 'Changed since it was stopped: data_device auto -> host, evaluate_epoisodes' in said
    assert 'total_steps 12 -> 15' in said
    assert [row['TotalSteps'] for row in rows_of(run)] == ['3.0', '6.0', '9.0', '12.0', '15.0']
    config = json.loads((run / 'config.json').read_text())
    assert config['train_cfgs']['total_steps'] == 15
    assert config['train_cfgs']['resume'] is None


def test_a_run_in_another_environment_is_refused(unbroken: Path) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match=f'is a run in {ENV_ID}, not in SafetyCarRun'):
        omnisafe.Agent('QPT', 'SafetyCarRun-v0', custom_cfgs=to_resume(unbroken))


def test_a_lost_state_does_not_cost_checkpoints(unbroken: Path, tmp_path: Path) -> None:
    run = shutil.copytree(unbroken, tmp_path / 'seed-003-now')
    for state in run.glob('training_state*.pt'):
        state.unlink()
    with pytest.raises(omnisafe_qpt.UserError, match=r'nothing to resume from.*start a new run'):
        train(to_resume(run, total_steps=15))


def test_a_folder_is_for_one_process(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('omnisafe_qpt.runs.run_log._SECONDS_OF_PATIENCE', 0.3)
    run = shutil.copytree(unbroken, tmp_path / 'seed-003-now')
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run, total_steps=15))
    with pytest.raises(omnisafe_qpt.UserError, match='another process is training this run'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run, total_steps=15))
    agent.learn()
    omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run, total_steps=18))


def test_the_latest_run_is_the_one_started_last(tmp_path: Path) -> None:
    assert latest_run('QPT', str(tmp_path), ENV_ID) is None
    for dataset, name in (
        ('a', 'seed-003-2026-01-02-03-04-05'),
        ('b', 'seed-001-2026-01-02-03-04-06'),
        ('b', 'seed-002-2025-12-31-23-59-59'),
    ):
        run = tmp_path / f'QPT-{{{ENV_ID}}}-{dataset}' / name
        run.mkdir(parents=True)
        (run / 'config.json').write_text('{}')
    (run.parent / 'seed-009-2027-01-01-00-00-00').mkdir()  # killed before it was one
    assert latest_run('QPT', str(tmp_path), ENV_ID).name.startswith('seed-001')
    assert latest_run('QPT', str(tmp_path), ENV_ID, seed=3).name.startswith('seed-003')
    assert latest_run('QPT', str(tmp_path), 'SafetyCarRun-v0') is None
    assert latest_run('CDT', str(tmp_path), ENV_ID) is None


def test_latest_without_a_run_begins_one(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_of(dataset, tmp_path, total_steps=3, resume='latest')
    run = train(options)
    assert f'No run of QPT in {ENV_ID} to resume' in capsys.readouterr().out
    options = options_of(dataset, tmp_path, total_steps=6, resume='latest')
    assert train(options) == run
    assert len(rows_of(run)) == 2
