# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Small real datasets and small settings for tests that go through OmniSafe."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.runs.checkpoint import save_checkpoint


ENV_ID = 'SafetyBallRun-v0'  # the shortest task: 100 steps, 3000 of them a second
HORIZON = 100


def write_dataset(path: Path, episodes: int = 8, seed: int = 0) -> Path:
    """Record episodes of the real simulator under random, more or less bold, controllers."""
    from omnisafe_qpt.envs.environments import make_env

    generator = np.random.default_rng(seed)
    env = make_env(ENV_ID)
    columns: dict[str, list[Any]] = {name: [] for name in ('obs', 'next', 'act', 'rew', 'cost')}
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        boldness = generator.uniform(-0.2, 1.0)
        for _ in range(HORIZON):
            action = np.clip(generator.normal([boldness, 0.0], 0.2), -1, 1).astype(np.float32)
            following, reward, cost, *_ = env.step(torch.from_numpy(action))
            for name, value in zip(columns, (obs, following, action, reward, cost)):
                columns[name].append(np.asarray(value, dtype=np.float32))
            obs = following
    env.close()
    timeouts = np.arange(episodes * HORIZON) % HORIZON == HORIZON - 1
    arrays = {
        'observations': np.stack(columns['obs']),
        'next_observations': np.stack(columns['next']),
        'actions': np.stack(columns['act']),
        'rewards': np.stack(columns['rew']),
        'costs': np.stack(columns['cost']),
        'terminals': np.zeros_like(timeouts),
        'timeouts': timeouts,
    }
    write_hdf5(path, arrays)
    return path


def small_options(dataset: Path, log_dir: Path, **train_cfgs: Any) -> dict[str, Any]:
    """Return options for a run of seconds: two epochs of five updates."""
    return {
        'seed': 3,
        'train_cfgs': {
            'device': 'cpu',
            'torch_threads': 1,
            'dataset': str(dataset),
            'total_steps': 10,
            'evaluate_epoisodes': 1,
            'final_evaluate_episodes': 2,
            'calibrate_episodes': 0,
            'evaluate_processes': 1,
            **train_cfgs,
        },
        'algo_cfgs': {
            'steps_per_epoch': 5,
            'batch_size': 8,
            'candidates': 3,
            'polyak': 0.9,
        },
        'logger_cfgs': {'log_dir': str(log_dir), 'use_tensorboard': False},
        'model_cfgs': {
            'actor': {'context_len': 4, 'embed_dim': 16, 'num_layers': 2, 'num_heads': 2},
            'critic': {'hidden_sizes': [16, 16, 16]},
        },
    }


def train(options: dict[str, Any], algo: str = 'QPT', env_id: str = ENV_ID) -> Path:
    """Train through OmniSafe, in this process; returns the run's folder."""
    import omnisafe

    agent = omnisafe.Agent(algo, env_id, custom_cfgs=options)
    agent.learn()
    return Path(agent.agent.logger.log_dir)


def only_run(log_dir: Path) -> Path:
    (config,) = log_dir.rglob('config.json')
    return config.parent


def to_resume(run: Path, **train_cfgs: Any) -> dict[str, Any]:
    """Return options to resume a run; its folder is all that they must name."""
    resume = {'resume': str(run), 'device': 'cpu', 'evaluate_processes': 1}
    return {'train_cfgs': {**resume, **train_cfgs}}


def command_line_options(options: dict[str, Any]) -> list[str]:
    """Turn nested options into ``--custom-cfgs KEY --custom-cfgs VALUE`` pairs."""
    arguments: list[str] = []

    def add(prefix: str, section: dict[str, Any]) -> None:
        for key, value in section.items():
            if isinstance(value, dict):
                add(f'{prefix}{key}:', value)
            else:
                text = str(value).replace(' ', '')
                arguments.extend(['--custom-cfgs', f'{prefix}{key}', '--custom-cfgs', text])

    add('', options)
    return arguments


def rollout(env: Any, seed: int | None, actions: Any) -> torch.Tensor:
    """Run one episode; one row a step: observation, reward, cost, terminated, truncated."""
    obs, _ = env.reset(seed=seed)
    rows = [torch.cat([obs, torch.zeros(4)])]
    for action in actions:
        obs, *signals, _ = env.step(action)
        rows.append(torch.cat([obs, torch.stack(signals)]))
        if signals[2] or signals[3]:
            break
    return torch.stack(rows)


def make_networks(
    obs_dim: int, act_dim: int, horizon: int, env_id: str, **changes: Any
) -> DeployableNetworks:
    """Make small networks whose actions depend on targets and candidates."""
    torch.manual_seed(0)
    config = LearnerConfig(
        policy=PolicyConfig(context_len=4, embed_dim=16, num_layers=1, num_heads=2),
        critic_hidden_sizes=(16, 16),
        **changes,
    )
    scaling = Scaling(torch.zeros(obs_dim), torch.ones(obs_dim), 100.0, 10.0)
    learner = Learner(obs_dim, act_dim, scaling, config)
    with torch.no_grad():  # so that targets and candidates matter
        for parameter in learner.policy.parameters():
            parameter.mul_(3.0)
    spec = {
        'env_id': env_id,
        'horizon': horizon,
        'frontier': {'costs': [0.0, 5.0, 30.0], 'returns': [10.0, 50.0, 90.0]},
        'reference_returns': [0.0, 100.0],
        'deployment': vars(DeploymentConfig(candidates=4, rule='paper')),
        'target_return': 'auto',
        'dataset': {'path': 'none', 'sha256': None},
        'versions': {},
    }
    return DeployableNetworks.from_learner(learner, spec)


def untrained_run(folder: Path, networks: DeployableNetworks, epoch: int = 3) -> Path:
    """Make the folder of a run with one checkpoint and nothing in its record."""
    save_checkpoint(folder, epoch, networks)
    (folder / 'config.json').write_text('{}')
    return folder


class Unsteady:
    """A chaotic environment: two episodes that differ in one bit soon differ in all.

    How long a step or a reset takes is left to chance. An episode has 10 to 20 steps.
    """

    horizon = 20

    def __init__(self, env_id: str) -> None:
        self._chance = random.SystemRandom()
        self._state = np.zeros(7, dtype=np.float32)
        self._left = 0

    def reset(self, seed: int) -> np.ndarray:
        time.sleep(self._chance.uniform(0.0, 0.005))
        self._state = np.random.default_rng(seed).standard_normal(7).astype(np.float32)
        self._left = 10 + 7 * seed % 11
        return self._state

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        time.sleep(self._chance.uniform(0.0, 0.001))
        forces = np.resize(action, 7) * np.arange(1, 8, dtype=np.float32)
        self._state = np.sin(4 * self._state + forces, dtype=np.float32)
        self._left -= 1
        reward, cost = float(self._state[0]), float(abs(self._state[1]))
        return self._state, reward, cost, self._left == 0

    def close(self) -> None:
        pass


def use(monkeypatch: pytest.MonkeyPatch, environment: type) -> None:
    """Put another environment in OmniSafe's place; forked processes see it too."""
    from omnisafe_qpt.envs import environments

    monkeypatch.setattr(environments, 'NumpyEnvironment', environment)
