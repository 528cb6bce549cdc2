# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A trained policy in the user's own loop."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omnisafe_qpt
from host_helpers import ENV_ID, HORIZON, make_networks, untrained_run
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.scaling import PolicyInputs
from omnisafe_qpt.runs.checkpoint import checkpoint_path, load_networks, save_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return untrained_run(tmp_path / 'seed-000-now', make_networks(7, 2, HORIZON, ENV_ID))


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
    for wish, target in (('dsrl', 700.0), ('auto', 90.0)):
        policy = omnisafe_qpt.load_policy(run, 40.0, wish, device='cpu')
        assert (policy.cost_limit, policy.target_return) == (40.0, target)


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


# ---------------------------------------------------------------------- several episodes


def play(policy: Any, observations: np.ndarray, received: np.ndarray) -> np.ndarray:
    """Act at observations (T, ...) and feed back rewards and costs (T, 2, ...)."""
    actions = []
    for obs, (reward, cost) in zip(observations, received):
        actions.append(policy.act(obs))
        policy.observe(reward, cost)
    return np.stack(actions)


def stream(steps: int, count: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((steps, count, 7))
    return observations, generator.uniform(size=(steps, 2, count)) * [[5.0], [1.0]]


def test_episodes_at_once_equal_episodes_one_by_one(run: Path) -> None:
    observations, received = stream(9)
    together = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3)
    together.reset(seed=5)
    together.set_cost_limit([5.0, 10.0, 40.0])
    assert together.target_return.tolist() == [50.0, 50.0, 90.0]
    actions = play(together, observations, received)
    assert actions.shape == (9, 3, 2)
    for episode, limit in enumerate((5.0, 10.0, 40.0)):
        alone = omnisafe_qpt.load_policy(run, cost_limit=limit, device='cpu')
        alone.reset(seed=5 + episode)
        expected = play(alone, observations[:, episode], received[:, :, episode])
        np.testing.assert_allclose(actions[:, episode], expected, atol=1e-6)
        assert together.remaining_budget[episode] == pytest.approx(alone.remaining_budget)
        assert together.remaining_return[episode] == pytest.approx(alone.remaining_return)


@pytest.mark.parametrize('which', [[1], np.array([False, True, False])], ids=['numbers', 'bool'])
def test_episodes_may_begin_at_different_times(run: Path, which: Any) -> None:
    before, after = stream(7), stream(8, seed=2)
    policy = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3)
    undisturbed = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3)
    for each in (policy, undisturbed):
        play(each, *before)
    policy.reset(seed=8, episodes=which)
    actions, expected = play(policy, *after), play(undisturbed, *after)
    np.testing.assert_allclose(actions[:, [0, 2]], expected[:, [0, 2]], atol=1e-6)
    fresh = omnisafe_qpt.load_policy(run, device='cpu')
    fresh.reset(seed=8)
    begun = play(fresh, after[0][:, 1], after[1][:, :, 1])
    np.testing.assert_allclose(actions[:, 1], begun, atol=1e-6)
    assert not np.allclose(actions[:, 1], expected[:, 1], atol=1e-3)


def test_no_episode_to_begin_changes_nothing(run: Path) -> None:
    policy, untouched = (omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3) for _ in '12')
    play(policy, *stream(3))
    play(untouched, *stream(3))
    policy.reset(seed=9, episodes=np.zeros(3, dtype=bool))
    policy.reset(seed=9, episodes=[])
    policy.set_cost_limit(1.0, episodes=[])
    np.testing.assert_array_equal(play(policy, *stream(3)), play(untouched, *stream(3)))


def test_one_episode_of_several_has_the_first_axis(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=1)
    assert policy.act(np.zeros((1, 7))).shape == (1, 2)
    assert policy.remaining_budget.shape == policy.cost_limit.shape == (1,)
    with pytest.raises(omnisafe_qpt.UserError, match='num_episodes is 0'):
        omnisafe_qpt.load_policy(run, device='cpu', num_episodes=0)


def test_tensors_are_taken_too(run: Path) -> None:
    observations, received = stream(5)
    policy, other = (omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3) for _ in '12')
    expected = play(policy, observations, received)
    actions = play(other, torch.tensor(observations, requires_grad=True), torch.tensor(received))
    np.testing.assert_array_equal(actions, expected)


# ---------------------------------------------------------------------- another limit on the way


