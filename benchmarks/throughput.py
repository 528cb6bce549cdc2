# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""How fast QPT trains and acts, beside OSRL's CDT and beside what the chip allows.

    python -m benchmarks.throughput --compare osrl --json benchmarks/results/throughput-cpu.json
    python -m benchmarks.throughput --preset paper --device cuda --precision bf16 --compare osrl

Needs torch and numpy only, so that it runs where there is neither OmniSafe nor a simulator. The
data are synthetic episodes of 1000 steps with the sizes of CarButton1 (88 observations, 2 actions).

Timed in rounds, everything once a round (see benchmarks/measure.py):

* loading a dataset from arrays with its to-go sums, relabelling a share of it, drawing a batch;
* a whole update, its batch drawn too, in float32, in bf16 where the device has instructions for it,
  and in what --precision asks for; on
  CUDA also compiled, captured and with deterministic algorithms;
* its parts in the precision asked for, each alone: the policy forwards and backwards, the target
  policy, the critics, the policy's Q term, the optimisers with the target networks. Their sum is
  not the whole: what lies between them is left out, and each starts with warmer caches;
* a step of deployment for 1, 12 and 50 candidates of 1 and of 20 episodes, full windows, the
  scoring by the critics and the transfer to the host counted in: with the candidates' targets
  shifted in the whole history, and in the last step alone, where candidates share a prefix.

``--compare osrl`` does the same updates and windows with OSRL's CDT at the same sizes on the same
threads: its batch from its own dataset and loader plus its trainer's step, and its network on 1, 12
and 50 windows, which is all its own deployment would do for as many candidates. Its loader prepares
batches in this process, so that the cost shows; with workers it would need other cores. Ratios are
ours over theirs: below 1 we are faster.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure, operations, peers, works
from benchmarks.command import make_parser, run_command
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.config import LearnerConfig, PolicyConfig
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.precision import has_bf16
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.training.cuda_graph import CapturedUpdate


OBS_DIM, ACT_DIM = 88, 2
EPISODES = 300
COST_LIMIT = 10.0
CANDIDATES = (1, 12, 50)
PARALLEL = (1, 20)
SEED = 0
# Seconds that the rounds may take, unless a number of them is asked for.
BUDGET = 150.0


@dataclass(frozen=True)
class Preset:
    """Sizes of a configuration that the package ships, which a test holds against it.

    YAML is not read here, as only torch and numpy may be there.

    Args:
        config (LearnerConfig): Sizes of the networks.
        batch_size (int): B.
        augmentation_fraction (float): Relabelled episodes as a share of the dataset's.
    """

    config: LearnerConfig
    batch_size: int
    augmentation_fraction: float = 0.3


PRESETS = {
    'paper': Preset(LearnerConfig(), batch_size=2048),
    'cpu': Preset(
        LearnerConfig(
            policy=PolicyConfig(
                context_len=5,
                embed_dim=64,
                num_layers=2,
                num_heads=4,
                dropout=0.0,
            ),
            critic_hidden_sizes=(128, 128, 128),
        ),
        batch_size=32,
    ),
    # The paper's networks with a batch that a CPU does in a second.
    'small': Preset(LearnerConfig(), batch_size=256),
}
# The targets' sizes; those of CUDA are meant for an H100.
TARGET_PRESET = {'cpu': 'small', 'cuda': 'paper'}
# Ours over theirs, unless it says otherwise.
TARGETS = {
    'cpu': {
        'update_vs_osrl': 0.90,
        'update_vs_osrl_bf16': 0.60,
        'sample_vs_osrl': 1 / 30,
        'candidates50_vs_osrl': 0.70,
        'candidates50_shared_prefix_vs_osrl': 0.20,
    },
    'cuda': {
        'fastest_update_seconds': 0.004,
        'fastest_update_vs_osrl': 0.20,
        'share_of_ceiling': 0.30,  # at least
        'candidates50_vs_one': 1.5,
    },
}
_AT_LEAST = ('share_of_ceiling',)
_MEANING = {
    'update_vs_osrl': 'whole update, float32',
    'update_vs_osrl_bf16': 'whole update, bf16 over their float32',
    'sample_vs_osrl': 'drawing a batch',
    'candidates50_vs_osrl': '50 candidates over their network on 50 windows',
    'candidates50_shared_prefix_vs_osrl': 'the same, candidates with a shared prefix',
    'candidates50_vs_one': '50 candidates over one',
    'fastest_update_seconds': 'seconds of the fastest whole update',
    'fastest_update_vs_osrl': 'the same over their float32',
    'share_of_ceiling': 'its necessary arithmetic over the matrix rate',
}


