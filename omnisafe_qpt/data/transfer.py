# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One file over HTTP into a ``.part`` file: resumed where it was left, tried again when it fails.

Hugging Face answers with a redirect to a storage host. The redirect carries the file's SHA-256
(``X-Linked-Etag``) and size; the storage host may send an ETag of its own, which is another hash,
or none at all.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial as bind
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from omnisafe_qpt.data.files import atomic_path
from omnisafe_qpt.errors import UserError, printable


_BLOCK_BYTES = 1 << 16
# Where there is no terminal to redraw, a line this often.
_SECONDS_BETWEEN_LINES = 30.0
# Beside all of 5xx: too slow, too early, too many requests.
_TRANSIENT_STATUSES = (408, 425, 429)
_LONGEST_WAIT = 60.0
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds.

    Args:
        connecting (float): For a connection.
        stalled (float): For the next bytes.
        waits (tuple[float, ...]): Before each further attempt; after the last one the transfer
            fails. An attempt that got further than those before it starts the count again.
    """

    connecting: float = 20.0
    stalled: float = 60.0
    waits: tuple[float, ...] = (1.0, 3.0, 9.0)


PATIENCE = Patience()


class TransferError(Exception):
    """Why a file could not be had from its server, in a few words."""


class _TransientError(TransferError):
    """A failure that may pass.

    Args:
        reason (str): What failed.
        wait (float, optional): Seconds that the server asks to wait. Defaults to 0.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        """Initialize an instance of :class:`_TransientError`."""
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from another, as far as its server says.

    Args:
        size (int, optional): In bytes. Defaults to None.
        sha256 (str, optional): In hexadecimal. Defaults to None.
        etag (str, optional): A strong entity tag, in its quotes. Defaults to None.
        last_modified (str, optional): As the server writes it. Defaults to None.
    """

    size: int | None = None
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def of(cls, response: requests.Response) -> Identity:
        """Read an answer's headers, and for the hash those of the redirects before it."""
        headers = response.headers
        linked = _first(response, 'X-Linked-Etag').removeprefix('W/').strip('"').lower()
        etag = headers.get('ETag', '')
        return cls(
            size=_announced_size(response),
            sha256=linked if re.fullmatch('[0-9a-f]{64}', linked) else None,
            # A weak tag, W/"...", does not promise the same bytes.
            etag=etag if etag.startswith('"') else None,
            last_modified=headers.get('Last-Modified'),
        )

    @property
    def validator(self) -> str | None:
        """What to send as ``If-Range``, None if there is nothing or if the hash is to decide.

        Storage hosts may give the same bytes another tag from one day or one mirror to the next.
        """
        return None if self.sha256 is not None else self.etag or self.last_modified

    @property
    def tells_versions_apart(self) -> bool:
        """Whether more than the size is known, which proves nothing."""
        return self.sha256 is not None or self.validator is not None

    def is_of_same_file(self, other: Identity) -> bool:
        """Whether the hashes agree or, where one is unknown, all else that is known of both."""
        if None not in (self.sha256, other.sha256):
            return self.sha256 == other.sha256
        ours, theirs = asdict(self), asdict(other)
        shared = {name for name in ours if ours[name] is not None and theirs[name] is not None}
        return bool(shared - {'size'}) and all(ours[name] == theirs[name] for name in shared)


def _first(response: requests.Response, header: str) -> str:
    answers = (*response.history, response)
    return next((answer.headers[header] for answer in answers if header in answer.headers), '')


def _announced_size(response: requests.Response) -> int | None:
    if response.status_code == 206:
        text = response.headers.get('Content-Range', '').rpartition('/')[2]
    else:
        text = response.headers.get('Content-Length') or _first(response, 'X-Linked-Size')
    # ASCII alone: isdecimal takes other alphabets' digits too.
    return int(text) if re.fullmatch('[0-9]{1,19}', text) else None


