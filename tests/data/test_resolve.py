# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""From a dataset's name to its file; what a download may meet is in test_download.py."""

from __future__ import annotations

import functools
import os
import shlex
import socket
from pathlib import Path

import pytest

import common_helpers
from http_helpers import Fault, dataset_bytes, impatience, serving
from omnisafe_qpt.data import resolve
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.download import download
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.resolve import (
    SAMPLE_ENV_IDS,
    DatasetSource,
    cache_folder,
    find_dataset_file,
    identify_task,
    resolve_dataset,
    sample_file,
)
from omnisafe_qpt.data.tasks import all_tasks, find_task
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


BALL_RUN = find_task('BallRun')
CAR_BUTTON = find_task('CarButton1')
CONTENT = dataset_bytes(BALL_RUN)


@pytest.fixture(name='server')
def fixture_server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture(name='no_network')
def fixture_no_network(monkeypatch):
    # A port that nothing listens on.
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{free.getsockname()[1]}')
        yield


@pytest.fixture(name='cache', autouse=True)
def fixture_cache(tmp_path, monkeypatch):
    """Give an empty cache, and no way past this computer."""
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    folder = tmp_path / 'the cache'
    monkeypatch.setenv('DSRL_DATASET_DIR', str(folder))
    with impatience():
        yield folder


error_of = functools.partial(common_helpers.error_of, resolve_dataset)


@pytest.mark.parametrize('name', ['mine.hdf5', 'mine.h5', 'mine.npz'])
def test_a_path_is_itself(tmp_path, name):
    path = tmp_path / name
    path.touch()
    assert resolve_dataset(str(path), 'Any-v0') == DatasetSource(path, 'mine')


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.hdf5').touch()
    assert resolve_dataset('~/mine.hdf5', 'Any-v0').path == tmp_path / 'mine.hdf5'
    monkeypatch.setenv('DSRL_DATASET_DIR', '~/sets')
    assert cache_folder() == tmp_path / 'sets'
    for unset in (lambda name: monkeypatch.setenv(name, ''), monkeypatch.delenv):
        unset('DSRL_DATASET_DIR')
        assert cache_folder() == tmp_path / '.dsrl' / 'datasets'


def test_a_path_that_is_not_there_is_named(tmp_path):
    path = tmp_path / 'mine.hdf5'
    message = error_of(str(path), 'SafetyBallRun-v0')
    assert str(path) in message
    assert 'no such dataset file' in message


def test_an_unknown_name_is_refused_with_the_known_ones():
    message = error_of('smaple', 'SafetyCarButton1-v0')
    for part in ("'smaple'", "'auto'", "'sample'", '.hdf5', '.npz'):
        assert part in message


@pytest.mark.parametrize('env_id', ['SafetyBallCircle-v0', 'SafetyCarButton1-v0'])
def test_the_sample_is_a_file_of_the_package_of_that_environment(env_id):
    source = resolve_dataset('sample', env_id)
    assert source == DatasetSource(sample_file(env_id), 'sample')
    assert source.path.is_relative_to(Path(resolve.__file__).parent)
    task = find_task(env_id)
    loaded = Trajectories.load(source.path, horizon=task.horizon)
    assert (loaded.obs_dim, loaded.act_dim) == (task.obs_dim, task.act_dim)
    assert read_attributes(source.path)['env_id'] == env_id


def test_every_sample_in_the_package_has_its_environment():
    folder = sample_file(SAMPLE_ENV_IDS[0]).parent
    files = {path for path in folder.iterdir() if path.suffix == '.hdf5'}
    assert files == {sample_file(env_id) for env_id in SAMPLE_ENV_IDS}
    assert sum(path.stat().st_size for path in files) <= 9_000_000


@pytest.mark.parametrize('env_id', ['SafetyBallRun-v0', 'SafetyBallCircle-v1', 'BallCircle', ''])
def test_an_environment_without_a_sample_is_refused_with_those_that_have_one(env_id):
    message = error_of('sample', env_id)
    for part in (*SAMPLE_ENV_IDS, env_id, 'train_cfgs:dataset'):
        assert part in message


