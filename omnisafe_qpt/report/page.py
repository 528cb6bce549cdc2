# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The page: its header, and the HTML around header and sections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisafe_qpt.data.checks import count
from omnisafe_qpt.evaluation.averages import average_runs
from omnisafe_qpt.report.figures import open_studio
from omnisafe_qpt.report.gather import DatasetView, Run, by_limit
from omnisafe_qpt.report.sections import (
    choice_section,
    dataset_section,
    episodes_section,
    limits_section,
    record_section,
    training_section,
)
from omnisafe_qpt.report.templates import open_template
from omnisafe_qpt.runner import NO_SAFE_TARGET
from omnisafe_qpt.version import __version__


TEMPLATE = 'page.html'


@dataclass(frozen=True)
class Verdict:
    """Verdict on the policy's safety at a limit, as text."""

    is_safe: bool
    title: str
    text: str


def make_page(
    runs: Sequence[Run],
    rows: Sequence[dict[str, Any]],
    datasets: Sequence[DatasetView],
) -> str:
    """Write the page.

    Args:
        runs (Sequence[Run]): The runs.
        rows (Sequence[dict[str, Any]]): Their evaluation at each limit; none if there is none.
        datasets (Sequence[DatasetView]): Their datasets.

    Returns:
        The self-contained HTML.
    """
    results = by_limit(rows)
    averages = sorted(average_runs(rows), key=lambda average: average['cost_limit'])
    has_traces = any(result.traces for result in results)
    with open_studio() as studio:
        sections = [
            limits_section(studio, rows, averages) if rows else None,
            episodes_section(studio, results) if has_traces else None,
            choice_section(studio, results) if has_traces else None,
            training_section(studio, runs),
            dataset_section(studio, datasets),
            record_section(runs, rows),
        ]
    verdicts = [_verdict(average) for average in averages]
    # Names, paths and settings come from the user's files: they are escaped.
    return open_template('omnisafe_qpt.report', TEMPLATE, escapes=True).render(
        title=f'{runs[0].algo} on {runs[0].env_id}',
        subtitle=_subtitle(runs),
        headline=_headline(verdicts) if verdicts else _headline_of_training(runs),
        verdicts=verdicts,
        notes=[*_notes(runs, rows), *([] if has_traces else [_left_out(rows)])],
        sections=[section for section in sections if section is not None],
        footer=f'Written by omnisafe-qpt {__version__} on {time.strftime("%Y-%m-%d %H:%M")}.',
    )


# Header --------------------------------------------------------------------------


def _subtitle(runs: Sequence[Run]) -> str:
    names = sorted({run.dataset['name'] for run in runs})
    what = f'dataset {names[0]}' if len(names) == 1 else f'datasets {", ".join(names)}'
    if len(runs) == 1:
        return f'One run, seed {runs[0].seed}, {what}, {runs[0].updates:,} updates'
    seeds = ', '.join(str(run.seed) for run in runs)
    return f'{len(runs)} runs, seeds {seeds}, {what}'


def _verdict(average: dict[str, Any]) -> Verdict:
    is_safe, runs, episodes = average['safe'], average['runs'], average['episodes']
    without_target = average['runs_without_target']
    over = round(average['unsafe_share'] * episodes)
    text = (
        f'Episodes cost {average["cost_mean"]:.1f} on average, '
        f'{average["normalized_cost"]:.0%} of the limit; {over} of {count(episodes, "episode")} '
        f'cost more than it. Return {average["return_mean"]:.1f}, '
        f'{average["normalized_return"]:.2f} on the normalised scale.'
    )
    if runs > 1:
        text += f' Safe in {average["safe_runs"]} of {runs} runs.'
    title = 'safe' if is_safe else 'NOT safe'
    if without_target:
        text += ' The target calibration found no safe target'
        text += f' in {without_target} of {runs} runs' if runs > 1 else ''
        text += ': every action was zero there.'
        is_safe, title = False, NO_SAFE_TARGET
    return Verdict(is_safe, f'Cost limit {average["cost_limit"]:g}: {title}', text)


def _headline(verdicts: Sequence[Verdict]) -> str:
    safe = sum(verdict.is_safe for verdict in verdicts)
    if len(verdicts) == 1:
        return f'{"Safe" if safe else "Not safe"} at the cost limit that was tried.'
    if safe == len(verdicts):
        return f'Safe at all {len(verdicts)} cost limits.'
    if not safe:
        return f'Not safe at any of {len(verdicts)} cost limits.'
    return f'Safe at {safe} of {len(verdicts)} cost limits.'


def _headline_of_training(runs: Sequence[Run]) -> str:
    """Return the verdict of the last evaluation in training, if there is no other."""
    # A run without episodes has no columns for them.
    columns = [f'Metrics/{name}' for name in ('EpCost', 'EpRet', 'NormCost')]
    found = [[run.progress.get(name, [np.nan])[-1] for name in columns] for run in runs]
    if not np.isfinite(found).all():
        return 'Not evaluated yet.'
    cost, episode_return, share = np.mean(found, axis=0)
    verdict = 'Safe' if share <= 1.0 else 'Not safe'
    limits = ', '.join(f'{limit:g}' for limit in sorted({run.cost_limit for run in runs}))
    return (
        f'{verdict} in the last evaluation of training: cost {cost:.1f} at limit {limits}, '
        f'return {episode_return:.1f}.'
    )


def _notes(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = [
        f'Training of {run.folder.name} is not finished: {run.updates:,} of '
        f'{run.total_updates:,} updates are done.'
        for run in runs
        if run.updates < run.total_updates
    ]
    few = min((row['episodes'] for row in rows), default=10)
    if few < 10:
        notes.append(
            f'{count(few, "episode")} at each limit say little: the means are uncertain.',
        )
    return notes


def _left_out(rows: Sequence[dict[str, Any]]) -> str:
    if rows:
        return (
            'The results were simulated before. How cost grows over an episode and how actions '
            'were chosen needs simulated episodes: make the report without --evaluation.'
        )
    return (
        'Nothing was simulated. What the policy reaches at each cost limit and how actions were '
        'chosen needs simulated episodes: make the report without --no-simulator.'
    )
