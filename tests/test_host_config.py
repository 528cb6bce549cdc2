# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""QPT's configuration: the shipped files, the checks, the values of a command line, the machine."""

from __future__ import annotations

import builtins
import os
import re

import pytest
import torch
import yaml

from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings import files, machine
from omnisafe_qpt.settings.checks import parse_option, parse_value, resolve_target_return, validate
from omnisafe_qpt.settings.files import (
    config_file,
    load_defaults,
    load_preset,
    merge,
    preset_names,
    read_yaml,
)
from omnisafe_qpt.settings.machine import resolve_acceleration, resolve_device, resolve_threads


DEFAULTS = {
    'seed': 0,
    'train_cfgs': {'device': 'auto', 'total_steps': 100, 'resume': None, 'dataset': 'auto'},
    'algo_cfgs': {'gamma': 0.99, 'use_cost': True, 'rule': 'paper', 'total_cost': 1.0},
    'model_cfgs': {'actor': {'hidden_sizes': [256, 256], 'scales': [0.5], 'names': []}},
    'env_cfgs': {},
}


def leaves(content, path=''):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f'{path}{key}:')
        else:
            yield f'{path}{key}', value


def looks_like_a_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- the shipped files ----------------------------------------------------------------------------


ENV_IDS = [task.env_id for task in all_tasks()]
SHIPPED = [
    name
    for algo in ALGORITHMS
    for name in (f'{algo}.yaml', *(f'{algo}-{preset}.yaml' for preset in preset_names(algo)))
]


@pytest.mark.parametrize('name', SHIPPED)
def test_every_number_in_the_shipped_files_is_one_for_pyyaml_too(name):
    """OmniSafe and others read these files with PyYAML, for which 1e-4 is text."""
    content = yaml.safe_load(config_file(name).read_text(encoding='utf-8'))
    assert content == read_yaml(config_file(name))
    for path, value in leaves(content):
        assert not (isinstance(value, str) and looks_like_a_number(value)), path


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_sections_by_environment_fit_the_defaults(algo):
    content = read_yaml(config_file(f'{algo}.yaml'))
    defaults = content.pop('defaults')
    for env_id, section in content.items():
        validate(section, defaults, env_id)


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_presets_fit_the_defaults_and_cpu_is_one(algo):
    assert 'cpu' in preset_names(algo)
    for name in preset_names(algo):
        content = read_yaml(config_file(f'{algo}-{name}.yaml'))
        assert content['algo'] == algo
        sections = [key for key in content if key in ENV_IDS]
        for env_id in (content.get('env_id', ''), *sections):
            validate(load_preset(name, algo, env_id), load_defaults(env_id, algo), name)
    # So that `omnisafe train-config` takes it.
    assert 'env_id' in read_yaml(config_file(f'{algo}-cpu.yaml'))


@pytest.mark.parametrize('algo', ALGORITHMS)
def test_algorithms_share_the_options_of_the_host(algo):
    """What the loop, the logger and the run folder read is there for each, with one default."""
    mine, theirs = load_defaults('Env-v0', algo), load_defaults('Env-v0')
    for section in ('train_cfgs', 'logger_cfgs'):
        # Only QPT is calibrated by default.
        common = (mine[section].keys() & theirs[section].keys()) - {'calibrate_episodes'}
        assert {name: mine[section][name] for name in common} == {
            name: theirs[section][name] for name in common
        }
        assert mine[section].keys() <= theirs[section].keys()
    assert {'steps_per_epoch', 'batch_size', 'cost_limit'} <= mine['algo_cfgs'].keys()


@pytest.mark.parametrize('name', SHIPPED)
def test_every_option_is_explained(name):
    """A comment stands above each; in the defaults it names where the value is from."""
    lines = config_file(name).read_text(encoding='utf-8').splitlines()
    lines = lines[lines.index('defaults:') + 1 if 'defaults:' in lines else lines.index('') :]
    comment = ''
    for line in lines:
        text = line.strip()
        if text.startswith('#'):
            comment += text
            continue
        key, _, value = text.partition(':')
        is_alias = value.strip().startswith(('&', '*'))
        if value.strip() and not is_alias and key not in ('algo', 'env_id'):
            assert comment, line
        comment = ''


