# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Trained agents as behaviours: naming, loading, acting, noise, switches."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from common_helpers import change_config
from host_helpers import ENV_ID, HORIZON, small_options, write_dataset
from omnisafe_qpt.collect import agent_controller, collect
from omnisafe_qpt.collect.agent_controller import AgentController
from omnisafe_qpt.collect.agents import (
    Agent,
    Mixture,
    parse_agent,
    read_agents,
)
from omnisafe_qpt.collect.episodes import Recipe, Recorder
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.errors import UserError


SMALL_NETWORKS = {'hidden_sizes': [8, 8]}


def train(folder, algo, **sections):
    """Run one of OmniSafe's own algorithms for a moment, with checkpoints."""
    import omnisafe

    settings = {
        'seed': 1,
        'train_cfgs': {'device': 'cpu', 'torch_threads': 1, 'total_steps': 400},
        'algo_cfgs': {'steps_per_epoch': 200, 'update_iters': 1},
        'logger_cfgs': {
            'log_dir': str(folder),
            'use_tensorboard': False,
            'use_wandb': False,
            'save_model_freq': 1,
        },
        'model_cfgs': {'actor': SMALL_NETWORKS, 'critic': SMALL_NETWORKS},
    }
    for name, options in sections.items():
        settings[name] = {**settings[name], **options}
    agent = omnisafe.Agent(algo, ENV_ID, custom_cfgs=settings)
    agent.learn()
    return Path(agent.agent.logger.log_dir)


@pytest.fixture(name='run', scope='module')
def fixture_run(tmp_path_factory):
    """A run of PPO with a learned normaliser and three checkpoints."""
    return train(tmp_path_factory.mktemp('runs'), 'PPO')


# -- naming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('run', ('run', 'last', 1.0)),
        ('run:40', ('run', '40', 1.0)),
        ('run:all', ('run', 'all', 1.0)),
        ('run:last:3', ('run', 'last', 3.0)),
        ('run:40:0.5', ('run', '40', 0.5)),
        ('run:0.5', ('run', 'last', 0.5)),
        ('run::2', ('run', 'last', 2.0)),
        ('a:b/run:7', ('a:b/run', '7', 1.0)),
        ('a:5:6:7', ('a:5', '6', 7.0)),
        ('run:best', ('run:best', 'last', 1.0)),
        ('scripted', ('scripted', 'last', 1.0)),
        ('scripted:2', ('scripted', 'last', 2.0)),
        ('scripted:0.25', ('scripted', 'last', 0.25)),
        ('./scripted:2', ('./scripted', '2', 1.0)),
    ],
)
def test_agents_are_read_from_the_right(text, expected):
    assert parse_agent(text) == expected


def test_a_path_that_exists_is_taken_whole(tmp_path):
    odd = tmp_path / 'seed:5'
    odd.mkdir()
    assert parse_agent(str(odd)) == (str(odd), 'last', 1.0)
    assert parse_agent(f'{odd}:3') == (str(odd), '3', 1.0)


def test_all_divides_the_weight_among_the_checkpoints(run):
    agents, scripted = read_agents([f'{run}:all:6', f'{run}:1:0.5', 'scripted:3'], ENV_ID)
    assert scripted == 3.0
    assert [(agent.epoch, agent.weight) for agent in agents] == [
        (0, 2.0),
        (1, 2.0),
        (2, 2.0),
        (1, 0.5),
    ]
    assert [agent.label for agent in agents][2:] == ['PPO-1 epoch 2', 'PPO-2 epoch 1']
    shares = [policy['share'] for policy in Mixture(agents, scripted).describe()]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(3.0 / 9.5)


def test_a_folder_above_a_single_run_or_a_checkpoint_will_do(run):
    by_folder, _ = read_agents([str(run.parent)], ENV_ID)
    by_file, _ = read_agents([str(run / 'torch_save' / 'epoch-2.pt')], ENV_ID)
    assert by_folder[0].sha256 == by_file[0].sha256 == file_sha256(by_file[0].checkpoint)
    assert by_folder[0].epoch == 2


