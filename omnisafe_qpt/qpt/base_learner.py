# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What all learners share: how an update advances, metrics, and the state to go on from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import nn

from omnisafe_qpt.qpt.ranks import Ranks
from omnisafe_qpt.qpt.scaling import Scaling


class BaseLearner(ABC):
    """Networks and optimisers, and one update of them all.

    Metrics stay on the device until they are asked for, so an update never waits for the device.
    All that changes from update to update is in tensors that keep their place, so that a captured
    update (:class:`omnisafe_qpt.training.cuda_graph.CapturedUpdate`) can be replayed.

    Args:
        metric_names (Iterable[str]): What is reported, in this order.
        scaling (Scaling): Units of the dataset.
        device (torch.device or str): Where all of it lives.
        ranks (Ranks or None): The processes that train this model together; None is this
            process alone.

    Attributes:
        config (Any): Its settings, a dataclass; each learner has its own.
        metric_names (tuple[str, ...]): Names of the metrics, means over the updates since they
            were popped. Values are in the critics' units.
        step (int): Updates done.
    """

    # Attributes: the networks that are trained or follow those, and what else an exact
    # continuation needs.
    _NETWORKS: ClassVar[tuple[str, ...]]
    _OPTIMIZERS: ClassVar[tuple[str, ...]]
    config: Any

    def __init__(
        self,
        metric_names: Iterable[str],
        scaling: Scaling,
        device: torch.device | str,
        ranks: Ranks | None,
    ) -> None:
        """Initialize an instance of :class:`BaseLearner`."""
        self.device = torch.device(device)
        self.ranks = ranks or Ranks()
        self.step = 0
        self.scaling = scaling.to(self.device)
        self.metric_names = tuple(metric_names)
        self._metric_sums = torch.zeros(len(self.metric_names), device=self.device)
        self._metric_count = 0

    # ------------------------------------------------------------------ an update

    def update(self, batch: Any) -> None:
        """Do one update.

        Args:
            batch (SequenceBatch or TransitionBatch): In raw units, on the learner's device.
        """
        self.advance(lambda: self.iterate(batch))

    def advance(self, iterate: Callable[[], None]) -> None:
        """Do one update, whose work on the device is :meth:`iterate` or a replay of it.

        Here is all that differs between updates on the side of Python.

        Args:
            iterate (Callable[[], None]): Does that work.
        """
        self._fill_learning_rates()
        iterate()
        self.step += 1
        self._metric_count += 1

    @abstractmethod
    def iterate(self, batch: Any) -> None:
        """Do an update's work on the device, and add up its metrics.

        Args:
            batch (SequenceBatch or TransitionBatch): In raw units, on the learner's device.
        """

    def _fill_learning_rates(self) -> None:  # noqa: B027 (a hook: most schedules are none)
        """Set the rates of this update; they stay as they are unless a learner has a schedule.

        It is a function of the step alone, so that there is no scheduler to save and restore.
        """

    @torch.no_grad()
    def _accumulate(self, metrics: dict[str, torch.Tensor]) -> None:
        self._metric_sums += torch.stack([metrics[name] for name in self.metric_names])

    # ------------------------------------------------------------------ metrics and state

    def metrics(self) -> dict[str, float]:
        """Return each metric's mean since they were popped; waits for the device.

        With several ranks, all have to call this, and all get the same.
        """
        if not self._metric_count:
            return {}
        means = self.ranks.average(self._metric_sums / self._metric_count)
        return dict(zip(self.metric_names, means.tolist()))

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
            _load_optimizer(getattr(self, name), state[name.lstrip('_')])
        self.step = state['step']
        if 'metrics' in state:  # not in older states, which are of the ends of epochs
            self.load_metrics(state['metrics'])

    def load_metrics(self, state: dict[str, Any]) -> None:
        """Restore the metrics of :meth:`state_dict` alone: each rank has its own."""
        if state['sums'].shape != self._metric_sums.shape:  # it would be broadcast
            raise ValueError(f'metrics of shape {tuple(state["sums"].shape)}')
        self._metric_sums.copy_(state['sums'])
        self._metric_count = state['count']


def frozen_copy(network: nn.Module) -> Any:
    """Copy a network as its target: equal at the start, in eval mode, never differentiated."""
    return deepcopy(network).requires_grad_(False).eval()


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load moments and step counts; rates and other options stay those of the configuration.

    A tensor that is there already keeps its place, since a captured update knows no other.
    """
    options = [dict(group) for group in optimizer.param_groups]
    held = optimizer.state
    optimizer.load_state_dict(deepcopy(state))  # it would share the tensors that it is given
    for group, kept in zip(optimizer.param_groups, options):
        group.update(kept)
    for parameter, tensors in optimizer.state.items():
        for name, tensor in tensors.items():
            shape = torch.Size() if name == 'step' else parameter.shape
            if tensor.shape != shape:  # torch does not look at it
                raise ValueError(f'{name} of shape {tuple(tensor.shape)} in an optimiser')
    for parameter, tensors in held.items():
        loaded = optimizer.state[parameter]
        for name, tensor in tensors.items():
            # Before the first update an optimiser has no state.
            loaded[name] = tensor.copy_(loaded[name]) if name in loaded else tensor.zero_()
