# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1: who is updated by what, and that it equals a slow version of itself."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from dataclasses import asdict, fields, replace
from itertools import pairwise, product

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from core_helpers import (
    ACT_DIM,
    OBS_DIM,
    differing,
    episode_arrays,
    plain_network,
    policy_inputs,
    random_batch,
    random_trajectories,
    roughen,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.qpt.config import DeploymentConfig, OptimizerConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import metric_names
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import PolicyInputs, Scaling


# Switches (reward term, cost term, critics trained) that make sense together.
SWITCHES = [
    switches for switches in product([True, False], repeat=3) if switches[2] or not any(switches)
]


def rough_learner(config=None, seed=0, **kwargs):
    """A learner in mid-training: weights of order one, targets unlike the online networks."""
    learner = small_learner(config, seed, **kwargs)
    for offset, name in enumerate(('policy', 'reward_critic', 'cost_critic')):
        roughen(getattr(learner, name), seed + offset, scale=0.2)
        getattr(learner, f'target_{name}').load_state_dict(getattr(learner, name).state_dict())
        roughen(getattr(learner, f'target_{name}'), seed + offset + 10, scale=0.1)
    return learner


def switched(reward, cost, train):
    return small_config(use_reward_critic=reward, use_cost_critic=cost, train_critics=train)


@pytest.fixture(name='at_each_step')
def fixture_at_each_step():
    """Call a function just before each optimiser step, its gradients ready and clipped."""
    handles = []

    def register(function):
        handles.append(
            register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: function(optimizer))
        )

    yield register
    for handle in handles:
        handle.remove()


# ---------------------------------------------------------------------- slow reference


