# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The option ``--exogenous``."""

from __future__ import annotations

import pytest

from omnisafe_qpt.cli import main
from omnisafe_qpt.cli.common import components


def test_numbers_and_ranges():
    assert components('8,0-2,1') == (0, 1, 2, 8)


@pytest.mark.parametrize('text', ['', '1-', '-1', 'wind'])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match='int'):
        components(text)


def test_it_needs_a_dataset(capsys, tmp_path):
    for command in ('evaluate', 'calibrate'):
        assert main([command, str(tmp_path), '--exogenous', '0']) != 0
        assert '--offline' in capsys.readouterr().err
