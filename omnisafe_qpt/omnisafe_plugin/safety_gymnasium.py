# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Patches for Safety-Gymnasium: Python 3.11, and the module names that DSRL imports."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec


@contextlib.contextmanager
def array_defaults() -> Iterator[None]:
    """Allow arrays as dataclass defaults while Safety-Gymnasium's modules are executed.

    All of Safety-Gymnasium's objects have such defaults. Python 3.11 rejects them. Python 3.10
    accepts them, so there the patch has no effect.
    """
    import dataclasses

    original = dataclasses.dataclass
    if sys.version_info < (3, 11):
        yield
        return

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if cls.__module__.partition('.')[0] != 'safety_gymnasium':
            return original(cls, **options)
        arrays = {
            name: value
            for name, value in vars(cls).items()
            if name in vars(cls).get('__annotations__', {}) and type(value).__name__ == 'ndarray'
        }
        for name, value in arrays.items():
            # One array for all instances, as in Python 3.10.
            setattr(cls, name, dataclasses.field(default_factory=lambda value=value: value))
        cls = original(cls, **options)
        for name, value in arrays.items():
            setattr(cls, name, value)
        return cls

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


# DSRL 0.1.0 imports the Velocity tasks by their name before Safety-Gymnasium 1.0.0; without it none
# of DSRL's Safety-Gymnasium environments can be created.
OLD_VELOCITY_TASKS = 'safety_gymnasium.tasks.safety_velocity'


def find_velocity_tasks(path: Any) -> ModuleSpec | None:
    """Make the Velocity tasks importable by their old name."""
    for folder in path or ():
        package = os.path.join(folder, 'safe_velocity')
        if os.path.isfile(os.path.join(package, '__init__.py')):
            return importlib.util.spec_from_file_location(
                OLD_VELOCITY_TASKS,
                os.path.join(package, '__init__.py'),
                submodule_search_locations=[package],
            )
    return None
