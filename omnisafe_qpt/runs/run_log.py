# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A run's folder and logger: safe against kills, and reused by a resumed run."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from omnisafe.common.logger import Logger
from omnisafe.utils.config import Config
from omnisafe.utils.distributed import get_rank
from rich.markup import escape

from omnisafe_qpt.data.atomic import write_errors
from omnisafe_qpt.errors import UserError, WriteError, printable
from omnisafe_qpt.runs.checkpoint import durable_file
from omnisafe_qpt.runs.records import CONFIG_FILE, PROGRESS_FILE, read_progress


# How long child processes of a killed process may still hold the folder.
_SECONDS_OF_PATIENCE = 15.0

# Free space that a run needs at least.
_LEAST_BYTES = 1 << 16

_OWN_SUFFIXES = ('.csv', '.json', '.pt')


class RunLogger(Logger):
    """OmniSafe's logger, in a new folder or in that of a resumed run.

    The first of several processes locks the folder until :meth:`close`. Before :meth:`begin` only
    ``config.json`` changes; it is replaced as a whole.

    Args:
        cfgs (Config): The run's configuration.
        name (str): The folder above those of the seeds.
        folder (Path, optional): The folder of the resumed run. Defaults to None, a new one named by
            OmniSafe.

    Raises:
        UserError: If another process is training in the folder.
    """

    def __init__(self, cfgs: Config, name: str, folder: Path | None = None) -> None:
        """Initialize an instance of :class:`RunLogger`."""
        self._folder = '' if folder is None else str(folder)  # '': OmniSafe will name one
        self._is_new = False
        self._lock: int | None = None
        self._has_begun = False
        options = cfgs.logger_cfgs
        super().__init__(
            output_dir=options.log_dir,
            exp_name=name,
            output_fname=os.devnull,  # OmniSafe truncates the file that it opens
            seed=cfgs.seed,
            use_tensorboard=False,
            use_wandb=False,
            config=cfgs,
        )
        self._writes_tensorboard = options.use_tensorboard
        self._writes_wandb = options.use_wandb and self._maste_proc
        self._has_own_wandb = False

    @property
    def _log_dir(self) -> str:
        # OmniSafe names a folder by the time, and accepts no other name.
        return self._folder

    @_log_dir.setter
    def _log_dir(self, folder: str) -> None:
        if not self._folder:
            self._is_new = True
            with write_errors(Path(folder)):
                self._folder = _new_folder(folder) if get_rank() == 0 else folder

    @property
    def progress_file(self) -> Path:
        """The file with a row for each epoch."""
        return Path(self._folder) / PROGRESS_FILE

    def log(self, msg: str, color: str = 'green', bold: bool = False) -> None:
        """Print a message in the first process."""
        if self._has_begun:  # OmniSafe's earlier messages are about files that it would have made
            # Names may contain anything: no markup, no control characters.
            super().log(escape(printable(msg)), color, bold)

    def save_config(self, config: Config) -> None:
        """Lock the folder, and write ``config.json``, replacing an earlier one."""
        if not self._maste_proc:
            return
        self._lock = _take_folder(self._folder)
        _remove_leftovers(Path(self._folder))
        with durable_file(Path(self._folder) / CONFIG_FILE) as file:
            file.write(config.tojson().encode())

    def begin(self, rows: Sequence[dict[str, float]]) -> None:
        """Begin to log, after the rows of earlier epochs.

        Rows that a killed run wrote after its last saved state are dropped; the resumed run writes
        them again.

        Args:
            rows (Sequence[dict[str, float]]): The epochs done, none in a new run.
        """
        self._has_begun = True
        self._epoch = len(rows)
        if not self._maste_proc:
            return
        with write_errors(self.progress_file):
            self._output_file = self._restore_progress(rows)
        self._csv_writer = csv.writer(self._output_file)
        self._first_row = False
        if self._writes_tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            _leave_failures_to_caller()
            with write_errors(Path(self._folder) / 'tb'):
                self._tensorboard_writer = SummaryWriter(
                    log_dir=os.path.join(self._folder, 'tb'),
                    purge_step=len(rows) + 1 if rows else None,
                )
            self._use_tensorboard = True
        if self._writes_wandb:
            self._begin_wandb(rows)
        self.log(f'Logging to {self._folder}', 'cyan', bold=True)

    def _begin_wandb(self, rows: Sequence[dict[str, float]]) -> None:
        """Start a wandb run, or log to the user's running one.

        Raises:
            UserError: If wandb refuses. A new folder is removed.
        """
        import wandb

        config = self._config.todict()
        if wandb.run is not None:
            wandb.run.config.update(config, allow_val_change=True)
        else:
            folder = Path(self._folder)
            try:
                wandb.init(
                    project=self._config.logger_cfgs.wandb_project,
                    name=f'{folder.parent.name}-{folder.name}',
                    dir=self._folder,
                    config=config,
                )
            except Exception as error:  # wandb raises many types
                self.close()
                if self._is_new:
                    shutil.rmtree(self._folder, ignore_errors=True)
                raise UserError(f'logger_cfgs:use_wandb: wandb refuses: {_line(error)}') from error
            self._has_own_wandb = True
        self._use_wandb = True  # for OmniSafe, which logs each row
        for epoch, row in enumerate(rows, start=1):  # it displays a different run
            wandb.log(row, step=epoch)

    def _restore_progress(self, rows: Sequence[dict[str, Any]]) -> TextIO:
        names = list(self._current_row)
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, names, restval='nan', extrasaction='ignore')
        writer.writeheader()
        writer.writerows(rows)
        with durable_file(self.progress_file) as file:
            file.write(text.getvalue().encode())
        return self.progress_file.open('a', newline='', encoding='utf-8')

    def dump_tabular(self) -> None:
        """Log a row.

        Raises:
            WriteError: If it cannot be written, or the folder no longer exists.
        """
        self.check_folder()
        with write_errors(self.progress_file):
            super().dump_tabular()

    def check_folder(self) -> None:
        """Check that the run's folder still exists.

        Raises:
            WriteError: If it does not.
        """
        if self._maste_proc and not (Path(self._folder) / CONFIG_FILE).is_file():
            raise WriteError(
                f'{self._folder}: the run folder has been removed or moved while it was in use; '
                'resume it from its new path, or start a new run',
            )

    def read_rows(self) -> list[dict[str, float]]:
        """Read ``progress.csv``."""
        return read_progress(Path(self._folder))

    def close(self) -> None:
        """Close the files, finish the wandb run, and unlock the folder."""
        with contextlib.suppress(OSError):  # a full disk; the failed write has reported it
            super().close()
        if self._has_own_wandb:
            import wandb

            wandb.finish()
            self._has_own_wandb = self._use_wandb = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _leave_failures_to_caller() -> None:
    """Let TensorBoard's thread end without a traceback if it cannot write.

    The next row that is logged raises the same error.
    """
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        is_ours = type(failure.thread).__module__.startswith('tensorboard.')
        if not (is_ours and isinstance(failure.exc_value, OSError)):
            before(failure)

    threading.excepthook = hook


