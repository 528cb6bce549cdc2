# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The trained networks of a checkpoint: rebuilt from their state dict alone, and deployed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import nn

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import CRITIC_INPUTS, DeploymentConfig, LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.critics import TwinCritic, count_critic_states, critic_states
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.qpt.transformer import TransformerPolicy
from omnisafe_qpt.qpt.weights import rebuild
from omnisafe_qpt.schema import (
    Check,
    build,
    flag,
    layers,
    maybe,
    number,
    record,
    sequence,
    size,
    text,
)


def _check_action_range(value: Any, path: str) -> None:
    """Check the range of an environment's actions: ``low`` and ``high``, of equal length."""
    ends = sequence(number(), 1)
    record({'low': ends, 'high': ends})(value, path)
    low, high = value['low'], value['high']
    if len(low) != len(high) or not all(a < b for a, b in zip(low, high)):
        raise UserError(f'{path}: low and high must have one length, each high above its low')


# The sizes in the spec of every deployable model.
SPEC_FIELDS: dict[str, Check] = {'obs_dim': size('obs_dim'), 'act_dim': size('act_dim')}
OPTIONAL_SPEC_FIELDS: dict[str, Check] = {
    'horizon': size('horizon'),
    'action_range': maybe(_check_action_range),
}


def check_spec(spec: Any, check: Check) -> None:
    """Check a spec from which networks are to be built.

    Args:
        spec (Any): The networks' spec from a checkpoint.
        check (Check): The check for this type of model.

    Raises:
        UserError: If a size is missing or impossible.
    """
    check(spec, '')
    action_range, act_dim = spec.get('action_range'), spec['act_dim']
    if action_range is not None and len(action_range['low']) != act_dim:
        raise UserError(f'action_range has {len(action_range["low"])} numbers, not {act_dim}')


class Deployable(Protocol):
    """Interface of a trained model of any algorithm.

    ``deploy`` returns an object with the methods of :class:`RolloutPolicy`. The spec of a model
    that is conditioned on return and cost has ``policy``; the spec of a model that acts on the
    observation alone has ``actor``.
    """

    spec: dict[str, Any]
    scaling: Scaling

    @property
    def device(self) -> torch.device:
        """Where it acts."""

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> Any:
        """Return the policy for a batch of episodes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict, from which the model can be rebuilt."""


