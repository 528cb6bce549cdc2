# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The algorithm inside OmniSafe, in process, on a real simulator."""

from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import omnisafe
import pytest
import torch

import omnisafe_qpt
from common_helpers import read_csv
from host_helpers import ENV_ID, HORIZON, small_options, write_dataset
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.checks import WARNING
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.training import cuda_graph as graph
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball.run.hdf5')


def run_agent(options: dict[str, Any]) -> tuple[Any, tuple[float, float, float]]:
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    return agent, agent.learn()


@pytest.fixture(scope='module')
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    agent, result = run_agent(small_options(dataset, tmp_path_factory.mktemp('runs')))
    return agent, result, Path(agent.agent.logger.log_dir)


def rows_of(run: Path) -> list[dict[str, float]]:
    rows = read_csv(run / 'progress.csv')
    return [{key: float(value) for key, value in row.items()} for row in rows]


def checkpoint_of(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    state = torch.load(run / 'torch_save' / f'epoch-{epoch}.pt', weights_only=True)['pi']
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


# ------------------------------------------------------------------ a run


def test_learn_returns_the_last_row_of_the_log(trained: tuple[Any, Any, Path]) -> None:
    _, result, run = trained
    last = rows_of(run)[-1]
    assert all(math.isfinite(value) for value in result)
    assert result == (last['Metrics/EpRet'], last['Metrics/EpCost'], last['Metrics/EpLen'])
    assert last['Metrics/EpLen'] == HORIZON
    assert last['TotalSteps'] == 10
    assert all(math.isfinite(value) for row in rows_of(run) for value in row.values())


def test_the_run_folder_has_the_short_name_and_the_record(
    trained: tuple[Any, Any, Path],
    dataset: Path,
) -> None:
    _, _, run = trained
    assert run.parent.name == f'QPT-{{{ENV_ID}}}-ball.run'
    config = json.loads((run / 'config.json').read_text(encoding='utf-8'))
    assert config['train_cfgs']['dataset'] == str(dataset)
    assert config['dataset_record']['sha256'] == file_sha256(dataset)
    assert sorted(path.name for path in (run / 'torch_save').iterdir()) == [
        'epoch-1.pt',
        'epoch-2.pt',
    ]
    assert not list(run.rglob('.*')), 'no temporary file is left'


def test_published_targets_are_recorded_and_asked_for(dataset: Path, tmp_path: Path) -> None:
    options = small_options(dataset, tmp_path, final_evaluate_episodes=1)
    options['algo_cfgs']['target_return'] = 'dsrl'
    agent, _ = run_agent(options)
    run = Path(agent.agent.logger.log_dir)
    assert json.loads((run / 'config.json').read_text())['algo_cfgs']['target_return'] == 'dsrl'
    spec = load_networks(run)[0].spec
    assert spec['target_return'] == 500.0
    frontier = agent.agent._trajectories.frontier
    rows = evaluate_runs(run, [10, 15, 40], episodes=1, device='cpu', processes=1)
    assert [row['target_return'] for row in rows] == [500.0, frontier.target_return(15.0), 700.0]
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    for limit, target in ((40.0, 700.0), (15.0, frontier.target_return(15.0)), (10.0, 500.0)):
        policy.set_cost_limit(limit)
        assert policy.target_return == target


def test_a_checkpoint_alone_is_enough_to_deploy(trained: tuple[Any, Any, Path]) -> None:
    agent, _, run = trained
    spec = load_networks(run)[0].spec
    assert spec['env_id'] == ENV_ID
    assert spec['horizon'] == HORIZON
    assert spec['step'] == 10
    assert spec['versions']['torch'] == torch.__version__
    data = agent.agent._trajectories
    assert spec['frontier'] == {
        'costs': list(data.frontier.costs),
        'returns': list(data.frontier.returns),
    }


def test_the_last_evaluation_can_be_repeated(trained: tuple[Any, Any, Path]) -> None:
    _, result, run = trained
    (row,) = evaluate_runs(run, episodes=2, seed=10_000 * (3 + 1), device='cpu', processes=1)
    assert row['return_mean'] == pytest.approx(result[0], rel=1e-6)
    assert row['cost_mean'] == pytest.approx(result[1], rel=1e-6)
    assert row['lengths'] == [HORIZON, HORIZON]


def test_parallel_evaluation_gives_the_same_episodes(trained: tuple[Any, Any, Path]) -> None:
    _, _, run = trained
    (one,), (three,) = (
        evaluate_runs(run, episodes=4, seed=5, device='cpu', processes=count) for count in (1, 3)
    )
    for name in ('returns', 'costs', 'lengths', 'infeasible_share'):
        assert one[name] == three[name], name


def test_omnisafes_own_evaluation_runs_the_deployed_policy(
    trained: tuple[Any, Any, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent, _, run = trained
    agent.evaluate(num_episodes=2)
    printed = capsys.readouterr().out
    last = printed[printed.rindex('Evaluation results') :]
    (row,) = evaluate_runs(run, episodes=2, seed=10_000 * (3 + 1), device='cpu', processes=1)
    (first,) = evaluate_runs(
        run / 'torch_save' / 'epoch-1.pt', episodes=2, seed=40_000, device='cpu', processes=1
    )
    means = [f'Average episode reward: {result["return_mean"]}' for result in (row, first)]
    shown = float(last.split('Average episode reward: ')[1].split('\n')[0])
    assert shown in [pytest.approx(result['return_mean'], rel=1e-6) for result in (row, first)], (
        means
    )
    assert f'Average episode length: {float(HORIZON)}' in last


def test_rendering_and_plotting(trained: tuple[Any, Any, Path]) -> None:
    agent, _, run = trained
    agent.render(num_episodes=1, width=32, height=32)
    assert list((run / 'video' / 'epoch-2').glob('*.mp4'))
    agent.plot()
    assert agent.agent.cost_limit == 10.0


def test_plotting_a_run_without_episodes_is_refused(dataset: Path, tmp_path: Path) -> None:
    options = small_options(dataset, tmp_path, evaluate_epoisodes=0, final_evaluate_episodes=0)
    agent, _ = run_agent(options)
    with pytest.raises(omnisafe_qpt.UserError, match='final_evaluate_episodes'):
        agent.plot()


# ------------------------------------------------------------------ repeating and resuming


def test_the_same_seed_gives_the_same_run(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    _, result, run = trained
    torch.manual_seed(99)  # what happened before must not matter
    again, result_again = run_agent(small_options(dataset, tmp_path))
    assert result_again == result
    assert_same_weights(checkpoint_of(run, 2), checkpoint_of(Path(again.agent.logger.log_dir), 2))


def test_another_seed_gives_another_run(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    agent, _ = run_agent({**small_options(dataset, tmp_path), 'seed': 4})
    key = 'policy.head.weight'
    mine = checkpoint_of(Path(agent.agent.logger.log_dir), 2)[key]
    assert not torch.equal(mine, checkpoint_of(trained[2], 2)[key])


def test_a_run_of_an_earlier_version_is_refused(
    trained: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    """What a seed draws has changed since: other episodes would be relabelled."""
    old = shutil.copytree(trained[2], tmp_path / 'old')
    state = torch.load(old / 'training_state.pt', weights_only=True)
    del state['version']
    torch.save(state, old / 'training_state.pt')
    with pytest.raises(omnisafe_qpt.UserError, match='another version of omnisafe-qpt'):
        run_agent({'train_cfgs': {'resume': str(old), 'total_steps': 15}})
    torch.testing.assert_close(
        torch.load(old / 'training_state.pt', weights_only=True)['sampler'], state['sampler']
    )


def test_time_embeddings_are_those_of_the_steps_in_the_data(
    trained: tuple[Any, Any, Path], dataset: Path
) -> None:
    longest = Trajectories.load(dataset).rows.lengths.max()
    assert len(checkpoint_of(trained[2], 2)['policy.embed_timestep.weight']) == longest


def test_resuming_with_other_settings_or_data_is_refused(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    run = trained[2]
    options = small_options(dataset, tmp_path, resume=str(run))
    options['algo_cfgs']['gamma'] = 0.5
    with pytest.raises(omnisafe_qpt.UserError, match=r'gamma = 0\.99, not 0\.5'):
        run_agent(options)
    with pytest.raises(omnisafe_qpt.UserError, match=r'has done 10 updates.* --total-steps'):
        run_agent(small_options(dataset, tmp_path, resume=str(run)))
    other = write_dataset(tmp_path / 'other.hdf5', episodes=2, seed=9)
    with pytest.raises(omnisafe_qpt.UserError, match='another dataset'):
        run_agent(small_options(other, tmp_path, resume=str(run)))
    with pytest.raises(omnisafe_qpt.UserError, match='no such run folder'):
        run_agent(small_options(dataset, tmp_path, resume=str(tmp_path / 'nowhere')))
    assert not list(tmp_path.rglob('config.json')), 'a refused run leaves nothing behind'


# ------------------------------------------------------------------ datasets


def test_an_omnisafe_npz_gives_the_same_run(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
) -> None:
    """``done`` mixes terminal states and time limits there; the horizon tells them apart."""
    with open_dataset(dataset) as arrays:
        content = {
            'obs': arrays['observations'][:],
            'next_obs': arrays['next_observations'][:],
            'action': arrays['actions'][:],
            'reward': arrays['rewards'][:][:, None],
            'cost': arrays['costs'][:][:, None],
            'done': arrays['timeouts'][:].astype(np.float32)[:, None],
        }
    np.savez(tmp_path / 'ball.npz', **content)
    _, result = run_agent(small_options(tmp_path / 'ball.npz', tmp_path))
    assert result == trained[1]


def test_omnisafes_own_dataset_names_go_through_its_loader(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Trajectories.load(dataset)
    asked = []

    class Loader:
        """Stands in for the download only."""

        def __init__(self, name: str, device: torch.device) -> None:
            asked.append(name)
            with open_dataset(dataset) as arrays:
                for key, source in (
                    ('obs', 'observations'),
                    ('next_obs', 'next_observations'),
                    ('action', 'actions'),
                    ('reward', 'rewards'),
                    ('cost', 'costs'),
                    ('done', 'timeouts'),
                ):
                    setattr(self, key, torch.from_numpy(arrays[source][:]).to(device))

    name = 'SafetyPointCircle1-v0-mixed-beta0.5'
    monkeypatch.setattr(Loader, '_name_to_metadata', {name: None}, raising=False)
    monkeypatch.setattr('omnisafe.common.offline.dataset.OfflineDataset', Loader)
    agent, result = run_agent(small_options(Path(name), tmp_path))
    assert asked == [name]
    assert torch.equal(agent.agent._trajectories.table, data.table)
    assert result == trained[1]


def test_a_dataset_of_another_environment_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match='observations of size 7, SafetyBallCircle-v0'):
        omnisafe.Agent('QPT', 'SafetyBallCircle-v0', custom_cfgs=small_options(dataset, tmp_path))


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'message'),
    [
        ('actor', 'num_heads', 3, 'divisor of embed_dim'),
        ('algo_cfgs', 'gamma', 1.5, 'gamma is 1.5'),
        ('algo_cfgs', 'selection_rule', 'best', 'one of paper, bounded'),
        ('algo_cfgs', 'candidate_shift', 'first', 'one of history, last'),
        ('algo_cfgs', 'candidates', 0, 'candidates is 0'),
        ('algo_cfgs', 'batch_size', 0, 'batch_size is 0'),
        ('algo_cfgs', 'steps_per_epoch', 0, 'steps_per_epoch'),
        ('algo_cfgs', 'augmentation_hook', 'nowhere:f', 'cannot be imported'),
        ('algo_cfgs', 'eta_rewards', 0.1, 'eta_reward'),
        ('train_cfgs', 'evaluate_epoisodes', -1, 'evaluate_epoisodes'),
    ],
)
def test_impossible_values_are_refused_at_the_start(
    dataset: Path,
    tmp_path: Path,
    section: str,
    key: str,
    value: Any,
    message: str,
) -> None:
    options = small_options(dataset, tmp_path)
    target = options['model_cfgs']['actor'] if section == 'actor' else options[section]
    target[key] = value
    with pytest.raises(omnisafe_qpt.UserError, match=message):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert not list(tmp_path.iterdir()), 'a refused run leaves nothing behind'


def test_a_run_goes_on_with_another_kind_of_generator(
    trained: tuple[Any, Any, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As when it was trained on CUDA and is resumed on a CPU."""
    moved = shutil.copytree(trained[2], tmp_path / 'moved')
    state = torch.load(moved / 'training_state.pt', weights_only=True)
    state['sampler'] = torch.zeros(16, dtype=torch.uint8)
    torch.save(state, moved / 'training_state.pt')
    options = {
        'train_cfgs': {'resume': str(moved), 'total_steps': 15, 'evaluate_processes': 1},
        'logger_cfgs': {'log_dir': str(tmp_path)},
    }
    agent, _ = run_agent(options)
    assert agent.agent._learner.step == 15
    assert capsys.readouterr().out.count('Batches are drawn anew') == 1


def test_a_dataset_kept_on_the_host_trains_alike(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate, threads = EpochEvaluation.run, []

    def watched(self: EpochEvaluation, *arguments: Any) -> Any:
        threads.extend(thread.name for thread in threading.enumerate())
        return evaluate(self, *arguments)

    monkeypatch.setattr(EpochEvaluation, 'run', watched)
    agent, result = run_agent(small_options(dataset, tmp_path, data_device='host'))
    assert 'MainThread' in threads
    assert 'prefetch' not in threads  # evaluation forks
    assert isinstance(agent.agent._sampler, PrefetchSampler)
    assert not isinstance(trained[0].agent._sampler, PrefetchSampler)
    assert result == trained[1]
    run = Path(agent.agent.logger.log_dir)
    expected = checkpoint_of(trained[2], 2)
    assert all(torch.equal(value, expected[name]) for name, value in checkpoint_of(run, 2).items())


def test_a_dataset_larger_than_the_device_stays_on_the_host(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def does_not_fit(device: torch.device, size: int) -> bool:
        asked.append((device.type, size))
        return False

    monkeypatch.setattr('omnisafe_qpt.training.dataset_loading.fits_on', does_not_fit)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=small_options(dataset, tmp_path))
    assert isinstance(agent.agent._sampler, PrefetchSampler)
    ((device, size),) = asked
    assert device == 'cpu'
    assert size >= 8 * HORIZON * 4 * (7 + 2 + 4)  # a float32 for each number of each transition


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a CPU pass for a device on which updates can be accelerated; returns what was done."""
    done: list[str] = []

    class Captured:
        """Stands in for updates that become a graph."""

        def __init__(self, learner: Any, sampler: Any) -> None:
            self.update = lambda: learner.update(sampler.sample())

        def __call__(self) -> None:
            done.append('step')
            self.update()

    monkeypatch.setattr(
        'omnisafe_qpt.settings.machine.resolve_acceleration',
        lambda requested, *_: requested,
    )
    monkeypatch.setattr('omnisafe_qpt.training.trainer.CapturedUpdate', Captured)
    monkeypatch.setattr(Learner, 'compile', lambda self: done.append('compile'))
    return done


@pytest.mark.parametrize(
    ('way', 'expected'),
    [
        pytest.param('none', [], marks=pytest.mark.slow),
        ('graph', 10 * ['step']),
        ('compile', ['compile', *10 * ['step']]),
    ],
)
def test_updates_are_accelerated_as_asked(
    trained: tuple[Any, Any, Path],
    dataset: Path,
    tmp_path: Path,
    accelerated: list[str],
    way: str,
    expected: list[str],
) -> None:
    _, result = run_agent(small_options(dataset, tmp_path, accelerate=way))
    assert accelerated == expected
    assert result == trained[1]


def test_a_capture_that_fails_ends_the_run_with_the_option_to_take(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError('operation not permitted\nwhen stream is capturing')

    monkeypatch.setattr(
        'omnisafe_qpt.settings.machine.resolve_acceleration',
        lambda requested, *_: requested,
    )
    monkeypatch.setattr(graph, '_is_capturable', lambda learner: True)
    monkeypatch.setattr(graph, '_on_side_stream', lambda device, work: work())
    monkeypatch.setattr(graph, '_captured', fails)
    with pytest.raises(omnisafe_qpt.UserError, match='train_cfgs:accelerate none') as told:
        run_agent(small_options(dataset, tmp_path, accelerate='graph'))
    assert '\n' not in str(told.value)
    assert not list(tmp_path.rglob('epoch-*.pt'))


def test_bf16_without_instructions_is_said_once_and_taken_if_insisted_on(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it became is what the run is resumed in."""
    monkeypatch.setattr('omnisafe_qpt.qpt.precision.has_bf16', lambda device: False)
    runs = {}
    for precision in ('float32', 'bf16'):
        options = small_options(dataset, tmp_path / precision)
        options['algo_cfgs']['precision'] = precision
        agent, result = run_agent(options)
        runs[precision] = Path(agent.agent.logger.log_dir), result
        said = ' '.join(capsys.readouterr().out.split())
        assert said.count('bf16 instructions') == (precision == 'bf16')
    assert runs['bf16'][1] == runs['float32'][1]

    options = small_options(dataset, tmp_path / 'bf16', total_steps=15)
    options['train_cfgs']['resume'] = str(runs['bf16'][0])
    for changed in ('float32', 'auto', 'bf16'):  # all of them the same here
        options['algo_cfgs']['precision'] = changed
        resumed = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options).agent
        resumed.logger.close()
        assert resumed._learner.precision == 'float32'
    options['algo_cfgs']['precision'] = 'bf16_emulated'
    with pytest.raises(omnisafe_qpt.UserError, match='resume with algo_cfgs:precision float32'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    monkeypatch.setattr('omnisafe_qpt.qpt.precision.has_bf16', lambda device: True)
    options['algo_cfgs']['precision'] = 'bf16'
    with pytest.raises(omnisafe_qpt.UserError, match='resume with algo_cfgs:precision float32'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)


def test_precision_is_an_option(dataset: Path, tmp_path: Path) -> None:
    rows = {}
    for precision in ('float32', 'bf16_emulated'):
        options = small_options(dataset, tmp_path / precision)
        options['algo_cfgs']['precision'] = precision
        agent, _ = run_agent(options)
        rows[precision] = rows_of(Path(agent.agent.logger.log_dir))[-1]
    for name in ('Loss/Loss_imitation', 'Loss/Loss_reward_critic', 'Grad/actor'):
        assert rows['bf16_emulated'][name] != rows['float32'][name]
        assert rows['bf16_emulated'][name] == pytest.approx(rows['float32'][name], rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_asked_for_and_absent(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(omnisafe_qpt.UserError, match='cuda'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs=small_options(dataset, tmp_path, device='cuda:0'))


@pytest.mark.parametrize(
    'switch', ['use_reward_critic', 'use_cost_critic', 'use_ensemble', 'use_augmentation']
)
def test_each_piece_can_be_switched_off(dataset: Path, tmp_path: Path, switch: str) -> None:
    """Every row of the paper's Table 2 is a combination of these."""
    options = small_options(dataset, tmp_path, total_steps=2, final_evaluate_episodes=1)
    options['algo_cfgs'][switch] = False
    agent, _ = run_agent(options)
    row = rows_of(Path(agent.agent.logger.log_dir))[-1]
    assert ('Loss/Loss_reward_penalty' in row) == (switch != 'use_reward_critic')
    assert ('Loss/Loss_cost_penalty' in row) == (switch != 'use_cost_critic')
    assert agent.agent._deployment.candidates == (1 if switch == 'use_ensemble' else 3)
    episodes = agent.agent._sampler.num_items / (HORIZON + 1)
    assert episodes == 8 + (0 if switch == 'use_augmentation' else round(0.3 * 8))


def test_training_stops_when_a_loss_is_not_finite(
    dataset: Path,
    tmp_path: Path,
) -> None:
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=small_options(dataset, tmp_path))
    with torch.no_grad():
        agent.agent._learner.policy.head.weight.fill_(torch.nan)
    with pytest.raises(omnisafe_qpt.UserError, match=r'is nan in epoch 1.*nothing of this epoch'):
        agent.learn()


# ------------------------------------------------------------------ what the data are warned of


@pytest.mark.parametrize(
    ('name', 'change', 'words'),
    [
        ('costs', lambda costs: costs - 0.5, 'costs below 0'),
        ('costs', lambda costs: costs * 0.0, 'every cost is 0'),
        ('costs', lambda costs: costs * 0.0 + 1e4, 'no episode costs at most 10'),
        ('costs', lambda costs: costs * 1e4, 'in one unit?'),
        ('actions', lambda actions: actions * 3.0, 'actions outside [-1, 1]'),
    ],
)
def test_training_warns_at_its_start_as_data_info_does(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Any,
    words: str,
) -> None:
    with open_dataset(dataset) as found:
        arrays = {key: found[key][:] for key in found}
    arrays[name] = change(arrays[name]).astype(np.float32)
    odd = tmp_path / 'odd.hdf5'
    write_hdf5(odd, arrays)
    expected = [
        finding.text
        for finding in summarize(odd, ENV_ID, [10.0]).findings
        if finding.level == WARNING
    ]
    run_agent(small_options(odd, tmp_path, evaluate_epoisodes=0, final_evaluate_episodes=0))
    printed = ' '.join(capsys.readouterr().out.split())
    start = printed.partition('Training on cpu')[0]
    assert any(words in text for text in expected)
    for text in expected:
        assert ' '.join(text.split()) in start


def test_a_file_of_groups_without_next_observations_trains(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / 'groups.hdf5'
    with open_dataset(dataset) as found, h5py.File(path, 'w') as file:
        for episode in range(len(found['rewards']) // HORIZON):
            rows = slice(episode * HORIZON, (episode + 1) * HORIZON)
            for name, key in {
                'observations': 'obs/flat',
                'actions': 'actions',
                'rewards': 'rewards',
                'costs': 'infos/cost',
                'timeouts': 'dones',
            }.items():
                file[f'data/demo_{episode}/{key}'] = found[name][rows]
    agent, _ = run_agent(small_options(path, tmp_path))
    data = agent.agent._trajectories
    assert data.rows.lengths.tolist() == [HORIZON - 1] * 8
    assert not data.rows.terminal.any()
    assert 'next_observations are missing' in ' '.join(capsys.readouterr().out.split())
