# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The request for a collection: checked, and as a command line."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisafe_qpt.collect.agents import Mixture, read_agents
from omnisafe_qpt.collect.episodes import FLOAT32_BITS, Recipe
from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.collect.selection import Density
from omnisafe_qpt.data.files import HDF5_SUFFIXES
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError, nearest, shell_command


# With agents, the default is a spread selection.
DEFAULT_NOISE = 0.2
DEFAULT_SWITCH = 0.2
DEFAULT_SAMPLE = 0.5

ALL, SPREAD, DENSITY = 'all', 'spread', 'density'


@dataclass(frozen=True)
class Request:
    """The request of :func:`omnisafe_qpt.collect.collect`.

    Args:
        recipe (Recipe): The settings of the episodes.
        agents (tuple[str, ...]): The user's agents; empty for scripted controllers.
        episodes (int): Episodes to keep.
        candidates (int): Episodes to collect.
        select (str): Selection: ``all``, ``spread`` or ``density``.
        safe_share (float): With ``spread``, share of the kept episodes within the cost limit.
        cost_limit (float): Largest cost of a safe episode.
        density (Density): With ``density``, DSRL's filter.
        out (Path): The HDF5 file to write.
        workers (int): Processes; no effect on the result.
    """

    recipe: Recipe
    agents: tuple[str, ...]
    episodes: int
    candidates: int
    select: str
    safe_share: float
    cost_limit: float
    density: Density
    out: Path
    workers: int

    @property
    def max_cost(self) -> float:
        """The highest cost of an episode in DSRL's dataset of the task, infinite without one."""
        task = find_task(self.recipe.env_id)
        return math.inf if task is None else task.max_cost

    def command(self) -> str:
        """Return the command line that reproduces the data."""
        recipe = self.recipe
        words = ['omnisafe-qpt', 'data', 'collect', '--env-id', recipe.env_id]
        for agent in self.agents:
            words += ['--agent', agent]
        if recipe.mixture.agents:
            words += ['--noise', f'{recipe.mixture.noise:g}']
            words += ['--switch', f'{recipe.mixture.switch:g}']
            words += ['--sample', f'{recipe.mixture.sample:g}']
        words += ['--episodes', str(self.episodes), '--seed', str(recipe.seed)]
        if self.candidates != self.episodes:
            words += ['--candidates', str(self.candidates)]
        if self.select == SPREAD:
            words += ['--safe-share', f'{self.safe_share:g}']
            words += ['--cost-limit', f'{self.cost_limit:g}']
        if self.select == DENSITY:
            words += ['--select', DENSITY, '--density', *map(str, self.density)]
        if recipe.precision != FLOAT32_BITS:
            words += ['--precision', str(recipe.precision)]
        if recipe.max_steps is not None:
            words += ['--max-steps', str(recipe.max_steps)]
        return shell_command([*words, '--out', self.out.name])


def check_request(
    env_id: str,
    episodes: int,
    seed: int,
    out: str | os.PathLike[str],
    *,
    agents: Sequence[str],
    noise: float | None,
    switch: float | None,
    sample: float | None,
    candidates: int | None,
    select: str | None,
    safe_share: float,
    cost_limit: float,
    density: Sequence[int] | None,
    precision: int,
    max_steps: int | None,
    workers: int | None,
    overwrite: bool,
) -> Request:
    """Put the arguments of :func:`omnisafe_qpt.collect.collect` in order.

    Raises:
        UserError: If one of them is impossible.
    """
    candidates = episodes if candidates is None else candidates
    select = select or (SPREAD if candidates > episodes else ALL)
    _check_least(episodes=(episodes, 1), seed=(seed, 0))
    if candidates < episodes:
        raise UserError(f'candidates {candidates}: must be at least episodes ({episodes})')
    if select not in (ALL, SPREAD, DENSITY) or (select == ALL and candidates > episodes):
        raise UserError(f'select {select!r}: must be {SPREAD} or {DENSITY}')
    _check_share(safe_share, 'safe-share')
    if not cost_limit >= 0.0:
        raise UserError(f'cost-limit {cost_limit}: must not be negative')
    if not 1 <= precision <= FLOAT32_BITS:
        raise UserError(f'precision {precision}: must be between 1 and {FLOAT32_BITS} bits')
    _check_steps(env_id, max_steps)
    if density is not None and select != DENSITY:
        raise UserError(f'density: is for --select {DENSITY} only')
    path = _check_out(out, overwrite)
    mixture = _check_mixture(env_id, agents, noise, switch, sample)
    return Request(
        recipe=Recipe(env_id, seed, precision, max_steps, mixture),
        agents=tuple(agents),
        episodes=episodes,
        candidates=candidates,
        select=select,
        safe_share=safe_share,
        cost_limit=cost_limit,
        density=Density.checked(density),
        out=path,
        workers=_check_workers(workers),
    )


def _check_least(**numbers: tuple[int, int]) -> None:
    for name, (value, lowest) in numbers.items():
        if value < lowest:
            raise UserError(f'{name} {value}: must be at least {lowest}')


def _check_share(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise UserError(f'{name} {value}: must be between 0 and 1')


def _check_steps(env_id: str, max_steps: int | None) -> None:
    task = find_task(env_id)
    horizon = math.inf if task is None else task.horizon
    if max_steps is not None and not 1 <= max_steps <= horizon:
        raise UserError(f'max-steps {max_steps}: must be between 1 and {horizon}')


def _check_workers(workers: int | None) -> int:
    if workers is None:
        from omnisafe_qpt.settings.machine import usable_cores

        return usable_cores()
    _check_least(workers=(workers, 1))
    return workers


def _check_mixture(
    env_id: str,
    agents: Sequence[str],
    noise: float | None,
    switch: float | None,
    sample: float | None,
) -> Mixture:
    """Return the mixture of behaviours."""
    given = {'noise': noise, 'switch': switch, 'sample': sample}
    found, scripted_weight = read_agents(agents, env_id)
    if not agents:
        scripted_weight = 1.0
    if scripted_weight and env_id not in FAMILIES:
        raise UserError(_no_controllers(env_id))
    if not found:
        for name, value in given.items():
            if value is not None:
                raise UserError(f'{name} is for trained agents only, and there is no --agent')
        return Mixture(scripted_weight=scripted_weight)
    defaults = {'noise': DEFAULT_NOISE, 'switch': DEFAULT_SWITCH, 'sample': DEFAULT_SAMPLE}
    values: dict[str, Any] = {
        name: defaults[name] if value is None else value for name, value in given.items()
    }
    if not 0.0 <= values['noise'] < math.inf:
        raise UserError(f'noise {values["noise"]}: must not be negative')
    _check_share(values['switch'], 'switch')
    _check_share(values['sample'], 'sample')
    return Mixture(found, scripted_weight, **values)


def _no_controllers(env_id: str) -> str:
    meant = ' or '.join(nearest(env_id, list(FAMILIES)))
    return (
        f'env-id {env_id!r}: has no scripted controllers'
        f'{f" (did you mean {meant}?)" if meant else ""}; name trained runs with --agent, or take '
        'one of: omnisafe-qpt data collect --list'
    )


def _check_out(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Check before the simulation that the file can be written."""
    path = Path(out).expanduser()
    if path.suffix not in HDF5_SUFFIXES:
        raise UserError(f'{path}: the file name must end in {" or ".join(HDF5_SUFFIXES)}')
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
