# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""Clips of evaluated episodes.

A clip is made after the evaluation, from the actions that were taken: a simulator's episode depends
on its seed and its actions only, so that it comes again exactly as it was. Each is drawn in a
process of its own, as OpenGL may end its process, and does not go well with other use of it.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.envs.bullet import BULLET_HORIZONS
from omnisafe_qpt.envs.drawn import DrawnEnvironment
from omnisafe_qpt.envs.metadrive import METADRIVE_TASKS
from omnisafe_qpt.envs.simulators import OPENGL_HELP
from omnisafe_qpt.envs.user_modules import require_environment_of
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runs.checkpoint import load_networks
from omnisafe_qpt.settings.machine import usable_cores
from omnisafe_qpt.workers import Partial, ProcessEnded, RemoteObject


# Environment variables under which pictures are drawn.
Graphics = dict[str, str]

SIZE = (480, 360)
# A clip runs in real time. Where the simulator has more steps a second, some are left out.
_MOST_PICTURES_PER_SECOND = 30

# What MuJoCo can draw with, the best first. GLFW needs a display.
_MUJOCO_BACKENDS = ('egl', 'osmesa', 'glfw')
_SECONDS_FOR_A_PICTURE = 120.0


# -- before an evaluation -------------------------------------------------------------------------


def check_video(
    folder: Path,
    run: str | os.PathLike[str],
) -> Graphics:
    """Refuse clips that cannot be made before the work rather than after it.

    Args:
        folder (Path): Where clips are to be written. It is made if it is absent.
        run (str or os.PathLike): One of the runs, which are of one task, or a checkpoint.

    Returns:
        What :func:`write_clips` takes.

    Raises:
        UserError: If the folder cannot be written, there is no ffmpeg or nothing can be drawn.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'--video {folder}: no such folder can be made ({error.strerror})'
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f'--video {folder}: nothing can be written there')
    ffmpeg_program()
    networks, _ = load_networks(run)
    require_environment_of(networks.spec)
    return find_graphics(networks.spec['env_id'])


def find_graphics(env_id: str) -> Graphics:
    """Find out, by drawing a picture in a process of its own, with what a task can be drawn.

    Args:
        env_id (str): OmniSafe's environment id.

    Returns:
        The environment variables that it takes: none, or ``MUJOCO_GL``, which is chosen here unless
        it is set.

    Raises:
        UserError: If nothing works; the message says what was tried and what to install or set.
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
        raise UserError(f'{env_id} cannot be drawn here ({found})')
    raise UserError(f'{env_id} cannot be drawn here (tried {found}): {OPENGL_HELP}')


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
    """Draw a picture and say in a few words why it failed, if it did."""
    try:
        with _studio(env_id, graphics) as studio:
            studio.ask('try_out')
            if not studio.connection.poll(_SECONDS_FOR_A_PICTURE):
                return f'no picture within {_SECONDS_FOR_A_PICTURE:g} s'
            return studio.answer()
    except ProcessEnded as ended:
        return _end_of(ended)
    except (UserError, RuntimeError) as error:
        return shorten(str(error).strip().splitlines()[-1], 120)


def _studio(env_id: str, graphics: Graphics) -> RemoteObject:
    return RemoteObject(partial(_Studio, env_id, graphics), fresh=_has_opengl())


def _has_opengl() -> bool:
    """Whether OpenGL is in use here, as MuJoCo has it from its import on if MUJOCO_GL says so."""
    return any(f'mujoco.{backend}' in sys.modules for backend in ('egl', 'osmesa'))


def _end_of(ended: ProcessEnded) -> str:
    code = ended.exit_code
    how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
    return f'its process ended with {how}'


