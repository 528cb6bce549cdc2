# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Suites, cells and the engines that run them."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import shlex
import shutil
import signal
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import cells, compare, engines, suite_runner
from benchmarks.estimate import Forecast, estimate, recorded_seconds
from benchmarks.rows import COLUMNS, FACTS, read_results
from benchmarks.suite import (
    ALGORITHMS,
    OURS,
    algorithm_defaults,
    config_hash,
    find_data,
    is_finished,
)
from benchmarks.suite_file import load_suite
from common_helpers import read_csv
from host_helpers import ENV_ID, small_options, write_dataset
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.tasks import all_tasks
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.seeds import final_seeds


SUITES = Path(cells.__file__).with_name('suites')
TINY_OPTIONS = {
    'train_cfgs': {'calibrate_episodes': 0},
} | {
    name: options
    for name, options in small_options(Path(), Path()).items()
    if name in ('algo_cfgs', 'model_cfgs')
}
TINY_OPTIONS['algo_cfgs'] = {**TINY_OPTIONS['algo_cfgs']}
del TINY_OPTIONS['algo_cfgs']['steps_per_epoch']

TINY = {
    'name': 'tiny',
    'datasets': {'BallRun': {'env_id': ENV_ID, 'file': 'BallRun.hdf5'}},
    'seeds': [3],
    'episodes': 2,
    'cost_limits': [10, 40],
    'budget': {'updates': 7},
    'epochs': 2,
    'validation_episodes': 1,
    'algorithms': {
        'VAEBC': {'options': {'model_cfgs': {'hidden_sizes': [8, 8]}}},
        'QPT': {'options': TINY_OPTIONS},
        'QPT-plain': {'algo': 'QPT', 'options': TINY_OPTIONS, 'evaluate': {'candidates': 1}},
    },
}


def write_suite(folder, **changes):
    path = folder / 'tiny.yaml'
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False), encoding='utf-8')
    return path


def options_of(folder, *more):
    arguments = [str(folder / 'tiny.yaml'), '--data-dir', str(folder)]
    arguments += ['--results', str(folder / 'results'), '--work', str(folder / 'work')]
    return compare._parser().parse_args([*arguments, '--device', 'cpu', *more])


# -- real cells -----------------------------------------------------------------------------------


class ThisProcess:
    """Runs jobs in this process, which has imported OmniSafe; the slow tests run real ones."""

    parallel = 1

    def submit(self, work):
        done = Future()
        done.set_result(('', float(cells.run_job(engines.Job.load(Path(work.command[-1]))))))
        return done

    def stop(self):
        pass


@pytest.fixture(name='done', scope='module')
def fixture_done(tmp_path_factory):
    """Return the folder of a tiny suite that has been run."""
    folder = tmp_path_factory.mktemp('tiny')
    write_dataset(folder / 'BallRun.hdf5', episodes=4)
    write_suite(folder)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, '_make_engine', lambda options: ThisProcess())
        # OmniSafe sets these for the whole process.
        patch.setenv('PYTHONHASHSEED', '0')
        patch.setattr(torch.backends.cudnn, 'enabled', torch.backends.cudnn.enabled)
        assert compare.run(options_of(folder, '--retry', '0')) == 0
        torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    return folder


def cell_files(folder, row):
    path = folder / 'results' / 'BallRun' / row / 'seed-3'
    return read_csv(path.with_suffix('.csv')), json.loads(path.with_suffix('.json').read_text())


def test_a_cell_has_a_line_for_each_episode_of_each_checkpoint_and_limit(done):
    for row in TINY['algorithms']:
        episodes, facts = cell_files(done, row)
        assert list(episodes[0]) == list(COLUMNS)
        seeds = final_seeds(3, 2)
        names = ('checkpoint', 'cost_limit', 'episode', 'seed')
        assert [tuple(line[name] for name in names) for line in episodes] == [
            (checkpoint, limit, str(episode), str(seeds[episode]))
            for checkpoint in ('last', 'best')
            for limit in ('10.0', '40.0')
            for episode in range(2)
        ]
        assert all(line['length'] == '100' for line in episodes)
        assert facts['updates'] == 6  # the epochs' multiple below 7
        assert facts['status'] == 'finished'
        asked = [(each['checkpoint'], each['cost_limit']) for each in facts.get('asked', ())]
        if row == 'VAEBC':  # which is not asked for anything
            assert not asked
        else:
            assert asked == [(which, at) for which in ('last', 'best') for at in (10.0, 40.0)]
            assert [each['target_cost'] for each in facts['asked']] == 2 * [10.0, 40.0]
        assert facts['dataset_sha256'] == file_sha256(done / 'BallRun.hdf5')
        assert facts['reference_returns'] == pytest.approx([26.34, 1327.45], abs=0.01)
        outcomes = [(line['return'], line['cost']) for line in episodes]
        assert outcomes[0] != outcomes[1]
        assert outcomes[:2] == outcomes[2:4] or row != 'VAEBC'  # whose policy no limit moves


