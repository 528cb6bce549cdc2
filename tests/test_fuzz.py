# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The fuzz suite: it sees every way to fail, goes on after each, and passes on a few cases."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import fuzz


def crash(case):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(case):
    time.sleep(600)


def fail(case):
    raise KeyError('a traceback')


def leave(case):
    case.canary.touch()
    return fuzz.OK


def lose(case):
    kept = fuzz.fingerprint(case.sound)
    (case.sound / 'file').write_text('other')
    fuzz.check_kept(kept, case.sound)
    return fuzz.OK


def lines(case):
    return fuzz.refused(ValueError('one\ntwo'))


def grow(case):
    return fuzz.OK if np.ones(2 * fuzz.MEMORY, dtype='u1').all() else fuzz.REFUSED


def succeed(case):
    return fuzz.OK


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='memory is limited by /proc')
def test_every_way_to_fail_is_seen_and_the_rest_goes_on(tmp_path, monkeypatch):
    ways = (crash, hang, fail, leave, lose, lines, grow)
    kinds = {str(number): (way, 1) for number, way in enumerate((*ways, succeed, succeed))}
    monkeypatch.setattr(fuzz, '_import_all', lambda: None)
    monkeypatch.setattr(fuzz, '_warm_up', lambda sound: None)
    monkeypatch.setattr(fuzz, 'SECONDS', 4.0)
    monkeypatch.setattr(fuzz, 'KINDS', kinds)
    monkeypatch.setattr(fuzz, 'kind_of', lambda number: str(number % len(kinds)))
    (tmp_path / 'file').write_text('sound')
    said = []
    outcomes = fuzz.run_cases(tmp_path, 0, list(range(len(kinds))), 2, said.append)
    results = {outcome.number: outcome.result for outcome in outcomes}
    assert results == {
        **dict.fromkeys(range(len(ways)), fuzz.FAILED),
        **dict.fromkeys(range(len(ways), len(kinds)), fuzz.OK),
    }
    assert len(said) == len(ways)


def test_a_case_is_the_same_each_time():
    content = np.random.default_rng(0).bytes(1000)
    damaged = [
        [fuzz.damage_bytes(content, np.random.default_rng([seed, 7])) for _ in range(2)]
        for seed in range(20)
    ]
    assert all(first == second for first, second in damaged)
    assert len({first for first, _ in damaged}) > 10
    assert {fuzz.kind_of(number) for number in range(100)} >= set(fuzz.KINDS) - {'ONNX'}


@pytest.mark.slow
def test_damage_ends_in_success_or_in_one_error(tmp_path):
    sound = tmp_path / 'sound'
    sound.mkdir()
    fuzz.make_sound(sound)
    before = fuzz.fingerprint(sound)
    outcomes = fuzz.run_cases(sound, 1, list(range(60)), 2)
    failed = [outcome for outcome in outcomes if outcome.result == fuzz.FAILED]
    assert not failed, '\n'.join(f'case {each.number}: {each.text}' for each in failed)
    assert {outcome.result for outcome in outcomes} == {fuzz.OK, fuzz.REFUSED}
    assert fuzz.fingerprint(sound) == before
