# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs at several cost limits: the rows, their averages, the command, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omnisafe_qpt
from host_helpers import ENV_ID, HORIZON, Unsteady, make_networks, untrained_run, use
from omnisafe_qpt.cli import main
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation import sweep as limits
from omnisafe_qpt.evaluation.averages import average_runs
from omnisafe_qpt.evaluation.episodes import Evaluation, Series
from omnisafe_qpt.evaluation.sweep import evaluate_runs


def make_run(folder: Path, env_id: str = ENV_ID, weight: float = 1.0) -> Path:
    """A run of untrained networks; its frontier is that of ``make_networks``."""
    networks = make_networks(7, 2, HORIZON, env_id)
    networks.policy.head.weight.mul_(weight)
    networks.spec['reference_returns'] = [10.0, 60.0]
    return untrained_run(folder, networks)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp('runs') / 'seed-000-now')


@pytest.fixture(scope='module')
def other(run: Path) -> Path:
    return make_run(run.parent / 'seed-001-now', weight=0.5)


def without_speed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != 'steps_per_second'}


class Asked:
    """In the simulators' place: keeps what was to be run, and makes returns and costs up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.series: list[Series] = []
        self.env_ids: list[str] = []
        self.costs: list[float] | None = None
        monkeypatch.setattr(limits, 'evaluate_together', self)

    def __call__(
        self, env_id: str, series: list[Series], processes: int, traced: bool, report: Any
    ) -> list[Evaluation]:
        self.env_ids.append(env_id)
        self.series.extend(series)
        generator = np.random.default_rng(0)
        found = []
        for number, each in enumerate(series):
            count = len(each.seeds)
            returns, costs = (generator.uniform(0, 40, count).tolist() for _ in range(2))
            found.append(Evaluation(returns, self.costs or costs, [9] * count, 0.25, 100.0, None))
            report(number, len(series), number)
        return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


# -- rows -----------------------------------------------------------------------------------------


def test_a_row_is_the_same_alone_and_among_others(
    run: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other limits and other runs must not change a bit of it, nor the number of processes."""
    use(monkeypatch, Unsteady)
    choice: dict[str, Any] = {'episodes': 4, 'candidates': 3, 'device': 'cpu', 'seed': 11}
    (alone,) = evaluate_runs(run, 10, processes=1, traces=True, **choice)
    many = evaluate_runs([other, run], [5, 10, 20, 40], processes=3, traces=True, **choice)
    assert without_speed(many[5]) == without_speed(alone)
    assert len({tuple(row['returns']) for row in many}) == 8
    assert len(set(alone['lengths'])) > 1
    assert [len(trace['costs']) for trace in alone['traces']] == alone['lengths']
    json.dumps(many)


def test_limits_are_in_order_within_runs_with_the_same_seeds(
    run: Path, other: Path, asked: Asked
) -> None:
    rows = evaluate_runs([other, run], [40, 5.0], episodes=3, seed=7, device='cpu')
    assert asked.env_ids == [ENV_ID]
    assert [each.config.cost_limit for each in asked.series] == [40.0, 5.0, 40.0, 5.0]
    assert [list(each.seeds) for each in asked.series] == [[7, 8, 9]] * 4
    assert [(row['run'], row['cost_limit']) for row in rows] == [
        (str(folder), limit) for folder in (other, run) for limit in (40.0, 5.0)
    ]
    weights = [each.networks.policy.head.weight.abs().sum().item() for each in asked.series]
    assert weights == [pytest.approx(share * weights[2]) for share in (0.5, 0.5, 1, 1)]


def test_the_target_is_the_datasets_best_within_the_limit_or_given(run: Path, asked: Asked) -> None:
    def targets(*arguments: Any) -> list[float]:
        return [row['target_return'] for row in evaluate_runs(run, *arguments, device='cpu')]

    assert targets([0, 5, 29, 40]) == [10.0, 50.0, 50.0, 90.0]
    assert targets() == [50.0], "the run's own limit is 10"
    assert targets([5, 40], 33) == [33.0, 33.0]
    assert targets([5, 40], [33, 44.5]) == [33.0, 44.5]
    assert targets(np.array([5, 40], dtype=np.float32)) == [50.0, 90.0]
    # DSRL's for BallRun.
    assert targets([10, 40], 'dsrl') == [500.0, 700.0]
    assert targets([10, 15], ['dsrl', 33]) == [500.0, 33.0]
    with pytest.raises(UserError, match='no target for BallRun at cost limit 15'):
        targets([10, 15], 'dsrl')
    with pytest.raises(UserError, match="must be auto, dsrl or a number, not 'best'"):
        targets([10], 'best')


