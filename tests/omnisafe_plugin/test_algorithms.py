# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""QPT, CDT and the baselines: trained, resumed, evaluated, loaded and refused alike."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import omnisafe
import pytest
import torch
from omnisafe.evaluator import Evaluator
from omnisafe.utils import command_app
from typer.testing import CliRunner

import omnisafe_qpt
from common_helpers import leaves, run_command
from host_helpers import ENV_ID, HORIZON, command_line_options, small_options, train, write_dataset
from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.cli import main
from omnisafe_qpt.envs.environments import NumpyEnvironment
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.qpt.base_learner import BaseLearner
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.settings.files import merge


SIZES: dict[str, dict[str, Any]] = {
    'QPT': {
        'actor': {'context_len': 4, 'embed_dim': 16, 'num_layers': 2, 'num_heads': 2},
        'critic': {'hidden_sizes': [16, 16, 16]},
    },
    'CDT': {'actor': {'context_len': 4, 'embed_dim': 16, 'num_layers': 2, 'num_heads': 2}},
    'BCSafe': {'actor': {'hidden_sizes': [16, 16]}},
    'CPQ': {name: {'hidden_sizes': [16, 16]} for name in ('actor', 'critic', 'vae')},
    'FISOR': {'actor': {'width': 16, 'blocks': 2}, 'critic': {'hidden_sizes': [16, 16]}},
}
ASKED = ('QPT', 'CDT')  # for a return and a cost
LIMIT = float(HORIZON)  # in this task no episode costs more, so that there is something to clone
MEMORYLESS = ('BCSafe', 'CPQ', 'FISOR')