@torch.no_grad()
def plain_action(
    networks: Any,
    observations: list[np.ndarray],
    actions: list[np.ndarray],
    to_go: np.ndarray,
) -> np.ndarray:
    """The action after a whole history, by one plain call of the network for what it can see."""
    first = max(0, len(observations) - 4)
    wanted, allowed = torch.tensor(to_go[first:], dtype=torch.float32).T
    predicted = networks.policy(
        PolicyInputs(
            networks.scaling.observation(torch.tensor(np.stack(observations[first:])).float())[
                None
            ],
            torch.tensor(np.stack([*actions[first:], np.zeros(2, dtype=np.float32)]))[None],
            networks.scaling.return_token(wanted)[None],
            networks.scaling.cost_token(allowed)[None],
            torch.arange(first, len(observations))[None],
            torch.ones(1, len(observations) - first, dtype=torch.bool),
        )
    )
    return predicted[0, -1].numpy()


@pytest.mark.parametrize('given', [None, 33.0])
@pytest.mark.parametrize('change', [0, 2, 9])
def test_a_new_limit_counts_from_the_start_of_the_episode(
    run: Path,
    change: int,
    given: float | None,
) -> None:
    """The rest of the episode is that of a policy which had the limit and target all along."""
    networks, _ = load_networks(run)
    observations, received = stream(14)
    observations, received = observations[:, 0], received[:, :, 0]
    policy = omnisafe_qpt.load_policy(run, cost_limit=10.0, candidates=1, device='cpu')
    policy.reset()
    target = 90.0 if given is None else given  # the frontier's at 40, see make_networks
    seen, actions = [], []
    for step, (obs, (reward, cost)) in enumerate(zip(observations, received)):
        if step == change:
            policy.set_cost_limit(40.0, given)
            assert (policy.cost_limit, policy.target_return) == (40.0, target)
        seen.append(obs)
        action = policy.act(obs)
        start = [target, 40.0] if step >= change else [50.0, 10.0]
        to_go = start - np.concatenate([np.zeros((1, 2)), received[:step].cumsum(0)])
        expected = plain_action(networks, seen, actions, to_go)
        np.testing.assert_allclose(action, expected, atol=1e-5, err_msg=f'step {step}')
        left = policy.remaining_return, policy.remaining_budget
        np.testing.assert_allclose(left, to_go[-1], rtol=1e-5)
        actions.append(action)
        policy.observe(reward, cost)
    policy.reset()
    assert (policy.remaining_budget, policy.remaining_return) == (40.0, target), 'it stays so'


def test_a_new_limit_may_come_between_act_and_observe(run: Path) -> None:
    observations, received = stream(6, 1)
    early, late = (omnisafe_qpt.load_policy(run, candidates=1, device='cpu') for _ in '12')
    for policy in (early, late):
        play(policy, observations[:3, 0], received[:3, :, 0])
        policy.act(observations[3, 0])
    early.set_cost_limit(2.0)
    early.observe(*received[3, :, 0])
    late.observe(*received[3, :, 0])
    late.set_cost_limit(2.0)
    expected = late.act(observations[4, 0])
    np.testing.assert_allclose(early.act(observations[4, 0]), expected, atol=1e-6)


def test_a_limit_for_some_episodes_leaves_the_others_alone(run: Path) -> None:
    before, after = stream(6), stream(6, seed=2)
    policy, everywhere, nowhere = (
        omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3) for _ in range(3)
    )
    for each in (policy, everywhere, nowhere):
        play(each, *before)
    policy.set_cost_limit([2.0, 40.0], target_return=[7.0, 8.0], episodes=[2, 0])
    everywhere.set_cost_limit([40.0, 9.0, 2.0], target_return=[8.0, 9.0, 7.0])
    assert policy.cost_limit.tolist() == [40.0, 10.0, 2.0]
    assert policy.target_return.tolist() == [8.0, 50.0, 7.0]
    actions = play(policy, *after)
    np.testing.assert_array_equal(actions[:, [0, 2]], play(everywhere, *after)[:, [0, 2]])
    np.testing.assert_array_equal(actions[:, 1], play(nowhere, *after)[:, 1])


def test_there_and_back_again(run: Path) -> None:
    before, after = stream(6), stream(6, seed=2)
    policy, untouched = (omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3) for _ in '12')
    for each in (policy, untouched):
        play(each, *before)
    policy.set_cost_limit(3.0)
    policy.set_cost_limit(10.0)
    np.testing.assert_allclose(play(policy, *after), play(untouched, *after), atol=1e-5)


