# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel, the pinned lists and the order of imports among subpackages."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import omnisafe_qpt


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'omnisafe_qpt'
INGREDIENTS = (
    *('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'),
    *('omnisafe_qpt', 'configs', 'benchmarks', 'tests', 'tools'),
)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel built offline from a copy, so that the build leaves nothing in this folder."""
    source = tmp_path_factory.mktemp('source')
    for name in INGREDIENTS:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns('__pycache__'))
        elif origin.exists():
            shutil.copy(origin, source)
    folder = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-index', '--no-deps']
    command += ['--no-build-isolation', '--wheel-dir', str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope='module')
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    return Parser().parsestr(wheel.read(name).decode())


def test_wheel_installs_one_top_level_package(wheel):
    tops = {name.partition('/')[0] for name in wheel.namelist()}
    assert tops == {'omnisafe_qpt', f'omnisafe_qpt-{omnisafe_qpt.__version__}.dist-info'}


@pytest.mark.parametrize(
    ('folder', 'pattern', 'least'),
    [
        (PACKAGE, '**/*.py', 10),
        (PACKAGE, 'data/*.csv', 1),
        (PACKAGE, 'data/sample/*', 3),
        (PACKAGE, 'report/*.html', 1),
        (ROOT, 'configs/*.yaml', 2),
    ],
)
def test_wheel_holds_every_file_unchanged(wheel, folder, pattern, least):
    files = list(folder.glob(pattern))
    assert len(files) >= least
    for file in files:
        name = f'omnisafe_qpt/{file.relative_to(folder).as_posix()}'
        assert wheel.read(name) == file.read_bytes()


def test_metadata(metadata):
    assert metadata['Name'] == 'omnisafe-qpt'
    assert metadata['Version'] == omnisafe_qpt.__version__
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['License-File'] == 'LICENSE'
    supported = SpecifierSet(metadata['Requires-Python'])
    verdicts = {version: version in supported for version in ('3.9', '3.10.0', '3.11.9', '3.12.0')}
    assert verdicts == {'3.9': False, '3.10.0': True, '3.11.9': True, '3.12.0': False}
    assert 'QPT' in metadata.get_payload(), 'the README is the long description'


def test_every_requirement_has_both_bounds(metadata):
    for requirement in map(Requirement, metadata.get_all('Requires-Dist')):
        if requirement.marker is None or 'extra' not in str(requirement.marker):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators & {'==', '~='} or operators & {'<', '<='}, requirement
            assert operators & {'==', '~=', '>='}, requirement


def test_entry_points(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/entry_points.txt'))
    assert [line for line in wheel.read(name).decode().splitlines() if line] == [
        '[console_scripts]',
        'omnisafe-qpt = omnisafe_qpt.cli:main',
        '[gymnasium.envs]',
        '__root__ = omnisafe_qpt.omnisafe_plugin.import_hooks:install',
    ]


def test_wheel_finds_its_files_from_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
    wheel.extractall(site)
    elsewhere.mkdir()
    program = (
        'from omnisafe_qpt.data import resolve, tasks\n'
        'from omnisafe_qpt.settings import files as config\n'
        'print(*(resolve.sample_file(env_id).is_file() for env_id in resolve.SAMPLE_ENV_IDS))\n'
        'print(len(tasks.all_tasks()))\n'
        'print(config.config_file("QPT.yaml"))\n'
        'print(config.load_preset("cpu")["train_cfgs"]["total_steps"] > 0)\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', program],
        cwd=elsewhere,
        env={**os.environ, 'PYTHONPATH': str(site)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        'True True',
        '38',
        str(site / 'omnisafe_qpt' / 'configs' / 'QPT.yaml'),
        'True',
    ]


def _read_pins(name):
    text = (ROOT / 'requirements' / name).read_text(encoding='utf-8')
    return dict(re.findall(r'^([a-z0-9-]+)==(\S+)$', text, flags=re.MULTILINE))


@pytest.mark.parametrize('python', ['3.10', '3.11'])
def test_pinned_lists_fit_the_requirements(metadata, python):
    tag = f'py{python.replace(".", "")}'
    pins = _read_pins(f'{tag}.txt') | _read_pins(f'{tag}-torch.txt')
    checked = 0
    for requirement in map(Requirement, metadata.get_all('Requires-Dist')):
        environments = [{'python_version': python, 'extra': extra} for extra in ('dev', 'export')]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            assert pins[requirement.name] in requirement.specifier, 'run `make lock`'
            checked += 1
    assert checked >= 10


def _load_setup_tool():
    spec = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_set_up_hands_the_settings_of_pip_to_uv():
    tool = _load_setup_tool()
    listing = (
        ":env:.find-links='/wheels /more'\n"
        "global.find-links='/ignored'\n"
        "global.extra-index-url='\\nhttps://one\\nhttps://two'\n"
        "install.index-url='https://main'\n"
        "global.index-url='https://ignored'\n"
        "freeze.timeout='10'\n"
    )
    variables = tool.uv_variables(tool.parse_pip_settings(listing))
    assert variables['UV_FIND_LINKS'] == '/wheels,/more'
    assert variables['UV_INDEX'] == 'https://one https://two'
    assert variables['UV_DEFAULT_INDEX'] == 'https://main'
    assert 'UV_HTTP_TIMEOUT' not in variables
    assert variables['UV_NO_CONFIG'] == '1', 'pyproject.toml would override the pinned lists'


@pytest.mark.parametrize(
    ('machine', 'build', 'offered', 'expected'),
    [
        ('Linux', 'cpu', ['own'], ['torch==9.9+cpu']),
        ('Linux', 'cpu', ['pytorch'], ['torch==9.9+cpu', '--extra-index-url', 'INDEX']),
        ('Linux', 'cpu', [], ['--requirement', 'LIST', 'torch===9.9']),
        ('Linux', 'cuda', ['own'], ['--requirement', 'LIST', 'torch===9.9']),
        ('Darwin', 'cpu', ['own'], ['torch===9.9']),
    ],
)
def test_set_up_takes_the_right_build_of_torch(
    monkeypatch,
    machine,
    build,
    offered,
    expected,
):
    tool = _load_setup_tool()
    environment = tool.Environment(build)

    def offers(*arguments):
        return ('pytorch' if tool.CPU_INDEX in arguments else 'own') in offered

    monkeypatch.setattr(tool.platform, 'system', lambda: machine)
    monkeypatch.setattr(tool, 'read_pins', lambda _: {'torch': '9.9'})
    monkeypatch.setattr(environment, '_offers', offers)
    words = {'INDEX': tool.CPU_INDEX, 'LIST': str(environment._torch_packages)}
    assert environment._find_torch() == [words.get(word, word) for word in expected]


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
def test_make_says_when_no_python_fits(tmp_path):
    command = ['make', '--directory', str(ROOT), 'setup', f'PYTHON={tmp_path}/no such python']
    # These tests may themselves run under make, whose flags are not meant for this one.
    environment = {key: value for key, value in os.environ.items() if key != 'MAKEFLAGS'}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode != 0
    assert f'found no Python 3.10 or 3.11 (tried: {tmp_path}/no such python)' in ran.stderr
    assert 'make setup PYTHON=' in ran.stderr


def _imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module
            if node.level:
                # Users copy runner/ to machines without the package, so it names no package.
                assert (node.level, file.parent) == (1, PACKAGE / 'runner'), f'{file}: relative'
                module = f'omnisafe_qpt.runner.{module}'
            yield from (f'{module}.{alias.name}' for alias in node.names)


# From the bottom up: each may import what stands before it.
LEVELS = (
    ('algorithms', 'errors', 'progress', 'schema', 'scores', 'signals', 'version'),
    ('runner', 'workers'),
    ('data',),
    ('compat', 'plots'),
    ('qpt',),
    ('baselines',),
    ('settings',),
    ('runs',),
    ('envs',),
    ('evaluation',),
    ('training',),
    ('export', 'omnisafe_plugin'),
    ('collect',),
    ('report',),
    ('cli',),
)
MODULES = {
    '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): file
    for file in PACKAGE.glob('**/*.py')
}


def _own_imports(module):
    """The package's modules that a module imports, at its top or later."""
    for name in _imported_modules(MODULES[module]):
        while name and name not in MODULES:
            name = name.rpartition('.')[0]
        if name not in ('', 'omnisafe_qpt', module):
            yield name


