# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Typed settings of the learner and of deployment, with checks of their values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.precision import PRECISIONS
from omnisafe_qpt.qpt.selection import RULES
from omnisafe_qpt.schema import LARGEST_LAYER, LARGEST_NUMBER, MOST_LAYERS, largest


def check_numbers(config: Any) -> None:
    """Check that each number is of the type that its field declares.

    Args:
        config (Any): An instance of a dataclass.

    Raises:
        UserError: If an integer field holds no integer, a number is NaN, infinite, text or a
            boolean, or a size is too large.
    """
    for each in fields(config):
        kind, value = each.type.removesuffix(' | None'), getattr(config, each.name)
        if value is None and kind != each.type:
            continue
        if kind in ('float', 'int'):
            needed = 'a finite number' if kind == 'float' else 'a whole number'
            _require(_is_number(value, kind), each.name, value, needed)
            most = largest(each.name)
            _require(value <= most, each.name, value, f'at most {most:g}')
        elif kind == 'tuple[int, ...]':
            is_sound = all(_is_number(number, 'int') for number in value)
            _require(is_sound, each.name, list(value), 'whole numbers')
            is_small = len(value) <= MOST_LAYERS and max(value, default=0) <= LARGEST_LAYER
            needed = f'at most {MOST_LAYERS} layers of at most {LARGEST_LAYER}'
            _require(is_small, each.name, list(value[:MOST_LAYERS]), needed)


def _is_number(value: Any, kind: str) -> bool:
    expected: type[Any] = Integral if kind == 'int' else Real
    if isinstance(value, bool) or not isinstance(value, expected):
        return False
    return -LARGEST_NUMBER <= value <= LARGEST_NUMBER  # not so for NaN


def _require(condition: bool, option: str, value: object, needed: str) -> None:
    if not condition:
        raise UserError(f'{option} is {value!r}; it must be {needed}')


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of the Transformer policy (Table 4).

    Args:
        context_len (int): Steps of history the policy sees, K.
        embed_dim (int): Width of a token.
        num_layers (int): Number of Transformer blocks.
        num_heads (int): Attention heads; must divide ``embed_dim``.
        dropout (float): Dropout on embeddings, attention weights and residual branches.
        max_timestep (int): Largest step within an episode that has its own embedding; later steps
            share it. It should be L - 1 for the longest episode of the data, of length L. The state
            at L has no action, so no loss would train an embedding of its own, and the bootstrap
            action there would depend on random weights.
    """

    context_len: int = 10
    embed_dim: int = 128
    num_layers: int = 3
    num_heads: int = 8
    dropout: float = 0.1
    max_timestep: int = 999

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_numbers(self)
        for name in ('context_len', 'embed_dim', 'num_layers', 'num_heads'):
            _require(getattr(self, name) >= 1, name, getattr(self, name), 'at least 1')
        _require(self.max_timestep >= 0, 'max_timestep', self.max_timestep, '0 or more')
        _require(
            self.embed_dim % self.num_heads == 0,
            'num_heads',
            self.num_heads,
            f'a divisor of embed_dim ({self.embed_dim})',
        )
        _require(0.0 <= self.dropout < 1.0, 'dropout', self.dropout, 'in [0, 1)')


@dataclass(frozen=True)
class OptimizerConfig:
    """One AdamW optimiser and its gradient clip.

    Args:
        lr (float): Learning rate after the warm-up.
        weight_decay (float): Decoupled weight decay.
        max_grad_norm (float): Gradients are scaled down to this norm.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.25

    def __post_init__(self) -> None:
        """Check the values."""
        check_numbers(self)
        _require(self.lr > 0, 'lr', self.lr, 'positive')
        _require(self.weight_decay >= 0, 'weight_decay', self.weight_decay, '0 or more')
        _require(self.max_grad_norm > 0, 'max_grad_norm', self.max_grad_norm, 'positive')


