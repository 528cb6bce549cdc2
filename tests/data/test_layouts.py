# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Files of other projects: one group for each episode, other names, no next observations."""

from __future__ import annotations

import shlex
import subprocess
import sys

import h5py
import numpy as np
import pytest

import common_helpers
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.convert import convert
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.layouts import ReadOptions
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


LENGTHS = (4, 1, 6, 3, 5, 2, 7, 3, 4, 2, 5, 3)  # more than ten: episode_10 comes after episode_2
ENDS = ('terminal', 'timeout', 'timeout', 'terminal') * 3
STARTS = np.cumsum(LENGTHS) - LENGTHS


@pytest.fixture(name='arrays')
def fixture_arrays(make_arrays):
    return make_arrays(LENGTHS, ENDS)


def episodes_of(arrays):
    for start, length in zip(STARTS, LENGTHS):
        yield {name: array[start : start + length] for name, array in arrays.items()}


def write_minari(path, arrays, costs='infos/cost', attributes=()):
    """Write as Minari 0.5 does: T + 1 states and infos, of which the first are the reset's."""
    with h5py.File(path, 'w') as file:
        file.attrs.update(attributes)
        for number, episode in enumerate(episodes_of(arrays)):
            group = file.create_group(f'episode_{number}')
            states = [episode['observations'], episode['next_observations'][-1:]]
            group['observations'] = np.concatenate(states).astype(np.float64)
            group['actions'] = episode['actions']
            group['rewards'] = episode['rewards'].astype(np.float64)
            group['terminations'] = episode['terminals']
            group['truncations'] = episode['timeouts']
            info = [np.full(1, 99.0), episode['costs']] if costs.startswith('infos') else []
            if costs:
                group[costs] = np.concatenate(info) if info else episode['costs']
            group['infos/position'] = np.concatenate(states)[:, :2]
    return path


def write_robomimic(path, arrays, keys=('flat',), dones='ends', with_next=True, costs='costs'):
    """Write as robomimic does: a group of arrays for observations, dones at every end or success.

    The first key holds one number, the others share the rest.
    """
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        data.attrs.update({'total': len(arrays['rewards']), 'env_args': '{"env_name": "Lift"}'})
        for number, episode in enumerate(episodes_of(arrays)):
            group = data.create_group(f'demo_{number}')
            group.attrs['num_samples'] = len(episode['rewards'])
            for name, array in (('obs', 'observations'), ('next_obs', 'next_observations')):
                if name == 'obs' or with_next:
                    parts = np.split(episode[array], range(1, len(keys)), axis=1)
                    for key, part in zip(keys, parts):
                        group[f'{name}/{key}'] = part
            group['actions'] = episode['actions']
            group['rewards'] = episode['rewards']
            if costs:
                group[costs] = episode['costs']
            flags = episode['terminals'].astype(int)
            if dones == 'ends':
                flags[-1] = 1
            elif dones == 'success inside':
                flags[0] = 1
            group['dones'] = flags
            group['states'] = np.zeros((len(flags), 71))
        file['mask/train'] = [b'demo_0', b'demo_2']
    return path


def write_flat(path, arrays):
    if path.suffix == '.npz':
        np.savez(path, **arrays)
    else:
        with h5py.File(path, 'w') as file:
            for name, array in arrays.items():
                file[name] = array
    return path


def assert_is(path, arrays, ends=ENDS, horizon=None, **options):
    """Check what is read against the episodes that were written."""
    with open_dataset(path, ReadOptions(horizon=horizon, **options)) as found:
        loaded = Trajectories.from_arrays(found, horizon=horizon, name=str(path))
        for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
            whole = np.asarray(found[name])
            np.testing.assert_array_equal(whole.reshape(arrays[name].shape), arrays[name], name)
            for rows in (slice(0, 3), slice(2, 17), slice(39, 45), slice(9, 9)):
                np.testing.assert_array_equal(found[name][rows], whole[rows], name)
    assert loaded.rows.lengths.tolist() == list(LENGTHS)
    assert loaded.rows.terminal.tolist() == [end == 'terminal' for end in ends]
    sums = [float(episode['costs'].sum()) for episode in episodes_of(arrays)]
    assert loaded.cost_returns.tolist() == sums
    return loaded


