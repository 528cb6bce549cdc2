# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisafe_qpt.plots import (
    BLACK,
    BLUE,
    GREY,
    LIMIT_LINE,
    ORANGE,
    PURPLE,
    draw_limits,
    drawing_style,
    plot_return_cost,
)
from omnisafe_qpt.report.gather import DatasetView, LimitResult, Run
from omnisafe_qpt.report.svg import SVG_STYLE, to_svg


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Inches. A panel is as wide as a phone, so that its text is neither shrunk there nor, three in a
# row, on a desk; other figures have more room there.
_PANEL = (4.4, 3.0)
_MEDIUM = (5.2, 3.8)
_LARGE = (5.4, 5.8)

# What tells the lines of one panel apart, also in black and white.
_LINES = tuple(zip((BLUE, ORANGE, PURPLE, BLACK, GREY), ('-', '--', '-.', ':', (0, (5, 1)))))
# Fewer points than this are marked, as a line of one would not be seen.
_MARKED_POINTS = 30
# A panel of losses or norms has a logarithmic scale where they span more than this factor.
_LOG_SPAN = 10.0
_SAMPLE_EPISODES = 20
_BINS = 31
# Moments of an episode at which steps are put together.
_MOMENTS = 50


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Args:
        svg (str): The ``svg`` element.
        caption (str): What it shows, for those who see it.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Panel:
    """Columns of ``progress.csv`` that are drawn together.

    Args:
        title (str): Of the panel.
        columns (dict[str, str]): What each column is called.
        is_log (bool, optional): Whether a logarithmic scale may help. Defaults to False.
    """

    title: str
    columns: dict[str, str]
    is_log: bool = False


COST_COLUMN = 'Metrics/EpCost'
PANELS = (
    Panel('Return of an episode', {'Metrics/EpRet': 'return'}),
    Panel('Cost of an episode', {COST_COLUMN: 'cost'}),
    Panel('Steps without a feasible candidate, share', {'Metrics/InfeasibleShare': 'share'}),
    Panel('Imitation loss', {'Loss/Loss_imitation': 'squared error'}, is_log=True),
    Panel(
        "Terms of the policy's loss",
        {'Loss/Loss_reward_penalty': 'reward term', 'Loss/Loss_cost_penalty': 'cost term'},
    ),
    Panel(
        'Critic losses',
        {'Loss/Loss_reward_critic': 'reward', 'Loss/Loss_cost_critic': 'cost'},
        is_log=True,
    ),
    Panel(
        'Reward values',
        {
            'Qr/data_Qr': "data's actions",
            'Qr/current_Qr': "policy's actions",
            'Qr/target_Qr': 'target',
        },
    ),
    Panel(
        'Cost values',
        {
            'Qc/data_Qc': "data's actions",
            'Qc/current_Qc': "policy's actions",
            'Qc/target_Qc': 'target',
        },
    ),
    Panel(
        'Norms of gradients, before the clip',
        {'Grad/actor': 'policy', 'Grad/critic': 'critics'},
        is_log=True,
    ),
)


@contextmanager
def open_studio() -> Iterator[Studio]:
    """Give what draws the figures of one page; meanwhile matplotlib has their style."""
    with drawing_style(SVG_STYLE):
        yield Studio()


