# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What `data info` finds, against plain loops and against what training says of the same file."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from omnisafe_qpt.cli import main
from omnisafe_qpt.data import scan
from omnisafe_qpt.data import summary as module
from omnisafe_qpt.data.checks import NOTE, REFUSED, WARNING
from omnisafe_qpt.data.layouts import NPZ_NAMES, Arrays
from omnisafe_qpt.data.resolve import sample_file
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.tasks import find_task
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError


ENDS = ('terminal', 'timeout', None, 'timeout', 'terminal', None)
LENGTHS = (5, 8, 30, 1, 12, 7)


def write(path, arrays, **attributes):
    """Write arrays as they are, unsound ones too."""
    if path.suffix == '.npz':
        np.savez(path, **{key: arrays[name] for name, key in NPZ_NAMES.items()})
    else:
        with h5py.File(path, 'w') as file:
            for name, array in arrays.items():
                file[name] = array
            file.attrs.update(attributes)
    return path


def codes(summary):
    return {finding.code for finding in summary.findings}


def text_of(summary, code):
    (text,) = (finding.text for finding in summary.findings if finding.code == code)
    return text


def slow_episodes(arrays):
    """Cut arrays one transition at a time; (first, length, return, cost, end) for each."""
    total, first, episodes = len(arrays['rewards']), 0, []
    for row in range(total):
        terminal, timeout = bool(arrays['terminals'][row]), bool(arrays['timeouts'][row])
        jump = row < total - 1 and any(
            abs(float(a) - float(b)) > 1e-3 * (1 + abs(float(b)))
            for a, b in zip(arrays['next_observations'][row], arrays['observations'][row + 1])
        )
        if not (terminal or timeout or jump or row == total - 1):
            continue
        end = 'terminal' if terminal else 'time limit' if timeout else 'gap' if jump else 'cut'
        rows = range(first, row + 1)
        episodes.append(
            (
                first,
                row + 1 - first,
                sum(float(arrays['rewards'][i]) for i in rows),
                sum(float(arrays['costs'][i]) for i in rows),
                end,
            ),
        )
        first = row + 1
    return episodes


def slow_quantile(values, share):
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize('rows', [1, 2, 7, 1 << 15])
def test_the_numbers_agree_with_plain_loops(tmp_path, make_arrays, monkeypatch, rows):
    monkeypatch.setattr(scan, '_BLOCK_ROWS', rows)
    arrays = make_arrays(LENGTHS, ENDS)
    path = write(tmp_path / 'data.hdf5', arrays, colour='red')
    seen = []
    found = summarize(path, cost_limits=(0, 6, 25), on_progress=lambda *step: seen.append(step))

    starts, lengths, returns, costs, ends = zip(*slow_episodes(arrays))
    assert found.episodes.starts.tolist() == list(starts)
    assert found.episodes.lengths.tolist() == list(lengths) == list(LENGTHS)
    assert found.episodes.returns.tolist() == pytest.approx(returns, abs=1e-12)
    assert found.episodes.costs.tolist() == list(costs)
    assert found.episodes.ends.tolist() == list(ends)
    assert found.end_counts() == {'terminal': 2, 'time limit': 2, 'gap': 1, 'cut': 1}
    assert found.transitions == sum(LENGTHS)
    for name, values in (('return', returns), ('cost', costs), ('length', lengths)):
        quantiles = found.quantiles()[name]
        assert quantiles.pop('mean') == pytest.approx(sum(values) / len(values))
        for key, share in module.QUANTILES.items():
            assert quantiles[key] == pytest.approx(slow_quantile(values, share)), key
    for row, limit in zip(found.limits, (0, 6, 25)):
        within = [value for value, cost in zip(returns, costs) if cost <= limit]
        cheapest = [value for value, cost in zip(returns, costs) if cost == min(costs)]
        assert (row.cost_limit, row.episodes, row.share) == (limit, len(within), len(within) / 6)
        assert row.target_return == pytest.approx(max(within or cheapest))
        assert row.normalized is None, 'the task is unknown'
    for name in ('observations', 'next_observations', 'actions'):
        low = [min(float(row[i]) for row in arrays[name]) for i in range(arrays[name].shape[1])]
        high = [max(float(row[i]) for row in arrays[name]) for i in range(arrays[name].shape[1])]
        assert found.ranges[name].low.tolist() == low
        assert found.ranges[name].high.tolist() == high
    assert found.values == {'rewards': None, 'costs': [0, 1, 2]}
    assert found.arrays['actions'] == ((63, 2), 'float32')
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.attributes == {'colour': 'red'}
    assert seen[-1] == (63, 63)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_sound_dataset_has_nothing_suspicious(tmp_path, make_arrays):
    path = write(
        tmp_path / 'data.hdf5', make_arrays((40, 40, 17), ('timeout', 'timeout', 'terminal'))
    )
    found = summarize(path, cost_limits=(50,))
    assert codes(found) == {'unknown_task'}
    assert found.refusal is None


