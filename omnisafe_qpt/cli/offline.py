# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt evaluate --offline``: checks of trained runs on a dataset."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import (
    deployment_options,
    print_table,
    result_console,
    result_table,
    say,
    write_json,
)
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


_SUMS = {
    'reward_discounted': 'reward to the end',
    'reward_completed': 'reward and beyond',
    'cost_discounted': 'cost to the end',
    'cost_completed': 'cost and beyond',
    'cost_to_go': 'cost, plain',
}
_UNDEFINED = '-'


def run_offline(options: argparse.Namespace) -> None:
    """Check each run on the dataset ``options.offline`` and print the results.

    Args:
        options (argparse.Namespace): Options of ``omnisafe-qpt evaluate``.
    """
    for name in ('summary', 'video'):
        if getattr(options, name) is not None:
            raise UserError(f'--{name} needs simulated episodes; leave out --offline or --{name}')
    from omnisafe_qpt.evaluation.offline import evaluate_offline
    from omnisafe_qpt.plots import check_suffix, plot_calibrations
    from omnisafe_qpt.progress import ProgressReporter

    if options.plot is not None:
        check_suffix(options.plot)
    reports = []
    for run in options.runs:
        progress = ProgressReporter('Checking', 1, unit='windows')
        with progress.shown():
            report = evaluate_offline(
                run,
                options.offline,
                options.cost_limit,
                options.target_return,
                seed=options.seed,
                on_progress=progress.update,
                **deployment_options(options),
            )
        if report['dataset_warning']:
            say(report['dataset_warning'], file=sys.stderr)
        report['estimate'] = None if options.no_estimate else _estimate(run, options)
        reports.append(report)
    # Before the tables are printed, so that the files exist even if the pipe is closed.
    if options.json is not None:
        write_json(reports, options.json)
    has_critics = any(report['calibrations'] is not None for report in reports)
    if options.plot is not None and has_critics:
        plot_calibrations(reports, options.plot)
    for report in reports:
        _print_report(report)
    if options.plot is not None and not has_critics:
        raise UserError(f'--plot {options.plot}: the run trained no critics, nothing to plot')


