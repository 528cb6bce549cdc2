# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of trained models for deployment."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig, present_rule
from omnisafe_qpt.qpt.deployable import Deployable, DeployableNetworks
from omnisafe_qpt.runner import Guarantee, LoopPolicy, targets_for
from omnisafe_qpt.runs.checkpoint import LAST, load_networks, require_transformer
from omnisafe_qpt.settings.checks import resolve_target_return
from omnisafe_qpt.settings.machine import AUTO, resolve_device


@dataclass(frozen=True)
class DeploymentOptions:
    """Settings of deployment that override a run's own.

    The functions that take a run take these as keyword arguments.

    Args:
        candidates (int, optional): Return targets per step; 1 is the policy without selection.
            Defaults to the run's.
        rule (str, optional): ``paper``, ``bounded`` or ``discounted_budget``. Defaults to the
            run's.
        candidate_shift (str, optional): ``history`` or ``last``; see
            :class:`omnisafe_qpt.qpt.config.DeploymentConfig`. Defaults to the run's.
        calibrated (bool, optional): Whether to use the target calibration, if the run has one for
            these settings. Defaults to True.
        checkpoint (str or int, optional): ``last``, ``best`` or a number of epochs. Defaults to
            ``'last'``.
        device (str, optional): ``cpu``, ``cuda`` or ``cuda:N``. Defaults to CUDA if there is a
            device.
    """

    candidates: int | None = None
    rule: str | None = None
    candidate_shift: str | None = None
    calibrated: bool = True
    checkpoint: str | int = LAST
    device: str | None = None

    def load(self, run: str | os.PathLike[str]) -> tuple[Deployable, Path]:
        """Load the networks of a run; returns them and the checkpoint's file.

        Raises:
            UserError: If the run or the device does not exist.
        """
        networks, path = load_networks(run, resolve_device(self.device or AUTO), self.checkpoint)
        if not self.calibrated:
            networks.spec = {**networks.spec, 'calibration': None}
        return networks, path

    def load_transformer(self, run: str | os.PathLike[str]) -> tuple[DeployableNetworks, Path]:
        """Load the networks of a run of QPT or CDT, as :meth:`load`.

        Raises:
            UserError: If the run or the device does not exist, or it is of another algorithm.
        """
        networks, path = self.load(run)
        return require_transformer(networks, path), path

    def settings(self) -> dict[str, Any]:
        """Return the settings of :class:`DeploymentConfig` that are given."""
        given = {name: getattr(self, name) for name in ('candidates', 'rule', 'candidate_shift')}
        return {name: value for name, value in given.items() if value is not None}


class DeployedPolicy(LoopPolicy):
    """A trained policy for a loop of your own, for one episode or for several at once.

    Args:
        networks (Deployable): The trained model, on the device to use.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Target return; None for the default at the cost limit.
        num_episodes (int, optional): See :class:`omnisafe_qpt.runner.LoopPolicy`. Defaults to
            None, one episode.
    """

    error = UserError

    def __init__(
        self,
        networks: Deployable,
        config: DeploymentConfig,
        target_return: float | None,
        num_episodes: int | None = None,
    ) -> None:
        """Initialize an instance of :class:`DeployedPolicy`."""
        self._spec, self._config = networks.spec, config
        super().__init__(self._spec['obs_dim'], num_episodes, action_range_for(self._spec))
        self._rollout = networks.deploy(config, self._count)
        self.set_cost_limit(config.cost_limit, target_return)
        self.reset()

    def _targets_for(self, cost_limit: float) -> tuple[float | None, float]:
        return _targets_for(self._spec, replace(self._config, cost_limit=cost_limit))

    def _guarantee_for(self, cost_limit: float) -> Guarantee | None:
        return guarantee_of(self._spec, replace(self._config, cost_limit=cost_limit))

    def _begin(self, row: int, seed: int) -> None:
        (target_return, cost), *_ = _asked(self._targets[[row]])
        self._rollout.reset(target_return, cost, seeds=(seed,), episodes=(row,))

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return self._rollout.act(observations).cpu().numpy()

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        self._rollout.observe(rewards, costs)

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        asked = _asked(targets)
        self._rollout.retarget([each[0] for each in asked], [each[1] for each in asked], rows)

    def _remaining(self) -> np.ndarray:
        return self._rollout.remaining.cpu().numpy()


