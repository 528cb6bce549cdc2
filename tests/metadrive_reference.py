# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Drive DSRL's own MetaDrive environments and ours with the same actions and compare.

A program for a process of its own: MetaDrive allows one simulator at a time in each. Prints JSON.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import numpy as np

from omnisafe_qpt.envs.metadrive_process import (
    MAPS,
    TRAFFIC_DENSITIES,
    Simulator,
    prepare_imports,
)


STEPS = 120


def import_dsrl() -> types.ModuleType:
    """Import DSRL's driving environments without the packages around them, which load others."""
    folder = Path(importlib.util.find_spec('dsrl').origin).parent
    for name in ('dsrl', 'dsrl.offline_metadrive'):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split('.')[1:]))]
        sys.modules[name] = package
    return importlib.import_module('dsrl.offline_metadrive.gym_envs')


def drive_theirs(gym_envs: types.ModuleType, task: str, seed: int, actions: np.ndarray) -> tuple:
    """Run an episode of DSRL's environment; return its rows and its end."""
    name = next(name for name in vars(gym_envs) if name.lower() == f'{task}env')
    env = getattr(gym_envs, name)()
    # DSRL leaves the traffic to chance: its random state is nobody's but its manager's.
    env.lazy_init()
    env.engine.traffic_manager.np_random = np.random.RandomState(seed)
    obs, _ = env.reset()
    rows = [[*obs, 0.0, 0.0, False]]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        rows.append([*obs, reward, info['cost'], terminated])
        if terminated:
            break
    env.close()
    ends = [end for end in ('arrive_dest', 'crash', 'out_of_road') if info[end]]
    return np.array(rows), ends


def drive_ours(task: str, seed: int, actions: np.ndarray) -> np.ndarray:
    """Run the same episode with the package's simulator."""
    simulator = Simulator(task)
    # An earlier episode must not matter.
    simulator.reset(seed + 1)
    simulator.step(actions[0])
    rows = [[*simulator.reset(seed), 0.0, 0.0, False]]
    for action in actions:
        obs, reward, cost, terminated, _ = simulator.step(action)
        rows.append([*obs, reward, cost, terminated])
        if terminated:
            break
    simulator._env.close()
    return np.array(rows)


def main() -> None:
    """Compare all nine tasks."""
    prepare_imports()
    gym_envs = import_dsrl()
    tasks, ends = {}, set()
    for road in MAPS:
        for seed, traffic in enumerate(TRAFFIC_DENSITIES):
            # Full throttle: along the lane, off the road, and straight on into something.
            actions = np.ones((STEPS, 2), dtype=np.float32)
            actions[:, 0] = (0.02 * np.sin(np.arange(STEPS) / 5), -0.05, 0.0)[seed]
            episode_seed = int(np.random.RandomState(seed).randint(2**31))
            theirs, end = drive_theirs(gym_envs, road + traffic, episode_seed, actions)
            ours = drive_ours(road + traffic, episode_seed, actions)
            tasks[road + traffic] = {
                'steps': len(ours) - 1,
                'equal': bool(np.array_equal(ours, theirs)),
                'digest': hashlib.md5(theirs.astype(np.float32).tobytes()).hexdigest(),
            }
            ends.update(end)
    print(json.dumps({'tasks': tasks, 'ends': sorted(ends)}), flush=True)


if __name__ == '__main__':
    main()
    os._exit(0)  # Panda3D crashes when Python takes down the modules that it uses
