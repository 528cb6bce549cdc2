# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""Off-policy estimates against simulated episodes, and the target costs that each would choose.

    python -m benchmarks.off_policy --train SafetyBallCircle-v0=BallCircle.hdf5 --seeds 0 1 2 \
        --json benchmarks/results/off-policy.json --plot benchmarks/results/off-policy.png

Runs are trained with the CPU preset, or given with --run; their datasets are those that they were
trained on. For each run, the same policy is evaluated at all target costs of target calibration: in
learned dynamics, and in the simulator with seeds that nothing else uses. The target costs that the
estimate chooses are compared with the best ones in hindsight, by the simulated episodes; with
--simulator also with those that target calibration in the simulator chooses, with other seeds. Each
run is written as soon as it is there. A run's episodes are not simulated again, and its estimate is
repeated only if the settings of the dynamics have changed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe  # noqa: F401 - registers QPT
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.command import make_parser, run_command
from benchmarks.limits import add_runs, all_runs, started
from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.evaluation.deployment import deployment_of
from omnisafe_qpt.evaluation.episodes import Series, evaluate_together
from omnisafe_qpt.evaluation.model_calibration import imagined_calibration
from omnisafe_qpt.evaluation.off_policy.dynamics import DynamicsConfig
from omnisafe_qpt.evaluation.off_policy.estimate import OffPolicyEvaluator
from omnisafe_qpt.evaluation.offline_data import read_episodes
from omnisafe_qpt.evaluation.target_calibration import DEFAULT_EPISODES, calibrate
from omnisafe_qpt.evaluation.target_costs import ladder_targets
from omnisafe_qpt.plots import BLACK, BLUE, GREY, ORANGE, PURPLE, drawing_style, save_figure
from omnisafe_qpt.progress import bar, phases
from omnisafe_qpt.runner import serving_level
from omnisafe_qpt.runs.checkpoint import load_networks


# Of the simulated episodes; training's own have lower seeds, calibration's higher ones.
_FIRST_SEED = 1_000_000
# What is kept of an estimate.
_KEPT = ('return_mean', 'cost_mean', 'return_interval', 'cost_interval', 'cost_bound', 'reason')
# Panels beside each other.
_MOST_COLUMNS = 4
_COLOURS, _MARKERS = (BLUE, ORANGE, PURPLE, BLACK, GREY), 'os^dv'


