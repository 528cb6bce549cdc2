# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Trained models in use: loading a policy, OmniSafe's evaluator."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import Deployable, DeployableNetworks
from omnisafe_qpt.runner import Guarantee, LoopPolicy, targets_for
from omnisafe_qpt.runs.checkpoint import LAST, load_networks, require_transformer
from omnisafe_qpt.settings.checks import resolve_target_return
from omnisafe_qpt.settings.files import AUTO
from omnisafe_qpt.settings.machine import resolve_device


@dataclass(frozen=True)
class DeploymentOptions:
    """How a trained run is deployed, where that is to differ from its own settings.

    The functions that take a run take these as keyword arguments.

    Args:
        candidates (int, optional): Return targets tried at each step; 1 is the plain policy.
            Defaults to the run's.
        rule (str, optional): ``paper``, ``bounded`` or ``paced``. Defaults to the run's.
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
    """A trained policy in the user's own loop, for one episode or for several at once.

    Args:
        networks (Deployable): The trained model, on the device to use.
        config (DeploymentConfig): Cost limit, candidates, selection rule.
        target_return (float or None): Return to ask for; None for the default at the cost limit.
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
    """Return targets (n, 2) as a model takes them: None for the zero-action fallback."""
    return [(None if np.isnan(asked) else asked, cost) for asked, cost in targets.tolist()]


class _ObservingPolicy(DeployedPolicy):
    """One that acts on the observation alone: its targets are only what is left is counted from."""

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
        return np.zeros((self._count, 2))  # of the episode so far: return, cost


def load_policy(
    run: str | os.PathLike[str],
    cost_limit: float | None = None,
    target_return: float | str | None = None,
    *,
    num_episodes: int | None = None,
    **options: Any,
) -> DeployedPolicy:
    """Load a trained policy.

    The policies of BCSafe, CPQ and FISOR act on the observation alone: a cost limit is for them
    only what the remaining budget is counted from.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        cost_limit (float, optional): Undiscounted cost of an episode to keep within, any number.
            Defaults to the run's.
        target_return (float or str, optional): Return to ask for, at a cost of the limit;
            ``dsrl`` for DSRL's published one. Defaults to the run's own, if it was given one for
            this limit, else to the choice of the target calibration, or without one to the highest
            return that the dataset reached within the cost limit.
        num_episodes (int, optional): How many episodes go on at once, for a vector environment;
            then observations are (B, S). Defaults to None, one episode and observations (S,).
        options (Any): The fields of :class:`DeploymentOptions`.

    Returns:
        The policy, at the start of an episode. Its ``guarantee`` says what the calibration found.

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

    Checkpoints of earlier versions do not. Then the environment is asked, unless it is one of the
    38 tasks, all of which take [-1, 1].

    Args:
        spec (dict[str, Any]): Of the model.

    Returns:
        ``low`` and ``high``, A numbers each; None where nothing tells, which is said once: then
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
            f'this checkpoint of an earlier version does not say the range of the actions of '
            f'{spec["env_id"]}, and the environment cannot be asked ({error}): act returns numbers '
            'from -1 to 1, which you have to scale to that range',
            stacklevel=2,
        )
        return None
    try:
        return action_range_of(env)
    finally:
        env.close()


def algorithm_of(spec: dict[str, Any]) -> str:
    """Name the algorithm that trained a model; runs from before there were several are of QPT."""
    return spec.get('algo', 'QPT')


def asks_for_returns(spec: dict[str, Any]) -> bool:
    """Whether a model takes a target return and a cost limit, or acts on the observation alone."""
    return 'policy' in spec


def deployment_of(
    networks: Deployable,
    cost_limit: float | None = None,
    target_return: float | str | None = None,
    options: DeploymentOptions | None = None,
) -> tuple[DeploymentConfig, float | None]:
    """Return a model's deployment settings with some of them replaced, and its target return.

    The target return is None where the model acts on the observation alone, and for the zero-action
    fallback. Where none is given and the model is calibrated for these settings, the calibration
    chooses both.

    Raises:
        UserError: If a value is impossible, or the model knows no such setting.
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
                    f'{name} is {settings[name]}: a policy of {algorithm_of(spec)} acts on the '
                    'observation alone and knows no such setting; leave it out',
                )
        return config, None
    # What asks for returns is a Transformer.
    if config.candidates > 1 and not cast('DeployableNetworks', networks).has_critics:
        raise UserError(
            f'candidates is {config.candidates}: this run of {algorithm_of(spec)} trained no '
            'critics to choose by; leave it out, or give 1',
        )
    given_return = resolve_target_return(target_return, spec['env_id'], config.cost_limit)
    if given_return is not None:
        return replace(config, asked_cost=None), given_return
    default_return, asked_cost = _targets_for(spec, config)
    return replace(config, asked_cost=asked_cost), default_return


def _targets_for(spec: dict[str, Any], config: DeploymentConfig) -> tuple[float | None, float]:
    """Return which return and cost to ask for: the run's own return, if it has one for this limit.

    Otherwise the calibration tells, if it holds for these settings, and else the frontier.
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
    """Whether training was given a target return, which is for its own cost limit."""
    is_given = spec.get('target_return', 'auto') != 'auto'
    return is_given and config.cost_limit == spec['deployment']['cost_limit']


def calibration_of(spec: dict[str, Any], config: DeploymentConfig) -> dict[str, Any] | None:
    """Return a model's calibration if it has one that holds for these settings."""
    record = spec.get('calibration')
    is_valid = record is not None and record['settings'] == calibrated_settings(config)
    return record if is_valid else None


def guarantee_of(spec: dict[str, Any], config: DeploymentConfig) -> Guarantee | None:
    """Return what a model's calibration says of its cost limit; None if it chooses no targets.

    Args:
        spec (dict[str, Any]): Of the model.
        config (DeploymentConfig): Its cost limit and settings, with targets that nobody has given.
    """
    record = calibration_of(spec, config)
    published = {cost for cost, _ in spec.get('published_targets', ())}
    if record is None or _has_own_target(spec, config) or config.cost_limit in published:
        return None
    return Guarantee.at(record, config.cost_limit)


def calibrated_settings(config: DeploymentConfig) -> dict[str, Any]:
    """Return the settings that a calibration holds for: all but limit and cost asked for."""
    settings = asdict(config)
    del settings['cost_limit'], settings['asked_cost']
    return settings


def forget_zero_action(networks: Deployable) -> None:
    """Let a loaded model act at any limit, as those need who look at what it would do."""
    record = networks.spec.get('calibration')
    if record is not None:
        networks.spec = {**networks.spec, 'calibration': {**record, 'zero_action': None}}