def ffmpeg_program() -> str:
    """Return the ffmpeg that encodes.

    Raises:
        UserError: If there is none.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError('clips need ffmpeg: pip install imageio-ffmpeg') from error


# -- after it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clip:
    """An episode to show.

    Args:
        path (Path): The clip's file.
        env_id (str): OmniSafe's environment id.
        seed (int): The episode's.
        cost_limit (float): What its cost is shown beside.
        actions (list[list[float]]): Its actions, one a step.
        totals (tuple[float, float, int]): Its return, cost and length.
    """

    path: Path
    env_id: str
    seed: int
    cost_limit: float
    actions: list[list[float]]
    totals: tuple[float, float, int]


def write_clips(
    rows: Sequence[dict[str, Any]],
    folder: Path,
    graphics: Graphics | None = None,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a clip of the first episode of each row.

    A clip is H.264 in MP4, which browsers play, in real time. A file of the same name is replaced
    when the new one is complete.

    Args:
        rows (Sequence[dict[str, Any]]): From :func:`omnisafe_qpt.evaluation.sweep.evaluate_runs`
            with ``traces=True``.
        folder (Path): Where to write them. It is made if it is absent.
        graphics (Graphics, optional): What :func:`check_video` returned. Defaults to None, which
            finds out again.
        processes (int, optional): Clips to make at the same time. Defaults to one a core.
        on_progress (Callable, optional): Called with the steps done and expected. Defaults to
            None.

    Returns:
        The files, in the order of the rows.

    Raises:
        UserError: If one cannot be drawn or written, or the simulator did not repeat an episode.
    """
    clips = [
        _Clip(
            folder / name,
            row['env_id'],
            row['seed'],
            row['cost_limit'],
            row['traces'][0]['actions'],
            (row['returns'][0], row['costs'][0], row['lengths'][0]),
        )
        for row, name in zip(rows, clip_names(rows))
    ]
    if graphics is None:
        graphics = find_graphics(clips[0].env_id)
    total, done = sum(len(clip.actions) for clip in clips), 0
    for steps in _film(clips, graphics, processes or usable_cores()):
        done += steps
        if on_progress is not None:
            on_progress(done, total)
    return [clip.path for clip in clips]


def clip_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name the clips of rows by task, limit and seed, and by run where that is not enough.

    Args:
        rows (Sequence[dict[str, Any]]): Rows of an evaluation.

    Returns:
        The names, all different.
    """
    stems = [f'{row["env_id"]}_limit-{row["cost_limit"]:g}_seed-{row["seed"]}' for row in rows]
    for label in (
        lambda row: f'_{Path(row["run"]).name}',
        lambda row: f'_{Path(row["checkpoint"]).stem}',
    ):
        counts = Counter(stems)
        stems = [stem + label(row) if counts[stem] > 1 else stem for stem, row in zip(stems, rows)]
    counts, seen = Counter(stems), Counter()
    for number, stem in enumerate(stems):
        if counts[stem] > 1:  # runs of the same name in different folders
            seen[stem] += 1
            stems[number] = f'{stem}_{seen[stem]}'
    return [f'{stem}.mp4' for stem in stems]


def _film(clips: Sequence[_Clip], graphics: Graphics, processes: int) -> Iterator[int]:
    """Make clips, some at a time; yields the steps that were done."""
    waiting = deque(clips)
    busy: dict[Any, tuple[_Clip, RemoteObject, ExitStack]] = {}
    with ExitStack() as everything:
        while waiting or busy:
            while waiting and len(busy) < processes:
                clip = waiting.popleft()
                stack = everything.enter_context(ExitStack())
                temporary = stack.enter_context(atomic_path(clip.path))
                studio = stack.enter_context(_studio(clip.env_id, graphics))
                studio.ask('film', clip, temporary)
                busy[studio.connection] = clip, studio, stack
            for connection in wait(list(busy)):
                clip, studio, stack = busy[connection]
                try:
                    answer = studio.answer()
                except ProcessEnded as ended:
                    raise UserError(f'{clip.path}: {_end_of(ended)}') from ended
                if isinstance(answer, Partial):
                    yield answer.value
                else:
                    del busy[connection]
                    stack.close()


# -- in the new process ---------------------------------------------------------------------------


class _Studio:
    """A simulator that is drawn, in this process and silently.

    Args:
        env_id (str): OmniSafe's environment id.
        graphics (Graphics): What to draw with.
    """

    def __init__(self, env_id: str, graphics: Graphics) -> None:
        os.environ.update(graphics)
        # Mesa's threads, if it draws on the CPU: other clips are made on the other cores.
        os.environ.setdefault('LP_NUM_THREADS', '1')
        _be_silent()
        self._env_id = env_id
        self._environment = DrawnEnvironment(env_id, SIZE)

    def try_out(self) -> str | None:
        """Draw a picture; returns what is wrong with it."""
        self._environment.reset(0)
        return None if self._environment.picture().std() > 0 else 'the picture is blank'

    def film(self, clip: _Clip, path: Path) -> Generator[int, None, None]:
        """Play an episode again and write it to a file; yields the steps done now and then.

        Raises:
            UserError: If the file cannot be written, or it is another episode.
        """
        environment = self._environment
        environment.reset(clip.seed)
        rate = environment.steps_per_second()
        every = math.ceil(rate / _MOST_PICTURES_PER_SECOND)
        totals, shown = np.zeros(3), 0  # return, cost, steps
        with _encoder(path, rate / every, clip.path) as write:

            def show() -> None:
                write(_captioned(environment.picture(), clip, *totals))

            show()
            for action in clip.actions:
                _, reward, cost, ended = environment.step(np.asarray(action, dtype=np.float32))
                totals += reward, cost, 1
                if totals[2] % every == 0 or totals[2] == len(clip.actions):
                    show()
                    yield int(totals[2]) - shown
                    shown = int(totals[2])
                if ended:
                    break
        if tuple(totals) != clip.totals:
            raise UserError(
                f'{clip.path}: not written, as {clip.env_id} does not repeat its episodes: return '
                f'{totals[0]:g} and cost {totals[1]:g} in {totals[2]:g} steps, where it was '
                '{:g} and {:g} in {:g}'.format(*clip.totals),
            )

    def close(self) -> None:
        """Do nothing: the process ends, and OpenGL's own cleaning up may crash."""


