# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The runner of exported policies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .actions import zero_action
from .checks import printable, reason
from .loop_policy import LoopPolicy
from .metadata import check_metadata, parse_metadata
from .model_file import check_digest, check_graph, metadata_texts, read_model
from .targets import Guarantee, targets_for


if TYPE_CHECKING:
    from onnxruntime import InferenceSession


# The stream of candidates from an episode's seed, as in data/streams.py: the seed's own is the
# simulator's.
_CANDIDATES = (2,)


class OnnxPolicy(LoopPolicy):
    """A policy that ``omnisafe-qpt export`` wrote, run by onnxruntime.

    Its errors are ValueErrors.

    Args:
        path (str or os.PathLike): The exported model.
        cost_limit (float, optional): Undiscounted cost that an episode must not exceed. Defaults to
            the model's.
        target_return (float, optional): See :meth:`set_cost_limit`.
        num_episodes (int, optional): See :class:`LoopPolicy`.
        threads (int, optional): CPU threads of a step; more hardly help so small a network.
            Defaults to 1.
        providers (Sequence[str], optional): onnxruntime's execution providers. Defaults to the CPU.

    Attributes:
        metadata (dict[str, Any]): What the model says of itself: environment, sizes, candidates,
            selection rule, cost limit, frontier, dataset, versions.
        session (onnxruntime.InferenceSession): The model itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no exported policy or a damaged one, or a value is impossible. All of
            the file is checked before anything of it runs; no other file is read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        cost_limit: float | None = None,
        target_return: float | None = None,
        num_episodes: int | None = None,
        threads: int = 1,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> None:
        """Initialize an instance of :class:`OnnxPolicy`."""
        self.session, self.metadata = _open(path, threads, providers)
        context_len, obs_dim, act_dim, candidates = (
            self.metadata[name] for name in ('context_len', 'obs_dim', 'act_dim', 'candidates')
        )
        super().__init__(obs_dim, num_episodes, self.metadata.get('action_range'))
        self._zero_action = zero_action(act_dim, self._action_range)
        count = self._count
        # Inputs of the model by name: windows of the last steps, and the candidates.
        self._inputs: dict[str, np.ndarray] = {
            'states': np.zeros((count, context_len, obs_dim), dtype=np.float32),
            'actions': np.zeros((count, context_len, act_dim), dtype=np.float32),
            'to_go': np.zeros((count, context_len, 2), dtype=np.float32),  # return, cost
            'timesteps': np.zeros((count, context_len), dtype=np.int64),
            'mask': np.zeros((count, context_len), dtype=bool),
            'shifts': np.zeros((count, candidates), dtype=np.float32),
        }
        self._now = np.zeros((count, 2), dtype=np.float32)  # left of return and cost
        self._step = np.zeros(count, dtype=np.int64)
        self._try_out(path)
        limit = self.metadata['cost_limit'] if cost_limit is None else cost_limit
        self.set_cost_limit(limit, target_return)
        self.reset()

    def _try_out(self, path: str | os.PathLike[str]) -> None:
        """Run the graph once: it must return a valid action."""
        first = {name: values[:1].copy() for name, values in self._inputs.items()}
        first['mask'][:, -1] = True
        try:
            (actions,) = self.session.run(['action'], first)
        except Exception as error:  # onnxruntime raises many kinds
            raise ValueError(
                f'{printable(os.fspath(path))}: the graph does not run ({reason(error)}); export '
                'it again',
            ) from error
        act_dim = len(self._zero_action)
        if actions.shape != (1, act_dim) or not np.isfinite(actions).all():
            raise ValueError(
                f'{printable(os.fspath(path))}: the graph does not give {act_dim} finite numbers '
                'as an action; export it again',
            )

    def _targets_for(self, cost_limit: float) -> tuple[float | None, float]:
        if cost_limit == self.metadata['cost_limit']:
            return self.metadata['target_return'], self.metadata['target_cost']
        return targets_for(self.metadata, cost_limit)

    def _guarantee_for(self, cost_limit: float) -> Guarantee | None:
        calibration = self.metadata['calibration']
        # The file's default targets may have been given by the user.
        is_chosen = self._targets_for(cost_limit) == targets_for(
            {**self.metadata, 'published_targets': ()}, cost_limit
        )
        return Guarantee.at(calibration, cost_limit) if calibration and is_chosen else None

    def _begin(self, row: int, seed: int) -> None:
        shifts = self._inputs['shifts'][row]
        draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_CANDIDATES))
        shifts[:] = draws.standard_normal(len(shifts))
        shifts[0] = 0.0  # candidate 0 has the unshifted target
        shifts *= np.float32(self.metadata['shift_scale'])
        self._inputs['mask'][row] = False
        self._now[row], self._step[row] = np.nan_to_num(self._targets[row]), 0

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        self._newest = {
            name: np.concatenate([self._inputs[name][:, 1:], newest[:, None]], axis=1)
            for name, newest in (
                ('states', observations),
                ('actions', np.zeros_like(self._inputs['actions'][:, -1])),
                ('to_go', self._now),
                ('timesteps', self._step),
                ('mask', np.ones_like(self._step, dtype=bool)),
            )
        }
        (actions,) = self.session.run(['action'], {**self._inputs, **self._newest})
        return np.where(self._is_fallback[:, None], self._zero_action, actions)

    def _accept(self, actions: np.ndarray) -> None:
        self._inputs.update(self._newest)
        self._inputs['actions'][:, -1] = actions
        self._step += 1

    def _receive(self, rewards: np.ndarray, costs: np.ndarray) -> None:
        self._now -= np.stack([rewards, costs], axis=-1)

    def _retarget(self, rows: list[int], targets: np.ndarray) -> None:
        # In float32 as in torch, for equal numbers.
        before, after = np.nan_to_num([self._targets[rows], targets]).astype(np.float32)
        difference = after - before
        self._now[rows] += difference
        self._inputs['to_go'][rows] += difference[:, None]

    def _remaining(self) -> np.ndarray:
        return self._now


def _open(
    path: str | os.PathLike[str],
    threads: int,
    providers: Sequence[str],
) -> tuple[InferenceSession, dict[str, Any]]:
    """Open an exported model after a check of its whole file.

    Returns:
        The session and the metadata.
    """
    # Here, as the rest of this folder is for those too who have only torch.
    import onnxruntime

    shown = printable(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{shown}: no such file')
    try:
        content = read_model(path)
        metadata = parse_metadata(metadata_texts(content))
        check_digest(content)
        check_metadata(metadata)
        check_graph(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is wrong is raised, once
        try:
            # From the checked bytes, not from the file, which may have changed.
            session = onnxruntime.InferenceSession(
                content,
                options,
                providers=list(providers),
                enable_fallback=0,  # which prints, and tries the same again
            )
        except Exception as error:  # onnxruntime raises many kinds for a broken file
            raise ValueError(
                f'cannot be read as an ONNX model ({reason(error)}); export it again',
            ) from error
        _check_sizes(session, metadata)
    except ValueError as error:
        raise ValueError(f'{shown}: {error}') from error
    return session, metadata


def _check_sizes(session: InferenceSession, metadata: dict[str, Any]) -> None:
    """Check that the graph's inputs and outputs fit the metadata."""
    context_len, obs_dim, act_dim, candidates = (
        metadata[name] for name in ('context_len', 'obs_dim', 'act_dim', 'candidates')
    )
    inputs = {
        'states': ('tensor(float)', [context_len, obs_dim]),
        'actions': ('tensor(float)', [context_len, act_dim]),
        'to_go': ('tensor(float)', [context_len, 2]),
        'timesteps': ('tensor(int64)', [context_len]),
        'mask': ('tensor(bool)', [context_len]),
        'shifts': ('tensor(float)', [candidates]),
    }
    outputs = {'action': ('tensor(float)', [act_dim]), 'candidate': ('tensor(int64)', [])}
    for kind, expected, nodes in (
        ('input', inputs, session.get_inputs()),
        ('output', outputs, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        unknown = found.keys() - expected.keys() if kind == 'input' else ()
        for name in unknown:
            raise ValueError(f'the graph has an {kind} {printable(name)[:80]}, which no policy has')
        for name, (dtype, shape) in expected.items():
            if name not in found:
                raise ValueError(f'the graph has no {kind} {name}')
            node = found[name]
            is_right = node.type == dtype and len(node.shape) == len(shape) + 1
            # Any number of episodes, so that the first is a name.
            if not is_right or isinstance(node.shape[0], int) or node.shape[1:] != shape:
                sizes = ', '.join(map(str, ['episodes', *shape]))
                raise ValueError(
                    f'the {kind} {name} of the graph is {node.type} of shape '
                    f'{printable(str(node.shape))[:80]}; by the metadata it must be {dtype} of '
                    f'shape [{sizes}]; export it again',
                )