def main() -> int:
    """Run the benchmark from the command line."""
    return run_command(_parser(), run, lambda result: print(report(result)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='small',
        help="sizes: the paper's, those of configs/QPT-cpu.yaml, or (default) the paper's "
        'networks with 256 windows',
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help="default: the preset's")
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--precision',
        choices=('float32', 'tf32', 'bf16'),
        default='float32',
        help='of the parts of an update and of the variants on CUDA (default: %(default)s)',
    )
    parser.add_argument('--threads', type=int, metavar='N', help="default: torch's")
    parser.add_argument(
        '--rounds',
        type=int,
        metavar='N',
        help='default: what fits into two and a half minutes, at least 3',
    )
    parser.add_argument('--compare', choices=('osrl',), help='another method to measure beside it')
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    return parser


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the options ask for."""
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # OSRL draws from it
    measure.say('warming up')
    bench = _Bench(options)
    bench.timer.time(options.rounds, BUDGET)
    return bench.result()


def _check(options: argparse.Namespace) -> None:
    """Refuse options that cannot work, before minutes of work."""
    for name in ('batch_size', 'threads', 'rounds'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f'--{name.replace("_", "-")} is {value}; it must be at least 1')
    if options.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch finds no CUDA device; use --device cpu')
    if options.precision == 'tf32' and options.device != 'cuda':
        raise UserError('--precision tf32 is for CUDA; use float32 or bf16')
    if options.compare is not None:
        peers.osrl_folder()
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f'--json {options.json}: there is no folder {options.json.parent}')


class _Bench:
    """The works of one run, prepared and warm, and what comes of them.

    Args:
        options (argparse.Namespace): The command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.preset = PRESETS[options.preset]
        self.batch_size = options.batch_size or self.preset.batch_size
        self.device = torch.device(options.device)
        self.timer = measure.Timer(self.device)
        self.memory: dict[str, int | None] = {}
        self.updates: dict[str, str] = {}  # the precision of each
        self.rates: dict[str, int] = {}  # operations or bytes of what shows the chip's rates
        self.arrays = measure.synthetic_arrays(EPISODES * measure.HORIZON, OBS_DIM, ACT_DIM, SEED)
        self._load()
        self._add_updates()
        if options.compare is not None:
            self._add_osrl_updates()
        self._add_parts()
        self._add_acting()
        self._add_rates()

    def _load(self) -> None:
        fraction = self.preset.augmentation_fraction
        self.memory['load_peak_bytes'], data = measure.peak_of(
            lambda: Trajectories.from_arrays(self.arrays),
            torch.device('cpu'),
        )
        self.memory['needed_bytes'] = measure.needed_bytes(data.num_transitions, OBS_DIM, ACT_DIM)
        self.scaling = Scaling.from_data(data, COST_LIMIT)
        self.data = data.to(self.device)
        self.rows, _ = augment(self.data, fraction, SEED)
        self.sampler = self._sampler()
        self.timer.add('load', lambda: Trajectories.from_arrays(self.arrays))
        self.timer.add('augment', lambda: augment(self.data, fraction, SEED))

    @property
    def policy(self) -> PolicyConfig:
        """Sizes of the Transformer, ours and theirs."""
        return self.preset.config.policy

    # ------------------------------------------------------------------ works

    def _sampler(self) -> WindowSampler:
        context_len = self.policy.context_len
        return WindowSampler(self.data, context_len, self.batch_size, SEED, rows=self.rows)

    def _learner(self, precision: str) -> Learner:
        # Without bf16 instructions too: what is measured is what is named.
        precision = {'bf16': 'bf16_emulated'}.get(precision, precision)
        config = dataclasses.replace(self.preset.config, precision=precision)
        return Learner(OBS_DIM, ACT_DIM, copy.deepcopy(self.scaling), config, self.device)

    def _add_updates(self) -> None:
        bf16 = ['bf16'] if has_bf16(self.device) else []
        for precision in dict.fromkeys(('float32', *bf16, self.options.precision)):
            self._add_update(f'update_{precision}', precision)
        if self.device.type == 'cuda':
            for variant in ('graph', 'compile', 'deterministic'):
                precision = self.options.precision
                self._add_update(f'update_{precision}_{variant}', precision, variant)
        self.timer.add('sample', self.sampler.sample)

    def _add_update(self, name: str, precision: str, variant: str = '') -> None:
        """Add a whole update, as is or as ``train_cfgs:accelerate`` names it."""
        learner, sampler = self._learner(precision), self._sampler()
        if variant == 'compile':
            learner.compile()
        if variant in ('graph', 'compile'):
            update = CapturedUpdate(learner, sampler)
        else:
            update = functools.partial(_draw_and_update, learner, sampler)
        if variant == 'deterministic':
            update = works.deterministic(update)
        update = works.in_precision(precision, update)
        if name == f'update_{self.options.precision}':
            self.memory['update_peak_bytes'], _ = measure.peak_of(update, self.device)
            self.memory['saved_for_backward_bytes'] = operations.saved_bytes(learner, update)
        self.timer.add(name, update)
        self.updates[name] = precision

    def _add_osrl_updates(self) -> None:
        _, trainer = peers.osrl_cdt(OBS_DIM, ACT_DIM, self.policy, self.device)
        is_cuda = self.device.type == 'cuda'
        batches = iter(
            peers.osrl_loader(self.arrays, self.policy.context_len, self.batch_size, is_cuda)
        )

        def draw() -> list[torch.Tensor]:
            return [value.to(self.device) for value in next(batches)]

        drawn = draw()
        self.timer.add('osrl_sample', draw)
        self.timer.add(
            'osrl_update',
            works.in_precision('float32', lambda: trainer.train_one_step(*draw())),
        )
        self.timer.add(
            'osrl_update_alone',
            works.in_precision('float32', lambda: trainer.train_one_step(*drawn)),
        )

    def _add_parts(self) -> None:
        learner = self._learner(self.options.precision)
        for name, part in works.update_parts(learner, self.sampler.sample()).items():
            self.timer.add(name, works.in_precision(self.options.precision, part))

    def _add_acting(self) -> None:
        networks = DeployableNetworks.from_learner(self._learner('float32'), {})
        for episodes, candidates in itertools.product(PARALLEL, CANDIDATES):
            name = f'act_{candidates}_candidates_{episodes}_episodes'
            self.timer.add(name, works.acting(networks, candidates, episodes, 'history'))
            if candidates > 1:
                shared = works.acting(networks, candidates, episodes, 'last')
                self.timer.add(f'{name}_shared_prefix', shared)
        if self.options.compare is None:
            return
        model, _ = peers.osrl_cdt(OBS_DIM, ACT_DIM, self.policy, self.device)
        for windows in CANDIDATES:
            act = works.osrl_acting(model.eval(), windows)
            self.timer.add(f'osrl_network_{windows}_windows', act)

    def _add_rates(self) -> None:
        for precision in dict.fromkeys(self.updates.values()):
            run, self.rates[precision] = measure.matrix_product(self.device, precision)
            self.timer.add(f'matrix_product_{precision}', run)
        run, self.rates['copy'] = measure.large_copy(self.device)
        self.timer.add('copy', run)

    # ------------------------------------------------------------------ results

    def result(self) -> dict[str, Any]:
        """Put together ratios, raw figures, floors and the record of the run."""
        self.memory['process_peak_bytes'] = measure.process_peak_bytes()
        timer = self.timer
        floors = {name: self._floor(name) for name in self.updates}
        fastest = min(floors, key=lambda name: floors[name]['measured_seconds'])
        one, many = (f'act_{count}_candidates_1_episodes' for count in (1, 50))
        ratios = {
            'update_vs_osrl': timer.ratio('update_float32', 'osrl_update'),
            'update_vs_osrl_bf16': timer.ratio('update_bf16', 'osrl_update'),
            'fastest_update_vs_osrl': timer.ratio(fastest, 'osrl_update'),
            'sample_vs_osrl': timer.ratio('sample', 'osrl_sample'),
            'candidates50_vs_osrl': timer.ratio(many, 'osrl_network_50_windows'),
            'candidates50_shared_prefix_vs_osrl': timer.ratio(
                f'{many}_shared_prefix', 'osrl_network_50_windows'
            ),
            'candidates50_vs_one': timer.ratio(many, one),
            'fastest_update_seconds': floors[fastest]['measured_seconds'],
            'share_of_ceiling': floors[fastest]['share_of_ceiling'],
        }
        evaluation, why_not = works.whole_evaluation(self.preset.config)
        return ratios | {
            'targets': TARGETS[self.device.type],
            'targets_are_for_these_sizes': self._has_sizes_of_targets(),
            'fastest_update': fastest,
            'update_parts': self._parts(),
            'floors': floors,
            'acting_floors': {
                f'act_{candidates}_candidates_{episodes}_episodes': self._acting_floor(
                    candidates, episodes
                )
                for episodes, candidates in itertools.product(PARALLEL, CANDIDATES)
            },
            'rates': {name: self._rate(name) for name in self.rates},
            'operations': {
                'necessary': self._operations(),
                'of_plain_kernels': self._operations(dense=True),
            },
            'memory': self.memory,
            'timings': timer.summary(),
            'rounds': timer.seconds,
            'evaluation': evaluation,
            'evaluation_absent': why_not,
            'sizes': {
                'preset': self.options.preset,
                'batch_size': self.batch_size,
                'obs_dim': OBS_DIM,
                'act_dim': ACT_DIM,
                'transitions': EPISODES * measure.HORIZON,
                'precision_of_parts': self.options.precision,
                **dataclasses.asdict(self.preset.config),
            },
            'seed': SEED,
            'osrl_loader_workers': 0 if self.options.compare else None,
            **measure.record(
                'benchmarks.throughput',
                self.device,
                {'osrl-lib': peers.osrl_version()} if self.options.compare else {},
            ),
        }

    def _has_sizes_of_targets(self) -> bool:
        """Return whether the targets were set for this preset and batch."""
        aimed_at = PRESETS[TARGET_PRESET[self.device.type]]
        return (self.preset.config, self.batch_size) == (aimed_at.config, aimed_at.batch_size)

    def _operations(self, dense: bool = False) -> dict[str, int]:
        return operations.update_operations(
            OBS_DIM, ACT_DIM, self.preset.config, self.batch_size, dense
        )

    def _rate(self, name: str) -> float:
        """Return operations per second in a precision, or bytes per second of a copy."""
        work = name if name == 'copy' else f'matrix_product_{name}'
        return self.rates[name] / self.timer.median(work)

    def _floor(self, update: str) -> dict[str, Any]:
        """Set an update beside the least time that its arithmetic and its bytes take."""
        seconds, precision = self.timer.median(update), self.updates[update]
        arithmetic = sum(self._operations().values())
        traffic = operations.update_bytes(
            self._learner(precision), self.batch_size, OBS_DIM + ACT_DIM + 4
        )
        return self._against(arithmetic, traffic, precision, seconds)

    def _acting_floor(self, candidates: int, episodes: int) -> dict[str, Any]:
        """Set a step of deployment beside the least time that it takes, read weights included."""
        seconds = self.timer.median(f'act_{candidates}_candidates_{episodes}_episodes')
        arithmetic = operations.acting_operations(
            OBS_DIM, ACT_DIM, self.preset.config, candidates, episodes
        )
        traffic = operations.acting_bytes(self._learner('float32'), candidates)
        return self._against(arithmetic, traffic, 'float32', seconds)

    def _against(
        self,
        arithmetic: int,
        traffic: int,
        precision: str,
        seconds: float,
    ) -> dict[str, Any]:
        times = (arithmetic / self._rate(precision), traffic / self._rate('copy'))
        return {
            'precision': precision,
            'operations': arithmetic,
            'bytes': traffic,
            'operations_seconds': times[0],
            'bytes_seconds': times[1],
            'floor_seconds': max(times),
            'measured_seconds': seconds,
            'measured_over_floor': seconds / max(times),
            'share_of_ceiling': times[0] / seconds,
        }

    def _parts(self) -> dict[str, Any]:
        """List the parts' medians, as seconds and as shares of the whole update."""
        whole = self.timer.median(f'update_{self.options.precision}')
        parts = {name: self.timer.median(name) for name in ('sample', *works.PARTS)}
        return {
            'note': 'each part was timed alone, so they need not add up to the whole',
            'precision': self.options.precision,
            'whole_seconds': whole,
            'seconds': parts,
            'shares': {name: seconds / whole for name, seconds in parts.items()},
            'sum_over_whole': sum(parts.values()) / whole,
        }


