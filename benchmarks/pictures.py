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
from matplotlib.figure import Figure

from benchmarks.page import Pictures
from benchmarks.rows import Results
from benchmarks.statistics import Estimate
from benchmarks.summary import Board, Score
from benchmarks.sweeps import Curve, Sweep, find_sweeps
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


def draw(results: Results, folder: Path) -> Pictures:
    """Draw what a suite has to show.

    Args:
        results (Results): Its finished cells.
        folder (Path): Where to; made if it is absent.

    Returns:
        Their titles and files.
    """
    stem = _file_stem(results.folder.name)
    curves, scatters = [], []
    for checkpoint, limit in results.settings:
        board = Board(results, checkpoint, limit)
        path = folder / f'{stem}-{checkpoint}-limit-{limit:g}.png'
        _draw_boards(board, path)
        title = f'{results.name}: return against cost, {checkpoint} checkpoint, limit {limit:g}'
        scatters.append((title, path))
    checkpoint = results.settings[0][0]
    boards = [Board(results, *setting) for setting in results.settings if setting[0] == checkpoint]
    if len(boards) > 1:
        path = folder / f'{stem}-limits.png'
        _draw_limits(boards, path)
        curves.append((f'{results.name}: return and cost against the limit', path))
    for sweep in find_sweeps(results):
        path = folder / f'{stem}-{_file_stem(sweep.algo)}-{_file_stem(sweep.name)}.png'
        _draw_sweep(boards[0], sweep, path)
        curves.append((f'{results.name}: return and cost of {sweep.algo} by {sweep.name}', path))
    return Pictures(curves, scatters)


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


def _draw_boards(board: Board, path: Path) -> None:
    """Draw a panel for each dataset that was run, a marker for each row."""
    run = {dataset for _, dataset in board.scores}
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
    rows = board.results.rows
    run = {row: board.scores[row, dataset] for row in rows if (row, dataset) in board.scores}
    shown = {row: score for row, score in run.items() if score.average.has_target}
    styles = _styles(rows)
    for row, score in shown.items():
        axes.errorbar(
            score.costs.mean,
            score.returns.mean,
            xerr=_bars(score.costs),
            yerr=_bars(score.returns),
            linestyle='none',
            markersize=8,
            markeredgecolor='white',
            elinewidth=1,
            alpha=0.9,
            label=row,
            **styles[row],
        )
    axes.set_title(dataset)
    costs = [score.costs.mean for score in shown.values()]
    returns = [score.returns.mean for score in shown.values()]
    right = max([1.3, *(1.3 * cost for cost in costs)])
    _scale_costs(axes, 'x', right)
    axes.set_xlim(-0.04, right)
    axes.axvspan(1.0, right, color=_SHADE, zorder=0)
    axes.axvline(1.0, color=GREY, linestyle='--', linewidth=1.2, label='limit')
    if returns:
        margin = max(0.05, _MARGIN * (max(returns) - min(returns)))
        axes.set_ylim(min(returns) - margin, max(returns) + margin)
    _write_note(
        axes,
        {
            NOT_RUN: [row for row in rows if row not in run],
            NO_SAFE_TARGET: [row for row in run if row not in shown],
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


def _bars(estimate: Estimate) -> list[list[float]] | None:
    """Return how far the interval reaches down and up, or None without one."""
    if estimate.interval is None:
        return None
    low, high = estimate.interval
    return [[estimate.mean - low], [high - estimate.mean]]


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
    rows = results.rows
    styles = _styles(rows)
    with drawing_style():
        figure, panels = _two_lines(results.datasets)
        for column, dataset in zip(panels.T, results.datasets):
            gaps = []
            for row in rows:
                found = {
                    board.cost_limit: board.scores[row, dataset]
                    for board in boards
                    if (row, dataset) in board.scores
                }
                _draw_curve(column, list(found), list(found.values()), row, styles[row])
                gaps += _gaps(found, row)
            _write_note(column[0], {NO_SAFE_TARGET: gaps})
            column[1].set_xticks([board.cost_limit for board in boards])
        _finish(figure, panels, 'cost limit')
    save_figure(figure, path)


def _draw_sweep(board: Board, sweep: Sweep, path: Path) -> None:
    """Draw return and cost over a setting, a column for each dataset."""
    rows = {row for curve in sweep.curves for row in curve.rows.values()}
    datasets = [
        dataset
        for dataset in board.results.datasets
        if any((row, dataset) in board.scores for row in rows)
    ]
    values = sorted({value for curve in sweep.curves for value in curve.rows})
    labels = [curve.label or sweep.algo for curve in sweep.curves]
    styles = _styles(labels)
    with drawing_style():
        figure, panels = _two_lines(datasets)
        for column, dataset in zip(panels.T, datasets):
            gaps = []
            for label, curve in zip(labels, sweep.curves):
                found = _curve_scores(board, curve, dataset)
                # Values of a grid may span decades and include zero: one place for each.
                places = [values.index(value) for value in found]
                _draw_curve(column, places, list(found.values()), label, styles[label])
                gaps += _gaps(found, label)
            _write_note(column[0], {NO_SAFE_TARGET: gaps})
            column[1].set_xticks(range(len(values)), [f'{value:g}' for value in values])
        _finish(figure, panels, f'{sweep.name} (not to scale), limit {board.cost_limit:g}')
    save_figure(figure, path)


def _curve_scores(board: Board, curve: Curve, dataset: str) -> dict[float, Score]:
    return {
        value: board.scores[row, dataset]
        for value, row in curve.rows.items()
        if (row, dataset) in board.scores
    }


def _gaps(found: Mapping[float, Score], label: str) -> list[str]:
    """Name the places of a curve at which there is nothing to draw."""
    return [
        f'{label} at {value:g}' for value, score in found.items() if not score.average.has_target
    ]


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
    scores: Sequence[Score],
    label: str,
    style: dict[str, str],
) -> None:
    """Draw means over seeds, with a shade of one standard deviation over seeds to each side."""
    for axes, estimates in zip(
        column,
        ([score.returns for score in scores], [score.costs for score in scores]),
    ):
        means = np.array(
            [
                estimate.mean if score.average.has_target else math.nan  # a gap in the curve
                for score, estimate in zip(scores, estimates)
            ]
        )
        deviations = np.array([estimate.deviation or 0.0 for estimate in estimates])
        axes.plot(places, means, label=label, linewidth=1.8, markersize=6, **style)
        low = means - deviations
        if axes is column[1]:
            low = np.maximum(low, 0.0)  # no cost is below zero
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