class PartialFile:
    """A file on its way, and beside it which version of the file it is the beginning of.

    Args:
        path (Path): The ``.part`` file.
    """

    def __init__(self, path: Path) -> None:
        """Initialize an instance of :class:`PartialFile`."""
        self.path = path
        self._note = path.with_name(f'{path.name}.json')

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def identity(self) -> Identity | None:
        """Return which version this is the beginning of, None if that is not known."""
        try:
            found = Identity(**json.loads(self._note.read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError, RecursionError):  # absent, or not of our making
            return None
        texts = (found.sha256, found.etag, found.last_modified)
        is_sound = all(text is None or isinstance(text, str) for text in texts) and (
            found.size is None or (type(found.size) is int and found.size >= 0)
        )
        return found if is_sound else None

    def begin(self, identity: Identity) -> None:
        """Start from nothing with this version of the file."""
        # In this order: a note must never stand beside the bytes of another version.
        self.path.write_bytes(b'')
        with atomic_path(self._note) as temporary:
            temporary.write_text(json.dumps(asdict(identity)), encoding='utf-8')

    def drop(self) -> None:
        """Remove what has come."""
        for path in (self.path, self._note):
            with suppress(FileNotFoundError):
                path.unlink()

    def finish(self, final: Path) -> None:
        """Give the complete file its final name."""
        os.replace(self.path, final)
        self.drop()


class TransferProgress:
    """Shows how much has come, on stderr: a bar on a terminal, a line now and then in a log.

    Args:
        label (str): What is transferred.
    """

    def __init__(self, label: str) -> None:
        """Initialize an instance of :class:`TransferProgress`."""
        self._console = Console(stderr=True)
        self._label = label
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),  # so that the rest fits 80 columns
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn('ETA'),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=None, start=False, visible=False)
        self._first = self._total = 0
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> TransferProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, done: int, total: int | None) -> None:
        """Say that bytes come from now on, after so many, of so many if that is known."""
        self._first, self._total = done, total or 0
        self._started = self._last_line = time.monotonic()
        self._bar.reset(self._task, total=total, completed=done, visible=True)

    def update(self, done: int) -> None:
        """Say how many bytes there are now."""
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (done - self._first) / (now - self._started)
            text = f'{decimal(done)}, {decimal(round(rate))}/s'
            if self._total:
                left = (self._total - done) / max(rate, 1e-9)
                text = f'{decimal(done)} of {decimal(self._total)}, {decimal(round(rate))}/s, '
                text += f'ETA {timedelta(seconds=round(left))}'
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line about what is transferred."""
        line = printable(f'{self._label}: {text}')
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def fetch(url: str, partial: PartialFile, progress: TransferProgress, most: int) -> Identity:
    """Bring a file's bytes into a partial file, going on with what is there of the same version.

    Args:
        url (str): Where the file is; redirects are followed.
        partial (PartialFile): Where its bytes go. Its folder exists.
        progress (TransferProgress): Is told how it goes.
        most (int): Bytes that the file can have; a server may send without an end.

    Returns:
        What the server said of the file, now complete in ``partial``.

    Raises:
        TransferError: If it cannot be had; what has come stays for the next time.
        OSError: If it cannot be written here.
    """
    failures, furthest = 0, partial.size
    while True:
        try:
            return _attempt(url, partial, progress, most)
        except _TransientError as error:
            failures = failures + 1 if partial.size <= furthest else 1
            furthest = max(furthest, partial.size)
            if failures > len(PATIENCE.waits):
                raise TransferError(str(error)) from error
            wait = min(max(PATIENCE.waits[failures - 1], error.wait), _LONGEST_WAIT)
            progress.say(f'{error}; trying again in {wait:g} s')
            time.sleep(wait)


def _attempt(url: str, partial: PartialFile, progress: TransferProgress, most: int) -> Identity:
    known = partial.identity()
    done = partial.size if known is not None else 0
    if known is not None and known.size == done > 0:
        return known  # it was stopped between the last byte and its final name
    if known is not None and not known.tells_versions_apart:
        done = 0
    with _failures_told(), _asked(url, done, known) as response:
        identity = _judge(response, partial, done, known)
        if (identity.size or 0) > most:
            partial.drop()
            raise TransferError(f'the server announces {identity.size} bytes, not this dataset')
        if response.status_code == 200:
            if done:
                progress.say('the file has changed or the server cannot resume: from the beginning')
            partial.begin(identity)
            done = 0
        _check_space(partial.path, (identity.size or 0) - done)
        progress.begin(done, identity.size)
        done = _receive(response, partial, progress, done, identity.size or most)
    if identity.size is not None and done != identity.size:
        raise _TransientError(f'the connection ended after {done} of {identity.size} bytes')
    return identity


def _receive(
    response: requests.Response,
    partial: PartialFile,
    progress: TransferProgress,
    done: int,
    most: int,
) -> int:
    """Append the bytes that come; returns how many there are then."""
    with partial.path.open('ab') as file:
        for block in _blocks(response):
            done += len(block)
            if done > most:
                break
            _check_space(partial.path, len(block))
            file.write(block)
            progress.update(done)
        file.flush()
        os.fsync(file.fileno())
    if done > most:
        partial.drop()
        raise TransferError(f'the server sends more than {most} bytes, not this dataset')
    return done


def _asked(url: str, done: int, known: Identity | None) -> requests.Response:
    """Ask for a file, or for what follows the bytes that are there."""
    headers = {'Accept-Encoding': 'identity'}  # a range of compressed bytes would not fit
    if done and known is not None:
        headers['Range'] = f'bytes={done}-'
        if known.validator is not None:
            headers['If-Range'] = known.validator
    response = _follow(url, headers)
    encoding = response.headers.get('Content-Encoding', '').strip().lower()
    if encoding not in ('', 'identity'):
        response.close()
        raise TransferError(f'the server compresses the file ({encoding[:20]}), unasked')
    return response


class _Session(requests.Session):
    """Follows no redirect, nor reads its body to the end, which may have none."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Find nothing to follow."""
        del resp


