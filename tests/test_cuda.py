# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
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
