# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Offline checks against slow loops over single states."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from core_helpers import (
    episode_arrays,
    random_trajectories,
    roughen,
    small_config,
    small_learner,
    small_scaling,
)
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation import diagnostics
from omnisafe_qpt.evaluation.critic_calibration import calibrate, correlation, discounted_sums
from omnisafe_qpt.evaluation.diagnostics import OfflineChecks
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import PolicyInputs


GAMMA = 0.9
LENGTHS, TERMINAL = (12, 3, 25, 7, 1, 18), (1, 3)  # windows have 5 steps


def make_networks(critic_inputs='state_action'):
    learner = small_learner(small_config(critic_inputs=critic_inputs), scaling=small_scaling())
    for network in (learner.policy, learner.target_reward_critic, learner.target_cost_critic):
        roughen(network)
    return DeployableNetworks.from_learner(learner, {'horizon': max(LENGTHS), 'gamma': GAMMA})


@pytest.fixture(name='networks', scope='module')
def fixture_networks():
    return make_networks()


@pytest.fixture(autouse=True)
def _many_batches(monkeypatch):
    monkeypatch.setattr(diagnostics, '_WINDOWS', {'cpu': 7, 'cuda': 7})
    monkeypatch.setattr(diagnostics, '_LEAST_STATES', 10)


def episodes_of(trajectories):
    """Return each episode as a dict of NumPy arrays, cut out of the table one by one."""
    found = []
    rows = trajectories.rows
    for start, length, terminal in zip(rows.starts, rows.lengths, rows.terminal):
        part = trajectories.table[start : start + length + 1].numpy().astype(np.float64)
        found.append(
            {
                'states': part[:, :3],
                'actions': part[:-1, 3:5],
                'rewards': part[:-1, 5],
                'costs': part[:-1, 6],
                'terminal': bool(terminal),
            },
        )
    return found


def slow_action(networks, episode, step, context=5):
    """Predict one action, from a window that is cut rather than padded."""
    scaling = networks.scaling
    first, length = max(0, step - context + 1), len(episode['rewards'])
    actions = np.concatenate([episode['actions'], np.zeros((1, 2))])
    window = slice(first, step + 1)

    def to_go(name):
        return [episode[name][at:].sum() for at in range(first, step + 1)]

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float32)[None]

    assert step <= length
    predicted = networks.policy(
        PolicyInputs(
            scaling.observation(tensor(episode['states'][window])),
            tensor(actions[window]),
            scaling.return_token(tensor(to_go('rewards'))),
            scaling.cost_token(tensor(to_go('costs'))),
            torch.arange(first, step + 1)[None],
            torch.ones(1, step + 1 - first, dtype=torch.bool),
        )
    )
    return predicted[0, -1].double().numpy()


def slow_values(networks, episode, step, action):
    """Value an action at a step in units of reward and cost."""
    state = torch.tensor(episode['states'][step], dtype=torch.float32)
    seen = [*networks.scaling.observation(state)]
    if networks.critic_inputs == 'targets_time':
        to_go = episode['rewards'][step:].sum() / 8.0, episode['costs'][step:].sum() / 2.0
        seen += [torch.tensor(each) for each in (*to_go, step / max(LENGTHS))]
    pair = (
        torch.stack([each.float() for each in seen])[None],
        torch.tensor(action, dtype=torch.float32)[None],
    )
    reward = min(networks.reward_critic(*pair)[:, 0].tolist())
    cost = min(networks.cost_critic(*pair)[:, 0].tolist())
    return reward * 8.0 / 10.0, cost * 2.0  # the scaling's units


def slow_ranks(values):
    values = np.asarray(values)
    return [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]


def assert_calibration(found, predicted, realised):
    predicted, realised = np.asarray(predicted), np.asarray(realised)
    assert found.num_states == len(predicted)
    assert found.predicted_mean == pytest.approx(predicted.mean(), rel=1e-4)
    assert found.realised_mean == pytest.approx(realised.mean(), rel=1e-4)
    assert found.bias == pytest.approx(predicted.mean() - realised.mean(), rel=1e-4)
    assert found.rmse == pytest.approx(np.sqrt(((predicted - realised) ** 2).mean()), rel=1e-4)
    assert found.correlation == pytest.approx(np.corrcoef(predicted, realised)[0, 1], abs=1e-4)
    ranks = np.corrcoef(slow_ranks(predicted), slow_ranks(realised))[0, 1]
    assert found.rank_correlation == pytest.approx(ranks, abs=1e-4)
    parts = np.array_split(np.argsort(predicted, kind='stable'), 10)
    assert [each.count for each in found.bins] == [len(part) for part in parts]
    for each, part in zip(found.bins, parts):
        assert each.predicted == pytest.approx(predicted[part].mean(), rel=1e-4)
        assert each.realised == pytest.approx(realised[part].mean(), rel=1e-4, abs=1e-5)
        low, high = np.quantile(realised[part], [0.1, 0.9])
        assert (each.low, each.high) == pytest.approx((low, high), rel=1e-4, abs=1e-5)


