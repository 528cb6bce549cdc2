# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Collection of a dataset: episodes are run, stored, selected and written."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np

from omnisafe_qpt.collect.episodes import FLOAT32_BITS, run_episode, run_episodes
from omnisafe_qpt.collect.families import FAMILIES
from omnisafe_qpt.collect.request import ALL, SPREAD, Request, check_request
from omnisafe_qpt.collect.selection import density_filter, select_spread
from omnisafe_qpt.collect.store import EpisodeStore, Totals
from omnisafe_qpt.data.actions import NORMALIZED
from omnisafe_qpt.data.attributes import ENV_ID_ATTRIBUTE, UNIT_ATTRIBUTE
from omnisafe_qpt.data.hdf5_writer import write_hdf5_blocks
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import StopSignal


__all__ = ['collect', 'run_episode', 'supported_env_ids']

_LICENCE = 'Apache-2.0'
# Simulators, in addition to the packages that every result depends on.
_SIMULATOR_PACKAGES = ('pybullet', 'pybullet-svl', 'metadrive-simulator', 'panda3d')


def collect(
    env_id: str,
    episodes: int,
    seed: int,
    out: str | os.PathLike[str],
    *,
    agents: Sequence[str] = (),
    noise: float | None = None,
    switch: float | None = None,
    sample: float | None = None,
    candidates: int | None = None,
    select: str | None = None,
    safe_share: float = 0.5,
    cost_limit: float = 10.0,
    density: Sequence[int] | None = None,
    precision: int = FLOAT32_BITS,
    max_steps: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Collect a dataset in the simulator and write it in DSRL's HDF5 layout.

    Each episode draws a scripted controller or one of the agents. The same arguments give the same
    data, bit by bit, with any number of workers and on any machine where the simulator itself is
    reproducible.

    Finished episodes are kept in the folder ``.NAME.partial`` beside the file. After an
    interruption the same call continues with them; when the file is written the folder is removed.
    SIGINT, SIGTERM and SIGHUP interrupt it where that is safe, a second Ctrl-C at once.

    Args:
        env_id (str): Environment id.
        episodes (int): Episodes in the file.
        seed (int): Seed of the collection.
        out (str or os.PathLike): The HDF5 file to write.

    Keyword Args:
        agents (Sequence[str], optional): Trained policies, each as ``RUN[:EPOCH][:WEIGHT]``: the
            folder of a run of OmniSafe's in this environment; a number of epochs, ``last`` (the
            default) or ``all``, which divides the weight among all its checkpoints; and how often
            it is drawn, relative to the others (default 1). ``scripted[:WEIGHT]`` adds the
            scripted controllers. Defaults to the scripted controllers alone, which
            :func:`supported_env_ids` have.
        noise (float, optional): Agents' actions get noise of a standard deviation that each
            episode draws between 0 and this, in half of the episodes white, in the others slowly
            varying (Ornstein-Uhlenbeck). Defaults to 0.2.
        switch (float, optional): Share of the agents' episodes that switch to another draw at a
            random step. Defaults to 0.2.
        sample (float, optional): Share of the agents' episodes in which actions are drawn from
            the policy's distribution rather than its mean. Defaults to 0.5.
        candidates (int, optional): Number of episodes to collect before selection. Defaults to
            ``episodes``.
        select (str, optional): Which are kept. ``spread``: ``episodes`` of them with a spread of
            returns and costs (:func:`~omnisafe_qpt.collect.selection.select_spread`).
            ``density``: what DSRL's density filter leaves of them
            (:func:`~omnisafe_qpt.collect.selection.density_filter`), at most ``episodes``. Both
            drop what costs more than any episode of DSRL's dataset. Defaults to ``spread`` with
            more candidates than episodes, else all are kept.
        safe_share (float, optional): With ``spread``, the share of the kept episodes that is to
            be within ``cost_limit``. Defaults to 0.5.
        cost_limit (float, optional): Largest cost of a safe episode. Defaults to 10.0.
        density (Sequence[int], optional): With ``density``, the numbers of cells along cost and
            return, the most episodes kept of a cell, and the number up to which the episodes of a
            cell are dropped. Defaults to (60, 50, 10, 1).
        precision (int, optional): Mantissa bits kept in observations and actions, from 1 to 23.
            The policies see the rounded observations and the simulator gets the rounded actions,
            so the data are exact all the same, and compress well. Defaults to 23, all that a
            float32 has.
        max_steps (int, optional): Truncate episodes after this many steps. Defaults to the task's
            horizon.
        workers (int, optional): Processes that run the simulator. Defaults to one per core.
        overwrite (bool, optional): Replace an existing file, and delete an unfinished collection
            with other settings. Defaults to False.
        progress (bool, optional): Whether to show progress. Defaults to True.

    Returns:
        What was written: ``out``, ``env_id``, ``episodes``, ``candidates``, ``transitions``,
        ``return_min/mean/max``, ``cost_min/median/max``, ``safe_share``, ``best_safe_return``
        (None without a safe episode), ``kinds``, ``policies``, ``bytes`` and ``seconds``.

    Raises:
        UserError: If an argument is impossible, the file exists, the simulator is missing, or a
            process died.
        Stopped: After SIGINT, SIGTERM or SIGHUP, a kind of KeyboardInterrupt.
    """
    request = check_request(
        env_id,
        episodes,
        seed,
        out,
        agents=agents,
        noise=noise,
        switch=switch,
        sample=sample,
        candidates=candidates,
        select=select,
        safe_share=safe_share,
        cost_limit=cost_limit,
        density=density,
        precision=precision,
        max_steps=max_steps,
        workers=workers,
        overwrite=overwrite,
    )
    started = time.monotonic()
    versions = _versions()
    with (
        StopSignal() as stop,
        EpisodeStore(request.out, _settings(request, versions), overwrite) as store,
    ):
        with stop.blamed_for_failures():
            _run_missing(request, store, progress, stop)
        kept = _choose(request, store)
        totals = [store.finished[number] for number in kept]
        write_hdf5_blocks(
            request.out,
            _columns(store, kept, stop),
            np.cumsum([total.length for total in totals]) - 1,
            _attributes(request, kept, [total.kind for total in totals], versions),
        )
        summary = _summary(request, totals)
        store.clear()
    return {**summary, 'seconds': round(time.monotonic() - started, 1)}


def supported_env_ids() -> list[str]:
    """Return the environment ids that have scripted controllers."""
    return sorted(FAMILIES)


def _versions() -> dict[str, str]:
    from omnisafe_qpt.runs.checkpoint import versions

    return versions(*_SIMULATOR_PACKAGES)


def _settings(request: Request, versions: dict[str, str]) -> dict[str, Any]:
    """Return the settings that determine an episode, besides its index.

    The number of episodes, the selection and the path of a run may change between attempts.
    """
    settings = asdict(request.recipe)
    mixture = settings.pop('mixture')
    for agent in mixture['agents']:
        del agent['run'], agent['checkpoint']
    return {**settings, **mixture, 'versions': versions}


def _run_missing(
    request: Request,
    store: EpisodeStore,
    progress: bool,
    stop: StopSignal,
) -> None:
    """Run the missing episodes."""
    from omnisafe_qpt.progress import ProgressReporter

    missing = [number for number in range(request.candidates) if number not in store.finished]
    done = request.candidates - len(missing)
    reporter = ProgressReporter(
        f'Collecting {request.recipe.env_id}',
        request.candidates,
        done,
        unit='episodes',
    )
    with reporter.shown() if progress else nullcontext():
        if progress:
            reporter.update(done)
        for episode in run_episodes(request.recipe, missing, request.workers, stop.check):
            store.add(episode)
            done += 1
            if progress:
                reporter.update(done)


def _columns(
    store: EpisodeStore,
    kept: Sequence[int],
    stop: StopSignal,
) -> Iterator[dict[str, np.ndarray]]:
    for number in kept:
        stop.check()
        yield store.load(number).columns()


def _choose(request: Request, store: EpisodeStore) -> list[int]:
    """Select the episodes for the file."""
    if request.select == ALL:
        return list(range(request.episodes))
    totals = [store.finished[number] for number in range(request.candidates)]
    returns = np.array([total.total_return for total in totals])
    costs = np.array([total.total_cost for total in totals])
    if request.select == SPREAD:
        return select_spread(
            returns,
            costs,
            request.episodes,
            safe_share=request.safe_share,
            cost_limit=request.cost_limit,
            max_cost=request.max_cost,
        )
    useful = np.flatnonzero(costs <= request.max_cost)
    rng = np.random.default_rng(request.recipe.seed)
    left = useful[density_filter(returns[useful], costs[useful], request.density, rng)]
    if not len(left):
        raise UserError(
            f'density {" ".join(map(str, request.density))}: no cell holds more than '
            f'{request.density.least} of the {len(useful)} episodes; collect more --candidates, '
            'or set fewer bins or a smaller LEAST',
        )
    if len(left) > request.episodes:
        left = rng.choice(left, request.episodes, replace=False)
    return sorted(left.tolist())


# -- what is said about the file ------------------------------------------------------------------


def _attributes(
    request: Request,
    kept: Sequence[int],
    kinds: Sequence[str],
    versions: dict[str, str],
) -> dict[str, str | int | float]:
    mixture = request.recipe.mixture
    behaviours = ['scripted controllers'] if mixture.scripted_weight else []
    behaviours += ['trained agents'] if mixture.agents else []
    attributes: dict[str, str | int | float] = {
        ENV_ID_ATTRIBUTE: request.recipe.env_id,
        UNIT_ATTRIBUTE: NORMALIZED,
        'origin': f'{" and ".join(behaviours)} in the simulator, not DSRL',
        'command': request.command(),
        'seed': request.recipe.seed,
        'episodes': len(kept),
        'candidates': request.candidates,
        'episode_numbers': json.dumps(list(kept)),
        'behaviours': json.dumps(list(kinds)),
        'policies': json.dumps(mixture.describe()),
        'precision_bits': request.recipe.precision,
        'versions': json.dumps(versions, sort_keys=True),
        'licence': _LICENCE,
    }
    if mixture.agents:
        attributes.update(noise=mixture.noise, switch=mixture.switch, sample=mixture.sample)
    if request.recipe.max_steps is not None:
        attributes['max_steps'] = request.recipe.max_steps
    return attributes


def _summary(request: Request, totals: Sequence[Totals]) -> dict[str, Any]:
    returns = np.array([total.total_return for total in totals])
    costs = np.array([total.total_cost for total in totals])
    safe = costs <= request.cost_limit
    return {
        'out': str(request.out),
        'env_id': request.recipe.env_id,
        'episodes': len(totals),
        'candidates': request.candidates,
        'transitions': sum(total.length for total in totals),
        'return_min': float(returns.min()),
        'return_mean': float(returns.mean()),
        'return_max': float(returns.max()),
        'cost_min': float(costs.min()),
        'cost_median': float(np.median(costs)),
        'cost_max': float(costs.max()),
        'safe_share': float(safe.mean()),
        'best_safe_return': float(returns[safe].max()) if safe.any() else None,
        'kinds': dict(sorted(Counter(total.kind for total in totals).items())),
        'policies': request.recipe.mixture.describe(),
        'bytes': request.out.stat().st_size,
    }
