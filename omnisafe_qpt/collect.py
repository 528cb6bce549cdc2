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
"""Offline datasets from scripted controllers in the real simulators.

A family of tasks has controllers with a risk knob; each episode draws its own controller, so that
returns and costs are spread. Controllers decide on the observation and the time step alone, as
the policies do that learn from them, and the observation that is recorded is the very one that
they decided on. An episode depends on the environment, the seed and its number only: neither the
number of processes nor the other episodes change it.
"""

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
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omnisafe_qpt.data.files import HDF5_SUFFIXES, write_hdf5
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.version import __version__


# Mantissa bits that a float32 has besides the leading one.
FLOAT32_BITS = 23
_LICENCE = 'Apache-2.0'


class Controller(Protocol):
    """Chooses the actions of one episode."""

    kind: str

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation.

        Args:
            observation (np.ndarray): Observation, shape (S,).
            step (int): Steps taken in the episode so far.

        Returns:
            The action, shape (A,), in [-1, 1].
        """


@dataclass(frozen=True)
class Family:
    """How the episodes of some tasks are made.

    Args:
        make_env (Callable[[str], Any]): Makes the simulator of an environment id, with
            Safety-Gymnasium's ``reset`` and six-valued ``step``.
        make_controller (Callable[[np.random.Generator, int], Controller]): Draws the controller
            of an episode from a random generator and the number of steps.
    """

    make_env: Callable[[str], Any]
    make_controller: Callable[[np.random.Generator, int], Controller]


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
    family = FAMILIES[env_id]
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    env_seed = int(rng.integers(2**31))
    controller = family.make_controller(rng, max_steps)
    # A simulator of its own, so that nothing is carried over from another episode.
    env = family.make_env(env_id)
    states, actions, rewards, costs = [], [], [], []
    terminated = truncated = False
    try:
        observation, _ = env.reset(seed=env_seed)
        states.append(round_mantissa(observation, precision))
        while not (terminated or truncated) and len(actions) < max_steps:
            action = controller.act(states[-1], len(actions))
            actions.append(round_mantissa(np.clip(action, -1.0, 1.0), precision))
            observation, reward, cost, terminated, truncated, _ = env.step(actions[-1])
            states.append(round_mantissa(observation, precision))
            rewards.append(reward)
            costs.append(cost)
    finally:
        env.close()
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


def select_spread(
    returns: np.ndarray,
    costs: np.ndarray,
    count: int,
    *,
    safe_share: float,
    cost_limit: float,
    max_cost: float,
) -> list[int]:
    """Choose episodes whose returns and costs are spread.

    Episodes above ``max_cost`` are dropped. Among the safe ones and among the others, the one
    with the highest return comes first, and then always the one farthest from those chosen, in
    the plane of return and cost. Where one group has too few, the other one fills up.

    Args:
        returns (np.ndarray): Return of each candidate.
        costs (np.ndarray): Cost of each candidate.
        count (int): How many to choose.

    Keyword Args:
        safe_share (float): Share of the chosen ones that is to be within ``cost_limit``.
        cost_limit (float): The cost up to which an episode is safe.
        max_cost (float): The cost up to which an episode is of use at all.

    Returns:
        Indices of the chosen candidates in rising order.

    Raises:
        UserError: If fewer than ``count`` candidates are of use.
    """
    safe = np.flatnonzero(costs <= cost_limit)
    others = np.flatnonzero((costs > cost_limit) & (costs <= max_cost))
    if len(safe) + len(others) < count:
        raise UserError(
            f'only {len(safe) + len(others)} of {len(costs)} candidates have a cost of at most '
            f'{max_cost:g}; ask for more candidates or fewer episodes',
        )
    wanted = max(min(len(safe), math.ceil(safe_share * count)), count - len(others))
    chosen = []
    for group, number in ((safe, wanted), (others, count - wanted)):
        points = np.stack([returns[group], costs[group]], axis=1)
        chosen += group[_farthest_points(points, number)].tolist()
    return sorted(chosen)


def _farthest_points(points: np.ndarray, count: int) -> list[int]:
    """Choose rows that lie far apart, beginning with the largest first coordinate."""
    if count == 0:
        return []
    points = points / np.maximum(np.ptp(points, axis=0), 1e-9)
    chosen = [int(points[:, 0].argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        latest = points[chosen[-1]]
        distance = np.minimum(distance, ((points - latest) ** 2).sum(axis=1))
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


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


# -- SafetyCarButton1-v0 --------------------------------------------------------------------------

# Where things lie in the observation of the car in the Button tasks.
_SPEED, _YAW_RATE, _MAGNETOMETER = 4, 8, slice(9, 11)
_RINGS = {
    'buttons': slice(24, 40),
    'goal': slice(40, 56),
    'hazards': slice(56, 72),
    'gremlins': slice(72, 88),
}
_OBSTACLES = ('hazards', 'gremlins', 'buttons')
_LIDAR_RANGE = 3.0  # metres at which a lidar bin reads 0
_STEP_SECONDS = 0.04
_GREMLIN_ORBIT = 0.35  # metres; all gremlins circle in phase, one radian a second
_TURN_RATE = 1.3  # radians a second that the car turns on the spot
_REACTION = 0.1  # seconds until a new course takes effect
_GOAL_CLEARANCE = 0.25  # metres between the car's centre and that of a button it touches
_HEADINGS = np.arange(40) * (2.0 * math.pi / 40)
_DIRECTIONS = np.stack([np.cos(_HEADINGS), np.sin(_HEADINGS)], axis=1)
# The car drives along -y and, as readily, along +y of its own frame: no turn exceeds 90 degrees.
_TURNS = np.abs((_HEADINGS + math.pi) % math.pi - math.pi / 2)


@dataclass(frozen=True)
class Steering:
    """The knobs of :func:`heading_scores`; the weights, margin and look-ahead are the risk knob.

    Args:
        weights (tuple[float, float, float]): How much hazards, gremlins and wrong buttons count.
        radii (tuple[float, float, float]): Metres from the centre of each within which it costs.
        margin (float): Metres around the radii in which the penalty grows to its weight.
        look_ahead (float): Seconds looked ahead.
        patience (float): Seconds after which a danger ahead counts 1/e.
        speed (float): Metres a second assumed on the way.
        turn_cost (float): Score lost per radian of turning.
        stay_score (float): Score of standing still; heading straight for the goal scores 1.
        sharpness (float): How clearly the best heading wins over the second best.
    """

    weights: tuple[float, float, float] = (6.0, 6.0, 6.0)
    radii: tuple[float, float, float] = (0.2, 0.34, 0.3)
    margin: float = 0.15
    look_ahead: float = 2.0
    patience: float = 1.5
    speed: float = 0.7
    turn_cost: float = 0.1
    stay_score: float = -0.3
    sharpness: float = 20.0


@dataclass(frozen=True)
class Scene:
    """What the car's lidar shows, in the car's own frame, in metres.

    Args:
        goal (np.ndarray): The goal button, shape (2,).
        hazards (np.ndarray): Shape (n, 2).
        gremlins (np.ndarray): Shape (n, 2).
        buttons (np.ndarray): The wrong buttons, shape (n, 2).
        east (np.ndarray): The world's x axis, shape (2,).
        north (np.ndarray): The world's y axis, shape (2,).
        phase (float): Angle of the gremlins on their circles.
    """

    goal: np.ndarray
    hazards: np.ndarray
    gremlins: np.ndarray
    buttons: np.ndarray
    east: np.ndarray
    north: np.ndarray
    phase: float


def decode_ring(ring: np.ndarray) -> np.ndarray:
    """Locate the objects that a ring of Safety-Gymnasium's pseudo-lidar shows.

    An object reads in its own bin by closeness, and in the two neighbouring bins in proportion to
    how near it lies to them, which gives its angle back. Objects within a bin of each other merge.

    Args:
        ring (np.ndarray): Readings around the car, counter-clockwise from its x axis.

    Returns:
        Positions in the car's frame, shape (n, 2).
    """
    before, after = np.roll(ring, 1), np.roll(ring, -1)
    sides = before + after
    # The neighbours of a peak sum to the peak; an alias of it has less beside it.
    bins = np.flatnonzero((ring > 0) & (ring >= before) & (ring >= after) & (sides >= 0.9 * ring))
    angles = (bins + after[bins] / sides[bins]) * (2.0 * math.pi / len(ring))
    distances = _LIDAR_RANGE * (1.0 - ring[bins])
    return distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def see_scene(observation: np.ndarray, step: int) -> Scene:
    """Read the scene around the car off an observation of the Button tasks.

    Args:
        observation (np.ndarray): Observation, shape (88,).
        step (int): Steps taken so far, which tells the gremlins' phase.

    Returns:
        The scene.
    """
    observation = observation.astype(np.float64)
    rings = {name: decode_ring(observation[where]) for name, where in _RINGS.items()}
    # Out of the lidar's range the goal is unknown: go straight on.
    goal = rings['goal'][0] if len(rings['goal']) else np.array([0.0, -1.0])
    wrong = rings['buttons']
    wrong = wrong[np.hypot(*(wrong - goal).T) > 0.25]
    # The magnetic field points along the world's -y.
    north = -observation[_MAGNETOMETER]
    north /= max(math.hypot(*north), 1e-9)
    return Scene(
        goal=goal,
        hazards=rings['hazards'],
        gremlins=rings['gremlins'],
        buttons=wrong,
        east=np.array([north[1], -north[0]]),
        north=north,
        phase=_STEP_SECONDS * step,
    )


def heading_scores(scene: Scene, steering: Steering) -> np.ndarray:
    """Score 40 headings and standing still: nearness to the goal's direction less the dangers.

    Each option is played ahead: turn on the spot, then drive straight to where the goal is. The
    time spent close to an obstacle counts against it; gremlins move on meanwhile.

    Args:
        scene (Scene): What the car sees.
        steering (Steering): The knobs.

    Returns:
        Scores of shape (41,), standing still last.
    """
    times = np.arange(0.0, steering.look_ahead + 1e-9, 0.15)  # (T,)
    distance = max(math.hypot(*scene.goal), 1e-6)
    driven = (times - _REACTION - _TURNS[:, None] / _TURN_RATE).clip(0.0) * steering.speed
    driven = driven.clip(max=max(distance - _GOAL_CLEARANCE, 0.15))  # (40, T)
    paths = driven[:, :, None] * _DIRECTIONS[:, None]
    paths = np.concatenate([paths, np.zeros((1, len(times), 2))])  # (41, T, 2)
    scores = _DIRECTIONS @ (scene.goal / distance) - steering.turn_cost * _TURNS
    scores = np.append(scores, steering.stay_score)
    urgency = np.exp(-times / steering.patience) * 0.15
    swing = _GREMLIN_ORBIT * (
        (np.sin(scene.phase + times) - math.sin(scene.phase))[:, None] * scene.east
        + (np.cos(scene.phase + times) - math.cos(scene.phase))[:, None] * scene.north
    )  # (T, 2)
    for name, radius, weight in zip(_OBSTACLES, steering.radii, steering.weights):
        places = getattr(scene, name)[:, None]
        places = places + swing if name == 'gremlins' else places  # (n, T or 1, 2)
        offsets = paths[:, None] - places
        gaps = np.hypot(offsets[..., 0], offsets[..., 1]) - radius  # (41, n, T)
        closeness = (1.0 - gaps / steering.margin).clip(0.0, 3.0)
        scores -= weight * (closeness**2 @ urgency).sum(axis=1)
    return scores


def choose_course(scores: np.ndarray, sharpness: float) -> np.ndarray:
    """Blend the headings by their scores into a course that changes smoothly with the scene.

    Args:
        scores (np.ndarray): Scores of the headings and, last, of standing still.
        sharpness (float): How clearly the best heading wins over the second best.

    Returns:
        A vector of length at most 1, shape (2,); a short one means slow.
    """
    shares = np.exp(sharpness * (scores - scores.max()))
    return shares[:-1] @ _DIRECTIONS / shares.sum()


def wheel_commands(course: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """Turn a course into commands for the two wheels.

    The motors saturate at 0.02, so it is the sign of a command that drives. The commands are left
    of order one and cross zero smoothly at the wanted speed and heading: a policy that imitates
    them with a small error switches at nearly the same place.

    Args:
        course (np.ndarray): Wanted direction in the car's frame, its length the speed, shape (2,).
        observation (np.ndarray): Observation, shape (88,).

    Returns:
        Commands for the left and the right wheel, shape (2,), not clipped.
    """
    length = max(math.hypot(*course), 1e-6)
    sine, cosine = course[0] / length, -course[1] / length
    drive = 0.6 * (1.2 * length * cosine + float(observation[_SPEED]))
    # 2 sin cos turns towards the course with whichever end of the car is nearer to it.
    turn = 1.2 * sine * cosine * min(1.0, 2.0 * length) - 0.1 * float(observation[_YAW_RATE])
    return np.array([drive + turn, drive - turn])


@dataclass
class ButtonDriver:
    """Drives the car of the Button tasks by what its lidar shows.

    Args:
        kind (str): What its knobs are called.
        rng (np.random.Generator): Source of the noise.
        steering (Steering): The knobs.
        noise (float): Standard deviation of the noise on the commands.
        later (Steering, optional): The knobs from ``switch_step`` on. Defaults to None.
        switch_step (int, optional): When ``later`` takes over. Defaults to 0.
        jolt_rate (float, optional): How often a step starts a jolt, some steps of one random
            action, from which the driver has to recover. Defaults to 0.0.
    """

    kind: str
    rng: np.random.Generator
    steering: Steering
    noise: float
    later: Steering | None = None
    switch_step: int = 0
    jolt_rate: float = 0.0
    _jolt: np.ndarray = field(default_factory=lambda: np.zeros(2), init=False)
    _jolt_steps: int = field(default=0, init=False)

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Return the action for an observation."""
        noise = self.noise * self.rng.standard_normal(2)
        if self._jolt_steps == 0 and self.rng.random() < self.jolt_rate:
            self._jolt_steps = int(self.rng.integers(4, 16))
            self._jolt = self.rng.uniform(-1.0, 1.0, 2)
        if self._jolt_steps > 0:
            self._jolt_steps -= 1
            return self._jolt
        steering = self.steering
        if self.later is not None and step >= self.switch_step:
            steering = self.later
        scores = heading_scores(see_scene(observation, step), steering)
        return wheel_commands(choose_course(scores, steering.sharpness), observation) + noise


