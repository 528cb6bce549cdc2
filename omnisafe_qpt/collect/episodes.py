# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes: how one is run, recorded and laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from omnisafe_qpt.collect.agent_controller import AgentController
from omnisafe_qpt.collect.agents import SCRIPTED_ONLY, Mixture
from omnisafe_qpt.collect.controller import Controller
from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.collect.simulator import Simulator
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.workers import WorkerDied, worker_pool


# Mantissa bits that a float32 has besides the leading one.
FLOAT32_BITS = 23


@dataclass(frozen=True)
class Episode:
    """One recorded episode of L steps.

    Args:
        number (int): Its number in the collection, which with the recipe decides everything in it.
        kind (str): The kind of its controller.
        states (np.ndarray): Shape (L + 1, S), the final observation included.
        actions (np.ndarray): Shape (L, A).
        rewards (np.ndarray): Shape (L,).
        costs (np.ndarray): Shape (L,).
        terminated (bool): Whether it ended in a terminal state rather than at the time limit.
    """

    number: int
    kind: str
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminated: bool

    @cached_property
    def total_return(self) -> float:
        """The sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @cached_property
    def total_cost(self) -> float:
        """The sum of the costs."""
        return float(self.costs.sum(dtype=np.float64))

    def columns(self) -> dict[str, np.ndarray]:
        """Lay the episode out as DSRL does.

        Returns:
            Arrays of L rows under DSRL's names, float32 and bool.
        """
        last = np.arange(len(self.rewards)) == len(self.rewards) - 1
        return {
            'observations': self.states[:-1],
            'next_observations': self.states[1:],
            'actions': self.actions,
            'rewards': self.rewards,
            'costs': self.costs,
            'terminals': last & self.terminated,
            'timeouts': last & (not self.terminated),
        }


@dataclass(frozen=True)
class Recipe:
    """What decides an episode, besides its number.

    Args:
        env_id (str): Environment id.
        seed (int): Seed of the collection.
        precision (int, optional): Mantissa bits kept in observations and actions. Defaults to 23.
        max_steps (int, optional): Steps after which an episode is cut. Defaults to None, the
            task's horizon.
        mixture (Mixture, optional): Who acts. Defaults to the scripted controllers alone.
    """

    env_id: str
    seed: int
    precision: int = FLOAT32_BITS
    max_steps: int | None = None
    mixture: Mixture = SCRIPTED_ONLY


class Recorder:
    """Runs and records the episodes of a recipe, in any order.

    Args:
        recipe (Recipe): What decides the episodes, each with its number.
        on_step (Callable, optional): Called before each step; what it raises ends the episode.
            Defaults to None.
    """

    def __init__(self, recipe: Recipe, on_step: Callable[[], None] | None = None) -> None:
        """Initialize an instance of :class:`Recorder`."""
        self._recipe = recipe
        self._on_step = on_step or (lambda: None)
        self._simulator: Simulator | None = None

    def close(self) -> None:
        """Close the simulator; the next episode starts another one."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def record(self, number: int) -> Episode:
        """Run and record one episode.

        Args:
            number (int): Its number in the collection.

        Returns:
            The episode.

        Raises:
            UserError: If the simulator is not there or a policy cannot be loaded.
        """
        import torch

        if self._simulator is not None and not self._simulator.forgets:
            self.close()
        if self._simulator is None:
            self._simulator = Simulator(self._recipe.env_id)
        # Policies draw from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            return _run(self._recipe, number, self._simulator, self._on_step)


