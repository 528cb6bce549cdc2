# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt data info``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import (
    add_command,
    check_writable,
    print_table,
    result_console,
    result_table,
    write_json,
)


if TYPE_CHECKING:
    from rich.table import Table

    from omnisafe_qpt.data.summary import DatasetSummary


# Long metadata, such as every episode's controller, is shortened to one line.
_ATTRIBUTE_WIDTH = 60
# More dimensions than this are not listed.
_MAX_DIMENSIONS = 32


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'info',
        'summarise a dataset: content, best return within cost limits, and faults',
        'omnisafe-qpt data info CarButton1 --cost-limit 25',
    )
    add_dataset(parser)
    parser.add_argument(
        '--task',
        metavar='NAME',
        help="DSRL task to check against, by its name or environment id (default: the file's own)",
    )
    parser.add_argument(
        '--cost-limit',
        type=limit,
        action='append',
        default=[],
        metavar='X',
        help='undiscounted cost of an episode, besides 5, 10, 20 and 40; may be given several '
        'times',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write the summary to this file')
    parser.set_defaults(run_command=_run)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that names a dataset."""
    parser.add_argument(
        'dataset',
        metavar='FILE|TASK',
        help='an .hdf5 or .npz file; a DSRL task, for its file in the cache; sample, '
        'the bundled one of BallCircle; or sample:CarButton1',
    )


def limit(text: str) -> float:
    """Parse a cost limit: a finite number, 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text} is not a cost limit; it must be 0 or more')
    return value