class SlowAlgorithm:
    """Algorithm 1 window by window and step by step, with separate networks and no masks."""

    stops_at_horizon = True

    def __init__(self, learner):
        self.config = learner.config
        self.scaling = learner.scaling
        self.step = 0
        self.policy = deepcopy(learner.policy)
        self.target_policy = deepcopy(learner.target_policy)
        self.twins = {
            kind: [plain_network(getattr(learner, f'{kind}_critic'), i) for i in range(2)]
            for kind in ('reward', 'cost')
        }
        self.target_twins = {
            kind: [plain_network(getattr(learner, f'target_{kind}_critic'), i) for i in range(2)]
            for kind in ('reward', 'cost')
        }
        self.policy_optimizer = self._adamw([self.policy], learner.config.policy_optimizer)
        self.critic_optimizer = self._adamw(self._critics(), learner.config.critic_optimizer)

    def _critics(self):
        return [*self.twins['reward'], *self.twins['cost']]

    @staticmethod
    def _adamw(networks, config):
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.AdamW(
            parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            foreach=False,
            fused=False,
        )

    @staticmethod
    def _descend(loss, optimizer, config):
        optimizer.zero_grad()
        loss.backward()
        parameters = [p for p in optimizer.param_groups[0]['params'] if p.grad is not None]
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in parameters))
        for p in parameters:
            p.grad *= min(1.0, config.max_grad_norm / (norm + 1e-6))
        optimizer.step()
        return norm

    def _windows(self, batch):
        """Cut off the padding and change to the networks' units."""
        for b in range(len(batch.mask)):
            w = {
                f.name: getattr(batch, f.name)[b, batch.mask[b]]
                for f in fields(batch)
                if f.name != 'terminal'
            }
            w['terminal'] = bool(batch.terminal[b])
            w['states'] = (w['states'] - self.scaling.obs_mean) / self.scaling.obs_std
            w['reward'] = w['rewards'] * 10 / self.scaling.return_unit
            w['cost'] = w['costs'] / self.scaling.cost_unit
            w['return_to_go'] = w['return_to_go'] / self.scaling.return_unit
            w['cost_to_go'] = w['cost_to_go'] / self.scaling.cost_unit
            seen = [*w['states'].T]
            if self.config.critic_inputs == 'targets_time':
                seen += [w['return_to_go'], w['cost_to_go'], w['timesteps'] / self.config.horizon]
                is_end = bool(w['timesteps'][-1] >= self.config.horizon)
                w['terminal'] |= is_end and self.stops_at_horizon
            w['seen'] = torch.stack(seen, dim=1)
            yield w

    def _floor(self, kind):
        """A tenth of what a critic says of twelve steps that bring 3.0 / 12 and 1.5 / 12 each."""
        per_step = {'reward': 3.0 / 12 * 10 / 8, 'cost': 1.5 / 12 / 2}[kind]  # the scaling's units
        return 0.1 * sum(self.config.gamma**k * per_step for k in range(12))

    @staticmethod
    def _act(policy, w):
        names = ('states', 'actions', 'return_to_go', 'cost_to_go', 'timesteps', 'mask')
        return policy(PolicyInputs(*(w[name][None] for name in names)))[0]

    def _bootstrap(self, kind, w):
        with torch.no_grad():
            action = self._act(self.target_policy.eval(), w)[-1]
            pair = torch.cat([w['seen'][-1], action])
            value = min(network(pair).item() for network in self.target_twins[kind])
        if kind == 'cost':
            value = max(0.0, value)
        return 0.0 if w['terminal'] else value

    def update(self, batch):
        windows, metrics = list(self._windows(batch)), {}
        magnitude = self._update_critics(windows, metrics)
        self._update_policy(windows, magnitude, metrics)
        self._move_targets()
        return metrics

    def _update_critics(self, windows, metrics):
        """Eq. 6-7; returns the denominators of Eq. 9-10, of the first of each pair."""
        critic_loss, magnitude = 0.0, {}
        for kind, key in (('reward', 'Qr'), ('cost', 'Qc')):
            errors, values, targets = [[], []], [], []
            for w in windows:
                last = len(w['states']) - 1  # t in Eq. 6
                bootstrap = self._bootstrap(kind, w)
                for m in range(last):
                    target = self.config.gamma ** (last - m) * bootstrap
                    for j in range(m, last):
                        target += self.config.gamma ** (j - m) * w[kind][j].item()
                    targets.append(target)
                    pair = torch.cat([w['seen'][m], w['actions'][m]])
                    for i, network in enumerate(self.twins[kind]):
                        values.append(network(pair)[0])
                        errors[i].append((target - values[-1]) ** 2)
            loss = sum(sum(twin) / len(twin) for twin in errors)
            critic_loss = critic_loss + loss
            metrics[f'Loss/Loss_{kind}_critic'] = loss.item()
            metrics[f'{key}/data_{key}'] = sum(v.item() for v in values) / len(values)
            metrics[f'{key}/target_{key}'] = sum(targets) / len(targets)
            firsts = [abs(value.item()) for value in values[::2]]
            magnitude[kind] = max(self._floor(kind), sum(firsts) / len(firsts))
        metrics['Grad/critic'] = self._descend(
            critic_loss, self.critic_optimizer, self.config.critic_optimizer
        )
        return magnitude

    def _update_policy(self, windows, magnitude, metrics):
        """Eq. 8, with the first of each pair of critics."""
        squares, values = [], {'reward': [], 'cost': []}
        for w in windows:
            predicted = self._act(self.policy, w)
            for k in w['action_mask'].nonzero().flatten().tolist():
                squares += [(w['actions'][k, a] - predicted[k, a]) ** 2 for a in range(ACT_DIM)]
                for kind in values:
                    pair = torch.cat([w['seen'][k], predicted[k]])
                    values[kind].append(self.twins[kind][0](pair)[0])
        loss = sum(squares) / len(squares)
        metrics['Loss/Loss_imitation'] = loss.item()
        for kind, key, weight in (
            ('reward', 'Qr', -self.config.eta_reward / magnitude['reward']),
            ('cost', 'Qc', self.config.eta_cost / magnitude['cost']),
        ):
            mean_value = sum(values[kind]) / len(values[kind])
            loss = loss + weight * mean_value
            metrics[f'{key}/current_{key}'] = mean_value.item()
            metrics[f'Loss/Loss_{kind}_penalty'] = weight * mean_value.item()
        metrics['Loss/Loss_actor'] = loss.item()
        metrics['Grad/actor'] = self._descend(
            loss, self.policy_optimizer, self.config.policy_optimizer
        )

    def _move_targets(self):
        rho = self.config.polyak
        pairs = [(self.target_policy, self.policy)]
        for kind in ('reward', 'cost'):
            pairs += zip(self.target_twins[kind], self.twins[kind])
        with torch.no_grad():
            for target, source in pairs:
                for old, new in zip(target.parameters(), source.parameters()):
                    old.copy_(rho * old + (1 - rho) * new)

    def tensors(self):
        """The same names and shapes as those of a learner."""
        named = {}
        for prefix, policy, twins in (
            ('', self.policy, self.twins),
            ('target_', self.target_policy, self.target_twins),
        ):
            for key, value in policy.named_parameters():
                named[f'{prefix}policy.{key}'] = value
            for kind, (first, second) in twins.items():
                for i, layers in enumerate(zip(first[::2], second[::2])):
                    name = f'{prefix}{kind}_critic'
                    named[f'{name}.weights.{i}'] = torch.stack(
                        [x.weight.T for x in layers]
                    ).detach()
                    named[f'{name}.biases.{i}'] = torch.stack(
                        [x.bias[None] for x in layers]
                    ).detach()
        return named


