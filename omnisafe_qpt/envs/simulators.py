# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Installed simulators, and the commands that install missing ones.

The check imports nothing and takes milliseconds; importing a simulator takes seconds and may fail.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package that a suite of simulators requires.

    Args:
        module (str): Name for the import.
        distribution (str): Name for the installation.
        version (str): The tested version, which is installed if missing.
        is_exact (bool, optional): Whether only this version works. Defaults to False.
    """

    module: str
    distribution: str
    version: str
    is_exact: bool = False

    def problem(self) -> str | None:
        """Return what is wrong with the installed package, or None."""
        if importlib.util.find_spec(self.module) is None:
            return f'{self.distribution} is not installed'
        if not self.is_exact:
            return None
        try:
            installed = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            # PyPI's `metadrive` is such a case: an unrelated package under the same module name.
            return f'{self.distribution} is not installed, another package named {self.module} is'
        if installed != self.version:
            return f'{self.distribution} {installed} is installed, not {self.version}'
        return None


# The same on Python 3.10 and 3.11, and as in requirements/metadrive.txt. The requirements of
# MetaDrive 0.2.6 conflict with OmniSafe and DSRL (gym 0.19, protobuf 3.20, a panda3d without builds
# for Python 3.11), so pip must not resolve them; its other imports are installed with OmniSafe or
# not used. The tasks of later MetaDrive releases differ from DSRL's.
METADRIVE_PACKAGES = (
    Package('metadrive', 'metadrive-simulator', '0.2.6.0', is_exact=True),
    Package('panda3d', 'panda3d', '1.10.16'),
    Package('gltf', 'panda3d-gltf', '0.13', is_exact=True),
)

_BULLET_PACKAGES = (
    Package('bullet_safety_gym', 'bullet-safety-gym', '1.4.0'),
    Package('pybullet', 'pybullet', '3.2.7'),
)

# Matching pairs of versions; see setup.py.
_SAFETY_GYMNASIUM_PACKAGES = (
    (
        Package('safety_gymnasium', 'safety-gymnasium', '0.4.0'),
        Package('mujoco', 'mujoco', '2.3.0'),
        Package('pygame', 'pygame', '2.1.0'),
        Package('xmltodict', 'xmltodict', '1.0.4'),
    )
    if sys.version_info < (3, 11)
    else (
        Package('safety_gymnasium', 'safety-gymnasium', '1.0.0'),
        Package('mujoco', 'mujoco', '2.3.3'),
        Package('gymnasium_robotics', 'gymnasium-robotics', '1.2.2'),
        Package('pygame', 'pygame', '2.6.1'),
        Package('xmltodict', 'xmltodict', '1.0.4'),
    )
)

# Keys: the suites in the table of tasks.
_SUITES = {
    'safety_gymnasium': ('Safety-Gymnasium', _SAFETY_GYMNASIUM_PACKAGES),
    'bullet_safety_gym': ('Bullet-Safety-Gym', _BULLET_PACKAGES),
    'metadrive': ('MetaDrive', METADRIVE_PACKAGES),
}


# Only MuJoCo's rendering needs it; Bullet and MetaDrive do not.
OPENGL_HELP = (
    'set MUJOCO_GL=egl, which needs EGL (apt-get install libegl1, and libgl1-mesa-dri where there '
    'is no graphics driver), or MUJOCO_GL=osmesa, which needs OSMesa (apt-get install libosmesa6)'
)


def opengl_problem(error: BaseException) -> str | None:
    """Explain an error caused by a wrong MUJOCO_GL, with which MuJoCo does not load.

    Args:
        error (BaseException): Any exception.

    Returns:
        One line, or None for another error.
    """
    backend = os.environ.get('MUJOCO_GL')
    frames = traceback.walk_tb(error.__traceback__)
    if not backend or all(Path(f.f_code.co_filename).name != 'gl_context.py' for f, _ in frames):
        return None
    return f'MuJoCo does not load with MUJOCO_GL={backend} ({error}): unset it, or {OPENGL_HELP}'


def install_command(packages: tuple[Package, ...] = METADRIVE_PACKAGES) -> str:
    """Return the command that installs only these packages."""
    pins = ' '.join(f'{package.distribution}=={package.version}' for package in packages)
    return f'pip install --no-deps {pins}'


def why_unavailable(suite: str) -> str | None:
    """Return why the simulators of a suite cannot run here.

    Args:
        suite (str): ``safety_gymnasium``, ``bullet_safety_gym`` or ``metadrive``.

    Returns:
        None if their packages are installed, else one line: the missing packages, and the command
        that installs them.
    """
    name, packages = _SUITES[suite]
    found = [(package, package.problem()) for package in packages]
    missing = tuple(package for package, problem in found if problem is not None)
    if not missing:
        return None
    if importlib.util.find_spec(packages[0].module) is None:
        reason = 'is not installed'
    else:
        reason = 'is incomplete: ' + ', '.join(problem for _, problem in found if problem)
    return f'{name} {reason}; run: {install_command(missing)}'