@pytest.mark.parametrize(
    ('agent', 'message'),
    [
        ('{run}:7', 'no checkpoint of epoch 7, there are 0, 1, 2'),
        ('{run}:0:0', 'weight must be above 0'),
        ('nowhere', 'nowhere: no such run folder'),
        ('{run}:best', 'no such run folder'),
    ],
)
def test_what_cannot_be_found_is_one_line(run, agent, message):
    with pytest.raises(UserError, match=message):
        read_agents([agent.format(run=run)], ENV_ID)


def test_another_environments_run_is_refused(run):
    with pytest.raises(UserError, match=r'trained in SafetyBallRun-v0.*from SafetyCarRun-v0'):
        read_agents([str(run)], 'SafetyCarRun-v0')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda copy: (copy / 'torch_save' / 'epoch-2.pt').write_bytes(b'x'), 'epoch-2.*read'),
        (lambda copy: (copy / 'config.json').write_text('{'), 'config.json: cannot be read'),
        (lambda copy: (copy / 'config.json').write_text('[' * 9999), 'config.json: cannot be read'),
        (lambda copy: (copy / 'config.json').write_text('{}'), 'not the settings of a run'),
        (lambda copy: change_config(copy, algo=['PPO']), 'not the settings of a run'),
        (lambda copy: shutil.rmtree(copy / 'torch_save'), 'no checkpoint in torch_save'),
        (
            lambda copy: torch.save({'dynamics': {}}, copy / 'torch_save' / 'epoch-2.pt'),
            'agents of PPO cannot be used',
        ),
    ],
)
def test_damaged_runs_are_refused_at_the_start(run, tmp_path, damage, message):
    copy = tmp_path / 'seed-copy'
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(UserError, match=message) as raised:
        read_agents([str(copy)], ENV_ID)
    assert '\n' not in str(raised.value)


# -- acting as the run does -----------------------------------------------------------------------


class Spaces:
    """What a controller needs of a simulator."""

    def __init__(self, obs_dim, act_dim):
        self.observation_space = np.zeros(obs_dim)
        self.action_space = np.zeros(act_dim)


@cache
def spaces_of():
    from omnisafe_qpt.envs.environments import make_env

    env = make_env(ENV_ID)
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    return Spaces(*sizes)


def controller_of(run, seed=0, **mixture):
    agents, _ = read_agents([str(run)], ENV_ID)
    draws = np.random.default_rng(seed)
    return AgentController(Mixture(agents, 0.0, **mixture), draws, spaces_of(), HORIZON)


def actions_of(controller, observations):
    with torch.random.fork_rng():
        return np.array([controller.act(obs, step) for step, obs in enumerate(observations)])


def observations_like(count, seed=0):
    size = spaces_of().observation_space.shape[0]
    return np.random.default_rng(seed).normal(0, 2, (count, size)).astype(np.float32)


def test_actions_are_those_of_omnisafes_evaluator(run):
    from omnisafe.evaluator import Evaluator

    evaluator = Evaluator()
    evaluator.load_saved(str(run), 'epoch-2.pt')
    observations = observations_like(20)
    state = torch.load(run / 'torch_save' / 'epoch-2.pt', weights_only=True)['obs_normalizer']
    assert state['_count'] >= 400, 'it has learned something that matters below'
    expected = []
    for observation in observations:
        # OmniSafe's normaliser would go on learning: written out, and frozen.
        scaled = (torch.from_numpy(observation) - state['_mean']) / state['_std']
        with torch.no_grad():
            expected.append(
                evaluator._actor.predict(scaled.clamp(-5, 5), deterministic=True).numpy(),
            )
    actual = actions_of(controller_of(run), observations)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    raw = evaluator._actor.predict(torch.from_numpy(observations), deterministic=True)
    assert np.abs(actual - raw.detach().numpy()).max() > 0.01, 'the normaliser must matter'


def test_the_normaliser_does_not_go_on_learning(run):
    observations = observations_like(30)
    first = actions_of(controller_of(run), observations)
    again = actions_of(controller_of(run), observations)
    np.testing.assert_array_equal(first, again)


def test_sampled_actions_follow_the_policys_deviation(run):
    content = torch.load(run / 'torch_save' / 'epoch-2.pt', weights_only=True)
    deviation = content['pi']['log_std'].exp().numpy()
    observation = observations_like(1)[0]
    mean = actions_of(controller_of(run), [observation])[0]
    sampled = actions_of(controller_of(run, sample=1.0), [observation] * 800)
    np.testing.assert_allclose(sampled.mean(axis=0), mean, atol=4 * deviation.max() / 800**0.5)
    np.testing.assert_allclose(sampled.std(axis=0), deviation, rtol=0.12)


