# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a dataset: each yields one line per finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from omnisafe_qpt.data.scan import Inspector


# Levels of findings: training refuses the file; results would suffer; information.
REFUSED, WARNING, NOTE = 'REFUSED', 'warning', 'note'
# The code of a finding that does not apply to actions in the environment's unit.
ACTIONS_OUT_OF_RANGE = 'actions_out_of_range'

# Tolerance as a share of the range, since DSRL's reference values are sums in another order.
_REFERENCE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Finding:
    """A finding about a dataset.

    Args:
        level (str): :data:`REFUSED`, :data:`WARNING` or :data:`NOTE`.
        code (str): A short name that programs can rely on.
        text (str): One line: what, how many, where, and how to fix it.
    """

    level: str
    code: str
    text: str


def count(number: int, unit: str) -> str:
    """Return a number with its unit: ``1 episode``, ``1,200 episodes``."""
    return f'{number:,} {unit}{"" if number == 1 else "s"}'


def _check_flags(seen: Inspector) -> Iterator[Finding]:
    for key, bad in seen.bad_flags.items():
        if bad:
            yield Finding(
                REFUSED,
                'flags_not_finite',
                f'{key} holds NaN or infinity in {count(bad, "transition")}; store 0 or 1',
            )
    if not seen.marked.any():
        yield Finding(
            REFUSED,
            'no_end_marked',
            'no episode end is marked; set terminals or timeouts at the last transition of each '
            'episode',
        )


def _check_order(seen: Inspector) -> Iterator[Finding]:
    unmarked = seen.unmarked_gaps
    if seen.is_shuffled:
        yield Finding(
            REFUSED,
            'not_in_order',
            'the next observation is not the following observation, and no end is marked, in '
            f'{unmarked.sum()} of {len(unmarked)} transitions; store the transitions in order, '
            'whole episodes at a time',
        )
    elif unmarked.any():
        yield Finding(
            WARNING,
            'unmarked_ends',
            'episodes without an end flag, cut where the next observation is not the following '
            f'one ({seen.first(unmarked)}): training treats these ends as time limits; set '
            'terminals or timeouts there',
        )


def _check_finite(seen: Inspector) -> Iterator[Finding]:
    for name, span in seen.ranges.items():
        if span.first_non_finite is None:
            continue
        row, column = span.first_non_finite
        place = f'dimension {column}, ' if len(span.low) > 1 else ''
        yield Finding(
            REFUSED,
            'not_finite',
            f'{name}: NaN, infinity or numbers beyond float32 in '
            f'{count(span.non_finite, "transition")} '
            f'(first: {place}{seen.episodes.locate(row)}); remove those episodes',
        )


def _check_sizes(seen: Inspector) -> Iterator[Finding]:
    if seen.task is None:
        return
    for name, needed in (
        ('observations', seen.task.obs_dim),
        ('actions', seen.task.act_dim),
    ):
        given = len(seen.ranges[name].low)
        if given != needed:
            yield Finding(
                REFUSED,
                'wrong_sizes',
                f'{name} have {given} numbers, those of {seen.task.env_id} {needed}: the data are '
                'from another environment, or another version of it',
            )


def _check_actions(seen: Inspector) -> Iterator[Finding]:
    span = seen.ranges['actions']
    if seen.wild_actions.any() and not seen.declares_own_unit:
        yield Finding(
            WARNING,
            ACTIONS_OUT_OF_RANGE,
            f'actions outside [-1, 1] ({seen.first(seen.wild_actions)}; from '
            f"{span.low.min():.4g} to {span.high.max():.4g}): if they are in the environment's own "
            'unit, train with train_cfgs:action_unit environment; if not, the policy cannot '
            'imitate them',
        )
    if span.constant:
        yield Finding(
            WARNING,
            'constant_actions',
            f'{_dimensions(span.constant)} of the actions constant: there is nothing '
            'to learn about them; check the recording',
        )