def test_a_target_of_the_run_belongs_to_its_limit(run: Path) -> None:
    networks, _ = load_networks(run)
    networks.spec['target_return'] = 77.0  # at 10, the limit of training
    save_checkpoint(run, 4, networks)
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    targets = [policy.target_return]
    for limit in (5.0, 10.0):
        policy.set_cost_limit(limit)
        targets.append(policy.target_return)
    assert targets == [77.0, 50.0, 77.0]
    assert omnisafe_qpt.load_policy(run, device='cpu', checkpoint=3).target_return == 50.0


# ---------------------------------------------------------------------- refusals

BAD_OBSERVATIONS = {
    'shape': np.zeros(6),
    r'shape \(1, 7\)': np.zeros((1, 7)),
    'NaN': np.full(7, np.nan),
    'infinity': np.array([0.0, 0, 0, np.inf, 0, 0, 0]),
    'beyond': np.full(7, 1e30),
    'is a tuple': (np.zeros(7), {}),  # what reset returns
    'is a dict': {'lidar': np.zeros(7)},
    'is a str': 'observation',
}


def test_a_refused_call_changes_nothing(run: Path) -> None:
    """At every step every mistake is made, and the actions are those of an undisturbed policy."""
    observations, received = stream(8)
    observations, received = observations[:, 0], received[:, :, 0]
    expected = play(omnisafe_qpt.load_policy(run, device='cpu'), observations, received)
    policy = omnisafe_qpt.load_policy(run, device='cpu')

    def refused(match: str, call: Any, *args: Any, **kwargs: Any) -> None:
        before = policy.remaining_budget, policy.remaining_return, policy.cost_limit
        with pytest.raises(omnisafe_qpt.UserError, match=match):
            call(*args, **kwargs)
        assert (policy.remaining_budget, policy.remaining_return, policy.cost_limit) == before

    actions = []
    for obs, (reward, cost) in zip(observations, received):
        refused('without an action', policy.observe, reward, cost)
        for match, bad in BAD_OBSERVATIONS.items():
            refused(match, policy.act, bad)
        actions.append(policy.act(obs))
        refused('twice in a row', policy.act, obs)
        refused('NaN', policy.observe, np.nan, cost)
        refused('infinity', policy.observe, reward, np.inf)
        refused('cost holds NaN', policy.observe, reward, None)
        refused('this is a dict', policy.observe, reward, {'cost': cost})
        refused('shape', policy.observe, [reward, reward], cost)
        refused('0 or more', policy.set_cost_limit, -1.0)
        refused('NaN', policy.set_cost_limit, np.nan)
        refused('infinity', policy.set_cost_limit, np.inf)
        refused('NaN', policy.set_cost_limit, 3.0, target_return=np.nan)
        refused('one for all, or 1', policy.set_cost_limit, [3.0, 4.0])
        refused('integer', policy.reset, -1)
        refused('integer', policy.reset, 0.5)
        refused('2 seeds for 1', policy.reset, [1, 2])
        policy.observe(reward, cost)
    np.testing.assert_array_equal(np.stack(actions), expected)


def test_a_refused_call_for_several_episodes_changes_nothing(run: Path) -> None:
    observations, received = stream(8)
    expected = play(
        omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3), observations, received
    )
    policy = omnisafe_qpt.load_policy(run, device='cpu', num_episodes=3)
    actions = []
    for obs, (reward, cost) in zip(observations, received):
        broken = obs.copy()
        broken[2, 3] = np.nan
        for bad in (obs[0], obs[:2], broken):
            with pytest.raises(omnisafe_qpt.UserError):
                policy.act(bad)
        for choice in ([3], [-1], [0, 0], [True, False], [0.0], 'all'):
            with pytest.raises(omnisafe_qpt.UserError, match='from 0 to 2'):
                policy.reset(episodes=choice)
            with pytest.raises(omnisafe_qpt.UserError, match='from 0 to 2'):
                policy.set_cost_limit(3.0, episodes=choice)
        actions.append(policy.act(obs))
        with pytest.raises(omnisafe_qpt.UserError, match='observe first'):
            policy.reset(episodes=[0])
        for bad in (0.5, reward[:2], [0.0, np.nan, 0.0]):
            with pytest.raises(omnisafe_qpt.UserError):
                policy.observe(bad, cost)
            with pytest.raises(omnisafe_qpt.UserError):
                policy.observe(reward, bad)
        with pytest.raises(omnisafe_qpt.UserError, match='0 or more'):
            policy.set_cost_limit([3.0, 3.0, -3.0])
        policy.observe(reward, cost)
    np.testing.assert_array_equal(np.stack(actions), expected)


