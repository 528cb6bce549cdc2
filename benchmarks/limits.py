# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""Does realised cost follow the cost limit? Ways of choosing a candidate, compared at many limits.

    python -m benchmarks.limits --train SafetyBallCircle-v0=BallCircle.hdf5 --seeds 0 1 \
        --json benchmarks/results/limits.json --plot benchmarks/results/limits.png
    python -m benchmarks.limits --run runs/.../seed-000-... --episodes 10 \
        --rules paper discounted_budget calibrated --json benchmarks/results/limits.json

Runs are trained with the CPU preset as a user would, or given. All rules and limits of a run get
the same episodes' seeds, which are none of those that training evaluates with. Each rule of each
run is written as soon as it is there. Where the file of --json exists, what it holds stays, and
what it holds of the same checkpoint, rule, limit, seed and number of episodes is not run again. So
a benchmark goes on after a break, and tasks may be added one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
from matplotlib.figure import Figure

from benchmarks.command import make_parser, run_command
from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.sweep import evaluate_runs
from omnisafe_qpt.evaluation.target_calibration import calibrate_run
from omnisafe_qpt.plots import BLACK, BLUE, ORANGE, PURPLE, drawing_style, save_figure
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.runner import NO_SAFE_TARGET
from omnisafe_qpt.runs.checkpoint import load_networks, versions
from omnisafe_qpt.settings.files import load_preset, merge


# Training's own evaluations take seeds below this.
_FIRST_SEED = 1_000_000

# What tells one result from another.
_IDENTITY = ('run', 'checkpoint', 'way', 'cost_limit', 'seed', 'episodes')

# Beside the rules: the policy without candidates; and the default, the rule discounted_budget with
# the targets that a calibration found.
_PLAIN, _CALIBRATED = 'plain', 'calibrated'


