# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that differ in one number alone: what the curves are drawn over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import Results


@dataclass(frozen=True)
class Curve:
    """Rows that differ in one number.

    Args:
        label (str): What else tells them from other curves, ``eta_cost 0.1``; may be empty.
        rows (dict[float, str]): The row at each value of the number, ascending.
    """

    label: str
    rows: dict[float, str]


@dataclass(frozen=True)
class Sweep:
    """Curves over one setting.

    Args:
        algo (str): Of all its rows.
        setting (str): Its name, such as ``algo_cfgs.eta_cost``.
        curves (tuple[Curve, ...]): At least one, of at least three rows each.
    """

    algo: str
    setting: str
    curves: tuple[Curve, ...]

    @property
    def name(self) -> str:
        """The setting without the section that it is in."""
        return _short(self.setting)


@dataclass(frozen=True)
class Varied:
    """The rows of one algorithm, and in what they differ.

    Args:
        settings (dict[str, Mapping[str, Any]]): All settings of each row.
        names (tuple[str, ...]): Those that are not the same for all rows.
    """

    settings: dict[str, Mapping[str, Any]]
    names: tuple[str, ...]


def varied_settings(results: Results) -> dict[str, Varied]:
    """Return what tells the rows of an algorithm apart, for each that has several rows."""
    found = {}
    for algo in dict.fromkeys(results.algorithms.values()):
        first = results.cells[results.cells.algo == algo].groupby('row').settings.first()
        settings = {row: first[row] for row in results.rows if row in first}
        every = dict.fromkeys(name for each in settings.values() for name in each)
        names = tuple(
            name for name in every if len({repr(each.get(name)) for each in settings.values()}) > 1
        )
        if names:
            found[algo] = Varied(settings, names)
    return found


def find_sweeps(results: Results) -> list[Sweep]:
    """Return a sweep for each number that is the only difference between three or more rows."""
    sweeps = []
    for algo, varied in varied_settings(results).items():
        for name in varied.names:
            curves = _curves(varied, name)
            if curves:
                sweeps.append(Sweep(algo, name, curves))
    return sweeps


def _curves(varied: Varied, name: str) -> tuple[Curve, ...]:
    """Group the rows by all that varies but one number."""
    groups: dict[tuple[tuple[str, Any], ...], dict[float, str]] = {}
    for row, each in varied.settings.items():
        value = each.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        others = tuple((other, repr(each.get(other))) for other in varied.names if other != name)
        groups.setdefault(others, {}).setdefault(value, row)
    # Two rows are a comparison, which the tables make; a line between two points says no more.
    several = {others: rows for others, rows in groups.items() if len(rows) > 2}
    return tuple(
        Curve(_label(others, several), dict(sorted(rows.items())))
        for others, rows in several.items()
    )


def _label(others: tuple[tuple[str, Any], ...], groups: Mapping[Any, Any]) -> str:
    """Name what tells a curve from the others."""
    return ', '.join(
        f'{_short(name)} {value}'
        for index, (name, value) in enumerate(others)
        if len({group[index] for group in groups}) > 1
    )


def _short(setting: str) -> str:
    return setting.rpartition('.')[2]