def _draw_and_update(learner: Learner, sampler: WindowSampler) -> None:
    learner.update(sampler.sample())


# ------------------------------------------------------------------ the table


def report(result: dict[str, Any]) -> str:
    """Put the results into lines of text."""
    return '\n'.join(itertools.chain(
        _head(result), _timing_lines(result), _floor_lines(result), _ratio_lines(result)
    ))  # fmt: skip


def _head(result: dict[str, Any]) -> Iterator[str]:
    sizes, hardware = result['sizes'], result['hardware']
    policy = sizes['policy']
    yield (
        f'Preset {sizes["preset"]}: batch {sizes["batch_size"]}, context {policy["context_len"]}, '
        f'width {policy["embed_dim"]}, {policy["num_layers"]} layers'
    )
    yield (
        f'{hardware.get("card", hardware["processor"])}, {hardware["cores"]} cores, '
        f'{hardware["threads"]} threads, load {result["load_average"][0]:.1f}, '
        f'torch {result["versions"]["torch"]}'
    )


def _timing_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f'\n{"milliseconds":<48}{"median":>10}{"quartiles":>21}{"n":>5}'
    for name, found in result['timings'].items():
        low, middle, high = (
            1e3 * found[key] for key in ('lower_quartile', 'median', 'upper_quartile')
        )
        yield f'{name:<48}{middle:>10.3f}{low:>11.3f}{high:>10.3f}{found["n"]:>5}'
    parts = result['update_parts']
    shares = ', '.join(f'{name} {share:.0%}' for name, share in parts['shares'].items())
    yield f'\nOf an update in {parts["precision"]}, parts timed alone: {shares}'