def check_wandb() -> None:
    """Check that wandb can work, before the folder is made.

    Raises:
        UserError: If it is not installed, or there is neither a login nor a terminal.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(f'logger_cfgs:use_wandb: pip install wandb ({_line(error)})') from error
    if wandb.run is not None:
        return
    settings = wandb.setup().settings
    if settings.mode not in ('online', 'run', 'shared'):
        return
    if wandb.api.api_key or settings.identity_token_file:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            'logger_cfgs:use_wandb: wandb has no login here and no terminal to ask for one: run '
            'wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline',
        )


_LONGEST_NAME = 100


def folder_name(name: str) -> str:
    """Convert a dataset's name to a short, valid part of a folder name."""
    letters = (letter if letter.isprintable() and letter not in '/\\' else '_' for letter in name)
    # In bytes, as file systems count.
    return ''.join(letters).encode()[:_LONGEST_NAME].decode(errors='ignore')


def check_log_dir(cfgs: Config) -> None:
    """Check first that the log folder is writable.

    A file is written at the place of the run's folder, then removed with the folders made for it.

    Args:
        cfgs (Config): The run's configuration.

    Raises:
        UserError: If it is not.
    """
    resume = cfgs.train_cfgs.resume
    folder = Path(cfgs.logger_cfgs.log_dir if resume is None else resume).absolute()
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable-') as file:
            file.write(bytes(_LEAST_BYTES))
            file.flush()
    except OSError as error:
        option = 'logger_cfgs:log_dir' if resume is None else 'train_cfgs:resume'
        raise UserError(
            f'{option} {folder}: the run cannot be written there ({error.strerror or error}); '
            'make room or give another folder',
        ) from error
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()


def _line(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def _new_folder(folder: str) -> str:
    """Make a new folder, with a number added to its name if that exists."""
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    name = folder
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name)
            break
        name = f'{folder}-{number}'
    return name


def _take_folder(folder: str) -> int | None:
    """Lock a folder for this process, until the descriptor returned is closed.

    Raises:
        UserError: If another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + _SECONDS_OF_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise UserError(f'{folder}: another process is training this run') from error
            time.sleep(0.2)
        except OSError:  # some network file systems have no locks
            return descriptor
        else:
            return descriptor


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that were interrupted by a kill."""
    for file in (*folder.glob('.*-*'), *folder.glob('torch_save/.*-*')):
        if file.suffix in _OWN_SUFFIXES:
            file.unlink()