def test_the_report_reads_what_a_cell_wrote(done):
    (results,) = read_results([done / 'results'])
    assert results.settings == [('last', 10.0), ('last', 40.0), ('best', 10.0), ('best', 40.0)]
    assert len(results.episodes) == 3 * 4 * 2
    assert set(results.cells.columns) >= set(FACTS)
    assert results.cells.converted_limit.notna().sum() == 1  # VAEBC's


def test_the_episodes_are_those_that_omnisafe_qpt_evaluate_finds(done):
    from omnisafe_qpt.evaluation.sweep import evaluate_runs

    for row, candidates in (('QPT', None), ('QPT-plain', 1)):
        episodes, _ = cell_files(done, row)
        (run,) = (done / 'work' / 'trainings').glob('*/QPT*/seed-*')
        options = {'episodes': 1, 'seed': final_seeds(3, 2).start, 'processes': 1}
        (found,) = evaluate_runs(run, [40.0], candidates=candidates, **options)
        key = {'checkpoint': 'last', 'cost_limit': '40.0', 'episode': '0'}
        (line,) = (line for line in episodes if key.items() <= line.items())
        assert float(line['return']) == found['returns'][0]


def test_rows_that_train_alike_share_one_training(done):
    trainings = sorted((done / 'work' / 'trainings').glob('*/training.json'))
    assert len(trainings) == 2
    facts = [cell_files(done, row)[1] for row in ('QPT', 'QPT-plain')]
    assert facts[0]['started'] == facts[1]['started']
    assert facts[0]['config']['training'] == facts[1]['config']['training']
    assert facts[0]['config_hash'] != facts[1]['config_hash']


def test_the_best_checkpoint_of_omnisafes_algorithms_is_chosen_by_the_same_rule(done):
    found = {row: cell_files(done, row)[1]['best'] for row in ('QPT', 'VAEBC')}
    assert found['QPT']['rule'] == found['VAEBC']['rule']
    assert found['QPT']['first_seed'] == found['VAEBC']['first_seed']
    assert [epoch['epoch'] for epoch in found['VAEBC']['epochs']] == [1, 2]


def test_what_is_finished_is_not_done_again(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in (done / 'results').rglob('seed-*')}
    assert compare.run(options_of(done)) == 0
    assert 'Finished: 3. Left: 0 cells' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (done / 'results').rglob('seed-*')} == before


def pending(folder, *more):
    options = options_of(folder, '--dry-run', *more)
    plan = compare.make_plan(load_suite(options.suite, options.updates), options)
    return [cell.row.name for cell in plan.pending]


def test_what_has_other_settings_or_data_is_done_again(done):
    try:
        write_suite(done, episodes=3)
        assert len(pending(done)) == 3
        rows = {
            **TINY['algorithms'],
            'QPT-plain': {**TINY['algorithms']['QPT-plain'], 'evaluate': {}},
        }
        write_suite(done, algorithms=rows)
        assert pending(done) == ['QPT-plain']
    finally:
        write_suite(done)
    assert pending(done) == []
    assert len(pending(done, '--updates', '8')) == 3
    other = write_dataset(done / 'other.hdf5', episodes=2, seed=1)
    assert len(pending(done, '--data', f'BallRun={other}')) == 3
    assert pending(done, '--data', f'BallRun={done / "BallRun.hdf5"}', '--only', '*/QPT') == []


def test_an_option_that_a_later_version_adds_leaves_results_as_they_are(done, monkeypatch):
    original = algorithm_defaults

    def later(value):
        def defaults(algo, env_id):
            content = original(algo, env_id)
            content['algo_cfgs'] = {**content['algo_cfgs'], **value}
            return content

        monkeypatch.setattr('benchmarks.suite.algorithm_defaults', defaults)

    later({'new_option': False})
    assert pending(done) == []
    later({'gamma': 0.9})  # of QPT; VAEBC has no such option
    assert pending(done) == ['QPT', 'QPT-plain']


def test_without_the_data_finished_cells_are_known_all_the_same(done, tmp_path):
    options = options_of(done, '--dry-run', '--data', f'BallRun={tmp_path / "absent.hdf5"}')
    plan = compare.make_plan(load_suite(options.suite), options)
    assert len(plan.finished) == 3
    assert plan.data == {'BallRun': None}


def test_the_recorded_command_repeats_the_cell(done, tmp_path):
    """With as many updates given in place of a budget, and the same training therefore."""
    _, facts = cell_files(done, 'VAEBC')
    assert facts['command'] == (
        'python -m benchmarks.compare tiny.yaml --only BallRun/VAEBC/seed-3 '
        '--data BallRun=BallRun.hdf5 --results benchmarks/results/tiny-again'
    )
    suite = load_suite(write_suite(tmp_path, budget={'seconds': 60}))
    (cell,) = suite.cells(['BallRun/VAEBC'])
    command = cells.rerun_command(cell, 40, 'BallRun.hdf5')
    assert '--updates 40' in command
    (dsrl,) = load_suite(SUITES / 'paper.yaml').cells(['BallRun/QPT/seed-0'])
    assert '--data' not in cells.rerun_command(dsrl, 9, dsrl.dataset.task.dataset_file)
    assert '--data BallRun=mine.hdf5' in cells.rerun_command(dsrl, 9, 'mine.hdf5')
    again = load_suite(tmp_path / 'tiny.yaml', updates=40)
    assert again.cells(['BallRun/VAEBC'])[0].budget == {'updates': 40}


