# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The loading benchmark measures what it says, on a dataset that is one."""

from __future__ import annotations

import json
import sys

import h5py
import numpy as np
import pytest

from benchmarks import loading, peers
from omnisafe_qpt.data.trajectories import Trajectories


# Stands in for the package that is compared with; takes a while for each transition.
SLOW_OSRL = """
import time
import numpy as np
import pytest
import oapackage
def process_sequence_dataset(dataset):
    time.sleep(0.4)
    return [{'returns': np.ones(1), 'cost_returns': np.ones(1)}] * 3, {}
def augmentation(trajs, deg, augment_percent, max_reward):
    assert augment_percent == 0.2
    return [0], trajs[:1], None, None
"""


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['loading', *map(str, arguments)])
    return loading.main()


def test_the_file_made_is_sound_and_chunked_as_dsrl_files_are(tmp_path):
    loading.generate(tmp_path / 'a.hdf5', 5300, 6, 2)
    found = Trajectories.load(tmp_path / 'a.hdf5')
    assert found.rows.lengths.tolist() == [1000] * 5 + [300]
    assert not found.rows.terminal.any()
    assert len(set(found.cost_returns.tolist())) > 1
    with h5py.File(tmp_path / 'a.hdf5') as file, h5py.File(tmp_path / 'b.hdf5', 'w') as other:
        for name, array in file.items():
            plain = other.create_dataset(name, data=array[:], compression='gzip')
            assert (array.chunks, array.dtype) == (plain.chunks, plain.dtype)
            assert (array.compression, array.compression_opts) == ('gzip', 4)
        # Within an episode the next observation is the following one, at its end it is not.
        reached, following = file['next_observations'][:-1], file['observations'][1:]
        is_same = (reached == following).all(axis=1)
        np.testing.assert_array_equal(is_same, ~file['timeouts'][:-1])


@pytest.mark.slow
def test_results_hold_what_was_measured(tmp_path, monkeypatch, capsys):
    package = tmp_path / 'osrl' / 'common'
    package.mkdir(parents=True)
    (package.parent / '__init__.py').write_text('raise AssertionError("not the whole package")')
    (package / 'dataset.py').write_text(SLOW_OSRL)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    dataset, summary = tmp_path / 'a.hdf5', tmp_path / 'result.json'
    options = ('--transitions', 20_000, '--obs-dim', 60, '--rounds', 1, '--compare', 'osrl')
    assert run(monkeypatch, *options, '--dataset', dataset, '--json', summary) == 0
    assert 'times faster than OSRL' in capsys.readouterr().out
    result = json.loads(summary.read_text())
    assert result['arrays_bytes'] == 4 * 20_000 * (60 + 2 + 4)
    assert result['dsrl_arrays_bytes'] == 20_000 * (4 * (60 + 60 + 2 + 2) + 2)
    assert result['load']['transitions'] == 20_000
    assert result['load']['relabelled_episodes'] == 4
    # The table is in memory at the end, so the peak cannot be smaller.
    assert result['load']['peak_bytes'] > result['load']['table_bytes']
    assert result['memory_ratio'] == result['load']['peak_bytes'] / result['arrays_bytes']
    assert result['osrl_from_memory']['seconds'] >= 0.4
    ours, theirs = (result[key]['seconds'] for key in ('ours_from_memory', 'osrl_from_memory'))
    assert result['load_vs_osrl'] == theirs / ours
    beyond = result['load']['seconds'] - result['read']['seconds']
    assert result['seconds_beyond_reading'] == beyond
    assert result['dataset_sha256']
    assert 'torch' in result['versions']


def test_what_is_not_installed_is_said_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda _: None)
    assert run(monkeypatch, '--compare', 'osrl', '--dataset', tmp_path / 'a.hdf5') == 1
    assert 'pip install --no-deps osrl-lib' in capsys.readouterr().err
    assert not (tmp_path / 'a.hdf5').exists()
