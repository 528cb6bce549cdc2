# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Which arithmetic an update takes, on which device, and what it leaves of torch's own settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core_helpers import random_batch, small_config, small_learner
from omnisafe_qpt.qpt import precision


CPU, CUDA = torch.device('cpu'), torch.device('cuda')
X86 = 'processor : 0\nflags\t\t: fpu sse2 avx2 avx512f {}\nbugs : none\n'
ARM = 'processor : 0\nFeatures\t: fp asimd {} i8mm\nCPU part : 0xd40\n'


@pytest.mark.parametrize(
    ('facts', 'expected'),
    [
        (X86.format(''), False),
        (X86.format('avx512_bf16'), True),
        (X86.format('amx_bf16 amx_tile'), True),
        (X86.format('amx_tile avx512_vbmi2'), False),
        (ARM.format(''), False),
        (ARM.format('bf16'), True),
        ('no facts', False),
        (None, False),
    ],
)
def test_a_processor_is_known_by_its_instructions(facts, expected, tmp_path, monkeypatch):
    path = tmp_path / 'cpuinfo'
    if facts is not None:
        path.write_text(facts)
    monkeypatch.setattr(precision, '_CPU_FACTS', path)
    assert precision.has_bf16(CPU) == expected


@pytest.mark.parametrize('native', [False, True])
def test_a_gpu_is_asked_without_emulation(native, monkeypatch):
    def is_supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', is_supported)
    assert precision.has_bf16(CUDA) == native


@pytest.mark.parametrize(
    ('asked', 'native', 'expected', 'is_told'),
    [
        ('float32', False, 'float32', False),
        ('tf32', False, 'tf32', False),
        ('bf16', True, 'bf16', False),
        ('bf16', False, 'float32', True),
        ('bf16_emulated', True, 'bf16', False),
        ('bf16_emulated', False, 'bf16', False),
        ('auto', True, 'bf16', False),
        ('auto', False, 'float32', False),
    ],
)
def test_what_an_update_is_computed_in(asked, native, expected, is_told, monkeypatch, recwarn):
    monkeypatch.setattr(precision, 'has_bf16', lambda device: native)
    learner = small_learner(small_config(precision=asked))
    assert learner.precision == expected
    assert [str(told.message).count('\n') for told in recwarn] == is_told * [0]
    if is_told:
        assert 'bf16_emulated' in str(recwarn[0].message)
    seen = []
    policy = learner.policy.forward

    def watched(*args, **kwargs):
        seen.append(torch.is_autocast_enabled('cpu'))
        return policy(*args, **kwargs)

    monkeypatch.setattr(learner.policy, 'forward', watched)
    learner.update(random_batch())
    assert seen == [expected == 'bf16']
    assert not torch.is_autocast_enabled('cpu')


# What a program may have said of tf32 before: nothing, by the old interface, by the new one.
SETTINGS = {
    'nothing': '',
    'old': 'torch.backends.cuda.matmul.allow_tf32 = True',
    'old for all': "torch.set_float32_matmul_precision('high')",
    'new': "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    'new, exact': "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    'new for all': "torch.backends.fp32_precision = 'tf32'",
}
# The settings one by one, an error where torch refuses to tell them.
PROGRAM = """
import sys
import torch
sys.path.insert(0, {tests!r})
from benchmarks import measure, works
from core_helpers import random_batch, small_config, small_learner
from omnisafe_qpt.qpt.learner import Learner
matmul = torch.backends.cuda.matmul
name = 'fp32_precision' if hasattr(matmul, 'fp32_precision') else 'allow_tf32'
def told():
    found = []
    for read in (lambda: getattr(matmul, name), lambda: matmul.allow_tf32,
                 torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append('refused')
    return found
if {setting!r}.count('fp32_precision') and name != 'fp32_precision':
    sys.exit()
{setting}
seen, descend = [], Learner._descend
def watched(*args):
    seen.append(getattr(matmul, name))
    return descend(*args)
Learner._descend = watched
before = told()
for precision in ('float32', 'bf16_emulated', 'tf32'):
    learner = small_learner(small_config(precision=precision))
    seen.clear()
    learner.update(random_batch())
    expected = before[0] if precision != 'tf32' else (True if name == 'allow_tf32' else 'tf32')
    assert seen == 2 * [expected], (precision, seen)
    assert told() == before, (precision, told(), before)
for precision in ('float32', 'tf32'):
    works.in_precision(precision, lambda: None)()
    assert told() == before, (precision, told(), before)
"""


@pytest.mark.parametrize(
    'setting',
    [
        # Each starts a process of its own.
        pytest.param(setting, id=name, marks=[] if name == 'new' else pytest.mark.slow)
        for name, setting in SETTINGS.items()
    ],
)
def test_an_update_leaves_the_settings_of_the_process_alone(setting):
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(tests=str(tests), setting=setting)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tests.parent,
    )
    assert done.returncode == 0, done.stderr
