# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines as offline algorithms of OmniSafe."""

from __future__ import annotations

from typing import Any

from omnisafe.algorithms import registry

from omnisafe_qpt.baselines.bc_safe import BCSafeLearner
from omnisafe_qpt.baselines.config import BCSafeConfig, CPQConfig, FISORConfig
from omnisafe_qpt.baselines.cpq import CPQLearner
from omnisafe_qpt.baselines.deploy import DeployableActor
from omnisafe_qpt.baselines.fisor import FISORLearner
from omnisafe_qpt.baselines.learner import BaselineLearner
from omnisafe_qpt.data.transitions import TransitionSampler, select_safe
from omnisafe_qpt.omnisafe_plugin.offline_algorithm import OfflineAlgorithm
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.settings.learner import (
    bc_safe_config,
    cpq_config,
    fisor_config,
    single_action_config,
)


class _Baseline(OfflineAlgorithm):
    """A policy that acts on the observation alone, learned from single transitions."""

    _learner: BaselineLearner

    def _make_deployment(self) -> DeploymentConfig:
        return single_action_config(self._cfgs)

    def _make_sampler(self, **options: Any) -> TransitionSampler:
        return TransitionSampler(self._trajectories, **options)

    def _make_networks(self, spec: dict[str, Any]) -> DeployableActor:
        return DeployableActor.from_learner(self._learner, spec)


@registry.register
class BCSafe(_Baseline):
    """BC-Safe: clones the episodes within the cost limit.

    References:
        - Title: Datasets and Benchmarks for Offline Safe Reinforcement Learning
        - Authors: Zuxin Liu, Zijian Guo, Haohong Lin, Yihang Yao, Jiacheng Zhu, Zhepeng Cen,
          Hanjiang Hu, Wenhao Yu, Tingnan Zhang, Jie Tan, Ding Zhao.
        - URL: `DSRL <https://arxiv.org/abs/2306.09303>`_
    """

    _learner_class = BCSafeLearner

    def _learner_config(self) -> BCSafeConfig:
        return bc_safe_config(self._cfgs)

    def _make_sampler(self, **options: Any) -> TransitionSampler:
        self._safe = select_safe(self._trajectories, self._deployment.cost_limit)
        return TransitionSampler(self._safe, **options)

    def _describe_data(self) -> str:
        return f'Cloned: the {len(self._safe.rows)} episodes within the cost limit'

    def _init_log(self) -> None:
        """Log the BC-Safe specific information besides that of all algorithms.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Loss/Loss_actor          | Squared error of the actions.                            |
        +--------------------------+----------------------------------------------------------+
        """
        super()._init_log()


@registry.register
class CPQ(_Baseline):
    """Constraints Penalized Q-learning.

    References:
        - Title: Constraints Penalized Q-learning for Safe Offline Reinforcement Learning
        - Authors: Haoran Xu, Xianyuan Zhan, Xiangyu Zhu.
        - URL: `CPQ <https://arxiv.org/abs/2107.09003>`_
    """

    _learner_class = CPQLearner

    def _learner_config(self) -> CPQConfig:
        return cpq_config(self._cfgs, self._env.horizon)

    def _init_log(self) -> None:
        """Log the CPQ specific information besides that of all algorithms.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Loss/Loss_actor          | Loss of the policy.                                      |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_reward_critic  | Loss of the reward critics.                              |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_cost_critic    | Loss of the cost critics, without unknown actions.       |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_vae            | Loss of the autoencoder.                                 |
        +--------------------------+----------------------------------------------------------+
        | Qr/data_Qr, Qc/data_Qc   | Mean value of the data's actions.                        |
        +--------------------------+----------------------------------------------------------+
        | Qr/current_Qr, ..._Qc    | Mean value of the policy's actions.                      |
        +--------------------------+----------------------------------------------------------+
        | Qc/unknown_Qc            | Mean cost value of unknown actions.                      |
        +--------------------------+----------------------------------------------------------+
        | Misc/Alpha               | Weight by which it is raised.                            |
        +--------------------------+----------------------------------------------------------+
        | Misc/SafeShare           | Share of states where the policy's action counts as safe.|
        +--------------------------+----------------------------------------------------------+
        """
        super()._init_log()


@registry.register
class FISOR(_Baseline):
    """Feasibility-guided safe offline reinforcement learning.

    References:
        - Title: Safe Offline Reinforcement Learning with Feasibility-Guided Diffusion Model
        - Authors: Yinan Zheng, Jianxiong Li, Dongjie Yu, Yujie Yang, Shengbo Eben Li, Xianyuan
          Zhan, Jingjing Liu.
        - URL: `FISOR <https://arxiv.org/abs/2401.10700>`_
    """

    _learner_class = FISORLearner

    def _learner_config(self) -> FISORConfig:
        return fisor_config(self._cfgs, self._env.horizon)

    def _init_log(self) -> None:
        """Log the FISOR specific information besides that of all algorithms.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Loss/Loss_actor          | Loss of the denoiser.                                    |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_reward_critic  | Loss of the reward critics.                              |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_cost_critic    | Loss of the critics of feasibility.                      |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_reward_value   | Loss of the reward value of states.                      |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_cost_value     | Loss of the feasible value of states.                    |
        +--------------------------+----------------------------------------------------------+
        | Qr/data_Qr, Qc/data_Qc   | Mean value of the data's actions.                        |
        +--------------------------+----------------------------------------------------------+
        | Misc/FeasibleShare       | Share of states that count as feasible.                  |
        +--------------------------+----------------------------------------------------------+
        | Misc/Weight              | Mean weight of the data's actions in cloning.            |
        +--------------------------+----------------------------------------------------------+
        """
        super()._init_log()