def test_recorded_cells_tell_what_others_will_take(done, tmp_path):
    shutil.copytree(done / 'results', tmp_path / 'tiny')
    for row in ('QPT', 'QPT-plain'):  # of one training
        path = tmp_path / 'tiny' / 'BallRun' / row / 'seed-3.json'
        # A calibration may end early: how long it takes does not follow from the settings.
        path.write_text(json.dumps({**json.loads(path.read_text()), 'validate_seconds': 5000.0}))
    recorded = recorded_seconds(tmp_path / 'tiny', 'cpu')
    (cell,) = load_suite(done / 'tiny.yaml', updates=10**6).cells(['BallRun/QPT'])
    _, facts = cell_files(done, 'QPT')
    training = 10**6 * facts['train_seconds'] / facts['updates']
    assert estimate(cell, recorded, 'cpu').train == pytest.approx(training + 5000.0)
    assert not recorded_seconds(tmp_path / 'tiny', 'cuda')
    assert not recorded_seconds(tmp_path / 'elsewhere' / 'tiny', 'cpu')


def test_the_forecast_learns_from_the_jobs_that_have_ended():
    forecast = Forecast(10.0)
    forecast.learn('a', 10.0, 30.0)
    assert forecast.seconds('a', 10.0) == 30.0  # the kind is known
    # The machine takes (10 + 30) / (10 + 10) of the estimates: one job counts as if as estimated.
    assert forecast.seconds('b', 5.0) == 10.0
    forecast.learn('a', 10.0, 20.0)
    assert forecast.seconds('a', 10.0) == 25.0
    assert forecast.seconds('b', 5.0) == 10.0
    assert forecast.left([('a', 10.0, 5.0), ('b', 5.0, 0.0)], 1) == 30.0


def test_without_ended_jobs_the_forecast_is_the_estimates():
    forecast = Forecast(1.0)
    assert forecast.left([('a', 5.0, 0.0), ('b', 3.0, 0.0), ('c', 4.0, 0.0)], 2) == 7.0
    assert forecast.left([('b', 3.0, 1.0), ('c', 4.0, 40.0), ('a', 5.0, 0.0)], 2) == 7.0
    assert forecast.left([('a', 3.0, 0.0)] * 3, 2) == 6.0
    assert forecast.left([], 2) == 0.0


def test_a_training_that_is_there_takes_no_time(done):
    plan = compare.make_plan(load_suite(done / 'tiny.yaml'), options_of(done))
    cells = [cell for cell in plan.finished if cell.row.name == 'QPT']
    (kind, seconds), train = plan.expect(cells), plan.estimates[cells[0].name].train
    other = replace(plan, work=done / 'elsewhere')
    other_kind, with_training = other.expect(cells)
    assert kind != other_kind
    assert with_training == pytest.approx(seconds + train)
    assert train > 0


SMALL_MODELS = {
    **dict.fromkeys(('BCQ', 'BCQLag', 'CRR', 'CCRR', 'CCRR-fixed'), ('actor', 'critic')),
    'COptiDICE': ('actor', 'nu', 'chi'),
}


@pytest.mark.slow
def test_all_of_omnisafes_algorithms_train_within_a_budget_of_seconds(tmp_path):
    write_dataset(tmp_path / 'BallRun.hdf5', episodes=4)
    rows = {
        algo: {'options': {'model_cfgs': {name: {'hidden_sizes': [8]} for name in names}}}
        for algo, names in SMALL_MODELS.items()
    }
    write_suite(tmp_path, algorithms=rows, budget={'seconds': 5})
    assert compare.run(options_of(tmp_path, '--workers', '2', '--retry', '0')) == 0
    for algo in rows:
        _, facts = cell_files(tmp_path, algo)
        assert facts['updates'] == pytest.approx(
            5.0 / facts['probe']['seconds_per_update'], rel=0.1
        )


@pytest.mark.slow
def test_a_cell_repeated_by_its_command_has_the_same_episodes(tmp_path):
    write_dataset(tmp_path / 'BallRun.hdf5', episodes=4)
    rows = {name: TINY['algorithms'][name] for name in ('QPT', 'VAEBC')}
    write_suite(tmp_path, algorithms=rows, budget={'seconds': 2})
    assert compare.run(options_of(tmp_path)) == 0
    first = {row: cell_files(tmp_path, row) for row in rows}
    (tmp_path / 'results').rename(tmp_path / 'before')
    for row, (_, facts) in first.items():
        words = shlex.split(facts['command'])
        arguments = words[words.index('--only') : words.index('--data')]
        assert compare.run(options_of(tmp_path, *arguments)) == 0
        again, facts_again = cell_files(tmp_path, row)
        assert again == first[row][0]
        assert facts_again['probe'] is None
        assert facts_again['started'] > facts['started']


