# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deployment against loops over candidates and episodes, and against the windows of training."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from core_helpers import (
    ACT_DIM,
    OBS_DIM,
    differing,
    episode_arrays,
    random_batch,
    roughen,
    slow_select,
    slow_worth,
    small_config,
    small_learner,
    small_policy_config,
    tensors_of,
)
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import PolicyInputs
from omnisafe_qpt.runner import in_environment_units


CONTEXT = 5
STEPS = 13
SPEC = {'horizon': 30}
GAMMA = small_config().gamma
PLAIN = DeploymentConfig(cost_limit=4.0, candidates=1, rule='paper')
ENSEMBLE = DeploymentConfig(cost_limit=4.0, candidates=7, target_spread=0.8, rule='paper')


def make_learner(seed=0, **changes):
    learner = small_learner(small_config(**changes), seed)
    for offset, name in enumerate(
        ('policy', 'target_policy', 'reward_critic', 'cost_critic')
        + ('target_reward_critic', 'target_cost_critic')
    ):
        roughen(getattr(learner, name), seed + offset, scale=0.3)
    return learner


def make_networks(seed=0, cost_level=0.0, **changes):
    """Networks whose cost values lie about some level, in the environment's units."""
    networks = DeployableNetworks.from_learner(make_learner(seed, **changes), SPEC)
    networks.cost_critic.biases[-1] += cost_level / networks.scaling.cost_unit
    return networks


@pytest.fixture(name='networks')
def fixture_networks():
    return make_networks()


class Stream:
    """Observations, rewards and costs that do not depend on the actions."""

    def __init__(self, episodes=1, steps=STEPS, seed=0):
        arrays = [episode_arrays([steps], seed + 100 * e) for e in range(episodes)]
        self.observations, self.rewards, self.costs = (
            np.stack([a[name] for a in arrays]) for name in ('observations', 'rewards', 'costs')
        )

    def steps(self):
        for t in range(self.observations.shape[1]):
            yield self.observations[:, t], self.rewards[:, t], self.costs[:, t]


def play(rollout, stream):
    """Run a stream to its end; returns the actions, (T, B, A)."""
    actions = []
    for observations, rewards, costs in stream.steps():
        actions.append(rollout.act(observations))
        rollout.observe(rewards, costs)
    return torch.stack(actions)


def start(networks, config, seeds=(0,), target_return=3.0, **kwargs):
    rollout = RolloutPolicy(networks, config, len(seeds))
    rollout.reset(target_return, seeds=seeds, **kwargs)
    return rollout


class Record:
    """What the policy network was given, call by call; return-to-go is (B, M, K)."""

    def __init__(self, networks):
        self.calls = []
        self._original = networks.policy.candidate_actions
        networks.policy.candidate_actions = self._keep

    def _keep(self, inputs, return_to_go):
        seen = inputs._replace(return_to_go=return_to_go)._asdict()
        self.calls.append({name: value.clone() for name, value in seen.items()})
        return self._original(inputs, return_to_go)


# ---------------------------------------------------------------------- slow reference


@torch.no_grad()
def slow_play(networks, stream, config, shifts, target_return=3.0, episode=0):
    """One episode, keeping lists and asking the policy for one candidate at a time."""
    scaling, infeasible = networks.scaling, 0
    target, budget = target_return, config.cost_limit
    states, actions, returns_to_go, costs_to_go = [], [], [], []
    for t, (observations, rewards, costs) in enumerate(stream.steps()):
        states.append(torch.from_numpy(observations[episode]))
        returns_to_go.append(target)
        costs_to_go.append(budget)
        actions.append(torch.zeros(ACT_DIM))
        is_discounted = config.rule == 'discounted_budget'
        first = max(0, t + 1 - (3 if is_discounted else CONTEXT))
        allowed = [max(cost, 0.0) if is_discounted else cost for cost in costs_to_go[first:]]
        state = scaling.observation(torch.stack(states[first:]))
        candidates, reward_values, cost_values = [], [], []
        for shift in shifts:
            shifted = torch.tensor(
                [
                    value + shift * (config.candidate_shift == 'history' or step == t)
                    for step, value in enumerate(returns_to_go[first:], start=first)
                ],
            )
            action = networks.policy(
                PolicyInputs(
                    state[None],
                    torch.stack(actions[first:])[None],
                    scaling.return_token(shifted)[None],
                    scaling.cost_token(torch.tensor(allowed))[None],
                    torch.arange(first, t + 1)[None],
                    torch.ones(1, t + 1 - first, dtype=torch.bool),
                )
            )[0, -1]
            candidates.append(action)
            seen = [*state[-1]]
            if networks.critic_inputs == 'targets_time':  # the unshifted targets
                seen += [target / scaling.return_unit, allowed[-1] / scaling.cost_unit]
                seen += [torch.tensor(t / SPEC['horizon'])]
            seen = torch.stack(seen)[None]
            reward_values.append(networks.reward_critic(seen, action[None]).min().item())
            cost_twins = networks.cost_critic(seen, action[None])
            cost = cost_twins.min() if config.cost_value == 'min' else cost_twins.max()
            cost_values.append(scaling.cost_value(cost).item())
        stops = networks.critic_inputs == 'targets_time'
        bound = slow_worth(budget, SPEC['horizon'] - t, GAMMA, stops) if is_discounted else budget
        chosen = slow_select(reward_values, cost_values, bound, config.rule)
        infeasible += all(cost > bound for cost in cost_values)
        actions[-1] = candidates[chosen]
        target -= float(rewards[episode])
        budget -= float(costs[episode])
    return torch.stack(actions), infeasible / len(actions)


