# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin door: QPT is there by itself, and the other algorithms notice nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import omnisafe
import pytest
import torch
import yaml
from omnisafe.algorithms.algo_wrapper import AlgoWrapper
from omnisafe.common.experiment_grid import ExperimentGrid
from omnisafe.utils import command_app
from omnisafe.utils.config import get_default_kwargs_yaml
from typer.testing import CliRunner

from omnisafe_qpt import compat
from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.envs.user_modules import VARIABLE
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.omnisafe_plugin import import_hooks
from omnisafe_qpt.omnisafe_plugin.safety_gymnasium import array_defaults
from omnisafe_qpt.settings.files import merge


ENV_ID = 'SafetyBallRun-v0'
HOST_CONFIGS = Path(omnisafe.__file__).parent / 'configs'


@pytest.fixture
def cuda(monkeypatch):
    """A switch for the number of CUDA devices that torch sees; none to begin with."""

    def see(count):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)

    see(0)
    return see


@pytest.fixture
def trained(monkeypatch, cuda):
    """The configurations of the agents that were made; none of them is really trained."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    configurations = []
    monkeypatch.setattr(AlgoWrapper, '_init_algo', lambda self: configurations.append(self.cfgs))
    monkeypatch.setattr(AlgoWrapper, 'learn', lambda self: (0.0, 0.0, 0.0))
    return configurations


def omnisafe_command(*arguments):
    return CliRunner().invoke(command_app.app, [str(argument) for argument in arguments])


def train(*arguments, env_id=ENV_ID):
    return omnisafe_command('train', '--algo', 'QPT', '--env-id', env_id, *arguments)


def custom(**options):
    """Options as the command line takes them; ``__`` stands for a colon."""
    pairs = [(key.replace('__', ':'), value) for key, value in options.items()]
    return [word for pair in pairs for text in pair for word in ('--custom-cfgs', text)]


def error_of(result):
    """The one line that a user's mistake is answered with."""
    lines = [line for line in result.output.splitlines() if line.startswith('Error: ')]
    assert result.exit_code == 1
    assert len(lines) == 1
    assert 'Traceback' not in result.output
    return lines[0]


# -- the door -------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ALGORITHMS)
def test_each_is_one_of_omnisafes_algorithms(name):
    assert name in omnisafe.ALGORITHMS['offline']
    assert name in omnisafe.ALGORITHMS['all']
    assert omnisafe.algorithms.ALGORITHM2TYPE[name] == 'offline'
    for module in (omnisafe.algorithms, omnisafe.algorithms.offline):
        assert getattr(module, name) is omnisafe.algorithms.registry.get(name)
    with pytest.raises(AttributeError, match='has no attribute'):
        _ = omnisafe.algorithms.Nothing