# ------------------------------------------------------------------ actions


def test_each_action_is_compared_once_as_the_policy_would_act(networks):
    data = random_trajectories(LENGTHS, terminal=TERMINAL)
    episodes = episodes_of(data)
    errors, costs = [], []
    for episode in episodes:
        for step, action in enumerate(episode['actions']):
            errors.append(((slow_action(networks, episode, step) - action) ** 2).mean())
            costs.append(episode['costs'].sum())
    errors, costs = np.array(errors), np.array(costs)
    actions = np.concatenate([episode['actions'] for episode in episodes])
    constant = ((actions - actions.mean(0)) ** 2).mean(1)

    limits = (3.0, costs[0])  # an episode that costs as much as the limit is within it
    found = OfflineChecks(networks, data, GAMMA, 'min').action_errors(limits)
    groups = [('all', None, costs >= 0)]
    for limit in limits:
        groups += [('within', limit, costs <= limit), ('over', limit, costs > limit)]
    assert [(row.episodes, row.cost_limit) for row in found] == [group[:2] for group in groups]
    for row, (_, _, chosen) in zip(found, groups):
        assert row.num_steps == chosen.sum() > 0
        assert row.error == pytest.approx(errors[chosen].mean(), rel=1e-4)
        assert row.mean_action_error == pytest.approx(constant[chosen].mean(), rel=1e-5)
    assert [row.num_episodes for row in found[1:3]] == [
        sum(episode['costs'].sum() <= 3.0 for episode in episodes),
        sum(episode['costs'].sum() > 3.0 for episode in episodes),
    ]
    assert found[0].num_steps == sum(LENGTHS)


def test_a_group_without_episodes_has_no_error(networks):
    found = OfflineChecks(networks, random_trajectories(), GAMMA, 'min').action_errors([1000.0])
    over = found[2]
    assert (over.episodes, over.num_episodes, over.num_steps) == ('over', 0, 0)
    assert over.error is None
    assert over.mean_action_error is None


def test_only_selected_episodes_are_looked_at(networks):
    """As where some are held out of training: the others are in the same table."""
    data = random_trajectories(LENGTHS, terminal=TERMINAL)
    some = data.select(torch.tensor([1, 3, 5]))
    arrays = episode_arrays(LENGTHS, terminal=TERMINAL)
    ends = np.cumsum(LENGTHS)
    rows = np.concatenate([np.arange(ends[e] - LENGTHS[e], ends[e]) for e in (1, 3, 5)])
    alone = Trajectories.from_arrays({name: values[rows] for name, values in arrays.items()})
    config = DeploymentConfig(cost_limit=2.0, candidates=3)
    first, second = (
        (
            checks.action_errors([3.0]),
            checks.calibrations(),
            checks.uncounted_weight,
            checks.candidate_shares(config, 5.0),
        )
        for checks in (OfflineChecks(networks, each, GAMMA, 'min') for each in (some, alone))
    )
    assert first == second


# ------------------------------------------------------------------ critics