def _asked(targets: np.ndarray) -> list[tuple[float | None, float]]:
    """Convert targets (n, 2) for a model: a return of None is the zero-action fallback."""
    return [(None if np.isnan(asked) else asked, cost) for asked, cost in targets.tolist()]


class _ObservingPolicy(DeployedPolicy):
    """Targets of a policy that acts on the observation alone: only for the remaining budget."""

    def _begin(self, row: int, seed: int) -> None:
        super()._begin(row, seed)
        self._received[row] = 0.0

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        super()._receive(rewards, costs)
        self._received += np.stack([rewards, costs], axis=-1)

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        """Do nothing: no action depends on the targets."""

    def _remaining(self) -> np.ndarray:
        return self._targets - self._received

    @cached_property
    def _received(self) -> np.ndarray:
        return np.zeros((self._count, 2))  # return and cost of the episode so far


def load_policy(
    run: str | os.PathLike[str],
    cost_limit: float | None = None,
    target_return: float | str | None = None,
    *,
    num_episodes: int | None = None,
    **options: Any,
) -> DeployedPolicy:
    """Load a trained policy.

    The policies of BCSafe, CPQ and FISOR act on the observation alone. For them the cost limit only
    sets the budget to count down from.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        cost_limit (float, optional): Undiscounted cost that an episode must not exceed; need not be
            the training limit. Defaults to the run's.
        target_return (float or str, optional): Target return, with the limit as target cost;
            ``dsrl`` for DSRL's published one. Defaults to the run's own, if one was set for this
            limit; else to the target calibration's choice; without a calibration to the highest
            return in the dataset among episodes with cost <= limit.
        num_episodes (int, optional): Number of parallel episodes, for a vector environment; then
            observations are (B, S). Defaults to None, one episode and observations (S,).
        options (Any): The fields of :class:`DeploymentOptions`.

    Returns:
        The policy, at the start of an episode. Its ``guarantee`` is the result of the calibration.

    Raises:
        UserError: If the run or the device does not exist, or a value is impossible.
    """
    chosen = DeploymentOptions(**options)
    networks, _ = chosen.load(run)
    config, asked = deployment_of(networks, cost_limit, target_return, chosen)
    kind = DeployedPolicy if asks_for_returns(networks.spec) else _ObservingPolicy
    return kind(networks, config, None if target_return in (None, AUTO) else asked, num_episodes)


def action_range_for(spec: dict[str, Any]) -> dict[str, list[float]] | None:
    """Return the range of the environment that a model acts in, as the checkpoint records it.

    Checkpoints of earlier versions do not record it. Then it is read from the environment, except
    for the 38 tasks, which all take [-1, 1].

    Args:
        spec (dict[str, Any]): Of the model.

    Returns:
        ``low`` and ``high``, A numbers each; None, with one warning, where it is unknown: then
        actions stay in [-1, 1].
    """
    if 'action_range' in spec:
        return spec['action_range']
    from omnisafe_qpt.data.tasks import find_task

    if find_task(spec['env_id']) is not None:
        return None
    import omnisafe  # noqa: F401 - before the module below, which it loads itself

    from omnisafe_qpt.envs.environments import action_range_of, make_env

    try:
        env = make_env(spec['env_id'])
    except Exception as error:  # noqa: BLE001 - whatever it is, it cannot be asked
        warnings.warn(
            f'this checkpoint of an earlier version does not record the action range of '
            f'{spec["env_id"]}, and the environment cannot be made ({error}): act returns numbers '
            'from -1 to 1, which you must scale to that range',
            stacklevel=2,
        )
        return None
    try:
        return action_range_of(env)
    finally:
        env.close()


def algorithm_of(spec: dict[str, Any]) -> str:
    """Return the algorithm that trained a model; the first runs do not record it and are QPT's."""
    return spec.get('algo', 'QPT')


def asks_for_returns(spec: dict[str, Any]) -> bool:
    """Return whether a model is conditioned on targets, or acts on the observation alone."""
    return 'policy' in spec


