# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies as single ONNX files, which :class:`omnisafe_qpt.runner.OnnxPolicy` runs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.errors import UserError, printable
from omnisafe_qpt.evaluation.deployment import (
    DeploymentOptions,
    action_range_for,
    calibration_of,
    deployment_of,
)
from omnisafe_qpt.qpt.config import DeploymentConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.rollout import RolloutPolicy
from omnisafe_qpt.runner import BLANK_DIGEST, FORMAT, OnnxPolicy, check_metadata, sealed
from omnisafe_qpt.runs.checkpoint import versions


if TYPE_CHECKING:
    from onnxruntime import InferenceSession


EXTRA = ('onnx', 'onnxruntime', 'onnxscript')

# In the model's order, all with the episodes as first axis.
_INPUTS = ('states', 'actions', 'to_go', 'timesteps', 'mask', 'shifts')
# The last two only with several candidates.
_OUTPUTS = ('action', 'candidate', 'reward_value', 'cost_value')

# Number of inputs for the comparison with torch, and tolerances; values in the units of the
# scaling.
_NUM_CHECKED = 64
_TOLERANCE = 1e-5
# Rounding may also decide at the edge of the budget.
_LEAST_AGREEMENT = 0.9


class _Step(nn.Module):
    """One step of :class:`RolloutPolicy` as a function of tensors alone.

    Args:
        networks (DeployableNetworks): The trained model, on the CPU.
        config (DeploymentConfig): Candidates, selection rule.
    """

    def __init__(self, networks: DeployableNetworks, config: DeploymentConfig) -> None:
        super().__init__()
        self.networks = networks
        self._choice = _Choice(networks, config)

    def forward(self, *windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map the tensors named ``_INPUTS`` to those named ``_OUTPUTS``, (B, A) and (B,)."""
        return self._choice.at(*windows)


class _Choice(RolloutPolicy):
    """The deployed policy with its state as arguments, to share its code with the export."""

    def at(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        to_go: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor,
        shifts: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        self.num_episodes = states.shape[0]
        self._states, self._actions, self._to_go = states, actions, to_go
        self._timesteps, self._mask, self._shifts = timesteps, mask, shifts
        self._now = to_go[:, -1]
        actions, self._scored = self._choose()
        choice = self.choice
        if choice is None:
            return actions, torch.zeros(self.num_episodes, dtype=torch.int64)
        return actions, choice.candidate, choice.reward_value, choice.cost_value


def export_policy(
    run: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    cost_limit: float | None = None,
    target_return: float | str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write a trained policy as one ONNX file: policy, critics, selection rule, metadata.

    Candidates and rule are fixed in the file. Cost limit and target return are its defaults only;
    the file holds the frontier of the dataset and the calibration, so that it serves any limit.

    Args:
        run (str or os.PathLike): A run's folder or one of its ``torch_save/epoch-N.pt``.
        path (str or os.PathLike): The file to write. An existing one stays until the new one is
            complete and its actions match torch's.
        cost_limit (float, optional): See :func:`omnisafe_qpt.load_policy`.
        target_return (float or str, optional): See :func:`omnisafe_qpt.load_policy`.
        options (Any): The fields of
            :class:`omnisafe_qpt.evaluation.deployment.DeploymentOptions`; ``device`` is the CPU.

    Returns:
        The file's metadata, with ``path``, ``bytes`` and ``difference``, the largest deviation of
        its actions from torch's.

    Raises:
        UserError: If onnx, onnxruntime or onnxscript is not installed, the run does not exist, a
            value is impossible, or the file acts differently than torch.
    """
    missing = ' '.join(missing_packages())
    if missing:
        raise UserError(f'export needs packages that are not installed: pip install {missing}')
    path = Path(path)
    chosen = DeploymentOptions(**{**options, 'device': 'cpu'})
    networks, source = chosen.load_transformer(run)
    config, target_return = deployment_of(networks, cost_limit, target_return, chosen)
    step = _Step(networks, config).eval()
    metadata = _metadata(networks, config, target_return, source)
    try:
        check_metadata(json.loads(json.dumps(metadata)))
    except ValueError as error:
        raise UserError(f'{source} cannot be exported: {error}') from error
    with torch.no_grad(), atomic_path(path) as temporary:
        with _quiet():
            _write(step, networks, config, metadata, temporary)
        written = _opened(temporary)
        difference = _difference(step, networks, config, written.session)
    metadata = written.metadata
    return {**metadata, 'path': str(path), 'bytes': path.stat().st_size, 'difference': difference}


def missing_packages() -> list[str]:
    """Return those packages for exporting that are not installed."""
    return [name for name in EXTRA if importlib.util.find_spec(name) is None]


def _write(
    step: _Step,
    networks: DeployableNetworks,
    config: DeploymentConfig,
    metadata: dict[str, Any],
    path: Path,
) -> None:
    episodes = torch.export.Dim('episodes')
    # Two, as a dimension of one would be treated as a constant.
    program = torch.onnx.export(
        step,
        _examples(networks, config, 2),
        input_names=_INPUTS,
        output_names=_OUTPUTS if config.candidates > 1 else _OUTPUTS[:2],
        dynamic_shapes=(({0: episodes},) * len(_INPUTS),),  # of the one argument, *windows
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # as dynamo is asked for
    program.model.metadata_props.update(
        {name: json.dumps(value) for name, value in metadata.items()},
    )
    program.save(path, external_data=False)
    path.write_bytes(sealed(path.read_bytes()))


def _metadata(
    networks: DeployableNetworks,
    config: DeploymentConfig,
    target_return: float | None,
    source: Path,
) -> dict[str, Any]:
    """Return the metadata for the runner, in the units of the environment, and the origin."""
    spec, scaling = networks.spec, networks.scaling
    return {
        'omnisafe_qpt_format': FORMAT,
        'omnisafe_qpt_sha256': BLANK_DIGEST,  # filled in once the rest is written
        'env_id': spec['env_id'],
        'obs_dim': spec['obs_dim'],
        'act_dim': spec['act_dim'],
        # The range that the model's output in [-1, 1] is scaled to; None without scaling.
        'action_range': action_range_for(spec),
        'context_len': spec['policy']['context_len'],
        'horizon': spec['horizon'],
        'cost_limit': config.cost_limit,
        'target_return': target_return,
        'target_cost': config.used_target_cost,
        'calibration': calibration_of(spec, config),
        'frontier': spec['frontier'],
        'published_targets': spec.get('published_targets', []),
        'candidates': config.candidates,
        'candidate_shift': config.candidate_shift,
        'target_spread': config.target_spread,
        # Scale of the candidates' draws, in returns.
        'shift_scale': (config.target_spread * scaling.return_unit).item(),
        'rule': config.rule,
        'return_unit': scaling.return_unit.item(),
        'cost_unit': scaling.cost_unit.item(),
        'reference_returns': spec['reference_returns'],
        # Without its folder: the file may go to others.
        'dataset': printable(Path(spec['dataset']['path']).name),
        'dataset_sha256': spec['dataset']['sha256'],
        'run': printable(source.resolve().parent.parent.name),
        'checkpoint': printable(source.name),
        'trained_with': spec['versions'],
        'exported_with': {
            **{name: versions()[name] for name in ('omnisafe-qpt', 'torch')},
            **{name: importlib.metadata.version(name) for name in EXTRA},
        },
    }


def _examples(
    networks: DeployableNetworks,
    config: DeploymentConfig,
    count: int,
) -> tuple[torch.Tensor, ...]:
    """Return realistic inputs of the model, some with a short history."""
    generator = torch.Generator().manual_seed(0)
    spec, scaling = networks.spec, networks.scaling
    context_len = spec['policy']['context_len']

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    targets = torch.stack([scaling.return_unit, scaling.cost_unit])
    steps = torch.arange(context_len)
    lengths = torch.arange(count)[:, None] % context_len + 1
    return (
        scaling.obs_mean + scaling.obs_std * normal(context_len, spec['obs_dim']),
        normal(context_len, spec['act_dim']).tanh(),
        targets * normal(context_len, 2),
        (steps + lengths - context_len).clamp_min(0),
        steps >= context_len - lengths,
        config.target_spread * scaling.return_unit * normal(config.candidates),
    )


def _opened(path: Path) -> OnnxPolicy:
    """Open a written model with the runner.

    Raises:
        UserError: If it is refused.
    """
    try:
        return OnnxPolicy(path)
    except ValueError as error:
        raise UserError(f'the exported model cannot be opened: {error}') from error


def _difference(
    step: _Step,
    networks: DeployableNetworks,
    config: DeploymentConfig,
    session: InferenceSession,
) -> float:
    """Return the largest difference between the actions of a written model and torch's.

    If two candidates have equal values up to rounding, the selections may differ. Such inputs are
    left out.

    Raises:
        UserError: If they differ by more than rounding.
    """
    examples = _examples(networks, config, _NUM_CHECKED)
    inputs = {name: example.numpy() for name, example in zip(_INPUTS, examples)}
    actions, chosen, *values = session.run(None, inputs)
    expected, expected_chosen, *expected_values = (each.numpy() for each in step(*examples))
    is_same = agrees = chosen == expected_chosen
    units = networks.scaling.return_unit.item(), networks.scaling.cost_unit.item()
    for value, expected_value, unit in zip(values, expected_values, units):
        agrees = agrees | (np.abs(value - expected_value) <= _TOLERANCE * unit)
    difference = float(np.abs(actions - expected)[is_same].max(initial=0.0))
    if agrees.mean() < _LEAST_AGREEMENT or not difference <= _TOLERANCE:
        raise UserError(
            f'the exported model acts differently than torch, by up to {difference:.1g}, and '
            f'chooses alike in {agrees.mean():.0%} of situations; try other versions of '
            f'{", ".join(EXTRA)}',
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
