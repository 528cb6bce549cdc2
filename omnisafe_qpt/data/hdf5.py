# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading untrusted HDF5 files.

HDF5 can refer to data outside the file: external storage, links to other files, views of other
files, and filters that it loads as plugins. None of these is opened; only data within the file is
read. Views of the file's own arrays, as in our files, and soft links are followed.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from omnisafe_qpt.data.memory import check_memory, format_bytes, free_memory
from omnisafe_qpt.errors import UserError, damage_as_user_error, printable


# gzip, shuffle, fletcher32, szip, nbit, scaleoffset and h5py's lzf, by HDF5's numbers.
_GZIP, _FILTERS = 1, (1, 2, 3, 4, 5, 6, 32000)
# Largest expansion factor of gzip.
_MOST_OF_GZIP = 1032
# Smaller stored data cannot fill the memory.
_SMALL_STORAGE = 1 << 20
# Limits on chained soft links, arrays within a group, and searched groups.
_MAX_HOPS, _MAX_LEAVES, _MAX_GROUPS = 16, 1000, 1000
# Seconds without a crash after which a file is accepted.
_SECONDS_TO_OPEN = 20
# Errors that h5py raises for damaged files.
_ERRORS = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    SystemError,
)


class Broken:
    """A name in a group without an object.

    Args:
        reason (str): What is wrong, as a predicate.
    """

    shape: tuple[int, ...] = ()
    ndim = 0

    def __init__(self, reason: str) -> None:
        """Initialize an instance of :class:`Broken`."""
        self.reason = reason


