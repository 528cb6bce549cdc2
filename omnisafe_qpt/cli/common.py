# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""What the commands share: how they are declared and how they write results."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from rich.table import Table


def print_in_any_encoding() -> None:
    """Print question marks for what a terminal's encoding lacks, such as ± in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='replace')


def add_command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Declare a command with an example of its use.

    Args:
        commands (Any): The group that it belongs to.
        name (str): What is typed.
        summary (str): What it does, in lower case and without a full stop.
        example (str): A command line that works.

    Returns:
        The parser, to which the command adds its options.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + '.',
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
    """Declare how candidates are made and chosen; what is not given is the run's own."""
    parser.add_argument(
        '--candidates',
        type=positive,
        metavar='M',
        help="return targets tried at each step; 1 is the plain policy (default: the run's)",
    )
    parser.add_argument(
        '--rule',
        choices=('paper', 'bounded', 'paced'),
        help="how a candidate is chosen (default: the run's)",
    )
    parser.add_argument(
        '--candidate-shift',
        choices=('history', 'last'),
        help="where the candidates' targets differ: in the whole history, or in the last step "
        "alone, which takes a fraction of the time (default: the run's)",
    )


def add_uncalibrated(parser: argparse.ArgumentParser) -> None:
    """Declare the way round a calibration."""
    parser.add_argument(
        '--uncalibrated',
        action='store_true',
        help='ask for the limit itself and the return that the dataset reached within it, as the '
        'paper does, even if the policy is calibrated',
    )


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return value


positive.__name__ = 'number'  # argparse names the type in its messages


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Declare which of a run's checkpoints is meant."""
    parser.add_argument(
        '--checkpoint',
        default='last',
        metavar='W',
        help='which one of a run: last, best (by its validation in training, see its best.json) '
        'or a number of epochs (default: last)',
    )


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Declare what a policy acts on, and how many processes simulate."""
    parser.add_argument(
        '--device',
        metavar='D',
        help='cpu, cuda or cuda:N (default: CUDA if there)',
    )
    parser.add_argument(
        '--processes',
        type=positive,
        metavar='P',
        help='processes that run episodes at the same time, which does not change the results '
        '(default: one a core)',
    )


def result_table(title: str, caption: str, columns: tuple[str, ...]) -> Table:
    """Return an empty table that fits 80 columns."""
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
    for name in columns:
        table.add_column(name, justify='right', no_wrap=True)
    return table


def check_writable(path: Path, option: str = '--json') -> None:
    """Refuse a result file that cannot be written before the work rather than after it."""
    if path.is_dir():
        raise UserError(f'{option} {path}: is a folder; give the name of a file')
    if not path.parent.is_dir():
        raise UserError(f'{option} {path}: there is no folder {path.parent}')
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'{option} {path}: you may not write in the folder {path.parent}')


def write_json(content: Any, path: Path) -> None:
    """Write results as JSON; the file appears only when it is complete."""
    from omnisafe_qpt.data.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
