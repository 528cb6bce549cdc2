# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's own algorithms as rows of a comparison."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import omnisafe
import pytest
import torch

from benchmarks import builtin
from benchmarks.suite import CORRECTED, DataFile, algorithm_defaults
from host_helpers import ENV_ID, write_dataset
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.convert import BUILT_INS
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.evaluation.episodes import Series, evaluate_together
from omnisafe_qpt.qpt.config import DeploymentConfig


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp('data') / 'BallRun.hdf5', episodes=2)
    return DataFile(path, file_sha256(path))


def options_of(algo, data, folder, updates=4):
    sizes = {'hidden_sizes': [8, 8]}
    names = [name for name in ('actor', 'critic', 'nu', 'chi') if name in models_of(algo)]
    return {
        'seed': 1,
        'train_cfgs': {
            'device': 'cpu',
            'torch_threads': 1,
            'total_steps': updates,
            'dataset': str(builtin.prepare_data(algo, data, folder / 'data')),
            'evaluate_epoisodes': 0,
        },
        'algo_cfgs': {'steps_per_epoch': updates, 'batch_size': 8},
        'logger_cfgs': {'log_dir': str(folder), 'use_tensorboard': False, 'save_model_freq': 1},
        'model_cfgs': dict.fromkeys(names, sizes) or sizes,
    }


def models_of(algo):
    return algorithm_defaults(algo, ENV_ID)['model_cfgs']


def make_agent(algo, data, folder):
    with builtin.corrected(algo) as name:
        return omnisafe.Agent(name, ENV_ID, custom_cfgs=options_of(algo, data, folder))


# -- cost limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('horizon', 'expected'),
    [(100, 6.34), (200, 4.33), (300, 3.17), (500, 1.99), (1000, 1.00)],
)
@pytest.mark.parametrize('algo', ['BCQLag', 'CCRR', 'CCRR-fixed'])
def test_the_limit_of_a_critic_is_the_discounted_cost_of_evenly_spread_costs(
    algo,
    horizon,
    expected,
):
    settings = algorithm_defaults(algo, ENV_ID)
    options = builtin.limit_options(algo, 10.0, horizon, settings)
    limit = options['lagrange_cfgs']['cost_limit']
    assert limit == pytest.approx(expected, abs=0.005)
    assert limit == pytest.approx(sum(10.0 / horizon * 0.99**step for step in range(horizon)))


def test_without_discount_the_limit_stays():
    settings = {'algo_cfgs': {'gamma': 1.0}}
    options = builtin.limit_options('CCRR', 10.0, 200, settings)
    assert options == {'lagrange_cfgs': {'cost_limit': pytest.approx(10.0)}}


def test_the_limit_of_coptidice_is_that_of_a_step():
    options = builtin.limit_options('COptiDICE', 10.0, 200, {})
    assert options == {'algo_cfgs': {'cost_limit': pytest.approx(0.05)}}


@pytest.mark.parametrize('algo', ['VAEBC', 'BCQ', 'CRR'])
def test_algorithms_without_a_limit_get_none(algo):
    assert builtin.limit_options(algo, 10.0, 200, {}) == {}


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('algo', [*BUILT_INS, *CORRECTED])
def test_every_algorithm_gets_its_shapes_and_terminals_alone_as_done(algo, make_arrays, tmp_path):
    arrays = make_arrays([4, 3, 5], ends=['timeout', 'terminal', 'timeout'])
    source = tmp_path / 'source.hdf5'
    write_hdf5(source, arrays)
    path = builtin.prepare_data(algo, DataFile(source, file_sha256(source)), tmp_path / 'data')
    with np.load(path) as prepared:
        shape = (12,) if algo == 'COptiDICE' else (12, 1)
        assert prepared['reward'].shape == prepared['cost'].shape == prepared['done'].shape == shape
        assert np.flatnonzero(prepared['done']).tolist() == [6]
        assert ('init_obs' in prepared) == (algo == 'COptiDICE')
        if algo == 'COptiDICE':
            firsts = np.repeat(arrays['observations'][[0, 4, 7]], [4, 3, 5], axis=0)
            assert np.array_equal(prepared['init_obs'], firsts)


def test_actions_in_the_environments_unit_are_normalised(make_arrays, tmp_path):
    source = tmp_path / 'data.hdf5'
    arrays = make_arrays([6, 5])
    low, high = np.array([-3.0, 0.0], np.float32), np.array([3.0, 4.0], np.float32)
    arrays['actions'] = low + (high - low) * (arrays['actions'] + 1) / 2
    write_hdf5(source, arrays)
    data = DataFile(source, file_sha256(source))
    limits = {'low': low.tolist(), 'high': high.tolist()}
    for algo in ('BCQ', 'COptiDICE'):
        with np.load(builtin.prepare_data(algo, data, tmp_path / 'data', limits)) as prepared:
            expected = 2 * (arrays['actions'] - low) / (high - low) - 1
            assert prepared['action'] == pytest.approx(expected, abs=1e-6)


def test_data_are_prepared_once_for_all_that_read_the_same_shape(data, tmp_path):
    paths = {algo: builtin.prepare_data(algo, data, tmp_path) for algo in (*BUILT_INS, *CORRECTED)}
    assert len(set(paths.values())) == 2
    before = paths['BCQ'].stat().st_mtime_ns
    assert builtin.prepare_data('CCRR-fixed', data, tmp_path) == paths['BCQ']
    assert paths['BCQ'].stat().st_mtime_ns == before


def test_other_data_of_the_same_name_are_prepared_anew(data, tmp_path):
    other = DataFile(data.path, 'f' * 64)
    first, second = (builtin.prepare_data('BCQ', each, tmp_path) for each in (data, other))
    assert first != second
    assert first.name.startswith('BallRun-')


