# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The option ``--exogenous``."""

from __future__ import annotations

import pytest

from omnisafe_qpt.cli import main
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.schema import components


def test_numbers_and_ranges():
    assert components('8,0-2,1') == (0, 1, 2, 8)
    assert components([8, 0]) == (0, 8)
    assert components(3) == (3,)
    assert components(None) == ()


@pytest.mark.parametrize('value', ['', '1-', '3-1', -1, 'wind', 1.5, True, [0, None], {'a': 1}])
def test_other_values_are_refused(value):
    with pytest.raises(UserError, match='components'):
        components(value)


def test_it_needs_a_dataset(capsys, tmp_path):
    for command in ('evaluate', 'calibrate'):
        assert main([command, str(tmp_path), '--exogenous', '0']) != 0
        assert '--offline' in capsys.readouterr().err