def test_the_figures_of_a_row(run: Path, asked: Asked) -> None:
    (row,) = evaluate_runs(
        run, 20, 44, episodes=30, candidates=5, rule='bounded', candidate_shift='last', device='cpu'
    )
    returns, costs = np.array(row['returns']), np.array(row['costs'])
    expected = {
        'return_mean': returns.mean(),
        'return_std': returns.std(),
        'cost_mean': costs.mean(),
        'cost_std': costs.std(),
        'normalized_return': (returns.mean() - 10) / 50,
        'normalized_cost': costs.mean() / 20,
        'unsafe_share': np.mean(costs > 20),
        'infeasible_share': 0.25,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name
    assert 0.2 < row['unsafe_share'] < 0.8
    assert row['safe'] is bool(costs.mean() <= 20)
    assert (row['candidates'], row['rule'], row['candidate_shift']) == (5, 'bounded', 'last')
    assert (row['episodes'], row['seed'], row['env_id']) == (30, 0, ENV_ID)
    assert (row['checkpoint'], row['reference_returns']) == ('epoch-3.pt', [10.0, 60.0])
    assert 'traces' not in row


def test_a_cost_at_the_limit_is_safe(run: Path, asked: Asked) -> None:
    asked.costs = [10.0, 10.0, 10.0]
    at, below = evaluate_runs(run, [10, 9.9], episodes=3, device='cpu')
    assert (at['unsafe_share'], at['normalized_cost'], at['safe']) == (0.0, 1.0, True)
    assert (below['unsafe_share'], below['safe']) == (1.0, False)


def test_progress_says_which_run_and_limit(run: Path, other: Path, asked: Asked) -> None:
    seen: list[Any] = []
    evaluate_runs([run, other], [5, 10], device='cpu', on_progress=lambda *news: seen.append(news))
    doing = ['Run 1/2, limit 5', 'Run 1/2, limit 10', 'Run 2/2, limit 5', 'Run 2/2, limit 10']
    assert seen == [(number, 4, text) for number, text in enumerate(doing)]
    seen.clear()
    evaluate_runs(run, [0.5], device='cpu', on_progress=lambda *news: seen.append(news))
    assert seen == [(0, 1, 'Limit 0.5')]


def test_the_package_itself_evaluates() -> None:
    assert omnisafe_qpt.evaluate is evaluate_runs


# -- averages -------------------------------------------------------------------------------------


def test_averages_are_over_runs_for_each_limit(run: Path, other: Path, asked: Asked) -> None:
    rows = evaluate_runs([run, other], [5, 40], episodes=6, device='cpu')
    averages = average_runs(rows)
    assert [row['cost_limit'] for row in averages] == [5.0, 40.0]
    for average, (one, two) in zip(averages, (rows[::2], rows[1::2])):
        assert (average['env_id'], average['runs'], average['episodes']) == (ENV_ID, 2, 12)
        for name in ('return_mean', 'cost_mean', 'normalized_return', 'normalized_cost'):
            mean = (one[name] + two[name]) / 2
            half = 12.706 * abs(one[name] - two[name]) / 2  # of Student's t, 1 degree of freedom
            assert average[name] == pytest.approx(mean)
            assert average[f'{name}_interval'] == pytest.approx((mean - half, mean + half))
        costs = np.array(one['costs'] + two['costs'])
        assert average['unsafe_share'] == pytest.approx(np.mean(costs > average['cost_limit']))
        assert average['safe'] == (average['normalized_cost'] <= 1)
        assert average['safe_runs'] == one['safe'] + two['safe']
    assert {average['safe'] for average in averages} == {True, False}


def test_one_run_has_no_interval(run: Path, asked: Asked) -> None:
    (average,) = average_runs(evaluate_runs(run, 5, device='cpu'))
    assert average['runs'] == 1
    assert average['cost_mean_interval'] is None


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        ({'cost_limits': [5, -1]}, r'cost limit -1: it must be at least 0'),
        ({'cost_limits': float('nan')}, r'cost limit nan: it must be a finite number'),
        ({'cost_limits': [float('inf')]}, r'cost limit inf: it must be a finite number'),
        ({'cost_limits': [5, 10, 5.0]}, r'cost limit 5 is given twice'),
        ({'target_return': float('nan')}, r'target return nan: it must be a finite number'),
        (
            {'cost_limits': [5, 10, 20], 'target_return': [1, 2]},
            r'2 target returns for 3 cost limits; give one for all limits or one for each',
        ),
        ({'episodes': 0}, r'episodes is 0; it must be .*at least 1'),
        ({'processes': 0}, r'processes is 0; it must be .*at least 1'),
        ({'seed': -1}, r'seed is -1; it must be .*at least 0'),
        ({'candidates': 0}, r'candidates is 0'),
        ({'rule': 'best'}, r"rule is 'best'"),
        ({'checkpoint': 9}, r'no checkpoint 9'),
    ],
)
def test_impossible_values_are_refused_before_any_episode(
    run: Path, asked: Asked, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_runs(run, device='cpu', **choice)
    assert not asked.series


def test_runs_that_do_not_belong_together_are_refused(
    run: Path, tmp_path: Path, asked: Asked
) -> None:
    another = make_run(tmp_path / 'seed-000-circle', env_id='SafetyBallCircle-v0')
    with pytest.raises(UserError, match=f'different tasks: .* {ENV_ID}, .* SafetyBallCircle-v0'):
        evaluate_runs([run, another], device='cpu')
    with pytest.raises(UserError, match=r'epoch-3\.pt is given twice'):
        evaluate_runs([run, run / 'torch_save' / 'epoch-3.pt'], device='cpu')
    with pytest.raises(UserError, match='nowhere: no such run'):
        evaluate_runs([run, 'nowhere'], device='cpu')
    with pytest.raises(UserError, match='no run to evaluate'):
        evaluate_runs([])
    assert not asked.series


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')
    return tmp_path


def test_the_command_prints_tables_and_writes_files(
    run: Path,
    other: Path,
    asked: Asked,
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ['evaluate', str(run), str(other), '--device', 'cpu', '--episodes', '3']
    arguments += ['--cost-limit', '10', '--cost-limit', '20', '--target-return', '1234.5']
    files = ['--json', 'rows.json', '--summary', 'mean.json', '--plot', 'limits.png']
    assert main([*arguments, *files]) == 0
    rows = json.loads((in_tmp / 'rows.json').read_text())
    averages = json.loads((in_tmp / 'mean.json').read_text())
    assert [row['cost_limit'] for row in rows] == [10, 20, 10, 20]
    assert averages == json.loads(json.dumps(average_runs(rows)))
    assert (in_tmp / 'limits.png').read_bytes().startswith(b'\x89PNG')
    assert len(list(in_tmp.iterdir())) == 3, 'no temporary file is left'
    printed = capsys.readouterr().out
    assert '…' not in printed, 'all of it fits 80 columns'
    assert f'{run}, epoch-3.pt' in printed
    assert f'{other}, epoch-3.pt' in printed
    lines = [line.split() for line in printed.splitlines()]
    for row in rows:
        assert [
            f'{row["cost_limit"]:g}',
            '1234.5',
            *(f'{row["return_mean"]:.1f} ± {row["return_std"]:.1f}'.split()),
            f'{row["normalized_return"]:.3f}',
            *(f'{row["cost_mean"]:.1f} ± {row["cost_std"]:.1f}'.split()),
            f'{row["normalized_cost"]:.3f}',
            f'{row["unsafe_share"]:.0%}',
            'yes' if row['safe'] else 'NO',
        ] in lines
    for row in averages:
        low, high = row['normalized_cost_interval']
        text = f'{row["normalized_cost"]:.3f} ± {(high - low) / 2:.3f}'
        assert any(' '.join(line).count(text) == 1 for line in lines)
    assert 'Student t interval' in printed


def test_one_run_has_one_table(
    run: Path, asked: Asked, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', str(run), '--device', 'cpu']) == 0
    printed = capsys.readouterr().out
    assert printed.count(ENV_ID) == 1
    assert 'Student' not in printed
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--plot', 'limits.txt'], 'limits.txt: unknown kind of figure'),
        (['--plot', 'no/where.png'], '--plot no/where.png: there is no folder no'),
        (['--summary', '.'], '--summary .: is a folder'),
        (['--json', 'same.json', '--summary', 'same.json'], '--json and --summary'),
        (['--cost-limit', 'nan'], 'cost limit nan'),
        (['--cost-limit', '5', '--cost-limit', '5'], 'cost limit 5 is given twice'),
        (['--cost-limit=-3'], 'cost limit -3'),
        (['--seed=-3'], 'seed is -3'),
    ],
)
def test_the_commands_mistakes_are_one_line_before_the_work(
    run: Path,
    asked: Asked,
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(['evaluate', str(run), '--device', 'cpu', *options]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith('Error: ')
    assert message in printed.err
    assert printed.err.count('\n') == 1
    assert not printed.out
    assert not asked.series
    assert not list(in_tmp.iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    run: Path,
    asked: Asked,
    in_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write anywhere
    assert main(['evaluate', str(run), '--json', 'rows.json']) == 1
    assert '--json rows.json: you may not write in the folder .' in capsys.readouterr().err
    assert not asked.series


def children(process: int) -> list[int]:
    """The processes that a process has started and that are alive."""
    try:
        text = Path(f'/proc/{process}/task/{process}/children').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(number) for number in text.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
def test_an_interruption_is_one_line_and_leaves_no_process(run: Path, tmp_path: Path) -> None:
    """As Ctrl-C does it: all processes get the signal."""
    command = [str(Path(sys.executable).parent / 'omnisafe-qpt'), 'evaluate', str(run)]
    command += ['--episodes', '100000', '--processes', '2', '--json', 'rows.json']
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(started := children(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == 'Interrupted'
    assert 'Traceback' not in errors + output
    assert 'Exception' not in errors + output
    assert not list(tmp_path.iterdir())
    assert not [number for number in started if Path(f'/proc/{number}').exists()]
