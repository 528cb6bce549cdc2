# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The collector of offline data: episodes, interruptions, processes, and the bundled samples."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from omnisafe_qpt.collect import collect
from omnisafe_qpt.collect.episodes import (
    Episode,
    Recipe,
    Recorder,
    round_mantissa,
    run_episode,
    run_episodes,
)
from omnisafe_qpt.collect.simulator import Simulator
from omnisafe_qpt.data.attributes import read_attributes
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.resolve import SAMPLE_ENV_IDS, sample_file
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.signals import Stopped


ENV_ID = 'SafetyBallRun-v0'  # the shortest task: 100 steps, 3000 of them a second


# -- rounding, layout -----------------------------------------------------------------------------


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


def made_up(number, length=4, terminated=False):
    """An episode that no simulator ran; its return and cost follow from its number."""
    rng = np.random.default_rng(number)
    return Episode(
        number=number,
        kind=f'kind {number % 2}',
        states=rng.normal(size=(length + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rewards=np.full(length, number, dtype=np.float32),
        costs=np.full(length, number % 5, dtype=np.float32),
        terminated=terminated,
    )


@pytest.mark.parametrize('terminated', [False, True])
def test_columns_are_one_whole_episode(terminated):
    episode = made_up(7, length=3, terminated=terminated)
    columns = episode.columns()
    np.testing.assert_array_equal(columns['terminals'], [0, 0, terminated])
    np.testing.assert_array_equal(columns['timeouts'], [0, 0, not terminated])
    np.testing.assert_array_equal(columns['observations'], episode.states[[0, 1, 2]])
    np.testing.assert_array_equal(columns['next_observations'], episode.states[[1, 2, 3]])


# -- mistakes -------------------------------------------------------------------------------------


@pytest.fixture(name='simulated')
def fixture_simulated(monkeypatch):
    """Replace the simulator by made-up episodes; the list tells which were run."""
    numbers = []

    def fake(recorder, number):
        del recorder
        numbers.append(number)
        return made_up(number)

    monkeypatch.setattr(Recorder, 'record', fake)
    return numbers


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'env_id': 'SafetyBallRum-v0'}, 'SafetyBallRum-v0.*did you mean.*SafetyBallRun-v0'),
        ({'env_id': 'SafetyHopperVelocity-v1'}, 'no scripted controllers.*--agent'),
        ({'episodes': 0}, 'episodes 0'),
        ({'episodes': -3}, 'episodes -3'),
        ({'seed': -1}, 'seed -1'),
        ({'workers': 0}, 'workers 0'),
        ({'candidates': 1}, 'candidates 1'),
        ({'precision': 0}, 'precision 0'),
        ({'precision': 24}, 'precision 24'),
        ({'safe_share': 1.5}, r'safe-share 1\.5'),
        ({'cost_limit': -1.0}, 'cost-limit -1'),
        ({'cost_limit': math.nan}, 'cost-limit nan'),
        ({'max_steps': 101}, 'max-steps 101: must be between 1 and 100'),
        ({'max_steps': 0}, 'max-steps 0'),
        ({'select': 'best'}, "select 'best'"),
        ({'select': 'all', 'candidates': 3}, "select 'all'"),
        ({'density': (1, 1, 1, 0)}, 'density: is for --select density only'),
        ({'density': (0, 1, 1, 0), 'select': 'density'}, 'density 0 1 1 0'),
        ({'noise': 0.1}, 'noise is for trained agents only'),
        ({'agents': ['scripted'], 'switch': 0.1}, 'switch is for trained agents only'),
        ({'agents': ['scripted:0']}, 'weight must be above 0'),
        ({'agents': ['no/run']}, 'no/run: no such run folder'),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, simulated, change, message):
    arguments = {'env_id': ENV_ID, 'episodes': 2, 'seed': 0, 'out': tmp_path / 'a.hdf5'} | change
    with pytest.raises(UserError, match=message) as raised:
        collect(**arguments)
    assert '\n' not in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert simulated == []


def test_existing_file_is_left_alone(tmp_path, simulated):
    out = tmp_path / 'mine.hdf5'
    out.write_bytes(b'precious')
    with pytest.raises(UserError, match=r'mine\.hdf5: exists'):
        collect(ENV_ID, 1, 0, out)
    assert out.read_bytes() == b'precious'
    assert simulated == []


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


