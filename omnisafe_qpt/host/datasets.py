# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
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
