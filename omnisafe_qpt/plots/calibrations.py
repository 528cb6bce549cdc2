# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration of critics: empirical sums against predicted values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.data.checks import count
from omnisafe_qpt.plots.style import BLUE, GREY, ORANGE, PURPLE, drawing_style, save_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes


_CALIBRATION_PANELS = {
    'reward, discounted': {
        'reward_discounted': ('to the end', BLUE),
        'reward_completed': ('and beyond', PURPLE),
    },
    'cost, discounted': {
        'cost_discounted': ('to the end', ORANGE),
        'cost_completed': ('and beyond', PURPLE),
    },
    'cost, plain': {'cost_to_go': ('to the end', ORANGE)},
}


def plot_calibrations(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what critics predict against what came, with the line on which both agree.

    Args:
        reports (Sequence[dict[str, Any]]): What
            :func:`omnisafe_qpt.evaluation.offline.evaluate_offline` returned, for one run or
            several of which at least one has critics; the others are left out.
        path (Path): Where to; the suffix tells the format.

    Raises:
        UserError: If the suffix is another; see :func:`check_suffix`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = [report for report in reports if report['calibrations'] is not None]
    with drawing_style():
        figure = Figure(figsize=(11.0, 4.8), layout='constrained')
        for axes, (title, kinds) in zip(figure.subplots(1, 3), _CALIBRATION_PANELS.items()):
            for name, (label, colour) in kinds.items():
                _draw_calibration(axes, shown, name, label, colour)
            if len(shown) == 1:
                name, (_, colour) = next(iter(kinds.items()))
                _draw_spread(axes, shown[0], name, colour)
            axes.axline((0, 0), slope=1, color=GREY, linestyle='--', label='as predicted')
            axes.set(title=title, xlabel='predicted', ylabel='realised')
            axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=2)
        figure.suptitle(
            f'{shown[0]["env_id"]}, {count(len(shown), "run")}: '
            f'{count(shown[0]["episodes"], "episode")}, {shown[0]["data"]}',
            fontsize=matplotlib.rcParams['axes.titlesize'],
        )
    save_figure(figure, path)


def _draw_calibration(
    axes: Axes,
    reports: Sequence[dict[str, Any]],
    name: str,
    label: str | None,
    colour: str,
) -> None:
    """Draw the means of the bins, a line for each run."""
    for report in reports:
        if name in report['calibrations']:
            bins = report['calibrations'][name]['bins']
            predicted, realised = (
                [each[key] for each in bins] for key in ('predicted', 'realised')
            )
            axes.plot(predicted, realised, color=colour, marker='o', markersize=4, label=label)
            label = None  # once in the legend


def _draw_spread(axes: Axes, report: dict[str, Any], name: str, colour: str) -> None:
    bins = report['calibrations'][name]['bins']
    predicted, low, high = ([each[key] for each in bins] for key in ('predicted', 'low', 'high'))
    axes.fill_between(
        predicted,
        low,
        high,
        color=colour,
        alpha=0.15,
        linewidth=0,
        label='80 % of the states',
    )
