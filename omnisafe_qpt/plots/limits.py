# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Return and cost against the cost limit, the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisafe_qpt.data.checks import count
from omnisafe_qpt.plots.style import BLUE, GREY, ORANGE, drawing_style, save_figure
from omnisafe_qpt.scores import normalized_return


if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_limits(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw return and cost against the cost limit, the paper's Figure 2: a column for each task.

    Args:
        rows (Sequence[dict[str, Any]]): What :func:`omnisafe_qpt.evaluate` returned, for one task
            or several.
        path (str or Path): Where to; the suffix tells the format.

    Raises:
        UserError: If the suffix is another; see :func:`check_suffix`.
    """
    from matplotlib.figure import Figure

    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row['env_id'], []).append(row)
    with drawing_style():
        figure = Figure(figsize=(5.2 * len(tasks), 6.8), layout='constrained')
        axes = figure.subplots(2, len(tasks), sharex='col', squeeze=False)
        for (return_axes, cost_axes), own in zip(axes.T, tasks.values()):
            draw_limits(return_axes, cost_axes, own)
    save_figure(figure, Path(path))


def draw_limits(return_axes: Axes, cost_axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Draw a task's normalised return and its cost against the cost limit.

    Lines are means over runs, with a thin line for each run if there are several. The shade is
    within one standard deviation, over the episodes of all runs.

    Args:
        return_axes (Axes): For the return and the return asked for.
        cost_axes (Axes): For the cost, and the line up to which it is within the limit.
        rows (Sequence[dict[str, Any]]): What :func:`omnisafe_qpt.evaluate` returned.
    """
    limits = sorted({row['cost_limit'] for row in rows})
    runs = {(row['run'], row['checkpoint']) for row in rows}
    episodes = {row['episodes'] for row in rows}
    number = ' or '.join(map(str, sorted(episodes)))
    return_axes.set_title(
        f'{rows[0]["env_id"]}: {count(len(runs), "run")}, {number} episodes a limit',
    )
    _draw_against_limits(return_axes, rows, 'returns', BLUE)
    _draw_against_limits(cost_axes, rows, 'costs', ORANGE)
    asked = [row for row in rows if row['target_return'] is not None]
    if asked:  # not so for policies that act on the observation alone, or a fallback
        at_limits = sorted({row['cost_limit'] for row in asked})
        wanted = [
            np.mean(
                [_normalised(row, row['target_return']) for row in asked if row['cost_limit'] == at]
            )
            for at in at_limits
        ]
        return_axes.plot(
            at_limits, wanted, color=GREY, linestyle=':', marker='*', label='return asked for'
        )
    return_axes.set_ylabel('normalised return')
    right = 1.05 * max(*limits, 1.0)
    cost_axes.plot([0, right], [0, right], color=GREY, linestyle='--', label='cost = limit')
    cost_axes.set(xlabel='cost limit', ylabel='cost of an episode', xlim=(0, right), ylim=(0, None))
    for axes in (return_axes, cost_axes):
        axes.legend()


def _draw_against_limits(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    name: str,
    colour: str,
) -> None:
    """Draw ``returns`` or ``costs``: mean over runs, spread over episodes, each run."""
    runs: dict[tuple[str, str], dict[float, np.ndarray]] = {}
    for row in rows:
        values = np.asarray(row[name])
        values = _normalised(row, values) if name == 'returns' else values
        runs.setdefault((row['run'], row['checkpoint']), {})[row['cost_limit']] = values
    limits = sorted({row['cost_limit'] for row in rows})
    at_limits = [[run[limit] for run in runs.values() if limit in run] for limit in limits]
    means = np.array([np.mean([values.mean() for values in each]) for each in at_limits])
    spreads = np.array([np.concatenate(each).std() for each in at_limits])
    down = spreads if name == 'returns' else np.minimum(spreads, means)  # no cost is below zero
    axes.fill_between(limits, means - down, means + spreads, color=colour, alpha=0.15, linewidth=0)
    axes.errorbar(
        limits,
        means,
        [down, spreads],
        color=colour,
        marker='o',
        linewidth=2,
        elinewidth=1,
        capsize=3,
        label='mean, deviation over episodes',
    )
    for run in runs.values() if len(runs) > 1 else ():
        own = sorted(run)
        (line,) = axes.plot(own, [run[limit].mean() for limit in own], color=colour, linewidth=0.7)
    if len(runs) > 1:
        line.set_label('each run')
    axes.set_xticks(limits)


def _normalised(row: dict[str, Any], episode_return: Any) -> Any:
    return normalized_return(episode_return, *row['reference_returns'])
