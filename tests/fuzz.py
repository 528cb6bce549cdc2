# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files by the thousand: each ends in success or in one clear error.

``make fuzz ARGS='--cases 1000 --seed 0'``, or ``python tests/fuzz.py --seed 0 --case 17`` to repeat
one case alone, with its traceback. A case takes a sound file of some kind (a checkpoint, a training
state, a run's ``config.json``, ``best.json`` or ``progress.csv``, a dataset, an ONNX file, the
answer of a server), damages it, and has the package read it. Whatever the damage, it must hold that

- the case ends in success or in one error of one line, ``UserError`` or, of ``runner/``,
  ``ValueError``, and a command's status is 1 then;
- a policy that was loaded acts in finite numbers, or says that it cannot;
- it ends within bounds of time and memory;
- nothing that was there is lost, and nothing half-written is left;
- no code runs that the file brings along.

What a case does depends on its seed and number alone.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np


sys.path.insert(0, str(Path(__file__).parent))

# A case is given up after this long, on a machine with other work.
SECONDS = 120.0
# What a case's process may take on top of what it has when it begins.
MEMORY = 2 << 30
OK, REFUSED, FAILED = 'success', 'one error', 'FAILED'
ENV_ID, TASK = 'SafetyBallRun-v0', 'BallRun'
HAS_ONNX = all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime', 'onnxscript'))


class Failure(Exception):
    """Something that must not happen has happened."""


# ---------------------------------------------------------------------------- sound files


def prepare(folder: Path) -> None:
    """Make a sound file of each kind; in a process of its own, which starts threads."""
    import torch

    from host_helpers import small_options, train
    from http_helpers import dataset_bytes
    from omnisafe_qpt.data.convert import convert
    from omnisafe_qpt.data.tasks import find_task

    torch.set_num_threads(1)
    task = find_task(TASK)
    dataset = folder / 'data.hdf5'
    states = np.random.default_rng(0).normal(size=(401, task.obs_dim)).astype(np.float32)
    content = dataset_bytes(task, observations=states[:-1], next_observations=states[1:])
    dataset.write_bytes(content)
    convert(dataset, folder / 'data.npz')
    convert(folder / 'data.npz', folder / 'views.hdf5')
    options = small_options(dataset, folder / 'runs', final_evaluate_episodes=0)
    train(options).rename(folder / 'run')
    shutil.rmtree(folder / 'runs')
    missing = {'best.json', 'config.json', 'progress.csv', 'training_state.pt'}
    missing -= set(os.listdir(folder / 'run'))
    if missing:
        raise RuntimeError(f'the sound run lacks {missing}')
    if HAS_ONNX:
        from omnisafe_qpt.export import export_policy

        export_policy(folder / 'run', folder / 'policy.onnx')


# ---------------------------------------------------------------------------- damage


def damage_bytes(content: bytes, draw: np.random.Generator) -> bytes:
    """Flip, cut, zero, overwrite, repeat, append or replace bytes."""
    data = bytearray(content)
    size = len(data)
    place = int(draw.integers(size))
    length = int(draw.integers(1, max(2, min(size - place, 4096) + 1)))
    kind = draw.choice(
        ['flip', 'flip', 'flip', 'cut', 'zero', 'overwrite', 'repeat', 'append', 'remove', 'none']
    )
    if kind == 'flip':
        for position in draw.integers(size, size=int(draw.choice([1, 1, 2, 20]))):
            data[position] ^= 1 << int(draw.integers(8))
    elif kind == 'cut':
        del data[place:]
    elif kind == 'zero':
        data[place : place + length] = bytes(length)
    elif kind == 'overwrite':
        data[place : place + length] = draw.bytes(length)
    elif kind == 'repeat':
        data[place:place] = data[place : place + length]
    elif kind == 'append':
        data += draw.bytes(length)
    elif kind == 'remove':
        del data[place : place + length]
    else:
        data = bytearray(draw.choice([b'', b'<html>Not Found</html>', b'\0' * 64, b'null']))
    return bytes(data)