class Still:
    """A policy that does nothing, so that an action is all noise."""

    def begin(self, seed):
        pass

    def act(self, observation, samples):
        return np.zeros(2)


def noise_of(seed, steps, monkeypatch):
    monkeypatch.setattr(agent_controller, '_load_policy', lambda *_: Still())
    agent = Agent('still', 'run', 'PPO', 0, 'file', 'abc', 1.0)
    draws = np.random.default_rng(seed)
    controller = AgentController(Mixture((agent,), 0.0, noise=0.5), draws, Spaces(3, 2), steps)
    return np.array([controller.act(np.zeros(3), step) for step in range(steps)])


def test_noise_has_one_deviation_an_episode_up_to_the_largest(monkeypatch):
    deviations = []
    for seed in range(30):
        noise = noise_of(seed, 4000, monkeypatch)
        both = noise.std(axis=0)
        assert both[1] == pytest.approx(both[0], rel=0.15)
        assert np.abs(noise.mean(axis=0)).max() < 0.3 * both.max()
        deviations.append(both.mean())
    assert max(deviations) < 0.55
    assert np.ptp(deviations) > 0.35
    assert np.median(deviations) == pytest.approx(0.25, abs=0.1)


def test_half_of_the_noise_is_slow(monkeypatch):
    def correlation(seed):
        noise = noise_of(seed, 1000, monkeypatch)[:, 0]
        return np.corrcoef(noise[:-1], noise[1:])[0, 1]

    correlations = np.array([correlation(seed) for seed in range(60)])
    slow = correlations > 0.5
    assert 18 <= slow.sum() <= 42
    assert correlations[slow].mean() == pytest.approx(0.85, abs=0.02)
    assert correlations[~slow].mean() == pytest.approx(0.0, abs=0.02)


def test_weights_decide_who_acts(run):
    agents, _ = read_agents([f'{run}:0:1', f'{run}:2:3'], ENV_ID)
    spaces = spaces_of()
    kinds = Counter()
    for seed in range(400):
        draws = np.random.default_rng(seed)
        kinds[AgentController(Mixture(agents, 0.0), draws, spaces, HORIZON).kind] += 1
    assert set(kinds) == {'PPO-1 epoch 0', 'PPO-2 epoch 2'}
    assert 260 <= kinds['PPO-2 epoch 2'] <= 340


def test_a_switch_changes_who_acts_in_mid_episode(run):
    agents, _ = read_agents([f'{run}:0', f'{run}:2'], ENV_ID)
    observations = observations_like(HORIZON)
    spaces = spaces_of()
    switched = 0
    for seed in range(6):
        controller = AgentController(
            Mixture(agents, 0.0, switch=1.0),
            np.random.default_rng(seed),
            spaces,
            HORIZON,
        )
        actual = actions_of(controller, observations)
        labels = controller.kind.split(' then ')
        assert len(labels) == 2
        first, second = (
            actions_of(
                AgentController(
                    Mixture(tuple(agent for agent in agents if agent.label == label), 0.0),
                    np.random.default_rng(0),
                    spaces,
                    HORIZON,
                ),
                observations,
            )
            for label in labels
        )
        if labels[0] == labels[1]:
            continue
        switched += 1
        changed = int((actual != first).any(axis=1).argmax())
        assert changed >= 1
        np.testing.assert_array_equal(actual[:changed], first[:changed])
        np.testing.assert_array_equal(actual[changed:], second[changed:])
    assert switched >= 2


# -- other algorithms -----------------------------------------------------------------------------


def fake_run(folder, algo, name, parameters, **config):
    """Write a run folder as OmniSafe leaves it."""
    (folder / 'torch_save').mkdir(parents=True)
    settings = {'algo': algo, 'env_id': ENV_ID, 'algo_cfgs': {}, **config}
    (folder / 'config.json').write_text(json.dumps(settings), encoding='utf-8')
    torch.save({name: parameters}, folder / 'torch_save' / 'epoch-1.pt')
    return folder


