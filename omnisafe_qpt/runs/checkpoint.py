# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deployable checkpoints of runs: writing, reading and finding them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import pickle
import platform
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from omnisafe_qpt.baselines.deploy import DeployableActor
from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.errors import UserError, first_line, printable, shell_command
from omnisafe_qpt.qpt.deployable import Deployable, DeployableNetworks
from omnisafe_qpt.runner import CALIBRATION_FORMAT
from omnisafe_qpt.runs.records import (
    BEST_RECORD,
    CHECKPOINT_SPEC,
    CONFIG_FILE,
    TRANSFORMER_SPEC,
)
from omnisafe_qpt.schema import checked, plain, read_json
from omnisafe_qpt.version import __version__


CHECKPOINT_FOLDER = 'torch_save'
BEST_FILE = 'best.json'
LAST, BEST = 'last', 'best'
_ZIP_START = b'PK\x03\x04'
_CHECKPOINT_NAME = re.compile(r'epoch-(\d+)\.pt')


def save_checkpoint(run: Path, epoch: int, networks: Deployable) -> Path:
    """Write a deployable checkpoint to OmniSafe's usual path.

    Args:
        run (Path): The run's folder.
        epoch (int): Epochs done.
        networks (Deployable): The networks with everything for deployment.

    Returns:
        The file, ``torch_save/epoch-N.pt``.
    """
    path = run / checkpoint_name(epoch)
    replace_checkpoint(path, networks)
    return path


def replace_checkpoint(path: Path, networks: Deployable) -> None:
    """Write networks and their spec to a checkpoint's file, replacing an earlier one."""
    buffer = serialized({'pi': networks.state_dict()})
    with durable_file(path) as file:
        file.write(buffer.getbuffer())


def checkpoint_name(epoch: int) -> str:
    """Return the path of an epoch's checkpoint, relative to the run's folder."""
    return f'{CHECKPOINT_FOLDER}/epoch-{epoch}.pt'


def serialized(content: dict[str, Any]) -> io.BytesIO:
    """Return the bytes that torch saves for the content.

    If a file cannot be written, torch raises a RuntimeError without a reason.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces an earlier one once it is completely on disk.

    Args:
        path (Path): The file.

    Raises:
        WriteError: If it cannot be written, for instance on a full disk. The earlier one stays.
    """
    with atomic_path(path) as temporary, temporary.open('wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def load_networks(
    run: str | os.PathLike[str],
    device: torch.device | str = 'cpu',
    which: str | int = LAST,
) -> tuple[Deployable, Path]:
    """Load the networks of one of a run's checkpoints.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        device (torch.device or str, optional): Their device. Defaults to ``'cpu'``.
        which (str or int, optional): See :func:`checkpoint_path`. Defaults to ``'last'``.

    Returns:
        The networks and the checkpoint's file.

    Raises:
        UserError: If there is no such checkpoint or another package wrote it.
    """
    path = checkpoint_path(run, which)
    content = load_file(path)
    state: Any = content.get('pi') if isinstance(content, dict) else None
    spec = state.get('_extra_state') if isinstance(state, dict) else None
    kinds: dict[str, type[DeployableNetworks] | type[DeployableActor]]
    kinds = {'policy': DeployableNetworks, 'actor': DeployableActor}
    kind = next((kinds[name] for name in kinds if isinstance(spec, dict) and name in spec), None)
    if kind is None:
        raise UserError(f'{path}: not a checkpoint of omnisafe-qpt')
    checked(path, spec, plain)
    _rename_former_fields(spec)
    checked(path, spec, CHECKPOINT_SPEC)
    if kind is DeployableNetworks:
        checked(path, spec, TRANSFORMER_SPEC)
    try:
        networks = kind.from_state_dict(state)
    except UserError as error:
        raise UserError(
            f'{path}: {error}: the file is damaged or was not written by omnisafe-qpt; use another '
            'checkpoint',
        ) from error
    _drop_old_calibration(networks, path)
    return networks.to(device), path


def _rename_former_fields(spec: Any) -> None:
    """Give fields of earlier versions their present names, in place."""
    calibration = spec.get('calibration')
    calibration = calibration if isinstance(calibration, dict) else {}
    levels = calibration.get('levels')
    levels = levels if isinstance(levels, list) else []
    for record in (spec.get('deployment'), calibration.get('zero_action'), *levels):
        if isinstance(record, dict) and 'asked_cost' in record:
            record['target_cost'] = record.pop('asked_cost')


def _drop_old_calibration(networks: Deployable, path: Path) -> None:
    """Drop calibrations of an earlier format, whose bounds did not hold."""
    record = networks.spec.get('calibration')
    if record is None or record.get('format') == CALIBRATION_FORMAT:
        return
    networks.spec = {**networks.spec, 'calibration': None}
    print(
        f'{printable(str(path))}: calibrated by an earlier version, whose guarantee did not hold: '
        f'used as not calibrated until {shell_command(["omnisafe-qpt", "calibrate", str(path)])}',
        file=sys.stderr,
    )


def require_transformer(networks: Deployable, path: Path) -> DeployableNetworks:
    """Return networks as those of QPT or CDT.

    Args:
        networks (Deployable): What was loaded.
        path (Path): From where, for the message.

    Raises:
        UserError: If they are of another algorithm.
    """
    if not isinstance(networks, DeployableNetworks):
        raise UserError(
            f'{path} is of {networks.spec["algo"]}, which has no Transformer and no return target; '
            'only runs of QPT and CDT have them',
        )
    return networks