def hostile_value(draw: np.random.Generator) -> Any:
    """Return a plain value that nobody expects."""
    nested: Any = 1
    for _ in range(int(draw.choice([3, 50, 200]))):
        nested = [nested]
    values: list[Any] = [
        *(None, True, False, 0, -1, 1, 8, 2**31, 10**9, 10**18, -(10**9), 2**63, 2**80),
        *(0.5, -0.5, 1e9, 1e308, -1e308, 1e-300, math.nan, math.inf, -math.inf),
        *('', '8', 'nan', 'a' * 10_000, '\x1b[2J', '../../..', '/etc/passwd', '$(touch canary)'),
        *([], {}, [1, 2], ['a'], {'a': 1}, [[1], [2, 3]], [math.nan], [None] * 4, nested),
    ]
    return values[int(draw.integers(len(values)))]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within nested lists and mappings."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value[:50])
    for key, inner in items:
        yield from places(inner, (*path, key))


def damage_values(
    content: Any,
    draw: np.random.Generator,
    special: Callable[[Any, np.random.Generator], Any] | None = None,
) -> Any:
    """Change some of the values of nested lists and mappings, each in one of several ways."""
    content = copy.deepcopy(content)
    if draw.random() < 0.05:
        return hostile_value(draw)
    for _ in range(int(draw.choice([1, 1, 1, 2, 5]))):
        found = list(places(content))
        if not found:
            break
        *above, last = found[int(draw.integers(len(found)))]
        holder = content
        for key in above:
            holder = holder[key]
        value = holder[last]
        way = draw.choice(['value', 'value', 'value', 'remove', 'type', 'move'])
        if special is not None and not isinstance(value, (dict, list)) and draw.random() < 0.7:
            holder[last] = special(value, draw)
        elif way == 'remove':
            del holder[last]
        elif way == 'type':
            holder[last] = str(value) if draw.random() < 0.5 else [value]
        elif way == 'move' and isinstance(holder, dict):
            holder[f'{last}x'] = holder.pop(last)
        else:
            holder[last] = hostile_value(draw)
    return content


def damage_tensor(value: Any, draw: np.random.Generator) -> Any:
    """Change a tensor's values, type or shape."""
    import torch

    if not isinstance(value, torch.Tensor):
        return hostile_value(draw)
    number = value.clone()
    ways = ['nan', 'inf', 'huge', 'int', 'double', 'complex', 'half', 'bool', 'reshape', 'empty']
    way = str(draw.choice(ways))
    values = {'nan': math.nan, 'inf': math.inf, 'huge': 3e38}
    if way in values and number.is_floating_point() and number.numel():
        number.view(-1)[int(draw.integers(number.numel()))] = values[way]
        return number
    if way == 'reshape':
        return number.reshape(-1)[None]
    if way == 'empty':
        return number[:0] if number.ndim else number.reshape(1)[:0]
    kinds = {'int': torch.int64, 'double': torch.float64, 'complex': torch.complex64}
    kinds |= {'half': torch.float16, 'bool': torch.bool}
    return number.to(kinds.get(way, torch.int8))


def damage_torch(path: Path, draw: np.random.Generator, canary: Path) -> None:
    """Damage a file of torch's: its bytes, its values, or put what runs code in its place."""
    import torch

    from common_helpers import Canary

    way = draw.random()
    if way < 0.4:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
    elif way < 0.9:
        content = torch.load(path, map_location='cpu', weights_only=True)
        torch.save(damage_values(content, draw, damage_tensor), path)
    elif way < 0.95:
        path.write_bytes(pickle.dumps({'pi': Canary(canary)}))
    else:
        content = torch.load(path, map_location='cpu', weights_only=True)
        torch.save({**content, 'more': Canary(canary)}, path)


