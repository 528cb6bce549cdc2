# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips: of the very episodes that were evaluated, or refused before the work."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest

from host_helpers import ENV_ID, HORIZON, make_networks, untrained_run
from omnisafe_qpt.cli import main
from omnisafe_qpt.envs.environments import NumpyEnvironment
from omnisafe_qpt.envs.simulators import why_unavailable
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation import video
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.evaluation.video import clip_names, find_graphics, write_clips


SMALL = (96, 72)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes that are forked see this, and they are where OpenGL is not in use.
    monkeypatch.setattr(video, 'SIZE', SMALL)
    for backend in ('egl', 'osmesa'):
        monkeypatch.delitem(sys.modules, f'mujoco.{backend}', raising=False)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp('runs') / 'seed-000-now', ENV_ID, 7)


def make_run(folder: Path, env_id: str, obs_dim: int) -> Path:
    return untrained_run(folder, make_networks(obs_dim, 2, HORIZON, env_id))


def row_of(env_id: str, seed: int = 5, steps: int = 12, limit: float = 10.0) -> dict[str, Any]:
    """The row of an evaluation whose only episode has random actions and ends early."""
    environment = NumpyEnvironment(env_id)
    generator = np.random.default_rng(seed)
    environment.reset(seed)
    total_reward, total_cost, actions = 0.0, 0.0, []
    for _ in range(steps):
        action = generator.uniform(-1, 1, environment._env.action_space.shape).astype(np.float32)
        _, reward, cost, ended = environment.step(action)
        total_reward, total_cost = total_reward + reward, total_cost + cost
        actions.append(action.tolist())
        assert not ended
    environment.close()
    return {
        'env_id': env_id,
        'cost_limit': limit,
        'seed': seed,
        'returns': [total_reward],
        'costs': [total_cost],
        'lengths': [steps],
        'traces': [{'actions': actions}],
        'run': '/runs/seed-000-now',
        'checkpoint': 'epoch-3.pt',
    }


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def frames_of(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Decode a clip: what is said about it, and its pictures."""
    pictures = np.stack(list(imageio.imiter(path, plugin='FFMPEG')))
    return imageio.immeta(path, plugin='FFMPEG'), pictures


@pytest.mark.slow
@pytest.mark.parametrize(
    'first', ['omnisafe_qpt.evaluation.sweep', 'omnisafe_qpt.evaluation.video']
)
def test_omnisafe_knows_qpt_whatever_is_imported_first(first: str) -> None:
    """OmniSafe's import brings QPT's modules, among them those that are just being imported."""
    code = (
        f'import {first}; '
        'from omnisafe_qpt.omnisafe_plugin.import_hooks import require_available as r; r()'
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


# -- real simulators ------------------------------------------------------------------------------


def test_clips_of_an_evaluation(run: Path, tmp_path: Path) -> None:
    """Real episodes of Bullet, drawn without any graphics system."""
    rows = evaluate_runs(run, [5, 40], episodes=3, seed=7, traces=True)
    seen = []
    folder = tmp_path / 'new' / 'clips'
    paths = write_clips(rows, folder, processes=2, on_progress=lambda *counts: seen.append(counts))
    assert [path.name for path in paths] == [
        f'{ENV_ID}_limit-5_seed-7.mp4',
        f'{ENV_ID}_limit-40_seed-7.mp4',
    ]
    assert sorted(folder.iterdir()) == sorted(paths), 'and nothing left over'
    assert seen[-1] == (2 * HORIZON, 2 * HORIZON)
    for row, path in zip(rows, paths):
        about, pictures = frames_of(path)
        assert about['codec'] == 'h264'
        assert about['pix_fmt'].startswith('yuv420p')
        assert about['size'] == SMALL
        assert about['fps'] == 30.0  # BallRun's own
        assert len(pictures) == row['lengths'][0] + 1
        scenes = pictures[:, 20:].astype(float)  # without the caption
        assert scenes.std(axis=(1, 2, 3)).min() > 20
        assert np.abs(scenes[-1] - scenes[0]).mean() > 5
    assert not np.array_equal(frames_of(paths[0])[1], frames_of(paths[1])[1])


def test_another_episode_is_not_passed_off_as_the_evaluated_one(tmp_path: Path) -> None:
    row = row_of(ENV_ID)
    (path,) = write_clips([row], tmp_path)
    before = path.read_bytes()
    for name in ('returns', 'costs', 'lengths'):
        changed = {**row, name: [row[name][0] + 1]}
        with pytest.raises(UserError, match='does not repeat its episodes: return'):
            write_clips([changed], tmp_path)
    with pytest.raises(UserError, match=r'seed-6\.mp4: not written'):
        write_clips([{**row, 'seed': 6}], tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.fixture(scope='module')
def graphics() -> dict[str, str]:
    try:
        return find_graphics('SafetySwimmerVelocity-v1')
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ('env_id', 'rate', 'pictures'),
    [
        pytest.param('SafetySwimmerVelocity-v1', 25, 13, marks=pytest.mark.slow),
        ('SafetyHopperVelocity-v1', 25, 4),  # 125 steps a second: pictures at 0, 5, 10 and 12
        ('SafetyPointCircle1-v0', 25, 7),  # 50 steps a second
    ],
)
def test_mujocos_episodes_come_again_and_can_be_seen(
    env_id: str, rate: int, pictures: int, graphics: dict[str, str], tmp_path: Path
) -> None:
    (path,) = write_clips([row_of(env_id)], tmp_path, graphics)
    about, found = frames_of(path)
    assert about['fps'] == rate
    assert len(found) == pictures
    scenes = found[:, 20:].astype(float)
    assert scenes.std(axis=(1, 2, 3)).min() > 10
    assert np.abs(scenes[-1] - scenes[0]).mean() > 0.05


@pytest.mark.slow
def test_a_process_with_opengl_is_not_forked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Graphics drivers do not stand it."""
    monkeypatch.setitem(sys.modules, 'mujoco.egl', sys)
    (path,) = write_clips([row_of(ENV_ID, steps=2)], tmp_path, {})
    assert frames_of(path)[0]['size'] == (480, 360), 'it does not know of the small ones here'


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable('metadrive') is not None, reason='needs MetaDrive')
def test_metadrives_episodes_come_again_and_can_be_seen(tmp_path: Path) -> None:
    (path,) = write_clips([row_of('SafeMetaDrive-easydense-v0')], tmp_path)
    about, found = frames_of(path)
    assert about['fps'] == 10
    assert len(found) == 13
    assert found[:, 20:].std(axis=(1, 2, 3)).min() > 10