@pytest.mark.slow
def test_a_ray_cluster_on_this_machine_runs_the_same_suite(done, tmp_path):
    pytest.importorskip('ray')
    for name in ('BallRun.hdf5', 'tiny.yaml'):
        shutil.copy(done / name, tmp_path)
    only = ('--only', '*/QPT', '*/VAEBC')
    assert compare.run(options_of(tmp_path, '--engine', 'ray', '--workers', '2', *only)) == 0
    for row in ('QPT', 'VAEBC'):
        assert cell_files(tmp_path, row)[0] == cell_files(done, row)[0]


# -- jobs that are not real -----------------------------------------------------------------------


@pytest.fixture(name='pretend')
def fixture_pretend(tmp_path, monkeypatch):
    """Return a function that puts a program in the place of jobs; it gets the job's file."""
    (tmp_path / 'BallRun.hdf5').write_bytes(b'data')
    write_suite(tmp_path)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it

    def pretend(program):
        path = tmp_path / 'pretend.py'
        path.write_text(
            f'#!{sys.executable}\nimport json, os, sys, time\n'
            f'job = json.load(open(sys.argv[-1]))\n{program}\n'
        )
        path.chmod(0o755)
        monkeypatch.setattr(engines.sys, 'executable', str(path))
        return tmp_path

    return pretend


# Writes what a finished cell leaves.
FINISH = """
def finish(name):
    path = os.path.join(job['results'], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path + '.csv', 'w').write('checkpoint\\n')
    facts = {'status': 'finished', 'updates': 6, 'train_seconds': 1.0, 'evaluate_seconds': 1.0}
    facts |= {'config': {}, 'dataset_sha256': job['data_sha256']}
    facts['config_hash'] = 'HASH'
    json.dump(facts, open(path + '.json', 'w'))
""".replace('HASH', config_hash({}))


def test_a_broken_cell_is_tried_again_and_told_and_the_others_are_done(pretend, capsys):
    folder = pretend(
        FINISH
        + """
open(os.path.join(job['work'], 'tries'), 'a').write(job['cells'][0] + '\\n')
for name in job['cells']:
    if 'VAEBC' in name:
        sys.exit('no luck')
    finish(name)
""",
    )
    assert compare.run(options_of(folder, '--retry', '2')) == 1
    tries = (folder / 'work' / 'tries').read_text().splitlines()
    assert tries.count('BallRun/VAEBC/seed-3') == 3
    assert tries.count('BallRun/QPT/seed-3') == 1
    output = capsys.readouterr()
    assert '2 cells done' in output.out
    assert 'FAILED BallRun/VAEBC/seed-3' in output.err
    errors = folder / 'work' / 'tiny' / 'BallRun' / 'VAEBC' / 'seed-3.error.txt'
    assert errors.read_text() == 'no luck\nexit code 1\n'
    assert not (folder / 'results' / 'BallRun' / 'VAEBC').exists()


def test_only_what_is_left_of_a_job_is_tried_again(pretend):
    folder = pretend(
        f"""{FINISH}
open(os.path.join(job['work'], 'tries'), 'a').write(' '.join(job['cells']) + '\\n')
finish(job['cells'][0])
sys.exit(len(job['cells']) > 1)
""",
    )
    assert compare.run(options_of(folder, '--only', 'BallRun/QPT*')) == 0
    assert (folder / 'work' / 'tries').read_text().splitlines() == [
        'BallRun/QPT/seed-3 BallRun/QPT-plain/seed-3',
        'BallRun/QPT-plain/seed-3',
    ]


@pytest.mark.skipif(sys.platform == 'win32', reason='has no sessions')
def test_a_job_is_a_process_of_its_own(pretend):
    """Which imports this folder's benchmarks, uses the threads it was given, can be ended alone."""
    folder = pretend(
        f"""{FINISH}
for name in job['cells']: finish(name)
known = [os.environ['PYTHONPATH'], os.environ['OMP_NUM_THREADS'], os.getsid(0) == os.getpid()]
json.dump([*sys.argv[1:3], *known], open(os.path.join(job['work'], 'known'), 'w'))
""",
    )
    assert compare.run(options_of(folder, '--only', '*/VAEBC', '--threads', '2')) == 0
    *command, path, threads, is_leader = json.loads((folder / 'work' / 'known').read_text())
    assert command == ['-m', 'benchmarks.cells']
    assert path.split(os.pathsep)[0] == str(engines.ROOT)
    assert (threads, is_leader) == ('2', True)


COLLECTED = {
    name: {'env_id': ENV_ID, 'collect': {'episodes': 3, 'seed': 7}} for name in ('One', 'Two')
}


def collected_files(folder):
    datasets = load_suite(folder / 'tiny.yaml').datasets
    return [datasets[name].file for name in COLLECTED]


