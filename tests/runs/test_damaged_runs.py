# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Run folders that are damaged, absurd or somebody else's: one line, and nothing acts or runs."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest
import torch
from omnisafe.utils.command_app import app
from typer.testing import CliRunner

import host_helpers
import omnisafe_qpt
from common_helpers import change_config, error_of
from host_helpers import (
    ENV_ID,
    HORIZON,
    Unsteady,
    command_line_options,
    make_networks,
    small_options,
    train,
    use,
)
from omnisafe_qpt.baselines.deploy import DeployableActor, ObservationPolicy
from omnisafe_qpt.cli import main
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.episodes import evaluate
from omnisafe_qpt.qpt.config import DeploymentConfig, PolicyConfig
from omnisafe_qpt.report import gather
from omnisafe_qpt.runner import LoopPolicy
from omnisafe_qpt.runs import checkpoint
from omnisafe_qpt.runs.checkpoint import (
    load_best,
    load_file,
    load_networks,
    save_checkpoint,
)
from omnisafe_qpt.runs.records import read_config, read_progress
from omnisafe_qpt.runs.training_state import (
    PREVIOUS_STATE_FILE,
    TRAINING_STATE_FILE,
    load_training_state,
)


DEEP = '[' * 100_000 + ']' * 100_000


def refused(action: Callable[[], Any], *words: str) -> str:
    """Hold that an action ends in one line, which has these words."""
    message = error_of(action)
    assert len(message) < 1500
    for word in words:
        assert word in message, message
    return message


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob('*') if path.is_file() and 'tb' not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def flip(path: Path, position: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def flip_data(path: Path) -> None:
    """Flip a bit of the largest tensor in a file that torch saved."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    flip(path, largest.header_offset + 256 + largest.file_size // 2)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def save_nan(path: Path) -> None:
    """Write a sound file with an unsound number."""
    state = torch.load(path, weights_only=True)
    next(iter(state['learner']['policy'].values())).view(-1)[0] = torch.nan
    torch.save(state, path)


DAMAGES = [flip_data, cut, empty, overwrite, Path.unlink, save_nan]


# ------------------------------------------------------------------ checkpoints


def make_actor(kind: str) -> DeployableActor:
    sizes: dict[str, Any] = {'hidden_sizes': [8]}
    if kind == 'fisor':
        sizes = {'candidates': 2, 'critic_hidden_sizes': [8], 'steps': 3, 'width': 8, 'blocks': 1}
    return DeployableActor(
        {
            'actor': kind,
            'obs_dim': 7,
            'act_dim': 2,
            'sizes': sizes,
            'algo': {'bc_safe': 'BCSafe', 'cpq': 'CPQ', 'fisor': 'FISOR'}[kind],
            'env_id': ENV_ID,
            'deployment': vars(DeploymentConfig(candidates=1, rule='paper')),
            'frontier': {'costs': [0.0], 'returns': [1.0]},
            'reference_returns': [0.0, 100.0],
            'dataset': {'path': 'none', 'sha256': None},
            'versions': {},
        },
    )


def make_model(kind: str) -> Any:
    return make_networks(7, 2, HORIZON, ENV_ID) if kind == 'QPT' else make_actor(kind)


@pytest.fixture(params=['QPT', 'bc_safe', 'cpq', 'fisor'])
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(request.param)


def test_sound_checkpoints_load(model: Any, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, model)
    before, after = model.state_dict(), load_networks(path)[0].state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert name == '_extra_state' or torch.equal(value, after[name])


WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    'nan': lambda x: x.index_fill(0, torch.tensor([0]), torch.nan) if x.dim() else x * torch.nan,
    'inf': lambda x: torch.full_like(x, torch.inf),
    'absurd': lambda x: torch.full_like(x, 1e30),
    'minus inf': lambda x: torch.full_like(x, -torch.inf),
    'integers': lambda x: x.long(),
    'doubles': lambda x: x.double(),
    'halves': lambda x: x.half(),
    'complex': lambda x: x.to(torch.complex64),
    'another shape': lambda x: torch.cat([x.reshape(-1), x.new_ones(3)]),
    'one number for all': lambda x: x.new_ones(1).expand(x.numel() + 1).narrow(0, 0, x.numel())
    .reshape(x.shape) if x.numel() > 1 else x.long(),
    'sparse': lambda x: x.reshape(-1).to_sparse(),
    'meta': lambda x: x.to('meta'),
    'no tensor': lambda x: x.tolist(),
    'a text': lambda x: 'weights',
}  # fmt: skip


@pytest.mark.parametrize('which', ['first', 'last', 'scaling.obs_std'])
@pytest.mark.parametrize('damage', WEIGHTS)
def test_unsound_weights_are_refused(model: Any, damage: str, which: str, tmp_path: Path) -> None:
    state = model.state_dict()
    names = [name for name in state if name.startswith('policy')]
    name = {'first': names[0], 'last': names[-1]}.get(which, which)
    state[name] = WEIGHTS[damage](state[name])
    path = tmp_path / 'epoch-1.pt'
    torch.save({'pi': state}, path)
    refused(lambda: load_networks(path), str(path), name)


@pytest.mark.parametrize('unit', ['obs_std', 'return_unit', 'cost_unit'])
@pytest.mark.parametrize('value', [0.0, -1.0])
def test_units_are_positive(unit: str, value: float, tmp_path: Path) -> None:
    state = make_model('QPT').state_dict()
    state[f'scaling.{unit}'].view(-1)[-1:].fill_(value)
    path = tmp_path / 'epoch-1.pt'
    torch.save({'pi': state}, path)
    refused(lambda: load_networks(path), str(path), unit)


def test_weights_are_neither_missing_nor_added(model: Any, tmp_path: Path) -> None:
    path = tmp_path / 'epoch-1.pt'
    for change in (lambda state: state.popitem(last=False), lambda state: state.update(more=1)):
        state = model.state_dict()
        state.move_to_end('_extra_state')
        change(state)
        torch.save({'pi': state}, path)
        refused(lambda: load_networks(path), str(path))


NOT_SIZES = [-1, 0, '8', 10**9, 10**400, 2.5, None, True, []]
NOT_NUMBERS = ['8', None, [], float('nan'), float('inf'), 1e300, 10**400, True]
SPEC = {
    **dict.fromkeys(('obs_dim', 'act_dim', 'horizon'), NOT_SIZES),
    **{
        f'policy:{name}': NOT_SIZES
        for name in ('context_len', 'embed_dim', 'num_layers', 'num_heads', 'max_timestep')
        if name != 'max_timestep'
    },
    'policy:max_timestep': [-1, '8', 10**9, 2.5, None, True, []],
    'policy:dropout': [*NOT_NUMBERS, 1.5, -0.1],
    'policy': [None, [], 'small', {}, 3],
    'critic_hidden_sizes': [None, 'x', [], [0], [-1], ['8'], [10**9], [16] * 1000, [1.5], 16],
    'critic_inputs': ['all', None, 3, []],
    'gamma': [*NOT_NUMBERS, -0.1, 1.1],
    'has_critics': ['yes', 1, None],
    'action_range': [[], 'x', {}, {'low': [-1.0, -1.0]}, {'low': [-1.0], 'high': [1.0]},
                     {'low': [1.0, -1.0], 'high': [1.0, 1.0]},
                     {'low': [-1.0, -1.0], 'high': [float('inf'), 1.0]},
                     {'low': 'ab', 'high': 'cd'}],
    'deployment': [None, {}, [], 'x'],
    'deployment:candidates': NOT_SIZES,
    'deployment:cost_limit': [*NOT_NUMBERS, -1.0],
    'deployment:rule': ['best', None, 3, []],
    'deployment:target_spread': [*NOT_NUMBERS, -1.0],
    'deployment:cost_value': ['mean', None],
    'frontier': [None, {}, [], {'costs': [], 'returns': []}, {'costs': [1.0], 'returns': []},
                 {'costs': [2.0, 1.0], 'returns': [1.0, 2.0]}, {'costs': 'a', 'returns': 'b'},
                 {'costs': [float('nan')], 'returns': [1.0]}, {'costs': [0.0], 'returns': ['x']}],
    'env_id': [None, 3, '', []],
    'reference_returns': [None, [], [1.0], [0.0, 'x'], [0.0, float('nan')], 'ab'],
    'dataset': [None, [], {}, {'path': 3, 'sha256': None}],
    'versions': [None, [], {'torch': 3}],
    'held_out': [None, 'x', [-1], [1.5], ['1'], 3],
    'worst_cost': NOT_NUMBERS,
    'seed': [-1, 'x', 10**12, None, 1.5],
    'calibration': [3, [], 'x', {'format': 2}],
    'published_targets': [3, [[1.0]], [['x', 1.0]], [None]],
    'hardware': [3, {}, {'machine': 1}],
    'config': [3, {'train_cfgs': []}, {'algo_cfgs': {'gamma': 'x'}}],
    'target_return': ['high', [], float('nan')],
}  # fmt: skip
MAY_LACK = {
    *('horizon', 'critic_inputs', 'gamma', 'has_critics', 'action_range', 'held_out'),
    *('worst_cost', 'seed', 'calibration', 'published_targets', 'hardware', 'config'),
    *('target_return', 'policy:dropout'),
}
MISSING = object()


def change(record: Any, path: str, value: Any) -> None:
    *sections, name = path.split(':')
    for section in sections:
        record = record[int(section) if section.isdecimal() else section]  # a parameter's number
    if value is MISSING:
        del record[name]
    else:
        record[name] = value


@pytest.mark.parametrize('field', SPEC)
def test_every_field_of_a_checkpoint_is_checked(field: str, tmp_path: Path) -> None:
    path = tmp_path / 'epoch-1.pt'
    values = SPEC[field] if field in MAY_LACK else [*SPEC[field], MISSING]
    state = make_model('QPT').state_dict()
    sound = json.dumps(state['_extra_state'])
    for value in values:
        spec = json.loads(sound)
        change(spec, field, value)
        state['_extra_state'] = spec
        torch.save({'pi': state}, path)
        message = refused(lambda: load_networks(path), str(path))
        assert field.split(':')[-1] in message or 'nested' in message or 'not a check' in message


ACTOR_SPEC = {
    'actor': [None, 'ppo', 3, []],
    'sizes': [None, [], {}, 'x'],
    'obs_dim': NOT_SIZES,
    'act_dim': NOT_SIZES,
    'sizes:candidates': NOT_SIZES,
    'sizes:steps': NOT_SIZES,
    'sizes:width': NOT_SIZES,
    'sizes:blocks': NOT_SIZES,
    'sizes:critic_hidden_sizes': [None, 'x', [0], [10**9], [8] * 1000],
}


@pytest.mark.parametrize('field', ACTOR_SPEC)
def test_every_size_of_a_baseline_is_checked(field: str, tmp_path: Path) -> None:
    path = tmp_path / 'epoch-1.pt'
    state = make_actor('fisor').state_dict()
    sound = json.dumps(state['_extra_state'])
    for value in [*ACTOR_SPEC[field], MISSING]:
        state['_extra_state'] = json.loads(sound)
        change(state['_extra_state'], field, value)
        torch.save({'pi': state}, path)
        refused(lambda: load_networks(path), str(path))


def test_sizes_without_weights_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    state = make_model('QPT').state_dict()
    state['_extra_state'] = {
        **state['_extra_state'],
        'policy': {**state['_extra_state']['policy'], 'embed_dim': 16_384, 'num_layers': 20},
        'critic_hidden_sizes': [65_536] * 8,
    }
    path = tmp_path / 'epoch-1.pt'
    torch.save({'pi': state}, path)
    refused(lambda: load_networks(path), str(path), 'shape')  # 3 TB of weights otherwise


@pytest.mark.parametrize('content', [
    None, 3, [], {}, 'x', {'pi': None}, {'pi': []}, {'pi': {}}, {'pi': {'_extra_state': None}},
    {'pi': {'_extra_state': []}}, {'pi': {'_extra_state': {'policy': {}}}},
    {'pi': {'_extra_state': {'actor': {}}}},
])  # fmt: skip
def test_other_contents_are_no_checkpoint(content: Any, tmp_path: Path) -> None:
    path = tmp_path / 'epoch-1.pt'
    torch.save(content, path)
    refused(lambda: load_networks(path), str(path))


def test_nesting_is_refused(tmp_path: Path) -> None:
    state = make_model('QPT').state_dict()
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    wide: Any = [0] * 50
    for _ in range(12):
        wide = [wide] * 50  # 50 ** 13 values, in a file of a few kB
    path = tmp_path / 'epoch-1.pt'
    for value in (deep, wide):
        state['_extra_state'] = {**state['_extra_state'], 'config': {'more': value}}
        torch.save({'pi': state}, path)
        refused(lambda: load_networks(path), str(path), 'nested')


@pytest.mark.parametrize('damage', [flip_data, cut, empty, overwrite, Path.unlink])
def test_damaged_checkpoints_are_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, make_model('QPT'))
    damage(path)
    refused(lambda: load_file(path), str(path))


def test_no_flipped_bit_changes_what_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, make_model('bc_safe'))
    before, state = path.read_bytes(), load_file(path)['pi']
    generator = np.random.default_rng(0)
    found = 0
    for position in generator.integers(0, len(before), 150):
        flip(path, int(position), int(generator.integers(8)))
        try:
            after = load_file(path)['pi']
        except UserError as error:
            found += str(path) in str(error)
        else:  # the bit was one of padding
            assert after['_extra_state'] == state['_extra_state']
            for name in state:
                assert name == '_extra_state' or torch.equal(after[name], state[name])
        path.write_bytes(before)
    assert found > 20


def test_archives_of_zeros_are_not_unpacked(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, make_model('bc_safe'))
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    largest = max(entries, key=lambda name: len(entries[name]))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bytes(1 << 24) if name == largest else data)
    assert path.stat().st_size < 1 << 20
    refused(lambda: load_file(path), str(path))


class Exploit:
    """What a pickled checkpoint could call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ('ran',))


