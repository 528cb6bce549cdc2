# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's command line: which options were given, and user errors in one line."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.algorithms import is_known
from omnisafe_qpt.compat import reach
from omnisafe_qpt.errors import UserError, disk_problem
from omnisafe_qpt.omnisafe_plugin.saved_runs import evaluate_runs


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


# The running command, if any.
_command: Command | None = None


def running_command() -> Command | None:
    """Return the running command of OmniSafe's command line, or None."""
    return _command


def extend_command_line(command_app: ModuleType) -> None:
    """Patch the commands of ``omnisafe`` to record the given flags and report errors in a line.

    Only a command's class has access to the parsed command line with the source of each value, and
    to the execution of the whole command. The parser of ``--custom-cfgs`` turns every value with a
    dot into a float, so it is replaced while a command runs.
    """
    from typer.core import TyperCommand

    for command in reach(reach(command_app, 'app'), 'registered_commands'):
        command.cls = type('Command', (_ReportingCommand, command.cls or TyperCommand), {})
        command.callback = _with_options(command.callback)
    original = reach(command_app, 'custom_cfgs_to_dict')

    @functools.wraps(original)
    def custom_cfgs_to_dict(key_list: str, value: Any) -> dict[str, Any]:
        if _command is None or not is_known(_command.params.get('algo')):
            return original(key_list, value)
        from omnisafe_qpt.settings.checks import parse_option
        from omnisafe_qpt.settings.files import load_defaults

        defaults = load_defaults(_command.params['env_id'], _command.params['algo'])
        return parse_option(key_list, value, defaults)

    command_app.custom_cfgs_to_dict = custom_cfgs_to_dict  # type: ignore[attr-defined]


# The parameters of the options --import and --allow-hooks.
_MODULES, _HOOKS_ALLOWED = 'imported_modules', 'allow_hooks'
# The commands that may resume a run.
_TRAINING = ('train', 'train_config')


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--import`` to a command; it takes effect before the command runs.

    A command that trains gets ``--allow-hooks`` as well.
    """
    import inspect

    import typer

    added: dict[str, tuple[Any, Any]] = {
        _MODULES: (
            list[str],
            typer.Option(
                [],
                '--import',
                metavar='MODULE',
                help='import this module first, which registers an environment of your own',
            ),
        ),
    }
    if function.__name__ in _TRAINING:
        added[_HOOKS_ALLOWED] = (
            bool,
            typer.Option(
                False,
                '--allow-hooks',
                help='import and call the augmentation hook of a resumed run, which is '
                'code chosen by whoever started it; without this option the run is refused, '
                'unless you name the hook yourself in algo_cfgs:augmentation_hook',
            ),
        )

    @functools.wraps(function)
    def command(**options: Any) -> Any:
        return function(**{name: options[name] for name in options if name not in added})

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in added.items()
    ]
    signature = inspect.signature(function)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *options],
    )
    kinds = {name: kind for name, (kind, _) in added.items()}
    command.__annotations__ = {**function.__annotations__, **kinds}
    return command


class _ReportingCommand:
    """Mixin for the commands of ``omnisafe``."""

    name: str

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a user error ends it with one line and status 1."""
        with _running(Command(self.name, ctx)) as command:
            try:
                command.check_file()
                command.import_modules()
                if command.name == 'eval' and evaluate_runs(command.params):
                    return None
                return super().invoke(ctx)  # type: ignore[misc]
            except UserError as error:
                _exit_with(error)
            except OSError as error:
                problem = disk_problem(error)
                if problem is None or not is_known(command.algo):
                    raise
                _exit_with(UserError(problem))
            except KeyboardInterrupt as error:
                if not is_known(command.algo):
                    raise
                if not hasattr(error, 'exit_status'):  # or the stop has already been reported
                    print('Interrupted', file=sys.stderr)
                raise SystemExit(getattr(error, 'exit_status', 130)) from error


