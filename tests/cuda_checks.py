# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The core on a GPU: the same numbers as on a CPU, never waiting for it, captured and compiled.

Needs torch and numpy only: ``tests/test_cuda.py`` runs the checks as tests, and ``python -m
benchmarks.device_check`` where there is no pytest. With another :data:`DEVICE` most of them run on
a CPU, which checks the checks.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import parallel_helpers
from core_helpers import (
    OBS_DIM,
    batch_to,
    differing,
    episode_arrays,
    random_batch,
    random_trajectories,
    roughen,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.precision import tf32_products
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.transformer import TransformerPolicy
from omnisafe_qpt.training.cuda_graph import CapturedUpdate


DEVICE = 'cuda'
BACKEND = 'inductor'
# Windows of the checks at the paper's size; its context is 10, so 20,480 rows are drawn at once.
WINDOWS = 2048


class Skipped(Exception):
    """A check that the machine cannot do; the message says why."""


def assert_near(actual, expected, rel, abs, name=''):
    """Compare two numbers."""
    assert math.isclose(actual, expected, rel_tol=rel, abs_tol=abs), (name, actual, expected)


def is_cuda():
    return DEVICE == 'cuda'


def synchronize():
    if is_cuda():
        torch.cuda.synchronize()


@contextlib.contextmanager
def no_waiting():
    """Raise wherever the host waits for the device."""
    if not is_cuda():
        yield
        return
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


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


def check_update_in_each_precision(precision):
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


def check_reduced_precision_stays_near_float32():
    metrics = {}
    for precision in ('float32', 'tf32', 'bf16_emulated'):
        learner = rough_learner(small_config(precision=precision, penalty_critic='first'), DEVICE)
        learner.update(batch_to(random_batch(num_windows=60), DEVICE))
        metrics[precision] = learner.pop_metrics()
    for name, value in metrics['float32'].items():
        assert_near(metrics['tf32'][name], value, 0.02, 0.01, name)
        assert_near(metrics['bf16_emulated'][name], value, 0.05, 0.02, name)


def check_one_update_equals_that_on_a_cpu():
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
        assert_near(metrics[name], value, 1e-3, 1e-5, name)
    for name, move in expected.items():
        if not name.endswith('key_value.bias'):  # its keys' half has no gradient but rounding
            assert (moves[name] - move).norm() <= 1e-2 * move.norm(), name


def check_an_update_does_not_wait_for_the_device(precision, penalty_critic):
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
    with no_waiting():
        for _ in range(3):
            learner.update(sampler.sample())
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
        for name, value in other.items():
            assert_near(one[name], value, 1e-2, 1e-4, name)
    for name, move in expected_moves.items():
        if not name.endswith('key_value.bias'):  # its keys' half has no gradient but rounding
            assert (moves[name] - move).norm() <= 5e-2 * move.norm(), name


def ordinary_updates(*args, **changes):
    learner, sampler = start(**changes)
    result = updates(lambda: learner.update(sampler.sample()), learner, *args)
    return result, sampler.generator.get_state(), torch.rand(3, device=DEVICE)


def check_captured_updates_equal_ordinary_ones(changes, prefetched):
    expected, numbers, drawn = ordinary_updates(10, (1, 6), prefetched=prefetched, **changes)
    learner, sampler = start(prefetched, **changes)
    step = CapturedUpdate(learner, sampler)
    actual = updates(step, learner, 10, (1, 6))
    assert step.is_captured == (DEVICE == 'cuda')
    assert learner.step == 10
    assert torch.equal(sampler.generator.get_state(), numbers)
    assert torch.equal(torch.rand(3, device=DEVICE), drawn)
    assert_alike(actual, expected)


def check_replays_do_not_wait_for_the_device():
    learner, sampler = start()
    step = CapturedUpdate(learner, sampler)
    for _ in range(5):
        step()
    with no_waiting():
        for _ in range(3):
            step()
    assert all(math.isfinite(value) for value in learner.pop_metrics().values())


def check_a_state_loaded_after_the_capture_is_what_replays_go_on_from():
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


def check_nothing_goes_on_after_a_failed_capture():
    """Run by itself: it leaves CUDA's allocator in a state that no other check should meet."""
    learner, sampler = start()
    iterate = learner.iterate

    def waiting(batch):
        batch.states.sum().item()
        iterate(batch)

    learner.iterate = waiting
    step = CapturedUpdate(learner, sampler)
    if not is_cuda():
        raise Skipped('captures are for CUDA')
    for _ in range(3):
        step()
    said = []
    for _ in range(2):
        try:
            step()
        except UserError as error:
            said.append(str(error))
    assert len(said) == 2
    assert all('train_cfgs:accelerate none' in line and '\n' not in line for line in said)
    assert learner.step == 3


# ---------------------------------------------------------------------- torch.compile


def check_compiled_updates_are_near_ordinary_ones_and_compiled_once(precision, captured):
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
    assert compiled == 8 * [3]  # the targets, and a loss each of critics and policy
    assert not torch._dynamo.utils.counters['graph_break']
    if step is not None:
        assert step.is_captured == (DEVICE == 'cuda')
    assert torch.equal(sampler.generator.get_state(), numbers)
    for name, value in expected_metrics[0].items():
        assert_near(metrics[0][name], value, 0.05, 0.02, name)
    if precision == 'float32':
        assert_alike((moves, metrics), (expected_moves, expected_metrics))


def check_compiled_dropout_is_drawn_anew_in_replays():
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


def check_deterministic_algorithms_repeat_every_bit(precision, captured):
    before = os.environ.get('CUBLAS_WORKSPACE_CONFIG')
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
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
        os.environ.pop('CUBLAS_WORKSPACE_CONFIG')
        if before is not None:
            os.environ['CUBLAS_WORKSPACE_CONFIG'] = before
    (first, metrics), (again, metrics_again) = results
    assert not differing(first, again)
    assert metrics == metrics_again


# ---------------------------------------------------------------------- rollout, states


def check_rollout_equals_that_on_a_cpu(candidates, shift):
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((12, 3, OBS_DIM)).astype(np.float32)
    rewards = generator.standard_normal((12, 3)).astype(np.float32)
    actions = {}
    for device in ('cpu', DEVICE):
        learner = rough_learner(small_config(), device)
        networks = DeployableNetworks.from_learner(learner, {'horizon': 30})
        rollout = RolloutPolicy(
            networks, DeploymentConfig(candidates=candidates, candidate_shift=shift), 3
        )
        rollout.reset(4.0, seeds=[1, 2, 3])
        chosen = []
        for t in range(12):
            action = rollout.act(observations[t])
            assert action.device.type == device
            chosen.append(action.cpu())
            rollout.observe(rewards[t], 0.25)
        actions[device] = torch.stack(chosen)
    torch.testing.assert_close(actions[DEVICE], actions['cpu'], atol=1e-3, rtol=0)


def check_a_state_moves_between_devices():
    config = small_config(penalty_critic='first')
    source = rough_learner(config, DEVICE)
    source.update(batch_to(random_batch(), DEVICE))
    on_cpu = small_learner(config, seed=9)
    on_cpu.load_state_dict(deepcopy(source.state_dict()))
    for name, value in tensors_of(source).items():
        assert torch.equal(tensors_of(on_cpu)[name], value.cpu())
    on_cpu.update(random_batch(seed=1))
    assert all(math.isfinite(value) for value in on_cpu.pop_metrics().values())


# ---------------------------------------------------------------------- the paper's size


def paper_policy():
    torch.manual_seed(0)
    return roughen(TransformerPolicy(OBS_DIM, 2, PolicyConfig()), scale=0.05).eval()


def paper_data():
    return Trajectories.from_arrays(episode_arrays(9 * (300,) + (4, 1), terminal=(1, 3)))


def check_a_batch_of_the_papers_size_is_that_of_a_cpu():
    data = paper_data()
    rows, _ = augment(data, 0.5, seed=0)
    number = torch.randint(
        WindowSampler(data, 10, WINDOWS, 0, rows=rows).num_items,
        (WINDOWS,),
        generator=torch.Generator().manual_seed(0),
    )
    moved = data.to(DEVICE)
    batches = [
        WindowSampler(table, 10, WINDOWS, 0, rows=table_rows).batch(number.to(device))
        for table, table_rows, device in (
            (data, rows, 'cpu'),
            (moved, augment(moved, 0.5, seed=0)[0], DEVICE),
        )
    ]
    assert batches[0].mask.numel() == 10 * WINDOWS
    for name in ('states', 'actions', 'timesteps', 'mask', 'action_mask', 'terminal'):
        assert torch.equal(*(getattr(batch, name).cpu() for batch in batches)), name
    for name in ('rewards', 'costs', 'return_to_go', 'cost_to_go'):
        torch.testing.assert_close(*(getattr(batch, name).cpu() for batch in batches), msg=name)


def check_attention_of_the_papers_size(dtype, compiled):
    """39 tokens, 8 heads of 16: attention under the policy's mask, forwards and backwards."""
    policy = paper_policy().to(DEVICE)
    mask = torch.arange(10) >= torch.arange(WINDOWS)[:, None] % 10
    generator = torch.Generator().manual_seed(0)
    exact = [
        torch.randn(WINDOWS, 39, 8, 16, generator=generator, dtype=torch.float64).transpose(1, 2)
        for _ in range(3)
    ]
    inputs = [x.to(DEVICE, dtype).detach().requires_grad_() for x in exact]
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
        bias = policy._bias(mask.to(DEVICE))
    assert bias.dtype == dtype
    attend = F.scaled_dot_product_attention
    if compiled:
        attend = torch.compile(attend, backend=BACKEND, fullgraph=True, dynamic=False)
    some = slice(None, None, 64)  # in full precision on the host
    for queries in (slice(None), slice(2, None, 4), slice(-1, None)):
        mixed = attend(inputs[0][:, :, queries], *inputs[1:], bias[:, :, queries])
        gradients = torch.autograd.grad(mixed.float().square().sum(), inputs)
        references = [x[some].clone().requires_grad_() for x in exact]
        expected = F.scaled_dot_product_attention(
            references[0][:, :, queries],
            *references[1:],
            bias[some, :, queries].detach().cpu().double(),
        )
        tolerance = {'atol': 1e-4, 'rtol': 1e-3}
        if dtype == torch.bfloat16:
            tolerance = {'atol': 0.06, 'rtol': 0.06}
        torch.testing.assert_close(mixed[some].detach().cpu().double(), expected, **tolerance)
        references = torch.autograd.grad(expected.square().sum(), references)
        for gradient, reference in zip(gradients, references):
            difference = (gradient[some].cpu().double() - reference).norm() / reference.norm()
            assert difference < (0.02 if dtype == torch.bfloat16 else 1e-4), difference


def check_updates_of_the_papers_size(precision, way):
    """Some updates, captured and compiled ones beside ordinary ones."""
    results = []
    # Without dropout, which compiled code draws otherwise.
    config = LearnerConfig(
        policy=PolicyConfig(dropout=0.0), precision=precision, penalty_critic='first'
    )
    data = paper_data().to(DEVICE)
    for how in ('none', way):
        torch.manual_seed(0)
        learner = small_learner(config, device=DEVICE)
        sampler = WindowSampler(data, 10, WINDOWS, seed=0)
        if how == 'compile':
            learner.compile(BACKEND)
        step = functools.partial(_draw_and_update, learner, sampler)
        if how != 'none':
            step = CapturedUpdate(learner, sampler)
        for _ in range(6):
            step()
        results.append(learner.pop_metrics())
    for name, value in results[0].items():
        assert_near(results[1][name], value, 0.05, 0.02, name)


def _draw_and_update(learner, sampler):
    learner.update(sampler.sample())


# ---------------------------------------------------------------------- several processes


def check_processes_update_as_one_does(size):
    """Over NCCL on a GPU each; what they hold in the end is what one process would."""
    if is_cuda() and torch.cuda.device_count() < size:
        raise Skipped(f'needs {size} CUDA devices')
    with tempfile.TemporaryDirectory() as folder:
        found = parallel_helpers.run_processes(Path(folder), size, DEVICE)
    for name, config in parallel_helpers.CASES.items():
        alone = parallel_helpers.train(config, parallel_helpers.Ranks(), DEVICE)
        for each in found:
            for key, tensor in alone['tensors'].items():
                if key.endswith('key_value.bias'):  # its keys' half has no gradient but rounding
                    continue
                torch.testing.assert_close(
                    each[name]['tensors'][key].cpu(), tensor.cpu(), atol=1e-3, rtol=1e-3, msg=key
                )
            assert not differing(each[name]['tensors'], found[0][name]['tensors'])


# ---------------------------------------------------------------------- the list


def _each(check, **values):
    """Name a check with each combination of values."""
    found = {check.__name__.removeprefix('check_'): check}
    for key, choices in values.items():
        found = {
            f'{name}[{key}={choice}]': functools.partial(run, **{key: choice})
            for name, run in found.items()
            for choice in choices
        }
    return found


_PRECISIONS = ('float32', 'bf16_emulated')
_DTYPES = (torch.float32, torch.bfloat16)
# What each check is called, and what runs it.
CHECKS = {
    **_each(check_update_in_each_precision, precision=('float32', 'tf32', 'bf16_emulated')),
    **_each(check_reduced_precision_stays_near_float32),
    **_each(check_one_update_equals_that_on_a_cpu),
    **_each(
        check_an_update_does_not_wait_for_the_device,
        precision=_PRECISIONS,
        penalty_critic=('random', 'pessimistic'),
    ),
    **_each(
        check_captured_updates_equal_ordinary_ones,
        changes=({}, {'precision': 'bf16_emulated'}, {'penalty_critic': 'pessimistic'}),
        prefetched=(False, True),
    ),
    **_each(check_replays_do_not_wait_for_the_device),
    **_each(check_a_state_loaded_after_the_capture_is_what_replays_go_on_from),
    **_each(
        check_deterministic_algorithms_repeat_every_bit,
        precision=_PRECISIONS,
        captured=(False, True),
    ),
    **_each(check_rollout_equals_that_on_a_cpu, candidates=(1, 6), shift=('history', 'last')),
    **_each(check_a_state_moves_between_devices),
    **_each(check_a_batch_of_the_papers_size_is_that_of_a_cpu),
    **_each(check_attention_of_the_papers_size, dtype=_DTYPES, compiled=(False, True)),
    **_each(check_updates_of_the_papers_size, precision=_PRECISIONS, way=('graph', 'compile')),
    **_each(check_processes_update_as_one_does, size=(1, 2)),
    **_each(
        check_compiled_updates_are_near_ordinary_ones_and_compiled_once,
        precision=_PRECISIONS,
        captured=(False, True),
    ),
    **_each(check_compiled_dropout_is_drawn_anew_in_replays),
}
# After these a process is to end.
LAST_CHECKS = _each(check_nothing_goes_on_after_a_failed_capture)


def run_check(name):
    """Run a check as if it were alone.

    Raises:
        Skipped: If the machine cannot do it.
    """
    with tf32_products(False):
        {**CHECKS, **LAST_CHECKS}[name]()
    synchronize()