def test_the_files_are_found_in_a_wheel_and_in_a_source_tree(tmp_path, monkeypatch):
    wheel, source = tmp_path / 'package' / 'configs', tmp_path / 'configs'
    monkeypatch.setattr(files, '_CONFIG_FOLDERS', (wheel, source))
    for folder in (source, wheel):
        folder.mkdir(parents=True)
        (folder / 'QPT.yaml').write_text(
            f'defaults: {{name: {folder.parent.name}, n: 1}}\nEnv-v0: {{n: 2}}\n',
        )
        assert load_defaults('Env-v0') == {'name': folder.parent.name, 'n': 2}
    assert load_defaults('Other-v0')['n'] == 1
    with pytest.raises(UserError, match=r'QPT-cpu\.yaml is missing'):
        config_file('QPT-cpu.yaml')


def test_a_preset_says_nothing_about_the_run(tmp_path):
    path = tmp_path / 'mine.yml'
    path.write_text(
        'algo: QPT\nenv_id: A-v0\nseed: 3\n'
        'train_cfgs: {dataset: sample, preset: cpu, total_steps: 5}\n',
    )
    assert load_preset(str(path)) == {'seed': 3, 'train_cfgs': {'total_steps': 5}}
    with pytest.raises(UserError, match='is for QPT, not for CDT'):
        load_preset(str(path), 'CDT')


def test_a_section_of_a_preset_holds_for_its_environment_alone(tmp_path):
    path = tmp_path / 'mine.yml'
    path.write_text(
        'train_cfgs: {total_steps: 5, evaluate_epoisodes: 2}\n'
        'SafetyBallRun-v0: {train_cfgs: {total_steps: 7, dataset: sample}}\n'
        'Other-v12:\n'
        'Not-v1: 3\n',
    )
    common = {'train_cfgs': {'total_steps': 5, 'evaluate_epoisodes': 2}, 'Not-v1': 3}
    assert load_preset(str(path)) == load_preset(str(path), 'QPT', 'Other-v12') == common
    mine = load_preset(str(path), 'QPT', 'SafetyBallRun-v0')
    assert mine == merge(common, {'train_cfgs': {'total_steps': 7}})


# What is not the algorithm: the machine, the data, the run's folder, how results are logged.
NOT_THE_ALGORITHM = {
    'seed',
    *(
        f'train_cfgs:{name}'
        for name in (
            *('device', 'torch_threads', 'dataset', 'evaluate_processes', 'resume', 'preset'),
            *('accelerate', 'data_device', 'deterministic', 'parallel', 'vector_env_nums'),
            *('action_unit', 'horizon', 'import'),
        )
    ),
    *(
        f'logger_cfgs:{name}'
        for name in ('use_wandb', 'wandb_project', 'use_tensorboard', 'save_model_freq', 'log_dir')
    ),
}


def test_the_preset_paper_leaves_nothing_of_the_algorithm_to_the_defaults():
    defaults, preset = (dict(leaves(each)) for each in (load_defaults(''), load_preset('paper')))
    assert preset.keys() == defaults.keys() - NOT_THE_ALGORITHM
    assert not NOT_THE_ALGORITHM - defaults.keys()


# Table 4, Sections 3 and 4, Appendix C.3, D.2 and D.3.
THE_PAPER = {
    'train_cfgs': {
        'total_steps': 100_000,
        'final_evaluate_episodes': 20,
        'calibrate_episodes': 0,
    },
    'algo_cfgs': {
        'batch_size': 2048,
        'cost_limit': 10.0,
        'selection_rule': 'paper',
        'candidates': 50,
        'cost_value': 'min',
        'use_augmentation': True,
        'use_reward_critic': True,
        'use_cost_critic': True,
        'use_ensemble': True,
    },
    'model_cfgs': {
        'actor': {
            'context_len': 10,
            'embed_dim': 128,
            'num_layers': 3,
            'num_heads': 8,
            'dropout': 0.1,
            'lr': 1e-4,
            'max_grad_norm': 0.25,
        },
        'critic': {'lr': 1e-4},
    },
}


