# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Learners of the baselines: losses, who is updated by what, continuation, and what they learn."""

from __future__ import annotations

import io
import math
import pickle
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from core_helpers import ACT_DIM, OBS_DIM, differing, small_scaling
from omnisafe_qpt.baselines.bc_safe import BCSafeLearner
from omnisafe_qpt.baselines.config import BCSafeConfig, CPQConfig, FISORConfig
from omnisafe_qpt.baselines.cpq import CPQLearner
from omnisafe_qpt.baselines.deploy import DeployableActor, ObservationPolicy
from omnisafe_qpt.baselines.fisor import FISORLearner
from omnisafe_qpt.baselines.networks import variance_preserving_betas
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.transitions import TransitionBatch, TransitionSampler, select_safe
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import Scaling
from tape import Tape


BATCH_SIZE = 24

CONFIGS = {
    BCSafeLearner: BCSafeConfig(total_steps=20, actor_hidden_sizes=(12, 10)),
    CPQLearner: CPQConfig(
        total_steps=20,
        cost_limit=30.0,
        horizon=40,
        gamma=0.9,
        polyak=0.8,
        actor_hidden_sizes=(12, 10),
        critic_hidden_sizes=(14, 9),
        vae_hidden_sizes=(11, 8),
        sampled_actions=3,
    ),
    FISORLearner: FISORConfig(
        total_steps=20,
        horizon=8,
        gamma=0.9,
        polyak=0.8,
        actor_width=16,
        actor_blocks=2,
        actor_dropout=0.1,
        actor_polyak=0.7,
        critic_hidden_sizes=(14, 9),
        diffusion_steps=3,
        candidates=4,
    ),
}
LEARNERS = list(CONFIGS)

each_learner = pytest.mark.parametrize('kind', LEARNERS)


def make(kind, seed=0, **changes):
    torch.manual_seed(seed)
    learner = kind(OBS_DIM, ACT_DIM, small_scaling(), replace(CONFIGS[kind], **changes))
    torch.manual_seed(seed + 1)
    return learner


def random_batch(seed=0, size=BATCH_SIZE):
    """Transitions of every kind: with cost and without, at a real end and not."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(size, *shape, generator=generator)

    return TransitionBatch(
        obs=normal(OBS_DIM),
        action=normal(ACT_DIM).tanh(),
        reward=normal(),
        cost=(normal() > 0.3).float(),
        next_obs=normal(OBS_DIM),
        terminal=torch.arange(size) % 5 == 0,
    )


def networks_of(learner):
    return {name: getattr(learner, name) for name in learner._NETWORKS}


def tensors_of(learner):
    return {
        f'{name}.{key}': value.detach().clone()
        for name, network in networks_of(learner).items()
        for key, value in network.named_parameters()
    }


# ---------------------------------------------------------------------- losses, sample by sample


def layers_of(mlp, activation):
    """The same network, of torch's own layers, in double precision."""
    layers = []
    for layer in mlp:
        if hasattr(layer, 'weight'):
            linear = nn.Linear(layer.in_features, layer.out_features)
            linear.load_state_dict(layer.state_dict())
            layers.append(linear)
        else:
            layers.append(activation())
    return nn.Sequential(*layers).double()


def critics_of(ensemble):
    """The members of an ensemble as functions of an input (in_dim,)."""
    members = []
    for member in range(len(ensemble.weights[0])):
        layers = []
        for weight, bias in zip(ensemble.weights, ensemble.biases):
            linear = nn.Linear(*weight.shape[1:])
            with torch.no_grad():
                linear.weight.copy_(weight[member].T)
                linear.bias.copy_(bias[member, 0])
            layers += [linear, nn.ReLU()]
        members.append(nn.Sequential(*layers[:-1]).double())
    return [lambda x, network=network: network(x).item() for network in members]


def samples_of(batch, scaling):
    """Each transition in the networks' units, in double precision."""
    unit = float(scaling.return_unit)
    for i in range(len(batch.reward)):
        yield {
            's': scaling.observation(batch.obs[i]).double(),
            'a': batch.action[i].double(),
            'r': float(batch.reward[i]),
            'unit': unit,
            'c': float(batch.cost[i]),
            'next': scaling.observation(batch.next_obs[i]).double(),
            'end': bool(batch.terminal[i]),
        }


def mean(numbers):
    return sum(numbers) / len(numbers)


def metrics_of(learner, batch):
    """The metrics of one update with learning rates that change nothing."""
    learner.update(batch)
    return learner.pop_metrics()


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name


def test_bc_safe_is_the_squared_error():
    learner, batch = make(BCSafeLearner, actor_lr=1e-12), random_batch()
    network = layers_of(learner.actor, nn.ReLU)
    errors = [
        (torch.tanh(network(sample['s'])) - sample['a']).square().mean().item()
        for sample in samples_of(batch, learner.scaling)
    ]
    agree(metrics_of(learner, batch), {'Loss/Loss_actor': mean(errors)})