@pytest.mark.parametrize('is_zip', [True, False])
def test_pickled_objects_are_refused_without_advice_to_load_them(
    is_zip: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / 'epoch-1.pt'
    torch.save({'pi': Exploit()}, path, _use_new_zipfile_serialization=is_zip)
    message = refused(lambda: load_networks(path), str(path))
    for word in ('weights_only', 'add_safe_globals', 'trust'):
        assert word not in message
    assert 'ran' not in capsys.readouterr().out


# ------------------------------------------------------------------ actions


class _Broken(LoopPolicy):
    """Acts on the observation's first numbers, or with what it is told to."""

    accepted = 0

    def __init__(self, chosen: float) -> None:
        super().__init__(7, None, {'low': [-2.0, -2.0], 'high': [2.0, 2.0]})
        self.chosen = chosen

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return np.full((1, 2), self.chosen, dtype=np.float32)

    def _accept(self, actions: np.ndarray) -> None:
        self.accepted += 1

    def _targets_for(self, cost_limit: float) -> tuple[float | None, float]:
        return 0.0, cost_limit

    def _guarantee_for(self, cost_limit: float) -> None:
        return None

    def _begin(self, row: int, seed: int) -> None:
        pass

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        pass

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        pass

    def _remaining(self) -> np.ndarray:
        return np.zeros((1, 2))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_no_action_of_either_runner_is_not_finite(value: float) -> None:
    policy = _Broken(value)
    with pytest.raises(policy.error, match='NaN or infinite'):
        policy.act(np.zeros(7))
    assert policy.accepted == 0
    policy.chosen = 0.5
    np.testing.assert_array_equal(policy.act(np.zeros(7)), [1.0, 1.0])
    assert policy.accepted == 1


def networks_of(policy: Any) -> Any:
    rollout = policy._rollout
    return rollout._networks if hasattr(rollout, '_networks') else rollout._actor


@pytest.mark.parametrize('kind', ['QPT', 'fisor'])
def test_a_refused_action_leaves_the_policy_as_it_was(kind: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, make_model(kind))
    observations = np.random.default_rng(0).standard_normal((8, 7))
    told: list[list[np.ndarray]] = []
    for breaks in (False, True):
        policy = omnisafe_qpt.load_policy(path, device='cpu')
        weight = next(networks_of(policy).policy.parameters())
        actions = []
        for step, observation in enumerate(observations):
            if breaks and step in (0, 3, 6):
                kept = weight.clone()
                weight.fill_(torch.nan)
                refused(partial(policy.act, observation), 'NaN')
                weight.copy_(kept)
            actions.append(policy.act(observation))
            policy.observe(0.5, 0.1)
        told.append(actions)
    np.testing.assert_array_equal(*told)


def test_no_episode_is_played_with_an_action_that_is_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, Unsteady)
    policy = ObservationPolicy(lambda x: x[:, :2] / 0.0 * 0.0, 7, 2)
    refused(lambda: evaluate(policy, ENV_ID, DeploymentConfig(), None, [0, 1]), 'NaN')


