# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Logs as tables, CSV or Parquet, with one row for each step: converted to DSRL's HDF5."""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisafe_qpt.data.attributes import ENV_ID_ATTRIBUTE
from omnisafe_qpt.data.checks import count
from omnisafe_qpt.data.convert import Conversion, check_out
from omnisafe_qpt.data.files import HDF5_SUFFIXES
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.errors import UserError, first_line, printable
from omnisafe_qpt.schema import Check, number, show, text


if TYPE_CHECKING:
    import pandas as pd


def _names(value: Any, path: str) -> None:
    """Check for a column's name or a list of names."""
    if value == []:
        raise UserError(f'{path} is empty; name at least one column')
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
        source (str or os.PathLike): A ``.csv`` file with a header and commas, or a ``.parquet``
            file. It is read into memory.
        out (str or os.PathLike): The HDF5 file to write; it appears only when it is complete.
        columns (Mapping[str, Any]): Names of columns: ``episode``, the column whose values tell the
            episodes apart; ``observations`` and ``actions``, one or several, in this order, ``*``
            stands for any characters; ``rewards``; ``costs``, one, several that are added, or a
            mapping from names to weights. If there are any: ``time``, numbers or dates by which the
            rows of an episode are sorted, and ``terminals``, which is not 0 in a row that leads
            into a terminal state, or in the final observation. ``env_id`` is recorded in the file.
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
        self._is_csv = path.suffix.lower() == '.csv'
        self._frame = self._read()
        if self._frame.empty:
            raise UserError(f'{path}: the table has no rows')
        order = self._order()
        self._frame = self._frame.take(order)
        self._rows = order  # of the file, for messages

    def arrays(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the arrays of DSRL's layout, and notes on what was read and left out."""
        columns = self._columns
        is_last = np.append(self._episode[1:] != self._episode[:-1], True)
        names = {name: self._chosen(columns[name]) for name in ('observations', 'actions')}
        is_final = is_last & self._frame[names['actions']].isna().all(axis=1).to_numpy()
        terminals = self._terminals(is_last, is_final)
        kept = ~is_final & (~is_last | terminals)
        if not kept.any():
            raise UserError(f'{self._path}: no episode has two rows; check the column of episode')
        rows = np.arange(len(kept))
        # A terminal state that is not in the log is not used.
        following = np.where(is_last, rows, np.minimum(rows + 1, len(rows) - 1))[kept]
        ends = np.append(np.diff(np.flatnonzero(kept)) != 1, True)
        ends[:-1] |= np.diff(self._episode[kept]) != 0
        observations = self._numbers(names['observations'])
        arrays = {
            'observations': observations[kept],
            'next_observations': observations[following],
            'actions': self._numbers(names['actions'], is_final)[kept],
            'rewards': self._numbers([columns['rewards']], is_final)[kept, 0],
            'costs': self._costs(is_final)[kept],
            'terminals': terminals[kept],
            'timeouts': ends & ~terminals[kept],
        }
        return arrays, self._notes(names, kept, is_final, is_last)

    def _terminals(self, is_last: np.ndarray, is_final: np.ndarray) -> np.ndarray:
        """Return which rows lead into a terminal state, (N,) bool.

        The flag may also be in the row of the terminal state itself.
        """
        name = self._columns.get('terminals')
        if name is None:
            return np.zeros(len(is_last), dtype=bool)
        flags = self._numbers([name], is_final)[:, 0] != 0
        before_final = np.append(is_final[1:], False)
        if (flags & ~is_last & ~before_final).any():
            raise UserError(
                f'{self._path}: {printable(name)!r} is set before the end of an episode; give '
                'each episode its own value in the column of episode'
            )
        return flags | (before_final & np.append(flags[1:], False))

    def _order(self) -> np.ndarray:
        """Return the rows' numbers, sorted by episode and time; episodes stay in their order."""
        name, frame = self._columns['episode'], self._frame
        self._check_present(name)
        if frame[name].isna().any() or (frame[name] == '').any():
            raise UserError(f'{self._path}: column {printable(name)!r} has empty cells')
        episode = frame[name].factorize()[0]
        rows = np.arange(len(episode))
        if 'time' in self._columns:
            times = self._times()
            order = np.lexsort((rows, times, episode))
            same = (np.diff(episode[order]) == 0) & (np.diff(times[order]) == 0)
            if same.any():
                row = order[np.flatnonzero(same)[0] + 1]
                raise UserError(
                    f'{self._path}: {self._row(row)} repeats the time of another row of its episode'
                )
        else:
            order = rows
            if (np.diff(episode) < 0).any():
                raise UserError(
                    f'{self._path}: the rows of an episode are not together; name the column of '
                    'time, or give each episode its own value in the column of episode'
                )
        self._episode = episode[order]
        return order

    def _times(self) -> np.ndarray:
        """Return the times as numbers, (N,) float64."""
        import pandas as pd

        name = self._columns['time']
        self._check_present(name)
        column = self._frame[name]
        numbers = pd.to_numeric(column, errors='coerce')
        if numbers.isna().any() and column.notna().all():
            dates = pd.to_datetime(column, errors='coerce', format='mixed', utc=True)
            if dates.notna().all():
                return dates.astype('int64').to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(numbers.isna())
        if len(wrong):
            raise UserError(
                f'{self._path}: column {printable(name)!r} holds neither a number nor a date in '
                f'{self._row(wrong[0])}'
            )
        return numbers.to_numpy(dtype=np.float64)

    def _row(self, number: int) -> str:
        """Name a row of the file."""
        return f'line {number + 2}' if self._is_csv else f'row {number + 1}'

    def _notes(
        self,
        names: Mapping[str, Sequence[str]],
        kept: np.ndarray,
        is_final: np.ndarray,
        is_last: np.ndarray,
    ) -> list[str]:
        notes = [f'{kind}: {", ".join(map(printable, chosen))}' for kind, chosen in names.items()]
        is_lost = ~np.isin(self._episode, self._episode[kept])
        omitted = int((is_last & ~kept & ~is_final & ~is_lost).sum())
        if omitted:
            notes.append(
                f'{count(omitted, "episode")} without a terminal state and a final observation: '
                'the last row is omitted, with its reward and cost'
            )
        lost = len(np.unique(self._episode[is_lost]))
        if lost:
            notes.append(f'{count(lost, "episode")} of one row left out')
        return notes

    def _costs(self, is_final: np.ndarray) -> np.ndarray:
        """Add up the columns of costs by their weights."""
        costs = self._columns['costs']
        weights = costs if isinstance(costs, dict) else dict.fromkeys(_listed(costs), 1.0)
        values = self._numbers(list(weights), is_final, np.float64)
        total = values @ np.array(list(weights.values()), dtype=np.float64)
        self._check_finite(total[:, None], ['costs'], None)
        return total.astype(np.float32)

    def _chosen(self, patterns: str | Sequence[str]) -> list[str]:
        """Return the columns that names or patterns stand for, in their order.

        A pattern does not stand for a column that another entry names.
        """
        named = {name for value in self._columns.values() for name in _listed(value)}
        found: list[str] = []
        for pattern in _listed(patterns):
            fitting = [pattern]
            if pattern not in self._frame:
                fitting = [
                    name
                    for name in self._frame.columns
                    if fnmatch.fnmatchcase(str(name), pattern) and name not in named
                ]
            if not fitting:
                self._check_present(pattern)
            found += [name for name in fitting if name not in found]
        return found

    def _check_present(self, name: str) -> None:
        if name not in self._frame:
            there = [str(each) for each in self._frame.columns]
            shown = ', '.join(map(printable, there[:20]))
            more = f' and {len(there) - 20} more' if len(there) > 20 else ''
            advice = '; commas must separate the columns' if len(there) == 1 else ''
            raise UserError(
                f'{self._path}: there is no column {printable(name)!r}; there are {shown}{more}'
                f'{advice}'
            )

    def _numbers(
        self,
        names: Sequence[str],
        may_lack: np.ndarray | None = None,
        dtype: type = np.float32,
    ) -> np.ndarray:
        """Return columns as numbers, (N, C); cells of some rows may be empty.

        Raises:
            UserError: If a cell holds no number, or one beyond float32, or is empty elsewhere.
        """
        import pandas as pd

        values = np.empty((len(self._frame), len(names)), dtype=np.float64)
        for index, name in enumerate(names):
            self._check_present(name)
            column = self._frame[name]
            if column.dtype.kind not in 'biuf':
                numbers = pd.to_numeric(column.replace(_FLAGS), errors='coerce')
                wrong = np.flatnonzero(numbers.isna() & column.notna())
                if len(wrong):
                    raise UserError(
                        f'{self._path}: column {printable(name)!r} holds '
                        f'{show(str(column.iloc[wrong[0]]))} in '
                        f'{self._row(self._rows[wrong[0]])}; it must '
                        'hold numbers'
                    )
                column = numbers
            values[:, index] = column.to_numpy(dtype=np.float64)
        self._check_finite(values, names, may_lack)
        return np.nan_to_num(values).astype(dtype)

    def _check_finite(
        self, values: np.ndarray, names: Sequence[str], may_lack: np.ndarray | None
    ) -> None:
        wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
        if may_lack is not None:
            wrong &= ~(may_lack[:, None] & np.isnan(values))
        if wrong.any():
            row, index = np.argwhere(wrong)[0]
            raise UserError(
                f'{self._path}: column {printable(names[index])!r} is empty, not finite or too '
                f'large in {self._row(self._rows[row])}; fill or '
                'drop such rows'
            )

    def _read(self) -> pd.DataFrame:
        import pandas as pd

        path, episode = self._path, self._columns['episode']
        if not path.is_file():
            raise UserError(f'{path}: no such file')
        try:
            if not self._is_csv:
                return pd.read_parquet(path)
            header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
            repeated = header[header.duplicated()]
            if len(repeated):
                raise UserError(f'{path}: two columns are named {printable(repeated.iloc[0])!r}')
            with warnings.catch_warnings():
                warnings.simplefilter('error', pd.errors.ParserWarning)
                return pd.read_csv(
                    path,
                    index_col=False,
                    low_memory=False,  # one type for the whole of a column
                    converters={episode: str},  # as it stands, NA too
                )
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f'{path}: reading Parquet needs a pyarrow that fits numpy 1: '
                'pip install "pyarrow<21"'
            ) from error
        except Exception as error:  # pandas and pyarrow raise many kinds
            raise UserError(
                f'{path}: cannot be read as a {path.suffix[1:]} table ({first_line(error)})'
            ) from error


# What pandas leaves of flags in a column with empty cells.
_FLAGS = {True: 1.0, False: 0.0, 'True': 1.0, 'False': 0.0, 'true': 1.0, 'false': 0.0}


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
