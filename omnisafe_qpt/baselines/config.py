# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the baselines, with checks of their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import check_numbers


# Conditions on values, with their text for messages.
_Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: _Rule = (lambda value: value > 0, 'positive')
_NOT_NEGATIVE: _Rule = (lambda value: value >= 0, '0 or more')
_COUNT: _Rule = (lambda value: value >= 1, 'at least 1')
_SIZES: _Rule = (
    lambda value: len(value) > 0 and min(value) >= 1,
    'a list of sizes of at least 1',
)
_SHARE: _Rule = (lambda value: 0 <= value < 1, 'in [0, 1)')
_PART: _Rule = (lambda value: 0 < value <= 1, 'above 0 and at most 1')

_RULES: dict[str, _Rule] = {
    'total_steps': _COUNT,
    'cost_limit': _NOT_NEGATIVE,
    'horizon': _COUNT,
    'gamma': (lambda value: 0 <= value <= 1, 'in [0, 1]'),
    'polyak': _SHARE,
    'actor_lr': _POSITIVE,
    'critic_lr': _POSITIVE,
    'vae_lr': _POSITIVE,
    'alpha_lr': _POSITIVE,
    'actor_hidden_sizes': _SIZES,
    'critic_hidden_sizes': _SIZES,
    'vae_hidden_sizes': _SIZES,
    'vae_beta': _NOT_NEGATIVE,
    'sampled_actions': _COUNT,
    'unknown_share': _PART,
    'unknown_cost': _NOT_NEGATIVE,
    'actor_width': _COUNT,
    'actor_blocks': _COUNT,
    'actor_dropout': _SHARE,
    'actor_polyak': _SHARE,
    'diffusion_steps': _COUNT,
    'candidates': _COUNT,
    'violation': _POSITIVE,
    'expectile': (lambda value: 0 < value < 1, 'above 0 and below 1'),
    'reward_temperature': _NOT_NEGATIVE,
    'cost_temperature': _NOT_NEGATIVE,
    'max_reward_weight': _POSITIVE,
    'max_cost_weight': _POSITIVE,
}


@dataclass(frozen=True)
class BaselineConfig:
    """Settings that all baselines share.

    Args:
        total_steps (int): Updates in the whole run.
    """

    total_steps: int = 100_000

    def __post_init__(self) -> None:
        """Check each value."""
        check_numbers(self)
        for field in fields(self):
            value, (is_sound, needed) = getattr(self, field.name), _RULES[field.name]
            if not is_sound(value):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f'{field.name} is {shown!r}; it must be {needed}')


@dataclass(frozen=True)
class BCSafeConfig(BaselineConfig):
    """Settings of BC-Safe, from BC in OSRL, the library of Liu et al. (2023), DSRL.

    Args:
        total_steps (int): Updates in the whole run; DSRL's results are after 100,000.
        actor_lr (float): Learning rate of Adam (OSRL).
        actor_hidden_sizes (tuple[int, ...]): Hidden layers, with ReLU (OSRL).
    """

    actor_lr: float = 1e-3
    actor_hidden_sizes: tuple[int, ...] = (256, 256)