def kl_to_standard_normal(mean_, std):
    normal = torch.distributions.Normal
    kind = torch.distributions.kl_divergence
    return kind(normal(mean_, std), normal(torch.zeros(()).double(), 1.0)).mean().item()


def test_cpq_is_as_computed_sample_by_sample():
    """Draws are repeated in the order in which an update makes them."""
    learner = make(CPQLearner, actor_lr=1e-12, critic_lr=1e-12, vae_lr=1e-12, alpha_lr=0.5)
    batch = random_batch()
    with torch.no_grad():
        learner.cost_critic.biases[-1].add_(1.0)
        learner.target_cost_critic.load_state_dict(learner.cost_critic.state_dict())
        learner.multiplier.alpha.fill_(0.4)

    torch.manual_seed(11)
    latent = torch.randn(BATCH_SIZE, 2 * ACT_DIM).double()
    next_noise = torch.randn(BATCH_SIZE, ACT_DIM).double()
    tried_noise = torch.randn(3 * BATCH_SIZE, ACT_DIM).double()
    noise = torch.randn(BATCH_SIZE, ACT_DIM).double()

    actor = layers_of(learner.actor, nn.ReLU)
    encoder, decoder = (
        layers_of(half, nn.ReLU) for half in (learner.vae.encoder, learner.vae.decoder)
    )
    reward_critics, cost_critics = map(critics_of, (learner.reward_critic, learner.cost_critic))

    def act(state, draw):
        mean_, log_std = actor(state).chunk(2)
        return torch.tanh(mean_ + log_std.exp() * draw)

    def encode(state, action):
        mean_, log_std = encoder(torch.cat([state, action])).chunk(2)
        return mean_, log_std.exp()

    samples = list(samples_of(batch, learner.scaling))
    pairs = [
        torch.cat([sample['next'], act(sample['next'], draw)])
        for sample, draw in zip(samples, next_noise)
    ]
    next_costs = [min(critic(pair) for critic in cost_critics) for pair in pairs]
    # Half of them are safe.
    threshold = (sorted(next_costs)[11] + sorted(next_costs)[12]) / 2
    spent = sum(0.9**step for step in range(40)) / 40
    learner.config = replace(learner.config, cost_limit=threshold / spent)

    vae, reward_loss, cost_loss, seen = [], [], [], {'r': [], 'c': []}
    for i, sample in enumerate(samples):
        mean_, std = encode(sample['s'], sample['a'])
        decoded = torch.tanh(decoder(torch.cat([sample['s'], mean_ + std * latent[i]])))
        error = (decoded - sample['a']).square().mean().item()
        vae.append(error + 0.5 * kl_to_standard_normal(mean_, std))
        next_reward = min(critic(pairs[i]) for critic in reward_critics)
        reward_target, cost_target = sample['r'] * 10 / sample['unit'], sample['c']
        if not sample['end']:
            reward_target += 0.9 * next_reward * (next_costs[i] <= threshold)
            cost_target += 0.9 * next_costs[i]
        pair = torch.cat([sample['s'], sample['a']])
        seen['r'] += [critic(pair) for critic in reward_critics]
        seen['c'] += [critic(pair) for critic in cost_critics]
        reward_loss.append(sum((critic(pair) - reward_target) ** 2 for critic in reward_critics))
        cost_loss.append(sum((critic(pair) - cost_target) ** 2 for critic in cost_critics))

    tried = []
    for number, draw in enumerate(tried_noise):
        state = samples[number % BATCH_SIZE]['s']
        action = act(state, draw)
        pair = torch.cat([state, action])
        tried.append((kl_to_standard_normal(*encode(state, action)), pair))
    tried.sort(key=lambda each: -each[0])
    unknown = [critic(pair) for _, pair in tried[:18] for critic in cost_critics]

    actor_loss, reward_values, cost_values = [], [], []
    for sample, draw in zip(samples, noise):
        pair = torch.cat([sample['s'], act(sample['s'], draw)])
        reward_values.append(min(critic(pair) for critic in reward_critics))
        cost_values.append(min(critic(pair) for critic in cost_critics))
        actor_loss.append(-reward_values[-1] * (cost_values[-1] <= threshold))

    torch.manual_seed(11)
    expected = {
        'Loss/Loss_actor': mean(actor_loss),
        'Loss/Loss_reward_critic': mean(reward_loss),
        'Loss/Loss_cost_critic': mean(cost_loss),
        'Loss/Loss_vae': mean(vae),
        'Qr/data_Qr': mean(seen['r']),
        'Qr/current_Qr': mean(reward_values),
        'Qc/data_Qc': mean(seen['c']),
        'Qc/current_Qc': mean(cost_values),
        'Qc/unknown_Qc': mean(unknown),
        'Misc/Alpha': 0.4,
        'Misc/SafeShare': mean([value <= threshold for value in cost_values]),
    }
    agree(metrics_of(learner, batch), expected)
    alpha = 0.4 + 0.5 * (1.5 * threshold - mean(unknown))
    assert learner.multiplier.alpha.item() == pytest.approx(min(1.0, max(0.0, alpha)), rel=1e-4)


