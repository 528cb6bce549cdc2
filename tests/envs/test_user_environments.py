# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Environments that users wrote: registered, checked, trained in, and found again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import omnisafe
import pytest
import torch
from gymnasium import spaces
from omnisafe.envs.core import CMDP, env_register, env_unregister, make

import omnisafe_qpt
from common_helpers import run_command
from host_helpers import command_line_options, make_networks, small_options, train
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.envs import user_modules as imports
from omnisafe_qpt.envs.environments import NumpyEnvironment, make_env
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.deployment import load_policy
from omnisafe_qpt.evaluation.episodes import evaluate
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.runs.checkpoint import load_networks, save_checkpoint


HORIZON = 12


class Slope(CMDP):
    """Three numbers that an action pushes; bounds, and what goes wrong, are the class's."""

    _support_envs: ClassVar[list[str]] = ['Slope-v0']
    need_auto_reset_wrapper = True
    need_time_limit_wrapper = True
    _num_envs = 1

    space: ClassVar[Any] = spaces.Box(
        np.array([-2.0, 0.0], np.float32), np.array([2.0, 0.5], np.float32)
    )
    received: ClassVar[list[np.ndarray]] = []
    fails_at: ClassVar[int | None] = None

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        del kwargs
        super().__init__(env_id)
        self._observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self._action_space = self.space
        self._random = np.random.default_rng(0)
        self._steps = 0

    @property
    def max_episode_steps(self) -> int:
        return HORIZON

    def set_seed(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        del options
        if seed is not None:
            self.set_seed(seed)
        self._state, self._steps = self._random.normal(size=3), 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return torch.as_tensor(self._state, dtype=torch.float32)

    def step(self, action: torch.Tensor) -> tuple:
        if self._steps == self.fails_at:
            raise ZeroDivisionError('the slope is broken')
        pushed = np.array(action.numpy(), copy=True)
        self.received.append(pushed)
        self._state = 0.9 * self._state + 0.1 * pushed.sum()
        self._steps += 1
        reward, cost = torch.tensor(float(pushed[0])), torch.tensor(float(pushed[1] > 0.25))
        done = torch.tensor(self._steps >= HORIZON)
        return self._observe(), reward, cost, torch.tensor(False), done, {}

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


@pytest.fixture(name='register')
def fixture_register() -> Iterator[Any]:
    """Return what registers a class for the time of a test."""
    registered: list[type] = []

    def register(base: type = Slope, **members: Any) -> type:
        kind = type(f'Registered{len(registered)}', (base,), {'received': [], **members})
        registered.append(kind)
        return env_register(kind)

    yield register
    for kind in registered:
        env_unregister(kind)


def write_episodes(path: Path, env_id: str, actions: Any = None, episodes: int = 6) -> Path:
    """Record what an environment brings under given actions, or under random ones of its own."""
    env = make(env_id)
    draw = np.random.default_rng(0)
    space = env.action_space
    rows: list[tuple] = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        for step in range(env.max_episode_steps):
            action = draw.uniform(space.low, space.high) if actions is None else actions
            action = np.asarray(action, np.float32)
            following, reward, cost, terminated, *_ = env.step(torch.from_numpy(action))
            terminated = bool(terminated)
            is_last = terminated or step == env.max_episode_steps - 1
            rows.append((obs, following, action, reward, cost, terminated, is_last > terminated))
            obs = following
            if is_last:
                break
    names = ('observations', 'next_observations', 'actions', 'rewards', 'costs')
    columns = [np.stack([np.asarray(value) for value in column]) for column in zip(*rows)]
    arrays = {name: column.astype(np.float32) for name, column in zip(names, columns)}
    write_hdf5(Path(path), {**arrays, 'terminals': columns[5], 'timeouts': columns[6]})
    return path


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(sorted(run.glob('torch_save/*.pt'))[-1], weights_only=True)['pi']


def save_run(folder: Path, spec: dict[str, Any] | None = None, without: str = '') -> Path:
    """Save a run of an untrained model in Slope-v0."""
    networks = make_networks(3, 2, HORIZON, 'Slope-v0')
    networks.spec = {
        name: value for name, value in {**networks.spec, **(spec or {})}.items() if name != without
    }
    (folder / 'config.json').write_text(json.dumps({'algo': 'QPT', 'env_id': 'Slope-v0'}))
    save_checkpoint(folder, 1, networks)
    return folder


# ------------------------------------------------------------------ OmniSafe's template


def test_omnisafes_own_template_environment_trains(tmp_path: Path) -> None:
    random.seed(0)
    data = write_episodes(tmp_path / 'simple.hdf5', 'Simple-v0', episodes=20)
    run = train(small_options(data, tmp_path / 'runs'), env_id='Simple-v0')
    assert [path.name for path in sorted(run.glob('torch_save/*'))] == ['epoch-1.pt', 'epoch-2.pt']
    (row,) = evaluate_runs(run, episodes=2, device='cpu', processes=1)
    assert len(row['returns']) == 2


# ------------------------------------------------------------------ what users write


def numpy_step(self: Any, action: torch.Tensor) -> tuple:
    obs, reward, cost, terminated, truncated, info = Slope.step(self, action)
    values = (float(reward), np.float64(cost), bool(terminated), np.bool_(truncated))
    return obs.double().numpy(), *values, info


def test_numpy_float64_and_a_reset_without_a_seed_give_the_same_episode(register: Any) -> None:
    register()
    register(
        _support_envs=['Odd-v0'],
        step=numpy_step,
        reset=lambda self: Slope.reset(self),
        need_auto_reset_wrapper=False,
    )
    episodes = []
    for env_id in ('Slope-v0', 'Odd-v0'):
        env = NumpyEnvironment(env_id)
        states = [env.reset(5)]
        for share in np.linspace(-1, 1, HORIZON, dtype=np.float32):
            obs, reward, cost, has_ended = env.step(np.array([share, -share]))
            assert obs.dtype == np.float32
            states += [obs, reward, cost, has_ended]
        episodes.append(np.concatenate([np.atleast_1d(state) for state in states]))
    assert np.array_equal(*episodes)


def wrong(**changes: Any) -> Any:
    """Return a step with some of its values replaced."""

    def step(self: Any, action: torch.Tensor) -> tuple:
        names = ('obs', 'reward', 'cost', 'terminated', 'truncated', 'info')
        return tuple({**dict(zip(names, Slope.step(self, action))), **changes}.values())

    return step


@pytest.mark.parametrize(
    ('members', 'message'),
    [
        ({'fails_at': 0}, r'failed in step: ZeroDivisionError: the slope is broken \(test_user'),
        ({'reset': lambda self, seed=None: self.nowhere}, 'failed in reset: AttributeError'),
        ({'reset': lambda self, seed=None: torch.ones(3)}, 'must return an observation and'),
        ({'step': lambda self, action: (1, 2)}, 'step must return observation, reward'),
        ({'step': wrong(obs=torch.zeros(2))}, r'shape \(2,\).*observation_space .*\(3,\)'),
        ({'step': wrong(obs=torch.full((3,), np.nan))}, 'its observation is not finite'),
        ({'step': wrong(reward=torch.tensor(np.inf))}, 'its reward is not finite'),
        ({'step': wrong(cost=torch.zeros(4))}, r'cost has shape \(4,\)'),
        ({'step': wrong(reward='much')}, 'failed in step: ValueError'),
        ({'max_episode_steps': None}, 'max_episode_steps None'),
        ({'max_episode_steps': -3}, 'max_episode_steps -3'),
        ({'__init__': lambda self, env_id: None}, 'cannot be made: TypeError'),
        ({'__init__': lambda self, env_id, **kwargs: None}, 'cannot be made: AttributeError'),
    ],
)
def test_what_fails_is_found_in_one_line_before_there_is_a_run(
    register: Any,
    tmp_path: Path,
    members: dict[str, Any],
    message: str,
) -> None:
    kind = register()
    data = write_episodes(tmp_path / 'slope.hdf5', 'Slope-v0', episodes=1)
    for name, value in members.items():
        setattr(kind, name, value)
    with pytest.raises(UserError, match=message) as error:
        omnisafe.Agent('QPT', 'Slope-v0', custom_cfgs=small_options(data, tmp_path / 'runs'))
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
    'space',
    [
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(np.array([-1, -1], np.float32), np.array([1, np.inf], np.float32)),
        spaces.Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 2]),
        spaces.Dict({'a': spaces.Box(-1, 1, (2,))}),
    ],
)
def test_spaces_that_cannot_be_acted_in_are_refused(register: Any, space: Any) -> None:
    register(space=space)
    with pytest.raises(UserError, match='Slope-v0 has the action space') as error:
        make_env('Slope-v0')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'space',
    [spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(5), spaces.Dict({}), None],
)
def test_observations_that_are_no_vector_are_refused(register: Any, space: Any) -> None:
    register(observation_space=space)
    with pytest.raises(UserError, match='Slope-v0 has the observation space'):
        make_env('Slope-v0')