# -- what is kept ---------------------------------------------------------------------------------


def collect_here(out, episodes=3, seed=0, **options):
    return collect(ENV_ID, episodes, seed, out, workers=1, progress=False, **options)


def kept_numbers(out):
    return json.loads(read_attributes(out)['episode_numbers'])


def test_overwriting_is_done_when_asked(tmp_path, simulated):
    out = tmp_path / 'mine.hdf5'
    out.write_bytes(b'old')
    summary = collect_here(out, overwrite=True)
    assert summary['episodes'] == 3
    assert simulated == [0, 1, 2]
    with open_dataset(out) as arrays:
        assert len(arrays['rewards']) == 12
        np.testing.assert_array_equal(arrays['observations'][4:8], made_up(1).states[:-1])
        np.testing.assert_array_equal(arrays['next_observations'][4:8], made_up(1).states[1:])


def test_selection_by_spread_and_by_density(tmp_path, simulated):
    # Returns 0, 4, .. 76; costs 0, 4, 8, 12, 16 in turn; DSRL's highest is 80.
    spread, density = tmp_path / 'spread.hdf5', tmp_path / 'density.hdf5'
    collect_here(spread, 6, candidates=20, safe_share=0.5, cost_limit=10)
    numbers = kept_numbers(spread)
    assert len(numbers) == 6
    assert sum(made_up(number).total_cost <= 10 for number in numbers) == 3
    assert 17 in numbers, 'the safe one with the highest return'
    collect_here(density, 20, candidates=20, select='density', density=(5, 1, 3, 0))
    counts = np.bincount([number % 5 for number in kept_numbers(density)])
    assert counts.tolist() == [3, 3, 3, 3, 4], (
        'the highest return has a cell of its own, as in DSRL'
    )
    assert '--select density --density 5 1 3 0' in read_attributes(density)['command']


def test_density_keeps_at_most_so_many_and_says_when_nothing_is_left(tmp_path, simulated):
    out = tmp_path / 'a.hdf5'
    summary = collect_here(out, 4, candidates=20, select='density', density=(5, 1, 3, 0))
    assert summary['episodes'] == len(kept_numbers(out)) == 4
    with pytest.raises(UserError, match='density 60 50 10 1: no cell holds more than 1'):
        collect_here(tmp_path / 'b.hdf5', 5, select='density')


def test_selection_drops_what_costs_more_than_in_dsrl(tmp_path, monkeypatch):
    def expensive(recorder, number):
        # Costs 0, 40, 80, 120, 160 in turn, and DSRL's highest is 80.
        return made_up(number, length=40)

    monkeypatch.setattr(Recorder, 'record', expensive)
    out = tmp_path / 'a.hdf5'
    collect_here(out, 20, select='density', density=(1, 1, 100, 0))
    assert {number % 5 for number in kept_numbers(out)} == {0, 1, 2}
    collect_here(tmp_path / 'b.hdf5', 20)
    assert len(kept_numbers(tmp_path / 'b.hdf5')) == 20, 'without selection all are kept'


# -- interruptions --------------------------------------------------------------------------------


def partial_of(out):
    return out.with_name(f'.{out.name}.partial')


@pytest.fixture(name='interrupted')
def fixture_interrupted(tmp_path, monkeypatch):
    """A collection of five episodes that was interrupted in the third."""

    def fake(recorder, number):
        if number == 2:
            raise KeyboardInterrupt
        return made_up(number)

    out = tmp_path / 'broken' / 'mine.hdf5'
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, 'record', fake)
        with pytest.raises(KeyboardInterrupt):
            collect_here(out, 5)
    assert not out.exists()
    assert len(list(partial_of(out).glob('*.npz'))) == 2
    return out


def test_a_broken_collection_goes_on_to_the_same_bytes(tmp_path, interrupted, simulated):
    collect_here(interrupted, 5)
    assert simulated == [2, 3, 4]
    unbroken = tmp_path / 'unbroken' / 'mine.hdf5'
    collect_here(unbroken, 5)
    assert interrupted.read_bytes() == unbroken.read_bytes()
    assert not partial_of(interrupted).exists()
    assert sorted(path.name for path in interrupted.parent.iterdir()) == ['mine.hdf5']