@pytest.mark.parametrize(
    ('env_id', 'name', 'episodes'),
    [('SafetyBallCircle-v0', 'BallCircle', 400), ('SafetyCarButton1-v0', 'CarButton1', 71)],
)
def test_the_bundled_samples_are_sound(env_id, name, episodes):
    found = summarize(sample_file(env_id))
    assert found.task.name == name
    assert len(found.episodes) == episodes
    assert {finding.level for finding in found.findings} <= {NOTE}
    task, row = found.task, found.limits[1]
    assert row.normalized == pytest.approx(
        (row.target_return - task.min_return) / (task.max_return - task.min_return),
    )


# ------------------------------------------------------- the same as training says


def setter(key, row, value, kind=np.float64):
    def change(arrays):
        arrays[key] = arrays[key].astype(kind)
        arrays[key][row] = value

    return change


def unmark(rows):
    def change(arrays):
        for key in ('terminals', 'timeouts'):
            arrays[key][rows] = False

    return change


def shuffle(arrays):
    order = np.random.default_rng(0).permutation(len(arrays['rewards']))
    arrays.update({key: value[order] for key, value in arrays.items()})


def repeat_observations(arrays):
    arrays['next_observations'] = arrays['observations'].copy()


def jump_at(*rows):
    def change(arrays):
        arrays['next_observations'][list(rows)] += 5

    return change


def as_columns(arrays):
    for key in ('rewards', 'costs', 'terminals', 'timeouts'):
        arrays[key] = arrays[key].astype(np.float64)[:, None]


# 60 transitions; rows 19, 39 and 59 end episodes.
BROKEN = {
    **{
        f'{key} {value} at {row}': (setter(key, row, value), 'not_finite')
        for key in ('observations', 'next_observations', 'actions', 'rewards', 'costs')
        for value in (np.nan, -np.inf)
        for row in (0, 7, 19, 59)
    },
    'one number of an observation': (setter('observations', (3, 1), np.inf), 'not_finite'),
    'beyond float32': (setter('rewards', 30, 1e300), 'not_finite'),
    'NaN in terminals': (setter('terminals', 5, np.nan), 'flags_not_finite'),
    'NaN in timeouts': (setter('timeouts', 59, np.inf), 'flags_not_finite'),
    'no end marked': (unmark(slice(None)), 'no_end_marked'),
    'shuffled': (shuffle, 'not_in_order'),
    'next observations repeat observations': (repeat_observations, 'not_in_order'),
    'a gap in more than a tenth': (jump_at(1, 3, 5, 7, 9, 11, 13), 'not_in_order'),
}
ACCEPTED = {
    'sound': lambda arrays: None,
    'a gap in a tenth': jump_at(1, 3, 5, 7, 9, 11),
    'the middle end unmarked': unmark(39),
    'the last end unmarked': unmark(59),
    'both flags': setter('timeouts', 39, True, kind=bool),
    'columns': as_columns,
    'wild actions': setter('actions', 3, 7.0),
    'negative costs': setter('costs', 3, -7.0),
    'no costs': setter('costs', slice(None), 0.0),
}