def damage(path: Path) -> AbstractContextManager[None]:
    """Convert h5py's errors for a damaged file to one line."""
    return damage_as_user_error(path, 'HDF5', _ERRORS)


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, without plugins.

    Raises:
        UserError: If it is not an HDF5 file, is truncated, or is so damaged that HDF5 crashes.
    """
    import h5py  # takes a second, and only HDF5 needs it

    with _without_plugins(), ExitStack() as stack:
        if _crashes(path):
            raise UserError(f'{path} is damaged: the HDF5 library crashes on it; get it again')
        with damage(path):
            file = stack.enter_context(h5py.File(path, 'r'))
        yield file


def _crashes(path: Path) -> bool:
    """Return whether HDF5 crashes on opening a file's objects, tested in a child process.

    The library is known to read through invalid pointers in some damaged files.
    """
    if not hasattr(os, 'fork'):  # Windows, where some of the signals are missing too
        return False
    crashes = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
    child = os.fork()
    if child == 0:
        try:
            _open_all(path)
        finally:
            os._exit(0)  # opening the file in this process reports the error
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in crashes


def _open_all(path: Path) -> None:
    """Open a file's objects, up to a number, in a process that may crash."""
    import resource

    import h5py

    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_SECONDS_TO_OPEN)
    numbers = count(1)
    with h5py.File(path, 'r') as file:
        file.visititems(lambda *_: True if next(numbers) > _MAX_LEAVES else None)


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Keep HDF5 from loading plugins for filters that a file requests."""
    from h5py import h5pl

    paths = [h5pl.get(number) for number in range(h5pl.size())]
    for _ in paths:
        h5pl.remove(0)
    try:
        yield
    finally:
        for path in paths:
            h5pl.append(path)


def members(group: Any) -> dict[str, Any]:
    """Return the members of a group by name: groups, datasets, types, or :class:`Broken`.

    Args:
        group (h5py.Group): The group.

    Raises:
        UserError: If one of them is a link to another file.
    """
    return {name: _open(group, name, _MAX_HOPS) for name in group}


def member(group: Any, name: str) -> Any:
    """Return the member of a group by name, or None; see :func:`members`."""
    if not group.id.links.exists(_encoded(name)):
        return None
    return _open(group, name, _MAX_HOPS)


def _encoded(name: str) -> bytes:
    return name.encode('utf-8', 'surrogateescape')


def _open(group: Any, name: str, hops: int) -> Any:
    from h5py import h5l

    links = group.id.links
    kind = links.get_info(_encoded(name)).type
    if kind == h5l.TYPE_HARD:
        return group[name]
    if kind == h5l.TYPE_SOFT:
        target = links.get_val(_encoded(name)).decode('utf-8', 'surrogateescape')
        return _follow(group, target, hops - 1)
    raise UserError(
        f'{group.file.filename}: {printable(name)} is a link to another file; only data in the '
        'file is read: copy the data into it (h5py: file.copy with expand_external=True)',
    )


def _follow(group: Any, target: str, hops: int) -> Any:
    """Follow a soft link step by step, because a step may be a link to another file."""
    import h5py

    at = group.file if target.startswith('/') else group
    for part in target.split('/'):
        if part in ('', '.'):
            continue
        if hops <= 0:
            return Broken('is a circular soft link')
        if not isinstance(at, h5py.Group) or not at.id.links.exists(_encoded(part)):
            return Broken(f'is a soft link to {printable(target)}, which is missing')
        at = _open(at, part, hops)
        if isinstance(at, Broken):
            return at
    return at


def leaves(group: Any) -> dict[str, Any]:
    """Return all arrays within a group by their paths in it, up to :data:`_MAX_LEAVES`.

    Those nearest to the group come first. Other objects are :class:`Broken`.
    """
    import h5py

    found: dict[str, Any] = {}
    looked_into = 0
    waiting: deque[tuple[str, Any, tuple[int, ...]]]
    waiting = deque([('', group, (_address(group),))])
    while waiting and len(found) <= _MAX_LEAVES and looked_into <= _MAX_GROUPS:
        prefix, at, above = waiting.popleft()
        looked_into += 1
        for name, item in members(at).items():
            if isinstance(item, (h5py.Dataset, Broken)):
                found[prefix + name] = item
            elif not isinstance(item, h5py.Group):
                found[prefix + name] = Broken('is a type without data')
            elif _address(item) not in above:  # a group may contain itself
                waiting.append((f'{prefix}{name}/', item, (*above, _address(item))))
    return found


def _address(group: Any) -> int:
    from h5py import h5o

    return h5o.get_info(group.id).addr


def check_storage(path: str, name: str, dataset: Any) -> None:
    """Check that a dataset's data are in the file and need no plugin.

    Args:
        path (str): The file, for messages.
        name (str): The dataset's name and place, for messages.
        dataset (h5py.Dataset): The dataset. Not even its size has been read before.

    Raises:
        UserError: If the check fails, or it needs more memory than is free.
    """
    from h5py import h5d

    plist = dataset.id.get_create_plist()
    if plist.get_external_count():
        raise UserError(f'{path}: {name} is stored in another file; {_COPY}')
    if plist.get_layout() == h5d.VIRTUAL:
        _check_view(path, name, dataset, plist)
        return
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    unknown = [number for number in filters if number not in _FILTERS]
    if unknown:
        raise UserError(
            f'{path}: {name} is packed by the HDF5 filter {unknown[0]}, for which a plugin would '
            'be loaded; pack it with gzip (h5repack -f GZIP=4)',
        )
    if plist.get_layout() == h5d.CHUNKED and dataset.shape:
        size = dataset.id.get_type().get_size()
        for count in plist.get_chunk():
            size *= count
        check_memory(path, size)
        if filters.count(_GZIP) > 1:
            raise UserError(f'{path}: {name} is packed with gzip more than once; pack it once')
        if filters.count(_GZIP):
            _check_chunks(path, name, dataset, size)


_COPY = 'only data in the file is read: copy the data into it'


def _check_view(path: str, name: str, dataset: Any, plist: Any) -> None:
    """Check that a view (virtual dataset) is of an array in the same file, as ours are."""
    import h5py
    from h5py import h5d

    sources = {
        (plist.get_virtual_filename(number), plist.get_virtual_dsetname(number))
        for number in range(plist.get_virtual_count())
    }
    if any(file != '.' for file, _ in sources):
        raise UserError(f'{path}: {name} is a view of another file (virtual dataset); {_COPY}')
    for _, source in sources:
        stored = _follow(dataset.file, source, _MAX_HOPS)
        if not isinstance(stored, h5py.Dataset):
            raise UserError(
                f'{path}: {name} is a view of {printable(source)}, not an array of the file; '
                'get it again',
            )
        if stored.id.get_create_plist().get_layout() == h5d.VIRTUAL:
            raise UserError(f'{path}: {name} is a view of a view (virtual dataset); {_COPY}')
        check_storage(path, printable(source), stored)


def _check_chunks(path: str, name: str, dataset: Any, chunk_bytes: int) -> None:
    """Check that gzip unpacks no chunk beyond its size; HDF5 checks only afterwards."""
    if dataset.id.get_storage_size() < _SMALL_STORAGE:
        return
    free = free_memory()
    if free is None or dataset.id.get_storage_size() * _MOST_OF_GZIP < free:
        return
    large: list[tuple[int, ...]] = []

    def see(chunk: Any) -> None:
        if chunk.size * _MOST_OF_GZIP > free:
            large.append(tuple(chunk.chunk_offset))

    dataset.id.chunk_iter(see)
    for offset in large:
        _, packed = dataset.id.read_direct_chunk(offset)
        unpacker, size, rest = zlib.decompressobj(), 0, packed
        # A checksum (fletcher32) adds four bytes.
        while rest and not unpacker.eof and size <= chunk_bytes + 4:
            try:
                size += len(unpacker.decompress(rest, 1 << 22))
            except zlib.error:
                break  # HDF5 reports the error
            rest = unpacker.unconsumed_tail
        if size > chunk_bytes + 4:
            raise UserError(
                f'{path}: {name} holds a block of {format_bytes(chunk_bytes)} that unpacks to '
                'more; the file is damaged or hostile, get it again',
            )
