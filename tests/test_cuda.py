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
"""The core on a GPU: the same numbers as on a CPU, and never waiting for the device."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from core_helpers import (
    OBS_DIM,
    batch_to,
    random_batch,
    random_trajectories,
    roughen,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.windows import WindowSampler


DEVICE = 'cuda'

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(autouse=True)
def _keep_the_precision_of_matrix_products():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def rough_learner(config, device):
    """The same weights of order one on any device."""
    learner = small_learner(config, device='cpu')
    for offset, name in enumerate(('policy', 'reward_critic', 'cost_critic')):
        roughen(getattr(learner, name), offset, scale=0.2)
        getattr(learner, f'target_{name}').load_state_dict(getattr(learner, name).state_dict())
    if device == 'cpu':
        return learner
    moved = small_learner(config, device=device)
    moved.load_state_dict(deepcopy(learner.state_dict()))
    return moved


@pytest.mark.parametrize('precision', ['float32', 'tf32', 'bf16'])
def test_update_in_each_precision(precision):
    config = small_config(precision=precision, policy=small_policy_config(dropout=0.1))
    learner = rough_learner(config, DEVICE)
    before = tensors_of(learner)
    for seed in range(3):
        learner.update(batch_to(random_batch(seed=seed), DEVICE))
    assert all(math.isfinite(value) for value in learner.pop_metrics().values())
    for name, value in tensors_of(learner).items():
        assert value.is_cuda == (DEVICE == 'cuda')
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert not torch.equal(value, before[name]), name


def test_reduced_precision_stays_near_float32():
    metrics = {}
    for precision in ('float32', 'tf32', 'bf16'):
        learner = rough_learner(small_config(precision=precision, penalty_critic='first'), DEVICE)
        learner.update(batch_to(random_batch(num_windows=60), DEVICE))
        metrics[precision] = learner.pop_metrics()
        torch.backends.cuda.matmul.allow_tf32 = False
    for name, value in metrics['float32'].items():
        assert metrics['tf32'][name] == pytest.approx(value, rel=0.02, abs=0.01), name
        assert metrics['bf16'][name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_one_update_equals_that_on_a_cpu():
    config = small_config(penalty_critic='first')
    results = {}
    for device in ('cpu', DEVICE):
        learner = rough_learner(config, device)
        before = tensors_of(learner)
        learner.update(batch_to(random_batch(), device))
        after = tensors_of(learner)
        moves = {name: (after[name] - before[name]).cpu() for name in before}
        results[device] = moves, learner.pop_metrics()
    (expected, expected_metrics), (moves, metrics) = results['cpu'], results[DEVICE]
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for name, move in expected.items():
        if not name.endswith('key_value.bias'):  # its keys' half has no gradient but rounding
            assert (moves[name] - move).norm() <= 1e-2 * move.norm(), name


@pytest.mark.parametrize('penalty_critic', ['random', 'pessimistic'])
@pytest.mark.parametrize('precision', ['float32', 'bf16'])
def test_an_update_does_not_wait_for_the_device(precision, penalty_critic):
    trajectories = random_trajectories().to(DEVICE)
    rows, _ = augment(trajectories, 0.5, seed=0)
    sampler = WindowSampler(trajectories, 5, 16, seed=0, rows=rows)
    config = small_config(
        precision=precision,
        penalty_critic=penalty_critic,
        policy=small_policy_config(dropout=0.1),
    )
    learner = small_learner(config, device=DEVICE)
    learner.update(sampler.sample())  # optimisers make their state at the first step
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(3):
            learner.update(sampler.sample())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert learner.step == 4
    assert all(math.isfinite(value) for value in learner.pop_metrics().values())


@pytest.mark.parametrize('candidates', [1, 6])
def test_rollout_equals_that_on_a_cpu(candidates):
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((12, 3, OBS_DIM)).astype(np.float32)
    rewards = generator.standard_normal((12, 3)).astype(np.float32)
    actions = {}
    for device in ('cpu', DEVICE):
        learner = rough_learner(small_config(), device)
        networks = DeployableNetworks.from_learner(learner, {'horizon': 30})
        rollout = RolloutPolicy(networks, DeploymentConfig(candidates=candidates), 3)
        rollout.reset(4.0, seeds=[1, 2, 3])
        chosen = []
        for t in range(12):
            action = rollout.act(observations[t])
            assert action.device.type == device
            chosen.append(action.cpu())
            rollout.observe(rewards[t], 0.25)
        actions[device] = torch.stack(chosen)
    torch.testing.assert_close(actions[DEVICE], actions['cpu'], atol=1e-3, rtol=0)


def test_a_state_moves_between_devices():
    config = small_config(penalty_critic='first')
    source = rough_learner(config, DEVICE)
    source.update(batch_to(random_batch(), DEVICE))
    on_cpu = small_learner(config, seed=9)
    on_cpu.load_state_dict(deepcopy(source.state_dict()))
    for name, value in tensors_of(source).items():
        assert torch.equal(tensors_of(on_cpu)[name], value.cpu())
    on_cpu.update(random_batch(seed=1))
    assert all(math.isfinite(value) for value in on_cpu.pop_metrics().values())