@pytest.mark.parametrize('suffix', ['.hdf5', '.npz'])
@pytest.mark.parametrize('name', [*BROKEN, *ACCEPTED])
def test_a_file_is_refused_exactly_if_training_refuses_it(tmp_path, make_arrays, name, suffix):
    arrays = make_arrays((20, 20, 20), ('timeout', 'terminal', 'terminal'))
    change, code = BROKEN.get(name) or (ACCEPTED[name], None)
    if suffix == '.npz':
        arrays['terminals'] |= arrays['timeouts']
    change(arrays)
    path = write(tmp_path / f'data{suffix}', arrays)
    found = summarize(path)
    refused = {finding.code for finding in found.findings if finding.level == REFUSED}
    if suffix == '.npz' and name == 'NaN in timeouts':
        code = None  # an npz has none
    assert refused == ({code} if code else set())
    assert (found.refusal is None) == (code is None)
    if code is not None:
        with pytest.raises(UserError):
            Trajectories.load(path)
        return
    loaded = Trajectories.load(path)
    assert found.episodes.lengths.tolist() == loaded.rows.lengths.tolist()
    assert (found.episodes.ends == 'terminal').tolist() == loaded.rows.terminal.tolist()
    assert found.episodes.returns == pytest.approx(loaded.returns.numpy(), abs=1e-5)
    assert found.episodes.costs == pytest.approx(loaded.cost_returns.numpy(), abs=1e-5)
    ours, theirs = found.episodes.frontier, loaded.frontier
    assert ours.costs == pytest.approx(theirs.costs, abs=1e-5)
    assert ours.returns == pytest.approx(theirs.returns, abs=1e-5)


@pytest.mark.parametrize('horizon_met', [True, False])
def test_an_npz_is_cut_as_training_cuts_it_for_the_task(
    tmp_path,
    make_arrays,
    monkeypatch,
    horizon_met,
):
    monkeypatch.setattr(scan, '_BLOCK_ROWS', 16)
    task = find_task('BallRun')
    lengths = (task.horizon if horizon_met else 60, 40)
    arrays = make_arrays(lengths, ['terminal'] * 2, obs_dim=task.obs_dim, act_dim=task.act_dim)
    path = write(tmp_path / 'mine.npz', arrays)
    found = summarize(path, task='SafetyBallRun-v0')
    loaded = Trajectories.load(path, horizon=task.horizon)
    assert (found.episodes.ends == 'terminal').tolist() == loaded.rows.terminal.tolist()
    assert found.end_counts()['time limit'] == int(horizon_met)
    assert 'npz_without_task' in codes(summarize(path))


@pytest.mark.parametrize(
    ('key', 'change', 'message'),
    [
        ('actions', lambda array: array[:-1], 'actions has shape'),
        ('rewards', lambda array: np.stack([array, array], 1), 'rewards has shape'),
        ('observations', lambda array: array[:0], 'no transitions'),
        ('costs', None, "'costs' is missing"),
    ],
)
def test_what_no_episodes_can_be_cut_from_is_an_error_as_in_training(
    tmp_path,
    make_arrays,
    key,
    change,
    message,
):
    arrays = make_arrays((5, 8))
    array = arrays.pop(key)
    if change is not None:
        arrays[key] = change(array)
    path = write(tmp_path / 'data.hdf5', arrays)
    for read in (summarize, Trajectories.load):
        with pytest.raises(UserError, match=message):
            read(path)


