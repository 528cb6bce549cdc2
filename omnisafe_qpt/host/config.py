# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations: the YAML files, presets, command-line values, checks, and the machine.

Nothing here knows OmniSafe. A configuration is a nested dictionary; an option is named by its
path as OmniSafe writes it, for instance ``train_cfgs:total_steps``.
"""

from __future__ import annotations

import copy
import difflib
import math
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

import yaml

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.seeds import EPISODES_OF_A_RUN
from omnisafe_qpt.schema import LARGEST_LAYER, LARGEST_NUMBER, MOST_LAYERS, largest


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# In a wheel the files lie inside the package, in a source tree beside it.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_CONFIG_FOLDERS = (_PACKAGE / 'configs', _PACKAGE.parent / 'configs')

# What a preset says about the run itself is left to the user when it serves as a preset.
_NOT_FROM_PRESETS = ('algo', 'env_id')
_NOT_FROM_PRESET_TRAIN_CFGS = ('dataset', 'preset', 'import')

# The sections of a file that hold for one environment each.
_ENV_ID = re.compile(r'.+-v\d+')

# What a continued run decides anew.
_NOT_FROM_RUNS = {
    # The number of threads stays: with another, sums differ in the last bits.
    'train_cfgs': (
        'device',
        'preset',
        'resume',
        'evaluate_processes',
        'accelerate',
        'data_device',
        'import',  # only the user says what is imported
    ),
    'logger_cfgs': ('log_dir',),
}

_COUNTS = {
    'train_cfgs': (
        'total_steps',
        'evaluate_epoisodes',
        'final_evaluate_episodes',
        'calibrate_episodes',
        'evaluate_processes',
    ),
    'algo_cfgs': ('steps_per_epoch',),
    'logger_cfgs': ('save_model_freq',),
}

# Which a run has its own seeds for.
_EPISODES = ('evaluate_epoisodes', 'final_evaluate_episodes', 'calibrate_episodes')

_CHOICES = {
    'train_cfgs': {
        'accelerate': ('auto', 'none', 'graph', 'compile'),
        'data_device': ('auto', 'device', 'host'),
        'action_unit': ('auto', 'normalized', 'environment'),
    },
}

# Passed to the environment as they are; only the environment knows its options.
_FREE_FORM = ('env_cfgs',)

# A default of this value stands for "find out", and takes text or a number instead.
AUTO = 'auto'
# A target return of this value stands for DSRL's published one.
DSRL = 'dsrl'

MAX_TORCH_THREADS = 16

# NumPy and the simulators take 32 bits, and each of several processes has a seed of its own.
LARGEST_SEED = 2**31 - 1
# Of the options whose default is auto, those that are otherwise a number; the rest is text.
_NUMBER_OR_AUTO = ('target_return', 'torch_threads', 'evaluate_processes')


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, where PyYAML alone reads text."""


_Loader.add_implicit_resolver(
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
            Loader=_Loader,
        )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read {path}: {error}') from error
    except yaml.YAMLError as error:
        raise UserError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (RecursionError, ValueError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError) else error
        raise UserError(f'{path} is not valid YAML: {reason}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold sections such as train_cfgs, not {_kind_of(content)}')
    return content


def load_defaults(env_id: str, algo: str = 'QPT') -> dict[str, Any]:
    """Load an algorithm's default configuration for an environment.

    Args:
        env_id (str): The environment id.
        algo (str, optional): The algorithm. Defaults to ``'QPT'``.

    Returns:
        The ``defaults`` section of the algorithm's YAML file, updated by the environment's section
        if it has one.
    """
    content = read_yaml(config_file(f'{algo}.yaml'))
    return merge(content['defaults'], content.get(env_id) or {})


def preset_names(algo: str = 'QPT') -> list[str]:
    """List the presets that the package ships for an algorithm, ``cpu`` for QPT-cpu.yaml."""
    files = (path for folder in _CONFIG_FOLDERS for path in folder.glob(f'{algo}-*.yaml'))
    return sorted({path.stem.partition('-')[2] for path in files})


def load_preset(preset: str, algo: str = 'QPT', env_id: str = '') -> dict[str, Any]:
    """Load a preset: a complete configuration of which only the hyperparameters are taken.

    Args:
        preset (str): The name of a preset that the package ships, or the path of a YAML file.
        algo (str, optional): The algorithm that it is for. Defaults to ``'QPT'``.
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
    content = {key: value for key, value in content.items() if key not in _NOT_FROM_PRESETS}
    if isinstance(content.get('train_cfgs'), dict):
        for key in _NOT_FROM_PRESET_TRAIN_CFGS:
            content['train_cfgs'].pop(key, None)
    return content


def for_environment(content: dict[str, Any], env_id: str) -> dict[str, Any]:
    """Apply the section of an environment, and drop the sections of others.

    Args:
        content (dict): Options, beside sections under the id of an environment that hold only what
            differs there.
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