def _check_lengths(seen: Inspector) -> Iterator[Finding]:
    lengths = seen.episodes.lengths
    if seen.horizon is not None and (lengths > seen.horizon).any():
        longer = np.flatnonzero(lengths > seen.horizon)
        env = 'the environment' if seen.task is None else seen.task.env_id
        yield Finding(
            WARNING,
            'over_horizon',
            f'{count(len(longer), "episode")} longer than the {seen.horizon} steps of {env} '
            f'(first: episode {longer[0]}, {lengths[longer[0]]} steps): is an end left unmarked?',
        )
    single = np.flatnonzero(lengths == 1)
    if len(single):
        yield Finding(
            WARNING,
            'single_steps',
            f'{count(len(single), "episode")} of one transition (first: episode {single[0]}, '
            f'transition {seen.episodes.starts[single[0]]}): is an end marked twice or too early?',
        )


def _check_time_limits(seen: Inspector) -> Iterator[Finding]:
    ends = seen.episodes.ends == 'terminal'
    last = seen.episodes.starts + seen.episodes.lengths - 1
    if seen.timeouts is None:
        if seen.horizon is None and ends.any():
            yield Finding(
                NOTE,
                'npz_without_task',
                f'{count(int(ends.sum()), "end")} counted as terminal: one flag marks time limits '
                "and terminal states, which only the task's horizon tells apart; name it with "
                '--task',
            )
        return
    also_timeout = seen.timeouts[last]
    if seen.horizon is not None:
        also_timeout = also_timeout | (seen.episodes.lengths == seen.horizon)
    both = np.flatnonzero(ends & also_timeout)
    if len(both):
        yield Finding(
            WARNING,
            'time_limits_as_terminals',
            f'{count(len(both), "end")} at the time limit with terminals set (first: episode '
            f'{both[0]}, transition {last[both[0]]}): the critics will treat these states as '
            'terminal; set only timeouts',
        )


def _check_last_end(seen: Inspector) -> Iterator[Finding]:
    if seen.episodes.ends[-1] == 'cut':
        yield Finding(
            WARNING,
            'last_not_ended',
            f'the last episode ({len(seen.episodes) - 1}) has no end flag after '
            f'{seen.episodes.lengths[-1]} steps: training treats it as a time limit; set '
            'timeouts, or remove the episode if it is incomplete',
        )


def _check_final_states(seen: Inspector) -> Iterator[Finding]:
    replaced = seen.marked & seen.joined
    if replaced.any():
        yield Finding(
            WARNING,
            'final_state_replaced',
            "episodes whose final next observation is the following episode's first observation "
            f'({seen.first(replaced)}): store the state before the reset, or unset the flag if '
            'the episode continues',
        )


def _check_duplicates(seen: Inspector) -> Iterator[Finding]:
    keys = seen.episode_keys()
    _, original, inverse = np.unique(keys, return_index=True, return_inverse=True)
    copies = np.flatnonzero(original[inverse] != np.arange(len(keys)))
    if len(copies):
        yield Finding(
            WARNING,
            'duplicates',
            f'{count(len(copies), "repeated episode")} (first: episode {copies[0]} is episode '
            f'{original[inverse[copies[0]]]} again); remove the copies',
        )


def _check_costs(seen: Inspector) -> Iterator[Finding]:
    costs = seen.costs
    if (costs < 0).any():
        yield Finding(
            WARNING,
            'negative_costs',
            f'costs below 0 ({seen.first(costs < 0)}; least: {np.nanmin(costs):.4g}): an episode '
            'could earn back what it spent; store costs of 0 and more',
        )
    least = costs[costs > 0].min(initial=np.inf)
    limits = (row.cost_limit for row in seen.limits if np.isfinite(least))
    too_low = [f'{limit:g}' for limit in limits if limit < least]
    if too_low:
        yield Finding(
            WARNING,
            'limit_below_any_cost',
            f'the smallest positive cost of a step is {least:.4g}, above the cost '
            f'limit {", ".join(too_low)}: only episodes without any cost are within; are costs '
            'and limit in one unit?',
        )
    if not costs.any():
        yield Finding(
            WARNING,
            'no_costs',
            'every cost is 0: there is nothing to learn about safety; was the cost recorded?',
        )
    if not seen.rewards.any():
        yield Finding(
            WARNING,
            'no_rewards',
            'every reward is 0: there is nothing to learn about return; was the reward recorded?',
        )


