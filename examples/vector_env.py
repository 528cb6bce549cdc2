# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Run several episodes at once, each with a cost limit of its own.

python examples/vector_env.py RUN
"""

import argparse

import bullet_safety_gym  # noqa: F401 - registers the environment
import gymnasium
import numpy as np

import omnisafe_qpt


LIMITS = [5.0, 10.0, 20.0, 40.0]

parser = argparse.ArgumentParser(description='Run four episodes at once with a trained run.')
parser.add_argument('run', help='folder of the run, .../seed-000-...')
parser.add_argument('--env-id', default='SafetyBallCircle-v0')
parser.add_argument('--steps', type=int, default=200, help='default: one episode')
options = parser.parse_args()

envs = [gymnasium.make(options.env_id) for _ in LIMITS]
policy = omnisafe_qpt.load_policy(options.run, num_episodes=len(envs))
policy.set_cost_limit(LIMITS)
policy.reset(seed=0)
obs = np.stack([env.reset(seed=number)[0] for number, env in enumerate(envs)])
costs = np.zeros(len(envs))
for step in range(options.steps):
    # All episodes' candidates go through the network together.
    steps = [env.step(action) for env, action in zip(envs, policy.act(obs))]
    received = np.array([[reward, info['cost']] for _, reward, _, _, info in steps])
    policy.observe(*received.T)
    costs += received[:, 1]
    obs = np.stack([each[0] for each in steps])
    for number, (_, _, terminated, truncated, _) in enumerate(steps):
        if terminated or truncated:
            print(f'limit {LIMITS[number]:g}: cost {costs[number]:.1f}')
            obs[number] = envs[number].reset(seed=step)[0]
            policy.reset(seed=step, episodes=[number])
            costs[number] = 0.0