# -- what is drawn --------------------------------------------------------------------------------


class Painted:
    """In a simulator's place: fast, with 125 steps a second, and grey as its step."""

    def __init__(self, env_id: str, size: tuple[int, int]) -> None:
        self._size = size
        self._steps = 0

    def reset(self, seed: int) -> None:
        self._steps = 0

    def step(self, action: np.ndarray) -> tuple[None, float, float, bool]:
        self._steps += 1
        return None, 1.0, 2.0, False

    def steps_per_second(self) -> float:
        return 125.0

    def picture(self) -> np.ndarray:
        picture = np.full((*self._size[::-1], 3), 5 * self._steps, np.uint8)
        picture[-1, -1] = 255  # not blank
        return picture


def painted_row(steps: int, **others: Any) -> dict[str, Any]:
    return {
        'env_id': ENV_ID,
        'cost_limit': 10.0,
        'seed': 0,
        'returns': [float(steps)],
        'costs': [2.0 * steps],
        'lengths': [steps],
        'traces': [{'actions': [[0.0]] * steps}],
        'run': '/runs/seed-000-now',
        'checkpoint': 'epoch-3.pt',
        **others,
    }


def test_the_last_step_is_shown_where_steps_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(video, 'DrawnEnvironment', Painted)
    seen = []
    (path,) = write_clips(
        [painted_row(27)], tmp_path, on_progress=lambda *counts: seen.append(counts)
    )
    about, pictures = frames_of(path)
    assert about['fps'] == 25.0
    greys = pictures[:, 40:60].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, [5 * step for step in (0, 5, 10, 15, 20, 25, 27)], atol=3)
    assert seen == [(done, 27) for done in (5, 10, 15, 20, 25, 27)]