def assert_same_moves(start, actual, expected):
    """Compare how far each tensor has moved, relative to the move."""
    assert actual.keys() == expected.keys()
    for name, before in start.items():
        moved, should = actual[name] - before, expected[name] - before
        if name.endswith('key_value.bias'):
            # The same number added to all scores changes nothing: the gradient of the keys' half
            # is rounding error, which AdamW magnifies.
            half = len(before) // 2
            moved, should = moved[half:], should[half:]
        assert should.norm() > 0, name
        assert (moved - should).norm() <= 2e-3 * should.norm(), name


@pytest.mark.parametrize(
    ('seed', 'critic_inputs'),
    [(0, 'state_action'), (1, 'state_action'), (0, 'targets_time')],
)
def test_updates_equal_a_slow_algorithm_1(seed, critic_inputs):
    config = small_config(penalty_critic='first', critic_inputs=critic_inputs, horizon=7)
    learner = rough_learner(config, seed)
    slow, start = SlowAlgorithm(learner), tensors_of(learner)
    for step in range(3):
        batch = random_batch(seed=10 * seed + step)
        learner.update(batch)
        expected = slow.update(batch)
        metrics = learner.pop_metrics()
        assert list(metrics) == list(metric_names(config))
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert_same_moves(start, tensors_of(learner), slow.tensors())


@pytest.mark.parametrize('fault', ['swapped critics', 'other member', 'no cost term', 'no end'])
def test_the_comparison_would_notice(fault):
    config = small_config(penalty_critic='first', critic_inputs='targets_time', horizon=7)
    learner = rough_learner(config)
    slow, start = SlowAlgorithm(learner), tensors_of(learner)
    batch = random_batch()
    if fault == 'swapped critics':
        slow.twins = dict(zip(('cost', 'reward'), slow.twins.values()))
    elif fault == 'other member':
        slow.twins['reward'].reverse()
    elif fault == 'no cost term':
        slow.config = replace(slow.config, eta_cost=0.0)
    else:
        slow.stops_at_horizon = False
        assert (batch.timesteps[~batch.terminal, -1] >= 7).any()
    learner.update(batch)
    slow.update(batch)
    with pytest.raises(AssertionError):
        assert_same_moves(start, tensors_of(learner), slow.tensors())


# ---------------------------------------------------------------------- who is updated by what


def test_each_loss_gives_gradient_to_its_own_networks_only(at_each_step):
    learner = rough_learner()
    owned = {
        name: list(getattr(learner, name).parameters())
        for name in ('policy', 'reward_critic', 'cost_critic')
    }
    targets = [
        *learner.target_policy.parameters(),
        *learner.target_reward_critic.parameters(),
        *learner.target_cost_critic.parameters(),
    ]
    seen = []

    def look(optimizer):
        seen.append(
            {
                name: [None if p.grad is None else p.grad.clone() for p in parameters]
                for name, parameters in owned.items()
            }
        )
        assert all(p.grad is None and not p.requires_grad for p in targets)

    at_each_step(look)
    learner.update(random_batch())
    critic_step, policy_step = seen
    assert all(gradient is None for gradient in critic_step['policy'])
    for name in ('reward_critic', 'cost_critic'):
        assert all(gradient.abs().max() > 0 for gradient in critic_step[name])
        # Left from the critics' own step: the policy's added nothing.
        for before, after in zip(critic_step[name], policy_step[name]):
            assert torch.equal(before, after)
    assert all(gradient.abs().max() > 0 for gradient in policy_step['policy'])


def test_each_critic_learns_from_its_own_signal():
    """Another reward moves the reward critic and leaves the cost critic where it was."""
    clip = OptimizerConfig(lr=1e-3, max_grad_norm=1e6)
    config = small_config(critic_optimizer=clip, use_reward_critic=False, use_cost_critic=False)
    batch = random_batch()
    results = {}
    for name, other in (
        ('same', batch),
        ('reward', replace(batch, rewards=batch.rewards + 1)),
        ('cost', replace(batch, costs=batch.costs + 1)),
    ):
        learner = rough_learner(config)
        learner.update(other)
        results[name] = tensors_of(learner)
    for kind in ('reward', 'cost'):
        networks = {name.split('.')[0] for name in differing(results['same'], results[kind])}
        assert networks == {f'{kind}_critic', f'target_{kind}_critic'}