def denoiser_of(denoiser):
    """The denoiser without dropout, written again as a function of single samples."""
    time = layers_of(denoiser.time, nn.Mish)
    frequencies = denoiser.frequencies.detach().double()

    def double(linear):
        return linear.weight.detach().double(), linear.bias.detach().double()

    def estimate(state, noisy, step):
        angle = 2 * math.pi * step * frequencies
        features = time(torch.cat([angle.cos(), angle.sin()]))
        weight, bias = double(denoiser.entry)
        x = weight @ torch.cat([noisy, state, features]) + bias
        for _, norm, widen, _, narrow in denoiser.blocks:
            scale, shift = double(norm)
            y = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * scale + shift
            weight, bias = double(widen)
            y = nn.functional.mish(weight @ y + bias)
            weight, bias = double(narrow)
            x = x + weight @ y + bias
        weight, bias = double(denoiser.exit[1])
        return weight @ nn.functional.mish(x) + bias

    return estimate


def schedule(steps):
    """What is left of the action, and how much noise there is, after each diffusion step."""
    left, betas = 1.0, []
    shares = []
    for t in range(1, steps + 1):
        alpha = math.exp(-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2)
        betas.append(1 - alpha)
        left *= alpha
        shares.append((math.sqrt(left), math.sqrt(1 - left)))
    return betas, shares


def test_the_schedule_preserves_variance():
    betas, _ = schedule(5)
    assert variance_preserving_betas(5).tolist() == pytest.approx(betas, rel=1e-6)


def test_fisor_is_as_computed_sample_by_sample():
    """Draws are repeated in the order in which an update makes them."""
    learner = make(
        FISORLearner,
        actor_lr=1e-12,
        critic_lr=1e-12,
        actor_dropout=0.0,
        max_reward_weight=3.0,
        max_cost_weight=4.0,
    )
    batch = random_batch(size=60)
    with torch.no_grad():
        for network in (learner.cost_critic, learner.cost_value):
            for parameter in network.parameters():
                parameter.mul_(2.0)
        learner.target_cost_critic.load_state_dict(learner.cost_critic.state_dict())
    torch.manual_seed(7)
    steps = torch.randint(3, (60,)).tolist()
    noise = torch.randn(60, ACT_DIM).double()
    names = ('reward_critic', 'cost_critic', 'reward_value', 'cost_value')
    reward_critics, cost_critics, (reward_value,), (cost_value,) = (
        critics_of(getattr(learner, name)) for name in names
    )
    estimate = denoiser_of(learner.denoiser)
    _, shares = schedule(3)

    found = {name: [] for name in learner.METRICS}
    kinds = set()
    for i, sample in enumerate(samples_of(batch, learner.scaling)):
        pair = torch.cat([sample['s'], sample['a']])
        values_r = [critic(pair) for critic in reward_critics]
        values_h = [critic(pair) for critic in cost_critics]
        v_r, v_h = reward_value(sample['s']), cost_value(sample['s'])
        q_r, q_h = min(values_r), max(values_h)
        found['Loss/Loss_reward_value'].append((0.9 if q_r > v_r else 0.1) * (q_r - v_r) ** 2)
        found['Loss/Loss_cost_value'].append((0.1 if q_h > v_h else 0.9) * (q_h - v_h) ** 2)
        found['Misc/FeasibleShare'].append(v_h <= 0)
        if v_h <= 0:
            weight = min(3.0, math.exp(3.0 * (q_r - v_r))) if q_h <= 0 else 0.0
        else:
            weight = min(4.0, math.exp(5.0 * (v_h - q_h)))
        kinds.add((v_h <= 0, q_h <= 0, weight in {3.0, 4.0}))
        found['Misc/Weight'].append(weight)

        h = 25.0 if sample['c'] > 0 else -1.0
        target_r, target_h = sample['r'] * 8 / sample['unit'], h
        if not sample['end']:
            target_r += 0.9 * reward_value(sample['next'])
            target_h = 0.1 * h + 0.9 * max(h, cost_value(sample['next']))
        found['Loss/Loss_reward_critic'].append(mean([(v - target_r) ** 2 for v in values_r]))
        found['Loss/Loss_cost_critic'].append(mean([(v - target_h) ** 2 for v in values_h]))
        found['Qr/data_Qr'].append(mean(values_r))
        found['Qc/data_Qc'].append(mean(values_h))

        signal, share = shares[steps[i]]
        noisy = signal * sample['a'] + share * noise[i]
        error = estimate(sample['s'], noisy, steps[i]) - noise[i]
        found['Loss/Loss_actor'].append(weight * error.square().sum().item())
    assert len(kinds) >= 6  # every branch was taken
    torch.manual_seed(7)
    agree(metrics_of(learner, batch), {name: mean(values) for name, values in found.items()})


