# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a trained run on a dataset; episodes held out of training in a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest
import torch

import omnisafe_qpt
from common_helpers import run_command
from host_helpers import ENV_ID, HORIZON, make_networks, small_options, untrained_run
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.holdout import choose_held_out
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation.deployment import calibrated_settings, deployment_of
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig
from omnisafe_qpt.evaluation.offline import evaluate_offline
from omnisafe_qpt.runner import CALIBRATION_FORMAT
from omnisafe_qpt.runs.checkpoint import load_networks, save_checkpoint
from omnisafe_qpt.training import dataset_loading


OBS_DIM, ACT_DIM = 7, 2
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope='module')
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    options = small_options(dataset, tmp_path_factory.mktemp('runs'), holdout_share=0.25)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    agent.learn()
    return agent.agent, Path(agent.agent.logger.log_dir)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of untrained runs."""

    def make(record: dict[str, Any] | None = None, **flags: bool) -> Path:
        networks = make_networks(OBS_DIM, ACT_DIM, HORIZON, ENV_ID)
        networks.spec['dataset'] = record or {'path': 'none', 'sha256': 'none'}
        switches = {'use_reward_critic': True, 'use_cost_critic': True, 'use_ensemble': True}
        networks.spec['config'] = {'algo_cfgs': {'gamma': 0.9, **switches, **flags}}
        networks.spec['has_critics'] = any({**switches, **flags}.values())
        if not networks.has_critics:
            networks.spec['deployment'] = {**networks.spec['deployment'], 'candidates': 1}
        return untrained_run(tmp_path / 'seed-000-now', networks, epoch=1)

    return make


@pytest.fixture
def episodes(make_arrays: Callable[..., Arrays]) -> Arrays:
    return make_arrays((9, 2, 14, 1), ('timeout', 'terminal') * 2, OBS_DIM, ACT_DIM)


def check(run: Path, dataset: str | Path, *limits: float, **choice: Any) -> dict[str, Any]:
    return evaluate_offline(run, dataset, limits, device='cpu', **choice)


# ------------------------------------------------------------------ holding out


def test_training_sees_nothing_of_what_is_held_out(
    trained: tuple[Any, Path],
    dataset: Path,
) -> None:
    """Windows, frontier, scales and relabelled episodes are those of the other episodes."""
    agent, run = trained
    data = Trajectories.load(dataset)
    held_out = load_networks(run)[0].spec['held_out']
    assert held_out == choose_held_out(data, 0.25).tolist()
    assert len(held_out) == 2
    left = [episode for episode in range(8) if episode not in held_out]
    starts = data.rows.starts.tolist()
    assert agent._trajectories.rows.starts.tolist() == [starts[episode] for episode in left]
    drawn = set(agent._sampler._episodes[:, 1].tolist())
    assert drawn == {starts[episode] for episode in left}

    arrays = {}
    with open_dataset(dataset) as file:
        rows = np.concatenate([np.arange(HORIZON) + HORIZON * episode for episode in left])
        arrays = {name: file[name][:][rows] for name in file}
    alone = Trajectories.from_arrays(arrays)
    spec = load_networks(run)[0].spec
    assert spec['frontier']['costs'] == list(alone.frontier.costs)
    assert spec['frontier']['returns'] == list(alone.frontier.returns)
    mean, std = alone.observation_statistics()
    scaling = load_networks(run)[0].scaling
    torch.testing.assert_close(scaling.obs_mean, mean)
    torch.testing.assert_close(scaling.obs_std, std + 1e-3)
    assert scaling.return_unit.item() == alone.returns.abs().max().item()
    report = augment(alone, 0.3, seed=3)[1]
    assert agent._augmentation_report == pytest.approx(report)


def test_a_resumed_run_holds_out_the_same_and_refuses_others(
    trained: tuple[Any, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trained[1]
    options = small_options(dataset, tmp_path, resume=str(run), total_steps=15, holdout_share=0.5)
    with pytest.raises(omnisafe_qpt.UserError, match=r'holdout_share = 0\.25.*0\.5'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    options = {
        'train_cfgs': {'resume': str(run), 'total_steps': 15},
        'logger_cfgs': {'log_dir': str(tmp_path)},
    }
    with monkeypatch.context() as patch:
        patch.setattr(dataset_loading, 'choose_held_out', lambda data, share: torch.tensor([0, 1]))
        with pytest.raises(omnisafe_qpt.UserError, match='holds out different episodes'):
            omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert not list(tmp_path.iterdir()), 'a refused run leaves nothing behind'
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert agent.agent._data.held_out == load_networks(run)[0].spec['held_out']


@pytest.mark.parametrize(('share', 'message'), [(1.5, 'below 1'), (0.01, 'holds out 0 of the 8')])
def test_an_impossible_share_is_refused_at_the_start(
    dataset: Path,
    tmp_path: Path,
    share: float,
    message: str,
) -> None:
    options = small_options(dataset, tmp_path, holdout_share=share)
    with pytest.raises(omnisafe_qpt.UserError, match=message):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ which data


def test_of_the_runs_own_file_only_what_was_held_out_is_used(
    trained: tuple[Any, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    run = trained[1]
    found = check(run, dataset, num_states=50)
    assert found['data'] == 'held out of training'
    assert (found['episodes'], found['transitions']) == (2, 2 * HORIZON)
    assert found['dataset_sha256'] == file_sha256(dataset)

    held_out = load_networks(run)[0].spec['held_out']
    with open_dataset(dataset) as file:
        rows = np.concatenate([np.arange(HORIZON) + HORIZON * episode for episode in held_out])
        write_hdf5(tmp_path / 'part.hdf5', {name: file[name][:][rows] for name in file})
    part = check(run, tmp_path / 'part.hdf5', num_states=50)
    assert part['data'] == 'not the training file'
    for name in ('action_errors', 'calibrations', 'candidates', 'uncounted_weight'):
        assert part[name] == found[name]

    copy = tmp_path / 'renamed.hdf5'
    copy.write_bytes(dataset.read_bytes())
    assert check(run, copy, num_states=50)['data'] == 'held out of training', 'the same file'


def test_training_data_are_called_so(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    path = tmp_path / 'mine.hdf5'
    write_hdf5(path, episodes)
    run = make_run({'path': str(path), 'sha256': file_sha256(path)})
    found = check(run, path)
    assert found['data'] == 'training data, not held out'
    assert found['episodes'] == 4
    assert (found['terminal_episodes'], found['time_limit_episodes']) == (2, 2)


def test_an_npz_is_read_with_the_tasks_horizon(
    make_run: Callable[..., Path],
    make_arrays: Callable[..., Arrays],
    tmp_path: Path,
) -> None:
    arrays = make_arrays((HORIZON, 5), None, OBS_DIM, ACT_DIM)
    names = {'obs': 'observations', 'next_obs': 'next_observations', 'action': 'actions',
             'reward': 'rewards', 'cost': 'costs', 'done': 'timeouts'}  # fmt: skip
    np.savez(tmp_path / 'mine.npz', **{name: arrays[source] for name, source in names.items()})
    found = check(make_run(), tmp_path / 'mine.npz')
    assert (found['terminal_episodes'], found['time_limit_episodes']) == (1, 1)


def test_omnisafes_own_datasets_are_known_by_name(
    make_run: Callable[..., Path],
    episodes: Arrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    name = 'SafetyPointCircle1-v0-mixed-beta0.5'
    monkeypatch.setattr(
        'omnisafe_qpt.compat.load_omnisafe_dataset',
        lambda name, horizon: Trajectories.from_arrays(episodes, horizon, name),
    )
    found = check(make_run({'path': name, 'sha256': None}), name)
    assert (found['dataset'], found['dataset_sha256']) == (name, None)
    assert found['data'] == 'training data, not held out'
    assert check(make_run(), name)['data'] == 'not the training file'


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        ('nowhere.hdf5', r'nowhere\.hdf5: no such dataset file; check --offline'),
        ('sample', r'no bundled sample of .*--offline'),
        ('what', 'neither a file nor a known name'),
    ],
)
def test_datasets_that_are_not_there_are_refused(
    make_run: Callable[..., Path],
    dataset: str,
    message: str,
) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match=message):
        check(make_run(), dataset)


def test_a_dataset_of_another_environment_is_refused(
    make_run: Callable[..., Path],
    make_arrays: Callable[..., Arrays],
    tmp_path: Path,
) -> None:
    for sizes, message in (((5, ACT_DIM), 'observations of size 5'), ((7, 3), 'actions of size 3')):
        write_hdf5(tmp_path / 'other.hdf5', make_arrays((4, 4), None, *sizes))
        with pytest.raises(omnisafe_qpt.UserError, match=f'{message}, {ENV_ID} has'):
            check(make_run(), tmp_path / 'other.hdf5')


# ------------------------------------------------------------------ what is found


def test_each_limit_has_the_target_of_the_frontier_or_the_one_given(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    run = make_run()

    def targets(*limits: float, **choice: Any) -> list[tuple[float, float]]:
        rows = check(run, tmp_path / 'mine.hdf5', *limits, **choice)['candidates']
        return [(row['cost_limit'], row['target_return']) for row in rows]

    assert targets() == [(10.0, 50.0)]
    assert targets(0.0, 40.0) == [(0.0, 10.0), (40.0, 90.0)]
    assert targets(0.0, 40.0, target_return=7.0) == [(0.0, 7.0), (40.0, 7.0)]
    assert targets(0.0, 40.0, target_return=[7.0, 8.0]) == [(0.0, 7.0), (40.0, 8.0)]
    with pytest.raises(omnisafe_qpt.UserError, match='2 target returns for 1 cost limits'):
        targets(0.0, target_return=[7.0, 8.0])
    with pytest.raises(omnisafe_qpt.UserError, match='cost_limit'):
        targets(-1.0)


def test_a_calibrated_run_is_asked_for_what_was_found_best_unless_told_otherwise(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset, written = tmp_path / 'mine.hdf5', tmp_path / 'found.json'
    write_hdf5(dataset, episodes)
    run = make_run()
    networks, _ = load_networks(run)
    played = {'returns': [1.0], 'costs': [4.0], 'lengths': [10], 'cost_mean': 4.0}
    level = {'target_cost': 2.0, 'target_return': 33.0, 'return_mean': 1.0, 'cost_bound': 4.0}
    level |= played
    networks.spec['calibration'] = {
        'format': CALIBRATION_FORMAT,
        'settings': calibrated_settings(deployment_of(networks)[0]),
        'episodes': 2,
        'comparisons': 3,
        'worst_cost': 40.0,
        'levels': [level],
        'zero_action': None,
    }
    save_checkpoint(run, 1, networks)
    command = ['evaluate', str(run), '--offline', str(dataset), '--json', str(written)]
    for options, target in (((), 33.0), (('--uncalibrated',), 50.0)):
        assert main([*command, *options]) == 0
        (report,) = json.loads(written.read_text())
        assert [row['target_return'] for row in report['candidates']] == [target]
    capsys.readouterr()


def test_a_check_repeats_for_a_seed_and_its_numbers_are_plain(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    run, seen = make_run(), []

    def found(seed: int) -> str:
        report = check(
            run,
            tmp_path / 'mine.hdf5',
            seed=seed,
            num_states=9,
            on_progress=lambda *progress: seen.append(progress),
        )
        return json.dumps(report, allow_nan=False)

    first = found(1)
    assert seen[-1][0] == seen[-1][1] == 26 + 4 + 9 * 4
    assert first == found(1)
    assert first != found(2)


def test_what_a_run_did_not_train_is_not_judged(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    off = {'use_reward_critic': False, 'use_cost_critic': False, 'use_ensemble': False}
    found = check(make_run(**off), tmp_path / 'mine.hdf5')
    assert found['calibrations'] is None
    assert found['candidates'] is None
    assert found['action_errors'][0]['error'] > 0
    found = check(make_run(), tmp_path / 'mine.hdf5', candidates=1)
    assert found['calibrations'] is not None
    assert found['candidates'] is None


# ------------------------------------------------------------------ the command


def test_the_command_prints_tables_and_writes_results_and_a_figure(
    trained: tuple[Any, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained[1]
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.chdir(tmp_path)
    arguments = ['--offline', dataset, '--cost-limit', 5, '--cost-limit', 30,
                 '--json', 'found.json', '--plot', 'found.png']  # fmt: skip
    assert main(['evaluate', str(run), *map(str, arguments)]) == 0
    shown, notes = capsys.readouterr()
    assert 'Data    held out of training: 2 episodes, 200 transitions' in shown
    assert max(map(len, shown.splitlines()[3:])) <= 80
    for text in ('Ratio', 'reward and beyond', 'cost, plain', 'Rank corr.', '63%', 'Infeasible'):
        assert text in shown.replace('\n', ' '), text
    (found,) = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert 'No estimate' in notes
    assert found.pop('estimate') is None
    assert found == json.loads(json.dumps(check(run, dataset, 5.0, 30.0)))
    assert (tmp_path / 'found.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_without_any_cost_the_command_says_what_is_not_defined(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    episodes['costs'][:] = 0.0
    write_hdf5(tmp_path / 'safe.hdf5', episodes)
    run = make_run()
    arguments = ['evaluate', run, run, '--offline', 'safe.hdf5', '--plot', 'two.svg']
    done = run_command('omnisafe-qpt', *arguments, cwd=tmp_path, COLUMNS='80')
    assert done.returncode == 0, done.stderr
    assert '-: not defined' in ' '.join(done.stdout.split())
    assert done.stdout.count('Data    not the training file: 4 episodes') == 2
    (line,) = {line for line in done.stdout.splitlines() if line.startswith('over cost 10')}
    assert line.split()[3:] == ['0', '0', '-', '-', '-']
    assert '<svg' in (tmp_path / 'two.svg').read_text(encoding='utf-8')


def test_without_critics_there_is_a_table_of_actions_and_no_figure(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    off = {'use_reward_critic': False, 'use_cost_critic': False, 'use_ensemble': False}
    arguments = ['evaluate', make_run(**off), '--offline', tmp_path / 'mine.hdf5',
                 '--json', tmp_path / 'found.json', '--plot', tmp_path / 'found.png']  # fmt: skip
    assert main([*map(str, arguments)]) == 1
    written = capsys.readouterr()
    assert 'Ratio' in written.out
    assert 'The run trained no critics' in written.out
    assert 'nothing to plot' in written.err
    assert (tmp_path / 'found.json').is_file()
    assert not (tmp_path / 'found.png').exists()


def test_mistakes_are_one_line(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    monkeypatch.chdir(tmp_path)
    run = str(make_run())
    for arguments, message in (
        (('--offline', 'no.hdf5'), 'Error: no.hdf5: no such dataset file; check --offline'),
        (('--offline', 'mine.hdf5', '--summary', 's.json'), 'Error: --summary'),
        (('--offline', 'mine.hdf5', '--video', 'clips'), 'Error: --video'),
        (('--offline', 'mine.hdf5', '--episodes', '3'), 'Error: --episodes'),
        (('--offline', 'mine.hdf5', '--processes', '2'), 'Error: --processes'),
        (('--offline', 'mine.hdf5', '--plot', 'mine.txt'), 'Error: mine.txt: unknown kind'),
    ):
        assert main(['evaluate', run, *arguments]) == 1
        written = capsys.readouterr()
        (line,) = written.err.splitlines()
        assert line.startswith(message)
        assert not written.out


def test_neither_omnisafe_nor_a_simulator_is_needed(
    make_run: Callable[..., Path],
    episodes: Arrays,
    tmp_path: Path,
) -> None:
    write_hdf5(tmp_path / 'mine.hdf5', episodes)
    code = (
        'import sys; from omnisafe_qpt.cli import main; status = main(sys.argv[1:]); '
        "found = {'omnisafe', 'gymnasium', 'mujoco', 'pybullet'} & sys.modules.keys(); "
        "sys.exit(f'{status} {found}' if status or found else 0)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code, 'evaluate', make_run(), '--offline', 'mine.hdf5'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_estimates_return_and_cost(
    make_run: Callable[..., Path],
    make_arrays: Callable[..., Arrays],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = DynamicsConfig(members=2, hidden_sizes=(8,), updates=3, batch_size=8)
    monkeypatch.setattr(DynamicsConfig, 'for_horizon', lambda *_: short)
    write_hdf5(
        tmp_path / 'many.hdf5',
        make_arrays((10, 6, 12, 4) * 6, ('timeout', 'terminal') * 12, OBS_DIM, ACT_DIM),
    )
    command = ['evaluate', str(make_run()), '--offline', str(tmp_path / 'many.hdf5')]
    command += ['--cost-limit', '5', '--cost-limit', '1e9', '--json', str(tmp_path / 'found.json')]
    assert main(command) == 0
    said = capsys.readouterr().out
    (found,) = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    estimate = found['estimate']
    assert [row['cost_limit'] for row in estimate['limits']] == [5.0, 1e9]
    assert estimate['test']['episodes'] == 2
    for row in estimate['limits']:
        assert row['cost_interval'][0] <= row['cost_mean'] <= row['cost_interval'][1]
        assert row['verdict'] in ('doubtful', 'not usable')  # by two episodes nothing is reliable
        assert row['verdict'] in said
    assert estimate['choices'] == [None, None]
    assert main([*command, '--no-estimate']) == 0
    (found,) = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert found['estimate'] is None


@pytest.mark.parametrize('is_known', [False, True])
def test_a_calibration_on_data_is_kept_and_says_what_it_is(
    make_run: Callable[..., Path],
    make_arrays: Callable[..., Arrays],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_known: bool,
) -> None:
    short = DynamicsConfig(members=2, hidden_sizes=(8,), updates=3, batch_size=8)
    monkeypatch.setattr(DynamicsConfig, 'for_horizon', lambda *_: short)
    if is_known:  # whatever the model says
        monkeypatch.setattr(
            'omnisafe_qpt.evaluation.off_policy.estimate.OffPolicyEstimate.bound',
            lambda self, index, least: (5.0 + index, ''),
        )
    lengths = (10, 6, 12, 4) * 6
    arrays = make_arrays(lengths, ('timeout', 'terminal') * 12, OBS_DIM, ACT_DIM)
    write_hdf5(tmp_path / 'many.hdf5', arrays)
    run = make_run()
    command = ['calibrate', str(run), '--offline', str(tmp_path / 'many.hdf5')]
    assert main([*command, '--json', str(tmp_path / 'found.json')]) == 0
    assert 'nothing is certified' in capsys.readouterr().out.replace('\n', ' ')
    record = json.loads((tmp_path / 'found.json').read_text(encoding='utf-8'))
    assert record['steps'] == 0
    assert {level['cost_bound'] is not None for level in record['levels']} == {is_known}
    policy = omnisafe_qpt.load_policy(run, cost_limit=5.5, device='cpu')
    assert policy.guarantee.status == ('estimated' if is_known else 'not certified')
    assert 'not measured' in str(policy.guarantee)
    assert policy.guarantee.share_bound == 1.0
    # Where nothing is reliable, the lowest target cost is the conservative choice.
    assert policy.guarantee.target_cost == record['levels'][0]['target_cost']
    assert main([*command, '--episodes', '5']) == 1
