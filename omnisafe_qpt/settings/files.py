# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations as nested dictionaries: YAML files, presets and merging.

An option is named by its path as OmniSafe writes it, for instance ``train_cfgs:total_steps``.
"""

from __future__ import annotations

import copy
import functools
import pathlib
import re
from typing import Any

import yaml

from omnisafe_qpt.errors import UserError


# In a wheel the files lie inside the package, in a source tree beside it.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_CONFIG_FOLDERS = (_PACKAGE / 'configs', _PACKAGE.parent / 'configs')

# Entries of a configuration that say what is trained and where; they are no options.
_NOT_OPTIONS = ('algo', 'env_id')
# Options about the run itself are ignored in a preset.
_NOT_FROM_PRESETS = ('dataset', 'preset', 'import')

# Sections of a file, each for one environment.
_ENV_ID = re.compile(r'.+-v\d+')

# The environment id that stands for a dataset without a simulator.
OFFLINE_ENV_ID = 'Offline-v0'
# A target return of this value stands for DSRL's published one.
DSRL = 'dsrl'

# Passed to the environment unchecked; only the environment knows its options.
FREE_FORM = ('env_cfgs',)


class Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-4 as a number, unlike PyYAML's own."""


Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$'),
    list('-+.0123456789'),
)


def config_file(name: str) -> pathlib.Path:
    """Find one of the YAML files that the package ships.

    Args:
        name (str): File name, for instance ``QPT.yaml``.

    Returns:
        The path of the file.

    Raises:
        UserError: If the installation lacks the file.
    """
    for folder in _CONFIG_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f'{name} is missing from the installation of omnisafe-qpt: install it again')


def read_yaml(path: str | pathlib.Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path (str or pathlib.Path): The file.

    Returns:
        The content.

    Raises:
        UserError: If the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.load(
            pathlib.Path(path).expanduser().read_text(encoding='utf-8'),
            Loader=Loader,
        )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read {path}: {error}') from error
    except yaml.YAMLError as error:
        raise UserError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (RecursionError, ValueError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError) else error
        raise UserError(f'{path} is not valid YAML: {reason}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold sections such as train_cfgs, not {kind_of(content)}')
    return content


@functools.cache
def _read_shipped(path: pathlib.Path) -> dict[str, Any]:
    """Read one of the package's own files, once: each start of a run needs it several times."""
    return read_yaml(path)


def load_defaults(env_id: str, algo: str = 'QPT') -> dict[str, Any]:
    """Load an algorithm's default configuration for an environment.

    Args:
        env_id (str): The environment id.
        algo (str, optional): The algorithm. Defaults to ``'QPT'``.

    Returns:
        The ``defaults`` section of the algorithm's YAML file, updated by the environment's section
        if it has one.
    """
    content = _read_shipped(config_file(f'{algo}.yaml'))
    return merge(content['defaults'], content.get(env_id) or {})


def preset_names(algo: str = 'QPT') -> list[str]:
    """List the presets that the package ships for an algorithm, ``cpu`` for QPT-cpu.yaml."""
    files = (path for folder in _CONFIG_FOLDERS for path in folder.glob(f'{algo}-*.yaml'))
    return sorted({path.stem.partition('-')[2] for path in files})


def load_preset(preset: str, algo: str = 'QPT', env_id: str = '') -> dict[str, Any]:
    """Load a preset: the hyperparameters of a complete configuration.

    Args:
        preset (str): The name of a preset that the package ships, or the path of a YAML file.
        algo (str, optional): Its algorithm. Defaults to ``'QPT'``.
        env_id (str, optional): The environment whose section applies, see :func:`for_environment`.
            Defaults to none.

    Returns:
        The configuration, without the algorithm, the environment and the dataset.

    Raises:
        UserError: If there is no such preset or it belongs to another algorithm.
    """
    names = preset_names(algo)
    if preset in names:
        path = config_file(f'{algo}-{preset}.yaml')
    elif pathlib.Path(preset).suffix in ('.yaml', '.yml'):
        path = pathlib.Path(preset)
    else:
        raise UserError(
            f'unknown preset {preset!r}: choose from {", ".join(names) or "none"} '
            'or give the path of a YAML file',
        )
    content = read_yaml(path)
    if content.get('algo', algo) != algo:
        raise UserError(f'the preset {path} is for {content["algo"]}, not for {algo}')
    content = for_environment(content, env_id)
    content = only_options(content)
    if isinstance(content.get('train_cfgs'), dict):
        for key in _NOT_FROM_PRESETS:
            content['train_cfgs'].pop(key, None)
    return content


def for_environment(content: dict[str, Any], env_id: str) -> dict[str, Any]:
    """Apply the section of an environment, and drop the sections of others.

    Args:
        content (dict): Options, with sections under environment ids that hold only the differences.
        env_id (str): The environment's id.

    Returns:
        The options for this environment.
    """
    sections = {
        key: value or {}
        for key, value in content.items()
        if isinstance(value, (dict, type(None))) and _ENV_ID.fullmatch(str(key))
    }
    common = {key: value for key, value in content.items() if key not in sections}
    return merge(common, sections.get(env_id, {}))


def only_options(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the entries for the algorithm and the environment."""
    return {key: value for key, value in content.items() if key not in _NOT_OPTIONS}


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Merge two nested dictionaries; the arguments do not change.

    Args:
        base (dict): The values to start from.
        update (dict): The values with precedence; dictionaries are merged, other values replaced.

    Returns:
        The merged dictionary.
    """
    merged = copy.deepcopy(base)
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def known_part(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration without entries that the defaults lack, such as records."""
    return {
        key: known_part(value, defaults[key])
        if isinstance(defaults[key], dict) and isinstance(value, dict) and key not in FREE_FORM
        else value
        for key, value in config.items()
        if key in defaults
    }


_KINDS = {
    bool: 'true or false',
    int: 'an integer',
    float: 'a number',
    str: 'text',
    list: 'a list',
    dict: 'a section of options',
}


def kind_of(value: Any) -> str:
    """Return the name of a value's type in YAML."""
    return 'null' if value is None else _KINDS.get(type(value), type(value).__name__)


def show(value: Any) -> str:
    """Format a value for a message."""
    return 'null' if value is None else repr(value)