@pytest.mark.parametrize(
    ('algo', 'name', 'actor_type', 'nested'),
    [
        ('SAC', 'pi', 'gaussian_sac', True),
        ('TD3', 'pi', 'mlp', True),
        ('CRR', 'actor', 'gaussian_learning', True),
        ('COptiDICE', 'actor', 'gaussian_learning', True),
        ('BCQLag', 'actor', 'perturbation', True),
        ('VAEBC', 'vae', 'vae', False),
    ],
)
def test_policies_of_all_kinds_are_rebuilt(tmp_path, algo, name, actor_type, nested):
    """Offline algorithms name their policy otherwise, and their settings leave its type out."""
    from gymnasium.spaces import Box
    from omnisafe.models.actor import ActorBuilder

    spaces = spaces_of()
    obs_dim, act_dim = spaces.observation_space.shape[0], spaces.action_space.shape[0]
    sizes = {'hidden_sizes': [8, 8], 'activation': 'relu'}
    models = {'weight_initialization_mode': 'kaiming_uniform'}
    models.update({'actor': sizes} if nested else sizes)
    if name == 'pi':
        models['actor_type'] = actor_type
    actor = ActorBuilder(
        obs_space=Box(-np.inf, np.inf, (obs_dim,)),
        act_space=Box(-1.0, 1.0, (act_dim,)),
        hidden_sizes=[8, 8],
    ).build_actor(actor_type)
    run = fake_run(tmp_path / 'run', algo, name, actor.state_dict(), model_cfgs=models)
    observations = observations_like(5)
    controller = controller_of(run)
    controller.act(observations[0], 0)  # loads it, which draws numbers
    torch.manual_seed(3)
    actual = np.array([controller.act(obs, 1) for obs in observations])
    torch.manual_seed(3)
    with torch.no_grad():
        expected = [
            actor.predict(torch.from_numpy(obs)[None], deterministic=True)[0].numpy()
            for obs in observations
        ]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_safety_budget_is_spent_as_omnisafe_does(tmp_path):
    """Saute adds the share of the budget that is left to the observation."""
    from gymnasium.spaces import Box
    from omnisafe.models.actor import ActorBuilder

    spaces = spaces_of()
    obs_dim, act_dim = spaces.observation_space.shape[0], spaces.action_space.shape[0]
    models = {
        'weight_initialization_mode': 'kaiming_uniform',
        'actor_type': 'gaussian_learning',
        'actor': {'hidden_sizes': [8], 'activation': 'tanh'},
    }
    actor = ActorBuilder(
        obs_space=Box(-np.inf, np.inf, (obs_dim + 1,)),
        act_space=Box(-1.0, 1.0, (act_dim,)),
        hidden_sizes=[8],
        activation='tanh',
    ).build_actor('gaussian_learning')
    settings = {'saute_gamma': 0.9, 'max_ep_len': 10, 'safety_budget': 5.0}
    run = fake_run(
        tmp_path / 'run',
        'PPOSaute',
        'pi',
        actor.state_dict(),
        model_cfgs=models,
        algo_cfgs=settings,
    )
    controller = controller_of(run)
    left = torch.ones(1)
    budget = 5.0 * (1 - 0.9**10) / (1 - 0.9) / 10
    for step, observation in enumerate(observations_like(6)):
        inputs = torch.cat([torch.from_numpy(observation), left])
        with torch.no_grad():
            expected = actor.predict(inputs, deterministic=True).numpy()
        np.testing.assert_allclose(controller.act(observation, step), expected, rtol=1e-5)
        cost = float(step % 2)
        controller.observe(1.0, cost)
        left = (left - cost / budget) / 0.9


@pytest.mark.parametrize(
    'sections',
    [
        {'model_cfgs': {'actor': {'hidden_sizes': [3]}}},
        {'algo_cfgs': {'saute_gamma': 0.9}},
        {'algo_cfgs': {'saute_gamma': 1.0, 'max_ep_len': 10, 'safety_budget': 5.0}},
        {'algo_cfgs': {'saute_gamma': 'x', 'max_ep_len': 10, 'safety_budget': 5.0}},
        {'algo_cfgs': 3},
    ],
)
def test_settings_that_do_not_fit_are_one_line(run, tmp_path, sections):
    copy = tmp_path / 'seed-copy'
    shutil.copytree(run, copy)
    change_config(copy, **sections)
    with pytest.raises(UserError, match=r'epoch-2\.pt: does not fit its config\.json') as raised:
        controller_of(copy).act(observations_like(1)[0], 0)
    assert '\n' not in str(raised.value)


