# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of ``omnisafe-qpt doctor``, each in its own process.

A simulator that crashes ends its process, and one that hangs must be stopped from outside. So a
check is a function in this module that runs in a new process and writes its result to a file. No
result means that the process failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from omnisafe_qpt.envs.simulators import OPENGL_HELP, opengl_problem, why_unavailable
from omnisafe_qpt.errors import UserError


OK, MISSING, FAILED = 'ok', 'missing', 'FAILED'

_PACKAGES = (
    *('omnisafe-qpt', 'omnisafe', 'torch', 'numpy', 'h5py', 'dsrl', 'gymnasium'),
    *('safety-gymnasium', 'mujoco', 'bullet-safety-gym', 'pybullet'),
    *('metadrive-simulator', 'panda3d'),
)

# Return and cost of an episode with MetaDrive's own driver (IDM), by task and seed of the traffic;
# equal on Python 3.10 and 3.11. Other processors may round differently, which changes the traffic:
# over seeds the returns of the first two tasks vary by 3 %.
IDM_EPISODES = {
    'easysparse': (0, 425.06, 94.60),
    'mediummean': (0, 259.11, 54.14),
    'hardmean': (1, 305.29, 65.99),
}
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Answer:
    """Result of a check.

    Args:
        state (str): ``ok``, ``missing`` (not installed) or ``FAILED``.
        detail (str): Details in one line.
        fix (str, optional): How to fix it, in one line. Defaults to ``''``.
        seconds (float, optional): Duration. Defaults to 0.0.
    """

    state: str
    detail: str
    fix: str = ''
    seconds: float = 0.0


def versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages; empty for missing ones."""
    found = {'python': '.'.join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ''
    return found


# -- the checks -----------------------------------------------------------------------------------


def _check_omnisafe() -> Answer:
    """Check that QPT is registered with OmniSafe, through gymnasium's entry points."""
    from omnisafe import algorithms

    from omnisafe_qpt.algorithms import ALGORITHMS
    from omnisafe_qpt.compat import KNOWN_VERSIONS
    from omnisafe_qpt.omnisafe_plugin.import_hooks import require_available

    require_available()
    version = metadata.version('omnisafe')
    if version not in KNOWN_VERSIONS:
        known = KNOWN_VERSIONS[-1]
        fix = f'pip install omnisafe=={known}'
        return Answer(FAILED, f'OmniSafe {version} is installed, not {known}', fix)
    if not ALGORITHMS.keys() <= set(algorithms.ALGORITHMS['offline']):
        # The entry point belongs to the installed package, not to its source.
        return Answer(FAILED, 'OmniSafe does not know QPT', 'install omnisafe-qpt again')
    return Answer(OK, f'OmniSafe {version} knows {", ".join(ALGORITHMS)}')


def _check_device() -> Answer:
    import torch

    from omnisafe_qpt.settings.machine import usable_cores

    cores = f'{usable_cores()} CPU cores, {torch.get_num_threads()} threads by default'
    if not torch.cuda.is_available():
        if any(Path('/dev').glob('nvidia[0-9]*')):
            kind = 'CPU' if torch.version.cuda is None else f'CUDA {torch.version.cuda}'
            fix = 'install the CUDA build of torch' if kind == 'CPU' else 'update the GPU driver'
            return Answer(FAILED, f'torch ({kind} build) does not see the GPU; {cores}', fix)
        return Answer(OK, f'no GPU; {cores}')
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        torch.ones(8, 8, device=f'cuda:{index}').matmul(torch.ones(8, 8, device=f'cuda:{index}'))
        torch.cuda.synchronize(index)
        memory = properties.total_memory / 2**30
        devices.append(f'cuda:{index} {properties.name}, {memory:.0f} GiB')
    return Answer(OK, '; '.join([*devices, cores]))


def _check_simulator(suite: str, env_id: str, steps: int = 20) -> Answer:
    """Build a task and run it for some steps."""
    import torch

    from omnisafe_qpt.envs.environments import horizon_of, make_env

    reason = why_unavailable(suite)
    if reason is not None:
        return _not_installed(reason)
    env = make_env(env_id)
    env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(steps):
        obs, *_ = env.step(torch.zeros(env.action_space.shape))
    rate = steps / (time.perf_counter() - started)
    if not torch.isfinite(obs).all():
        return Answer(FAILED, f'{env_id}: observations are not finite')
    return Answer(OK, f'{env_id}: horizon {horizon_of(env)}, {rate:.0f} steps/s')


