# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Training in several processes, over gloo or NCCL; run as a script, this is one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from core_helpers import (
    ACT_DIM,
    OBS_DIM,
    random_trajectories,
    roughen,
    small_config,
    small_scaling,
    tensors_of,
)
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.qpt.config import LearnerConfig
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.ranks import Ranks


UPDATES = 6
BATCH_SIZE = 8

# Every way in which an update depends on numbers that are means over the whole batch.
CASES = {
    'random': small_config(penalty_critic='random'),
    'pessimistic': small_config(penalty_critic='pessimistic', cost_value='max'),
    'without critics': small_config(
        use_reward_critic=False,
        use_cost_critic=False,
        train_critics=False,
    ),
}


def train(config: LearnerConfig, ranks: Ranks, device: str = 'cpu') -> dict[str, Any]:
    """Train a little on short episodes, most of whose windows are padded."""
    # All processes but the first start from other weights and draw other random numbers, as
    # OmniSafe seeds them.
    torch.manual_seed(ranks.rank)
    learner = Learner(OBS_DIM, ACT_DIM, small_scaling(), config, device, ranks=ranks)
    roughen(learner.policy)
    trajectories = random_trajectories(lengths=(1, 2, 1, 9, 3, 1, 2)).to(device)
    sampler = WindowSampler(
        trajectories,
        config.policy.context_len,
        BATCH_SIZE,
        seed=5,
        shard=(ranks.rank, ranks.size),
    )
    steps = []
    for _ in range(UPDATES):
        batch = sampler.sample()
        steps.append(int(batch.mask.sum()))
        learner.update(batch)
    return {
        'tensors': tensors_of(learner),
        'metrics': learner.pop_metrics(),
        'steps': steps,
    }


def use_ranks(ranks: Ranks) -> dict[str, Any]:
    """Call the methods that no training needs to tell what they do."""
    mine = torch.arange(3.0) + ranks.rank
    average = ranks.average(mine)
    with ranks.first_alone():
        if ranks.is_first:
            time.sleep(0.3)
        entered = time.monotonic()
        left = time.monotonic()
    return {
        'given': mine,
        'average': average,
        'integers': ranks.average(torch.tensor([2 * ranks.rank + 1])),
        'broadcast': ranks.broadcast(torch.tensor([ranks.rank])),
        'shared': ranks.share(f'of {ranks.rank}'),
        'entered': entered,
        'left': left,
    }


def run_processes(folder: Path, size: int = 2, device: str = 'cpu') -> list[dict[str, Any]]:
    """Run this file in several processes; returns what each found, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), device],
            env={**os.environ, **common, 'RANK': str(rank), 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f'{rank}.pt', map_location='cpu') for rank in range(size)]


def main() -> None:
    """Be one of the processes."""
    device, backend = sys.argv[2], 'gloo'
    if device == 'cuda':
        device, backend = f'cuda:{os.environ["RANK"]}', 'nccl'
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=timedelta(seconds=60))
    ranks = Ranks.from_process_group()
    found = {name: train(config, ranks, device) for name, config in CASES.items()}
    if backend == 'gloo':
        found['ranks'] = use_ranks(ranks)
    torch.save(found, Path(sys.argv[1]) / f'{ranks.rank}.pt')
    distributed.destroy_process_group()


if __name__ == '__main__':
    main()
