# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OSRL's CDT, the nearest published method, as the benchmarks run it.

OSRL asks for packages that a comparison does not need. So its files are imported one by one, with
stand-ins for what they ask for and do not use here; torch and numpy are enough. Install it without
its dependencies, which would replace yours: ``pip install --no-deps osrl-lib``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import PolicyConfig


# Published with OSRL for its training of CDT; sizes and batch are left to the caller.
AUGMENT_PERCENT = 0.2
_MODEL = {
    'max_action': 1.0,
    'time_emb': True,
    'use_rew': True,
    'use_cost': True,
    'cost_transform': True,
    'add_cost_feat': False,
    'mul_cost_feat': False,
    'cat_cost_feat': False,
    'action_head_layers': 1,
    'cost_prefix': False,
    'stochastic': True,
    'init_temperature': 0.1,
}
_TRAINER = {
    'learning_rate': 1e-4,
    'weight_decay': 1e-4,
    'betas': (0.9, 0.999),
    'clip_grad': 0.25,
    'lr_warmup_steps': 500,
    'reward_scale': 0.1,
    'cost_scale': 1.0,
    'loss_cost_weight': 0.02,
    'loss_state_weight': 0.0,
}
# Of the polynomial through the frontier: in most of its configurations.
DEGREE = 1


def osrl_folder() -> Path:
    """Find OSRL's package without importing it, which would pull in all of its dependencies.

    Raises:
        UserError: If it is not installed.
    """
    spec = importlib.util.find_spec('osrl')
    if spec is None or spec.origin is None:
        raise UserError('OSRL is not installed; pip install --no-deps osrl-lib')
    return Path(spec.origin).parent


def osrl_version() -> str:
    """Return the version of OSRL that is installed."""
    try:
        return importlib.metadata.version('osrl-lib')
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return 'unknown'


def import_dataset() -> types.ModuleType:
    """Import OSRL's module of datasets.

    Raises:
        UserError: If OSRL is not installed.
    """
    return _import('osrl.common.dataset')


def import_cdt() -> types.ModuleType:
    """Import OSRL's module of CDT.

    Raises:
        UserError: If OSRL is not installed.
    """
    return _import('osrl.algorithms.cdt')


def osrl_cdt(
    obs_dim: int,
    act_dim: int,
    policy: PolicyConfig,
    device: torch.device | str = 'cpu',
) -> tuple[Any, Any]:
    """Build CDT and its trainer as published, at given sizes.

    Args:
        obs_dim (int): S.
        act_dim (int): A.
        policy (PolicyConfig): Context, width, layers, heads, dropout and steps of an episode.
        device (torch.device or str, optional): Where it lives. Defaults to ``'cpu'``.

    Returns:
        Its model and its trainer, which has no environment and logs nothing.

    Raises:
        UserError: If OSRL is not installed.
    """
    module = import_cdt()
    model = module.CDT(
        state_dim=obs_dim,
        action_dim=act_dim,
        seq_len=policy.context_len,
        episode_len=policy.max_timestep + 1,
        embedding_dim=policy.embed_dim,
        num_layers=policy.num_layers,
        num_heads=policy.num_heads,
        attention_dropout=policy.dropout,
        residual_dropout=policy.dropout,
        embedding_dropout=policy.dropout,
        target_entropy=-act_dim,
        **_MODEL,
    ).to(device)
    return model, module.CDTTrainer(model, None, device=str(device), **_TRAINER)


