# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads from a stand-in for the Hugging Face hub that fails in all the ways servers do."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest

import common_helpers
from http_helpers import Fault, dataset_bytes, serving
from omnisafe_qpt import cli
from omnisafe_qpt.data import download as download_module
from omnisafe_qpt.data.download import check_unchanged, download, download_url
from omnisafe_qpt.data.tasks import all_tasks, find_task
from omnisafe_qpt.errors import UserError


TASK = find_task('BallRun')
PATH = TASK.url.removeprefix('https://huggingface.co')
FIRST = dataset_bytes(TASK, transitions=20_000, seed=1)
SECOND = dataset_bytes(TASK, transitions=20_000, seed=2)
HALF = len(FIRST) // 2
BLOCK = 1 << 14


@pytest.fixture(name='server')
def fixture_server():
    with serving(FIRST) as server:
        yield server


@pytest.fixture(name='folder')
def fixture_folder(tmp_path, monkeypatch):
    folder = tmp_path / 'the data'
    monkeypatch.setenv('DSRL_DATASET_DIR', str(folder))
    return folder


def final_path(folder):
    return folder / TASK.dataset_file


def part_path(folder, content=FIRST):
    return folder / f'{TASK.dataset_file}.{hashlib.sha256(content).hexdigest()[:16]}.part'


def check_complete(folder, content):
    """Only the file and its hash are there, and the lock."""
    assert final_path(folder).read_bytes() == content
    assert sorted(path.name for path in folder.iterdir()) == [
        f'.{TASK.dataset_file}.lock',
        TASK.dataset_file,
        f'{TASK.dataset_file}.sha256',
    ]


error_of = functools.partial(common_helpers.error_of, download, TASK)


def check_ways_out(message, folder):
    """The message holds a command that fetches the file to the right place."""
    words = shlex.split(message[message.index('curl') :])
    assert words[words.index('-o') + 1] == str(final_path(folder))
    assert words[-1] == download_url(TASK)
    assert {'-fL', '-C', '--create-dirs'} <= set(words)


# ------------------------------------------------------------------------------ when all is well


def test_a_dataset_comes_once_with_its_hash_and_nothing_else(server, folder, capsys, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'secret')
    dataset = download(TASK, folder)
    assert (dataset.path, dataset.is_new) == (final_path(folder), True)
    assert dataset.sha256 == hashlib.sha256(FIRST).hexdigest()
    check_complete(folder, FIRST)
    assert server.paths == [PATH]
    assert not any('secret' in str(headers) for headers in server.asked), 'all may have the file'
    assert f'BallRun: 1.5 MB from {download_url(TASK)}' in capsys.readouterr().err
    assert download(TASK, folder) == replace(dataset, is_new=False)
    assert server.paths == [PATH]
    other = folder / 'other'
    other.touch()
    assert dataset.path.stat().st_mode == other.stat().st_mode


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='needs sha256sum')
def test_the_recorded_hash_is_what_sha256sum_checks(server, folder):
    download(TASK, folder)
    command = ['sha256sum', '--check', '--strict', f'{TASK.dataset_file}.sha256']
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f'{TASK.dataset_file}: OK\n'), ran.stderr


def test_a_hash_other_than_the_announced_one_is_refused(server, folder):
    server.version = 'ab' * 32
    message = error_of(folder)
    assert server.version in message
    assert hashlib.sha256(FIRST).hexdigest() in message
    assert os.listdir(folder) == [f'.{TASK.dataset_file}.lock']
    server.version = None
    download(TASK, folder)
    check_complete(folder, FIRST)


