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
"""The collector of offline data, its controllers, and the bundled sample."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from omnisafe_qpt.collect import collect
from omnisafe_qpt.collect import engine as collecting
from omnisafe_qpt.collect.engine import (
    Episode,
    episodes_to_arrays,
    round_mantissa,
    run_episode,
)
from omnisafe_qpt.collect.selection import select_spread
from omnisafe_qpt.data.files import open_dataset, read_attributes
from omnisafe_qpt.data.resolve import SAMPLE_FILE
from omnisafe_qpt.errors import UserError


ENV_ID = 'SafetyCarButton1-v0'


# -- rounding, selection, layout ------------------------------------------------------------------


@pytest.mark.parametrize('bits', [1, 6, 10, 22])
def test_rounding_keeps_so_many_bits(bits):
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32) * 100
    rounded = round_mantissa(values, bits)
    assert rounded.dtype == np.float32
    assert (np.abs(rounded - values) <= np.abs(values) * 2.0 ** -(bits + 1)).all()
    assert not (rounded.view(np.uint32) & ((1 << (23 - bits)) - 1)).any()
    np.testing.assert_array_equal(round_mantissa(rounded, bits), rounded)
    np.testing.assert_array_equal(round_mantissa(-values, bits), -rounded)


def test_rounding_ties_go_to_even_and_carry_into_the_exponent():
    values = np.array([1.25, 1.75, 1.9, 0.0], dtype=np.float32)
    np.testing.assert_array_equal(round_mantissa(values, 1), [1.0, 2.0, 2.0, 0.0])


def test_rounding_to_all_bits_copies():
    values = np.array([0.1, -3.3], dtype=np.float32)
    rounded = round_mantissa(values, 23)
    np.testing.assert_array_equal(rounded, values)
    assert rounded is not values


def selected(returns, costs, count, safe_share=0.5, max_cost=250.0):
    return select_spread(
        np.array(returns, dtype=float),
        np.array(costs, dtype=float),
        count,
        safe_share=safe_share,
        cost_limit=10.0,
        max_cost=max_cost,
    )


def test_selection_keeps_the_safe_share_and_the_extremes():
    rng = np.random.default_rng(0)
    returns = rng.uniform(0, 30, 100)
    costs = np.concatenate([rng.uniform(0, 10, 50), rng.uniform(11, 240, 50)])
    chosen = selected(returns, costs, 20, safe_share=0.6)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 20
    assert sum(index < 50 for index in chosen) == 12
    assert int(returns[:50].argmax()) in chosen
    # Twelve of fifty, chosen to lie apart, reach nearly as far as all of them.
    safe = [index for index in chosen if index < 50]
    assert np.ptp(returns[safe]) > 0.9 * np.ptp(returns[:50])


def test_selection_prefers_what_differs():
    chosen = selected([0, 0.1, 0.2, 30, 15], [0, 0, 0, 0, 0], 3, safe_share=1.0)
    assert 3 in chosen
    assert 4 in chosen


def test_selection_drops_what_costs_too_much_and_fills_up():
    assert selected([1, 2, 3, 4], [0, 300, 50, 60], 3) == [0, 2, 3]
    assert selected([1, 2, 3, 4], [0, 1, 2, 60], 4) == [0, 1, 2, 3]
    with pytest.raises(UserError, match='only 3 of 4 candidates'):
        selected([1, 2, 3, 4], [0, 300, 50, 60], 4)


def test_arrays_have_whole_episodes_and_both_kinds_of_end():
    def episode(length, terminated):
        states = np.arange(length + 1, dtype=np.float32)[:, None] + 100 * length
        steps = np.ones(length, dtype=np.float32)
        return Episode(0, 'x', states, steps[:, None], steps, steps, terminated)

    arrays = episodes_to_arrays([episode(2, True), episode(3, False)])
    np.testing.assert_array_equal(arrays['terminals'], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(arrays['timeouts'], [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(arrays['observations'][:, 0], [200, 201, 300, 301, 302])
    np.testing.assert_array_equal(arrays['next_observations'][:, 0], [201, 202, 301, 302, 303])


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'env_id': 'SafetyCarButton9-v0'}, 'SafetyCarButton9-v0.*SafetyCarButton1-v0 only'),
        ({'episodes': 0}, 'episodes 0'),
        ({'episodes': -3}, 'episodes -3'),
        ({'seed': -1}, 'seed -1'),
        ({'workers': 0}, 'workers 0'),
        ({'candidates': 1}, 'candidates 1'),
        ({'precision': 0}, 'precision 0'),
        ({'precision': 24}, 'precision 24'),
        ({'safe_share': 1.5}, 'safe-share 1.5'),
        ({'cost_limit': -1.0}, 'cost-limit -1'),
        ({'cost_limit': math.nan}, 'cost-limit nan'),
        ({'max_steps': 2000}, 'max-steps 2000'),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(collecting, 'run_episode', lambda *_: pytest.fail('it simulated'))
    arguments = {'env_id': ENV_ID, 'episodes': 2, 'seed': 0, 'out': tmp_path / 'a.hdf5'} | change
    with pytest.raises(UserError, match=message) as raised:
        collect(**arguments)
    assert '\n' not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_existing_file_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, 'run_episode', lambda *_: pytest.fail('it simulated'))
    out = tmp_path / 'mine.hdf5'
    out.write_bytes(b'precious')
    with pytest.raises(UserError, match=r'mine\.hdf5: exists'):
        collect(ENV_ID, 1, 0, out)
    assert out.read_bytes() == b'precious'


@pytest.mark.parametrize(('name', 'message'), [('a.npz', 'must end in'), ('d.hdf5', 'a folder')])
def test_unwritable_names_are_refused(tmp_path, name, message):
    (tmp_path / 'd.hdf5').mkdir()
    with pytest.raises(UserError, match=message):
        collect(ENV_ID, 1, 0, tmp_path / name)


def test_import_brings_neither_simulator_nor_torch():
    code = (
        'import sys, omnisafe_qpt.collect\n'
        'heavy = {"torch", "gymnasium", "safety_gymnasium", "mujoco", "omnisafe", "h5py"}\n'
        'sys.exit(", ".join(heavy & set(sys.modules)) or None)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- in the simulator -----------------------------------------------------------------------------


@pytest.fixture(name='collected', scope='module')
def fixture_collected(tmp_path_factory):
    """Two short episodes collected by one process and again by two."""
    folder = tmp_path_factory.mktemp('collected')
    summaries = []
    for workers in (1, 2):
        out = folder / str(workers) / 'short.hdf5'
        summaries.append(
            collect(
                ENV_ID,
                2,
                5,
                out,
                precision=8,
                max_steps=12,
                workers=workers,
                progress=False,
            ),
        )
    return folder / '1' / 'short.hdf5', folder / '2' / 'short.hdf5', summaries


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(collected):
    one, two, _ = collected
    assert one.read_bytes() == two.read_bytes()


def test_collected_file_is_what_it_says(collected):
    path, _, summaries = collected
    summary = summaries[0]
    with open_dataset(path) as arrays:
        assert arrays['observations'].shape == (24, 88)
        assert arrays['actions'].shape == (24, 2)
        assert np.flatnonzero(arrays['timeouts'][:]).tolist() == [11, 23]
        assert not arrays['terminals'][:].any()
        assert np.abs(arrays['actions'][:]).max() <= 1.0
        for name in ('observations', 'next_observations', 'actions'):
            values = arrays[name][:]
            np.testing.assert_array_equal(values, round_mantissa(values, 8))
        returns = arrays['rewards'][:].reshape(2, 12).sum(axis=1, dtype=np.float64)
        assert summary['return_max'] == pytest.approx(returns.max())
    assert summary['episodes'] == 2
    assert summary['transitions'] == 24
    assert summary['bytes'] == path.stat().st_size
    attributes = read_attributes(path)
    assert attributes['env_id'] == ENV_ID
    assert attributes['seed'] == 5
    assert '--seed 5 --precision 8 --out short.hdf5' in attributes['command']
    assert len(json.loads(attributes['behaviours'])) == 2
    assert {'mujoco', 'safety-gymnasium', 'python'} <= set(json.loads(attributes['versions']))


def test_episode_depends_on_its_seed_and_number_only(collected):
    with open_dataset(collected[0]) as arrays:
        observations = arrays['observations'][:]
    second = run_episode(ENV_ID, 5, 1, precision=8, max_steps=12)
    np.testing.assert_array_equal(second.states[:-1], observations[12:])
    assert not np.array_equal(second.states[:-1], observations[:12])


def test_overwriting_is_done_when_asked(tmp_path, monkeypatch):
    states = np.zeros((3, 88), dtype=np.float32)
    steps = np.zeros(2, dtype=np.float32)
    fake = Episode(0, 'x', states, np.zeros((2, 2), dtype=np.float32), steps, steps, False)
    monkeypatch.setattr(
        collecting,
        'run_episode',
        lambda _env_id, _seed, number, *_: replace(fake, number=number),
    )
    out = tmp_path / 'mine.hdf5'
    out.write_bytes(b'old')
    summary = collect(ENV_ID, 3, 0, out, workers=1, overwrite=True, progress=False)
    assert summary['episodes'] == 3
    with open_dataset(out) as arrays:
        assert len(arrays['rewards']) == 6


# -- the bundled sample ---------------------------------------------------------------------------


@pytest.fixture(name='sample', scope='module')
def fixture_sample():
    with open_dataset(SAMPLE_FILE) as arrays:
        return {name: array[:] for name, array in arrays.items()}


def test_sample_is_small_and_laid_out_like_dsrl(sample):
    assert SAMPLE_FILE.stat().st_size <= 6_000_000
    attributes = read_attributes(SAMPLE_FILE)
    total = attributes['episodes'] * 1000
    assert sample['observations'].shape == sample['next_observations'].shape == (total, 88)
    assert sample['actions'].shape == (total, 2)
    for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
        assert sample[name].dtype == np.float32
        assert np.isfinite(sample[name]).all()
    assert sample['terminals'].dtype == sample['timeouts'].dtype == bool
    assert not sample['terminals'].any()
    assert np.flatnonzero(sample['timeouts']).tolist() == list(range(999, total, 1000))
    assert np.abs(sample['actions']).max() <= 1.0


def test_sample_is_half_safe_with_a_spread(sample):
    returns = sample['rewards'].reshape(-1, 1000).sum(axis=1, dtype=np.float64)
    costs = sample['costs'].reshape(-1, 1000).sum(axis=1, dtype=np.float64)
    safe = costs <= 10.0
    assert safe.mean() >= 0.5
    assert returns[safe].max() > 25.0
    assert np.ptp(np.quantile(returns[safe], [0.1, 0.9])) > 15.0
    assert costs.min() == 0.0
    assert costs.max() > 150.0
    assert ((costs > 10.0) & (costs < 100.0)).sum() >= 5


def test_sample_says_how_it_is_made_again():
    attributes = read_attributes(SAMPLE_FILE)
    readme = (SAMPLE_FILE.parent / 'README.md').read_text(encoding='utf-8')
    assert (
        attributes['command'].split()
        == readme.split('```bash')[1]
        .split('```')[0]
        .replace(
            '\\',
            '',
        )
        .split()
    )
    assert len(json.loads(attributes['episode_numbers'])) == attributes['episodes']


@pytest.mark.slow
def test_sample_episodes_come_out_the_same_again(sample):
    attributes = read_attributes(SAMPLE_FILE)
    numbers = json.loads(attributes['episode_numbers'])
    kinds = json.loads(attributes['behaviours'])
    for place in (0, 1, len(numbers) - 1):
        episode = run_episode(
            ENV_ID,
            attributes['seed'],
            numbers[place],
            attributes['precision_bits'],
        )
        rows = slice(1000 * place, 1000 * (place + 1))
        assert episode.kind == kinds[place]
        assert episode.actions.tobytes() == sample['actions'][rows].tobytes()
        assert episode.states[:-1].tobytes() == sample['observations'][rows].tobytes()
        assert episode.states[1:].tobytes() == sample['next_observations'][rows].tobytes()
        assert episode.rewards.tobytes() == sample['rewards'][rows].tobytes()
        assert episode.costs.tobytes() == sample['costs'][rows].tobytes()