def test_reset_is_free_between_act_and_observe(run: Path) -> None:
    """An episode may be given up."""
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    policy.act(np.ones(7))
    expected = episode(omnisafe_qpt.load_policy(run, device='cpu'), seed=1)
    np.testing.assert_array_equal(episode(policy, seed=1), expected)
    policy.reset()
    with pytest.raises(omnisafe_qpt.UserError, match='without an action'):
        policy.observe(0.0, 0.0)


def test_the_largest_numbers_taken_give_an_action(run: Path) -> None:
    policy = omnisafe_qpt.load_policy(run, device='cpu')
    for _ in range(5):
        assert np.isfinite(policy.act(np.full(7, 1e15))).all()
        policy.observe(-1e15, 1e15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_gpu_acts_as_a_cpu_does(run: Path) -> None:
    played = []
    for device in ('cpu', 'cuda'):
        policy = omnisafe_qpt.load_policy(run, device=device, num_episodes=3)
        actions = [play(policy, *stream(6))]
        policy.set_cost_limit(40.0)
        policy.reset(seed=3, episodes=[1])
        played.append(np.concatenate([*actions, play(policy, *stream(6, seed=2))]))
    np.testing.assert_allclose(*played, atol=1e-4)


# ---------------------------------------------------------------------- the documentation's loops


ROOT = Path(__file__).resolve().parents[2]
LOOPS = [
    block
    for page in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('**/*.md')))
    for block in re.findall(r'```python\n(.*?)```', page.read_text('utf-8'), flags=re.DOTALL)
    if 'load_policy(' in block and '.observe(' in block
]


@pytest.mark.slow
@pytest.mark.parametrize('source', LOOPS, ids=range(len(LOOPS)))
def test_loops_in_the_documentation_run(source: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Word by word, with a run where theirs is and shorter episodes."""
    import gymnasium
    import safety_gymnasium

    for name in ('stdout', 'stderr'):  # PyBullet takes no others
        monkeypatch.setattr(sys, name, getattr(sys, f'__{name}__'))
    import bullet_safety_gym  # noqa: F401 - registers environments

    (env_id,) = set(re.findall(r"make\('(Safety\w+-v\d)'", source))
    env = (gymnasium if 'import gymnasium' in source else safety_gymnasium).make(env_id)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    folder = untrained_run(tmp_path / 'seed-000-now', make_networks(*sizes, 1000, env_id))
    source, count = re.subn(r"'runs/[^']*'", repr(str(folder)), source)
    assert count == 1
    short = partial(safety_gymnasium.make, max_episode_steps=20)
    monkeypatch.setattr(safety_gymnasium, 'make', short)
    names = {'range': lambda steps: range(min(steps, 5))}
    exec(compile(source, 'documentation', 'exec'), names)  # the pages are ours
    assert np.all(names['policy'].remaining_return != names['policy'].target_return)


def test_the_documentation_shows_a_loop_for_one_environment_and_for_several() -> None:
    assert {'num_episodes=' in source for source in LOOPS} == {False, True}


# ---------------------------------------------------------------------- runs on disk


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
    cases[other] = 'not a checkpoint of omnisafe-qpt'
    for path, message in cases.items():
        with pytest.raises(omnisafe_qpt.UserError, match=message):
            load_networks(path)


def test_an_episode_starts_from_its_own_first_observation() -> None:
    """OmniSafe's renderer hands over the last observation of the episode before."""
    import omnisafe  # noqa: F401 - QPT joins it whole before a part of it is asked for
    from gymnasium.spaces import Box

    from omnisafe_qpt.omnisafe_plugin.actor import DeployedActor

    spaces = (Box(-1, 1, (7,)), Box(-1, 1, (2,)))
    networks = make_networks(7, 2, HORIZON, ENV_ID)
    actor = DeployedActor(*spaces, networks, DeploymentConfig(candidates=1), 50.0)
    first, other = torch.full((7,), 0.5), torch.full((7,), -0.5)

    def action(observation: torch.Tensor) -> torch.Tensor:
        actor.begin_episode(first, seed=0)
        return actor.predict(observation)

    assert torch.equal(action(first), action(other))
    assert not torch.equal(actor.predict(first), actor.predict(other)), 'only the first is special'
