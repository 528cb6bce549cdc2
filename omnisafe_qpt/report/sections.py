# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The sections of the page: their figures, tables and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from omnisafe_qpt.data.checks import count
from omnisafe_qpt.report.figures import COST_COLUMN, Picture, Studio, has_numbers
from omnisafe_qpt.report.gather import DatasetView, LimitResult, Run
from omnisafe_qpt.runner import NO_SAFE_TARGET, Guarantee
from omnisafe_qpt.training.eta_search import show_choice


@dataclass(frozen=True)
class Table:
    """Rows of cells, with an explanation below."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str


@dataclass(frozen=True)
class Block:
    """A part of a section; empty fields are not on the page.

    Args:
        title (str): Its heading.
        text (str): Its text.
        problem (str): The reason for missing content.
        large (list[Picture]): Figures, two in a row at most.
        pictures (list[Picture]): Smaller figures, three in a row at most.
        table (Table, optional): A table of numbers.
        facts (list[tuple[str, Any]]): Names and values.
        command (str): A command line to copy.
        details (list[tuple[str, list]]): Names and values that can be expanded.
    """

    title: str = ''
    text: str = ''
    problem: str = ''
    large: list[Picture] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    table: Table | None = None
    facts: list[tuple[str, Any]] = field(default_factory=list)
    command: str = ''
    details: list[tuple[str, list[tuple[str, Any]]]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A part of the page that can be linked to."""

    name: str
    title: str
    text: str
    blocks: list[Block]


def limits_section(
    studio: Studio,
    rows: Sequence[dict[str, Any]],
    averages: Sequence[dict[str, Any]],
) -> Section:
    """Show return and cost at each limit, and the guarantees."""
    blocks = [
        Block(large=studio.limits(rows), table=_limit_table(rows, averages)),
        _guarantee_block(rows),
    ]
    text = (
        'One trained policy at different cost limits. At each limit it is conditioned on a cost '
        'and a return: the choice of the target calibration, or without one the limit itself and '
        'the highest return in the dataset within it.'
    )
    return Section('limits', 'Return and cost against the limit', text, blocks)


def _limit_table(
    rows: Sequence[dict[str, Any]],
    averages: Sequence[dict[str, Any]],
) -> Table:
    has_runs = averages[0]['runs'] > 1
    columns = ('Limit', 'Safe', 'Cost', 'of limit', 'Episodes above', 'Return', 'normalised')
    cells: list[tuple[str, ...]] = [
        (
            f'{average["cost_limit"]:g}',
            NO_SAFE_TARGET if average['runs_without_target'] else _yes(average['safe']),
            _spread(average, 'cost_mean', rows),
            f'{average["normalized_cost"]:.0%}',
            f'{average["unsafe_share"]:.0%}',
            _spread(average, 'return_mean', rows),
            f'{average["normalized_return"]:.3f}',
        )
        for average in averages
    ]
    first = rows[0]
    caption = (
        f'{count(first["episodes"], "episode")} at each limit'
        f'{" of each run" if has_runs else ""}, seeds from {first["seed"]}, '
        f'{count(first["candidates"], "candidate")}, rule {first["rule"]}. '
    )
    caption += (
        f'Mean over {averages[0]["runs"]} runs with its 95 % interval.'
        if has_runs
        else 'Mean ± standard deviation over episodes.'
    )
    caption += (
        ' Safe: an average cost of at most the limit. Normalised: 0 and 1 are the returns '
        f'{first["reference_returns"][0]:.4g} and {first["reference_returns"][1]:.4g}.'
    )
    return Table(columns, cells, caption)


def _yes(is_safe: bool) -> str:
    return 'yes' if is_safe else 'NO'