def test_a_dataset_is_collected_before_its_cells_and_after_those_of_the_one_before(pretend):
    folder = pretend(
        FINISH
        + """
path = job.get('out') or job['data']
with open(os.path.join(os.path.dirname(path), 'order'), 'a') as order:
    order.write(' '.join([os.path.basename(path), *sys.argv[1:3]]) + chr(10))
if 'out' in job:
    json.dump(job, open(path, 'w'))
else:
    for name in job['cells']: finish(name)
""",
    )
    write_suite(folder, datasets=COLLECTED, algorithms={'QPT': None})
    assert compare.run(options_of(folder, '--threads', '2')) == 0
    first, second = collected_files(folder)
    assert (folder / 'order').read_text().splitlines() == [
        f'{name} -m benchmarks.{module}'
        for name in (first, second)
        for module in ('collecting', 'cells')
    ]
    assert json.loads((folder / first).read_text()) == {
        'env_id': ENV_ID,
        'options': {'episodes': 3, 'seed': 7},
        'out': str(folder / first),
        'workers': 2,
    }
    (folder / first).unlink()  # finished cells do not need it
    assert compare.run(options_of(folder)) == 0
    assert not (folder / first).exists()


def test_other_settings_of_a_collection_are_another_file(tmp_path):
    def file_of(**changes):
        collect = {'episodes': 3, **changes}
        datasets = {'One': {'env_id': ENV_ID, 'collect': collect}}
        return load_suite(write_suite(tmp_path, datasets=datasets)).datasets['One'].file

    files = [file_of(), file_of(seed=1), file_of(max_steps=5), file_of(episodes=4)]
    assert len(set(files)) == 4
    assert file_of() == files[0]


def test_a_collection_that_fails_is_tried_again_and_the_others_are_done(pretend, capsys):
    folder = pretend(
        FINISH
        + """
if 'out' in job:
    open(job['out'] + '.tries', 'a').write('x')
    if 'One' in job['out']: sys.exit('no luck')
    open(job['out'], 'w').write('data')
else:
    for name in job['cells']: finish(name)
""",
    )
    write_suite(folder, datasets=COLLECTED, algorithms={'QPT': None})
    assert compare.run(options_of(folder, '--retry', '1')) == 1
    output = capsys.readouterr()
    assert '1 cells done' in output.out
    assert 'FAILED One/QPT/seed-3: exit code 1: no luck' in output.err
    assert (folder / f'{collected_files(folder)[0]}.tries').read_text() == 'xx'
    error = folder / 'work' / 'tiny' / 'One' / 'QPT' / 'seed-3.error.txt'
    assert error.read_text() == 'no luck\nexit code 1\n'


def test_a_job_that_is_killed_is_told(pretend, capsys):
    folder = pretend('os.kill(os.getpid(), 9)')
    assert compare.run(options_of(folder, '--retry', '0', '--only', '*/VAEBC')) == 1
    assert 'killed by SIGKILL' in capsys.readouterr().err


def is_alive(pid):
    try:
        state = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
