# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Arithmetic and memory traffic that QPT cannot do without, counted from its sizes.

Operations are those of matrix products, two for each multiply-add: the rest needs little arithmetic
but memory traffic. Bytes are those of an ideal update that reads each input and writes each output
once and keeps whatever is in between on the chip. Over the rates that a chip reaches, the two give
the least time that an update can take, its floor.

A product's backward pass is one product for the gradient of its weights and one for the gradient of
its input; the latter is not needed where the input is data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from omnisafe_qpt.qpt.config import LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.learner import Learner


_TOKENS_PER_STEP = 4
_FLOAT32_BYTES = 4
_FORWARD, _TRAINED = 1, 3  # products in a forward pass alone, and with both gradients
_NO_INPUT_GRADIENT = 2


@dataclass(frozen=True)
class PolicyProducts:
    """Multiply-adds of one window's forward pass through the Transformer.

    Args:
        embedding (int): From data to tokens.
        inner (int): Everything else with weights.
        attention (int): Between queries and keys, and weights and values.
    """

    embedding: int
    inner: int
    attention: int

    @property
    def forward(self) -> int:
        """Operations of a forward pass."""
        return 2 * (self.embedding + self.inner + self.attention)

    @property
    def trained(self) -> int:
        """Operations of a forward and a backward pass."""
        return 2 * (_NO_INPUT_GRADIENT * self.embedding + _TRAINED * (self.inner + self.attention))


def policy_products(
    obs_dim: int,
    act_dim: int,
    config: PolicyConfig,
    last_only: bool,
    dense: bool = False,
) -> PolicyProducts:
    """Count the products of one window, with the last layer for the state tokens alone.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (PolicyConfig): Sizes.
        last_only (bool): Whether only the last state's action is wanted.
        dense (bool, optional): Whether to count what plain attention does, which computes all
            scores and then masks those of later tokens. Defaults to False, what is necessary.
    """
    width, steps = config.embed_dim, config.context_len
    tokens = _TOKENS_PER_STEP * steps - 1
    state_tokens = range(2, tokens, _TOKENS_PER_STEP)
    wanted = state_tokens[-1:] if last_only else state_tokens
    layers = [range(tokens)] * (config.num_layers - 1) + [wanted]
    inner = pairs = 0
    for queries in layers:
        key_value = 2 * width * width * tokens
        query_out_mlp = (1 + 1 + 4 + 4) * width * width * len(queries)
        inner += key_value + query_out_mlp
        pairs += sum(tokens if dense else query + 1 for query in queries)
    return PolicyProducts(
        embedding=steps * width * (1 + 1 + obs_dim + act_dim),
        inner=inner + len(wanted) * width * act_dim,
        attention=2 * width * pairs,
    )


