# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Set up the development environment: what ``make setup`` runs, with Python's own library only.

The versions come from the pinned lists in ``requirements/``, which are complete, so that nothing is
resolved here: the simulators ask for versions that Python 3.11 cannot have, and no resolver would
accept the ones that work. uv installs them, four times faster than pip; where uv is not to be had
or fails, pip does.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 10), (3, 11))
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'

# uv reads none of pip's files, and has its own names for pip's settings.
PIP_TO_UV = {
    'index-url': 'UV_DEFAULT_INDEX',
    'extra-index-url': 'UV_INDEX',
    'find-links': 'UV_FIND_LINKS',
    'no-index': 'UV_NO_INDEX',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
    'proxy': 'ALL_PROXY',
    'timeout': 'UV_HTTP_TIMEOUT',
    'default-timeout': 'UV_HTTP_TIMEOUT',
}


class SetupError(Exception):
    """A reason why the environment cannot be set up, in words for the user."""


def say(message: str) -> None:
    """Print at once, so that the lines of the installers come after it."""
    print(f'[setup] {message}', flush=True)


def read_pins(path: Path) -> dict[str, str]:
    """Map each package of a pinned list to its version."""
    text = path.read_text(encoding='utf-8')
    return dict(re.findall(r'^([A-Za-z0-9._-]+)==(\S+)', text, flags=re.MULTILINE))


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a driver."""
    if any(Path('/dev').glob('nvidia[0-9]*')):
        return True
    command = shutil.which('nvidia-smi')
    if command is None:
        return False
    listing = subprocess.run([command, '--list-gpus'], capture_output=True, text=True)
    return listing.returncode == 0 and 'GPU' in listing.stdout


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Read the output of ``pip config list``, where the environment wins over files.

    Args:
        listing (str): Lines such as ``global.find-links='/wheels'``.

    Returns:
        The settings that hold for ``pip install``, by pip's names for them.
    """
    settings: dict[str, str] = {}
    for section in ('global', 'install', ':env:'):
        for key, value in re.findall(rf'^{section}\.([a-z-]+)=(.+)$', listing, flags=re.MULTILINE):
            settings[key] = str(ast.literal_eval(value))
    return settings


def uv_variables(pip_settings: dict[str, str]) -> dict[str, str]:
    """Translate pip's settings into uv's environment variables."""
    variables = {
        'UV_PYTHON_DOWNLOADS': 'never',
        # The overrides in pyproject.toml would replace the exact versions of the lists too.
        'UV_NO_CONFIG': '1',
        # pip takes the best match over all indexes, and the user configured them for pip.
        'UV_INDEX_STRATEGY': 'unsafe-best-match',
    }
    for key, value in pip_settings.items():
        if key in PIP_TO_UV and value:
            separator = ',' if key == 'find-links' else ' '
            variables[PIP_TO_UV[key]] = separator.join(value.split())
    return variables