@pytest.mark.parametrize(
    'first',
    [
        'evaluation.episodes',
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                'envs.environments',
                'evaluation.sweep',
                'omnisafe_plugin.actor',
                'omnisafe_plugin.adapter',
                'omnisafe_plugin.algorithms',
                'omnisafe_plugin.offline_algorithm',
                'training.epoch_evaluation',
            )
        ),
    ],
)
def test_they_are_there_whichever_module_is_imported_first(first):
    """Also where that module's import is what brings OmniSafe in."""
    code = (
        f'import omnisafe_qpt.{first}\n'
        'from omnisafe.algorithms import QPT, registry\n'
        'from omnisafe_qpt.omnisafe_plugin.import_hooks import require_available\n'
        'require_available()\n'
        'assert registry.get("QPT") is QPT\n'
    )
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_help_lists_them(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    help_text = omnisafe_command('train', '--help').output
    assert all(repr(name) in help_text for name in ALGORITHMS)


def test_the_door_costs_gymnasiums_users_next_to_nothing():
    """Besides what gymnasium has imported by then, a few modules of ours and nothing else."""
    script = """if True:
        import sys, typing, contextlib, importlib.metadata, importlib.util, json
        before = set(sys.modules)
        from omnisafe_qpt.omnisafe_plugin.import_hooks import install
        install()
        print(*sorted(set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    assert {name.partition('.')[0] for name in modules} == {'omnisafe_qpt'}
    assert len(modules) < 10


def test_installing_again_changes_nothing():
    before = list(sys.meta_path)
    import_hooks.install()
    assert sys.meta_path == before
    assert sum(isinstance(finder, import_hooks._HookFinder) for finder in before) == 1


def test_a_broken_door_does_not_break_gymnasium(monkeypatch, capsys):
    def fail():
        raise RuntimeError('no way in')

    monkeypatch.setattr(import_hooks, '_HookFinder', fail)
    import_hooks.install()
    assert capsys.readouterr().err.count('\n') == 1


def test_hooked_modules_keep_their_loaders():
    module = importlib.import_module('omnisafe.evaluator')
    assert type(module.__loader__) is type(module.__spec__.loader) is type(json.__loader__)


def test_every_hook_has_run():
    assert import_hooks._problems == []
    assert set(import_hooks._HOOKS) <= set(sys.modules)


# -- an OmniSafe that is not known ----------------------------------------------------------------


@pytest.fixture
def other_omnisafe(monkeypatch):
    monkeypatch.setattr(metadata, 'version', lambda name: '0.6.0')
    compat.check_version.cache_clear()
    yield
    compat.check_version.cache_clear()


@pytest.mark.usefixtures('other_omnisafe')
def test_an_unknown_version_is_named_once(capsys):
    compat.check_version()
    compat.check_version()
    message = capsys.readouterr().err
    assert message.count('\n') == 1
    assert '0.6.0' in message
    assert "pip install 'omnisafe==0.5.0'" in message


@pytest.mark.usefixtures('other_omnisafe')
@pytest.mark.parametrize('name', sorted(set(import_hooks._HOOKS) - {'omnisafe.envs'}))
def test_a_missing_internal_is_reported_when_qpt_is_asked_for(name, monkeypatch, trained):
    monkeypatch.setattr(import_hooks, '_problems', [])
    import_hooks._run_hook(name, types.ModuleType(name))
    with pytest.raises(
        UserError, match=f'does not support OmniSafe 0.6.0: {name} has no'
    ) as raised:
        omnisafe.Agent('QPT', ENV_ID)
    assert "pip install 'omnisafe==0.5.0'" in str(raised.value)
    assert not trained
    omnisafe.Agent('BCQ', ENV_ID)
    assert len(trained) == 1


def test_a_failed_import_is_reported_when_qpt_is_asked_for(monkeypatch, trained):
    monkeypatch.setattr(import_hooks, '_problems', [ModuleNotFoundError("No module named 'h5py'")])
    assert "ModuleNotFoundError: No module named 'h5py'" in error_of(train())


# -- Safety-Gymnasium on Python 3.11 --------------------------------------------------------------


def test_safety_gymnasiums_dataclasses_may_have_array_defaults():
    def geom():
        return type(
            'Geom',
            (),
            {
                '__module__': 'safety_gymnasium.assets',
                '__annotations__': {'color': np.ndarray, 'alpha': float},
                'color': np.ones(4),
                'alpha': 0.5,
            },
        )

    original = dataclasses.dataclass
    with array_defaults():
        plain = dataclasses.dataclass(geom())
        frozen = dataclasses.dataclass(frozen=True)(geom())
    assert dataclasses.dataclass is original
    assert plain().color is plain().color is plain.color
    assert plain(np.zeros(4)).color.sum() == 0
    assert [field.name for field in dataclasses.fields(plain)] == ['color', 'alpha']
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen().color = None


@pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 takes them anyway')
def test_other_dataclasses_are_left_alone():
    with array_defaults(), pytest.raises(ValueError, match='mutable default'):

        @dataclasses.dataclass
        class Geom:
            color: np.ndarray = np.ones(4)  # noqa: RUF009


def test_dsrls_name_of_the_velocity_tasks_is_known():
    module = importlib.import_module(
        'safety_gymnasium.tasks.safety_velocity.safety_hopper_velocity_v1',
    )
    assert module.SafetyHopperVelocityEnv.__name__ == 'SafetyHopperVelocityEnv'


# -- the other algorithms -------------------------------------------------------------------------


def test_other_algorithms_keep_their_configuration():
    for algo, algo_type in omnisafe.algorithms.ALGORITHM2TYPE.items():
        if algo in ALGORITHMS:
            continue
        content = yaml.safe_load((HOST_CONFIGS / algo_type / f'{algo}.yaml').read_text())
        expected = merge(content['defaults'], content.get('SafetyPointGoal1-v0') or {})
        loaded = get_default_kwargs_yaml(algo, 'SafetyPointGoal1-v0', algo_type).todict()
        assert loaded == expected, algo


def test_other_algorithms_get_the_command_lines_values_as_ever(monkeypatch, tmp_path):
    calls = []

    class Agent:
        def __init__(self, **kwargs):
            calls.append(kwargs)

        def learn(self):
            pass

    monkeypatch.setattr(omnisafe, 'Agent', Agent)
    options = custom(algo_cfgs__gamma='0.5', model_cfgs__actor__hidden_sizes='[64,64]')
    monkeypatch.chdir(tmp_path)
    result = omnisafe_command(
        'train', '--algo', 'PPOLag', '--env-id', ENV_ID, '--log-dir', 'runs', *options
    )
    assert result.exit_code == 0
    assert calls == [
        {
            'algo': 'PPOLag',
            'env_id': ENV_ID,
            'train_terminal_cfgs': {
                'algo': 'PPOLag',
                'env_id': ENV_ID,
                'parallel': 1,
                'total_steps': 10000000,
                'device': 'cpu',
                'vector_env_nums': 1,
                'torch_threads': 16,
            },
            'custom_cfgs': {
                'algo_cfgs': {'gamma': 0.5},
                'model_cfgs': {'actor': {'hidden_sizes': ['64', '64']}},
                'logger_cfgs': {'log_dir': 'runs/train'},
            },
        },
    ]


def test_other_algorithms_crash_as_ever(monkeypatch):
    def fail(**_):
        raise ZeroDivisionError('a bug')

    monkeypatch.setattr(omnisafe, 'Agent', fail)
    result = omnisafe_command('train', '--algo', 'PPOLag', '--env-id', ENV_ID)
    assert isinstance(result.exception, ZeroDivisionError)


# -- flags and options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('flags', 'options', 'expected'),
    [
        # Not given: the YAML's values, not OmniSafe's 10000000, cpu and 16.
        ([], {}, {'total_steps': 100000, 'device': 'cuda:0'}),
        ([], {'train_cfgs__total_steps': '20'}, {'total_steps': 20}),
        ([], {'train_cfgs__device': 'cpu'}, {'device': 'cpu'}),
        ([], {'train_cfgs__torch_threads': '3'}, {'torch_threads': 3}),
        # Given: they win, also when they equal OmniSafe's defaults.
        (['--total-steps', 500], {}, {'total_steps': 500, 'device': 'cuda:0'}),
        (['--total-steps', 500], {'train_cfgs__total_steps': '20'}, {'total_steps': 500}),
        (['--total-steps', 10000000], {}, {'total_steps': 10000000}),
        (['--total-steps', 10000000], {'train_cfgs__total_steps': '20'}, {'total_steps': 10000000}),
        (['--device', 'cpu'], {}, {'device': 'cpu', 'total_steps': 100000}),
        (['--device', 'cpu'], {'train_cfgs__device': 'cuda:1'}, {'device': 'cpu'}),
        (['--device', 'cuda'], {}, {'device': 'cuda:0'}),
        (['--device', 'cuda:1'], {}, {'device': 'cuda:1'}),
        (['--torch-threads', 16], {}, {'torch_threads': 16}),
        (['--torch-threads', 16], {'train_cfgs__torch_threads': '3'}, {'torch_threads': 16}),
        (['--parallel', 1, '--vector-env-nums', 1], {}, {'parallel': 1, 'vector_env_nums': 1}),
        # How updates run follows the device.
        ([], {}, {'accelerate': 'graph', 'data_device': 'auto'}),
        (['--device', 'cpu'], {}, {'accelerate': 'none'}),
        ([], {'train_cfgs__accelerate': 'none'}, {'accelerate': 'none'}),
        ([], {'train_cfgs__accelerate': 'compile'}, {'accelerate': 'compile'}),
        (['--device', 'cpu'], {'train_cfgs__accelerate': 'none'}, {'accelerate': 'none'}),
        ([], {'train_cfgs__data_device': 'host'}, {'data_device': 'host'}),
    ],
)
def test_flags_given_win_and_flags_not_given_do_not(flags, options, expected, trained, cuda):
    cuda(2)
    result = train(*flags, *custom(**options))
    assert result.exit_code == 0, result.output
    train_cfgs = trained[0].train_cfgs
    assert {name: train_cfgs[name] for name in expected} == expected
    assert (
        trained[0].train_cfgs.epochs
        == train_cfgs.total_steps // trained[0].algo_cfgs.steps_per_epoch
    )


def test_without_cuda_it_trains_on_the_cpu_and_says_what_to_expect(trained):
    result = train()
    assert trained[0].train_cfgs.device == 'cpu'
    assert trained[0].train_cfgs.torch_threads >= 1
    lines = [line for line in result.output.splitlines() if 'No CUDA device' in line]
    assert len(lines) == 1
    assert 'train_cfgs:preset' in lines[0]

    assert 'No CUDA device' not in train('--device', 'cpu').output
    smaller = train(*custom(train_cfgs__preset='cpu')).output
    assert 'No CUDA device' in smaller
    assert 'train_cfgs:preset' not in smaller


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--device', 'cuda'], 'device cuda does not exist'),
        (['--device', 'cuda:1'], 'device cuda:1 does not exist'),
        (['--device', 'gpu'], "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        (['--parallel', 2], 'parallel must be 1'),
        (['--vector-env-nums', 4], 'vector_env_nums must be 1'),
        (['--total-steps', 0], 'total_steps must be at least 1'),
        (['--torch-threads', 0], 'torch_threads must be auto or a positive integer'),
        (custom(train_cfgs__parallel='2'), 'parallel must be 1'),
        (custom(algo_cfgs__target_return='best'), 'must be auto, dsrl or a number'),
        (custom(algo_cfgs__gamma='high'), 'algo_cfgs:gamma in --custom-cfgs must be a number'),
        (custom(total_steps='5'), 'did you mean train_cfgs:total_steps?'),
        (custom(train_cfgs__preset='gpu'), "unknown preset 'gpu': choose from cpu"),
        (custom(train_cfgs__preset='5'), "unknown preset '5'"),
        (custom(train_cfgs__preset='missing.yaml'), 'cannot read missing.yaml'),
        (
            custom(train_cfgs__accelerate='graph'),
            'train_cfgs:accelerate graph needs CUDA and a single process: on the CPU use auto',
        ),
        (custom(train_cfgs__accelerate='compile'), 'accelerate compile needs CUDA'),
        (
            custom(train_cfgs__accelerate='fast'),
            "train_cfgs:accelerate must be auto, none, graph or compile, not 'fast'",
        ),
        (custom(train_cfgs__data_device='disk'), "must be auto, device or host, not 'disk'"),
    ],
)
def test_mistakes_on_the_command_line_take_one_line(flags, message, trained):
    assert message in error_of(train(*flags))
    assert not trained


def test_an_unknown_environment_is_answered_with_likely_ones(trained):
    message = error_of(train(env_id='SafetyBallRn-v0'))
    assert 'did you mean SafetyBallRun-v0' in message
    assert 'HumanoidVelocity' not in message


@pytest.mark.parametrize(('given', 'meant'), [('qpt', 'QPT'), ('C-DT', 'CDT')])
def test_the_algorithms_name_is_case_sensitive(given, meant, trained):
    result = omnisafe_command('train', '--algo', given, '--env-id', ENV_ID)
    assert f'case-sensitive; did you mean {meant}?' in error_of(result)


@pytest.mark.parametrize(
    ('key', 'text', 'value'),
    [
        ('train_cfgs:dataset', 'data/x.hdf5', 'data/x.hdf5'),
        ('train_cfgs:dataset', '~/a b/1.0', '~/a b/1.0'),
        ('model_cfgs:actor:lr', '1e-4', 0.0001),
        ('algo_cfgs:cost_limit', '20', 20),
        ('algo_cfgs:target_return', '-1', -1),
        ('algo_cfgs:use_cost_critic', 'true', True),
        ('algo-cfgs:use-cost-critic', 'False', False),
        ('model_cfgs:critic:hidden_sizes', '[64,64]', [64, 64]),
        ('train_cfgs:resume', 'None', None),
        ('logger_cfgs:wandb_project', '1.5', '1.5'),
    ],
)
def test_custom_options_are_read_as_they_look(key, text, value, trained):
    result = train('--custom-cfgs', key, '--custom-cfgs', text)
    assert result.exit_code == 0, result.output
    found = trained[0]
    for name in key.replace('-', '_').split(':'):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ('flags', 'log_dir'),
    [
        ([], '{cwd}/train'),
        (['--log-dir', './my.runs'], './my.runs/train'),
        (custom(logger_cfgs__log_dir='./mine'), './mine'),
        (['--log-dir', './runs', *custom(logger_cfgs__log_dir='./mine')], './runs/train'),
    ],
)
def test_the_folder_for_runs(flags, log_dir, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # OmniSafe takes the default for --log-dir when it is imported.
    cwd = command_app.train.__defaults__[7].default
    assert train(*flags).exit_code == 0
    assert trained[0].logger_cfgs.log_dir == log_dir.format(cwd=cwd)


# -- presets and configuration files --------------------------------------------------------------


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return path


def test_a_preset_stands_between_the_defaults_and_the_users_options(tmp_path, trained):
    preset = {
        'algo': 'QPT',
        'env_id': 'SafetyCarButton1-v0',
        'train_cfgs': {'dataset': 'sample', 'total_steps': 77},
        'algo_cfgs': {'batch_size': 8, 'gamma': 0.5},
    }
    path = write_yaml(tmp_path / 'small.yaml', preset)
    result = train(*custom(train_cfgs__preset=str(path), algo_cfgs__gamma='0.9'))
    assert result.exit_code == 0, result.output
    cfgs = trained[0]
    assert (cfgs.train_cfgs.total_steps, cfgs.algo_cfgs.batch_size) == (77, 8)
    assert cfgs.algo_cfgs.gamma == 0.9
    assert cfgs.env_id == ENV_ID
    assert cfgs.train_cfgs.dataset == 'auto'

    assert train('--total-steps', 5, *custom(train_cfgs__preset=str(path))).exit_code == 0
    assert trained[1].train_cfgs.total_steps == 5


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'algo_cfgs': {'gama': 0.5}}, 'unknown option algo_cfgs:gama in the preset'),
        ({'algo': 'PPO'}, 'is for PPO, not for QPT'),
    ],
)
def test_a_wrong_preset_is_refused(content, message, tmp_path, trained):
    path = write_yaml(tmp_path / 'small.yaml', content)
    assert message in error_of(train(*custom(train_cfgs__preset=str(path))))


def test_the_cpu_preset_is_smaller(trained):
    assert train(*custom(train_cfgs__preset='cpu')).exit_code == 0
    assert train().exit_code == 0
    small, paper = trained
    assert small.algo_cfgs.batch_size < paper.algo_cfgs.batch_size
    assert small.model_cfgs.actor.embed_dim < paper.model_cfgs.actor.embed_dim


METADRIVE = 'SafeMetaDrive-easysparse-v0'


@pytest.mark.parametrize(
    ('env_id', 'flags', 'steps'),
    [
        (ENV_ID, [], 100_000),
        (METADRIVE, [], 200_000),
        (METADRIVE, ['--total-steps', 50], 50),
        (METADRIVE, custom(train_cfgs__total_steps='60'), 60),
    ],
)
def test_the_preset_paper_trains_as_long_as_the_paper(env_id, flags, steps, trained):
    result = train(*custom(train_cfgs__preset='paper'), *flags, env_id=env_id)
    assert result.exit_code == 0, result.output
    assert trained[0].train_cfgs.total_steps == steps
    assert trained[0].algo_cfgs.selection_rule == 'paper'
    # The size is the defaults': a CPU takes seconds for an update.
    assert 'train_cfgs:preset' in result.output


def test_a_configuration_file_may_have_sections_by_environment(tmp_path, trained):
    sections = {METADRIVE: {'train_cfgs': {'total_steps': 9}}, ENV_ID: {'seed': 4}}
    content = {'algo': 'QPT', 'env_id': ENV_ID, 'train_cfgs': {'total_steps': 8}, **sections}
    path = write_yaml(tmp_path / 'mine.yaml', content)
    assert omnisafe_command('train-config', path).exit_code == 0
    assert (trained[0].train_cfgs.total_steps, trained[0].seed) == (8, 4)
    omnisafe.Agent('QPT', METADRIVE, custom_cfgs=sections)
    assert (trained[1].train_cfgs.total_steps, trained[1].seed) == (9, 0)


@pytest.mark.parametrize(
    ('env_id', 'options', 'message'),
    [
        ('SafetyCarButton1-v0', {}, 'no target for CarButton1 at cost limit 10, only at 20'),
        (ENV_ID, {'algo_cfgs__cost_limit': '15'}, 'no target for BallRun at cost limit 15'),
        ('SafetyPointGoal0-v0', {}, 'SafetyPointGoal0-v0 is not a task of DSRL'),
    ],
)
def test_without_a_published_target_nothing_starts(env_id, options, message, trained):
    options = {'algo_cfgs__target_return': 'dsrl', **options}
    assert message in error_of(train(*custom(**options), env_id=env_id))
    assert not trained


def test_a_configuration_file_keeps_its_logger_options(tmp_path, trained):
    content = {
        'algo': 'QPT',
        'env_id': ENV_ID,
        'train_cfgs': {'total_steps': 30},
        'logger_cfgs': {'use_tensorboard': False, 'log_dir': 'elsewhere'},
    }
    path = write_yaml(tmp_path / 'mine.yaml', content)
    assert omnisafe_command('train-config', path).exit_code == 0
    assert trained[0].train_cfgs.total_steps == 30
    assert trained[0].logger_cfgs.use_tensorboard is False
    assert trained[0].logger_cfgs.log_dir == 'elsewhere'

    assert omnisafe_command('train-config', path, '--log-dir', tmp_path).exit_code == 0
    assert trained[1].logger_cfgs.log_dir == f'{tmp_path}/train_dict'
    assert trained[1].logger_cfgs.use_tensorboard is False


def test_a_configuration_file_may_write_1e_4(tmp_path, trained):
    path = tmp_path / 'mine.yaml'
    path.write_text(f'algo: QPT\nenv_id: {ENV_ID}\nmodel_cfgs: {{actor: {{lr: 1e-4}}}}\n')
    assert omnisafe_command('train-config', path).exit_code == 0
    assert trained[0].model_cfgs.actor.lr == 0.0001


def test_a_wrong_configuration_file_takes_one_line(tmp_path, trained):
    content = {'algo': 'QPT', 'env_id': ENV_ID, 'algo_cfgs': {'gamma': None, 'gama': 1}}
    path = write_yaml(tmp_path / 'mine.yaml', content)
    assert str(path) in error_of(omnisafe_command('train-config', path))
    assert 'cannot read' in error_of(omnisafe_command('train-config', tmp_path / 'no.yaml'))
    path.write_text('algo: [QPT')
    assert 'is not valid YAML' in error_of(omnisafe_command('train-config', path))
    assert 'is not valid YAML' in error_of(omnisafe_command('benchmark', 'name', 1, path))


@pytest.mark.parametrize('algo', [['QPT'], ['PPO'], {'QPT': 1}, 5, None])
def test_an_algorithm_that_is_not_text_takes_one_line(algo, tmp_path, trained):
    path = write_yaml(tmp_path / 'mine.yaml', {'algo': algo, 'env_id': ENV_ID})
    assert 'algo' in error_of(omnisafe_command('train-config', path))
    assert not trained


@pytest.mark.parametrize('section', [None, 5, ['log_dir']])
@pytest.mark.parametrize('flags', [(), ('--log-dir', 'runs')])
def test_a_wrong_section_of_the_logger_takes_one_line(section, flags, tmp_path, trained):
    content = {'algo': 'QPT', 'env_id': ENV_ID, 'logger_cfgs': section}
    path = write_yaml(tmp_path / 'mine.yaml', content)
    assert 'logger_cfgs' in error_of(omnisafe_command('train-config', path, *flags))
    assert not trained


@pytest.mark.parametrize('flags', [(), ('--import', 'json')])
def test_a_wrong_section_of_training_takes_one_line(flags, tmp_path, trained, monkeypatch):
    monkeypatch.setenv(VARIABLE, '')  # --import sets it for worker processes
    path = write_yaml(tmp_path / 'mine.yaml', {'algo': 'QPT', 'env_id': ENV_ID, 'train_cfgs': 5})
    assert 'train_cfgs' in error_of(omnisafe_command('train-config', path, *flags))
    assert not trained


# -- from Python ----------------------------------------------------------------------------------


def test_from_python_a_mistake_is_an_ordinary_exception(trained):
    with pytest.raises(UserError, match='did you mean algo_cfgs:gamma'):
        omnisafe.Agent('QPT', ENV_ID, custom_cfgs={'algo_cfgs': {'gama': 1.0}})
    with pytest.raises(UserError, match='algo_cfgs:gama'):  # behind a null, where OmniSafe stops
        omnisafe.Agent(
            'QPT', ENV_ID, custom_cfgs={'train_cfgs': {'resume': None}, 'algo_cfgs': {'gama': 1}}
        )


def test_from_python_flags_may_be_partial_and_options_stay_the_users(trained):
    options = {'algo': 'QPT', 'env_id': ENV_ID, 'algo_cfgs': {'gamma': 0.5}}
    omnisafe.Agent('QPT', ENV_ID, train_terminal_cfgs={'total_steps': 9}, custom_cfgs=options)
    assert trained[0].train_cfgs.total_steps == 9
    assert trained[0].algo_cfgs.gamma == 0.5
    assert options == {'algo': 'QPT', 'env_id': ENV_ID, 'algo_cfgs': {'gamma': 0.5}}


def test_the_experiment_grid_checks_qpts_variants():
    grid = ExperimentGrid('grid')
    variant = {'algo': 'QPT', 'env_id': ENV_ID, 'seed': 1, 'algo_cfgs': {'gamma': 0.5}}
    grid.check_variant_vaild(variant)
    with pytest.raises(UserError, match='algo_cfgs:gama in the grid'):
        grid.check_variant_vaild({**variant, 'algo_cfgs': {'gama': 0.5}})
    grid.check_variant_vaild({'algo': 'PPO', 'env_id': ENV_ID, 'seed': 1})
    with pytest.raises(KeyError):
        grid.check_variant_vaild({'algo': 'PPO', 'env_id': ENV_ID, 'sed': 1})
    with pytest.raises(UserError, match='algo'):
        grid.check_variant_vaild({'algo': ['QPT'], 'env_id': ENV_ID, 'seed': 1})


# -- saved runs -----------------------------------------------------------------------------------


class ShortEnv:
    """Two steps of reward 1 and cost 0.5."""

    def __init__(self, can_render=True):
        self.metadata = {'render_fps': 10}
        self.steps = 0
        self.can_render = can_render

    def reset(self):
        self.steps = 0
        return torch.zeros(3), {}

    def step(self, action):
        self.steps += 1
        done = torch.tensor(self.steps == 2)
        return torch.zeros(3), torch.tensor(1.0), torch.tensor(0.5), torch.tensor(False), done, {}

    def render(self):
        if not self.can_render:
            raise RuntimeError('gladLoadGL error')
        return np.zeros((16, 16, 3), dtype=np.uint8)

    def close(self):
        pass


class StillActor:
    @staticmethod
    def predict(obs, deterministic):
        assert deterministic
        return torch.zeros(2)


@pytest.fixture
def loaded(monkeypatch):
    """What build_evaluation was asked for, in place of loading."""
    calls = []

    def build_evaluation(save_dir, model_name, cfgs, env_kwargs):
        calls.append((Path(save_dir).name, model_name, cfgs['algo'], env_kwargs))
        return ShortEnv(can_render=env_kwargs.get('width') != 13), StillActor()

    monkeypatch.setattr('omnisafe_qpt.omnisafe_plugin.adapter.build_evaluation', build_evaluation)
    return calls


def make_run(folder, algo='QPT', models=('epoch-10.pt', 'epoch-9.pt')):
    (folder / 'torch_save').mkdir(parents=True)
    cfgs = {'algo': algo, 'env_id': ENV_ID, 'seed': 0, 'env_cfgs': {'height': 32}}
    cfgs |= {'train_cfgs': {}, 'logger_cfgs': {}, 'model_cfgs': {}}
    cfgs['algo_cfgs'] = {'cost_limit': 10.0}
    cfgs['dataset_record'] = {'name': 'data', 'path': 'data.hdf5', 'sha256': None}
    (folder / 'config.json').write_text(json.dumps(cfgs))
    for model in models:
        (folder / 'torch_save' / model).touch()
    return folder


def test_the_evaluator_runs_the_deployed_policy(tmp_path, loaded):
    run = make_run(tmp_path / 'seed-000')
    evaluator = omnisafe.Evaluator()
    evaluator.load_saved(str(run), 'epoch-9.pt', camera_name='track', width=64)
    assert evaluator.evaluate(num_episodes=2) == ([2.0, 2.0], [1.0, 1.0])
    expected = {
        'env_id': ENV_ID,
        'num_envs': 1,
        'render_mode': 'rgb_array',
        'camera_name': 'track',
        'camera_id': None,
        'width': 64,
        'height': 32,  # env_cfgs of the run win, as for the other algorithms
    }
    assert loaded == [('seed-000', 'epoch-9.pt', 'QPT', expected)]


def test_other_algorithms_runs_are_loaded_as_ever(tmp_path, loaded):
    run = make_run(tmp_path / 'seed-000', algo='PPO', models=())
    with pytest.raises(FileNotFoundError, match='The model is not found'):
        omnisafe.Evaluator().load_saved(str(run), 'epoch-9.pt')
    with pytest.raises(FileNotFoundError, match='The config file is not found'):
        omnisafe.Evaluator().load_saved(str(tmp_path), 'epoch-9.pt')
    assert not loaded


@pytest.mark.parametrize('folder', ['.', 'seed-000'])
def test_eval_takes_a_run_or_one_of_its_seeds(folder, tmp_path, loaded):
    make_run(tmp_path / 'seed-000')
    make_run(tmp_path / 'seed-001', models=())  # it was stopped before its first checkpoint
    result = omnisafe_command('eval', tmp_path / folder, '--no-render', '--num-episode', 1)
    assert result.exit_code == 0, result.output
    assert [call[:2] for call in loaded] == [
        ('seed-000', 'epoch-9.pt'),
        ('seed-000', 'epoch-10.pt'),
    ]
    assert result.output.count('Average episode reward: 2.0') == 2


def test_eval_renders(tmp_path, loaded):
    run = make_run(tmp_path / 'seed-000', models=('epoch-1.pt',))
    result = omnisafe_command('eval', tmp_path, '--num-episode', 1)
    assert result.exit_code == 0, result.output
    assert list(run.glob('video/epoch-1/*.mp4'))
    assert 'Average episode reward: 2.0' in (run / 'video' / 'epoch-1' / 'result.txt').read_text()


def test_eval_says_how_to_mend_rendering(tmp_path, loaded, monkeypatch):
    make_run(tmp_path / 'seed-000')
    monkeypatch.setenv('MUJOCO_GL', 'osmesa')
    message = error_of(omnisafe_command('eval', tmp_path, '--width', 13))
    assert 'MUJOCO_GL=osmesa (RuntimeError: gladLoadGL error)' in message
    assert '--no-render' in message


def test_eval_refuses_a_folder_without_a_run(tmp_path, loaded):
    (tmp_path / 'something').mkdir()
    assert 'is not a run' in error_of(omnisafe_command('eval', tmp_path))
    make_run(tmp_path / 'seed-000', models=())
    assert 'has no checkpoint yet' in error_of(omnisafe_command('eval', tmp_path))


def test_eval_refuses_a_run_whose_algorithm_is_not_text(tmp_path, loaded):
    run = make_run(tmp_path / 'seed-000', algo=['QPT'])
    assert 'algo is a list' in error_of(omnisafe_command('eval', tmp_path))
    with pytest.raises(UserError, match='algo is a list'):
        omnisafe.Evaluator().load_saved(str(run), 'epoch-9.pt')
    assert not loaded


def test_errors_after_training_are_not_swallowed(monkeypatch, trained, tmp_path):
    def learn(self):
        self._init_statistical_tools()
        self.agent = types.SimpleNamespace(logger=types.SimpleNamespace(log_dir=str(tmp_path)))

    monkeypatch.setattr(AlgoWrapper, 'learn', learn)
    message = error_of(train('--evaluate'))
    assert 'FileNotFoundError' in message
    assert 'torch_save' in message