def options_of(algo: str, dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    """Two epochs of five updates."""
    options = small_options(dataset, log_dir, **train_cfgs)
    if algo not in ASKED:
        del options['train_cfgs']['calibrate_episodes']
    if algo != 'QPT':
        for name in ('candidates', 'polyak'):
            del options['algo_cfgs'][name]
    options['algo_cfgs']['cost_limit'] = LIMIT
    return {**options, 'model_cfgs': SIZES[algo]}


def omnisafe_command(*arguments: Any) -> str:
    """Run OmniSafe's own command line in this process; returns what it printed."""
    result = CliRunner().invoke(command_app.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball.hdf5', episodes=6)


@pytest.fixture(scope='module')
def run_of(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of an algorithm, trained by OmniSafe's command line when it is first asked for."""

    @cache
    def train_once(algo: str) -> Path:
        log_dir = tmp_path_factory.mktemp(algo)
        options = command_line_options(options_of(algo, dataset, log_dir))
        omnisafe_command('train', '--algo', algo, '--env-id', ENV_ID, *options)
        (config,) = log_dir.rglob('config.json')
        return config.parent

    return train_once


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_a_run_is_of_its_algorithm_and_complete(
    algo: str,
    run_of: Callable[[str], Path],
    dataset: Path,
) -> None:
    run = run_of(algo)
    assert run.parent.name == f'{algo}-{{{ENV_ID}}}-ball'
    config = json.loads((run / 'config.json').read_text())
    assert config['algo'] == algo
    assert config['dataset_record']['path'] == str(dataset)
    names = {'best.json', 'config.json', 'progress.csv', 'torch_save', 'training_state.pt'}
    assert names <= {path.name for path in run.iterdir()}
    header, *rows = (run / 'progress.csv').read_text().splitlines()
    assert len(rows) == 2
    assert 'Loss/Loss_actor' in header
    assert ('Metrics/InfeasibleShare' in header) == (algo == 'QPT')
    spec = load_networks(run)[0].spec
    assert (spec['algo'], spec['step'], spec['horizon']) == (algo, 10, HORIZON)


def test_cdt_has_no_critics(run_of: Callable[[str], Path]) -> None:
    networks, _ = load_networks(run_of('CDT'))
    assert not networks.has_critics
    header = (run_of('CDT') / 'progress.csv').read_text().splitlines()[0]
    assert 'critic' not in header
    assert 'penalty' not in header


def test_bc_safe_clones_the_safe_episodes_alone(dataset: Path, tmp_path: Path) -> None:
    costs = [
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options_of('QPT', dataset, tmp_path))
        .agent._trajectories.cost_returns.sort().values
    ][0]  # fmt: skip
    limit = (costs[1].item() + costs[2].item()) / 2
    options = merge(options_of('BCSafe', dataset, tmp_path), {'algo_cfgs': {'cost_limit': limit}})
    agent = omnisafe.Agent('BCSafe', ENV_ID, custom_cfgs=options).agent
    assert agent._sampler.num_items == 2 * HORIZON
    assert len(agent._trajectories.rows) == 6, 'the frontier and the scales are of all'
    with pytest.raises(omnisafe_qpt.UserError, match=r'no episode within the cost limit of 0\b'):
        omnisafe.Agent(
            'BCSafe',
            ENV_ID,
            custom_cfgs=merge(options, {'algo_cfgs': {'cost_limit': 0.0}}),
        )


@pytest.mark.parametrize(
    'algo',
    ['FISOR', *(pytest.param(name, marks=pytest.mark.slow) for name in ('CDT', 'BCSafe', 'CPQ'))],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    algo: str,
    run_of: Callable[[str], Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within its second epoch, by Ctrl-C; FISOR's denoiser has dropout and draws noise."""
    original = BaseLearner.update

    def interrupted(self: BaseLearner, batch: Any) -> None:
        original(self, batch)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(BaseLearner, 'update', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(options_of(algo, dataset, tmp_path), algo)
    (config,) = tmp_path.rglob('config.json')
    options = {'device': 'cpu', 'evaluate_processes': 1, 'resume': 'latest'}
    log_dir = {'log_dir': str(tmp_path)}
    run = train({'train_cfgs': options, 'logger_cfgs': log_dir}, algo)
    assert run == config.parent
    for name in ('torch_save/epoch-2.pt', 'training_state.pt'):
        mine, its = (dict(leaves(torch.load(place / name))) for place in (run, run_of(algo)))
        tensors = [path for path, value in its.items() if isinstance(value, torch.Tensor)]
        assert len(tensors) > 5
        for path in tensors:
            assert torch.equal(mine[path], its[path]), f'{name}{path}'


# -- deployment -----------------------------------------------------------------------------------


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_a_run_is_evaluated_by_both_commands(
    algo: str,
    run_of: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, rows = run_of(algo), tmp_path / 'rows.json'
    limits = ['--cost-limit', '5', '--cost-limit', '40']
    more = ['--json', rows, '--plot', tmp_path / 'rows.png', '--checkpoint', 'best']
    arguments = ['evaluate', run, *limits, '--episodes', 2, '--processes', 1, *more]
    assert main([str(argument) for argument in arguments]) == 0
    assert f'{algo} on {ENV_ID}, 2 episodes' in capsys.readouterr().out
    one, other = json.loads(rows.read_text())
    assert one['algo'] == other['algo'] == algo
    assert (one['cost_limit'], other['cost_limit']) == (5.0, 40.0)
    assert one['normalized_cost'] == pytest.approx(one['cost_mean'] / 5.0)
    is_asked = algo in ASKED
    for name in ('target_return', 'rule', 'candidate_shift'):
        assert (one[name] is not None) == is_asked
    evaluator = Evaluator()
    evaluator.load_saved(save_dir=str(run), model_name='epoch-2.pt')
    evaluator.evaluate(num_episodes=1)
    found = capsys.readouterr().out
    (row,) = evaluate_runs(run, episodes=1, seed=40000, processes=1)
    assert f'Average episode reward: {row["returns"][0]:.3f}' in shortened(found)


def shortened(text: str) -> str:
    """Cut the reward that OmniSafe prints to three digits."""
    name = 'Average episode reward: '
    _, _, rest = text.partition(name)
    return f'{name}{float(rest.split()[0]):.3f}'


def test_a_policy_that_knows_no_limit_is_run_once_for_all(
    run_of: Callable[[str], Path],
) -> None:
    steps = []
    rows = evaluate_runs(
        run_of('FISOR'),
        [0.0, 5.0, 40.0],
        episodes=2,
        processes=1,
        on_progress=lambda done, total, _: steps.append((done, total)),
    )
    assert steps[-1] == (2 * HORIZON, 2 * HORIZON)
    assert [row['cost_limit'] for row in rows] == [0.0, 5.0, 40.0]
    assert all(row['costs'] == rows[0]['costs'] for row in rows)
    alone = evaluate_runs(run_of('FISOR'), 5.0, episodes=2, processes=1)
    assert (alone[0]['returns'], alone[0]['costs']) == (rows[1]['returns'], rows[1]['costs'])


@pytest.mark.parametrize('algo', MEMORYLESS)
def test_a_loop_of_ones_own_gets_the_same_episode(
    algo: str,
    run_of: Callable[[str], Path],
) -> None:
    (row,) = evaluate_runs(run_of(algo), episodes=1, seed=7, processes=1)
    policy = omnisafe_qpt.load_policy(run_of(algo), cost_limit=12.0, device='cpu')
    environment = NumpyEnvironment(ENV_ID)
    policy.reset(seed=7)
    observation, has_ended, total = environment.reset(7), False, [0.0, 0.0]
    budget = policy.remaining_return
    for _ in range(HORIZON):
        action = policy.act(observation)
        observation, reward, cost, has_ended = environment.step(action)
        policy.observe(reward, cost)
        total = [total[0] + reward, total[1] + cost]
        if has_ended:
            break
    environment.close()
    assert total == pytest.approx([row['returns'][0], row['costs'][0]], rel=1e-6)
    assert policy.remaining_budget == pytest.approx(12.0 - total[1])
    assert policy.remaining_return == pytest.approx(budget - total[0], rel=1e-4)
    before = policy.remaining_budget
    policy.set_cost_limit(20.0)
    assert policy.remaining_budget == pytest.approx(before + 8.0)


# -- refusals -------------------------------------------------------------------------------------


def test_settings_of_candidates_are_refused_where_there_are_none(
    run_of: Callable[[str], Path],
) -> None:
    for algo, name, value in (
        ('CDT', 'candidates', 3),
        ('BCSafe', 'candidates', 1),
        ('CPQ', 'rule', 'bounded'),
        ('FISOR', 'target_return', 100.0),
        ('BCSafe', 'candidate_shift', 'last'),
    ):
        with pytest.raises(omnisafe_qpt.UserError, match=f'{name} is {value}.*leave it out'):
            evaluate_runs(run_of(algo), **{name: value})


@pytest.mark.parametrize(
    'arguments',
    [
        ('export', 'RUN', 'policy.onnx'),
        ('report', 'RUN', '--no-simulator'),
        ('evaluate', 'RUN', '--offline', 'sample'),
    ],
)
def test_what_needs_a_transformer_refuses_a_baseline_in_a_line(
    arguments: tuple[str, ...],
    run_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(run_of('BCSafe'))
    assert main([run if word == 'RUN' else word for word in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'of BCSafe' in error
    assert 'QPT and CDT' in error or 'QPT or CDT' in error
    assert not list(tmp_path.iterdir())


def test_runs_of_several_algorithms_are_not_averaged(run_of: Callable[[str], Path]) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match='runs of different algorithms'):
        evaluate_runs([run_of('BCSafe'), run_of('CDT')])


def test_what_belongs_to_another_algorithm_is_refused(
    run_of: Callable[[str], Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    for algo, train_cfgs, algo_cfgs, message in (
        ('CDT', {'resume': str(run_of('FISOR'))}, {}, 'is a run of FISOR, not of CDT'),
        ('CDT', {}, {'eta_cost': 0.1}, 'unknown option algo_cfgs:eta_cost'),
        ('BCSafe', {}, {'gamma': 0.9}, 'unknown option algo_cfgs:gamma'),
        ('CPQ', {}, {'unknown_share': 2.0}, r'unknown_share is 2\.0; it must be above 0'),
        ('FISOR', {'preset': str(tmp_path / 'mine.yaml')}, {}, 'is for CPQ, not for FISOR'),
        ('FISOR', {'preset': 'gpu'}, {}, "unknown preset 'gpu': choose from cpu"),
    ):
        (tmp_path / 'mine.yaml').write_text('algo: CPQ\n')
        options = {'train_cfgs': {'dataset': str(dataset), 'device': 'cpu', **train_cfgs}}
        options['logger_cfgs'] = {'log_dir': str(tmp_path)}
        options['algo_cfgs'] = algo_cfgs
        with pytest.raises(omnisafe_qpt.UserError, match=message):
            omnisafe.Agent(algo, ENV_ID, custom_cfgs=options)


# -- as users call them ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('algo', ALGORITHMS)
def test_the_commands_in_processes_of_their_own(algo: str, dataset: Path, tmp_path: Path) -> None:
    def output_of(*arguments: Any) -> str:
        done = run_command(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert 'Traceback' not in done.stdout + done.stderr
        return done.stdout

    options = command_line_options(
        {
            'train_cfgs': {'preset': 'cpu', 'dataset': str(dataset), 'evaluate_processes': 1},
            'algo_cfgs': {'steps_per_epoch': 4, 'cost_limit': LIMIT},
        },
    )
    train_command = ['omnisafe', 'train', '--algo', algo, '--env-id', ENV_ID, '--log-dir', 'runs']
    shown = output_of(*train_command, '--total-steps', 8, *options)
    assert f'Loading {algo}.yaml' in shown
    (config,) = (tmp_path / 'runs').rglob('config.json')
    resume = command_line_options({'train_cfgs': {'resume': str(config.parent)}})
    shown = output_of(*train_command, '--total-steps', 12, *resume)
    assert 'Resumed after epoch 2, 8 updates' in ' '.join(shown.split())
    assert f'{algo} on {ENV_ID}' in output_of(
        'omnisafe-qpt', 'evaluate', config.parent, '--episodes', 2, '--cost-limit', 20
    )
    shown = output_of('omnisafe', 'eval', config.parent, '--no-render', '--num-episode', 1)
    assert shown.count('Average episode length: 100.0') == 3
