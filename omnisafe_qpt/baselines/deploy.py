# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Deployment of memoryless policies, which act on the observation alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.baselines.learner import BaselineLearner
from omnisafe_qpt.baselines.networks import DiffusionPolicy, GaussianPolicy, TanhPolicy
from omnisafe_qpt.data.streams import stream
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.checks import (
    check_actions,
    checked_episodes,
    checked_observations,
    checked_signals,
)
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import OPTIONAL_SPEC_FIELDS, SPEC_FIELDS, check_spec
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.qpt.weights import rebuild
from omnisafe_qpt.schema import Check, anything, layers, mapping, number, record, size, text


# The policy of each baseline, by its name in a checkpoint.
_POLICIES: dict[str, Callable[..., nn.Module]] = {
    'bc_safe': TanhPolicy,
    'cpq': GaussianPolicy,
    'fisor': DiffusionPolicy,
}
# The sizes to build it.
_SIZES: dict[str, Check] = {
    'bc_safe': record({'hidden_sizes': layers()}),
    'cpq': record({'hidden_sizes': layers()}),
    'fisor': record(
        {
            'candidates': size('candidates'),
            'critic_hidden_sizes': layers(),
            'steps': size('steps'),
            'width': size('width'),
            'blocks': size('blocks'),
        },
        {'dropout': number(0, 1)},
    ),
}


def _check_spec(spec: Any, path: str) -> None:
    required = {**SPEC_FIELDS, 'actor': text(*_POLICIES), 'sizes': mapping(anything)}
    record(required, OPTIONAL_SPEC_FIELDS)(spec, path)
    _SIZES[spec['actor']](spec['sizes'], 'sizes')


