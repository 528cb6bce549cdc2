# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Which upper bound of a mean cost target calibration may use: simulated on known distributions.

    python -m benchmarks.calibration_bounds --json benchmarks/results/calibration-bounds.json

Each simulated policy has nine levels with known distributions of episode costs. Levels are tested
for each cost limit with ``--episodes`` episodes each, the highest mean return among those that
passed is deployed, and it is counted how often its true mean cost exceeds the limit. ``shipped`` is
the project's own procedure with its early stops; the others are given all episodes of all levels.

The distributions are those of the committed results (each cell's costs are a level, drawn with
replacement; nine cells of a task, by rising mean, are a policy) and synthetic ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from omnisafe_qpt.evaluation import target_calibration as calibration
from omnisafe_qpt.evaluation import target_costs
from omnisafe_qpt.evaluation.episodes import Evaluation, Series
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.runner import CERTIFIED, serving_level
from omnisafe_qpt.runs.checkpoint import versions


RESULTS = Path(__file__).parent / 'results'
LIMITS = (5.0, 10.0, 20.0, 40.0)
UNIT = 10.0
LEVELS = len(target_costs.LADDER)
ERROR_RATE = 0.05
# Cost of the worst episode in the datasets, see results/**/*.json.
WORST = {'BallCircle': 80.0, 'CarRun': 60.0, 'HopperVelocity': 250.0, 'CarButton1': 248.0}
# 95 % quantiles of Student's t with 1 to 30 degrees of freedom, and beyond the last.
STUDENT_T = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
    1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
    1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip
# Bets as shares of the largest possible one.
BETS = (0.1, 0.2, 0.4, 0.7, 1.0)

Policy = tuple[np.ndarray, np.ndarray, float]  # costs (levels, episodes), true means, worst cost


# -- bounds: whether levels (K, n) pass at a limit ------------------------------------------------


