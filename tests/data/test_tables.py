# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Logs as CSV or Parquet tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from omnisafe_qpt.cli import main
from omnisafe_qpt.data.files import open_dataset
from omnisafe_qpt.data.tables import convert_table
from omnisafe_qpt.errors import UserError


COLUMNS: dict[str, Any] = {
    'episode': 'day',
    'time': 'hour',
    'observations': ['load', 'sensor_*'],
    'actions': 'power',
    'rewards': 'profit',
    'costs': {'shed': 1.0, 'spill': 0.5},
    'terminals': 'failed',
}


def log() -> pd.DataFrame:
    """Two episodes: one that fails in its last row, one with a final observation."""
    rows = [
        # day, hour, load, sensor_1, sensor_2, power, profit, shed, spill, failed
        ('mon', 0, 1.0, 10.0, 100.0, 0.1, -1.0, 0.0, 2.0, 0),
        ('mon', 1, 2.0, 20.0, 200.0, 0.2, -2.0, 1.0, 0.0, 0),
        ('mon', 2, 3.0, 30.0, 300.0, 0.3, -3.0, 3.0, 4.0, 1),
        ('tue', 0, 4.0, 40.0, 400.0, 0.4, -4.0, 0.0, 0.0, 0),
        ('tue', 1, 5.0, 50.0, 500.0, 0.5, -5.0, 2.0, 2.0, 0),
        ('tue', 2, 6.0, 60.0, 600.0, None, None, None, None, None),
    ]
    names = ['day', 'hour', 'load', 'sensor_1', 'sensor_2', 'power', 'profit', 'shed', 'spill']
    return pd.DataFrame(rows, columns=[*names, 'failed'])


def converted(tmp_path: Path, frame: pd.DataFrame, **changes: Any) -> dict[str, np.ndarray]:
    frame.to_csv(tmp_path / 'log.csv', index=False)
    columns = {name: value for name, value in {**COLUMNS, **changes}.items() if value is not None}
    convert_table(tmp_path / 'log.csv', tmp_path / 'out.hdf5', columns, True)
    with open_dataset(tmp_path / 'out.hdf5') as arrays:
        return {name: arrays[name][:] for name in arrays}


def test_rows_become_transitions(tmp_path: Path) -> None:
    found = converted(tmp_path, log())
    expected = {
        'observations': [[1, 10, 100], [2, 20, 200], [3, 30, 300], [4, 40, 400], [5, 50, 500]],
        'actions': np.float32([[0.1], [0.2], [0.3], [0.4], [0.5]]),
        'rewards': [-1, -2, -3, -4, -5],
        'costs': [1, 1, 5, 0, 3],
        'terminals': [0, 0, 1, 0, 0],
        'timeouts': [0, 0, 0, 0, 1],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    # That of the terminal state is not in the log, and is not used.
    following = found['next_observations'][[0, 1, 3, 4], 0]
    np.testing.assert_array_equal(following, [2, 3, 5, 6])


def test_rows_in_any_order_are_sorted_by_time_within_their_episodes(tmp_path: Path) -> None:
    expected = converted(tmp_path, log())
    mixed = log().iloc[[2, 4, 0, 5, 1, 3]]
    for name, values in converted(tmp_path, mixed).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_last_row_without_a_following_observation_is_omitted(tmp_path: Path) -> None:
    frame = log().drop(columns='failed').ffill()
    frame.loc[len(frame)] = ('wed', 0, 7.0, 7.0, 7.0, 0.7, 7.0, 7.0, 7.0)
    columns = {name: COLUMNS[name] for name in COLUMNS if name != 'terminals'}
    frame.to_csv(tmp_path / 'log.csv', index=False)
    done = convert_table(tmp_path / 'log.csv', tmp_path / 'out.hdf5', columns)
    assert (done.transitions, done.terminals, done.timeouts) == (4, 0, 2)
    assert [note.split()[0] for note in done.notes[-2:]] == ['2', '1']
    assert done.notes[0] == 'observations: load, sensor_1, sensor_2'
    with open_dataset(tmp_path / 'out.hdf5') as arrays:
        np.testing.assert_array_equal(arrays['observations'][:][:, 0], [1, 2, 4, 5])
        np.testing.assert_array_equal(arrays['next_observations'][:][:, 0], [2, 3, 5, 6])
        np.testing.assert_array_equal(arrays['timeouts'][:], [0, 1, 0, 1])


def test_flags_ids_and_times_are_read_as_they_stand(tmp_path: Path) -> None:
    """Booleans beside an empty cell, an episode called NA, and dates in place of numbers."""
    expected = converted(tmp_path, log())
    frame = log().replace({'day': {'mon': 'NA', 'tue': '7'}})
    frame['failed'] = [False, False, True, False, False, None]
    dates = ['2018-01-01 9:00', '2018-01-01 10:00', '2018-01-01 11:00']
    frame['hour'] = dates * 2
    for name, values in converted(tmp_path, frame.iloc[[2, 1, 0, 5, 4, 3]]).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_terminal_state_may_be_flagged_in_its_own_row(tmp_path: Path) -> None:
    frame = log()
    frame.loc[5, 'failed'] = 1
    found = converted(tmp_path, frame)
    np.testing.assert_array_equal(found['terminals'], [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found['timeouts'], 0)


def test_a_pattern_stands_for_no_column_that_is_named_elsewhere(tmp_path: Path) -> None:
    found = converted(tmp_path, log(), observations=['*'])
    assert found['observations'].shape[1] == 3


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('day,hour,hour\n1,2,3\n', "two columns are named 'hour'"),
        ('day,hour\n1,2,3\n1,2,3\n', 'cannot be read as a csv table'),
        ('day;hour\n1;2\n', 'commas must separate the columns'),
        ('', 'cannot be read as a csv table'),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 'log.csv').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=message):
        convert_table(tmp_path / 'log.csv', tmp_path / 'out.hdf5', COLUMNS)


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    pytest.importorskip('pyarrow')
    expected = converted(tmp_path, log())
    log().to_parquet(tmp_path / 'log.parquet')
    convert_table(tmp_path / 'log.parquet', tmp_path / 'other.hdf5', COLUMNS)
    with open_dataset(tmp_path / 'other.hdf5') as arrays:
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name][:], values, err_msg=name)


