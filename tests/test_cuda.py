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
"""The core on a GPU: the same numbers as on a CPU, never waiting for it, captured and compiled."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from core_helpers import (
    OBS_DIM,
    batch_to,
    differing,
    random_batch,
    random_trajectories,
    roughen,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.graph import CapturedUpdate
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.windows import WindowSampler


DEVICE = 'cuda'
BACKEND = 'inductor'

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


# ---------------------------------------------------------------------- CUDA graphs

# Rates that differ in every update, dropout, and critics drawn at random.
CHANGING = {
    'policy': small_policy_config(dropout=0.2),
    'warmup_steps': 4,
    'lr_final_ratio': 0.1,
    'total_steps': 10,
    'penalty_critic': 'random',
}


def start(prefetched=False, **changes):
    """A learner and a sampler; two starts are alike in everything."""
    learner = rough_learner(small_config(**{**CHANGING, **changes}), DEVICE)
    trajectories = random_trajectories().to('cpu' if prefetched else DEVICE)
    sampler = WindowSampler(trajectories, 5, 16, seed=0)
    torch.manual_seed(1)
    return learner, PrefetchSampler(sampler, DEVICE) if prefetched else sampler


def updates(step, learner, count, look_after=(), before=None):
    """Do updates; returns how far each tensor has moved, and the metrics of each look."""
    before = before or tensors_of(learner)
    metrics = []
    for update in range(count):
        step()
        if update in look_after:
            metrics.append(learner.pop_metrics())
    metrics.append(learner.pop_metrics())
    return {name: value - before[name] for name, value in tensors_of(learner).items()}, metrics


def assert_alike(actual, expected):
    """Compare two results of :func:`updates`, to the rounding of sums in another order."""
    (moves, metrics), (expected_moves, expected_metrics) = actual, expected
    for one, other in zip(metrics, expected_metrics):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-4)
    for name, move in expected_moves.items():
        if not name.endswith('key_value.bias'):  # its keys' half has no gradient but rounding
            assert (moves[name] - move).norm() <= 5e-2 * move.norm(), name


def ordinary_updates(*args, **changes):
    learner, sampler = start(**changes)
    result = updates(lambda: learner.update(sampler.sample()), learner, *args)
    return result, sampler.generator.get_state(), torch.rand(3, device=DEVICE)


@pytest.mark.parametrize('prefetched', [False, True])
@pytest.mark.parametrize(
    'changes',
    [{}, {'precision': 'bf16'}, {'penalty_critic': 'pessimistic'}],
    ids=['default', 'bf16', 'pessimistic'],
)
def test_captured_updates_equal_ordinary_ones(changes, prefetched):
    expected, numbers, drawn = ordinary_updates(10, (1, 6), prefetched=prefetched, **changes)
    learner, sampler = start(prefetched, **changes)
    step = CapturedUpdate(learner, sampler)
    actual = updates(step, learner, 10, (1, 6))
    assert step.failure is None
    assert step.is_captured == (DEVICE == 'cuda')
    assert learner.step == 10
    assert torch.equal(sampler.generator.get_state(), numbers)
    assert torch.equal(torch.rand(3, device=DEVICE), drawn)
    assert_alike(actual, expected)


def test_replays_do_not_wait_for_the_device():
    learner, sampler = start()
    step = CapturedUpdate(learner, sampler)
    for _ in range(5):
        step()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(math.isfinite(value) for value in learner.pop_metrics().values())


def test_a_state_loaded_after_the_capture_is_what_replays_go_on_from():
    saving, sampler = start()
    for _ in range(3):
        saving.update(sampler.sample())
    saving.pop_metrics()
    state, before = deepcopy(saving.state_dict()), tensors_of(saving)
    numbers = sampler.generator.get_state()
    torch.manual_seed(7)
    expected = updates(lambda: saving.update(sampler.sample()), saving, 4, before=before)

    learner, sampler = start()
    step = CapturedUpdate(learner, sampler)
    for _ in range(5):
        step()
    learner.pop_metrics()
    learner.load_state_dict(state)
    sampler.generator.set_state(numbers)
    torch.manual_seed(7)
    assert_alike(updates(step, learner, 4, before=before), expected)
    assert learner.step == 7


def test_a_failed_capture_loses_nothing_and_says_why(monkeypatch):
    expected, numbers, drawn = ordinary_updates(8)
    learner, sampler = start()
    iterate = learner.iterate

    def waiting(batch):
        batch.states.sum().item()
        iterate(batch)

    monkeypatch.setattr(learner, 'iterate', waiting)
    step = CapturedUpdate(learner, sampler)
    actual = updates(step, learner, 8)
    assert not step.is_captured
    assert bool(step.failure) == (DEVICE == 'cuda')
    assert torch.equal(sampler.generator.get_state(), numbers)
    assert torch.equal(torch.rand(3, device=DEVICE), drawn)
    assert_alike(actual, expected)
    torch.cuda.synchronize()


# ---------------------------------------------------------------------- torch.compile


@pytest.mark.parametrize('captured', [False, True])
@pytest.mark.parametrize('precision', ['float32', 'bf16'])
def test_compiled_updates_are_near_ordinary_ones_and_compiled_once(precision, captured):
    # Compiled code draws other numbers.
    changes = {
        'precision': precision,
        'policy': small_policy_config(),
        'penalty_critic': 'first',
    }
    expected, numbers, _ = ordinary_updates(8, **changes)
    learner, sampler = start(**changes)
    learner.compile(BACKEND)
    step = CapturedUpdate(learner, sampler) if captured else None
    torch._dynamo.reset()  # what another test compiled may fit here too
    torch._dynamo.utils.counters.clear()
    compiled = []

    def counted():
        if step is None:
            learner.update(sampler.sample())
        else:
            step()
        compiled.append(torch._dynamo.utils.counters['stats']['unique_graphs'])

    (moves, metrics), (expected_moves, expected_metrics) = updates(counted, learner, 8), expected
    assert compiled == 8 * [2]
    assert not torch._dynamo.utils.counters['graph_break']
    if step is not None:
        assert step.failure is None
        assert step.is_captured == (DEVICE == 'cuda')
    assert torch.equal(sampler.generator.get_state(), numbers)
    assert metrics[0] == pytest.approx(expected_metrics[0], rel=0.05, abs=0.02)
    if precision == 'float32':
        assert_alike((moves, metrics), (expected_moves, expected_metrics))


def test_compiled_dropout_is_drawn_anew_in_replays():
    learner, sampler = start()
    learner.compile(BACKEND)
    batch = sampler.sample()
    sampler.sample = lambda: batch
    step = CapturedUpdate(learner, sampler)
    losses = []
    for _ in range(8):
        step()
        losses.append(learner.pop_metrics()['Loss/Loss_imitation'])
    assert len(set(losses)) == 8


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize('captured', [False, True])
@pytest.mark.parametrize('precision', ['float32', 'bf16'])
def test_deterministic_algorithms_repeat_every_bit(monkeypatch, precision, captured):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            learner, sampler = start(precision=precision)
            step = CapturedUpdate(learner, sampler)
            if not captured:

                def step(learner=learner, sampler=sampler):
                    learner.update(sampler.sample())

            for _ in range(8):
                step()
            results.append((tensors_of(learner), learner.pop_metrics()))
    finally:
        torch.use_deterministic_algorithms(False)
    (first, metrics), (again, metrics_again) = results
    assert not differing(first, again)
    assert metrics == metrics_again


# ---------------------------------------------------------------------- rollout, states


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