class DeployableNetworks(nn.Module):
    """A trained QPT model for deployment: policy, critics and units.

    The state dict holds only tensors and plain Python values. It includes the sizes as extra state,
    so that :meth:`from_state_dict` needs nothing else.

    Args:
        spec (dict[str, Any]): ``obs_dim``, ``act_dim``, ``policy`` (:class:`PolicyConfig` as a
            dict), ``critic_hidden_sizes``, and further records of the checkpoint (horizon,
            frontier, environment, dataset, versions).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        """Initialize an instance of :class:`DeployableNetworks`."""
        super().__init__()
        self.spec = spec
        obs_dim, act_dim = spec['obs_dim'], spec['act_dim']
        self.policy = TransformerPolicy(obs_dim, act_dim, PolicyConfig(**spec['policy']))
        sizes = (
            count_critic_states(self.critic_inputs, obs_dim),
            act_dim,
            spec['critic_hidden_sizes'],
        )
        self.reward_critic = TwinCritic(*sizes)
        self.cost_critic = TwinCritic(*sizes)
        self.scaling = Scaling(torch.zeros(obs_dim), torch.ones(obs_dim))
        self.requires_grad_(False)

    @classmethod
    def from_learner(cls, learner: Learner, spec: dict[str, Any]) -> DeployableNetworks:
        """Copy the online policy and the target critics out of a learner.

        As in the paper, the critics are the target networks (Eq. 13-14) and the policy is the
        online network (Algorithm 1).

        Args:
            learner (Learner): The learner.
            spec (dict[str, Any]): Entries that the learner does not know, such as horizon and
                frontier.
        """
        networks = cls(
            {
                'horizon': learner.config.horizon,
                **spec,
                'obs_dim': len(learner.scaling.obs_mean),
                'act_dim': learner.policy.head.out_features,
                'policy': asdict(learner.config.policy),
                'critic_hidden_sizes': list(learner.config.critic_hidden_sizes),
                'critic_inputs': learner.config.critic_inputs,
                'gamma': learner.config.gamma,
                'has_critics': learner.config.train_critics,
            },
        ).to(learner.device)
        networks.policy.load_state_dict(learner.policy.state_dict())
        networks.reward_critic.load_state_dict(learner.target_reward_critic.state_dict())
        networks.cost_critic.load_state_dict(learner.target_cost_critic.state_dict())
        networks.scaling.load_state_dict(learner.scaling.state_dict())
        return networks.eval()

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> DeployableNetworks:
        """Rebuild networks from their state dict alone.

        Raises:
            UserError: If its sizes are impossible, or a weight does not fit or is not finite.
        """
        check_spec(state.get('_extra_state'), _CHECK_SPEC)
        return rebuild(lambda: cls(state['_extra_state']), state)

    def check_fits(self, obs_dim: int, act_dim: int, config: LearnerConfig) -> None:
        """Check that a learner can start from these weights.

        Args:
            obs_dim (int): S of the learner.
            act_dim (int): A of the learner.
            config (LearnerConfig): Its settings.

        Raises:
            UserError: If sizes differ.
        """
        needed = {'observations': obs_dim, 'actions': act_dim, **asdict(config.policy)}
        spec = self.spec
        held = {'observations': spec['obs_dim'], 'actions': spec['act_dim'], **spec['policy']}
        if config.train_critics and self.has_critics:
            needed |= {
                'critic hidden_sizes': list(config.critic_hidden_sizes),
                'critic inputs': config.critic_inputs,
            }
            held |= {
                'critic hidden_sizes': list(spec['critic_hidden_sizes']),
                'critic inputs': self.critic_inputs,
            }
        for name, value in needed.items():
            if name != 'dropout' and held.get(name) != value:
                raise UserError(
                    f'{name} is {held.get(name)} in the run to start from, and {value} here; '
                    'use a run with the same sizes, or set them'
                )

    def load_into(self, learner: Learner) -> None:
        """Start a learner from these weights, targets included; see :meth:`check_fits`.

        Critics are left as they are where one of the two has none that are trained.
        """
        names = ['policy']
        if learner.config.train_critics and self.has_critics:
            names += ['reward_critic', 'cost_critic']
        for name in names:
            weights = getattr(self, name).state_dict()
            for network in (getattr(learner, name), getattr(learner, f'target_{name}')):
                network.load_state_dict(weights)

    @property
    def device(self) -> torch.device:
        """Where it acts."""
        return self.scaling.obs_mean.device

    @property
    def critic_inputs(self) -> str:
        """Inputs of the critics (:func:`omnisafe_qpt.qpt.critics.critic_states`)."""
        return self.spec.get('critic_inputs', 'state_action')  # older checkpoints do not record it

    @property
    def has_critics(self) -> bool:
        """Whether the critics were trained, so that they can select among candidates."""
        if 'has_critics' in self.spec:
            return self.spec['has_critics']
        # Older checkpoints do not record it, but have the options that decided it.
        options = self.spec.get('config', {}).get('algo_cfgs', {})
        names = ('use_reward_critic', 'use_cost_critic', 'use_ensemble')
        return any(options.get(name, True) for name in names)

    def critic_states(self, *window: torch.Tensor) -> torch.Tensor:
        """Return the state input of the critics.

        Args:
            window (torch.Tensor): States, returns-to-go, costs-to-go and timesteps, as
                :func:`omnisafe_qpt.qpt.critics.critic_states` takes them.
        """
        return critic_states(self.critic_inputs, self.spec.get('horizon', 0), *window)

    def deploy(self, config: DeploymentConfig, num_episodes: int = 1) -> RolloutPolicy:
        """Return a policy that acts with these networks; see :class:`RolloutPolicy`."""
        return RolloutPolicy(self, config, num_episodes)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the sizes and the rest of the spec."""
        return self.spec

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Set the spec; the networks were already built with its sizes."""
        self.spec = state


def _check_policy(value: Any, path: str) -> None:
    build(PolicyConfig, value, path)


_CHECK_SPEC = record(
    {**SPEC_FIELDS, 'policy': _check_policy, 'critic_hidden_sizes': layers(1)},
    {
        **OPTIONAL_SPEC_FIELDS,
        'critic_inputs': text(*CRITIC_INPUTS),
        'gamma': number(0, 1),
        'has_critics': flag,
    },
)