def test_a_signal_within_a_simulator_is_not_lost(tmp_path, monkeypatch):
    """Python drops what is raised while an object is deleted, an interruption too."""
    step, steps = Simulator.step, []

    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    def interrupted_step(simulator, action):
        steps.append(action)
        if len(steps) == 130:  # the second episode's 30th
            Finalised()
        return step(simulator, action)

    monkeypatch.setattr(Simulator, 'step', interrupted_step)
    out = tmp_path / 'mine.hdf5'
    with pytest.raises(Stopped) as error:
        collect(ENV_ID, 3, 4, out, workers=1, progress=False)
    assert error.value.exit_status == 143
    assert len(steps) == 130, 'it stops within the episode'
    assert len(list(partial_of(out).glob('*.npz'))) == 1
    unbroken = tmp_path / 'unbroken' / 'mine.hdf5'
    for path in (out, unbroken):
        collect(ENV_ID, 3, 4, path, workers=1, progress=False)
    assert out.read_bytes() == unbroken.read_bytes()


def test_other_settings_are_refused_until_overwriting_is_asked_for(interrupted, simulated):
    with pytest.raises(
        UserError, match=r'other settings \(seed, precision\).*--overwrite'
    ) as error:
        collect_here(interrupted, 5, seed=1, precision=8)
    assert '\n' not in str(error.value)
    assert len(list(partial_of(interrupted).glob('*.npz'))) == 2
    collect_here(interrupted, 5, seed=1, overwrite=True)
    assert simulated == [0, 1, 2, 3, 4]


def test_how_many_and_which_are_kept_may_change(interrupted, simulated):
    collect_here(interrupted, 1, candidates=4)
    assert simulated == [2, 3]
    assert len(kept_numbers(interrupted)) == 1


def test_overwriting_with_the_same_settings_goes_on_too(interrupted, simulated):
    interrupted.write_bytes(b'old')
    collect_here(interrupted, 5, overwrite=True)
    assert simulated == [2, 3, 4]


def test_a_damaged_episode_is_named(interrupted, simulated):
    (partial_of(interrupted) / 'episode-000001.npz').write_bytes(b'PK')
    with pytest.raises(UserError, match=r'episode-000001\.npz: cannot be read') as error:
        collect_here(interrupted, 5)
    assert '\n' not in str(error.value)


def test_two_processes_do_not_collect_one_file(interrupted, simulated):
    with (
        FileLock(partial_of(interrupted) / 'lock'),
        pytest.raises(UserError, match='another process is collecting it'),
    ):
        collect_here(interrupted, 5)
    assert simulated == []


def test_a_failure_before_the_first_episode_leaves_nothing(tmp_path, monkeypatch):
    def fake(recorder, number):
        raise UserError('no simulator')

    monkeypatch.setattr(Recorder, 'record', fake)
    with pytest.raises(UserError, match='no simulator'):
        collect_here(tmp_path / 'mine.hdf5')
    assert not list(tmp_path.iterdir())


# -- in the simulator -----------------------------------------------------------------------------


@pytest.fixture(name='collected', scope='module')
def fixture_collected(tmp_path_factory):
    """Five short episodes collected by one process and again by three."""
    folder = tmp_path_factory.mktemp('collected')
    summaries = []
    for count in (1, 3):
        out = folder / str(count) / 'short.hdf5'
        options = {'precision': 8, 'max_steps': 12, 'workers': count, 'progress': False}
        summaries.append(collect(ENV_ID, 5, 5, out, **options))
    return folder / '1' / 'short.hdf5', folder / '3' / 'short.hdf5', summaries


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(collected):
    one, three, _ = collected
    assert one.read_bytes() == three.read_bytes()


