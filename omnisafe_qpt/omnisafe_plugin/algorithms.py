# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""QPT and CDT as offline algorithms of OmniSafe."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from omnisafe.algorithms import registry

from omnisafe_qpt.data.augmentation import augment, load_hook
from omnisafe_qpt.data.tasks import require_task
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.episodes import Evaluation
from omnisafe_qpt.omnisafe_plugin.offline_algorithm import OfflineAlgorithm
from omnisafe_qpt.qpt.config import DeploymentConfig, LearnerConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.runs.checkpoint import load_networks, require_transformer
from omnisafe_qpt.settings.checks import resolve_target_return
from omnisafe_qpt.settings.files import DSRL
from omnisafe_qpt.settings.learner import (
    deployment_config,
    imitation_config,
    learner_config,
    single_action_config,
)
from omnisafe_qpt.settings.machine import AUTO
from omnisafe_qpt.signals import StopSignal
from omnisafe_qpt.training.eta_search import EtaSearch


class _TransformerAlgorithm(OfflineAlgorithm):
    """Base class of QPT and CDT: windows of data, conditioned on return and cost."""

    _unit = 'windows'
    _learner_class = Learner
    _learner: Learner

    def _init_model(self) -> None:
        """Build the learner, with the weights of another run if there is one to start from."""
        self._source = self._load_source()
        super()._init_model()
        if self._source is not None:
            self._source.load_into(self._learner)

    def _load_source(self) -> DeployableNetworks | None:
        train_cfgs = self._cfgs.train_cfgs
        if train_cfgs.init_from is None or train_cfgs.resume is not None:
            return None
        try:
            networks = require_transformer(*load_networks(train_cfgs.init_from, self._device))
            networks.check_fits(
                self._trajectories.obs_dim, self._trajectories.act_dim, self._learner_config()
            )
        except UserError as error:
            raise UserError(f'train_cfgs:init_from: {error}') from error
        return networks

    def _make_scaling(self) -> Scaling:
        scaling = super()._make_scaling()
        if self._source is not None and self._cfgs.train_cfgs.init_units == 'run':
            scaling.load_state_dict(self._source.scaling.state_dict())
        return scaling

    def _make_sampler(self, **options: Any) -> WindowSampler:
        """Relabel episodes, and set up the sampler over all."""
        algo = self._cfgs.algo_cfgs
        rows, self._augmentation_report = augment(
            self._trajectories,
            algo.augmentation_fraction if algo.use_augmentation else 0.0,
            seed=self._cfgs.seed,
            hook=load_hook(algo.augmentation_hook),
        )
        context_len = self._learner.config.policy.context_len
        return WindowSampler(self._trajectories, context_len, rows=rows, **options)

    @property
    def _longest(self) -> int:
        """Steps of the longest episode in the data."""
        return int(self._trajectories.rows.lengths.max())

    def _make_networks(self, spec: dict[str, Any]) -> DeployableNetworks:
        given = self._cfgs.algo_cfgs.target_return
        spec = {**spec, 'target_return': AUTO if given == AUTO else self._target_return}
        if given == DSRL:
            spec['published_targets'] = [
                [target.cost, target.episode_return]
                for target in require_task(self._env_id).cdt_targets
            ]
        return DeployableNetworks.from_learner(self._learner, spec)

    @cached_property
    def _target_return(self) -> float:
        """Target return of deployment: the user's, or the highest on the dataset's frontier."""
        limit = self._deployment.cost_limit
        given = resolve_target_return(self._cfgs.algo_cfgs.target_return, self._env_id, limit)
        return self._trajectories.frontier.target_return(limit) if given is None else given

    def _describe_data(self) -> str:
        report = self._augmentation_report
        if not report['episodes']:
            return ''
        return (
            f'Augmentation added {report["episodes"]} relabelled episodes of '
            f'{report["source_episodes"]} frontier episodes, target returns '
            f'{report["min_target_return"]:.4g} to {report["max_target_return"]:.4g}, costs '
            f'{report["min_target_cost"]:.4g} to {report["max_target_cost"]:.4g}'
        )


