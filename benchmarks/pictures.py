# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The report's plots: return against cost for each task, and curves over limits and settings."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.rows import Results
from benchmarks.scores import Board, Interval, make_boards
from benchmarks.sweeps import Sweep, find_sweeps
from benchmarks.tables import NOT_RUN
from omnisafe_qpt.plots import BLACK, BLUE, GREY, ORANGE, PURPLE, drawing_style, save_figure
from omnisafe_qpt.runner import NO_SAFE_TARGET


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours beside those that the package has.
_COLOURS = (BLUE, ORANGE, '#009E73', PURPLE, '#E69F00', '#56B4E9', BLACK)
_MARKERS = 'os^DvPX<>ph'
_COLUMNS = 4
_COST_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
_SHADE = '#F3F3F3'
# Intervals of few seeds are wide; the axes show what is this far beyond the means.
_MARGIN = 0.25
# Letters in a line of a panel's note.
_TEXT_WIDTH = 48


def draw(results: Results, folder: Path) -> list[tuple[str, Path]]:
    """Draw what a suite has to show.

    Args:
        results (Results): Its finished cells.
        folder (Path): Where to; made if it is absent.

    Returns:
        Their titles and files: curves first, then return against cost.
    """
    stem = folder / _file_stem(results.folder.name)
    boards = make_boards(results)
    first = [board for board in boards if board.checkpoint == boards[0].checkpoint]
    pictures = []
    if len(first) > 1:
        path = Path(f'{stem}-limits.png')
        _draw_limits(first, path)
        pictures.append((f'{results.name}: return and cost against the limit', path))
    for sweep in find_sweeps(results):
        path = Path(f'{stem}-{_file_stem(sweep.algo)}-{_file_stem(sweep.name)}.png')
        _draw_sweep(first[0], sweep, path)
        pictures.append((f'{results.name}: return and cost of {sweep.algo} by {sweep.name}', path))
    for board in boards:
        limit = f'{board.cost_limit:g}'
        path = Path(f'{stem}-{board.checkpoint}-limit-{limit}.png')
        _draw_board(board, path)
        title = f'return against cost, {board.checkpoint} checkpoint, limit {limit}'
        pictures.append((f'{results.name}: {title}', path))
    return pictures


def _file_stem(name: str) -> str:
    return re.sub(r'[^\w.-]+', '-', name)


def _styles(rows: Sequence[str]) -> dict[str, dict[str, str]]:
    """Give each row a colour and a marker of its own."""
    return {
        row: {
            'color': _COLOURS[index % len(_COLOURS)],
            'marker': _MARKERS[index % len(_MARKERS)],
        }
        for index, row in enumerate(rows)
    }


# -- return against cost --------------------------------------------------------------------------


def _draw_board(board: Board, path: Path) -> None:
    """Draw a panel for each dataset that was run, a marker for each row."""
    run = board.scores.index.unique('dataset')
    datasets = [dataset for dataset in board.results.datasets if dataset in run]
    columns = min(_COLUMNS, len(datasets))
    lines = math.ceil(len(datasets) / columns)
    with drawing_style():
        figure = Figure(figsize=(max(6.4, 4.2 * columns), 3.9 * lines + 0.9), layout='constrained')
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, dataset in zip(panels, datasets):
            _draw_dataset(axes, board, dataset)
        for axes in panels[len(datasets) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(datasets) - columns) : len(datasets)]:
            axes.set_xlabel(f'cost / limit of {board.cost_limit:g}')
        figure.supylabel('normalised return', fontsize=11)
        _share_legend(figure, panels)
    save_figure(figure, path)


def _draw_dataset(axes: Axes, board: Board, dataset: str) -> None:
    rows, scores = board.results.rows, board.scores.xs(dataset, level='dataset')
    shown = scores[scores.has_target]
    styles = _styles(rows)
    for row in filter(shown.index.__contains__, rows):
        score = shown.loc[row]
        axes.errorbar(
            score.costs,
            score.returns,
            xerr=_bars(score.costs, score.costs_interval),
            yerr=_bars(score.returns, score.returns_interval),
            linestyle='none',
            markersize=8,
            markeredgecolor='white',
            elinewidth=1,
            alpha=0.9,
            label=row,
            **styles[row],
        )
    axes.set_title(dataset)
    right = max([1.3, *(1.3 * shown.costs)])
    _scale_costs(axes, 'x', right)
    axes.set_xlim(-0.04, right)
    axes.axvspan(1.0, right, color=_SHADE, zorder=0)
    axes.axvline(1.0, color=GREY, linestyle='--', linewidth=1.2, label='limit')
    if len(shown):
        low, high = shown.returns.min(), shown.returns.max()
        margin = max(0.05, _MARGIN * (high - low))
        axes.set_ylim(low - margin, high + margin)
    _write_note(
        axes,
        {
            NOT_RUN: [row for row in rows if row not in scores.index],
            NO_SAFE_TARGET: [row for row in rows if row in scores.index.difference(shown.index)],
        },
    )


def _write_note(axes: Axes, absent: Mapping[str, Sequence[str]]) -> None:
    """Name the rows that a panel does not show, by the reason."""
    lines = [
        textwrap.fill(f'{reason}: {", ".join(rows)}', _TEXT_WIDTH, break_on_hyphens=False)
        for reason, rows in absent.items()
        if rows
    ]
    if lines:
        text = axes.text(
            *(0.98, 0.02, '\n'.join(lines)),
            transform=axes.transAxes,
            ha='right',
            va='bottom',
            fontsize=8,
            color=GREY,
        )
        text.set_in_layout(False)  # a panel is not made wider or narrower by it


