# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of the baselines' learners: construction, and the order of an update."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from omnisafe_qpt.baselines.config import BaselineConfig
from omnisafe_qpt.data.transitions import TransitionBatch
from omnisafe_qpt.qpt.base_learner import BaseLearner, frozen_copy
from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import Scaling


class BaselineLearner(BaseLearner):
    """Base class: networks, target networks and optimisers of a baseline, and one update.

    Random numbers come from torch's default generator.

    A subclass names its metrics, makes its networks in :meth:`_build`, and updates them in
    :meth:`_learn`.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        scaling (Scaling): Units of the dataset.
        config (BaselineConfig): The other settings.
        device (torch.device or str, optional): Device of the networks. Defaults to ``'cpu'``.
        ranks (Ranks, optional): The processes that train this model together. Each updates
            with its own slice of a batch, and their gradients are averaged. Defaults to None, this
            process alone.

    Attributes:
        METRICS (tuple[str, ...]): Names of the metrics.
        ACTOR (str): Name of the policy in a checkpoint.
    """

    METRICS: ClassVar[tuple[str, ...]]
    ACTOR: ClassVar[str]

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        scaling: Scaling,
        config: BaselineConfig,
        device: torch.device | str = 'cpu',
        ranks: Ranks | None = None,
    ) -> None:
        """Initialize an instance of :class:`BaselineLearner`."""
        super().__init__(self.METRICS, scaling, device, ranks)
        self.config = config
        self.obs_dim, self.act_dim = obs_dim, act_dim
        # Target networks, their online networks, and the share of each update.
        self._followers: list[tuple[list[torch.Tensor], list[torch.Tensor], float]] = []
        self._build()

    # ------------------------------------------------------------------ for subclasses

    def _build(self) -> None:
        """Make networks, target networks and optimisers."""
        raise NotImplementedError

    def _learn(self, batch: TransitionBatch) -> dict[str, torch.Tensor]:
        """Update the trained networks with a batch in raw units; returns the metrics."""
        raise NotImplementedError

    def actor_sizes(self) -> dict[str, Any]:
        """Return the arguments of the policy other than S and A, in plain values."""
        raise NotImplementedError

    def actor_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the policy to deploy."""
        raise NotImplementedError

    def _trained(self, network: nn.Module) -> Any:
        """Register a network to train; with several ranks it gets the first one's weights."""
        network = network.to(self.device)
        for parameter in network.parameters():
            self.ranks.broadcast(parameter)
        return network

    def _following(self, network: nn.Module, share: float) -> Any:
        """Make a target network that moves by this share towards ``network`` in each update."""
        target = frozen_copy(network)
        targets: list[torch.Tensor] = list(target.parameters())
        sources: list[torch.Tensor] = list(network.parameters())
        self._followers.append((targets, sources, share))
        return target

    def _adam(self, lr: float, *networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [parameter for network in networks for parameter in network.parameters()],
            lr=torch.tensor(lr, device=self.device),
            fused=True,
            capturable=self.device.type == 'cuda',
        )

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimiser step on a loss whose gradient reaches only its parameters."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients(optimizer)
        optimizer.step()

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if self.ranks.size == 1:
            return
        gradients = [each.grad for group in optimizer.param_groups for each in group['params']]
        mean = self.ranks.average(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = mean.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients)])

    def iterate(self, batch: TransitionBatch) -> None:
        """Do an update's work on the device: networks, target networks, metrics.

        Args:
            batch (TransitionBatch): B transitions in raw units, on the learner's device.
        """
        metrics = self._learn(batch)
        with torch.no_grad():
            for targets, sources, share in self._followers:
                torch._foreach_lerp_(targets, sources, share)
        self._accumulate(metrics)