def damage_json(path: Path, draw: np.random.Generator) -> None:
    """Damage a JSON file."""
    if draw.random() < 0.3:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
    elif draw.random() < 0.05:
        path.write_text('[' * 100_000)
    else:
        path.write_text(json.dumps(damage_values(json.loads(path.read_text()), draw)))


def damage_csv(path: Path, draw: np.random.Generator) -> None:
    """Damage a table's bytes or some of its cells."""
    if draw.random() < 0.5:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
        return
    rows = [line.split(',') for line in path.read_text().splitlines()]
    for _ in range(int(draw.integers(1, 4))):
        row = rows[int(draw.integers(len(rows)))]
        row[int(draw.integers(len(row)))] = str(hostile_value(draw))
    path.write_text('\n'.join(map(','.join, rows)) + '\n')


def damage_hdf5(path: Path, draw: np.random.Generator) -> None:
    """Damage a dataset's bytes, arrays or attributes."""
    import h5py

    from dataset_helpers import WRONG_HDF5

    way = draw.random()
    if way < 0.45:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
        return
    with h5py.File(path, 'a') as file, contextlib.suppress(TypeError, OverflowError, OSError):
        name = str(draw.choice([name for name in file if name != 'states']))
        if way < 0.65:
            del file[name]
            value = WRONG_HDF5[str(draw.choice(list(WRONG_HDF5)))]
            if callable(value):
                value(file, name)
            else:
                file[name] = value
        elif way < 0.75:
            damage_array(file, name, draw)
        elif way < 0.85:
            shape, dtype = file[name].shape, file[name].dtype
            del file[name]
            rows = int(draw.choice([0, 1, 399, 401, 10**7, 10**9, 10**12, 10**15]))
            shape = (rows, *shape[1:]) if draw.random() < 0.7 else (shape[0], rows + 1)
            file.create_dataset(name, shape, dtype, chunks=True, compression='gzip')
        elif way < 0.95:
            key = str(draw.choice(['env_id', 'action_unit', 'other', '\x1b[2J']))
            with contextlib.suppress(ValueError):  # h5py takes no ragged list
                file.attrs[key] = hostile_value(draw)
        else:
            group = file.create_group(str(draw.choice(['data', 'infos', 'episode_0'])))
            group[name] = file[name]
            if draw.random() < 0.5:
                del file[name]


def damage_array(file: Any, name: str, draw: np.random.Generator) -> None:
    """Change an array's values or type."""
    value = np.asarray(file[name])
    del file[name]
    if draw.random() < 0.5:
        value = value.astype(str(draw.choice(['f8', '>f4', 'f2', 'i8', 'u1', 'c8', 'bool'])))
    if value.dtype.kind == 'f':
        value.reshape(-1)[int(draw.integers(value.size))] = float(
            draw.choice([math.nan, math.inf, 1e30, -1e300, 0.0])
        )
    elif draw.random() < 0.5:
        value = draw.permutation(value)
    file[name] = value


def damage_npz(path: Path, draw: np.random.Generator, canary: Path) -> None:
    """Damage an archive's bytes, its arrays, or the headers of these."""
    from common_helpers import Canary
    from dataset_helpers import WRONG_NPZ, npy

    way = draw.random()
    if way < 0.4:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(draw.choice(list(members)))
    if way < 0.6:
        objects = np.full(400, None)
        objects[0] = Canary(canary)
        values = {**WRONG_NPZ, 'canary': objects}
        stream = io.BytesIO()
        np.save(stream, values[str(draw.choice(list(values)))], allow_pickle=True)
        members[name] = stream.getvalue()
    elif way < 0.8:
        members[name] = damage_bytes(members[name], draw)
    elif way < 0.9:
        header = np.lib.format.read_array_header_1_0(io.BytesIO(members[name][8:]))
        fields = dict(zip(('shape', 'fortran_order', 'descr'), (*header[:2], header[2].str)))
        changed = damage_values(json.loads(json.dumps(fields)), draw)
        members[name] = npy(repr(changed)[:60_000], members[name][-400:])
    else:
        members['hdf5_attributes.npy'] = _text_array(json.dumps(hostile_value(draw)))
    method = zipfile.ZIP_DEFLATED if draw.random() < 0.5 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, 'w', method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def _text_array(text: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(text))
    return stream.getvalue()