# -- trained policies -----------------------------------------------------------------------------


def trained(algo, data, folder):
    agent = make_agent(algo, data, folder)
    agent.learn()
    run = Path(agent.agent.logger.log_dir)
    config = json.loads((run / 'config.json').read_text(encoding='utf-8'))
    checkpoint = torch.load(run / 'torch_save' / 'epoch-1.pt', weights_only=True)
    return agent.agent._actor, config, checkpoint


def observations_of(data):
    import h5py

    with h5py.File(data.path) as file:
        return torch.as_tensor(file['observations'][:5])


def generators(seeds):
    return [np.random.default_rng(seed) for seed in seeds]


def test_a_decoding_policy_acts_as_omnisafes_with_the_episodes_own_noise(
    data,
    tmp_path,
    monkeypatch,
):
    actor, config, checkpoint = trained('BCQ', data, tmp_path)
    policy = builtin.BuiltInPolicy(config, checkpoint, observations_of(data).shape[1], 2)
    observations = observations_of(data)
    seeds = range(7, 12)
    with torch.no_grad():
        actions = policy.act(observations, generators(seeds))
        noise = np.stack([generator.standard_normal(4) for generator in generators(seeds)])
        noise = torch.as_tensor(noise, dtype=torch.float32)
        monkeypatch.setattr(torch.distributions.Normal, 'sample', lambda self, shape: noise)
        assert torch.equal(actions, actor.predict(observations))
        # The same episode among others.
        alone = policy.act(observations[2:3], generators([9]))
    torch.testing.assert_close(alone, actions[2:3])


def test_a_trained_policy_brings_the_same_episodes_in_any_number_of_processes(data, tmp_path):
    _, config, checkpoint = trained('VAEBC', data, tmp_path)
    policy = builtin.BuiltInPolicy(config, checkpoint, observations_of(data).shape[1], 2)
    pickle.dumps(policy)
    series = [Series(policy, DeploymentConfig(cost_limit=10.0, candidates=1), 0.0, range(5, 9))]
    torch.manual_seed(0)
    (here,) = evaluate_together(ENV_ID, series, processes=1)
    torch.manual_seed(1)  # without effect
    (there,) = evaluate_together(ENV_ID, series, processes=2)
    assert here.returns == there.returns
    assert here.costs == there.costs
    assert len(set(here.returns)) == 4


# -- CCRR -----------------------------------------------------------------------------------------


def batch_of(agent):
    torch.manual_seed(0)
    obs, action, _, cost, next_obs, done = agent._dataset.sample()
    done[3] = 1.0
    return obs, action, cost, next_obs, done


def moved_by_costs(agent):
    """Return which critics the update of the cost critic moves."""
    names = ('_reward_critic', '_cost_critic')
    before = {name: [p.clone() for p in getattr(agent, name).parameters()] for name in names}
    agent._update_cost_critic(*batch_of(agent))
    after = {name: getattr(agent, name).parameters() for name in names}
    return [name for name in names if not all(map(torch.equal, before[name], after[name]))]


def test_omnisafes_ccrr_trains_the_wrong_critic_and_the_corrected_one_does_not(data, tmp_path):
    wrong, right = (
        moved_by_costs(make_agent(algo, data, tmp_path / algo).agent)
        for algo in ('CCRR', 'CCRR-fixed')
    )
    assert wrong == ['_reward_critic']
    assert right == ['_cost_critic']


def test_the_corrected_cost_critic_learns_costs_to_come(data, tmp_path, monkeypatch):
    agent = make_agent('CCRR-fixed', data, tmp_path).agent
    obs, action, cost, next_obs, done = batch_of(agent)
    fixed = torch.full_like(action, 0.1)
    monkeypatch.setattr(agent._actor, 'predict', lambda obs, deterministic: fixed)
    with torch.no_grad():
        first, second = agent._target_cost_critic(next_obs, fixed)
        target = cost[:, 0] + 0.99 * (1 - done[:, 0]) * torch.minimum(first, second)
        values = agent._cost_critic(obs, action)
        expected = sum(((value - target) ** 2).mean() for value in values)
    agent._update_cost_critic(obs, action, cost, next_obs, done)
    assert agent._logger._data['Loss/Loss_cost_critic'] == [pytest.approx(expected.item())]
    assert target[3] == cost[3, 0]


def test_the_corrected_policy_shuns_actions_that_cost_more(data, tmp_path):
    """The likelihood of an action in the data falls with its cost if the multiplier is large."""
    losses = []
    for surplus in (0.0, 5.0):
        agent = make_agent('CCRR-fixed', data, tmp_path / str(surplus)).agent
        obs, action, *_ = batch_of(agent)
        critic = agent._cost_critic.forward
        count = len(obs)

        def costly(obs, action, critic=critic, surplus=surplus, count=count):
            extra = surplus if len(obs) == count else 0.0  # for the data's actions alone
            return [value + extra for value in critic(obs, action)]

        agent._cost_critic.forward = costly
        torch.manual_seed(0)
        agent._update_actor(obs, action)
        losses.append(agent._logger._data['Loss/Loss_actor'][0])
    # The weights are exp(-5) of what they were.
    assert losses[1] == pytest.approx(losses[0] * np.exp(-5.0), rel=1e-3)


def test_the_corrected_twin_is_there_within_the_block_alone():
    from omnisafe.algorithms.registry import REGISTRY

    before = REGISTRY.get('CCRR')
    with builtin.corrected('CCRR-fixed') as name:
        assert name == 'CCRR'
        assert REGISTRY.get('CCRR').__name__ == 'CCRRFixed'
    assert REGISTRY.get('CCRR') is before
    with builtin.corrected('BCQ') as name:
        assert name == 'BCQ'
