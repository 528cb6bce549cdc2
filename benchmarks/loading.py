# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""How long a dataset takes to load, how much memory, and how OSRL's preparation compares.

    python -m benchmarks.loading --compare osrl --json benchmarks/results/loading.json

Three things are measured on one file, which is made unless ``--dataset`` names one that exists:

* reading it, all arrays of DSRL's layout as they are: what any loader pays;
* loading it: the table with its to-go sums, and 20 % relabelled episodes. Time beyond reading, and
  peak memory over that of the arrays that are needed once, in float32: observations, actions,
  rewards, costs, return-to-go and cost-to-go;
* the same preparation from arrays in memory, by us and, with ``--compare osrl``, by OSRL's
  ``process_sequence_dataset`` and ``augmentation``: same arrays, same process, no reading.

Reading and loading run in turn in processes of their own. Times are medians over the rounds, the
other library's is taken once. The file that is made has the size of the largest Safety-Gymnasium
ones of DSRL and is written as DSRL's own tools write theirs, with gzip and h5py's own chunks,
because that decides what reading costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, peers
from benchmarks.command import make_parser, run_command
from omnisafe_qpt.data.atomic import atomic_path, file_sha256
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.layouts import HDF5_NAMES
from omnisafe_qpt.errors import UserError


RELABELLED_SHARE = peers.AUGMENT_PERCENT
HORIZON = 1000
TARGETS = {'seconds_beyond_reading': 20.0, 'memory_ratio': 1.3, 'load_vs_osrl': 20.0}
_MEASURE = '--measure'


