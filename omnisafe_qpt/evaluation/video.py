# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""Video clips of evaluated episodes.

Clips are made after the evaluation, by a replay of an episode's actions. Each clip has its own
process, because OpenGL may crash it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omnisafe_qpt.data.atomic import write_errors
from omnisafe_qpt.envs.bullet import BULLET_HORIZONS
from omnisafe_qpt.envs.drawn import DrawnEnvironment
from omnisafe_qpt.envs.metadrive import METADRIVE_TASKS
from omnisafe_qpt.envs.simulators import OPENGL_HELP
from omnisafe_qpt.envs.user_modules import require_environment_of
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.settings.machine import usable_cores
from omnisafe_qpt.workers import Partial, Worker, WorkerDied


# Environment variables for rendering.
Graphics = dict[str, str]

SIZE = (480, 360)
# A clip runs in real time. With more simulator steps per second, some are skipped.
_MOST_PICTURES_PER_SECOND = 30
# All browsers play this, even before the download is complete. Any frame size is allowed.
_ENCODING: dict[str, Any] = {
    'format': 'FFMPEG',
    'codec': 'libx264',
    'pixelformat': 'yuv420p',
    'macro_block_size': 1,
    'ffmpeg_log_level': 'error',
    'output_params': ['-preset', 'veryfast', '-crf', '20', '-movflags', '+faststart'],
}

# MuJoCo's rendering backends, the best first. GLFW needs a display.
_MUJOCO_BACKENDS = ('egl', 'osmesa', 'glfw')
_SECONDS_FOR_A_PICTURE = 120.0


# -- before an evaluation -------------------------------------------------------------------------


def check_video(folder: Path, run: str | os.PathLike[str]) -> Graphics:
    """Check before an evaluation that clips can be made.

    Args:
        folder (Path): Folder of the clips; created if absent.
        run (str or os.PathLike): One of the runs or checkpoints; all are for one task.

    Returns:
        The argument ``graphics`` of :func:`write_clips`.

    Raises:
        UserError: If the folder cannot be written, there is no ffmpeg or rendering fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'--video {folder}: the folder cannot be created ({error.strerror})'
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f'--video {folder}: the folder is not writable')
    ffmpeg_program()
    networks, _ = load_networks(run)
    require_environment_of(networks.spec)
    return find_graphics(networks.spec['env_id'])


def find_graphics(env_id: str) -> Graphics:
    """Find a rendering backend for a task, by rendering a frame in a separate process.

    Args:
        env_id (str): OmniSafe's environment id.

    Returns:
        The environment variables to set: none, or ``MUJOCO_GL``, which is chosen here unless it is
        set.

    Raises:
        UserError: If no backend works, with the backends tried and what to install or set.
    """
    reasons = []
    for graphics in _choices(env_id):
        reason = _why_not(env_id, graphics)
        if reason is None:
            return graphics
        tried = graphics.get('MUJOCO_GL', os.environ.get('MUJOCO_GL'))
        reasons.append(f'MUJOCO_GL={tried}: {reason}' if tried else reason)
    found = '; '.join(reasons)
    if not _needs_opengl(env_id):
        raise UserError(f'{env_id} cannot be rendered here ({found})')
    raise UserError(f'{env_id} cannot be rendered here (tried {found}): {OPENGL_HELP}')


def _needs_opengl(env_id: str) -> bool:
    return env_id not in BULLET_HORIZONS and env_id not in METADRIVE_TASKS


def _choices(env_id: str) -> list[Graphics]:
    if os.environ.get('MUJOCO_GL') or sys.platform != 'linux' or not _needs_opengl(env_id):
        return [{}]
    has_display = os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    return [
        {'MUJOCO_GL': backend} for backend in _MUJOCO_BACKENDS if backend != 'glfw' or has_display
    ]


def _why_not(env_id: str, graphics: Graphics) -> str | None:
    """Render a frame; returns a short reason if it fails."""
    try:
        with _studio(env_id, graphics) as studio:
            studio.submit('try_out')
            if not studio.connection.poll(_SECONDS_FOR_A_PICTURE):
                return f'no frame within {_SECONDS_FOR_A_PICTURE:g} s'
            return studio.result()
    except WorkerDied as ended:
        return _end_of(ended)
    except (UserError, RuntimeError) as error:
        return shorten(str(error).strip().splitlines()[-1], 120)


def _studio(env_id: str, graphics: Graphics) -> Worker:
    return Worker(partial(_Studio, env_id, graphics), fresh=_has_opengl())


def _has_opengl() -> bool:
    """Return whether this process uses OpenGL; MuJoCo does from its import on with MUJOCO_GL."""
    return any(f'mujoco.{backend}' in sys.modules for backend in ('egl', 'osmesa'))


def _end_of(ended: WorkerDied) -> str:
    code = ended.exit_code
    how = signal.Signals(-code).name if code is not None and code < 0 else f'exit code {code}'
    return f'its process ended with {how}'


def ffmpeg_program() -> str:
    """Return the path of the ffmpeg encoder.

    Raises:
        UserError: If there is none.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError('clips need ffmpeg: pip install imageio-ffmpeg') from error