def test_a_failure_in_validation_loses_no_epoch(register: Any, tmp_path: Path) -> None:
    kind = register()
    data = write_episodes(tmp_path / 'slope.hdf5', 'Slope-v0')
    whole = train(small_options(data, tmp_path / 'whole'), env_id='Slope-v0')
    options = small_options(data, tmp_path / 'broken')
    for steps in (3, 5):  # the second time in the same epoch, which is not trained again
        kind.fails_at = steps
        with pytest.raises(UserError, match=r'slope is broken.*updates are saved.*train_cfgs:res'):
            train(options, env_id='Slope-v0')
        options['train_cfgs']['resume'] = 'latest'
        (run,) = tmp_path.glob('broken/*/*')
        assert (run / 'torch_save/epoch-1.pt').is_file()
        assert torch.load(run / 'training_state.pt', weights_only=True)['learner']['step'] == 5
    kind.fails_at = None
    assert train(options, env_id='Slope-v0') == run
    before, after = weights_of(whole), weights_of(run)
    tensors = [name for name, value in before.items() if isinstance(value, torch.Tensor)]
    assert all(torch.equal(before[name], after[name]) for name in tensors)


# ------------------------------------------------------------------ units of actions


@pytest.mark.parametrize('algo', ['QPT', 'BCSafe'])
def test_recorded_actions_come_back_in_the_environments_unit(
    register: Any,
    tmp_path: Path,
    algo: str,
) -> None:
    kind = register()
    recorded = np.array([1.5, 0.05], np.float32)
    data = write_episodes(tmp_path / 'fixed.hdf5', 'Slope-v0', recorded)
    options = small_options(data, tmp_path / 'runs', total_steps=200, evaluate_epoisodes=0)
    options['algo_cfgs'] = {'steps_per_epoch': 200, 'batch_size': 32}
    options['model_cfgs'] = {'actor': {'lr': 3e-3}}
    if algo == 'BCSafe':
        del options['train_cfgs']['calibrate_episodes']
    else:
        options['algo_cfgs'] |= {'use_reward_critic': False, 'use_cost_critic': False}
        options['algo_cfgs'] |= {'use_ensemble': False}
        options['model_cfgs']['actor'] |= {'embed_dim': 16, 'num_layers': 1, 'num_heads': 2}
    kind.received.clear()
    run = train(options, algo, 'Slope-v0')
    assert np.abs(np.stack(kind.received[-HORIZON:]) - recorded).max() < 0.15
    assert load_networks(run)[0].spec['dataset']['action_unit'] == 'environment'


