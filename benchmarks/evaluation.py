# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""How long an evaluation takes, beside OSRL's loop with its CDT.

    python -m benchmarks.evaluation --compare osrl --json benchmarks/results/evaluation.json
    python -m benchmarks.evaluation --candidate-shift last --compare osrl --osrl-episodes 4

Timed is everything from making the environments to the last step: starting processes, resets, the
simulator, the networks. These are untrained unless --run names a run of QPT. Ours is
``omnisafe_qpt.evaluation.episodes.evaluate``, as ``omnisafe-qpt evaluate`` calls it.

--compare osrl runs ``CDTTrainer.rollout`` as OSRL's own evaluation does: one episode after the
other, one window a step and no candidates, a network of the same width, layers, heads and context,
and the same simulator without OmniSafe around it. Our processes have one torch thread each; OSRL's
loop has one, or one for each core if its network is faster so. With --osrl-episodes fewer of its
episodes are run: the first reset, which takes longer, counts once and the rest in proportion.

``evaluation_vs_osrl`` is our time for a step over OSRL's: below 1 we are faster. Processor time is
given too, on which the machine's other work weighs less: over the number of cores, it is the least
that the evaluation can take.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe  # noqa: F401 - while it is imported QPT joins it, so it comes first
import torch
from omnisafe.utils.config import Config

from benchmarks import measure, peers
from benchmarks.command import make_parser, run_command
from omnisafe_qpt.compat import unwrapped
from omnisafe_qpt.envs.environments import horizon_of, make_env
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.evaluation.episodes import default_processes, evaluate
from omnisafe_qpt.progress import ProgressReporter
from omnisafe_qpt.qpt.config import DeploymentConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.runs.checkpoint import load_networks, versions
from omnisafe_qpt.settings.files import load_defaults, load_preset, merge
from omnisafe_qpt.settings.learner import learner_config


TARGET = 0.5
SEED = 0
# Asked for; an untrained network does not mind.
TARGET_RETURN, COST_LIMIT = 10.0, 10.0
_CPU = torch.device('cpu')


def main() -> int:
    """Run the benchmark from the command line."""
    return run_command(_parser(), run, _print)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('--env-id', default='SafetyCarButton1-v0')
    parser.add_argument('--episodes', type=int, default=20)
    parser.add_argument('--candidates', type=int, default=12)
    parser.add_argument('--candidate-shift', choices=('history', 'last'), default='history')
    parser.add_argument('--preset', choices=('paper', 'cpu'), default='paper', help='sizes')
    parser.add_argument('--run', help='a run of QPT, instead of untrained networks')
    parser.add_argument('--processes', type=int, help='default: one a core')
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--compare', choices=('osrl',), help='another library to measure')
    parser.add_argument('--osrl-episodes', type=int, metavar='N', help='default: as many as ours')
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, and OSRL by turns with it."""
    networks = _networks(options)
    config = DeploymentConfig(
        cost_limit=COST_LIMIT,
        candidates=options.candidates,
        candidate_shift=options.candidate_shift,
        rule='paper',
    )
    processes = options.processes or default_processes(options.episodes)
    cdt = None if options.compare is None else _Cdt(options.env_id, networks)
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        measure.say(f'round {number + 1} of {options.rounds}: ours')
        seeds = range(SEED, SEED + options.episodes)
        rounds.append({'ours': _ours(networks, options.env_id, config, seeds, processes)})
        if cdt is not None:
            measure.say(f'round {number + 1} of {options.rounds}: OSRL')
            episodes = options.osrl_episodes or options.episodes
            rounds[-1]['osrl'] = _extrapolated(cdt.evaluate(episodes), options.episodes)
    found = versions() if cdt is None else versions() | {'osrl-lib': peers.osrl_version()}
    return {
        'evaluation_vs_osrl': _ratio(rounds, 'seconds'),
        'cpu_vs_osrl': _ratio(rounds, 'cpu_seconds'),
        'targets': {'evaluation_vs_osrl': TARGET},
        'env_id': options.env_id,
        'episodes': options.episodes,
        'candidates': config.candidates,
        'candidate_shift': config.candidate_shift,
        'processes': processes,
        'osrl_threads': None if cdt is None else cdt.threads,
        'seed': SEED,
        'policy': networks.spec['policy'],
        'critic_hidden_sizes': networks.spec['critic_hidden_sizes'],
        'rounds': rounds,
        **measure.record('benchmarks.evaluation', _CPU, found),
    }


def _ratio(rounds: list[dict[str, dict[str, float]]], key: str) -> float | None:
    """Compare the time for a step within each round."""
    if 'osrl' not in rounds[0]:
        return None
    return statistics.median(
        (ours[key] / ours['steps']) / (osrl[key] / osrl['steps'])
        for ours, osrl in ((each['ours'], each['osrl']) for each in rounds)
    )


def _print(result: dict[str, Any]) -> None:
    for name in result['rounds'][0]:
        seconds = statistics.median(each[name]['seconds'] for each in result['rounds'])
        steps = statistics.median(each[name]['steps'] for each in result['rounds'])
        print(f'{name:5}{seconds:8.1f} s {steps / seconds:8.0f} steps/s')
    if result['evaluation_vs_osrl'] is not None:
        print(f'ours over OSRL: {result["evaluation_vs_osrl"]:.2f}')
        print(f'processor time: {result["cpu_vs_osrl"]:.2f}')


class _Clock:
    """Seconds of the clock, and of the processor in this process and those that it waited for."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), self._cpu_seconds()

    def read(self) -> dict[str, float]:
        started, cpu_started = self._started
        return {
            'seconds': time.perf_counter() - started,
            'cpu_seconds': self._cpu_seconds() - cpu_started,
        }

    @staticmethod
    def _cpu_seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)