@pytest.mark.parametrize('task', all_tasks(), ids=lambda task: task.name)
def test_the_preset_paper_is_the_papers_on_each_task(task):
    preset = load_preset('paper', 'QPT', task.env_id)
    assert merge(preset, THE_PAPER) == merge(
        preset,
        {'train_cfgs': {'total_steps': 100_000}},
    )
    is_metadrive = task.suite == 'metadrive'
    assert preset['train_cfgs']['total_steps'] == (200_000 if is_metadrive else 100_000)
    assert len(preset['model_cfgs']['critic']['hidden_sizes']) + 1 == 4
    for algo in ('QPT', 'CDT'):  # the defaults have the paper's sizes
        steps = load_defaults(task.env_id, algo)['train_cfgs']['total_steps']
        assert steps == preset['train_cfgs']['total_steps']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: [', 'is not valid YAML'),
        ('- a', 'must hold sections such as train_cfgs, not a list'),
        ('', 'must hold sections such as train_cfgs, not null'),
        ('a: !!python/object:os.system {}', 'is not valid YAML'),
    ],
)
def test_files_that_are_not_configurations_are_refused(text, message, tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_yaml(path)
    assert str(path) in str(raised.value)
    assert '\n' not in str(raised.value)


def test_merging_changes_neither_side():
    base, update = {'a': {'b': [1], 'c': 2}}, {'a': {'b': [3]}, 'd': {'e': 4}}
    merged = merge(base, update)
    assert merged == {'a': {'b': [3], 'c': 2}, 'd': {'e': 4}}
    merged['a']['b'].append(5)
    merged['d']['e'] = 6
    assert base == {'a': {'b': [1], 'c': 2}}
    assert update == {'a': {'b': [3]}, 'd': {'e': 4}}


# -- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'cfgs',
    [
        {},
        {'seed': 5, 'algo_cfgs': {'gamma': 1}},
        {'train_cfgs': {'device': 'cpu', 'resume': None}},
        {'train_cfgs': {'device': 3, 'resume': 'runs/x'}},
        {'model_cfgs': {'actor': {'hidden_sizes': [], 'scales': [1, 0.5], 'names': ['a', 1]}}},
        {'env_cfgs': {'anything': {'at': 'all'}}},
        DEFAULTS,
    ],
)
def test_what_fits_is_accepted(cfgs):
    validate(cfgs, DEFAULTS)


