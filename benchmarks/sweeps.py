# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""In what the rows of an algorithm differ; in one number alone: what curves are drawn over."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.rows import Results


class Sweep(NamedTuple):
    """Curves over one setting.

    Args:
        algo (str): Of all its rows.
        name (str): The setting, without its section.
        curves (dict[str, dict[float, str]]): The row at each value, ascending, three or more, by
            what else tells the curve from others (``eta_cost 0.1``, or the algorithm).
    """

    algo: str
    name: str
    curves: dict[str, dict[float, str]]


def row_settings(results: Results) -> pd.Series:
    """Return the settings of each row, of its first cell."""
    return results.cells.drop_duplicates('row').set_index('row').settings


def varied_settings(results: Results) -> dict[str, pd.DataFrame]:
    """Return the settings in which rows of an algorithm differ, by row; NaN where one has none."""
    first = row_settings(results)
    found = {}
    for algo in dict.fromkeys(results.algorithms.values()):
        rows = [row for row in results.rows if results.algorithms[row] == algo and row in first]
        settings = pd.DataFrame([first[row] for row in rows], index=rows, dtype=object)
        varied = settings.loc[:, settings.astype(str).nunique() > 1]
        if len(varied.columns):
            found[algo] = varied
    return found


def find_sweeps(results: Results) -> list[Sweep]:
    """Return a sweep for each number that is the only difference between three or more rows."""
    return [
        Sweep(algo, _short(name), curves)
        for algo, varied in varied_settings(results).items()
        for name in varied
        if (curves := _curves(varied, name, algo))
    ]


def _curves(varied: pd.DataFrame, name: str, algo: str) -> dict[str, dict[float, str]]:
    """Group the rows by all that varies but one number."""
    numbers = varied[name][varied[name].map(_is_number)]
    others = varied.drop(columns=name).astype(str).loc[numbers.index]
    groups: dict[tuple[str, ...], dict[float, str]] = {}
    for row, key in zip(others.index, map(tuple, others.to_numpy())):
        groups.setdefault(key, {}).setdefault(numbers[row], row)
    # Two rows are a comparison, which the tables make; a line between two points says no more.
    several = {key: dict(sorted(rows.items())) for key, rows in groups.items() if len(rows) > 2}
    differ = pd.DataFrame(list(several), columns=others.columns).nunique() > 1
    return {
        ', '.join(
            f'{_short(other)} {value}'
            for other, value in zip(others.columns, key)
            if differ[other]
        )
        or algo: rows
        for key, rows in several.items()
    }  # fmt: skip


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and not math.isnan(value)


def _short(setting: str) -> str:
    return setting.rpartition('.')[2]