class DeployableActor(nn.Module):
    """A trained baseline for deployment: its policy, with selection networks if any, and units.

    The state dict holds only tensors and plain Python values. It includes the sizes as extra state,
    so that :meth:`from_state_dict` needs nothing else.

    Args:
        spec (dict[str, Any]): ``actor``, the baseline's name; ``obs_dim``, ``act_dim`` and
            ``sizes``, to build its policy; and further records of the checkpoint (horizon,
            environment, dataset, versions).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        """Initialize an instance of :class:`DeployableActor`."""
        super().__init__()
        self.spec = spec
        self.obs_dim, self.act_dim = spec['obs_dim'], spec['act_dim']
        self.policy = _POLICIES[spec['actor']](self.obs_dim, self.act_dim, **spec['sizes'])
        self.scaling = Scaling(torch.zeros(self.obs_dim), torch.ones(self.obs_dim))
        self.requires_grad_(False)

    @classmethod
    def from_learner(cls, learner: BaselineLearner, spec: dict[str, Any]) -> DeployableActor:
        """Copy the policy to deploy out of a learner.

        Args:
            learner (BaselineLearner): The learner.
            spec (dict[str, Any]): Entries that the learner does not know, such as horizon and
                environment.
        """
        actor = cls(
            {
                **spec,
                'actor': learner.ACTOR,
                'obs_dim': learner.obs_dim,
                'act_dim': learner.act_dim,
                'sizes': learner.actor_sizes(),
            },
        ).to(learner.device)
        actor.policy.load_state_dict(learner.actor_state())
        actor.scaling.load_state_dict(learner.scaling.state_dict())
        return actor.eval()

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> DeployableActor:
        """Rebuild an actor from its state dict alone.

        Raises:
            UserError: If its sizes are impossible, or a weight does not fit or is not finite.
        """
        check_spec(state.get('_extra_state'), _check_spec)
        return rebuild(lambda: cls(state['_extra_state']), state)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the sizes and the rest of the spec."""
        return self.spec

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Set the spec; the policy was already built with its sizes."""
        self.spec = state

    @property
    def device(self) -> torch.device:
        """Where the policy acts."""
        return self.scaling.obs_mean.device

    def act(
        self,
        observations: torch.Tensor,
        generators: Sequence[np.random.Generator],
    ) -> torch.Tensor:
        """Return actions.

        Args:
            observations (torch.Tensor): (B, S) in raw units, on the actor's device.
            generators (Sequence[np.random.Generator]): One for each of the B episodes, for a
                stochastic policy.

        Returns:
            (B, A) actions in [-1, 1].
        """
        states = self.scaling.observation(observations)
        return cast('_Actor', self.policy).act(states, generators)

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> MemorylessPolicy:
        """Make a policy for several parallel episodes.

        Args:
            config (DeploymentConfig): Without effect: there are no candidates, and the limit was
                fixed in training.
            num_episodes (int, optional): Number of episodes. Defaults to 1.
        """
        del config
        return MemorylessPolicy(self.eval(), num_episodes)


class ObservationPolicy:
    """A deployable policy from any function of the observation.

    It can be pickled if the function can.

    Args:
        act (Callable[[torch.Tensor], torch.Tensor]): Maps (B, S) float32 observations to (B, A)
            actions.
        obs_dim (int): S.
        act_dim (int): A.
        spec (dict[str, Any], optional): Further records. Defaults to None.
        device (torch.device or str, optional): Where the function expects observations. Defaults
            to ``'cpu'``.
    """

    def __init__(
        self,
        act: Callable[[torch.Tensor], torch.Tensor],
        obs_dim: int,
        act_dim: int,
        spec: dict[str, Any] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        """Initialize an instance of :class:`ObservationPolicy`."""
        self._function = act
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.spec = spec or {}
        self.device = torch.device(device)

    def act(
        self,
        observations: torch.Tensor,
        generators: Sequence[np.random.Generator],
    ) -> torch.Tensor:
        """Call the function.

        Args:
            observations (torch.Tensor): (B, S).
            generators (Sequence[np.random.Generator]): Without effect.

        Returns:
            (B, A) actions.

        Raises:
            UserError: If the function returns another shape.
        """
        del generators
        actions = self._function(observations)
        if actions.shape != (len(observations), self.act_dim):
            raise UserError(
                f'the policy returned actions of shape {tuple(actions.shape)}; '
                f'it must be {(len(observations), self.act_dim)}',
            )
        return actions

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> MemorylessPolicy:
        """Make a policy for several parallel episodes; see :class:`DeployableActor`."""
        del config
        return MemorylessPolicy(self, num_episodes)


class _Actor(Protocol):
    @property
    def obs_dim(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def act(
        self,
        observations: torch.Tensor,
        generators: Sequence[np.random.Generator],
    ) -> torch.Tensor: ...


class MemorylessPolicy:
    """A deployed policy over B episodes at once, with the interface of ``RolloutPolicy``.

    It draws from the episode's own seed, so episodes do not depend on the others in the batch.

    Args:
        actor (DeployableActor or ObservationPolicy): The policy.
        num_episodes (int): B.
    """

    # There are no candidates.
    choice = None

    def __init__(self, actor: _Actor, num_episodes: int) -> None:
        """Initialize an instance of :class:`MemorylessPolicy`."""
        self._actor = actor
        self.num_episodes = num_episodes
        self._generators = [np.random.default_rng(0) for _ in range(num_episodes)]

    def reset(
        self,
        target_return: float,
        cost_limit: float | None = None,
        seeds: Sequence[int] = (0,),
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Begin new episodes.

        Args:
            target_return (float): Without effect: the policy is not conditioned on a return.
            cost_limit (float, optional): Without effect: the limit was fixed in training.
                Defaults to None.
            seeds (Sequence[int], optional): One for each episode begun. Defaults to ``(0,)``.
            episodes (Sequence[int], optional): Which of the B to begin. Defaults to all.

        Raises:
            UserError: If there are not as many seeds as episodes.
        """
        del target_return, cost_limit
        episodes = checked_episodes(episodes, self.num_episodes, seeds)
        for episode, seed in zip(episodes, seeds):
            # The simulator draws from the same seed.
            self._generators[episode] = np.random.default_rng(stream(seed, 'candidates'))

    @torch.inference_mode()
    def act(self, observations: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the actions for new observations.

        Args:
            observations (np.ndarray or torch.Tensor): (B, S).

        Returns:
            (B, A) actions in [-1, 1], on the policy's device.

        Raises:
            UserError: If an observation has another size or is not finite, or an action would not
                be. The policy is then unchanged.
        """
        observations = checked_observations(
            observations,
            (self.num_episodes, self._actor.obs_dim),
        )
        drawn = [generator.bit_generator.state for generator in self._generators]
        actions = self._actor.act(observations.to(self._actor.device), self._generators)
        try:
            check_actions(actions)
        except UserError:
            for generator, before in zip(self._generators, drawn):
                generator.bit_generator.state = before
            raise
        return actions

    def observe(
        self,
        rewards: float | np.ndarray | torch.Tensor,
        costs: float | np.ndarray | torch.Tensor,
    ) -> None:
        """Check the rewards and costs of the last actions; the policy does not depend on them.

        Args:
            rewards (float, np.ndarray or torch.Tensor): (B,) rewards.
            costs (float, np.ndarray or torch.Tensor): (B,) costs.

        Raises:
            UserError: If a number is not finite.
        """
        checked_signals(rewards, costs)

    def record_actions(self, actions: torch.Tensor) -> None:
        """Accept that other actions were executed; the policy does not depend on it.

        Args:
            actions (torch.Tensor): (B, A) in [-1, 1].
        """

    def finish(self, episodes: Sequence[int]) -> None:
        """Accept that episodes have ended; this policy counts no steps.

        Args:
            episodes (Sequence[int]): Which of the B.
        """

    def pop_infeasible_share(self) -> float:
        """Return 0: without candidates, none is infeasible."""
        return 0.0
