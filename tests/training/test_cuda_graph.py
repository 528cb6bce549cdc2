# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""An update can be captured once and replayed; the capture itself is stood in for by a tape."""

from __future__ import annotations

import contextlib
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from core_helpers import (
    batch_to,
    differing,
    random_batch,
    random_trajectories,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt import critics, kernels, transformer
from omnisafe_qpt.qpt.config import OptimizerConfig
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.training import cuda_graph as graph
from omnisafe_qpt.training.cuda_graph import CapturedUpdate
from tape import Tape


# Rates that differ in every update, dropout, and critics drawn at random.
CHANGING = {
    'policy': small_policy_config(dropout=0.2),
    'warmup_steps': 3,
    'lr_final_ratio': 0.1,
    'total_steps': 9,
    'penalty_critic': 'random',
}


def start(seed=0, **changes):
    """A learner and a sampler with relabelled episodes; two starts are alike in everything."""
    learner = small_learner(small_config(**{**CHANGING, **changes}), seed)
    trajectories = random_trajectories()
    rows, _ = augment(trajectories, 0.5, seed=0)
    sampler = WindowSampler(trajectories, 5, 16, seed=seed, rows=rows)
    torch.manual_seed(seed + 1)
    return learner, sampler


def places_of(learner):
    """The tensors themselves that an update changes, metrics apart."""
    state = learner.state_dict()
    networks = {
        f'{name}.{key}': value
        for name, values in state.items()
        if isinstance(values, dict) and 'optimizer' not in name and name != 'metrics'
        for key, value in values.items()
    }
    moments = {
        f'{name}.{index}.{key}': value
        for name in ('policy_optimizer', 'critic_optimizer')
        for index, values in state[name]['state'].items()
        for key, value in values.items()
    }
    return {**networks, **moments}


def all_of(learner, sampler):
    """Everything that an update changes, metrics apart, as it is now."""
    return {
        **{name: place.clone() for name, place in places_of(learner).items()},
        'default generator': torch.get_rng_state(),
        "sampler's generator": sampler.generator.get_state(),
    }


def put_back(learner, sampler, values):
    for name, place in places_of(learner).items():
        place.copy_(values[name])
    torch.set_rng_state(values['default generator'])
    sampler.generator.set_state(values["sampler's generator"])


@pytest.fixture(name='plain_kernels')
def fixture_plain_kernels(monkeypatch):
    """Let the networks use torch's functions, as they do on other devices than a CPU."""
    monkeypatch.setattr(transformer, 'attention', F.scaled_dot_product_attention)
    monkeypatch.setattr(critics, 'mish', F.mish)
    monkeypatch.setattr(
        kernels.Dropout, 'forward', lambda self, x: F.dropout(x, self.probability, self.training)
    )


# ---------------------------------------------------------------------- replays


def eager_updates(count, **changes):
    learner, sampler = start(**changes)
    for _ in range(count):
        learner.update(sampler.sample())
    return all_of(learner, sampler), learner.pop_metrics(), learner.step


def taped_updates(count, **changes):
    """One ordinary update, in which the optimisers make their state, one on tape, and replays."""
    learner, sampler = start(**changes)
    learner.update(sampler.sample())
    tape = Tape()

    def taped():
        with tape:
            learner.iterate(sampler.sample())

    learner.advance(taped)
    for _ in range(count - 2):
        learner.advance(tape.replay)
    return all_of(learner, sampler), learner.pop_metrics(), learner.step


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'precision': 'bf16_emulated'},
        {'penalty_critic': 'pessimistic', 'cost_value': 'max'},
        {'penalty_critic': 'first', 'use_reward_critic': False},
        {'use_reward_critic': False, 'use_cost_critic': False, 'train_critics': False},
    ],
    ids=['default', 'bf16', 'pessimistic', 'first', 'imitation'],
)
def test_replays_equal_updates(changes):
    expected, expected_metrics, steps = eager_updates(8, **changes)
    replayed, metrics, replayed_steps = taped_updates(8, **changes)
    assert replayed.keys() == expected.keys()
    assert not differing(expected, replayed)
    assert metrics == expected_metrics
    assert steps == replayed_steps == 8