def main() -> int:
    """Run the benchmark from the command line, or one measurement in a process of its own."""
    if sys.argv[1:2] == [_MEASURE]:
        name, path, rounds = sys.argv[2:]
        print(json.dumps(_MEASUREMENTS[name](Path(path), int(rounds))))
        return 0
    return run_command(_parser(), run, _print)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--dataset',
        type=Path,
        metavar='FILE',
        help='HDF5 file to load; made, and kept, where there is none (default: a temporary one)',
    )
    parser.add_argument('--transitions', type=int, default=2_600_000, help='of a file to be made')
    parser.add_argument('--obs-dim', type=int, default=88)
    parser.add_argument('--act-dim', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--compare', choices=('osrl',), help='another library to measure')
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make the file if there is none, and measure."""
    if options.compare is not None:
        peers.osrl_folder()  # before minutes of work
    with tempfile.TemporaryDirectory() as folder:
        path = options.dataset or Path(folder) / 'loading.hdf5'
        if not path.exists():
            _say(f'making {path}')
            generate(path, options.transitions, options.obs_dim, options.act_dim)
        return _measure_file(path, options)


def _measure_file(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    sha256 = file_sha256(path)  # which also brings the file into the system's cache
    rounds: dict[str, list[dict[str, float]]] = {'read': [], 'load': []}
    for number in range(options.rounds):
        for name, results in rounds.items():
            _say(f'round {number + 1} of {options.rounds}: {name}')
            results.append(_measured(name, path, 1))
    read, load = ({key: statistics.median(r[key] for r in results) for key in results[0]}
                  for results in rounds.values())  # fmt: skip
    transitions, obs_dim, act_dim = (
        int(load[key]) for key in ('transitions', 'obs_dim', 'act_dim')
    )
    arrays_bytes = 4 * transitions * (obs_dim + act_dim + 4)
    result = {
        'seconds_beyond_reading': load['seconds'] - read['seconds'],
        'memory_ratio': load['peak_bytes'] / arrays_bytes,
        'load_vs_osrl': None,
        'targets': TARGETS,
        'memory_ratio_of_dsrl_arrays': load['peak_bytes'] / read['arrays_bytes'],
        'arrays_bytes': arrays_bytes,
        'dsrl_arrays_bytes': read['arrays_bytes'],
        'file_bytes': path.stat().st_size,
        'read': read,
        'load': load,
        'rounds': rounds,
    }
    if options.compare is not None:
        _say('from arrays in memory')
        ours = _measured('prepare', path, options.rounds)
        _say('OSRL, from the same arrays: minutes')
        theirs = _measured('osrl', path, 1)
        result |= {
            'load_vs_osrl': theirs['seconds'] / ours['seconds'],
            'load_vs_osrl_cpu': theirs['cpu_seconds'] / ours['cpu_seconds'],
            'load_vs_osrl_with_reading': (read['seconds'] + theirs['seconds']) / load['seconds'],
            'ours_from_memory': ours,
            'osrl_from_memory': theirs,
        }
    from omnisafe_qpt.runs.checkpoint import versions

    return result | {
        'command': ' '.join(['python -m benchmarks.loading', *sys.argv[1:]]),
        'dataset': path.name,
        'dataset_sha256': sha256,
        'versions': versions(),
        'hardware': f'{platform.machine()}, {os.cpu_count()} processors, 1 torch thread',
        'load_average': os.getloadavg(),
        'date': time.strftime('%Y-%m-%d'),
    }


def _measured(name: str, path: Path, rounds: int) -> dict[str, float]:
    """Run a measurement in a fresh process, so that its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.loading', _MEASURE, name, str(path), str(rounds)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(f'{path}: the measurement {name!r} failed; see above')
    return json.loads(done.stdout.splitlines()[-1])


def _say(what: str) -> None:
    print(f'{time.strftime("%H:%M:%S")} {what}', file=sys.stderr, flush=True)


def _print(result: dict[str, Any]) -> None:
    print(f'reading the file        {result["read"]["seconds"]:8.2f} s')
    print(f'loading beyond that     {result["seconds_beyond_reading"]:8.2f} s')
    print(f'peak memory over arrays {result["memory_ratio"]:8.2f}')
    if result['load_vs_osrl'] is not None:
        print(f'from memory             {result["ours_from_memory"]["seconds"]:8.2f} s')
        print(f'from memory, OSRL       {result["osrl_from_memory"]["seconds"]:8.2f} s')
        print(f'times faster than OSRL  {result["load_vs_osrl"]:8.1f}')


# ------------------------------------------------------------------ one process each


def _timed(work: Callable[[], Any], rounds: int) -> tuple[dict[str, float], Any]:
    """Return median seconds of wall clock and processor, and the last result."""
    walls, processors, outcome = [], [], None
    for _ in range(rounds):
        outcome = None  # not two results in memory
        wall, processor = time.perf_counter(), time.process_time()
        outcome = work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    median = statistics.median
    return {'seconds': median(walls), 'cpu_seconds': median(processors)}, outcome


def _peak_bytes() -> int:
    """Return the most memory that this process has had (Linux)."""
    status = Path('/proc/self/status').read_text(encoding='utf-8')
    return 1024 * int(re.search(r'VmHWM:\s*(\d+) kB', status)[1])


def _read_all(path: Path) -> dict[str, np.ndarray]:
    with open_dataset(path) as arrays:
        return {name: arrays[name][:] for name in HDF5_NAMES}


def _measure_reading(path: Path, rounds: int) -> dict[str, float]:
    import h5py  # noqa: F401  # its import is not reading

    before = _peak_bytes()
    times, arrays = _timed(lambda: _read_all(path), rounds)
    return times | {
        'peak_bytes': _peak_bytes() - before,
        'arrays_bytes': sum(array.nbytes for array in arrays.values()),
    }


def _prepared(trajectories: Any) -> tuple[Any, dict[str, float]]:
    from omnisafe_qpt.data.augmentation import augment

    return trajectories, augment(trajectories, RELABELLED_SHARE, seed=0)[1]


def _measure_loading(path: Path, rounds: int) -> dict[str, float]:
    import h5py  # noqa: F401

    from omnisafe_qpt.data.trajectories import Trajectories

    before = _peak_bytes()
    times, (trajectories, report) = _timed(lambda: _prepared(Trajectories.load(path)), rounds)
    return times | {
        'peak_bytes': _peak_bytes() - before,
        'table_bytes': trajectories.table.nbytes,
        'transitions': trajectories.num_transitions,
        'obs_dim': trajectories.obs_dim,
        'act_dim': trajectories.act_dim,
        'episodes': len(trajectories.rows),
        'relabelled_episodes': report['episodes'],
    }


def _measure_preparation(path: Path, rounds: int) -> dict[str, float]:
    from omnisafe_qpt.data.trajectories import Trajectories

    arrays = _read_all(path)
    measure.touch_memory(sum(array.nbytes for array in arrays.values()))
    return _timed(lambda: _prepared(Trajectories.from_arrays(arrays)), rounds)[0]


def _measure_osrl(path: Path, rounds: int) -> dict[str, float]:
    osrl = peers.import_dataset()
    arrays = _read_all(path)
    measure.touch_memory(sum(array.nbytes for array in arrays.values()))

    def prepare() -> tuple[list[Any], list[Any]]:
        trajectories, _ = osrl.process_sequence_dataset(arrays)
        best = max(trajectory['returns'][0] for trajectory in trajectories)
        _, relabelled, *_ = osrl.augmentation(
            trajectories,
            deg=peers.DEGREE,
            augment_percent=RELABELLED_SHARE,
            max_reward=1.1 * best,
        )
        return trajectories, relabelled

    times, (trajectories, relabelled) = _timed(prepare, rounds)
    return times | {
        'episodes': len(trajectories),
        'relabelled_episodes': len(relabelled),
    }


_MEASUREMENTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    'read': _measure_reading,
    'load': _measure_loading,
    'prepare': _measure_preparation,
    'osrl': _measure_osrl,
}


