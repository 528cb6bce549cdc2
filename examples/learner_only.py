# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Train without OmniSafe and act with what was learned: torch, numpy and h5py are enough.

python examples/learner_only.py DATASET.hdf5 --device cuda --updates 1000
"""

import argparse

import torch

from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.training.cuda_graph import CapturedUpdate


parser = argparse.ArgumentParser(description='Train a policy without OmniSafe.')
parser.add_argument('dataset')
parser.add_argument('--device', default='cpu')
parser.add_argument('--updates', type=int, default=100)
options = parser.parse_args()

data = Trajectories.load(options.dataset).to(options.device)
rows, _ = augment(data, fraction=0.3, seed=0)
config = LearnerConfig(policy=PolicyConfig(embed_dim=64, num_layers=2, num_heads=4))
sampler = WindowSampler(data, config.policy.context_len, batch_size=64, seed=0, rows=rows)
scaling = Scaling.from_data(data, cost_unit=10.0)
learner = Learner(data.obs_dim, data.act_dim, scaling, config, options.device)
update = CapturedUpdate(learner, sampler)  # one CUDA graph; on a CPU ordinary updates
for _ in range(options.updates):
    update()
print({name: round(value, 4) for name, value in learner.pop_metrics().items()})

longest = int(data.rows.lengths.max())
networks = DeployableNetworks.from_learner(learner, {'horizon': longest})
policy = networks.deploy(DeploymentConfig(candidates=10, cost_limit=10.0))
policy.reset(target_return=data.returns.max().item())
print(policy.act(torch.zeros(1, data.obs_dim)))
