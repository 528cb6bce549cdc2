# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""How QPT and the others join OmniSafe: hooks that run when OmniSafe's modules are imported.

OmniSafe has no interface for plugins: its list of algorithms is frozen while ``omnisafe`` is
imported. Gymnasium has one, and OmniSafe imports gymnasium before its own algorithms. So gymnasium
calls :func:`install`, in every process that imports it, and ``install`` leaves hooks on OmniSafe's
modules. Each hook's function states what it reaches for and why.

Everyone who uses gymnasium pays for this module: it imports the standard library only, and it
must never raise.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.algorithms import ALGORITHMS
from omnisafe_qpt.compat import UnknownOmniSafe, check_version, omnisafe_version, remedy
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.omnisafe_plugin.safety_gymnasium import (
    OLD_VELOCITY_TASKS,
    array_defaults,
    find_velocity_tasks,
)


if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType


# OmniSafe's modules, and this folder's function to call with each when it has been imported.
_HOOKS = {
    'omnisafe.envs': 'registration:add_environments',
    'omnisafe.utils.config': 'registration:serve_defaults',
    'omnisafe.algorithms.offline': 'registration:add_algorithms',
    'omnisafe.algorithms.algo_wrapper': 'agent_options:configure_agents',
    'omnisafe.evaluator': 'saved_runs:load_saved_runs',
    'omnisafe.common.experiment_grid': 'agent_options:check_grids',
    'omnisafe.utils.command_app': 'command_line:extend_command_line',
}

# Why the algorithms cannot be used with the installed OmniSafe; empty when all is well.
_problems: list[BaseException] = []


def install() -> None:
    """Arrange for the algorithms to join OmniSafe as soon as OmniSafe is imported.

    Called by ``import gymnasium`` through the entry point group ``gymnasium.envs``. Calling it
    again changes nothing.
    """
    try:
        if any(isinstance(finder, _HookFinder) for finder in sys.meta_path):
            return
        sys.meta_path.insert(0, _HookFinder())
        for name in _HOOKS:
            # Imported before gymnasium was, which no known OmniSafe does.
            if name in sys.modules and not _is_loading(sys.modules[name]):
                _run_hook(name, sys.modules[name])
    except Exception as error:  # noqa: BLE001 - a broken plugin must not break gymnasium
        print(f'omnisafe-qpt could not be set up: {error!r}', file=sys.stderr)


def _is_loading(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, '_initializing', False))


class _HookFinder(importlib.abc.MetaPathFinder):
    """Lets the other finders find a module, and wraps its loader where there is a hook for it."""

    def find_spec(
        self,
        fullname: str,
        path: Any = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module that has a hook; all others are left to the other finders."""
        is_simulator = fullname.partition('.')[0] == 'safety_gymnasium'
        if not is_simulator and fullname not in _HOOKS:
            return None
        spec = self._find_elsewhere(fullname, path, target)
        if spec is None and fullname == OLD_VELOCITY_TASKS:
            spec = find_velocity_tasks(path)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            context = array_defaults if is_simulator else contextlib.nullcontext
            spec.loader = _HookLoader(spec.loader, context)
        return spec

    def _find_elsewhere(self, fullname: str, path: Any, target: Any) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _HookLoader(importlib.abc.Loader):
    """Runs a module within a context and runs its hook afterwards.

    The module keeps its true loader, so that nothing that looks at it later sees a difference.
    """

    def __init__(
        self,
        loader: Any,
        context: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._loader = loader
        self._context = context

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the true loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then run its hook if it has one."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._context():
            self._loader.exec_module(module)
        if module.__name__ in _HOOKS:
            _run_hook(module.__name__, module)


def _run_hook(name: str, module: ModuleType) -> None:
    """Run a hook; what goes wrong is kept for whoever asks for one of the algorithms."""
    check_version()
    try:
        place, _, function = _HOOKS[name].partition(':')
        getattr(importlib.import_module(f'omnisafe_qpt.omnisafe_plugin.{place}'), function)(module)
    except Exception as error:  # noqa: BLE001 - the other algorithms must go on working
        _problems.append(error)


def require_available() -> None:
    """Import the algorithms' classes, so that OmniSafe finds them; refuse to start without.

    Raises:
        UserError: If a hook failed or a class cannot be imported.
    """
    try:
        for module in ALGORITHMS.values():
            importlib.import_module(module)
        problem = next(iter(_problems), None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why
        problem = error
    if problem is None:
        return
    reason = f'{type(problem).__name__}: {problem}'
    if isinstance(problem, UnknownOmniSafe):
        reason = f'it does not know OmniSafe {omnisafe_version()}: {problem}; {remedy()}'
    raise UserError(f'omnisafe-qpt is not available, {reason}') from problem