def run_settings(run: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Read the settings that a run was started with, to continue it.

    Args:
        run (str): The run's folder.
        defaults (dict): The default configuration; what it does not hold, such as records of the
            run, is left out.

    Returns:
        The run's configuration without what belongs to the machine and to the new run: device,
        folder of logs, preset, and the run that it resumed itself.

    Raises:
        UserError: If it is not the folder of a run.
    """
    from omnisafe_qpt.host.checkpoint import find_run
    from omnisafe_qpt.host.records import read_config

    config = read_config(find_run(run))
    settings = known_part(config, defaults)
    settings['train_cfgs']['dataset'] = config['dataset_record']['path']
    for section, names in _NOT_FROM_RUNS.items():
        for name in names:
            settings[section].pop(name, None)
    return settings


def known_part(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a run's configuration what the defaults do not hold, such as records."""
    return {
        key: known_part(value, defaults[key])
        if isinstance(defaults[key], dict) and isinstance(value, dict) and key not in _FREE_FORM
        else value
        for key, value in config.items()
        if key in defaults
    }


def check_counts(cfgs: dict[str, Any]) -> None:
    """Check the seed, and what counts steps, epochs and episodes of a run.

    Args:
        cfgs (dict): The complete configuration.

    Raises:
        UserError: If a count is too small, or the seed is none.
    """
    if not 0 <= cfgs['seed'] <= LARGEST_SEED:
        raise UserError(f'seed must be from 0 to {LARGEST_SEED}, not {cfgs["seed"]}')
    for section, names in _COUNTS.items():
        for name in names:
            # Not every algorithm has every one of them.
            value, least = cfgs[section].get(name, AUTO), 0 if name in _EPISODES else 1
            if value != AUTO and not (isinstance(value, int) and value >= least):
                raise UserError(f'{section}:{name} must be at least {least}, not {_show(value)}')
            if name in _EPISODES and value != AUTO and value > EPISODES_OF_A_RUN:
                raise UserError(
                    f'{section}:{name} must be at most {EPISODES_OF_A_RUN}, not {value}'
                )
    # One episode tells nothing of how much they differ.
    if cfgs['train_cfgs'].get('calibrate_episodes') == 1:
        raise UserError('train_cfgs:calibrate_episodes must be 0, for none, or at least 2, not 1')


def check_choices(cfgs: dict[str, Any]) -> None:
    """Check the options whose values have names and that nothing else checks.

    Args:
        cfgs (dict): The complete configuration.

    Raises:
        UserError: If an option has none of its values.
    """
    for section, options in _CHOICES.items():
        for name, choices in options.items():
            value = cfgs[section][name]
            if value not in choices:
                known = f'{", ".join(choices[:-1])} or {choices[-1]}'
                raise UserError(f'{section}:{name} must be {known}, not {_show(value)}')


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Update a nested dictionary without touching either argument.

    Args:
        base (dict): The values to start from.
        update (dict): The values that win; dictionaries are merged, all else is replaced.

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


def parse_option(key: str, value: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Turn one option of the command line into a nested dictionary.

    Where the default is text the value is taken literally, so that a file may be called ``1.0``.

    Args:
        key (str): The option's path, for instance ``train_cfgs:total_steps``.
        value (str): Its value as typed.
        defaults (dict): The default configuration, which says what the option may be.

    Returns:
        The nested dictionary with this one option.

    Raises:
        UserError: If there is no such option or its value is of another type.
    """
    names = key.replace('-', '_').split(':')
    default: Any = defaults
    for name in names:
        if not isinstance(default, dict) or name not in default:
            raise UserError(_unknown_option(':'.join(names), defaults, '--custom-cfgs'))
        default = default[name]
        if name in _FREE_FORM:
            break
    is_text = isinstance(default, str) and default != AUTO
    option: dict[str, Any] = {names[-1]: value if is_text else parse_value(value)}
    for name in reversed(names[:-1]):
        option = {name: option}
    validate(option, defaults, '--custom-cfgs')
    return option


def parse_value(text: str) -> Any:
    """Read a value of the command line as YAML would, but never as a mapping or a date.

    Args:
        text (str): The value as typed.

    Returns:
        A truth value, a number, a list, None, or the text itself.
    """
    if text.strip() in ('None', 'null', '~'):
        return None
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (bool, int, float, list)) else text


def validate(cfgs: dict[str, Any], defaults: dict[str, Any], source: str = '') -> None:
    """Check that every option exists and is of its default's type.

    A number is welcome where the default is one, an integer where the default is an integer; null
    only where the default is null, which takes anything; a list's elements follow the elements of
    its default.

    Args:
        cfgs (dict): The configuration to check, complete or only a part.
        defaults (dict): The default configuration.
        source (str, optional): Where the configuration comes from, for the message.

    Raises:
        UserError: If an option is unknown or of a wrong type.
    """
    for path, value in _leaves(cfgs, defaults):
        default: Any = defaults
        for name in path:
            if not isinstance(default, dict) or name not in default:
                raise UserError(_unknown_option(':'.join(map(str, path)), defaults, source))
            default = default[name]
        complaint = _complaint(value, default, path[-1])
        if complaint:
            raise UserError(f'{_at(":".join(path), source)} {complaint}')


def nearest(
    word: str,
    words: Iterable[str],
    count: int = 3,
    cutoff: float = 0.6,
) -> list[str]:
    """Find the words that a mistyped one may have meant, best first."""
    return difflib.get_close_matches(word, sorted(words), n=count, cutoff=cutoff)


def resolve_device(requested: str) -> str:
    """Turn ``train_cfgs.device`` into a device that exists.

    Args:
        requested (str): ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        ``cpu`` or ``cuda:N``.

    Raises:
        UserError: If the device does not exist here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == AUTO:
        return 'cuda:0' if count else 'cpu'
    match = re.fullmatch(r'cpu|cuda(?::(\d+))?', str(requested))
    if match is None:
        raise UserError(f'device must be auto, cpu, cuda or cuda:N, not {requested!r}')
    if match[0] == 'cpu':
        return 'cpu'
    index = int(match[1] or 0)
    if index >= count:
        raise UserError(
            f'device {requested} is not there: torch {torch.__version__} sees {count} CUDA '
            'device(s); use cpu or auto, or install a CUDA build of torch',
        )
    return f'cuda:{index}'


def resolve_target_return(
    requested: str | float | None,
    env_id: str,
    cost_limit: float,
) -> float | None:
    """Turn a target return as the user gives it into a number.

    Args:
        requested (str, float or None): ``auto`` or None, ``dsrl``, or a number.
        env_id (str): The environment.
        cost_limit (float): That it is for.

    Returns:
        The number; None for ``auto``.

    Raises:
        UserError: If it is none of these, or DSRL has no target for this task and limit.
    """
    if requested in (None, AUTO):
        return None
    if requested == DSRL:
        from omnisafe_qpt.data.tasks import published_target

        return published_target(env_id, cost_limit)
    is_number = isinstance(requested, (int, float)) and not isinstance(requested, bool)
    if not is_number or not math.isfinite(requested):
        raise UserError(f'target_return must be auto, dsrl or a number, not {_show(requested)}')
    return float(requested)


def resolve_acceleration(requested: str, device: str, processes: int = 1) -> str:
    """Turn ``train_cfgs.accelerate`` into a way that there is.

    Args:
        requested (str): ``auto``, ``none``, ``graph`` or ``compile``.
        device (str): The device to train on.
        processes (int, optional): How many train together. Defaults to 1.

    Returns:
        The way; for ``auto`` ``graph`` on CUDA in a single process, else ``none``.

    Raises:
        UserError: If it is not there.
    """
    is_possible = device != 'cpu' and processes == 1
    if requested == AUTO:
        return 'graph' if is_possible else 'none'
    if requested != 'none' and not is_possible:
        where = f'with {processes} processes' if processes > 1 else 'on the CPU'
        raise UserError(
            f'train_cfgs:accelerate {requested} needs CUDA and a single process: {where} use auto '
            'or none',
        )
    return requested


def resolve_threads(requested: str | int) -> int:
    """Turn ``train_cfgs.torch_threads`` into a number of threads.

    Args:
        requested (str or int): ``auto`` or a number.

    Returns:
        The number; for ``auto`` OMP_NUM_THREADS if it is set, else the physical cores that this
        process may use, at most 16.

    Raises:
        UserError: If it is neither.
    """
    if requested == AUTO:
        told = os.environ.get('OMP_NUM_THREADS', '')
        return int(told) if told.isdigit() and int(told) > 0 else usable_cores()
    if isinstance(requested, bool) or not isinstance(requested, int) or requested < 1:
        raise UserError(f'torch_threads must be auto or a positive integer, not {requested!r}')
    return requested


def usable_cores() -> int:
    """Count the physical cores that this process may run on, within a container's quota."""
    if hasattr(os, 'sched_getaffinity'):
        processors: Iterable[int] = os.sched_getaffinity(0)
    else:
        processors = range(os.cpu_count() or 1)
    cores = {
        _read_line(f'/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list')
        or str(processor)
        for processor in processors
    }
    count = len(cores)
    quota, _, period = _read_line('/sys/fs/cgroup/cpu.max').partition(' ')
    if quota.isdigit() and period.isdigit():
        count = min(count, int(quota) // int(period))
    return max(1, min(count, MAX_TORCH_THREADS))


def _read_line(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding='utf-8').strip()
    except OSError:
        return ''


def _leaves(
    cfgs: dict[str, Any],
    defaults: Any,
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Go through the options; sections that the defaults hold are entered, all else is a leaf."""
    for key, value in cfgs.items():
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if key in _FREE_FORM and key in defaults:
            continue
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _leaves(value, default, (*path, key))
        else:
            yield (*path, key), value


def _complaint(value: Any, default: Any, name: str) -> str:
    """Say what is wrong with a value, or nothing."""
    if default is None:
        return ''
    if default == AUTO:
        if name in _NUMBER_OR_AUTO:
            words = (AUTO, DSRL) if name == 'target_return' else (AUTO,)
            wanted, fits = f'{", ".join(words)} or a number', value in words
        else:
            wanted, fits = 'auto, text or a number', isinstance(value, str)
        return '' if fits or _fits(value, 0.0) else f'must be {wanted}, not {_show(value)}'
    wanted = _kind_of(default)
    if isinstance(value, float) and isinstance(default, float):
        wanted = 'a finite number'
    if not _fits(value, default):
        return f'must be {wanted}, not {_show(value)}{_hint(value, default)}'
    if isinstance(value, (int, float)) and value > largest(name):
        return f'must be at most {largest(name):g}, not {_show(value)}'
    return _complaint_of_list(value, default[0]) if isinstance(default, list) and default else ''


def _complaint_of_list(value: list[Any], default: Any) -> str:
    for element in value:
        if not _fits(element, default):
            return f'must be a list of {_PLURALS[type(default)]}, but holds {_show(element)}'
    if isinstance(default, int) and (
        len(value) > MOST_LAYERS or max(value, default=0) > LARGEST_LAYER
    ):
        return f'must be at most {MOST_LAYERS} sizes of at most {LARGEST_LAYER}'
    return ''


def _fits(value: Any, default: Any) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, (int, float)) and isinstance(value, (int, float)):
        # Not so for NaN.
        is_whole = isinstance(value, int) or isinstance(default, float)
        return is_whole and abs(value) <= LARGEST_NUMBER
    return isinstance(value, type(default))


_KINDS = {
    bool: 'true or false',
    int: 'an integer',
    float: 'a number',
    str: 'text',
    list: 'a list',
    dict: 'a section of options',
}
_PLURALS = {
    bool: 'truth values',
    int: 'integers',
    float: 'numbers',
    str: 'texts',
    list: 'lists',
    dict: 'sections',
}


def _kind_of(value: Any) -> str:
    return 'null' if value is None else _KINDS.get(type(value), type(value).__name__)


def _show(value: Any) -> str:
    return 'null' if value is None else repr(value)


def _hint(value: Any, default: Any) -> str:
    """Explain the two slips that look right to whoever made them."""
    if isinstance(value, str) and isinstance(default, (int, float)):
        try:
            return f' (a text; write {float(value)!r} without quotes)'
        except ValueError:
            return ''
    if isinstance(value, float) and value.is_integer() and isinstance(default, int):
        return f' (write {int(value)})'
    return ''


def _at(path: str, source: str) -> str:
    return f'{path} in {source}' if source else path


def _unknown_option(path: str, defaults: dict[str, Any], source: str) -> str:
    """Say that an option is unknown and what may have been meant."""
    section, _, name = path.rpartition(':')
    known = [':'.join(names) for names in _paths(defaults)]
    parents = {option: option.rpartition(':')[0] for option in known}
    names = {option: option.rpartition(':')[2] for option in known}
    siblings = [names[option] for option in known if parents[option] == section]
    meant = [f'{section}:{word}'.lstrip(':') for word in nearest(name, siblings, count=1)]
    meant = meant or [option for option in known if names[option] == name]
    meant = meant or nearest(path, known, count=1)
    ending = (
        f'did you mean {" or ".join(meant)}?' if meant else 'the YAML files in configs/ list all'
    )
    return f'unknown option {_at(path, source)}: {ending}'


def _paths(defaults: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in defaults.items():
        yield (*path, str(key))
        if isinstance(value, dict):
            yield from _paths(value, (*path, str(key)))