def fed_shifts(networks, config, seeds):
    """Read the candidates' shifts, (B, M) in units of return, off what the policy is given."""
    record = Record(networks)
    start(networks, config, seeds, target_return=0.0).act(np.zeros((len(seeds), OBS_DIM)))
    return (record.calls[0]['return_to_go'][..., -1] * networks.scaling.return_unit).tolist()


# ---------------------------------------------------------------------- one episode


def test_one_candidate_is_the_plain_policy(networks):
    stream = Stream()
    actions = play(start(networks, PLAIN), stream)[:, 0]
    expected, _ = slow_play(networks, stream, PLAIN, [0.0])
    torch.testing.assert_close(actions, expected, atol=1e-5, rtol=0)
    assert actions.std(0).min() > 0.05
    assert actions.abs().max() <= 1


@pytest.mark.parametrize(('candidate_shift', 'cost_value'), [('history', 'max'), ('last', 'min')])
@pytest.mark.parametrize('rule', ['paper', 'bounded', 'discounted_budget'])
@pytest.mark.parametrize('cost_level', [-50.0, 5.0, 50.0])
def test_candidates_equal_a_loop_over_them(cost_level, candidate_shift, rule, cost_value):
    """All feasible, some, and none."""
    networks = make_networks(cost_level=cost_level)
    config = replace(ENSEMBLE, rule=rule, cost_value=cost_value)
    stream = Stream()
    shifts = fed_shifts(networks, config, [3])[0]
    config = replace(config, candidate_shift=candidate_shift)
    rollout = start(networks, config, seeds=(3,))
    actions = play(rollout, stream)[:, 0]
    expected, infeasible = slow_play(networks, stream, config, shifts)
    torch.testing.assert_close(actions, expected, atol=1e-5, rtol=0)
    assert (actions - play(start(networks, PLAIN), stream)[:, 0]).abs().max() > 0.01
    if rule == 'paper':
        assert rollout.pop_infeasible_share() == pytest.approx(infeasible)
        assert {-50.0: infeasible == 0, 5.0: 0 < infeasible < 1, 50.0: infeasible == 1}[cost_level]


@pytest.mark.parametrize('rule', ['paper', 'discounted_budget'])
def test_critics_that_see_targets_equal_a_loop(rule):
    networks = make_networks(cost_level=2.0, critic_inputs='targets_time')
    config = replace(ENSEMBLE, rule=rule)
    stream = Stream()
    shifts = fed_shifts(networks, config, [3])[0]
    rollout = start(networks, config, seeds=(3,))
    expected, infeasible = slow_play(networks, stream, config, shifts)
    torch.testing.assert_close(play(rollout, stream)[:, 0], expected, atol=1e-5, rtol=0)
    assert rollout.pop_infeasible_share() == pytest.approx(infeasible)
    assert 0 < infeasible < 1


def test_infeasible_share_counts_since_the_last_look():
    networks = make_networks(cost_level=50.0)
    rollout = start(networks, ENSEMBLE)
    assert rollout.pop_infeasible_share() == 0.0
    rollout.act(np.zeros((1, OBS_DIM)))
    assert rollout.pop_infeasible_share() == 1.0
    assert rollout.pop_infeasible_share() == 0.0


