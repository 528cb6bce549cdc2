# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion: exact both ways, in the shapes OmniSafe's algorithms train on, in little memory."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise

import h5py
import numpy as np
import pytest

import common_helpers
from dataset_helpers import write_collected, write_dsrl
from omnisafe_qpt.cli import data_convert, main
from omnisafe_qpt.data import convert as module
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.convert import BUILT_INS, COLUMN_ALGORITHMS, convert
from omnisafe_qpt.data.layouts import HDF5_NAMES, NPZ_NAMES
from omnisafe_qpt.data.trajectories import Trajectories


LENGTHS = (17, 6, 40, 5, 22)
ENDS = ('terminal', 'timeout', None, 'terminal', 'timeout')


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    arrays = make_arrays(LENGTHS, ENDS)
    # Equal to the following observation as a number, but not bit for bit.
    arrays['observations'][4, 1], arrays['next_observations'][3, 1] = 0.0, -0.0
    return arrays


@pytest.fixture(name='small_blocks', params=[400, 1 << 24])
def fixture_small_blocks(monkeypatch, request):
    """Blocks of some rows, and all rows in one block."""
    monkeypatch.setattr(module, '_BLOCK_BYTES', request.param)


def read_dsrl(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in HDF5_NAMES}


def assert_same_bits(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


error_of = functools.partial(common_helpers.error_of, convert)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('algorithm', [None, 'BCQ', 'COptiDICE'])
def test_hdf5_to_npz_and_back_gives_every_bit(tmp_path, arrays, algorithm):
    attributes = {'env_id': 'E-v0', 'seed': 3, 'knob': 0.5, 'seeds': [1, 2]}
    source = write_dsrl(tmp_path / 'a.hdf5', arrays, attributes)
    convert(source, tmp_path / 'b.npz', algorithm)
    convert(tmp_path / 'b.npz', tmp_path / 'c.hdf5')
    assert_same_bits(read_dsrl(tmp_path / 'c.hdf5'), arrays)
    found = read_attributes(tmp_path / 'c.hdf5')
    assert {**found, 'seeds': list(found['seeds'])} == attributes
    assert {**read_attributes(tmp_path / 'b.npz')} == attributes


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('algorithm', [None, 'COptiDICE'])
def test_npz_to_hdf5_and_back_gives_the_same_file(tmp_path, arrays, algorithm):
    convert(write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz', algorithm)
    convert(tmp_path / 'b.npz', tmp_path / 'c.hdf5')
    convert(tmp_path / 'c.hdf5', tmp_path / 'd.npz', algorithm)
    assert (tmp_path / 'd.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


@pytest.mark.parametrize('algorithm', [None, *BUILT_INS])
def test_an_npz_has_the_shapes_its_algorithm_needs(tmp_path, arrays, algorithm):
    convert(write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz', algorithm)
    total = sum(LENGTHS)
    with np.load(tmp_path / 'b.npz') as file:
        found = {key: file[key] for key in file.files}
    column = (total,) if algorithm == 'COptiDICE' else (total, 1)
    for key in ('reward', 'cost', 'done'):
        assert found[key].shape == column
    for name, key in NPZ_NAMES.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key].reshape(arrays[name].shape), arrays[name])
    assert ('init_obs' in found) == (algorithm == 'COptiDICE')


@pytest.mark.usefixtures('small_blocks')
def test_init_obs_is_the_first_observation_of_each_transitions_episode(tmp_path, arrays):
    convert(write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz', 'COptiDICE')
    expected, first = [], 0
    for length in LENGTHS:  # the third ends without a flag, where the states jump
        expected += [arrays['observations'][first]] * length
        first += length
    with np.load(tmp_path / 'b.npz') as file:
        np.testing.assert_array_equal(file['init_obs'], expected)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('column', [True, False])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_done_at_the_horizon_and_gaps_are_time_limits(tmp_path, make_arrays, column, save):
    arrays = make_arrays((20, 7, 20, 3, 11), ('timeout', 'terminal', 'terminal', None, None))
    source = write_collected(tmp_path / 'a.npz', arrays, column, save)
    done = convert(source, tmp_path / 'b.hdf5', horizon=20)
    found = read_dsrl(tmp_path / 'b.hdf5')
    assert np.flatnonzero(found['terminals']).tolist() == [26]
    assert np.flatnonzero(found['timeouts']).tolist() == [19, 46, 49, 60]
    assert (done.transitions, done.terminals, done.timeouts, done.over_horizon) == (61, 1, 4, 0)
    for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
        np.testing.assert_array_equal(found[name], arrays[name])
    # Cut as the loader cuts the npz itself.
    for path in ('a.npz', 'b.hdf5'):
        loaded = Trajectories.load(tmp_path / path, horizon=20)
        assert loaded.rows.lengths.tolist() == [20, 7, 20, 3, 11]
        assert loaded.rows.terminal.tolist() == [False, True, False, False, False]
    convert(tmp_path / 'b.hdf5', tmp_path / 'c.npz')
    with np.load(source) as before, np.load(tmp_path / 'c.npz') as after:
        for key in before.files:
            if key != 'done':
                np.testing.assert_array_equal(after[key].reshape(before[key].shape), before[key])
        assert np.flatnonzero(after['done']).tolist() == [26]


def test_every_end_may_be_a_time_limit(tmp_path, make_arrays):
    source = write_collected(tmp_path / 'a.npz', make_arrays([10] * 3))
    done = convert(source, tmp_path / 'b.hdf5', horizon=10)
    assert (done.terminals, done.timeouts) == (0, 3)


def test_episodes_over_the_horizon_are_counted(tmp_path, make_arrays):
    source = write_collected(tmp_path / 'a.npz', make_arrays((20, 7, 21)))
    assert convert(source, tmp_path / 'b.hdf5', horizon=10).over_horizon == 2


def test_without_timeouts_the_horizon_must_be_given(tmp_path, arrays):
    source = write_collected(tmp_path / 'a.npz', arrays)
    message = error_of(source, tmp_path / 'b.hdf5')
    assert str(source) in message
    assert '--horizon' in message
    assert os.listdir(tmp_path) == ['a.npz']


@pytest.mark.parametrize('algorithm', [None, 'COptiDICE'])
def test_all_files_load_to_the_same_trajectories(tmp_path, arrays, algorithm):
    paths = [tmp_path / name for name in ('a.hdf5', 'b.npz', 'c.hdf5')]
    write_dsrl(paths[0], arrays)
    convert(paths[0], paths[1], algorithm)
    convert(paths[1], paths[2])
    for first, second in pairwise(Trajectories.load(path, horizon=22) for path in paths):
        assert first.table.equal(second.table)
        for mine, theirs in zip(vars(first.rows).values(), vars(second.rows).values()):
            assert mine.equal(theirs)
        assert first.rows.lengths.tolist() == list(LENGTHS)
        assert first.rows.terminal.tolist() == [end == 'terminal' for end in ENDS]


def test_other_number_types_become_float32_and_are_named(tmp_path, arrays):
    source = {name: array.copy() for name, array in arrays.items()}
    for name in ('observations', 'next_observations', 'rewards'):
        source[name] = source[name].astype(np.float64) * (1 + 1e-12)
    source['costs'] = source['costs'].astype(np.uint8)[:, None]
    source['terminals'] = source['terminals'].astype(np.uint8)[:, None]
    done = convert(write_dsrl(tmp_path / 'a.hdf5', source), tmp_path / 'b.npz')
    assert done.rounded == ('observations', 'next_observations', 'rewards')
    convert(tmp_path / 'b.npz', tmp_path / 'c.hdf5')
    expected = {
        name: source[name].astype(arrays[name].dtype).reshape(array.shape)
        for name, array in arrays.items()
    }
    assert_same_bits(read_dsrl(tmp_path / 'c.hdf5'), expected)


def test_numbers_beyond_float32_are_refused(tmp_path, arrays):
    arrays['rewards'] = arrays['rewards'].astype(np.float64)
    arrays['rewards'][4] = 1e300
    message = error_of(write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz')
    assert 'rewards hold NaN, infinity or numbers beyond float32' in message
    assert 'transition 4' in message
    assert os.listdir(tmp_path) == ['a.hdf5']


def test_an_array_stored_by_columns_is_read_too(tmp_path, arrays):
    arrays['observations'] = np.asfortranarray(arrays['observations'])
    source = write_collected(tmp_path / 'a.npz', arrays)
    convert(source, tmp_path / 'b.hdf5', horizon=100)
    found = read_dsrl(tmp_path / 'b.hdf5')['observations']
    np.testing.assert_array_equal(found, arrays['observations'])


def test_states_that_do_not_follow_one_another_are_kept_as_they_are(tmp_path, arrays):
    arrays['next_observations'] += np.float32(1e-6)  # rounding: no gaps, but no two bits alike
    source = write_dsrl(tmp_path / 'a.hdf5', arrays)
    convert(source, tmp_path / 'b.npz')
    convert(tmp_path / 'b.npz', tmp_path / 'c.hdf5')
    assert_same_bits(read_dsrl(tmp_path / 'c.hdf5'), arrays)


def test_equal_data_give_equal_bytes(tmp_path, arrays):
    source = write_dsrl(tmp_path / 'a.hdf5', arrays)
    for name in ('b.npz', 'c.npz'):
        convert(source, tmp_path / name)
    assert (tmp_path / 'b.npz').read_bytes() == (tmp_path / 'c.npz').read_bytes()


def test_nothing_is_overwritten_unless_asked(tmp_path, arrays):
    source, out = write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz'
    out.write_text('before')
    assert '--overwrite' in error_of(source, out)
    assert out.read_text() == 'before'
    convert(source, out, overwrite=True)
    assert len(np.load(out)['obs']) == sum(LENGTHS)


def test_names_that_do_not_fit_are_refused(tmp_path, arrays):
    source = write_dsrl(tmp_path / 'a.hdf5', arrays)
    link = tmp_path / 'link.hdf5'
    link.symlink_to(source)
    (tmp_path / 'folder.npz').mkdir()
    for out, reason in (
        (source, 'source file'),
        (link, 'source file'),
        (tmp_path / 'b.h5', 'have the format'),
        (tmp_path / 'b.csv', "unknown dataset format '.csv'"),
        (tmp_path / 'b', "unknown dataset format ''"),
        (tmp_path / 'folder.npz', 'is a folder'),
    ):
        message = error_of(source, out, overwrite=True)
        assert message.startswith(f'{out}: ')
        assert reason in message
    assert 'no such dataset file' in error_of(tmp_path / 'none.hdf5', tmp_path / 'b.npz')
    assert 'PPO' in error_of(source, tmp_path / 'b.npz', algorithm='PPO')
    convert(source, tmp_path / 'b.npz')
    assert '--for BCQ' in error_of(tmp_path / 'b.npz', tmp_path / 'c.hdf5', algorithm='BCQ')
    assert_same_bits(read_dsrl(source), arrays)


@pytest.mark.parametrize('kind', ['hdf5', 'npz'])
def test_a_damaged_source_is_named_and_nothing_is_left(tmp_path, make_arrays, kind):
    arrays = make_arrays([3000, 2000])
    source = tmp_path / f'a.{kind}'
    out = tmp_path / ('b.npz' if kind == 'hdf5' else 'b.hdf5')
    if kind == 'hdf5':
        write_dsrl(source, arrays)
    else:
        write_collected(source, arrays)
    content = bytearray(source.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b'\xff' * 2000
    source.write_bytes(content)
    message = error_of(source, out, horizon=3000)
    assert message.startswith(f'{source}: ')
    assert 'get it again' in message
    assert os.listdir(tmp_path) == [source.name]


def test_shapes_that_do_not_fit_are_refused(tmp_path, arrays):
    arrays['actions'] = arrays['actions'][1:]
    message = error_of(write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz')
    assert 'actions has shape' in message


def run_child(code, *arguments):
    """Run code in a process of its own, whose limits and peak memory are its own."""
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


# A limit on the size of files fails in the same calls as a full disk.
FULL_DISK = """
import resource, sys
from omnisafe_qpt.cli import main
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
status = main(['data', 'convert', *sys.argv[1:]])
resource.setrlimit(resource.RLIMIT_FSIZE, before)  # a measurement of coverage writes a file
sys.exit(status)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, make_arrays):
    source, out = write_dsrl(tmp_path / 'a.hdf5', make_arrays([3000, 2000])), tmp_path / 'b.npz'
    done = run_child(FULL_DISK, source, out)
    assert done.returncode == 1
    assert done.stderr.startswith(f'Error: {out}: cannot be written (File too large)')
    assert done.stderr.count('\n') == 1
    assert os.listdir(tmp_path) == [source.name]


def test_hdf5_stops_before_the_disk_is_full(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(module, '_BLOCK_BYTES', 400)
    source, out = write_dsrl(tmp_path / 'a.hdf5', arrays), tmp_path / 'b.npz'
    convert(source, out)
    disk, room = shutil.disk_usage(tmp_path), iter((1 << 30, 1 << 30, 1 << 20))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: disk._replace(free=next(room)))
    message = error_of(out, tmp_path / 'c.hdf5')
    assert message.startswith(f'{tmp_path / "c.hdf5"}: cannot be written (No space left on device')
    assert sorted(os.listdir(tmp_path)) == ['a.hdf5', 'b.npz']


# Not ru_maxrss, which begins with the memory of the process that started this one.
PEAK = """
import re, sys
from pathlib import Path
import h5py
from omnisafe_qpt.data.convert import convert
def peak():
    return int(re.search(r'VmHWM:\\s*(\\d+) kB', STATUS.read_text())[1]) / 1024
STATUS = Path('/proc/self/status')
before = peak()
convert(sys.argv[1], sys.argv[2], *sys.argv[3:])
print(peak() - before)
"""


needs_proc = pytest.mark.skipif(
    not os.path.exists('/proc/self/status'), reason='peak memory is read from /proc'
)


def check_memory(folder, transitions, limit):
    """Convert states of 400 bytes to and fro, and to COptiDICE's, within ``limit`` MiB each."""
    generator = np.random.default_rng(0)
    source = folder / 'a.npz'
    # A few rows again and again, for compressing noise would take minutes.
    states = np.resize(generator.normal(size=(1000, 100)).round(1).astype('f4'), (transitions, 100))
    flags = np.arange(transitions) % 1000 == 999
    np.savez(
        source,
        obs=states,
        next_obs=np.roll(states, -1, axis=0),
        action=np.zeros((transitions, 2), 'f4'),
        reward=np.zeros((transitions, 1), 'f4'),
        cost=np.zeros((transitions, 1), 'f4'),
        done=np.zeros((transitions, 1), 'f4'),
        timeouts=flags,
    )
    del states
    assert source.stat().st_size > 2 * limit * 2**20
    for arguments in (
        (source, folder / 'b.hdf5'),
        (folder / 'b.hdf5', folder / 'c.npz'),
        (folder / 'b.hdf5', folder / 'd.npz', 'COptiDICE'),
    ):
        done = run_child(PEAK, *arguments)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < limit, arguments


@pytest.mark.slow
@needs_proc
def test_memory_is_a_fraction_of_the_file(tmp_path):
    check_memory(tmp_path, transitions=160_000, limit=60)


@needs_proc
@pytest.mark.slow
def test_three_gigabytes_are_converted_in_little_memory(tmp_path):
    check_memory(tmp_path, transitions=3_700_000, limit=120)


TRAIN = """
import json, sys, warnings
import omnisafe, torch
from omnisafe.algorithms import ALGORITHMS
from omnisafe_qpt.algorithms import ALGORITHMS as OURS
folder, runs = sys.argv[1], json.loads(sys.argv[2])
result = {'offline': list(set(ALGORITHMS['offline']) - set(OURS)), 'runs': {}}
for algorithm, file in runs:
    agent = omnisafe.Agent(algorithm, 'SafetyHopperVelocity-v1', custom_cfgs={
        'train_cfgs': {'dataset': f'{folder}/{file}', 'total_steps': 4, 'torch_threads': 1,
                       'evaluate_epoisodes': 1},
        'algo_cfgs': {'steps_per_epoch': 4},
        'logger_cfgs': {'log_dir': f'{folder}/runs', 'use_tensorboard': False},
    })
    if algorithm == 'COptiDICE':
        batch = agent.agent._dataset.sample()
        obs, _, reward, cost, next_obs, done, init_obs = batch
        nu = agent.agent._nu_net
        shape = agent.agent._advantage(reward, cost, done, nu(obs), nu(next_obs)).shape
    else:
        shape = agent.agent._dataset.sample()[2].shape
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        agent.learn()
    broadcast = [str(w.message) for w in caught if 'different to the input size' in str(w.message)]
    result['runs'][f'{algorithm} {file}'] = {'shape': list(shape), 'broadcast': len(broadcast)}
with open(f'{folder}/result.json', 'w') as file:
    json.dump(result, file)
"""


@pytest.mark.slow
def test_every_built_in_trains_on_the_shape_made_for_it(tmp_path, make_arrays):
    arrays = make_arrays([100] * 6, ['terminal', 'timeout'] * 3, obs_dim=11, act_dim=3)
    source = write_dsrl(tmp_path / 'a.hdf5', arrays, {'env_id': 'SafetyHopperVelocity-v1'})
    convert(source, tmp_path / 'columns.npz')
    convert(source, tmp_path / 'rows.npz', 'COptiDICE')
    runs = [(name, 'columns.npz') for name in COLUMN_ALGORITHMS]
    runs += [('COptiDICE', 'rows.npz'), ('BCQ', 'rows.npz')]
    done = run_child(TRAIN, tmp_path, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'result.json').read_text())
    assert sorted(result['offline']) == sorted(BUILT_INS)
    found = result['runs']
    # The wrong shape is seen to be wrong.
    assert found.pop('BCQ rows.npz')['broadcast'] > 0
    # One advantage for each transition, where columns would give 256 x 256.
    assert found.pop('COptiDICE rows.npz') == {'shape': [256], 'broadcast': 0}
    assert len(found) == len(COLUMN_ALGORITHMS)
    assert all(run == {'shape': [256, 1], 'broadcast': 0} for run in found.values())


def test_the_command_says_what_it_wrote(tmp_path, arrays, capsys):
    source = write_dsrl(tmp_path / 'a.hdf5', arrays)
    out, summary = tmp_path / 'b.npz', tmp_path / 'j'
    command = ['data', 'convert', str(source), str(out)]
    command += ['--for', 'COptiDICE', '--json', str(summary)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f'{out}: 90 transitions for COptiDICE, 2 into terminal states, 2 cut')
    found = json.loads(summary.read_text())
    assert found['transitions'] == 90
    assert found['bytes'] == out.stat().st_size
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f'Error: {out}: exists')


def test_the_time_limit_can_be_given_as_a_task(tmp_path, make_arrays, capsys):
    source = write_collected(tmp_path / 'a.npz', make_arrays([100, 40, 101]))
    command = ['data', 'convert', str(source), str(tmp_path / 'b.hdf5')]
    assert main([*command, '--env-id', 'SafetyBallRun-v0']) == 0  # 100 steps
    assert '1 into terminal states, 2 cut' in capsys.readouterr().out
    assert main([*command, '--env-id', 'Nowhere-v0', '--overwrite']) == 1
    assert '--horizon' in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*command, '--env-id', 'SafetyBallRun-v0', '--horizon', '5'])
    assert caught.value.code == 2


def test_the_command_knows_the_same_algorithms():
    assert data_convert._BUILT_INS == BUILT_INS


def test_the_last_transition_needs_no_end_flag(tmp_path, make_arrays):
    arrays = make_arrays([4, 4], ['terminal', None])  # one gap in eight would be too many
    source = write_dsrl(tmp_path / 'source.hdf5', arrays)
    Trajectories.load(source)
    assert convert(source, tmp_path / 'out.npz').transitions == 8