@pytest.mark.parametrize('penalty_critic', ['random', 'first', 'pessimistic'])
def test_every_parameter_moves_in_one_update(penalty_critic):
    fast = OptimizerConfig(lr=10.0, weight_decay=1e-3, max_grad_norm=1e6)
    config = small_config(
        policy_optimizer=fast, critic_optimizer=fast, penalty_critic=penalty_critic
    )
    learner = rough_learner(config)
    before = tensors_of(learner)
    learner.update(random_batch())
    assert differing(before, tensors_of(learner)) == set(before)


def test_every_step_of_an_episode_has_an_embedding_that_learns():
    """The state after the last step, which has no action of its own, shares the last one."""
    length = 8
    data = random_trajectories((length, 5), terminal=())
    policy = small_policy_config(max_timestep=length - 1)
    still = OptimizerConfig(lr=1e-3, weight_decay=0.0)
    learner = rough_learner(small_config(policy=policy, policy_optimizer=still))
    sampler = WindowSampler(data, policy.context_len, 64, seed=0)
    before = learner.policy.embed_timestep.weight.detach().clone()
    for _ in range(3):
        learner.update(sampler.sample())
    moved = (learner.policy.embed_timestep.weight.detach() - before).abs().mean(1)
    assert moved.min() > 0.3 * moved.max()
    assert len(moved) == length
    batch = sampler.batch(torch.arange(length + 1))
    assert batch.timesteps.max() == length


def test_critics_stay_put_where_they_are_not_trained():
    learner = rough_learner(switched(False, False, False))
    before = tensors_of(learner)
    for seed in range(3):
        learner.update(random_batch(seed=seed))
    moved = differing(before, tensors_of(learner))
    assert {name.split('.')[0] for name in moved} >= {'policy', 'target_policy'}
    online = {name for name in before if name.startswith(('reward_critic', 'cost_critic'))}
    assert not moved & online


def test_critics_trained_for_deployment_alone_leave_the_policy_as_it_would_be():
    batch = random_batch()
    with_critics = rough_learner(switched(False, False, True))
    without = rough_learner(switched(False, False, False))
    before = tensors_of(with_critics)
    with_critics.update(batch)
    without.update(batch)
    moved = differing(before, tensors_of(with_critics))
    assert {name.split('.')[0] for name in moved} >= {'reward_critic', 'cost_critic'}
    apart = differing(tensors_of(with_critics), tensors_of(without))
    assert not {name for name in apart if 'policy' in name}


@pytest.mark.parametrize('kind', ['reward', 'cost'])
def test_each_penalty_pulls_its_own_way(kind):
    """One update with one term alone, critics held still: reward goes up, or cost goes down."""
    other = {'reward': 'cost', 'cost': 'reward'}[kind]
    config = small_config(
        **{f'eta_{kind}': 1000.0, f'use_{other}_critic': False},
        penalty_critic='first',
        policy_optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.0),
        critic_optimizer=OptimizerConfig(lr=1e-12, weight_decay=0.0),
    )
    learner = rough_learner(config)
    batch = random_batch()
    name = {'reward': 'Qr/current_Qr', 'cost': 'Qc/current_Qc'}[kind]
    values = []
    for _ in range(6):
        learner.update(batch)
        values.append(learner.pop_metrics()[name])
    assert all((new > old) == (kind == 'reward') for old, new in pairwise(values))


def test_the_batch_is_left_as_it_was():
    batch = random_batch()
    before = {f.name: getattr(batch, f.name).clone() for f in fields(batch)}
    rough_learner().update(batch)
    for name, value in before.items():
        assert torch.equal(getattr(batch, name), value), name


# ---------------------------------------------------------------------- targets


def test_targets_are_equal_at_the_start_and_follow_polyak():
    learner = small_learner()
    expected = {}
    for name in ('policy', 'reward_critic', 'cost_critic'):
        online = getattr(learner, name).state_dict()
        for key, value in getattr(learner, f'target_{name}').state_dict().items():
            assert torch.equal(value, online[key])
            expected[name, key] = value.clone()
    for step in range(4):
        learner.update(random_batch(seed=step))
        for (name, key), value in expected.items():
            source = getattr(learner, name).state_dict()[key]
            expected[name, key] = 0.8 * value + (1 - 0.8) * source
            actual = getattr(learner, f'target_{name}').state_dict()[key]
            torch.testing.assert_close(actual, expected[name, key], atol=1e-6, rtol=1e-5)
            assert not torch.equal(actual, source)