@pytest.mark.parametrize('rows', [8, 1 << 15])
def test_numbers_that_are_none_are_left_out(tmp_path, make_arrays, monkeypatch, rows):
    monkeypatch.setattr(scan, '_BLOCK_ROWS', rows)
    arrays = make_arrays((20, 20, 20))
    for key in ('observations', 'next_observations'):
        arrays[key] += 10  # all above 0, which stands for nothing
    arrays['rewards'][25] = np.nan
    arrays['observations'][3, 1] = -np.inf
    arrays['observations'][50] = np.nan
    path = write(tmp_path / 'data.hdf5', arrays)
    found = summarize(path)
    episodes = slow_episodes(arrays)
    returns = [episodes[0][2], episodes[2][2]]
    assert found.episodes.is_finite.tolist() == [True, False, True]
    assert found.quantiles()['return']['max'] == pytest.approx(max(returns))
    assert found.episodes.frontier.returns[-1] == pytest.approx(max(returns))
    expected = [[v for v in column if math.isfinite(v)] for column in arrays['observations'].T]
    assert found.ranges['observations'].low.tolist() == [min(column) for column in expected]
    assert found.ranges['observations'].non_finite == 2
    texts = [finding.text for finding in found.findings if finding.code == 'not_finite']
    assert 'in 2 transitions (first: dimension 1, transition 3 (episode 0, step 3))' in texts[0]
    assert 'in 1 transition (first: transition 25 (episode 1, step 5))' in texts[1]


def test_a_dataset_of_nothing_but_nan_is_still_described(tmp_path, make_arrays):
    arrays = make_arrays((20, 20))
    for key in ('observations', 'next_observations', 'actions', 'rewards', 'costs'):
        arrays[key][:] = np.nan
    found = summarize(write(tmp_path / 'data.hdf5', arrays))
    assert found.episodes.frontier is None
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content['quantiles']['return']['median'] is None
    assert content['episodes'] == 2


# ------------------------------------------------------------------ each finding


def reset_too_early(arrays):
    arrays['next_observations'][19] = arrays['observations'][20]


def copy_first_episode(arrays):
    for value in arrays.values():
        value[40:] = value[:20]


NOTES = ('flat_frontier', 'constant_observations')
SUSPICIOUS = {
    'actions_out_of_range': (
        setter('actions', ([21, 33], [0, 1]), [1.5, -2.0]),
        ('(2, first: transition 21 (episode 1, step 1); from -2 to 1.5)',),
    ),
    'constant_actions': (setter('actions', (slice(None), 1), 0.5), ('1 dimension (1)',)),
    'unmarked_ends': (unmark(39), ('(1, first: transition 39 (episode 1, step 19))',)),
    'last_not_ended': (unmark(59), ('the last episode (2) has no end flag after 20 steps',)),
    'single_steps': (
        setter('timeouts', 20, True, kind=bool),
        ('1 episode of one transition (first: episode 1, transition 20)',),
    ),
    'final_state_replaced': (
        reset_too_early,
        ('(1, first: transition 19 (episode 0, step 19))',),
    ),
    'time_limits_as_terminals': (
        setter('terminals', 59, True, kind=bool),
        ('1 end at', 'first: episode 2, transition 59'),
    ),
    'duplicates': (copy_first_episode, ('1 repeated episode (', 'episode 2 is episode 0 again')),
    'negative_costs': (
        setter('costs', [30, 45], -0.5),
        ('(2, first: transition 30 (episode 1, step 10); least: -0.5)',),
    ),
    'no_costs': (setter('costs', slice(None), 0), ('every cost is 0',)),
    'no_rewards': (setter('rewards', slice(None), 0), ('every reward is 0',)),
    'no_safe_episode': (
        setter('costs', slice(None), 2),
        ('at most 5, 30 (the cheapest costs 40)',),
    ),
    'flat_frontier': (
        lambda arrays: [
            setter('costs', slice(0, 20), 0)(arrays),
            setter('rewards', 0, 99)(arrays),
        ],
        ('the cheapest episode also has the highest return',),
    ),
    'constant_observations': (
        lambda arrays: [
            setter(key, (slice(None), slice(0, 2)), 3.0)(arrays)
            for key in ('observations', 'next_observations')
        ],
        ('2 dimensions (0-1)',),
    ),
}