def test_collected_file_is_what_it_says(collected):
    path, _, summaries = collected
    summary = summaries[0]
    with open_dataset(path) as arrays:
        assert arrays['observations'].shape == (60, 7)
        assert arrays['actions'].shape == (60, 2)
        assert np.flatnonzero(arrays['timeouts'][:]).tolist() == [11, 23, 35, 47, 59]
        assert not arrays['terminals'][:].any()
        assert np.abs(arrays['actions'][:]).max() <= 1.0
        for name in ('observations', 'next_observations', 'actions'):
            values = arrays[name][:]
            np.testing.assert_array_equal(values, round_mantissa(values, 8))
        returns = arrays['rewards'][:].reshape(5, 12).sum(axis=1, dtype=np.float64)
        assert summary['return_max'] == pytest.approx(returns.max())
    assert summary['episodes'] == 5
    assert summary['transitions'] == 60
    assert summary['bytes'] == path.stat().st_size
    attributes = read_attributes(path)
    assert attributes['env_id'] == ENV_ID
    assert attributes['seed'] == 5
    assert attributes['command'].endswith(
        '--episodes 5 --seed 5 --precision 8 --max-steps 12 --out short.hdf5',
    )
    assert attributes['origin'] == 'scripted controllers in the simulator, not DSRL'
    assert json.loads(attributes['policies']) == [{'label': 'scripted', 'share': 1.0}]
    assert len(json.loads(attributes['behaviours'])) == 5
    versions = json.loads(attributes['versions'])
    assert {'mujoco', 'safety-gymnasium', 'bullet-safety-gym', 'python', 'torch'} <= set(versions)


def test_episode_depends_on_its_seed_and_number_only(collected):
    with open_dataset(collected[0]) as arrays:
        observations = arrays['observations'][:]
    second = run_episode(ENV_ID, 5, 1, precision=8, max_steps=12)
    np.testing.assert_array_equal(second.states[:-1], observations[12:24])
    assert not np.array_equal(second.states[:-1], observations[:12])


def test_one_simulator_for_many_episodes_changes_nothing():
    """Bullet's cars carry motor commands over a reset, which the environment has to undo."""
    for env_id in (ENV_ID, 'SafetyCarRun-v0'):
        with contextlib.closing(Recorder(Recipe(env_id, 2, max_steps=40))) as recorder:
            third = [recorder.record(number) for number in range(3)][2]
        alone = run_episode(env_id, 2, 2, max_steps=40)
        assert third.states.tobytes() == alone.states.tobytes()
        assert third.rewards.tobytes() == alone.rewards.tobytes()


def test_a_dead_process_is_one_line_that_says_how_to_go_on():
    before = set(multiprocessing.active_children())
    episodes = run_episodes(Recipe(ENV_ID, 0), list(range(200)), 2)
    assert next(episodes).number in (0, 1)
    victim = next(iter(set(multiprocessing.active_children()) - before))
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r'ended unexpectedly.*the same command') as error:
        list(episodes)
    assert '\n' not in str(error.value)
    assert not set(multiprocessing.active_children()) - before, 'no process is left behind'


def test_a_failure_in_a_process_comes_with_its_reason():
    with pytest.raises(RuntimeError, match=r'(?s)^record\(\d\) failed.*seed string'):
        list(run_episodes(Recipe(ENV_ID, 'no seed'), [0, 1], 2))
    with pytest.raises(UserError, match='NoSuchEnv-v0'):
        list(run_episodes(Recipe('NoSuchEnv-v0', 0), [0, 1], 2))


# -- the command line -----------------------------------------------------------------------------


def command_line(out, *more):
    script = Path(sys.executable).parent / 'omnisafe-qpt'
    return [str(script), 'data', 'collect', '--env-id', ENV_ID, '--out', str(out), *more]


@contextlib.contextmanager
def started(out, *more):
    """Start the command, and wait until some episodes are finished."""
    process = subprocess.Popen(
        command_line(out, *more),
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(partial_of(out).glob('episode-*.npz'))) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_collection_killed_outright_goes_on_to_the_same_bytes(tmp_path):
    options = ('--episodes', '40', '--seed', '4', '--workers', '2')
    out = tmp_path / 'killed' / 'mine.hdf5'
    with started(out, *options) as process:
        process.kill()
        process.wait()
    assert not out.exists()
    finished = len(list(partial_of(out).glob('episode-*.npz')))
    assert 3 <= finished < 40
    done = subprocess.run(
        [*command_line(out, *options), '--json', str(tmp_path / 'summary.json')],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '40 episodes, 4000 transitions' in done.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text(encoding='utf-8'))
    assert summary['episodes'] == 40
    unbroken = tmp_path / 'unbroken' / 'mine.hdf5'
    collect(ENV_ID, 40, 4, unbroken, workers=2, progress=False)
    assert out.read_bytes() == unbroken.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ['mine.hdf5']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'count'),
    [(signal.SIGINT, '1'), (signal.SIGINT, '2'), (signal.SIGTERM, '2'), (signal.SIGHUP, '2')],
)
def test_an_interruption_says_how_to_go_on(tmp_path, number, count):
    out = tmp_path / 'mine.hdf5'
    with started(out, '--episodes', '500', '--workers', count) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert 'the same command' in errors
    assert 'Traceback' not in errors
    assert list(partial_of(out).glob('episode-*.npz'))


