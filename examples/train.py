# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Train QPT from Python, on the bundled sample; the last line printed is the run's folder.

python examples/train.py --updates 2000
"""

import argparse

import omnisafe


parser = argparse.ArgumentParser(description='Train QPT on the bundled sample of BallCircle.')
parser.add_argument('--updates', type=int, default=2000)
parser.add_argument('--calibrate', default='auto', help='auto, model, simulator or none')
parser.add_argument('--log-dir', default='runs')
options = parser.parse_args()

agent = omnisafe.Agent(
    'QPT',
    'SafetyBallCircle-v0',
    custom_cfgs={
        'train_cfgs': {
            'dataset': 'sample',
            'preset': 'cpu',  # small networks and batches; leave it out on a GPU
            'total_steps': options.updates,
            'calibrate': options.calibrate,
        },
        'algo_cfgs': {'cost_limit': 10.0, 'steps_per_epoch': max(1, options.updates // 4)},
        'logger_cfgs': {'use_wandb': False, 'log_dir': options.log_dir},
    },
)
agent.learn()
print(agent.agent.logger.log_dir)