# ---------------------------------------------------------------------- who is updated by what


OWNERS = {
    BCSafeLearner: [{'actor'}],
    CPQLearner: [{'vae'}, {'reward_critic'}, {'cost_critic'}, {'actor'}],
    FISORLearner: [
        {'reward_value', 'cost_value'},
        {'reward_critic', 'cost_critic'},
        {'denoiser'},
    ],
}


@each_learner
def test_each_loss_reaches_its_own_networks_alone(kind, monkeypatch):
    learner, batch, reached = make(kind), random_batch(), []
    networks = networks_of(learner)

    def descend(loss, optimizer):
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        loss.backward()
        reached.append(
            {
                name
                for name, network in networks.items()
                if any(parameter.grad is not None for parameter in network.parameters())
            },
        )
        stepped = {id(p) for group in optimizer.param_groups for p in group['params']}
        owned = {id(p) for name in reached[-1] for p in networks[name].parameters()}
        assert stepped == owned

    monkeypatch.setattr(learner, '_descend', descend)
    learner.update(batch)
    assert reached == OWNERS[kind]


@each_learner
def test_everything_moves(kind):
    learner = make(kind)
    before = tensors_of(learner)
    for seed in range(3):
        learner.update(random_batch(seed))
    assert differing(before, tensors_of(learner)) == set(before)
    assert learner.broken() == []


@pytest.mark.parametrize(
    ('kind', 'target', 'source', 'kept'),
    [
        (CPQLearner, 'target_reward_critic', 'reward_critic', 0.8),
        (CPQLearner, 'target_cost_critic', 'cost_critic', 0.8),
        (FISORLearner, 'target_reward_critic', 'reward_critic', 0.8),
        (FISORLearner, 'target_cost_critic', 'cost_critic', 0.8),
        (FISORLearner, 'target_denoiser', 'denoiser', 0.7),
    ],
)
def test_targets_begin_equal_and_follow(kind, target, source, kept):
    learner = make(kind)
    before = [x.detach().clone() for x in getattr(learner, source).parameters()]
    assert all(map(torch.equal, before, getattr(learner, target).parameters()))
    learner.update(random_batch())
    for old, new, moved in zip(
        before,
        getattr(learner, source).parameters(),
        getattr(learner, target).parameters(),
    ):
        torch.testing.assert_close(moved, kept * old + (1 - kept) * new)
        assert not moved.requires_grad


def test_fisors_rate_falls_to_a_quarter():
    learner = make(FISORLearner, total_steps=4)
    rates = []
    for _ in range(6):
        learner.update(random_batch())
        rates.append(learner._denoiser_optimizer.param_groups[0]['lr'].item())
    expected = [3e-4 * (1 + math.cos(math.pi * min(1, k / 4) * 2 / 3)) / 2 for k in range(6)]
    assert rates == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0.25 * 3e-4)


def test_unknown_actions_are_raised():
    """With alpha at 1 their values rise, and they alone carry the difference."""
    values = {}
    for alpha in (0.0, 1.0):
        learner = make(CPQLearner, critic_lr=1e-2, alpha_lr=1e-12)
        learner.multiplier.alpha.fill_(alpha)
        for seed in range(30):
            learner.update(random_batch(seed))
        learner.pop_metrics()
        learner.update(random_batch())
        values[alpha] = learner.pop_metrics()['Qc/unknown_Qc']
    assert values[1.0] > values[0.0] + 0.5


# ---------------------------------------------------------------------- the same again


def run(learner, seeds):
    for seed in seeds:
        learner.update(random_batch(seed))
    return tensors_of(learner)


@each_learner
def test_a_seed_gives_the_same_bits(kind):
    first, second, other = (run(make(kind, seed), range(4)) for seed in (0, 0, 1))
    assert not differing(first, second)
    assert differing(first, other)