def test_finished_episodes_do_not_count(networks):
    """One of two episodes has no budget left, and so no feasible candidate, until it ends."""
    networks = make_networks(cost_level=5.0)
    rollout = start(networks, ENSEMBLE, seeds=(0, 1), cost_limit=1000.0)
    rollout.reset(3.0, cost_limit=0.0, seeds=(1,), episodes=[1])
    observations = np.zeros((2, OBS_DIM))
    rollout.act(observations)
    assert rollout.pop_infeasible_share() == 0.5
    rollout.finish([1])
    rollout.act(observations)
    assert rollout.pop_infeasible_share() == 0.0
    rollout.reset(3.0, cost_limit=0.0, seeds=(1,), episodes=[1])
    rollout.act(observations)
    assert rollout.pop_infeasible_share() == 0.5


@pytest.mark.parametrize('rule', ['paper', 'bounded'])
def test_the_choice_of_a_step_can_be_looked_at(rule):
    """Its values are the critics' at the observation and the action taken."""
    networks, stream = make_networks(cost_level=6.0), Stream(2)
    config = replace(ENSEMBLE, cost_limit=6.0, rule=rule, cost_value='max')
    rollout = start(networks, config, seeds=(0, 1))
    shifts = torch.tensor(fed_shifts(networks, config, [0, 1]))
    scaling, budgets, seen = networks.scaling, np.full(2, 6.0), set()
    assert rollout.choice is None
    for observations, rewards, costs in stream.steps():
        actions = rollout.act(observations)
        choice = rollout.choice
        states = scaling.observation(torch.from_numpy(observations))
        values = networks.reward_critic(states, actions).amin(0)
        torch.testing.assert_close(choice.reward_value, scaling.reward_value(values))
        values = networks.cost_critic(states, actions).amax(0)
        torch.testing.assert_close(choice.cost_value, scaling.cost_value(values))
        torch.testing.assert_close(choice.shift, shifts[range(2), choice.candidate])
        fits = choice.cost_value.numpy() <= budgets + 1e-5
        assert choice.feasible.tolist() == fits.tolist(), 'the cheapest is taken where none fits'
        rollout.observe(rewards, costs)
        budgets -= costs
        seen |= set(zip(choice.candidate.tolist(), choice.feasible.tolist()))
    assert len({candidate for candidate, _ in seen}) > 2
    assert {feasible for _, feasible in seen} == {True, False}
    rollout.reset(3.0, seeds=[5], episodes=[1])
    assert rollout.choice is None


def test_one_candidate_is_no_choice(networks):
    rollout = start(networks, PLAIN)
    rollout.act(Stream().observations[:, 0])
    assert rollout.choice is None


def test_shifts_have_the_spread_asked_for_and_candidate_0_has_none(networks):
    config = replace(ENSEMBLE, candidates=2000, target_spread=0.25)
    (shifts,) = fed_shifts(networks, config, [0])
    assert shifts[0] == 0.0
    assert len(set(shifts)) == 2000
    spread = 0.25 * networks.scaling.return_unit.item()
    assert np.std(shifts) == pytest.approx(spread, rel=0.05)
    assert abs(np.mean(shifts)) < 0.1 * spread


def test_without_spread_candidates_make_no_difference(networks):
    stream = Stream()
    plain = play(start(networks, PLAIN), stream)
    same = play(start(networks, replace(ENSEMBLE, target_spread=0.0)), stream)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- windows


