# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Evaluation with return and cost fed back, in parallel environments."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from omnisafe.adapter import OfflineAdapter
from omnisafe.common.logger import Logger
from omnisafe.envs.core import CMDP, Wrapper, make
from omnisafe.envs.wrapper import ActionScale

from omnisafe_qpt.core.config import DeploymentConfig
from omnisafe_qpt.core.rollout import DeployableNetworks, RolloutPolicy
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.host.actor import QPTActor
from omnisafe_qpt.host.config import usable_cores
from omnisafe_qpt.host.plugin import unwrapped, without_auto_reset


def make_env(env_id: str, **kwargs: Any) -> CMDP:
    """Make one of OmniSafe's environments for evaluation.

    Actions are in [-1, 1], whatever the simulator's range. OmniSafe's own time limit, 1000 steps
    whatever the task, and its automatic resets are left out: the simulators keep the tasks'
    horizons themselves.

    Args:
        env_id (str): OmniSafe's environment id.

    Keyword Args:
        kwargs: Passed on, ``render_mode`` and so on.
    """
    env = without_auto_reset(make(env_id, num_envs=1, device=torch.device('cpu'), **kwargs))
    space = env.action_space
    if (space.low == -1.0).all() and (space.high == 1.0).all():
        return env  # scaling to the same range would only cost the last bits of small actions
    return ActionScale(env, device=torch.device('cpu'), low=-1.0, high=1.0)


def horizon_of(env: CMDP) -> int:
    """Return the number of steps after which the environment's task ends an episode.

    Raises:
        UserError: If the environment does not say.
    """
    horizon = unwrapped(env).max_episode_steps
    if not horizon:
        raise UserError('the environment has no max_episode_steps, which QPT needs as its horizon')
    return int(horizon)


