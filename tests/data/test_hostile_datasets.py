# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset files that hold what no dataset holds: each is refused in one line, by every reader."""

from __future__ import annotations

import os
import signal
import time
import zlib

import h5py
import numpy as np
import pytest

from dataset_helpers import (
    COMMANDS,
    NAMES,
    READERS,
    TOTAL,
    WRONG_HDF5,
    WRONG_NPZ,
    command_refusal,
    out_of,
    refusal,
    sparse,
    write,
)
from omnisafe_qpt.data import hdf5, memory
from omnisafe_qpt.data.convert import convert
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.layouts import HDF5_NAMES
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


MEMBERS = ('observations', 'next_observations', 'actions', 'rewards', 'costs', 'terminals')
# An empty group is no array, and of these two there is another way.
ABSENT = {('next_observations', 'a group'), ('timeouts', 'a group')}
CASES = [('.hdf5', kind) for kind in WRONG_HDF5] + [('.npz', kind) for kind in WRONG_NPZ]


@pytest.mark.parametrize('name', [*MEMBERS, 'timeouts'])
@pytest.mark.parametrize(('suffix', 'kind'), CASES)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, arrays, suffix, kind, name):
    if (name, kind) in ABSENT:
        return
    value = (WRONG_NPZ if suffix == '.npz' else WRONG_HDF5)[kind]
    path = write(tmp_path / f'data{suffix}', arrays, **{name: value})
    for reader in READERS:
        message = refusal(path, reader)
        assert name in message or NAMES[name] in message or kind in ('zero rows', 'too few rows')


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('name', ['observations', 'next_observations', 'actions', 'rewards'])
def test_true_and_false_are_no_observations_actions_or_rewards(tmp_path, arrays, name, suffix):
    path = write(tmp_path / f'data{suffix}', arrays, **{name: arrays[name] > 0})
    for reader in READERS:
        assert 'true or false' in refusal(path, reader)


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('kind', ['compound', 'vlen', 'empty', 'a link to another file'])
def test_commands_print_one_line(tmp_path, arrays, kind, command, capsys):
    path = write(tmp_path / 'data.hdf5', arrays, actions=WRONG_HDF5[kind])
    assert 'actions' in command_refusal(path, command, capsys)


@pytest.mark.parametrize('kind', ['compound', 'text', 'references', 'empty', 'zero width'])
def test_an_episodes_group_names_itself(tmp_path, arrays, kind):
    path = tmp_path / 'data.hdf5'
    with h5py.File(path, 'w') as file:
        for number in range(2):
            group = file.create_group(f'episode_{number}')
            for name, value in arrays.items():
                if number == 1 and name == 'rewards':
                    value = WRONG_HDF5[kind]
                if callable(value):
                    value(group, name)
                else:
                    group[name] = value
    for reader in READERS:
        assert 'rewards in group episode_1' in refusal(path, reader)


def test_names_that_a_terminal_would_obey_do_not_reach_it(tmp_path, arrays, capsys):
    arrays['\x1b[2Jhidden'] = arrays.pop('costs')
    path = write(tmp_path / 'data.hdf5', arrays)
    for command in COMMANDS:
        said = command_refusal(path, command, capsys)
        assert 'hidden' in said
        assert '\x1b' not in said


# ---------------------------------------------------------------------------- outside the file


def outside(path, folder, kind):
    """Replace an array's data by what is in another file."""
    secret = folder / 'secret'
    secret.write_bytes(np.arange(TOTAL, dtype='f4').tobytes())
    with h5py.File(folder / 'other.hdf5', 'w') as file:
        file['costs'] = np.arange(TOTAL, dtype='f4')
        file.create_group('group')['costs'] = np.arange(TOTAL, dtype='f4')
    with h5py.File(path, 'a') as file:
        del file['costs']
        if kind == 'external storage':
            file.create_dataset('costs', (TOTAL,), 'f4', external=[(str(secret), 0, 4 * TOTAL)])
        elif kind == 'external link':
            file['costs'] = h5py.ExternalLink(str(folder / 'other.hdf5'), '/costs')
        elif kind == 'external group':
            file['infos'] = h5py.ExternalLink(str(folder / 'other.hdf5'), '/group')
        elif kind == 'soft link through one':
            file.create_group('a')['way'] = h5py.ExternalLink(str(folder / 'other.hdf5'), '/')
            file['costs'] = h5py.SoftLink('/a/way/costs')
        elif kind == 'view':
            layout = h5py.VirtualLayout((TOTAL,), 'f4')
            layout[:] = h5py.VirtualSource(str(folder / 'other.hdf5'), 'costs', (TOTAL,))
            file.create_virtual_dataset('costs', layout)
        elif kind == 'view of external storage':
            file.create_dataset('raw', (TOTAL,), 'f4', external=[(str(secret), 0, 4 * TOTAL)])
            layout = h5py.VirtualLayout((TOTAL,), 'f4')
            layout[:] = h5py.VirtualSource('.', 'raw', (TOTAL,))
            file.create_virtual_dataset('costs', layout)
        elif kind == 'view of a view':
            for name, source in (('inner', 'rewards'), ('costs', 'inner')):
                layout = h5py.VirtualLayout((TOTAL,), 'f4')
                layout[:] = h5py.VirtualSource('.', source, (TOTAL,))
                file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    'kind',
    [
        'external storage',
        'external link',
        'external group',
        'soft link through one',
        'view',
        'view of external storage',
        'view of a view',
    ],
)
def test_nothing_outside_the_file_is_read(tmp_path, arrays, kind, capsys):
    folder = tmp_path / 'here'
    folder.mkdir()
    path = write(folder / 'data.hdf5', arrays)
    outside(path, tmp_path, kind)
    for reader in READERS:
        assert 'copy the data into it' in refusal(path, reader)
    for command in COMMANDS:
        command_refusal(path, command, capsys)