def test_environments_with_scripted_controllers_are_listed():
    done = subprocess.run(
        [str(Path(sys.executable).parent / 'omnisafe-qpt'), 'data', 'collect', '--list'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert {ENV_ID, *SAMPLE_ENV_IDS} <= set(done.stdout.split())


# -- the bundled samples --------------------------------------------------------------------------


@pytest.fixture(name='sample', scope='module', params=SAMPLE_ENV_IDS)
def fixture_sample(request):
    """A sample's environment, its arrays by episode, and its attributes."""
    path = sample_file(request.param)
    horizon = find_task(request.param).horizon
    with open_dataset(path) as arrays:
        episodes = {
            name: array[:].reshape(-1, horizon, *array.shape[1:]) for name, array in arrays.items()
        }
    return request.param, episodes, read_attributes(path)


def test_sample_is_small_and_laid_out_like_dsrl(sample):
    env_id, arrays, attributes = sample
    assert sample_file(env_id).stat().st_size <= (
        3_000_000 if env_id == 'SafetyBallCircle-v0' else 6_000_000
    )
    task = find_task(env_id)
    shape = (attributes['episodes'], task.horizon)
    assert arrays['observations'].shape == arrays['next_observations'].shape
    assert arrays['observations'].shape == (*shape, task.obs_dim)
    assert arrays['actions'].shape == (*shape, task.act_dim)
    for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
        assert arrays[name].dtype == np.float32
        assert np.isfinite(arrays[name]).all()
    assert arrays['terminals'].dtype == arrays['timeouts'].dtype == bool
    assert not arrays['terminals'].any()
    assert arrays['timeouts'][:, -1].all()
    assert not arrays['timeouts'][:, :-1].any()
    assert np.abs(arrays['actions']).max() <= 1.0


def test_sample_is_half_safe_with_a_spread(sample):
    env_id, arrays, _ = sample
    task = find_task(env_id)
    returns = arrays['rewards'].sum(axis=1, dtype=np.float64) / task.max_return
    costs = arrays['costs'].sum(axis=1, dtype=np.float64)
    safe = costs <= 10.0
    assert safe.mean() >= 0.5
    assert returns[safe].max() > 0.6
    assert returns[~safe].max() > returns[safe].max() + 0.04
    assert np.ptp(np.quantile(returns[safe], [0.1, 0.9])) > 0.3
    assert costs.min() == 0.0
    assert costs.max() > 70.0
    assert ((costs > 10.0) & (costs < 100.0)).sum() >= 5


def test_sample_says_how_it_is_made_again(sample):
    env_id, _, attributes = sample
    readme = (sample_file(env_id).parent / 'README.md').read_text(encoding='utf-8')
    commands = [block.partition('```')[0] for block in readme.split('```bash')[1:]]
    words = [command.replace('\\\n', '').split() for command in commands]
    assert attributes['command'].split() in words
    assert len(json.loads(attributes['episode_numbers'])) == attributes['episodes']


@pytest.mark.slow
def test_sample_episodes_come_out_the_same_again(sample):
    env_id, arrays, attributes = sample
    numbers = json.loads(attributes['episode_numbers'])
    kinds = json.loads(attributes['behaviours'])
    for place in (0, 1, len(numbers) - 1):
        episode = run_episode(
            env_id,
            attributes['seed'],
            numbers[place],
            attributes['precision_bits'],
        )
        assert episode.kind == kinds[place]
        assert episode.actions.tobytes() == arrays['actions'][place].tobytes()
        assert episode.states[:-1].tobytes() == arrays['observations'][place].tobytes()
        assert episode.states[1:].tobytes() == arrays['next_observations'][place].tobytes()
        assert episode.rewards.tobytes() == arrays['rewards'][place].tobytes()
        assert episode.costs.tobytes() == arrays['costs'][place].tobytes()