def test_target_policy_acts_without_dropout():
    config = small_config(policy=small_policy_config(dropout=0.5))
    targets = set()
    for seed in range(3):
        learner = rough_learner(config)
        torch.manual_seed(seed)
        learner.update(random_batch())
        targets.add(learner.pop_metrics()['Qr/target_Qr'])
    assert len(targets) == 1


def constant_critic(critic, first, second):
    """Make the twins return two constants."""
    with torch.no_grad():
        critic.weights[-1].zero_()
        critic.biases[-1].copy_(torch.tensor([first, second]).reshape(2, 1, 1))


STILL = OptimizerConfig(lr=1e-12, weight_decay=0.0)


def reference_target(batch, kind, bootstrap, config):
    """The mean n-step target over valid steps, where each bootstrap is the same number."""
    scaling = small_learner().scaling
    scale = {'reward': 10 / scaling.return_unit, 'cost': 1 / scaling.cost_unit}[kind].item()
    signal = {'reward': batch.rewards, 'cost': batch.costs}[kind]
    targets, last = [], signal.shape[1] - 1
    for b in range(len(signal)):
        for m in range(last):
            if batch.mask[b, m]:
                value = 0.0 if batch.terminal[b] else bootstrap * config.gamma ** (last - m)
                for j in range(m, last):
                    value += config.gamma ** (j - m) * scale * signal[b, j].item()
                targets.append(value)
    return sum(targets) / len(targets)


@pytest.mark.parametrize('cost_value', ['min', 'max'])
@pytest.mark.parametrize('terminal', ['none', 'some', 'all'])
@pytest.mark.parametrize(('first', 'second'), [(2.0, 5.0), (5.0, 2.0), (-4.0, 3.0), (-2.0, -6.0)])
def test_bootstrap(terminal, first, second, cost_value):
    """Zero at a terminal state, not at a time limit; twins combined; no cost below zero."""
    config = small_config(cost_value=cost_value)
    learner = small_learner(config)
    for critic in (learner.target_reward_critic, learner.target_cost_critic):
        constant_critic(critic, first, second)
    batch = random_batch()
    if terminal != 'some':
        batch = replace(batch, terminal=torch.full_like(batch.terminal, terminal == 'all'))
    learner.update(batch)
    metrics = learner.pop_metrics()
    cost = max(0.0, min(first, second) if cost_value == 'min' else max(first, second))
    expected_reward = reference_target(batch, 'reward', min(first, second), config)
    assert metrics['Qr/target_Qr'] == pytest.approx(expected_reward, rel=1e-4)
    assert metrics['Qc/target_Qc'] == pytest.approx(
        reference_target(batch, 'cost', cost, config), rel=1e-4
    )


def test_penalty_critic_first_and_pessimistic():
    for choice, reward, cost in (('first', 3.0, 1.0), ('pessimistic', 2.0, 4.0)):
        learner = small_learner(small_config(penalty_critic=choice, critic_optimizer=STILL))
        constant_critic(learner.reward_critic, 3.0, 2.0)
        constant_critic(learner.cost_critic, 1.0, 4.0)
        learner.update(random_batch())
        metrics = learner.pop_metrics()
        assert metrics['Qr/current_Qr'] == pytest.approx(reward)
        assert metrics['Qc/current_Qc'] == pytest.approx(cost)
        assert_weights_are_of_the_same_values(learner.config, metrics)


def assert_weights_are_of_the_same_values(config, metrics):
    """Constant critics: eta Q / mean |Q| is eta, if both are of the same values."""
    assert metrics['Loss/Loss_reward_penalty'] == pytest.approx(-config.eta_reward)
    assert metrics['Loss/Loss_cost_penalty'] == pytest.approx(config.eta_cost)


def test_numerator_and_denominator_count_each_step_alike():
    """The one is over all steps with an action, the other leaves out the last of each window.

    Over all windows, a step counts K and K - 1 times, and as often less towards the end.
    """
    context, length = 5, 30
    sampler = WindowSampler(random_trajectories((length,), terminal=()), context, 1, seed=0)
    batch = sampler.batch(torch.arange(length + 1))
    numerator = batch.timesteps[batch.action_mask].bincount(minlength=length)
    denominator = batch.timesteps[:, :-1][batch.mask[:, :-1]].bincount(minlength=length)
    assert set(numerator[:-context].tolist()) == {context}
    assert set(denominator[:-context].tolist()) == {context - 1}
    shares = numerator / numerator.sum() - denominator / denominator.sum()
    # Each of the last K steps weighs less than one step's share more or less.
    assert shares.abs().sum() < 2 / length