@pytest.mark.parametrize('where', ['dataset', 'group'])
def test_soft_links_within_the_file_are_followed(tmp_path, arrays, where):
    plain = Trajectories.load(write(tmp_path / 'plain.hdf5', arrays))
    path = tmp_path / 'data.hdf5'
    with h5py.File(path, 'w') as file:
        inner = file.create_group('store/deep')
        for name, value in arrays.items():
            inner[name] = value
            if where == 'dataset':
                file[name] = h5py.SoftLink(f'store/deep/./{name}')
        if where == 'group':
            file['data'] = h5py.SoftLink('/store/deep')
    for reader in ('info', 'convert'):
        READERS[reader](path)
    assert Trajectories.load(path).table.equal(plain.table)


def test_groups_that_hold_themselves_end(tmp_path, arrays):
    plain = Trajectories.load(write(tmp_path / 'plain.hdf5', arrays))
    path = write(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        group = file.create_group('group')
        group['self'] = group
        group['root'] = file['/']
        group['soft'] = h5py.SoftLink('/group')
        file['round'] = h5py.SoftLink('/trip')
        file['trip'] = h5py.SoftLink('/round')
    assert Trajectories.load(path).table.equal(plain.table)


FILTER = 305  # of a registered plugin, which is not installed


def test_a_filter_that_needs_a_plugin_is_refused_and_nothing_is_loaded(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    actions = arrays.pop('actions')
    write(path, arrays)
    with h5py.File(path, 'a') as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(actions.shape)
        plist.set_filter(FILTER, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple(actions.shape)
        h5py.h5d.create(file.id, b'actions', h5py.h5t.IEEE_F32LE, space, plist).write_direct_chunk(
            (0, 0), actions.tobytes()
        )
    for reader in READERS:
        assert 'plugin' in refusal(path, reader)


def test_hdf5_finds_no_plugins_while_a_file_is_open_and_all_afterwards(tmp_path, arrays):
    path = write(tmp_path / 'data.hdf5', arrays)
    before = [h5py.h5pl.get(number) for number in range(h5py.h5pl.size())]
    assert before
    with open_dataset(path):
        assert h5py.h5pl.size() == 0
        with open_dataset(path):
            assert h5py.h5pl.size() == 0
    assert [h5py.h5pl.get(number) for number in range(h5py.h5pl.size())] == before


# ---------------------------------------------------------------------------- declared sizes


@pytest.mark.parametrize(('rows', 'width'), [(10**12, 3), (10**9, 300), (2, 10**12), (10**15, 1)])
@pytest.mark.parametrize('reader', READERS)
def test_more_than_the_memory_is_refused_before_it_is_read(tmp_path, rows, width, reader):
    path = sparse(tmp_path / 'data.hdf5', rows, width)
    start = time.monotonic()
    message = refusal(path, reader)
    assert time.monotonic() - start < 5
    assert 'are free' in message


@pytest.mark.parametrize('command', COMMANDS)
def test_more_than_the_memory_is_one_line_in_commands(tmp_path, command, capsys):
    path = sparse(tmp_path / 'data.hdf5', 10**12)
    assert 'TB of memory' in command_refusal(path, command, capsys)


def test_training_asks_for_its_whole_table_and_conversion_for_a_block(tmp_path, monkeypatch):
    path = tmp_path / 'data.hdf5'
    total, width = 6000, 1000
    states = np.zeros((total, width), 'f4')
    flags = np.zeros(total, bool)
    flags[-1] = True
    with h5py.File(path, 'w') as file:
        for name in HDF5_NAMES:
            large = name in ('observations', 'next_observations')
            value = states if large else flags if name in ('terminals', 'timeouts') else None
            value = np.ones((total, 1), 'f4') if value is None else value
            file.create_dataset(name, data=value, compression='gzip', compression_opts=1)
    monkeypatch.setattr(memory, '_SMALL', 0)
    monkeypatch.setattr(memory, 'free_memory', lambda: 6 * 10**7)
    assert '60 MB are free' in refusal(path, 'train')
    READERS['convert'](path)


def test_a_block_that_unpacks_to_more_than_a_block_is_refused(tmp_path, arrays, monkeypatch):
    path = write(tmp_path / 'data.hdf5', {k: v for k, v in arrays.items() if k != 'actions'})
    with h5py.File(path, 'a') as file:
        dataset = file.create_dataset(
            'actions', (TOTAL, 2), 'f4', chunks=(TOTAL, 2), compression='gzip'
        )
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 22), 9))
    monkeypatch.setattr(hdf5, '_SMALL_STORAGE', 0)
    monkeypatch.setattr(hdf5, 'free_memory', lambda: 1 << 22)
    for reader in READERS:
        assert 'unpacks to more' in refusal(path, reader)
    # A sound block is not refused, however little memory there is.
    sound = write(tmp_path / 'sound.hdf5', {})
    with h5py.File(sound, 'a') as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value, compression='gzip', shuffle=True)
    monkeypatch.setattr(hdf5, 'free_memory', lambda: 1)
    Trajectories.load(sound)