def _careful(rng: np.random.Generator, caution: float = 1.0) -> Steering:
    """Draw knobs that keep clear of everything; more caution, more weight and distance."""
    return Steering(
        weights=(caution * rng.uniform(4.5, 7.5),) * 3,
        radii=(0.2, rng.uniform(0.34, 0.38), rng.uniform(0.29, 0.31)),
        margin=caution * rng.uniform(0.15, 0.25),
        look_ahead=rng.uniform(1.8, 2.4),
    )


def _reckless(rng: np.random.Generator) -> Steering:
    """Draw knobs that hardly look at obstacles."""
    return Steering(weights=(rng.uniform(0.0, 1.5),) * 3, margin=0.1, look_ahead=1.0)


def make_button_driver(rng: np.random.Generator, steps: int) -> ButtonDriver:
    """Draw a driver for an episode of a Button task.

    Args:
        rng (np.random.Generator): Random generator of the episode.
        steps (int): Steps in the episode.

    Returns:
        The driver.
    """
    kinds = {
        'careful': 0.35,
        'very careful': 0.2,
        'bold': 0.1,
        'jolted': 0.1,
        'blind': 0.08,
        'reckless': 0.07,
        'switching': 0.1,
    }
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    caution = {'very careful': 1.5, 'bold': 0.6}.get(kind, 1.0)
    steering = _reckless(rng) if kind == 'reckless' else _careful(rng, caution)
    driver = ButtonDriver(kind, rng, steering, noise=rng.uniform(0.05, 0.2))
    if kind == 'jolted':
        driver.jolt_rate = 0.015
    elif kind == 'blind':
        weights = list(steering.weights)
        weights[rng.integers(3)] = 0.0
        driver.steering = replace(steering, weights=tuple(weights))
    elif kind == 'switching':
        driver.later = _reckless(rng)
        driver.switch_step = int(rng.integers(steps // 4, 3 * steps // 4 + 1))
        if rng.random() < 0.5:
            driver.steering, driver.later = driver.later, driver.steering
    return driver


def make_safety_gymnasium_env(env_id: str) -> Any:
    """Make a Safety-Gymnasium simulator.

    Args:
        env_id (str): Environment id.

    Returns:
        The simulator.

    Raises:
        UserError: If Safety-Gymnasium is not installed.
    """
    from omnisafe_qpt.host import plugin

    plugin.install()  # repairs Safety-Gymnasium for Python 3.11 before it is imported
    try:
        import safety_gymnasium
    except ImportError as error:
        raise UserError(
            f'{env_id} needs Safety-Gymnasium ({error}); install it: pip install omnisafe',
        ) from error
    return safety_gymnasium.make(env_id)


FAMILIES: dict[str, Family] = {
    'SafetyCarButton1-v0': Family(make_safety_gymnasium_env, make_button_driver),
}