def student_t(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """What was used before: no assumption but normality, and nothing left if all costs are 0."""
    del worst
    count = costs.shape[1]
    quantile = STUDENT_T[min(count - 1, len(STUDENT_T)) - 1]
    return costs.mean(1) + quantile * costs.std(1, ddof=1) / count**0.5 <= limit


def t_with_worst(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """Student's t with one more episode, of the worst cost."""
    return student_t(np.pad(costs, ((0, 0), (0, 1)), constant_values=worst), limit, worst)


def empirical_bernstein(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """Maurer and Pontil's bound."""
    count, log = costs.shape[1], np.log(2 / ERROR_RATE)
    spread = np.sqrt(2 * costs.var(1, ddof=1) * log / count)
    return costs.mean(1) + spread + 7 * worst * log / (3 * (count - 1)) <= limit


def _wins(costs: np.ndarray, bets: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """Capital over time (K, n) of bets that are shares of the largest possible one."""
    with np.errstate(divide='ignore'):
        return np.log1p(bets * (limit - costs) / (worst - limit)).cumsum(1)


def betting(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """The largest bet at every episode: :func:`omnisafe_qpt.scores.mean_bound`."""
    return (_wins(costs, np.ones(1), limit, worst) >= np.log(1 / ERROR_RATE)).any(1)


def mixed_betting(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """The mean capital of several constant bets."""
    capital = np.stack([np.exp(_wins(costs, np.array([bet]), limit, worst)) for bet in BETS])
    return (capital.mean(0) >= 1 / ERROR_RATE).any(1)


def adaptive_betting(costs: np.ndarray, limit: float, worst: float) -> np.ndarray:
    """Bets that would have been about the best so far, the largest one to begin with."""
    counts = np.arange(1, costs.shape[1] + 1)
    gain = limit - costs.cumsum(1) / counts
    spread = ((limit - costs) ** 2).cumsum(1) / counts
    best = np.clip(gain / np.maximum(spread, 1e-9) * (worst - limit), 0.0, 1.0)
    bets = np.concatenate([np.ones((len(costs), 1)), best[:, :-1]], axis=1)
    return (_wins(costs, bets, limit, worst) >= np.log(1 / ERROR_RATE)).any(1)


BOUNDS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    'Student t': student_t,
    't with the worst': t_with_worst,
    'empirical Bernstein': empirical_bernstein,
    'betting': betting,
    'mixed betting': mixed_betting,
    'adaptive betting': adaptive_betting,
}


# -- policies -------------------------------------------------------------------------------------


def committed(task: str) -> Callable[[np.random.Generator, int], Policy]:
    """Policies whose levels are cells of the committed results."""
    cells = _cells(task)

    def draw(generator: np.random.Generator, episodes: int) -> Policy:
        chosen = [cells[at] for at in generator.integers(len(cells), size=LEVELS)]
        chosen.sort(key=lambda costs: costs.mean() + generator.normal(0.0, 2.0))  # not quite rising
        uniform = _uniform(generator, episodes, shared=0.7)
        costs = [own[(row * len(own)).astype(int)] for own, row in zip(chosen, uniform)]
        return np.stack(costs), np.array([own.mean() for own in chosen]), WORST[task]

    return draw


def _cells(task: str) -> list[np.ndarray]:
    """Read the episode costs of all cells of a task that assumed no more than the worst."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in sorted(RESULTS.glob(f'*/{task}/*/seed-*.csv')):
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                key = (str(path), f'{row["checkpoint"]} {row["cost_limit"]}')
                found.setdefault(key, []).append(float(row['cost']))
    # Sorted, so that levels share their bad episodes where they share uniform numbers.
    cells = [np.sort(costs) for costs in found.values()]
    return [costs for costs in cells if costs.max() <= WORST[task]]


def _uniform(generator: np.random.Generator, episodes: int, shared: float) -> np.ndarray:
    """Uniform numbers (levels, episodes), in some episodes the same for all levels."""
    own, common = generator.random((LEVELS, episodes)), generator.random(episodes)
    return np.where(generator.random((LEVELS, episodes)) < shared, common, own)


def synthetic(
    quantile: Callable[[np.ndarray, np.ndarray], np.ndarray],
    worst: float,
    shared: float,
) -> Callable[[np.random.Generator, int], Policy]:
    """Policies whose costs follow the target cost, by a factor of chance."""
    grid = (np.arange(4000) + 0.5) / 4000

    def draw(generator: np.random.Generator, episodes: int) -> Policy:
        factor = generator.uniform(0.3, 1.5)
        targets = factor * UNIT * np.array(target_costs.LADDER)[:, None]
        means = np.minimum(quantile(grid, targets), worst).mean(1)
        uniform = _uniform(generator, episodes, shared)
        return np.minimum(quantile(uniform, targets), worst), means, worst

    return draw


def mostly_nothing(uniform: np.ndarray, target: np.ndarray) -> np.ndarray:
    """60 % of episodes cost nothing."""
    return np.where(uniform < 0.6, 0.0, (uniform - 0.6) * 12.5 * target)


def rare(uniform: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Few episodes cost 150."""
    return np.where(uniform < target / 150, 150.0, 0.0)


def just_above(uniform: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A mean just above the lowest limit at all levels, in episodes of 80 or nothing."""
    return np.where(uniform < (LIMITS[0] + 0.1) / 80, 80.0, 0.0 * target)


def lognormal(uniform: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Heavy tails: a standard deviation of 1.5 on the scale of logarithms."""
    quantiles = np.array([statistics.NormalDist().inv_cdf(each) for each in _TABLE])
    return target * np.exp(1.5 * np.interp(uniform, _TABLE, quantiles) - 1.125)


_TABLE = (np.arange(2000) + 0.5) / 2000

FAMILIES = {
    **{f'committed, {task}': committed(task) for task in WORST},
    '60 % nothing': synthetic(mostly_nothing, 80.0, 0.0),
    '60 % nothing, 70 % shared': synthetic(mostly_nothing, 80.0, 0.7),
    'rare 150': synthetic(rare, 150.0, 0.0),
    'rare 150, assumed 80': synthetic(rare, 150.0, 0.0),
    'just above the limit': synthetic(just_above, 80.0, 0.0),
    'lognormal': synthetic(lognormal, 80.0, 0.0),
}


# -- procedures -----------------------------------------------------------------------------------


def any_that_passes(passes: np.ndarray) -> np.ndarray:
    """Each level by itself, as before."""
    return passes


def fixed_sequence(passes: np.ndarray) -> np.ndarray:
    """From the lowest up to the first that fails."""
    return np.logical_and.accumulate(passes)


def shipped(policy: Policy, episodes: int) -> tuple[dict[float, int | None], int]:
    """Run the project's calibration; returns the level certified at each limit, and episodes."""
    costs, _, worst = policy

    @contextmanager
    def pool(_: str, series: Sequence[Series], __: int) -> Iterator[SimpleNamespace]:
        def play(seeds: Sequence[Sequence[int]], __: Any) -> list[Evaluation | None]:
            return [
                _evaluation(costs, number, each, own) if own else None
                for number, (each, own) in enumerate(zip(series, seeds))
            ]

        yield SimpleNamespace(horizon=1, play=play)

    frontier = {'costs': [0.0, 1e9], 'returns': [0.0, 1.0]}
    networks: Any = SimpleNamespace(
        spec={'seed': 0, 'env_id': 'none', 'frontier': frontier, 'worst_cost': worst},
        scaling=SimpleNamespace(cost_unit=np.float64(UNIT)),
    )
    with mock.patch.object(calibration, 'episode_pool', pool):
        record = calibration.calibrate(networks, DeploymentConfig(candidates=1), episodes, 1)
    chosen: dict[float, int | None] = {}
    for limit in LIMITS:
        level, status = serving_level(record, limit)
        certified = status == CERTIFIED
        chosen[limit] = record['levels'].index(level) if certified else None
    return chosen, record['steps']


def _evaluation(costs: np.ndarray, number: int, series: Series, own: Sequence[int]) -> Evaluation:
    numbers = np.asarray(own) % 10_000
    played = costs[number, numbers] if series.target_return is not None else np.zeros(len(own))
    lengths = [1] * len(own)
    return Evaluation([float(number + 1)] * len(own), played.tolist(), lengths, 0.0, 1.0, None)


class Tally:
    """What a procedure did in all calibrations at all limits; a level's return is its number."""

    def __init__(self) -> None:
        self.tried = dict.fromkeys(LIMITS, 0)
        self.wrong = dict.fromkeys(LIMITS, 0)
        self.certified = dict.fromkeys(LIMITS, 0)
        self.got: list[float] = []
        self.episodes = 0

    def add(self, limit: float, chosen: int | None, means: np.ndarray) -> None:
        """Count a choice; nothing certified returns nothing."""
        self.tried[limit] += 1
        self.certified[limit] += chosen is not None
        is_wrong = chosen is not None and bool(means[chosen] > limit)
        self.wrong[limit] += is_wrong
        within = np.flatnonzero(fixed_sequence(means <= limit))
        if len(within) and not is_wrong:
            self.got.append(0.0 if chosen is None else (chosen + 1) / (within[-1] + 1))

    def row(self, calibrations: int) -> dict[str, Any]:
        """Return rates in percent."""
        return {
            'violations': max(100 * self.wrong[at] / calibrations for at in LIMITS),
            'certified': {f'{at:g}': 100 * self.certified[at] / calibrations for at in LIMITS},
            'return_lost': 100 * (1 - statistics.fmean(self.got or [0.0])),
            'episodes': self.episodes / calibrations,
        }


def simulate(name: str, calibrations: int, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Calibrate policies of a family by each procedure."""
    tallies = {key: Tally() for key in (*_procedures(), 'shipped')}
    for number in range(calibrations):
        costs, means, worst = FAMILIES[name](np.random.default_rng([seed, number]), episodes)
        if name == 'rare 150, assumed 80':
            worst = 80.0
        for key, (bound, rule, most) in _procedures().items():
            played = costs[:, :most]
            tallies[key].episodes += played.size
            # The other bounds assume a worst cost; a level that has more fails.
            if bound is not student_t:
                played = np.minimum(played, worst)
            is_void = (bound is not student_t) & (costs.max(1) > worst)
            for limit in LIMITS:
                accepted = np.flatnonzero(rule(bound(played, limit, worst) & ~is_void))
                tallies[key].add(limit, accepted[-1] if len(accepted) else None, means)
        chosen, played = shipped((costs, means, worst), episodes)
        tallies['shipped'].episodes += played
        for limit, level in chosen.items():
            tallies['shipped'].add(limit, level, means)
    rows = {key: tally.row(calibrations) for key, tally in tallies.items()}
    return [{'family': name, 'procedure': key, **row} for key, row in rows.items()]


def _procedures() -> dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray], int]]:
    """Name bounds, rules, and how many episodes of each level they are given at most."""
    return {
        'before: t, any level, n=10': (student_t, any_that_passes, 10),
        't, any level': (student_t, any_that_passes, _ALL),
        **{name: (bound, fixed_sequence, _ALL) for name, bound in BOUNDS.items()},
    }


_ALL = 1_000_000


def main() -> None:
    """Run the simulation, print its table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--calibrations', type=int, default=1000)
    parser.add_argument('--episodes', type=int, default=calibration.DEFAULT_EPISODES)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    rows = []
    for name in FAMILIES:
        for row in simulate(name, options.calibrations, options.episodes, options.seed):
            rows.append(row)
            print(
                f'{name:26} {row["procedure"]:26} violations '
                f'{row["violations"]:5.1f} %, return lost {row["return_lost"]:5.1f} %, episodes '
                f'{row["episodes"]:5.0f}, certified {row["certified"]}',
                flush=True,
            )
    if options.json is not None:
        content = {
            'command': (
                f'python -m benchmarks.calibration_bounds --calibrations {options.calibrations} '
                f'--episodes {options.episodes} --seed {options.seed}'
            ),
            'versions': versions(),
            'date': time.strftime('%Y-%m-%d'),
            'calibrations': options.calibrations,
            'episodes': options.episodes,
            'seed': options.seed,
            'rows': rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
