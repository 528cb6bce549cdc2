# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one test file uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from host_helpers import write_dataset
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig


def _arrays(lengths, ends=None, obs_dim=3, act_dim=2, seed=0):
    generator = np.random.default_rng(seed)
    ends = ['timeout'] * len(lengths) if ends is None else ends
    states = [generator.normal(size=(length + 1, obs_dim)) for length in lengths]
    total = sum(lengths)
    arrays = {
        'observations': np.concatenate([episode[:-1] for episode in states]),
        'next_observations': np.concatenate([episode[1:] for episode in states]),
        'actions': generator.uniform(-1, 1, (total, act_dim)),
        'rewards': generator.normal(size=total),
        'costs': generator.integers(0, 3, total),
    }
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    last = np.cumsum(lengths) - 1
    for key, end in (('terminals', 'terminal'), ('timeouts', 'timeout')):
        arrays[key] = np.zeros(total, dtype=bool)
        arrays[key][last] = [given == end for given in ends]
    return arrays


@pytest.fixture(name='make_arrays')
def fixture_make_arrays():
    """Return a factory of random datasets in DSRL's layout.

    ``make_arrays(lengths, ends=None, obs_dim=3, act_dim=2, seed=0)`` gives a dict of the seven
    arrays under DSRL's names, float32 and bool. Episode i has ``lengths[i]`` transitions and ends
    as ``ends[i]`` says: ``'terminal'``, ``'timeout'`` or ``None`` (no flag, so only the jump to
    the next episode's first state shows it). All end with a timeout by default. All states
    differ, so a state tells where it came from; costs are 0, 1 or 2. The arrays may be changed.
    """
    return _arrays


@pytest.fixture(name='dataset', scope='session')
def fixture_dataset(tmp_path_factory):
    """Return a file with eight episodes of the real simulator; tests leave it as it is."""
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball.hdf5')


@pytest.fixture(name='small_model')
def fixture_small_model(monkeypatch):
    """Make the dynamics model small, so that an estimate takes a moment."""
    small = DynamicsConfig(
        members=2, hidden_sizes=(8,), signal_sizes=(8,), updates=5, batch_size=16
    )
    monkeypatch.setattr(
        DynamicsConfig,
        'for_horizon',
        lambda _, exogenous=(): replace(small, exogenous=tuple(exogenous)),
    )