def test_windows_are_those_of_training(networks):
    """An episode played is fed as the sampler would cut it from the recorded data."""
    stream = Stream(steps=STEPS)
    record = Record(networks)
    total_return, total_cost = float(stream.rewards.sum()), float(stream.costs.sum())
    rollout = start(networks, PLAIN, target_return=total_return, cost_limit=total_cost)
    actions = play(rollout, stream)[:, 0]
    assert STEPS > 2 * CONTEXT
    observations = stream.observations[0]
    last = np.arange(STEPS) == STEPS - 1
    trajectories = Trajectories.from_arrays(
        {
            'observations': observations,
            'next_observations': np.concatenate([observations[1:], observations[:1]]),
            'actions': actions.numpy(),
            'rewards': stream.rewards[0],
            'costs': stream.costs[0],
            'terminals': np.zeros(STEPS),
            'timeouts': last,
        },
    )
    sampler = WindowSampler(trajectories, CONTEXT, 1, seed=0)
    batch = sampler.batch(torch.arange(STEPS))
    scaling = networks.scaling
    expected = {
        'states': scaling.observation(batch.states),
        'actions': batch.actions,
        'return_to_go': scaling.return_token(batch.return_to_go),
        'cost_to_go': scaling.cost_token(batch.cost_to_go),
        'timesteps': batch.timesteps,
        'mask': batch.mask,
    }
    assert len(record.calls) == STEPS
    for t, fed in enumerate(record.calls):
        valid = batch.mask[t]
        assert torch.equal(fed['mask'][0], valid)
        for name, windows in expected.items():
            # The last action is yet to be chosen.
            known = slice(None, -1) if name == 'actions' else slice(None)
            torch.testing.assert_close(
                (fed[name][:, 0] if name == 'return_to_go' else fed[name])[0, valid][known],
                windows[t, valid][known],
                msg=lambda m, n=name: f'{n} {m}',
            )


def test_candidates_differ_by_a_constant_shift_of_the_return_to_go(networks):
    record = Record(networks)
    play(start(networks, ENSEMBLE, seeds=(0, 1)), Stream(2))
    for fed in record.calls:
        difference = fed['return_to_go'] - fed['return_to_go'][:, :1]
        assert difference.shape == (2, ENSEMBLE.candidates, CONTEXT)
        torch.testing.assert_close(difference, difference[..., :1].expand_as(difference))
        assert difference[:, 1:].abs().min() > 0


# ---------------------------------------------------------------------- many episodes


@pytest.mark.parametrize(
    'config',
    [PLAIN, ENSEMBLE, replace(ENSEMBLE, candidate_shift='last')],
    ids=['plain', 'ensemble', 'last'],
)
def test_episodes_at_once_equal_episodes_one_by_one(config):
    networks = make_networks(cost_level=2.0)
    stream = Stream(4)
    limits, targets = [4.0, 1.0, 30.0, 4.0], [3.0, -1.0, 8.0, 3.0]
    together = RolloutPolicy(networks, config, 4)
    for episode in range(4):
        together.reset(targets[episode], limits[episode], [10 + episode], [episode])
    actions = play(together, stream)
    for episode in range(4):
        alone = RolloutPolicy(networks, config)
        alone.reset(targets[episode], limits[episode], [10 + episode])
        single = Stream(1, seed=100 * episode)
        torch.testing.assert_close(
            actions[:, episode : episode + 1], play(alone, single), atol=1e-5, rtol=0
        )


def test_one_reset_begins_all_episodes(networks):
    together = start(networks, ENSEMBLE, seeds=(4, 5))
    one_by_one = RolloutPolicy(networks, ENSEMBLE, 2)
    one_by_one.reset(3.0, seeds=[5], episodes=[1])
    one_by_one.reset(3.0, seeds=[4], episodes=[0])
    assert torch.equal(play(together, Stream(2)), play(one_by_one, Stream(2)))


@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_reset_of_one_episode_disturbs_no_other(networks, config):
    before, after = Stream(3), Stream(3, seed=7)
    undisturbed = start(networks, config, seeds=(0, 1, 2))
    play(undisturbed, before)
    disturbed = start(networks, config, seeds=(0, 1, 2))
    play(disturbed, before)
    disturbed.reset(5.0, cost_limit=2.0, seeds=[8], episodes=[1])
    expected, actions = play(undisturbed, after), play(disturbed, after)
    torch.testing.assert_close(actions[:, [0, 2]], expected[:, [0, 2]], atol=1e-6, rtol=0)
    fresh = RolloutPolicy(networks, config, 3)
    fresh.reset(5.0, cost_limit=2.0, seeds=[8, 8, 8])
    torch.testing.assert_close(actions[:, 1], play(fresh, after)[:, 1], atol=1e-6, rtol=0)
    assert (actions[:, 1] - expected[:, 1]).abs().max() > 0.01


