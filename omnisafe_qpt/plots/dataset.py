# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A dataset's episodes: return against cost, with what augmentation adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.checks import count
from omnisafe_qpt.data.frontier import Frontier
from omnisafe_qpt.data.scan import EpisodeTable
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.plots.style import BLACK, BLUE, LIMIT_LINE, ORANGE, PURPLE, drawing_style


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_HISTOGRAM_BINS = 40
# More relabelled episodes than this have no lines, which would hide the dots.
_MAX_LINES = 300
# More dots than this are one picture in a PDF or SVG, which would be slow to show otherwise.
_MAX_VECTOR_DOTS = 2000


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
    frontier = episodes.frontier
    if frontier is None:
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
        _draw_frontier(axes['scatter'], frontier, cost_limit)
        _draw_histograms(axes, episodes, cost_limit)
        axes['scatter'].set(xlabel='cost of an episode', ylabel='return of an episode')
        figure.suptitle(_title(episodes, name), fontsize=matplotlib.rcParams['axes.titlesize'])
        _draw_legend(figure, axes['scatter'])
    return figure


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
    costs, returns = relabelled.targets.T
    axes.scatter(
        costs,
        returns,
        s=14 if has_lines else 5,
        c=PURPLE,
        marker='x',
        linewidths=0.8 if has_lines else 0.5,
        zorder=2.5,  # on the frontier where that is as high as returns go
        rasterized=len(relabelled) > _MAX_VECTOR_DOTS,
        label=label,
    )


def _draw_frontier(axes: Axes, frontier: Frontier, cost_limit: float) -> None:
    target = frontier.target_return(cost_limit)
    is_met = frontier.costs[0] <= cost_limit
    axes.axvline(cost_limit, **LIMIT_LINE, label=f'cost limit {cost_limit:g}')
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
    for name, values in (('cost', costs), ('return', returns)):
        axes[name].hist(
            [values[is_safe], values[~is_safe]],
            bins=np.histogram_bin_edges(values, _HISTOGRAM_BINS).tolist(),
            orientation='vertical' if name == 'cost' else 'horizontal',
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