def damage_onnx(path: Path, draw: np.random.Generator) -> None:
    """Damage an ONNX file's bytes, its numbers, its metadata or its graph."""
    import onnx
    from onnx import numpy_helper

    way = draw.random()
    if way < 0.4:
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
        return
    model = onnx.load(path)
    if way < 0.6:
        tensor = model.graph.initializer[int(draw.integers(len(model.graph.initializer)))]
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype.kind == 'f' and values.size:
            values.reshape(-1)[int(draw.integers(values.size))] = draw.choice(
                [math.nan, math.inf, -math.inf, 3e38]
            )
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    elif way < 0.9:
        entry = model.metadata_props[int(draw.integers(len(model.metadata_props)))]
        value = damage_values([json.loads(entry.value)], draw)
        entry.value = json.dumps(value[0] if isinstance(value, list) and value else value)
    else:
        del model.graph.node[int(draw.integers(len(model.graph.node)))]
    path.write_bytes(model.SerializeToString())


# ---------------------------------------------------------------------------- reading


@dataclass
class Case:
    """One case at work.

    Args:
        sound (Path): The folder of sound files, which nothing may change.
        folder (Path): This case's own, empty at first.
        draw (np.random.Generator): Its source of chance.
    """

    sound: Path
    folder: Path
    draw: np.random.Generator

    @property
    def canary(self) -> Path:
        """What is there if a file's code was run."""
        return self.folder / 'canary'

    def copy(self, name: str) -> Path:
        """Copy a sound file or folder into the case's own."""
        target = self.folder / name
        if (self.sound / name).is_dir():
            shutil.copytree(self.sound / name, target)
        else:
            shutil.copyfile(self.sound / name, target)
        return target

    def swap(self, path: Path) -> bool:
        """Put a sound file of another kind in its place, now and then."""
        if self.draw.random() >= 0.04:
            return False
        others = [file for file in sorted(self.sound.rglob('*')) if file.is_file()]
        shutil.copyfile(others[int(self.draw.integers(len(others)))], path)
        return True


def refused(error: Exception) -> str:
    """Check that an error is one clear line."""
    message = str(error)
    if not message.strip() or '\n' in message.strip():
        raise Failure(f'an error of several lines or of none: {message!r}') from error
    return REFUSED


def command(*arguments: str) -> str:
    """Run a command of the package in this process."""
    from omnisafe_qpt.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    lines = [line for line in err.getvalue().splitlines() if line.startswith('Error: ')]
    if status == 0 and not lines:
        return OK
    if status != 1 or len(lines) != 1 or 'Traceback' in err.getvalue():
        raise Failure(f'status {status} with {err.getvalue()!r}')
    return REFUSED


def act(policy: Any, obs_dim: int, draw: np.random.Generator) -> str:
    """Take some steps, all of which must be finite."""
    for _ in range(6):
        try:
            action = policy.act(draw.normal(size=obs_dim).astype(np.float32))
        except ValueError as error:
            return refused(error)
        if not np.isfinite(action).all():
            raise Failure(f'the action is {action}')
        policy.observe(float(draw.normal()), float(draw.integers(2)))
    return OK


def load_and_act(run: Path, case: Case, **options: Any) -> str:
    """Load a policy of torch's and act."""
    from omnisafe_qpt import UserError, load_policy
    from omnisafe_qpt.data.tasks import find_task

    try:
        policy = load_policy(run, device='cpu', **options)
    except UserError as error:
        return refused(error)
    return act(policy, find_task(TASK).obs_dim, case.draw)


