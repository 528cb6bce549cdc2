# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads from a real server on this computer that fails in all the ways servers do."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from http_helpers import Fault, dataset_bytes, serving
from omnisafe_qpt import cli
from omnisafe_qpt.data import download as download_module
from omnisafe_qpt.data import transfer
from omnisafe_qpt.data.download import check_unchanged, download, download_url
from omnisafe_qpt.data.tasks import all_tasks, find_task
from omnisafe_qpt.data.transfer import Patience
from omnisafe_qpt.errors import UserError


TASK = find_task('BallRun')
FIRST = dataset_bytes(TASK, transitions=20_000, seed=1)
SECOND = dataset_bytes(TASK, transitions=20_000, seed=2)
HALF = len(FIRST) // 2


@pytest.fixture(name='server')
def fixture_server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(transfer, 'PATIENCE', Patience(2.0, 0.3, (0.0, 0.0, 0.0)))
    with serving(FIRST) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        yield server


@pytest.fixture(name='folder')
def fixture_folder(tmp_path, monkeypatch):
    folder = tmp_path / 'the data'
    monkeypatch.setenv('DSRL_DATASET_DIR', str(folder))
    return folder


def final_path(folder):
    return folder / TASK.dataset_file


def part_path(folder):
    return folder / f'{TASK.dataset_file}.part'


def check_complete(folder, content):
    """Only the file and its hash are there, and the lock."""
    assert final_path(folder).read_bytes() == content
    assert sorted(path.name for path in folder.iterdir()) == [
        f'.{TASK.dataset_file}.lock',
        TASK.dataset_file,
        f'{TASK.dataset_file}.sha256',
    ]


def error_of(folder):
    with pytest.raises(UserError) as caught:
        download(TASK, folder)
    message = str(caught.value)
    assert '\n' not in message
    return message


def check_ways_out(message, folder):
    """The message holds a command that fetches the file to the right place."""
    words = shlex.split(message[message.index('curl') :])
    assert words[words.index('-o') + 1] == str(final_path(folder))
    assert words[-1] == download_url(TASK)
    assert {'-fL', '-C', '--create-dirs'} <= set(words)


def replace_sleep(monkeypatch, sleep):
    """Replace it in the module under test alone: the server sleeps too."""
    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(transfer, 'time', clock)


# ------------------------------------------------------------------------------ when all is well


def test_a_dataset_comes_with_its_hash_and_nothing_else(server, folder):
    dataset = download(TASK, folder)
    assert (dataset.path, dataset.is_new) == (final_path(folder), True)
    assert dataset.sha256 == hashlib.sha256(FIRST).hexdigest()
    check_complete(folder, FIRST)
    assert server.paths == [TASK.url.removeprefix('https://huggingface.co')]


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='needs sha256sum')
def test_the_recorded_hash_is_what_sha256sum_checks(server, folder):
    download(TASK, folder)
    command = ['sha256sum', '--check', '--strict', f'{TASK.dataset_file}.sha256']
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f'{TASK.dataset_file}: OK\n'), ran.stderr
    final_path(folder).write_bytes(SECOND)
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode != 0


def test_a_dataset_has_the_permissions_of_any_file(server, folder):
    download(TASK, folder)
    other = folder / 'other'
    other.touch()
    assert final_path(folder).stat().st_mode == other.stat().st_mode


def test_a_dataset_is_downloaded_once(server, folder):
    first = download(TASK, folder)
    second = download(TASK, folder)
    assert (second.path, second.sha256, second.is_new) == (first.path, first.sha256, False)
    assert len(server.asked) == 1


def test_the_redirect_of_hugging_face_is_followed_and_its_hash_compared(server, folder):
    server.redirects = True
    assert download(TASK, folder).sha256 == hashlib.sha256(FIRST).hexdigest()
    assert server.paths == ['/storage' + TASK.url.removeprefix('https://huggingface.co')]
    check_complete(folder, FIRST)


def test_a_hash_other_than_the_announced_one_is_refused(server, folder):
    server.redirects = True
    server.linked_sha256 = 'ab' * 32
    message = error_of(folder)
    assert 'ab' * 32 in message
    assert hashlib.sha256(FIRST).hexdigest() in message
    assert not final_path(folder).exists()
    assert not part_path(folder).exists()
    server.linked_sha256 = None
    download(TASK, folder)
    check_complete(folder, FIRST)


