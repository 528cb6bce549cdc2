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
"""What the learners of all baselines share: order of an update, metrics, state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from omnisafe_qpt.core.baselines.config import BaselineConfig
from omnisafe_qpt.core.learner import frozen_copy, load_optimizer
from omnisafe_qpt.core.parallel import Replicas
from omnisafe_qpt.core.scaling import Scaling
from omnisafe_qpt.data.transitions import TransitionBatch


class BaselineLearner:
    """Networks, target networks and optimisers of an algorithm, and one update of them all.

    It is used as :class:`omnisafe_qpt.core.learner.Learner` is. Metrics stay on the device until
    they are asked for, and all that changes from update to update is in tensors that keep their
    place, so an update never waits for the device and may be captured. Random numbers come from
    torch's default generator.

    A subclass names its networks and metrics, makes them in :meth:`_build`, and does an update of
    its networks in :meth:`_learn`.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        scaling (Scaling): Units of the dataset.
        config (BaselineConfig): Everything else.
        device (torch.device or str, optional): Where all of it lives. Defaults to ``'cpu'``.
        replicas (Replicas, optional): The processes that train this model together. Each updates
            with its own slice of a batch, and their gradients are averaged. Defaults to None, this
            process alone.

    Attributes:
        METRICS (tuple[str, ...]): Names of the metrics, means over the updates since they were
            popped. Values are in the critics' units.
        ACTOR (str): Name of the policy in a checkpoint.
    """

    METRICS: ClassVar[tuple[str, ...]]
    ACTOR: ClassVar[str]
    # Attributes: the networks that are trained or follow those, and what else an exact
    # continuation needs.
    _NETWORKS: ClassVar[tuple[str, ...]]
    _OPTIMIZERS: ClassVar[tuple[str, ...]]

    def __init__(  # pylint: disable=too-many-arguments
        self,
        obs_dim: int,
        act_dim: int,
        scaling: Scaling,
        config: BaselineConfig,
        device: torch.device | str = 'cpu',
        replicas: Replicas | None = None,
    ) -> None:
        """Initialize an instance of :class:`BaselineLearner`."""
        self.config = config
        self.device = torch.device(device)
        self.replicas = replicas or Replicas()
        self.step = 0
        self.scaling = scaling.to(self.device)
        self.obs_dim, self.act_dim = obs_dim, act_dim
        # Target networks, what they follow, and by which share in each update.
        self._followers: list[tuple[list[nn.Parameter], list[nn.Parameter], float]] = []
        self._build()
        self._metric_sums = torch.zeros(len(self.METRICS), device=self.device)
        self._metric_count = 0

    # ------------------------------------------------------------------ for subclasses

    def _build(self) -> None:
        """Make networks, target networks and optimisers."""
        raise NotImplementedError

    def _learn(self, batch: TransitionBatch) -> dict[str, torch.Tensor]:
        """Update the trained networks with a batch in raw units; returns the metrics."""
        raise NotImplementedError

    def actor_sizes(self) -> dict[str, Any]:
        """Return what a policy needs besides S and A to be built, in plain values."""
        raise NotImplementedError

    def actor_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the policy to deploy."""
        raise NotImplementedError

    def _trained(self, network: nn.Module) -> Any:
        """Take a network to train; with several replicas it gets the first one's weights."""
        network = network.to(self.device)
        for parameter in network.parameters():
            self.replicas.broadcast(parameter)
        return network

    def _following(self, network: nn.Module, share: float) -> Any:
        """Make a target network that moves by this share towards ``network`` in each update."""
        target = frozen_copy(network)
        pair = (list(target.parameters()), list(network.parameters()))
        self._followers.append((*pair, share))
        return target

    def _adam(self, lr: float, *networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [parameter for network in networks for parameter in network.parameters()],
            lr=torch.tensor(lr, device=self.device),
            fused=True,
            capturable=self.device.type == 'cuda',
        )

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Take a step of an optimiser on a loss that reaches its parameters alone."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients(optimizer)
        optimizer.step()

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if self.replicas.size == 1:
            return
        gradients = [each.grad for group in optimizer.param_groups for each in group['params']]
        mean = self.replicas.average(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = mean.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients)])

    # ------------------------------------------------------------------ an update

    def update(self, batch: TransitionBatch) -> None:
        """Do one update.

        Args:
            batch (TransitionBatch): B transitions in raw units, on the learner's device.
        """
        self.advance(lambda: self.iterate(batch))

    def advance(self, iterate: Callable[[], None]) -> None:
        """Do one update, whose work on the device is :meth:`iterate` or a replay of it.

        Args:
            iterate (Callable[[], None]): Does that work.
        """
        iterate()
        self.step += 1
        self._metric_count += 1

    def iterate(self, batch: TransitionBatch) -> None:
        """Do an update's work on the device: networks, target networks, metrics.

        Args:
            batch (TransitionBatch): B transitions in raw units, on the learner's device.
        """
        metrics = self._learn(batch)
        with torch.no_grad():
            for targets, sources, share in self._followers:
                torch._foreach_lerp_(targets, sources, share)
            self._metric_sums += torch.stack([metrics[name] for name in self.METRICS])

    # ------------------------------------------------------------------ metrics and state

    def metrics(self) -> dict[str, float]:
        """Return each metric's mean since they were popped; waits for the device.

        With several replicas, all have to call this, and all get the same.
        """
        if not self._metric_count:
            return {}
        means = self.replicas.average(self._metric_sums / self._metric_count)
        return dict(zip(self.METRICS, means.tolist()))

    def pop_metrics(self) -> dict[str, float]:
        """Return each metric's mean since the last call, as :meth:`metrics`, and begin anew."""
        means = self.metrics()
        self._metric_sums.zero_()
        self._metric_count = 0
        return means

    def broken(self) -> list[str]:
        """Name the networks that have a weight which is not finite; waits for the device."""
        finite = [
            torch.stack([x.isfinite().all() for x in getattr(self, name).parameters()]).all()
            for name in self._NETWORKS
        ]
        is_sound = torch.stack(finite).tolist()
        return [name for name, each in zip(self._NETWORKS, is_sound) if not each]

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs, random number generators apart."""
        state: dict[str, Any] = {
            name.lstrip('_'): getattr(self, name).state_dict()
            for name in ('scaling', *self._NETWORKS, *self._OPTIMIZERS)
        }
        state['step'] = self.step
        state['metrics'] = {'sums': self._metric_sums.clone(), 'count': self._metric_count}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, here or on another device."""
        for name in ('scaling', *self._NETWORKS):
            getattr(self, name).load_state_dict(state[name])
        for name in self._OPTIMIZERS:
            load_optimizer(getattr(self, name), state[name.lstrip('_')])
        self.step = state['step']
        self.load_metrics(state['metrics'])

    def load_metrics(self, state: dict[str, Any]) -> None:
        """Restore the metrics of :meth:`state_dict` alone: with replicas each has its own."""
        self._metric_sums.copy_(state['sums'])
        self._metric_count = state['count']
