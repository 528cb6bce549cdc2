# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Figures, in one style; matplotlib is imported when one is drawn, and its settings stay as set."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.checks import count
from omnisafe_qpt.data.scan import EpisodeTable
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.scores import normalized_return


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SUFFIXES = ('.png', '.pdf', '.svg')

# Told apart by colour-blind people: Okabe and Ito's, the purple Tol's.
BLUE, ORANGE, PURPLE = '#0072B2', '#D55E00', '#AA4499'
BLACK, GREY = '#000000', '#707070'
STYLE: dict[str, Any] = {
    'figure.figsize': (8.0, 5.8),  # inches
    'figure.dpi': 100,
    'savefig.dpi': 150,
    'font.size': 11,
    'axes.titlesize': 12,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.axisbelow': True,
    'axes.grid': True,
    'grid.color': '#E4E4E4',
    'legend.fontsize': 10,
    'legend.frameon': False,
    'svg.fonttype': 'none',  # text stays text
}

_HISTOGRAM_BINS = 40
# More relabelled episodes than this have no lines, which would hide the dots.
_MAX_LINES = 300
# More dots than this are one picture in a PDF or SVG, which would be slow to show otherwise.
_MAX_VECTOR_DOTS = 2000


@contextmanager
def drawing_style(style: dict[str, Any] = STYLE) -> Iterator[None]:
    """Let matplotlib have this style and its own defaults, whatever the process has set."""
    import matplotlib.style

    with matplotlib.style.context(style, after_reset=True):
        yield


@dataclass(frozen=True)
class Relabelled:
    """What augmentation adds, N pairs of episode cost and return.

    Args:
        sources (np.ndarray): (N, 2) of the frontier episode whose states and actions are used.
        targets (np.ndarray): (N, 2) that it is relabelled with.
    """

    sources: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        """Return the number of relabelled episodes."""
        return len(self.targets)


def relabel(episodes: EpisodeTable, fraction: float, seed: int) -> Relabelled:
    """Relabel episodes as training does with the same fraction and seed, Algorithm 2.

    Args:
        episodes (EpisodeTable): The dataset's E episodes, of which the finite ones count.
        fraction (float): Relabelled episodes as a share of E.
        seed (int): Seed of the targets.

    Raises:
        UserError: If the fraction is negative or not finite.
    """
    if not episodes.is_finite.any():
        return Relabelled(sources=np.zeros((0, 2)), targets=np.zeros((0, 2)))
    # The targets depend on returns and costs alone, so one step stands for each episode.
    returns, costs = episodes.returns[episodes.is_finite], episodes.costs[episodes.is_finite]
    nothing = np.zeros((len(returns), 1), dtype=np.float32)
    arrays = {'observations': nothing, 'next_observations': nothing, 'actions': nothing}
    flags = np.ones(len(returns), dtype=bool)
    trajectories = Trajectories.from_arrays(
        {**arrays, 'rewards': returns, 'costs': costs, 'terminals': flags},
    )
    rows, _ = augment(trajectories, fraction, seed)
    added = rows.select(slice(len(returns), None))
    sources = trajectories.table[added.starts][:, [-1, -2]].double().numpy()
    shifts = np.stack([added.cost_shift.numpy(), added.return_shift.numpy()], axis=1)
    return Relabelled(sources=sources, targets=sources + shifts)


