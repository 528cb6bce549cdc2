# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""BC-Safe: behaviour cloning of the episodes within the cost limit."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from omnisafe_qpt.baselines.config import BCSafeConfig
from omnisafe_qpt.baselines.learner import BaselineLearner
from omnisafe_qpt.baselines.networks import TanhPolicy
from omnisafe_qpt.data.transitions import TransitionBatch


def cloning_loss(predicted: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of predicted actions, both (B, A)."""
    return (predicted - actions).square().mean()


class BCSafeLearner(BaselineLearner):
    """Behaviour cloning with a deterministic policy.

    Give it only the safe episodes, :func:`omnisafe_qpt.data.transitions.select_safe`.

    References:
        - Title: Datasets and Benchmarks for Offline Safe Reinforcement Learning
        - Authors: Zuxin Liu, Zijian Guo, Haohong Lin, Yihang Yao, Jiacheng Zhu, Zhepeng Cen,
          Hanjiang Hu, Wenhao Yu, Tingnan Zhang, Jie Tan, Ding Zhao.
        - URL: `DSRL <https://arxiv.org/abs/2306.09303>`_
    """

    METRICS: ClassVar[tuple[str, ...]] = ('Loss/Loss_actor',)
    ACTOR: ClassVar[str] = 'bc_safe'
    _NETWORKS: ClassVar[tuple[str, ...]] = ('actor',)
    _OPTIMIZERS: ClassVar[tuple[str, ...]] = ('_actor_optimizer',)

    config: BCSafeConfig

    def _build(self) -> None:
        policy = TanhPolicy(self.obs_dim, self.act_dim, self.config.actor_hidden_sizes)
        self.actor: TanhPolicy = self._trained(policy)
        self._actor_optimizer = self._adam(self.config.actor_lr, self.actor)

    def _learn(self, batch: TransitionBatch) -> dict[str, torch.Tensor]:
        loss = cloning_loss(self.actor(self.scaling.observation(batch.obs)), batch.action)
        self._descend(loss, self._actor_optimizer)
        return {'Loss/Loss_actor': loss.detach()}

    def actor_sizes(self) -> dict[str, Any]:
        """Return the hidden layers."""
        return {'hidden_sizes': list(self.config.actor_hidden_sizes)}

    def actor_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the policy."""
        return self.actor.state_dict()
