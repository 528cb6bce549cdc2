# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the content of a run's files, composed of small functions.

A check takes a value and the path of its field, and raises :class:`UserError` with one line if the
value is not what it must be. Nothing is built or allocated before a file's checks have passed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omnisafe_qpt.errors import UserError


Check = Callable[[Any, str], None]
Settings = TypeVar('Settings')

# Beyond this, squares may overflow float32.
LARGEST_NUMBER = 1e15

# The largest sizes in settings and files, by the name of the option or field. They are far above
# sensible values, and reject those that would take hours or exceed the memory.
LARGEST_SIZES = {
    'obs_dim': 1_000_000,
    'act_dim': 100_000,
    'context_len': 1024,
    'embed_dim': 16_384,
    'num_layers': 256,
    'num_heads': 16_384,
    'max_timestep': 10_000_000,
    'horizon': 10_000_000,
    'candidates': 10_000,
    'sampled_actions': 10_000,
    'diffusion_steps': 10_000,
    'steps': 10_000,
    'width': 65_536,
    'actor_width': 65_536,
    'blocks': 256,
    'actor_blocks': 256,
    'batch_size': 10_000_000,
}
# Largest hidden layer, and largest number of layers.
LARGEST_LAYER, MOST_LAYERS = 65_536, 64

_DEEPEST = 32
_MOST_VALUES = 1_000_000
_LONGEST_TEXT = 65_536
_LARGEST_JSON = 1 << 28


def largest(name: str) -> float:
    """Return the largest allowed number for an option or field of this name."""
    return LARGEST_SIZES.get(name, LARGEST_NUMBER)


def show(value: Any) -> str:
    """Format a value of a file for a message: short and in one line."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f'{value[:60]!r}...'
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):  # Python refuses to write very long ones
        return repr(value) if value.bit_length() < 64 else 'a number of more than 64 bits'
    if isinstance(value, (list, tuple, dict)):
        return f'a {type(value).__name__} of {len(value)}'
    return f'a {type(value).__name__}'


def _require(condition: bool, path: str, value: Any, needed: str) -> None:
    if not condition:
        raise UserError(f'{path} is {show(value)}; it must be {needed}')


def number(least: float = -LARGEST_NUMBER, most: float = LARGEST_NUMBER) -> Check:
    """Check for a finite number in a range."""

    def check(value: Any, path: str) -> None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_within = is_number and least <= value <= most  # not so for NaN
        _require(is_within, path, value, f'a number from {least:g} to {most:g}')

    return check


def whole(least: int = 0, most: float = LARGEST_NUMBER) -> Check:
    """Check for an integer in a range."""

    def check(value: Any, path: str) -> None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        is_within = is_whole and least <= value <= most
        _require(is_within, path, value, f'a whole number from {least} to {most:g}')

    return check


def size(name: str) -> Check:
    """Check for an integer from 1 to the largest for a field of this name."""
    return whole(1, largest(name))


def components(value: Any) -> tuple[int, ...]:
    """Return the components of the observation that an option names.

    Args:
        value (Any): Numbers and ranges as text, as in ``0-5,8``; a number, a list of numbers, or
            None for none.

    Raises:
        UserError: If it is none of these.
    """
    if value is None:
        return ()
    text = ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    found: set[int] = set()
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d{1,9})(?:-(\d{1,9}))?\s*', part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UserError(
                f'components must be numbers or ranges such as 0-5,8, not {show(value)}'
            )
        found.update(range(int(match[1]), min(int(match[2] or match[1]), LARGEST_LAYER) + 1))
    return tuple(sorted(found))


def flag(value: Any, path: str) -> None:
    """Check for a boolean."""
    _require(isinstance(value, bool), path, value, 'true or false')


def text(*choices: str) -> Check:
    """Check for a text, optionally one of some choices."""

    def check(value: Any, path: str) -> None:
        is_text = isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT
        needed = f'one of {", ".join(choices)}' if choices else 'a text'
        _require(is_text and (not choices or value in choices), path, value, needed)

    return check


def maybe(check: Check) -> Check:
    """Also accept None."""

    def check_or_none(value: Any, path: str) -> None:
        if value is not None:
            check(value, path)

    return check_or_none


def sequence(check: Check, least: int = 0, most: float = _MOST_VALUES) -> Check:
    """Check for a list of this many values, and check each value."""

    def check_all(value: Any, path: str) -> None:
        is_list = isinstance(value, (list, tuple))
        counts = f'{least}' if least == most else f'{least} to {most:g}'
        _require(is_list and least <= len(value) <= most, path, value, f'a list of {counts}')
        for index, each in enumerate(value):
            check(each, f'{path}[{index}]')

    return check_all


def layers(least: int = 0) -> Check:
    """Check for the sizes of hidden layers."""
    return sequence(whole(1, LARGEST_LAYER), least, MOST_LAYERS)


def mapping(check: Check) -> Check:
    """Check for a mapping of names to values, and check each value."""

    def check_all(value: Any, path: str) -> None:
        _require(isinstance(value, Mapping), path, value, 'a mapping of names to values')
        for name, each in value.items():
            _require(isinstance(name, str), f'a name in {path}', name, 'a text')
            check(each, f'{path}:{name}' if name.isprintable() else f'{path}:{name!r}')

    return check_all


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Check for a mapping with these fields; others are ignored."""

    def check(value: Any, path: str) -> None:
        _require(isinstance(value, Mapping), path or 'the content', value, 'a mapping of fields')
        prefix = f'{path}:' if path else ''
        for name, each in required.items():
            if name not in value:
                raise UserError(f'{prefix}{name} is missing')
            each(value[name], f'{prefix}{name}')
        for name, each in (optional or {}).items():
            if name in value:
                each(value[name], f'{prefix}{name}')

    return check