@pytest.mark.parametrize('signal_name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_stopping_leaves_finished_cells_and_no_process(pretend, monkeypatch, capsys, signal_name):
    folder = pretend(
        f"""{FINISH}
import subprocess
if 'VAEBC' in job['cells'][0]:
    finish(job['cells'][0])
else:
    stubborn = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'
    child = subprocess.Popen([sys.executable, '-c', stubborn])
    open(os.path.join(job['work'], 'pids'), 'w').write(f'{{os.getpid()}} {{child.pid}}')
    time.sleep(60)
""",
    )
    pids = folder / 'work' / 'pids'

    def look(runner, *job, settle=suite_runner.SuiteRunner._settle):
        settle(runner, *job)
        while not (pids.is_file() and len(pids.read_text().split()) == 2):
            time.sleep(0.02)
        os.kill(os.getpid(), getattr(signal, signal_name))

    monkeypatch.setattr(suite_runner.SuiteRunner, '_settle', look)
    monkeypatch.setattr(engines, '_SECONDS_TO_END', 1.0)
    with pytest.raises(KeyboardInterrupt):
        compare.run(options_of(folder, '--workers', '2'))
    assert 'VAEBC' in capsys.readouterr().out
    assert (folder / 'results' / 'BallRun' / 'VAEBC' / 'seed-3.json').is_file()
    deadline = time.monotonic() + 60.0  # killed, a process takes a moment to end
    while any(is_alive(pid) for pid in pids.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in pids.read_text().split())


def test_as_many_jobs_run_at_a_time_as_there_are_workers(pretend):
    folder = pretend(
        f"""{FINISH}
open(os.path.join(job['work'], 'log'), 'a').write('+')
time.sleep(0.3)
for name in job['cells']: finish(name)
open(os.path.join(job['work'], 'log'), 'a').write('-')
""",
    )
    write_suite(folder, seeds=[0, 1])
    assert compare.run(options_of(folder, '--workers', '3')) == 0
    log = (folder / 'work' / 'log').read_text()
    running = [log[:at].count('+') - log[:at].count('-') for at in range(len(log) + 1)]
    assert log.count('+') == log.count('-') == 4
    assert max(running) == 3


# -- the budget -----------------------------------------------------------------------------------


def trainer_of(folder, budget, monkeypatch, seconds):
    """Return a trainer whose updates take as long as is said, and what it trained."""
    (cell,) = load_suite(write_suite(folder, budget=budget)).cells(['BallRun/QPT'])
    trainer = object.__new__(cells._Trainer)
    trainer._cell, trainer._folder = cell, folder
    learnt = []

    def learn(updates, epochs, folder, validates):
        learnt.append((updates, epochs, validates))
        folder.mkdir()
        return folder

    def progress(run):
        # Whatever is done once falls into the first half.
        updates = learnt[-1][0] / 2
        return pd.DataFrame({'Time/Update': [5.0 + updates * seconds, updates * seconds]})

    monkeypatch.setattr(trainer, '_learn', learn)
    monkeypatch.setattr(cells, '_progress', progress)
    return trainer, learnt


def test_a_budget_of_seconds_becomes_the_updates_that_fit(tmp_path, monkeypatch):
    trainer, learnt = trainer_of(tmp_path, {'seconds': 100}, monkeypatch, seconds=0.02)
    updates, probe = trainer._find_updates()
    assert updates == 5000
    assert probe == {'seconds_per_update': pytest.approx(0.02), 'timed_updates': 100}
    # Ten to begin with, then four hundredths of the budget; each twice, the second half timed.
    assert learnt == [(20, 2, False), (200, 2, False)]
    assert not (tmp_path / 'probe').exists()


def test_slow_updates_are_timed_once(tmp_path, monkeypatch):
    trainer, learnt = trainer_of(tmp_path, {'seconds': 60}, monkeypatch, seconds=16.0)
    updates, _ = trainer._find_updates()
    assert updates == 3
    assert learnt == [(20, 2, False)]


def test_a_budget_of_updates_is_taken_as_it_is(tmp_path, monkeypatch):
    trainer, learnt = trainer_of(tmp_path, {'updates': 123}, monkeypatch, seconds=1.0)
    assert trainer._find_updates() == (123, None)
    assert learnt == []


def test_the_best_checkpoint_is_calibrated_as_the_last_was(tmp_path, monkeypatch):
    trainer, _ = trainer_of(tmp_path, {'updates': 1}, monkeypatch, seconds=1.0)
    trainer._env_id, trainer._device = ENV_ID, 'cpu'
    trainer._job, trainer._data = argparse.Namespace(threads=1), tmp_path / 'BallRun.hdf5'
    calibrated, spec = [], {}
    for name in ('calibrate_run', 'calibrate_offline'):
        monkeypatch.setattr(
            cells, name, lambda *given, name=name, **_: calibrated.append((name, *given))
        )
    files = {'best': 'epoch-1.pt', 'last': 'epoch-2.pt'}
    monkeypatch.setattr(cells, 'checkpoint_path', lambda run, which: files[which])
    monkeypatch.setattr(cells, 'load_networks', lambda _: (SimpleNamespace(spec=spec), None))
    trainer._calibrate_best(tmp_path)
    assert calibrated == []  # nor was the last
    spec['calibration'] = {'episodes': 3}
    trainer._calibrate_best(tmp_path)
    spec['calibration'] = {'episodes': 20, 'method': 'model'}
    trainer._calibrate_best(tmp_path)
    expected = [('calibrate_run', 'epoch-1.pt', 3)]
    expected.append(('calibrate_offline', 'epoch-1.pt', trainer._data))
    assert calibrated == expected
    files['best'] = 'epoch-2.pt'
    trainer._calibrate_best(tmp_path)
    assert calibrated == expected


@pytest.mark.parametrize('validates', [True, False])
def test_a_probe_neither_validates_nor_calibrates(tmp_path, monkeypatch, validates):
    rows = {'QPT': {'preset': 'cpu'}}
    trainer, _ = trainer_of(tmp_path, {'updates': 1}, monkeypatch, seconds=1.0)
    trainer._cell = load_suite(write_suite(tmp_path, algorithms=rows)).cells()[0]
    trainer._algo, trainer._env_id, trainer._device, trainer._is_ours = 'QPT', ENV_ID, 'cpu', True
    trainer._job, trainer._data = argparse.Namespace(threads=1), tmp_path / 'BallRun.hdf5'
    options = trainer._options(6, 2, tmp_path, validates)
    assert options['train_cfgs']['evaluate_epoisodes'] == (1 if validates else 0)
    assert options['train_cfgs'].get('calibrate') == (None if validates else 'none')
    assert options['algo_cfgs'] == {'steps_per_epoch': 3, 'cost_limit': 10.0}


# -- suites ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('path', sorted(SUITES.glob('*.yaml')), ids=lambda path: path.stem)
def test_the_suites_that_are_shipped_can_be_read(path):
    suite = load_suite(path)
    assert suite.name == path.stem
    names = [cell.name for cell in suite.cells()]
    assert len(names) == len(set(names)) > 0


def test_the_papers_suite_is_its_protocol():
    suite = load_suite(SUITES / 'paper.yaml')
    assert len(suite.cells()) == 38 * 3 * 8  # seven methods, and the paper's own QPT
    cells = suite.cells(['CarRun', 'easysparse'])
    assert len({config_hash(cell.training(None)) for cell in cells}) == 2 * 3 * 8
    assert [dataset.env_id for dataset in suite.datasets.values()] == [
        task.env_id for task in all_tasks()
    ]
    for cell in suite.cells():
        is_metadrive = cell.dataset.task.suite == 'metadrive'
        assert cell.budget == {'updates': 200_000 if is_metadrive else 100_000}
    assert (suite.episodes, suite.cost_limits) == (20, (10.0,))


def test_the_local_suites_have_every_algorithm():
    for name in ('local', 'local-updates'):
        found = {row.algo for row in load_suite(SUITES / f'{name}.yaml').rows.values()}
        assert found == set(ALGORITHMS)


def test_the_ablation_has_the_rows_of_the_papers_table_2():
    rows = load_suite(SUITES / 'ablation.yaml').rows.values()
    switches = ('use_augmentation', 'use_reward_critic', 'use_cost_critic', 'use_ensemble')
    assert [tuple(int(row.options['algo_cfgs'][name]) for name in switches) for row in rows] == [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 1, 0),
        (1, 1, 1, 0),
        (1, 0, 0, 1),
        (0, 1, 1, 1),
        (1, 1, 1, 1),
    ]