def test_the_caption_tells_the_cost_and_turns_red_over_the_limit() -> None:
    def captioned(cost: float, reward: float = 12.0) -> np.ndarray:
        picture = np.full((360, 480, 3), 200, np.uint8)
        return video._captioned(picture, 10.0, reward, cost, 3).astype(int)

    def reddish(picture: np.ndarray) -> int:
        return (picture[..., 0] > picture[..., 2] + 60).sum()

    assert reddish(captioned(10.0)) == 0
    assert reddish(captioned(10.5)) > 50
    assert (captioned(10.5)[21:] == 200).all(), 'the picture itself is left alone'
    assert (captioned(3.0) != captioned(4.0)).any()
    assert (captioned(3.0) != captioned(3.0, reward=13.0)).any()


@pytest.mark.parametrize(
    ('choices', 'expected'),
    [
        ([(10, 'a/x', 9), (2.5, 'a/x', 9)], ['limit-10_seed-0', 'limit-2.5_seed-0']),
        ([(10, 'a/x', 9), (10, 'a/y', 9)], ['limit-10_seed-0_x', 'limit-10_seed-0_y']),
        (
            [(10, 'a/x', 9), (10, 'a/x', 1)],
            ['limit-10_seed-0_x_epoch-9', 'limit-10_seed-0_x_epoch-1'],
        ),
        (
            [(10, 'a/x', 9), (10, 'b/x', 9)],
            ['limit-10_seed-0_x_epoch-9_1', 'limit-10_seed-0_x_epoch-9_2'],
        ),
        ([(10, 'QPT-{e} f/seed-1', 9)], ['limit-10_seed-0']),
    ],
)
def test_names_tell_task_limit_and_seed_and_the_run_where_needed(
    choices: list[tuple[float, str, int]], expected: list[str]
) -> None:
    rows = [
        painted_row(1, cost_limit=limit, run=run, checkpoint=f'epoch-{epoch}.pt')
        for limit, run, epoch in choices
    ]
    assert clip_names(rows) == [f'{ENV_ID}_{name}.mp4' for name in expected]


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_clip_that_fails_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Broken(Painted):
        def step(self, action: np.ndarray) -> tuple[None, float, float, bool]:
            if self._steps == 7:
                crash()
            return super().step(action)

    monkeypatch.setattr(video, 'DrawnEnvironment', Painted)
    (path,) = write_clips([painted_row(10)], tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(video, 'DrawnEnvironment', Broken)
    rows = [painted_row(10), painted_row(10, seed=1)]
    with pytest.raises(UserError, match=r'seed-[01].mp4: its process ended with SIGKILL'):
        write_clips(rows, tmp_path, {})
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
    monkeypatch.setattr(video, 'DrawnEnvironment', Painted)
    write_clips([painted_row(20)], tmp_path)
    assert path.read_bytes() != before, 'a whole one replaces it'


def test_a_file_that_cannot_be_written_to_its_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Limited(Painted):
        def reset(self, seed: int) -> None:
            super().reset(seed)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    monkeypatch.setattr(video, 'DrawnEnvironment', Painted)
    (path,) = write_clips([painted_row(40)], tmp_path / 'whole', {})
    assert path.stat().st_size > 3_000
    monkeypatch.setattr(video, 'DrawnEnvironment', Limited)
    folder = tmp_path / 'clips'
    with pytest.raises(UserError, match=r'seed-0.mp4: ffmpeg could not write it \(.+\)'):
        write_clips([painted_row(40)], folder, {})
    assert not list(folder.iterdir())


def test_what_ffmpeg_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / 'ffmpeg'
    program.write_text('#!/bin/sh\necho boring >&2; echo no space left >&2; exit 3')
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg._io, 'get_ffmpeg_exe', lambda: str(program))
    monkeypatch.setattr(video, 'DrawnEnvironment', Painted)
    with pytest.raises(UserError, match=r'seed-0.mp4: ffmpeg could not write it \(no space left'):
        write_clips([painted_row(40)], tmp_path / 'clips', {})
    assert not list((tmp_path / 'clips').iterdir())


