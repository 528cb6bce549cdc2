# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""OmniSafe's own datasets, by their names."""

from __future__ import annotations

import torch
from omnisafe.common.offline.dataset import OfflineDataset

from omnisafe_qpt.data.trajectories import Observer, Trajectories


def load_omnisafe_dataset(
    name: str,
    horizon: int,
    observer: Observer | None = None,
) -> Trajectories:
    """Read one of OmniSafe's own datasets with OmniSafe's own loader, which may download it.

    Args:
        name (str): One of :func:`omnisafe_qpt.host.plugin.dataset_names`.
        horizon (int): The task's time limit in steps.
        observer (Observer, optional): Is shown what is read. Defaults to None.
    """
    dataset = OfflineDataset(name, device=torch.device('cpu'))
    arrays = {
        'observations': dataset.obs,
        'next_observations': dataset.next_obs,
        'actions': dataset.action,
        'rewards': dataset.reward,
        'costs': dataset.cost,
        'terminals': dataset.done,
    }
    return Trajectories.from_arrays(
        {key: value.numpy() for key, value in arrays.items()},
        horizon=horizon,
        name=name,
        observer=observer,
    )
