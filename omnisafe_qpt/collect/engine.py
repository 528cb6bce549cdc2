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
"""From what is asked for to the file: episodes run in parallel, chosen and written."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.collect.selection import select_spread
from omnisafe_qpt.collect.simulator import Simulator
from omnisafe_qpt.data.files import HDF5_SUFFIXES, write_hdf5
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.version import __version__


# Mantissa bits that a float32 has besides the leading one.
FLOAT32_BITS = 23
_LICENCE = 'Apache-2.0'


@dataclass(frozen=True)
class Episode:
    """One recorded episode of L steps.

    Args:
        number (int): Its number in the collection, which with the seed decides everything in it.
        kind (str): The kind of its controller.
        states (np.ndarray): Shape (L + 1, S), the final observation included.
        actions (np.ndarray): Shape (L, A).
        rewards (np.ndarray): Shape (L,).
        costs (np.ndarray): Shape (L,).
        terminated (bool): Whether it ended in a terminal state rather than at the time limit.
    """

    number: int
    kind: str
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminated: bool

    @cached_property
    def total_return(self) -> float:
        """The sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @cached_property
    def total_cost(self) -> float:
        """The sum of the costs."""
        return float(self.costs.sum(dtype=np.float64))


@dataclass(frozen=True)
class Request:
    """What :func:`collect` was asked for.

    Args:
        env_id (str): Environment id.
        episodes (int): Episodes to keep.
        seed (int): Seed of the collection.
        out (Path): The HDF5 file to write.
        candidates (int): Episodes to collect, of which ``episodes`` are kept.
        safe_share (float): Share of the kept episodes that shall be within the cost limit, where
            candidates are thinned.
        cost_limit (float): The cost of an episode up to which it counts as safe.
        precision (int): Mantissa bits kept in observations and actions.
        max_steps (int): Steps after which an episode is cut.
        workers (int): Processes. They do not change the result.
        overwrite (bool): Whether an existing file may be replaced.
    """

    env_id: str
    episodes: int
    seed: int
    out: Path
    candidates: int
    safe_share: float
    cost_limit: float
    precision: int
    max_steps: int
    workers: int
    overwrite: bool

    def command(self) -> str:
        """Return the command line that makes the same data again."""
        words = ['omnisafe-qpt', 'data', 'collect', '--env-id', self.env_id]
        words += ['--episodes', str(self.episodes), '--seed', str(self.seed)]
        if self.candidates != self.episodes:
            words += ['--candidates', str(self.candidates)]
            words += ['--safe-share', f'{self.safe_share:g}']
            words += ['--cost-limit', f'{self.cost_limit:g}']
        if self.precision != FLOAT32_BITS:
            words += ['--precision', str(self.precision)]
        return shlex.join([*words, '--out', self.out.name])