@each_learner
def test_a_continued_run_equals_an_unbroken_one(kind):
    unbroken = make(kind)
    expected = run(unbroken, range(7))

    stopped = make(kind)
    run(stopped, range(3))
    file = io.BytesIO()
    torch.save({'learner': stopped.state_dict(), 'random': torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = make(kind, seed=5)
    resumed.load_state_dict(saved['learner'])
    torch.set_rng_state(saved['random'])
    assert not differing(expected, run(resumed, range(3, 7)))
    assert resumed.step == unbroken.step == 7
    assert resumed.pop_metrics() == unbroken.pop_metrics()


@each_learner
def test_metrics_are_means_and_begin_anew(kind):
    learner, single = make(kind), []
    for seed in range(3):
        learner.update(random_batch(seed))
        single.append(learner.pop_metrics())
    again = make(kind)
    run(again, range(3))
    means = again.metrics()
    assert list(means) == list(kind.METRICS)
    for name, value in means.items():
        assert value == pytest.approx(mean([each[name] for each in single]), rel=1e-4, abs=1e-6)
    assert again.pop_metrics() == means
    assert again.metrics() == {}


@each_learner
def test_a_broken_network_is_named(kind):
    learner = make(kind)
    name = learner._NETWORKS[-1]
    with torch.no_grad():
        next(getattr(learner, name).parameters()).view(-1)[-1] = math.nan
    assert learner.broken() == [name]


@each_learner
def test_replays_equal_updates_and_wait_for_nothing(kind):
    plain = make(kind)
    batch = random_batch()
    for _ in range(5):
        plain.update(batch)
    taped = make(kind)
    taped.update(batch)  # in which the optimisers make their state
    tape = Tape()

    def on_tape():
        with tape:
            taped.iterate(batch)

    taped.advance(on_tape)
    for _ in range(3):
        taped.advance(tape.replay)
    assert tape.waiting() == []
    assert not differing(tensors_of(plain), tensors_of(taped))
    assert plain.pop_metrics() == taped.pop_metrics()


class Pair(Ranks):
    """Two ranks in threads of one process."""

    def __init__(self, rank, board, barrier):
        super().__init__(rank, 2)
        self._board, self._barrier = board, barrier

    def _exchange(self, tensor):
        self._board[self.rank] = tensor.detach().clone()
        self._barrier.wait()
        both = list(self._board)
        self._barrier.wait()
        return both

    def average(self, tensor):
        return sum(self._exchange(tensor)) / 2

    def broadcast(self, tensor):
        first, _ = self._exchange(tensor)
        tensor.detach().copy_(first)
        return tensor


def train_pair(kind):
    board, barrier = [None, None], threading.Barrier(2, timeout=60)
    learners = [None, None]

    def work(rank):
        learners[rank] = learner = kind(
            OBS_DIM, ACT_DIM, small_scaling(), CONFIGS[kind], ranks=Pair(rank, board, barrier)
        )
        for seed in range(3):
            whole, half = random_batch(seed), slice(rank * 12, rank * 12 + 12)
            learner.update(
                TransitionBatch(**{f.name: getattr(whole, f.name)[half] for f in fields(whole)}),
            )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return learners


@each_learner
def test_ranks_stay_alike(kind):
    first, second = train_pair(kind)
    assert not differing(tensors_of(first), tensors_of(second))


def test_ranks_get_what_one_gets_with_the_whole_batch(monkeypatch):
    start = make(BCSafeLearner).state_dict()['actor']
    built = BCSafeLearner._build

    def build(learner):
        built(learner)
        learner.actor.load_state_dict(start)

    monkeypatch.setattr(BCSafeLearner, '_build', build)
    alone, together = tensors_of(make(BCSafeLearner)), tensors_of(train_pair(BCSafeLearner)[0])
    alone = run(make(BCSafeLearner), range(3))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ('config', 'changes', 'message'),
    [
        (BCSafeConfig, {'actor_lr': 0.0}, 'actor_lr is 0.0; it must be positive'),
        (BCSafeConfig, {'actor_hidden_sizes': ()}, 'actor_hidden_sizes is'),
        (BCSafeConfig, {'actor_hidden_sizes': (8, 0)}, r'actor_hidden_sizes is \[8, 0\]'),
        (BCSafeConfig, {'total_steps': 0}, 'total_steps is 0; it must be at least 1'),
        (CPQConfig, {'gamma': 1.5}, 'gamma is 1.5'),
        (CPQConfig, {'polyak': 1.0}, 'polyak is 1.0'),
        (CPQConfig, {'unknown_share': 0.0}, 'unknown_share is 0.0'),
        (CPQConfig, {'cost_limit': -1.0}, 'cost_limit is -1.0; it must be 0 or more'),
        (FISORConfig, {'expectile': 1.0}, 'expectile is 1.0'),
        (FISORConfig, {'diffusion_steps': 0}, 'diffusion_steps is 0'),
        (FISORConfig, {'cost_temperature': float('nan')}, 'cost_temperature is nan'),
    ],
)
def test_impossible_settings_are_refused(config, changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize('config', [BCSafeConfig, CPQConfig, FISORConfig])
def test_each_setting_is_documented_and_checked(config):
    config()  # a setting without a rule would raise
    for field in fields(config):
        assert f'\n        {field.name} (' in config.__doc__


def test_the_threshold_spreads_the_limit_over_the_episode():
    config = CPQConfig(cost_limit=10.0, horizon=200, gamma=0.99)
    assert config.threshold == pytest.approx(10 * (1 - 0.99**200) / (1 - 0.99) / 200)
    assert replace(config, gamma=1.0).threshold == pytest.approx(10.0)


# ---------------------------------------------------------------------- what they learn


def two_steps(episodes=1500):
    """The first action, of [-1, 1], is its own reward; above 0.3 it costs 1 in the second step.

    The second step brings a reward of 1 whatever is done. Where costs do not matter the best first
    action is 1; where what comes after too much cost is worth nothing, it is 0.3.
    """
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (episodes, 2)).astype(np.float32)
    first = actions[:, 0]
    zeros, ones = np.zeros(episodes, np.float32), np.ones(episodes, np.float32)
    # What was done, and how many steps ago.
    states = np.stack([np.stack([zeros, zeros], 1), np.stack([first, ones], 1)], 1)
    last = np.stack([np.stack([first, ones], 1), np.stack([first, 2 * ones], 1)], 1)
    return Trajectories.from_arrays(
        {
            'observations': states.reshape(-1, 2),
            'next_observations': last.reshape(-1, 2),
            'actions': actions.reshape(-1, 1),
            'rewards': np.stack([first, ones], 1).reshape(-1),
            'costs': np.stack([zeros, first > 0.3], 1).reshape(-1).astype(np.float32),
            'terminals': np.tile([False, True], episodes),
            'timeouts': np.zeros(2 * episodes, dtype=bool),
        },
    )


def learned_actions(kind, config, trajectories, updates, batch_size=128):
    torch.manual_seed(0)
    mean_, std = trajectories.observation_statistics()
    scaling = Scaling(mean_, std, trajectories.returns.abs().max().item())
    learner = kind(trajectories.obs_dim, trajectories.act_dim, scaling, config)
    sampler = TransitionSampler(trajectories, batch_size, seed=0)
    for _ in range(updates):
        learner.update(sampler.sample())
    actor = DeployableActor.from_learner(learner, {})
    policy = actor.deploy(DeploymentConfig(), 40)
    policy.reset(0.0, seeds=range(40))
    return policy.act(np.zeros((40, 2))).numpy()[:, 0]


def test_bc_safe_clones_the_safe_episodes():
    config = BCSafeConfig(actor_hidden_sizes=(32,), total_steps=300)
    actions = learned_actions(BCSafeLearner, config, select_safe(two_steps(), 0.5), 300)
    assert actions.mean() == pytest.approx(-0.35, abs=0.06)  # the middle of -1..0.3
    everything = learned_actions(BCSafeLearner, config, two_steps(), 300)
    assert everything.mean() == pytest.approx(0.0, abs=0.06)


@pytest.mark.slow
def test_cpq_takes_the_best_action_that_is_safe():
    config = CPQConfig(
        cost_limit=0.5,
        horizon=2,
        polyak=0.95,
        actor_lr=1e-3,
        critic_lr=3e-3,
        critic_hidden_sizes=(48, 48),
        actor_hidden_sizes=(32,),
        vae_hidden_sizes=(32,),
        sampled_actions=2,
    )
    safe = learned_actions(CPQLearner, config, two_steps(), 800)
    assert 0.0 < safe[0] < 0.4
    free = learned_actions(CPQLearner, replace(config, cost_limit=5.0), two_steps(), 500)
    assert free[0] > 0.6


@pytest.mark.slow
def test_fisor_takes_good_actions_that_are_safe():
    config = FISORConfig(
        total_steps=800,
        horizon=2,
        polyak=0.95,
        actor_lr=2e-3,
        critic_lr=3e-3,
        actor_width=32,
        actor_blocks=1,
        actor_dropout=0.0,
        actor_polyak=0.95,
        critic_hidden_sizes=(48, 48),
        candidates=2,
        # With these a state is taken as feasible where 65 % of the data's actions are.
        expectile=0.7,
        violation=2.0,
        reward_temperature=6.0,
    )
    actions = learned_actions(FISORLearner, config, two_steps(), 800)
    # Of the data's actions 34 % are above. Sampled actions have a tail that depends on rounding.
    assert (actions < 0.35).mean() >= 0.9
    assert actions.mean() > -0.15  # the safe actions of the data have a mean of -0.35


# ---------------------------------------------------------------------- deployment


def deployable(kind, seed=0):
    learner = make(kind, seed)
    for number in range(3):
        learner.update(random_batch(number))
    return DeployableActor.from_learner(learner, {'horizon': 8, 'env_id': 'Some-v0'})


def play(actor, seeds, steps=3):
    """Act in episodes of random observations, a row of actions for each seed."""
    policy = actor.deploy(DeploymentConfig(), len(seeds))
    policy.reset(1.0, cost_limit=5.0, seeds=seeds)
    generators = [np.random.default_rng(seed) for seed in seeds]
    taken = []
    for _ in range(steps):
        observations = np.stack([each.normal(size=OBS_DIM) for each in generators])
        taken.append(policy.act(observations))
        policy.observe(np.zeros(len(seeds)), np.zeros(len(seeds)))
    return torch.stack(taken, dim=1)


@each_learner
def test_episodes_are_fixed_by_their_seeds_alone(kind):
    actor = deployable(kind)
    torch.manual_seed(1)
    together = play(actor, [3, 1, 4])
    torch.manual_seed(2)
    assert torch.equal(play(actor, [3, 1, 4]), together)
    for row, seed in enumerate([3, 1, 4]):
        torch.testing.assert_close(play(actor, [seed])[0], together[row], rtol=1e-4, atol=1e-5)
    assert together.abs().max() <= 1.0


def test_fisor_draws_by_the_seed_and_anew_in_each_step():
    policy = deployable(FISORLearner).deploy(DeploymentConfig(), 3)
    policy.reset(0.0, seeds=[0, 0, 1])
    observation = np.ones((3, OBS_DIM))
    acted = torch.stack([policy.act(observation) for _ in range(8)])
    torch.testing.assert_close(acted[:, 0], acted[:, 1])
    assert not torch.allclose(acted[:, 0], acted[:, 2])
    assert not torch.allclose(acted[:, 0], acted[:1, 0])
    policy.reset(0.0, seeds=[0], episodes=[1])
    again = torch.stack([policy.act(observation) for _ in range(8)])
    torch.testing.assert_close(again[:, 1], acted[:, 1])
    assert not torch.allclose(again[:, 0], acted[:, 0])


@each_learner
def test_an_actor_is_rebuilt_from_its_state_alone(kind):
    actor = deployable(kind)
    file = io.BytesIO()
    torch.save(actor.state_dict(), file)
    file.seek(0)
    rebuilt = DeployableActor.from_state_dict(torch.load(file, weights_only=True))
    assert rebuilt.spec == actor.spec
    assert rebuilt.spec['actor'] == kind.ACTOR
    assert rebuilt.spec['env_id'] == 'Some-v0'
    assert torch.equal(play(rebuilt, [0, 1]), play(actor, [0, 1]))


@each_learner
def test_an_actor_is_a_copy(kind):
    learner = make(kind)
    actor = DeployableActor.from_learner(learner, {})
    before = play(actor, [0])
    for seed in range(3):
        learner.update(random_batch(seed))
    assert torch.equal(play(actor, [0]), before)
    later = DeployableActor.from_learner(learner, {})
    assert not any(map(torch.equal, later.policy.parameters(), actor.policy.parameters()))


@pytest.mark.parametrize('kind', [BCSafeLearner, CPQLearner])
def test_a_deterministic_policy_acts_by_its_mean(kind):
    actor = deployable(kind)
    network = layers_of(actor.policy, nn.ReLU)
    observations = random_batch().obs
    policy = actor.deploy(DeploymentConfig(), BATCH_SIZE)
    for observation, action in zip(observations, policy.act(observations)):
        expected = network(actor.scaling.observation(observation).double())[:ACT_DIM].tanh()
        torch.testing.assert_close(action.double(), expected, rtol=1e-4, atol=1e-6)


def denoised(estimate, noise):
    """The reverse process of one action (A,) in three steps; noise is (3, A)."""
    (betas, shares), x = schedule(3), noise[0]
    for t in (2, 1, 0):
        x = (x - betas[t] / shares[t][1] * estimate(x, t)) / math.sqrt(1 - betas[t])
        if t > 0:
            x = x + math.sqrt(betas[t]) * noise[3 - t]
        x = x.clamp(-1, 1)
    return x


def test_actions_are_denoised_step_by_step(monkeypatch):
    """With an estimate that removes most of the noise, so that few actions are at their bounds."""
    denoiser = deployable(FISORLearner).policy.denoiser
    _, shares = schedule(3)
    share = torch.tensor([noise for _, noise in shares])

    def estimate(obs, noisy, step):
        return 0.97 * noisy / share[step, None] + 0.1 * obs[:, :ACT_DIM]

    monkeypatch.setattr(denoiser, 'forward', estimate)
    obs = random_batch().obs
    draws = torch.randn(3, BATCH_SIZE, ACT_DIM, generator=torch.Generator().manual_seed(0))
    found = denoiser.denoise(obs, draws)
    assert (found.abs() < 1).float().mean() > 0.7
    for i in range(BATCH_SIZE):

        def single(x, t, i=i):
            return 0.97 * x / shares[t][1] + 0.1 * obs[i, :ACT_DIM]

        torch.testing.assert_close(found[i], denoised(single, draws[:, i]), rtol=1e-4, atol=1e-5)


def test_fisor_takes_the_safest_of_its_actions():
    """Each is made of noise step by step, and the larger of two cost values counts."""
    actor = deployable(FISORLearner)
    policy = actor.deploy(DeploymentConfig(), 2)
    policy.reset(0.0, seeds=[5, 6])
    observations = random_batch(size=2).obs
    found = policy.act(observations)
    estimate, critics = denoiser_of(actor.policy.denoiser), critics_of(actor.policy.cost_critic)
    for observation, seed, action in zip(observations, (5, 6), found):
        state = actor.scaling.observation(observation).double()
        draws = np.random.default_rng(seed).standard_normal((3, 4, ACT_DIM), dtype=np.float32)
        candidates = []
        for noise in torch.from_numpy(draws).double().transpose(0, 1):
            x = denoised(lambda x, t, state=state: estimate(state, x, t), noise)
            candidates.append((max(critic(torch.cat([state, x])) for critic in critics), x))
        safest = min(candidates, key=lambda each: each[0])[1]
        torch.testing.assert_close(action.double(), safest, rtol=1e-4, atol=1e-5)


def test_fisor_deploys_the_averaged_denoiser_and_the_target_critics():
    learner = make(FISORLearner)
    run(learner, range(3))
    policy = DeployableActor.from_learner(learner, {}).policy
    for mine, name in ((policy.denoiser, 'target_denoiser'), (policy.cost_critic, 'cost_critic')):
        source = learner.target_cost_critic if name == 'cost_critic' else getattr(learner, name)
        assert all(map(torch.equal, mine.parameters(), source.parameters()))


@pytest.fixture(name='policy')
def fixture_policy():
    policy = deployable(FISORLearner).deploy(DeploymentConfig(), 2)
    policy.reset(0.0, seeds=[0, 1])
    return policy


@pytest.mark.parametrize('wrong', [math.nan, math.inf, 1e20])
def test_numbers_that_are_not_usable_are_refused(policy, wrong):
    observations = np.zeros((2, OBS_DIM))
    observations[1, 0] = wrong
    with pytest.raises(UserError, match='observation holds NaN or infinity'):
        policy.act(observations)
    with pytest.raises(UserError, match='reward or cost'):
        policy.observe([0.0, wrong], [0.0, 0.0])
    with pytest.raises(UserError, match='reward or cost'):
        policy.observe([0.0, 0.0], [wrong, 0.0])


def test_wrong_sizes_are_refused(policy):
    for shape in ((2, OBS_DIM + 1), (3, OBS_DIM), (OBS_DIM,)):
        with pytest.raises(UserError, match='observation has shape'):
            policy.act(np.zeros(shape))
    with pytest.raises(UserError, match='1 seeds for 2 episodes'):
        policy.reset(0.0, seeds=[0])


def test_there_are_no_candidates_to_tell_of(policy):
    policy.act(np.zeros((2, OBS_DIM)))
    policy.finish([0])
    assert policy.choice is None
    assert policy.pop_infeasible_share() == 0.0


class Halve:
    """A function of the observation, at the top of a module so that it can be pickled."""

    def __init__(self, act_dim):
        self.act_dim = act_dim

    def __call__(self, observations):
        assert observations.dtype == torch.float32
        return observations[:, : self.act_dim] / 2


def test_any_function_of_the_observation_can_be_deployed():
    actor = pickle.loads(pickle.dumps(ObservationPolicy(Halve(2), 3, 2, {'env_id': 'Some-v0'})))
    assert actor.spec == {'env_id': 'Some-v0'}
    assert actor.device == torch.device('cpu')
    policy = actor.deploy(DeploymentConfig(), 2)
    policy.reset(0.0, seeds=[0, 1])
    actions = policy.act(np.array([[0.5, -1.0, 3.0], [0.0, 1.0, 3.0]]))
    assert actions.tolist() == [[0.25, -0.5], [0.0, 0.5]]
    with pytest.raises(UserError, match='observation holds'):
        policy.act(np.full((2, 3), math.nan))


def test_a_function_with_other_actions_is_refused():
    policy = ObservationPolicy(Halve(1), 3, 2).deploy(DeploymentConfig(), 2)
    with pytest.raises(UserError, match=r'actions of shape \(2, 1\).*\(2, 2\)'):
        policy.act(np.zeros((2, 3)))