# ------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize('stalls', [False, True])
def test_a_broken_download_goes_on_where_it_was(server, folder, stalls):
    server.faults = [Fault(after=HALF, stalls=stalls), Fault(after=HALF // 2)]
    download(TASK, folder)
    check_complete(folder, FIRST)
    assert server.ranges[0] is None
    starts = [int(asked.removeprefix('bytes=').removesuffix('-')) for asked in server.ranges[1:]]
    # A block that was not complete may be lost.
    assert HALF - BLOCK <= starts[0] <= HALF
    assert starts[0] < starts[1] < len(FIRST)
    assert server.sent <= len(FIRST) + 2 * BLOCK


def test_a_failed_download_goes_on_the_next_time(server, folder):
    server.faults = [Fault(after=HALF), Fault(status=503)]
    message = error_of(folder)
    assert '503' in message
    check_ways_out(message, folder)
    kept = part_path(folder).stat().st_size
    assert kept >= HALF - BLOCK
    download(TASK, folder)
    assert server.ranges[-1] == f'bytes={kept}-'
    check_complete(folder, FIRST)


@pytest.mark.parametrize(
    'then',
    [
        {'content': SECOND},
        {'has_ranges': False},
        {'version': 'ab' * 20},  # git's hash, by which the hub names small files
    ],
    ids=['content', 'ranges', 'version'],
)
def test_what_cannot_go_on_starts_again(server, folder, then):
    server.version = then.get('version')
    server.faults = [Fault(after=HALF), Fault(status=503)]
    error_of(folder)
    vars(server).update(then)
    download(TASK, folder)
    check_complete(folder, server.content)


@pytest.mark.parametrize('damaged', [SECOND[:HALF], SECOND, FIRST + b'more'])
def test_a_damaged_partial_file_is_found_and_dropped(server, folder, damaged):
    folder.mkdir()
    part_path(folder).write_bytes(damaged)
    if len(damaged) <= len(FIRST):
        assert 'sha256' in error_of(folder)
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_a_download_stopped_after_its_last_byte_sends_for_nothing(server, folder):
    folder.mkdir()
    part_path(folder).write_bytes(FIRST)
    download(TASK, folder)
    assert server.paths == []
    check_complete(folder, FIRST)


# -------------------------------------------------------------------------------------- failing


@pytest.mark.parametrize('status', [401, 404])
def test_what_is_not_to_be_had_is_asked_for_once_and_one_line(server, folder, capsys, status):
    server.hub_faults = [Fault(status=status)]
    assert cli.main(['data', 'download', 'BallRun']) == 1
    output, errors = capsys.readouterr()
    assert (output, len(errors.splitlines())) == ('', 1)
    assert errors.startswith('Error: ')
    assert str(status) in errors
    assert TASK.env_id in errors
    check_ways_out(errors, folder)
    assert len(server.asked) == 1
    assert os.listdir(folder) == [f'.{TASK.dataset_file}.lock']


@pytest.mark.timeout(60)
def test_the_endless_text_of_an_error_is_not_read(server, folder):
    start = b'HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n'
    server.faults = [Fault(raw=start, endlessly=bytes(1 << 16))]
    assert '404' in error_of(folder)
    assert not (folder / TASK.dataset_file).exists()


@pytest.mark.parametrize('status', [429, 500, 503])
def test_a_failure_that_may_pass_is_tried_again(server, folder, status):
    server.hub_faults = [Fault(status=status)] * 3
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_without_a_network_there_is_one_line(server, folder, monkeypatch):
    with socket.socket() as free:  # a port that nothing listens on
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{free.getsockname()[1]}')
        message = error_of(folder)
    assert '(Connection refused)' in message
    check_ways_out(message, folder)


def test_offline_mode_asks_nobody_and_uses_what_is_there(server, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert 'HF_HUB_OFFLINE' in error_of(folder)
    final_path(folder).write_bytes(FIRST)
    assert not download(TASK, folder).is_new
    assert server.asked == []


@pytest.mark.parametrize('mirror', ['nonsense', 'nonsense:80', 'ftp://', 'http://', 'http://['])
def test_a_mirror_that_is_no_address_is_one_line(server, folder, monkeypatch, mirror):
    monkeypatch.setenv('HF_ENDPOINT', mirror)
    check_ways_out(error_of(folder), folder)


def test_without_a_mirror_the_address_is_the_tables(monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', '')
    assert download_url(TASK) == TASK.url
    monkeypatch.setenv('HF_ENDPOINT', 'https://mirror.example/hf/')
    for task in all_tasks():
        path = task.url.removeprefix('https://huggingface.co')
        assert download_url(task) == 'https://mirror.example/hf' + path


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'<html>Please log in</html>', 'not a readable HDF5 file'),
        (FIRST[:HALF], 'not a readable HDF5 file'),
        (dataset_bytes(replace(TASK, obs_dim=8)), '(400, 8)'),
        (dataset_bytes(TASK, actions=np.zeros((400, 3))), 'actions'),
        (dataset_bytes(TASK, observations=np.zeros(400)), 'observations'),
        (dataset_bytes(TASK, costs=None), "'costs' is missing"),
        (dataset_bytes(TASK, costs=np.zeros(399)), 'differ in length'),
        (dataset_bytes(TASK, transitions=0), 'empty'),
    ],
)
def test_what_is_no_dataset_of_the_task_never_gets_its_name(server, folder, content, expected):
    server.content = content
    message = error_of(folder)
    assert expected in message
    check_ways_out(message, folder)
    assert os.listdir(folder) == [f'.{TASK.dataset_file}.lock']


def answer(*headers, status='200 OK', body=b'', endlessly=b''):
    first = '\r\n'.join([f'HTTP/1.1 {status}', *headers, '', '']).encode('latin-1')
    return Fault(raw=first + body, endlessly=endlessly)


def redirect(target):
    return answer(f'Location: {target}', 'Content-Length: 0', status='302 Found')


BOMB = gzip.compress(bytes(50_000_000))
HOSTILE = {
    'endless': answer(endlessly=bytes(1 << 16)),
    'endless header': Fault(raw=b'HTTP/1.1 200 OK\r\nX: ', endlessly=b'a' * (1 << 16)),
    'gzip': answer('Content-Encoding: gzip', body=BOMB),
    'huge length': answer(f'Content-Length: {10**15}', endlessly=bytes(1 << 16)),
    'length too small': answer('Content-Length: 100', body=FIRST),
    'cut short': answer(body=FIRST[:HALF]),
    'bad chunk': answer('Transfer-Encoding: chunked', body=b'-5\r\nabc\r\n'),
    'page': answer('Content-Type: text/html', body=b'<html>Please log in</html>'),
    'no HTTP': Fault(raw=b'\0\xff' * 99),
    'nothing': Fault(raw=b''),
    'escapes': answer('Content-Length: 0', status='499 \x1b]0;owned\x07'),
    'unasked part': answer('Content-Range: bytes 5-9/10', status='206 Partial', body=FIRST[:5]),
    'to a file': redirect('file:///etc/passwd'),
    'to no address': redirect('http://['),
    'to no port': redirect('http://\xff\xfe:99999999/'),
    'to far': redirect('x' * 60_000),
    'to itself': redirect('/storage/again'),
}


@pytest.mark.parametrize('host', ['hub_faults', 'faults'])
@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_answers_are_one_line_and_leave_nothing_wrong(server, folder, host, name):
    setattr(server, host, [HOSTILE[name]] * 500)
    check_ways_out(error_of(folder), folder)
    names = {path.name for path in folder.iterdir()} - {f'.{TASK.dataset_file}.lock'}
    assert names <= {part_path(folder).name}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= len(FIRST)
    setattr(server, host, [])
    download(TASK, folder)
    check_complete(folder, FIRST)


@pytest.mark.parametrize('size', ['-5', '0x10', 'NaN', str(10**15), '9' * 400])
def test_a_size_that_the_dataset_cannot_have_is_refused(server, folder, size):
    server.size = size
    check_ways_out(error_of(folder), folder)
    assert server.paths == []


@pytest.mark.parametrize('version', ['../../../etc/passwd', 'W/"weak"', 'AB' * 32 + '\x1b[2J'])
def test_a_version_that_is_none_is_refused(server, folder, version):
    server.version = version
    check_ways_out(error_of(folder), folder)
    assert os.listdir(folder) == [f'.{TASK.dataset_file}.lock']


# ---------------------------------------------------------------------------- the recorded hash


def test_a_file_that_changed_is_refused_and_kept(server, folder):
    path = download(TASK, folder).path
    path.write_bytes(SECOND)
    for check in (lambda: download(TASK, folder), lambda: check_unchanged(TASK, path)):
        with pytest.raises(UserError, match='has changed') as caught:
            check()
        assert str(path) in str(caught.value)
    assert path.read_bytes() == SECOND
    assert server.paths == [PATH]


def test_the_command_reads_the_file_and_training_only_if_its_time_or_size_differ(server, folder):
    path = download(TASK, folder).path
    os.utime(path, ns=(1, 1))  # as a copy has
    check_unchanged(TASK, path)
    path.write_bytes(FIRST[:-1] + bytes([FIRST[-1] ^ 1]))
    os.utime(path, ns=(1, 1))
    check_unchanged(TASK, path)  # which would see this if it read the file again
    assert 'has changed' in error_of(folder)


def test_a_file_put_there_by_hand_is_checked_and_recorded(server, folder):
    folder.mkdir()
    part_path(folder).write_bytes(FIRST[:HALF])
    final_path(folder).write_bytes(SECOND)
    check_unchanged(TASK, final_path(folder))
    dataset = download(TASK, folder)
    assert (dataset.is_new, dataset.sha256) == (False, hashlib.sha256(SECOND).hexdigest())
    names = {path.name for path in folder.iterdir()}
    assert names == {TASK.dataset_file, f'{TASK.dataset_file}.sha256'}
    final_path(folder).write_bytes(FIRST)
    assert 'has changed' in error_of(folder)
    assert server.asked == []


def test_a_bad_file_put_there_by_hand_is_refused_and_kept(server, folder):
    folder.mkdir()
    final_path(folder).write_bytes(FIRST[:HALF])
    message = error_of(folder)
    assert str(final_path(folder)) in message
    assert 'delete the file' in message
    assert final_path(folder).read_bytes() == FIRST[:HALF]
    assert os.listdir(folder) == [TASK.dataset_file]


def test_a_file_that_is_another_than_last_time_is_pointed_out(server, folder, capsys):
    path = download(TASK, folder).path
    path.unlink()
    server.content = SECOND
    download(TASK, folder)
    assert hashlib.sha256(FIRST).hexdigest() in capsys.readouterr().err
    check_complete(folder, SECOND)


# --------------------------------------------------------------------------------- on this side


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_is_one_line(server, folder):
    folder.mkdir()
    part_path(folder).symlink_to('/dev/full')
    message = error_of(folder)
    assert str(final_path(folder)) in message
    assert 'No space left on device' in message
    assert 'curl' not in message
    assert not final_path(folder).exists()


def test_a_file_that_would_not_fit_is_not_begun(server, folder, monkeypatch):
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(
        download_module.shutil, 'disk_usage', lambda _: usage._replace(free=len(FIRST) - 1)
    )
    assert 'free' in error_of(folder)
    assert server.sent == 0
    assert not part_path(folder).exists()


def test_a_folder_that_cannot_be_made_is_one_line(server, folder):
    folder.write_text('no folder')
    assert str(folder) in error_of(folder)
    assert folder.read_text() == 'no folder'
    assert server.asked == []


# ----------------------------------------------------------------------------- the command line


def start(*options):
    """Run the command in a process of its own, which writes each small block at once."""
    code = (
        'from huggingface_hub import constants; from omnisafe_qpt.cli import main; '
        f'constants.DOWNLOAD_CHUNK_SIZE = {BLOCK}; raise SystemExit(main())'
    )
    command = [sys.executable, '-c', code, 'data', 'download', *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        threading.Event().wait(0.01)


def has_come(folder, size):
    return part_path(folder).is_file() and part_path(folder).stat().st_size >= size


@pytest.mark.parametrize(
    ('number', 'status'),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)],
)
def test_a_killed_process_leaves_what_it_had_and_the_next_goes_on(server, folder, number, status):
    server.faults = [Fault(after=HALF, stalls=True)]
    process = start('BallRun')
    wait_for(lambda: has_come(folder, HALF // 2), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    if number == signal.SIGINT:
        assert 'the same command' in errors
        assert 'Traceback' not in errors
    assert not final_path(folder).exists()
    kept = part_path(folder).stat().st_size
    assert kept >= HALF // 2
    process = start('SafetyBallRun-v0')
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output == f'BallRun: downloaded, 1.5 MB, {final_path(folder)}\n'
    assert server.ranges[-1] == f'bytes={kept}-'
    check_complete(folder, FIRST)


def test_two_processes_bring_one_file(server, folder):
    server.gate.clear()
    first = start('BallRun')
    wait_for(part_path(folder).is_file, first)
    second = start('BallRun')
    assert 'another process' in second.stderr.readline()
    assert part_path(folder).stat().st_size == 0
    server.gate.set()
    for process, state in ((first, 'downloaded'), (second, 'unchanged')):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output == f'BallRun: {state}, 1.5 MB, {final_path(folder)}\n'
    assert server.paths == [PATH]
    check_complete(folder, FIRST)


@pytest.mark.skipif(shutil.which('curl') is None, reason='needs curl')
def test_the_command_in_the_message_fetches_the_file(server, folder):
    server.faults = [Fault(status=404), Fault(status=404), Fault(after=HALF)]
    message = error_of(folder)  # which has an empty part beside it
    command = ['bash', '-c', message[message.index('curl') :]]
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert not final_path(folder).exists(), 'an error page is no dataset'
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert final_path(folder).stat().st_size == HALF
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not download(TASK, folder).is_new
    check_complete(folder, FIRST)


def test_several_tasks_go_on_after_a_failure(server, folder, tmp_path, capsys):
    server.missing = {find_task('CarRun').dataset_file}
    elsewhere = tmp_path / 'elsewhere'
    report = tmp_path / 'report.json'
    options = ['BallRun', 'CarRun', 'BallRun', '--folder', str(elsewhere)]
    assert cli.main(['data', 'download', *options, '--json', str(report)]) == 1
    output, errors = capsys.readouterr()
    assert output.splitlines() == [
        f'2 datasets: 2 to download to {elsewhere}, at most 17.9 MB',
        f'BallRun: downloaded, 1.5 MB, {elsewhere / TASK.dataset_file}',
    ]
    assert '404' in next(line for line in errors.splitlines() if line.startswith('CarRun: '))
    assert errors.splitlines()[-1].startswith('Error: 1 of 2 datasets')
    assert not folder.exists()
    rows = json.loads(report.read_text())
    assert [row['state'] for row in rows] == ['downloaded', 'failed']
    assert rows[0]['sha256'] == hashlib.sha256(FIRST).hexdigest()
    assert (rows[0]['bytes'], rows[0]['error']) == (len(FIRST), None)
    assert rows[1]['path'] is None
    assert '404' in rows[1]['error']


@pytest.mark.parametrize(
    ('options', 'count', 'size'),
    [(['--suite', 'bullet_safety_gym'], 8, '1.3 GB'), (['--all'], 38, '45.9 GB')],
)
def test_whole_suites_are_asked_for(folder, monkeypatch, capsys, options, count, size):
    asked = []
    monkeypatch.setattr(
        download_module, 'download', lambda task, where: asked.append(task) or refuse()
    )
    assert cli.main(['data', 'download', *options]) == 1
    assert asked == [task for task in all_tasks() if count == 38 or task.suite in options]
    estimate = capsys.readouterr().out.splitlines()[0]
    assert estimate == f'{count} datasets: {count} to download to {folder}, at most {size}'


def refuse():
    raise UserError('no')


@pytest.mark.parametrize('options', [[], ['BallRun', '--all'], ['--all', '--suite', 'metadrive']])
def test_one_way_to_name_tasks_is_needed(options, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(['data', 'download', *options])
    assert caught.value.code == 2
    assert '--suite' in capsys.readouterr().err


def test_an_unknown_task_is_refused_before_any_download(server, folder, capsys):
    assert cli.main(['data', 'download', 'BallRun', 'BalRun']) == 1
    errors = capsys.readouterr().err
    assert "'BalRun'" in errors
    assert 'BallRun' in errors
    assert server.asked == []