def load_file(path: Path) -> Any:
    """Read a file that torch saved, without executing pickled code.

    Args:
        path (Path): The file.

    Raises:
        UserError: If it cannot be read.
    """
    _verify_archive(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        reason = first_line(error)
        if isinstance(error, pickle.UnpicklingError):
            # Its first line advises to load the file anyway, which could run code.
            is_object = 'GLOBAL' in str(error) or 'Unsupported' in str(error)
            reason = 'its content is damaged'
            if is_object:
                reason = 'it holds other objects than tensors and plain values'
        raise UserError(
            f'{path}: cannot be read as a checkpoint ({reason}); use one that omnisafe-qpt saved',
        ) from error


def _verify_archive(path: Path) -> None:
    """Verify the checksums of a file that torch saved; torch does not.

    Raises:
        UserError: If the file is damaged or was not saved by torch.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    try:
        size = path.stat().st_size
        with path.open('rb') as file:
            if file.read(4) != _ZIP_START:  # otherwise torch reads it as a bare pickle
                raise zipfile.BadZipFile
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # As torch writes them; compressed ones could be far larger in memory than on disk.
            is_usual = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not is_usual or sum(entry.file_size for entry in entries) > size:
                raise zipfile.BadZipFile
            damaged = archive.testzip()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except Exception as error:  # zipfile raises many types for a damaged file
        what = 'is damaged, cut off or not written by torch.save' if size else 'is empty'
        raise UserError(
            f'{path}: cannot be read as a checkpoint, it {what}; restore it or use another one',
        ) from error
    if damaged is not None:
        raise UserError(
            f'{path}: cannot be read as a checkpoint, it is damaged: its content differs from its '
            'checksum; restore it or use another one',
        )


def find_run(run: str | os.PathLike[str]) -> Path:
    """Find the folder of one run.

    Args:
        run (str or os.PathLike): The folder ``seed-...``, or its parent if that holds only one.

    Raises:
        UserError: If it holds no run, or several.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise UserError(f'{folder}: no such run folder')
    if (folder / CONFIG_FILE).is_file():
        return folder
    runs = sorted(path.parent for path in folder.glob(f'seed-*/{CONFIG_FILE}'))
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ', '.join(path.name for path in runs)
        raise UserError(f'{folder} holds several runs; name one of them: {names}')
    raise UserError(f'{folder}: not a run folder, it has no {CONFIG_FILE}')


def checkpoint_path(run: str | os.PathLike[str], which: str | int = LAST) -> Path:
    """Find one of a run's checkpoints, or take the file given.

    Args:
        run (str or os.PathLike): A run's folder, or a checkpoint, which is returned.
        which (str or int, optional): ``'last'``; ``'best'``, the one in the run's ``best.json``; or
            a number of epochs. Defaults to ``'last'``.

    Raises:
        UserError: If there is no such run or checkpoint.
    """
    path = Path(run).expanduser()
    if path.is_file():
        return path
    folder = find_run(path)
    files = list_checkpoints(folder)
    if not files:
        raise UserError(f'{folder}: no checkpoint in {CHECKPOINT_FOLDER} yet')
    if which == LAST:
        return files[max(files)]
    epoch = load_best(folder)['epoch'] if which == BEST else which
    if str(epoch).isdecimal() and int(epoch) in files:
        return files[int(epoch)]
    raise UserError(
        f'{folder}: no checkpoint {which}; there are {LAST}, {BEST} after a validation, and '
        f'{", ".join(map(str, files))}',
    )


def save_best(run: Path, record: dict[str, Any]) -> None:
    """Write the best checkpoint and the rule that chose it to ``best.json``."""
    with durable_file(run / BEST_FILE) as file:
        file.write(f'{json.dumps(record, indent=2)}\n'.encode())


def load_best(run: Path) -> dict[str, Any]:
    """Read a run's ``best.json``.

    Args:
        run (Path): The run's folder.

    Raises:
        UserError: If there is none or it cannot be read.
    """
    path = run / BEST_FILE
    if not path.is_file():
        raise UserError(
            f'{run}: no best checkpoint, as none was validated '
            '(train_cfgs:evaluate_epoisodes); use last, or a number of epochs',
        )
    best = read_json(path, BEST_RECORD)
    if best['checkpoint'] != checkpoint_name(best['epoch']):
        raise UserError(
            f'{path}: checkpoint is {best["checkpoint"]!r}, but the epoch is {best["epoch"]}; '
            'give a number of epochs instead',
        )
    return best


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Find all checkpoints of a run, of any algorithm.

    Args:
        run (Path): The run's folder.

    Returns:
        The file for each number of epochs, in increasing order.
    """
    files = (run / CHECKPOINT_FOLDER).glob('*.pt')
    named = {file: _CHECKPOINT_NAME.fullmatch(file.name) for file in files}
    return dict(sorted((int(match[1]), file) for file, match in named.items() if match))


def versions(*more: str) -> dict[str, str]:
    """Return the versions that a result depends on, of the packages that are installed.

    Args:
        more (str): Further packages.
    """
    found = {
        'python': platform.python_version(),
        'omnisafe-qpt': __version__,
        'torch': str(torch.__version__),  # its metadata lacks the build
    }
    for package in (
        'numpy',
        'omnisafe',
        'gymnasium',
        'safety-gymnasium',
        'mujoco',
        'bullet-safety-gym',
        *more,
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
