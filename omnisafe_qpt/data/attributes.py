# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata of a dataset file, as plain values."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.data.files import check_file
from omnisafe_qpt.data.hdf5 import damage, member, open_file
from omnisafe_qpt.data.memory import format_bytes
from omnisafe_qpt.data.npz import open_archive
from omnisafe_qpt.errors import UserError, first_line, printable


# Entry of our npz files for metadata, which OmniSafe's lack.
NPZ_ATTRIBUTES = 'hdf5_attributes'
# The attributes that the package uses, both text, and the size limit of all.
ENV_ID_ATTRIBUTE, UNIT_ATTRIBUTE = 'env_id', 'action_unit'
_ATTRIBUTE_BYTES = 1 << 24


def read_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a dataset's metadata, empty for an npz of OmniSafe's.

    Args:
        path (str or os.PathLike): The dataset file.

    Returns:
        The attributes of the HDF5 file and of its group ``data`` as plain Python values, texts,
        numbers and arrays of them. Nested values become JSON; others are left out.

    Raises:
        UserError: If the file is absent, truncated or of another type, the attributes are too
            large, or one that the package uses is not text.
    """
    path = check_file(path)
    if path.suffix == '.npz':
        found = _npz_attributes(path)
    else:
        with open_file(path) as file, damage(path):
            # robomimic's are those of its group of episodes.
            found = _hdf5_attributes(path, member(file, 'data')) | _hdf5_attributes(path, file)
    plain = {key: _plain_attribute(value) for key, value in found.items()}
    attributes = {key: value for key, value in plain.items() if value is not None}
    for key in (ENV_ID_ATTRIBUTE, UNIT_ATTRIBUTE):
        if key in found and not isinstance(attributes.get(key), str):
            raise UserError(
                f'{path}: attribute {key!r} is {type(found[key]).__name__}, not text; store it '
                'as text, or remove it',
            )
    return attributes


def _too_many_attributes(path: Path) -> str:
    return (
        f'{path}: its attributes take more than {format_bytes(_ATTRIBUTE_BYTES)}; remove those '
        'that are not metadata'
    )


def _hdf5_attributes(path: Path, holder: Any) -> dict[str, Any]:
    """Read the attributes of a file, group or dataset; empty for other objects."""
    from h5py import h5a

    found: dict[str, Any] = {}
    if not hasattr(holder, 'attrs'):
        return found
    size = 0
    for key in holder.attrs:
        attribute = h5a.open(holder.id, key.encode('utf-8', 'surrogateescape'))
        count = attribute.get_space().get_simple_extent_npoints()  # none of an empty one
        size += count * attribute.get_type().get_size()
        if size > _ATTRIBUTE_BYTES:
            raise UserError(_too_many_attributes(path))
        try:
            found[printable(key)] = holder.attrs[key]
        except (TypeError, ValueError, KeyError):  # of a type that numpy does not have
            found[printable(key)] = None
    return found


def _npz_attributes(path: Path) -> dict[str, Any]:
    with open_archive(path) as arrays:
        if NPZ_ATTRIBUTES not in set(arrays):
            return {}
        array = arrays[NPZ_ATTRIBUTES]
        if array.num_bytes > _ATTRIBUTE_BYTES:
            raise UserError(_too_many_attributes(path))
        text = array.text()
    try:
        found = json.loads(text)
        json.dumps(found)  # which may be too deep, too
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: array {NPZ_ATTRIBUTES!r} is not JSON ({first_line(error)}); remove it',
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f'{path}: array {NPZ_ATTRIBUTES!r} holds {type(found).__name__}; it must be a JSON '
            'object, or no such array',
        )
    return {printable(key): value for key, value in found.items()}


def _plain_attribute(value: Any) -> Any:
    """Convert metadata to a form that every format can store; None if impossible."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode('utf-8', 'replace')
        # Neither unfinished characters nor zeros can be stored as text.
        return text.encode('utf-8', 'replace').decode().replace('\0', '')
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float)):
        return value if isinstance(value, float) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in 'biuf':
            return value
        is_text = value.dtype.kind in 'SUO' and all(isinstance(t, (str, bytes)) for t in value.flat)
        return [_plain_attribute(text) for text in value.flat] if is_text else None
    if isinstance(value, (list, dict)):
        return _plain_nested(value)
    return None


def _plain_nested(value: list[Any] | dict[str, Any]) -> Any:
    """Keep a list of texts or an array of numbers; convert other values to JSON."""
    with suppress(ValueError, OverflowError):  # of unequal lengths, too deep
        if isinstance(value, list) and np.asarray(value).dtype.kind in 'biuf':
            return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_plain_attribute(item) for item in value]
    return _plain_attribute(json.dumps(value))
