# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of configurations: every option exists and has a valid value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import yaml

from omnisafe_qpt.errors import UserError, nearest
from omnisafe_qpt.schema import LARGEST_LAYER, LARGEST_NUMBER, MOST_LAYERS, largest
from omnisafe_qpt.settings.files import DSRL, FREE_FORM, Loader, kind_of, show
from omnisafe_qpt.settings.machine import AUTO
from omnisafe_qpt.settings.seeds import EPISODES_OF_A_RUN


if TYPE_CHECKING:
    from collections.abc import Iterator


_COUNTS = {
    'train_cfgs': (
        'total_steps',
        'evaluate_epoisodes',
        'final_evaluate_episodes',
        'calibrate_episodes',
        'evaluate_processes',
        'patience',
    ),
    'algo_cfgs': ('steps_per_epoch',),
    'logger_cfgs': ('save_model_freq',),
}

# A run has its own seeds for these episodes.
_EPISODES = ('evaluate_epoisodes', 'final_evaluate_episodes', 'calibrate_episodes')

_CHOICES = {
    'train_cfgs': {
        'accelerate': ('auto', 'none', 'graph', 'compile'),
        'data_device': ('auto', 'device', 'host'),
        'action_unit': ('auto', 'normalized', 'environment'),
        'calibrate': ('auto', 'model', 'simulator', 'none'),
        'init_units': ('run', 'data'),
    },
}

# NumPy and the simulators take 32 bits, and each of several processes has its own seed.
LARGEST_SEED = 2**31 - 1

# Options with the default auto that are otherwise numbers; the others are text.
_NUMBER_OR_AUTO = ('target_return', 'torch_threads', 'evaluate_processes')


def check_counts(cfgs: dict[str, Any]) -> None:
    """Check the seed and the numbers of steps, epochs and episodes of a run.

    Args:
        cfgs (dict): The complete configuration.

    Raises:
        UserError: If a number is too small, or the seed is invalid.
    """
    if not 0 <= cfgs['seed'] <= LARGEST_SEED:
        raise UserError(f'seed must be from 0 to {LARGEST_SEED}, not {cfgs["seed"]}')
    for section, names in _COUNTS.items():
        for name in names:
            # Not every algorithm has all of them.
            value = cfgs[section].get(name, AUTO)
            least = 0 if name in (*_EPISODES, 'patience') else 1
            if value != AUTO and not (isinstance(value, int) and value >= least):
                raise UserError(f'{section}:{name} must be at least {least}, not {show(value)}')
            if name in _EPISODES and value != AUTO and value > EPISODES_OF_A_RUN:
                raise UserError(
                    f'{section}:{name} must be at most {EPISODES_OF_A_RUN}, not {value}'
                )
    # One episode gives no estimate of the variance.
    if cfgs['train_cfgs'].get('calibrate_episodes') == 1:
        raise UserError('train_cfgs:calibrate_episodes must be 0, for none, or at least 2, not 1')


def check_choices(cfgs: dict[str, Any]) -> None:
    """Check the options with named values that no other check covers.

    Args:
        cfgs (dict): The complete configuration.

    Raises:
        UserError: If an option has an unknown value.
    """
    for section, options in _CHOICES.items():
        for name, choices in options.items():
            value = cfgs[section].get(name, choices[0])  # not every algorithm has every one
            if value not in choices:
                known = f'{", ".join(choices[:-1])} or {choices[-1]}'
                raise UserError(f'{section}:{name} must be {known}, not {show(value)}')


def parse_option(key: str, value: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Convert one option of the command line to a nested dictionary.

    If the default is text, the value is taken literally, so that a file may be called ``1.0``.

    Args:
        key (str): The option's path, for instance ``train_cfgs:total_steps``.
        value (str): Its value as typed.
        defaults (dict): The default configuration, which defines the option's type.

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
        if name in FREE_FORM:
            break
    is_text = isinstance(default, str) and default != AUTO
    option: dict[str, Any] = {names[-1]: value if is_text else parse_value(value)}
    for name in reversed(names[:-1]):
        option = {name: option}
    validate(option, defaults, '--custom-cfgs')
    return option


def parse_value(text: str) -> Any:
    """Parse a value of the command line as YAML, but never as a mapping or a date.

    Args:
        text (str): The value as typed.

    Returns:
        A boolean, a number, a list, None, or the text itself.
    """
    if text.strip() in ('None', 'null', '~'):
        return None
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (bool, int, float, list)) else text


