# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped configuration files: complete, explained, found, and read."""

from __future__ import annotations

import builtins

import pytest
import yaml

from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings import files
from omnisafe_qpt.settings.checks import validate
from omnisafe_qpt.settings.files import (
    config_file,
    load_defaults,
    load_preset,
    merge,
    preset_names,
    read_yaml,
)


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
            *('action_unit', 'exogenous', 'horizon', 'import', 'init_from', 'init_units'),
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


def test_configurations_are_read_without_torch(monkeypatch):
    """`omnisafe-qpt --help` and the plugin rely on it."""
    real_import = builtins.__import__

    def watch(name, *args, **kwargs):
        assert name.partition('.')[0] not in ('torch', 'omnisafe')
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', watch)
    validate(load_defaults('SafetyBallRun-v0'), load_defaults('SafetyBallRun-v0'))