def test_auto_takes_what_is_in_the_cache(cache, server):
    cache.mkdir()
    path = cache / BALL_RUN.dataset_file
    path.touch()
    source = resolve_dataset('auto', BALL_RUN.env_id)
    assert source == DatasetSource(path, path.stem, warning=None)
    assert server.asked == []


@pytest.mark.parametrize('task', all_tasks(), ids=lambda task: task.name)
def test_auto_loads_the_file_of_every_task_from_the_cache(cache, server, make_arrays, task):
    lengths = [task.horizon, task.horizon]
    arrays = make_arrays(lengths, obs_dim=task.obs_dim, act_dim=task.act_dim)
    cache.mkdir()
    write_hdf5(cache / task.dataset_file, arrays)
    path = resolve_dataset('auto', task.env_id).path
    assert not download(task, cache).is_new
    loaded = Trajectories.load(path, horizon=task.horizon)
    assert (loaded.obs_dim, loaded.act_dim) == (task.obs_dim, task.act_dim)
    assert loaded.returns.tolist() == pytest.approx(
        [arrays['rewards'][: task.horizon].sum(), arrays['rewards'][task.horizon :].sum()],
        rel=1e-4,
        abs=1e-3,
    )
    assert server.asked == []


def test_auto_downloads_once(cache, server):
    source = resolve_dataset('auto', BALL_RUN.env_id)
    assert source.warning is None
    assert source.name == BALL_RUN.dataset_file.removesuffix('.hdf5')
    assert source.path == cache / BALL_RUN.dataset_file
    assert source.path.read_bytes() == CONTENT
    assert resolve_dataset('auto', BALL_RUN.env_id) == source
    assert server.paths == [BALL_RUN.url.removeprefix('https://huggingface.co')]


def test_auto_refuses_what_is_not_the_file_that_came(server):
    path = resolve_dataset('auto', BALL_RUN.env_id).path
    path.write_bytes(dataset_bytes(BALL_RUN, seed=1))
    message = error_of('auto', BALL_RUN.env_id)
    assert str(path) in message
    assert 'has changed' in message
    assert resolve_dataset(str(path), BALL_RUN.env_id).path == path
    assert len(server.paths) == 1


def check_ways_out(message, server_url, cache):
    """The message is a recipe: its command fetches this file to where it is looked for."""
    assert BALL_RUN.env_id in message
    assert 'train_cfgs:dataset' in message
    words = shlex.split(message[message.index('curl ') :])
    assert words[words.index('-o') + 1] == str(cache / BALL_RUN.dataset_file)
    path = BALL_RUN.url.removeprefix('https://huggingface.co')
    assert f'{server_url}{path}' in words


def test_a_file_that_the_host_has_not_is_one_error(cache, server):
    server.hub_faults = [Fault(status=404)]
    message = error_of('auto', BALL_RUN.env_id)
    assert 'Not Found' in message
    check_ways_out(message, server.url, cache)


def test_a_cache_that_cannot_be_written_is_one_error(cache, server):
    cache.write_text('no folder')
    message = error_of('auto', BALL_RUN.env_id)
    assert str(cache) in message
    assert 'train_cfgs:dataset' in message


@pytest.mark.usefixtures('no_network')
def test_without_a_network_there_is_one_error(cache):
    message = error_of('auto', BALL_RUN.env_id)
    assert 'cannot be downloaded' in message
    check_ways_out(message, os.environ['HF_ENDPOINT'], cache)


@pytest.mark.usefixtures('no_network')
@pytest.mark.parametrize('env_id', SAMPLE_ENV_IDS)
def test_without_a_network_the_sample_stands_in_with_a_warning(env_id):
    source = resolve_dataset('auto', env_id)
    assert (source.path, source.name) == (sample_file(env_id), 'sample')
    assert 'SAMPLE' in source.warning
    assert 'not for results' in source.warning
    assert 'curl -fL' in source.warning


