# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What is said about simulators that are there, missing or of the wrong version."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.envs import simulators
from omnisafe_qpt.envs.simulators import METADRIVE_PACKAGES, install_command, why_unavailable


SUITES = ('safety_gymnasium', 'bullet_safety_gym', 'metadrive')


def hide(monkeypatch, *modules):
    """Let these modules look as if they were not installed."""
    find_spec = simulators.importlib.util.find_spec
    monkeypatch.setattr(
        simulators.importlib.util,
        'find_spec',
        lambda name: None if name in modules else find_spec(name),
    )


def everything_installed(monkeypatch, versions):
    monkeypatch.setattr(simulators.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(simulators.metadata, 'version', versions.__getitem__)


def test_every_suite_of_the_tasks_is_known():
    assert {task.suite for task in all_tasks()} == set(SUITES)


def test_the_simulators_that_are_always_installed_are_there():
    assert why_unavailable('safety_gymnasium') is None
    assert why_unavailable('bullet_safety_gym') is None


@pytest.mark.parametrize('suite', SUITES)
def test_a_missing_suite_gets_one_line_with_the_command(monkeypatch, suite):
    packages = simulators._SUITES[suite][1]
    hide(monkeypatch, *(package.module for package in packages))
    reason = why_unavailable(suite)
    assert re.fullmatch(r'[A-Za-z-]+ is not installed; run: pip install --no-deps [^\n]+', reason)
    assert reason.endswith(install_command(packages))


def test_the_command_leaves_installed_packages_alone(monkeypatch):
    everything_installed(monkeypatch, {'metadrive-simulator': '0.2.6.0', 'panda3d-gltf': '0.13'})
    hide(monkeypatch, 'panda3d')
    assert why_unavailable('metadrive') == (
        'MetaDrive is incomplete: panda3d is not installed; '
        'run: pip install --no-deps panda3d==1.10.16'
    )


def test_a_release_with_other_tasks_is_refused(monkeypatch):
    everything_installed(monkeypatch, {'metadrive-simulator': '0.4.3', 'panda3d-gltf': '0.13'})
    reason = why_unavailable('metadrive')
    assert 'metadrive-simulator 0.4.3 is installed, not 0.2.6.0' in reason
    assert reason.endswith('pip install --no-deps metadrive-simulator==0.2.6.0')


def test_the_unrelated_package_of_the_same_name_is_noticed(monkeypatch):
    everything_installed(monkeypatch, {})

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(simulators.metadata, 'version', version)
    assert 'another package named metadrive is' in why_unavailable('metadrive')


def test_asking_imports_no_simulator():
    program = (
        'import sys\n'
        'from omnisafe_qpt.envs.simulators import why_unavailable\n'
        f'for suite in {SUITES}: why_unavailable(suite)\n'
        'print(*sys.modules)\n'
    )
    ran = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    heavy = {'gymnasium', 'metadrive', 'mujoco', 'numpy', 'panda3d', 'pybullet', 'torch'}
    assert not heavy & set(ran.stdout.split())


def test_the_commands_name_versions_that_setup_allows():
    """A repair must not install what the package itself refuses."""
    bounds = {
        requirement.name: requirement
        for requirement in map(Requirement, metadata.requires('omnisafe-qpt'))
        if requirement.marker is None or requirement.marker.evaluate({'extra': ''})
    }
    packages = [package for _, suite in simulators._SUITES.values() for package in suite]
    checked = 0
    for package in packages:
        if package.distribution in bounds:
            assert package.version in bounds[package.distribution].specifier
            checked += 1
    assert checked == 2
    assert METADRIVE_PACKAGES[0].is_exact


def test_a_clone_gets_the_same_metadrive():
    list_file = Path(__file__).resolve().parents[2] / 'requirements' / 'metadrive.txt'
    lines = list_file.read_text(encoding='utf-8').splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert install_command() == f'pip install --no-deps {" ".join(pins)}'