# -- in the simulator -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mixture_is_collected_and_described(run, tmp_path):
    files = []
    for workers in (1, 2):
        out = tmp_path / str(workers) / 'mixed.hdf5'
        summary = collect(
            ENV_ID,
            6,
            3,
            out,
            agents=[f'{run}:all:2', f'{run}:0'],
            switch=0.5,
            workers=workers,
            progress=False,
        )
        files.append(out.read_bytes())
    assert files[0] == files[1], 'neither processes nor their order matter'
    assert summary['transitions'] == 6 * HORIZON
    with open_dataset(out) as arrays:
        assert np.abs(arrays['actions'][:]).max() <= 1.0
    attributes = read_attributes(out)
    policies = json.loads(attributes['policies'])
    assert [policy['epoch'] for policy in policies] == [0, 1, 2, 0]
    assert all(policy['run'] == str(run) for policy in policies)
    assert policies[1]['sha256'] == file_sha256(run / 'torch_save' / 'epoch-1.pt')
    labels = {policy['label'] for policy in policies}
    behaviours = json.loads(attributes['behaviours'])
    assert len(behaviours) == 6
    assert {label for kind in behaviours for label in kind.split(' then ')} <= labels
    assert attributes['origin'] == 'trained agents in the simulator, not DSRL'
    assert (attributes['noise'], attributes['switch'], attributes['sample']) == (0.2, 0.5, 0.5)
    assert f'{run}:all:2' in attributes['command']


def record(recipe, number):
    with closing(Recorder(recipe)) as recorder:
        return recorder.record(number)


def test_neither_the_agents_nor_the_users_draws_are_disturbed(run):
    agents, _ = read_agents([str(run)], ENV_ID)
    recipe = Recipe(ENV_ID, 0, max_steps=20, mixture=Mixture(agents, 0.0, 0.3, 0.0, 1.0))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = record(recipe, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.testing.assert_array_equal(record(recipe, 0).actions, first.actions)
    assert not np.array_equal(record(recipe, 1).actions, first.actions)
    other = replace(recipe, seed=1)
    assert not np.array_equal(record(other, 0).actions, first.actions)


def test_a_run_of_qpt_acts_and_is_told_its_costs(tmp_path):
    import omnisafe

    import omnisafe_qpt

    dataset = write_dataset(tmp_path / 'data.hdf5', episodes=3)
    agent = omnisafe.Agent('QPT', ENV_ID, custom_cfgs=small_options(dataset, tmp_path / 'runs'))
    agent.learn()
    (config,) = (tmp_path / 'runs').rglob('config.json')
    agents, _ = read_agents([str(config.parent)], ENV_ID)
    assert agents[0].algorithm == 'QPT'
    mixture = Mixture(agents, 0.0)
    episode = record(Recipe(ENV_ID, 0, max_steps=12, mixture=mixture), 0)
    # The seed of its candidates is a draw of the controller's.
    draws = np.random.default_rng(np.random.SeedSequence([0, 0], spawn_key=(1,)))
    draws.random()  # whether the scripted controllers act
    controller = AgentController(mixture, draws, spaces_of(), 12)
    policy = omnisafe_qpt.load_policy(config.parent, device='cpu')
    policy.reset(controller._current._seed)
    for step in range(12):
        expected = np.clip(policy.act(episode.states[step]), -1.0, 1.0)
        np.testing.assert_allclose(episode.actions[step], expected, atol=1e-6)
        policy.observe(episode.rewards[step], episode.costs[step])


def test_agent_and_mixture_are_plain_values():
    """They go into the fingerprint of an unfinished collection and to other processes."""
    agent = Agent('PPO-1 epoch 0', 'run', 'PPO', 0, 'file', 'abc', 1.0)
    assert json.loads(json.dumps(Mixture((agent,), 1.0).describe()))[1]['share'] == 0.5
