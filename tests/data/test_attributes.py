# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of dataset files: read as plain values, refused where something depends on them."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from dataset_helpers import (
    COMMANDS,
    READERS,
    command_refusal,
    out_of,
    refusal,
    write,
    write_collected,
)
from omnisafe_qpt.cli import main
from omnisafe_qpt.data import attributes
from omnisafe_qpt.data.actions import recorded_unit
from omnisafe_qpt.data.attributes import NPZ_ATTRIBUTES, read_attributes
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.errors import UserError


def test_metadata_is_read_as_plain_values_and_is_empty_for_npz(tmp_path, arrays):
    write_hdf5(tmp_path / 'data.hdf5', arrays, {'env_id': 'E-v0', 'seed': 3, 'knob': 0.5})
    found = read_attributes(tmp_path / 'data.hdf5')
    assert found == {'env_id': 'E-v0', 'seed': 3, 'knob': 0.5}
    assert [type(found[key]) for key in ('env_id', 'seed', 'knob')] == [str, int, float]
    write_collected(tmp_path / 'data.npz', arrays)
    assert read_attributes(tmp_path / 'data.npz') == {}


def test_metadata_behind_a_link_to_another_file_are_not_read(tmp_path, arrays):
    path = write(tmp_path / 'data.hdf5', arrays)
    with h5py.File(tmp_path / 'other.hdf5', 'w') as file:
        file.attrs['env_id'] = 'secret'
    with h5py.File(path, 'a') as file:
        file['data'] = h5py.ExternalLink(str(tmp_path / 'other.hdf5'), '/')
    with pytest.raises(UserError, match='another file'):
        read_attributes(path)


ATTRIBUTES = {
    'a list of numbers': [1, 2, 3],
    'a list of texts': ['a', 'b'],
    'a number': 3,
    'empty': h5py.Empty('f4'),
    'compound': np.zeros(2, [('x', 'f4')]),
    'complex': 1j,
    'void': np.void(b'abc'),
    'true': True,
}


@pytest.mark.parametrize('kind', ATTRIBUTES)
@pytest.mark.parametrize('key', ['env_id', 'action_unit'])
def test_an_attribute_that_something_depends_on_is_text(tmp_path, arrays, kind, key, capsys):
    path = write(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        file.attrs[key] = ATTRIBUTES[kind]
    for reader in ('info', 'convert'):
        assert f"attribute '{key}'" in refusal(path, reader)
    with pytest.raises(UserError, match=f"attribute '{key}'"):
        recorded_unit(path)
    for command in COMMANDS:
        command_refusal(path, command, capsys)


def test_other_attributes_of_any_type_do_no_harm(tmp_path, arrays, capsys):
    path = write(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        for key, value in ATTRIBUTES.items():
            file.attrs[key] = value
        file.attrs['reference'] = file['actions'].ref
        file.attrs['vlen'] = np.array([np.ones(2), np.ones(3)], h5py.vlen_dtype('f4'))
        file.attrs['bytes'] = np.bytes_(b'plain')
        file.attrs['broken'] = np.array(b'\xff\xfe', h5py.string_dtype('utf-8', 2))
        file.attrs['markup'] = '[/bold] [red]'
        file.attrs['\x1b[2Jname'] = 'x'
        file.attrs['nested'] = json.dumps([[[1]]] * 50)
        file.attrs['table'] = np.arange(6).reshape(2, 3)
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file.id, b'time', h5py.h5t.UNIX_D32LE, space)
    found = read_attributes(path)
    assert found['a list of texts'] == ['a', 'b']
    assert found['bytes'] == 'plain'
    assert found['true'] is True
    assert found['table'].tolist() == [[0, 1, 2], [3, 4, 5]]
    there_and_back = tmp_path / 'back.hdf5'
    for command in (
        ['info', str(path), '--json', str(tmp_path / 'summary.json')],
        ['convert', str(path), str(out_of(path))],
        ['convert', str(out_of(path)), str(there_and_back)],
    ):
        assert main(['data', *command]) == 0
    assert '\x1b' not in capsys.readouterr().out
    again = read_attributes(there_and_back)
    assert again.keys() == found.keys()
    assert again['table'].tolist() == found['table'].tolist()
    assert again['a list of texts'] == ['a', 'b']


NO_OBJECTS = [
    'no JSON',
    '[1, 2]',
    '5',
    '[' * 100_000 + ']' * 100_000,  # too deep
    '{"a": ' * 100_000,
    '{"a": ' + '9' * 100_000 + '}',  # a huge number
    '',
]


OTHER_THAN_A_TEXT = [
    np.array([1, 2]),
    np.float32(1),
    np.array(['{}'] * 2),
    np.zeros((), [('a', 'f4')]),
]


@pytest.mark.parametrize('value', [*map(np.array, NO_OBJECTS), *OTHER_THAN_A_TEXT])
def test_attributes_of_an_npz_are_one_json_object(tmp_path, arrays, value):
    path = write(tmp_path / 'data.npz', arrays, **{NPZ_ATTRIBUTES: value})
    for reader in ('info', 'convert'):
        assert NPZ_ATTRIBUTES in refusal(path, reader)


def test_values_of_an_npzs_attributes_may_be_anything(tmp_path, arrays):
    values = {
        'nested': {'a': [1, {'b': None}]},
        'mixed': [1, 'a'],
        'large': 1 << 80,
        'none': None,
        'nul': 'a\0b',
        'half': '\ud800',
        'ragged': [[1], [1, 2]],
    }
    text = np.array(json.dumps(values))
    path = write(tmp_path / 'data.npz', arrays, **{NPZ_ATTRIBUTES: text})
    for read in READERS.values():
        read(path)
    assert json.loads(read_attributes(out_of(path))['nested']) == values['nested']


def test_huge_attributes_are_refused(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(attributes, '_ATTRIBUTE_BYTES', 1000)
    path = write(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        file.attrs['numbers'] = np.zeros(5000, 'u1')
    text = np.array(json.dumps({'a': 'x' * 5000}))
    write(tmp_path / 'data.npz', arrays, **{NPZ_ATTRIBUTES: text})
    for name in ('data.hdf5', 'data.npz'):
        for reader in ('info', 'convert'):
            assert 'attributes take more than 1 kB' in refusal(tmp_path / name, reader)


def test_an_environments_name_cannot_inject_a_command(tmp_path, arrays, capsys):
    text = np.array(json.dumps({'env_id': 'E; touch canary'}))
    source = write(tmp_path / 'data.npz', arrays, **{NPZ_ATTRIBUTES: text})
    out = out_of(source)
    assert main(['data', 'convert', str(source), str(out)]) == 0
    assert "--env-id 'E; touch canary' " in capsys.readouterr().out
