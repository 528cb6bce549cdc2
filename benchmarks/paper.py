# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's figures, for rows on the paper's data: Tables 1, 2 and 5.

``paper_results.csv`` beside this module holds what is legible of them in the text of the paper.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.rows import Result, Results


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


@dataclass(frozen=True)
class PaperScore:
    """A normalised return and cost that the paper prints.

    Args:
        table (int): Number of the table.
        row (str): Method, experiment or number of candidates.
        returns (str): As printed, with the deviation where there is one.
        costs (str): As printed; ends with an ellipsis where further digits cannot be read.
    """

    table: int
    row: str
    returns: str
    costs: str

    @property
    def title(self) -> str:
        """Where it is printed."""
        return _TITLES[self.table].format(self.row)


@cache
def paper_scores() -> dict[tuple[int, str, str], PaperScore]:
    """Return what the paper prints, by table, task and row."""
    path = Path(__file__).with_name('paper_results.csv')
    scores = {}
    with path.open(newline='', encoding='utf-8') as file:
        for line in csv.DictReader(file):
            returns, costs = (
                line[name] + (f' ± {line[f"{name}_std"]}' if line[f'{name}_std'] else '')
                for name in ('return', 'cost')
            )
            costs += '…' if line['cost_is_cut'] else ''
            table = int(line['table'])
            scores[table, line['task'], line['row']] = PaperScore(
                table, line['row'], returns, costs
            )
    return scores


def find_paper_score(results: Results, cell: Result, cost_limit: float) -> PaperScore | None:
    """Return what the paper prints for a row on a task, if the data and the limit are the paper's.

    Rows of QPT are those of Table 2 where its switches differ among the suite's rows, and those of
    Table 5 where the number of candidates does. All others are those of Table 1, by algorithm.

    Args:
        results (Results): All rows.
        cell (Result): One of the row's cells on the task.
        cost_limit (float): In the units of an episode's cost.
    """
    if cell.task is None or not cell.is_dsrl or cost_limit != COST_LIMIT:
        return None
    table, row = _place(results, cell)
    return paper_scores().get((table, cell.task.name, row))


def _place(results: Results, cell: Result) -> tuple[int, str]:
    """Return the table that a row belongs to, and its name there."""
    if cell.algo == 'QPT':
        if _differ(results, _switches):
            return 2, _EXPERIMENTS.get(_switches(cell), '')
        if _differ(results, _candidates):
            return 5, str(_candidates(cell))
    return 1, cell.algo


def _differ(results: Results, setting: Callable[[Result], Any]) -> bool:
    return len({setting(cell) for cell in results.cells if cell.algo == 'QPT'}) > 1


def _switches(cell: Result) -> tuple[bool, ...]:
    return tuple(cell.settings[f'algo_cfgs.{name}'] for name in _SWITCHES)


def _candidates(cell: Result) -> int:
    return cell.settings['algo_cfgs.candidates']