@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_an_episode_that_holds_still_disturbs_no_other(networks, config):
    stream = Stream(3)
    expected = play(start(networks, config, seeds=(0, 1, 2)), stream)
    rollout = start(networks, config, seeds=(0, 1, 2))
    rollout.reset(None, seeds=[1], episodes=[1])
    actions = play(rollout, stream)
    assert torch.equal(actions[:, [0, 2]], expected[:, [0, 2]])
    assert torch.all(actions[:, 1] == 0.0)
    assert torch.all(expected[:, 1] != 0.0)
    rollout.reset(3.0, seeds=[0, 1, 2])
    assert torch.equal(play(rollout, stream), expected), 'a reset ends it'


@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_the_zero_action_is_zero_in_the_environments_unit(networks, config):
    act_dim = networks.spec['act_dim']
    # 0 is the least, a quarter of the way up, and below the range.
    low, high = (np.resize(ends, act_dim) for ends in ([0.0, -1.0, 0.5], [1.0, 3.0, 2.5]))
    networks.spec['action_range'] = {'low': low.tolist(), 'high': high.tolist()}
    rollout = start(networks, config, seeds=(0, 1))
    rollout.reset(None, seeds=[1], episodes=[1])
    actions = play(rollout, Stream(2))
    sent = in_environment_units(actions[:, 1].numpy(), networks.spec['action_range'])
    expected = np.resize([0.0, 0.0, 0.5], act_dim)
    np.testing.assert_allclose(sent, np.broadcast_to(expected, sent.shape), atol=1e-6)
    assert torch.all(rollout._actions[1, -1] == actions[-1, 1]), 'the history has what was sent'
    rollout.reset(None, seeds=[0, 1])  # no network is asked
    assert torch.equal(play(rollout, Stream(2))[:, 0], actions[:, 1])


@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_a_policy_that_held_still_remembers_that(networks, config):
    before, after = Stream(), Stream(seed=7)
    rollout = start(networks, config, target_return=None)
    assert torch.all(play(rollout, before) == 0.0)
    reference = start(networks, config)
    for observations, rewards, costs in before.steps():
        reference.act(observations)
        reference._actions[:, -1] = 0.0
        reference.observe(rewards, costs)
    rollout.retarget([3.0], [config.cost_limit], [0])
    torch.testing.assert_close(rollout.remaining, reference.remaining, atol=1e-5, rtol=0)
    actions = play(rollout, after)
    torch.testing.assert_close(actions, play(reference, after), atol=1e-5, rtol=0)
    assert torch.all(actions != 0.0)
    rollout.retarget([None], [config.cost_limit], [0])
    assert torch.all(play(rollout, before) == 0.0)


def test_no_network_is_asked_where_all_episodes_hold_still(networks):
    rollout = start(networks, ENSEMBLE, seeds=(0, 1))
    record = Record(networks)
    play(rollout, Stream(2))
    asked = len(record.calls)
    assert asked
    assert rollout.choice is not None
    rollout.retarget([None, None], [5.0, 5.0], [0, 1])
    rollout.pop_infeasible_share()
    play(rollout, Stream(2))
    assert len(record.calls) == asked
    assert rollout.choice is None
    assert rollout.pop_infeasible_share() == 0.0


def test_episodes_that_hold_still_have_no_infeasible_steps():
    networks = make_networks(cost_level=1000.0)
    rollout = start(networks, ENSEMBLE, seeds=(0, 1))
    rollout.reset(None, seeds=[1], episodes=[1])
    play(rollout, Stream(2))
    assert rollout._scored_steps == STEPS
    assert rollout.pop_infeasible_share() == 1.0


def test_numbers_for_all_episodes_may_be_given_once(networks):
    each, once = start(networks, PLAIN, (0, 1)), start(networks, PLAIN, (0, 1))
    for t in range(3):
        observations = Stream(2).observations[:, t]
        assert torch.equal(each.act(observations), once.act(torch.from_numpy(observations)))
        each.observe(np.array([0.5, 0.5]), torch.tensor([1.0, 1.0]))
        once.observe(0.5, 1.0)


# ---------------------------------------------------------------------- seeds and limits