def _check_limits(seen: Inspector) -> Iterator[Finding]:
    missed = [f'{row.cost_limit:g}' for row in seen.limits if row.episodes == 0]
    if missed and seen.episodes.is_finite.any():
        cheapest = seen.episodes.costs[seen.episodes.is_finite].min()
        yield Finding(
            WARNING,
            'no_safe_episode',
            f'no episode costs at most {", ".join(missed)} (the cheapest costs {cheapest:.4g}): '
            "at these limits the target return falls back to the cheapest episode's; collect safer "
            'episodes or raise the limit',
        )


def _check_frontier(seen: Inspector) -> Iterator[Finding]:
    frontier = seen.episodes.frontier
    if frontier is not None and len(frontier.costs) == 1 and len(seen.episodes) > 1:
        yield Finding(
            NOTE,
            'flat_frontier',
            'the cheapest episode also has the highest return: the target is the same at every '
            'cost limit, and relabelling adds no higher return',
        )


def _check_reference(seen: Inspector) -> Iterator[Finding]:
    task = seen.task
    if task is None:
        return
    for name, values, low, high in (
        ('return', seen.episodes.returns, task.min_return, task.max_return),
        ('cost', seen.episodes.costs, task.min_cost, task.max_cost),
    ):
        slack = _REFERENCE_TOLERANCE * (high - low)
        outside = np.flatnonzero((values < low - slack) | (values > high + slack))
        if len(outside):
            yield Finding(
                NOTE,
                f'{name}_outside_reference',
                f"the {name} of {count(len(outside), 'episode')} is outside DSRL's {low:.4g} to "
                f'{high:.4g} for {task.name} (first: episode {outside[0]}, '
                f"{values[outside[0]]:.4g}): not DSRL's data, or other units",
            )


def _check_observations(seen: Inspector) -> Iterator[Finding]:
    constant = seen.ranges['observations'].constant
    if constant:
        yield Finding(
            NOTE,
            'constant_observations',
            f'{_dimensions(constant)} of the observations constant: harmless, but check '
            'that this is intended',
        )


def _check_task(seen: Inspector) -> Iterator[Finding]:
    if seen.task is None:
        yield Finding(
            NOTE,
            'unknown_task',
            'the file does not name its task, so horizon, sizes and reference values are not '
            'checked; name it with --task if DSRL has it',
        )


def _dimensions(indices: list[int]) -> str:
    """Name dimensions, runs of them shortened: ``3 dimensions (4-5, 9)``."""
    splits = np.flatnonzero(np.diff(indices) > 1) + 1
    runs = [
        f'{run[0]}' if len(run) == 1 else f'{run[0]}-{run[-1]}'
        for run in np.split(np.array(indices), splits)
    ]
    shown = ', '.join(runs[:8]) + (', ...' if len(runs) > 8 else '')
    return f'{count(len(indices), "dimension")} ({shown})'


# In the order of training's own checks.
_CHECKS: tuple[Callable[[Inspector], Iterator[Finding]], ...] = (
    _check_flags,
    _check_order,
    _check_finite,
    _check_sizes,
    _check_lengths,
    _check_last_end,
    _check_time_limits,
    _check_final_states,
    _check_actions,
    _check_costs,
    _check_limits,
    _check_frontier,
    _check_duplicates,
    _check_reference,
    _check_observations,
    _check_task,
)


def find(seen: Inspector) -> list[Finding]:
    """Return the findings about a dataset, the most severe first."""
    return sorted(
        (finding for check in _CHECKS for finding in check(seen)),
        key=lambda finding: (REFUSED, WARNING, NOTE).index(finding.level),
    )