def generate(path: Path, transitions: int, obs_dim: int, act_dim: int) -> None:
    """Write episodes of noise as DSRL's tools write theirs: gzip, in h5py's own chunks.

    Each episode has its own rates of reward and cost, so that there is a frontier.

    Args:
        path (Path): The file to write.
        transitions (int): N.
        obs_dim (int): S.
        act_dim (int): A.
    """
    import h5py

    random = np.random.default_rng(0)
    rates = random.uniform(0.0, 0.2, (2, -(-transitions // HORIZON)))
    states = {'observations': (obs_dim,), 'next_observations': (obs_dim,), 'actions': (act_dim,)}
    with atomic_path(path) as temporary, h5py.File(temporary, 'w') as file:
        for name in HDF5_NAMES:
            dtype = bool if name in ('terminals', 'timeouts') else np.float32
            shape = (transitions, *states.get(name, ()))
            file.create_dataset(name, shape, dtype, compression='gzip')
        # Whole chunks at a time, or each would be compressed more than once.
        rows = 4 * file['observations'].chunks[0]
        first_state = random.standard_normal((1, obs_dim), dtype=np.float32)
        for first in range(0, transitions, rows):
            step = np.arange(first, min(first + rows, transitions))
            count = len(step)
            is_end = (step % HORIZON == HORIZON - 1) | (step == transitions - 1)
            reached, restarts = random.standard_normal((2, count, obs_dim), dtype=np.float32)
            following = np.where(is_end[:, None], restarts, reached)
            reward_rate, cost_rate = rates[:, step // HORIZON]
            block = {
                'observations': np.concatenate([first_state, following[:-1]]),
                'next_observations': reached,
                'actions': random.uniform(-1, 1, (count, act_dim)),
                'rewards': reward_rate * random.random(count),
                'costs': random.random(count) < cost_rate,
                'terminals': np.zeros(count, dtype=bool),
                'timeouts': is_end,
            }
            for name, array in block.items():
                file[name][first : first + count] = array
            first_state = following[-1:]


if __name__ == '__main__':
    sys.exit(main())
