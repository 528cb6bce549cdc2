# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""One batch of episodes: they share the calls of the policy, and end one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.envs.environments import EnvironmentSet
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.qpt.rollout import Choice
from omnisafe_qpt.workers import Worker


# A list for each of: `actions`, `rewards`, `costs`; `chosen`, the candidate's number; `shift` of
# its return target, in returns; `feasible`, whether any candidate fitted; `cost_value` of the
# chosen action, in units of cost. The last two are None where there is one candidate.
Trace = dict[str, list[Any]]


@dataclass(frozen=True)
class Series:
    """Episodes of one policy with one pair of targets.

    Args:
        networks (Deployable): The trained model, on the device to use.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Target return; None where the policy takes none.
        seeds (Sequence[int]): One for each episode.
    """

    networks: Deployable
    config: DeploymentConfig
    target_return: float | None
    seeds: Sequence[int]

    @property
    def device(self) -> torch.device:
        """The policy's device."""
        return self.networks.device


@dataclass(frozen=True)
class Batch:
    """Episodes that share the policy's calls: the number of their series, and their seeds."""

    series: int
    seeds: list[int]


@dataclass(frozen=True)
class Progress:
    """Steps done since the last report, and steps that are left out because episodes ended."""

    steps: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class BatchResult:
    """The episodes of a batch, in the order of their seeds; see ``Evaluation``."""

    returns: list[float]
    costs: list[float]
    lengths: list[int]
    infeasible_share: float
    traces: list[Trace] | None


# -- environments of a batch ----------------------------------------------------------------------


class EnvSlots:
    """The environments of a batch in this process, one for each row.

    Args:
        environments (EnvironmentSet): The environments.
    """

    def __init__(self, environments: EnvironmentSet) -> None:
        """Initialize an instance of :class:`EnvSlots`."""
        self._environments = environments
        self._results: list[Any] = []

    def submit(self, name: str, arguments: dict[int, Any]) -> None:
        """Call a method of each row's environment, with the argument of the row."""
        self._results = getattr(self._environments, name)(arguments)

    def results(self) -> list[Any]:
        """Return the results in the order of the rows."""
        return self._results


class RemoteEnvSlots:
    """The environments of a batch in worker processes; see :class:`EnvSlots`.

    Args:
        workers (list[Worker]): An :class:`EnvironmentSet` each.
        first (int): Number of the environment of row 0. Other batches use other numbers.
    """

    def __init__(self, workers: list[Worker], first: int) -> None:
        """Initialize an instance of :class:`RemoteEnvSlots`."""
        self._workers = workers
        self._first = first
        self._pending: list[tuple[Worker, list[int]]] = []

    def submit(self, name: str, arguments: dict[int, Any]) -> None:
        """Call a method of each row's environment; each worker gets one message."""
        for index, worker in enumerate(self._workers):
            rows = [row for row in arguments if (self._first + row) % len(self._workers) == index]
            if rows:
                worker.submit(name, {self._first + row: arguments[row] for row in rows})
                self._pending.append((worker, rows))

    def results(self) -> list[Any]:
        """Wait for the results, and return them in the order of the rows."""
        by_row: dict[int, Any] = {}
        for worker, rows in self._pending:
            by_row.update(zip(rows, worker.result()))
        self._pending = []
        return [by_row[row] for row in sorted(by_row)]


# -- running a batch ------------------------------------------------------------------------------


def run_batch(
    series: Series,
    seeds: Sequence[int],
    slots: EnvSlots | RemoteEnvSlots,
    horizon: int,
    traced: bool,
) -> Generator[Progress, None, BatchResult]:
    """Run the episodes of a batch, all in step.

    An episode that has ended keeps its row in the policy's batch, as the results depend on the
    batch size in their last bits.

    Args:
        series (Series): Policy and targets.
        seeds (Sequence[int]): One for each episode.
        slots (EnvSlots or RemoteEnvSlots): The environments.
        horizon (int): Most steps of an episode.
        traced (bool): Whether to record the episodes step by step.

    Yields:
        Progress, whenever the simulators have been told to work.
    """
    count = len(seeds)
    policy = series.networks.deploy(series.config, num_episodes=count)
    policy.reset(series.target_return, seeds=seeds)
    returns, costs, lengths = np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    traces = [_empty_trace() for _ in seeds] if traced else None
    slots.submit('reset', dict(enumerate(seeds)))
    yield Progress()
    observations = np.stack(slots.results())
    running, progress = list(range(count)), Progress()
    while running:
        actions = policy.act(observations).cpu().numpy()
        slots.submit('step', {row: actions[row] for row in running})
        yield progress
        step_rewards, step_costs, ended = np.zeros(count), np.zeros(count), []
        for row, (observation, reward, cost, has_ended) in zip(running, slots.results()):
            observations[row], step_rewards[row], step_costs[row] = observation, reward, cost
            lengths[row] += 1
            if has_ended or lengths[row] >= horizon:
                ended.append(row)
        if traces is not None:
            _record(traces, running, actions, step_rewards, step_costs, policy.choice)
        policy.observe(step_rewards, step_costs)
        returns += step_rewards
        costs += step_costs
        progress = Progress(len(running), sum(horizon - int(lengths[row]) for row in ended))
        if ended:
            policy.finish(ended)
            running = [row for row in running if row not in ended]
    yield progress
    share = policy.pop_infeasible_share()
    return BatchResult(returns.tolist(), costs.tolist(), lengths.tolist(), share, traces)


def _empty_trace() -> Trace:
    names = ('actions', 'rewards', 'costs', 'chosen', 'shift', 'feasible', 'cost_value')
    return {name: [] for name in names}


def _record(
    traces: list[Trace],
    rows: list[int],
    actions: np.ndarray,
    rewards: np.ndarray,
    costs: np.ndarray,
    choice: Choice | None,
) -> None:
    """Add a step to the traces of the running episodes."""
    step = {'actions': actions.tolist(), 'rewards': rewards.tolist(), 'costs': costs.tolist()}
    if choice is None:
        nothing = [None] * len(rewards)
        step |= {'chosen': [0] * len(rewards), 'shift': [0.0] * len(rewards)}
        step |= {'feasible': nothing, 'cost_value': nothing}
    else:
        step |= {
            'chosen': choice.candidate.tolist(),
            'shift': choice.shift.tolist(),
            'feasible': choice.feasible.tolist(),
            'cost_value': choice.cost_value.tolist(),
        }
    for row in rows:
        for name, values in step.items():
            traces[row][name].append(values[row])