def _floor_lines(result: dict[str, Any]) -> Iterator[str]:
    rates = result['rates']
    for name, floor in result['floors'].items():
        yield (
            f'{name}: {floor["operations"] / 1e9:.1f} G operations at '
            f'{rates[floor["precision"]] / 1e9:.0f} G/s and {floor["bytes"] / 1e6:.0f} MB at '
            f'{rates["copy"] / 1e9:.1f} GB/s need {1e3 * floor["floor_seconds"]:.2f} ms; measured '
            f'{1e3 * floor["measured_seconds"]:.2f} ms, {floor["share_of_ceiling"]:.0%} of the '
            'ceiling'
        )
    for name, size in result['memory'].items():
        if size is not None:
            yield f'{name.replace("_", " ")}: {size / 1e6:.0f} MB'
    if result['evaluation'] is None:
        yield f'no evaluation: {result["evaluation_absent"]}'
    else:
        yield '{env_id}, {episodes} episodes: {steps_per_second:.0f} steps/s'.format(
            **result['evaluation']
        )


def _ratio_lines(result: dict[str, Any]) -> Iterator[str]:
    targets = result['targets'] if result['targets_are_for_these_sizes'] else {}
    yield f'\n{"ratio":<40}{"":<50}{"found":>8}{"target":>10}'
    for name, meaning in _MEANING.items():
        if result[name] is None:
            continue
        target = targets.get(name)
        sign = '>=' if name in _AT_LEAST else '<='
        aim = '' if target is None else f'{sign} {target:.3g}'
        yield f'{name:<40}{meaning:<50}{result[name]:>8.3g}{aim:>10}'


if __name__ == '__main__':
    sys.exit(main())
