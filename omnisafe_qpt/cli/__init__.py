# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The ``omnisafe-qpt`` command: deployment and data; training is OmniSafe's own command.

Exit status: 0 on success, 1 on a user error with one line on stderr, 2 on wrong usage. Each command
is a module with a function ``add`` that declares it. Slow imports happen when the command runs, so
that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from omnisafe_qpt.cli import (
    calibrate,
    data_collect,
    data_convert,
    data_download,
    data_info,
    data_plot,
    doctor,
    evaluate,
    export,
    report,
    tasks,
)
from omnisafe_qpt.cli.common import print_in_any_encoding, say
from omnisafe_qpt.envs.simulators import opengl_problem
from omnisafe_qpt.errors import UserError, disk_problem
from omnisafe_qpt.version import __version__


# In the order of the help.
_COMMANDS = (doctor, tasks, evaluate, calibrate, export, report)
_DATA_COMMANDS = (data_download, data_info, data_plot, data_convert, data_collect)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (Sequence[str], optional): Arguments after the program's name. Defaults to those
            of ``sys.argv``.

    Returns:
        The exit status.
    """
    print_in_any_encoding()
    options = _parser().parse_args(arguments)
    try:
        if options.modules:
            _import_modules(options.modules)
        options.run_command(options)
        sys.stdout.flush()
    except UserError as error:
        say(f'Error: {error}', sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print('Interrupted', file=sys.stderr)
        return getattr(error, 'exit_status', 130)  # other statuses after SIGTERM
    except Exception as error:
        problem = opengl_problem(error) or disk_problem(error)
        if problem is None:
            raise
        print(f'Error: {problem}', file=sys.stderr)
        return 1
    return 0


def _import_modules(modules: list[str]) -> None:
    """Import the modules that register the user's environments.

    OmniSafe is imported first, so that its hooks register QPT.
    """
    import omnisafe

    from omnisafe_qpt.envs.user_modules import import_modules

    import_modules(modules)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='omnisafe-qpt',
        description="QPT for OmniSafe: deployment and data. Training is OmniSafe's own command: "
        'omnisafe train --algo QPT --env-id SafetyBallCircle-v0',
    )
    parser.add_argument('--version', action='version', version=f'omnisafe-qpt {__version__}')
    commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')
    for command in _COMMANDS:
        command.add(commands)
    _add_data(commands)
    return parser


def _add_data(commands: Any) -> None:
    data = commands.add_parser(
        'data', help='get, inspect and make datasets', description='Get, inspect and make datasets.'
    )
    data_commands = data.add_subparsers(title='commands', required=True, metavar='COMMAND')
    for command in _DATA_COMMANDS:
        command.add(data_commands)
