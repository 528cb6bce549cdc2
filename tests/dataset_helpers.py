# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Dataset files of any kind, and what each reader says of them."""

from __future__ import annotations

import os

import h5py
import numpy as np

from common_helpers import error_of
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.convert import convert
from omnisafe_qpt.data.layouts import HDF5_NAMES, NPZ_NAMES
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories


LENGTHS = (7, 1, 12, 5)
TOTAL = sum(LENGTHS)
NAMES = {**NPZ_NAMES, 'timeouts': 'timeouts'}


def out_of(path):
    """Return a name to convert a file to, of the other format."""
    return path.with_name('out.hdf5' if path.suffix == '.npz' else 'out.npz')


READERS = {
    'train': Trajectories.load,
    'info': summarize,
    'convert': lambda path: convert(path, out_of(path), horizon=100),
}
COMMANDS = {
    'info': lambda path: ['info', str(path)],
    'convert': lambda path: ['convert', str(path), str(out_of(path)), '--horizon', '100'],
    'plot': lambda path: ['plot', str(path), '--out', str(path.with_name('out.png'))],
}


def refusal(path, reader):
    """Return the one line that a reader refuses a file with, having left nothing."""
    before = sorted(os.listdir(path.parent))
    message = error_of(READERS[reader], path)
    assert message.startswith(str(path))
    assert sorted(os.listdir(path.parent)) == before
    return message


def command_refusal(path, command, capsys):
    """Return the one line that a command refuses a file with, having left nothing."""
    before = sorted(os.listdir(path.parent))
    assert main(['data', *COMMANDS[command](path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f'Error: {path}')
    assert printed.count('\n') == 1
    assert sorted(os.listdir(path.parent)) == before
    return printed


def write(path, arrays, **changed):
    """Write a file in either format; what is callable puts itself into HDF5."""
    if path.suffix == '.npz':
        members = {NAMES[name]: value for name, value in arrays.items()}
        np.savez(path, **members | {NAMES.get(key, key): value for key, value in changed.items()})
        return path
    with h5py.File(path, 'w') as file:
        for name, value in (arrays | changed).items():
            if callable(value):
                value(file, name)
            else:
                file[name] = value
    return path


def write_dsrl(path, arrays, attributes=()):
    with h5py.File(path, 'w') as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression='gzip')
    return path


def write_collected(path, arrays, column=False, save=np.savez):
    """Write as OmniSafe's collector does: no timeouts, done at every flagged end."""
    done = (arrays['terminals'] | arrays['timeouts']).astype(np.float32)
    columns = {
        'reward': arrays['rewards'],
        'cost': arrays['costs'],
        'done': done,
    }
    columns = {key: value[:, None] if column else value for key, value in columns.items()}
    states = {key: arrays[name] for name, key in NPZ_NAMES.items() if arrays[name].ndim == 2}
    save(path, **states, **columns)
    return path


def load_error(path):
    message = error_of(Trajectories.load, path)
    assert str(path) in message
    return message


def cuts(total):
    return sorted({1, 2, 4, 9, 50, *(total * share // 20 for share in range(1, 20)), total - 1})


def sparse(path, rows, width=3):
    """Write a small file that declares arrays of any size and stores nothing of them."""
    shapes = {'observations': (rows, width), 'next_observations': (rows, width)}
    shapes['actions'] = (rows, 2)
    with h5py.File(path, 'w') as file:
        for name in HDF5_NAMES:
            shape = shapes.get(name, (rows,))
            chunks = tuple(min(length, 1000) for length in shape)
            file.create_dataset(name, shape, 'f4', chunks=chunks, compression='gzip')
    assert path.stat().st_size < 100_000
    return path


def npy(header, content=b''):
    """Return an npy array with any header."""
    text = header.encode('latin1') + b'\n'
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + content


def vlen(file, name):
    dataset = file.create_dataset(name, (TOTAL,), h5py.vlen_dtype(np.float32))
    dataset[0] = np.ones(3)


def references(file, name):
    file['target'] = np.ones(3)
    file.create_dataset(name, (TOTAL,), h5py.ref_dtype)[0] = file['target'].ref


def opaque(file, name):
    file[name] = np.zeros((TOTAL, 3), 'V4')


def no_numpy_type(file, name):
    space = h5py.h5s.create_simple((TOTAL,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.UNIX_D32LE, space)


# What an array can be besides numbers, for both formats.
WRONG = {
    'compound': np.zeros(TOTAL, [('x', 'f4'), ('y', 'f4')]),
    'complex': np.zeros((TOTAL, 3), 'c8'),
    'void': np.zeros((TOTAL, 3), 'V4'),
    'bytes': np.full((TOTAL, 3), b'1.0'),
    'zero width': np.zeros((TOTAL, 0), 'f4'),
    'zero rows': np.zeros((0, 3), 'f4'),
    'a single value': np.float32(1),
    'three dimensions': np.zeros((TOTAL, 3, 2), 'f4'),
    'too few rows': np.zeros((TOTAL - 1, 3), 'f4'),
}
WRONG_NPZ = {
    **WRONG,
    'text': np.full((TOTAL, 3), '1.0'),
    'objects': np.full((TOTAL, 3), None),
    'times': np.zeros((TOTAL, 3), 'M8[s]'),
    'an empty text': np.array(''),
}
WRONG_HDF5 = {
    **WRONG,
    'text': lambda file, name: file.create_dataset(name, data=['1.0'] * TOTAL),
    'vlen': vlen,
    'references': references,
    'empty': lambda file, name: file.create_dataset(name, data=h5py.Empty('f4')),
    'array type': lambda file, name: file.create_dataset(name, (TOTAL,), '(3,)f4'),
    'no numpy type': no_numpy_type,
    'a type': lambda file, name: file.__setitem__(name, np.dtype('f4')),
    'a group': lambda file, name: file.create_group(name),
    'a dangling soft link': lambda file, name: file.__setitem__(name, h5py.SoftLink('/none')),
    'a soft link to itself': lambda file, name: file.__setitem__(name, h5py.SoftLink(f'/{name}')),
    'a link to another file': lambda file, name: file.__setitem__(
        name, h5py.ExternalLink('other.hdf5', '/x')
    ),
}
