# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Writing each state once."""

from __future__ import annotations

import os
import time

import h5py
import numpy as np
import pytest

from dataset_helpers import (
    LENGTHS,
    write_dsrl,
)
from omnisafe_qpt.data import hdf5_writer as module
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5, write_hdf5_blocks
from omnisafe_qpt.errors import UserError


def test_write_hdf5_round_trips_exactly(tmp_path, arrays):
    path = tmp_path / 'new' / 'data.hdf5'
    write_hdf5(path, arrays)
    with open_dataset(path) as found:
        for key, value in arrays.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key][:], value)


def test_a_written_file_is_dsrl_to_a_reader_that_takes_every_dataset(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    write_hdf5(path, arrays)
    path = path.rename(tmp_path / 'moved.hdf5')
    found = {}
    with h5py.File(path, 'r') as file:
        # DSRL's own loader visits all datasets and then asks for these.
        file.visititems(lambda name, item: found.update({name: item[:]}))
    total = sum(LENGTHS)
    assert found['observations'].shape == found['next_observations'].shape == (total, 3)
    assert found['actions'].shape == (total, 2)
    for key in ('rewards', 'costs', 'terminals', 'timeouts'):
        assert found[key].shape == (total,)
    for key, value in arrays.items():
        np.testing.assert_array_equal(found[key], value)
    assert found['states'].shape == (total + len(LENGTHS), 3)


def test_equal_arrays_give_equal_bytes_at_another_time(tmp_path, arrays):
    write_hdf5(tmp_path / 'first.hdf5', arrays, {'seed': 1})
    time.sleep(1.1)  # HDF5 keeps times in seconds
    write_hdf5(tmp_path / 'second.hdf5', arrays, {'seed': 1})
    assert (tmp_path / 'first.hdf5').read_bytes() == (tmp_path / 'second.hdf5').read_bytes()


def test_states_are_stored_once(tmp_path, make_arrays):
    arrays = make_arrays([500] * 4, obs_dim=60)
    write_hdf5(tmp_path / 'once.hdf5', arrays)
    write_dsrl(tmp_path / 'twice.hdf5', arrays)
    sizes = [(tmp_path / name).stat().st_size for name in ('once.hdf5', 'twice.hdf5')]
    assert sizes[0] < 0.55 * sizes[1]


def _in_blocks(arrays, rows):
    for first in range(0, len(arrays['rewards']), rows):
        yield {name: array[first : first + rows] for name, array in arrays.items()}


@pytest.mark.parametrize('rows', [1, 7, 300, 10_000])
def test_blocks_of_any_size_are_written_as_the_whole(tmp_path, make_arrays, monkeypatch, rows):
    monkeypatch.setattr(module, '_CHUNK_BYTES', 1000)
    arrays = make_arrays([100, 7, 250])
    path = tmp_path / 'data.hdf5'
    write_hdf5_blocks(path, _in_blocks(arrays, rows), np.array([99, 106, 356]), {'seed': 1})
    with h5py.File(path) as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
        assert file['states'].chunks == (83, 3)
    assert read_attributes(path) == {'seed': 1}
    # No chunk was compressed twice, which would leave holes.
    write_hdf5(tmp_path / 'whole.hdf5', arrays, {'seed': 1})
    assert path.stat().st_size == pytest.approx((tmp_path / 'whole.hdf5').stat().st_size, rel=0.05)


def test_states_in_short_runs_are_stored_twice(tmp_path, make_arrays):
    arrays = make_arrays([3] * 50)
    write_hdf5(tmp_path / 'data.hdf5', arrays)
    with h5py.File(tmp_path / 'data.hdf5') as file:
        assert sorted(file) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)


def _no_end(arrays):
    for key in ('terminals', 'timeouts'):
        arrays[key][-1] = False


def _no_end_anywhere(arrays):
    for key in ('terminals', 'timeouts'):
        arrays[key][:] = False


def _another_state(arrays):
    arrays['next_observations'][2] += 1e-6


def _short(arrays):
    arrays['actions'] = arrays['actions'][:-1]


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_no_end, 'must end an episode'),
        (_no_end_anywhere, 'must end an episode'),
        (_another_state, 'next_observations differ'),
        (_short, 'differ in length'),
    ],
)
def test_inconsistent_arrays_are_not_written(tmp_path, arrays, spoil, message):
    path = tmp_path / 'data.hdf5'
    path.write_bytes(b'before')
    spoil(arrays)
    with pytest.raises(UserError, match=message):
        write_hdf5(path, arrays)
    assert path.read_bytes() == b'before'
    assert os.listdir(tmp_path) == ['data.hdf5']


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    path.write_bytes(b'before')
    # The last arrays to be written, when most of the file is there already.
    arrays['timeouts'] = np.array([object()] * sum(LENGTHS))
    arrays['timeouts'][:] = True
    with pytest.raises(TypeError):
        write_hdf5(path, arrays)
    assert path.read_bytes() == b'before'
    assert os.listdir(tmp_path) == ['data.hdf5']