def _be_silent() -> None:
    """Keep OpenGL's complaints off the screen: what matters is raised."""
    with open(os.devnull, 'wb') as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)


_FONT_SIZE, _BAR_HEIGHT = 13, 20
_WHITE, _RED, _SHADE = (255, 255, 255), (255, 110, 110), (0, 0, 0, 170)


def _captioned(
    picture: np.ndarray,
    clip: _Clip,
    total_reward: float,
    total_cost: float,
    steps: float,
) -> bytes:
    """Write step, cost and return over a picture, the cost in red once it is over the limit."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, 'RGBA')
    font = ImageFont.load_default(_FONT_SIZE)
    width = image.width
    draw.rectangle((0, 0, width, _BAR_HEIGHT), fill=_SHADE)
    colour = _RED if total_cost > clip.cost_limit else _WHITE
    for place, text, fill in (
        (0.02, f'step {steps:.0f}', _WHITE),
        (0.25, f'cost {total_cost:.4g} / limit {clip.cost_limit:g}', colour),
        (0.7, f'return {total_reward:.1f}', _WHITE),
    ):
        draw.text((place * width, 2), text, fill=fill, font=font)
    return image.tobytes()


@contextmanager
def _encoder(path: Path, rate: float, name: Path) -> Iterator[Callable[[bytes], Any]]:
    """Give a function that adds a picture to a new clip.

    Raises:
        UserError: If ffmpeg failed; the message has the clip's own name.
    """
    command = [
        *(ffmpeg_program(), '-y', '-loglevel', 'error'),
        *('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{SIZE[0]}x{SIZE[1]}', '-r', f'{rate:g}'),
        *('-i', '-', '-an', '-c:v', 'libx264', '-preset', 'veryfast', '-crf', '20'),
        # What all browsers play, and begin to play before they have all of it.
        *('-pix_fmt', 'yuv420p', '-movflags', '+faststart', '-f', 'mp4', os.fspath(path)),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe) as process:
        try:
            with suppress(BrokenPipeError):  # it has ended, and said why
                yield process.stdin.write
            complaints = process.communicate()[1].decode(errors='replace').strip()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = complaints.splitlines()[-1] if complaints else f'exit code {process.returncode}'
        raise UserError(f'{name}: ffmpeg could not write it ({last})')
