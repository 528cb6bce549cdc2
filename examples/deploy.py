# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Act with a trained run in an environment of gymnasium, one episode for each cost limit.

python examples/deploy.py RUN --limits 5 10 20
"""

import argparse

import bullet_safety_gym  # noqa: F401 - registers the environment
import gymnasium

import omnisafe_qpt


parser = argparse.ArgumentParser(description='Act with a trained run at several cost limits.')
parser.add_argument('run', help='folder of the run, .../seed-000-...')
parser.add_argument('--env-id', default='SafetyBallCircle-v0')
parser.add_argument('--limits', type=float, nargs='+', default=[5.0, 10.0, 20.0])
options = parser.parse_args()

env = gymnasium.make(options.env_id)
policy = omnisafe_qpt.load_policy(options.run)
for limit in options.limits:
    policy.set_cost_limit(limit)
    policy.reset(seed=0)
    obs, _ = env.reset(seed=0)
    total_reward, total_cost, ended = 0.0, 0.0, False
    while not ended:
        obs, reward, terminated, truncated, info = env.step(policy.act(obs))
        policy.observe(reward, info['cost'])  # updates the return-to-go and the cost-to-go
        total_reward, total_cost = total_reward + reward, total_cost + info['cost']
        ended = terminated or truncated
    print(f'limit {limit:g}: return {total_reward:.1f}, cost {total_cost:.1f}')
    print(f'  {policy.guarantee}')
env.close()