def checkpoint_case(case: Case) -> str:
    """A damaged checkpoint is loaded."""
    run = case.copy('run')
    path = max((run / 'torch_save').glob('*.pt'))
    if not case.swap(path):
        damage_torch(path, case.draw, case.canary)
    kept = fingerprint(run)
    result = load_and_act(run if case.draw.random() < 0.5 else path, case)
    check_kept(kept, run)
    return result


def state_case(case: Case) -> str:
    """A run with a damaged training state or settings is resumed."""
    import omnisafe

    from omnisafe_qpt import UserError

    run = case.copy('run')
    name = str(case.draw.choice(['training_state.pt'] * 3 + ['config.json']))
    if name == 'config.json' and case.draw.random() < 0.2:
        bring_hook(run, case)
    elif not case.swap(run / name):
        if name == 'config.json':
            damage_json(run / name, case.draw)
        else:
            damage_torch(run / name, case.draw, case.canary)
    kept = fingerprint(run)
    options = {
        'train_cfgs': {
            'resume': str(run),
            'device': 'cpu',
            'total_steps': 15,
            'torch_threads': 1,
            'evaluate_epoisodes': 0,
            'final_evaluate_episodes': 0,
        },
    }
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            omnisafe.Agent('QPT', ENV_ID, custom_cfgs=options).learn()
    except UserError as error:
        if 'in epoch' in str(error):  # it went on, and diverged: its log has grown
            kept = {name: digest for name, digest in kept.items() if name.startswith('torch_save')}
        check_kept(kept, run)
        return refused(error)
    return load_and_act(run, case)


def bring_hook(run: Path, case: Case) -> None:
    """Let a run's settings name a function that the user never asked for."""
    module = f'hook_{case.folder.name}'.replace('-', '_')
    text = f'open({str(case.canary)!r}, "w")\ndef hook(*_, **__):\n    raise SystemExit(3)\n'
    (case.folder / f'{module}.py').write_text(text)
    sys.path.insert(0, str(case.folder))
    path = run / 'config.json'
    config = json.loads(path.read_text())
    for section in config.values():
        if isinstance(section, dict) and 'augmentation_hook' in section:
            section['augmentation_hook'] = f'{module}:hook'
    path.write_text(json.dumps(config))


def record_case(case: Case) -> str:
    """A run with damaged records is reported on, or its best checkpoint loaded."""
    run = case.copy('run')
    name = str(case.draw.choice(['config.json', 'best.json', 'progress.csv']))
    path = run / name
    if not case.swap(path):
        (damage_csv if name == 'progress.csv' else damage_json)(path, case.draw)
    kept = fingerprint(run)
    if name == 'best.json' and case.draw.random() < 0.5:
        result = load_and_act(run, case, checkpoint='best')
    else:
        out = case.folder / 'report.html'
        result = command('report', str(run), '--no-simulator', '--out', str(out))
        if out.exists() != (result == OK):
            raise Failure(f'{result}, and a page: {out.exists()}')
    check_kept(kept, run)
    return result


def dataset_case(case: Case) -> str:
    """A damaged dataset is loaded, looked at or converted."""
    from omnisafe_qpt import UserError
    from omnisafe_qpt.data.trajectories import Trajectories

    path = case.copy(str(case.draw.choice(['data.hdf5', 'views.hdf5', 'data.npz'])))
    if not case.swap(path):
        if path.suffix == '.npz':
            damage_npz(path, case.draw, case.canary)
        else:
            damage_hdf5(path, case.draw)
    kept = fingerprint(path.parent)
    way = case.draw.choice(['train', 'info', 'convert'])
    if way == 'train':
        try:
            table = Trajectories.load(path, horizon=100).table
        except UserError as error:
            return refused(error)
        if not bool(table.isfinite().all()):
            raise Failure('training takes a table that is not finite')
        result = OK
    elif way == 'info':
        result = command('data', 'info', str(path))
    else:
        out = case.folder / ('out.hdf5' if path.suffix == '.npz' else 'out.npz')
        out.write_text('before')
        options = ('--overwrite', '--horizon', '100')
        result = command('data', 'convert', str(path), str(out), *options)
        if result == REFUSED and out.read_text() != 'before':
            raise Failure('a conversion that was refused has replaced a file')
        if result == OK:
            Trajectories.load(out, horizon=100)  # what was written is sound
    check_kept(kept, path.parent)
    return result