def shortened(arrays, is_cut):
    """Leave out the last transition of the episodes of which the final state is not known."""
    kept = []
    for episode, cut in zip(episodes_of(arrays), is_cut):
        part = {name: array[: len(array) - cut].copy() for name, array in episode.items()}
        if cut and len(part['rewards']):
            part['timeouts'][-1] = True
        if not cut:
            part['next_observations'][-1] = part['observations'][-1]  # has no effect
        kept.append(part)
    return {name: np.concatenate([part[name] for part in kept]) for name in arrays}


def error_of(path):
    """Return why training and `data info` refuse a file, which is one line and the same."""
    (message,) = {common_helpers.error_of(read, path) for read in (Trajectories.load, summarize)}
    assert message.startswith(f'{path}: ')
    return message


# ---------------------------------------------------------- one group for each episode


@pytest.mark.parametrize('costs', ['infos/cost', 'infos/costs', 'costs', 'cost'])
def test_minari_is_read_in_the_order_of_the_episodes_numbers(tmp_path, arrays, costs):
    path = write_minari(tmp_path / 'main_data.hdf5', arrays, costs)
    assert_is(path, arrays)
    found = summarize(path)
    assert len(found.episodes) == len(LENGTHS)
    assert found.refusal is None
    assert any('episode_0 to episode_11' in note for note in found.notes)


@pytest.mark.parametrize('with_next', [True, False])
def test_robomimic_is_read_where_its_observations_are_one_array(tmp_path, arrays, with_next):
    path = write_robomimic(tmp_path / 'demo.hdf5', arrays, with_next=with_next)
    if with_next:
        assert_is(path, arrays, ends=['terminal'] * len(LENGTHS))
        # dones mark every end; the horizon tells which are time limits.
        assert_is(path, arrays, ends=['terminal' if n < 6 else '' for n in LENGTHS], horizon=6)
    else:
        expected = shortened(arrays, [length >= 6 for length in LENGTHS])
        with open_dataset(path, ReadOptions(horizon=6)) as found:
            for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
                np.testing.assert_array_equal(np.asarray(found[name]), expected[name], name)
    assert summarize(path).attributes['env_args'] == '{"env_name": "Lift"}'


@pytest.mark.parametrize('dones', ['success', 'success inside'])
def test_dones_that_mark_success_alone_are_terminal_states(tmp_path, arrays, dones):
    path = write_robomimic(tmp_path / 'demo.hdf5', arrays, dones=dones)
    ends = list(ENDS)
    if dones == 'success inside':  # it is the last transition of an episode of one
        ends[1] = 'terminal'
    assert_is(path, arrays, ends=ends)


def test_observations_in_parts_are_put_together_as_the_user_says(tmp_path, arrays):
    path = write_robomimic(tmp_path / 'demo.hdf5', arrays, keys=('eef', 'object'), dones='success')
    message = error_of(path)
    assert f'omnisafe-qpt data convert {path} OUT.hdf5 --observation-keys eef,object' in message
    assert_is(path, arrays, observation_keys=['eef', 'object'])
    out = tmp_path / 'out.hdf5'
    assert (
        main(
            ['data', 'convert', str(path), str(out), '--observation-keys', 'object,eef'],
        )
        == 0
    )
    turned = {**arrays, **{
        name: np.roll(arrays[name], -1, axis=1) for name in ('observations', 'next_observations')
    }}  # fmt: skip
    assert_is(out, turned)


