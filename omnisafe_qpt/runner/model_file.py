# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of an exported model: their digest, their metadata, and what the graph may hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .checks import printable


# A file of the format is one protobuf message, which has to be shorter.
_MOST_BYTES = 2**31

# The digest's entry of the metadata, up to the digest: its name, and a text of 66 bytes, which is
# JSON as all others are.
_DIGEST = 'omnisafe_qpt_sha256'
_DIGEST_LENGTH = 64
BLANK_DIGEST = '0' * _DIGEST_LENGTH
_DIGEST_MARK = _DIGEST.encode() + bytes([0x12, _DIGEST_LENGTH + 2]) + b'"'

# ONNX's numbers of its fields and types, of onnx.proto.
_GRAPH, _METADATA, _TRAINING, _FUNCTIONS = 7, 14, 20, 25
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
_ATTRIBUTE, _DOMAIN = 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_OTHERS = (5, 10), (6, 11, 22, 23)
_DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DOUBLE_DATA = 2, 4, 8, 9, 10
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_FLOAT, _INT32, _INT64, _BOOL, _DOUBLE = 1, 6, 7, 9, 11
_NOTHING = memoryview(b'')
_BYTES_OF = {0: None, 1: 8, 2: None, 5: 4}  # of each kind of field; None where it says so itself


def sealed(content: bytes) -> bytes:
    """Write a model's SHA-256 into its metadata, where ``BLANK_DIGEST`` stands.

    The digest is of all bytes of the file, with ``BLANK_DIGEST`` in its place. It shows damage; it
    is no signature.

    Args:
        content (bytes): Of a file.

    Raises:
        ValueError: If there is no place for it.
    """
    place = _digest_place(content)
    return content[: place.start] + _digest(content, place).encode() + content[place.stop :]


def _digest_place(content: bytes) -> slice:
    if content.count(_DIGEST_MARK) != 1:
        raise ValueError(f'damaged: it has no metadata field {_DIGEST}; copy or export it again')
    start = content.index(_DIGEST_MARK) + len(_DIGEST_MARK)
    return slice(start, start + _DIGEST_LENGTH)


def _digest(content: bytes, place: slice) -> str:
    digest = hashlib.sha256(memoryview(content)[: place.start])
    digest.update(BLANK_DIGEST.encode())
    digest.update(memoryview(content)[place.stop :])
    return digest.hexdigest()


def read_model(path: str | os.PathLike[str]) -> bytes:
    """Read a file's bytes.

    Raises:
        ValueError: If it is empty, or too large for an ONNX model.
    """
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError('the file is empty (0 bytes); copy or export it again')
    if size >= _MOST_BYTES:
        raise ValueError(f'cannot be an ONNX model: {size} bytes, and 2 GiB is the most')
    with open(path, 'rb') as file:
        return file.read(size)


def check_digest(content: bytes) -> None:
    """Check the SHA-256 that :func:`sealed` wrote.

    Raises:
        ValueError: If there is damage, or no digest.
    """
    place = _digest_place(content)
    if content[place] != _digest(content, place).encode():
        raise ValueError(
            f'damaged: its SHA-256 is not the one in its metadata field {_DIGEST}; copy or export '
            'it again',
        )


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Read the fields of a protobuf message: numbers as int, the rest as memoryview.

    Raises:
        ValueError: If it is cut short or no such message.
    """
    place, size = 0, len(message)

    def number() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            if place >= size:
                break
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError('cut short or no protobuf message')

    while place < size:
        key = number()
        kind = key & 7
        if kind not in _BYTES_OF or not key >> 3:
            raise ValueError('no protobuf message')
        if kind == 0:
            yield key >> 3, number()
            continue
        length = _BYTES_OF[kind] or number()
        if length > size - place:
            raise ValueError('cut short or no protobuf message')
        place += length
        yield key >> 3, message[place - length : place]


def _message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError('a field has another type than in ONNX')
    return value


def metadata_texts(content: bytes) -> dict[str, str]:
    """Read the metadata out of a model's bytes, each field still as text.

    Raises:
        ValueError: If the bytes are no ONNX model.
    """
    entries: dict[str, str] = {}
    try:
        for field, value in _fields(memoryview(content)):
            if field != _METADATA:
                continue
            entry = dict(_fields(_message(value)))
            name, text = (str(bytes(_message(entry.get(i, _NOTHING))), 'utf-8') for i in (1, 2))
            if name in entries:
                raise ValueError(f'the metadata field {printable(name)} is there twice')
            entries[name] = text
    except ValueError as error:
        raise ValueError(
            f'cannot be read as an ONNX model ({error}); copy or export it again',
        ) from error
    return entries


def check_graph(content: bytes) -> None:
    """Check that a graph has only elements of exported policies, before it is built.

    Raises:
        ValueError: If there is a function, a foreign operator, a graph within the graph, or a
            tensor whose numbers are in another file or not finite.
    """
    for field, value in _fields(memoryview(content)):
        if field == _GRAPH:
            _check_parts(value)
        elif field in (_TRAINING, _FUNCTIONS):
            raise ValueError('the graph has functions, which no exported policy has')


def _check_parts(graph: Any) -> None:
    """Check a graph's nodes and tensors."""
    for field, value in _fields(_message(graph)):
        if field == _INITIALIZER:
            _check_tensor(value)
        elif field == _SPARSE_INITIALIZER:
            raise ValueError('the graph has sparse initializers, which no exported policy has')
        elif field == _NODE:
            _check_node(value)


def _check_node(node: Any) -> None:
    for field, value in _fields(_message(node)):
        if field == _DOMAIN and bytes(_message(value)) not in (b'', b'ai.onnx'):
            raise ValueError('the graph has an operator that is not of ONNX itself')
        if field != _ATTRIBUTE:
            continue
        for part, content in _fields(_message(value)):
            if part in _ATTRIBUTE_OTHERS:
                raise ValueError('the graph has graphs within, which no exported policy has')
            if part in _ATTRIBUTE_TENSORS:
                _check_tensor(content)


def _check_tensor(tensor: Any) -> None:
    """Check that a tensor's numbers are in the file and finite."""
    name, kind, numbers = '', 0, []
    for field, value in _fields(_message(tensor)):
        if field == _NAME:
            name = printable(str(bytes(_message(value)), 'utf-8', 'replace'))[:80]
        elif field == _DATA_TYPE:
            kind = value
        elif field in (_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA):
            numbers.append(_message(value))
        elif field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value):
            raise ValueError(
                'the weights are in another file (external_data), which is never read; export the '
                'policy again',
            )
    if kind not in (_FLOAT, _INT32, _INT64, _BOOL, _DOUBLE):
        raise ValueError(f'the initializer {name} has a type that no exported policy has')
    if kind in (_FLOAT, _DOUBLE):
        _check_numbers(name, numbers, np.dtype('<f4' if kind == _FLOAT else '<f8'))


def _check_numbers(name: str, numbers: list[memoryview], dtype: np.dtype) -> None:
    for data in numbers:
        if len(data) % dtype.itemsize:
            raise ValueError(f'the initializer {name} is cut short')
        values = np.frombuffer(data, dtype)
        # Attention masks are of 0 and -inf; nothing else has an infinity.
        if not np.isfinite(values).all() and not ((values == 0) | (values == -np.inf)).all():
            raise ValueError(
                f'the initializer {name} has numbers that are not finite: damaged, or exported '
                'from a damaged checkpoint; export another one',
            )
