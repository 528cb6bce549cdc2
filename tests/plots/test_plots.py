# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the figures show, read back from what matplotlib was given, and where they are written."""

from __future__ import annotations

import json
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from omnisafe_qpt.cli import main
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.hdf5_writer import write_hdf5
from omnisafe_qpt.data.resolve import sample_file
from omnisafe_qpt.data.scan import EpisodeTable
from omnisafe_qpt.data.summary import summarize
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.plots import draw_limits, plot_limits, plot_return_cost, relabel, save_figure
from omnisafe_qpt.settings.files import load_defaults


def table(returns, costs):
    number = len(returns)
    return EpisodeTable(
        starts=10 * np.arange(number),
        lengths=np.full(number, 10),
        returns=np.asarray(returns, dtype=np.float64),
        costs=np.asarray(costs, dtype=np.float64),
        ends=np.full(number, 'time limit'),
    )


def random_table(number, seed=0):
    generator = np.random.default_rng(seed)
    costs = generator.integers(0, 60, number)
    return table(5 * costs**0.5 + generator.normal(size=number), costs)


def scatter_axes(figure):
    (axes,) = (axes for axes in figure.axes if axes.get_xlabel() == 'cost of an episode')
    return axes


def dots(figure, label):
    """The (cost, return) pairs of the dots whose label begins so."""
    (found,) = (
        item
        for item in scatter_axes(figure).collections
        if isinstance(item, PathCollection) and item.get_label().startswith(label)
    )
    return {tuple(pair) for pair in np.asarray(found.get_offsets()).tolist()}


def line(figure, label):
    (found,) = (item for item in scatter_axes(figure).lines if item.get_label().startswith(label))
    return found


def test_each_episode_is_a_dot_told_apart_by_the_limit():
    episodes = random_table(80)
    episodes.costs[:3] = 20
    figure = plot_return_cost(episodes, 'mine', cost_limit=20)
    pairs = set(zip(episodes.costs.tolist(), episodes.returns.tolist()))
    safe = {pair for pair in pairs if pair[0] <= 20}
    assert dots(figure, 'cost at most 20') == safe
    assert dots(figure, 'cost above 20') == pairs - safe
    assert set(line(figure, 'cost limit 20').get_xdata()) == {20}
    assert figure.get_suptitle() == 'mine: 80 episodes, 800 transitions'


def test_the_frontier_is_a_step_line_to_the_right_edge():
    figure = plot_return_cost(table([3, 1, 9, 5, 4], [2, 2, 40, 7, 30]), 'mine', cost_limit=10)
    drawn = line(figure, 'frontier')
    right = scatter_axes(figure).get_xlim()[1]
    assert drawn.get_drawstyle() == 'steps-post'
    assert list(zip(*drawn.get_data())) == [(2, 3), (7, 5), (40, 9), (right, 9)]
    assert line(figure, 'target return 5').get_data() == ([10], [5])


def test_a_limit_below_every_episode_falls_back_to_the_cheapest():
    figure = plot_return_cost(table([3, 9], [20, 40]), 'mine', cost_limit=10)
    star = line(figure, 'target return 3 (cheapest episode)')
    assert star.get_data() == ([10], [3])


@pytest.mark.parametrize(('fraction', 'seed'), [(0.3, 0), (0.3, 7), (2.0, 0), (0.0, 0)])
def test_relabelling_is_that_of_training(tmp_path, make_arrays, fraction, seed):
    lengths = np.random.default_rng(5).integers(5, 40, 50).tolist()
    path = tmp_path / 'data.hdf5'
    write_hdf5(path, make_arrays(lengths))
    loaded = Trajectories.load(path)
    rows, _ = augment(loaded, fraction, seed)
    added = rows.select(slice(len(loaded.rows), None))
    sources = loaded.table[added.starts][:, [-1, -2]].double().numpy()
    shifts = np.stack([added.cost_shift.numpy(), added.return_shift.numpy()], axis=1)
    found = relabel(summarize(path).episodes, fraction, seed)
    assert len(found) == round(fraction * 50)
    np.testing.assert_allclose(found.sources, sources, atol=1e-5)
    np.testing.assert_allclose(found.targets, sources + shifts, atol=1e-4)


