# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""All that is to be known of a device, in one command and at most eight minutes.

    python -m benchmarks.device_check --json benchmarks/results/device-h100.json

Needs torch and numpy only, in any Python that they run on; no simulator, no installation: run it
where this file's repository was copied to. OSRL's CDT is measured beside QPT where it is there
(``pip install --no-deps osrl-lib``). It does, in this order,

* the checks of ``tests/cuda_checks.py``;
* a whole update, its batch drawn too, of the paper's sizes in float32, tf32 and bf16, each with
  ``train_cfgs:accelerate`` none, graph and compile, with the peak of memory; and CDT's update;
* a step of deployment with 1, 12 and 50 candidates, and CDT's network on as many windows;
* the rates of a large matrix product and of a large copy.

Each step runs in a process beside this one, which is replaced after a failure, as an error of CUDA
spoils it. The file is written anew after each step, so that whatever stops the command, Ctrl-C,
SIGTERM and SIGHUP included, it holds what was found until then. What failed stands in it with the
reason, and what there was no time for. With ``--device cpu --quick`` it tries itself, in a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure, peers, works
from benchmarks.command import make_parser
from benchmarks.throughput import ACT_DIM, CANDIDATES, COST_LIMIT, OBS_DIM, PRESETS, SEED
from omnisafe_qpt.cli.common import write_json
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.data.windows import WindowSampler
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.qpt.deployable import DeployableNetworks
from omnisafe_qpt.qpt.learner import Learner
from omnisafe_qpt.qpt.scaling import Scaling
from omnisafe_qpt.signals import stop_signals
from omnisafe_qpt.training.cuda_graph import CapturedUpdate


PRECISIONS = ('float32', 'tf32', 'bf16')
WAYS = ('none', 'graph', 'compile')
SHIFTS = ('history', 'last')
# Enough windows for batches that hardly repeat.
_EPISODES = {False: 100, True: 20}
# Seconds: of all, of one step, and those a step is not begun with.
_MINUTES = 8.0
_STEP_LIMIT = 120.0
_LEAST = 10.0
# Seconds in which the times of one work are taken.
_BUDGET = {False: 4.0, True: 0.1}
# The process that does steps, and what it writes before what it has to tell.
_WORKER = (sys.executable, '-m', 'benchmarks.device_check', '--worker')
_MARK = '@device_check '


def main() -> int:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument('--json', type=Path, metavar='F', help='write the results to this file')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--quick', action='store_true', help='small sizes and a part of the checks')
    parser.add_argument(
        '--minutes', type=float, default=_MINUTES, help='time for all (default: %(default)s)'
    )
    parser.add_argument('--steps', nargs='*', metavar='NAME', help='only these steps')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        _check(options)
    except UserError as error:
        print(f'Error: {error}', file=sys.stderr)
        return 1
    if options.worker:
        _work(options)
        return 0
    return _Run(options).do()


def _check(options: argparse.Namespace) -> None:
    if options.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch finds no CUDA device; --device cpu --quick tries the command itself')
    if options.minutes <= 0:
        raise UserError(f'--minutes is {options.minutes:g}; it must be positive')
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f'--json {options.json}: there is no folder {options.json.parent}')
    unknown = set(options.steps or ()) - set(steps(options))
    if unknown:
        raise UserError(f'--steps {min(unknown)}: there is no such step')


# ------------------------------------------------------------------ steps


