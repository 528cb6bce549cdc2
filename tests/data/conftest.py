# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of dataset files."""

from __future__ import annotations

import pytest

from dataset_helpers import LENGTHS
from omnisafe_qpt.data.trajectories import Trajectories


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS)


@pytest.fixture(name='trajectories')
def fixture_trajectories(arrays):
    return Trajectories.from_arrays(arrays)
