# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Setup script: what the package holds and needs. The tools' settings are in pyproject.toml."""

from __future__ import annotations

import pathlib
import re

from setuptools import find_packages, setup


HERE = pathlib.Path(__file__).absolute().parent

INSTALL_REQUIRES = [
    # The one release whose internals `omnisafe_qpt.compat` knows. It pins pandas 2.0.3.
    'omnisafe==0.5.0',
    'torch>=2.4,<3',
    # pandas 2.0.3 is built against numpy 1 and does not import with numpy 2.
    'numpy>=1.25,<2',
    'gymnasium~=0.28.1',
    'safety-gymnasium>=0.4,<=1.0.0; python_version < "3.11"',
    # 0.4 needs mujoco 2.3.0, which has no build for Python 3.11, and 1.0 behaves alike. dsrl asks
    # for 0.4 all the same, so pip reports a conflict there: `make setup` is the way round it.
    'safety-gymnasium==1.0.0; python_version >= "3.11"',
    'bullet-safety-gym==1.4.0',
    'dsrl==0.1.0',
    # Gymnasium brings it. From 0.0.6 on it has a notice about environments of gymnasium-robotics
    # that nothing here uses, printed in every process before any code of this package can run.
    'farama-notifications>=0.0.4,<0.0.6',
    'filelock>=3.12,<5',
    'h5py>=3.15,<4',
    # Downloads DSRL's datasets. Earlier versions give up more broken connections.
    'huggingface-hub>=1.33,<3',
    # OmniSafe's moviepy brings both: the writer of clips, and its ffmpeg program.
    'imageio>=2.31,<3',
    'imageio-ffmpeg>=0.4.9,<1',
    # Torch brings it; reports are filled into its templates.
    'jinja2>=3.1,<4',
    'matplotlib>=3.8,<4',
    # OmniSafe's moviepy asks for less than 12; fonts of any size are new in 10.1.
    'pillow>=10.1,<12',
    'pyyaml>=6.0,<7',
    'rich>=13.0,<16',
    'typer>=0.16,<1',
]

EXTRAS_REQUIRE = {
    'export': [
        'onnx>=1.17,<2',
        'onnxruntime>=1.20,<2',
        'onnxscript>=0.5,<1',
        # Earlier exporters do not take dynamic shapes this way.
        'torch>=2.7,<3',
    ],
    'ray': [
        # Side-by-side benchmarks on a cluster; the plain package is enough.
        'ray>=2.9,<3',
    ],
    'docs': [
        'furo>=2024.8,<2027',
        'myst-parser>=4,<5',
        'sphinx>=8,<9',
    ],
    'dev': [
        'build>=1.0',
        'mypy>=1.18',
        'pip>=23.0',
        'pytest>=8.0',
        'pytest-cov>=5.0',
        'pytest-timeout>=2.3',
        'pytest-xdist>=3.6',
        'ruff>=0.6',
        'setuptools>=77.0',
        'types-pyyaml>=6.0',
        'uv>=0.5',
    ],
}


def read_version() -> str:
    """Read the version without importing the package, whose dependencies may be absent."""
    source = (HERE / 'omnisafe_qpt' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'$", source, flags=re.MULTILINE).group(1)


def read_long_description() -> str:
    """Read the README, which a source tree cut down to the package may lack."""
    readme = HERE / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


setup(
    name='omnisafe-qpt',
    version=read_version(),
    description='Q-learning Penalized Transformer (QPT) for safe offline RL, an OmniSafe plugin',
    long_description=read_long_description(),
    long_description_content_type='text/markdown',
    author='The omnisafe-qpt Authors',
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    keywords=[
        'Safe Reinforcement Learning',
        'Offline Reinforcement Learning',
        'OmniSafe',
        'PyTorch',
    ],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: MacOS',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Software Development :: Libraries :: Python Modules',
    ],
    python_requires='>=3.10,<3.12',
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    packages=[*find_packages(include=['omnisafe_qpt', 'omnisafe_qpt.*']), 'omnisafe_qpt.configs'],
    package_dir={'omnisafe_qpt.configs': 'configs'},
    package_data={
        'omnisafe_qpt.configs': ['*.yaml'],
        'omnisafe_qpt.data': ['*.csv', 'sample/*'],
        'omnisafe_qpt.report': ['*.html'],
    },
    # MANIFEST.in is for the source distribution alone: the wheel holds what is listed here.
    include_package_data=False,
    entry_points={
        'console_scripts': ['omnisafe-qpt = omnisafe_qpt.cli:main'],
        # Gymnasium calls this function at the end of its import, in every process, and OmniSafe
        # imports Gymnasium before its offline algorithms: so QPT is there without being imported.
        'gymnasium.envs': ['__root__ = omnisafe_qpt.omnisafe_plugin.import_hooks:install'],
    },
    zip_safe=False,
)
