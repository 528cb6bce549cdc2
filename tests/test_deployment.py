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
"""A trained policy in the user's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omnisafe_qpt
from host_helpers import ENV_ID, HORIZON, make_networks
from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.host.checkpoint import checkpoint_path, load_networks, save_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / 'seed-000-now'
    save_checkpoint(folder, 3, make_networks(7, 2, HORIZON, ENV_ID))
    (folder / 'config.json').write_text('{}')
    return folder


def episode(policy: Any, seed: int, steps: int = 12) -> np.ndarray:
    generator = np.random.default_rng(1)
    policy.reset(seed=seed)
    actions = []
    for _ in range(steps):
        actions.append(policy.act(generator.standard_normal(7)))
        policy.observe(generator.uniform(), generator.uniform())
    return np.stack(actions)


def test_a_loaded_policy_acts_the_same_for_the_same_seed(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, cost_limit=5.0, device='cpu')
    actions = episode(policy, seed=1)
    assert actions.shape == (12, 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_array_equal(actions, episode(policy, seed=1))
    assert not np.allclose(actions, episode(policy, seed=2)), 'a seed has its own candidates'
    np.testing.assert_array_equal(
        actions, episode(omnisafe_qpt.load_policy(run, cost_limit=5.0, device='cpu'), seed=1)
    )


def test_the_target_follows_the_cost_limit(run: Path) -> None:
    """Read off the frontier in the checkpoint, without the dataset."""
    for limit, target in ((0.0, 10.0), (4.9, 10.0), (5.0, 50.0), (29.0, 50.0), (1000.0, 90.0)):
        policy = omnisafe_qpt.load_policy(run, cost_limit=limit, device='cpu')
        assert (policy.cost_limit, policy.target_return) == (limit, target)
    assert omnisafe_qpt.load_policy(run, device='cpu').cost_limit == 10.0
    assert omnisafe_qpt.load_policy(run, target_return=7.0, device='cpu').target_return == 7.0


def test_limits_targets_and_candidates_change_the_actions(run: Path) -> None:
    def actions(**choice: Any) -> np.ndarray:
        return episode(omnisafe_qpt.load_policy(run, device='cpu', **choice), seed=0)

    base = actions(candidates=1)
    assert not np.allclose(base, actions(candidates=1, cost_limit=40.0, target_return=50.0))
    assert not np.allclose(base, actions(candidates=1, target_return=90.0))
    many = actions(candidates=30)
    assert not np.allclose(base, many)
    np.testing.assert_array_equal(many, actions(candidates=30, candidate_shift='history'))
    assert not np.allclose(many, actions(candidates=30, candidate_shift='last'))
    with pytest.raises(omnisafe_qpt.UserError, match='candidate_shift'):
        actions(candidate_shift='first')


def test_rewards_and_costs_are_fed_back(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, candidates=1, device='cpu')
    obs = np.zeros(7)

    def second_action(reward: float, cost: float) -> np.ndarray:
        policy.reset()
        policy.act(obs)
        policy.observe(reward, cost)
        return policy.act(obs)

    base = second_action(0.0, 0.0)
    assert not np.allclose(base, second_action(30.0, 0.0))
    assert not np.allclose(base, second_action(0.0, 9.0))


def test_odd_observations_are_refused_not_acted_on(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    with pytest.raises(omnisafe_qpt.UserError, match='shape'):
        policy.act(np.zeros(6))
    with pytest.raises(omnisafe_qpt.UserError, match='NaN'):
        policy.act(np.full(7, np.nan))


def test_the_last_checkpoint_is_taken_by_number(run: Path) -> None:
    for epoch in (10, 9):
        save_checkpoint(run, epoch, make_networks(7, 2, HORIZON, ENV_ID))
    assert checkpoint_path(run).name == 'epoch-10.pt'
    assert checkpoint_path(run.parent).name == 'epoch-10.pt'  # the only run in there
    assert checkpoint_path(run / 'torch_save' / 'epoch-3.pt').name == 'epoch-3.pt'


def test_what_is_no_run_is_said_so(run: Path, tmp_path: Path) -> None:
    cases = {
        tmp_path / 'nowhere': 'no such run folder',
        run / 'torch_save': 'not a run folder',
    }
    (run.parent / 'seed-001-now').mkdir()
    (run.parent / 'seed-001-now' / 'config.json').write_text('{}')
    cases[run.parent] = 'several runs'
    cases[run.parent / 'seed-001-now'] = 'no checkpoint'
    cut = tmp_path / 'epoch-1.pt'
    cut.write_bytes(checkpoint_path(run).read_bytes()[:500])
    cases[cut] = 'cannot be read'
    other = tmp_path / 'epoch-2.pt'
    torch.save({'pi': {'mean.weight': torch.zeros(2)}}, other)
    cases[other] = 'not a checkpoint of QPT'
    for path, message in cases.items():
        with pytest.raises(omnisafe_qpt.UserError, match=message):
            load_networks(path)


def test_an_episode_starts_from_its_own_first_observation() -> None:
    """OmniSafe's renderer hands over the last observation of the episode before."""
    from gymnasium.spaces import Box

    from omnisafe_qpt.host.actor import QPTActor

    spaces = (Box(-1, 1, (7,)), Box(-1, 1, (2,)))
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    actor = QPTActor(*spaces, networks, DeploymentConfig(candidates=1), 50.0)
    first, other = torch.full((7,), 0.5), torch.full((7,), -0.5)

    def action(observation: torch.Tensor) -> torch.Tensor:
        actor.begin_episode(first, seed=0)
        return actor.predict(observation)

    assert torch.equal(action(first), action(other))
    assert not torch.equal(actor.predict(first), actor.predict(other)), 'only the first is special'
