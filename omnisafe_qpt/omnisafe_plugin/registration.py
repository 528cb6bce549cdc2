# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of environments, algorithms and default configurations with OmniSafe."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.algorithms import ALGORITHMS, is_known
from omnisafe_qpt.compat import reach


if TYPE_CHECKING:
    from types import ModuleType


def add_environments(envs: ModuleType) -> None:
    """Register DSRL's other tasks by importing their modules, which use OmniSafe's decorator."""
    del envs
    import omnisafe_qpt.envs.bullet  # noqa: F401
    import omnisafe_qpt.envs.metadrive  # noqa: F401
    import omnisafe_qpt.envs.offline  # noqa: F401


def add_algorithms(offline: ModuleType) -> None:
    """Register the offline algorithms with OmniSafe.

    ``omnisafe.algorithms`` builds its frozen tables from ``offline.__all__`` right after this
    module; the command line's help, ``Agent`` and the experiment grid all read those tables. The
    classes are imported on first use, here or in an agent. By then OmniSafe is completely imported,
    even if its import began in a module that the classes need.
    """
    names = reach(offline, '__all__')
    names.extend(name for name in ALGORITHMS if name not in names)
    # The modules from which the built-in algorithms can be imported.
    for module in (offline, sys.modules['omnisafe.algorithms']):
        find = functools.partial(_find_algorithm, module.__name__)
        module.__getattr__ = find  # type: ignore[method-assign]


def _find_algorithm(module: str, name: str) -> type:
    """Import an algorithm's class, which registers it with OmniSafe.

    Args:
        module (str): OmniSafe's module from which it was requested.
        name (str): Its name.

    Raises:
        AttributeError: If there is no such algorithm here.
    """
    if not is_known(name):
        raise AttributeError(f'module {module!r} has no attribute {name!r}')
    return getattr(importlib.import_module(ALGORITHMS[name]), name)


def serve_defaults(config: ModuleType) -> None:
    """Let OmniSafe load our YAML files; by itself it looks only in its own folder."""
    original = reach(config, 'get_default_kwargs_yaml')

    @functools.wraps(original)
    def get_default_kwargs_yaml(algo: str, env_id: str, algo_type: str) -> Any:
        if not is_known(algo):
            return original(algo, env_id, algo_type)
        from omnisafe_qpt.settings.files import config_file, load_defaults
        from omnisafe_qpt.training.distributed import Launch

        if Launch.from_environment().rank == 0:
            print(f'Loading {algo}.yaml from {config_file(f"{algo}.yaml")}')
        return config.Config.dict2config(load_defaults(env_id, algo))

    config.get_default_kwargs_yaml = get_default_kwargs_yaml  # type: ignore[attr-defined]