class Environment:
    """The virtual environment of this repository.

    Args:
        torch (str): The build of torch: ``cpu``, ``cuda`` or ``auto``, which follows the machine.
    """

    def __init__(self, torch: str) -> None:
        self._folder = ROOT / '.venv'
        self._python = str(self._folder / 'bin' / 'python')
        self._pip = [self._python, '-m', 'pip', 'install', '--disable-pip-version-check']
        self._record_file = self._folder / 'setup.json'
        self._record = self._read_record()
        tag = f'py{sys.version_info.major}{sys.version_info.minor}'
        self._packages = ROOT / 'requirements' / f'{tag}.txt'
        self._torch_packages = ROOT / 'requirements' / f'{tag}-torch.txt'
        self._metadrive_packages = ROOT / 'requirements' / 'metadrive.txt'
        self._torch = self._choose_torch(torch)
        self._installer = self._pip
        self._variables = dict(os.environ)

    def is_ready(self) -> bool:
        """Return whether an earlier run was completed here with the same files."""
        return self._record == self._describe()

    def build(self) -> None:
        """Create the environment, or bring an earlier one up to date."""
        started = time.monotonic()
        self._record_file.unlink(missing_ok=True)
        self._create()
        self._choose_installer()
        torch = self._find_torch()
        say('Installing the pinned packages')
        lists = ['--requirement', str(self._packages)]
        lists += ['--requirement', str(self._metadrive_packages)]
        self._install(*lists, *torch)
        say('Installing omnisafe-qpt itself, as a link to this folder')
        self._install('--editable', str(ROOT))
        if self._torch == 'cuda':
            self._check_gpu()
        self._record_file.write_text(json.dumps(self._describe(), indent=2), encoding='utf-8')
        say(f'Ready after {time.monotonic() - started:.0f} s')

    def _read_record(self) -> dict[str, str]:
        try:
            return json.loads(self._record_file.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}

    def _describe(self) -> dict[str, str]:
        """Return what the environment depends on."""
        sources = [
            ROOT / 'setup.py',
            ROOT / 'omnisafe_qpt' / 'version.py',
            Path(__file__),
            self._packages,
            self._torch_packages,
            self._metadrive_packages,
        ]
        digest = hashlib.sha256(b''.join(path.read_bytes() for path in sources))
        return {
            # The scripts in an environment name its folder: once moved, it has to be made anew.
            'folder': str(self._folder),
            'python': platform.python_version(),
            'torch': self._torch,
            'sources': digest.hexdigest(),
        }

    def _choose_torch(self, wanted: str) -> str:
        if wanted != 'auto':
            return wanted
        # The CUDA build works without a GPU too: a cluster's login node must not take it away.
        if has_nvidia_gpu() or self._record.get('torch') == 'cuda':
            return 'cuda'
        return 'cpu'

    def _create(self) -> None:
        """Make the virtual environment, unless a finished one of this Python is in this place."""
        now = self._describe()
        if all(self._record.get(key) == now[key] for key in ('folder', 'python')):
            return
        say(f'Creating .venv with Python {platform.python_version()}')
        # Called by an environment's Python, the one that this was made from has to do it.
        python = getattr(sys, '_base_executable', sys.executable)
        if not self._run([python, '-m', 'venv', '--clear', str(self._folder)]):
            raise SetupError(
                f'{python} cannot make a virtual environment (see above). On Debian and Ubuntu: '
                f'apt install python{sys.version_info.major}.{sys.version_info.minor}-venv',
            )

    def _choose_installer(self) -> None:
        """Get uv, or a pip new enough where there is no uv, and what building packages needs."""
        command = [self._python, '-m', 'pip', 'config', 'list']
        listing = subprocess.run(command, capture_output=True, text=True).stdout
        self._variables = {**uv_variables(parse_pip_settings(listing)), **os.environ}
        pins = read_pins(self._packages)
        say('Fetching uv, which installs the rest')
        if self._run([*self._pip, '--quiet', '--no-deps', f'uv=={pins["uv"]}']):
            uv = str(self._folder / 'bin' / 'uv')
            self._installer = [uv, 'pip', 'install', '--python', self._python]
        elif self._run([*self._pip, '--quiet', f'pip=={pins["pip"]}']):
            say('There is no uv here: pip does it, which is slower')
        else:
            raise SetupError('pip cannot install anything (see above). Is its index in reach?')
        # What comes as source is built with the pinned setuptools, not with the newest one.
        self._install(f'setuptools=={pins["setuptools"]}')

    def _find_torch(self) -> list[str]:
        """Return the arguments that install the wanted build of torch."""
        version = read_pins(self._torch_packages)['torch']
        cpu_build = f'torch=={version}+cpu'
        if self._torch == 'cpu' and platform.system() == 'Linux':
            for index in ([], ['--extra-index-url', CPU_INDEX]):
                if self._offers(cpu_build, *index):
                    return [cpu_build, *index]
            say('No CPU build of torch is on offer: the CUDA build (several GB) works too')
        # With === a CPU build in the same place is not taken for a newer version.
        exact = f'torch==={version}'
        if platform.system() == 'Linux':
            return ['--requirement', str(self._torch_packages), exact]
        return [exact]

    def _offers(self, *arguments: str) -> bool:
        """Return whether a package is available, with a short timeout."""
        impatient = {
            'UV_HTTP_TIMEOUT': '10',
            'UV_HTTP_RETRIES': '0',
            'PIP_DEFAULT_TIMEOUT': '10',
            'PIP_RETRIES': '0',
        }
        command = [*self._installer, '--no-deps', '--dry-run', *arguments]
        environment = {**self._variables, **impatient}
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    def _install(self, *arguments: str) -> None:
        options = ['--no-deps', '--no-build-isolation']
        if self._run([*self._installer, *options, *arguments]):
            return
        if self._installer != self._pip:
            say('uv failed (see above): trying again with pip, which is slower')
            self._installer = self._pip
            if self._run([*self._installer, *options, *arguments]):
                return
        raise SetupError('the packages could not be installed (see above).')

    def _run(self, command: list[str]) -> bool:
        finished = subprocess.run(command, env=self._variables, stdin=subprocess.DEVNULL)
        return finished.returncode == 0

    def _check_gpu(self) -> None:
        command = [self._python, '-c', 'import torch; assert torch.cuda.is_available()']
        if subprocess.run(command, capture_output=True).returncode != 0:
            say('Warning: torch sees no GPU. Its CUDA build may need a newer NVIDIA driver.')


def main() -> int:
    """Set up the environment and return the exit status."""
    parser = argparse.ArgumentParser(description='Set up the development environment.')
    parser.add_argument('--torch', choices=['auto', 'cpu', 'cuda'], default='auto')
    arguments = parser.parse_args()
    if sys.version_info[:2] not in SUPPORTED:
        found = platform.python_version()
        print(f'error: Python 3.10 or 3.11 is needed, and this is {found}.', file=sys.stderr)
        return 1
    environment = Environment(arguments.torch)
    try:
        if not environment.is_ready():
            environment.build()
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped before the end; run make setup again.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
