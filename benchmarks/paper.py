# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's figures, for rows on the paper's data: Tables 1, 2 and 5.

``paper_results.csv`` beside this module holds what is legible of them in the text of the paper.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.rows import Results
from omnisafe_qpt.data.tasks import find_task


# The paper's limit on every task.
COST_LIMIT = 10.0

_TITLES = {1: 'Table 1', 2: 'Table 2, Exp {}', 5: 'Table 5, {} candidates'}
# Table 2's rows: augmentation, reward critic, cost critic, ensemble.
_SWITCHES = ('use_augmentation', 'use_reward_critic', 'use_cost_critic', 'use_ensemble')
_EXPERIMENTS = {
    (False, False, False, False): '1',
    (True, False, False, False): '2',
    (True, True, False, False): '3',
    (True, False, True, False): '4',
    (True, True, True, False): '5',
    (True, False, False, True): '6',
    (False, True, True, True): '7',
    (True, True, True, True): '8',
}


class PaperScore(NamedTuple):
    """A normalised return and cost that the paper prints.

    Args:
        title (str): Where it is printed.
        returns (str): As printed, with the deviation where there is one.
        costs (str): As printed; ends with an ellipsis where further digits cannot be read.
    """

    title: str
    returns: str
    costs: str


@cache
def paper_figures() -> pd.DataFrame:
    """Return ``paper_results.csv`` as text, by table, task and row."""
    path = Path(__file__).with_name('paper_results.csv')
    figures = pd.read_csv(path, dtype=str, keep_default_na=False)
    return figures.astype({'table': int}).set_index(['table', 'task', 'row'])


def find_paper_score(
    results: Results,
    dataset: str,
    row: str,
    cost_limit: float,
) -> PaperScore | None:
    """Return what the paper prints for a row on a task, if the data and the limit are the paper's.

    Rows of QPT are those of Table 2 where its switches differ among the suite's rows, and those of
    Table 5 where the number of candidates does. All others are those of Table 1, by algorithm.

    Args:
        results (Results): All rows.
        dataset (str): The dataset.
        row (str): The row.
        cost_limit (float): Of an episode.
    """
    cells = results.cells[(results.cells.dataset == dataset) & (results.cells.row == row)]
    if cells.empty or not cells.is_dsrl.iloc[0] or cost_limit != COST_LIMIT:
        return None
    cell = cells.iloc[0]
    table, name = _place(results, cell)
    key = table, find_task(cell.env_id).name, name
    if key not in paper_figures().index:
        return None
    line = paper_figures().loc[key]
    returns, costs = (
        line[name] + (f' ± {line[f"{name}_std"]}' if line[f'{name}_std'] else '')
        for name in ('return', 'cost')
    )
    title = _TITLES[table].format(name)
    return PaperScore(title, returns, f'{costs}…' if line.cost_is_cut else costs)


def _place(results: Results, cell: Any) -> tuple[int, str]:
    """Return the table that a row belongs to, and its name there."""
    if cell.algo == 'QPT':
        ours = results.cells[results.cells.algo == 'QPT'].settings
        if ours.map(_switches).nunique() > 1:
            return 2, _EXPERIMENTS.get(_switches(cell.settings), '')
        if ours.map(_candidates).nunique() > 1:
            return 5, str(_candidates(cell.settings))
    return 1, cell.algo


def _switches(settings: dict[str, Any]) -> tuple[bool, ...]:
    return tuple(settings[f'algo_cfgs.{name}'] for name in _SWITCHES)


def _candidates(settings: dict[str, Any]) -> int:
    return settings['algo_cfgs.candidates']