def test_omnisafe_is_given_no_action_that_is_not_finite() -> None:
    from gymnasium.spaces import Box

    from omnisafe_qpt.omnisafe_plugin.actor import DeployedActor

    networks = make_model('QPT')
    actor = DeployedActor(Box(-1, 1, (7,)), Box(-1, 1, (2,)), networks, DeploymentConfig(), 1.0)
    actor.begin_episode(torch.zeros(7), 0)
    next(networks.policy.parameters()).fill_(torch.nan)
    refused(lambda: actor.predict(torch.zeros(7)), 'NaN')


@pytest.mark.parametrize('make', [
    lambda: DeploymentConfig(candidates=10**9),
    lambda: PolicyConfig(num_layers=10**9),
    lambda: PolicyConfig(embed_dim=2**40, num_heads=1),
    lambda: PolicyConfig(context_len=10**9),
    lambda: PolicyConfig(max_timestep=10**12),
])  # fmt: skip
def test_absurd_sizes_are_refused(make: Callable[[], Any]) -> None:
    refused(make, 'at most')


# ------------------------------------------------------------------ runs


to_resume = partial(host_helpers.to_resume, total_steps=15)


@pytest.fixture(scope='module')
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = small_options(dataset, tmp_path_factory.mktemp('runs'), final_evaluate_episodes=1)
    return train(options)


