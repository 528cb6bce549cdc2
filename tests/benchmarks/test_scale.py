# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The scale benchmark: sweeps of one size each, their slopes, the table and the figure."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import measure, scale


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scale, 'TRANSITIONS', 2000)
    monkeypatch.setattr(scale, 'BATCH_SIZE', 4)
    monkeypatch.setattr(scale, 'UPDATES', {'batch_size': (2, 4), 'context_len': (2, 3),
                                           'embed_dim': (8, 16)})  # fmt: skip
    monkeypatch.setattr(scale, 'ACTING', {'candidates': (2, 4), 'episodes': (1, 2)})
    monkeypatch.setattr(scale, 'DATASETS', (2000, 4000))
    monkeypatch.setattr(measure, '_SHORTEST', 0.0)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['scale', *map(str, arguments)])
    return scale.main()


@pytest.mark.slow
def test_every_sweep_is_measured_written_and_drawn(small, monkeypatch, tmp_path, capsys):
    # The processes of their own are left to the test below.
    monkeypatch.setattr(
        scale,
        '_measured_apart',
        lambda value, options: scale.measure_dataset(value, torch.device('cpu'), options.rounds),
    )
    table, figure = tmp_path / 'scale.json', tmp_path / 'scale.png'
    assert run(monkeypatch, '--rounds', 2, '--json', table, '--plot', figure) == 0
    result = json.loads(table.read_text())
    assert figure.read_bytes().startswith(b'\x89PNG')
    sweeps = result['sweeps']
    assert set(sweeps) == {*scale.UPDATES, *scale.ACTING, 'transitions'}
    for name, values in {**scale.UPDATES, **scale.ACTING, 'transitions': scale.DATASETS}.items():
        assert sweeps[name]['values'] == list(values)
        for line, seconds in sweeps[name]['seconds'].items():
            assert all(value > 0 for value in seconds)
            assert sweeps[name]['spread'][line][0]['n'] == 2
            fitted = scale.slope(values, seconds)
            assert sweeps[name]['slopes'][line]['all'] == pytest.approx(fitted)
    assert sweeps['transitions']['needed_bytes'] == [4 * n * (40 + 2 + 4) for n in (2000, 4000)]
    shown = capsys.readouterr().out
    assert '| windows in a batch | update, ms |' in shown
    assert '| 4,000 |' in shown
    assert 'threads' in result['hardware']


@pytest.mark.slow
def test_a_dataset_is_measured_in_a_process_of_its_own(small):
    options = scale._parser().parse_args(['--rounds', '1'])
    found = scale._measured_apart(1500, options)
    assert found['needed_bytes'] == 4 * 1500 * (40 + 2 + 4)
    assert found['seconds']['load']['n'] == 1
    with pytest.raises(scale.UserError, match='-1 transitions failed'):
        scale._measured_apart(-1, options)


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_a_slope_is_the_exponent(power):
    sizes = (3, 10, 40)
    assert scale.slope(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak is known on Linux alone')
def test_the_peak_of_memory_is_that_of_the_work():
    def work():
        return len(bytearray(b'1') * 50_000_000)

    peak, outcome = measure.peak_of(work, torch.device('cpu'))
    assert outcome == 50_000_000
    assert peak == pytest.approx(50e6, rel=0.2)
    assert measure.peak_of(lambda: None, torch.device('cpu'))[0] < 5e6


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--threads', 0), '--threads is 0; it must be at least 1'),
        (('--rounds', 0), '--rounds is 0; it must be at least 1'),
        (('--json', 'absent/result.json'), 'there is no folder absent'),
        (('--plot', 'scale.xyz'), 'unknown kind of figure'),
        (('--device', 'cuda'), 'torch finds no CUDA device'),
    ],
)
def test_options_that_cannot_work_are_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert run(monkeypatch, *options) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count('\n') == 1
