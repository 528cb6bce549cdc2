# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of every part use: errors of one line, processes, settings of a run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.files import merge


# The commands of the environment in which the tests run.
SCRIPTS = Path(sys.executable).parent


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Return the one line with which a function refuses its arguments."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable(), 'one line, without control characters'
    return message


def run_command(*arguments: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the commands in a process of its own."""
    return subprocess.run(
        [str(SCRIPTS / arguments[0]), *map(str, arguments[1:])],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'COLUMNS': '160', **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def change_config(run: Path, **changes: Any) -> None:
    """Change settings in the record of a run."""
    path = run / 'config.json'
    config = merge(json.loads(path.read_text(encoding='utf-8')), changes)
    path.write_text(json.dumps(config), encoding='utf-8')


def leaves(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested structure with their paths."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f'{path}/{key}')
    else:
        yield path, value


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


class Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> Any:
        return open, (self._path, 'w')