def onnx_case(case: Case) -> str:
    """A damaged ONNX file is run."""
    from omnisafe_qpt.data.tasks import find_task
    from omnisafe_qpt.runner import OnnxPolicy

    path = case.copy('policy.onnx')
    if not case.swap(path):
        damage_onnx(path, case.draw)
    kept = fingerprint(path.parent)
    try:
        policy = OnnxPolicy(path)
    except (ValueError, FileNotFoundError) as error:
        return refused(error)
    result = act(policy, find_task(TASK).obs_dim, case.draw)
    check_kept(kept, path.parent)
    return result


def download_case(case: Case) -> str:
    """A server answers with a damaged file, or in a way that no server should."""
    from http_helpers import Fault, serving
    from omnisafe_qpt import UserError
    from omnisafe_qpt.data.download import download
    from omnisafe_qpt.data.tasks import find_task

    draw, task = case.draw, find_task(TASK)
    sound = (case.sound / 'data.hdf5').read_bytes()
    content = damage_bytes(sound, draw) if draw.random() < 0.7 else sound
    folder = case.folder / 'cache'
    folder.mkdir()
    before = folder / 'other.hdf5'
    before.write_bytes(b'mine')
    os.environ['DSRL_DATASET_DIR'] = str(folder)
    with serving(content) as server:
        is_announced = bool(draw.random() < 0.5)
        if is_announced and content != sound:  # the hash is that of the sound file
            server.version = hashlib.sha256(sound).hexdigest()
        server.has_ranges = bool(draw.random() < 0.7)
        if draw.random() < 0.3:
            texts = ['-1', '"', '', '9' * 30, 'a' * 5000, '../x', '0' * 40]
            setattr(server, str(draw.choice(['size', 'version'])), str(draw.choice(texts)))
        for _ in range(int(draw.integers(4))):
            status = int(draw.choice([200, 204, 206, 301, 302, 308, 403, 404, 416, 429, 500, 503]))
            targets = ['', 'http://[', 'file:///etc/passwd', '//', 'http://127.0.0.1:1/', '/x']
            after = int(draw.integers(len(content) + 1))
            headers = {'Location': str(draw.choice(targets))} if status in (301, 302, 308) else {}
            is_short = draw.random() < 0.6
            faults = server.faults if draw.random() < 0.5 else server.hub_faults
            faults.append(Fault(after=after) if is_short else Fault(status=status, headers=headers))
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                path = download(task, folder).path
            result = OK
        except UserError as error:
            result = refused(error)
    final = folder / task.dataset_file
    if result == OK and path.read_bytes() != content:
        raise Failure('the file is not what the server has')
    if result == OK and content != sound and server.version == hashlib.sha256(sound).hexdigest():
        raise Failure('a file with another hash than announced was kept')
    if result == REFUSED and final.exists():
        raise Failure('the download was refused, and the file is there')
    if before.read_bytes() != b'mine':
        raise Failure('another file was changed')
    return result


# The kinds of cases, and how many of a hundred are of each.
KINDS: dict[str, tuple[Callable[[Case], str], int]] = {
    'checkpoint': (checkpoint_case, 22),
    'training state': (state_case, 10),
    'records of a run': (record_case, 14),
    'dataset': (dataset_case, 30),
    'ONNX': (onnx_case, 12),
    'download': (download_case, 12),
}
_ORDER = [name for name, (_, share) in KINDS.items() for _ in range(share)]


