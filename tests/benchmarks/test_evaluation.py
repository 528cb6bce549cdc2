# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of evaluation: what it times, and that both sides have the same simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evaluation as benchmark
from benchmarks import peers
from host_helpers import ENV_ID, HORIZON
from omnisafe_qpt.envs.environments import NumpyEnvironment


def test_osrls_loop_gets_the_same_simulator() -> None:
    env_id = 'SafetySwimmerVelocity-v1'
    ours, theirs = NumpyEnvironment(env_id), benchmark._OsrlEnvironment(env_id)
    action = np.full(2, 0.7, dtype=np.float32)
    for seed in range(benchmark.SEED, benchmark.SEED + 2):
        np.testing.assert_allclose(theirs.reset()[0], ours.reset(seed), rtol=1e-6)
        for _ in range(30):
            observation, reward, terminated, truncated, info = theirs.step(action)
            expected = ours.step(action)
            np.testing.assert_allclose(observation, expected[0], rtol=1e-5, atol=1e-6)
            assert reward == pytest.approx(expected[1], rel=1e-5)
            assert (info['cost'], terminated or truncated) == expected[2:]


def test_bullets_simulators_have_the_same_interface() -> None:
    """They take no seed."""
    environment = benchmark._OsrlEnvironment(ENV_ID)
    assert environment.reset()[0].shape == (7,)
    observation, reward, terminated, truncated, info = environment.step(np.zeros(2))
    assert observation.shape == (7,)
    assert np.isfinite([reward, info['cost']]).all()
    assert (terminated, truncated) == (False, False)


class Trainer:
    """As much of OSRL's trainer as is asked for: it never acts."""

    def rollout(self, model: Any, env: Any, *targets: float) -> tuple[float, int, float]:
        total_cost, steps, ended = 0.0, 0, False
        env.reset()
        while not ended:
            _, _, terminated, truncated, info = env.step(np.zeros(2, dtype=np.float32))
            ended = terminated or truncated
            total_cost, steps = total_cost + info['cost'], steps + 1
        return 0.0, steps, total_cost


class Model(torch.nn.Module):
    seq_len, state_dim, action_dim = 10, 7, 2

    def forward(self, *arguments: Any) -> None:
        pass


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    file = folder / 'result.json'
    command = ['evaluation', '--env-id', ENV_ID, '--preset', 'cpu', '--json', str(file)]
    monkeypatch.setattr(sys, 'argv', [*command, *arguments])
    assert benchmark.main() == 0
    return json.loads(file.read_text())


def test_both_sides_are_timed_and_compared(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers, 'osrl_cdt', lambda *sizes: (Model(), Trainer()))
    result = run(
        monkeypatch,
        tmp_path,
        *('--episodes', '4', '--osrl-episodes', '2', '--candidates', '2'),
        *('--processes', '2', '--compare', 'osrl'),
    )
    ours, osrl = result['rounds'][0]['ours'], result['rounds'][0]['osrl']
    assert ours['steps'] == osrl['steps'] == 4 * HORIZON
    assert osrl['episodes_measured'] == 2
    assert result['evaluation_vs_osrl'] == pytest.approx(ours['seconds'] / osrl['seconds'])
    assert result['cpu_vs_osrl'] == pytest.approx(ours['cpu_seconds'] / osrl['cpu_seconds'])
    assert ours['cpu_seconds'] > 0
    assert ours['steps_per_second'] >= ours['steps'] / ours['seconds']
    assert (result['processes'], result['candidates'], result['policy']['embed_dim']) == (2, 2, 64)
    assert f'{result["evaluation_vs_osrl"]:.2f}' in capsys.readouterr().out


def test_ours_alone_has_no_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(monkeypatch, tmp_path, '--episodes', '1', '--candidates', '1', '--rounds', '2')
    assert result['evaluation_vs_osrl'] is None
    assert [list(each) for each in result['rounds']] == [['ours'], ['ours']]


def test_further_episodes_are_like_those_measured_after_the_first() -> None:
    rows = [
        {'seconds': 9.0, 'cpu_seconds': 8.0, 'steps': 100, 'reset_seconds': 5.0},
        {'seconds': 4.0, 'cpu_seconds': 3.0, 'steps': 100, 'reset_seconds': 1.0},
        {'seconds': 6.0, 'cpu_seconds': 5.0, 'steps': 50, 'reset_seconds': 1.0},
    ]
    assert benchmark._extrapolated(rows, 3)['seconds'] == pytest.approx(19.0)
    many = benchmark._extrapolated(rows, 21)
    assert many['seconds'] == pytest.approx(9.0 + 20 * 5.0)
    assert many['cpu_seconds'] == pytest.approx(8.0 + 20 * 4.0)
    assert many['steps'] == pytest.approx(100 + 20 * 75)
    assert benchmark._extrapolated(rows[:1], 2)['seconds'] == pytest.approx(18.0)


def test_osrl_that_is_not_there_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'argv', ['evaluation', '--env-id', ENV_ID, '--compare', 'osrl'])
    assert benchmark.main() == 1
    errors = capsys.readouterr().err
    assert 'OSRL is not installed' in errors
    assert 'round' not in errors