def test_the_candidates_share_one_training_for_each_seed():
    suite = load_suite(SUITES / 'candidates.yaml')
    assert [row.evaluate['candidates'] for row in suite.rows.values()] == [1, 10, 30, 50, 100]
    trainings = {config_hash(cell.training('data')) for cell in suite.cells()}
    assert len(trainings) == len(suite.seeds)


def test_deployment_options_are_those_of_the_evaluation():
    from benchmarks.suite import DEPLOYMENT_OPTIONS
    from omnisafe_qpt.evaluation.deployment import DeploymentOptions
    from omnisafe_qpt.evaluation.sweep import evaluate_runs

    known = {*inspect.signature(evaluate_runs).parameters}
    known |= {field.name for field in dataclasses.fields(DeploymentOptions)}
    assert set(DEPLOYMENT_OPTIONS) <= known


def test_seeds_datasets_and_algorithms_can_be_fewer_for_some(tmp_path):
    datasets = {
        'BallRun': {**TINY['datasets']['BallRun'], 'seeds': [1], 'algorithms': ['QPT']},
        'CarRun': 'auto',
    }
    rows = {'QPT': None, 'VAEBC': {'seeds': [0], 'datasets': ['CarRun']}}
    suite = load_suite(write_suite(tmp_path, datasets=datasets, algorithms=rows, seeds=[0, 1]))
    assert [cell.name for cell in suite.cells()] == [
        'BallRun/QPT/seed-1',
        'CarRun/QPT/seed-0',
        'CarRun/QPT/seed-1',
        'CarRun/VAEBC/seed-0',
    ]
    assert suite.datasets['CarRun'].env_id == 'SafetyCarRun-v0'


@pytest.mark.parametrize(
    ('patterns', 'expected'),
    [
        (['BallRun/QPT/seed-3'], ['QPT']),
        (['BallRun/QPT'], ['QPT']),
        (['*/QPT*'], ['QPT', 'QPT-plain']),
        (['BallRun/QPT', 'BallRun/VAEBC'], ['VAEBC', 'QPT']),
        (['BallRun'], ['VAEBC', 'QPT', 'QPT-plain']),
    ],
)
def test_cells_are_chosen_by_patterns(tmp_path, patterns, expected):
    suite = load_suite(write_suite(tmp_path))
    assert [cell.row.name for cell in suite.cells(patterns)] == expected


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'budget': {'hours': 1}}, 'budget must be one of updates, seconds'),
        ({'budget': {'updates': 1.5}}, 'budget:updates is 1.5'),
        ({'episodes': 0}, 'episodes is 0'),
        ({'seeds': 3}, 'seeds is 3'),
        ({'name': 'a/b'}, "'a/b' cannot be the name of a folder"),
        ({'colour': 'red'}, "unknown key 'colour'"),
        ({'datasets': {}}, 'datasets must not be empty'),
        ({'datasets': {'Ball': {'file': 'x.hdf5'}}}, 'DSRL has no task of this name'),
        ({'algorithms': {'PPO': None}}, "algo is 'PPO'"),
        ({'algorithms': {'BCQ': {'preset': 'cpu'}}}, 'BCQ of OmniSafe has no preset'),
        ({'algorithms': {'QPT': {'evaluate': {'rules': 1}}}}, "unknown key 'rules'"),
        ({'algorithms': {'QPT': {'datasets': ['CarRun']}}}, "there is no 'CarRun'"),
        ({'algorithms': {'QPT': {'options': {'algo_cfgs': {'eta': 1}}}}}, 'algo_cfgs:eta'),
        ({'algorithms': {'BCQ': {'options': {'algo_cfgs': {'eta': 1}}}}}, 'algo_cfgs:eta'),
        ({'algorithms': {'QPT': {'preset': 'gpu'}}}, "unknown preset 'gpu'"),
        (
            {'algorithms': {'QPT': {'options': {'train_cfgs': {'total_steps': 1}}}}},
            'total_steps is',
        ),
        ({'algorithms': {'QPT': {'options': {'seed': 1}}}}, 'seed is for the suite'),
        ({'checkpoints': ['first']}, "checkpoints.* is 'first'"),
        ({'validation_episodes': 0}, 'the best checkpoint is chosen by validation_episodes'),
        ({'cost_limits': []}, 'cost_limits is a list of 0'),
        ({'cost_limits': [-1]}, 'cost_limits.* is -1'),
        ({'datasets': {'BallRun': {'collect': {'seed': 1}}}}, 'collect.*episodes'),
        ({'datasets': {'BallRun': {'collect': {'episodes': 3, 'out': 'x'}}}}, "unknown key 'out'"),
        ({'datasets': {'BallRun': {'collect': {'episodes': 3, 'candidates': 2}}}}, 'candidates'),
        ({'datasets': {'BallRun': {'collect': {'episodes': 3}, 'file': 'auto'}}}, 'leave out file'),
        (
            {'datasets': {'BallRun': {'collect': {'episodes': 3, 'agents': [{'algo': 'PPO'}]}}}},
            'agents.*steps',
        ),
        (
            {
                'datasets': {
                    'BallRun': {
                        'collect': {
                            'episodes': 3,
                            'agents': [{'algo': 'PPO', 'steps': 1, 'limit': 2}],
                        }
                    }
                }
            },
            "agents: unknown key 'limit'",
        ),
    ],
)
def test_a_suite_with_a_mistake_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_suite(write_suite(tmp_path, **changes))