def kind_of(number: int) -> str:
    """Return the kind of a case; any hundred in a row have each kind by its share."""
    name = _ORDER[number * 37 % len(_ORDER)]
    return 'dataset' if name == 'ONNX' and not HAS_ONNX else name


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the hash of each file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def check_kept(before: dict[str, str], folder: Path) -> None:
    """Check that each file is as it was, and that nothing half-written is beside them."""
    now = fingerprint(folder)
    lost = [name for name, digest in before.items() if now.get(name) != digest]
    if lost:
        raise Failure(f'lost or changed: {", ".join(lost)}')
    left = [name for name in now.keys() - before.keys() if Path(name).name.startswith('.')]
    if left:
        raise Failure(f'left behind: {", ".join(left)}')


# ---------------------------------------------------------------------------- one case


@dataclass(frozen=True)
class Outcome:
    """How a case ended; the text tells more of a failure."""

    number: int
    kind: str
    result: str
    text: str
    seconds: float


def run_case(sound: Path, seed: int, number: int, folder: Path) -> Outcome:
    """Run one case in a folder of its own."""
    kind = kind_of(number)
    case = Case(sound, folder, np.random.default_rng([seed, number]))
    start, text = time.monotonic(), ''
    try:
        result = KINDS[kind][0](case)
        if result not in (OK, REFUSED):
            raise Failure(f'ended in {result!r}')
    except BaseException:  # noqa: BLE001 - a failure of any kind is what is looked for
        result, text = FAILED, traceback.format_exc()
    if case.canary.exists():
        result, text = FAILED, f'code of the file was run\n{text}'
    return Outcome(number, kind, result, text, time.monotonic() - start)


def _limit_memory() -> None:
    """Let this process take a bounded amount of memory more than it has."""
    import resource

    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


def _work(sound: Path, seed: int, tasks: Any, workplace: Path) -> None:
    """Take numbers and give outcomes until there are no more numbers."""
    _quiet()
    os.chdir(workplace)
    if os.path.exists('/proc/self/statm'):
        _limit_memory()
    while (number := tasks.recv()) is not None:
        folder = Path(tempfile.mkdtemp(dir=workplace, prefix=f'case-{number}-'))
        path, environment = list(sys.path), dict(os.environ)
        outcome = run_case(sound, seed, number, folder)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(folder, ignore_errors=True)
        tasks.send(outcome)


def _quiet() -> None:
    """Keep what libraries print, below Python too, out of the counts."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _import_all() -> None:
    """Import once what each case needs, before processes are forked."""
    import h5py  # noqa: F401
    import matplotlib as mpl
    import omnisafe  # noqa: F401
    import torch

    import dataset_helpers  # noqa: F401
    import http_helpers  # noqa: F401

    mpl.use('agg')
    torch.set_num_threads(1)
    if HAS_ONNX:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401


def _warm_up(sound: Path) -> None:
    """Do once what takes seconds the first time, before processes are forked: more imports."""
    from omnisafe_qpt.envs.environments import make_env

    make_env(ENV_ID).close()
    with tempfile.TemporaryDirectory() as folder:
        page = str(Path(folder) / 'report.html')
        result = command('report', str(sound / 'run'), '--no-simulator', '--out', page)
    if result != OK:
        raise RuntimeError('the report on the sound run was refused')


class _Worker:
    """A process that runs cases, and the one that it is at."""

    def __init__(self, sound: Path, seed: int, workplace: Path) -> None:
        self._arguments = (sound, seed, workplace)
        self.number: int | None = None
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context('fork')
        sound, seed, workplace = self._arguments
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_work, args=(sound, seed, there, workplace))
        self.process.start()
        there.close()

    def give(self, number: int | None) -> None:
        """Give the number of the next case, None for no more."""
        self.number, self.since = number, time.monotonic()
        self.connection.send(number)

    def take(self) -> Outcome:
        """Take the outcome; a process that has ended, or that is over its time, is replaced."""
        try:
            if self.connection.poll():
                return self.connection.recv()
            text = f'did not end within {SECONDS:.0f} s'
        except EOFError:
            self.process.join(10)
            text = f'the process ended with status {self.process.exitcode}'
        self.process.kill()
        self.process.join()
        assert self.number is not None
        outcome = Outcome(
            self.number, kind_of(self.number), FAILED, text, time.monotonic() - self.since
        )
        self._begin()
        return outcome


def _say(text: str) -> None:
    print(text, flush=True)


def run_cases(
    sound: Path,
    seed: int,
    numbers: list[int],
    workers: int,
    say: Callable[[str], None] = _say,
) -> list[Outcome]:
    """Run cases in processes of their own, which may crash or hang."""
    _import_all()
    _warm_up(sound)
    waiting, outcomes = list(reversed(numbers)), []
    start = said = time.monotonic()
    with tempfile.TemporaryDirectory() as workplace:
        pool = [_Worker(sound, seed, Path(workplace)) for _ in range(min(workers, len(numbers)))]
        for worker in pool:
            worker.give(waiting.pop())
        busy = list(pool)
        while busy:
            wait([worker.connection for worker in busy], timeout=1.0)
            for worker in list(busy):
                if not worker.connection.poll() and time.monotonic() - worker.since < SECONDS:
                    continue
                outcome = worker.take()
                outcomes.append(outcome)
                if outcome.result == FAILED:
                    last = outcome.text.strip().splitlines()[-1][:300]
                    say(f'FAILED case {outcome.number} ({outcome.kind}): {last}')
                if waiting:
                    worker.give(waiting.pop())
                else:
                    busy.remove(worker)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                say(f'{len(outcomes)} of {len(numbers)} cases, {said - start:.0f} s')
        for worker in pool:
            worker.give(None)
            worker.process.join(10)
    return outcomes


def make_sound(folder: Path) -> None:
    """Make the sound files in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, '--prepare', str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f'the sound files cannot be made:\n{done.stdout}\n{done.stderr}')