def _run(
    recipe: Recipe,
    number: int,
    simulator: Simulator,
    on_step: Callable[[], None],
) -> Episode:
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, number]))
    env_seed = int(rng.integers(2**31))
    steps = recipe.max_steps or simulator.horizon
    states = [round_mantissa(simulator.reset(env_seed), recipe.precision)]
    controller = _make_controller(recipe, number, rng, simulator, steps)
    observe = getattr(controller, 'observe', None)
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    costs: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < steps:
        on_step()
        action = controller.act(states[-1], len(actions))
        actions.append(round_mantissa(np.clip(action, -1.0, 1.0), recipe.precision))
        observation, reward, cost, terminated, truncated = simulator.step(actions[-1])
        if observe is not None:
            observe(reward, cost)
        states.append(round_mantissa(observation, recipe.precision))
        rewards.append(reward)
        costs.append(cost)
    return Episode(
        number=number,
        kind=controller.kind,
        states=np.stack(states),
        actions=np.stack(actions),
        rewards=np.array(rewards, dtype=np.float32),
        costs=np.array(costs, dtype=np.float32),
        terminated=bool(terminated),
    )


def _make_controller(
    recipe: Recipe,
    number: int,
    rng: np.random.Generator,
    simulator: Simulator,
    steps: int,
) -> Controller:
    """Draw who acts in an episode.

    The draws for the mixture are apart from the others, so that a scripted episode is the same in
    any mixture.
    """
    draws = np.random.default_rng(np.random.SeedSequence([recipe.seed, number], spawn_key=(1,)))
    if draws.random() < recipe.mixture.scripted_share:
        return FAMILIES[recipe.env_id].make_controller(rng, simulator, steps)
    return AgentController(recipe.mixture, draws, simulator, steps)


def run_episodes(
    recipe: Recipe,
    numbers: Sequence[int],
    processes: int,
    check: Callable[[], None] | None = None,
) -> Iterator[Episode]:
    """Run episodes in several processes, or in this one where one is enough.

    Args:
        recipe (Recipe): What decides the episodes.
        numbers (Sequence[int]): Their numbers.
        processes (int): Processes at most.
        check (Callable, optional): Called now and then; what it raises ends the episodes. Defaults
            to None.

    Yields:
        The episodes, each as soon as it is finished.

    Raises:
        UserError: If a process dies, or an episode meets an error that the user can fix.
        RuntimeError: If an episode fails otherwise.
    """
    processes = min(processes, len(numbers))
    if processes > 1:
        # Once for all: the workers are forked with it.
        import omnisafe  # noqa: F401

        import omnisafe_qpt.envs.environments  # noqa: F401
    build = partial(Recorder, recipe, check if processes <= 1 else None)
    try:
        with worker_pool(build, processes) as pool:
            for _, episode in pool.dispatch('record', numbers, check):
                yield episode
    except WorkerDied as error:
        raise UserError(
            f'{error}; the same command goes on with the finished episodes, also with fewer '
            '--workers',
        ) from error


def run_episode(
    env_id: str,
    seed: int,
    number: int,
    precision: int = FLOAT32_BITS,
    max_steps: int | None = None,
) -> Episode:
    """Run and record one episode of a collection with scripted controllers.

    Args:
        env_id (str): Environment id.
        seed (int): Seed of the collection.
        number (int): Number of the episode in it.
        precision (int, optional): Mantissa bits kept in observations and actions. Defaults to 23.
        max_steps (int, optional): Steps after which the episode is cut. Defaults to the task's
            horizon.

    Returns:
        The episode.
    """
    with closing(Recorder(Recipe(env_id, seed, precision, max_steps))) as recorder:
        return recorder.record(number)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 numbers to so many mantissa bits, ties to even.

    The relative error is at most 2 ** -(bits + 1), and the freed bits are zeros, which compress.

    Args:
        values (np.ndarray): Finite numbers.
        bits (int): Mantissa bits to keep, 23 keeps all.

    Returns:
        A float32 array of the same shape.
    """
    rounded = np.array(values, dtype=np.float32)
    if bits == FLOAT32_BITS:
        return rounded
    shift = np.uint32(FLOAT32_BITS - bits)
    raw = rounded.view(np.uint32)
    # A carry out of the mantissa rightly raises the exponent: the fields are adjacent.
    raw += (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1) + ((raw >> shift) & np.uint32(1))
    raw &= ~((np.uint32(1) << shift) - np.uint32(1))
    return rounded