def test_a_sound_file_of_ours_is_read_as_before(tmp_path, arrays):
    write_hdf5(tmp_path / 'data.hdf5', arrays, {'env_id': 'E-v0'})
    for read in READERS.values():
        read(tmp_path / 'data.hdf5')


def test_a_conversion_asks_for_room_on_the_disk_first(tmp_path, arrays, monkeypatch):
    import shutil

    path = write(tmp_path / 'data.hdf5', arrays)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: disk._replace(free=100))
    with pytest.raises(UserError, match=r'out.npz: up to .* on the disk, and 100 B are free'):
        convert(path, out_of(path))
    assert os.listdir(tmp_path) == [path.name]


def spoilt(arrays, kind):
    """Return arrays that training refuses."""
    arrays = {name: value.copy() for name, value in arrays.items()}
    if kind.startswith('not finite'):
        _, _, name, value = kind.split()
        arrays[name].reshape(TOTAL, -1)[9, 0] = float(value)
    elif kind == 'no end':
        arrays['timeouts'][:] = False
    elif kind == 'shuffled':
        order = np.random.default_rng(0).permutation(TOTAL)
        arrays = {name: value[order] for name, value in arrays.items()}
    return arrays


SPOILT = [
    f'not finite {name} {value}'
    for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs')
    for value in ('nan', 'inf')
] + ['no end', 'shuffled']


@pytest.mark.parametrize('kind', SPOILT)
@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
def test_conversion_refuses_what_training_refuses(tmp_path, arrays, kind, suffix):
    path = write(tmp_path / f'data{suffix}', spoilt(arrays, kind))
    refusal(path, 'train')
    refusal(path, 'convert')
    assert summarize(path).refusal is not None


@pytest.mark.parametrize('flag', ['terminals', 'timeouts'])
def test_conversion_refuses_flags_that_are_no_numbers(tmp_path, arrays, flag):
    arrays[flag] = arrays[flag].astype('f4')
    arrays[flag][3] = np.nan
    path = write(tmp_path / 'data.hdf5', arrays)
    assert flag in refusal(path, 'train')
    assert flag in refusal(path, 'convert')


def test_an_existing_result_survives_a_refusal(tmp_path, arrays):
    path = write(tmp_path / 'data.hdf5', spoilt(arrays, 'not finite rewards nan'))
    out = out_of(path)
    out.write_text('before')
    with pytest.raises(UserError):
        convert(path, out, overwrite=True)
    assert out.read_text() == 'before'


def test_a_file_on_which_hdf5_crashes_is_refused(tmp_path, arrays, monkeypatch):
    """Damaged files on which the library itself crashes are rare; here every file is one."""

    def crash(*_):
        os.kill(os.getpid(), signal.SIGSEGV)

    file = tmp_path / 'crash.hdf5'
    write(file, arrays)
    with open_dataset(file) as opened:
        assert len(opened['rewards']) == TOTAL
    monkeypatch.setattr(h5py.Group, 'visititems', crash)
    with pytest.raises(UserError, match=r'crash\.hdf5 is damaged'), open_dataset(file):
        pass
