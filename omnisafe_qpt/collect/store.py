# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Finished episodes on disk until the dataset is written, to resume after an interruption."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.collect.episodes import Episode
from omnisafe_qpt.data.atomic import atomic_path, write_errors
from omnisafe_qpt.errors import UserError


@dataclass(frozen=True)
class Totals:
    """Data of an episode for selection.

    Args:
        length (int): Steps.
        total_return (float): Sum of the rewards.
        total_cost (float): Sum of the costs.
        kind (str): The kind of its controller.
    """

    length: int
    total_return: float
    total_cost: float
    kind: str

    @classmethod
    def of(cls, episode: Episode) -> Totals:
        """Return the totals of an episode."""
        return cls(
            len(episode.rewards),
            episode.total_return,
            episode.total_cost,
            episode.kind,
        )


class EpisodeStore:
    """The folder ``.NAME.partial`` beside the future dataset, for one process at a time.

    Args:
        out (Path): The future dataset.
        settings (dict[str, Any]): The settings that determine the episodes, in plain values. Stored
            episodes belong to this collection only if their settings are equal.
        overwrite (bool): Whether episodes of other settings may be deleted.

    Attributes:
        finished (dict[int, Totals]): The stored episodes by index.

    Raises:
        UserError: If another process holds the lock, or stored episodes have other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any], overwrite: bool) -> None:
        """Initialize an instance of :class:`EpisodeStore`."""
        self._out = out
        self._folder = out.with_name(f'.{out.name}.partial')
        self._settings = settings
        self._overwrite = overwrite
        self.finished: dict[int, Totals] = {}

    def __enter__(self) -> EpisodeStore:
        """Lock the folder and read it."""
        from filelock import FileLock, Timeout

        self._lock = FileLock(self._folder / 'lock')
        with write_errors(self._out):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:  # a kind of OSError
                raise UserError(f'{self._out}: another process is collecting it') from error
        try:
            self._look_through()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Unlock the folder, and remove it if it has no episodes."""
        if not self.finished:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()

    def _look_through(self) -> None:
        path = self._folder / 'settings.json'
        if path.exists():
            differences = self._differences(path)
            if differences and not self._overwrite:
                raise UserError(
                    f'{self._folder} holds episodes of an unfinished collection with other '
                    f'settings ({", ".join(differences)}); repeat its command to finish it, give '
                    'another --out, or delete them with --overwrite',
                )
            if differences:
                self.clear()
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=2) + '\n', encoding='utf-8')
        for file in self._folder.glob('episode-*.npz'):
            number = int(file.stem.partition('-')[2])
            self.finished[number] = Totals.of(self.load(number))

    def _differences(self, path: Path) -> list[str]:
        """Return the names of settings that differ from the stored episodes'."""
        try:
            there = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError):
            there = {}
        if not isinstance(there, dict):
            there = {}
        here = json.loads(json.dumps(self._settings))
        return [name for name in here if name not in there or there[name] != here[name]]

    def _file(self, number: int) -> Path:
        return self._folder / f'episode-{number:06d}.npz'

    def add(self, episode: Episode) -> None:
        """Store an episode."""
        # Through memory: zipfile raises other errors if a file cannot be written.
        buffer = io.BytesIO()
        np.savez(
            buffer,
            kind=episode.kind,
            states=episode.states,
            actions=episode.actions,
            rewards=episode.rewards,
            costs=episode.costs,
            terminated=episode.terminated,
        )
        with atomic_path(self._file(episode.number)) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self.finished[episode.number] = Totals.of(episode)

    def load(self, number: int) -> Episode:
        """Read an episode.

        Args:
            number (int): Its number.

        Raises:
            UserError: If its file is damaged.
        """
        path = self._file(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Episode(
                    number=number,
                    kind=str(arrays['kind']),
                    states=arrays['states'],
                    actions=arrays['actions'],
                    rewards=arrays['rewards'],
                    costs=arrays['costs'],
                    terminated=bool(arrays['terminated']),
                )
        except Exception as error:  # zip, numpy and the file system each raise their own types
            raise UserError(f'{path}: cannot be read ({error}); delete it and continue') from error

    def clear(self) -> None:
        """Delete the episodes, for instance because they are in the dataset."""
        for file in self._folder.glob('episode-*.npz'):
            file.unlink()
        self.finished = {}