def validate(cfgs: dict[str, Any], defaults: dict[str, Any], source: str = '') -> None:
    """Check that every option exists and is of its default's type.

    A number is accepted if the default is a number, an integer if the default is an integer. Null
    is accepted only if the default is null, which accepts any value. A list's elements follow the
    elements of its default.

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


def resolve_target_return(
    requested: str | float | None,
    env_id: str,
    cost_limit: float,
) -> float | None:
    """Convert the user's target return to a number.

    Args:
        requested (str, float or None): ``auto`` or None, ``dsrl``, or a number.
        env_id (str): The environment.
        cost_limit (float): Its cost limit.

    Returns:
        The number; None for ``auto``.

    Raises:
        UserError: If it is not one of these, or DSRL has no target for this task and limit.
    """
    if requested in (None, AUTO):
        return None
    if requested == DSRL:
        from omnisafe_qpt.data.tasks import published_target

        return published_target(env_id, cost_limit)
    is_number = isinstance(requested, (int, float)) and not isinstance(requested, bool)
    if isinstance(requested, str) or not is_number or not math.isfinite(requested):
        raise UserError(f'target_return must be auto, dsrl or a number, not {show(requested)}')
    return float(requested)


def _leaves(
    cfgs: dict[str, Any],
    defaults: Any,
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Iterate over the options; sections in the defaults are entered, other values are leaves."""
    for key, value in cfgs.items():
        default = defaults.get(key) if isinstance(defaults, dict) else None
        if key in FREE_FORM and key in defaults:
            continue
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _leaves(value, default, (*path, key))
        else:
            yield (*path, key), value


def _complaint(value: Any, default: Any, name: str) -> str:
    """Return what is wrong with a value, or an empty text."""
    if default is None:
        return ''
    if default == AUTO:
        if name in _NUMBER_OR_AUTO:
            words = (AUTO, DSRL) if name == 'target_return' else (AUTO,)
            wanted, fits = f'{", ".join(words)} or a number', value in words
        else:
            wanted, fits = 'auto, text or a number', isinstance(value, str)
        return '' if fits or _fits(value, 0.0) else f'must be {wanted}, not {show(value)}'
    wanted = kind_of(default)
    if isinstance(value, float) and isinstance(default, float):
        wanted = 'a finite number'
    if not _fits(value, default):
        return f'must be {wanted}, not {show(value)}{_hint(value, default)}'
    if isinstance(value, (int, float)) and value > largest(name):
        return f'must be at most {largest(name):g}, not {show(value)}'
    return _complaint_of_list(value, default[0]) if isinstance(default, list) and default else ''


def _complaint_of_list(value: list[Any], default: Any) -> str:
    for element in value:
        if not _fits(element, default):
            return f'must be a list of {_PLURALS[type(default)]}, but holds {show(element)}'
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


_PLURALS = {
    bool: 'truth values',
    int: 'integers',
    float: 'numbers',
    str: 'texts',
    list: 'lists',
    dict: 'sections',
}


def _hint(value: Any, default: Any) -> str:
    """Return a hint for two common mistakes: a number as text, an integer as a float."""
    if isinstance(value, str) and isinstance(default, (int, float)):
        try:
            meant = float(value)
        except ValueError:
            return ''
        return f' (a text; write {meant!r} without quotes)' if math.isfinite(meant) else ''
    if isinstance(value, float) and value.is_integer() and isinstance(default, int):
        return f' (write {int(value)})'
    return ''


def _at(path: str, source: str) -> str:
    return f'{path} in {source}' if source else path


def _unknown_option(path: str, defaults: dict[str, Any], source: str) -> str:
    """Return the error for an unknown option, with similar names."""
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