def main() -> int:
    """Run the benchmark from the command line."""
    return run_command(_parser(), run, _print)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_runs(parser, seeds=[0, 1])
    parser.add_argument(
        '--rules',
        nargs='+',
        default=['paper', 'discounted_budget', _CALIBRATED],
        help='ways of choosing a candidate; plain is the policy without candidates, calibrated the '
        'rule discounted_budget after a calibration, which is kept in the checkpoint',
    )
    parser.add_argument('--cost-limits', type=float, nargs='+', default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument('--episodes', type=int, default=20, help='for each limit of each run')
    parser.add_argument(
        '--calibration-episodes', type=int, default=10, help='for each cost asked for'
    )
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--json', required=True, type=Path)
    parser.add_argument('--plot', type=Path, help='where to draw return and cost by limit')
    return parser


def add_runs(parser: argparse.ArgumentParser, seeds: list[int]) -> None:
    """Declare the options that name runs, or train them."""
    parser.add_argument('--run', nargs='+', default=[], metavar='RUN', help='trained runs')
    parser.add_argument(
        '--train',
        nargs='+',
        default=[],
        metavar='ENV_ID=FILE',
        help='runs to train with the CPU preset, one for each seed',
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=seeds, help='of training')
    parser.add_argument('--log-dir', default='runs')


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is to be trained and evaluate every rule of every run."""
    result = started(options.json)
    result['commands'].append(' '.join(['python -m benchmarks.limits', *sys.argv[1:]]))
    for folder in all_runs(options):
        for way in options.rules:
            for row in _evaluate(folder, way, options, result['rows']):
                result['rows'].append(row)
            write_json(result, options.json)
    if options.plot is not None:
        _plot(result['rows'], options.plot)
    return result


def started(path: Path) -> dict[str, Any]:
    """Return the results so far, or an empty record of this machine."""
    if path.exists():
        return json.loads(path.read_text(encoding='utf-8'))
    return {
        'commands': [],
        'versions': versions(),
        'hardware': f'{platform.machine()}, {os.cpu_count()} processors, 1 torch thread',
        'date': time.strftime('%Y-%m-%d'),
        'rows': [],
    }


def all_runs(options: argparse.Namespace) -> list[str]:
    """Return the runs given, and those trained now; see :func:`add_runs`.

    Raises:
        UserError: If there is none.
    """
    runs = [*options.run, *(run for pair in options.train for run in _train(pair, options))]
    if not runs:
        raise UserError('nothing to evaluate: give --run or --train')
    return runs


def _train(pair: str, options: argparse.Namespace) -> list[str]:
    """Train a run with the CPU preset for each seed, without calibration; returns their folders."""
    env_id, _, dataset = pair.partition('=')
    if not dataset:
        raise UserError(f'--train {pair}: give ENV_ID=FILE')
    folders = []
    for seed in options.seeds:
        settings = {
            'seed': seed,
            'train_cfgs': {
                'dataset': dataset,
                'evaluate_epoisodes': 1,
                'final_evaluate_episodes': 1,
                'calibrate_episodes': 0,
                'torch_threads': 1,
            },
            'logger_cfgs': {'log_dir': options.log_dir},
        }
        agent = omnisafe.Agent('QPT', env_id, custom_cfgs=merge(load_preset('cpu'), settings))
        agent.learn()
        folders.append(agent.agent.logger.log_dir)
    return folders


def _evaluate(
    folder: str,
    way: str,
    options: argparse.Namespace,
    known: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Evaluate a run in one way at the limits for which that is not known yet."""
    networks, checkpoint = load_networks(folder)
    # The last two folders, as the rest is this machine's.
    label = '/'.join(checkpoint.resolve().parent.parent.parts[-2:])
    done = [{name: row[name] for name in _IDENTITY} for row in known]
    asked = {
        'run': label,
        'checkpoint': checkpoint.name,
        'way': way,
        'seed': _FIRST_SEED,
        'episodes': options.episodes,
    }
    limits = [limit for limit in options.cost_limits if {**asked, 'cost_limit': limit} not in done]
    if not limits:
        return []
    horizon = networks.spec['horizon']
    calibration = _calibrate(folder, options) if way == _CALIBRATED else None
    progress = ProgressReporter(f'{label} {way}', len(limits) * options.episodes * horizon)
    started = time.perf_counter()
    with progress.shown():
        rows = evaluate_runs(
            folder,
            limits,
            episodes=options.episodes,
            seed=_FIRST_SEED,
            processes=options.processes,
            on_progress=lambda done, total, _: progress.update(done, total),
            calibrated=calibration is not None,
            **(
                {'candidates': 1}
                if way == _PLAIN
                else {'rule': 'discounted_budget' if calibration else way}
            ),
        )
    seconds = time.perf_counter() - started
    config = networks.spec['config']
    for row in rows:
        row.update(
            asked,
            dataset=Path(row['dataset']).name,
            training={
                'seed': config['seed'],
                'updates': networks.spec['step'],
                'batch_size': config['algo_cfgs']['batch_size'],
                'eta_reward': config['algo_cfgs']['eta_reward'],
                'eta_cost': config['algo_cfgs']['eta_cost'],
            },
            seconds_for_all_limits=seconds,
            calibration=calibration,
        )
    return rows


def _calibrate(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Calibrate a run for the default rule; returns the record, which its checkpoint keeps."""
    progress = ProgressReporter('Calibrating', 1)
    with progress.shown():
        record, _ = calibrate_run(
            folder,
            options.calibration_episodes,
            rule='discounted_budget',
            processes=options.processes,
            on_progress=progress.update,
        )
    return record


_COST_TICKS = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]

# A task, a way of choosing, and at each limit its mean normalised return and cost (NaN where no
# run has a safe target), and the number of runs without a safe target, whose actions are zero.
_Summary = dict[tuple[str, str], dict[float, tuple[float, float, int]]]


def _summarise(rows: list[dict[str, Any]]) -> _Summary:
    """Average over episodes and runs."""
    groups: dict[tuple[str, str], dict[float, list[dict[str, Any]]]] = {}
    for row in rows:
        by_limit = groups.setdefault((row['env_id'], row['way']), {})
        by_limit.setdefault(row['cost_limit'], []).append(row)
    return {
        key: {limit: _means(by_limit[limit]) for limit in sorted(by_limit)}
        for key, by_limit in groups.items()
    }


def _means(rows: list[dict[str, Any]]) -> tuple[float, float, int]:
    fallbacks = sum(row.get('zero_action', False) for row in rows)
    if fallbacks == len(rows):
        return math.nan, math.nan, fallbacks
    episodes = [row['episodes'] for row in rows]
    value, cost = (
        float(np.average([row[name] for row in rows], weights=episodes))
        for name in ('normalized_return', 'normalized_cost')
    )
    return value, cost, fallbacks


def _print(result: dict[str, Any]) -> None:
    """Print a line for each task and way: normalised return and cost at each limit."""
    print('Normalised return / cost over the limit at each limit; * is above 1')
    for (env_id, way), by_limit in _summarise(result['rows']).items():
        cells = [f'{limit:g}: {_cell(*means)}' for limit, means in by_limit.items()]
        print(f'{env_id:<24}{way:<11}{"   ".join(cells)}')


def _cell(value: float, cost: float, fallbacks: int) -> str:
    if math.isnan(value):
        return NO_SAFE_TARGET
    without = f'(no safe target: {fallbacks})' if fallbacks else ''
    return f'{value:.2f} / {cost:.2f}{"*" if cost > 1 else " "}{without}'


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw normalised return and cost against the limit, a column for each task."""
    summary = _summarise(rows)
    tasks = list(dict.fromkeys(env_id for env_id, _ in summary))
    ways = list(dict.fromkeys(way for _, way in summary))
    with drawing_style():
        figure = Figure(figsize=(4.2 * len(tasks), 6.4), layout='constrained')
        axes = figure.subplots(2, len(tasks), sharex='col', squeeze=False)
        for column, env_id in zip(axes.T, tasks):
            for way, colour, marker in zip(ways, (ORANGE, BLUE, PURPLE, BLACK), 'os^d'):
                by_limit = summary.get((env_id, way), {})
                for panel, values in zip(column, zip(*by_limit.values())):
                    panel.plot(list(by_limit), values, color=colour, marker=marker, label=way)
            column[0].set_title(env_id)
            low, _ = column[0].get_ylim()
            column[0].set_ylim(min(0.0, low), 1.0)
            column[1].axhline(1.0, color=BLACK, linestyle='--', linewidth=1)
            # Linear below 1, so that a cost of zero can be shown.
            column[1].set_yscale('symlog', linthresh=1.0)
            column[1].set_yticks(_COST_TICKS, [f'{tick:g}' for tick in _COST_TICKS])
            column[1].set_ylim(-0.05, max(1.2, column[1].get_ylim()[1]))
            column[1].set_xlabel('cost limit')
        axes[0, 0].set_ylabel('normalised return')
        axes[1, 0].set_ylabel('cost / limit')
        lines = {line.get_label(): line for panel in axes[0] for line in panel.get_lines()}
        axes[0, 0].legend(lines.values(), lines.keys())
    save_figure(figure, path)


if __name__ == '__main__':
    sys.exit(main())