class DeploymentEnv(Wrapper):
    """An environment that tells the actor what OmniSafe's evaluator does not.

    Args:
        env (CMDP): The environment.
        actor (QPTActor): Who acts in it.
        seed (int): Seed of the first episode; each further episode has the next one.
    """

    def __init__(self, env: CMDP, actor: QPTActor, seed: int) -> None:
        """Initialize an instance of :class:`DeploymentEnv`."""
        super().__init__(env)
        self._actor = actor
        self._next_seed = seed
        self._horizon = horizon_of(env)
        self._steps = 0

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start an episode, here and in the actor."""
        if seed is None:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        self._steps = 0
        obs, info = self._env.reset(seed=seed, options=options)
        self._actor.begin_episode(obs, seed)
        return obs, info

    def step(
        self,
        action: torch.Tensor,
    ) -> tuple[
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        dict[str, Any],
    ]:
        """Run one step and feed its reward and cost back."""
        obs, reward, cost, terminated, truncated, info = self._env.step(action)
        self._actor.observe(reward, cost)
        self._steps += 1
        truncated = torch.logical_or(truncated, torch.as_tensor(self._steps >= self._horizon))
        return obs, reward, cost, terminated, truncated, info


@dataclass(frozen=True)
class Evaluation:
    """What episodes of the deployed policy brought, in the order of their seeds.

    Args:
        returns (list[float]): Undiscounted reward of each episode.
        costs (list[float]): Undiscounted cost of each episode.
        lengths (list[int]): Steps of each episode.
        infeasible_share (float): Share of steps at which no candidate was feasible.
        steps_per_second (float): Environment steps over all processes and the time taken, the
            making of environments left out.
    """

    returns: list[float]
    costs: list[float]
    lengths: list[int]
    infeasible_share: float
    steps_per_second: float


def default_processes(episodes: int) -> int:
    """Return how many processes to evaluate in: one a core, at most one an episode."""
    return min(usable_cores(), episodes)


def evaluate(  # pylint: disable=too-many-arguments,too-many-locals
    networks: DeployableNetworks,
    env_id: str,
    config: DeploymentConfig,
    target_return: float,
    seeds: Sequence[int],
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run one episode of the deployed policy for each seed.

    A seed fixes the environment's episode and the candidates, so the same seeds give comparable
    episodes for other models, limits and numbers of processes. Neither the global random state
    nor the networks' training mode matters or is changed.

    Args:
        networks (DeployableNetworks): The trained model, on the device to use.
        env_id (str): OmniSafe's environment id.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float): Return to ask for.
        seeds (Sequence[int]): One for each episode.
        processes (int, optional): Environments run in parallel. Defaults to 1, in this process.
        on_progress (Callable, optional): Called with the steps done and the steps there will be
            at most. Defaults to None.
    """
    processes = min(processes, len(seeds))
    rollout = RolloutPolicy(networks, config, num_episodes=processes)
    episodes = [_Episode(seed) for seed in seeds]
    with _Environments(env_id, processes) as envs:
        started = time.perf_counter()
        waiting = list(reversed(episodes))
        running: list[_Episode | None] = [None] * processes
        observations = np.zeros((processes, *envs.observation_shape), dtype=np.float32)

        def begin(slots: list[int]) -> None:
            """Give each of these slots the next waiting episode, all resets at once."""
            new = {slot: waiting.pop() for slot in slots[: len(waiting)]}
            for slot in slots:
                running[slot] = new.get(slot)
            seeds = {slot: episode.seed for slot, episode in new.items()}
            rollout.reset(target_return, seeds=list(seeds.values()), episodes=list(seeds))
            for slot, observation in zip(new, envs.reset(seeds)):
                observations[slot] = observation

        begin(list(range(processes)))
        done_steps = 0
        while any(running):
            actions = rollout.act(observations).cpu().numpy()
            active = [slot for slot in range(processes) if running[slot] is not None]
            outcomes = envs.step({slot: actions[slot] for slot in active})
            rewards, costs = np.zeros(processes), np.zeros(processes)
            finished = []
            for slot, (observation, reward, cost, ended) in zip(active, outcomes):
                observations[slot], rewards[slot], costs[slot] = observation, reward, cost
                running[slot].add(reward, cost)
                if ended or running[slot].length >= envs.horizon:
                    finished.append(slot)
            rollout.observe(rewards, costs)
            done_steps += len(active)
            if finished:
                rollout.finish(finished)
                begin(finished)
            if on_progress is not None:
                unfinished = [episode for episode in (*running, *waiting) if episode is not None]
                left = sum(envs.horizon - episode.length for episode in unfinished)
                on_progress(done_steps, done_steps + left)
        seconds = time.perf_counter() - started
    return Evaluation(
        returns=[episode.total_reward for episode in episodes],
        costs=[episode.total_cost for episode in episodes],
        lengths=[episode.length for episode in episodes],
        infeasible_share=rollout.pop_infeasible_share(),
        steps_per_second=done_steps / seconds,
    )