def anything(value: Any, path: str) -> None:
    """Accept any value."""


def plain(value: Any, path: str, most: float = _MOST_VALUES) -> None:
    """Check for numbers, texts, lists and mappings of limited depth and size."""
    waiting, count = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > most:
            raise UserError(
                f'{path or "the content"} is nested more than {_DEEPEST} levels deep or has more '
                f'than {most:g} values',
            )
        if isinstance(each, Mapping):
            for name in each:
                _require(isinstance(name, (str, int)), f'a name in {path}', name, 'a text')
            waiting += [(inner, depth + 1) for inner in each.values()]
        elif isinstance(each, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in each]
        else:
            is_plain = each is None or isinstance(each, (bool, int, float, str))
            _require(is_plain, path or 'a value', each, 'numbers, texts, lists and mappings')


def build(kind: type[Settings], values: Any, path: str, *may_lack: str) -> Settings:
    """Build settings from a file's fields.

    Args:
        kind (type): A dataclass, which checks its values.
        values (Any): What the file holds for it.
        path (str): The field that holds it.
        may_lack (str): Fields that files of earlier versions may lack.

    Raises:
        UserError: If a field is missing, unknown or impossible.
    """
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    record({name: anything for name in known if name not in may_lack})(values, path)
    for name in values:
        if name not in known:
            raise UserError(f'{path} has an unknown field {show(name)}')
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f'{path}:{error}') from error
    except (TypeError, ValueError) as error:
        raise UserError(f'{path}: {error}') from error


def checked(file: str | os.PathLike[str], content: Any, check: Check) -> Any:
    """Check a file's content and return it.

    Args:
        file (str or os.PathLike): The file, for the message.
        content (Any): What was read from it.
        check (Check): The check.

    Raises:
        UserError: If the check fails; the message names the file and the field.
    """
    try:
        check(content, '')
    except UserError as error:
        raise UserError(
            f'{file}: {error}: the file is damaged or was not written by omnisafe-qpt; restore it '
            'or use another one',
        ) from error
    return content


def read_json(path: Path, check: Check = plain) -> Any:
    """Read a JSON file.

    Args:
        path (Path): The file.
        check (Check, optional): The check of its content. Defaults to :func:`plain`, which always
            applies.

    Raises:
        UserError: If it cannot be read or holds something else.
    """
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_JSON:
            raise UserError(f'{path}: larger than {_LARGEST_JSON >> 20} MiB, not a file of a run')
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError) else error
        raise UserError(
            f'{path}: not JSON ({reason}): it is damaged; restore it or use another one',
        ) from error
    checked(path, content, partial(plain, most=_LARGEST_JSON))
    return checked(path, content, check)
