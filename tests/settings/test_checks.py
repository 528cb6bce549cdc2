# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of options: what fits, what is refused, and the values of a command line."""

from __future__ import annotations

import re

import pytest

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.checks import parse_option, parse_value, resolve_target_return, validate


DEFAULTS = {
    'seed': 0,
    'train_cfgs': {'device': 'auto', 'total_steps': 100, 'resume': None, 'dataset': 'auto'},
    'algo_cfgs': {'gamma': 0.99, 'use_cost': True, 'rule': 'paper', 'total_cost': 1.0},
    'model_cfgs': {'actor': {'hidden_sizes': [256, 256], 'scales': [0.5], 'names': []}},
    'env_cfgs': {},
}


@pytest.mark.parametrize(
    'cfgs',
    [
        {},
        {'seed': 5, 'algo_cfgs': {'gamma': 1}},
        {'train_cfgs': {'device': 'cpu', 'resume': None}},
        {'train_cfgs': {'device': 3, 'resume': 'runs/x'}},
        {'model_cfgs': {'actor': {'hidden_sizes': [], 'scales': [1, 0.5], 'names': ['a', 1]}}},
        {'env_cfgs': {'anything': {'at': 'all'}}},
        DEFAULTS,
    ],
)
def test_what_fits_is_accepted(cfgs):
    validate(cfgs, DEFAULTS)


@pytest.mark.parametrize(
    ('cfgs', 'message'),
    [
        ({'sed': 1}, 'unknown option sed: did you mean seed?'),
        (
            {'algo_cfgs': {'gama': 1}},
            'unknown option algo_cfgs:gama: did you mean algo_cfgs:gamma?',
        ),
        ({'gamma': 1}, 'unknown option gamma: did you mean algo_cfgs:gamma?'),
        ({'train_cfgs': {'gamma': 1}}, 'did you mean algo_cfgs:gamma?'),
        # OmniSafe stops at the null.
        ({'train_cfgs': {'resume': None, 'total_step': 1}}, 'did you mean train_cfgs:total_steps?'),
        ({'zzz': 1}, 'unknown option zzz: the YAML files in configs/ list all'),
        ({'model_cfgs': {'actor': {'lr': {'x': 1}}}}, 'unknown option model_cfgs:actor:lr'),
        ({'seed': 0.5}, 'seed must be an integer, not 0.5'),
        ({'seed': 2.0}, 'seed must be an integer, not 2.0 (write 2)'),
        ({'seed': True}, 'seed must be an integer, not True'),
        ({'seed': None}, 'seed must be an integer, not null'),
        ({'algo_cfgs': {'gamma': '1e-4'}}, "not '1e-4' (a text; write 0.0001 without quotes)"),
        ({'algo_cfgs': {'gamma': 'high'}}, "algo_cfgs:gamma must be a number, not 'high'"),
        ({'algo_cfgs': {'gamma': {'x': 1}}}, 'algo_cfgs:gamma must be a number, not {'),
        ({'algo_cfgs': {'use_cost': 1}}, 'algo_cfgs:use_cost must be true or false, not 1'),
        ({'algo_cfgs': {'rule': 3}}, 'algo_cfgs:rule must be text, not 3'),
        ({'algo_cfgs': 3}, 'algo_cfgs must be a section of options, not 3'),
        ({'train_cfgs': {'device': [1]}}, 'train_cfgs:device must be auto, text or a number'),
        ({'model_cfgs': {'actor': {'hidden_sizes': 64}}}, 'hidden_sizes must be a list, not 64'),
        ({'model_cfgs': {'actor': {'hidden_sizes': [64, '64']}}}, "of integers, but holds '64'"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(cfgs, message):
    with pytest.raises(UserError) as raised:
        validate(cfgs, DEFAULTS)
    assert message in str(raised.value)


def test_the_message_names_where_the_mistake_is():
    with pytest.raises(UserError, match=r'unknown option sed in mine\.yaml:'):
        validate({'sed': 1}, DEFAULTS, 'mine.yaml')
    with pytest.raises(UserError, match=r'seed in mine\.yaml must be an integer'):
        validate({'seed': 'x'}, DEFAULTS, 'mine.yaml')


def test_a_target_return_is_a_number_dsrls_or_left_open():
    for requested, found in (('auto', None), (None, None), (3, 3.0), (-1.5, -1.5), ('dsrl', 500.0)):
        assert resolve_target_return(requested, 'SafetyBallRun-v0', 10.0) == found
    for wrong in ('best', 'DSRL', '3', True, float('nan'), float('inf'), [3.0]):
        with pytest.raises(UserError, match='must be auto, dsrl or a number'):
            resolve_target_return(wrong, 'SafetyBallRun-v0', 10.0)


# -- values of a command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('0.5', 0.5),
        ('1e-4', 0.0001),
        ('-1', -1),
        ('+2', 2),
        ('1E5', 100000.0),
        ('.5e-3', 0.0005),
        ('true', True),
        ('True', True),
        ('False', False),
        ('None', None),
        ('null', None),
        ('[64,64]', [64, 64]),
        ('[0.1, 1e-2]', [0.1, 0.01]),
        ('[a, b]', ['a', 'b']),
        ('cuda:0', 'cuda:0'),
        ('data/x.hdf5', 'data/x.hdf5'),
        ('a: b', 'a: b'),
        ('#hash', '#hash'),
        ('"quoted"', '"quoted"'),
        ('2024-01-01', '2024-01-01'),
        ('[1,', '[1,'),
        ('{a: 1}', '{a: 1}'),
        ('', ''),
        ('v1.2.3', 'v1.2.3'),
        ('e5', 'e5'),
    ],
)
def test_values_are_read_as_they_look(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ('key', 'text', 'expected'),
    [
        ('algo_cfgs:gamma', '1e-2', {'algo_cfgs': {'gamma': 0.01}}),
        ('algo-cfgs:use-cost', 'false', {'algo_cfgs': {'use_cost': False}}),
        ('algo_cfgs:rule', '1.5', {'algo_cfgs': {'rule': '1.5'}}),  # text stays text
        ('train_cfgs:device', '1', {'train_cfgs': {'device': 1}}),
        ('seed', '7', {'seed': 7}),
        ('env_cfgs:any:thing', '0.5', {'env_cfgs': {'any': {'thing': 0.5}}}),
    ],
)
def test_options_become_nested_dictionaries(key, text, expected):
    assert parse_option(key, text, DEFAULTS) == expected


@pytest.mark.parametrize(
    ('key', 'text', 'message'),
    [
        ('algo_cfgs:gama', '1', 'algo_cfgs:gama in --custom-cfgs: did you mean algo_cfgs:gamma?'),
        ('seed:deeper', '1', 'unknown option seed:deeper'),
        ('algo_cfgs', '1', 'algo_cfgs in --custom-cfgs must be a section'),
        ('seed', '1.5', 'seed in --custom-cfgs must be an integer, not 1.5'),
    ],
)
def test_wrong_options_are_refused(key, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_option(key, text, DEFAULTS)