def test_the_loop_evaluation_and_omnisafes_evaluator_send_the_same_actions(
    register: Any,
    tmp_path: Path,
) -> None:
    kind = register()
    run = save_run(tmp_path, {'action_range': {'low': [-2.0, 0.0], 'high': [2.0, 0.5]}})
    networks, _ = load_networks(run)
    config = DeploymentConfig(**{**networks.spec['deployment'], 'cost_limit': 5.0})
    kind.received.clear()
    evaluate(networks, 'Slope-v0', config, 40.0, seeds=[7])
    evaluated = np.stack(kind.received[-HORIZON:])
    policy = load_policy(run, cost_limit=5.0, target_return=40.0, device='cpu')
    env = make('Slope-v0')
    obs, _ = env.reset(seed=7)
    policy.reset(seed=7)
    looped = []
    for _ in range(HORIZON):
        looped.append(policy.act(obs))
        obs, reward, cost, *_ = env.step(torch.from_numpy(looped[-1]))
        policy.observe(reward, cost)
    assert np.array_equal(np.stack(looped), evaluated)
    assert (evaluated >= kind.space.low).all()
    assert (evaluated <= kind.space.high).all()
    assert evaluated.std(axis=0).min() > 0


def test_a_checkpoint_without_a_range_asks_the_environment(register: Any, tmp_path: Path) -> None:
    run = save_run(tmp_path)
    obs = np.ones(3, np.float32)
    with pytest.warns(UserWarning, match='scale to that range'):
        plain = load_policy(run, device='cpu').act(obs)
    register()
    scaled = load_policy(run, device='cpu').act(obs)
    expected = np.array([0.0, 0.25]) + np.array([2.0, 0.25]) * plain
    assert scaled == pytest.approx(expected, abs=1e-6)


def test_the_range_minus_one_to_one_keeps_every_bit(register: Any, tmp_path: Path) -> None:
    register(space=spaces.Box(-1.0, 1.0, (2,)))
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    unit = {'action_range': {'low': [-1.0, -1.0], 'high': [1.0, 1.0]}}
    obs = np.linspace(-1, 1, 3, dtype=np.float32)
    actions = [
        load_policy(run, device='cpu').act(obs)
        for run in (save_run(tmp_path / 'a'), save_run(tmp_path / 'b', unit))
    ]
    assert np.array_equal(*actions)


# ------------------------------------------------------------------ modules of the user's own


MODULE = """
from omnisafe.envs.core import env_register
from tests.envs.test_user_environments import Slope as Base

@env_register
class {name}(Base):
    _support_envs = ['{env_id}']
"""


