# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset files: both formats, and broken ones."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from dataset_helpers import LENGTHS, cuts, load_error, write_collected, write_dsrl
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.layouts import HDF5_NAMES, NPZ_NAMES
from omnisafe_qpt.data.trajectories import Trajectories


ENDS = ('terminal', 'timeout', 'timeout', 'terminal')


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS, ENDS)


@pytest.mark.parametrize('suffix', ['.hdf5', '.h5'])
def test_plain_hdf5_is_read_under_its_own_names(tmp_path, arrays, suffix):
    path = tmp_path / f'data{suffix}'
    write_dsrl(path, arrays)
    with open_dataset(str(path)) as found:
        assert sorted(found) == sorted(arrays)
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key][3:9], value[3:9])
            assert found[key].shape == value.shape


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_is_read_under_dsrl_names_without_timeouts(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_collected(path, arrays, save=save)
    with open_dataset(path) as found:
        assert set(found) == set(arrays) - {'timeouts'}
        for key in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
            np.testing.assert_array_equal(found[key], arrays[key])
        ends = arrays['terminals'] | arrays['timeouts']
        np.testing.assert_array_equal(found['terminals'], ends)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_timeouts_in_an_npz_are_read(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    save(
        path, timeouts=arrays['timeouts'], **{key: arrays[name] for name, key in NPZ_NAMES.items()}
    )
    with open_dataset(path) as found:
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key], value)
    # The horizon has no say then.
    terminal = Trajectories.load(path, horizon=7).rows.terminal.tolist()
    assert terminal == [end == 'terminal' for end in ENDS]


def test_the_home_folder_is_expanded(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_dsrl(tmp_path / 'data.hdf5', arrays)
    with open_dataset('~/data.hdf5') as found:
        assert found['rewards'].shape == (sum(LENGTHS),)


@pytest.mark.parametrize('name', ['data.hdf5', 'data.npz'])
def test_an_absent_an_empty_and_a_foreign_file_are_refused(tmp_path, name):
    path = tmp_path / name
    assert 'no such dataset file' in load_error(path)
    path.touch()
    assert 'empty' in load_error(path)
    assert 'get it again' in load_error(path)
    path.write_bytes(b'<html>Not Found</html>')
    assert 'get it again' in load_error(path)


def test_a_folder_is_no_dataset(tmp_path):
    path = tmp_path / 'data.hdf5'
    path.mkdir()
    assert 'no such dataset file' in load_error(path)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / 'data.csv'
    path.write_text('1,2,3')
    message = load_error(path)
    assert "'.csv'" in message
    assert '.hdf5' in message
    assert '.npz' in message


NEEDED = [name for name in HDF5_NAMES if name not in ('next_observations', 'timeouts')]


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('name', NEEDED)
def test_a_missing_array_is_named(tmp_path, arrays, name, suffix):
    path = tmp_path / f'data{suffix}'
    del arrays[name]
    if suffix == '.npz':
        np.savez(path, **{NPZ_NAMES.get(key, key): array for key, array in arrays.items()})
    else:
        write_dsrl(path, arrays)
    message = load_error(path)
    assert f"array '{name}' is missing" in message
    assert 'found: action' in message or name == 'actions'


def test_a_group_is_no_array(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    del arrays['costs']
    write_dsrl(path, arrays)
    with h5py.File(path, 'a') as file:
        file.create_group('costs')
    assert "array 'costs' is missing" in load_error(path)


@pytest.mark.parametrize('write', [write_dsrl, write_hdf5])
def test_hdf5_cut_anywhere_is_refused(tmp_path, arrays, write):
    path = tmp_path / 'data.hdf5'
    write(path, arrays)
    content = path.read_bytes()
    for cut in cuts(len(content)):
        path.write_bytes(content[:cut])
        assert 'get it again' in load_error(path), cut


def test_hdf5_whose_end_never_arrived_is_refused(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    write_hdf5(path, arrays)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    assert 'get it again' in load_error(path)


def test_hdf5_with_a_damaged_block_is_refused(tmp_path, make_arrays):
    path = tmp_path / 'data.hdf5'
    write_dsrl(path, make_arrays([3000]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b'\xff' * 2000
    path.write_bytes(content)
    assert 'get it again' in load_error(path)