def collect(
    env_id: str,
    episodes: int,
    seed: int,
    out: str | os.PathLike[str],
    *,
    candidates: int | None = None,
    safe_share: float = 0.5,
    cost_limit: float = 10.0,
    precision: int = FLOAT32_BITS,
    max_steps: int | None = None,
    workers: int = 2,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Collect a dataset with scripted controllers and write it in DSRL's HDF5 layout.

    The same arguments give the same data, bit for bit, with any number of workers and on any
    machine where the simulator itself computes the same.

    Args:
        env_id (str): Environment id, one of :func:`supported_env_ids`.
        episodes (int): Episodes in the file.
        seed (int): Seed of the collection.
        out (str or os.PathLike): The HDF5 file to write.

    Keyword Args:
        candidates (int, optional): Collect so many episodes and keep a spread of ``episodes`` of
            them (:func:`select_spread`). Defaults to ``episodes``, which keeps all.
        safe_share (float, optional): With ``candidates``, the share of the kept episodes that is
            to be within ``cost_limit``. Defaults to 0.5.
        cost_limit (float, optional): The cost of an episode up to which it counts as safe.
            Defaults to 10.0.
        precision (int, optional): Mantissa bits kept in observations and actions, from 1 to 23.
            The controllers see the rounded observations and the simulator gets the rounded
            actions, so the data are exact all the same, and compress well. Defaults to 23, all
            that a float32 has.
        max_steps (int, optional): Cut episodes after so many steps. Defaults to the horizon of
            the task.
        workers (int, optional): Processes that run the simulator. Defaults to 2.
        overwrite (bool, optional): Replace the file if it exists. Defaults to False.
        progress (bool, optional): Show how far it is. Defaults to True.

    Returns:
        What was written: ``out``, ``env_id``, ``episodes``, ``candidates``, ``transitions``,
        ``return_min/mean/max``, ``cost_min/median/max``, ``safe_share``, ``best_safe_return``
        (None without a safe episode), ``kinds``, ``bytes`` and ``seconds``.

    Raises:
        UserError: If an argument is impossible, the file exists, or the simulator is missing.
    """
    request = _checked_request(
        env_id=env_id,
        episodes=episodes,
        seed=seed,
        out=out,
        candidates=candidates,
        safe_share=safe_share,
        cost_limit=cost_limit,
        precision=precision,
        max_steps=max_steps,
        workers=workers,
        overwrite=overwrite,
    )
    started = time.monotonic()
    found = _run_candidates(request, progress)
    kept = found
    if request.candidates > request.episodes:
        chosen = select_spread(
            np.array([episode.total_return for episode in found]),
            np.array([episode.total_cost for episode in found]),
            request.episodes,
            safe_share=request.safe_share,
            cost_limit=request.cost_limit,
            max_cost=_dsrl_max_cost(request.env_id),
        )
        kept = [found[index] for index in chosen]
    write_hdf5(request.out, episodes_to_arrays(kept), _attributes(request, kept))
    return _summary(request, kept, time.monotonic() - started)


def supported_env_ids() -> list[str]:
    """Return the environment ids that data can be collected for."""
    return sorted(FAMILIES)


# -- what was asked for ---------------------------------------------------------------------------


def _checked_request(  # pylint: disable=too-many-arguments
    env_id: str,
    episodes: int,
    seed: int,
    out: str | os.PathLike[str],
    candidates: int | None,
    safe_share: float,
    cost_limit: float,
    precision: int,
    max_steps: int | None,
    workers: int,
    overwrite: bool,
) -> Request:
    """Put the arguments of :func:`collect` in order, or say which one is wrong."""
    if env_id not in FAMILIES:
        raise UserError(
            f'env-id {env_id!r}: data can be collected for {", ".join(supported_env_ids())} only',
        )
    task = find_task(env_id)
    horizon = task.horizon if task is not None else 1000
    candidates = episodes if candidates is None else candidates
    max_steps = horizon if max_steps is None else max_steps
    least = {'episodes': (episodes, 1), 'seed': (seed, 0), 'workers': (workers, 1)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise UserError(f'{name} {value}: must be at least {lowest}')
    if candidates < episodes:
        raise UserError(f'candidates {candidates}: must be at least episodes ({episodes})')
    if not 0.0 <= safe_share <= 1.0:
        raise UserError(f'safe-share {safe_share}: must be between 0 and 1')
    if not cost_limit >= 0.0:
        raise UserError(f'cost-limit {cost_limit}: must not be negative')
    if not 1 <= precision <= FLOAT32_BITS:
        raise UserError(f'precision {precision}: must be between 1 and {FLOAT32_BITS} bits')
    if not 1 <= max_steps <= horizon:
        raise UserError(f'max-steps {max_steps}: must be between 1 and {horizon}')
    return Request(
        env_id=env_id,
        episodes=episodes,
        seed=seed,
        out=_checked_out(out, overwrite),
        candidates=candidates,
        safe_share=safe_share,
        cost_limit=cost_limit,
        precision=precision,
        max_steps=max_steps,
        workers=workers,
        overwrite=overwrite,
    )


def _checked_out(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse before minutes of simulation what could not be written after them."""
    path = Path(out).expanduser()
    if path.suffix not in HDF5_SUFFIXES:
        raise UserError(f'{path}: the file to write must end in {" or ".join(HDF5_SUFFIXES)}')
    if path.is_dir():
        raise UserError(f'{path}: is a folder; give the name of a file')
    if path.exists() and not overwrite:
        raise UserError(f'{path}: exists; give another name or ask to overwrite it')
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f'{path}: {folder} is not a folder that can be written to')
    return path


def _dsrl_max_cost(env_id: str) -> float:
    task = find_task(env_id)
    return math.inf if task is None else task.max_cost


# -- running episodes -----------------------------------------------------------------------------


def run_episode(
    env_id: str,
    seed: int,
    number: int,
    precision: int = FLOAT32_BITS,
    max_steps: int = 1000,
) -> Episode:
    """Run and record one episode of a collection.

    Args:
        env_id (str): Environment id.
        seed (int): Seed of the collection.
        number (int): Number of the episode in it.
        precision (int, optional): Mantissa bits kept in observations and actions. Defaults to 23.
        max_steps (int, optional): Steps after which the episode is cut. Defaults to 1000.

    Returns:
        The episode.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    env_seed = int(rng.integers(2**31))
    # A simulator of its own, so that nothing is carried over from another episode.
    simulator = Simulator(env_id)
    states, actions, rewards, costs = [], [], [], []
    terminated = truncated = False
    try:
        states.append(round_mantissa(simulator.reset(env_seed), precision))
        controller = FAMILIES[env_id].make_controller(rng, simulator, max_steps)
        while not (terminated or truncated) and len(actions) < max_steps:
            action = controller.act(states[-1], len(actions))
            actions.append(round_mantissa(np.clip(action, -1.0, 1.0), precision))
            observation, reward, cost, terminated, truncated = simulator.step(actions[-1])
            states.append(round_mantissa(observation, precision))
            rewards.append(reward)
            costs.append(cost)
    finally:
        simulator.close()
    return Episode(
        number=number,
        kind=controller.kind,
        states=np.stack(states),
        actions=np.stack(actions),
        rewards=np.array(rewards, dtype=np.float32),
        costs=np.array(costs, dtype=np.float32),
        terminated=bool(terminated),
    )


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 numbers to so many mantissa bits, ties to even.

    The relative error is at most 2 ** -(bits + 1), and the freed bits are zeros, which compress.

    Args:
        values (np.ndarray): Finite numbers.
        bits (int): Mantissa bits to keep, 23 keeps all.

    Returns:
        A float32 array of the same shape.
    """
    rounded = np.array(values, dtype=np.float32)
    if bits == FLOAT32_BITS:
        return rounded
    shift = np.uint32(FLOAT32_BITS - bits)
    raw = rounded.view(np.uint32)
    # A carry out of the mantissa rightly raises the exponent: the fields are adjacent.
    raw += (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1) + ((raw >> shift) & np.uint32(1))
    raw &= ~((np.uint32(1) << shift) - np.uint32(1))
    return rounded


