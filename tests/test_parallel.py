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
"""Several processes train as one process does with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omnisafe_qpt.core.parallel import Replicas
from parallel_helpers import CASES, run_processes, train, use_replicas


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_processes(tmp_path_factory.mktemp('processes'))


@pytest.mark.parametrize('case', CASES)
def test_two_processes_learn_what_one_does(found: list[dict[str, Any]], case: str) -> None:
    alone = train(CASES[case], Replicas())
    first, second = (process[case] for process in found)
    # The shares differ in how much of them is padding, so that means of means would be wrong.
    assert first['steps'] != second['steps']
    assert [sum(steps) for steps in zip(first['steps'], second['steps'])] == alone['steps']
    for name, tensor in alone['tensors'].items():
        assert torch.equal(first['tensors'][name], second['tensors'][name]), name
        # A weight may move by 1e-3 or 2e-3 in each of six updates.
        difference = (first['tensors'][name] - tensor).abs()
        if name.endswith('key_value.bias'):
            # No attention depends on a bias of all keys: its gradient is rounding errors only.
            difference = difference[len(difference) // 2 :]
        assert difference.max() < 2e-5, name
    assert first['metrics'] == second['metrics']
    assert first['metrics'] == pytest.approx(alone['metrics'], rel=1e-4, abs=1e-6)


def test_what_replicas_do_together(found: list[dict[str, Any]]) -> None:
    first, second = (process['replicas'] for process in found)
    for mine in (first, second):
        assert mine['average'].tolist() == [0.5, 1.5, 2.5]
        assert mine['integers'].tolist() == [2.0]
        assert mine['broadcast'].tolist() == [0]
        assert mine['shared'] == 'of 0'
    assert second['given'].tolist() == [1.0, 2.0, 3.0]  # as it was
    assert second['entered'] >= first['left']


def test_one_process_needs_no_others() -> None:
    mine = use_replicas(Replicas())
    assert mine['average'] is mine['given']
    assert mine['shared'] == 'of 0'
    module = torch.nn.Linear(1, 1)
    assert Replicas.from_process_group().wrap(module) is module
