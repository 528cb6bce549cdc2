# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Averages of evaluated runs over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from omnisafe_qpt.scores import mean_interval


_AVERAGED = ('return_mean', 'normalized_return', 'cost_mean', 'normalized_cost')


def average_runs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the rows of several runs, for each cost limit.

    Args:
        rows (Sequence[dict[str, Any]]): Result of
            :func:`omnisafe_qpt.evaluation.sweep.evaluate_runs`.

    Returns:
        A row for each cost limit: ``algo``, ``env_id``, ``cost_limit``, ``runs`` and ``episodes``
        (their numbers), the means over runs of ``return_mean``, ``normalized_return``,
        ``cost_mean`` and ``normalized_cost``, each with an ``..._interval``, the ends of the 95 %
        Student t interval over runs (None for a single run; see
        :func:`omnisafe_qpt.scores.mean_interval`), ``unsafe_share`` of all episodes, ``safe``,
        whether the mean normalised cost is at most 1, ``safe_runs``, the number of runs where it
        is, and ``runs_without_target``, the number of runs with the zero-action fallback.
    """
    groups: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row['cost_limit'], []).append(row)
    return [_average(limit, group) for limit, group in groups.items()]


def _average(limit: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    average: dict[str, Any] = {
        'algo': rows[0]['algo'],
        'env_id': rows[0]['env_id'],
        'cost_limit': limit,
        'runs': len(rows),
        'episodes': sum(row['episodes'] for row in rows),
    }
    for name in _AVERAGED:
        values = [row[name] for row in rows]
        average[name] = statistics.fmean(values)
        average[f'{name}_interval'] = mean_interval(values)
    return {
        **average,
        'unsafe_share': statistics.fmean(row['unsafe_share'] for row in rows),
        'safe': average['normalized_cost'] <= 1.0,
        'safe_runs': sum(row['safe'] for row in rows),
        'runs_without_target': sum(row['zero_action'] for row in rows),
    }