@pytest.fixture(name='module')
def fixture_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what writes a module that registers an environment, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv(imports.VARIABLE, '')
    names: list[str] = []

    def write(name: str, env_id: str) -> str:
        Path(f'{name}.py').write_text(MODULE.format(name=name.title(), env_id=env_id))
        names.append(name)
        return name

    yield write
    for name in names:
        if name in sys.modules:
            env_unregister(vars(sys.modules.pop(name))[name.title()])


def test_training_imports_the_module_and_records_it(module: Any, tmp_path: Path) -> None:
    name = module('hill', 'Hill-v0')
    with pytest.raises(UserError, match=r"unknown environment 'Hill-v0'.*--import MODULE"):
        omnisafe.Agent('QPT', 'Hill-v0', custom_cfgs={})
    imports.import_modules(name)
    data = write_episodes(tmp_path / 'hill.hdf5', 'Hill-v0')
    env_unregister(vars(sys.modules.pop(name))['Hill'])
    os.environ[imports.VARIABLE] = ''
    run = train(small_options(data, tmp_path / 'runs', **{'import': name}), env_id='Hill-v0')
    assert json.loads((run / 'config.json').read_text())['train_cfgs']['import'] == name

    # Somebody else's run: its module is not imported unless that is asked for.
    env_unregister(vars(sys.modules.pop(name))['Hill'])
    os.environ[imports.VARIABLE] = ''
    load_policy(run, device='cpu')  # which needs no environment
    with pytest.raises(UserError, match=r'trained with the module hill.*add --import hill'):
        omnisafe_qpt.evaluate(run, episodes=1, device='cpu')
    again = {'train_cfgs': {'resume': str(run), 'total_steps': 12}}
    with pytest.raises(UserError, match=r'add --import hill'):
        omnisafe.Agent('QPT', 'Hill-v0', custom_cfgs=again)
    assert name not in sys.modules
    imports.import_modules(name)
    omnisafe_qpt.evaluate(run, episodes=1, device='cpu', processes=1)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('no_such_module', 'no module no_such_module in'),
        ('hill.py', 'not a module.*give hill'),
        ('./envs/hill.py', 'not a module.*give hill'),
        ('hi-ll', 'not a module'),
        ('', 'not a module'),
        (5, 'not a module'),
        (['a', None], 'not a module'),
        ('broken', r'RuntimeError: oh \(broken.py:1\)'),
        ('half', 'No module named'),
    ],
)
def test_modules_that_cannot_be_imported_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv(imports.VARIABLE, '')
    Path('broken.py').write_text("raise RuntimeError('oh')")
    Path('half.py').write_text('import no_such_module')
    with pytest.raises(UserError, match=message) as error:
        imports.import_modules(value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('env_id', 'is_meant'),
    [('PointRoad-v0', False), ('MyRobot', False), ('SafetyPointGoal-v0', True)],
)
def test_only_close_names_are_suggested(env_id: str, is_meant: bool) -> None:
    with pytest.raises(UserError, match='--import') as error:
        imports.require_environment(env_id)
    assert ('did you mean SafetyPointGoal' in str(error.value)) == is_meant


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_lines_take_a_module_and_name_it_where_it_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'hill.py').write_text(MODULE.format(name='Hill', env_id='Hill-v0'))
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / 'tests')])
    monkeypatch.delenv(imports.VARIABLE, raising=False)
    monkeypatch.setenv('PYTHONPATH', paths)
    command = partial(run_command, cwd=tmp_path)

    def error_of(result: subprocess.CompletedProcess[str]) -> str:
        assert result.returncode == 1
        assert 'Traceback' not in result.stderr
        return result.stderr.splitlines()[-1]

    write = (
        'import hill, tests.envs.test_user_environments as t; t.write_episodes("d.hdf5", "Hill-v0")'
    )
    assert command('python', '-c', write).returncode == 0
    options = small_options(tmp_path / 'd.hdf5', tmp_path / 'runs', evaluate_processes=2)
    words = ['omnisafe', 'train', '--algo', 'QPT', '--env-id', 'Hill-v0']
    words += ['--log-dir', tmp_path / 'runs', *command_line_options(options)]
    assert "unknown environment 'Hill-v0'" in error_of(command(*words))
    trained = command(*words, '--import', 'hill')
    assert trained.returncode == 0, trained.stderr
    (run,) = tmp_path.glob('runs/train/*/*')
    assert json.loads((run / 'config.json').read_text())['train_cfgs']['import'] == 'hill'
    for again in (
        ['omnisafe-qpt', 'evaluate', run, '--episodes', 1, '--processes', 2],
        ['omnisafe', 'eval', run, '--no-render', '--num-episode', 1],
        ['omnisafe', *words[1:6], '--custom-cfgs', 'train_cfgs:resume', '--custom-cfgs', run]
        + ['--total-steps', 12],
    ):
        assert '--import hill' in error_of(command(*again))
        result = command(*again, '--import', 'hill')
        assert result.returncode == 0, result.stderr