def pull_on_actions(cost_limit, cost_scale=1.0):
    """The gradient of the cost penalty in the policy's actions, with critics that know the costs.

    The critics' values are those of the same costs in the unit of the limit.
    """
    arrays = episode_arrays((12, 3, 25), terminal=(1,))
    arrays['costs'] *= cost_scale
    data = Trajectories.from_arrays(arrays)
    learner = rough_learner(
        small_config(eta_reward=0.0, critic_optimizer=STILL, penalty_critic='first'),
        scaling=Scaling.from_data(data, cost_limit),
    )
    with torch.no_grad():
        learner.cost_critic.weights[-1] *= 0.01 * cost_scale / cost_limit
        learner.cost_critic.biases[-1] *= 0.01 * cost_scale / cost_limit
    batch = WindowSampler(data, 5, 64, seed=0).sample()
    inputs, metrics = policy_inputs(batch), {}
    count = torch.tensor(100.0)
    targets = learner.compute_targets(batch, inputs)
    magnitudes = learner.critic_loss(batch, inputs, targets, count, metrics)[-1]
    actions = batch.actions.clone().requires_grad_()
    learner._trained_policy = lambda _: actions
    loss = learner.policy_loss(batch, inputs, magnitudes, count, metrics)
    imitation = metrics['Loss/Loss_imitation']
    assert imitation == 0
    return torch.autograd.grad(loss, actions)[0]


@pytest.mark.parametrize(('limit', 'scale'), [(40.0, 1.0), (80.0, 1.0), (0.1, 1.0), (80.0, 8.0)])
def test_the_pull_depends_on_no_unit_of_cost(limit, scale):
    """Neither another limit for the same data nor other units of cost change the weight."""
    expected = pull_on_actions(10.0)
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(pull_on_actions(limit, scale), expected, rtol=1e-4, atol=0)


def test_penalty_critic_random_draws_either_twin():
    learner = small_learner(small_config(penalty_critic='random', critic_optimizer=STILL))
    constant_critic(learner.reward_critic, 3.0, 2.0)
    constant_critic(learner.cost_critic, 1.0, 4.0)
    drawn = set()
    for step in range(24):
        learner.update(random_batch(seed=step))
        metrics = learner.pop_metrics()
        drawn.add((round(metrics['Qr/current_Qr']), round(metrics['Qc/current_Qc'])))
        assert_weights_are_of_the_same_values(learner.config, metrics)
    assert drawn == {(3, 1), (3, 4), (2, 1), (2, 4)}


# ---------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(
    ('warmup_steps', 'lr_final_ratio', 'expected'),
    [
        (0, 1.0, lambda step: 1.0),
        (4, 1.0, lambda step: min(1.0, (step + 1) / 4)),
        (0, 0.1, lambda step: 0.1 + 0.9 * (1 + math.cos(math.pi * min(step, 10) / 10)) / 2),
        (
            4,
            0.0,
            lambda step: (
                (step + 1) / 4 if step < 4 else (1 + math.cos(math.pi * min((step - 4) / 6, 1))) / 2
            ),
        ),
    ],
    ids=['constant', 'warm-up', 'cosine', 'both'],
)
def test_learning_rates(at_each_step, warmup_steps, lr_final_ratio, expected):
    config = small_config(warmup_steps=warmup_steps, lr_final_ratio=lr_final_ratio, total_steps=10)
    learner = small_learner(config)
    rates = []
    at_each_step(lambda optimizer: rates.append(optimizer.param_groups[0]['lr'].item()))
    for step in range(13):  # beyond the end, the last value holds
        learner.update(random_batch(num_windows=2, seed=step))
    for step in range(13):
        critic_rate, policy_rate = rates[2 * step : 2 * step + 2]
        assert critic_rate == pytest.approx(2e-3 * expected(step), rel=1e-6, abs=1e-12)
        assert policy_rate == pytest.approx(1e-3 * expected(step), rel=1e-6, abs=1e-12)


