# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The best epoch of a run, by a fixed rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omnisafe_qpt.runs.checkpoint import checkpoint_name


# The columns of progress.csv that the rule reads; no reported episode is in them.
VALIDATION_RETURN = 'Validation/EpRet'
VALIDATION_COST = 'Validation/EpCost'

RULE = (
    'Among the epochs whose mean validation cost is within the cost limit, the highest mean '
    'validation return; if there is none, the lowest mean validation cost; ties: the earliest.'
)


def best_epoch(rows: Sequence[dict[str, float]], cost_limit: float) -> dict[str, Any] | None:
    """Choose the best epoch.

    Args:
        rows (Sequence[dict[str, float]]): The rows of ``progress.csv``.
        cost_limit (float): The run's, undiscounted.

    Returns:
        The content of ``best.json`` without the seeds: the rule, the epoch, its checkpoint and
        results, and the results of all epochs; None if no epoch was validated.
    """
    figures: list[dict[str, Any]] = [
        {
            'epoch': int(row['Train/Epoch']),
            'validation_return': row[VALIDATION_RETURN],
            'validation_cost': row[VALIDATION_COST],
        }
        for row in rows
        if math.isfinite(row.get(VALIDATION_RETURN, math.nan))
    ]
    if not figures:
        return None
    within = [row for row in figures if row['validation_cost'] <= cost_limit]
    if within:
        best = max(within, key=lambda row: row['validation_return'])
    else:
        best = min(figures, key=lambda row: row['validation_cost'])
    return {
        'rule': RULE,
        **best,
        'checkpoint': checkpoint_name(best['epoch']),
        'cost_limit': cost_limit,
        'is_within_limit': bool(within),
        'epochs': figures,
    }


def has_stalled(rows: Sequence[dict[str, float]], cost_limit: float, patience: int) -> bool:
    """Return whether none of the last epochs is the best one, so that training may end.

    Args:
        rows (Sequence[dict[str, float]]): The rows of ``progress.csv``.
        cost_limit (float): The run's, undiscounted.
        patience (int): Number of the last epochs; 0 for never.
    """
    best = best_epoch(rows, cost_limit) if patience else None
    return best is not None and len(rows) - best['epoch'] >= patience