def test_the_sample_does_not_stand_in_for_what_can_be_had(cache, server):
    server.content = dataset_bytes(CAR_BUTTON)
    source = resolve_dataset('auto', CAR_BUTTON.env_id)
    assert source == DatasetSource(cache / CAR_BUTTON.dataset_file, source.path.stem)
    assert source.path.read_bytes() == server.content
    assert len(server.paths) == 1


def test_an_environment_without_a_dsrl_dataset_needs_a_file():
    message = error_of('auto', 'SafetyRacecarButton1-v0')
    assert 'SafetyRacecarButton1-v0' in message
    assert 'train_cfgs:dataset' in message


def test_every_dsrl_file_is_known_by_its_name_and_by_its_ids():
    for task in all_tasks():
        assert identify_task(f'some/{task.dataset_file}', {}) == task
        for env_id in (task.env_id, task.dsrl_env_id):
            assert identify_task('mine.hdf5', {'env_id': env_id}) == task


@pytest.mark.parametrize(
    ('name', 'attributes', 'expected'),
    [
        ('BallCircle-local-600.hdf5', {}, 'BallCircle'),
        ('my_ballcircle.v2.npz', {}, 'BallCircle'),
        ('myballcircle.npz', {}, None),
        ('CarRun-and-BallRun.hdf5', {}, None),
        ('CarRun.hdf5', {'env_id': 'SafetyBallRun-v0'}, 'BallRun'),
        ('CarRun.hdf5', {'env_id': 'MyOwnEnv-v0'}, None),
        ('data.hdf5', {}, None),
    ],
)
def test_a_task_is_told_by_attribute_or_file_name(name, attributes, expected):
    task = identify_task(name, attributes)
    assert (task and task.name) == expected


def test_a_dataset_is_a_file_a_cached_task_or_the_sample(tmp_path, monkeypatch):
    monkeypatch.setenv('DSRL_DATASET_DIR', str(tmp_path))
    task = find_task('CarRun')
    with pytest.raises(UserError, match='omnisafe-qpt data download CarRun'):
        find_dataset_file('SafetyCarRun-v0')
    (tmp_path / task.dataset_file).touch()
    for name in ('CarRun', 'SafetyCarRun-v0', task.dsrl_env_id, str(tmp_path / task.dataset_file)):
        assert find_dataset_file(name) == tmp_path / task.dataset_file
    assert find_dataset_file('sample') == sample_file('SafetyBallCircle-v0')
    for env_id in SAMPLE_ENV_IDS:
        for name in (env_id, find_task(env_id).name):
            assert find_dataset_file(f'sample:{name}') == sample_file(env_id)
    with pytest.raises(UserError, match=' and '.join(SAMPLE_ENV_IDS)):
        find_dataset_file('sample:CarRun')
    with pytest.raises(UserError, match=r"no file sample:CarRum, and DSRL has no task 'CarRum'"):
        find_dataset_file('sample:CarRum')
    with pytest.raises(UserError, match='is a folder'):
        find_dataset_file(str(tmp_path))
    with pytest.raises(UserError, match=r'there is no file CarRum, and .*CarRun'):
        find_dataset_file('CarRum')


def test_minaris_datasets_are_found_by_name_and_by_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    file = tmp_path / 'car' / 'goal-v0' / 'data' / 'main_data.hdf5'
    file.parent.mkdir(parents=True)
    file.write_bytes(b'data')
    env_id = 'SafetyBallRun-v0'
    assert resolve_dataset('minari:car/goal-v0', env_id) == DatasetSource(file, 'car-goal-v0')
    assert find_dataset_file('minari:car/goal-v0') == file
    folder = str(tmp_path / 'car' / 'goal-v0')
    assert resolve_dataset(folder, env_id) == DatasetSource(file, 'goal-v0')
    assert find_dataset_file(folder) == file
    with pytest.raises(UserError, match='minari download car/other-v0'):
        resolve_dataset('minari:car/other-v0', env_id)
    with pytest.raises(UserError, match='is a folder, but not one of Minari'):
        resolve_dataset(str(tmp_path), env_id)