@pytest.fixture(scope='module')
def longer(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run gone on with, undamaged."""
    return train(to_resume(copy_of(trained, tmp_path_factory.mktemp('longer'))))


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / 'group' / run.name))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copy_of(trained, tmp_path)


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before(
    damage: Callable[[Path], None],
    run: Path,
    longer: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert load_training_state(run)[1] == ''
    damage(run / TRAINING_STATE_FILE)
    state, why = load_training_state(run)
    assert state is not None
    assert TRAINING_STATE_FILE in why
    if damage not in (flip_data, Path.unlink):
        return  # the rest takes seconds
    train(to_resume(run))
    said = capsys.readouterr().out
    assert TRAINING_STATE_FILE in said
    assert 'learning rate' not in said
    mine, its = (load_file(path / 'torch_save' / 'epoch-3.pt')['pi'] for path in (run, longer))
    for name in its:
        assert name == '_extra_state' or torch.equal(mine[name], its[name]), name
    for name in (TRAINING_STATE_FILE, PREVIOUS_STATE_FILE):
        load_file(run / name)  # neither is the damaged one


@pytest.mark.parametrize('damage', DAMAGES)
def test_without_any_sound_state_nothing_changes(
    damage: Callable[[Path], None],
    run: Path,
) -> None:
    for name in (TRAINING_STATE_FILE, PREVIOUS_STATE_FILE):
        damage(run / name)
    before = contents(run)
    message = refused(lambda: train(to_resume(run)), 'start a new run', 'epoch-2.pt')
    assert 'learning rate' not in message
    assert contents(run) == before


def test_a_kill_between_two_states_loses_none(run: Path) -> None:
    (run / TRAINING_STATE_FILE).rename(run / PREVIOUS_STATE_FILE)
    state, why = load_training_state(run)
    assert state is not None
    assert 'missing' in why


STATE = {
    'epoch': [-1, 'x', None, MISSING],
    'learner': [None, {}, [], MISSING],
    'learner:step': [-1, 'x', MISSING],
    'learner:scaling': [None, {}, MISSING],
    'learner:policy': [{}, MISSING],
    'learner:policy_optimizer': [{}, {'state': {}, 'param_groups': []}, MISSING],
    'learner:policy_optimizer:state:0:step': [torch.zeros(0), torch.zeros(2)],
    'learner:metrics': [{'sums': torch.zeros(1), 'count': 1}, {}],
    'random': [None, {}, MISSING],
    'random:torch': [torch.zeros(5, dtype=torch.uint8), None],
    'random:numpy': [['MT19937', [1, 2], 1, 0, 0.0], []],
    'random:python': [[3, [1, 2], None], []],
    'sampler': [None, 'x', MISSING],
    'rows': [None, 'x', [3], MISSING],
    'shares': [3, [{}]],
    'metrics': [3, {'Loss': 'x'}, {'Loss': float('nan')}],
    'update_time': ['x', -1.0],
    'learner_config': [None, {}, MISSING],
}


@pytest.mark.parametrize('field', STATE)
def test_every_field_of_a_state_is_checked(field: str, run: Path) -> None:
    (run / PREVIOUS_STATE_FILE).unlink()
    path = run / TRAINING_STATE_FILE
    sound = path.read_bytes()
    for value in STATE[field]:
        path.write_bytes(sound)
        state = load_file(path)
        change(state, field, value)
        torch.save(state, path)
        before = contents(run)
        refused(lambda: omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run)), str(run))
        assert contents(run) == before


# ------------------------------------------------------------------ config.json


CONFIG = {
    'algo': [None, 3, [], {}, 'PPO', '../../QPT', 'qpt'],
    'env_id': [None, 3, [], ''],
    'seed': [-1, 'x', 10**12, None, 1.5, True],
    'train_cfgs': [None, 3, [], 'x'],
    'train_cfgs:total_steps': [-1, 0, '10', None, 1e300, [], 2.5],
    'train_cfgs:evaluate_epoisodes': [-1, 'x', []],
    'train_cfgs:accelerate': ['fast', 3, []],
    'train_cfgs:dataset': [3, [], {}],
    'algo_cfgs': [None, 3, []],
    'algo_cfgs:cost_limit': [None, -1, 'x', float('nan'), []],
    'algo_cfgs:candidates': [10**9, '8', None, []],
    'algo_cfgs:batch_size': [10**12, 'x', []],
    'algo_cfgs:use_augmentation': ['yes', 1, {}],
    'algo_cfgs:augmentation_hook': [3, [], {}],
    'model_cfgs': [None, 3, []],
    'model_cfgs:actor': [None, 3, []],
    'model_cfgs:actor:num_layers': [10**9, '8', None, {}],
    'model_cfgs:actor:embed_dim': [10**9, [], 'x'],
    'model_cfgs:critic:hidden_sizes': [[10**9], [16] * 1000, ['x'], 3, {}],
    'logger_cfgs': [None, 3, []],
    'dataset_record': [None, 3, [], {}],
    'dataset_record:path': [None, 3, []],
    'dataset_record:sha256': [3, []],
    'dataset_record:action_unit': [3, 'metres'],
}
OPTIONAL_CONFIG = ('train_cfgs:', 'algo_cfgs:', 'model_cfgs:', 'dataset_record:action')


@pytest.mark.parametrize('field', CONFIG)
def test_every_field_of_a_configuration_is_checked(
    field: str, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / 'torch_save').mkdir()
    path = tmp_path / 'config.json'
    values = [*CONFIG[field]]
    if not field.startswith(OPTIONAL_CONFIG):
        values.append(MISSING)
    for value in values:
        config = json.loads((trained / 'config.json').read_text())
        change(config, field, value)
        path.write_text(json.dumps(config))
        refused(lambda: read_config(tmp_path), str(tmp_path))
        refused(lambda: gather.read_runs([str(tmp_path)]), str(tmp_path))


TEXTS = [b'', b'{', b'null', b'[]', b'3', b'"x"', b'\xff\xfe\x00', bytes(100), DEEP.encode(),
         b'{"a":' * 100_000, b'{"algo": ' + b'9' * 10_000 + b'}']  # fmt: skip


@pytest.mark.parametrize('text', TEXTS)
def test_texts_that_are_no_record_are_refused(text: bytes, run: Path) -> None:
    (run / 'config.json').write_bytes(text)
    (run / 'best.json').write_bytes(text)
    for action in (
        lambda: read_config(run),
        lambda: load_best(run),
        lambda: gather.read_runs([str(run)]),
        lambda: omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run)),
    ):
        refused(action, str(run))


@pytest.mark.parametrize('text', [b'', b'{', DEEP.encode()])
def test_the_commands_end_in_one_line(
    text: bytes,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run / 'config.json').write_bytes(text)
    (run / 'best.json').write_bytes(text)
    result = CliRunner().invoke(app, ['eval', str(run), '--no-render'])
    assert result.exit_code == 1
    assert type(result.exception) is SystemExit
    capsys.readouterr()
    assert main(['evaluate', str(run), '--checkpoint', 'best']) == 1
    assert main(['report', str(run), '--no-simulator']) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert all(str(run) in line for line in said)


# ------------------------------------------------------------------ best.json, progress.csv


BEST = {
    'rule': [None, 3, []],
    'epoch': [-1, 0, '1', None, 10**12, 1.5, [], {}],
    'checkpoint': [None, 3, '../../x.pt', 'torch_save/epoch-9.pt', []],
    'cost_limit': [None, -1, 'x', float('nan')],
    'validation_return': [None, 'x', float('inf')],
    'validation_cost': [None, 'x', float('nan')],
    'is_within_limit': [None, 1, 'yes'],
    'epochs': [None, [], 3, [3], [{}], [{'epoch': 'x'}]],
    'episodes': ['x', -1],
}


@pytest.mark.parametrize('field', BEST)
def test_every_field_of_the_best_epoch_is_checked(
    field: str, trained: Path, tmp_path: Path
) -> None:
    values = [*BEST[field], *([] if field == 'episodes' else [MISSING])]
    for value in values:
        best = json.loads((trained / 'best.json').read_text())
        change(best, field, value)
        (tmp_path / 'best.json').write_text(json.dumps(best))
        refused(lambda: load_best(tmp_path), str(tmp_path / 'best.json'))


PROGRESS: dict[str, Callable[[list[str]], list[str]]] = {
    'nothing': lambda lines: [],
    'a number is text': lambda lines: [*lines[:-1], lines[-1].replace(',', ',x', 1)],
    'too many cells': lambda lines: [*lines, lines[-1] + ',1.0'],
    'too few cells inside': lambda lines: [lines[0], '1.0,2.0', *lines[1:]],
    'no such column': lambda lines: [lines[0].replace('TotalSteps', 'Steps'), *lines[1:]],
    'a column twice': lambda lines: [lines[0].replace('Time/Epoch', 'TotalSteps'), *lines[1:]],
    'inf': lambda lines: [lines[0], ','.join(['inf'] * len(lines[0].split(',')))],
    'nan': lambda lines: [lines[0], ','.join(['nan'] * len(lines[0].split(',')))],
    'huge': lambda lines: [lines[0], ','.join(['1e300'] * len(lines[0].split(',')))],
    'negative': lambda lines: [lines[0], ','.join(['-1'] * len(lines[0].split(',')))],
    'empty cells': lambda lines: [lines[0], ',' * (len(lines[0].split(',')) - 1)],
    'a huge cell': lambda lines: [*lines[:-1], 'x' * 1_000_000 + lines[-1]],
    'zeros': lambda lines: ['\0' * 100],
    'no text': lambda lines: [lines[0], '\udcff' + lines[-1]],
    'JSON': lambda lines: ['{"a": 1}'],
}


@pytest.mark.parametrize('damage', PROGRESS)
def test_damaged_logs_are_refused(damage: str, run: Path) -> None:
    path = run / 'progress.csv'
    lines = PROGRESS[damage](path.read_text().splitlines())
    path.write_bytes('\n'.join([*lines, '']).encode(errors='surrogateescape'))
    refused(lambda: gather.read_runs([str(run)]), str(run), 'progress.csv')


def test_a_row_that_is_not_complete_is_left_out(run: Path) -> None:
    rows = read_progress(run)
    with (run / 'progress.csv').open('a') as file:
        file.write('3.0,15')
    assert read_progress(run) == rows


# ------------------------------------------------------------------ code of others


@pytest.fixture
def hooked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run with a hook of its own, and what tells that the hook was imported."""
    mark = tmp_path / 'imported'
    (tmp_path / 'their_hook.py').write_text(
        f'open({str(mark)!r}, "w")\n'
        'from omnisafe_qpt.data.augmentation import relabel_frontier as relabel\n',
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'their_hook', raising=False)
    change_config(run, algo_cfgs={'augmentation_hook': 'their_hook:relabel'})
    return run, mark


def train_arguments(run: Path, *more: str) -> list[str]:
    options = command_line_options(to_resume(run))
    return ['train', '--algo', 'QPT', '--env-id', ENV_ID, *options, *more]


def test_a_hook_of_others_is_not_imported(hooked: tuple[Path, Path]) -> None:
    run, mark = hooked
    before = contents(run)
    refused(
        lambda: omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run)),
        'their_hook:relabel',
        '--allow-hooks',
    )
    result = CliRunner().invoke(app, train_arguments(run))
    assert result.exit_code == 1
    assert '--allow-hooks' in result.output
    assert not mark.exists()
    assert contents(run) == before


