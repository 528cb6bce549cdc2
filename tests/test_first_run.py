# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``make train``: the commands that it runs, and that they fit together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from omnisafe_qpt.data.resolve import SAMPLE_ENV_IDS


pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='needs make')

ROOT = Path(__file__).resolve().parent.parent
LIMITS = [5.0, 10.0, 20.0, 40.0]

# Stands in for both commands: keeps its arguments, and leaves what training leaves.
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$PWD/log"
case "$0 $*" in *"$FAIL"*) exit 3 ;; esac
case "$0" in *omnisafe) mkdir -p "runs/train/QPT-{$5}-sample/seed-000-new" ;; esac
"""


def make_train(place, *variables, **environment):
    """Run ``make train`` in a folder, without setting up."""
    command = ['make', '--file', str(ROOT / 'Makefile'), '--directory', str(place)]
    command += ['--assume-old', 'setup', 'train', f'VENV={place / "venv"}', *variables]
    # These tests may themselves run under make, whose flags are not meant for this one.
    own = {key: value for key, value in os.environ.items() if key != 'MAKEFLAGS'}
    return subprocess.run(command, env={**own, **environment}, capture_output=True, text=True)


def install(place, name, script):
    path = place / 'venv' / 'bin' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding='utf-8')
    path.chmod(0o755)


@pytest.fixture(name='place')
def fixture_place(tmp_path):
    for name in ('omnisafe', 'omnisafe-qpt'):
        install(tmp_path, name, RECORDER)
    return tmp_path


@pytest.mark.parametrize('env_id', SAMPLE_ENV_IDS)
def test_the_run_that_was_trained_is_evaluated_and_reported(place, env_id):
    old = place / f'runs/train/QPT-{{{env_id}}}-sample/seed-000-older-by-an-hour'
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    variables = [] if env_id == SAMPLE_ENV_IDS[0] else [f'ENV={env_id}']
    done = make_train(place, *variables, ENV='/etc/shinit', FAIL='nothing')
    assert done.returncode == 0, done.stderr
    train, evaluate, report = (place / 'log').read_text(encoding='utf-8').splitlines()
    assert train.startswith(f'omnisafe train --algo QPT --env-id {env_id} ')
    assert 'train_cfgs:dataset --custom-cfgs sample' in train
    run = old.with_name('seed-000-new').relative_to(place)
    words = evaluate.split()
    assert words[:3] == ['omnisafe-qpt', 'evaluate', str(run)]
    limits = [float(word) for option, word in pairwise(words) if option == '--cost-limit']
    assert limits == LIMITS
    assert report.split()[:3] == ['omnisafe-qpt', 'report', str(run)]
    assert words[words.index('--json') + 1] == report.split()[-1]
    assert words[words.index('--plot') + 1] in done.stdout


@pytest.mark.parametrize(('step', 'number'), [('train', 1), ('evaluate', 2), ('report', 3)])
def test_a_step_that_fails_fails_the_whole(place, step, number):
    done = make_train(place, FAIL=f' {step} ' if step == 'train' else f'omnisafe-qpt {step} ')
    assert done.returncode != 0
    assert len((place / 'log').read_text(encoding='utf-8').splitlines()) == number
    assert 'Next' not in done.stdout


@pytest.mark.slow
def test_it_ends_with_a_table_a_plot_and_a_report(tmp_path):
    """The real commands, too short to learn or to certify anything."""
    small = {
        'train_cfgs:total_steps': 40,
        'algo_cfgs:steps_per_epoch': 20,
        'algo_cfgs:candidates': 2,
        'train_cfgs:calibrate_episodes': 2,
        'train_cfgs:evaluate_epoisodes': 1,
        'train_cfgs:final_evaluate_episodes': 1,
    }
    options = ' '.join(f'--custom-cfgs {key} --custom-cfgs {value}' for key, value in small.items())
    commands = Path(sys.executable).parent
    install(tmp_path, 'omnisafe', f'#!/bin/sh\nexec "{commands}/omnisafe" "$@" {options}\n')
    few = '[ "$1" = report ] || set -- "$@" --episodes 2'
    install(tmp_path, 'omnisafe-qpt', f'#!/bin/sh\n{few}\nexec "{commands}/omnisafe-qpt" "$@"\n')
    done = make_train(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.glob('runs/train/QPT-{SafetyBallCircle-v0}-sample/seed-*')
    rows = json.loads((run / 'limits.json').read_text(encoding='utf-8'))
    assert [row['cost_limit'] for row in rows] == LIMITS
    assert (run / 'limits.png').read_bytes().startswith(b'\x89PNG')
    assert (run / 'report.html').stat().st_size > 10_000
    for row in rows:
        assert f'{row["return_mean"]:.1f} ± ' in done.stdout
    for name in ('limits.png', 'report.html'):
        assert str(run.relative_to(tmp_path) / name) in done.stdout