def test_observations_with_images_name_the_arrays_that_can_be_used(tmp_path, arrays, capsys):
    path = write_minari(tmp_path / 'main_data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        for group in file.values():
            states = group.pop('observations')[:]
            group['observations/image'] = np.zeros((len(states), 4, 4, 3), np.uint8)
            group['observations/state'] = states
            group['observations/angle'] = states[:, 0]
    assert '--observation-keys angle,state' in error_of(path)
    command = ['data', 'convert', str(path), str(tmp_path / 'out.hdf5'), '--observation-keys']
    for keys, reason in (('image', 'has shape'), ('speed', 'no such array')):
        assert main([*command, keys]) == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / 'out.hdf5').exists()
    assert main([*command, 'angle,state']) == 0
    wide = {**arrays, **{
        name: np.hstack([arrays[name][:, :1], arrays[name]])
        for name in ('observations', 'next_observations')
    }}  # fmt: skip
    assert_is(tmp_path / 'out.hdf5', wide)


@pytest.mark.parametrize('write', [write_minari, write_robomimic])
def test_groups_without_costs_name_what_is_there_and_the_option(tmp_path, arrays, write):
    path = write(tmp_path / 'data.hdf5', arrays, costs='')
    message = error_of(path)
    group = 'episode_0' if write is write_minari else 'data/demo_0'
    assert f"array 'costs' is missing (found in group {group}: actions, " in message
    assert f'omnisafe-qpt data convert {path} OUT.hdf5 --map costs=NAME' in message


