# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies as controllers: drawn from a mixture, with noise and switches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from omnisafe_qpt.collect.agents import Agent, Mixture, read_run_config
from omnisafe_qpt.collect.disturbance import Disturbance
from omnisafe_qpt.errors import UserError, first_line


if TYPE_CHECKING:
    import torch

    from omnisafe_qpt.collect.simulator import Simulator


# Decay of the slow noise per step (Ornstein-Uhlenbeck).
_FORGETTING = 0.15


class AgentController:
    """Trained policies in one episode: a draw from a mixture, and possibly a second one later.

    Args:
        mixture (Mixture): The mixture.
        draws (np.random.Generator): The episode's own generator.
        simulator (Simulator): The simulator, for its spaces.
        steps (int): Steps in the episode.
    """

    def __init__(
        self,
        mixture: Mixture,
        draws: np.random.Generator,
        simulator: Simulator,
        steps: int,
    ) -> None:
        """Initialize an instance of :class:`AgentController`."""
        import torch

        torch.manual_seed(int(draws.integers(2**31)))
        switches = draws.random() < mixture.switch
        # Log-uniform, as weak policies end an episode early.
        step = int(steps ** draws.random())
        self._switch_step = step if switches else None
        self._behaviours = [_Behaviour(mixture, draws, simulator) for _ in range(2)]
        self._current = self._behaviours.pop(0)
        self.kind = self._current.label

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        if step == self._switch_step:
            self._current = self._behaviours.pop(0)
            self.kind += f' then {self._current.label}'
        return self._current.act(observation)

    def observe(self, reward: float, cost: float) -> None:
        """Record the reward and the cost of the last action."""
        self._current.policy.observe(reward, cost)


class _Behaviour:
    """An agent drawn from a mixture, with its noise."""

    def __init__(
        self,
        mixture: Mixture,
        draws: np.random.Generator,
        simulator: Simulator,
    ) -> None:
        weights = np.array([agent.weight for agent in mixture.agents])
        agent = mixture.agents[draws.choice(len(weights), p=weights / weights.sum())]
        self.label = agent.label
        self._samples = bool(draws.random() < mixture.sample)
        deviation = draws.uniform(0.0, mixture.noise)
        persistence = 1.0 - _FORGETTING if draws.random() < 0.5 else 0.0
        self._disturbance = Disturbance(
            np.random.default_rng(draws.integers(2**63)),
            simulator.action_space.shape[0],
            deviation,
            persistence,
        )
        self._seed = int(draws.integers(2**31))
        self._agent, self._simulator = agent, simulator
        self._policy: _Policy | None = None

    @property
    def policy(self) -> _Policy:
        """The policy, loaded and reset on first use."""
        if self._policy is None:
            self._policy = _load_policy(self._agent, self._simulator)
            self._policy.begin(self._seed)
        return self._policy

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return the policy's action with noise on it, shape (A,)."""
        return self._disturbance.disturb(self.policy.act(observation, self._samples))


class _Policy(Protocol):
    """Interface of a trained policy over successive episodes."""

    def begin(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        """Return the action, shape (A,), drawn from the policy's distribution or its mean."""

    def observe(self, reward: float, cost: float) -> None:
        """Record the reward and the cost of the last action."""


def _load_policy(agent: Agent, simulator: Simulator) -> _Policy:
    sizes = (simulator.observation_space.shape[0], simulator.action_space.shape[0])
    return _load_cached(agent.algorithm, agent.checkpoint, *sizes)


@lru_cache(maxsize=16)
def _load_cached(algorithm: str, checkpoint: str, obs_dim: int, act_dim: int) -> _Policy:
    import torch

    from omnisafe_qpt.algorithms import ALGORITHMS

    # Networks draw initial weights; an episode must not depend on whether it loads them.
    with torch.random.fork_rng(devices=[]):
        if algorithm in ALGORITHMS:
            return _OwnPolicy(checkpoint)
        return _OmniSafePolicy(checkpoint, obs_dim, act_dim)


class _OwnPolicy:
    """A run of one of this package's algorithms at its own cost limit."""

    def __init__(self, checkpoint: str) -> None:
        from omnisafe_qpt.evaluation.deployment import load_policy

        self._policy = load_policy(checkpoint, device='cpu')

    def begin(self, seed: int) -> None:
        self._policy.reset(seed)

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        del samples  # its actions have no distribution
        return self._policy.act(observation)

    def observe(self, reward: float, cost: float) -> None:
        self._policy.observe(reward, cost)


class _OmniSafePolicy:
    """A run of one of OmniSafe's own algorithms.

    Args:
        checkpoint (str): ``torch_save/epoch-N.pt`` in the run's folder.
        obs_dim (int): S.
        act_dim (int): A.
    """

    def __init__(self, checkpoint: str, obs_dim: int, act_dim: int) -> None:
        from omnisafe_qpt.compat import frozen_normalizer, load_actor
        from omnisafe_qpt.runs.checkpoint import load_file

        path = Path(checkpoint)
        config = read_run_config(path.parent.parent)
        content = load_file(path)
        self._normalize: Callable[[torch.Tensor], torch.Tensor] = frozen_normalizer(content)
        try:
            self._budget = _SafetyBudget.of(config)
            self._actor = load_actor(config, content, obs_dim + bool(self._budget), act_dim)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            reason = first_line(error)
            raise UserError(f'{path}: does not fit its config.json ({reason})') from error

    def begin(self, seed: int) -> None:
        del seed  # it draws from torch's generator, which the episode has seeded
        if self._budget is not None:
            self._budget.left = 1.0

    def act(self, observation: np.ndarray, samples: bool) -> np.ndarray:
        import torch

        features = self._normalize(torch.from_numpy(observation))
        if self._budget is not None:
            features = torch.cat([features, torch.tensor([self._budget.left])])
        with torch.no_grad():
            action = self._actor.predict(features[None], deterministic=not samples)
        return action[0].numpy()

    def observe(self, reward: float, cost: float) -> None:
        del reward
        if self._budget is not None:
            self._budget.spend(cost)


@dataclass
class _SafetyBudget:
    """Extra observation of Saute algorithms: the remaining share of the budget.

    Args:
        total (float): The budget, discounted as OmniSafe does.
        discount (float): Per step.
        left (float): The remaining share.
    """

    total: float
    discount: float
    left: float = 1.0

    @classmethod
    def of(cls, config: dict[str, Any]) -> _SafetyBudget | None:
        """Return the budget of a run of a Saute algorithm, else None."""
        settings = config.get('algo_cfgs', {})
        if 'saute_gamma' not in settings:
            return None
        discount, steps = settings['saute_gamma'], settings['max_ep_len']
        mean_discount = (1.0 - discount**steps) / (1.0 - discount) / steps
        return cls(settings['safety_budget'] * mean_discount, discount)

    def spend(self, cost: float) -> None:
        """Subtract the cost of a step."""
        self.left = (self.left - cost / self.total) / self.discount