def test_gradients_are_clipped_to_their_norm(at_each_step):
    config = small_config(
        policy_optimizer=OptimizerConfig(max_grad_norm=1e-3),
        critic_optimizer=OptimizerConfig(max_grad_norm=2e-3),
    )
    learner = rough_learner(config)
    norms = []

    def look(optimizer):
        gradients = [p.grad.flatten() for p in optimizer.param_groups[0]['params']]
        norms.append(torch.cat(gradients).norm().item())

    at_each_step(look)
    learner.update(random_batch())
    metrics = learner.pop_metrics()
    assert norms == pytest.approx([2e-3, 1e-3], rel=1e-3)
    assert min(metrics['Grad/critic'], metrics['Grad/actor']) > 2e-2  # before the clip


# ---------------------------------------------------------------------- metrics


def test_metrics_are_means_over_the_updates_since_the_last_look():
    batches = [random_batch(seed=seed) for seed in range(3)]
    one_by_one, at_once = rough_learner(), rough_learner()
    separate = []
    torch.manual_seed(5)
    for batch in batches:
        one_by_one.update(batch)
        separate.append(one_by_one.pop_metrics())
    torch.manual_seed(5)
    for batch in batches:
        at_once.update(batch)
    means = at_once.pop_metrics()
    assert at_once.pop_metrics() == {}
    for name, mean in means.items():
        values = [metrics[name] for metrics in separate]
        assert len(set(values)) == 3, name
        assert mean == pytest.approx(sum(values) / 3, rel=1e-5), name


@pytest.mark.parametrize(('reward', 'cost', 'train'), SWITCHES)
def test_metric_names_are_those_reported(reward, cost, train):
    config = switched(reward, cost, train)
    learner = small_learner(config)
    learner.update(random_batch())
    metrics = learner.pop_metrics()
    assert list(metrics) == metric_names(config)
    assert all(math.isfinite(value) for value in metrics.values())
    assert ('Loss/Loss_reward_penalty' in metrics) == reward
    assert ('Qc/current_Qc' in metrics) == cost
    assert ('Loss/Loss_cost_critic' in metrics) == train


def test_the_loss_is_the_sum_of_its_terms():
    learner = rough_learner()
    learner.update(random_batch())
    metrics = learner.pop_metrics()
    terms = [
        metrics[f'Loss/Loss_{name}'] for name in ('imitation', 'reward_penalty', 'cost_penalty')
    ]
    assert metrics['Loss/Loss_actor'] == pytest.approx(sum(terms), rel=1e-5)
    assert min(map(abs, terms)) > 1e-3


# ---------------------------------------------------------------------- repeatability, state


DROPOUT = small_config(
    policy=small_policy_config(dropout=0.2), warmup_steps=2, lr_final_ratio=0.1, total_steps=8
)


def test_same_seed_same_weights_and_another_seed_others():
    results = []
    for seed in (0, 0, 1):
        learner = small_learner(DROPOUT, seed)
        for step in range(5):
            learner.update(random_batch(seed=step))
        results.append(tensors_of(learner))
    first, again, other = results
    assert not differing(first, again)
    # Layer norms start at one for any seed, but do not stay equal.
    assert differing(first, other) == set(first)


def test_continuing_from_a_state_equals_never_having_stopped():
    learner = small_learner(DROPOUT)
    for step in range(3):
        learner.update(random_batch(seed=step))
    file = io.BytesIO()
    torch.save((learner.state_dict(), torch.get_rng_state()), file)
    for step in range(3, 6):
        learner.update(random_batch(seed=step))

    scaling = Scaling(torch.zeros(OBS_DIM), torch.ones(OBS_DIM))
    resumed = small_learner(DROPOUT, seed=99, scaling=scaling)
    file.seek(0)
    state, rng_state = torch.load(file, weights_only=True)
    resumed.load_state_dict(state)
    torch.set_rng_state(rng_state)
    assert resumed.step == 3
    for step in range(3, 6):
        resumed.update(random_batch(seed=step))
    assert not differing(tensors_of(learner), tensors_of(resumed))
    assert resumed.pop_metrics() == learner.pop_metrics()
    assert resumed.step == learner.step == 6


def test_an_old_state_with_rates_as_numbers_loads():
    """Before, and on other devices, optimisers had other options; a configuration's own hold."""
    learner, resumed = small_learner(DROPOUT), small_learner(DROPOUT, seed=9)
    for step in range(3):
        learner.update(random_batch(seed=step))
    learner.pop_metrics()
    state = deepcopy(learner.state_dict())
    for name in ('policy_optimizer', 'critic_optimizer'):
        for group in state[name]['param_groups']:
            group.update(lr=0.5, capturable=True, weight_decay=7.0)
    resumed.load_state_dict(state)
    for one in (learner, resumed):
        torch.manual_seed(4)
        one.update(random_batch(seed=3))
    assert not differing(tensors_of(learner), tensors_of(resumed))
    assert learner.pop_metrics() == resumed.pop_metrics()