def shorten_rewards(group):
    group['rewards'] = group.pop('rewards')[:-1]


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda group: group.pop('rewards'), "array 'rewards' is missing in group episode_7"),
        (lambda group: group.pop('actions'), "array 'actions' is missing in group episode_7"),
        (shorten_rewards, 'rewards in group episode_7 has shape (2,)'),
    ],
)
def test_a_group_unlike_the_others_is_named(tmp_path, arrays, damage, reason):
    path = write_minari(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        damage(file['episode_7'])
    assert reason in error_of(path)


def test_an_episode_without_a_transition_is_passed_over(tmp_path, arrays):
    path = write_minari(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        for name in ('actions', 'rewards', 'terminations', 'truncations', 'infos/cost'):
            shape = file['episode_3'][name].shape[1:]
            file[f'episode_12/{name}'] = np.zeros((0, *shape))
        file['episode_12/observations'] = np.zeros((1, 3))
    assert_is(path, arrays)


@pytest.mark.parametrize('form', ['{}', 'traj_{}', 'run-{}-of-a', 'ep{:03d}'])
@pytest.mark.parametrize('inside', ['', 'data/', 'episodes/'])
def test_groups_may_have_any_names(tmp_path, arrays, form, inside):
    path = write_minari(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        for number in range(len(LENGTHS)):
            file.move(f'episode_{number}', inside + form.format(number))
    assert_is(path, arrays)


def test_one_group_may_hold_all_episodes(tmp_path, arrays):
    path = tmp_path / 'data.hdf5'
    write_flat(path, {f'data/{name}': array for name, array in arrays.items()})
    assert_is(path, arrays)


@pytest.mark.parametrize('group', ['data', 'train', 'file/train'])
def test_one_group_without_a_number_is_no_episode(tmp_path, arrays, group):
    ends = arrays['terminals'] | arrays['timeouts']
    flat = {name: arrays[name] for name in ('observations', 'actions', 'rewards', 'costs')}
    write_flat(tmp_path / 'flat.hdf5', {**flat, 'dones': ends})
    write_flat(
        tmp_path / 'group.hdf5', {f'{group}/{k}': v for k, v in {**flat, 'dones': ends}.items()}
    )
    with open_dataset(tmp_path / 'flat.hdf5') as expected:
        expected = {name: np.asarray(array[:]) for name, array in expected.items()}
    with open_dataset(tmp_path / 'group.hdf5') as found:
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array[:], expected[name])


def test_several_datasets_in_a_file_are_not_taken_for_episodes(tmp_path, arrays):
    both = {f'{g}/{name}': array for g in ('train', 'test') for name, array in arrays.items()}
    write_flat(tmp_path / 'data.hdf5', both)
    with pytest.raises(UserError, match='test, train'), open_dataset(tmp_path / 'data.hdf5'):
        pass


def test_an_end_that_no_flag_marks_is_a_time_limit(tmp_path, arrays):
    path = write_minari(tmp_path / 'data.hdf5', arrays)
    with h5py.File(path, 'a') as file:
        for group in file.values():
            group['truncations'][:] = False
    assert_is(path, arrays)


def test_all_commands_read_groups(tmp_path, arrays, capsys):
    path = write_minari(tmp_path / 'data.hdf5', arrays)
    assert main(['data', 'info', str(path)]) == 0
    assert 'infos/cost' in capsys.readouterr().out
    for name in ('out.npz', 'out.hdf5'):
        assert main(['data', 'convert', str(path), str(tmp_path / name)]) == 0
        assert_is(tmp_path / name, arrays)


# ----------------------------------------------------------------------- other names


DSRL = {name: name for name in (
    'observations', 'next_observations', 'actions', 'rewards', 'costs', 'terminals', 'timeouts',
)}  # fmt: skip
NAMES = {
    'dsrl': DSRL,
    'd4rl': {**DSRL, 'costs': 'infos/cost'},
    'omnisafe': {
        **dict(zip(DSRL, ('obs', 'next_obs', 'action', 'reward', 'cost', 'done', 'timeouts'))),
    },
    'gymnasium': {
        **DSRL, 'next_observations': 'next_obs', 'terminals': 'terminations',
        'timeouts': 'truncations',
    },
    'tianshou': dict(
        zip(DSRL, ('obs', 'obs_next', 'act', 'rew', 'cost', 'terminated', 'truncated')),
    ),
    'upper case': {name: name.upper() for name in DSRL},
}  # fmt: skip


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('names', NAMES)
def test_well_known_names_are_read(tmp_path, arrays, names, suffix):
    renamed = {NAMES[names][name]: array for name, array in arrays.items()}
    assert_is(write_flat(tmp_path / f'data{suffix}', renamed), arrays)


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize(
    'change',
    [
        lambda array: array[:, None],
        lambda array: array.astype(np.uint8 if array.dtype == bool else np.float64),
        lambda array: array.astype(np.float32),
    ],
)
def test_columns_and_other_number_types_are_read(tmp_path, arrays, change, suffix):
    given = {
        name: change(array) if array.ndim == 1 else array.astype(np.float64)
        for name, array in arrays.items()
    }
    assert_is(write_flat(tmp_path / f'data{suffix}', given), arrays)


def test_whole_number_rewards_and_costs_are_read(tmp_path, arrays):
    arrays['rewards'] = np.round(arrays['rewards']).astype(np.int64)
    arrays['costs'] = arrays['costs'] > 0
    assert_is(write_flat(tmp_path / 'data.hdf5', arrays), arrays)


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
def test_one_number_a_step_may_be_a_vector_of_one(tmp_path, make_arrays, suffix):
    arrays = make_arrays(LENGTHS, ENDS, obs_dim=1, act_dim=1)
    given = {name: array.reshape(-1) for name, array in arrays.items()}
    assert_is(write_flat(tmp_path / f'data{suffix}', given), arrays)


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('marks', ['every end', 'terminal states'])
def test_dones_beside_timeouts_are_terminal_states_where_these_are_not_set(
    tmp_path,
    arrays,
    suffix,
    marks,
):
    dones = arrays['terminals'] | (arrays['timeouts'] & (marks == 'every end'))
    given = {**arrays, 'dones': dones}
    del given['terminals']
    assert_is(write_flat(tmp_path / f'data{suffix}', given), arrays)


def test_dones_beside_terminals_mark_time_limits(tmp_path, arrays):
    given = {**arrays, 'dones': arrays['terminals'] | arrays['timeouts']}
    del given['timeouts']
    assert_is(write_flat(tmp_path / 'data.hdf5', given), arrays)


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
def test_unknown_names_are_mapped_by_the_user(tmp_path, arrays, suffix, capsys):
    names = {**DSRL, 'costs': 'log/hazard', 'rewards': 'r', 'observations': 'x'}
    path = write_flat(
        tmp_path / f'data{suffix}',
        {names[name]: array for name, array in arrays.items()},
    )
    message = error_of(path)
    assert "array 'observations' is missing (found: actions, log/hazard, " in message
    command = ['data', 'convert', str(path), str(tmp_path / 'out.hdf5')]
    assert main([*command, '--map', 'costs=log/danger', '--map', 'rewards=r']) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert '--map costs=log/danger' in error
    assert 'log/hazard' in error
    pairs = [f'--map={name}={names[name]}' for name in ('costs', 'rewards', 'observations')]
    assert main([*command, *pairs]) == 0
    assert_is(tmp_path / 'out.hdf5', arrays)


@pytest.mark.parametrize('pair', ['cost=x', 'costs', 'costs=', '=x'])
def test_a_map_that_means_nothing_is_refused(tmp_path, arrays, pair, capsys):
    path = write_flat(tmp_path / 'data.hdf5', arrays)
    try:
        status = main(['data', 'convert', str(path), str(tmp_path / 'out.hdf5'), '--map', pair])
    except SystemExit as error:
        status = error.code
    assert status in (1, 2)
    assert '--map' in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ['data.hdf5']


# ------------------------------------------------------------------ no next observations


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('flags', ['terminals and timeouts', 'dones', 'mapped'])
def test_next_observations_are_derived_within_episodes(tmp_path, arrays, suffix, flags):
    given = {name: array for name, array in arrays.items() if name != 'next_observations'}
    options = {'horizon': 5}
    is_cut = np.array([end == 'timeout' for end in ENDS])
    if flags != 'terminals and timeouts':
        is_cut = np.array(LENGTHS) >= 5
        given['dones' if flags == 'dones' else 'terminals'] = given.pop('terminals') | given.pop(
            'timeouts'
        )
        options |= {} if flags == 'dones' else {'names': {'dones': 'terminals'}}
    path = write_flat(tmp_path / f'data{suffix}', given)
    expected = shortened(arrays, is_cut)
    with open_dataset(path, ReadOptions(**options)) as found:
        for name in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
            np.testing.assert_array_equal(np.asarray(found[name]), expected[name], name)
            np.testing.assert_array_equal(found[name][7:20], expected[name][7:20], name)
        loaded = Trajectories.from_arrays(found)
        assert f'last transition of {is_cut.sum()} episodes' in ' '.join(found.notes)
    lengths = np.array(LENGTHS) - is_cut
    assert loaded.rows.lengths.tolist() == lengths[lengths > 0].tolist()
    assert loaded.rows.terminal.tolist() == (~is_cut)[lengths > 0].tolist()


def test_without_a_flag_at_the_last_transition_its_next_observation_is_unknown(tmp_path, arrays):
    given = {name: array for name, array in arrays.items() if name != 'next_observations'}
    given['terminals'][-1] = False
    loaded = Trajectories.load(write_flat(tmp_path / 'data.hdf5', given))
    assert loaded.rows.lengths.tolist()[-1] == LENGTHS[-1] - 1
    assert not loaded.rows.terminal[-1]


def test_time_limits_that_nothing_shows_are_refused(tmp_path, arrays):
    for name in ('next_observations', 'timeouts'):
        del arrays[name]
    path = write_flat(tmp_path / 'data.hdf5', arrays)
    message = error_of(path)
    assert 'neither next_observations nor timeouts' in message
    assert '--map dones=terminals' in message


def test_what_was_derived_is_converted_and_said(tmp_path, arrays, capsys):
    del arrays['next_observations']
    path = write_flat(tmp_path / 'data.hdf5', arrays)
    assert main(['data', 'info', str(path)]) == 0
    assert 'next_observations are missing' in ' '.join(capsys.readouterr().out.split())
    assert main(['data', 'convert', str(path), str(tmp_path / 'out.hdf5')]) == 0
    assert 'next_observations are missing' in capsys.readouterr().out
    first, second = (Trajectories.load(each) for each in (path, tmp_path / 'out.hdf5'))
    assert first.table.equal(second.table)
    assert first.rows.terminal.equal(second.rows.terminal)


# ------------------------------------------------------------------- how to train on it


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', ['VAEBC', 'COptiDICE'])
def test_the_snippet_that_convert_prints_trains(tmp_path, make_arrays, algorithm, capsys):
    arrays = make_arrays([100] * 3, obs_dim=7, act_dim=2)
    path = write_flat(tmp_path / 'data.hdf5', arrays)
    out = tmp_path / 'it is mine.npz'
    command = ['data', 'convert', str(path), str(out), '--env-id', 'SafetyBallRun-v0']
    assert main([*command, '--for', algorithm]) == 0
    snippet = 'import omnisafe\n' + capsys.readouterr().out.partition('import omnisafe\n')[2]
    small = (
        "custom_cfgs={'algo_cfgs': {'steps_per_epoch': 2}, 'logger_cfgs': {'log_dir': "
        f"{str(tmp_path)!r}, 'use_tensorboard': False}}, 'train_cfgs': {{'total_steps': 2, "
        "'evaluate_epoisodes': 1, 'torch_threads': 1, "
    )
    assert "custom_cfgs={'train_cfgs': {" in snippet
    ran = subprocess.run(
        [sys.executable, '-c', snippet.replace("custom_cfgs={'train_cfgs': {", small)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.glob('**/progress.csv'))


def test_the_command_that_convert_prints_names_the_file(tmp_path, arrays, capsys):
    path = write_minari(tmp_path / 'data.hdf5', arrays, attributes={'env_id': 'SafetyBallRun-v0'})
    out = tmp_path / 'it is mine.hdf5'
    assert main(['data', 'convert', str(path), str(out)]) == 0
    command = shlex.split(capsys.readouterr().out.rpartition('To train on it: ')[2])
    assert command[:6] == ['omnisafe', 'train', '--algo', 'QPT', '--env-id', 'SafetyBallRun-v0']
    assert command[-1] == str(out)


def test_what_has_the_layout_already_is_not_converted(tmp_path, arrays):
    source = write_flat(tmp_path / 'data.hdf5', arrays)
    with pytest.raises(UserError, match='have the format'):
        convert(source, tmp_path / 'out.hdf5')
    convert(source, tmp_path / 'out.npz')
    with pytest.raises(UserError, match='have the format'):
        convert(tmp_path / 'out.npz', tmp_path / 'again.npz')
    dsrl_in_npz = write_flat(tmp_path / 'dsrl.npz', arrays)
    convert(dsrl_in_npz, tmp_path / 'again.npz')
    assert (tmp_path / 'again.npz').read_bytes() == (tmp_path / 'out.npz').read_bytes()


@pytest.mark.parametrize('layout', ['plain.hdf5', 'plain.npz', 'minari.hdf5'])
def test_several_costs_are_added_up_by_their_weights(tmp_path, arrays, layout, capsys):
    several = np.stack([arrays['costs'], np.arange(len(arrays['costs'])), 0 * arrays['costs']], 1)
    path = tmp_path / layout
    if layout == 'minari.hdf5':
        write_minari(path, {**arrays, 'costs': several.astype(np.float32)}, costs='costs')
    elif layout == 'plain.npz':
        np.savez(path, **{**arrays, 'costs': several})
    else:
        with h5py.File(path, 'w') as file:
            for name, array in {**arrays, 'costs': several}.items():
                file[name] = array
    out = tmp_path / 'out.hdf5'
    words = ['data', 'convert', str(path), str(out)]
    assert main([*words, '--cost-weights', '1,0.5,3']) == 0
    with open_dataset(out) as found:
        expected = several @ [1.0, 0.5, 3.0]
        np.testing.assert_allclose(found['costs'][:], expected, rtol=1e-6)
        np.testing.assert_array_equal(found['actions'][:], arrays['actions'])
    capsys.readouterr()
    for wrong, message in (
        ([], '--cost-weights 1,1,1'),
        (['--cost-weights', '1,2'], '--cost-weights has 2 numbers'),
    ):
        assert main([*words, '--overwrite', *wrong]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