@pytest.mark.parametrize('code', SUSPICIOUS)
def test_what_is_suspicious_is_found_and_placed(tmp_path, make_arrays, code):
    change, parts = SUSPICIOUS[code]
    arrays = make_arrays((20, 20, 20))
    sound = write(tmp_path / 'sound.hdf5', arrays)
    assert code not in codes(summarize(sound, cost_limits=(30,)))
    change(arrays)
    found = summarize(write(tmp_path / 'odd.hdf5', arrays), cost_limits=(5, 30, 60))
    text = text_of(found, code)
    assert '\n' not in text
    for part in parts:
        assert part in text
    assert found.refusal is None
    levels = {finding.code: finding.level for finding in found.findings}
    assert levels[code] == (NOTE if code in NOTES else WARNING)


def test_rounding_makes_no_action_suspicious(tmp_path, make_arrays):
    arrays = make_arrays((20, 20))
    arrays['actions'][3] = np.nextafter(np.float32(1), np.float32(2))
    found = summarize(write(tmp_path / 'data.hdf5', arrays))
    assert 'actions_out_of_range' not in codes(found)


def test_episodes_are_checked_against_their_task(tmp_path, make_arrays):
    task = find_task('BallRun')
    dims = {'obs_dim': task.obs_dim, 'act_dim': task.act_dim}
    arrays = make_arrays((100, 130, 100), ('timeout', 'timeout', 'terminal'), **dims)
    arrays['rewards'][:] = 0
    arrays['rewards'][:100] = task.max_return / 100
    arrays['rewards'][100:230] = 2 * task.max_return / 130
    arrays['rewards'][230:] = task.min_return / 100
    arrays['costs'][:] = 0
    arrays['costs'][230:] = 1
    found = summarize(write(tmp_path / 'a.hdf5', arrays, env_id=task.dsrl_env_id))
    assert found.task == task
    assert 'first: episode 1, 130 steps' in text_of(found, 'over_horizon')
    assert 'first: episode 2, transition 329' in text_of(found, 'time_limits_as_terminals')
    assert 'of 1 episode is' in text_of(found, 'return_outside_reference')
    assert 'first: episode 1, ' in text_of(found, 'return_outside_reference')
    assert 'first: episode 2, 100' in text_of(found, 'cost_outside_reference')
    assert found.refusal is None


@pytest.mark.parametrize('change', ['obs_dim', 'act_dim'])
def test_data_of_other_sizes_than_the_task_are_refused(tmp_path, make_arrays, change):
    task = find_task('BallRun')
    dims = {'obs_dim': task.obs_dim, 'act_dim': task.act_dim}
    dims[change] += 1
    path = write(tmp_path / 'BallRun.hdf5', make_arrays((20, 20), **dims))
    found = summarize(path)
    assert f'{dims[change]} numbers, those of {task.env_id} {dims[change] - 1}' in found.refusal


@pytest.mark.parametrize('seed', range(5))
def test_duplicates_are_those_of_brute_force(tmp_path, make_arrays, seed, monkeypatch):
    monkeypatch.setattr(scan, '_BLOCK_ROWS', 5)
    generator = np.random.default_rng(seed)
    arrays = make_arrays((3,) * 40)
    # Few states, so that episodes differ in little: in order, or in one number.
    for key in ('observations', 'actions', 'rewards', 'costs'):
        arrays[key][:] = generator.integers(0, 2, arrays[key].shape)
    arrays['observations'][:, 1:] = 0
    arrays['actions'][:] = 0
    arrays['rewards'][:] = 0
    told_apart_by = ('observations', 'actions', 'rewards', 'costs')
    seen, copies = {}, []
    for episode in range(40):
        rows = slice(3 * episode, 3 * episode + 3)
        content = str([arrays[key][rows].tolist() for key in told_apart_by])
        if content in seen:
            copies.append((episode, seen[content]))
        seen.setdefault(content, episode)
    arrays['next_observations'][:-1] = arrays['observations'][1:]
    found = summarize(write(tmp_path / 'data.hdf5', arrays))
    assert len(found.episodes) == 40
    assert 0 < len(copies) < 39
    first, original = copies[0]
    assert f'{len(copies)} repeated episode' in text_of(found, 'duplicates')
    assert f'episode {first} is episode {original} again' in text_of(found, 'duplicates')