class Command:
    """The parsed call of a command of ``omnisafe``.

    Args:
        name (str): The name of the command.
        ctx (typer.Context): Its context.

    Attributes:
        params (dict[str, Any]): The value of each parameter.
        modules (list of str): The modules given by ``--import``.
        allows_hooks (bool): Whether ``--allow-hooks`` was given.
        given (set of str): The parameters that the user gave.
    """

    def __init__(self, name: str, ctx: Any) -> None:
        self.name = name
        self.params: dict[str, Any] = dict(ctx.params)
        self.modules: list[str] = list(ctx.params.get(_MODULES) or ())
        self.allows_hooks = bool(ctx.params.get(_HOOKS_ALLOWED))
        self.given = {
            param
            for param in ctx.params
            if getattr(ctx.get_parameter_source(param), 'name', '') != 'DEFAULT'
        }

    @property
    def sets_options(self) -> bool:
        """Whether the command trains one agent with options from the user."""
        return self.name in ('train', 'train-config')

    @property
    def source(self) -> str:
        """Source of the user's options, for messages."""
        return self.params['config_path'] if self.name == 'train-config' else '--custom-cfgs'

    @property
    def algo(self) -> str | None:
        """The algorithm that the command trains, or None."""
        if self.name == 'train-config':
            return self.user_options().get('algo')
        return self.params.get('algo')

    def check_file(self) -> None:
        """Check that the configuration file can be read; OmniSafe would show a traceback.

        Raises:
            UserError: If the file is missing or is not YAML.
        """
        path = self.params.get('config_path', '')
        if path.endswith('.yaml'):  # OmniSafe reports other names itself
            import yaml

            from omnisafe_qpt.settings.files import read_yaml

            try:
                read_yaml(path)
            except UserError as error:
                # OmniSafe's loader accepts more types than ours, for other algorithms. On files
                # that it cannot load either, it fails with an assertion.
                if not isinstance(error.__cause__, yaml.constructor.ConstructorError):
                    raise
                try:
                    with open(path, encoding='utf-8') as file:
                        yaml.load(file, Loader=yaml.FullLoader)
                except yaml.YAMLError:
                    raise error from None

    def import_modules(self) -> None:
        """Import the modules of ``--import``, for any of OmniSafe's algorithms.

        Raises:
            UserError: If an import fails.
        """
        if self.modules:
            from omnisafe_qpt.envs.user_modules import import_modules

            self.modules = import_modules(self.modules)

    def user_options(self) -> dict[str, Any]:
        """Read the user's options from their source."""
        from omnisafe_qpt.settings.checks import parse_option
        from omnisafe_qpt.settings.files import load_defaults, merge, read_yaml

        if self.name == 'train-config':
            return read_yaml(self.params['config_path'])
        pairs = self.params['custom_cfgs'] or []
        defaults = load_defaults(self.params['env_id'], self.params['algo'])
        options: dict[str, Any] = {}
        for key, value in zip(pairs[0::2], pairs[1::2], strict=True):
            options = merge(options, parse_option(key, value, defaults))
        return options


@contextlib.contextmanager
def _running(command: Command) -> Iterator[Command]:
    # OmniSafe's functions in between cannot pass it on.
    global _command
    previous, _command = _command, command
    try:
        yield command
    finally:
        _command = previous


def reporting(
    method: Callable[..., Any],
    concerns_us: Callable[[Any], bool],
) -> Callable[..., Any]:
    """Report errors that OmniSafe's commands catch; they would print only the class."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if _command is None or not concerns_us(self):
                raise
            _exit_with(error)

    return wrapper


def _exit_with(error: Exception) -> None:
    """End the process with one line on stderr.

    Raises:
        SystemExit: Always, with status 1.
    """
    message = ' '.join(str(error).split('\n'))
    if not isinstance(error, UserError):
        message = f'{type(error).__name__}: {message}'
    print(f'Error: {message}', file=sys.stderr)
    raise SystemExit(1) from error