# Inputs of the critics; the first entry is the paper's.
CRITIC_INPUTS = ('state_action', 'targets_time')


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that Algorithm 1 needs besides data.

    Args:
        policy (PolicyConfig): The Transformer.
        critic_hidden_sizes (tuple[int, ...]): Hidden layers of each critic; the output layer is
            one more.
        policy_optimizer (OptimizerConfig): For the policy.
        critic_optimizer (OptimizerConfig): For the four critics.
        warmup_steps (int): Updates over which the learning rates rise from zero.
        lr_final_ratio (float): Learning rates fall along a half cosine to this share of their
            peak at ``total_steps``; 1 keeps them constant.
        total_steps (int): Updates in the whole run, for the schedule.
        gamma (float): Discount of both critics.
        polyak (float): Weight of the old target network in each update, rho in Algorithm 1.
        eta_reward (float): Weight of the reward term, eta_1 in Eq. 9.
        eta_cost (float): Weight of the cost term, eta_2 in Eq. 10.
        use_reward_critic (bool): Whether the policy's loss has the reward term.
        use_cost_critic (bool): Whether the policy's loss has the cost term.
        train_critics (bool): Whether the critics are trained, for the loss or for deployment.
        penalty_critic (str): Which of the twins the policy's loss uses: ``random`` (one, drawn
            each update), ``first``, or ``pessimistic`` (minimum reward, maximum cost).
        cost_value (str): How twin cost values are reduced to one: ``min`` as in Eq. 7, or ``max``.
        critic_inputs (str): Inputs of the critics: ``state_action`` or ``targets_time``; see
            :func:`omnisafe_qpt.qpt.critics.critic_states`.
        horizon (int): Steps of an episode, T. Critics that see the time do not bootstrap beyond it.
        precision (str): ``float32``, ``tf32``, ``bf16`` (autocast; float32 on a device without bf16
            instructions), ``bf16_emulated`` (bf16 there too, many times slower) or ``auto`` (bf16
            on a device with such instructions, else float32).
    """

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    critic_hidden_sizes: tuple[int, ...] = (256, 256, 256)
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    critic_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(weight_decay=0.0, max_grad_norm=10.0),
    )
    warmup_steps: int = 0
    lr_final_ratio: float = 1.0
    total_steps: int = 100_000
    gamma: float = 0.99
    polyak: float = 0.995
    eta_reward: float = 0.1
    eta_cost: float = 0.1
    use_reward_critic: bool = True
    use_cost_critic: bool = True
    train_critics: bool = True
    penalty_critic: str = 'random'
    cost_value: str = 'min'
    critic_inputs: str = 'state_action'
    horizon: int = 1000
    precision: str = 'float32'

    def __post_init__(self) -> None:
        """Check values and combinations."""
        check_numbers(self)
        _require(
            min(self.critic_hidden_sizes, default=0) >= 1,
            'critic hidden_sizes',
            list(self.critic_hidden_sizes),
            'a list of sizes of at least 1',
        )
        _require(self.warmup_steps >= 0, 'warmup_steps', self.warmup_steps, '0 or more')
        _require(0 <= self.lr_final_ratio <= 1, 'lr_final_ratio', self.lr_final_ratio, 'in [0, 1]')
        _require(self.total_steps >= 1, 'total_steps', self.total_steps, 'at least 1')
        _require(0 <= self.gamma <= 1, 'gamma', self.gamma, 'in [0, 1]')
        _require(0 <= self.polyak < 1, 'polyak', self.polyak, 'in [0, 1)')
        _require(self.eta_reward >= 0, 'eta_reward', self.eta_reward, '0 or more')
        _require(self.eta_cost >= 0, 'eta_cost', self.eta_cost, '0 or more')
        _require_choice('penalty_critic', self.penalty_critic, ('random', 'first', 'pessimistic'))
        _require_choice('cost_value', self.cost_value, ('min', 'max'))
        _require_choice('critic inputs', self.critic_inputs, CRITIC_INPUTS)
        _require(self.horizon >= 1, 'horizon', self.horizon, 'at least 1')
        _require_choice('precision', self.precision, PRECISIONS)
        if self.use_reward_critic or self.use_cost_critic:
            _require(
                self.train_critics,
                'train_critics',
                self.train_critics,
                'true when the policy loss uses a critic',
            )
        if self.train_critics:
            _require(
                self.policy.context_len >= 2,
                'context_len',
                self.policy.context_len,
                'at least 2 for the critics, which bootstrap at the last state of a window',
            )


# The name of a rule in checkpoints of earlier versions.
_FORMER_RULES = {'paced': 'discounted_budget'}


def present_rule(name: Any) -> Any:
    """Return the present name of a rule of an earlier version; any other value as it is."""
    return _FORMER_RULES.get(name, name) if isinstance(name, str) else name


@dataclass(frozen=True)
class DeploymentConfig:
    """How candidates are generated and selected, Eq. 13-14 and Appendix C.3.

    Args:
        cost_limit (float): Default undiscounted cost of an episode that must not be exceeded.
        candidates (int): Return targets per step, M; 1 is the policy without selection.
        target_spread (float): Standard deviation of the candidates' return targets, as a share of
            the dataset's largest absolute return.
        candidate_shift (str): Which returns-to-go of a candidate are shifted: ``history`` (all in
            the window) or ``last`` (the newest only). ``last`` is several times faster, but its
            candidates differ less.
        rule (str): One of :data:`omnisafe_qpt.qpt.selection.RULES`.
        cost_value (str): How twin cost values are reduced to one, ``min`` or ``max``.
        target_cost (float, optional): Target cost: the policy is conditioned on it, and the budget
            starts from it. Target calibration sets it. Defaults to None, the limit.
    """

    cost_limit: float = 10.0
    candidates: int = 50
    target_spread: float = 0.5
    candidate_shift: str = 'history'
    rule: str = 'discounted_budget'
    cost_value: str = 'min'
    target_cost: float | None = None

    def __post_init__(self) -> None:
        """Check the values; a rule's former name becomes its present one."""
        object.__setattr__(self, 'rule', present_rule(self.rule))
        check_numbers(self)
        _require(self.cost_limit >= 0, 'cost_limit', self.cost_limit, '0 or more')
        if self.target_cost is not None:
            _require(self.target_cost >= 0, 'target_cost', self.target_cost, '0 or more')
        _require(self.candidates >= 1, 'candidates', self.candidates, 'at least 1')
        _require(self.target_spread >= 0, 'target_spread', self.target_spread, '0 or more')
        _require_choice('candidate_shift', self.candidate_shift, ('history', 'last'))
        _require_choice('rule', self.rule, tuple(RULES))
        _require_choice('cost_value', self.cost_value, ('min', 'max'))

    @property
    def used_target_cost(self) -> float:
        """Target cost of the policy: the calibrated one if there is one, else the limit."""
        return self.cost_limit if self.target_cost is None else self.target_cost


def _require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, option, value, 'one of ' + ', '.join(choices))
