# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Full disks, limits on file sizes, folders that cannot be written or that go: one line each."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from host_helpers import ENV_ID, only_run, small_options
from omnisafe_qpt.cli import main
from omnisafe_qpt.collect.episodes import Episode
from omnisafe_qpt.collect.store import EpisodeStore
from omnisafe_qpt.data import atomic
from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.errors import UserError, WriteError
from omnisafe_qpt.runs.checkpoint import load_file
from omnisafe_qpt.runs.training_state import TRAINING_STATE_FILE, save_training_state
from omnisafe_qpt.training.epoch_evaluation import EpochEvaluation
from omnisafe_qpt.training.trainer import Trainer


@contextmanager
def size_limit(most: int) -> Any:
    """Let files of this process grow to so many bytes, as ``ulimit -f`` does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of a megabyte; only root may have one."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)]
    with suppress(OSError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(['umount', '-l', str(folder)], check=False)
            return
    pytest.skip('a small disk cannot be mounted here')


def one_line(error: BaseException, *parts: str) -> None:
    text = str(error)
    assert text.isprintable()
    for part in parts:
        assert part in text


def check_only_the_old(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------------- one file


def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'result.bin'
    path.write_bytes(b'before')
    with (
        pytest.raises(WriteError) as caught,
        size_limit(50_000),
        atomic_path(path) as temporary,
    ):
        temporary.write_bytes(bytes(200_000))
    one_line(caught.value, str(path), 'ulimit -f')
    check_only_the_old(path, b'before')


def test_a_state_that_does_not_fit_is_one_line_and_the_one_before_stays(tmp_path: Path) -> None:
    save_training_state(tmp_path, {'version': 1})
    state = {'weights': torch.zeros(99_999)}
    with pytest.raises(WriteError) as caught, size_limit(50_000):
        save_training_state(tmp_path, state)
    one_line(caught.value, TRAINING_STATE_FILE, 'File too large')
    path = tmp_path / TRAINING_STATE_FILE
    assert load_file(path) == {'version': 1}
    save_training_state(tmp_path, state)
    assert load_file(path)['weights'].shape == (99_999,)


def test_a_full_disk_says_how_much_is_free(small_disk: Path) -> None:
    path = small_disk / 'state.pt'
    path.write_bytes(b'before')
    with pytest.raises(WriteError) as caught, atomic_path(path) as temporary:
        temporary.write_bytes(bytes(2_000_000))
    one_line(caught.value, str(path), 'No space left', 'bytes are free')
    check_only_the_old(path, b'before')


def test_a_dataset_that_does_not_fit_is_one_line(tmp_path: Path, make_arrays: Any) -> None:
    path = tmp_path / 'data.hdf5'
    with pytest.raises(UserError) as caught, size_limit(100_000):
        write_hdf5(path, make_arrays([2000] * 3))
    one_line(caught.value, str(path))
    assert not list(tmp_path.iterdir())


def test_an_episode_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    episode = Episode(
        number=0,
        kind='bold',
        states=np.zeros((999, 99), np.float32),
        actions=np.zeros((998, 2), np.float32),
        rewards=np.zeros(998, np.float32),
        costs=np.zeros(998, np.float32),
        terminated=False,
    )
    out = tmp_path / 'mine.hdf5'
    with EpisodeStore(out, {}, overwrite=False) as store:
        with pytest.raises(WriteError) as caught, size_limit(10_000):
            store.add(episode)
        one_line(caught.value, 'episode-000000.npz', 'File too large')
        store.add(episode)
    with EpisodeStore(out, {}, overwrite=False) as store:
        assert list(store.finished) == [0]


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(WriteError) as caught, atomic_path(tmp_path / 'file' / 'a' / 'b.json'):
        pass
    one_line(caught.value, 'b.json')


def test_a_folder_removed_while_a_file_is_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'run' / 'state.pt'
    with pytest.raises(WriteError) as caught, atomic_path(path):
        shutil.rmtree(path.parent)
    one_line(caught.value, str(path))


def test_other_errors_in_the_block_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_path(tmp_path / 'a'):
        raise KeyError('a')
    with pytest.raises(UserError, match=r'^mine$'), atomic_path(tmp_path / 'a'):
        raise UserError('mine')
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open('/dev/full', 'w', encoding='utf-8') as full:
        done = subprocess.run(
            [sys.executable, '-m', 'omnisafe_qpt.cli', 'tasks'],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert 'No space left' in done.stderr.splitlines()[0]
    assert 'Traceback' not in done.stderr


# ---------------------------------------------------------------------- training


def make_agent(dataset: Path, log_dir: Path, **train_cfgs: Any) -> Any:
    import omnisafe

    return omnisafe.Agent('QPT', ENV_ID, custom_cfgs=small_options(dataset, log_dir, **train_cfgs))


def test_the_log_folder_is_checked_before_the_data(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError('the data are read')

    monkeypatch.setattr('omnisafe_qpt.data.trajectories.Trajectories.load', load)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError) as caught:
        make_agent(dataset, tmp_path / 'file' / 'runs')
    one_line(caught.value, 'log_dir', str(tmp_path / 'file' / 'runs'))
    with pytest.raises(UserError) as caught, size_limit(1000):
        make_agent(dataset, tmp_path / 'new' / 'runs')
    one_line(caught.value, 'log_dir', 'File too large')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


class _Full:
    """Writes fail from some point on, as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
        original = atomic._temporary_file

        @contextmanager
        def temporary_file(path: Path) -> Any:
            with original(path) as temporary:
                if path.name.endswith(suffix):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                yield temporary

        monkeypatch.setattr(atomic, '_temporary_file', temporary_file)