def test_a_hook_that_the_user_names_is_imported(hooked: tuple[Path, Path]) -> None:
    run, mark = hooked
    options = to_resume(run)
    options['algo_cfgs'] = {'augmentation_hook': 'their_hook:relabel'}
    omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    assert mark.exists()


def test_hooks_can_be_allowed_on_the_command_line(
    hooked: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, mark = hooked
    from omnisafe_qpt.omnisafe_plugin.offline_algorithm import OfflineAlgorithm

    asked = {}
    monkeypatch.setattr(
        OfflineAlgorithm, 'learn', lambda self: asked.setdefault('command', self._resume_command())
        and (0.0, 0.0, 0.0),
    )  # fmt: skip
    monkeypatch.setattr(OfflineAlgorithm, '_init_log', lambda self: setattr(self, '_run', run))
    CliRunner().invoke(app, train_arguments(run, '--allow-hooks'))
    assert mark.exists()
    assert '--allow-hooks' in asked['command'], 'so that it can be copied'


def test_the_modules_of_others_are_not_imported(run: Path) -> None:
    change_config(run, train_cfgs={'import': 'their_module'})
    omnisafe.Agent('QPT', ENV_ID, custom_cfgs=to_resume(run))


@pytest.mark.parametrize('algo', ['QPT', 'PPO'])
@pytest.mark.parametrize('tag', ['object/apply:os.system [ls]', 'name:no.such.thing', 'module:nix'])
def test_python_in_yaml_is_refused_in_one_line(algo: str, tag: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(f'algo: {algo}\nenv_id: {ENV_ID}\ntrain_cfgs:\n  dataset: !!python/{tag}\n')
    result = CliRunner().invoke(app, ['train-config', str(path)])
    assert type(result.exception) is SystemExit
    assert result.exit_code == 1
    assert not hasattr(checkpoint, 'ran')