# -- after it -------------------------------------------------------------------------------------


def write_clips(
    rows: Sequence[dict[str, Any]],
    folder: Path,
    graphics: Graphics | None = None,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a clip of the first episode of each row.

    A clip is H.264 in MP4, for browsers, in real time. It replaces a file of the same name once it
    is complete.

    Args:
        rows (Sequence[dict[str, Any]]): From :func:`omnisafe_qpt.evaluation.sweep.evaluate_runs`
            with ``traces=True``.
        folder (Path): Folder of the clips; created if absent.
        graphics (Graphics, optional): Result of :func:`check_video`. Defaults to None, a new check.
        processes (int, optional): Clips to make in parallel. Defaults to one per core.
        on_progress (Callable, optional): Called with the steps done and expected. Defaults to
            None.

    Returns:
        The files, in the order of the rows.

    Raises:
        UserError: If a clip cannot be rendered or written, or the simulator did not repeat an
            episode.
    """
    graphics = find_graphics(rows[0]['env_id']) if graphics is None else graphics
    processes = processes or usable_cores()
    paths = [folder / name for name in clip_names(rows)]
    waiting = deque(zip(rows, paths))
    total, done = sum(len(row['traces'][0]['actions']) for row in rows), 0
    busy: dict[Any, tuple[Path, Worker, ExitStack]] = {}
    with write_errors(folder), ExitStack() as everything:
        folder.mkdir(parents=True, exist_ok=True)
        # Complete clips are moved out of this folder. Once it is removed, the encoder of a killed
        # process cannot write any more.
        hidden = everything.enter_context(
            tempfile.TemporaryDirectory(dir=folder, prefix='.clips-', ignore_cleanup_errors=True)
        )
        while waiting or busy:
            while waiting and len(busy) < processes:
                row, path = waiting.popleft()
                stack = everything.enter_context(ExitStack())
                studio = stack.enter_context(_studio(row['env_id'], graphics))
                studio.submit('film', {**row, 'traces': row['traces'][:1]}, Path(hidden, path.name))
                busy[studio.connection] = path, studio, stack
            for connection in wait(list(busy)):
                path, studio, stack = busy[connection]
                try:
                    answer = studio.result()
                except WorkerDied as ended:
                    raise UserError(f'{path}: {_end_of(ended)}') from ended
                except UserError as error:
                    raise UserError(f'{path}: {error}') from error
                if isinstance(answer, Partial):
                    done += answer.value
                    if on_progress is not None:
                        on_progress(done, total)
                else:
                    del busy[connection]
                    stack.close()
                    os.replace(Path(hidden, path.name), path)
    return paths


def clip_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name the clips of rows by task, limit and seed, and by run if names would repeat.

    Args:
        rows (Sequence[dict[str, Any]]): Rows of an evaluation.

    Returns:
        The names, all different.
    """
    stems = [f'{row["env_id"]}_limit-{row["cost_limit"]:g}_seed-{row["seed"]}' for row in rows]
    for label in (
        lambda number, row: Path(row['run']).name,
        lambda number, row: Path(row['checkpoint']).stem,
        lambda number, row: number,  # runs of the same name in different folders
    ):
        counts = Counter(stems)
        stems = [
            f'{stem}_{label(number, row)}' if counts[stem] > 1 else stem
            for number, (stem, row) in enumerate(zip(stems, rows), start=1)
        ]
    return [f'{stem}.mp4' for stem in stems]


# -- in the new process ---------------------------------------------------------------------------


class _Studio:
    """A simulator with rendering, in this process, without messages.

    Args:
        env_id (str): OmniSafe's environment id.
        graphics (Graphics): The rendering backend.
    """

    def __init__(self, env_id: str, graphics: Graphics) -> None:
        os.environ.update(graphics)
        # Mesa's threads, if it renders on the CPU: other clips use the other cores.
        os.environ.setdefault('LP_NUM_THREADS', '1')
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as this process runs
        for descriptor in (1, 2):  # messages of OpenGL and ffmpeg
            os.dup2(self._log.fileno(), descriptor)
        self._env_id = env_id
        self._environment = DrawnEnvironment(env_id, SIZE)

    def try_out(self) -> str | None:
        """Render a frame; returns its defect, if any."""
        self._environment.reset(0)
        return None if self._environment.picture().std() > 0 else 'the frame is blank'

    def film(self, row: dict[str, Any], path: Path) -> Generator[int, None, None]:
        """Replay the first episode of a row and write it; yields the steps done from time to time.

        Raises:
            UserError: If the file cannot be written, or the episode differs.
        """
        import imageio.v2 as imageio

        environment, actions = self._environment, row['traces'][0]['actions']
        environment.reset(row['seed'])
        rate = environment.steps_per_second()
        every = math.ceil(rate / _MOST_PICTURES_PER_SECOND)
        totals, shown, pictures = np.zeros(3), 0, 1  # return, cost, steps
        writer: Any
        try:
            with imageio.get_writer(path, fps=rate / every, **_ENCODING) as writer:
                writer.append_data(_captioned(environment.picture(), row['cost_limit'], *totals))
                for action in actions:
                    _, reward, cost, ended = environment.step(np.asarray(action, dtype=np.float32))
                    totals += reward, cost, 1
                    if totals[2] % every == 0 or totals[2] == len(actions):
                        picture = environment.picture()
                        writer.append_data(_captioned(picture, row['cost_limit'], *totals))
                        yield int(totals[2]) - shown
                        shown, pictures = int(totals[2]), pictures + 1
                    if ended:
                        break
            _check_clip(path, pictures)
        except OSError as error:  # imageio raises it if ffmpeg has ended
            self._log.seek(0)
            said = self._log.read().decode(errors='replace').split('\n')
            reason = next((line for line in reversed(said) if line.strip()), 'it gives no reason')
            raise UserError(f'ffmpeg could not write it ({reason[:200]})') from error
        before = row['returns'][0], row['costs'][0], row['lengths'][0]
        if tuple(totals) != before:
            raise UserError(
                f'not written, as {row["env_id"]} does not repeat its episodes: return '
                '{:g} and cost {:g} in {:g} steps, before {:g} and {:g} in {:g}'.format(
                    *totals, *before
                ),
            )

    def close(self) -> None:
        """Do nothing: the process ends, and OpenGL's own cleanup may crash."""


def _check_clip(path: Path, pictures: int) -> None:
    """Check the number of frames in a clip, as imageio ignores ffmpeg's exit status.

    Raises:
        OSError: If frames are missing.
    """
    from imageio_ffmpeg import count_frames_and_secs

    try:
        found, _ = count_frames_and_secs(path)
    except RuntimeError as error:
        raise OSError('the clip cannot be read') from error
    if found != pictures:
        raise OSError(f'{found} frames of {pictures}')


_FONT_SIZE, _BAR_HEIGHT = 13, 20
_WHITE, _RED, _SHADE = (255, 255, 255), (255, 110, 110), (0, 0, 0, 170)


def _captioned(
    picture: np.ndarray,
    cost_limit: float,
    total_reward: float,
    total_cost: float,
    steps: float,
) -> np.ndarray:
    """Write step, cost and return on a frame, the cost in red once it is over the limit."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, 'RGBA')
    font = ImageFont.load_default(_FONT_SIZE)
    width = image.width
    draw.rectangle((0, 0, width, _BAR_HEIGHT), fill=_SHADE)
    colour = _RED if total_cost > cost_limit else _WHITE
    for place, text, fill in (
        (0.02, f'step {steps:.0f}', _WHITE),
        (0.25, f'cost {total_cost:.4g} / limit {cost_limit:g}', colour),
        (0.7, f'return {total_reward:.1f}', _WHITE),
    ):
        draw.text((place * width, 2), text, fill=fill, font=font)
    return np.asarray(image)
