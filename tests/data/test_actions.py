# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""In which unit recorded actions are, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnisafe_qpt.data.actions import (
    ENVIRONMENT,
    NORMALIZED,
    Unit,
    find_unit,
    normalize,
    recorded_unit,
)
from omnisafe_qpt.data.checks import ACTIONS_OUT_OF_RANGE
from omnisafe_qpt.data.convert import convert
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.runner import in_environment_units


def trajectories(make_arrays: Any, values: Any) -> Trajectories:
    """Return episodes whose actions go through these values, (n, A)."""
    values = np.atleast_2d(np.asarray(values, np.float32))
    arrays = make_arrays([4, 3], act_dim=values.shape[1])
    arrays['actions'] = np.resize(values, arrays['actions'].shape)
    return Trajectories.from_arrays(arrays)


def span(low: Any, high: Any) -> dict[str, list[float]]:
    return {'low': list(low), 'high': list(high)}


@pytest.mark.parametrize(
    ('low', 'high', 'values', 'unit', 'is_doubtful'),
    [
        # Certain: only one of the two units holds the values.
        ([-2], [2], [[-1.5], [0.3]], ENVIRONMENT, False),
        ([-0.4], [0.4], [[-0.9], [0.3]], NORMALIZED, False),
        ([0], [1], [[-0.2], [0.3]], NORMALIZED, False),
        ([0], [30], [[0.0], [25.0]], ENVIRONMENT, False),
        ([-2, -1], [2, 1], [[0.5, -0.9], [-1.8, 0.1]], ENVIRONMENT, False),
        ([0, -2], [1, 2], [[-0.5, 0.9]], NORMALIZED, False),
        # Both hold them.
        ([-2], [2], [[0.5], [0.5]], ENVIRONMENT, True),
        ([-0.4], [0.4], [[-0.1], [0.2]], ENVIRONMENT, True),
        ([-0.4], [0.4], [[-0.4], [0.4]], ENVIRONMENT, True),
        ([0], [1], [[0.2], [1.0]], ENVIRONMENT, True),
        ([-3], [3], [[-1.0], [0.998]], NORMALIZED, True),
        # There is no difference.
        ([-1], [1], [[-0.3], [0.2]], NORMALIZED, False),
        ([-1, -1], [1, 1], [[-3.0, 2.0]], NORMALIZED, False),
    ],
)
def test_the_unit_is_found_out(
    make_arrays: Any,
    low: list[float],
    high: list[float],
    values: list[list[float]],
    unit: str,
    is_doubtful: bool,
) -> None:
    found = find_unit(trajectories(make_arrays, values), span(low, high))
    assert found.name == unit
    assert bool(found.warning) == is_doubtful
    assert '\n' not in found.warning
    assert not is_doubtful or 'train_cfgs:action_unit' in found.warning


def test_what_fits_neither_unit_is_refused_unless_declared(make_arrays: Any) -> None:
    data, limits = trajectories(make_arrays, [[-2.5], [1.0]]), span([-2], [2])
    with pytest.raises(UserError, match=r'from -2.5 to 1 are outside.*train_cfgs:action_unit'):
        find_unit(data, limits)
    for unit in (NORMALIZED, ENVIRONMENT):
        found = find_unit(data, limits, unit)
        assert found.name == unit
        assert 'outside' in found.warning


def test_a_declared_unit_is_believed(make_arrays: Any, tmp_path: Path) -> None:
    data, limits = trajectories(make_arrays, [[0.5]]), span([-2], [2])
    for unit in (NORMALIZED, ENVIRONMENT):
        assert find_unit(data, limits, unit) == Unit(unit)
        path = tmp_path / f'{unit}.hdf5'
        write_hdf5(path, make_arrays([3]), {'action_unit': unit})
        assert recorded_unit(path) == unit
    with pytest.raises(UserError, match="action_unit is 'metres'"):
        find_unit(data, limits, 'metres')


def test_a_declared_unit_is_known_to_info_and_convert(make_arrays: Any, tmp_path: Path) -> None:
    arrays = make_arrays([3, 4])
    arrays['actions'] = 2.0 * np.sign(arrays['actions'])
    found = {}
    for unit in (None, NORMALIZED, ENVIRONMENT):
        path = tmp_path / f'{unit}.hdf5'
        write_hdf5(path, arrays, {} if unit is None else {'action_unit': unit})
        codes = {each.code for each in summarize(path).findings}
        notes = convert(path, tmp_path / f'{unit}.npz').notes
        found[unit] = ACTIONS_OUT_OF_RANGE in codes, any('own unit' in note for note in notes)
    assert found == {None: (True, False), NORMALIZED: (True, False), ENVIRONMENT: (False, True)}


def test_normalised_actions_are_the_inverse_of_what_the_environment_gets(make_arrays: Any) -> None:
    low = np.array([-2.0, 0.0, -1.0, -0.4], np.float32)
    high = np.array([2.0, 1.0, 1.0, 0.2], np.float32)
    limits = span(low.tolist(), high.tolist())
    draw = np.random.default_rng(1)
    data = trajectories(make_arrays, draw.uniform(low, high, (7, 4)))
    before = data.table.clone()
    normalize(data, limits)
    own, first = slice(data.obs_dim, data.obs_dim + 4), data.obs_dim
    last = (data.rows.starts + data.rows.lengths).tolist()
    for row, (old, new) in enumerate(zip(before, data.table)):
        assert torch.equal(old[:first], new[:first])
        assert torch.equal(old[own.stop :], new[own.stop :])
        if row in last:
            assert (new[own] == 0).all()
            continue
        for old_value, new_value, least, most in zip(old[own], new[own], low, high):
            share = (float(old_value) - float(least)) / (float(most) - float(least))
            assert float(new_value) == pytest.approx(2 * share - 1, abs=1e-6)
    assert torch.equal(before[:, first + 2], data.table[:, first + 2]), 'same range, same bits'
    actions = in_environment_units(data.table[:, own].numpy(), limits)
    is_action = ~np.isin(np.arange(len(actions)), last)
    assert np.abs(actions - before[:, own].numpy())[is_action].max() < 1e-6
    edges = in_environment_units(np.array([[-1.0] * 4, [1.0] * 4], np.float32), limits)
    assert np.array_equal(edges, np.stack([low, high]))
