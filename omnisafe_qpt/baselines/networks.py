# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.qpt.kernels import Dropout, Linear, mish


class Mish(nn.Module):
    """:class:`torch.nn.Mish`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map each element."""
        return mish(x)


class MLP(nn.Sequential):
    """Linear layers with a nonlinearity in between.

    Args:
        in_dim (int): Size of the input.
        hidden_sizes (Sequence[int]): Hidden layers.
        out_dim (int): Size of the output, which is linear.
        activation (type[nn.Module], optional): The nonlinearity. Defaults to ReLU.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_sizes: Sequence[int],
        out_dim: int,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        """Initialize an instance of :class:`MLP`."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([in_dim, *hidden_sizes, out_dim]):
            layers += [Linear(fan_in, fan_out), activation()]
        super().__init__(*layers[:-1])


class Ensemble(nn.Module):
    """Independent networks of linear layers and ReLU with one output each, evaluated together.

    Args:
        members (int): Number of networks, E.
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
        """Return the values of inputs.

        Args:
            inputs (torch.Tensor): (B, ...) each, concatenated.
            frozen (bool, optional): Whether gradients reach only the inputs, not the parameters.
                Defaults to False.

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
        """Return actions for standardised states (B, S), deterministic."""
        del generators
        return self(obs)


# Range of the logarithm of a standard deviation; beyond, it is 0 or useless.
_LOG_STD_RANGE = (-20.0, 2.0)


class GaussianPolicy(MLP):
    """A Gaussian squashed by tanh, so that actions are in [-1, 1].

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        hidden_sizes (Sequence[int]): Hidden layers.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        """Initialize an instance of :class:`GaussianPolicy`."""
        super().__init__(obs_dim, hidden_sizes, 2 * act_dim)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation before the tanh, (B, A) each, at states (B, S)."""
        mean, log_std = super().forward(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD_RANGE).exp()

    def sample(self, obs: torch.Tensor, count: int = 1) -> torch.Tensor:
        """Sample actions for standardised states (B, S); gradients reach the policy.

        Args:
            obs (torch.Tensor): (B, S).
            count (int, optional): Number per state, n. Defaults to 1.

        Returns:
            (n B, A), all states with their first action, then all with their second.
        """
        mean, std = (each.repeat(count, 1) for each in self(obs))
        return (mean + std * torch.randn_like(mean)).tanh()

    def act(self, obs: torch.Tensor, generators: Sequence[np.random.Generator]) -> torch.Tensor:
        """Return the mean actions for standardised states (B, S), deterministic."""
        del generators
        return self(obs)[0].tanh()