def test_replays_equal_updates_with_the_functions_of_other_devices(plain_kernels):
    expected, expected_metrics, _ = eager_updates(8)
    replayed, metrics, _ = taped_updates(8)
    assert not differing(expected, replayed)
    assert metrics == expected_metrics


def test_each_replay_draws_another_batch_another_critic_and_other_dropout():
    still = OptimizerConfig(lr=1e-12, weight_decay=0.0)
    learner, sampler = start(policy_optimizer=still, critic_optimizer=still)
    with torch.no_grad():
        for name in ('reward_critic', 'cost_critic'):
            for critic in (getattr(learner, name), getattr(learner, f'target_{name}')):
                critic.weights[-1].zero_()
                critic.biases[-1].copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1))
    batch = random_batch()
    learner.update(batch)
    fixed, drawing = Tape(), Tape()
    with fixed:
        learner.iterate(batch)
    with drawing:
        learner.iterate(sampler.sample())
    learner.pop_metrics()
    seen = {fixed: [], drawing: []}
    for _ in range(12):
        for tape, metrics in seen.items():
            learner.advance(tape.replay)
            metrics.append(learner.pop_metrics())
    for key in ('Qr/current_Qr', 'Qc/current_Qc'):
        assert {round(metrics[key]) for metrics in seen[fixed]} == {1, 2}
    assert len({metrics['Loss/Loss_imitation'] for metrics in seen[fixed]}) == 12  # dropout
    assert len({metrics['Qr/target_Qr'] for metrics in seen[fixed]}) == 1
    assert len({metrics['Qr/target_Qr'] for metrics in seen[drawing]}) == 12


_ITERATE, _UPDATE_TARGETS = Learner.iterate, Learner._update_targets


def _rates_as_numbers(learner):
    for optimizer in (learner._policy_optimizer, learner._critic_optimizer):
        for group in optimizer.param_groups:
            group['lr'] = 1e-3 * learner._lr_ratio(learner.step)


def _critic_chosen_in_python(learner, batch):
    learner._first_member = torch.tensor([learner.step % 2])
    _ITERATE(learner, batch)


def _sums_in_another_place(learner, batch):
    learner._metric_sums = learner._metric_sums.clone()
    _ITERATE(learner, batch)


def _targets_every_other_time(learner):
    if learner.step % 2:
        _UPDATE_TARGETS(learner)


@pytest.mark.parametrize(
    ('name', 'fault'),
    [
        ('_fill_learning_rates', _rates_as_numbers),
        ('iterate', _critic_chosen_in_python),
        ('iterate', _sums_in_another_place),
        ('_update_targets', _targets_every_other_time),
    ],
)
def test_the_comparison_would_notice(monkeypatch, name, fault):
    """Each of these does well as long as Python does every update."""
    monkeypatch.setattr(Learner, name, fault)
    expected, expected_metrics, _ = eager_updates(6, penalty_critic='first')
    replayed, metrics, _ = taped_updates(6, penalty_critic='first')
    assert differing(expected, replayed) or metrics != expected_metrics


# ---------------------------------------------------------------------- waiting for a device


@pytest.mark.parametrize('penalty_critic', ['random', 'first', 'pessimistic'])
@pytest.mark.parametrize('precision', ['float32', 'bf16_emulated'])
def test_nothing_in_an_update_waits_for_the_device(precision, penalty_critic):
    learner, sampler = start(precision=precision, penalty_critic=penalty_critic)
    with Tape() as tape:
        for _ in range(2):
            learner.update(sampler.sample())
    names = tape.names()
    assert {'index_select', 'baddbmm', '_fused_adamw_', '_foreach_lerp_', 'fill_'} <= set(names)
    assert tape.waiting() == []


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.repeat_interleave(x.long().abs()),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_tape_would_notice_a_wait(wait):
    with Tape() as tape:
        wait(torch.tensor([1.0, -1.0, 2.0]))
    assert tape.waiting()