class Studio:
    """Draws the figures of one page; their inner names differ from each other's."""

    def __init__(self) -> None:
        """Initialize an instance of :class:`Studio`."""
        self._numbers = itertools.count(1)

    def training(self, runs: Sequence[Run]) -> list[Picture]:
        """Draw training curves, one picture for each panel of which a run has a number.

        A column may hold no number: that of the return does not where no episode was run.
        """
        return [
            self._training_panel(panel, runs)
            for panel in PANELS
            if any(has_numbers(run, column) for run in runs for column in panel.columns)
        ]

    def limits(self, rows: Sequence[dict[str, Any]]) -> list[Picture]:
        """Draw return and cost against the limit, the paper's Figure 2."""
        returns, return_axes = _panel('', '', '', _MEDIUM)
        costs, cost_axes = _panel('', '', '', _MEDIUM)
        draw_limits(return_axes, cost_axes, rows)
        return_axes.set(title='', xlabel='cost limit')
        return [
            self._picture(
                returns,
                'Return on the normalised scale, of the policy and as it was asked for.',
            ),
            self._picture(costs, 'Cost of an episode. Below the dashed diagonal it is safe.'),
        ]

    def dataset(self, view: DatasetView) -> Picture:
        """Draw a dataset's returns against its costs; the view has episodes."""
        assert view.episodes is not None
        figure = plot_return_cost(
            view.episodes,
            view.record['name'],
            view.cost_limit,
            view.relabelled,
        )
        caption = 'Each dot is an episode of the dataset. The line is the best return within a cost'
        if view.relabelled is not None and len(view.relabelled):
            caption += ', crosses are targets that augmentation adds'
        caption += '; the star is the best within the limit of training.'
        figure.set_size_inches(_LARGE)
        _stack_legend(figure)
        return self._picture(figure, caption)

    def costs_over_time(self, results: Sequence[LimitResult]) -> list[Picture]:
        """Draw how the cost of some episodes grows towards the budget, a picture for each limit."""
        return [self._costs_at(result) for result in results if result.traces]

    def chosen_shifts(self, results: Sequence[LimitResult]) -> list[Picture]:
        """Draw by how much the chosen candidates' targets were shifted, at each limit."""
        traced = [result for result in results if result.traces]
        if not traced:
            return []
        shifts = [_joined(result, 'shift') for result in traced]
        edges = np.histogram_bin_edges(np.concatenate(shifts), _BINS)
        return [self._shifts_at(result, values, edges) for result, values in zip(traced, shifts)]

    def expected_costs(self, results: Sequence[LimitResult]) -> list[Picture]:
        """Draw the cost that the critics expected beside what came and what was left for it."""
        return [self._expectation_at(result) for result in results if result.traces]

    def feasible_share(self, results: Sequence[LimitResult]) -> list[Picture]:
        """Draw at how many of the steps a candidate was feasible, over the episode."""
        traced = [result for result in results if result.traces]
        if not traced:
            return []
        figure, axes = _panel('Steps at which a candidate was feasible', 'step', 'share')
        for result, (colour, dashes) in zip(traced, itertools.cycle(_LINES)):
            axes.plot(
                *_mean_over_time([trace['feasible'] for trace in result.traces]),
                color=colour,
                linestyle=dashes,
                label=f'limit {result.cost_limit:g}',
            )
        axes.set_ylim(-0.03, 1.03)
        axes.legend()
        caption = 'Where no candidate fits the budget, the one of least cost value is taken.'
        return [self._picture(figure, caption)]

    def _training_panel(self, panel: Panel, runs: Sequence[Run]) -> Picture:
        figure, axes = _panel(panel.title, 'updates', '')
        drawn = []
        for (column, label), (colour, dashes) in zip(panel.columns.items(), _LINES):
            curves = [
                (run.progress['TotalSteps'], run.progress[column])
                for run in runs
                if has_numbers(run, column)
            ]
            if curves:
                _draw_curves(axes, curves, label, colour, dashes)
                drawn += [values for _, values in curves]
        if panel.is_log and _spans_decades(np.concatenate(drawn)):
            _make_logarithmic(axes)
        if COST_COLUMN in panel.columns:
            for limit in sorted({run.cost_limit for run in runs}):
                _draw_limit(axes, limit, 'limit')
        if len(panel.columns) > 1 or COST_COLUMN in panel.columns:
            axes.legend()
        return self._picture(figure, _last_values(panel, runs))

    def _costs_at(self, result: LimitResult) -> Picture:
        figure, axes = _panel(f'Cost limit {result.cost_limit:g}', 'step', 'cost so far')
        traces = _sample(result)
        over = 0
        for trace in traces:
            spent = np.cumsum([0.0, *trace['costs']])
            is_over = spent[-1] > result.cost_limit
            over += is_over
            axes.plot(spent, color=ORANGE if is_over else BLUE, linewidth=1.0, alpha=0.7)
        _draw_limit(axes, result.cost_limit, 'budget')
        axes.set_ylim(0.0, max(axes.get_ylim()[1], 1.15 * result.cost_limit))
        axes.legend()
        caption = f'{len(traces)} of {result.episodes} episodes, {over} of them over the budget.'
        return self._picture(figure, caption)

    def _shifts_at(
        self,
        result: LimitResult,
        shifts: np.ndarray,
        edges: np.ndarray,
    ) -> Picture:
        figure, axes = _panel(
            f'Cost limit {result.cost_limit:g}',
            'shift of the return asked for',
            'share of steps',
        )
        axes.hist(
            shifts, bins=edges.tolist(), weights=np.full(len(shifts), 1 / len(shifts)), color=BLUE
        )
        axes.axvline(0.0, color=GREY, linestyle='--', linewidth=1.1)
        chosen = _joined(result, 'chosen')
        caption = (
            f'The unshifted candidate was chosen at {(chosen == 0).mean():.0%} of steps, one that '
            f'asks for more at {(shifts > 0).mean():.0%}, for less at {(shifts < 0).mean():.0%}.'
        )
        return self._picture(figure, caption)

    def _expectation_at(self, result: LimitResult) -> Picture:
        figure, axes = _panel(f'Cost limit {result.cost_limit:g}', 'step', 'cost still to come')
        costs = [np.asarray(trace['costs']) for trace in result.traces]
        curves = {
            'left of the budget': [result.cost_limit - each.cumsum() + each for each in costs],
            'expected by the critics': [trace['cost_value'] for trace in result.traces],
            'what came': [each[::-1].cumsum()[::-1] for each in costs],
        }
        for (label, episodes), (colour, dashes) in zip(curves.items(), _LINES):
            axes.plot(*_mean_over_time(episodes), color=colour, linestyle=dashes, label=label)
        axes.legend()
        first = {label: np.mean([each[0] for each in steps]) for label, steps in curves.items()}
        caption = 'In the first step: ' + ', '.join(
            f'{label} {value:.1f}' for label, value in first.items()
        )
        return self._picture(figure, f'{caption}.')

    def _picture(self, figure: Figure, caption: str) -> Picture:
        return Picture(to_svg(figure, f'figure-{next(self._numbers)}-', caption), caption)


