# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata of an exported model, and its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from .checks import LARGEST_NUMBER, printable, reason
from .targets import CALIBRATION_FORMAT


# Of the inputs, outputs and metadata of an exported model.
FORMAT = 4

_LONGEST_TEXT = 4096


def _is_number(value: Any, low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER) -> bool:
    # NaN is within no bounds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, 1, most)


def _are_numbers(value: Any, count: int | None = None) -> bool:
    """Return whether this is a list of this many numbers; by default of at least one."""
    if not isinstance(value, list) or not all(map(_is_number, value)):
        return False
    return bool(value) if count is None else len(value) == count


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_frontier(value: Any) -> bool:
    if not isinstance(value, dict) or not _are_numbers(value.get('costs')):
        return False
    costs = value['costs']
    return costs == sorted(costs) and _are_numbers(value.get('returns'), len(costs))


def _is_level(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {'target_cost', 'target_return'} <= value.keys()
        and all(
            value.get(name) is None or _is_number(value[name], low)
            for name, low in (
                ('target_cost', 0.0),
                ('target_return', -LARGEST_NUMBER),
                ('cost_bound', 0.0),
            )
        )
        and _is_number(value.get('cost_mean'))
        and _is_number(value.get('return_mean'))
        and _are_numbers(value.get('costs'))
    )


def _is_calibration(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.get('format') != CALIBRATION_FORMAT:
        return False
    levels, fallback = value.get('levels'), value.get('zero_action')
    return (
        isinstance(levels, list)
        and all(
            _is_level(level) and 'cost_bound' in level and level['target_cost'] is not None
            for level in levels
        )
        and (_is_level(fallback) if fallback is not None else bool(levels))
        and _is_count(value.get('episodes'), 10**9)
        and _is_count(value.get('comparisons'), 10**9)
        and _is_number(value.get('worst_cost'), 0.0)
    )


# For each field of the metadata: the condition as text and as a check. Action ranges are checked
# with the number of actions.
_ROOM = 100_000
_IS_COUNT = f'a whole number from 1 to {_ROOM}'
_IS_POSITIVE = f'a number above 0, at most {LARGEST_NUMBER:g}'
_IS_FROM_0 = f'a number from 0 to {LARGEST_NUMBER:g}'
_RULES = ('paper', 'bounded', 'discounted_budget')

_SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    'env_id': ('printable text', _is_text),
    **dict.fromkeys(
        ('obs_dim', 'act_dim', 'context_len'),
        (_IS_COUNT, lambda value: _is_count(value, _ROOM)),
    ),
    'candidates': ('a whole number from 1 to 10000', lambda value: _is_count(value, 10_000)),
    'horizon': ('a whole number from 1 to 1000000000', lambda value: _is_count(value, 10**9)),
    **dict.fromkeys(
        ('cost_limit', 'target_cost', 'target_spread', 'shift_scale'),
        (_IS_FROM_0, lambda value: _is_number(value, 0.0)),
    ),
    **dict.fromkeys(
        ('return_unit', 'cost_unit'),
        (_IS_POSITIVE, lambda value: _is_number(value, 0.0) and value > 0),
    ),
    'target_return': ('a number or null', lambda value: value is None or _is_number(value)),
    'calibration': (
        f'null or a target calibration of format {CALIBRATION_FORMAT} with finite numbers',
        _is_calibration,
    ),
    'frontier': ('costs, increasing, and as many returns', _is_frontier),
    'published_targets': (
        'a list of pairs of cost and return',
        lambda value: isinstance(value, list) and all(_are_numbers(pair, 2) for pair in value),
    ),
    'candidate_shift': ('history or last', lambda value: value in ('history', 'last')),
    'rule': ('the name of a selection rule', lambda value: value in _RULES),
    'reference_returns': ('two numbers', lambda value: _are_numbers(value, 2)),
    **dict.fromkeys(('dataset', 'run', 'checkpoint'), ('printable text', _is_text)),
    'dataset_sha256': ('text or null', lambda value: value is None or _is_text(value)),
    **dict.fromkeys(('trained_with', 'exported_with'), ('names and versions', _are_texts)),
}
# Numbers of the windows, of one episode.
_MOST_NUMBERS = 2**26


def parse_metadata(texts: dict[str, str]) -> dict[str, Any]:
    """Parse the fields' texts, and check the format's version.

    Args:
        texts (dict[str, str]): JSON of each field.

    Raises:
        ValueError: If a field is no JSON, or the model is not one that this runner reads.
    """
    metadata = {name: _parsed(name, text) for name, text in texts.items()}
    if 'omnisafe_qpt_format' not in metadata:
        raise ValueError('not a policy that omnisafe-qpt exported')
    version = metadata['omnisafe_qpt_format']
    if version != FORMAT or isinstance(version, (bool, float)):
        raise ValueError(
            f'has format {_shown(version)}, this runner reads {FORMAT}; export it again, or use '
            'the runner of the version that exported it',
        )
    return metadata


def _parsed(name: str, text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f'it holds {constant}')

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        problem = 'it is nested too deeply' if isinstance(error, RecursionError) else reason(error)
        raise ValueError(
            f'the metadata field {printable(name)[:80]} cannot be read ({problem}); export it '
            'again',
        ) from error


def check_metadata(metadata: dict[str, Any]) -> None:
    """Check metadata before anything is allocated from it.

    Args:
        metadata (dict[str, Any]): As JSON has it.

    Raises:
        ValueError: If a field is missing or impossible; the message names it.
    """
    for name, (expected, is_right) in _SCHEMA.items():
        if name not in metadata:
            raise ValueError(f'the metadata field {name} is missing; export it again')
        if not is_right(metadata[name]):
            _refuse(name, metadata[name], expected)
    obs_dim, act_dim, context_len = (
        metadata[name] for name in ('obs_dim', 'act_dim', 'context_len')
    )
    if context_len * (obs_dim + act_dim) > _MOST_NUMBERS:
        _refuse('context_len', context_len, f'smaller, for {obs_dim} + {act_dim} numbers a step')
    _check_range(metadata.get('action_range'), act_dim)


def _check_range(action_range: Any, act_dim: int) -> None:
    if action_range is None:
        return
    ends = action_range if isinstance(action_range, dict) else {}
    low, high = ends.get('low'), ends.get('high')
    is_right = _are_numbers(low, act_dim) and _are_numbers(high, act_dim)
    if not is_right or not (np.float32(low) < np.float32(high)).all():
        _refuse('action_range', action_range, f'null, or low and high, {act_dim} numbers each')


def _refuse(name: str, value: Any, expected: str) -> None:
    raise ValueError(
        f'the metadata field {name} is {_shown(value)}; it must be {expected}; export it again',
    )


def _shown(value: Any) -> str:
    """Format a JSON value briefly."""
    if isinstance(value, (dict, list)):
        return 'another list or object'
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 40 else f'{text[:40]}...'