# ------------------------------------------------------------------ ours


def _networks(options: argparse.Namespace) -> DeployableNetworks:
    """Load a run, or make untrained networks of a preset's sizes."""
    if options.run is not None:
        return load_networks(options.run)[0]
    cfgs = load_defaults(options.env_id)
    if options.preset != 'paper':
        cfgs = merge(cfgs, load_preset(options.preset))
    env = make_env(options.env_id)
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    horizon = horizon_of(env)
    env.close()
    torch.manual_seed(SEED)
    learner = Learner(
        obs_dim,
        act_dim,
        Scaling(torch.zeros(obs_dim), torch.ones(obs_dim)),
        learner_config(Config.dict2config(cfgs), horizon, longest=horizon),
    )
    return DeployableNetworks.from_learner(learner, {})


def _ours(
    networks: DeployableNetworks,
    env_id: str,
    config: DeploymentConfig,
    seeds: range,
    processes: int,
) -> dict[str, float]:
    progress = ProgressReporter('Ours', 1)
    with progress.shown():
        clock = _Clock()
        found = evaluate(
            networks,
            env_id,
            config,
            TARGET_RETURN,
            seeds,
            processes,
            on_progress=progress.update,
        )
        times = clock.read()
    return {**times, 'steps': sum(found.lengths), 'steps_per_second': found.steps_per_second}


# ------------------------------------------------------------------ OSRL's


class _Cdt:
    """OSRL's CDT and its loop."""

    def __init__(self, env_id: str, networks: DeployableNetworks) -> None:
        spec = networks.spec
        self._env_id = env_id
        self._model, self._trainer = peers.osrl_cdt(
            spec['obs_dim'],
            spec['act_dim'],
            PolicyConfig(**spec['policy']),
        )
        self._model.eval()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        self.threads = min({1, cores or 1}, key=self._seconds_per_window)

    def evaluate(self, episodes: int) -> list[dict[str, float]]:
        """Run episodes; the times of each."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        rows = []
        clock = _Clock()
        env = _OsrlEnvironment(self._env_id)
        progress = ProgressReporter('OSRL', episodes, unit='episodes')
        with progress.shown():
            for _ in range(episodes):
                steps = self._trainer.rollout(self._model, env, TARGET_RETURN, COST_LIMIT)[1]
                rows.append({**clock.read(), 'steps': steps, 'reset_seconds': env.reset_seconds})
                clock = _Clock()
                progress.update(len(rows))
        env.close()
        torch.set_num_threads(threads)
        return rows

    @torch.no_grad()
    def _seconds_per_window(self, threads: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        steps = torch.arange(self._model.seq_len)[None]
        numbers = torch.zeros(steps.shape)
        sizes = (self._model.state_dim, self._model.action_dim)
        history = [torch.zeros(*steps.shape, size) for size in sizes]
        limit = torch.full((1,), COST_LIMIT)
        times = []
        for _ in range(60):
            started = time.perf_counter()
            self._model(*history, numbers, numbers, steps, None, limit)
            times.append(time.perf_counter() - started)
        torch.set_num_threads(before)
        return statistics.median(times)


class _OsrlEnvironment:
    """The simulator as OSRL's loop has it, with costs in ``info``; Bullet's ignore seeds."""

    def __init__(self, env_id: str) -> None:
        self._env = getattr(unwrapped(make_env(env_id)), '_env', None)
        if self._env is None:
            raise UserError(f'{env_id} has no simulator in this process to compare with')
        self._seed = SEED
        self.reset_seconds = 0.0

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        started = time.perf_counter()
        answer = self._env.reset(seed=self._seed)
        self.reset_seconds = time.perf_counter() - started
        self._seed += 1
        return answer

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, *signals, info = self._env.step(action)
        if len(signals) == 3:  # Safety-Gymnasium's own interface
            info['cost'] = signals.pop(0)
        return observation, reward, *signals, info

    def close(self) -> None:
        self._env.close()


def _extrapolated(rows: list[dict[str, float]], episodes: int) -> dict[str, float]:
    """Sum up episodes, or what so many would sum up to: further ones are like those measured."""
    first, further = rows[0], rows[1:] or rows
    scale = (episodes - 1) / len(further)
    return {
        key: first[key] + scale * sum(row[key] for row in further)
        for key in ('seconds', 'cpu_seconds', 'steps')
    } | {'episodes_measured': len(rows), 'first_reset_seconds': first['reset_seconds']}


if __name__ == '__main__':
    sys.exit(main())