def _bars(mean: float, interval: Interval | None) -> list[list[float]] | None:
    """Return how far the interval reaches down and up, or None without one."""
    return None if interval is None else [[mean - interval[0]], [interval[1] - mean]]


def _scale_costs(axes: Axes, which: str, highest: float) -> None:
    """Scale costs linearly to the limit, so that zero can be shown, and by decades beyond."""
    getattr(axes, f'set_{which}scale')('symlog', linthresh=1.0)
    ticks = [tick for tick in _COST_TICKS if tick <= highest]
    getattr(axes, f'set_{which}ticks')(ticks, [f'{tick:g}' for tick in ticks])
    getattr(axes, f'set_{which}ticks')([], minor=True)


def _share_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Show what is in any panel once, below them all."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    longest = max(map(len, handles))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc='outside lower center',
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / (0.8 + 0.1 * longest)))),
    )


# -- curves ---------------------------------------------------------------------------------------


def _draw_limits(boards: Sequence[Board], path: Path) -> None:
    """Draw return and cost against the limit, the paper's Figure 2: a column for each dataset."""
    results = boards[0].results
    scores = pd.concat({board.cost_limit: board.scores for board in boards}, names=['place'])
    limits = [board.cost_limit for board in boards]
    curves = {row: {limit: (limit, row) for limit in limits} for row in results.rows}
    _draw_curves(results.datasets, scores, curves, limits, 'cost limit', path)


def _draw_sweep(board: Board, sweep: Sweep, path: Path) -> None:
    """Draw return and cost over a setting, a column for each dataset."""
    scores = pd.concat({board.cost_limit: board.scores}, names=['place'])
    curves = {
        label: {value: (board.cost_limit, row) for value, row in rows.items()}
        for label, rows in sweep.curves.items()
    }
    rows = {row for each in sweep.curves.values() for row in each.values()}
    run = scores.index[scores.index.isin(rows, level='row')].unique('dataset')
    datasets = [dataset for dataset in board.results.datasets if dataset in run]
    # Values of a grid may span decades and include zero: one place for each.
    values = sorted({value for each in sweep.curves.values() for value in each})
    label = f'{sweep.name} (not to scale), limit {board.cost_limit:g}'
    _draw_curves(datasets, scores, curves, values, label, path, is_to_scale=False)


def _draw_curves(
    datasets: Sequence[str],
    scores: pd.DataFrame,
    curves: Mapping[str, Mapping[float, tuple[float, str]]],
    values: Sequence[float],
    label: str,
    path: Path,
    is_to_scale: bool = True,
) -> None:
    """Draw returns above costs, a column for each dataset.

    Args:
        datasets (Sequence[str]): The datasets.
        scores (pd.DataFrame): By cost limit, dataset and row.
        curves (Mapping): By label, the cost limit and the row at each value.
        values (Sequence[float]): The ticks.
        label (str): Of the values.
        path (Path): Where to.
        is_to_scale (bool, optional): Whether values are places. Defaults to True.
    """
    styles = _styles(list(curves))
    with drawing_style():
        figure, panels = _two_lines(datasets)
        for column, dataset in zip(panels.T, datasets):
            gaps = []
            for name, places in curves.items():
                keys = {value: (limit, dataset, row) for value, (limit, row) in places.items()}
                keys = {value: key for value, key in keys.items() if key in scores.index}
                found = scores.loc[list(keys.values())]
                at = list(keys) if is_to_scale else [values.index(value) for value in keys]
                _draw_curve(column, at, found, name, styles[name])
                without = (value for value, has in zip(keys, found.has_target) if not has)
                gaps += [f'{name} at {value:g}' for value in without]
            _write_note(column[0], {NO_SAFE_TARGET: gaps})
            if is_to_scale:
                column[1].set_xticks(values)
            else:
                column[1].set_xticks(range(len(values)), [f'{value:g}' for value in values])
        _finish(figure, panels, label)
    save_figure(figure, path)


def _two_lines(datasets: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """Make panels for returns above panels for costs."""
    size = (max(6.4, 4.2 * len(datasets)), 6.8)
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(2, len(datasets), sharex='col', squeeze=False)
    for axes, dataset in zip(panels[0], datasets):
        axes.set_title(dataset)
    return figure, panels


def _draw_curve(
    column: Sequence[Axes],
    places: Sequence[float],
    scores: pd.DataFrame,
    label: str,
    style: dict[str, str],
) -> None:
    """Draw means over seeds, with a shade of one standard deviation over seeds to each side."""
    for axes, name in zip(column, ('returns', 'costs')):
        means = scores[name].where(scores.has_target)  # else a gap in the curve
        deviations = scores[f'{name}_std'].fillna(0.0)
        axes.plot(places, means, label=label, linewidth=1.8, markersize=6, **style)
        low = means - deviations
        if name == 'costs':
            low = low.clip(lower=0.0)  # no cost is below zero
        axes.fill_between(
            *(places, low, means + deviations),
            color=style['color'],
            alpha=0.12,
            linewidth=0,
        )


def _finish(figure: Figure, panels: np.ndarray, label: str) -> None:
    for axes in panels[1]:
        top = 1.05 * max(1.2, axes.get_ylim()[1])
        _scale_costs(axes, 'y', top)
        axes.set_ylim(-0.05, top)
        axes.axhline(1.0, color=GREY, linestyle='--', linewidth=1.2, label='limit')
        axes.set_xlabel(label)
    panels[0, 0].set_ylabel('normalised return')
    panels[1, 0].set_ylabel('cost / limit')
    _share_legend(figure, panels.ravel())
