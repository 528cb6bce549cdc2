# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Small networks, configurations and batches for the tests of the core."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import SequenceBatch
from omnisafe_qpt.qpt.config import LearnerConfig, OptimizerConfig, PolicyConfig
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import PolicyInputs, Scaling


OBS_DIM, ACT_DIM = 3, 2


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    """Whether two batches are equal."""
    return all(value.equal(vars(second)[name]) for name, value in vars(first).items())


def small_policy_config(**changes):
    return replace(
        PolicyConfig(
            context_len=5, embed_dim=16, num_layers=2, num_heads=4, dropout=0.0, max_timestep=30
        ),
        **changes,
    )


def small_config(policy=None, **changes):
    """A learner's configuration that leaves no part of the update without effect."""
    return replace(
        LearnerConfig(
            policy=policy or small_policy_config(),
            critic_hidden_sizes=(16, 12),
            policy_optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.02, max_grad_norm=0.3),
            critic_optimizer=OptimizerConfig(lr=2e-3, weight_decay=0.01, max_grad_norm=0.5),
            gamma=0.9,
            polyak=0.8,
            eta_reward=0.7,
            eta_cost=0.4,
            total_steps=20,
            horizon=30,
        ),
        **changes,
    )


def small_scaling():
    return Scaling(
        torch.tensor([0.5, -1.0, 0.0]),
        torch.tensor([2.0, 0.5, 1.0]),
        max_abs_return=8.0,
        cost_unit=2.0,
        mean_abs_return=3.0,
        mean_cost=1.5,
        mean_length=12,
    )


def small_learner(config=None, seed=0, device='cpu', scaling=None):
    torch.manual_seed(seed)
    return Learner(OBS_DIM, ACT_DIM, scaling or small_scaling(), config or small_config(), device)


def roughen(module, seed=0, scale=0.3):
    """Move every weight, so that the initial zeros and ones hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
    return module


def random_batch(num_windows=12, context_len=5, seed=0):
    """Windows with every kind of mask: full, padded, of one state, at an end, terminal."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(num_windows, context_len, *shape, generator=generator)

    valid = 1 + torch.arange(num_windows)[:, None] % context_len
    mask = torch.arange(context_len) >= context_len - valid
    at_end = torch.arange(num_windows) % 3 == 0
    action_mask = mask.clone()
    action_mask[at_end, -1] = False
    start = torch.arange(num_windows)[:, None] % 7 * (valid == context_len)
    return SequenceBatch(
        states=normal(OBS_DIM),
        actions=normal(ACT_DIM).tanh(),
        rewards=normal(),
        costs=(normal() > 0.3).float(),
        return_to_go=3 * normal(),
        cost_to_go=2 * normal().abs(),
        timesteps=(start + torch.arange(context_len) - (context_len - valid)).clamp_min(0),
        mask=mask,
        action_mask=action_mask,
        terminal=at_end & (torch.arange(num_windows) % 2 == 0),
    )


def episode_arrays(lengths, seed=0, terminal=()):
    """Episodes under DSRL's names, with rewards and costs that float32 adds up exactly."""
    generator = np.random.default_rng(seed)
    parts = {name: [] for name in ('observations', 'next_observations', 'terminals', 'timeouts')}
    for number, length in enumerate(lengths):
        states = generator.standard_normal((length + 1, OBS_DIM)).astype(np.float32)
        last = np.arange(length) == length - 1
        parts['observations'].append(states[:-1])
        parts['next_observations'].append(states[1:])
        parts['terminals'].append(last & (number in terminal))
        parts['timeouts'].append(last & (number not in terminal))
    total = sum(lengths)
    return {
        **{name: np.concatenate(part) for name, part in parts.items()},
        'actions': np.tanh(generator.standard_normal((total, ACT_DIM))).astype(np.float32),
        'rewards': generator.integers(-4, 8, total).astype(np.float32) / 8,
        'costs': generator.integers(0, 2, total).astype(np.float32) / 2,
    }


def random_trajectories(lengths=(12, 3, 25, 7, 1, 18), seed=0, terminal=(1, 3)):
    return Trajectories.from_arrays(episode_arrays(lengths, seed, terminal))


def batch_to(batch, device):
    return SequenceBatch(**{f.name: getattr(batch, f.name).to(device) for f in fields(batch)})


def plain_network(critic, member):
    """The paper's critic: linear layers with Mish in between, with one twin's weights."""
    layers = []
    for weight, bias in zip(critic.weights, critic.biases):
        linear = nn.Linear(*weight.shape[1:])
        with torch.no_grad():
            linear.weight.copy_(weight[member].T)
            linear.bias.copy_(bias[member, 0])
        layers += [linear, nn.Mish()]
    return nn.Sequential(*layers[:-1])


def policy_inputs(batch):
    """What the policy takes, with the batch's numbers as if they were in its units."""
    return PolicyInputs(
        batch.states,
        batch.actions,
        batch.return_to_go,
        batch.cost_to_go,
        batch.timesteps,
        batch.mask,
    )


def tensors_of(learner):
    """All that a learner learns, by name."""
    networks = {
        name: getattr(learner, name)
        for name in (
            'policy',
            'reward_critic',
            'cost_critic',
            'target_policy',
            'target_reward_critic',
            'target_cost_critic',
        )
    }
    return {
        f'{name}.{key}': value.detach().clone()
        for name, network in networks.items()
        for key, value in network.named_parameters()
    }


def differing(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def slow_select(reward_values, cost_values, budget, rule):
    """Eq. (13)-(14) for one episode, candidate by candidate."""
    if rule == 'discounted_budget' and cost_values[0] > budget:
        return 0
    bound = min(budget, cost_values[0]) if rule == 'bounded' else budget
    best = None
    for j, (reward, cost) in enumerate(zip(reward_values, cost_values)):
        if cost <= bound and (best is None or reward > reward_values[best]):
            best = j
    if best is not None:
        return best
    cheapest = 0
    for j, cost in enumerate(cost_values):
        if cost < cost_values[cheapest]:
            cheapest = j
    return cheapest


def slow_worth(budget, steps_left, gamma, stops=False):
    """What a critic says of a budget that is spent evenly, in the steps left or for ever."""
    steps = steps_left if stops or gamma == 1 else 20_000
    return sum(gamma**k * budget / steps_left for k in range(steps))