# -- what to draw with ----------------------------------------------------------------------------

MUJOCO_TASK = 'SafetyPointGoal1-v0'


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Choose what each backend does; returns those that were tried."""
    file = tmp_path / 'tried'
    outcomes: dict[str, Any] = {}

    class Choosy(Painted):
        def __init__(self, env_id: str, size: tuple[int, int]) -> None:
            super().__init__(env_id, size)
            self._backend = os.environ.get('MUJOCO_GL', '')
            with file.open('a') as log:
                log.write(f'{self._backend}\n')

        def picture(self) -> np.ndarray:
            outcome = outcomes.get(self._backend, 'works')
            if outcome == 'aborts':
                crash()
            if outcome == 'raises':
                raise ImportError('libEGL.so\nis not there')
            return np.zeros((9, 9, 3)) if outcome == 'is blank' else super().picture()

    def try_with(settings: dict[str, str], env_id: str = MUJOCO_TASK, **wanted: str) -> Any:
        for name in ('MUJOCO_GL', 'DISPLAY', 'WAYLAND_DISPLAY'):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        outcomes.update(wanted)
        try:
            return find_graphics(env_id), file.read_text().split('\n')[:-1]
        except UserError as error:
            return str(error), file.read_text().split('\n')[:-1]

    monkeypatch.setattr(video, 'DrawnEnvironment', Choosy)
    monkeypatch.setattr(sys, 'platform', 'linux')
    return try_with


@pytest.mark.parametrize(
    ('settings', 'outcomes', 'found'),
    [
        ({}, {}, ['egl']),
        ({}, {'egl': 'aborts'}, ['egl', 'osmesa']),
        ({'DISPLAY': ':0'}, {'egl': 'raises', 'osmesa': 'is blank'}, ['egl', 'osmesa', 'glfw']),
    ],
)
def test_the_first_that_works_is_chosen(
    tried: Any, settings: dict[str, str], outcomes: dict[str, str], found: list[str]
) -> None:
    assert tried(settings, **outcomes) == ({'MUJOCO_GL': found[-1]}, found)
    assert 'MUJOCO_GL' not in os.environ, 'only the processes that draw have it'


def test_nothing_but_the_users_choice_is_tried(tried: Any) -> None:
    message, order = tried({'MUJOCO_GL': 'glfw', 'DISPLAY': ':0'}, glfw='raises')
    assert order == ['glfw']
    assert 'tried MUJOCO_GL=glfw: is not there' in message
    assert '\n' not in message


def test_tasks_without_opengl_need_nothing(tried: Any) -> None:
    assert tried({}, ENV_ID) == ({}, [''])
    assert tried({'MUJOCO_GL': 'nonsense'}, ENV_ID)[0] == {}


def test_the_refusal_names_all_that_was_tried_and_the_remedies(tried: Any) -> None:
    message, _ = tried({}, egl='aborts', osmesa='is blank')
    assert '\n' not in message
    for part in (
        'MUJOCO_GL=egl: its process ended with SIGKILL',
        'MUJOCO_GL=osmesa: the frame is blank',
        'apt-get install libegl1',
        'apt-get install libosmesa6',
    ):
        assert part in message


def test_no_answer_is_an_answer(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, '_SECONDS_FOR_A_PICTURE', 0.0)
    message, _ = tried({'MUJOCO_GL': 'egl'})
    assert 'no frame within 0 s' in message


# -- the command ----------------------------------------------------------------------------------


def test_the_command_writes_clips_beside_the_results(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / 'result.json'
    status = main(
        ['evaluate', str(run), '--cost-limit', '5', '--cost-limit', '40', '--episodes', '1']
        + ['--video', str(tmp_path / 'clips'), '--json', str(result)]
    )
    assert status == 0
    rows = json.loads(result.read_text())
    assert all('traces' not in row for row in rows)
    names = [f'{ENV_ID}_limit-{limit}_seed-0.mp4' for limit in (5, 40)]
    assert sorted(path.name for path in (tmp_path / 'clips').iterdir()) == sorted(names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == [f'Video: {tmp_path / "clips" / name}' for name in names]


def test_results_are_kept_when_a_clip_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Tired(Painted):
        def step(self, action: np.ndarray) -> tuple[None, float, float, bool]:
            os._exit(5)

    monkeypatch.setattr(video, 'DrawnEnvironment', Tired)
    result = tmp_path / 'result.json'
    options = ['--episodes', '1', '--video', str(tmp_path), '--json', str(result)]
    assert main(['evaluate', str(run), *options]) == 1
    printed = capsys.readouterr()
    assert printed.err.count('\n') == 1
    assert 'its process ended with exit code 5' in printed.err
    assert len(json.loads(result.read_text())) == 1
    assert 'unsafe' in printed.out, 'the table'


@pytest.mark.slow
def test_without_graphics_nothing_is_evaluated(tmp_path: Path) -> None:
    """With the real MuJoCo, which has no window without a display."""
    run = make_run(tmp_path / 'run', 'SafetySwimmerVelocity-v1', 8)
    environment = {**os.environ, 'MUJOCO_GL': 'glfw'}
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        environment.pop(name, None)
    command = [sys.executable, '-m', 'omnisafe_qpt.cli', 'evaluate', str(run)]
    result = tmp_path / 'result.json'
    done = subprocess.run(
        [*command, '--video', str(tmp_path / 'clips'), '--json', str(result)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]  # gymnasium-robotics has said something before
    task = 'SafetySwimmerVelocity-v1'
    assert message.startswith(f'Error: {task} cannot be rendered here (tried MUJOCO_GL=glfw: '), (
        done.stderr
    )
    assert 'MUJOCO_GL=egl' in message
    assert 'Traceback' not in done.stderr
    assert not result.exists()


def test_a_setting_with_which_mujoco_does_not_load_is_explained(run: Path) -> None:
    """Its own error is about an attribute of None, if OSMesa is chosen and not installed."""
    done = subprocess.run(
        [sys.executable, '-m', 'omnisafe_qpt.cli', 'evaluate', str(run)],
        env={**os.environ, 'MUJOCO_GL': 'nonsense'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith('Error: MuJoCo does not load with MUJOCO_GL=nonsense (')
    assert 'unset it' in message
    assert 'Traceback' not in done.stderr


def test_offline_checks_have_no_episodes_to_show(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', str(run), '--offline', 'x.hdf5', '--video', 'clips']) == 1
    assert 'Error: --video' in capsys.readouterr().err
    assert not Path('clips').exists()


def test_a_folder_that_cannot_be_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').write_text('')
    assert main(['evaluate', str(run), '--video', str(tmp_path / 'file' / 'clips')]) == 1
    assert f'--video {tmp_path / "file" / "clips"}: ' in capsys.readouterr().err
    monkeypatch.setattr(os, 'access', lambda *_: False)
    assert main(['evaluate', str(run), '--video', str(tmp_path)]) == 1
    assert f'--video {tmp_path}: the folder is not writable' in capsys.readouterr().err


def test_without_ffmpeg_the_command_names_the_package(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_found() -> str:
        raise RuntimeError('No ffmpeg exe could be found.')

    monkeypatch.setattr(imageio_ffmpeg, 'get_ffmpeg_exe', nothing_found)
    assert main(['evaluate', str(run), '--video', str(tmp_path / 'clips')]) == 1
    assert 'pip install imageio-ffmpeg' in capsys.readouterr().err