def _print_counts(outcomes: list[Outcome], seed: int, seconds: float) -> None:
    counts = Counter((outcome.kind, outcome.result) for outcome in outcomes)
    print(f'\n{"":18} {OK:>10} {REFUSED:>10} {FAILED:>10}   slowest')
    for kind in KINDS:
        slowest = max((each.seconds for each in outcomes if each.kind == kind), default=0.0)
        numbers = ' '.join(f'{counts[kind, result]:10}' for result in (OK, REFUSED, FAILED))
        print(f'{kind:18} {numbers} {slowest:7.1f} s')
    failures = [outcome for outcome in outcomes if outcome.result == FAILED]
    print(f'\n{len(outcomes)} cases of seed {seed} in {seconds:.0f} s, {len(failures)} failed')
    for outcome in failures:
        print(f'  python tests/fuzz.py --seed {seed} --case {outcome.number}   # {outcome.kind}')


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=1000, help='how many (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='of all cases (default: 0)')
    parser.add_argument('--case', type=int, help='run this one alone, here, and keep its files')
    parser.add_argument('--kind', choices=KINDS, help='of the cases, run those of this kind')
    parser.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    parser.add_argument('--prepare', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--sound', type=Path, help='sound files to use, made if they are not there')
    options = parser.parse_args()
    if options.prepare is not None:
        prepare(options.prepare)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        sound = options.sound or Path(folder)
        sound.mkdir(exist_ok=True)
        if not any(sound.iterdir()):
            make_sound(sound)
        if options.case is not None:
            _import_all()
            kept = Path(tempfile.mkdtemp(prefix=f'fuzz-{options.case}-'))
            outcome = run_case(sound, options.seed, options.case, kept)
            print(f'{outcome.kind}: {outcome.result}, files in {kept}\n{outcome.text}')
            return int(outcome.result == FAILED)
        start = time.monotonic()
        numbers = [
            number for number in range(options.cases) if options.kind in (None, kind_of(number))
        ]
        outcomes = run_cases(sound, options.seed, numbers, options.workers)
        _print_counts(outcomes, options.seed, time.monotonic() - start)
    return int(any(outcome.result == FAILED for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