def main() -> int:
    """Run the benchmark from the command line."""
    return run_command(_parser(), run, _print)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_runs(parser, seeds=[0, 1, 2])
    parser.add_argument('--cost-limits', type=float, nargs='+', default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument('--episodes', type=int, default=20, help='simulated at each target cost')
    parser.add_argument(
        '--no-estimate', action='store_true', help='only simulate; another call adds the estimates'
    )
    parser.add_argument(
        '--simulator', action='store_true', help='calibrate in the simulator too, for its time'
    )
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--json', required=True, type=Path)
    parser.add_argument('--plot', type=Path, help='where to draw estimates against simulation')
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is to be trained, and compare estimate and simulation for each run."""
    result = started(options.json)
    result['commands'].append(' '.join(['python -m benchmarks.off_policy', *sys.argv[1:]]))
    for folder in all_runs(options):
        networks, checkpoint = load_networks(folder)
        label = '/'.join(checkpoint.resolve().parent.parent.parts[-2:])
        row = next((row for row in result['rows'] if row['run'] == label), None)
        if row is None:
            row = {'run': label, **_simulate(networks, options)}
            result['rows'].append(row)
            write_json(result, options.json)
        if not options.no_estimate and row.get('dynamics') != _dynamics(networks):
            row.update(_estimate(networks, row, options))
            write_json(result, options.json)
    if options.plot is not None:
        _plot([row for row in result['rows'] if 'dynamics' in row], options.plot)
    return result


def _dynamics(networks: Any) -> dict[str, Any]:
    """Return the settings of the learned dynamics, in the form of JSON."""
    settings = DynamicsConfig.for_horizon(networks.spec['horizon'])
    return json.loads(json.dumps(asdict(settings)))


def _simulate(networks: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run the episodes at all target costs and with zero actions."""
    spec, seeds = networks.spec, range(_FIRST_SEED, _FIRST_SEED + options.episodes)
    config, _ = deployment_of(networks)
    targets = [*ladder_targets(networks), (None, None)]
    began = time.perf_counter()
    with bar('Simulating', 1) as show:
        found = evaluate_together(
            spec['env_id'],
            [
                Series(networks, replace(config, target_cost=cost), target_return, seeds)
                for target_return, cost in targets
            ],
            options.processes,
            on_progress=lambda done, total, _: show(done, total),
        )
    return {
        'env_id': spec['env_id'],
        'training': {'seed': spec['seed'], 'updates': spec['step']},
        'cost_limit': config.cost_limit,
        'episodes': options.episodes,
        'first_seed': _FIRST_SEED,
        'levels': [
            {
                'target_cost': cost,
                'target_return': target_return,
                'simulated': {'returns': each.returns, 'costs': each.costs},
            }
            for (target_return, cost), each in zip(targets, found)
        ],
        'seconds': {'episodes': time.perf_counter() - began},
    }


def _estimate(networks: Any, row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Estimate return and cost at all target costs, and choose target costs for the limits."""
    spec = networks.spec
    config, _ = deployment_of(networks)
    data = read_episodes(spec['dataset']['path'], networks)
    dataset = {'path': Path(data.path).name, 'sha256': data.sha256}
    began = time.perf_counter()
    with phases() as show:
        trajectories = data.trajectories.to(networks.device)
        evaluator = OffPolicyEvaluator(
            trajectories, spec['horizon'], spec['seed'], on_progress=show
        )
        records = {'model': imagined_calibration(networks, config, evaluator, dataset, show)}
    seconds = {**row['seconds'], 'model': time.perf_counter() - began}
    if options.simulator:
        began = time.perf_counter()
        with bar('Calibrating', 1) as progress:
            records['simulator'] = calibrate(
                networks, config, DEFAULT_EPISODES, options.processes, progress
            )
        seconds['simulator'] = time.perf_counter() - began
    truth = {
        level['target_cost']: {
            what: statistics.fmean(level['simulated'][f'{what}s']) for what in ('return', 'cost')
        }
        for level in row['levels']
    }
    estimated = [*records['model']['levels'], records['model']['zero_action']]
    return {
        'dataset': dataset,
        'dynamics': _dynamics(networks),
        'test': records['model']['model']['test'],
        'levels': [
            {**level, **{name: found[name] for name in _KEPT}}
            for level, found in zip(row['levels'], estimated)
        ],
        'choices': [
            choice
            for limit in options.cost_limits
            for choice in (
                _best(truth, limit),
                *(
                    {'method': name, **_choice(record, limit, truth)}
                    for name, record in records.items()
                ),
            )
        ],
        'calibration_steps': {name: record['steps'] for name, record in records.items()},
        'seconds': seconds,
    }


# The simulated mean return and cost at each target cost; None is the zero-action fallback.
_Truth = dict[float | None, dict[str, float]]


def _choice(record: dict[str, Any], cost_limit: float, truth: _Truth) -> dict[str, Any]:
    """Return what a calibration chooses at a limit, with its simulated return and cost."""
    level, status = serving_level(record, cost_limit)
    target = level['target_cost']
    return {'cost_limit': cost_limit, 'status': status, 'target_cost': target, **truth[target]}


def _best(truth: _Truth, cost_limit: float) -> dict[str, Any]:
    """Return the best target cost at a limit in hindsight, without a guarantee."""
    safe = [target for target, found in truth.items() if found['cost'] <= cost_limit]
    target = max(safe, key=lambda each: truth[each]['return'], default=None)
    found: dict[str, Any] = truth[target] if safe else {'return': None, 'cost': None}
    return {
        'cost_limit': cost_limit,
        'method': 'hindsight',
        'status': 'safe' if safe else 'none safe',
        'target_cost': target,
        **found,
    }


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a line for each target cost of each run; costs in units of the run's cost limit."""
    lines = []
    for row in rows:
        for level in row['levels']:
            line: dict[str, Any] = {
                'env_id': row['env_id'],
                'seed': row['training']['seed'],
                'is_reliable': level['cost_bound'] is not None,
            }
            for what, unit in (('return', 1.0), ('cost', row['cost_limit'])):
                true = np.asarray(level['simulated'][f'{what}s']) / unit
                line[what], line[f'{what}_error'] = true.mean(), true.std(ddof=1)
                line[f'estimated_{what}'] = level[f'{what}_mean'] / unit
                interval = level[f'{what}_interval']
                line[f'{what}_low'], line[f'{what}_high'] = (
                    (np.nan, np.nan) if interval is None else np.asarray(interval) / unit
                )
            lines.append(line)
    return pd.DataFrame(lines)


def _print(result: dict[str, Any]) -> None:
    """Print the errors for each task, and what the calibrations choose."""
    rows = [row for row in result['rows'] if 'dynamics' in row]
    frame = _frame(rows)
    print('Cost in units of the limit; coverage of 90 % intervals; rank correlations over levels')
    for env_id, all_lines in frame.groupby('env_id', sort=False):
        for what, lines in (('all', all_lines), ('reliable', all_lines[all_lines.is_reliable])):
            if len(lines):
                print(f'{env_id:<24}{what:<9}{_summary(lines)}')
    for row in rows:
        seconds = ', '.join(f'{what} {value:.0f}' for what, value in row['seconds'].items())
        print(f'\n{row["run"]}: seconds {seconds}; steps {row["calibration_steps"]}')
        for choice in row['choices']:
            target = choice['target_cost']
            found = 'nothing'
            if choice['return'] is not None:
                found = f'return {choice["return"]:.1f}, cost {choice["cost"]:.2f}'
            print(
                f'  limit {choice["cost_limit"]:<4g} {choice["method"]:<10}{choice["status"]:<22}'
                f'target cost {"zero action" if target is None else f"{target:g}":<12}{found}'
            )


def _summary(lines: pd.DataFrame) -> str:
    known = lines.dropna()
    covered = known.cost.between(known.cost_low, known.cost_high).mean()
    ranks = {
        what: lines.groupby('seed')[[what, f'estimated_{what}']]
        .apply(lambda seed: seed.corr('spearman').iloc[0, 1])
        .mean()
        for what in ('cost', 'return')
    }
    error = (lines.cost - lines.estimated_cost).abs().mean()
    ratio = ((lines['return'] - lines.estimated_return).abs() / lines['return'].abs()).median()
    return (
        f'{len(lines):3d} levels: cost error {error:.3f}, rank {ranks["cost"]:.2f}, '
        f'covered {covered:.2f} of {len(known)}; return error {ratio:.1%}, '
        f'rank {ranks["return"]:.2f}'
    )


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw estimated against simulated cost and return, one above the other for each task."""
    frame = _frame(rows)
    tasks = list(frame.env_id.unique())
    with drawing_style():
        columns = min(len(tasks), _MOST_COLUMNS)
        bands = math.ceil(len(tasks) / columns)
        figure = Figure(figsize=(4.0 * columns, 7.6 * bands), layout='constrained')
        axes = figure.subplots(2 * bands, columns, squeeze=False)
        # Two panels for each task, band by band.
        panels = axes.reshape(bands, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
        for panel in panels[len(tasks) :].flat:
            panel.remove()
        for column, env_id in zip(panels, tasks):
            lines = frame[frame.env_id == env_id]
            for panel, what in zip(column, ('cost', 'return')):
                for seed, colour, marker in zip(lines.seed.unique(), _COLOURS, _MARKERS):
                    _draw_points(panel, lines[lines.seed == seed], what, colour, marker)
                low, high = (f([*panel.get_xlim(), *panel.get_ylim()]) for f in (min, max))
                panel.plot([low, high], [low, high], color=GREY, linewidth=1)
                panel.set_xlabel(f'simulated {what}' + (' / limit' if what == 'cost' else ''))
            column[0].set_title(env_id)
        for band in range(bands):
            axes[2 * band, 0].set_ylabel('estimated cost / limit')
            axes[2 * band + 1, 0].set_ylabel('estimated return')
        axes[0, 0].legend()
    save_figure(figure, path)


def _draw_points(panel: Any, lines: pd.DataFrame, what: str, colour: str, marker: str) -> None:
    """Draw one seed's levels; hollow where the estimate says that it is not reliable."""
    for is_reliable, part in lines.groupby('is_reliable'):
        estimated = part[f'estimated_{what}']
        bars = np.stack([estimated - part[f'{what}_low'], part[f'{what}_high'] - estimated])
        panel.errorbar(
            part[what],
            estimated,
            yerr=np.nan_to_num(bars).clip(min=0.0),
            fmt=marker,
            color=colour,
            markerfacecolor=colour if is_reliable else 'none',
            linewidth=1,
            label=f'seed {lines.seed.iloc[0]}' if is_reliable or len(part) == len(lines) else None,
        )


if __name__ == '__main__':
    sys.exit(main())