@pytest.mark.parametrize('gamma', [1.0, 0.9, 0.0])
def test_discounted_sums_are_those_of_a_plain_loop(gamma):
    generator = np.random.default_rng(0)
    lengths = (1, 2, 3, 8, 9, 33, 1)
    values, steps_left, expected = [], [], []
    for length in lengths:
        own = generator.standard_normal(length + 1)
        values += own.tolist()
        steps_left += range(length, -1, -1)
        for step in range(length + 1):
            expected.append(sum(gamma**n * value for n, value in enumerate(own[step:])))
    found = discounted_sums(
        torch.tensor(values, dtype=torch.float64), torch.tensor(steps_left), gamma
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize('critic_inputs', ['state_action', 'targets_time'])
@pytest.mark.parametrize('terminal', [TERMINAL, (), tuple(range(6))])
def test_values_are_compared_with_what_came(terminal, critic_inputs):
    networks = make_networks(critic_inputs)
    data = random_trajectories(LENGTHS, terminal=terminal)
    predicted = {'reward': [], 'cost': []}
    sums = {(kind, what): [] for kind in predicted for what in ('discounted', 'completed')}
    plain, weights = [], []
    for episode in episodes_of(data):
        length = len(episode['rewards'])
        last = slow_values(networks, episode, length, slow_action(networks, episode, length))
        is_over = episode['terminal']
        if critic_inputs == 'targets_time':  # such critics stop at the horizon
            is_over |= length == max(LENGTHS)
        for step, action in enumerate(episode['actions']):
            left = length - step
            values = slow_values(networks, episode, step, action)
            for kind, value, bootstrap in zip(
                ('reward', 'cost'), values, (last[0], max(last[1], 0.0))
            ):
                predicted[kind].append(value)
                came = sum(GAMMA**n * x for n, x in enumerate(episode[f'{kind}s'][step:]))
                sums[kind, 'discounted'].append(came)
                goes_on = 0.0 if is_over else bootstrap
                sums[kind, 'completed'].append(came + GAMMA**left * goes_on)
            plain.append(episode['costs'][step:].sum())
            weights.append(0.0 if is_over else GAMMA**left)

    checks = OfflineChecks(networks, data, GAMMA, 'min')
    found = checks.calibrations()
    assert checks.uncounted_weight == pytest.approx(np.mean(weights))
    all_terminal = len(terminal) == 6
    for (kind, what), realised in sums.items():
        if what == 'completed' and all_terminal:
            assert f'{kind}_{what}' not in found, 'the same as without'
            np.testing.assert_allclose(realised, sums[kind, 'discounted'])
        else:
            assert_calibration(found[f'{kind}_{what}'], predicted[kind], realised)
    assert_calibration(found['cost_to_go'], predicted['cost'], plain)


def test_twin_cost_values_become_one_as_at_deployment(networks):
    data = random_trajectories()
    low, high = (
        OfflineChecks(networks, data, GAMMA, how).calibrations()['cost_to_go'].predicted_mean
        for how in ('min', 'max')
    )
    assert low < high


def test_without_any_cost_correlations_are_said_to_be_undefined(networks):
    arrays = episode_arrays(LENGTHS)
    arrays['costs'] *= 0.0
    checks = OfflineChecks(networks, Trajectories.from_arrays(arrays), GAMMA, 'min')
    found = checks.calibrations()
    for name in ('cost_discounted', 'cost_to_go'):
        assert found[name].correlation is None
        assert found[name].rank_correlation is None
        assert found[name].realised_mean == 0.0
        assert found[name].bias == found[name].predicted_mean
    assert found['reward_discounted'].correlation is not None


def test_correlations_at_their_ends():
    values = torch.tensor([0.1, 0.2, 0.7, 5.0], dtype=torch.float64)
    assert correlation(values, 3 * values - 1) == pytest.approx(1.0)
    assert correlation(values, -values) == pytest.approx(-1.0)
    assert correlation(values, torch.full_like(values, 0.1)) is None
    assert calibrate(values, values**3).rank_correlation == pytest.approx(1.0)
    assert calibrate(values, values**3).correlation < 0.999
    one = calibrate(values[:1], values[:1])
    assert (one.num_states, one.correlation, one.bias, len(one.bins)) == (1, None, 0.0, 1)


# ------------------------------------------------------------------ candidates


def slow_choice(networks, config, target_return, seed, episode, step):
    """Play an episode up to a step with the data's actions, and choose there."""
    policy = RolloutPolicy(networks, config)
    policy.reset(target_return, seeds=(seed,))
    for now in range(step):
        policy.act(episode['states'][now][None])
        policy._actions[:, -1] = torch.tensor(episode['actions'][now], dtype=torch.float32)
        policy.observe(episode['rewards'][now], episode['costs'][now])
    policy.act(episode['states'][step][None])
    return policy.choice


@pytest.mark.parametrize(
    ('rule', 'shift'), [('paper', 'history'), ('bounded', 'last'), ('discounted_budget', 'history')]
)
def test_candidates_are_chosen_as_at_deployment_after_the_same_history(networks, rule, shift):
    data = random_trajectories(LENGTHS, terminal=TERMINAL)
    config = DeploymentConfig(
        cost_limit=3.0, candidates=5, target_spread=0.5, rule=rule, candidate_shift=shift
    )
    states = [
        (episode, step) for episode in episodes_of(data) for step in range(len(episode['rewards']))
    ]
    facts = []
    for number, (episode, step) in enumerate(states):
        choice = slow_choice(networks, config, 6.0, 3 + number % 10, episode, step)
        facts.append(
            (
                episode['costs'][:step].sum() > 3.0,
                not choice.feasible.item(),
                choice.candidate.item() != 0,
            ),
        )
    overspent, infeasible, changed = np.array(facts).T
    assert 0 < overspent.mean() < infeasible.mean() < 1
    assert 0 < changed.mean() < 1
    found = OfflineChecks(networks, data, GAMMA, 'min').candidate_shares(config, 6.0, seed=3)
    assert asdict(found) == pytest.approx(
        {
            'num_states': sum(LENGTHS),
            'overspent_share': overspent.mean(),
            'infeasible_share': infeasible.mean(),
            'infeasible_within_share': infeasible[~overspent].mean(),
            'changed_share': changed.mean(),
        },
    )


def test_a_draw_of_states_repeats_for_a_seed(networks):
    data = random_trajectories((60, 5, 80))
    config = DeploymentConfig(cost_limit=8.0, candidates=4)

    def shares(seed, num_states=20):
        checks = OfflineChecks(networks, data, GAMMA, 'min')
        return checks.candidate_shares(config, 6.0, num_states, seed)

    assert shares(0) == shares(0)
    assert shares(0).num_states == 20
    assert len({shares(seed).changed_share for seed in range(5)}) > 1
    assert shares(0, num_states=1000).num_states == 145


def test_nothing_is_shared_out_where_there_is_nothing_to_choose(networks):
    checks = OfflineChecks(networks, random_trajectories(), GAMMA, 'min')
    assert checks.candidate_shares(DeploymentConfig(candidates=1), 6.0) is None


def test_a_budget_is_overspent_once_the_cost_so_far_is_above_the_limit(networks):
    arrays = episode_arrays((6, 4))
    arrays['costs'][:] = 1.0
    checks = OfflineChecks(networks, Trajectories.from_arrays(arrays), GAMMA, 'min')
    for limit, overspent in ((0.0, 8), (0.5, 8), (1.0, 6), (6.0, 0)):
        config = DeploymentConfig(cost_limit=limit, candidates=3)
        assert checks.candidate_shares(config, 6.0).overspent_share == pytest.approx(overspent / 10)
    config = DeploymentConfig(cost_limit=0.0, candidates=3)
    drawn = [checks.candidate_shares(config, 6.0, num_states=1, seed=seed) for seed in range(9)]
    assert {each.infeasible_within_share is None for each in drawn} == {True, False}
    for each in drawn:
        assert (each.infeasible_within_share is None) == (each.overspent_share == 1.0)


# ------------------------------------------------------------------ all of it


@pytest.mark.parametrize('lengths', [(1,), (3,), (30,)])
def test_a_single_episode_is_enough(networks, lengths):
    checks = OfflineChecks(networks, random_trajectories(lengths, terminal=()), GAMMA, 'min')
    assert checks.action_errors([1.0])[0].num_steps == lengths[0]
    found = checks.calibrations()
    assert all(each.num_states == lengths[0] for each in found.values())
    assert all(sum(part.count for part in each.bins) == lengths[0] for each in found.values())
    shares = checks.candidate_shares(DeploymentConfig(candidates=3), 6.0)
    assert shares.num_states == lengths[0]


def test_the_budget_is_the_cost_that_is_asked_for(networks):
    checks = OfflineChecks(networks, random_trajectories(LENGTHS, terminal=TERMINAL), GAMMA, 'min')
    asked, as_limit, other = (
        checks.candidate_shares(DeploymentConfig(candidates=3, **costs), 6.0)
        for costs in (
            {'cost_limit': 9.0, 'target_cost': 1.0},
            {'cost_limit': 1.0},
            {'cost_limit': 9.0},
        )
    )
    assert asked == as_limit != other


def test_progress_ends_where_it_said_it_would(networks):
    seen = []
    data = random_trajectories(LENGTHS, terminal=TERMINAL)
    checks = OfflineChecks(networks, data, GAMMA, 'min', seen.append)
    total = checks.count_windows(candidates=3, limits=2, num_states=20)
    checks.action_errors([1.0])
    checks.calibrations()
    for limit in (1.0, 2.0):
        checks.candidate_shares(DeploymentConfig(cost_limit=limit, candidates=3), 6.0, 20)
    assert sum(seen) == total


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('data_device', ['cpu', 'cuda'])
def test_a_gpu_finds_the_same(networks, data_device):
    data = random_trajectories(LENGTHS, terminal=TERMINAL)
    config = DeploymentConfig(cost_limit=3.0, candidates=4)
    results = []
    for device, own in (('cpu', data), ('cuda', data.to(data_device))):
        state = networks.state_dict()
        moved = DeployableNetworks.from_state_dict(state).to(device)
        checks = OfflineChecks(moved, own, GAMMA, 'min')
        results.append(
            {
                'error': checks.action_errors([])[0].error,
                'bias': checks.calibrations()['reward_completed'].bias,
                **asdict(checks.candidate_shares(config, 6.0)),
            },
        )
    assert results[0] == pytest.approx(results[1], rel=1e-3)
