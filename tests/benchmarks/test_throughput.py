# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The throughput benchmark: what it times, what its ratios mean, and where it runs."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure, operations, peers, throughput, works
from core_helpers import ACT_DIM, OBS_DIM, random_batch, small_config, small_learner
from omnisafe_qpt.qpt import kernels
from omnisafe_qpt.qpt.config import LearnerConfig, PolicyConfig
from omnisafe_qpt.settings.files import load_defaults, load_preset, merge
from omnisafe_qpt.settings.learner import learner_config


SIZES = LearnerConfig(
    policy=PolicyConfig(context_len=3, embed_dim=8, num_layers=2, num_heads=2),
    critic_hidden_sizes=(8, 8),
)
# Makes the benchmark small; also run where the tests' own helpers are not.
SHRINK = """
from benchmarks import measure, throughput, works
throughput.EPISODES = 3
throughput.CANDIDATES, throughput.PARALLEL = (1, 50), (1, 2)
throughput.PRESETS = {'small': throughput.Preset(SIZES, batch_size=4)}
measure._SHORTEST, measure._MATRIX_SIZE, measure._COPY_BYTES = 0.0, {'cpu': 16}, {'cpu': 64}
"""
SLOW = 0.03  # seconds


class Clock:
    """Takes the place of the time: only what sleeps takes any, and a look at the clock a little."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self._now = 0.0

    def perf_counter(self):
        self._now += 1e-6
        return self._now

    def sleep(self, seconds):
        self._now += seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(measure, 'time', CLOCK)


class SlowCDT:
    """Stands in for OSRL's network and trainer: both take a while."""

    seq_len, state_dim, action_dim = 3, throughput.OBS_DIM, throughput.ACT_DIM
    steps = 0

    def parameters(self):
        yield torch.zeros(1)

    def eval(self):
        return self

    def __call__(self, states, *others):
        CLOCK.sleep(SLOW)
        return (SimpleNamespace(mean=torch.zeros(len(states), 3, 2)),)

    def train_one_step(self, windows, numbers):
        assert windows.shape == numbers.shape == (4,)
        CLOCK.sleep(SLOW)


def slow_batches():
    while True:
        CLOCK.sleep(SLOW)
        yield torch.zeros(4), torch.zeros(4)


@pytest.fixture
def small(monkeypatch):
    for name in ('EPISODES', 'CANDIDATES', 'PARALLEL', 'PRESETS'):
        monkeypatch.setattr(throughput, name, getattr(throughput, name))
    for name in ('_SHORTEST', '_MATRIX_SIZE', '_COPY_BYTES'):
        monkeypatch.setattr(measure, name, getattr(measure, name))
    exec(SHRINK, {'SIZES': SIZES})
    monkeypatch.setitem(throughput.TARGET_PRESET, 'cpu', 'small')
    monkeypatch.setattr(works, 'whole_evaluation', lambda _: (None, 'not in this test'))


@pytest.fixture
def slow_osrl(monkeypatch, tmp_path):
    monkeypatch.setattr(throughput, 'has_bf16', lambda device: True)
    monkeypatch.setattr(peers, 'osrl_folder', lambda: tmp_path)
    monkeypatch.setattr(peers, 'osrl_cdt', lambda *sizes: (SlowCDT(), SlowCDT()))
    monkeypatch.setattr(peers, 'osrl_loader', lambda *arguments: slow_batches())


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['throughput', *map(str, arguments)])
    return throughput.main()


def test_ratios_are_ours_over_theirs_in_the_same_round(
    small, slow_osrl, monkeypatch, tmp_path, capsys
):
    path = tmp_path / 'result.json'
    assert run(monkeypatch, '--compare', 'osrl', '--rounds', 3, '--json', path) == 0
    result = json.loads(path.read_text())
    act, theirs = 'act_50_candidates_1_episodes', 'osrl_network_50_windows'
    for ratio, pair in {
        'update_vs_osrl': ('update_float32', 'osrl_update'),
        'update_vs_osrl_bf16': ('update_bf16', 'osrl_update'),
        'sample_vs_osrl': ('sample', 'osrl_sample'),
        'candidates50_vs_osrl': (act, theirs),
        'candidates50_shared_prefix_vs_osrl': (f'{act}_shared_prefix', theirs),
        'candidates50_vs_one': (act, 'act_1_candidates_1_episodes'),
    }.items():
        ours, others = (result['rounds'][name] for name in pair)
        assert len(ours) == len(others) == 3
        assert result[ratio] == statistics.median(a / b for a, b in zip(ours, others))
    assert result['sample_vs_osrl'] < 1  # the stand-in sleeps
    # A whole update draws its batch, as ours does.
    assert min(result['rounds']['osrl_update']) > 2 * SLOW > min(result['rounds']['osrl_sample'])
    assert result['targets']['update_vs_osrl'] == 0.9
    assert result['targets_are_for_these_sizes'] is True
    assert result['osrl_loader_workers'] == 0
    assert re.search(r'sample_vs_osrl .* <= 0.0333', capsys.readouterr().out)