class _Episode:
    """Sums of one episode."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.total_reward = 0.0
        self.total_cost = 0.0
        self.length = 0

    def add(self, reward: float, cost: float) -> None:
        """Take in one step."""
        self.total_reward += reward
        self.total_cost += cost
        self.length += 1


# ------------------------------------------------------------------ environments in processes

# What a step brings: observation, reward, cost, whether the episode has ended.
_Outcome = tuple[np.ndarray, float, float, bool]


class _LocalEnvironment:
    """One environment in this process."""

    def __init__(self, env_id: str) -> None:
        self._env = make_env(env_id)
        self.horizon = horizon_of(self._env)
        self.observation_shape = self._env.observation_space.shape

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode."""
        return self._env.reset(seed=seed)[0].numpy()

    def step(self, action: np.ndarray) -> _Outcome:
        """Run one step."""
        obs, reward, cost, terminated, truncated, _ = self._env.step(torch.from_numpy(action))
        return obs.numpy(), reward.item(), cost.item(), bool(terminated) or bool(truncated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _serve(connection: Connection, env_id: str) -> None:
    """Run one environment in a process of its own, until told to close."""
    torch.set_num_threads(1)
    try:
        env = _LocalEnvironment(env_id)
        connection.send((env.horizon, env.observation_shape))
        while True:
            command, argument = connection.recv()
            if command == 'close':
                env.close()
                return
            connection.send(getattr(env, command)(argument))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        message = str(error) if isinstance(error, UserError) else traceback.format_exc()
        connection.send(_WorkerError(message, isinstance(error, UserError)))


@dataclass(frozen=True)
class _WorkerError:
    message: str
    is_users: bool


class _Environments:
    """Several environments, in as many processes, or in this one where there is just one.

    ``reset`` and ``step`` take a dictionary of slot and argument, send all before they wait for
    any, and return a list in the same order.
    """

    def __init__(self, env_id: str, count: int) -> None:
        self._local = _LocalEnvironment(env_id) if count == 1 else None
        self._connections: list[Connection] = []
        self._workers: list[Any] = []
        if self._local is not None:
            self.horizon = self._local.horizon
            self.observation_shape = self._local.observation_shape
            return
        # A fork shares what is imported already, where importing OmniSafe anew takes seconds. The
        # children touch neither CUDA nor torch's thread pool.
        context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
        for _ in range(count):
            mine, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, env_id), daemon=True)
            worker.start()
            theirs.close()
            self._connections.append(mine)
            self._workers.append(worker)
        try:
            for connection in self._connections:
                self.horizon, self.observation_shape = self._receive(connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Environments:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments and end their processes."""
        if self._local is not None:
            self._local.close()
        for connection, worker in zip(self._connections, self._workers):
            with contextlib.suppress(OSError):  # it may have ended already
                connection.send(('close', None))
            worker.join(timeout=5)
            if worker.is_alive():
                worker.terminate()
            connection.close()

    def reset(self, seeds: dict[int, int]) -> list[np.ndarray]:
        """Start episodes in these slots."""
        return self._each('reset', seeds)

    def step(self, actions: dict[int, np.ndarray]) -> list[_Outcome]:
        """Run one step in these slots."""
        return self._each('step', actions)

    def _each(self, command: str, arguments: dict[int, Any]) -> list[Any]:
        if self._local is not None:
            return [getattr(self._local, command)(argument) for argument in arguments.values()]
        for slot, argument in arguments.items():
            self._connections[slot].send((command, argument))
        return [self._receive(self._connections[slot]) for slot in arguments]

    @staticmethod
    def _receive(connection: Connection) -> Any:
        try:
            answer = connection.recv()
        except EOFError as error:
            raise RuntimeError('a process running an environment ended unexpectedly') from error
        if isinstance(answer, _WorkerError):
            if answer.is_users:
                raise UserError(answer.message)
            raise RuntimeError(f'an environment failed in its process:\n{answer.message}')
        return answer


class QPTAdapter(OfflineAdapter):
    """OmniSafe's adapter for a policy that has to be told rewards, costs and resets.

    The environment of this process only serves its spaces and horizon; episodes run in
    environments of their own, made for each evaluation.
    """

    @property
    def horizon(self) -> int:
        """Steps in an episode of the task."""
        return horizon_of(self._env)

    def evaluate(  # pylint: disable=arguments-differ
        self,
        evaluate_epoisodes: int,
        agent: QPTActor,
        logger: Logger,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Evaluate the deployed policy and log its episodes.

        The seeds are the same at each evaluation, so that they can be compared.

        Args:
            evaluate_epoisodes (int): Number of episodes.
            agent (QPTActor): The policy.
            logger (Logger): Gets ``Metrics/EpRet``, ``EpCost`` and ``EpLen`` of each episode.
            on_progress (Callable, optional): See :func:`evaluate`. Defaults to None.
        """
        first_seed = evaluation_seed(self._cfgs.seed)
        evaluation = evaluate(
            agent.networks,
            self._env_id,
            agent.config,
            agent.target_return,
            seeds=range(first_seed, first_seed + evaluate_epoisodes),
            processes=self._processes(evaluate_epoisodes),
            on_progress=on_progress,
        )
        for ep_ret, ep_cost, ep_len in zip(
            evaluation.returns,
            evaluation.costs,
            evaluation.lengths,
        ):
            logger.store(
                {'Metrics/EpRet': ep_ret, 'Metrics/EpCost': ep_cost, 'Metrics/EpLen': ep_len},
            )
        return evaluation

    def _processes(self, episodes: int) -> int:
        processes = self._cfgs.train_cfgs.evaluate_processes
        return default_processes(episodes) if processes == 'auto' else int(processes)


def evaluation_seed(seed: int) -> int:
    """Return the seed of the first evaluation episode of a run with this seed.

    Seeds of different runs, 0, 1, 2 as a rule, are kept apart.
    """
    return 10_000 * (seed + 1)
