# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Each purpose draws from a stream of its own, whatever else has the same seed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from gymnasium.utils import seeding

from core_helpers import random_trajectories, small_learner
from omnisafe_qpt.baselines.deploy import MemorylessPolicy
from omnisafe_qpt.data import streams
from omnisafe_qpt.data.augmentation import augment, relabel_frontier
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.runner import onnx_policy


SEEDS = (0, 1, 7, 1_000_000_000)


def normals(sequence):
    return tuple(np.random.default_rng(sequence).standard_normal(4))


@pytest.mark.parametrize('seed', SEEDS)
def test_no_two_streams_are_the_same(seed):
    """Nor is one of them that of the seed itself, or of another seed."""
    drawn = [normals(streams.stream(seed, purpose)) for purpose in streams._PURPOSES]
    drawn += [normals(streams.stream(seed, purpose, 0)) for purpose in streams._PURPOSES]
    drawn += [normals(streams.stream(seed, purpose, 1)) for purpose in streams._PURPOSES]
    drawn += [normals(streams.stream(seed + 1, purpose)) for purpose in streams._PURPOSES]
    drawn += [normals(seed), normals(seed + 1)]
    drawn += [normals(np.random.SeedSequence([seed, number])) for number in range(1, 4)]
    assert all(first != second for first, second in combinations(drawn, 2))
    numbers = {streams.torch_seed(seed, purpose) for purpose in streams._PURPOSES}
    assert len(numbers | {seed}) == len(streams._PURPOSES) + 1
    assert all(0 <= number < 2**63 for number in numbers)


def test_a_seed_draws_the_same_everywhere():
    """Runs of a seed are to repeat in later versions."""
    assert streams.torch_seed(0, 'batches') == 4334430513956379144
    assert normals(streams.stream(5, 'candidates'))[0] == pytest.approx(-0.16232018342050952)


@pytest.mark.parametrize('seed', SEEDS)
def test_batches_are_not_drawn_as_weights_are(seed):
    sampler = WindowSampler(random_trajectories((200, 300)), 5, 64, seed)
    torch.manual_seed(seed)
    assert not sampler.draw(sampler.generator).equal(torch.randint(sampler.num_items, (64,)))


@pytest.mark.parametrize('seed', SEEDS)
def test_targets_of_relabelled_episodes_are_not_drawn_as_anything_else(seed):
    data = random_trajectories()
    rows, _ = augment(data, 2.0, seed)
    plain = relabel_frontier(data, 12, np.random.default_rng(seed))
    assert not rows.cost_shift[-12:].equal(plain.cost_shift)


@pytest.mark.parametrize('seed', SEEDS)
def test_candidates_are_not_drawn_as_the_simulator_draws(seed):
    networks = DeployableNetworks.from_learner(small_learner(), {})
    config = DeploymentConfig(candidates=9, target_spread=1.0)
    policy = RolloutPolicy(networks, config)
    policy.reset(0.0, seeds=(seed,))
    shifts = (policy._shifts[0] / networks.scaling.return_unit).numpy()
    simulators = seeding.np_random(seed)[0].standard_normal(9)
    assert np.abs(shifts[1:] - simulators[1:]).min() > 1e-4
    # The runner imports nothing of the package, and is to draw the same.
    same = np.random.SeedSequence(seed, spawn_key=onnx_policy._CANDIDATES)
    np.testing.assert_allclose(shifts[1:], np.random.default_rng(same).standard_normal(9)[1:], 1e-5)


@pytest.mark.parametrize('seed', SEEDS)
def test_policies_without_memory_do_not_draw_as_the_simulator_draws(seed):
    policy = MemorylessPolicy(None, num_episodes=1)
    policy.reset(0.0, seeds=(seed,))
    assert policy._generators[0].random() != seeding.np_random(seed)[0].random()
