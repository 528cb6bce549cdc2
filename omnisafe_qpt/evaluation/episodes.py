# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0

"""Episodes of the deployed policy, several at the same time, with the same results every time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.envs.environments import EnvironmentSet
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable
from omnisafe_qpt.qpt.kernels import keep_freed_memory
from omnisafe_qpt.qpt.rollout import Choice
from omnisafe_qpt.qpt.selection import RULES
from omnisafe_qpt.settings.machine import usable_cores
from omnisafe_qpt.workers import Partial, RemoteObject


# Episodes, at most, in a call of the policy on a CPU: an environment takes up to 0.2 GB, and the
# fewer batches there are, the fewer cores find one.
_EPISODES_ON_CPU = 5
# Work, at most, in such a call: windows times steps times layers times squared width. The fixed
# cost of a call is about half of that, so that more would help less and less.
_WORK_ON_CPU = 2.5e6
# Batches come in multiples of this, so that two cores finish together.
_BATCHES_ON_CPU = 2

# Episodes at most in a call on another device, where more take hardly longer.
_EPISODES_ON_DEVICE = 16

_SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Evaluation:
    """What episodes of the deployed policy brought, in the order of their seeds.

    Args:
        returns (list[float]): Undiscounted reward of each episode.
        costs (list[float]): Undiscounted cost of each episode.
        lengths (list[int]): Steps of each episode.
        infeasible_share (float): Share of steps at which no candidate was feasible.
        steps_per_second (float): Environment steps of all that was evaluated together, by the time
            from the first reset to the last step; starting the processes is left out.
        traces (list[Trace] or None): Each episode step by step, if that was asked for.
    """

    returns: list[float]
    costs: list[float]
    lengths: list[int]
    infeasible_share: float
    steps_per_second: float
    traces: list[Trace] | None


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
        target_return (float or None): Return to ask for; None where the policy is not asked.
        seeds (Sequence[int]): One for each episode.
    """

    networks: Deployable
    config: DeploymentConfig
    target_return: float | None
    seeds: Sequence[int]

    @property
    def device(self) -> torch.device:
        """Where the policy acts."""
        return self.networks.device


def default_processes(episodes: int) -> int:
    """Return how many processes to evaluate in: one a core, at most one an episode."""
    return min(usable_cores(), episodes)