def test_results_tell_what_was_measured_and_where(small, monkeypatch, tmp_path, capsys):
    path = tmp_path / 'result.json'
    options = ('--batch-size', 6, '--precision', 'bf16', '--rounds', 2, '--json', path)
    assert run(monkeypatch, *options) == 0
    result = json.loads(path.read_text())
    assert result['update_vs_osrl'] is result['sample_vs_osrl'] is None
    assert result['targets_are_for_these_sizes'] is False
    assert result['evaluation_absent'] == 'not in this test'
    assert result['sizes']['batch_size'] == 6
    assert result['sizes']['policy']['embed_dim'] == 8
    assert result['update_parts']['precision'] == 'bf16'
    assert {'sample', *works.PARTS} == set(result['update_parts']['seconds'])
    for name in ('load', 'augment', 'sample', 'update_float32', 'update_bf16',
                 'act_50_candidates_2_episodes', 'act_50_candidates_2_episodes_shared_prefix',
                 'copy', 'matrix_product_bf16', *works.PARTS):  # fmt: skip
        found = result['timings'][name]
        assert 0 < found['min'] <= found['lower_quartile'] <= found['median'] <= found['max']
        assert found['n'] == 2
    floor = result['floors']['update_bf16']
    necessary = sum(result['operations']['necessary'].values())
    assert necessary == floor['operations'] < sum(result['operations']['of_plain_kernels'].values())
    assert floor['operations_seconds'] == necessary / result['rates']['bf16']
    assert floor['floor_seconds'] == max(floor['operations_seconds'], floor['bytes_seconds'])
    assert floor['share_of_ceiling'] == floor['operations_seconds'] / floor['measured_seconds']
    steps = result['acting_floors']
    assert steps['act_50_candidates_2_episodes']['operations'] == pytest.approx(
        2 * steps['act_50_candidates_1_episodes']['operations']
    )
    assert result['memory']['needed_bytes'] == 4 * 3000 * (88 + 2 + 4)
    assert result['memory']['saved_for_backward_bytes'] > 0
    assert result['hardware']['threads'] == torch.get_num_threads()
    for key in ('command', 'versions', 'load_average', 'date', 'seed'):
        assert key in result
    shown = capsys.readouterr().out
    assert 'no evaluation: not in this test' in shown
    assert 'vs_osrl' not in shown


