# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``omnisafe-qpt data plot``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.cli.common import add_command, check_writable, say, write_json
from omnisafe_qpt.cli.data_info import add_dataset, limit, reading


if TYPE_CHECKING:
    from omnisafe_qpt.data.summary import DatasetSummary
    from omnisafe_qpt.plots import Relabelled


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        'plot',
        "draw a dataset's returns against its costs, its frontier and what augmentation adds",
        'omnisafe-qpt data plot sample --cost-limit 20 --out sample.png',
    )
    add_dataset(parser)
    parser.add_argument(
        '--out',
        type=Path,
        required=True,
        metavar='F',
        help='figure to write: .png, .pdf or .svg',
    )
    parser.add_argument(
        '--cost-limit',
        type=limit,
        metavar='X',
        help="undiscounted cost of an episode up to which it is safe (default: training's)",
    )
    parser.add_argument(
        '--augmentation',
        type=float,
        metavar='X',
        help="relabelled episodes as a share of the dataset's, 0 for none (default: training's)",
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='seed of the relabelling, as in training (default: 0)',
    )
    parser.add_argument('--json', type=Path, metavar='F', help='write what is drawn to this file')
    parser.set_defaults(run_command=_run)


def _run(options: argparse.Namespace) -> None:
    from omnisafe_qpt.data.resolve import find_dataset_file
    from omnisafe_qpt.data.summary import summarize
    from omnisafe_qpt.plots import check_suffix, plot_return_cost, relabel, save_figure
    from omnisafe_qpt.settings.files import load_defaults

    check_suffix(options.out)
    check_writable(options.out, '--out')
    if options.json is not None:
        check_writable(options.json)
    path = find_dataset_file(options.dataset)
    with reading(path) as on_progress:
        summary = summarize(path, on_progress=on_progress)
    defaults = load_defaults(summary.task.env_id if summary.task else '')['algo_cfgs']
    cost_limit = defaults['cost_limit'] if options.cost_limit is None else options.cost_limit
    fraction = options.augmentation
    if fraction is None:
        fraction = defaults['augmentation_fraction'] * defaults['use_augmentation']
    relabelled = relabel(summary.episodes, fraction, options.seed)
    save_figure(
        plot_return_cost(summary.episodes, path.stem, cost_limit, relabelled),
        options.out,
    )
    content = _describe(summary, cost_limit, relabelled)
    if summary.refusal is not None:
        say(f'Training refuses this file: {summary.refusal}', file=sys.stderr)
    say(
        f'{options.out}: episodes: {content["episodes"]}, within cost {cost_limit:g}: '
        f'{content["safe_episodes"]}, relabelled: {len(relabelled)}',
    )
    if options.json is not None:
        write_json(content, options.json)


def _describe(summary: DatasetSummary, cost_limit: float, relabelled: Relabelled) -> dict[str, Any]:
    episodes, frontier = summary.episodes, summary.episodes.frontier
    assert frontier is not None  # or nothing could have been drawn
    finite = episodes.is_finite
    pairs = {
        'episode_costs': episodes.costs[finite],
        'episode_returns': episodes.returns[finite],
        'relabelled_costs': relabelled.targets[:, 0],
        'relabelled_returns': relabelled.targets[:, 1],
        'source_costs': relabelled.sources[:, 0],
        'source_returns': relabelled.sources[:, 1],
    }
    return {
        'path': str(summary.path),
        'sha256': summary.sha256,
        'cost_limit': cost_limit,
        'target_return': frontier.target_return(cost_limit),
        'episodes': len(episodes),
        'safe_episodes': int((episodes.costs <= cost_limit).sum()),
        'frontier_costs': list(frontier.costs),
        'frontier_returns': list(frontier.returns),
        **{name: values.tolist() for name, values in pairs.items()},
    }