def _estimate(run: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Estimate a run's return and cost, with a progress bar for each phase."""
    from omnisafe_qpt.evaluation.estimates import estimate_run
    from omnisafe_qpt.evaluation.off_policy.estimate import TooFewEpisodes
    from omnisafe_qpt.progress import phases

    with phases() as show:
        try:
            return estimate_run(
                run,
                options.offline,
                options.cost_limit,
                seed=options.seed,
                exogenous=options.exogenous,
                on_progress=show,
                **deployment_options(options),
            )
        except TooFewEpisodes as error:
            say(f'No estimate: {error}', file=sys.stderr)
            return None


_ESTIMATE_NOTE = (
    'Model rollouts in dynamics learned from these data, not measured in the environment, no '
    'guarantee. In brackets: 90 % intervals. Choice: the target cost with the highest return whose '
    'cost interval is within the limit, by the model.'
)


def _estimate_table(estimate: dict[str, Any]) -> Table:
    table = result_table(
        'Estimated return and cost of an episode',
        '',
        ('Limit', 'Target', 'Return', 'Cost', 'Verdict', 'Choice'),
        first_is_text=True,
    )
    for row, choice in zip(estimate['limits'], estimate['choices']):
        table.add_row(
            f'{row["cost_limit"]:g}',
            'zero action' if row['target_return'] is None else f'{row["target_cost"]:g}',
            _with_interval(row['return_mean'], row['return_interval']),
            _with_interval(row['cost_mean'], row['cost_interval']),
            row['verdict'],
            _UNDEFINED if choice is None else f'{choice["target_cost"]:g}',
        )
    return table


def _with_interval(mean: float, interval: list[float] | None) -> str:
    if interval is None:
        return f'{mean:.3g} ({_UNDEFINED})'
    return f'{mean:.3g} ({interval[0]:.3g}, {interval[1]:.3g})'


def _print_report(report: dict[str, Any]) -> None:
    console = result_console()
    console.print(f'{report["run"]}, {report["checkpoint"]}', soft_wrap=True)
    console.print(f'Dataset {report["dataset"]}', soft_wrap=True)
    console.print(
        f'Data    {report["data"]}: {report["episodes"]:,} episodes, '
        f'{report["transitions"]:,} transitions',
        style='bold',
    )
    if report['estimate'] is not None:
        _print_estimate(console, report['estimate'])
    _print_table(console, _action_table(report), _ACTION_NOTE)
    if report['calibrations'] is None:
        console.print('\nThe run trained no critics: no calibration and no selection.')
        return
    _print_table(console, _critic_table(report), _critic_note(report))
    _print_table(console, _bin_table(report), _BIN_NOTE)
    if report['candidates'] is None:
        console.print('\nThe policy has one candidate: no selection.')
        return
    _print_table(console, _candidate_table(report), _CANDIDATE_NOTE)


def _print_estimate(console: Console, estimate: dict[str, Any]) -> None:
    _print_table(console, _estimate_table(estimate), _ESTIMATE_NOTE)
    test = estimate['test']
    console.print(
        f'On {test["episodes"]} held-out episodes the model missed the cost by '
        f'{_number(test["costs"]["error_absolute"])} and the return by '
        f'{_number(test["returns"]["error_absolute"])} on average (their means: '
        f'{_number(test["costs"]["mean"])} and {_number(test["returns"]["mean"])}).'
    )
    reasons = {f'{row["verdict"]}: {row["reason"]}' for row in estimate['limits'] if row['reason']}
    for reason in sorted(reasons):
        console.print(reason[0].upper() + reason[1:])


def _print_table(console: Console, table: Table, note: str) -> None:
    # Not the table's caption, which would be as narrow as the table.
    console.print()
    print_table(table, console)
    console.print(note, style='italic dim')


_ACTION_NOTE = (
    "The policy is conditioned on the data's targets. Mean action: that of these data. "
    'Ratio: 0 is perfect, 1 is no better than the mean action.'
)


def _action_table(report: dict[str, Any]) -> Table:
    table = result_table(
        'Actions: mean squared error',
        '',
        ('Episodes', 'Number', 'Steps', 'Policy', 'Mean action', 'Ratio'),
        first_is_text=True,
    )
    for row in report['action_errors']:
        name = row['episodes']
        if row['cost_limit'] is not None:
            name += f' cost {row["cost_limit"]:g}'
        error, constant = row['error'], row['mean_action_error']
        table.add_row(
            name,
            f'{row["num_episodes"]:,}',
            f'{row["num_steps"]:,}',
            _number(error),
            _number(constant),
            f'{error / constant:.3f}' if constant else _UNDEFINED,
        )
    return table


def _critic_table(report: dict[str, Any]) -> Table:
    table = result_table(
        "Critics: predicted and realised values of the data's actions",
        '',
        ('Sum', 'Predicted', 'Realised', 'Bias', 'RMSE', 'Corr.', 'Rank corr.'),
        first_is_text=True,
    )
    for name, row in report['calibrations'].items():
        table.add_row(
            _SUMS[name],
            *(_number(row[key]) for key in ('predicted_mean', 'realised_mean', 'bias', 'rmse')),
            *(
                _UNDEFINED if row[key] is None else f'{row[key]:.3f}'
                for key in ('correlation', 'rank_correlation')
            ),
        )
    return table


def _critic_note(report: dict[str, Any]) -> str:
    texts = [f'Sums are discounted by {report["gamma"]:g}; the plain one, like a budget, is not.']
    cut = report['time_limit_episodes']
    if cut:
        texts += [
            f'A time limit truncated {cut:,} of {report["episodes"]:,} episodes.',
            'To the end: without the steps after it,',
            f'{report["uncounted_weight"]:.0%} of the discounted future.',
            "And beyond: with the critic's own value of the last state.",
        ]
    if any(row['rank_correlation'] is None for row in report['calibrations'].values()):
        texts.append(f'{_UNDEFINED}: not defined, as all values on one side are equal.')
    return ' '.join(texts)


_BIN_NOTE = 'Means over bins of equal size, from low to high Q^r, and from low to high Q^c.'


def _bin_table(report: dict[str, Any]) -> Table:
    found = report['calibrations']
    headings, keys = [], []
    for name, heading in {
        'reward_discounted': 'reward',
        'reward_completed': 'beyond',
        'cost_discounted': 'cost',
        'cost_completed': 'beyond',
        'cost_to_go': 'plain',
    }.items():
        if name.endswith('discounted'):
            headings.append('Q^r' if name.startswith('reward') else 'Q^c')
            keys.append((name, 'predicted'))
        if name in found:
            headings.append(heading)
            keys.append((name, 'realised'))
    table = result_table('Calibration', '', ('Bin', *headings), first_is_text=True)
    for number in range(len(found['cost_to_go']['bins'])):
        cells = [_number(found[name]['bins'][number][key]) for name, key in keys]
        table.add_row(str(number + 1), *cells)
    return table


_CANDIDATE_NOTE = (
    "Budget at a state: the limit minus the episode's cost so far in the data. Spent: it is "
    'below 0. Infeasible: no feasible candidate. Changed: a shifted candidate is selected.'
)


def _candidate_table(report: dict[str, Any]) -> Table:
    first = report['candidates'][0]
    table = result_table(
        f'Choice: {first["candidates"]} candidates, {first["rule"]} rule, '
        f'{first["num_states"]:,} states',
        '',
        ('Limit', 'Target', 'Spent', 'Infeasible', 'of unspent', 'Changed'),
        first_is_text=True,
    )
    for row in report['candidates']:
        within = row['infeasible_within_share']
        table.add_row(
            f'{row["cost_limit"]:g}',
            f'{row["target_return"]:.1f}',
            f'{row["overspent_share"]:.1%}',
            f'{row["infeasible_share"]:.1%}',
            _UNDEFINED if within is None else f'{within:.1%}',
            f'{row["changed_share"]:.1%}',
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return _UNDEFINED
    return f'{value:.0f}' if abs(value) >= 1e3 else f'{value:.4g}'