@registry.register
class QPT(_TransformerAlgorithm):
    """Q-learning Penalized Transformer for safe offline reinforcement learning.

    A constrained decision transformer whose loss has a reward term and a cost term from twin
    critics. It is trained on a relabelled dataset. In deployment the critics score candidate return
    targets.

    References:
        - Title: Q-learning Penalized Transformer for Safe Offline Reinforcement Learning
        - Author: Anonymous authors.
        - Status: Under double-blind review.
    """

    _remedy = 'lower learning rates or etas'
    _evaluation_keys = ('Metrics/InfeasibleShare',)

    def _make_deployment(self) -> DeploymentConfig:
        if self._cfgs.algo_cfgs.tune_etas and self._ranks.size > 1:
            raise UserError('algo_cfgs:tune_etas is for one process; start without torchrun')
        return deployment_config(self._cfgs)

    def _learner_config(self) -> LearnerConfig:
        return learner_config(self._cfgs, self._data.task.horizon, self._longest)

    def _make_eta_search(self, stop_signal: StopSignal) -> EtaSearch | None:
        if not self._cfgs.algo_cfgs.tune_etas:
            return None
        # Captured updates contain the weights. What is compiled stays compiled.
        accelerate = 'none' if self._cfgs.train_cfgs.accelerate == 'none' else 'graph'
        return EtaSearch(
            self._learner,
            self._sampler,
            lambda: self._make_update(accelerate),
            self._evaluation,
            self._cfgs.train_cfgs.total_steps,
            self._logger.log,
            stop_signal,
        )

    def _evaluation_metrics(self, evaluation: Evaluation) -> dict[str, float]:
        return {'Metrics/InfeasibleShare': evaluation.infeasible_share}

    def _init_log(self) -> None:
        """Log the metrics of QPT, in addition to the common ones.

        +--------------------------+----------------------------------------------------------+
        | Things to log            | Description                                              |
        +==========================+==========================================================+
        | Metrics/InfeasibleShare  | Share of steps without a feasible candidate.             |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_actor          | Loss of the policy, Eq. 8.                               |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_imitation      | Its imitation term, Eq. 3.                               |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_reward_penalty | Its reward term, negative.                               |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_cost_penalty   | Its cost term.                                           |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_reward_critic  | Loss of the reward critics, Eq. 6.                       |
        +--------------------------+----------------------------------------------------------+
        | Loss/Loss_cost_critic    | Loss of the cost critics, Eq. 7.                         |
        +--------------------------+----------------------------------------------------------+
        | Qr/data_Qr, Qc/data_Qc   | Mean value of the data's actions.                        |
        +--------------------------+----------------------------------------------------------+
        | Qr/target_Qr, ..._Qc     | Mean n-step target.                                      |
        +--------------------------+----------------------------------------------------------+
        | Qr/current_Qr, ..._Qc    | Mean value of the policy's actions.                      |
        +--------------------------+----------------------------------------------------------+
        | Grad/actor, Grad/critic  | Norm of the gradient before the clip.                    |
        +--------------------------+----------------------------------------------------------+

        Values are in the critics' units.
        """
        super()._init_log()


@registry.register
class CDT(_TransformerAlgorithm):
    """Constrained Decision Transformer: QPT's policy by imitation alone.

    Transformer, windows and relabelling are QPT's, so that the two differ only in the critics.
    ``configs/CDT.yaml`` lists the differences from the authors' CDT.

    References:
        - Title: Constrained Decision Transformer for Offline Safe Reinforcement Learning
        - Authors: Zuxin Liu, Zijian Guo, Yihang Yao, Zhepeng Cen, Wenhao Yu, Tingnan Zhang, Ding
          Zhao.
        - URL: `CDT <https://arxiv.org/abs/2302.07351>`_
    """

    def _make_deployment(self) -> DeploymentConfig:
        return single_action_config(self._cfgs)

    def _learner_config(self) -> LearnerConfig:
        return imitation_config(self._cfgs, self._data.task.horizon, self._longest)