def test_large_arrays_are_read_once_and_in_blocks(monkeypatch, make_arrays, tmp_path):
    arrays = make_arrays((40,) * 10)
    path = write(tmp_path / 'data.hdf5', arrays)
    monkeypatch.setattr(scan, '_BLOCK_ROWS', 64)
    sliced = {name: [] for name in arrays}

    class Array:
        def __init__(self, name):
            self.name, self.shape, self.dtype = name, arrays[name].shape, arrays[name].dtype

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, rows):
            part = arrays[self.name][rows]
            sliced[self.name].append(len(part))
            return part

    @contextmanager
    def recorded(*_):
        yield Arrays({name: Array(name) for name in arrays})

    monkeypatch.setattr(module, 'open_dataset', recorded)
    assert len(summarize(path).episodes) == 10
    for name in ('observations', 'next_observations', 'actions'):
        assert max(sliced[name]) <= 64, name
        assert sum(sliced[name]) == 400, name


# --------------------------------------------------------------- the command line


def test_info_prints_what_json_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    out = tmp_path / 'info.json'
    assert main(['data', 'info', 'sample:CarButton1', '--cost-limit', '7', '--json', str(out)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text(encoding='utf-8'))
    assert [row['cost_limit'] for row in content['cost_limits']] == [5, 7, 10, 20, 40]
    for part in (content['sha256'], 'CarButton1', '71,000', '56.3%', 'Training accepts this file'):
        assert part in printed
    assert f'{content["cost_limits"][2]["normalized"]:.3f}' in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_info_describes_a_file_that_training_refuses(tmp_path, capsys, make_arrays):
    arrays = make_arrays((20, 20))
    arrays['rewards'][7] = np.nan
    path = write(tmp_path / 'mine [v2].hdf5', arrays)
    assert main(['data', 'info', str(path)]) == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'REFUSED rewards: NaN' in printed
    assert 'Training refuses this file: rewards: NaN' in printed
    assert '[v2]' in printed, 'brackets are no markup'


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['nowhere.hdf5'], 1, 'Error: nowhere.hdf5: no such dataset file\n'),
        (['sample', '--task', 'CarBut'], 1, "Error: DSRL has no task 'CarBut'"),
        (['sample', '--json', 'no/folder.json'], 1, 'there is no folder'),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    assert main(['data', 'info', *arguments]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('limit', ['-1', 'nan', 'inf', 'ten'])
def test_a_cost_limit_is_a_number_of_zero_or_more(limit):
    with pytest.raises(SystemExit) as caught:
        main(['data', 'info', 'sample', '--cost-limit', limit])
    assert caught.value.code == 2


def test_the_help_is_cheap():
    program = (
        'import sys\n'
        'from omnisafe_qpt.cli import main\n'
        'try: main(["data", sys.argv[1], "--help"])\n'
        'except SystemExit: pass\n'
        'print(sorted({"torch", "h5py", "matplotlib", "numpy"} & set(sys.modules)))\n'
    )
    for command in ('info', 'plot'):
        ran = subprocess.run(
            [sys.executable, '-c', program, command],
            capture_output=True,
            text=True,
            check=True,
        )
        assert 'example:' in ran.stdout
        assert ran.stdout.splitlines()[-1] == '[]'
