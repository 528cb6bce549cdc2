# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Twin critics, two networks batched as one (Section 3.3, Appendix D.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn

from omnisafe_qpt.qpt.kernels import mish


def count_critic_states(inputs: str, obs_dim: int) -> int:
    """Return the size of what :func:`critic_states` returns."""
    return obs_dim + {'state_action': 0, 'targets_time': 3}[inputs]


def critic_states(
    inputs: str,
    horizon: int,
    states: torch.Tensor,
    return_to_go: torch.Tensor,
    cost_to_go: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """Return the state input of the critics, in the networks' units.

    Args:
        inputs (str): ``state_action``, the paper's critics; or ``targets_time``, which also see the
            policy's targets and the time. The paper's critics do not see the targets, so their
            values average over all targets in the data.
        horizon (int): Steps of an episode, T.
        states (torch.Tensor): (..., S).
        return_to_go (torch.Tensor): (...).
        cost_to_go (torch.Tensor): (...).
        timesteps (torch.Tensor): (...) int64.

    Returns:
        (..., S) or (..., S + 3).
    """
    if inputs == 'state_action':
        return states
    more = torch.stack([return_to_go, cost_to_go, timesteps / horizon], dim=-1)
    return torch.cat([states, more], dim=-1)


class TwinCritic(nn.Module):
    """Two independent Q-networks of linear layers with Mish, evaluated together.

    The same class serves reward and cost.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        hidden_sizes (Sequence[int]): Hidden layers; the paper's four linear layers are three
            hidden ones and the output.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        """Initialize an instance of :class:`TwinCritic`."""
        super().__init__()
        sizes = [obs_dim + act_dim, *hidden_sizes, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # as torch initialises a linear layer
            self.weights.append(torch.empty(2, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(2, 1, fan_out).uniform_(-bound, bound))

    @classmethod
    def joined(cls, *critics: TwinCritic) -> TwinCritic:
        """Copy several critics into one that evaluates all of their networks at once.

        Args:
            critics (TwinCritic): Critics of the same sizes.
        """
        joined = deepcopy(critics[0]).requires_grad_(False)
        for name in ('weights', 'biases'):
            for index, layer in enumerate(zip(*(getattr(critic, name) for critic in critics))):
                getattr(joined, name)[index] = nn.Parameter(torch.cat(layer), requires_grad=False)
        return joined

    def forward(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        member: torch.Tensor | None = None,
        frozen: bool = False,
    ) -> torch.Tensor:
        """Return the values of state-action pairs.

        Args:
            states (torch.Tensor): (..., S), standardised; or (B, 1, S) for actions (B, M, A) that
                share one state, which then passes the first layer once.
            actions (torch.Tensor): (..., A).
            member (torch.Tensor, optional): (n,) int64, which of the two networks to use.
                Defaults to None, both.
            frozen (bool, optional): Whether gradients reach only the inputs, not the parameters.
                Defaults to False.

        Returns:
            (2, ...) values, or (n, ...) for chosen members.
        """
        batch_shape = actions.shape[:-1]
        layers = [
            (self._pick(weight, member, frozen), self._pick(bias, member, frozen))
            for weight, bias in zip(self.weights, self.biases)
        ]
        x = self._first(states, actions, *layers[0])  # (2, N, H)
        for weight, bias in layers[1:]:
            x = torch.baddbmm(bias, mish(x), weight)
        return x.reshape(-1, *batch_shape)

    @staticmethod
    def _first(
        states: torch.Tensor,
        actions: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Apply the first layer, (2, N, H)."""
        if states.shape[1:-1] == actions.shape[1:-1]:
            x = torch.cat([states, actions], dim=-1).flatten(0, -2)  # (N, S + A)
            return torch.baddbmm(bias, x.expand(len(weight), *x.shape), weight)
        of_state, of_action = weight.tensor_split([states.shape[-1]], dim=1)
        shared = states.flatten(0, 1) @ of_state + bias  # (2, B, H)
        own = (actions.flatten(0, 1) @ of_action).unflatten(1, actions.shape[:2])  # (2, B, M, H)
        return (own + shared[:, :, None]).flatten(1, 2)

    @staticmethod
    def _pick(
        parameter: torch.Tensor,
        member: torch.Tensor | None,
        frozen: bool,
    ) -> torch.Tensor:
        parameter = parameter.detach() if frozen else parameter
        return parameter if member is None else parameter.index_select(0, member)