@pytest.mark.parametrize('penalty_critic', ['random', 'first', 'pessimistic'])
def test_an_update_needs_no_value_on_the_host(monkeypatch, penalty_critic):
    """On the meta device there are no values, and modules take the path of other devices.

    Optimisers have no fused kernels there, and autocast does not know it.
    """
    monkeypatch.setattr(
        Learner,
        '_optimizer',
        lambda self, parameters, config: torch.optim.SGD(parameters, lr=torch.zeros(())),
    )
    monkeypatch.setattr(torch.optim.SGD, 'step', lambda self: None)
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda device: False)
    config = small_config(**{**CHANGING, 'penalty_critic': penalty_critic})
    learner = small_learner(config, device='meta')
    for _ in range(2):
        learner.update(batch_to(random_batch(), 'meta'))
    assert learner.step == 2
    assert all(parameter.grad.is_meta for parameter in learner.policy.parameters())


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: x + torch.ones(3),
    ],
)
def test_the_meta_device_would_notice_a_wait(wait):
    with pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.ones(3, device='meta'))


# ---------------------------------------------------------------------- CapturedUpdate


@pytest.fixture(name='capture_on_tape')
def fixture_capture_on_tape(monkeypatch):
    """Let a tape stand in for CUDA's capture, which takes work down without doing it."""

    def use(learner, sampler, fails=False):
        captures = []

        def captured(device, work, generators):
            assert device == learner.device
            captures.append((learner.step, generators))
            before, sums = all_of(learner, sampler), learner._metric_sums.clone()
            with Tape() as tape:
                work()
            put_back(learner, sampler, before)
            learner._metric_sums.copy_(sums)
            if fails:
                try:
                    raise RuntimeError('the reason')
                except RuntimeError:
                    raise RuntimeError('a consequence')  # noqa: B904
            return tape.replay

        monkeypatch.setattr(graph, '_is_capturable', lambda learner: True)
        monkeypatch.setattr(graph, '_on_side_stream', lambda device, work: work())
        monkeypatch.setattr(graph, '_captured', captured)
        return captures

    return use


def test_on_a_cpu_all_updates_are_ordinary():
    learner, sampler = start()
    step = CapturedUpdate(learner, sampler)
    for _ in range(6):
        step()
    assert not step.is_captured
    expected, expected_metrics, _ = eager_updates(6)
    assert not differing(expected, all_of(learner, sampler))
    assert learner.pop_metrics() == expected_metrics


def test_captured_updates_equal_ordinary_ones(capture_on_tape):
    """None is lost or done twice, whatever is asked of the learner in between."""
    learner, sampler = start()
    captures = capture_on_tape(learner, sampler)
    step, metrics = CapturedUpdate(learner, sampler), []
    captured = []
    for update in range(9):
        step()
        captured.append(step.is_captured)
        if update in {1, 4, 6}:
            metrics.append(learner.pop_metrics())
    assert captured == 3 * [False] + 6 * [True]
    assert captures == [(3, [sampler.generator])]

    plain, plain_sampler = start()
    expected_metrics = []
    for update in range(9):
        plain.update(plain_sampler.sample())
        if update in {1, 4, 6}:
            expected_metrics.append(plain.pop_metrics())
    assert not differing(all_of(plain, plain_sampler), all_of(learner, sampler))
    assert metrics == expected_metrics
    assert learner.pop_metrics() == plain.pop_metrics()
    assert learner.step == plain.step == 9


@pytest.mark.parametrize('of_step', [0, 2, 6])
def test_a_state_loaded_after_the_capture_is_what_replays_go_on_from(capture_on_tape, of_step):
    saving, saving_sampler = start(seed=5)
    for _ in range(of_step):
        saving.update(saving_sampler.sample())
    state = deepcopy(saving.state_dict())
    numbers = torch.get_rng_state(), saving_sampler.generator.get_state()
    for _ in range(3):
        saving.update(saving_sampler.sample())
    expected, expected_metrics = all_of(saving, saving_sampler), saving.pop_metrics()

    learner, sampler = start()
    capture_on_tape(learner, sampler)
    step = CapturedUpdate(learner, sampler)
    for _ in range(5):
        step()
    learner.pop_metrics()
    learner.load_state_dict(state)
    torch.set_rng_state(numbers[0])
    sampler.generator.set_state(numbers[1])
    for _ in range(3):
        assert step.is_captured
        step()
    assert not differing(expected, all_of(learner, sampler))
    assert learner.pop_metrics() == expected_metrics
    assert learner.step == of_step + 3


