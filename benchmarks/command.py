# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Shared code of the benchmarks' command lines. Needs at most torch and numpy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.errors import UserError


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help shows a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> int:
    """Parse the command line, run, write the result to the file of ``--json``, and show it.

    Args:
        parser (argparse.ArgumentParser): With an option ``--json``.
        run (Callable): Makes the result from the options.
        show (Callable): Prints it.

    Returns:
        0, or 1 after a user's mistake, which is one line on standard error.
    """
    options = parser.parse_args()
    try:
        result = run(options)
    except UserError as error:
        print(f'Error: {error}', file=sys.stderr)
        return 1
    if options.json is not None:
        write_json(result, options.json)
    show(result)
    return 0
