# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Shared code of the commands: declaration of options, tables and result files."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from omnisafe_qpt.errors import UserError, printable
from omnisafe_qpt.schema import components


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


# Width in a pipe, which has none; larger than any table.
_PIPE_WIDTH = 10_000
# Smallest width of a column that may wrap.
_TEXT_WIDTH = 24


def print_in_any_encoding() -> None:
    """Print question marks for characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')


def printable_lines(text: str) -> str:
    """Replace unprintable characters in each of several lines."""
    return '\n'.join(map(printable, text.split('\n')))


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines that may contain text from files."""
    print(printable_lines(text), file=file, flush=True)


def add_command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Declare a command with an example of its use.

    Args:
        commands (Any): The group of the command.
        name (str): Name of the command.
        summary (str): One line of help, in lower case and without a full stop.
        example (str): A command line that works.

    Returns:
        The parser, for the command's options.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(summary[0].upper() + summary[1:] + '.', 79),
        epilog=f'example:\n  {example}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--import',
        dest='modules',
        action='append',
        metavar='MODULE',
        help='import this module first, which registers an environment of your own',
    )
    return parser


def add_deployment_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of candidates and selection; defaults are the run's."""
    parser.add_argument(
        '--candidates',
        type=positive,
        metavar='M',
        help="return targets per step; 1 is the policy without selection (default: the run's)",
    )
    parser.add_argument(
        '--rule',
        choices=('paper', 'bounded', 'discounted_budget'),
        help="selection rule (default: the run's)",
    )
    parser.add_argument(
        '--candidate-shift',
        choices=('history', 'last'),
        help="shift the candidates' return-to-go in the whole history, or in the last step "
        "only, which takes a fraction of the time (default: the run's)",
    )


def add_exogenous(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the exogenous components of the observation."""
    parser.add_argument(
        '--exogenous',
        type=components,
        metavar='N,N-N',
        help='with --offline: components of the observation that no action changes, such as '
        'weather and prices, counted from 0, as in 0-5,8; the learned dynamics replay them from '
        "the dataset instead of predicting them (default: the run's train_cfgs:exogenous)",
    )


def check_offline(options: argparse.Namespace) -> bool:
    """Return whether ``--offline`` is given, and check that the options that depend on it fit."""
    if options.offline is None:
        if options.exogenous:
            raise UserError('--exogenous is for --offline; give both or neither')
        return False
    for name in ('episodes', 'processes'):
        if getattr(options, name) is not None:
            raise UserError(f'--{name}: nothing is simulated with --offline; leave out one of them')
    return True


def add_uncalibrated(parser: argparse.ArgumentParser) -> None:
    """Declare the option that ignores a calibration."""
    parser.add_argument(
        '--uncalibrated',
        action='store_true',
        help='ignore the target calibration: use the limit as target cost and the highest return '
        'of the dataset within it as target return, as in the paper',
    )


def deployment_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the command line's fields of ``DeploymentOptions``, for functions that take a run."""
    names = ('candidates', 'rule', 'candidate_shift', 'checkpoint', 'device')
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return {**given, 'calibrated': not getattr(options, 'uncalibrated', False)}


def target_return(text: str) -> float | str:
    """Parse a target return: a number, or ``dsrl``."""
    return text if text == 'dsrl' else float(text)


target_return.__name__ = 'return'  # argparse names the type in its messages


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return value


positive.__name__ = 'number'  # argparse names the type in its messages


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Declare the option that selects a checkpoint."""
    parser.add_argument(
        '--checkpoint',
        default='last',
        metavar='W',
        help='checkpoint of the run: last, best (by validation in training, see best.json) '
        'or a number of epochs (default: last)',
    )


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the device and of the simulating processes."""
    parser.add_argument(
        '--device',
        metavar='D',
        help='cpu, cuda or cuda:N (default: CUDA if available)',
    )
    parser.add_argument(
        '--processes',
        type=positive,
        metavar='P',
        help='processes that run episodes in parallel; no effect on the results '
        '(default: one per core)',
    )


def result_console() -> Console:
    """Return the console for results: a terminal, or a pipe with lines of any length."""
    from rich.console import Console

    class PlainConsole(Console):
        """Prints text without control characters."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable_lines(text), **options)

    console = PlainConsole(highlight=False, markup=False)
    if not console.is_terminal and 'COLUMNS' not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def result_table(
    title: str,
    caption: str,
    columns: tuple[str, ...],
    first_is_text: bool = False,
) -> Table:
    """Return an empty table of numbers, to be printed with :func:`print_table`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title,
        caption=caption,
        title_justify='left',
        caption_justify='left',
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(columns):
        is_text = first_is_text and number == 0
        table.add_column(name, justify='left' if is_text else 'right', no_wrap=True)
    return table


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table completely: in a terminal that is too narrow, as a list of entries.

    Only columns that may wrap are wrapped; numbers never are.

    Args:
        table (Table): The table.
        console (Console, optional): Where to print it. Defaults to None, for
            :func:`result_console`.
    """
    from rich.cells import cell_len

    console = console or result_console()
    options = console.options.update(max_width=_PIPE_WIDTH)
    needed = console.measure(table, options=options).maximum
    for column in table.columns:
        if not column.no_wrap:
            needed -= max(0, max(cell_len(str(cell)) for cell in column.cells) - _TEXT_WIDTH)
    with console.capture() as capture:
        if needed <= console.width:
            console.print(table)
        else:
            _print_entries(table, console)
    text = capture.get()
    if not console.is_terminal:  # trailing blanks have no meaning there
        text = '\n'.join(line.rstrip() for line in text.split('\n'))
    print(text, end='')


def _print_entries(table: Table, console: Console) -> None:
    """Print each row as lines of a column's name and the row's entry."""
    from rich.table import Table

    if table.title:
        console.print(table.title, style='table.title')
    names = [str(column.header) for column in table.columns]
    width = max(map(len, names))
    for row in zip(*(column.cells for column in table.columns)):
        words = [word for entry in row for word in str(entry).split()]
        if max(map(len, words), default=0) + width + 2 > console.width:
            # Only the terminal may wrap a long name, because users copy it.
            for name, entry in zip(names, row):
                console.print(f'{name:<{width}}  {entry}', soft_wrap=True)
        else:
            entries = Table.grid(padding=(0, 2, 0, 0))
            for name, entry in zip(names, row):
                entries.add_row(name, entry)
            console.print(entries)
        console.print()
    if table.caption:
        console.print(table.caption, style='table.caption')


def check_writable(path: Path, option: str = '--json') -> None:
    """Check before the work that a result file can be written."""
    if path.is_dir():
        raise UserError(f'{option} {path}: is a folder; give the name of a file')
    if not path.parent.is_dir():
        raise UserError(f'{option} {path}: there is no folder {path.parent}')
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'{option} {path}: you may not write in the folder {path.parent}')


def write_json(content: Any, path: Path) -> None:
    """Write results as JSON; the file appears only when it is complete."""
    from omnisafe_qpt.data.atomic import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
