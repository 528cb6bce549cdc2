# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The conditional Transformer policy, Eq. 2-3.

A step is four tokens in this order: return-to-go, cost-to-go, state, action. The action is
predicted at the state token, so the last step's action token is never needed and left out: a
window of K steps is T = 4K - 1 tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from omnisafe_qpt.qpt.config import PolicyConfig
from omnisafe_qpt.qpt.kernels import (
    Dropout,
    Linear,
    LinearGELU,
    aligned,
    attention,
    branch_bias,
    branch_mask,
    branching_attention,
)
from omnisafe_qpt.qpt.scaling import PolicyInputs


_TOKENS_PER_STEP = 4
# Positions of the state tokens among the T tokens, and of the last one.
_STATE_TOKENS = slice(2, None, _TOKENS_PER_STEP)
_LAST_TOKEN = slice(-1, None)
_ALL_TOKENS = slice(None)
# The last step is three tokens: return-to-go, cost-to-go, state.
_LAST_STEP_TOKENS = 3

# Up to this many candidates with a shared history, one attention pass over all tokens is faster.
_MASKED_BRANCHES = 32


# Attention of queries (B, H, Q, d) to keys and values (B, H, T, d): (query, key, value, queries,
# dropout). ``queries`` are the positions of the query tokens.
_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, slice, float], torch.Tensor]


def _attend_to(bias: torch.Tensor) -> _Attend:
    """Attend where the bias (B, 1, T, T) allows it."""
    return lambda query, key, value, queries, dropout: attention(
        query, key, value, bias[:, :, queries], dropout
    )