def _run_candidates(request: Request, progress: bool) -> list[Episode]:
    """Run all episodes asked for, in order of their numbers."""
    from omnisafe_qpt.host.progress import ProgressReporter

    jobs = [
        (request.env_id, request.seed, number, request.precision, request.max_steps)
        for number in range(request.candidates)
    ]
    reporter = ProgressReporter(f'Collecting {request.env_id}', len(jobs), unit='episodes')
    shown = reporter.shown() if progress else nullcontext()
    found = []
    with _mapper(min(request.workers, len(jobs))) as run_all, shown:
        for episode in run_all(_run_job, jobs):
            found.append(episode)
            if progress:
                reporter.update(len(found))
    return found


def _run_job(job: tuple[str, int, int, int, int]) -> Episode:
    return run_episode(*job)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Callable, Sequence], Iterator[Any]]]:
    """Give a lazy, ordered map over so many processes."""
    if workers == 1:
        yield map
        return
    import multiprocessing

    # Spawned, not forked: the caller may hold threads, a GPU or a simulator.
    with multiprocessing.get_context('spawn').Pool(workers) as pool:
        yield pool.imap


# -- from episodes to a file ----------------------------------------------------------------------


def episodes_to_arrays(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Lay episodes out as DSRL does, one after the other.

    Args:
        episodes (Sequence[Episode]): The episodes in order.

    Returns:
        Arrays under DSRL's names, float32 and bool.
    """
    last = np.concatenate([np.arange(len(e.rewards)) == len(e.rewards) - 1 for e in episodes])
    terminated = np.concatenate([np.full(len(e.rewards), e.terminated) for e in episodes])
    return {
        'observations': np.concatenate([e.states[:-1] for e in episodes]),
        'next_observations': np.concatenate([e.states[1:] for e in episodes]),
        'actions': np.concatenate([e.actions for e in episodes]),
        'rewards': np.concatenate([e.rewards for e in episodes]),
        'costs': np.concatenate([e.costs for e in episodes]),
        'terminals': last & terminated,
        'timeouts': last & ~terminated,
    }


def _attributes(request: Request, kept: Sequence[Episode]) -> dict[str, str | int | float]:
    versions = {'python': platform.python_version(), 'omnisafe-qpt': __version__}
    for name in ('safety-gymnasium', 'mujoco', 'numpy'):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = 'unknown'
    return {
        'env_id': request.env_id,
        'origin': 'scripted controllers in the simulator, not DSRL',
        'command': request.command(),
        'seed': request.seed,
        'episodes': len(kept),
        'candidates': request.candidates,
        'episode_numbers': json.dumps([episode.number for episode in kept]),
        'behaviours': json.dumps([episode.kind for episode in kept]),
        'precision_bits': request.precision,
        'max_steps': request.max_steps,
        'versions': json.dumps(versions, sort_keys=True),
        'licence': _LICENCE,
    }


def _summary(request: Request, kept: Sequence[Episode], seconds: float) -> dict[str, Any]:
    returns = np.array([episode.total_return for episode in kept])
    costs = np.array([episode.total_cost for episode in kept])
    safe = costs <= request.cost_limit
    return {
        'out': str(request.out),
        'env_id': request.env_id,
        'episodes': len(kept),
        'candidates': request.candidates,
        'transitions': sum(len(episode.rewards) for episode in kept),
        'return_min': float(returns.min()),
        'return_mean': float(returns.mean()),
        'return_max': float(returns.max()),
        'cost_min': float(costs.min()),
        'cost_median': float(np.median(costs)),
        'cost_max': float(costs.max()),
        'safe_share': float(safe.mean()),
        'best_safe_return': float(returns[safe].max()) if safe.any() else None,
        'kinds': dict(sorted(Counter(episode.kind for episode in kept).items())),
        'bytes': request.out.stat().st_size,
        'seconds': round(seconds, 1),
    }
