# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Logs as tables, CSV or Parquet, with one row for each step: converted to DSRL's HDF5."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisafe_qpt.data.attributes import ENV_ID_ATTRIBUTE
from omnisafe_qpt.data.convert import Conversion, check_out
from omnisafe_qpt.data.files import HDF5_SUFFIXES
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.errors import UserError, first_line, printable
from omnisafe_qpt.schema import Check, number, show, text


if TYPE_CHECKING:
    import pandas as pd


TABLE_SUFFIXES = ('.csv', '.parquet')


def _names(value: Any, path: str) -> None:
    """Check for a column's name or a list of names."""
    for index, each in enumerate(value if isinstance(value, list) and value else [value]):
        text()(each, f'{path}[{index}]' if isinstance(value, list) else path)


def _costs(value: Any, path: str) -> None:
    """Check for a column's name, a list of names, or a weight for each name."""
    if not isinstance(value, dict):
        _names(value, path)
        return
    if not value:
        raise UserError(f'{path} is empty; name at least one column')
    for name, weight in value.items():
        text()(name, path)
        number(0)(weight, f'{path}:{name}')


_REQUIRED: dict[str, Check] = {
    'episode': text(),
    'observations': _names,
    'actions': _names,
    'rewards': text(),
    'costs': _costs,
}
_OPTIONAL: dict[str, Check] = {'time': text(), 'terminals': text(), 'env_id': text()}