class ActionVAE(nn.Module):
    """A conditional variational autoencoder of the data's actions at a state.

    Args:
        obs_dim (int): S.
        act_dim (int): A; the latent space has 2 A dimensions.
        hidden_sizes (Sequence[int]): Hidden layers of the encoder, and of the decoder.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        """Initialize an instance of :class:`ActionVAE`."""
        super().__init__()
        latent_dim = 2 * act_dim
        self.encoder = MLP(obs_dim + act_dim, hidden_sizes, 2 * latent_dim)
        self.decoder = MLP(obs_dim + latent_dim, hidden_sizes, act_dim)

    def forward(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode, sample and decode.

        Args:
            obs (torch.Tensor): (B, S), standardised.
            actions (torch.Tensor): (B, A).

        Returns:
            (B, A) reconstructed actions, and (B,) the divergence of :meth:`divergence`.
        """
        mean, log_std = self._encode(obs, actions)
        latent = mean + log_std.exp() * torch.randn_like(mean)
        return self.decoder(torch.cat([obs, latent], dim=-1)).tanh(), _divergence(mean, log_std)

    def divergence(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return the divergence of the latent distribution of actions from its prior, (B,).

        The Kullback-Leibler divergence from the standard normal, a mean over dimensions.
        """
        return _divergence(*self._encode(obs, actions))

    def _encode(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.encoder(torch.cat([obs, actions], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD_RANGE)


def _divergence(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0 - 2.0 * log_std).mean(-1)


# Constants of the noise schedule and of the features of a diffusion step.
_BETA_MIN, _BETA_MAX = 0.1, 10.0
_TIME_FREQUENCIES = 32
_TIME_FREQUENCY_STD = 0.2
_TIME_SIZES = (2 * _TIME_FREQUENCIES, (128,), 128)


def variance_preserving_betas(steps: int) -> torch.Tensor:
    r"""Return the share of variance that each diffusion step replaces by noise, (T,).

    .. math:: 1 - \exp(-\beta_{min} / T - (\beta_{max} - \beta_{min}) (2 t - 1) / (2 T^2))

    Args:
        steps (int): T.
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    slope = (_BETA_MAX - _BETA_MIN) * (2 * t - 1) / (2 * steps**2)
    return (-torch.expm1(-_BETA_MIN / steps - slope)).float()


class Denoiser(nn.Module):
    """Predicts the noise in a noisy action: a residual network with layer norms.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        steps (int): Diffusion steps, T.
        width (int): Width of the residual stream; four times wider inside a block.
        blocks (int): Residual blocks.
        dropout (float): Dropout at the input of each block.
    """

    betas: torch.Tensor
    signal: torch.Tensor
    noise: torch.Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        steps: int,
        width: int,
        blocks: int,
        dropout: float = 0.0,
    ) -> None:
        """Initialize an instance of :class:`Denoiser`."""
        super().__init__()
        self.act_dim = act_dim
        betas = variance_preserving_betas(steps)
        left = (1.0 - betas).cumprod(0)
        self.register_buffer('betas', betas, persistent=False)
        # Coefficients of action and noise after each step.
        self.register_buffer('signal', left.sqrt(), persistent=False)
        self.register_buffer('noise', (1.0 - left).sqrt(), persistent=False)
        self.frequencies = nn.Parameter(_TIME_FREQUENCY_STD * torch.randn(_TIME_FREQUENCIES))
        self.time = MLP(*_TIME_SIZES, activation=Mish)
        self.entry = Linear(act_dim + obs_dim + _TIME_SIZES[-1], width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Dropout(dropout),
                nn.LayerNorm(width),
                Linear(width, 4 * width),
                Mish(),
                Linear(4 * width, width),
            )
            for _ in range(blocks)
        )
        self.exit = nn.Sequential(Mish(), Linear(width, act_dim))

    @property
    def steps(self) -> int:
        """Diffusion steps, T."""
        return len(self.betas)

    def forward(
        self,
        obs: torch.Tensor,
        noisy: torch.Tensor,
        step: torch.Tensor,
    ) -> torch.Tensor:
        """Estimate the noise.

        Args:
            obs (torch.Tensor): (B, S), standardised.
            noisy (torch.Tensor): (B, A), actions with noise.
            step (torch.Tensor): (B,) int64 in [0, T), their diffusion step.

        Returns:
            (B, A).
        """
        times = torch.arange(self.steps, device=obs.device)[:, None]
        angles = 2.0 * math.pi * times * self.frequencies
        features = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))  # (T, 128)
        x = self.entry(torch.cat([noisy, obs, features.index_select(0, step)], dim=-1))
        for block in self.blocks:
            x = x + block(x)
        return self.exit(x)

    def blur(
        self,
        actions: torch.Tensor,
        step: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Add the noise of the diffusion steps 0..``step`` (B,) to actions, all (B, A)."""
        return self.signal[step, None] * actions + self.noise[step, None] * noise

    def denoise(self, obs: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Denoise to actions, by the reverse process of Ho et al. (2020).

        Args:
            obs (torch.Tensor): (B, S), standardised.
            draws (torch.Tensor): (T, B, A) standard normal numbers: the start, then the noise after
                each step except the last.

        Returns:
            (B, A) actions in [-1, 1].
        """
        actions = draws[0]
        for number in reversed(range(self.steps)):
            step = torch.full((len(obs),), number, device=obs.device)
            beta = self.betas[number]
            estimate = self(obs, actions, step)
            actions = (actions - beta / self.noise[number] * estimate) / (1.0 - beta).sqrt()
            if number > 0:
                actions = actions + beta.sqrt() * draws[self.steps - number]
            actions = actions.clamp(-1.0, 1.0)
        return actions


class DiffusionPolicy(nn.Module):
    """Samples several actions by diffusion and selects the safest.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        candidates (int): Number of sampled actions, N.
        critic_hidden_sizes (Sequence[int]): Hidden layers of the cost critics.
        sizes (Any): ``steps``, ``width`` and ``blocks`` of the :class:`Denoiser`.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        candidates: int,
        critic_hidden_sizes: Sequence[int],
        **sizes: Any,
    ) -> None:
        """Initialize an instance of :class:`DiffusionPolicy`."""
        super().__init__()
        self.candidates = candidates
        self.denoiser = Denoiser(obs_dim, act_dim, **sizes)
        self.cost_critic = Ensemble(2, obs_dim + act_dim, critic_hidden_sizes)

    def act(self, obs: torch.Tensor, generators: Sequence[np.random.Generator]) -> torch.Tensor:
        """Return actions for standardised states (B, S), each with its own generator."""
        shape = (self.denoiser.steps, self.candidates, self.denoiser.act_dim)
        draws = np.stack(
            [each.standard_normal(shape, dtype=np.float32) for each in generators],
            axis=1,
        )  # (T, B, N, A)
        draws = torch.from_numpy(draws).to(obs.device).flatten(1, 2)
        states = obs.repeat_interleave(self.candidates, dim=0)  # (B N, S)
        actions = self.denoiser.denoise(states, draws)
        cost_values = self.cost_critic(states, actions).amax(0).view(len(obs), -1)
        actions = actions.view(len(obs), self.candidates, -1)
        return actions[torch.arange(len(obs), device=obs.device), cost_values.argmin(1)]