def test_same_seed_same_actions_and_another_seed_others(networks):
    first, again, other = (play(start(networks, ENSEMBLE, (s,)), Stream()) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seed_draws_the_same_candidates_whatever_was_drawn_before(networks):
    one, two = fed_shifts(networks, ENSEMBLE, [1, 2])
    torch.manual_seed(123)
    np.random.seed(123)
    assert fed_shifts(networks, ENSEMBLE, [2])[0] == two
    assert one[1:] != two[1:]


def test_acting_leaves_the_global_generators_alone(networks):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    play(start(networks, ENSEMBLE), Stream())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_cost_limit_defaults_to_the_configured_one(networks):
    record = Record(networks)
    unit = networks.scaling.cost_unit.item()
    for limit, expected in ((None, 4.0), (0.0, 0.0), (9.0, 9.0)):
        start(networks, PLAIN, cost_limit=limit).act(np.zeros((1, OBS_DIM)))
        assert record.calls[-1]['cost_to_go'][0, -1].item() * unit == pytest.approx(expected)


def test_targets_move_the_actions(networks):
    observation = np.ones((1, OBS_DIM))
    base = start(networks, PLAIN, target_return=3.0, cost_limit=4.0).act(observation)
    for target, limit in ((9.0, 4.0), (3.0, 20.0)):
        other = start(networks, PLAIN, target_return=target, cost_limit=limit).act(observation)
        assert (other - base).abs().max() > 1e-3


# ---------------------------------------------------------------------- what a rule is shown


@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_the_discounted_budget_forgets_what_is_further_back(networks, config):
    """Two episodes that differ in their first steps act alike once these are forgotten."""
    early, stream = 4, Stream(2)
    stream.observations[1, early:] = stream.observations[0, early:]
    stream.rewards[1], stream.costs[1] = stream.rewards[0], stream.costs[0]
    for rule, is_forgotten in (('discounted_budget', True), ('paper', False)):
        rollout = start(networks, replace(config, rule=rule), seeds=(0, 0))
        actions = []
        for observations, rewards, costs in stream.steps():
            actions.append(rollout.act(observations))
            # The actions of the past are seen too: let them be the same.
            rollout._actions[1] = rollout._actions[0]
            rollout.observe(rewards, costs)
        difference = (torch.stack(actions)[:, 0] - torch.stack(actions)[:, 1]).abs().amax(-1)
        assert difference[:early].min() > 1e-3
        later = difference[early + 3 - 1 :]
        assert (later.max() < 1e-6) if is_forgotten else (later[0] > 1e-4)


def test_the_discounted_budget_never_asks_for_a_negative_cost(networks):
    """Once the limit is exceeded it does not matter by how much."""
    config = replace(PLAIN, cost_limit=1.0)
    acts = {}
    for rule in ('discounted_budget', 'paper'):
        rollout = start(networks, replace(config, rule=rule), seeds=(0, 0))
        rollout.act(np.zeros((2, OBS_DIM)))
        rollout.observe(0.0, [1.0, 6.0])
        acts[rule] = rollout.act(np.zeros((2, OBS_DIM)))
    torch.testing.assert_close(acts['discounted_budget'][0], acts['discounted_budget'][1])
    assert (acts['paper'][0] - acts['paper'][1]).abs().max() > 1e-3


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('config', [PLAIN, ENSEMBLE], ids=['plain', 'ensemble'])
def test_an_observation_that_is_no_number_is_refused_and_forgotten(networks, config, bad):
    stream = Stream(2)
    expected = play(start(networks, config, (0, 1)), stream)
    rollout = start(networks, config, (0, 1))
    actions = []
    for t, (observations, rewards, costs) in enumerate(stream.steps()):
        if t in (0, 6):
            broken = observations.copy()
            broken[1, 2] = bad
            with pytest.raises(UserError, match='NaN or infinity'):
                rollout.act(broken)
        actions.append(rollout.act(observations))
        rollout.observe(rewards, costs)
    assert torch.equal(torch.stack(actions), expected)


@pytest.mark.parametrize('shape', [(OBS_DIM,), (1, OBS_DIM + 1), (2, OBS_DIM), (1, 1, OBS_DIM)])
def test_an_observation_of_another_size_is_refused_and_forgotten(networks, shape):
    rollout, untouched = start(networks, PLAIN), start(networks, PLAIN)
    with pytest.raises(UserError, match=r'\(1, 3\)'):
        rollout.act(np.zeros(shape))
    assert torch.equal(play(rollout, Stream()), play(untouched, Stream()))


def test_seeds_must_be_as_many_as_episodes(networks):
    with pytest.raises(UserError, match='1 seeds for 2 episodes'):
        RolloutPolicy(networks, PLAIN, 2).reset(1.0)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('which', [0, 1])
def test_a_reward_or_cost_that_is_no_number_is_refused_and_forgotten(networks, which, bad):
    stream = Stream(2)
    expected = play(start(networks, PLAIN, (0, 1)), stream)
    rollout = start(networks, PLAIN, (0, 1))
    actions = []
    for observations, *received in stream.steps():
        actions.append(rollout.act(observations))
        broken = [value.copy() for value in received]
        broken[which][1] = bad
        with pytest.raises(UserError, match='NaN or infinity'):
            rollout.observe(*broken)
        rollout.observe(*received)
    assert torch.equal(torch.stack(actions), expected)


# ---------------------------------------------------------------------- networks


def saved_and_loaded(networks):
    file = io.BytesIO()
    torch.save(networks.state_dict(), file)
    file.seek(0)
    return DeployableNetworks.from_state_dict(torch.load(file, weights_only=True))


def test_networks_are_rebuilt_from_their_state_alone():
    spec = {**SPEC, 'frontier': {'costs': [0.0, 2.0], 'returns': [1.0, 3.0]}, 'env_id': 'Task-v0'}
    networks = DeployableNetworks.from_learner(make_learner(), spec)
    rebuilt = saved_and_loaded(networks)
    assert rebuilt.spec == networks.spec
    assert rebuilt.spec['env_id'] == 'Task-v0'
    assert not rebuilt.training
    assert not any(parameter.requires_grad for parameter in rebuilt.parameters())
    expected = play(start(networks, ENSEMBLE, (0, 1)), Stream(2))
    assert torch.equal(play(start(rebuilt, ENSEMBLE, (0, 1)), Stream(2)), expected)


def test_an_old_checkpoint_has_the_critics_of_the_paper():
    networks = make_networks()
    state = networks.state_dict()
    del state['_extra_state']['critic_inputs']
    old = DeployableNetworks.from_state_dict(state)
    stream = Stream()
    actions = play(start(old, ENSEMBLE), stream)
    assert torch.equal(actions, play(start(make_networks(), ENSEMBLE), stream))


def test_networks_are_the_online_policy_and_the_target_critics():
    learner = make_learner()
    networks = DeployableNetworks.from_learner(learner, SPEC)
    for source, copy in (
        (learner.policy, networks.policy),
        (learner.target_reward_critic, networks.reward_critic),
        (learner.target_cost_critic, networks.cost_critic),
    ):
        copied = dict(copy.named_parameters())
        for name, parameter in source.named_parameters():
            assert torch.equal(parameter, copied[name])
    for buffer, copied in zip(learner.scaling.buffers(), networks.scaling.buffers()):
        assert torch.equal(buffer, copied)


def test_networks_do_not_follow_the_learner():
    learner = make_learner()
    networks = DeployableNetworks.from_learner(learner, SPEC)
    expected = play(start(networks, ENSEMBLE), Stream())
    before = tensors_of(learner)
    learner.update(random_batch())
    assert differing(before, tensors_of(learner))
    assert torch.equal(play(start(networks, ENSEMBLE), Stream()), expected)


def test_no_dropout_at_deployment():
    learner = make_learner(policy=small_policy_config(dropout=0.5))
    assert learner.policy.training
    networks = DeployableNetworks.from_learner(learner, SPEC)
    without = DeployableNetworks.from_learner(make_learner(), SPEC)
    expected = play(start(without, PLAIN), Stream())
    torch.testing.assert_close(play(start(networks, PLAIN), Stream()), expected)
    networks.train()
    torch.testing.assert_close(play(start(networks, PLAIN), Stream()), expected)
    torch.testing.assert_close(play(start(saved_and_loaded(networks), PLAIN), Stream()), expected)
    assert learner.policy.training


def test_number_of_threads_is_as_before(networks):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        start(networks, ENSEMBLE).act(np.zeros((1, OBS_DIM)))
        assert torch.get_num_threads() == 2
        with pytest.raises(UserError):
            start(networks, ENSEMBLE).act(np.full((1, OBS_DIM), np.nan))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('targets', [(float('nan'), 1.0), (1.0, float('inf'))])
def test_targets_that_are_no_numbers_are_refused(targets):
    policy = RolloutPolicy(make_networks(), DeploymentConfig(candidates=2))
    with pytest.raises(UserError, match='must be a finite number'):
        policy.reset(*targets)
