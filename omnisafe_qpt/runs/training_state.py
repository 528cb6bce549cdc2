# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The file from which a run is resumed, and the global random number generators in it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runs.checkpoint import durable_file, list_checkpoints, load_file, serialized
from omnisafe_qpt.runs.records import TRAINING_STATE
from omnisafe_qpt.schema import checked


TRAINING_STATE_FILE = 'training_state.pt'
# The one before, to go on from if the last one is damaged.
PREVIOUS_STATE_FILE = 'training_state.previous.pt'


def save_training_state(run: Path, state: dict[str, Any], keeps_last: bool = True) -> None:
    """Write what an exact continuation of the run needs, in place of the last one.

    Args:
        run (Path): The run's folder.
        state (dict[str, Any]): The state.
        keeps_last (bool, optional): Whether the last one takes the place of the one before it, to
            go on from should this one be damaged. Defaults to True.
    """
    path = run / TRAINING_STATE_FILE
    buffer = serialized(state)
    with durable_file(path) as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # before the last one gives its place up
        if keeps_last and path.is_file():
            os.replace(path, run / PREVIOUS_STATE_FILE)


def load_training_state(run: Path) -> tuple[dict[str, Any] | None, str]:
    """Read the training state of a run, or the one before it if it is damaged.

    Args:
        run (Path): The run's folder.

    Returns:
        The state, or None where the run was stopped before there was one; and why it is not the
        last one, empty if it is.

    Raises:
        UserError: If none can be read, or there is none any more.
    """
    faults = []
    for name in (TRAINING_STATE_FILE, PREVIOUS_STATE_FILE):
        path = run / name
        if not path.exists():
            faults += [f'{path} is missing'] if name == TRAINING_STATE_FILE else []
            continue
        try:
            state = load_file(path)
            checked(path, state, TRAINING_STATE)
        except UserError as error:
            faults.append(str(error))
        else:
            return state, '; '.join(faults)
    checkpoints = list_checkpoints(run)
    # The first epoch's checkpoint comes before the state. Others would be overwritten.
    if not (run / TRAINING_STATE_FILE).exists() and len(faults) == 1:
        if max(checkpoints, default=1) <= 1:
            return None, ''
        faults = [f'{TRAINING_STATE_FILE} is not there']
    kept = f'; {checkpoints[max(checkpoints)]} can still be evaluated' if checkpoints else ''
    raise UserError(
        f'{run}: nothing to resume from: {"; ".join(faults)}: start a new run{kept}',
    )


def random_state() -> dict[str, Any]:
    """Return the state of the global random number generators, in plain values and tensors."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, *rest = numpy_state
    state = {
        'python': [version, list(internal), gauss],
        'numpy': [kind, keys.tolist(), *rest],
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.device_count() == len(state['cuda']):
        torch.cuda.set_rng_state_all(state['cuda'])


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Let the block draw random numbers without a trace."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