def critic_products(obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> tuple[int, int]:
    """Count one critic network's multiply-adds for one pair: in its first layer, in the others."""
    first, *others = [a * b for a, b in pairwise([obs_dim + act_dim, *hidden_sizes, 1])]
    return first, sum(others)


def update_operations(
    obs_dim: int,
    act_dim: int,
    config: LearnerConfig,
    batch_size: int,
    dense: bool = False,
) -> dict[str, int]:
    """Count the operations of one update, by its parts.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (LearnerConfig): Sizes, and which of the twin critics the policy's loss uses.
        batch_size (int): B.
        dense (bool, optional): Whether to count what plain kernels do: attention between all
            tokens, and the policy's Q term back to the states too. Defaults to False, what is
            necessary.

    Returns:
        Operations of ``policy``, ``target_policy``, ``critics`` and ``penalty``.
    """
    sizes = (obs_dim, act_dim, config.policy)
    first, others = critic_products(obs_dim, act_dim, config.critic_hidden_sizes)
    steps = config.policy.context_len
    of_actions = first if dense else act_dim * config.critic_hidden_sizes[0]
    twins = 2 if config.penalty_critic == 'pessimistic' else 1
    per_pair = {
        'trained': 2 * (_NO_INPUT_GRADIENT * first + _TRAINED * others),
        'forward': 2 * _FORWARD * (first + others),
        'penalty': 2 * ((first + others) + (of_actions + others)),  # forward, input gradient
    }
    kinds = 2  # reward and cost
    return {
        'policy': batch_size * policy_products(*sizes, last_only=False, dense=dense).trained,
        'target_policy': batch_size * policy_products(*sizes, last_only=True, dense=dense).forward,
        'critics': batch_size * kinds * 2 * (
            (steps - 1) * per_pair['trained'] + per_pair['forward']
        ),
        'penalty': batch_size * kinds * twins * steps * per_pair['penalty'],
    }  # fmt: skip


def acting_operations(
    obs_dim: int,
    act_dim: int,
    config: LearnerConfig,
    candidates: int,
    episodes: int,
) -> int:
    """Count the operations of one step of deployment whose candidates differ in every step.

    They differ in their returns-to-go, so that all else of an episode is embedded once, and its
    queries, keys and values in a first layer, if that is not the last, are taken once. The last
    layer has one query, to which the weights of keys and values are applied in place of the tokens;
    critics see the state once.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (LearnerConfig): Sizes.
        candidates (int): M.
        episodes (int): B.
    """
    policy = policy_products(obs_dim, act_dim, config.policy, last_only=True)
    shared = policy.embedding * (1 + obs_dim + act_dim) // (2 + obs_dim + act_dim)
    if config.policy.num_layers > 1:
        others = (_TOKENS_PER_STEP - 1) * config.policy.context_len - 1
        shared += 3 * others * config.policy.embed_dim**2
    width, tokens = config.policy.embed_dim, _TOKENS_PER_STEP * config.policy.context_len - 1
    saved = 2 * width * (width * (tokens - 1) - tokens * (config.policy.num_heads - 1))
    critics = state = 0
    if candidates > 1:
        networks = 2 * 2  # kinds, twins
        first, others = critic_products(obs_dim, act_dim, config.critic_hidden_sizes)
        of_action = first * act_dim // (obs_dim + act_dim)
        critics = 2 * networks * (of_action + others)
        state = 2 * networks * (first - of_action)
    policy_alone = policy.forward - 2 * (shared + saved)
    return episodes * (2 * shared + state + candidates * (policy_alone + critics))


def update_bytes(learner: Learner, batch_size: int, row_width: int) -> int:
    """Count the bytes that an ideal update reads and writes.

    Each trained number, its two running moments and its target are read and written; the rows of
    the batch are read.

    Args:
        learner (Learner): The networks.
        batch_size (int): B.
        row_width (int): Numbers in a row of the table, S + A + 4.
    """
    trained = (learner.policy, learner.reward_critic, learner.cost_critic)
    numbers = sum(p.numel() for network in trained for p in network.parameters())
    rows = batch_size * learner.config.policy.context_len
    return _FLOAT32_BYTES * (8 * numbers + rows * row_width)


def acting_bytes(learner: Learner, candidates: int) -> int:
    """Count the bytes of the weights that a step of deployment reads.

    Args:
        learner (Learner): The networks.
        candidates (int): M; one candidate needs no critics.
    """
    networks = [learner.policy]
    if candidates > 1:
        networks += [learner.reward_critic, learner.cost_critic]
    return _FLOAT32_BYTES * sum(p.numel() for network in networks for p in network.parameters())


def saved_bytes(learner: Learner, update: Callable[[], object]) -> int:
    """Measure the bytes of intermediate results that an update keeps for its backward passes.

    They are no part of the floor, as they could be computed again; kept, each is written once and
    read at least once.

    Args:
        learner (Learner): The networks, whose weights do not count.
        update (Callable): Does one update.
    """
    networks = (learner.policy, learner.reward_critic, learner.cost_critic)
    weights = {p.untyped_storage().data_ptr() for net in networks for p in net.parameters()}
    passes: list[dict[int, int]] = [{}]  # memory that one pass frees is used again by the next

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            passes[-1][storage.data_ptr()] = storage.nbytes()
        return tensor

    def give_back(tensor: torch.Tensor) -> torch.Tensor:
        if passes[-1]:
            passes.append({})
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        update()
    return sum(sum(found.values()) for found in passes)