def test_a_loaded_state_is_a_copy():
    learner, other = small_learner(), small_learner(seed=9)
    learner.update(random_batch())
    other.load_state_dict(learner.state_dict())
    state = deepcopy(learner.state_dict())
    other.update(random_batch(seed=1))
    for name in ('policy_optimizer', 'critic_optimizer'):
        for index, values in learner.state_dict()[name]['state'].items():
            for key, value in values.items():
                assert torch.equal(value, state[name]['state'][index][key])


# ---------------------------------------------------------------------- odd data, precision


def test_bf16_stays_near_float32():
    results = {}
    for precision in ('float32', 'bf16_emulated'):
        learner = rough_learner(small_config(penalty_critic='first', precision=precision))
        learner.update(random_batch(num_windows=60))
        results[precision] = learner.pop_metrics()
        assert all(value.dtype == torch.float32 for value in tensors_of(learner).values())
    assert results['bf16_emulated'] != results['float32']
    for name, value in results['float32'].items():
        assert results['bf16_emulated'][name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_tf32_is_float32_on_a_cpu():
    results = []
    for precision in ('float32', 'tf32'):
        learner = rough_learner(small_config(precision=precision))
        learner.update(random_batch())
        results.append(tensors_of(learner))
    assert not differing(*results)


def test_data_without_any_cost_or_reward_stays_finite():
    scaling = Scaling(torch.zeros(OBS_DIM), torch.zeros(OBS_DIM), max_abs_return=0.0, cost_unit=0.0)
    learner = small_learner(scaling=scaling)
    for step in range(5):
        batch = random_batch(seed=step)
        zero = torch.zeros_like(batch.costs)
        learner.update(
            replace(
                batch,
                states=torch.zeros_like(batch.states),
                rewards=zero,
                costs=zero,
                return_to_go=zero,
                cost_to_go=zero,
            ),
        )
    assert all(math.isfinite(value) for value in learner.pop_metrics().values())
    assert all(torch.isfinite(value).all() for value in tensors_of(learner).values())


def test_windows_of_a_single_state_teach_the_critics_nothing():
    batch = random_batch()
    mask = torch.zeros_like(batch.mask)
    mask[:, -1] = True
    learner = rough_learner(small_config(critic_optimizer=OptimizerConfig(weight_decay=0.0)))
    before = tensors_of(learner)
    learner.update(replace(batch, mask=mask, action_mask=mask))
    metrics = learner.pop_metrics()
    assert metrics['Loss/Loss_reward_critic'] == metrics['Loss/Loss_cost_critic'] == 0
    assert metrics['Loss/Loss_imitation'] > 0
    after = tensors_of(learner)
    assert not {name for name in differing(before, after) if name.startswith(('reward', 'cost'))}
    assert all(torch.isfinite(value).all() for value in after.values())


# ---------------------------------------------------------------------- Table 2

# Data augmentation, Q^r, Q^c, ensemble.
TABLE_2 = {
    1: (False, False, False, False),
    2: (True, False, False, False),
    3: (True, True, False, False),
    4: (True, False, True, False),
    5: (True, True, True, False),
    6: (True, False, False, True),
    7: (False, True, True, True),
    8: (True, True, True, True),
}


@pytest.mark.parametrize('experiment', TABLE_2)
def test_every_row_of_table_2_can_be_run(experiment):
    trajectories = random_trajectories()
    augmented, reward, cost, ensemble = TABLE_2[experiment]
    rows = augment(trajectories, 0.5, seed=0)[0] if augmented else None
    learner = small_learner(switched(reward, cost, reward or cost or ensemble))
    sampler = WindowSampler(trajectories, 5, 16, seed=0, rows=rows)
    for _ in range(2):
        learner.update(sampler.sample())
    networks = DeployableNetworks.from_learner(learner, {'horizon': 30})
    assert networks.spec['policy'] == asdict(learner.config.policy)
    rollout = RolloutPolicy(networks, DeploymentConfig(candidates=6 if ensemble else 1))
    rollout.reset(target_return=3.0)
    assert torch.isfinite(rollout.act(torch.zeros(1, OBS_DIM))).all()