def deployment_of(
    networks: Deployable,
    cost_limit: float | None = None,
    target_return: float | str | None = None,
    options: DeploymentOptions | None = None,
) -> tuple[DeploymentConfig, float | None]:
    """Return a model's deployment settings with some of them replaced, and its target return.

    The target return is None for a model that acts on the observation alone, and for the
    zero-action fallback. If none is given and the model is calibrated for these settings, the
    calibration chooses target return and target cost.

    Raises:
        UserError: If a value is impossible, or the model has no such setting.
    """
    spec = networks.spec
    given: dict[str, Any] = {} if options is None else options.settings()
    if cost_limit is not None:
        given['cost_limit'] = cost_limit
    config = replace(DeploymentConfig(**spec['deployment']), **given)
    if not asks_for_returns(spec):
        settings = {**given, 'target_return': target_return}
        for name in ('target_return', 'candidates', 'rule', 'candidate_shift'):
            if settings.get(name) is not None:
                raise UserError(
                    f'{name} is {settings[name]}, but a policy of {algorithm_of(spec)} acts on the '
                    'observation alone and has no such setting; leave it out',
                )
        return config, None
    # What asks for returns is a Transformer.
    if config.candidates > 1 and not cast('DeployableNetworks', networks).has_critics:
        raise UserError(
            f'candidates is {config.candidates}: this run of {algorithm_of(spec)} trained no '
            'critics to select by; leave it out, or give 1',
        )
    given_return = resolve_target_return(target_return, spec['env_id'], config.cost_limit)
    if given_return is not None:
        return replace(config, target_cost=None), given_return
    default_return, target_cost = _targets_for(spec, config)
    return replace(config, target_cost=target_cost), default_return


def pair_targets(
    limits: list[float | None],
    targets: list[float | str | None],
) -> list[tuple[float | None, float | str | None]]:
    """Pair cost limits with target returns, one for all limits or one for each.

    Args:
        limits (list[float or None]): Cost limits; None is the run's.
        targets (list[float, str or None]): Target returns; None is the default.

    Raises:
        UserError: If there is another number of target returns.
    """
    if len(targets) not in (1, len(limits)):
        raise UserError(
            f'{len(targets)} target returns for {len(limits)} cost limits; give one for all limits '
            'or one for each',
        )
    return list(zip(limits, targets * len(limits) if len(targets) == 1 else targets))


def _targets_for(spec: dict[str, Any], config: DeploymentConfig) -> tuple[float | None, float]:
    """Return the target return and target cost.

    The run's own target return comes first, if it has one for this limit; then the calibration, if
    it holds for these settings; then the frontier.
    """
    if _has_own_target(spec, config):
        return float(spec['target_return']), config.cost_limit
    record = {
        'frontier': spec['frontier'],
        'calibration': calibration_of(spec, config),
        'published_targets': spec.get('published_targets', []),
    }
    return targets_for(record, config.cost_limit)


def _has_own_target(spec: dict[str, Any], config: DeploymentConfig) -> bool:
    """Return whether the run has a target return of its own; it holds for its own cost limit."""
    is_given = spec.get('target_return', AUTO) != AUTO
    return is_given and config.cost_limit == spec['deployment']['cost_limit']


def calibration_of(spec: dict[str, Any], config: DeploymentConfig) -> dict[str, Any] | None:
    """Return a model's calibration, if it has one for these settings."""
    record = spec.get('calibration')
    if record is None:
        return None
    settings = record['settings']
    settings = {**settings, 'rule': present_rule(settings.get('rule'))}
    return record if settings == calibrated_settings(config) else None


def guarantee_of(spec: dict[str, Any], config: DeploymentConfig) -> Guarantee | None:
    """Return the calibration's guarantee for the cost limit; None if it chose no targets.

    Args:
        spec (dict[str, Any]): Of the model.
        config (DeploymentConfig): Its cost limit and settings; the user has set no target.
    """
    record = calibration_of(spec, config)
    published = {cost for cost, _ in spec.get('published_targets', ())}
    if record is None or _has_own_target(spec, config) or config.cost_limit in published:
        return None
    return Guarantee.at(record, config.cost_limit)


def calibrated_settings(config: DeploymentConfig) -> dict[str, Any]:
    """Return the settings that a calibration depends on: all but limit and target cost."""
    settings = asdict(config)
    del settings['cost_limit'], settings['target_cost']
    return settings


def forget_zero_action(networks: Deployable) -> None:
    """Let a loaded model act at any limit, for checks of its behaviour."""
    record = networks.spec.get('calibration')
    if record is not None:
        networks.spec = {**networks.spec, 'calibration': {**record, 'zero_action': None}}