def evaluate(  # pylint: disable=too-many-arguments
    networks: Deployable,
    env_id: str,
    config: DeploymentConfig,
    target_return: float | None,
    seeds: Sequence[int],
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run one episode of the deployed policy for each seed; see :func:`evaluate_together`.

    Args:
        networks (Deployable): The trained model, on the device to use.
        env_id (str): OmniSafe's environment id.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Return to ask for; None where the policy is not asked.
        seeds (Sequence[int]): One for each episode.
        processes (int, optional): Processes that run episodes at the same time. Defaults to 1,
            which on a CPU is this one.
        on_progress (Callable, optional): Called with the steps done and the steps there will be
            at most. Defaults to None.

    Raises:
        UserError: If the environment refuses, or a process of an environment has ended.
        RuntimeError: If an environment failed in its process.
    """

    def report(done: int, total: int, _: int) -> None:
        if on_progress is not None:
            on_progress(done, total)

    series = Series(networks, config, target_return, seeds)
    return evaluate_together(env_id, [series], processes, on_progress=report)[0]


def evaluate_together(
    env_id: str,
    series: Sequence[Series],
    processes: int = 1,
    traced: bool = False,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> list[Evaluation]:
    """Run several series of episodes in the same processes, whose simulators are made once.

    A seed fixes the environment's episode and the candidates, so the same seeds give comparable
    episodes for other models and limits. Which episodes share the policy's calls follows from how
    many their series has, so a series gives the same bits again, in however many processes,
    whichever of them is ahead, and whatever other series there are: that is why episodes of
    different limits never share a call. Neither the global random state nor the networks' training
    mode matters or is changed.

    Args:
        env_id (str): OmniSafe's environment id.
        series (Sequence[Series]): What to run, all with networks on the same device.
        processes (int, optional): Processes that run episodes at the same time. Defaults to 1,
            which on a CPU is this one.
        traced (bool, optional): Whether to keep the episodes step by step. Defaults to False.
        on_progress (Callable, optional): Called with the steps done, the steps there will be at
            most, and the number of the first series that is not complete. Defaults to None.

    Returns:
        What each series brought.

    Raises:
        UserError: If the environment refuses, or a process of an environment has ended.
        RuntimeError: If an environment failed in its process.
    """
    batches = _planned(series, [each.seeds for each in series])
    processes = min(processes, _most_processes(batches, series[0].device))
    with episode_pool(env_id, series, processes, traced) as pool:
        return pool.play_batches(batches, on_progress)


@contextmanager
def episode_pool(
    env_id: str,
    series: Sequence[Series],
    processes: int = 1,
    traced: bool = False,
) -> Iterator[EpisodePool]:
    """Start the processes and simulators of :func:`evaluate_together`, for several rounds.

    Args:
        env_id (str): OmniSafe's environment id.
        series (Sequence[Series]): All that may be played; their own seeds do not matter.
        processes (int, optional): See :func:`evaluate_together`. Defaults to 1.
        traced (bool, optional): See :func:`evaluate_together`. Defaults to False.

    Yields:
        The pool, which stays ready between rounds and ends with the ``with`` block.
    """
    with _stage(_Setting(env_id, series, traced), processes) as (horizon, hand_out):
        yield EpisodePool(series, horizon, hand_out)


class EpisodePool:
    """Plays rounds of episodes in processes that are started once; see :func:`episode_pool`.

    Args:
        series (Sequence[Series]): What may be played.
        horizon (int): Steps of an episode at most.
        hand_out (Callable): Plays batches and tells what happens.
    """

    def __init__(
        self,
        series: Sequence[Series],
        horizon: int,
        hand_out: _HandOut,
    ) -> None:
        """Initialize an instance of :class:`EpisodePool`."""
        self.horizon = horizon
        self._series = series
        self._hand_out = hand_out

    def play(
        self,
        seeds: Sequence[Sequence[int]],
        on_progress: Callable[[int, int, int], None] | None = None,
    ) -> list[Evaluation | None]:
        """Run a round.

        Args:
            seeds (Sequence[Sequence[int]]): Those of each series in this round.
            on_progress (Callable, optional): See :func:`evaluate_together`. Defaults to None.

        Returns:
            What each series brought in this round; None where it had no seeds.
        """
        return self.play_batches(_planned(self._series, seeds), on_progress)

    def play_batches(
        self,
        batches: list[_Batch],
        on_progress: Callable[[int, int, int], None] | None = None,
    ) -> list[Evaluation | None]:
        """Run a round that is shared out among calls of the policies; see :meth:`play`."""
        played: dict[int, _Played] = {}
        started = time.perf_counter()
        done, total = 0, self.horizon * sum(len(batch.seeds) for batch in batches)
        first = 0  # of the batches that are not complete
        for number, event in self._hand_out(batches):
            if isinstance(event, _Played):
                played[number] = event
                while first in played:
                    first += 1
                continue
            done, total = done + event.steps, total - event.spared
            if on_progress is not None and event.steps:
                on_progress(done, total, batches[first].series)
        speed = done / (time.perf_counter() - started)
        found: list[list[_Played]] = [[] for _ in self._series]
        for number, batch in enumerate(batches):
            found[batch.series].append(played[number])
        return [_evaluation(each, speed) if each else None for each in found]


@dataclass(frozen=True)
class _Setting:
    """What all batches have in common."""

    env_id: str
    series: Sequence[Series]
    traced: bool = False


@dataclass(frozen=True)
class _Batch:
    """Episodes that share the policy's calls: the number of their series, and their seeds."""

    series: int
    seeds: list[int]


@dataclass(frozen=True)
class _Progress:
    """Steps done since the last report, and steps that will not be done because episodes ended."""

    steps: int = 0
    spared: int = 0


@dataclass(frozen=True)
class _Played:
    """What the episodes of a batch brought."""

    returns: list[float]
    costs: list[float]
    lengths: list[int]
    infeasible_share: float
    traces: list[Trace] | None


# What happens while batches are played: the number of the batch, and the news of it.
_Events = Iterator[tuple[int, '_Progress | _Played']]
# What plays batches.
_HandOut = Callable[[list[_Batch]], _Events]


def _planned(series: Sequence[Series], seeds: Sequence[Sequence[int]]) -> list[_Batch]:
    """Share the episodes of a round out among calls of the policies."""
    return [
        _Batch(number, part)
        for number, (each, own) in enumerate(zip(series, seeds))
        if len(own)
        for part in _batches(own, each)
    ]


def _most_processes(batches: list[_Batch], device: torch.device) -> int:
    """Return how many processes find work at the same time."""
    if device.type == 'cpu':
        return len(batches)
    return sum(sorted(len(batch.seeds) for batch in batches)[-2:])  # two batches take turns


def _batches(
    seeds: Sequence[int],
    series: Series,
) -> list[list[int]]:
    """Share the episodes of a series out among calls of the policy.

    Results differ in the last bits with the size of a batch: it must not depend on the machine's
    cores, or the same seeds would bring other episodes elsewhere.
    """
    if series.device.type == 'cpu':
        largest = min(_EPISODES_ON_CPU, max(1, int(_WORK_ON_CPU / _work(series))))
        multiple = _BATCHES_ON_CPU
    else:
        largest, multiple = _EPISODES_ON_DEVICE, 2  # two batches take turns
    count = min(len(seeds), multiple * math.ceil(len(seeds) / (multiple * largest)))
    return [part.tolist() for part in np.array_split(np.asarray(seeds), count)]


def _work(series: Series) -> int:
    """Return the work of the policy for a step of an episode, in the unit of ``_WORK_ON_CPU``."""
    policy, config = series.networks.spec.get('policy'), series.config
    if policy is None:  # it acts on the observation alone
        return 1
    windows = config.candidates if config.candidate_shift == 'history' else 1
    steps = RULES[config.rule].steps(policy['context_len'])
    return windows * steps * policy['num_layers'] * policy['embed_dim'] ** 2


def _evaluation(played: list[_Played], steps_per_second: float) -> Evaluation:
    infeasible_steps = sum(batch.infeasible_share * sum(batch.lengths) for batch in played)
    return Evaluation(
        returns=[value for batch in played for value in batch.returns],
        costs=[value for batch in played for value in batch.costs],
        lengths=[value for batch in played for value in batch.lengths],
        infeasible_share=infeasible_steps / sum(sum(batch.lengths) for batch in played),
        steps_per_second=steps_per_second,
        traces=None if played[0].traces is None else [each for b in played for each in b.traces],
    )


def _stage(
    setting: _Setting,
    processes: int,
) -> AbstractContextManager[tuple[int, _HandOut]]:
    """Choose how to play: a context that gives the horizon and what plays batches."""
    if setting.series[0].device.type != 'cpu':
        return _playing_in_turns(setting, processes)
    if processes == 1:
        return _playing_here(setting)
    return _playing_in_processes(setting, processes)


# -- policy and simulators in the same process: on a CPU ------------------------------------------
#
# Each process plays whole batches: its core always has something to do, a reset or a step of a
# simulator or the policy, and nothing has to be sent at each step.


class _Player:
    """Plays batches in this process."""

    def __init__(self, setting: _Setting) -> None:
        keep_freed_memory()
        self._setting = setting
        self._environments = EnvironmentSet(setting.env_id)
        self.horizon = self._environments.horizon

    def play(self, batch: _Batch) -> Generator[_Progress, None, _Played]:
        """Run the episodes of a batch; a report from time to time."""
        seats = _Seats(self._environments)
        return (yield from _now_and_then(_play(self._setting, seats, self.horizon, batch)))

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


@contextmanager
def _playing_here(setting: _Setting) -> Iterator[tuple[int, _HandOut]]:
    """Play one batch after the other in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in other processes: more might add up in another order
    try:
        with closing(_Player(setting)) as player:
            yield player.horizon, partial(_play_all, player)
    finally:
        torch.set_num_threads(threads)


def _play_all(player: _Player, batches: list[_Batch]) -> _Events:
    for number, batch in enumerate(batches):
        playing = player.play(batch)
        while True:
            try:
                yield number, next(playing)
            except StopIteration as end:
                yield number, end.value
                break


@contextmanager
def _playing_in_processes(
    setting: _Setting,
    processes: int,
) -> Iterator[tuple[int, _HandOut]]:
    """Play batches in several processes, each the next one as soon as it is free."""
    with ExitStack() as stack:
        crew = _crew(stack, partial(_Player, setting), processes)
        yield _horizon_of(crew), partial(_hand_out, crew)


def _hand_out(crew: list[RemoteObject], batches: list[_Batch]) -> _Events:
    waiting = deque(enumerate(batches))
    busy: dict[Any, tuple[RemoteObject, int]] = {}

    def begin(player: RemoteObject) -> None:
        if waiting:
            number, batch = waiting.popleft()
            player.ask('play', batch)
            busy[player.connection] = (player, number)

    for player in crew:
        begin(player)
    while busy:
        for connection in wait(list(busy)):
            player, number = busy[connection]
            answer = player.answer()
            if isinstance(answer, Partial):
                yield number, answer.value
            else:
                del busy[connection]
                begin(player)
                yield number, answer


def _crew(stack: ExitStack, build: Callable[[], Any], processes: int) -> list[RemoteObject]:
    return [stack.enter_context(RemoteObject(build)) for _ in range(processes)]


def _horizon_of(crew: list[RemoteObject]) -> int:
    """Wait until all are ready."""
    for remote in crew:
        remote.ask('horizon')
    answers = [remote.answer() for remote in crew]
    return answers[0]


# -- policy here, simulators in other processes: on other devices ---------------------------------


@contextmanager
def _playing_in_turns(
    setting: _Setting,
    processes: int,
) -> Iterator[tuple[int, _HandOut]]:
    """Play two batches at a time: while the policy acts for one, the other's simulators run."""
    with ExitStack() as stack:
        crew = _crew(stack, partial(EnvironmentSet, setting.env_id), processes)
        horizon = _horizon_of(crew)
        yield horizon, partial(_take_turns, setting, crew, horizon)


def _take_turns(
    setting: _Setting,
    crew: list[RemoteObject],
    horizon: int,
    batches: list[_Batch],
) -> _Events:
    size = max(len(batch.seeds) for batch in batches)
    free = [_RemoteSeats(crew, 0), _RemoteSeats(crew, size)]
    waiting = deque(enumerate(batches))
    playing: deque[tuple[int, Any, _RemoteSeats]] = deque()
    while waiting or playing:
        while waiting and free:
            number, batch = waiting.popleft()
            seats = free.pop()
            playing.append((number, _play(setting, seats, horizon, batch), seats))
        number, play, seats = playing.popleft()
        try:
            progress = next(play)
        except StopIteration as end:
            free.append(seats)
            yield number, end.value
        else:
            playing.append((number, play, seats))
            yield number, progress


class _RemoteSeats:
    """The environments of a batch, spread over processes.

    Args:
        crew (list[RemoteObject]): An :class:`EnvironmentSet` each.
        first (int): Number of the batch's first environment; others have the numbers before.
    """

    def __init__(self, crew: list[RemoteObject], first: int) -> None:
        self._crew = crew
        self._first = first
        self._asked: list[tuple[RemoteObject, list[int]]] = []

    def ask(self, name: str, arguments: dict[int, Any]) -> None:
        """Call a method with a row's argument for each row; one message to a process."""
        for index, environments in enumerate(self._crew):
            rows = [row for row in arguments if (self._first + row) % len(self._crew) == index]
            if rows:
                environments.ask(name, {self._first + row: arguments[row] for row in rows})
                self._asked.append((environments, rows))

    def answers(self) -> list[Any]:
        """Wait for the answers, in the order of the rows."""
        by_row = {}
        for environments, rows in self._asked:
            by_row.update(zip(rows, environments.answer()))
        self._asked = []
        return [by_row[row] for row in sorted(by_row)]


# -- one batch ------------------------------------------------------------------------------------


class _Seats:
    """The environments of a batch, in this process."""

    def __init__(self, environments: EnvironmentSet) -> None:
        self._environments = environments
        self._answers: list[Any] = []

    def ask(self, name: str, arguments: dict[int, Any]) -> None:
        """Call a method with a row's argument for each row."""
        self._answers = getattr(self._environments, name)(arguments)

    def answers(self) -> list[Any]:
        """Return the answers, in the order of the rows."""
        return self._answers


def _play(
    setting: _Setting,
    seats: _Seats | _RemoteSeats,
    horizon: int,
    batch: _Batch,
) -> Generator[_Progress, None, _Played]:
    """Run the episodes of a batch, all in step: a report whenever the simulators are to work.

    An episode that has ended keeps its row in the policy's batch, whose size decides the bits.
    """
    series, count = setting.series[batch.series], len(batch.seeds)
    policy = series.networks.deploy(series.config, num_episodes=count)
    policy.reset(series.target_return, seeds=batch.seeds)
    returns, costs, lengths = np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    traces = [_empty_trace() for _ in batch.seeds] if setting.traced else None
    seats.ask('reset', dict(enumerate(batch.seeds)))
    yield _Progress()
    observations = np.stack(seats.answers())
    running, progress = list(range(count)), _Progress()
    while running:
        actions = policy.act(observations).cpu().numpy()
        seats.ask('step', {row: actions[row] for row in running})
        yield progress
        step_rewards, step_costs, ended = np.zeros(count), np.zeros(count), []
        for row, (observation, reward, cost, has_ended) in zip(running, seats.answers()):
            observations[row], step_rewards[row], step_costs[row] = observation, reward, cost
            lengths[row] += 1
            if has_ended or lengths[row] >= horizon:
                ended.append(row)
        if traces is not None:
            _record(traces, running, actions, step_rewards, step_costs, policy.choice)
        policy.observe(step_rewards, step_costs)
        returns += step_rewards
        costs += step_costs
        progress = _Progress(len(running), sum(horizon - int(lengths[row]) for row in ended))
        if ended:
            policy.finish(ended)
            running = [row for row in running if row not in ended]
    yield progress
    share = policy.pop_infeasible_share()
    return _Played(returns.tolist(), costs.tolist(), lengths.tolist(), share, traces)


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
    """Add a step to the traces of the episodes that are going on."""
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


def _now_and_then(
    reports: Generator[_Progress, None, _Played],
) -> Generator[_Progress, None, _Played]:
    """Add reports up and pass on the sum from time to time."""
    steps = spared = 0
    last = time.monotonic()
    while True:
        try:
            report = next(reports)
        except StopIteration as end:
            yield _Progress(steps, spared)
            return end.value
        steps, spared = steps + report.steps, spared + report.spared
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            yield _Progress(steps, spared)
            steps, spared, last = 0, 0, time.monotonic()