@pytest.mark.parametrize(
    ('frame', 'changes', 'message'),
    [
        (log(), {'rewards': 'reward'}, "no column 'reward'; there are day, hour"),
        (log(), {'observations': ['x_*']}, r"no column 'x_\*'"),
        (log().iloc[:5], {'actions': 'day'}, "'day' holds 'mon' in line 2"),
        (log().assign(load=[1, 2, np.nan, 4, 5, 6]), {}, "'load' is empty.* line 4"),
        (log().assign(shed=[0, np.inf, 0, 0, 0, 0]), {}, "'shed' is empty, not finite.* line 3"),
        (log().assign(load=[1, 2, 1e39, 4, 5, 6]), {}, "'load' is .* too large in line 4"),
        (log().assign(shed=[0, 3e38, 0, 0, 0, 0]), {'costs': {'shed': 9}}, 'costs.* too large'),
        (log().assign(load=['1', '2', '3,5', '4', '5', '6']), {}, "'load' holds '3,5' in line 4"),
        (log().assign(hour=[0, 1, 1, 0, 1, 2]), {}, 'line 4 repeats the time'),
        (log().assign(hour=['9h', 'x', 'y', '0', '1', '2']), {}, 'neither a number nor a date'),
        (log().iloc[[0, 3, 1, 4]], {'time': None}, 'rows of an episode are not together'),
        (log().assign(day=[None, *log()['day'][1:]]), {}, "'day' has empty cells"),
        (log().assign(failed=[1, 0, 0, 0, 0, 0]), {}, "'failed' is set before the end"),
        (log().iloc[:0], {}, 'no rows'),
        (log().iloc[[0, 3]], {}, 'no episode has two rows'),
        (log(), {'colour': 'red'}, "unknown key 'colour'"),
        (log(), {'costs': {}}, 'costs is empty'),
        (log(), {'costs': {'shed': -1}}, 'costs:shed is -1'),
        (log(), {'observations': [1]}, 'observations.* is 1'),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, frame: Any, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        converted(tmp_path, frame, **changes)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'out.hdf5').exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log().to_csv(tmp_path / 'log.csv', index=False)
    (tmp_path / 'columns.yaml').write_text(yaml.safe_dump(COLUMNS), encoding='utf-8')
    words = ['data', 'convert', str(tmp_path / 'log.csv'), str(tmp_path / 'out.hdf5')]
    columns = ['--columns', str(tmp_path / 'columns.yaml')]
    assert main([*words, *columns, '--env-id', 'Offline-v0']) == 0
    assert '5 transitions, 1 into terminal states, 1 cut' in capsys.readouterr().out
    assert main(['data', 'info', str(tmp_path / 'out.hdf5')]) == 0
    for wrong in (
        words,  # no columns
        [*words, *columns],  # the file exists
        [*words, *columns, '--overwrite', '--map', 'costs=shed'],
        [*words[:3], str(tmp_path / 'out.npz'), *columns],
    ):
        capsys.readouterr()
        assert main(wrong) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