def test_imports_run_downward():
    levels = {name: level for level, names in enumerate(LEVELS) for name in names}
    for module in MODULES.keys() - {'omnisafe_qpt'}:
        for imported in _own_imports(module):
            above, below = (levels[name.split('.')[1]] for name in (module, imported))
            assert above >= below, f'{module} imports {imported}'


def test_no_modules_import_each_other_in_a_circle():
    remaining = {module: set(_own_imports(module)) for module in MODULES}
    while remaining:
        ready = {module for module, imports in remaining.items() if not imports & remaining.keys()}
        assert ready, f'circular: {sorted(remaining)}'
        remaining = {key: value for key, value in remaining.items() if key not in ready}


def test_the_runner_works_without_the_package_around_it():
    files = list((PACKAGE / 'runner').glob('*.py'))
    assert len(files) > 1
    for file in files:
        source = file.read_text(encoding='utf-8')
        assert not re.search(r'^\s*(from|import) omnisafe_qpt', source, re.MULTILINE), file


@pytest.mark.parametrize(
    ('folder', 'allowed'),
    [
        ('qpt', {'numpy', 'torch'}),
        ('baselines', {'numpy', 'torch'}),
        ('training/cuda_graph.py', {'numpy', 'torch'}),
        ('data', {'filelock', 'h5py', 'huggingface_hub', 'numpy', 'pandas', 'rich', 'torch'}),
        ('runner', {'numpy', 'onnxruntime'}),
        ('training', {'numpy', 'rich', 'torch'}),
    ],
)
def test_the_learning_core_needs_little(folder, allowed):
    path = PACKAGE / folder
    for file in [path] if path.is_file() else path.glob('**/*.py'):
        for module in _imported_modules(file):
            top = module.partition('.')[0]
            known = top == 'omnisafe_qpt' or top in sys.stdlib_module_names
            assert known or top in allowed, f'{file} imports {module}'


def test_the_learner_and_its_benchmarks_import_with_torch_and_numpy_alone():
    """Modules that they import in turn need no more either: a GPU machine may have nothing else."""
    code = """
import sys
allowed = {'torch', 'numpy', 'omnisafe_qpt', 'benchmarks'}
import torch, numpy
known = {name.partition('.')[0] for name in sys.modules} | allowed | sys.stdlib_module_names
class Others:
    def find_spec(self, name, *rest):
        if name.partition('.')[0] not in known:
            raise ImportError(name + ' is absent')
sys.meta_path.insert(0, Others())
import benchmarks.device_check, benchmarks.throughput, omnisafe_qpt.training.cuda_graph
import omnisafe_qpt.evaluation.off_policy.estimate
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