def osrl_loader(
    arrays: Mapping[str, np.ndarray],
    context_len: int,
    batch_size: int,
    pin_memory: bool = False,
) -> torch.utils.data.DataLoader:
    """Build OSRL's data path: its dataset behind a loader, as its training script does.

    The script has worker processes prepare batches beside the training. Here the process that
    trains does it, so that its cost shows: workers hide it only where there are idle cores.

    Args:
        arrays (Mapping): A dataset under DSRL's names.
        context_len (int): K.
        batch_size (int): B.
        pin_memory (bool, optional): As its script does for CUDA. Defaults to False.

    Returns:
        An endless loader of the arguments of its trainer's ``train_one_step``.

    Raises:
        UserError: If OSRL is not installed.
    """
    module = import_dataset()
    is_end = (np.asarray(arrays['terminals']) > 0) | (np.asarray(arrays['timeouts']) > 0)
    starts = np.flatnonzero(np.concatenate([[True], is_end[:-1]]))
    best = np.add.reduceat(np.asarray(arrays['rewards'], dtype=np.float64), starts).max()
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        dataset = module.SequenceDataset(
            arrays,
            seq_len=context_len,
            reward_scale=_TRAINER['reward_scale'],
            cost_scale=_TRAINER['cost_scale'],
            deg=DEGREE,
            augment_percent=AUGMENT_PERCENT,
            max_reward=1.1 * best,
            cost_sample=True,
            cost_transform=lambda cost: 70 - cost,
        )
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=0,
        pin_memory=pin_memory,
    )


# ------------------------------------------------------------------ stand-ins


def _import(name: str) -> types.ModuleType:
    folder = osrl_folder()
    with _modules(_packages(folder) | _stand_ins()):
        return importlib.import_module(name)


@contextlib.contextmanager
def _modules(extra: dict[str, types.ModuleType]) -> Iterator[None]:
    """Put modules in place, and afterwards everything back, OSRL's own files included."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_osrl(name)}
    hidden |= {name: sys.modules[name] for name in extra if name in sys.modules}
    sys.modules.update(extra)
    try:
        yield
    finally:
        for name in list(sys.modules):
            if name in extra or _is_osrl(name):
                del sys.modules[name]
        sys.modules.update(hidden)


def _is_osrl(name: str) -> bool:
    return name.partition('.')[0] == 'osrl'


def _packages(folder: Path) -> dict[str, types.ModuleType]:
    """Stand for OSRL's packages, whose own ``__init__`` import every algorithm."""
    packages = {
        'osrl': folder,
        'osrl.common': folder / 'common',
        'osrl.algorithms': folder / 'algorithms',
    }
    return {name: _module(name, __path__=[str(path)]) for name, path in packages.items()}


def _stand_ins() -> dict[str, types.ModuleType]:
    """Stand for what is imported and not used, or is no part of a comparison."""
    found = {
        'gymnasium': _module('gymnasium', Env=object),
        'fsrl': _module('fsrl'),
        'fsrl.utils': _module('fsrl.utils', DummyLogger=_Logger, WandbLogger=_Logger),
        # A progress bar for each episode would count as time of the loop.
        'tqdm': _module('tqdm'),
        'tqdm.auto': _module('tqdm.auto', trange=lambda *bounds, **_: range(*bounds)),
    }
    if importlib.util.find_spec('scipy') is None:  # for a way of sampling that is not published
        found |= {
            'scipy': _module('scipy'),
            'scipy.optimize': _module('scipy.optimize', minimize=None),
        }
    if importlib.util.find_spec('oapackage') is None:
        found['oapackage'] = _module('oapackage', ParetoDoubleLong=Pareto, doubleVector=tuple)
    return found


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(content)
    return module


class _Logger:
    """A logger that keeps nothing."""

    def store(self, **values: Any) -> None:
        """Take in values of one step."""


class Pareto:
    """As much of ``oapackage.ParetoDoubleLong`` as OSRL uses: two numbers, both to be high."""

    def __init__(self) -> None:
        """Initialize an instance of :class:`Pareto`."""
        self._points: list[tuple[tuple[float, float], int]] = []

    def addvalue(self, point: tuple[float, float], index: int) -> None:
        """Add a point under a number."""
        self._points.append((point, index))

    def show(self, verbose: int = 0) -> None:
        """Print nothing."""

    def allindices(self) -> list[int]:
        """Return the numbers of the points that no other is better than in both respects."""
        front, best = [], -np.inf
        for (_, second), index in sorted(self._points, reverse=True):
            if second > best:
                front.append(index)
                best = second
        return front
