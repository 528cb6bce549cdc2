# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Modules that register users' environments, imported on request.

A run records the modules that it was trained with, but they are imported only if the user asks.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from omnisafe_qpt.errors import UserError


# Passes the modules on to child processes; the user may set it too.
VARIABLE = 'OMNISAFE_QPT_IMPORT'

_MODULE = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*')


# Packages whose environments need no import; a script cannot be imported.
_KNOWN_PACKAGES = ('omnisafe', 'omnisafe_qpt', '__main__')


def module_names(value: Any, option: str = '--import') -> list[str]:
    """Parse the names of modules.

    Args:
        value (Any): One name, several separated by commas, or a list; None for none.
        option (str, optional): Where it was given, for messages. Defaults to ``'--import'``.

    Raises:
        UserError: If an entry is not the name of a module.
    """
    if value is None:
        return []
    given = value if isinstance(value, (list, tuple)) else [value]
    names: list[str] = []
    for text in given:
        if not isinstance(text, str):
            raise UserError(f"{option} {value}: not a module's name but {text!r}")
        names += [part.strip() for part in text.split(',')]
    for name in names:
        if _MODULE.fullmatch(name) is None or name.endswith('.py'):
            stem = os.path.basename(name).removesuffix('.py')
            meant = f'; for that file give {stem}' if _MODULE.fullmatch(stem) else ''
            raise UserError(
                f"{option} {name}: not a module's name such as my_envs or package.my_envs{meant}",
            )
    return list(dict.fromkeys(names))


def import_modules(value: Any, option: str = '--import') -> list[str]:
    """Import the user's modules, here and in child processes.

    The search includes the current folder, which a console script leaves out.

    Args:
        value (Any): See :func:`module_names`.
        option (str, optional): Likewise. Defaults to ``'--import'``.

    Returns:
        Their names.

    Raises:
        UserError: If one cannot be imported.
    """
    names = module_names(value, option)
    if not names:
        return names
    if os.getcwd() not in sys.path and '' not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
                raise UserError(f'{option} {name}: {describe(error)}') from error
            raise UserError(
                f'{option} {name}: no module {error.name} in {os.getcwd()}, in PYTHONPATH or among '
                'the installed packages',
            ) from error
        except Exception as error:  # whatever the user's code raises
            raise UserError(f'{option} {name}: {describe(error)}') from error
    known = module_names(os.environ.get(VARIABLE) or None, VARIABLE)
    os.environ[VARIABLE] = ','.join(dict.fromkeys([*known, *names]))
    return names


def describe(error: BaseException) -> str:
    """Return a one-line description of an error in a user's code, with its place."""
    text = ' '.join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = f' ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})' if frames else ''
    return f'{type(error).__name__}: {text}{where}' if text else f'{type(error).__name__}{where}'


def require_environment(env_id: Any, modules: Iterable[str] = ()) -> None:
    """Check that an environment is registered; the error names the likely reason.

    Args:
        env_id (Any): The environment's id.
        modules (Iterable[str], optional): Modules that a run of it was trained with.

    Raises:
        UserError: If OmniSafe does not know it.
    """
    from omnisafe.envs.core import support_envs

    if env_id in support_envs():
        return
    asked = import_modules(os.environ.get(VARIABLE) or None, VARIABLE)
    known = support_envs()
    if env_id in known:
        return
    missing = [name for name in modules if name not in sys.modules]
    if missing:
        raise UserError(
            f'unknown environment {env_id!r}: the run was trained with the module '
            f'{", ".join(missing)}, which is imported only when you ask for it: add --import '
            f'{",".join(missing)} (in Python: import {", ".join(missing)})',
        )
    from omnisafe_qpt.errors import nearest

    meant = ' or '.join(nearest(str(env_id), known, cutoff=0.8))
    advice = 'omnisafe.envs.support_envs() lists all; one'
    if meant:
        advice = f'did you mean {meant}? One'
    if asked:
        advice = f'{", ".join(asked)} does not register it; {advice}'
    raise UserError(
        f'unknown environment {env_id!r}: {advice} of your own needs --import MODULE, the module '
        'that registers it (train_cfgs:import in a YAML file or custom_cfgs)',
    )


def modules_of(recorded: Any, env_module: str | None) -> list[str]:
    """Return the modules to import for a run's environment.

    Args:
        recorded (Any): The run's ``train_cfgs:import``.
        env_module (str or None): Module of the environment's class; None if unknown.

    Returns:
        Empty if OmniSafe's or this package's modules suffice, or a script registered it.
    """
    names = module_names(recorded)
    is_own = (env_module or '__main__').partition('.')[0] not in _KNOWN_PACKAGES
    return names or ([env_module] if env_module and is_own else [])


def require_environment_of(spec: dict[str, Any]) -> None:
    """Check that the environment of a model is registered.

    Args:
        spec (dict[str, Any]): Of the model.

    Raises:
        UserError: If OmniSafe does not know it; the message names the module to import.
    """
    import omnisafe  # noqa: F401 - registers what is known

    recorded = spec.get('config', {}).get('train_cfgs', {}).get('import')
    require_environment(spec['env_id'], modules_of(recorded, spec.get('env_module')))