def _guarantee_block(rows: Sequence[dict[str, Any]]) -> Block:
    """Show the target calibration's guarantees for each limit of each run, if there are any."""
    facts: list[tuple[str, Any]] = []
    for row in rows:
        found = row.get('guarantee')  # not in evaluations of earlier versions
        if found is not None:
            name = f'Limit {row["cost_limit"]:g}'
            if len({each['run'] for each in rows}) > 1:
                name += f', {Path(row["run"]).name}'
            facts += [(name, found['mean_statement']), ('', found['share_statement'])]
    return Block(
        'Target calibration',
        'Guarantees for new episodes, from the episodes of the calibration, which are not those '
        'above.'
        if facts
        else 'There is no calibration for these settings: nothing is guaranteed.',
        facts=facts,
    )


def _spread(average: dict[str, Any], name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Format a mean with its interval over runs, or its deviation over one run's episodes."""
    interval = average[f'{name}_interval']
    if interval is not None:
        return f'{average[name]:.1f} ({interval[0]:.1f} to {interval[1]:.1f})'
    (row,) = (row for row in rows if row['cost_limit'] == average['cost_limit'])
    return f'{row[name]:.1f} ± {row[name.replace("_mean", "_std")]:.1f}'


def episodes_section(studio: Studio, results: Sequence[LimitResult]) -> Section:
    """Show the cumulative cost of the simulated episodes."""
    return Section(
        'episodes',
        'Cost over time',
        'Cumulative cost of an episode; above the dashed line the budget is exceeded.',
        [Block(pictures=studio.costs_over_time(results))],
    )


def choice_section(studio: Studio, results: Sequence[LimitResult]) -> Section:
    """Show the selected candidates, and the critics' predictions."""
    text = (
        'At each step the policy proposes an action for several target returns, and the critics '
        'select among them: the highest return whose expected cost is within the '
        'remaining budget.'
    )
    # The zero-action fallback selects nothing.
    selected = [
        replace(result, rows=[row for row in result.rows if not row['zero_action']])
        for result in results
    ]
    if any(row['candidates'] == 1 for result in results for row in result.rows):
        blocks = [Block(problem='There was one candidate, so no selection.')]
    elif not any(result.traces for result in selected):
        blocks = [Block(problem='Every action was zero, so no selection.')]
    else:
        chosen = [*studio.feasible_share(selected), *studio.chosen_shifts(selected)]
        blocks = [
            Block('Which candidates were chosen', pictures=chosen),
            Block(
                'What the critics expected',
                'Means over the episodes. Expected and realised costs differ where the critics are '
                'wrong, and because they discount later costs.',
                pictures=studio.expected_costs(selected),
            ),
        ]
    return Section('choice', 'How actions were chosen', text, blocks)


def training_section(studio: Studio, runs: Sequence[Run]) -> Section:
    """Show the curves of training."""
    text = 'Losses, values and norms are means over the updates of an epoch, in the units of the '
    text += 'networks; return and cost are of some episodes after each epoch.'
    if len(runs) > 1:
        text += ' Pale lines are the runs.'
    problem = ''
    if not any(has_numbers(run, COST_COLUMN) for run in runs):
        problem = (
            'Return and cost are not shown: no episode was run during training '
            '(train_cfgs:evaluate_epoisodes is 0).'
        )
    blocks = [Block(problem=problem, pictures=studio.training(runs))]
    return Section('training', 'Training', text, blocks)


def dataset_section(studio: Studio, datasets: Sequence[DatasetView]) -> Section:
    """Show the datasets of the runs."""
    return Section('dataset', 'Dataset', '', [_dataset_block(studio, view) for view in datasets])


def _dataset_block(studio: Studio, view: DatasetView) -> Block:
    facts = [('File', view.record['path']), ('SHA-256', view.record['sha256'] or 'not recorded')]
    if view.episodes is None:
        problem = f'Not shown: {view.problem}.'
        return Block(view.record['name'], problem=problem, facts=facts)
    (safe,) = (view.episodes.costs <= view.cost_limit).nonzero()
    facts += [
        ('Episodes', f'{len(view.episodes):,}, {view.episodes.lengths.sum():,} transitions'),
        (f'Within cost {view.cost_limit:g}', f'{len(safe) / len(view.episodes):.0%} of episodes'),
    ]
    if view.held_out:
        facts.append(('Held out of training', f'{view.held_out:,} more episodes, not drawn'))
    if view.relabelled is not None:
        facts.append(('Relabelled', f'{len(view.relabelled):,} more episodes by augmentation'))
    problem = '' if view.problem is None else f'Augmentation is not drawn: {view.problem}.'
    large = [studio.dataset(view)]
    return Block(view.record['name'], problem=problem, large=large, facts=facts)


def record_section(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> Section:
    """Show each run's settings and versions, and differences between runs."""
    blocks = [_run_block(run, rows) for run in runs]
    if len(runs) > 1:
        blocks.insert(0, Block('What differs between the runs', table=_difference_table(runs)))
    return Section('record', 'Where it comes from', '', blocks)


def _run_block(run: Run, rows: Sequence[dict[str, Any]]) -> Block:
    used = sorted({row['checkpoint'] for row in rows if Path(row['run']).name == run.folder.name})
    speed = run.progress['Time/UpdatesPerSecond'].mean()
    facts = [
        ('Folder', run.folder),
        ('Seed', run.seed),
        ('Updates', f'{run.updates:,} of {run.total_updates:,}, {speed:.3g} a second'),
        ('Time', timedelta(seconds=round(run.seconds))),
        ('Hardware', _hardware(run)),
        ('Checkpoints', _checkpoints(run)),
    ]
    if 'etas' in run.spec:
        facts.append(('Etas', show_choice(run.spec['etas'])))
    if used:
        facts.append(('Evaluated', ', '.join(used)))
    found = _guarantee(run)
    if found is not None:
        facts += [('Guarantee', found.mean_statement), ('', found.share_statement)]
    facts.append(('Dataset', f'{run.dataset["path"]} (SHA-256 {run.dataset["sha256"]})'))
    return Block(
        title=run.folder.name,
        facts=facts,
        command=run.command,
        details=[
            ('All settings', list(run.options.items())),
            ('Versions', list(run.spec.get('versions', {}).items())),
        ],
    )


def _guarantee(run: Run) -> Guarantee | None:
    """Return the last checkpoint's calibration guarantee for the run's own limit."""
    if run.spec.get('calibration') is None:
        return None
    from omnisafe_qpt.evaluation.deployment import guarantee_of
    from omnisafe_qpt.qpt.config import DeploymentConfig

    return guarantee_of(run.spec, DeploymentConfig(**run.spec['deployment']))


def _hardware(run: Run) -> str:
    machine = run.spec.get('hardware')
    if machine is None:
        return f'device {run.config["train_cfgs"]["device"]}; the machine was not recorded'
    text = (
        f'{machine["processor"] or machine["machine"]}, {count(machine["cores"], "core")}, '
        f'{count(machine["threads"], "thread")}, {machine["memory_bytes"] / 2**30:.0f} GiB'
    )
    if 'card' in machine:
        text += f'; {machine["card"]}, {machine["card_memory_bytes"] / 2**30:.0f} GiB'
    return text


def _checkpoints(run: Run) -> str:
    if not run.checkpoints:
        return 'none yet'
    last = run.checkpoints[max(run.checkpoints)]
    text = f'{len(run.checkpoints)} in {last.parent.name}, the last is {last.name}'
    if run.best is None:
        return text
    return f'{text}, the best is {Path(run.best["checkpoint"]).name}. {run.best["rule"]}'


def _difference_table(runs: Sequence[Run]) -> Table:
    paths = dict.fromkeys(path for run in runs for path in run.options)
    missing = object()
    rows = []
    for path in paths:
        values = [run.options.get(path, missing) for run in runs]
        if any(value != values[0] for value in values):
            shown = ['not there' if value is missing else str(value) for value in values]
            rows.append((path, *shown))
    columns = ('Option', *(run.folder.name for run in runs))
    return Table(columns, rows, '' if rows else 'No option differs.')
