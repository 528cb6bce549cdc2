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
"""The conditional Transformer policy, Eq. (2)-(3).

A step is four tokens in this order: return-to-go, cost-to-go, state, action. The action is
predicted at the state token, so the last step's action token is never needed and left out: a
window of K steps is T = 4K - 1 tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from omnisafe_qpt.core.config import PolicyConfig
from omnisafe_qpt.core.kernels import (
    Dropout,
    Linear,
    LinearGELU,
    attention,
    branch_mask,
    branching_attention,
)


_TOKENS_PER_STEP = 4
# Where the state tokens are among the T tokens, and the last of them.
_STATE_TOKENS = slice(2, None, _TOKENS_PER_STEP)
_LAST_TOKEN = slice(-1, None)
_ALL_TOKENS = slice(None)
# The last step is three tokens: return-to-go, cost-to-go, state.
_LAST_STEP_TOKENS = 3

# Candidates that share their history, up to which one pass of attention over all tokens is faster.
_MASKED_BRANCHES = 32


# Mixes values (B, H, T, d) by queries (B, H, Q, d) and keys: (query, key, value, queries, dropout),
# ``queries`` saying which of the tokens these are.
_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, slice, float], torch.Tensor]


def _attend_to(allowed: torch.Tensor) -> _Attend:
    """Attend where allowed (B, 1, T, T)."""
    return lambda query, key, value, queries, dropout: attention(
        query, key, value, allowed[:, :, queries], dropout
    )


class _Attention(nn.Module):
    """Multi-head attention; queries, keys and values are asked for apart from their mixture."""

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
        key_value: torch.Tensor,
        attend: _Attend,
        queries: slice,
    ) -> torch.Tensor:
        """Mix values for queries (B, Q, D) and keys and values (B, T, 2 D); returns (B, Q, D)."""
        query = self._split(query)  # (B, H, Q, D / H)
        key, value = map(self._split, key_value.chunk(2, dim=-1))  # (B, H, T, D / H)
        mixed = attend(query, key, value, queries, self._dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """A pre-norm Transformer block whose output may be asked for at some tokens only."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embed_dim)
        self.attention = _Attention(config)
        self.mlp_norm = nn.LayerNorm(config.embed_dim)
        up = LinearGELU(config.embed_dim, 4 * config.embed_dim)
        down = Linear(4 * config.embed_dim, config.embed_dim)
        # These are the names of the weights in checkpoints.
        self.mlp = nn.Sequential(OrderedDict([('0', up), ('2', down)]))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: torch.Tensor, attend: _Attend, queries: slice) -> torch.Tensor:
        """Map x (B, T, D) to (B, Q, D), Q the number of query tokens."""
        return self.mix(x[:, queries], *self.project(x, queries), attend, queries)

    def project(self, x: torch.Tensor, queries: slice = _ALL_TOKENS) -> tuple[torch.Tensor, ...]:
        """Return what attention needs of each token alone: (B, Q, D) and (B, T, 2 D)."""
        normed = self.attention_norm(x)
        return self.attention.query(normed[:, queries]), self.attention.key_value(normed)

    def mix(  # pylint: disable=too-many-arguments
        self,
        x: torch.Tensor,
        query: torch.Tensor,
        key_value: torch.Tensor,
        attend: _Attend,
        queries: slice,
    ) -> torch.Tensor:
        """Do the rest for the query tokens, x and query (B, Q, D)."""
        x = x + self.dropout(self.attention(query, key_value, attend, queries))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class TransformerPolicy(nn.Module):
    """Deterministic policy over windows, Eq. (2); actions lie in [-1, 1].

    Inputs are in the networks' units (:class:`omnisafe_qpt.core.scaling.Scaling`). Padding on the
    left is masked out of attention, so its content does not matter; timesteps are those of the
    episode, so a padded window means the same as a shorter one.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        config (PolicyConfig): Sizes.
    """

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
        self.apply(_initialise)

    def forward(  # pylint: disable=too-many-arguments
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        return_to_go: torch.Tensor,
        cost_to_go: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor,
        last_only: bool = False,
    ) -> torch.Tensor:
        """Predict the action at each state from the history up to it.

        Args:
            states (torch.Tensor): (B, K, S).
            actions (torch.Tensor): (B, K, A); the last one is not looked at.
            return_to_go (torch.Tensor): (B, K).
            cost_to_go (torch.Tensor): (B, K).
            timesteps (torch.Tensor): (B, K) int64.
            mask (torch.Tensor): (B, K) bool, False in padding.
            last_only (bool, optional): Whether only the last state's action is wanted, which
                saves the last block's work on all other tokens. Defaults to False.

        Returns:
            (B, K, A) actions, or (B, 1, A) for the last state only.
        """
        tokens = self._embed(states, actions, return_to_go, cost_to_go, timesteps)
        queries = _LAST_TOKEN if last_only else _STATE_TOKENS
        return self._predict(tokens, _attend_to(attention_mask(mask)), queries, self.blocks)

    def candidate_actions(  # pylint: disable=too-many-arguments
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        return_to_go: torch.Tensor,
        cost_to_go: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the last action for several returns-to-go, each over the whole history.

        The candidates share their other tokens, up to the first block's attention.

        Args:
            states (torch.Tensor): (B, K, S).
            actions (torch.Tensor): (B, K, A); the last one is not looked at.
            return_to_go (torch.Tensor): (B, M, K).
            cost_to_go (torch.Tensor): (B, K).
            timesteps (torch.Tensor): (B, K) int64.
            mask (torch.Tensor): (B, K) bool, False in padding.

        Returns:
            (B, M, A) actions, each as :meth:`forward` would predict it alone.
        """
        candidates = return_to_go.shape[1]
        one = self._embed(states, actions, return_to_go[:, 0], cost_to_go, timesteps)
        own = self._embed_returns(return_to_go, timesteps)  # (B, M, K, D)

        def spread(shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            tokens = shared[:, None].repeat(1, candidates, 1, 1)
            tokens[:, :, ::_TOKENS_PER_STEP] = own
            return tokens.flatten(0, 1)  # (B M, T, ...)

        x = spread(one, own)
        attend = _attend_to(attention_mask(mask).repeat_interleave(candidates, dim=0))
        blocks = self.blocks
        if len(blocks) > 1:
            # In the first block queries, keys and values are still shared.
            first, blocks = blocks[0], blocks[1:]
            projected = zip(first.project(one), first.project(own))
            x = first.mix(x, *(spread(*pair) for pair in projected), attend, _ALL_TOKENS)
        actions = self._predict(x, attend, _LAST_TOKEN, blocks)
        # len(mask) would be a constant in an exported model.
        return actions.reshape(mask.shape[0], candidates, -1)

    def last_candidate_actions(  # pylint: disable=too-many-arguments
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        return_to_go: torch.Tensor,
        cost_to_go: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor,
        last_return_to_go: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the last action for several values of the last return-to-go.

        Such candidates share all tokens but the last step's three, which no earlier token sees:
        4K - 4 + 3M tokens go through the blocks instead of M (4K - 1).

        Args:
            states (torch.Tensor): (B, K, S).
            actions (torch.Tensor): (B, K, A); the last one is not looked at.
            return_to_go (torch.Tensor): (B, K); the last one is not looked at.
            cost_to_go (torch.Tensor): (B, K).
            timesteps (torch.Tensor): (B, K) int64.
            mask (torch.Tensor): (B, K) bool, False in padding.
            last_return_to_go (torch.Tensor): (B, M).

        Returns:
            (B, M, A) actions, each as :meth:`forward` would predict it alone.
        """
        candidates = last_return_to_go.shape[1]
        one = self._embed(states, actions, return_to_go, cost_to_go, timesteps)
        shared, last_step = one.tensor_split([-_LAST_STEP_TOKENS], dim=1)
        own = last_step[:, None].repeat(1, candidates, 1, 1)  # (B, M, 3, D)
        own[:, :, :1] = self._embed_returns(last_return_to_go[..., None], timesteps[:, -1:])
        tokens = torch.cat([shared, own.flatten(1, 2)], dim=1)
        allowed, num_shared = attention_mask(mask), shared.shape[1]

        def attend(  # pylint: disable=too-many-arguments
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            queries: slice,
            dropout: float,
        ) -> torch.Tensor:
            del queries, dropout  # all tokens or the last states; this is for acting only
            return branching_attention(query, key, value, allowed, num_shared, candidates)

        if candidates <= _MASKED_BRANCHES:
            attend = _attend_to(branch_mask(allowed, num_shared, candidates))
        last_states = slice(num_shared + _LAST_STEP_TOKENS - 1, None, _LAST_STEP_TOKENS)
        return self._predict(tokens, attend, last_states, self.blocks)

    def _predict(
        self,
        x: torch.Tensor,
        attend: _Attend,
        queries: slice,
        blocks: nn.ModuleList,
    ) -> torch.Tensor:
        """Run blocks, the last one for some tokens, and predict actions there."""
        for block in blocks[:-1]:
            x = block(x, attend, _ALL_TOKENS)
        x = blocks[-1](x, attend, queries)
        return torch.tanh(self.head(self.head_norm(x)))

    def _embed(  # pylint: disable=too-many-arguments
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        return_to_go: torch.Tensor,
        cost_to_go: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        tokens = (
            self.embed_return(return_to_go[..., None]),
            self.embed_cost(cost_to_go[..., None]),
            self.embed_state(states),
            self.embed_action(actions),
        )
        x = torch.stack(tokens, dim=2) + self._embed_time(timesteps)[:, :, None]  # (B, K, 4, D)
        return self.embed_dropout(self.embed_norm(x.flatten(1, 2)[:, :-1]))  # (B, T, D)

    def _embed_returns(self, return_to_go: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Embed candidates' returns-to-go, (B, M, K) at timesteps (B, K), as :meth:`_embed`."""
        tokens = self.embed_return(return_to_go[..., None]) + self._embed_time(timesteps)[:, None]
        return self.embed_dropout(self.embed_norm(tokens))  # (B, M, K, D)

    def _embed_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.embed_timestep(timesteps.clamp_max(self.config.max_timestep))


def attention_mask(mask: torch.Tensor) -> torch.Tensor:
    """Say which token may look at which: no later one, and no padding.

    Args:
        mask (torch.Tensor): (B, K) bool, False in padding.

    Returns:
        (B, 1, T, T) bool. Every token may look at itself, padding too: a row without any allowed
        token would be NaN.
    """
    token_mask = mask.repeat_interleave(_TOKENS_PER_STEP, dim=1)[:, None, None, :-1]
    num_tokens = token_mask.shape[-1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(num_tokens, dtype=torch.bool, device=mask.device)
    return (causal & token_mask) | itself


def _initialise(module: nn.Module) -> None:
    """Small normal weights and zero biases, as is usual for Transformers."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