def steps(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the steps by their names, in their order; each returns what goes into the results.

    Args:
        options (argparse.Namespace): ``device`` and ``quick``.
    """
    checks = _checks(options)
    setup = functools.cache(functools.partial(_Setup, options.device, options.quick))

    def on(method: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: method(setup(), *arguments)

    found = {f'check {name}': functools.partial(_checked, checks, name) for name in checks.CHECKS}
    if options.quick:
        found = {name: found[name] for name in list(found)[::6]}
    for precision in PRECISIONS:
        for way in WAYS:
            found[f'update {precision} {way}'] = on(_Setup.update, precision, way)
    found['osrl update'] = on(_Setup.osrl_update)
    for count in CANDIDATES:
        for shift in SHIFTS[: 1 if count == 1 else 2]:
            found[f'act {count} {shift}'] = on(_Setup.act, count, shift)
        found[f'osrl network {count}'] = on(_Setup.osrl_network, count)
    for precision in PRECISIONS:
        found[f'rate {precision}'] = on(_Setup.rate, precision)
    found['rate copy'] = on(_Setup.copy_rate)
    for name in checks.LAST_CHECKS:
        found[f'check {name}'] = functools.partial(_checked, checks, name)
    return found


def _checks(options: argparse.Namespace) -> Any:
    folder = str(measure.ROOT / 'tests')
    if folder not in sys.path:
        sys.path.append(folder)
    import cuda_checks

    cuda_checks.DEVICE = options.device
    if options.quick:
        cuda_checks.BACKEND, cuda_checks.WINDOWS = 'eager', 8
    return cuda_checks


def _checked(checks: Any, name: str) -> str:
    try:
        checks.run_check(name)
    except checks.Skipped as reason:
        return f'skipped: {reason}'
    return 'passed'


class _Setup:
    """Data and sizes that the steps share, and the works that they time.

    Args:
        device (str): ``cuda`` or ``cpu``.
        quick (bool): Whether sizes are small.
    """

    def __init__(self, device: str, quick: bool) -> None:
        self.device = torch.device(device)
        self.quick = quick
        self.preset = PRESETS['cpu' if quick else 'paper']
        torch.manual_seed(SEED)
        transitions = _EPISODES[quick] * measure.HORIZON
        self.arrays = measure.synthetic_arrays(transitions, OBS_DIM, ACT_DIM, SEED)
        data = Trajectories.from_arrays(self.arrays)
        self._scaling = Scaling.from_data(data, COST_LIMIT)
        self._data = data.to(self.device)
        self._rows, _ = augment(self._data, self.preset.augmentation_fraction, SEED)

    def _learner(self, precision: str) -> Learner:
        config = replace(self.preset.config, precision=precision)
        return Learner(OBS_DIM, ACT_DIM, copy.deepcopy(self._scaling), config, self.device)

    def _time(self, run: Callable[[], object]) -> dict[str, Any]:
        """Return seconds, and on CUDA the peak of memory from before the first run on."""
        before = measure.reset_peak(self.device)
        timer = measure.Timer(self.device)
        timer.add('work', run)
        timer.time(None, _BUDGET[self.quick])
        after = measure.peak_bytes(self.device)
        peak = None if before is None or after is None else after - before
        return {'seconds': timer.summary()['work'], 'peak_bytes': peak}

    def update(self, precision: str, way: str) -> dict[str, Any]:
        """Time a whole update."""
        precision = {'bf16': 'bf16_emulated'}.get(precision, precision)
        learner = self._learner(precision)
        context_len = self.preset.config.policy.context_len
        sampler = WindowSampler(
            self._data, context_len, self.preset.batch_size, SEED, rows=self._rows
        )
        if way == 'compile':
            learner.compile(backend='eager' if self.quick else 'inductor')
        run: Callable[[], object] = lambda: learner.update(sampler.sample())  # noqa: E731
        if way != 'none':
            run = CapturedUpdate(learner, sampler)
        found = self._time(works.in_precision(precision, run))
        metrics = learner.pop_metrics()
        return {**found, 'metrics': metrics, 'is_captured': getattr(run, 'is_captured', False)}

    def osrl_update(self) -> dict[str, Any]:
        """Time CDT's update, its batch drawn too, and alone."""
        _, trainer = peers.osrl_cdt(OBS_DIM, ACT_DIM, self.preset.config.policy, self.device)
        batches = iter(
            peers.osrl_loader(
                self.arrays,
                self.preset.config.policy.context_len,
                self.preset.batch_size,
                self.device.type == 'cuda',
            )
        )

        def draw() -> list[torch.Tensor]:
            return [value.to(self.device) for value in next(batches)]

        drawn = draw()
        whole = works.in_precision('float32', lambda: trainer.train_one_step(*draw()))
        alone = works.in_precision('float32', lambda: trainer.train_one_step(*drawn))
        return {**self._time(whole), 'alone': self._time(alone)}

    def act(self, candidates: int, shift: str) -> dict[str, Any]:
        """Time a step of deployment, of 1 and of 20 episodes."""
        networks = DeployableNetworks.from_learner(self._learner('float32'), {})
        one, many = (
            self._time(works.acting(networks, candidates, episodes, shift)) for episodes in (1, 20)
        )
        return {**one, 'episodes20': many}

    def osrl_network(self, windows: int) -> dict[str, Any]:
        """Time CDT's network on as many windows."""
        model, _ = peers.osrl_cdt(OBS_DIM, ACT_DIM, self.preset.config.policy, self.device)
        return self._time(works.osrl_acting(model.eval(), windows))

    def rate(self, precision: str) -> dict[str, Any]:
        """Time a large matrix product."""
        run, operations = measure.matrix_product(self.device, precision)
        found = self._time(run)
        return {**found, 'per_second': operations / found['seconds']['median']}

    def copy_rate(self) -> dict[str, Any]:
        """Time a large copy."""
        run, size = measure.large_copy(self.device)
        found = self._time(run)
        return {**found, 'per_second': size / found['seconds']['median']}


def _work(options: argparse.Namespace) -> None:
    """Do steps, and tell what came of each; a failure is the last one."""
    if options.quick:
        torch.set_num_threads(1)
        measure._MATRIX_SIZE['cpu'], measure._COPY_BYTES['cpu'] = 256, 1 << 20
    found = steps(options)
    for name in options.steps:
        _tell(step=name)
        try:
            result = found[name]()
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the results
            _tell(step=name, failure=f'{type(error).__name__}: {error}'.strip())
            return
        _tell(step=name, result=result)


def _tell(**what: Any) -> None:
    print(f'{_MARK}{json.dumps(what)}', flush=True)


# ------------------------------------------------------------------ the run


class _Run:
    """Has the steps done, and keeps what comes of them.

    Args:
        options (argparse.Namespace): The command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._end = time.monotonic() + 60 * options.minutes
        self._left = options.steps or list(steps(options))
        self._total = len(self._left)
        self._worker: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._result: dict[str, Any] = {
            'steps': {},
            'failures': {},
            'not_done': list(self._left),
            'stopped_by': None,
            'sizes': 'quick' if options.quick else 'paper',
            **measure.record('benchmarks.device_check', torch.device(options.device), {}),
        }
        if options.device == 'cuda':
            self._result['devices'] = torch.cuda.device_count()
            self._result['capability'] = torch.cuda.get_device_capability()

    def do(self) -> int:
        """Do all steps; returns 0, or 1 if one failed, or 128 and the signal that stopped it."""
        status = 0
        before = {number: signal.signal(number, _raise) for number in stop_signals()}
        try:
            self._write()
            while self._left and self._seconds_left() > _LEAST:
                self._do_one()
            if self._left:
                self._result['stopped_by'] = 'time'
        except _Signal as stopped:
            self._result['stopped_by'] = signal.Signals(stopped.number).name
            status = 128 + stopped.number
        finally:
            self._end_worker()
            self._write()
            for number, handler in before.items():
                signal.signal(number, handler)
        print('\n'.join(report(self._result)))
        return status or int(bool(self._result['failures']))

    def _seconds_left(self) -> float:
        return self._end - time.monotonic()

    def _do_one(self) -> None:
        name = self._left.pop(0)
        measure.say(f'{self._total - len(self._left)}/{self._total} {name}')
        # A new process begins with this step.
        if self._worker is None:
            self._start_worker([name, *self._left])
        told = self._wait_for(name, min(_STEP_LIMIT, self._seconds_left()))
        if 'result' in told:
            self._result['steps'][name] = told['result']
        else:
            self._result['failures'][name] = told['failure']
            measure.say(f'  {told["failure"].splitlines()[0]}')
            self._end_worker()
        self._result['not_done'] = list(self._left)
        self._write()

    def _start_worker(self, names: list[str]) -> None:
        options = self._options
        command = [*_WORKER, '--device', options.device, *(['--quick'] if options.quick else [])]
        self._worker = subprocess.Popen(
            [*command, '--steps', *names],
            cwd=measure.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process
        )
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lines = lines
        threading.Thread(target=_forward, args=(self._worker.stdout, lines), daemon=True).start()

    def _wait_for(self, name: str, limit: float) -> dict[str, Any]:
        """Return what the process says of a step: its result or its failure."""
        end, said = time.monotonic() + limit, []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return {'failure': f'took longer than {limit:.0f} s'}
            if line is None:
                status = self._worker.wait()
                last = '\n'.join(said[-20:])
                return {'failure': f'the process ended with status {status}\n{last}'.strip()}
            if not line.startswith(_MARK):
                said.append(line.rstrip())
                continue
            told = json.loads(line.removeprefix(_MARK))
            if told['step'] == name and len(told) > 1:
                return told

    def _end_worker(self) -> None:
        if self._worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._worker.pid, signal.SIGKILL)  # with the processes of its own
            self._worker.wait()
            self._worker = None

    def _write(self) -> None:
        self._result['ratios'] = ratios(self._result['steps'])
        if self._options.json is not None:
            write_json(self._result, self._options.json)


class _Signal(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, _: object) -> None:
    raise _Signal(number)


def _forward(stream: Any, lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


# ------------------------------------------------------------------ the table


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Return ours over OSRL's, and each way of an update over the ordinary one in float32."""

    def seconds(name: str) -> float | None:
        return found[name]['seconds']['median'] if name in found else None

    pairs = {f'act {count} {shift} vs osrl': (f'act {count} {shift}', f'osrl network {count}')
             for count in CANDIDATES for shift in SHIFTS}  # fmt: skip
    for precision in PRECISIONS:
        for way in WAYS:
            name = f'update {precision} {way}'
            pairs[f'{name} vs osrl'] = (name, 'osrl update')
            pairs[f'{name} vs float32 none'] = (name, 'update float32 none')
    times = {name: tuple(map(seconds, pair)) for name, pair in pairs.items()}
    return {name: ours / theirs for name, (ours, theirs) in times.items() if ours and theirs}


def report(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    hardware = result['hardware']
    yield f'\n{hardware.get("card", hardware["processor"])}, torch {result["versions"]["torch"]}'
    checks = {name: told for name, told in result['steps'].items() if isinstance(told, str)}
    passed = sum(told == 'passed' for told in checks.values())
    failed = sum(name.startswith('check ') for name in result['failures'])
    yield f'checks: {passed} passed, {failed} failed, {len(checks) - passed} skipped'
    yield f'{"":<28}{"milliseconds":>13}{"MB":>8}{"vs OSRL":>9}'
    for name, told in result['steps'].items():
        if name in checks:
            continue
        peak, ratio = told['peak_bytes'], result['ratios'].get(f'{name} vs osrl')
        yield (
            f'{name:<28}{1e3 * told["seconds"]["median"]:>13.3f}'
            f'{"" if peak is None else f"{peak / 1e6:.0f}":>8}'
            f'{"" if ratio is None else f"{ratio:.2f}":>9}'
        )
    for name, reason in result['failures'].items():
        yield f'FAILED {name}: {reason.splitlines()[0]}'
    for name, told in checks.items():
        if told != 'passed':
            yield f'{name}: {told}'
    if result['stopped_by']:
        yield f'stopped by {result["stopped_by"]}; not done: {", ".join(result["not_done"])}'


if __name__ == '__main__':
    sys.exit(main())
