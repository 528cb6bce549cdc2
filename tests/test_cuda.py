# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of a GPU, as tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cuda_checks


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.mark.parametrize('name', cuda_checks.CHECKS)
def test_on_a_gpu(name):
    try:
        cuda_checks.run_check(name)
    except cuda_checks.Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize('name', cuda_checks.LAST_CHECKS)
def test_on_a_gpu_in_a_process_of_its_own(name):
    code = f'import cuda_checks; cuda_checks.run_check({name!r})'
    subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent, check=True)
