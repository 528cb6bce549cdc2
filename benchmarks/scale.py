# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""How QPT's time and memory grow with its sizes.

    python -m benchmarks.scale --json benchmarks/results/scale.json \
        --plot benchmarks/results/scale.png

One size at a time is changed, all others stay as in the paper's configuration, with 64 windows in a
batch and 12 candidates: the batch, the context and the width of an update; the candidates and the
parallel episodes of a step of deployment; the transitions of a dataset. Each dataset is loaded from
arrays in a process of its own. Its batches are drawn on the device of the networks and, as for a
dataset larger than a GPU's memory, by a thread on the host that works ahead; drawn one after
another these show how fast that thread is, and within updates whether it is fast enough.

A slope is the exponent of a power law: 1 where twice the size takes twice the time. It is given
over all sizes, where small ones may be mostly overhead, and between the two largest.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import measure, works
from benchmarks.command import make_parser, run_command
from omnisafe_qpt.data.prefetch import PrefetchSampler
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


OBS_DIM, ACT_DIM = 88, 2
# Of the datasets: so that the largest is no more than a few GB.
DATASET_OBS_DIM = 40
TRANSITIONS = 100_000  # where the dataset is not what changes
BATCH_SIZE, CANDIDATES = 64, 12
SEED = 0
ROUNDS = 5

UPDATES = {
    'batch_size': (32, 64, 128, 256, 512),
    'context_len': (5, 10, 20, 40),
    'embed_dim': (32, 64, 128, 256),
}
ACTING = {
    'candidates': (2, 5, 12, 25, 50, 100, 200),
    'episodes': (1, 2, 5, 10, 20, 40),
}
DATASETS = (50_000, 150_000, 500_000, 1_500_000, 5_000_000)
LABELS = {
    'batch_size': 'windows in a batch',
    'context_len': 'steps of context',
    'embed_dim': 'width',
    'candidates': 'candidates',
    'episodes': 'parallel episodes',
    'transitions': 'transitions',
}
_MEASURE = '--measure-dataset'