@pytest.mark.parametrize(
    ('cfgs', 'message'),
    [
        ({'sed': 1}, 'unknown option sed: did you mean seed?'),
        (
            {'algo_cfgs': {'gama': 1}},
            'unknown option algo_cfgs:gama: did you mean algo_cfgs:gamma?',
        ),
        ({'gamma': 1}, 'unknown option gamma: did you mean algo_cfgs:gamma?'),
        ({'train_cfgs': {'gamma': 1}}, 'did you mean algo_cfgs:gamma?'),
        # OmniSafe stops at the null.
        ({'train_cfgs': {'resume': None, 'total_step': 1}}, 'did you mean train_cfgs:total_steps?'),
        ({'zzz': 1}, 'unknown option zzz: the YAML files in configs/ list all'),
        ({'model_cfgs': {'actor': {'lr': {'x': 1}}}}, 'unknown option model_cfgs:actor:lr'),
        ({'seed': 0.5}, 'seed must be an integer, not 0.5'),
        ({'seed': 2.0}, 'seed must be an integer, not 2.0 (write 2)'),
        ({'seed': True}, 'seed must be an integer, not True'),
        ({'seed': None}, 'seed must be an integer, not null'),
        ({'algo_cfgs': {'gamma': '1e-4'}}, "not '1e-4' (a text; write 0.0001 without quotes)"),
        ({'algo_cfgs': {'gamma': 'high'}}, "algo_cfgs:gamma must be a number, not 'high'"),
        ({'algo_cfgs': {'gamma': {'x': 1}}}, 'algo_cfgs:gamma must be a number, not {'),
        ({'algo_cfgs': {'use_cost': 1}}, 'algo_cfgs:use_cost must be true or false, not 1'),
        ({'algo_cfgs': {'rule': 3}}, 'algo_cfgs:rule must be text, not 3'),
        ({'algo_cfgs': 3}, 'algo_cfgs must be a section of options, not 3'),
        ({'train_cfgs': {'device': [1]}}, 'train_cfgs:device must be auto, text or a number'),
        ({'model_cfgs': {'actor': {'hidden_sizes': 64}}}, 'hidden_sizes must be a list, not 64'),
        ({'model_cfgs': {'actor': {'hidden_sizes': [64, '64']}}}, "of integers, but holds '64'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(cfgs, message):
    with pytest.raises(UserError) as raised:
        validate(cfgs, DEFAULTS)
    assert message in str(raised.value)


def test_the_message_names_where_the_mistake_is():
    with pytest.raises(UserError, match=r'unknown option sed in mine\.yaml:'):
        validate({'sed': 1}, DEFAULTS, 'mine.yaml')
    with pytest.raises(UserError, match=r'seed in mine\.yaml must be an integer'):
        validate({'seed': 'x'}, DEFAULTS, 'mine.yaml')


# -- values of a command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('0.5', 0.5),
        ('1e-4', 0.0001),
        ('-1', -1),
        ('+2', 2),
        ('1E5', 100000.0),
        ('.5e-3', 0.0005),
        ('true', True),
        ('True', True),
        ('False', False),
        ('None', None),
        ('null', None),
        ('[64,64]', [64, 64]),
        ('[0.1, 1e-2]', [0.1, 0.01]),
        ('[a, b]', ['a', 'b']),
        ('cuda:0', 'cuda:0'),
        ('data/x.hdf5', 'data/x.hdf5'),
        ('a: b', 'a: b'),
        ('#hash', '#hash'),
        ('"quoted"', '"quoted"'),
        ('2024-01-01', '2024-01-01'),
        ('[1,', '[1,'),
        ('{a: 1}', '{a: 1}'),
        ('', ''),
        ('v1.2.3', 'v1.2.3'),
        ('e5', 'e5'),
    ],
)
def test_values_are_read_as_they_look(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ('key', 'text', 'expected'),
    [
        ('algo_cfgs:gamma', '1e-2', {'algo_cfgs': {'gamma': 0.01}}),
        ('algo-cfgs:use-cost', 'false', {'algo_cfgs': {'use_cost': False}}),
        ('algo_cfgs:rule', '1.5', {'algo_cfgs': {'rule': '1.5'}}),  # text stays text
        ('train_cfgs:device', '1', {'train_cfgs': {'device': 1}}),
        ('seed', '7', {'seed': 7}),
        ('env_cfgs:any:thing', '0.5', {'env_cfgs': {'any': {'thing': 0.5}}}),
    ],
)
def test_options_become_nested_dictionaries(key, text, expected):
    assert parse_option(key, text, DEFAULTS) == expected


@pytest.mark.parametrize(
    ('key', 'text', 'message'),
    [
        ('algo_cfgs:gama', '1', 'algo_cfgs:gama in --custom-cfgs: did you mean algo_cfgs:gamma?'),
        ('seed:deeper', '1', 'unknown option seed:deeper'),
        ('algo_cfgs', '1', 'algo_cfgs in --custom-cfgs must be a section'),
        ('seed', '1.5', 'seed in --custom-cfgs must be an integer, not 1.5'),
    ],
)
def test_wrong_options_are_refused(key, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_option(key, text, DEFAULTS)


# -- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('requested', 'devices', 'found'),
    [
        ('auto', 0, 'cpu'),
        ('auto', 2, 'cuda:0'),
        ('cpu', 2, 'cpu'),
        ('cuda', 1, 'cuda:0'),
        ('cuda:1', 2, 'cuda:1'),
        ('cuda', 0, None),
        ('cuda:2', 2, None),
        ('mps', 0, None),
        ('cuda:', 1, None),
        (0, 1, None),
    ],
)
def test_the_device_is_one_that_exists(requested, devices, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: devices)
    if found is None:
        with pytest.raises(UserError, match='device'):
            resolve_device(requested)
    else:
        assert resolve_device(requested) == found


def test_a_target_return_is_a_number_dsrls_or_left_open():
    for requested, found in (('auto', None), (None, None), (3, 3.0), (-1.5, -1.5), ('dsrl', 500.0)):
        assert resolve_target_return(requested, 'SafetyBallRun-v0', 10.0) == found
    for wrong in ('best', 'DSRL', '3', True, float('nan'), float('inf'), [3.0]):
        with pytest.raises(UserError, match='must be auto, dsrl or a number'):
            resolve_target_return(wrong, 'SafetyBallRun-v0', 10.0)


def test_several_processes_have_no_graph_of_their_updates():
    assert resolve_acceleration('auto', 'cuda:1', processes=1) == 'graph'
    assert resolve_acceleration('auto', 'cuda:1', processes=2) == 'none'
    assert resolve_acceleration('none', 'cuda:1', processes=2) == 'none'
    with pytest.raises(UserError, match='a single process: with 2 processes use auto'):
        resolve_acceleration('compile', 'cuda:1', processes=2)


@pytest.fixture
def system_files(monkeypatch):
    """Four processors, two to a core, of which this process may use all."""
    folder = '/sys/devices/system/cpu'
    lines = {
        f'{folder}/cpu{cpu}/topology/thread_siblings_list': f'{cpu % 2},{cpu % 2 + 2}'
        for cpu in range(4)
    }
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(machine, '_read_line', lambda path: lines.get(path, ''))
    return lines


def test_threads_are_the_physical_cores_at_hand(system_files, monkeypatch):
    assert resolve_threads('auto') == 2
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {1, 3})
    assert resolve_threads('auto') == 1
    system_files.clear()  # a system that says nothing about its cores
    assert resolve_threads('auto') == 2