@pytest.mark.parametrize('etag', ['"' + 'cd' * 32 + '"', None])
def test_the_entity_tag_of_the_storage_host_is_not_taken_for_the_hash(server, folder, etag):
    server.redirects, server.etag = True, etag
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_a_file_whose_length_is_not_announced_is_taken_as_it_ends(server, folder):
    server.announces_length = False
    download(TASK, folder)
    check_complete(folder, FIRST)


# ------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize('stalls', [False, True])
@pytest.mark.parametrize('redirects', [False, True])
def test_a_broken_download_goes_on_where_it_was(server, folder, stalls, redirects, capsys):
    server.redirects = redirects
    server.faults = [Fault(after=HALF, stalls=stalls), Fault(after=HALF // 2)]
    download(TASK, folder)
    check_complete(folder, FIRST)
    assert server.ranges[0] is None
    starts = [int(asked.removeprefix('bytes=').removesuffix('-')) for asked in server.ranges[1:]]
    # A block that was not complete may be lost.
    assert HALF - (1 << 16) <= starts[0] <= HALF
    assert starts[0] < starts[1] < len(FIRST)
    # Where the redirect names the hash, that decides.
    validator = None if redirects else '"first"'
    assert all(headers.get('If-Range') == validator for _, headers in server.asked[1:])
    # A server that compresses would count the bytes of something else.
    assert all(headers['Accept-Encoding'] == 'identity' for _, headers in server.asked)
    assert server.sent <= len(FIRST) + (2 << 16)
    assert 'trying again' in capsys.readouterr().err


def test_a_failed_download_goes_on_the_next_time(server, folder):
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    message = error_of(folder)
    assert '503' in message
    check_ways_out(message, folder)
    assert not final_path(folder).exists()
    kept = part_path(folder).stat().st_size
    assert kept > HALF - (1 << 16)
    download(TASK, folder)
    assert server.ranges[-1] == f'bytes={kept}-'
    check_complete(folder, FIRST)


@pytest.mark.parametrize('heeds_if_range', [True, False])
@pytest.mark.parametrize('redirects', [False, True])
def test_a_file_that_changed_is_not_spliced(server, folder, heeds_if_range, redirects):
    server.redirects, server.heeds_if_range = redirects, heeds_if_range
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    error_of(folder)
    server.content, server.etag = SECOND, '"second"'
    download(TASK, folder)
    check_complete(folder, SECOND)


def test_a_changed_file_is_known_by_its_hash_where_there_is_no_entity_tag(server, folder):
    server.redirects, server.etag = True, None
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    error_of(folder)
    server.content = SECOND
    download(TASK, folder)
    check_complete(folder, SECOND)


def test_an_answer_that_tells_nothing_of_the_version_is_not_built_upon(server, folder):
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    error_of(folder)
    assert len(SECOND) == len(FIRST)
    server.content, server.etag, server.heeds_if_range = SECOND, None, False
    download(TASK, folder)
    check_complete(folder, SECOND)


@pytest.mark.parametrize('etags', [(None, None), ('"first"', '"of another host"')])
def test_the_announced_hash_is_enough_to_resume(server, folder, etags):
    server.redirects, server.etag = True, etags[0]
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    error_of(folder)
    server.etag = etags[1]
    download(TASK, folder)
    assert server.sent <= len(FIRST) + (1 << 16)
    check_complete(folder, FIRST)


def test_a_file_that_became_shorter_starts_again(server, folder):
    server.heeds_if_range = False
    server.faults = [Fault(after=HALF), *[Fault(status=503)] * 4]
    error_of(folder)
    server.content = dataset_bytes(TASK, transitions=200)
    server.etag = '"second"'
    download(TASK, folder)
    check_complete(folder, server.content)


@pytest.mark.parametrize('last_modified', [None, 'Sun, 22 Nov 2026 10:00:00 GMT'])
@pytest.mark.parametrize('etag', [None, 'W/"weak"'])
def test_without_a_strong_entity_tag_the_date_decides(server, folder, etag, last_modified):
    server.etag, server.heeds_if_range = etag, False
    server.headers = {} if last_modified is None else {'Last-Modified': last_modified}
    server.faults = [Fault(after=HALF)]
    download(TASK, folder)
    check_complete(folder, FIRST)
    assert server.asked[1][1].get('If-Range') == last_modified
    # Without either nothing shows that the rest would be of the same file: it starts again.
    assert (server.ranges[1] is not None) == (last_modified is not None)


def test_a_length_that_only_the_redirect_names_is_kept_to(server, folder):
    server.redirects, server.announces_length = True, False
    server.faults = [Fault(after=HALF)]
    download(TASK, folder)
    assert server.ranges[1] is not None
    check_complete(folder, FIRST)


def test_a_server_without_ranges_starts_again(server, folder, capsys):
    server.has_ranges = False
    server.faults = [Fault(after=HALF)]
    download(TASK, folder)
    check_complete(folder, FIRST)
    assert server.sent == HALF + len(FIRST)
    assert 'from the beginning' in capsys.readouterr().err


def test_bytes_of_unknown_origin_are_not_built_upon(server, folder):
    folder.mkdir()
    part_path(folder).write_bytes(SECOND[:HALF])
    download(TASK, folder)
    assert server.ranges == [None]
    check_complete(folder, FIRST)


def test_a_download_stopped_after_its_last_byte_needs_no_server(server, folder, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download_module, 'file_sha256', killed)
        with pytest.raises(KeyboardInterrupt):
            download(TASK, folder)
    assert part_path(folder).read_bytes() == FIRST
    download(TASK, folder)
    assert len(server.asked) == 1
    check_complete(folder, FIRST)


# -------------------------------------------------------------------------------------- failing


@pytest.mark.parametrize('status', [401, 403, 404, 410])
def test_what_is_not_to_be_had_is_not_asked_for_again(server, folder, status):
    server.faults = [Fault(status=status)]
    message = error_of(folder)
    assert str(status) in message
    assert TASK.env_id in message
    check_ways_out(message, folder)
    assert len(server.asked) == 1
    assert os.listdir(folder) == [f'.{TASK.dataset_file}.lock']


@pytest.mark.parametrize('status', [408, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(server, folder, status):
    server.faults = [Fault(status=status)] * 3
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_a_server_that_keeps_failing_is_given_up(server, folder):
    server.faults = [Fault(status=500)] * 9
    check_ways_out(error_of(folder), folder)
    assert len(server.asked) == 4


def test_getting_further_starts_the_count_of_failures_again(server, folder):
    server.faults = [Fault(status=500), Fault(status=500), Fault(after=HALF // 4)] * 3
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_getting_no_further_does_not(server, folder):
    server.has_ranges = False
    server.faults = [Fault(after=HALF), Fault(after=HALF // 2)] * 9
    error_of(folder)
    assert len(server.asked) == 4


def test_waits_grow_and_the_servers_own_are_kept_within_reason(server, folder, monkeypatch):
    waits = []
    monkeypatch.setattr(transfer, 'PATIENCE', Patience(2.0, 0.3, (1.0, 3.0, 9.0)))
    replace_sleep(monkeypatch, waits.append)
    asked_for = [{}, {'Retry-After': '7'}, {'Retry-After': '86400'}]
    server.faults = [Fault(status=503, headers=headers) for headers in asked_for]
    download(TASK, folder)
    assert waits == [1.0, 7.0, 60.0]


def test_without_a_network_there_is_one_line(server, folder, monkeypatch):
    with socket.socket() as free:  # a port that nothing listens on
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{free.getsockname()[1]}')
        message = error_of(folder)
    assert '(Connection refused)' in message
    check_ways_out(message, folder)


@pytest.mark.parametrize('mirror', ['nonsense', 'nonsense:80', 'ftp://', 'http://'])
def test_a_mirror_that_is_no_address_is_one_line(server, folder, monkeypatch, mirror):
    def tries_again(seconds):
        raise AssertionError('an address does not mend itself')

    replace_sleep(monkeypatch, tries_again)
    monkeypatch.setenv('HF_ENDPOINT', mirror)
    check_ways_out(error_of(folder), folder)


def test_without_a_mirror_the_address_is_the_tables(monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', '')
    assert download_url(TASK) == TASK.url
    monkeypatch.delenv('HF_ENDPOINT')
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


def head(*headers, status='200 OK'):
    return '\r\n'.join([f'HTTP/1.1 {status}', *headers, '', '']).encode('latin-1')


def ends_after(*parts):
    def send(write):
        for part in parts:
            write(part)

    return send


def endlessly(first, *parts):
    def send(write):
        write(first)
        while True:  # until the client closes the connection
            for part in parts:
                write(part)

    return send


def slowly(first, part):
    def send(write):
        write(first)
        while True:
            write(part)
            time.sleep(0.1)

    return send


BLOCK = bytes(1 << 16)
BOMB = gzip.compress(bytes(50_000_000))
LENGTH = f'Content-Length: {len(FIRST)}'


@pytest.mark.parametrize(
    'raw',
    [
        pytest.param(endlessly(head(), BLOCK), id='endless'),
        pytest.param(
            endlessly(head('Transfer-Encoding: chunked'), b'10000\r\n', BLOCK, b'\r\n'),
            id='endless chunks',
        ),
        pytest.param(ends_after(head('Content-Encoding: gzip'), BOMB), id='gzip'),
        pytest.param(ends_after(head('Content-Encoding: deflate, br'), BOMB), id='encodings'),
        pytest.param(ends_after(head('Transfer-Encoding: gzip'), BOMB), id='transfer gzip'),
        pytest.param(ends_after(head(f'Content-Length: {10**15}'), FIRST), id='huge length'),
        pytest.param(ends_after(head(f'Content-Length: {10**400}'), FIRST), id='absurd length'),
        pytest.param(ends_after(head('Content-Length: 5, 7'), FIRST), id='two lengths'),
        pytest.param(ends_after(head('Content-Length: +10'), FIRST), id='signed length'),
        pytest.param(ends_after(head('Content-Length: 100'), FIRST), id='length too small'),
        pytest.param(ends_after(head('Content-Length: \xb2'), FIRST[:900]), id='no digits'),
        pytest.param(
            ends_after(head('Transfer-Encoding: chunked'), b'-5\r\nabc\r\n'), id='bad chunk'
        ),
        pytest.param(
            ends_after(head('Transfer-Encoding: chunked'), b'f' * 70_000), id='long chunk size'
        ),
        pytest.param(endlessly(head()[:-2], b'X: ' + b'a' * 60_000 + b'\r\n'), id='headers'),
        pytest.param(endlessly(head()[:-2] + b'X: ', BLOCK), id='endless header'),
        pytest.param(slowly(b'', b'H'), id='slow status'),
        pytest.param(slowly(head()[:-2] + b'X: ', b'a'), id='slow header'),
        pytest.param(ends_after(b'\0\xff' * 99), id='no HTTP'),
        pytest.param(ends_after(b''), id='nothing'),
        pytest.param(ends_after(head(status='200 \x1b]0;owned\x07')), id='empty'),
        pytest.param(ends_after(head(status='499 \x1b]0;owned\x07')), id='escapes'),
        pytest.param(
            ends_after(
                head(
                    status='999 None',
                )
            ),
            id='unknown status',
        ),
        pytest.param(
            ends_after(head('Content-Range: bytes 0-9/10', status='206 Partial')), id='unasked part'
        ),
        *(
            pytest.param(
                ends_after(head(f'Location: {location}', 'Content-Length: 0', status='302 Found')),
                id=f'to {location[:20]}',
            )
            for location in (
                'file:///etc/passwd',
                'ftp://127.0.0.1/x',
                'data:,x',
                'http://[',
                'http://',
                'http://\xff\xfe:99999999/',
                'http://127.0.0.1:99999/',
                '//',
                'x' * 60_000,
                '/again',
            )
        ),
        pytest.param(
            endlessly(head('Location: /more', status='302 Found'), BLOCK), id='big redirect'
        ),
        pytest.param(ends_after(head(status='302 Found'), b'nowhere'), id='without location'),
    ],
)
def test_hostile_answers_are_one_line_and_leave_nothing_wrong(server, folder, monkeypatch, raw):
    monkeypatch.setattr(transfer, 'PATIENCE', Patience(0.5, 0.3, (0.0,)))
    monkeypatch.setattr(download_module, '_most_bytes', lambda task: 4 * len(FIRST))
    server.faults = [Fault(raw=raw)] * 50
    message = error_of(folder)
    assert message.isprintable()
    check_ways_out(message, folder)
    names = {path.name for path in folder.iterdir()} - {f'.{TASK.dataset_file}.lock'}
    assert names <= {part_path(folder).name, f'{part_path(folder).name}.json'}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * len(FIRST)
    server.faults = []
    download(TASK, folder)
    check_complete(folder, FIRST)


@pytest.mark.parametrize('length', ['-5', '0x10', '', 'NaN'])
def test_a_length_that_is_none_is_not_believed(server, folder, length):
    server.faults = [Fault(raw=ends_after(head(f'Content-Length: {length}'), FIRST))]
    download(TASK, folder)
    check_complete(folder, FIRST)


@pytest.mark.parametrize(
    'note',
    ['[' * 100_000, '{"size": "5"}', '{"size": -1}', '{"etag": 5}', '{"sha256": [1]}', '5', 'null'],
)
def test_a_damaged_note_beside_a_part_is_no_note(server, folder, note):
    folder.mkdir()
    part_path(folder).write_bytes(b'what is this')
    part_path(folder).with_name(f'{part_path(folder).name}.json').write_text(note)
    download(TASK, folder)
    check_complete(folder, FIRST)


def test_a_web_page_is_not_waited_for(server, folder):
    server.headers = {'Content-Type': 'text/html; charset=utf-8'}
    server.faults = [Fault(after=0, stalls=True)]
    assert 'web page' in error_of(folder)
    assert server.sent == 0


# ---------------------------------------------------------------------------- the recorded hash


def test_a_file_that_changed_is_refused_and_kept(server, folder):
    download(TASK, folder)
    final_path(folder).write_bytes(SECOND)
    for check in (
        lambda: download(TASK, folder),
        lambda: check_unchanged(TASK, final_path(folder)),
    ):
        with pytest.raises(UserError, match='has changed') as caught:
            check()
        assert str(final_path(folder)) in str(caught.value)
    assert final_path(folder).read_bytes() == SECOND
    assert len(server.asked) == 1


def test_a_changed_byte_is_found_by_the_command_where_size_and_time_are_the_same(server, folder):
    path = download(TASK, folder).path
    times = path.stat()
    path.write_bytes(FIRST[:-1] + bytes([FIRST[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    check_unchanged(TASK, path)  # costs nothing, so it cannot see this
    assert 'has changed' in error_of(folder)


def test_a_copy_is_read_once_and_then_known(server, folder, monkeypatch):
    path = download(TASK, folder).path
    os.utime(path, ns=(1, 1))
    check_unchanged(TASK, path)

    def reads(path):
        raise AssertionError('the file is read again')

    monkeypatch.setattr(download_module, 'file_sha256', reads)
    check_unchanged(TASK, path)


def test_a_file_put_there_by_hand_is_checked_and_recorded(server, folder):
    folder.mkdir()
    final_path(folder).write_bytes(SECOND)
    check_unchanged(TASK, final_path(folder))
    assert os.listdir(folder) == [TASK.dataset_file]
    dataset = download(TASK, folder)
    assert (dataset.is_new, dataset.sha256) == (False, hashlib.sha256(SECOND).hexdigest())
    assert server.asked == []
    final_path(folder).write_bytes(FIRST)
    assert 'has changed' in error_of(folder)


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
    server.content, server.etag = SECOND, '"second"'
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
        transfer.shutil, 'disk_usage', lambda _: usage._replace(free=len(FIRST) - 1)
    )
    server.faults = [Fault(after=0, stalls=True)]
    assert 'free' in error_of(folder)
    assert server.sent == 0
    assert part_path(folder).stat().st_size == 0


def test_a_folder_that_cannot_be_made_is_one_line(server, folder):
    folder.write_text('no folder')
    assert str(folder) in error_of(folder)
    assert folder.read_text() == 'no folder'
    assert server.asked == []


# ----------------------------------------------------------------------------------- on screen


def test_a_log_gets_lines_with_rate_and_eta(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(transfer, '_SECONDS_BETWEEN_LINES', 0.0)
    server.seconds_a_block = 0.002
    download(TASK, folder)
    captured = capsys.readouterr()
    assert captured.out == ''
    line = captured.err.splitlines()[3]
    assert line.startswith('BallRun: ')
    for part in (' of 1.5 MB, ', '/s, ETA 0:00:0'):
        assert part in line


def test_a_terminal_gets_a_bar(server, folder, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        transfer,
        'Console',
        lambda **_: Console(file=screen, force_terminal=True, width=80),
    )
    server.seconds_a_block = 0.005
    download(TASK, folder)
    text = screen.getvalue()
    for part in ('BallRun', '━', '/1.5 MB', 'MB/s', 'ETA'):
        assert part in text


# ----------------------------------------------------------------------------- the command line


def start(*options):
    command = [sys.executable, '-m', 'omnisafe_qpt.cli', 'data', 'download', *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


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
        assert 'the same command goes on' in errors
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
    assert len(server.asked) == 1
    check_complete(folder, FIRST)


@pytest.mark.skipif(shutil.which('curl') is None, reason='needs curl')
def test_the_command_in_the_message_fetches_the_file(server, folder):
    server.faults = [Fault(status=404), Fault(status=404), Fault(after=HALF)]
    message = error_of(folder)
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
    options = ['BallRun', 'CarRun', 'BallRun', 'DroneRun', '--folder', str(elsewhere)]
    assert cli.main(['data', 'download', *options, '--json', str(report)]) == 1
    output, errors = capsys.readouterr()
    assert output.splitlines() == [
        f'3 datasets: 3 to download to {elsewhere}, at most 84.8 MB',
        f'BallRun: downloaded, 1.5 MB, {elsewhere / TASK.dataset_file}',
    ]
    failures = [line for line in errors.splitlines() if 'cannot be downloaded' in line]
    assert [line.partition(':')[0] for line in failures] == ['CarRun', 'DroneRun']
    assert '404' in failures[0]
    assert 'SafetyDroneRun-v0 has 17 numbers' in failures[1]
    assert errors.splitlines()[-1].startswith('Error: 2 of 3 datasets')
    assert not folder.exists()
    rows = json.loads(report.read_text())
    assert [row['state'] for row in rows] == ['downloaded', 'failed', 'failed']
    assert rows[0] == {
        'name': 'BallRun',
        'env_id': 'SafetyBallRun-v0',
        'url': download_url(TASK),
        'path': str(elsewhere / TASK.dataset_file),
        'bytes': len(FIRST),
        'sha256': hashlib.sha256(FIRST).hexdigest(),
        'error': None,
        'state': 'downloaded',
    }
    assert rows[1]['path'] is None
    assert '404' in rows[1]['error']


def test_one_task_that_fails_is_one_line_besides_the_attempts(server, folder, capsys):
    server.faults = [Fault(status=404)]
    assert cli.main(['data', 'download', 'BallRun']) == 1
    output, errors = capsys.readouterr()
    assert output == ''
    assert len(errors.splitlines()) == 1
    assert errors.startswith('Error: ')


@pytest.mark.parametrize(
    ('option', 'count'), [(['--suite', 'bullet_safety_gym'], 8), (['--all'], 38)]
)
def test_whole_suites_are_asked_for(server, folder, monkeypatch, capsys, option, count):
    asked = []

    def failing(task, where):
        asked.append((task, where))
        raise UserError('no')

    monkeypatch.setattr(download_module, 'download', failing)
    assert cli.main(['data', 'download', *option]) == 1
    expected = [task for task in all_tasks() if count == 38 or task.suite == 'bullet_safety_gym']
    assert asked == [(task, folder) for task in expected]
    estimate = capsys.readouterr().out.splitlines()[0]
    assert estimate.startswith(f'{count} datasets: {count} to download')
    assert estimate.endswith('45.9 GB' if count == 38 else '1.3 GB')


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