def _follow(url: str, headers: dict[str, str]) -> requests.Response:
    """Ask for headers, following redirects from one web server to another."""
    history: list[requests.Response] = []
    while True:
        response = _within(
            PATIENCE.connecting + PATIENCE.stalled,
            bind(
                _Session().get,
                url,
                headers=headers,
                timeout=(PATIENCE.connecting, PATIENCE.stalled),
                stream=True,
            ),
        )
        if response.status_code not in _REDIRECTS or 'Location' not in response.headers:
            response.history = history
            return response
        response.close()
        history.append(response)
        # Headers are read as Latin-1; addresses beyond ASCII are UTF-8.
        location = response.headers['Location'].encode('latin-1', 'replace')
        try:
            following = urljoin(url, location.decode('utf-8', 'replace'))
        except ValueError as error:
            raise TransferError(f'the server redirects to no address: {_reason(error)}') from error
        if not following.startswith(('https://', url.partition(':')[0] + '://')):
            raise TransferError(f'the server redirects to {printable(following)[:100]}')
        if len(history) > _MOST_REDIRECTS:
            raise TransferError(f'the server redirects more than {_MOST_REDIRECTS} times')
        url = following


def _within(seconds: float, ask: Callable[[], requests.Response]) -> requests.Response:
    """Wait for an answer's headers; a server may send them byte by byte for ever.

    Raises:
        _TransientError: If they have not come.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put(ask())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answers.put(error)

    threading.Thread(target=answer, daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty as error:
        raise _TransientError('the server does not answer') from error
    if isinstance(found, BaseException):
        raise found
    return found


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they come."""
    try:
        yield from response.raw.stream(_BLOCK_BYTES, decode_content=False)
    except Exception as error:  # many kinds, of http.client and of what requests is built on
        raise _TransientError(_reason(error)) from error


def _judge(
    response: requests.Response,
    partial: PartialFile,
    done: int,
    known: Identity | None,
) -> Identity:
    """Refuse an answer that does not bring the file, or not the rest of the same version."""
    status = response.status_code
    if status >= 500 or status in _TRANSIENT_STATUSES:
        asked = response.headers.get('Retry-After', '')
        wait = float(asked) if re.fullmatch('[0-9]{1,9}', asked) else 0.0
        raise _TransientError(f'the server answered {status} {_phrase(response)}', wait)
    identity = Identity.of(response)
    is_rest = (
        response.headers.get('Content-Range', '').startswith(f'bytes {done}-')
        and known is not None
        and known.is_of_same_file(identity)
    )
    if status in (206, 416) and not is_rest:
        partial.drop()
        raise _TransientError('the file has changed at its source since the download began')
    if status not in (200, 206):
        raise TransferError(f'the server answered {status} {_phrase(response)}')
    if response.headers.get('Content-Type', '').startswith('text/html'):
        raise TransferError('the server answered with a web page instead of the file')
    return identity


def _phrase(response: requests.Response) -> str:
    return printable(str(response.reason))[:80]


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        reason = f'{decimal(needed)} are still to come and {decimal(free)} are free'
        raise OSError(errno.ENOSPC, reason, str(path))


@contextmanager
def _failures_told() -> Iterator[None]:
    """Turn what requests raises into what it means."""
    try:
        yield
    except UserError:
        raise
    except requests.RequestException as error:
        # Those that are ValueErrors are about the address itself.
        if isinstance(error, (ValueError, requests.TooManyRedirects)):
            raise TransferError(_reason(error)) from error
        raise _TransientError(_reason(error)) from error
    except ValueError as error:  # of an address that cannot be taken apart
        raise TransferError(f'the address is not valid: {_reason(error)}') from error


def _reason(error: BaseException) -> str:
    """Find the few words that matter in a chain of exceptions."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return 'the server does not answer'
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, http.client.HTTPException):
            return 'the connection broke off'
        cause = cause.__cause__ or cause.__context__
    return printable(str(error))[:200] or type(error).__name__