@dataclass(frozen=True)
class CPQConfig(BaselineConfig):
    """Settings of CPQ, from OSRL, the library of Liu et al. (2023), for DSRL.

    Args:
        total_steps (int): Updates in the whole run (OSRL).
        cost_limit (float): Undiscounted cost of an episode that must not be exceeded; 10 as in the
            QPT paper.
        horizon (int): Steps in an episode; the limit is spread over them.
        gamma (float): Discount of both critics (OSRL).
        polyak (float): Weight of the old target network in each update; OSRL's tau of 0.005.
        actor_lr (float): Learning rate of Adam for the policy (OSRL).
        critic_lr (float): Learning rate for the critics (OSRL).
        vae_lr (float): Learning rate for the autoencoder (OSRL).
        alpha_lr (float): Step size of alpha, the weight that raises the cost values of unknown
            actions (OSRL).
        actor_hidden_sizes (tuple[int, ...]): Hidden layers of the policy, with ReLU (OSRL).
        critic_hidden_sizes (tuple[int, ...]): Hidden layers of each of the two reward and two cost
            critics (OSRL).
        vae_hidden_sizes (tuple[int, ...]): Hidden layers of the encoder and of the decoder (OSRL).
        vae_beta (float): Weight of the autoencoder's divergence from its prior (OSRL).
        sampled_actions (int): Actions sampled from the policy at each state to find unknown ones
            (OSRL).
        unknown_share (float): Share of these that count as unknown: those of largest divergence;
            OSRL's quantile of 0.75.
        unknown_cost (float): Cost value that unknown actions are raised to, as a multiple of the
            limit's; OSRL's ``qc_scalar``.
    """

    cost_limit: float = 10.0
    horizon: int = 1000
    gamma: float = 0.99
    polyak: float = 0.995
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    vae_lr: float = 1e-3
    alpha_lr: float = 1e-3
    actor_hidden_sizes: tuple[int, ...] = (300, 300)
    critic_hidden_sizes: tuple[int, ...] = (400, 400)
    vae_hidden_sizes: tuple[int, ...] = (400, 400)
    vae_beta: float = 0.5
    sampled_actions: int = 10
    unknown_share: float = 0.25
    unknown_cost: float = 1.5

    @cached_property
    def threshold(self) -> float:
        """The limit as a cost critic's value, spent evenly: L (1 - g^T) / ((1 - g) T)."""
        steps = sum(self.gamma**step for step in range(self.horizon))
        return self.cost_limit * steps / self.horizon


@dataclass(frozen=True)
class FISORConfig(BaselineConfig):
    """Settings of FISOR, from its authors' code for DSRL, Zheng et al. (2024).

    FISOR has a hard constraint, no cost in any step, so there is no cost limit.

    Args:
        total_steps (int): Updates in the whole run; the authors do 1,000,000.
        horizon (int): Steps in an episode, which sets the unit of reward: the largest return of
            the dataset becomes the horizon (theirs does it for the span of returns).
        gamma (float): Discount of all values.
        polyak (float): Weight of the old target critic in each update; their tau of 0.005.
        actor_lr (float): Initial learning rate of Adam for the denoiser. As in their code it falls
            along two thirds of a half cosine, to a quarter.
        critic_lr (float): Learning rate for the critics and values, constant.
        actor_width (int): Width of the denoiser.
        actor_blocks (int): Residual blocks of the denoiser.
        actor_dropout (float): Dropout at the input of each block.
        actor_polyak (float): Weight of the old averaged denoiser, which is deployed, in each
            update; their actor tau of 0.001.
        critic_hidden_sizes (tuple[int, ...]): Hidden layers of critics and values, with ReLU.
        diffusion_steps (int): T.
        candidates (int): Actions sampled in deployment, N; the safest one is used.
        violation (float): h at a state with cost, M in the paper; it is -1 at others.
        expectile (float): tau of both expectile regressions, for reward and for cost.
        reward_temperature (float): Temperature of the weights in feasible states, alpha_1.
        cost_temperature (float): Temperature of the weights in infeasible states, alpha_2.
        max_reward_weight (float): Largest weight in a feasible state.
        max_cost_weight (float): Largest weight in an infeasible state.
    """

    horizon: int = 1000
    gamma: float = 0.99
    polyak: float = 0.995
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    actor_width: int = 256
    actor_blocks: int = 3
    actor_dropout: float = 0.1
    actor_polyak: float = 0.999
    critic_hidden_sizes: tuple[int, ...] = (256, 256)
    diffusion_steps: int = 5
    candidates: int = 16
    violation: float = 25.0
    expectile: float = 0.9
    reward_temperature: float = 3.0
    cost_temperature: float = 5.0
    max_reward_weight: float = 100.0
    max_cost_weight: float = 150.0