def _run(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_writable(options.json)
    from omnisafe_qpt.data.resolve import find_dataset_file
    from omnisafe_qpt.data.summary import COST_LIMITS, summarize

    limits = sorted({*COST_LIMITS, *options.cost_limit})
    path = find_dataset_file(options.dataset)
    with reading(path) as on_progress:
        summary = summarize(path, options.task, limits, on_progress)
    _print_summary(summary)
    if options.json is not None:
        write_json(summary.to_dict(), options.json)


@contextmanager
def reading(path: Path, label: str = 'Reading') -> Iterator[Callable[[int, int], None]]:
    """Show the progress of reading a file on stderr, if that is a terminal.

    Args:
        path (Path): The file.
        label (str, optional): Label of the bar. Defaults to ``'Reading'``.

    Yields:
        A callback for the amount read and the total.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn('{task.description}'), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(f'{label} {path.name}', total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_summary(summary: DatasetSummary) -> None:
    console = result_console()
    print_table(_overview(summary), console)
    for table in (_quantile_table(summary), _limit_table(summary), _range_table(summary)):
        console.print()
        print_table(table, console)
    if summary.findings:
        console.print()
        print_table(_finding_table(summary), console)
    console.print()
    console.print(_verdict(summary), style='bold')


def _overview(summary: DatasetSummary) -> Table:
    from rich.filesize import decimal
    from rich.table import Table

    rows = {
        'File': str(summary.path),
        'Size': decimal(summary.size),
        'SHA-256': summary.sha256,
        'Task': _task_text(summary),
        'Episodes': f'{len(summary.episodes):,}',
        'Transitions': f'{summary.transitions:,}',
        'Ends': ', '.join(
            f'{count:,} {_END_TEXTS[end]}' for end, count in summary.end_counts().items() if count
        ),
        'Frontier': _frontier_text(summary),
        'Actions': _action_text(summary),
        'Read': '\n'.join(summary.notes),
        'Attributes': '\n'.join(
            f'{key}: {_shorten(str(value), _ATTRIBUTE_WIDTH - len(key))}'
            for key, value in sorted(summary.attributes.items())
        ),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


_END_TEXTS = {
    'terminal': 'in a terminal state',
    'time limit': 'at a time limit',
    'gap': 'unmarked, at a gap',
    'cut': 'unmarked, at the end of the file',
}


def _task_text(summary: DatasetSummary) -> str:
    task = summary.task
    if task is None:
        return 'unknown'
    return (
        f'{task.name}, {task.env_id}: {task.horizon} steps, observations of {task.obs_dim}, '
        f'actions of {task.act_dim}'
    )


def _frontier_text(summary: DatasetSummary) -> str:
    frontier = summary.episodes.frontier
    if frontier is None:
        return ''
    text = f'return {_number(frontier.returns[0])} at cost {_number(frontier.costs[0])}'
    if len(frontier.costs) == 1:
        return text
    return (
        f'{text} to return {_number(frontier.returns[-1])} at cost '
        f'{_number(frontier.costs[-1])}, in {len(frontier.costs)} steps'
    )


def _action_text(summary: DatasetSummary) -> str:
    """Return the range of each dimension of the actions, as text."""
    span = summary.ranges['actions']
    texts = [f'{_number(low)} to {_number(high)}' for low, high in zip(span.low, span.high)]
    if len(set(texts)) == 1 or len(texts) > _MAX_DIMENSIONS:
        low, high = span.low.min(), span.high.max()
        return f'{len(texts)} numbers from {_number(low)} to {_number(high)}'
    return ', '.join(f'{number}: {text}' for number, text in enumerate(texts))


def _shorten(text: str, width: int) -> str:
    """Shorten a text at a word boundary."""
    line = ' '.join(text.split())
    if len(line) <= width:
        return line
    beginning = ''.join(re.split(r'([ ,;]+)', line[:width])[:-1]).rstrip(' ,;')
    return f'{beginning} ... ({len(line):,} characters, all with --json)'.lstrip()


def _quantile_table(summary: DatasetSummary) -> Table:
    quantiles = summary.quantiles()
    table = result_table('Episodes', '', ('', *quantiles), first_is_text=True)
    for name in quantiles['return']:
        table.add_row(name, *(_number(values[name]) for values in quantiles.values()))
    return table


def _limit_table(summary: DatasetSummary) -> Table:
    columns = ['cost limit', 'episodes within', 'share', 'best return']
    columns += ['normalised'] if summary.task else []
    table = result_table('Within a cost limit', '', tuple(columns), first_is_text=True)
    for row in summary.limits:
        # If no episode is within the limit, the target is that of the cheapest episode.
        mark = '' if row.episodes else '*'
        cells = [f'{row.cost_limit:g}', f'{row.episodes:,}', f'{row.share:.1%}']
        cells.append(_number(row.target_return) + mark)
        if row.normalized is not None:
            cells.append(f'{row.normalized:.3f}{mark}')
        table.add_row(*cells)
    if any(row.episodes == 0 for row in summary.limits):
        table.caption = '* no episode within: the return of the cheapest episode'
    return table


def _range_table(summary: DatasetSummary) -> Table:
    columns = ('', 'shape', 'type', 'least', 'greatest')
    table = result_table('A transition', '', columns, first_is_text=True)
    table.add_column('values')
    for name, span in summary.ranges.items():
        shape, dtype = summary.arrays[name]
        values = summary.values.get(name)
        table.add_row(
            name,
            ' x '.join(map(str, shape)),
            dtype,
            _number(span.low.min()),
            _number(span.high.max()),
            '' if values is None else ', '.join(f'{value:g}' for value in values),
        )
    return table


def _finding_table(summary: DatasetSummary) -> Table:
    from rich.table import Table

    from omnisafe_qpt.data.checks import NOTE, REFUSED, WARNING

    styles = {REFUSED: 'bold red', WARNING: 'yellow', NOTE: 'dim'}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for finding in summary.findings:
        table.add_row(_styled(finding.level, styles[finding.level]), finding.text)
    return table


def _styled(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(text, style=style)


def _verdict(summary: DatasetSummary) -> str:
    from omnisafe_qpt.data.checks import WARNING, count

    if summary.refusal is not None:
        return f'Training refuses this file: {summary.refusal}'
    warnings = sum(finding.level == WARNING for finding in summary.findings)
    if not warnings:
        return 'Training accepts this file; no warnings.'
    return f'Training accepts this file, with {count(warnings, "warning")}.'


def _number(value: float) -> str:
    return f'{value:.0f}' if 1e4 <= abs(value) < 1e9 else f'{value:.4g}'