def test_relabelled_targets_lie_above_the_frontier_and_lines_lead_to_them():
    episodes = random_table(200)
    relabelled = relabel(episodes, 0.3, seed=1)
    figure = plot_return_cost(episodes, 'mine', 10, relabelled)
    assert dots(figure, 'relabelled targets: 60') == {
        tuple(pair) for pair in relabelled.targets.tolist()
    }
    (lines,) = (
        item for item in scatter_axes(figure).collections if isinstance(item, LineCollection)
    )
    expected = np.stack([relabelled.sources, relabelled.targets], axis=1)
    np.testing.assert_array_equal(lines.get_segments(), expected)
    episodes_drawn = set(zip(episodes.costs.tolist(), episodes.returns.astype(np.float32).tolist()))
    assert episodes_drawn.issuperset(tuple(pair) for pair in relabelled.sources.tolist())
    for cost, value in relabelled.targets:
        assert value >= episodes.frontier.target_return(cost) - 1e-5


def test_many_relabelled_episodes_have_no_lines():
    episodes = random_table(50)
    figure = plot_return_cost(episodes, 'mine', 10, relabel(episodes, 10.0, seed=0))
    kinds = [type(item) for item in scatter_axes(figure).collections]
    assert LineCollection not in kinds
    assert len(dots(figure, 'relabelled targets: 500')) == 500


def test_histograms_count_every_episode():
    episodes = random_table(120)
    figure = plot_return_cost(episodes, 'mine', 10)
    top, side = (axes for axes in figure.axes if axes is not scatter_axes(figure))
    assert sum(patch.get_height() for patch in top.patches) == 120
    assert sum(patch.get_width() for patch in side.patches) == 120


def test_episodes_with_nan_are_left_out_and_the_title_says_so():
    episodes = table([1, np.nan, 3, 4], [0, 5, np.inf, 20])
    figure = plot_return_cost(episodes, 'mine', 10, relabel(episodes, 1.0, 0))
    assert dots(figure, 'cost at most') == {(0, 1)}
    assert dots(figure, 'cost above') == {(20, 4)}
    assert len(dots(figure, 'relabelled targets: 2')) == 2
    assert figure.get_suptitle().endswith('(2 with NaN left out)')
    nothing = table([np.nan], [1])
    with pytest.raises(UserError, match='mine: no episode has a finite return and cost'):
        plot_return_cost(nothing, 'mine', 10, relabel(nothing, 0.3, 0))


