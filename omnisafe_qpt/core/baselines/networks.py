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
"""Small networks that the baselines are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.core.kernels import Linear


class MLP(nn.Sequential):
    """Linear layers with ReLU in between.

    Args:
        in_dim (int): Size of the input.
        hidden_sizes (Sequence[int]): Hidden layers.
        out_dim (int): Size of the output, which is linear.
    """

    def __init__(self, in_dim: int, hidden_sizes: Sequence[int], out_dim: int) -> None:
        """Initialize an instance of :class:`MLP`."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([in_dim, *hidden_sizes, out_dim]):
            layers += [Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(*layers[:-1])


class Ensemble(nn.Module):
    """Independent networks of linear layers and ReLU with one output each, evaluated together.

    Args:
        members (int): How many networks, E.
        in_dim (int): Size of the input.
        hidden_sizes (Sequence[int]): Hidden layers of each.
    """

    def __init__(self, members: int, in_dim: int, hidden_sizes: Sequence[int]) -> None:
        """Initialize an instance of :class:`Ensemble`."""
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise([in_dim, *hidden_sizes, 1]):
            bound = 1 / math.sqrt(fan_in)  # as torch initialises a linear layer
            self.weights.append(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, fan_out).uniform_(-bound, bound))

    def forward(self, *inputs: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """Value inputs.

        Args:
            inputs (torch.Tensor): (B, ...) each, put side by side.
            frozen (bool, optional): Whether gradients reach the inputs only, not the networks'
                own parameters. Defaults to False.

        Returns:
            (E, B) values.
        """
        x = torch.cat(inputs, dim=-1)
        x = x.expand(len(self.weights[0]), *x.shape)  # (E, B, in_dim)
        last = len(self.weights) - 1
        for number, layer in enumerate(zip(self.weights, self.biases)):
            weight, bias = (each.detach() for each in layer) if frozen else layer
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                x = x.relu()
        return x[..., 0]


class TanhPolicy(MLP):
    """A deterministic policy with actions in [-1, 1].

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        hidden_sizes (Sequence[int]): Hidden layers.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        """Initialize an instance of :class:`TanhPolicy`."""
        super().__init__(obs_dim, hidden_sizes, act_dim)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Map standardised states (B, S) to actions (B, A)."""
        return super().forward(obs).tanh()

    def act(self, obs: torch.Tensor, generators: Sequence[np.random.Generator]) -> torch.Tensor:
        """Act at standardised states (B, S); nothing is drawn."""
        del generators
        return self(obs)