def main() -> int:
    """Run the benchmark from the command line, or one dataset in a process of its own."""
    if sys.argv[1:2] == [_MEASURE]:
        transitions, device, rounds = sys.argv[2:]
        print(json.dumps(measure_dataset(int(transitions), torch.device(device), int(rounds))))
        return 0
    return run_command(_parser(), _run_and_plot, lambda result: print(report(result)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--threads', type=int, metavar='N', help="default: torch's")
    parser.add_argument('--rounds', type=int, metavar='N', default=ROUNDS)
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    parser.add_argument('--plot', type=Path, metavar='F', help='draw them: .png, .pdf or .svg')
    return parser


def _run_and_plot(options: argparse.Namespace) -> dict[str, Any]:
    result = run(options)
    if options.plot is not None:
        from omnisafe_qpt.plots import save_figure

        save_figure(plot(result), options.plot)
    return result


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sweeps."""
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    device = torch.device(options.device)
    arrays = measure.synthetic_arrays(TRANSITIONS, OBS_DIM, ACT_DIM, SEED)
    data = Trajectories.from_arrays(arrays).to(device)
    sweeps = {}
    for name, values in UPDATES.items():
        measure.say(f'update, {LABELS[name]}')
        sweeps[name] = _sweep_updates(name, values, data, options.rounds)
    for name, values in ACTING.items():
        measure.say(f'deployment, {LABELS[name]}')
        sweeps[name] = _sweep_acting(name, values, device, options.rounds)
    sweeps['transitions'] = _sweep_datasets(DATASETS, options)
    return {
        'sweeps': sweeps,
        'seed': SEED,
        **measure.record('benchmarks.scale', device, {}),
    }


def _check(options: argparse.Namespace) -> None:
    """Refuse options that cannot work, before minutes of work."""
    for name in ('threads', 'rounds'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f'--{name} is {value}; it must be at least 1')
    if options.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch finds no CUDA device; use --device cpu')
    for name in ('json', 'plot'):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f'--{name} {path}: there is no folder {path.parent}')
    if options.plot is not None:
        from omnisafe_qpt.plots import check_suffix

        check_suffix(options.plot)


# ------------------------------------------------------------------ sweeps


def _sweep_updates(
    name: str,
    values: tuple[int, ...],
    data: Trajectories,
    rounds: int,
) -> dict[str, Any]:
    device = data.table.device
    timer = measure.Timer(device)
    peaks = []
    for value in values:
        sizes = {name: value}
        batch_size = sizes.pop('batch_size', BATCH_SIZE)
        config = LearnerConfig(policy=PolicyConfig(**sizes))
        sampler = WindowSampler(data, config.policy.context_len, batch_size, SEED)
        update = update_at(data, sampler, config)
        peaks.append(measure.peak_of(update, device)[0])
        timer.add(f'update {value}', update)
    timer.time(rounds)
    return _sweep(name, values, timer, ['update'], {'peak_bytes': peaks})


def update_at(
    data: Trajectories,
    sampler: WindowSampler | PrefetchSampler,
    config: LearnerConfig,
) -> Callable[[], None]:
    """Make an update, its batch drawn too.

    Args:
        data (Trajectories): The dataset.
        sampler (WindowSampler or PrefetchSampler): Gives batches on the device to use.
        config (LearnerConfig): Sizes.
    """
    scaling = Scaling.from_data(data, cost_unit=10.0)
    learner = Learner(data.obs_dim, data.act_dim, scaling, config, sampler.sample().states.device)
    return lambda: learner.update(sampler.sample())


def _sweep_acting(
    name: str,
    values: tuple[int, ...],
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    scaling = Scaling(torch.zeros(OBS_DIM), torch.ones(OBS_DIM))
    learner = Learner(OBS_DIM, ACT_DIM, scaling, LearnerConfig(), device)
    networks = DeployableNetworks.from_learner(learner, {})
    timer = measure.Timer(device)
    lines = {'whole history shifted': 'history', 'last step shifted': 'last'}
    for value, (line, shift) in product(values, lines.items()):
        sizes = {'candidates': CANDIDATES, 'episodes': 1, name: value}
        timer.add(f'{line} {value}', works.acting(networks, shift=shift, **sizes))
    timer.time(rounds)
    return _sweep(name, values, timer, list(lines), {})


def _sweep_datasets(values: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    points = []
    for value in values:
        measure.say(f'dataset of {value:,} transitions')
        points.append(_measured_apart(value, options))
    lines = {line: [point['seconds'][line] for point in points] for line in points[0]['seconds']}
    keys = ('peak_bytes', 'needed_bytes')
    return _described(
        'transitions',
        values,
        lines,
        {key: [point[key] for point in points] for key in keys},
    )


def _measured_apart(transitions: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a dataset in a fresh process, so that its peak memory is its own."""
    arguments = [_MEASURE, str(transitions), options.device, str(options.rounds)]
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.scale', *arguments],
        env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(f'the dataset of {transitions} transitions failed; see above')
    return json.loads(done.stdout.splitlines()[-1])


def measure_dataset(transitions: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Load a dataset, and draw from it where the networks are and ahead of them on the host.

    Args:
        transitions (int): N.
        device (torch.device): Where the networks would be.
        rounds (int): How often each is timed.
    """
    arrays = measure.synthetic_arrays(transitions, DATASET_OBS_DIM, ACT_DIM, SEED)
    peak, data = measure.peak_of(
        lambda: Trajectories.from_arrays(arrays),
        torch.device('cpu'),
    )
    config = LearnerConfig()
    sampler_of = functools.partial(
        WindowSampler,
        context_len=config.policy.context_len,
        batch_size=BATCH_SIZE,
        seed=SEED,
    )
    ahead = PrefetchSampler(sampler_of(data), device)
    on_device = sampler_of(data.to(device))
    measure.touch_memory(2 * data.table.nbytes)
    timer = measure.Timer(device)
    timer.add('load', lambda: Trajectories.from_arrays(arrays))
    timer.add('draw a batch', on_device.sample)
    timer.add('draw a batch ahead', ahead.sample)
    timer.add('update', update_at(data, on_device, config))
    timer.add('update, batches drawn ahead', update_at(data, ahead, config))
    timer.time(rounds)
    ahead.close()
    return {
        'peak_bytes': peak,
        'needed_bytes': measure.needed_bytes(transitions, DATASET_OBS_DIM, ACT_DIM),
        'seconds': timer.summary(),
    }


def _sweep(
    name: str,
    values: tuple[int, ...],
    timer: measure.Timer,
    lines: list[str],
    memory: dict[str, list[int | None]],
) -> dict[str, Any]:
    found = timer.summary()
    return _described(
        name,
        values,
        {line: [found[f'{line} {value}'] for value in values] for line in lines},
        memory,
    )


def _described(
    name: str,
    values: tuple[int, ...],
    lines: dict[str, list[dict[str, float]]],
    memory: dict[str, list[int | None]],
) -> dict[str, Any]:
    """Put a sweep together, and say how it grows."""
    medians = {line: [point['median'] for point in points] for line, points in lines.items()}
    grown = {**medians, **{key: sizes for key, sizes in memory.items() if None not in sizes}}
    return {
        'label': LABELS[name],
        'values': values,
        'seconds': medians,
        **memory,
        'slopes': {
            line: {'all': slope(values, found), 'end': slope(values[-2:], found[-2:])}
            for line, found in grown.items()
        },
        'spread': lines,
    }


def slope(sizes: tuple[int, ...], found: list[float]) -> float:
    """Fit the exponent of a power law by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(found), deg=1)[0])


# ------------------------------------------------------------------ table and figure


def report(result: dict[str, Any]) -> str:
    """Put the results into Markdown tables."""
    return '\n'.join(line for sweep in result['sweeps'].values() for line in _table(sweep))


def _table(sweep: dict[str, Any]) -> Iterator[str]:
    columns = {f'{line}, ms': [1e3 * s for s in found] for line, found in sweep['seconds'].items()}
    if None not in sweep.get('peak_bytes', [None]):
        columns['peak memory, MB'] = [size / 1e6 for size in sweep['peak_bytes']]
        if 'needed_bytes' in sweep:
            columns['over its arrays'] = [
                peak / needed for peak, needed in zip(sweep['peak_bytes'], sweep['needed_bytes'])
            ]
    yield f'| {sweep["label"]} | ' + ' | '.join(columns) + ' |'
    yield '| --: |' + ' --: |' * len(columns)
    for row, value in enumerate(sweep['values']):
        cells = (f'{column[row]:.4g}' for column in columns.values())
        yield f'| {value:,} | ' + ' | '.join(cells) + ' |'
    yield '\nGrowth as a power of it: ' + '; '.join(
        f'{line.replace("_", " ")} {found["all"]:.2f} ({found["end"]:.2f} at the end)'
        for line, found in sweep['slopes'].items()
        if line != 'needed_bytes'
    ) + '.\n'  # fmt: skip


def plot(result: dict[str, Any]) -> Figure:
    """Draw time and memory against each size, with a dotted line for growth in proportion.

    Args:
        result (dict[str, Any]): What :func:`run` returned.
    """
    from matplotlib.figure import Figure

    from omnisafe_qpt.plots import STYLE, drawing_style

    sweeps, hardware = result['sweeps'], result['hardware']
    with drawing_style({**STYLE, 'figure.figsize': (12.0, 9.5)}):
        figure = Figure(layout='constrained')
        axes = iter(figure.subplots(3, 3).flat)
        for name in UPDATES:
            _draw(next(axes), sweeps[name], sweeps[name]['seconds'], 1e3, 'Update, ms')
        for name in UPDATES:
            # Where the system does not tell, there is nothing to see.
            peaks = [math.nan if size is None else size for size in sweeps[name]['peak_bytes']]
            _draw(next(axes), sweeps[name], {'peak': peaks}, 1e-6, 'Memory of an update, MB')
        for name in ACTING:
            _draw(next(axes), sweeps[name], sweeps[name]['seconds'], 1e3, 'Deployment, ms a step')
        data = {
            line: found
            for line, found in sweeps['transitions']['seconds'].items()
            if not line.startswith('update')
        }
        _draw(next(axes), sweeps['transitions'], data, 1e3, 'Data, ms')
        chip = hardware.get('card', f'{hardware["processor"]}, threads: {hardware["threads"]}')
        figure.suptitle(f'{chip}; dotted: in proportion', fontsize=12)
    return figure


def _draw(
    axes: Axes,
    sweep: dict[str, Any],
    lines: dict[str, list[float]],
    unit: float,
    title: str,
) -> None:
    from matplotlib.ticker import (
        EngFormatter,
        FixedLocator,
        LogLocator,
        NullLocator,
        StrMethodFormatter,
    )

    from omnisafe_qpt.plots import BLUE, ORANGE, PURPLE

    values = np.array(sweep['values'], dtype=float)
    for (line, found), colour, marker in zip(lines.items(), (BLUE, ORANGE, PURPLE), 'o^s'):
        found = unit * np.array(found)
        axes.loglog(values, found, color=colour, marker=marker, markersize=5, label=line)
        guide = found[-1] * values / values[-1]
        # Not where a line is level: the guide would stretch the axis.
        is_seen = guide >= 0.4 * np.nanmin(found)
        axes.loglog(values[is_seen], guide[is_seen], color=colour, linestyle=':', linewidth=1)
    axes.set(title=title, xlabel=sweep['label'])
    for axis, locator, formatter in (
        (axes.xaxis, FixedLocator(values.tolist()), EngFormatter(sep='')),
        (axes.yaxis, LogLocator(subs=(1.0, 3.0)), StrMethodFormatter('{x:,g}')),
    ):
        axis.set_major_locator(locator)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(formatter)
    if len(lines) > 1:
        axes.set_ylim(top=5 * axes.get_ylim()[1])  # room for it
        axes.legend(loc='upper left')


if __name__ == '__main__':
    sys.exit(main())