def _panel(
    title: str,
    xlabel: str,
    ylabel: str,
    size: tuple[float, float] = _PANEL,
) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot()
    axes.set_title(title, loc='left')
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def has_numbers(run: Run, column: str) -> bool:
    """Whether ``progress.csv`` has a number in a column, in any epoch."""
    return bool(np.isfinite(run.progress.get(column, np.nan)).any())


def _draw_curves(
    axes: Axes,
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    label: str,
    colour: str,
    dashes: object,
) -> None:
    """Draw a column of one run, or of several in pale with their mean."""
    if len(curves) > 1:
        for steps, values in curves:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.4)
        curves = [_mean_curve(curves)]
    steps, values = curves[0]
    marker = 'o' if len(steps) <= _MARKED_POINTS else None
    axes.plot(
        steps,
        values,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=3,
        label=label,
    )


def _mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over runs at the updates at which all of them have a value."""
    common = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    values = [dict(zip(steps.tolist(), column.tolist())) for steps, column in curves]
    means = [np.mean([column[step] for column in values]) for step in common]
    return np.array(common), np.array(means)


def _spans_decades(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and 0 < _LOG_SPAN * finite.min() < finite.max()


def _make_logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_limit(axes: Axes, limit: float, label: str) -> None:
    axes.axhline(limit, **LIMIT_LINE, label=f'{label} {limit:g}')


def _last_values(panel: Panel, runs: Sequence[Run]) -> str:
    """Tell in words where the curves end."""
    parts = []
    for column, label in panel.columns.items():
        values = [run.progress[column][-1] for run in runs if has_numbers(run, column)]
        if np.isfinite(values).any():
            parts.append(f'{label} {np.nanmean(values):.4g}')
    mean = ' (mean over runs)' if len(runs) > 1 else ''
    return f'At the end: {", ".join(parts)}{mean}.' if parts else 'No value at the end.'


def _sample(result: LimitResult) -> list[dict[str, list[float]]]:
    """Take some episodes, the first ones of each run."""
    per_run = [row.get('traces') or [] for row in result.rows]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*per_run))
    return [trace for trace in in_turn if trace is not None][:_SAMPLE_EPISODES]


def _joined(result: LimitResult, key: str) -> np.ndarray:
    return np.concatenate([np.asarray(trace[key], dtype=np.float64) for trace in result.traces])


def _mean_over_time(episodes: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return moments of the episode and the mean of the steps around them.

    Episodes that have ended by then do not count.
    """
    longest = max(len(episode) for episode in episodes)
    steps = np.concatenate([np.arange(len(episode)) for episode in episodes])
    edges = np.linspace(0, longest, min(_MOMENTS, longest) + 1)
    sums, _ = np.histogram(steps, edges, weights=np.concatenate(episodes).astype(np.float64))
    counted, _ = np.histogram(steps, edges)
    return (edges[:-1] + edges[1:]) / 2, sums / counted


def _stack_legend(figure: Figure) -> None:
    """Put the entries of a figure's legend below each other, for which a phone is wide enough."""
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    handles = [handle for handle in legend.legend_handles if handle is not None]
    legend.remove()
    figure.legend(handles, texts, loc='outside lower left', frameon=False)
