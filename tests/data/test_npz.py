# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Npz archives, sound, damaged and hostile."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest

from common_helpers import Canary
from dataset_helpers import (
    LENGTHS,
    NAMES,
    READERS,
    TOTAL,
    cuts,
    load_error,
    npy,
    out_of,
    refusal,
    write,
    write_collected,
)
from omnisafe_qpt.data import memory
from omnisafe_qpt.data.attributes import NPZ_ATTRIBUTES
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.layouts import NPZ_NAMES


def replace_member(path, name, content, method=zipfile.ZIP_STORED):
    """Replace an array of an npz by other bytes."""
    with zipfile.ZipFile(path) as archive:
        kept = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for member, value in kept.items():
            is_it = member == f'{name}.npy'
            archive.writestr(member, content if is_it else value, method if is_it else None)


@pytest.mark.parametrize(
    'header',
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000000, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**400}, 2)}}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (24, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 25}",
        "{'descr': [], 'fortran_order': False, 'shape': (25, 2)}",
        "{'descr': [('a',)], 'fortran_order': False, 'shape': (25, 2)}",
        "{'descr': None, 'fortran_order': False, 'shape': (25, 2)}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (25, 2)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (25, 2)}",
        "{'descr': '<f4'}",
        '{' * 5000,
        '(' * 9000,
        '-' * 9000 + '1',
        "__import__('os').system('touch canary')",
        '[]',
        '',
    ],
)
def test_an_npy_header_that_lies_is_refused(tmp_path, arrays, header, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / 'data.npz', arrays)
    replace_member(path, 'action', npy(header, arrays['actions'].tobytes()))
    for reader in READERS:
        assert 'action' in refusal(path, reader)


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'data.npz'
    rows, zeros = 300_000, {'obs': 3, 'next_obs': 3, 'action': 2}
    names = [*NPZ_NAMES.values(), 'timeouts']
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            shape = (rows, zeros[name]) if name in zeros else (rows,)
            stream = io.BytesIO()
            np.save(stream, np.zeros(shape, 'i1'))
            archive.writestr(f'{name}.npy', stream.getvalue())
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(memory, '_SMALL', 0)
    monkeypatch.setattr(memory, 'free_memory', lambda: 10**7)
    for reader in READERS:
        assert '10 MB are free' in refusal(path, reader)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_packed_by_another_method_is_refused(tmp_path, arrays, method):
    path = write(tmp_path / 'data.npz', arrays)
    stream = io.BytesIO()
    np.save(stream, arrays['actions'])
    replace_member(path, 'action', stream.getvalue(), method)
    for reader in READERS:
        assert 'action' in refusal(path, reader)


def test_members_that_are_no_arrays_are_passed_over(tmp_path, arrays):
    path = write(tmp_path / 'data.npz', arrays)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('../../escaped.npy', b'nothing')
        archive.writestr('rewards', b'nothing')
        archive.writestr('/etc/passwd', b'nothing')
    for read in READERS.values():
        read(path)
    assert sorted(os.listdir(tmp_path)) == ['data.npz', 'out.hdf5']


@pytest.mark.parametrize('name', [*NAMES, 'extra', NPZ_ATTRIBUTES])
def test_nothing_is_unpickled(tmp_path, arrays, name):
    canary = tmp_path / 'canary'
    objects = np.full(TOTAL, None)
    objects[0] = Canary(canary)
    path = tmp_path / 'data.npz'
    members = {NAMES[key]: value for key, value in arrays.items()}
    np.savez(path, **members | {NAMES.get(name, name): objects})
    for reader in READERS if name in NAMES else ('info', 'convert'):
        if name == 'extra':
            READERS[reader](path)
        else:
            refusal(path, reader)
        out_of(path).unlink(missing_ok=True)
    assert not canary.exists()


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_rows_of_an_npz_can_be_taken_in_any_order(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_collected(path, {**arrays, 'actions': np.asfortranarray(arrays['actions'])}, save=save)
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


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_cut_or_damaged_anywhere_is_refused(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_collected(path, arrays, save=save)
    content = path.read_bytes()
    for cut in cuts(len(content)):
        path.write_bytes(content[:cut])
        assert 'get it again' in load_error(path), cut
    for place in range(100, len(content) // 2, 50):
        path.write_bytes(content[:place] + b'\xff' * 60 + content[place + 60 :])
        assert 'get it again' in load_error(path), place


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz_whose_checksum_is_another_is_refused(tmp_path, arrays, save):
    path = tmp_path / 'data.npz'
    write_collected(path, arrays, save=save)
    with zipfile.ZipFile(path) as archive:
        checksums = [info.CRC.to_bytes(4, 'little') for info in archive.infolist()]
    content = path.read_bytes()
    for checksum in checksums:
        path.write_bytes(content.replace(checksum, bytes(4)))
        assert 'get it again' in load_error(path)


def test_npz_of_pickled_objects_or_of_one_array_is_refused(tmp_path, arrays):
    path = tmp_path / 'data.npz'
    write_collected(path, {**arrays, 'costs': arrays['costs'].astype(object)})
    assert 'get it again' in load_error(path)
    with path.open('wb') as file:
        np.save(file, arrays['costs'])
    assert 'get it again' in load_error(path)