@pytest.mark.parametrize('prefetched', [False, True])
def test_nothing_goes_on_after_a_failed_capture(capture_on_tape, prefetched):
    """The updates up to it are done, and every later call says the same in one line."""
    learner, sampler = start()
    captures = capture_on_tape(learner, sampler, fails=True)
    drawn = PrefetchSampler(sampler, 'cpu') if prefetched else sampler
    step = CapturedUpdate(learner, drawn)
    step._is_drawn_inside = not prefetched
    for _ in range(3):
        step()
    for _ in range(2):
        with pytest.raises(UserError, match=r'\(the reason\).* train_cfgs:accelerate none') as told:
            step()
        assert '\n' not in str(told.value)
    if prefetched:
        drawn.close()
    assert not step.is_captured
    assert captures[0][0] == learner.step == 3
    plain, plain_sampler = start()
    for _ in range(3):
        plain.update(plain_sampler.sample())
    assert not differing(tensors_of(plain), tensors_of(learner))


def test_prefetched_batches_are_brought_to_the_graph(capture_on_tape, monkeypatch):
    learner, sampler = start()
    captures = capture_on_tape(learner, sampler)
    copied = []
    copy = torch._foreach_copy_

    def counted(targets, sources):
        copied.append([target.is_contiguous() for target in targets])
        copy(targets, sources)

    prefetching = PrefetchSampler(sampler, 'cpu')
    step = CapturedUpdate(learner, prefetching)
    step._is_drawn_inside = False  # as if the learner were on another device
    with monkeypatch.context() as patch:
        patch.setattr(torch, '_foreach_copy_', counted)
        for _ in range(7):
            step()
    prefetching.close()
    assert step.is_captured
    assert captures == [(3, [])]
    assert copied == 6 * [5 * [True]]  # the packed tensors, not the batch's ten views of them
    expected, expected_metrics, _ = eager_updates(7)
    assert not differing(expected, all_of(learner, sampler))
    assert learner.pop_metrics() == expected_metrics


@pytest.mark.parametrize(
    ('device', 'size', 'expected'), [('cuda:0', 1, True), ('cuda:0', 2, False), ('cpu', 1, False)]
)
def test_a_graph_is_for_one_process_with_a_gpu(device, size, expected):
    learner = SimpleNamespace(device=torch.device(device), ranks=Ranks(0, size))
    assert graph._is_capturable(learner) == expected


# ---------------------------------------------------------------------- torch.compile


def assert_compiled_once(learner, sampler, updates):
    torch._dynamo.reset()  # what another test compiled may fit here too
    torch._dynamo.utils.counters.clear()
    for _ in range(updates):
        learner.update(sampler.sample())
        assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 3
    assert not torch._dynamo.utils.counters['graph_break']


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    'changes',
    [
        {},
        pytest.param({'precision': 'bf16_emulated'}, marks=SLOW),
        pytest.param({'penalty_critic': 'pessimistic', 'cost_value': 'max'}, marks=SLOW),
        pytest.param({'use_reward_critic': False, 'use_cost_critic': False}, marks=SLOW),
    ],
    ids=['default', 'bf16', 'pessimistic', 'deployment'],
)
def test_losses_are_whole_graphs_compiled_once(plain_kernels, changes):
    learner, sampler = start(**changes)
    learner.compile(backend='eager')
    assert_compiled_once(learner, sampler, 6)
    expected, expected_metrics, _ = eager_updates(6, **changes)
    assert not differing(expected, all_of(learner, sampler))
    assert learner.pop_metrics() == expected_metrics


@SLOW
@pytest.mark.parametrize('precision', ['float32', 'bf16_emulated'])
def test_compiled_losses_with_their_backward_passes_taken_apart(plain_kernels, precision):
    """The stage of the default backend before it writes code."""
    learner, sampler = start(precision=precision)
    learner.compile(backend='aot_eager')
    assert_compiled_once(learner, sampler, 4)
    expected, expected_metrics, _ = eager_updates(4, precision=precision)
    tolerance = {'float32': 1e-6, 'bf16_emulated': 0.02}[precision]
    assert learner.pop_metrics() == pytest.approx(expected_metrics, rel=tolerance, abs=tolerance)
    if precision == 'float32':
        actual = all_of(learner, sampler)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, msg=name)