def test_threads_keep_to_a_containers_quota_and_to_sixteen(system_files, monkeypatch):
    system_files['/sys/fs/cgroup/cpu.max'] = 'max 100000'
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(10, 40)))
    assert resolve_threads('auto') == 16
    system_files['/sys/fs/cgroup/cpu.max'] = '350000 100000'
    assert resolve_threads('auto') == 3
    system_files['/sys/fs/cgroup/cpu.max'] = '50000 100000'
    assert resolve_threads('auto') == 1


@pytest.mark.usefixtures('system_files')
def test_threads_follow_what_they_are_told(monkeypatch):
    assert resolve_threads(5) == 5
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    assert resolve_threads('auto') == 7
    monkeypatch.setenv('OMP_NUM_THREADS', '4,2')  # nested parallelism: no single number
    assert resolve_threads('auto') == 2
    for wrong in (0, True, 1.5, 'many'):
        with pytest.raises(UserError, match='torch_threads must be auto or a positive integer'):
            resolve_threads(wrong)


def test_configurations_are_read_without_torch(monkeypatch):
    """`omnisafe-qpt --help` and the plugin rely on it."""
    real_import = builtins.__import__

    def watch(name, *args, **kwargs):
        assert name.partition('.')[0] not in ('torch', 'omnisafe')
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', watch)
    validate(load_defaults('SafetyBallRun-v0'), load_defaults('SafetyBallRun-v0'))