@pytest.mark.parametrize('content', ['', '[]', 'name: tiny'])
def test_a_file_that_is_no_suite_is_refused(tmp_path, content):
    (tmp_path / 'tiny.yaml').write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=r'tiny\.yaml'):
        load_suite(tmp_path / 'tiny.yaml')


def test_a_pattern_that_fits_no_cell_is_refused(tmp_path):
    with pytest.raises(UserError, match='--only CDT: no cell of tiny has such a name'):
        load_suite(write_suite(tmp_path)).cells(['CDT'])


def test_data_that_are_not_there_are_asked_for(tmp_path):
    suite = load_suite(write_suite(tmp_path))
    dataset = suite.datasets['BallRun']
    assert find_data(dataset, {}, tmp_path, may_download=False) is None
    with pytest.raises(UserError, match='--data BallRun=FILE'):
        find_data(dataset, {}, tmp_path, may_download=True)
    options = options_of(tmp_path, '--data', 'Ball=x.hdf5', '--dry-run')
    with pytest.raises(UserError, match='give NAME=FILE with one of BallRun'):
        compare.make_plan(suite, options)


def test_the_bundled_sample_never_stands_in_for_dsrls_data(tmp_path, monkeypatch):
    """What a training takes with a warning would make a table false."""
    suite = load_suite(write_suite(tmp_path, datasets={'CarButton1': 'auto'}))

    def no_network(task, folder):
        raise UserError('no network')

    monkeypatch.setattr('omnisafe_qpt.data.download.download', no_network)
    monkeypatch.setenv('DSRL_DATASET_DIR', str(tmp_path))
    with pytest.raises(UserError, match='no network'):
        find_data(suite.datasets['CarButton1'], {}, None, may_download=True)


def test_every_algorithms_settings_leave_out_what_belongs_to_the_machine():
    rows = load_suite(SUITES / 'local.yaml').rows.values()
    for algo in ALGORITHMS:
        row = next(each for each in rows if each.algo == algo)
        settings = row.settings('SafetyBallCircle-v0')
        assert 'seed' not in settings
        assert 'device' not in settings['train_cfgs']
        assert 'steps_per_epoch' not in settings['algo_cfgs']
        assert (algo in OURS) == (row.preset == 'cpu')


def test_a_dry_run_prints_and_does_nothing(tmp_path, capsys):
    write_suite(tmp_path, seeds=[0, 1])
    assert compare.run(options_of(tmp_path, '--dry-run')) == 0
    output = capsys.readouterr().out
    assert 'BallRun/QPT-plain' in output
    assert 'Left: 6 cells of 4 trainings' in output
    assert 'Data not here yet: BallRun' in output
    assert not (tmp_path / 'results').exists()
    assert not (tmp_path / 'work').exists()


def test_is_finished_needs_both_files(done):
    suite = load_suite(done / 'tiny.yaml')
    (cell,) = suite.cells(['*/VAEBC'])
    sha256 = file_sha256(done / 'BallRun.hdf5')
    results = done / 'results'
    assert is_finished(results, cell, sha256)
    rows = results / f'{cell.name}.csv'
    moved = rows.rename(rows.with_suffix('.away'))
    try:
        assert not is_finished(results, cell, sha256)
    finally:
        moved.rename(rows)
