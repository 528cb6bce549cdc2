# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset files: both layouts, broken ones, and writing each state once."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from contextlib import suppress

import h5py
import numpy as np
import pytest

from omnisafe_qpt.data import hdf5_writer as module
from omnisafe_qpt.data.arrays import row_blocks
from omnisafe_qpt.data.atomic import atomic_path, file_sha256
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5, write_hdf5_blocks
from omnisafe_qpt.data.layouts import HDF5_NAMES, NPZ_NAMES
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


LENGTHS = (7, 1, 12, 5)
ENDS = ('terminal', 'timeout', 'timeout', 'terminal')


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS, ENDS)


def write_plain_hdf5(path, arrays):
    with h5py.File(path, 'w') as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression='gzip')


def write_npz(path, arrays, save=np.savez):
    named = {key: arrays[name] for name, key in NPZ_NAMES.items() if name != 'terminals'}
    save(path, done=(arrays['terminals'] | arrays['timeouts']).astype(np.float32), **named)


def load_error(path):
    with pytest.raises(UserError) as caught:
        Trajectories.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    return message


@pytest.mark.parametrize('suffix', ['.hdf5', '.h5'])
def test_plain_hdf5_is_read_under_its_own_names(tmp_path, arrays, suffix):
    path = tmp_path / f'data{suffix}'
    write_plain_hdf5(path, arrays)
    with open_dataset(str(path)) as found:
        assert sorted(found) == sorted(arrays)
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key][3:9], value[3:9])
            assert found[key].shape == value.shape


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_is_read_under_dsrl_names_without_timeouts(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_npz(path, arrays, save)
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


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_rows_of_an_npz_can_be_taken_in_any_order(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_npz(path, {**arrays, 'actions': np.asfortranarray(arrays['actions'])}, save)
    with open_dataset(path) as found:
        for key in ('observations', 'actions', 'rewards'):
            for rows in (
                slice(3, 9),
                slice(9, 10),
                slice(2, 20),
                slice(0),
                slice(24, 99),
                slice(5),
            ):
                np.testing.assert_array_equal(found[key][rows], arrays[key][rows])
            assert len(found[key]) == sum(LENGTHS)


def test_the_home_folder_is_expanded(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_plain_hdf5(tmp_path / 'data.hdf5', arrays)
    with open_dataset('~/data.hdf5') as found:
        assert found['rewards'].shape == (sum(LENGTHS),)


def test_metadata_is_read_as_plain_values_and_is_empty_for_npz(tmp_path, arrays):
    write_hdf5(tmp_path / 'data.hdf5', arrays, {'env_id': 'E-v0', 'seed': 3, 'knob': 0.5})
    found = read_attributes(tmp_path / 'data.hdf5')
    assert found == {'env_id': 'E-v0', 'seed': 3, 'knob': 0.5}
    assert [type(found[key]) for key in ('env_id', 'seed', 'knob')] == [str, int, float]
    write_npz(tmp_path / 'data.npz', arrays)
    assert read_attributes(tmp_path / 'data.npz') == {}


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / 'data'
    path.write_bytes(b'x' * 5_000_000)
    assert file_sha256(path) == hashlib.sha256(b'x' * 5_000_000).hexdigest()


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


@pytest.mark.parametrize('key', NEEDED)
def test_an_array_missing_from_hdf5_is_named(tmp_path, arrays, key):
    path = tmp_path / 'data.hdf5'
    del arrays[key]
    write_plain_hdf5(path, arrays)
    message = load_error(path)
    assert f"array '{key}' is missing" in message
    assert 'found: actions' in message or key == 'actions'


def test_a_group_is_no_array(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    del arrays['costs']
    write_plain_hdf5(path, arrays)
    with h5py.File(path, 'a') as file:
        file.create_group('costs')
    assert "array 'costs' is missing" in load_error(path)


@pytest.mark.parametrize('name', NEEDED)
def test_an_array_missing_from_npz_is_named(tmp_path, arrays, name):
    path = tmp_path / 'data.npz'
    write_npz(path, arrays)
    with np.load(path) as file:
        kept = {key: file[key] for key in file.files if key != NPZ_NAMES[name]}
    np.savez(path, **kept)
    assert f"array '{name}' is missing" in load_error(path)


def _cuts(total):
    return sorted({1, 2, 4, 9, 50, *(total * share // 20 for share in range(1, 20)), total - 1})


@pytest.mark.parametrize('write', [write_plain_hdf5, write_hdf5])
def test_hdf5_cut_anywhere_is_refused(tmp_path, arrays, write):
    path = tmp_path / 'data.hdf5'
    write(path, arrays)
    content = path.read_bytes()
    for cut in _cuts(len(content)):
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
    write_plain_hdf5(path, make_arrays([3000]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b'\xff' * 2000
    path.write_bytes(content)
    assert 'get it again' in load_error(path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_cut_or_damaged_anywhere_is_refused(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_npz(path, arrays, save)
    content = path.read_bytes()
    for cut in _cuts(len(content)):
        path.write_bytes(content[:cut])
        assert 'get it again' in load_error(path), cut
    for place in range(100, len(content) // 2, 50):
        path.write_bytes(content[:place] + b'\xff' * 60 + content[place + 60 :])
        assert 'get it again' in load_error(path), place


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_whose_checksum_is_another_is_refused(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_npz(path, arrays, save)
    with zipfile.ZipFile(path) as archive:
        checksums = [info.CRC.to_bytes(4, 'little') for info in archive.infolist()]
    content = path.read_bytes()
    for checksum in checksums:
        path.write_bytes(content.replace(checksum, bytes(4)))
        assert 'get it again' in load_error(path)


def test_npz_of_pickled_objects_or_of_one_array_is_refused(tmp_path, arrays):
    path = tmp_path / 'data.npz'
    write_npz(path, {**arrays, 'costs': arrays['costs'].astype(object)})
    assert 'get it again' in load_error(path)
    with path.open('wb') as file:
        np.save(file, arrays['costs'])
    assert 'get it again' in load_error(path)


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
    write_plain_hdf5(tmp_path / 'twice.hdf5', arrays)
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


@pytest.mark.parametrize(
    ('chunk_rows', 'rows', 'expected'),
    [
        (None, 40, [(0, 40), (40, 80), (80, 100)]),
        (15, 40, [(0, 30), (30, 60), (60, 90), (90, 100)]),
        (60, 40, [(0, 60), (60, 100)]),
        (90, 20, [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]),  # too much memory
    ],
)
def test_blocks_end_where_chunks_do(tmp_path, chunk_rows, rows, expected):
    with h5py.File(tmp_path / 'data.hdf5', 'w') as file:
        chunks = None if chunk_rows is None else (chunk_rows, 2)
        array = file.create_dataset('array', (100, 4), 'f4', chunks=chunks)
        assert list(row_blocks(array, rows)) == expected


def _no_end(arrays):
    arrays['terminals'][-1] = False


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


def test_atomic_path_is_beside_the_file_and_has_the_usual_rights(tmp_path):
    path = tmp_path / 'result.json'
    with atomic_path(path) as temporary:
        temporary.write_text('{}')
        assert temporary.parent == tmp_path
        assert temporary.suffix == '.json'
        assert not path.exists()
    plain = tmp_path / 'plain'
    plain.touch()
    assert path.read_text() == '{}'
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ['plain', 'result.json']


def test_atomic_path_drops_what_was_interrupted(tmp_path):
    path = tmp_path / 'result.json'
    with suppress(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text('{')
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