@pytest.mark.slow
def test_it_runs_with_torch_and_numpy_alone():
    absent = ('omnisafe', 'gymnasium', 'h5py', 'yaml', 'rich', 'matplotlib', 'scipy',
              'huggingface_hub', 'typer', 'safety_gymnasium', 'bullet_safety_gym',
              'dsrl')  # fmt: skip
    code = f"""
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition('.')[0] in {absent}:
            raise ImportError(name + ' is absent')
sys.meta_path.insert(0, Absent())
from omnisafe_qpt.qpt.config import LearnerConfig, OptimizerConfig, PolicyConfig
SIZES = {SIZES}
{SHRINK}
sys.argv[1:] = ['--rounds', '1']
sys.exit(throughput.main())
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=measure.ROOT
    )
    assert done.returncode == 0, done.stderr
    assert re.search('no evaluation: .* is absent', done.stdout)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--batch-size', 0), '--batch-size is 0; it must be at least 1'),
        (('--threads', -1), '--threads is -1; it must be at least 1'),
        (('--rounds', 0), '--rounds is 0; it must be at least 1'),
        (('--precision', 'tf32'), '--precision tf32 is for CUDA; use float32 or bf16'),
        (('--json', 'absent/result.json'), 'there is no folder absent'),
        (('--compare', 'osrl'), 'pip install --no-deps osrl-lib'),
        (('--device', 'cuda'), 'torch finds no CUDA device; use --device cpu'),
    ],
)
def test_options_that_cannot_work_are_one_line(options, message, small, monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda _: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run(monkeypatch, *options) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count('\n') == 1
    assert not shown.out


def test_an_unknown_option_is_wrong_usage(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, '--preset', 'huge')
    assert stopped.value.code == 2
    assert 'huge' in capsys.readouterr().err


@pytest.mark.parametrize(('name', 'preset'), [('paper', None), ('cpu', 'cpu'), ('small', None)])
def test_presets_are_those_of_the_package(name, preset):
    cfgs = load_defaults('SafetyCarButton1-v0')
    if preset is not None:
        cfgs = merge(cfgs, load_preset(preset))
    cfgs = json.loads(json.dumps(cfgs), object_hook=lambda values: SimpleNamespace(**values))
    shipped, found = (
        learner_config(cfgs, measure.HORIZON, measure.HORIZON),
        throughput.PRESETS[name],
    )
    for size in ('policy', 'critic_hidden_sizes', 'penalty_critic'):
        assert getattr(found.config, size) == getattr(shipped, size)
    assert found.augmentation_fraction == cfgs.algo_cfgs.augmentation_fraction
    assert found.batch_size == (256 if name == 'small' else cfgs.algo_cfgs.batch_size)


@pytest.mark.parametrize('precision', ['float32', 'bf16_emulated'])
def test_the_parts_do_an_updates_work(precision, monkeypatch):
    # The counter does not know what linear layers and small attention take on a CPU.
    monkeypatch.setattr(kernels, '_product', None)
    monkeypatch.setattr(kernels, '_ROWS_OF_ATTENTION', 0)
    monkeypatch.setattr(kernels, '_MASK_ALIGNMENT', 1)
    config = small_config(precision=precision, penalty_critic='first')
    learner = small_learner(config)
    parts = works.update_parts(learner, random_batch(num_windows=12))
    expected = operations.update_operations(OBS_DIM, ACT_DIM, config, 12, dense=True)
    for name, operations_of_part in expected.items():
        with FlopCounterMode(display=False) as counter:
            parts[name]()
        assert counter.get_total_flops() == operations_of_part
    moved = (learner.policy, learner.cost_critic, learner.target_policy, learner.target_cost_critic)
    before = [[p.clone() for p in network.parameters()] for network in moved]
    parts['optimizers']()
    for network, old in zip(moved, before):
        assert any(not torch.equal(a, b) for a, b in zip(old, network.parameters()))


def test_times_of_a_round_are_taken_in_turn():
    done = []
    timer = measure.Timer(torch.device('cpu'))
    for name in 'ab':
        timer.add(name, lambda name=name: (done.append(name), CLOCK.sleep(0.02)))
    done.clear()
    timer.time(rounds=3)
    assert ''.join(done) == 'aabb' * 3  # the first of each is not timed
    assert timer.median('a') >= 0.02
    assert timer.ratio('a', 'b') == pytest.approx(1, rel=0.01)
    assert timer.ratio('a', 'absent') is None


def test_short_work_is_repeated_within_a_measurement():
    timer = measure.Timer(torch.device('cpu'))
    calls = []
    timer.add('short', lambda: (calls.append(1), CLOCK.sleep(0.001)))
    calls.clear()
    timer.time(rounds=1)
    assert len(calls) == 1 + timer.summary()['short']['repeats'] > 6
    assert timer.median('short') == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(('seconds', 'rounds'), [(1e9, 15), (1e-9, 3)])
def test_rounds_are_as_many_as_the_budget_allows(seconds, rounds):
    timer = measure.Timer(torch.device('cpu'))
    timer.add('work', lambda: CLOCK.sleep(0.001))
    timer.time(rounds=None, budget=seconds)
    assert len(timer.seconds['work']) == rounds


def test_synthetic_episodes_are_sound():
    arrays = measure.synthetic_arrays(2500, 3, 2, seed=0)
    found = throughput.Trajectories.from_arrays(arrays)
    assert found.rows.lengths.tolist() == [1000, 1000, 500]
    assert found.cost_returns.max() > 0
    assert measure.needed_bytes(2500, 3, 2) == 4 * 2500 * (3 + 2 + 4)


@pytest.mark.slow
def test_an_evaluation_is_measured_where_there_is_a_simulator():
    found, why_not = works.whole_evaluation(SIZES)
    assert why_not is None
    assert found['episodes'] == works.EVALUATION_EPISODES
    assert found['steps'] / found['seconds'] == pytest.approx(found['steps_per_second'])