def convert_table(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    columns: Mapping[str, Any],
    overwrite: bool = False,
) -> Conversion:
    """Convert a log with one row for each step to DSRL's HDF5.

    The observation of a row is what the action of that row was chosen for; the next observation is
    that of the episode's next row. The last row of an episode therefore has none. If its actions
    are empty it is the final observation only. Otherwise it is omitted, with its reward and cost,
    unless it leads into a terminal state, whose observation is not used.

    Args:
        source (str or os.PathLike): A ``.csv`` or ``.parquet`` file. It is read into memory.
        out (str or os.PathLike): The HDF5 file to write; it appears only when it is complete.
        columns (Mapping[str, Any]): Names of columns: ``episode``, the column whose values tell the
            episodes apart; ``observations`` and ``actions``, one or several, in this order, ``*``
            stands for any characters; ``rewards``; ``costs``, one, several that are added, or a
            mapping from names to weights. If there are any: ``time``, by which the rows of an
            episode are sorted, and ``terminals``, which is not 0 in rows that lead into a terminal
            state. ``env_id`` is recorded in the file.
        overwrite (bool, optional): Whether to replace ``out``. Defaults to False.

    Raises:
        UserError: If the table cannot be read, a column is missing or holds something else than
            finite numbers, or ``out`` exists or is no HDF5 file.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if out.suffix not in HDF5_SUFFIXES:
        raise UserError(f'{out}: a table is converted to HDF5; end the name in .hdf5 or .h5')
    check_out(source, out, overwrite)
    for name in columns:
        if name not in (_REQUIRED | _OPTIONAL):
            known = ', '.join((*_REQUIRED, *_OPTIONAL))
            raise UserError(f'--columns: unknown key {show(name)}; known: {known}')
    missing = next((name for name in _REQUIRED if name not in columns), None)
    if missing is not None:
        raise UserError(f'--columns: {missing} is missing; name its column of {source}')
    for name, value in columns.items():
        (_REQUIRED | _OPTIONAL)[name](value, f'--columns: {name}')
    arrays, notes = _Table(source, columns).arrays()
    env_id = columns.get('env_id')
    write_hdf5(out, arrays, {} if env_id is None else {ENV_ID_ATTRIBUTE: env_id})
    return Conversion(
        out=str(out),
        transitions=len(arrays['rewards']),
        terminals=int(arrays['terminals'].sum()),
        timeouts=int(arrays['timeouts'].sum()),
        over_horizon=0,
        rounded=(),
        bytes=out.stat().st_size,
        env_id=env_id,
        notes=tuple(notes),
    )


class _Table:
    """A log in memory, its rows in the order of episodes and time.

    Args:
        path (Path): The file.
        columns (Mapping[str, Any]): See :func:`convert_table`.
    """

    def __init__(self, path: Path, columns: Mapping[str, Any]) -> None:
        self._path, self._columns = path, columns
        frame = _read(path)
        if frame.empty:
            raise UserError(f'{path}: the table has no rows')
        keys = [columns[name] for name in ('episode', 'time') if name in columns]
        for key in keys:
            self._check_present(frame, key)
            if frame[key].isna().any():
                raise UserError(f'{path}: column {printable(key)!r} has empty cells')
        # Episodes keep the order in which they first occur.
        episode = frame[columns['episode']].factorize()[0]
        frame = frame.assign(**{_ORDER: episode}).sort_values([_ORDER, *keys[1:]], kind='stable')
        self._frame = frame.reset_index(names=_ROW)

    def arrays(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the arrays of DSRL's layout, and notes on what was left out."""
        columns = self._columns
        episode = self._frame[_ORDER].to_numpy()
        is_last = np.append(episode[1:] != episode[:-1], True)
        actions = self._chosen(columns['actions'])
        is_final = is_last & self._frame[actions].isna().all(axis=1).to_numpy()
        terminals = np.zeros(len(episode), dtype=bool)
        if 'terminals' in columns:
            terminals = self._numbers([columns['terminals']], is_final)[:, 0] != 0
            if (terminals & ~is_last & ~np.append(is_final[1:], False)).any():
                raise UserError(
                    f'{self._path}: {printable(columns["terminals"])!r} is set before the end of '
                    'an episode; give each episode its own value in the column of episode'
                )
        observations = self._numbers(self._chosen(columns['observations']))
        kept = ~is_final & (~is_last | terminals)
        if not kept.any():
            raise UserError(f'{self._path}: no episode has two rows; check the column of episode')
        # The row after the last kept one of an episode belongs to it, or a terminal state ends it.
        following = np.minimum(np.arange(len(kept)) + 1, len(kept) - 1)
        following = np.where(is_last, np.arange(len(kept)), following)[kept]
        ends = np.append(np.diff(np.flatnonzero(kept)) != 1, True) | (
            np.append(np.diff(episode[kept]) != 0, True)
        )
        terminals = terminals[kept]
        arrays = {
            'observations': observations[kept],
            'next_observations': observations[following],
            'actions': self._numbers(actions, is_final)[kept],
            'rewards': self._numbers([columns['rewards']], is_final)[kept, 0],
            'costs': self._costs(is_final)[kept],
            'terminals': terminals,
            'timeouts': ends & ~terminals,
        }
        return arrays, self._notes(episode, kept, is_final, is_last)

    def _notes(
        self,
        episode: np.ndarray,
        kept: np.ndarray,
        is_final: np.ndarray,
        is_last: np.ndarray,
    ) -> list[str]:
        notes = []
        omitted = int((is_last & ~kept & ~is_final).sum())
        if omitted:
            notes.append(
                f'{omitted} episodes do not end in a terminal state and have no final observation: '
                'their last row is omitted, with its reward and cost'
            )
        lost = episode[-1] + 1 - len(np.unique(episode[kept]))
        if lost:
            notes.append(f'{lost} episodes of one row are left out')
        return notes

    def _costs(self, is_final: np.ndarray) -> np.ndarray:
        """Add up the columns of costs by their weights."""
        costs = self._columns['costs']
        weights = costs if isinstance(costs, dict) else dict.fromkeys(_listed(costs), 1.0)
        values = self._numbers(list(weights), is_final)
        return (values @ np.array(list(weights.values()), dtype=np.float64)).astype(np.float32)

    def _chosen(self, patterns: str | Sequence[str]) -> list[str]:
        """Return the columns that names or patterns stand for, in their order."""
        found: list[str] = []
        for pattern in _listed(patterns):
            if pattern in self._frame:
                fitting = [pattern]
            else:
                fitting = [
                    name
                    for name in self._frame.columns
                    if name not in (_ORDER, _ROW) and fnmatch.fnmatchcase(str(name), pattern)
                ]
            if not fitting:
                self._check_present(self._frame, pattern)
            found += [name for name in fitting if name not in found]
        return found

    def _check_present(self, frame: pd.DataFrame, name: str) -> None:
        if name not in frame:
            there = [str(each) for each in frame.columns if each not in (_ORDER, _ROW)]
            shown = ', '.join(map(printable, there[:20]))
            more = f' and {len(there) - 20} more' if len(there) > 20 else ''
            raise UserError(
                f'{self._path}: there is no column {printable(name)!r}; there are {shown}{more}'
            )

    def _numbers(self, names: Sequence[str], may_lack: np.ndarray | None = None) -> np.ndarray:
        """Return columns as float32, (N, C); cells of some rows may be empty.

        Raises:
            UserError: If a column holds no numbers, or is empty or infinite in another row.
        """
        values = np.empty((len(self._frame), len(names)), dtype=np.float64)
        for index, name in enumerate(names):
            self._check_present(self._frame, name)
            column = self._frame[name]
            if column.dtype.kind not in 'biuf':
                raise UserError(
                    f'{self._path}: column {printable(name)!r} holds {column.dtype} values; it '
                    'must hold numbers'
                )
            values[:, index] = column.to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(values.astype(np.float32))
        if may_lack is not None:
            wrong &= ~may_lack[:, None]
        if wrong.any():
            row, index = np.argwhere(wrong)[0]
            raise UserError(
                f'{self._path}: column {printable(names[index])!r} is empty or not finite in row '
                f'{self._frame[_ROW][row] + 1}; fill or drop such rows'
            )
        return np.nan_to_num(values).astype(np.float32)


# Columns that are added to the table.
_ORDER, _ROW = '_omnisafe_qpt_episode', '_omnisafe_qpt_row'


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise UserError(f'{path}: no such file')
    try:
        return pd.read_csv(path) if path.suffix == '.csv' else pd.read_parquet(path)
    except ImportError as error:
        raise UserError(
            f'{path}: reading Parquet needs a pyarrow that fits numpy 1: pip install "pyarrow<21"'
        ) from error
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise UserError(
            f'{path}: cannot be read as a {path.suffix[1:]} table ({first_line(error)})'
        ) from error