@pytest.mark.parametrize('suffix', ['training_state.pt', 'epoch-2.pt', 'best.json'])
def test_a_run_goes_on_when_there_is_room_again(
    dataset: Path,
    tmp_path: Path,
    suffix: str,
) -> None:
    agent = make_agent(dataset, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        original = EpochEvaluation.run

        def evaluate(self: EpochEvaluation, is_last: bool, rows: Any) -> Any:
            evaluated = original(self, is_last, rows)
            if is_last == (suffix == 'epoch-2.pt'):
                _Full(patch, suffix)
            return evaluated

        patch.setattr(EpochEvaluation, 'run', evaluate)
        with pytest.raises(WriteError) as caught:
            agent.learn()
    one_line(caught.value, str(only_run(tmp_path)), 'No space left', 'omnisafe train', 'resume')
    make_agent(dataset, tmp_path, resume=str(only_run(tmp_path))).learn()
    with pytest.raises(UserError, match='nothing is left'):
        make_agent(dataset, tmp_path, resume=str(only_run(tmp_path)))
    assert len((only_run(tmp_path) / 'progress.csv').read_text().splitlines()) == 3


def test_a_run_folder_that_was_removed_is_one_line(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(dataset, tmp_path)
    original = EpochEvaluation.run

    def evaluate(self: EpochEvaluation, is_last: bool, rows: Any) -> Any:
        shutil.rmtree(only_run(tmp_path))
        return original(self, is_last, rows)

    monkeypatch.setattr(EpochEvaluation, 'run', evaluate)
    with pytest.raises(WriteError) as caught:
        agent.learn()
    one_line(caught.value, 'has been removed')
    assert not list(tmp_path.glob('*/seed-*')), 'and no new one is made of a part'


def test_a_progress_file_that_cannot_grow_is_one_line(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(dataset, tmp_path)
    run, original = only_run(tmp_path), Trainer._log_row

    def log_row(self: Trainer, values: dict[str, float]) -> None:
        with size_limit((run / 'progress.csv').stat().st_size + 10):
            original(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, '_log_row', log_row)
        with pytest.raises(WriteError) as caught:
            agent.learn()
    one_line(caught.value, 'progress.csv', 'File too large')
    make_agent(dataset, tmp_path, resume=str(run)).learn()
    assert len((run / 'progress.csv').read_text().splitlines()) == 3


def test_events_of_tensorboard_that_cannot_be_written_are_one_line(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import omnisafe
    from tensorboard.summary.writer.record_writer import RecordWriter

    def flush(self: RecordWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    options = small_options(dataset, tmp_path)
    options['logger_cfgs']['use_tensorboard'] = True
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options)
    monkeypatch.setattr(RecordWriter, 'flush', flush)
    with pytest.raises(WriteError) as caught:
        agent.learn()
    one_line(caught.value, 'No space left')
    assert 'Traceback' not in capfd.readouterr().err


# ---------------------------------------------------------------------- results of commands


def test_figures_and_pages_that_cannot_be_written_are_one_line(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (
        ['data', 'plot', str(dataset), '--out', str(tmp_path / 'plot.png')],
        ['data', 'convert', str(dataset), str(tmp_path / 'out.npz')],
        ['data', 'info', str(dataset), '--json', str(tmp_path / 'info.json')],
    ):
        with size_limit(10):
            status = main(arguments)
        assert status == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if 'Error' in line]
        assert arguments[-1] in line
        assert not list(tmp_path.iterdir())


def test_python_ignores_the_signal_of_file_size_limits() -> None:
    """Or else a limit would end the process without a word."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