@pytest.mark.parametrize(
    'episodes',
    [
        table([3.3], [50]),
        table([0.0] * 30, [0.0] * 30),
        table(-1e5 * np.arange(1, 41), 1e4 + np.arange(40)),
        random_table(5000),
    ],
    ids=['single', 'all alike and free', 'all unsafe', 'many'],
)
def test_no_text_is_cut_off(episodes):
    figure = plot_return_cost(episodes, 'dataset-of-mine', 10, relabel(episodes, 0.3, 0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    (legend,) = figure.legends
    axes = scatter_axes(figure)
    for artist in (legend, axes.xaxis.label, axes.yaxis.label, *figure.texts):
        box = artist.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert not legend.get_window_extent(renderer).overlaps(
        axes.xaxis.label.get_window_extent(renderer),
    )


def test_the_format_follows_the_suffix(tmp_path):
    figure = plot_return_cost(random_table(20), 'mine', 10)
    for suffix, head in (('.png', b'\x89PNG'), ('.pdf', b'%PDF'), ('.svg', b'<?xml')):
        path = tmp_path / f'figure{suffix}'
        save_figure(figure, path)
        assert path.read_bytes().startswith(head)
    with pytest.raises(UserError, match=r'figure\.jpeg: unknown kind of figure'):
        save_figure(figure, tmp_path / 'figure.jpeg')
    assert len(list(tmp_path.iterdir())) == 3


def test_settings_of_matplotlib_stay_as_they_were(tmp_path):
    with matplotlib.rc_context({'font.size': 3.0, 'savefig.dpi': 30.0}):
        before = dict(matplotlib.rcParams)
        save_figure(plot_return_cost(random_table(20), 'mine', 10), tmp_path / 'figure.png')
        assert dict(matplotlib.rcParams) == before


def test_settings_of_the_process_do_not_show(tmp_path):
    paths = tmp_path / 'usual.svg', tmp_path / 'other.svg'
    for path, set_before in zip(paths, ({}, {'font.size': 3.0, 'axes.facecolor': 'red'})):
        with matplotlib.rc_context({**set_before, 'svg.hashsalt': 'same'}):
            save_figure(plot_return_cost(random_table(20), 'mine', 10), path)
    assert '#ff0000' not in paths[1].read_text()
    assert 'font: 3px' not in paths[1].read_text()
    sizes = [path.stat().st_size for path in paths]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_no_window_is_asked_for(tmp_path):
    program = (
        'import sys\n'
        'from omnisafe_qpt.cli import main\n'
        'assert main(["data", "plot", "sample", "--out", "figure.png"]) == 0\n'
        'assert "matplotlib.pyplot" not in sys.modules\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ''
    assert (tmp_path / 'figure.png').stat().st_size > 10_000


def test_the_command_draws_what_training_would_relabel(tmp_path, capsys):
    drawn = []
    for seed in ('0', '1'):
        arguments = ['--out', tmp_path / 'a.svg', '--seed', seed, '--json', tmp_path / 'a.json']
        assert main(['data', 'plot', 'sample:CarButton1', *map(str, arguments)]) == 0
        drawn.append(json.loads((tmp_path / 'a.json').read_text(encoding='utf-8')))
    defaults = load_defaults('SafetyCarButton1-v0')['algo_cfgs']
    number = round(defaults['augmentation_fraction'] * 71)
    assert f'relabelled: {number}' in capsys.readouterr().out
    assert drawn[0]['cost_limit'] == defaults['cost_limit']
    assert len(drawn[0]['relabelled_costs']) == number
    assert drawn[0]['relabelled_costs'] != drawn[1]['relabelled_costs']
    loaded = Trajectories.load(sample_file('SafetyCarButton1-v0'))
    assert drawn[0]['episode_returns'] == pytest.approx(loaded.returns.tolist(), abs=1e-5)
    assert drawn[0]['target_return'] == pytest.approx(loaded.frontier.target_return(10), abs=1e-5)
    assert 'cost limit 10' in (tmp_path / 'a.svg').read_text(encoding='utf-8')


def test_the_command_takes_another_limit_and_no_augmentation(tmp_path):
    arguments = ['--cost-limit', '40', '--augmentation', '0', '--out', tmp_path / 'a.svg']
    assert (
        main(['data', 'plot', str(sample_file('SafetyCarButton1-v0')), *map(str, arguments)]) == 0
    )
    text = (tmp_path / 'a.svg').read_text(encoding='utf-8')
    assert 'cost limit 40' in text
    assert 'relabelled' not in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['sample', '--out', 'a.jpg'], 'a.jpg: unknown kind of figure; name it .png, .pdf, .svg'),
        (['sample', '--out', 'no/a.png'], '--out no/a.png: there is no folder no'),
        (['sample', '--out', 'a.png', '--augmentation', '-1'], 'augmentation fraction is -1.0'),
        (['nowhere', '--out', 'a.png'], 'there is no file nowhere'),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(['data', 'plot', *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert not list(tmp_path.iterdir())


# -- return and cost against the limit ------------------------------------------------------------


def limit_rows(limits=(5.0, 10.0, 40.0), runs=('a', 'b'), env_id='Task-v0', episodes=4):
    """Rows as `evaluate` gives them, with their limits in no order."""
    generator = np.random.default_rng(0)
    return [
        {
            'env_id': env_id,
            'run': run,
            'checkpoint': 'epoch-1.pt',
            'cost_limit': limit,
            'target_return': 100.0 + limit,
            'episodes': episodes,
            'returns': generator.uniform(50, 90, episodes).tolist(),
            'costs': generator.uniform(0, limit, episodes).tolist(),
            'reference_returns': [10.0, 210.0],
        }
        for run in runs
        for limit in reversed(limits)
    ]


def drawn_limits(rows):
    axes = Figure().subplots(2)
    draw_limits(*axes, rows)
    return axes


def mean_and_bars(axes):
    """The points of the thick line, and the ends of its bars."""
    (container,) = axes.containers
    points, _, (bars,) = container.lines
    return np.array(points.get_data()), np.array(bars.get_segments())[:, :, 1]


def test_lines_are_means_over_runs_and_bars_the_spread_over_episodes():
    rows = limit_rows()
    for axes, name in zip(drawn_limits(rows), ('returns', 'costs')):
        (limits, means), bars = mean_and_bars(axes)
        assert limits.tolist() == [5, 10, 40]
        for limit, mean, bar in zip(limits, means, bars):
            values = np.array([row[name] for row in rows if row['cost_limit'] == limit])
            values = (values - 10) / 200 if name == 'returns' else values
            assert mean == pytest.approx(values.mean())
            assert bar == pytest.approx([mean - values.std(), mean + values.std()])


def test_no_bar_goes_below_no_cost():
    rows = limit_rows()
    for row in rows:
        row['costs'] = [0.0, 0.0, 0.0, 8.0]
    (_, means), bars = mean_and_bars(drawn_limits(rows)[1])
    assert means.tolist() == [2, 2, 2]
    assert bars[:, 0].tolist() == [0, 0, 0]


def test_each_run_has_a_thin_line_if_there_are_several():
    rows = limit_rows(runs=('a', 'b', 'c'))
    axes = drawn_limits(rows)[1]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert len(thin) == 3
    for run, line in zip('abc', thin):
        own = [np.mean(row['costs']) for row in rows if row['run'] == run]
        assert list(line.get_ydata()) == pytest.approx(own[::-1])
    axes = drawn_limits(limit_rows(runs=('a',)))[1]
    assert not [line for line in axes.lines if line.get_linewidth() < 1]


def test_the_diagonal_and_what_was_asked_for_are_shown():
    return_axes, cost_axes = drawn_limits(limit_rows())
    (wanted,) = (line for line in return_axes.lines if line.get_label() == 'target return')
    assert list(wanted.get_xdata()) == [5, 10, 40]
    assert list(wanted.get_ydata()) == pytest.approx([0.475, 0.5, 0.65])
    (diagonal,) = (line for line in cost_axes.lines if line.get_label() == 'cost = limit')
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert diagonal.get_xdata()[0] == 0
    assert diagonal.get_xdata()[-1] == cost_axes.get_xlim()[1] > 40
    assert cost_axes.get_ylim()[1] > 40, 'safe costs are seen to lie below the diagonal'
    assert return_axes.get_title() == 'Task-v0: 2 runs, 4 episodes a limit'


@pytest.mark.parametrize('limits', [(5.0,), (0.0,), (0.0, 10.0)])
def test_few_limits_can_be_drawn_and_tasks_have_columns(tmp_path, limits):
    rows = limit_rows(limits) + limit_rows(limits, env_id='Other-v0')
    path = tmp_path / 'limits.svg'
    plot_limits(rows, str(path))
    text = path.read_text()
    assert text.count('Task-v0: 2 runs') == text.count('Other-v0: 2 runs') == 1
    assert matplotlib.rcParams['figure.figsize'] == matplotlib.rcParamsDefault['figure.figsize']
