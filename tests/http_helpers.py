# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Hugging Face hub and its storage host that fails as it is told to."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from unittest import mock

import numpy as np


def dataset_bytes(task, transitions=400, seed=0, **replaced):
    """An HDF5 file of a task's sizes; ``name=array`` replaces an array, ``name=None`` drops it."""
    import h5py

    generator = np.random.default_rng(seed)

    def numbers(*width):
        return generator.normal(size=(transitions, *width)).astype(np.float32)

    arrays = {
        'observations': numbers(task.obs_dim),
        'next_observations': numbers(task.obs_dim),
        'actions': numbers(task.act_dim),
        'rewards': numbers(),
        'costs': numbers(),
        'terminals': np.zeros(transitions, dtype=bool),
        'timeouts': np.arange(1, transitions + 1) % task.horizon == 0,
        **replaced,
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return buffer.getvalue()


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong.

    Args:
        status (int, optional): Status to answer with, and nothing else. Defaults to None.
        headers (dict, optional): What to send with the status. Defaults to none.
        after (int, optional): Bytes after which the answer breaks off. Defaults to None.
        stalls (bool, optional): Whether the connection stays open in silence when it breaks off.
            Defaults to False.
        raw (bytes, optional): What is sent in place of any answer of HTTP. Defaults to None.
        endlessly (bytes, optional): What follows it, again and again until the client closes the
            connection. Defaults to nothing.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    after: int | None = None
    stalls: bool = False
    raw: bytes | None = None
    endlessly: bytes = b''


class FileServer:
    """What the server has, how it behaves, and what it was asked.

    A request to the hub is answered with a redirect that names the file's version and size. It
    leads to the same server under another host name, as to a storage host.

    Attributes:
        content (bytes): The file, whatever path is asked for.
        version (str or None): The ETag that the hub announces. None is the content's sha256.
        size (str or None): The size that the hub announces. None is the content's.
        has_ranges (bool): Whether a part of the file can be asked for.
        hub_faults (list[Fault]): Each answer of the hub takes the first; without one it is right.
        faults (list[Fault]): The same of the storage host.
        missing (set[str]): Files that are not there.
        gate (threading.Event): While it is not set, no byte of the file goes out.
        asked (list): The headers of each request to the hub, and then to the storage host.
        paths (list[str]): What was asked of the storage host.
        ranges (list[str or None]): Which bytes of it.
        sent (int): Bytes of the file that went out.
    """

    def __init__(self, content):
        self.content = content
        self.version = self.size = None
        self.has_ranges = True
        self.hub_faults, self.faults, self.missing = [], [], set()
        self.gate = threading.Event()
        self.gate.set()
        self.asked, self.paths, self.ranges = [], [], []
        self.sent = 0
        self.url = self.storage = None
        self.closing = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    block = 1 << 14

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        state = self.server.state
        state.asked.append(dict(self.headers))
        is_hub = not self.path.startswith('/storage/')
        if not is_hub:
            state.paths.append(self.path.removeprefix('/storage'))
            state.ranges.append(self.headers.get('Range'))
        faults = state.hub_faults if is_hub else state.faults
        fault = faults.pop(0) if faults else Fault()
        if self.path.rpartition('/')[2] in state.missing:
            fault = Fault(status=404)
        with suppress(OSError):  # the client may have had enough, or have been killed
            if fault.raw is not None:
                self.close_connection = True
                self.wfile.write(fault.raw)
                while fault.endlessly:
                    self.wfile.write(fault.endlessly)
            elif fault.status is not None:
                self._say(fault.status, {'Content-Length': '0', **fault.headers})
            elif is_hub:
                self._redirect(state)
            else:
                self._send(state, fault)

    def _redirect(self, state):
        version = state.version or hashlib.sha256(state.content).hexdigest()
        headers = {
            'Location': f'{state.storage}/storage{self.path}',
            'X-Linked-Etag': f'"{version}"',
            'X-Linked-Size': state.size or str(len(state.content)),
            'X-Repo-Commit': 'c0' * 20,
            'ETag': '"of the redirect"',
            'Content-Length': '0',
        }
        self._say(302, headers)

    def _send(self, state, fault):
        content, first = state.content, 0
        status, headers = 200, {'ETag': '"of the storage host"'}
        if state.ranges[-1] and state.has_ranges:
            first = int(state.ranges[-1].removeprefix('bytes=').removesuffix('-'))
            status = 206
            headers['Content-Range'] = f'bytes {first}-{len(content) - 1}/{len(content)}'
        self._say(status, {**headers, 'Content-Length': str(len(content) - first)})
        last = len(content) if fault.after is None else min(len(content), first + fault.after)
        for start in range(first, last, self.block):
            state.gate.wait(120)
            block = content[start : min(start + self.block, last)]
            self.wfile.write(block)
            state.sent += len(block)
        if fault.stalls:
            state.closing.wait(120)

    def _say(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def impatience():
    """Let downloads wait for nothing, and ask no address but that of the file."""
    from huggingface_hub import constants

    with (
        mock.patch.multiple(
            constants,
            HF_HUB_DISABLE_TELEMETRY=True,
            HF_HUB_DOWNLOAD_TIMEOUT=0.3,
            DOWNLOAD_CHUNK_SIZE=_Handler.block,
        ),
        mock.patch.dict(os.environ, HF_HUB_DISABLE_TELEMETRY='1', no_proxy='*'),
        mock.patch('time.sleep'),
    ):
        yield


@contextmanager
def serving(content):
    """Serve a file while the block runs, with ``HF_ENDPOINT`` set, and give the server's state."""
    state = FileServer(content)
    with impatience(), _Server(('127.0.0.1', 0), _Handler) as server:
        server.state = state
        state.url = f'http://127.0.0.1:{server.server_port}'
        state.storage = f'http://localhost:{server.server_port}'
        os.environ['HF_ENDPOINT'] = state.url
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            state.gate.set()
            server.shutdown()
            thread.join()