def _check_rendering() -> Answer:
    """Render a MuJoCo task; the Bullet and MetaDrive tasks need no graphics system."""
    reason = why_unavailable('safety_gymnasium')
    if reason is not None:
        return _not_installed(reason)
    from omnisafe_qpt.evaluation.video import ffmpeg_program, find_graphics

    # Training and evaluation need no rendering, so a failure counts as missing.
    try:
        graphics = find_graphics('SafetyHopperVelocity-v1')
    except UserError as error:
        detail = str(error).removesuffix(f': {OPENGL_HELP}')
        return Answer(MISSING, detail, f'{OPENGL_HELP}; only for rendering MuJoCo')
    try:
        ffmpeg_program()
    except UserError as error:
        return Answer(MISSING, 'images, but no clips', str(error))
    if not graphics:
        return Answer(OK, f'images with MUJOCO_GL={os.environ.get("MUJOCO_GL", "unset")}; clips')
    backend = graphics['MUJOCO_GL']
    return Answer(
        OK,
        f'images with MUJOCO_GL={backend}, which evaluate --video sets itself; clips',
        f'export MUJOCO_GL={backend}, for omnisafe eval and your own programs that render',
    )


def _check_cache() -> Answer:
    """Check that datasets can be downloaded to their folder."""
    from omnisafe_qpt.data.resolve import cache_folder

    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free / 1e9
    except OSError as error:
        reason = f'{folder} cannot be written ({error.strerror})'
        return Answer(FAILED, reason, 'export DSRL_DATASET_DIR=/a/folder/of/yours')
    return Answer(OK, f'{folder}: {free:.0f} GB free')


def _check_metadrive(task: str) -> Answer:
    """Run an episode with MetaDrive's own driver and compare return and cost with a reference."""
    reason = why_unavailable('metadrive')
    if reason is not None:
        return _not_installed(reason)
    import numpy as np

    from omnisafe_qpt.envs.metadrive_process import Simulator, prepare_imports

    prepare_imports()
    simulator = Simulator(task, driver='idm')
    seed, *expected = IDM_EPISODES[task]
    simulator.reset(seed)
    sums, steps, ended = np.zeros(2), 0, False
    started = time.perf_counter()
    while not ended and steps < 1000:
        _, reward, cost, ended, _ = simulator.step(np.zeros(2))
        sums += reward, cost
        steps += 1
    rate = steps / (time.perf_counter() - started)
    detail = f'{task}, IDM: return {sums[0]:.1f}, cost {sums[1]:.1f}, {rate:.0f} steps/s'
    if not np.allclose(sums, expected, rtol=_TOLERANCE):
        wanted = f'{detail}; expected {expected[0]:.1f} and {expected[1]:.1f}, each ± 5 %'
        return Answer(FAILED, wanted, 'tell the authors, with your processor and these versions')
    return Answer(OK, detail)


def _not_installed(reason: str) -> Answer:
    detail, _, command = reason.partition('; run: ')
    return Answer(MISSING, detail, command)


# In the order of execution.
CHECKS: dict[str, Callable[[], Answer]] = {
    'omnisafe': _check_omnisafe,
    'device': _check_device,
    'cache': _check_cache,
    'safety-gymnasium': lambda: _check_simulator('safety_gymnasium', 'SafetyCarButton1-v0'),
    'bullet': lambda: _check_simulator('bullet_safety_gym', 'SafetyBallRun-v0'),
    'rendering': _check_rendering,
    'metadrive-easy': lambda: _check_metadrive('easysparse'),
    'metadrive-medium': lambda: _check_metadrive('mediummean'),
    'metadrive-hard': lambda: _check_metadrive('hardmean'),
}


# -- processes ------------------------------------------------------------------------------------


def run_check(name: str, timeout: float) -> Answer:
    """Run a check in a new process.

    Args:
        name (str): One of :data:`CHECKS`.
        timeout (float): Time limit in seconds.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, 'answer.json'), Path(folder, 'log')
        with log.open('wb') as output:
            process = subprocess.Popen(
                [sys.executable, '-m', 'omnisafe_qpt.cli.doctor_checks', name, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            answer = Answer(
                FAILED, f'no answer within {timeout:g} s', 'omnisafe-qpt doctor --timeout S'
            )
        else:
            answer = _read_answer(file) or _without_answer(status, log)
        finally:
            # Ends its child processes too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return replace(answer, seconds=round(time.monotonic() - started, 2))


def _read_answer(file: Path) -> Answer | None:
    return Answer(**json.loads(file.read_text(encoding='utf-8'))) if file.exists() else None


def _without_answer(status: int, log: Path) -> Answer:
    end = f'crashed with {signal.Signals(-status).name}' if status < 0 else f'ended with {status}'
    lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines()
    return Answer(FAILED, f'{end}: {lines[-1]}' if lines else end)


def _make_check(name: str, file: Path) -> None:
    """Run a check in this process and write its result."""
    try:
        answer = CHECKS[name]()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        message = ' '.join(str(error).split())
        is_users = isinstance(error, UserError)
        described = message if is_users else f'{type(error).__name__}: {message}'
        answer = Answer(FAILED, opengl_problem(error) or described)
    file.write_text(json.dumps(vars(answer)), encoding='utf-8')


if __name__ == '__main__':
    _make_check(sys.argv[1], Path(sys.argv[2]))
    os._exit(0)  # the result counts, not a crash of the simulator at exit
