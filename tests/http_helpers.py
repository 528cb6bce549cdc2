# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A web server on this computer that serves one file and fails as it is told to."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

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
        raw (callable, optional): Is given the function that sends bytes, in place of any answer
            of HTTP. Defaults to None.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    after: int | None = None
    stalls: bool = False
    raw: object = None


class FileServer:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        content (bytes): The file, whatever path is asked for.
        etag (str or None): Its entity tag. None sends none.
        has_ranges (bool): Whether a part of the file can be asked for.
        heeds_if_range (bool): Whether it compares ``If-Range``.
        redirects (bool): Whether it answers as Hugging Face does, with a redirect to another path
            that names the file's hash and size.
        linked_sha256 (str or None): The hash that the redirect names. None is the right one.
        announces_length (bool): Whether the length is known before the end.
        headers (dict): Sent with the file.
        faults (list[Fault or None]): Each answer takes the first; without one it is right.
        missing (set[str]): Paths that are not there.
        seconds_a_block (float): How slow it is.
        gate (threading.Event): While it is not set, no byte of the file goes out.
        asked (list): The path and headers of each request for the file itself.
        sent (int): Bytes of the file that went out.
    """

    def __init__(self, content):
        self.content = content
        self.etag = '"first"'
        self.has_ranges = self.heeds_if_range = self.announces_length = True
        self.redirects = False
        self.linked_sha256 = None
        self.headers = {}
        self.faults = []
        self.missing = set()
        self.seconds_a_block = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.asked = []
        self.sent = 0
        self.url = None
        self.closing = threading.Event()

    @property
    def paths(self):
        return [path for path, _ in self.asked]

    @property
    def ranges(self):
        return [headers.get('Range') for _, headers in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    block = 1 << 14

    def log_message(self, *args):
        pass

    def do_GET(self):
        state = self.server.state
        if state.redirects and not self.path.startswith('/storage/'):
            self._redirect(state)
            return
        state.asked.append((self.path, dict(self.headers)))
        fault = state.faults.pop(0) if state.faults else None
        if fault is not None and fault.raw is not None:
            with suppress(OSError):  # the client may have had enough
                fault.raw(self.wfile.write)
            self.close_connection = True
            return
        if self.path.rpartition('/')[2] in state.missing:
            fault = Fault(status=404)
        if fault is not None and fault.status is not None:
            self._answer(fault.status, {'Content-Length': '0', **fault.headers})
            return
        with suppress(ConnectionError):  # the client may have been killed
            self._send(state, fault)

    def _redirect(self, state):
        digest = state.linked_sha256 or hashlib.sha256(state.content).hexdigest()
        self._answer(
            302,
            {
                'Location': '/storage' + self.path,
                'X-Linked-Etag': f'"{digest}"',
                'X-Linked-Size': str(len(state.content)),
                'ETag': '"of the redirect"',
                'Content-Length': '0',
            },
        )

    def _send(self, state, fault):
        content, first = state.content, 0
        asked = self.headers.get('Range')
        changed = self.headers.get('If-Range') not in (None, state.etag)
        headers = dict(state.headers)
        if state.etag is not None:
            headers['ETag'] = state.etag
        status = 200
        if asked and state.has_ranges and not (changed and state.heeds_if_range):
            first = int(asked.removeprefix('bytes=').removesuffix('-'))
            if first >= len(content):
                self._answer(416, {'Content-Range': f'bytes */{len(content)}'})
                return
            status = 206
            headers['Content-Range'] = f'bytes {first}-{len(content) - 1}/{len(content)}'
        if state.announces_length:
            headers['Content-Length'] = str(len(content) - first)
        self._answer(status, headers)
        last = len(content) if fault is None else min(len(content), first + fault.after)
        for start in range(first, last, self.block):
            state.gate.wait(120)
            time.sleep(state.seconds_a_block)
            block = content[start : min(start + self.block, last)]
            self.wfile.write(block)
            state.sent += len(block)
        if fault is not None and fault.stalls:
            state.closing.wait(120)

    def _answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def serving(content):
    """Serve a file on this computer while the block runs, and give the server's state."""
    state = FileServer(content)
    with _Server(('127.0.0.1', 0), _Handler) as server:
        server.state = state
        state.url = f'http://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            state.gate.set()
            server.shutdown()
            thread.join()