class _Attention(nn.Module):
    """Multi-head attention, with projection and attention as separate methods."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self._num_heads = config.num_heads
        self._dropout = config.dropout
        self.query = Linear(config.embed_dim, config.embed_dim)
        self.key_value = Linear(config.embed_dim, 2 * config.embed_dim)
        self.out = Linear(config.embed_dim, config.embed_dim)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attend: _Attend,
        queries: slice,
    ) -> torch.Tensor:
        """Attend with queries (B, H, Q, d), keys and values (B, H, T, d); returns (B, Q, D)."""
        mixed = attend(query, key, value, queries, self._dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def project(self, x: torch.Tensor, queries: slice) -> tuple[torch.Tensor, ...]:
        """Return queries (..., H, Q, d), keys and values (..., H, T, d) of tokens (..., T, D)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        return tuple(map(self._split, (self.query(x[..., queries, :]), key, value)))

    def last(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend from the last of the tokens (B, T, D) alone; returns (B, 1, D).

        The key's weights are applied to the one query instead of to all tokens, and the value's
        weights to the one weighted mean. The bias of the keys shifts all scores equally, so it
        cancels.

        Args:
            x (torch.Tensor): (B, T, D).
            bias (torch.Tensor): (B, 1, T, T), as :func:`attention` takes it.
        """
        weights = self.key_value.weight.unflatten(0, (2, self._num_heads, -1))  # (2, H, d, D)
        query = self.query(x[:, -1]).unflatten(-1, (self._num_heads, -1))  # (B, H, d)
        query = torch.bmm(query.transpose(0, 1), weights[0]).transpose(0, 1)  # (B, H, D)
        scores = torch.bmm(query, x.transpose(1, 2))  # (B, H, T)
        scale = (x.shape[-1] // self._num_heads) ** -0.5
        mixed = torch.bmm(torch.add(bias[:, 0, -1:], scores, alpha=scale).softmax(-1), x)
        mixed = torch.bmm(mixed.transpose(0, 1), weights[1].transpose(1, 2))  # (H, B, d)
        mixed = mixed.transpose(0, 1).flatten(1) + self.key_value.bias.chunk(2)[1]
        return self.out(mixed)[:, None]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self._num_heads, -1)).transpose(-2, -3)


class _Block(nn.Module):
    """A pre-norm Transformer block that can compute its output at some tokens only."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embed_dim)
        self.attention = _Attention(config)
        self.mlp_norm = nn.LayerNorm(config.embed_dim)
        up = LinearGELU(config.embed_dim, 4 * config.embed_dim)
        down = Linear(4 * config.embed_dim, config.embed_dim)
        # Checkpoints use these names.
        self.mlp = nn.Sequential(OrderedDict([('0', up), ('2', down)]))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: torch.Tensor, attend: _Attend, queries: slice) -> torch.Tensor:
        """Map x (B, T, D) to (B, Q, D), Q the number of query tokens."""
        return self.mix(x[:, queries], self.project(x, queries), attend, queries)

    def project(self, x: torch.Tensor, queries: slice = _ALL_TOKENS) -> tuple[torch.Tensor, ...]:
        """Return the projections of each token for attention; see :meth:`_Attention.project`."""
        return self.attention.project(self.attention_norm(x), queries)

    def mix(
        self,
        x: torch.Tensor,
        projected: Iterable[torch.Tensor],
        attend: _Attend,
        queries: slice,
    ) -> torch.Tensor:
        """Complete the block for the query tokens, x (B, Q, D)."""
        return self._transform(x + self.dropout(self.attention(*projected, attend, queries)))

    def last(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Map x (B, T, D) to (B, 1, D), for acting; see :meth:`_Attention.last`."""
        return self._transform(x[:, -1:] + self.attention.last(self.attention_norm(x), bias))

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class TransformerPolicy(nn.Module):
    """Deterministic policy over windows, Eq. 2; actions lie in [-1, 1].

    Inputs are in the networks' units (:class:`omnisafe_qpt.qpt.scaling.Scaling`). Attention masks
    the padding on the left, so its content does not matter. Timesteps count from the start of the
    episode, so a padded window is equivalent to a shorter one.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (PolicyConfig): Sizes.
    """

    _causal: torch.Tensor

    def __init__(self, obs_dim: int, act_dim: int, config: PolicyConfig) -> None:
        """Initialize an instance of :class:`TransformerPolicy`."""
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.embed_return = nn.Linear(1, width)
        self.embed_cost = nn.Linear(1, width)
        self.embed_state = nn.Linear(obs_dim, width)
        self.embed_action = nn.Linear(act_dim, width)
        self.embed_timestep = nn.Embedding(config.max_timestep + 1, width)
        self.embed_norm = nn.LayerNorm(width)
        self.embed_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, act_dim)
        self.register_buffer('_causal', _causal_bias(config.context_len), persistent=False)
        self.apply(_initialise)

    def forward(self, inputs: PolicyInputs, last_only: bool = False) -> torch.Tensor:
        """Predict the action at each state from the history up to it.

        Args:
            inputs (PolicyInputs): B windows.
            last_only (bool, optional): Whether to return only the last state's action, which saves
                the last block's work on all other tokens. Defaults to False.

        Returns:
            (B, K, A) actions, or (B, 1, A) for the last state only.
        """
        tokens = self._embed(inputs)
        queries = _LAST_TOKEN if last_only else _STATE_TOKENS
        attend = _attend_to(self._bias(inputs.mask))
        for block in self.blocks[:-1]:
            tokens = block(tokens, attend, _ALL_TOKENS)
        return self._act(self.blocks[-1](tokens, attend, queries))

    def candidate_actions(self, inputs: PolicyInputs, return_to_go: torch.Tensor) -> torch.Tensor:
        """Predict the last action for several returns-to-go, each over the whole history.

        The candidates share their other tokens, up to the first block's attention.

        Args:
            inputs (PolicyInputs): B windows; their return-to-go is not used.
            return_to_go (torch.Tensor): (B, M, K), one sequence for each candidate.

        Returns:
            (B, M, A) actions, each as :meth:`forward` would predict it alone.
        """
        candidates = return_to_go.shape[1]
        one = self._embed(inputs)
        own = self._embed_returns(return_to_go, inputs.timesteps)  # (B, M, K, D)

        def spread(shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            repeats = (1, candidates, *(shared.dim() - 1) * (1,))
            tokens = shared[:, None].repeat(repeats)
            tokens[..., ::_TOKENS_PER_STEP, :] = own
            return tokens.flatten(0, 1)  # (B M, ..., T, D or d)

        x = spread(one, own)
        bias = self._bias(inputs.mask.repeat_interleave(candidates, dim=0))
        attend = _attend_to(bias)
        *earlier, last = cast('list[_Block]', list(self.blocks))
        for index, block in enumerate(earlier):
            # In the first block queries, keys and values are still shared.
            projected = (
                map(spread, block.project(one), block.project(own))
                if index == 0
                else block.project(x)
            )
            x = block.mix(x, projected, attend, _ALL_TOKENS)
        actions = self._act(last.last(x, bias))
        # len(mask) would be a constant in an exported model.
        return actions.reshape(inputs.mask.shape[0], candidates, -1)

    def last_candidate_actions(
        self,
        inputs: PolicyInputs,
        last_return_to_go: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the last action for several values of the last return-to-go.

        These candidates share all tokens except the last step's three, which no earlier token sees.
        So 4K - 4 + 3M tokens pass the blocks instead of M (4K - 1).

        Args:
            inputs (PolicyInputs): B windows; their last return-to-go is not used.
            last_return_to_go (torch.Tensor): (B, M), one for each candidate.

        Returns:
            (B, M, A) actions, each as :meth:`forward` would predict it alone.
        """
        candidates = last_return_to_go.shape[1]
        shared, last_step = self._embed(inputs).tensor_split([-_LAST_STEP_TOKENS], dim=1)
        own_return = self._embed_returns(last_return_to_go[..., None], inputs.timesteps[:, -1:])
        others = last_step[:, None, 1:].expand(-1, candidates, -1, -1)
        own = torch.cat([own_return, others], dim=2)  # (B, M, 3, D)
        tokens = torch.cat([shared, own.flatten(1, 2)], dim=1)
        num_shared = shared.shape[1]
        bias = self._bias(inputs.mask)
        rows = branch_bias(bias, num_shared, candidates)

        def attend_in_branches(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            queries: slice,
            dropout: float,
        ) -> torch.Tensor:
            del dropout  # for inference only
            return branching_attention(
                query, key, value, rows[:, :, queries], num_shared, candidates
            )

        attend: _Attend = attend_in_branches
        if candidates <= _MASKED_BRANCHES:
            attend = _attend_to(branch_mask(bias, num_shared, candidates))
        for block in self.blocks[:-1]:
            tokens = block(tokens, attend, _ALL_TOKENS)
        last_states = slice(num_shared + _LAST_STEP_TOKENS - 1, None, _LAST_STEP_TOKENS)
        return self._act(self.blocks[-1](tokens, attend, last_states))

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.head(self.head_norm(x)))

    def _bias(self, mask: torch.Tensor) -> torch.Tensor:
        """Return :func:`attention_bias` in the precision of attention."""
        device = mask.device.type
        dtype = self._causal.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return attention_bias(mask, self._causal.to(dtype))

    def _embed(self, inputs: PolicyInputs) -> torch.Tensor:
        """Embed windows as tokens, (B, T, D)."""
        tokens = (
            self.embed_return(inputs.return_to_go[..., None]),
            self.embed_cost(inputs.cost_to_go[..., None]),
            self.embed_state(inputs.states),
            self.embed_action(inputs.actions),
        )
        time = self._embed_time(inputs.timesteps)[:, :, None]
        x = torch.stack(tokens, dim=2) + time  # (B, K, 4, D)
        return self.embed_dropout(self.embed_norm(x.flatten(1, 2)[:, :-1]))

    def _embed_returns(self, return_to_go: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Embed candidates' returns-to-go, (B, M, K) at timesteps (B, K), as :meth:`_embed`."""
        tokens = self.embed_return(return_to_go[..., None]) + self._embed_time(timesteps)[:, None]
        return self.embed_dropout(self.embed_norm(tokens))  # (B, M, K, D)

    def _embed_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.embed_timestep(timesteps.clamp_max(self.config.max_timestep))


def attention_bias(mask: torch.Tensor, causal: torch.Tensor) -> torch.Tensor:
    """Return the attention bias that masks later tokens and padding.

    The result is a view into wider rows; see :func:`omnisafe_qpt.qpt.kernels.aligned`.

    Args:
        mask (torch.Tensor): (B, K) bool, False in padding.
        causal (torch.Tensor): Result of :func:`_causal_bias` for K steps or more.

    Returns:
        (B, 1, T, T), 0 where a token may attend and -inf elsewhere. Every token may attend to
        itself, padding too: a row without an allowed token would be NaN.
    """
    num_tokens = _TOKENS_PER_STEP * mask.shape[1] - 1
    token_mask = mask.repeat_interleave(_TOKENS_PER_STEP, dim=1)
    width = aligned(num_tokens)
    token_mask = F.pad(token_mask, (0, width - token_mask.shape[1]))  # (B, width)
    allowed, itself = causal[:, :num_tokens, :width].unbind(0)
    bias = torch.where(token_mask[:, None], allowed, itself)
    return bias[:, None, :, :num_tokens]


def _causal_bias(num_steps: int) -> torch.Tensor:
    """Return the rows of :func:`attention_bias` for valid keys and for padding.

    Returns:
        (2, T, T), a view into wider rows.
    """
    num_tokens = _TOKENS_PER_STEP * num_steps - 1
    blocked = torch.full((num_tokens, aligned(num_tokens)), -torch.inf)
    return torch.stack([blocked.triu(1), blocked.triu(1) + blocked.tril(-1)])


def _initialise(module: nn.Module) -> None:
    """Small normal weights and zero biases, as is usual for Transformers."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