def plot_return_cost(
    episodes: EpisodeTable,
    name: str,
    cost_limit: float,
    relabelled: Relabelled | None = None,
) -> Figure:
    """Draw return against cost: one dot per episode, the frontier, the limit, the augmentation.

    Args:
        episodes (EpisodeTable): The dataset's episodes; those with NaN are left out.
        name (str): The dataset, for the title.
        cost_limit (float): Undiscounted cost up to which an episode is safe.
        relabelled (Relabelled, optional): What augmentation adds. Defaults to None.

    Returns:
        The figure, which no window shows.

    Raises:
        UserError: If no episode has a finite return and cost.
    """
    if episodes.frontier is None:
        raise UserError(f'{name}: no episode has a finite return and cost, nothing can be drawn')
    import matplotlib
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure(layout='constrained')
        axes = figure.subplot_mosaic(
            [['cost', '.'], ['scatter', 'return']],
            width_ratios=(6, 1),
            height_ratios=(1, 5),
        )
        _draw_episodes(axes['scatter'], episodes, cost_limit)
        if relabelled is not None and len(relabelled):
            _draw_relabelled(axes['scatter'], relabelled)
        _draw_frontier(axes['scatter'], episodes, cost_limit)
        _draw_histograms(axes, episodes, cost_limit)
        axes['scatter'].set(xlabel='cost of an episode', ylabel='return of an episode')
        figure.suptitle(_title(episodes, name), fontsize=matplotlib.rcParams['axes.titlesize'])
        _draw_legend(figure, axes['scatter'])
    return figure


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
        for column, own in zip(axes.T, tasks.values()):
            draw_limits(*column, own)
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
    axes.fill_between(
        *([each[key] for each in bins] for key in ('predicted', 'low', 'high')),
        color=colour,
        alpha=0.15,
        linewidth=0,
        label='80 % of the states',
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG; the file appears only when it is complete.

    Args:
        figure (Figure): What to write.
        path (Path): Where to; the suffix tells the format.

    Raises:
        UserError: If the suffix is another; see :func:`check_suffix`.
    """
    check_suffix(path)
    # By way of memory: matplotlib's writers fail in their own ways where a disk is full.
    buffer = io.BytesIO()
    with drawing_style():
        figure.savefig(buffer, format=path.suffix[1:].lower())
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def check_suffix(path: Path) -> None:
    """Refuse a figure's file name that tells no known format."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f'{path}: unknown kind of figure; name it {", ".join(SUFFIXES)}')


def _draw_episodes(axes: Axes, episodes: EpisodeTable, cost_limit: float) -> None:
    total = int(episodes.is_finite.sum())
    is_safe = episodes.costs <= cost_limit
    # Dots that overlap become smaller and paler, so that their density shows.
    size = float(np.clip(36 * (100 / total) ** 0.5, 7, 36))
    for label, chosen, colour, marker in (
        (f'cost at most {cost_limit:g}', is_safe, BLUE, 'o'),
        (f'cost above {cost_limit:g}', ~is_safe, ORANGE, '^'),
    ):
        chosen = chosen & episodes.is_finite
        axes.scatter(
            episodes.costs[chosen],
            episodes.returns[chosen],
            s=size,
            c=colour,
            marker=marker,
            alpha=0.75 if total < 1000 else 0.45,
            linewidths=0,
            rasterized=total > _MAX_VECTOR_DOTS,
            label=f'{label}: {count(int(chosen.sum()), "episode")}',
        )


def _draw_relabelled(axes: Axes, relabelled: Relabelled) -> None:
    from matplotlib.collections import LineCollection

    label = f'relabelled targets: {len(relabelled):,}'
    has_lines = len(relabelled) <= _MAX_LINES
    if has_lines:
        lines = np.stack([relabelled.sources, relabelled.targets], axis=1)
        axes.add_collection(
            LineCollection(lines, colors=PURPLE, linewidths=0.6, alpha=0.3, zorder=1.5),
        )
        label += ' (lines from episodes)'
    axes.scatter(
        *relabelled.targets.T,
        s=14 if has_lines else 5,
        c=PURPLE,
        marker='x',
        linewidths=0.8 if has_lines else 0.5,
        zorder=2.5,  # on the frontier where that is as high as returns go
        rasterized=len(relabelled) > _MAX_VECTOR_DOTS,
        label=label,
    )


def _draw_frontier(axes: Axes, episodes: EpisodeTable, cost_limit: float) -> None:
    frontier = episodes.frontier
    target = frontier.target_return(cost_limit)
    is_met = frontier.costs[0] <= cost_limit
    axes.axvline(
        cost_limit,
        color=GREY,
        linestyle='--',
        linewidth=1.3,
        label=f'cost limit {cost_limit:g}',
    )
    axes.plot(
        cost_limit,
        target,
        linestyle='none',
        marker='*',
        zorder=3,
        markersize=14,
        markerfacecolor='white',
        markeredgecolor=BLACK,
        label=f'target return {target:.4g}' + ('' if is_met else ' (cheapest episode)'),
    )
    axes.update_datalim([(0.0, target)])  # a cost of 0 is always in view
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.plot(
        [*frontier.costs, right],
        [*frontier.returns, frontier.returns[-1]],
        drawstyle='steps-post',
        color=BLACK,
        linewidth=1.6,
        label='frontier: best return within a cost',
    )
    axes.set_xlim(left, right)


def _draw_histograms(axes: dict[str, Axes], episodes: EpisodeTable, cost_limit: float) -> None:
    costs, returns = episodes.costs[episodes.is_finite], episodes.returns[episodes.is_finite]
    is_safe = costs <= cost_limit
    for name, values, orientation in (
        ('cost', costs, 'vertical'),
        ('return', returns, 'horizontal'),
    ):
        axes[name].hist(
            [values[is_safe], values[~is_safe]],
            bins=np.histogram_bin_edges(values, _HISTOGRAM_BINS),
            orientation=orientation,
            stacked=True,
            color=(BLUE, ORANGE),
        )
    axes['cost'].sharex(axes['scatter'])
    axes['return'].sharey(axes['scatter'])
    for name in ('cost', 'return'):
        axes[name].tick_params(labelbottom=False, labelleft=False, length=0)
        axes[name].grid(visible=False)
    axes['cost'].spines['left'].set_visible(False)
    axes['return'].spines['bottom'].set_visible(False)


def _draw_legend(figure: Figure, axes: Axes) -> None:
    from matplotlib.collections import PathCollection

    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc='outside lower center', ncols=2)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # dots, which may be tiny in the figure
            handle.set(sizes=[30], alpha=1.0)


def _title(episodes: EpisodeTable, name: str) -> str:
    left_out = int((~episodes.is_finite).sum())
    text = (
        f'{name}: {count(len(episodes), "episode")}, '
        f'{count(int(episodes.lengths.sum()), "transition")}'
    )
    return f'{text} ({left_out:,} with NaN left out)' if left_out else text
