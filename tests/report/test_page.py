# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The report: what is on the page, that it equals the run's own numbers, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import omnisafe
import pytest

from common_helpers import change_config, read_csv
from host_helpers import ENV_ID, HORIZON, small_options, train, write_dataset
from omnisafe_qpt.cli import main
from omnisafe_qpt.data.atomic import file_sha256
from omnisafe_qpt.data.augmentation import augment
from omnisafe_qpt.data.holdout import choose_held_out, split_off
from omnisafe_qpt.data.trajectories import Trajectories
from omnisafe_qpt.evaluation import sweep as limits
from omnisafe_qpt.plots import STYLE
from omnisafe_qpt.report import figures, gather, page
from omnisafe_qpt.settings.checks import parse_option
from omnisafe_qpt.settings.files import load_defaults, merge


ALL_PANELS = figures.PANELS
SECTIONS = ['limits', 'episodes', 'choice', 'training', 'dataset', 'record']


class Page(HTMLParser):
    """What a browser would find: elements, their attributes, and the text of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding='utf-8')
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {'': []}
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._section = ''
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.attributes += [(tag, name, value or '') for name, value in attrs]
        if tag == 'section':
            self._section = dict(attrs)['id']
            self.texts[self._section] = []
        elif tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or '') for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == 'section':
            self._section = ''

    def handle_data(self, data: str) -> None:
        self.texts[self._section].append(data)
        if self._open and self._open[-1] in ('td', 'th'):
            self.rows[-1][-1] += data

    def text(self, section: str = '') -> str:
        return ' '.join(' '.join(self.texts[section]).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]

    def pictures(self, section: str) -> int:
        start = self.source.index(f'<section id="{section}">')
        return self.source[start : self.source.index('</section>', start)].count('<svg')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('data') / 'ball & <run>.hdf5')


@pytest.fixture(scope='module')
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that leaves two of eight episodes out."""
    options = small_options(dataset, tmp_path_factory.mktemp('runs'), holdout_share=0.25)
    return train(options)


@pytest.fixture(scope='module')
def reported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, list[Any]]:
    """The page of that run with simulated episodes, and its numbers as JSON."""
    folder = tmp_path_factory.mktemp('report')
    arguments = ['--episodes', '2', '--cost-limit', '30', '--cost-limit', '5']
    assert report(trained, folder / 'page.html', *arguments, '--json', folder / 'rows.json') == 0
    rows = json.loads((folder / 'rows.json').read_text(encoding='utf-8'))
    return Page(folder / 'page.html'), rows


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run that a test may spoil; a page of it has one panel, which saves time."""
    panels = [panel for panel in figures.PANELS if 'Loss/Loss_imitation' in panel.columns]
    monkeypatch.setattr(figures, 'PANELS', panels)
    return shutil.copytree(trained, tmp_path / 'runs' / trained.name)


@pytest.fixture
def no_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError('nothing was to be simulated')

    monkeypatch.setattr(limits, 'evaluate_runs', refuse)


def report(runs: Path | list[Path], out: Path, *options: Any) -> int:
    runs = runs if isinstance(runs, list) else [runs]
    return main(['report', *map(str, runs), '--out', str(out), *map(str, options)])


def last_row(run: Path) -> dict[str, float]:
    return {name: float(value) for name, value in read_csv(run / 'progress.csv')[-1].items()}


# ------------------------------------------------------------------ what is on the page


def test_the_page_has_every_section_and_a_link_to_each(reported: tuple[Page, list[Any]]) -> None:
    found, _ = reported
    assert [name for tag, key, name in found.attributes if (tag, key) == ('section', 'id')] == (
        SECTIONS
    )
    assert [link for link in found.values('href') if link[1:] in SECTIONS] == [
        f'#{name}' for name in SECTIONS
    ]
    assert ENV_ID in found.text()


def test_the_results_are_those_of_the_evaluation(reported: tuple[Page, list[Any]]) -> None:
    found, rows = reported
    assert [row['cost_limit'] for row in rows] == [5.0, 30.0]
    for row in rows:
        cells = next(cells for cells in found.rows if cells[:1] == [f'{row["cost_limit"]:g}'])
        assert cells == [
            f'{row["cost_limit"]:g}',
            'yes' if row['safe'] else 'NO',
            f'{row["cost_mean"]:.1f} ± {row["cost_std"]:.1f}',
            f'{row["normalized_cost"]:.0%}',
            f'{row["unsafe_share"]:.0%}',
            f'{row["return_mean"]:.1f} ± {row["return_std"]:.1f}',
            f'{row["normalized_return"]:.3f}',
        ]
        verdict = f'Cost limit {row["cost_limit"]:g}: {"safe" if row["safe"] else "NOT safe"}'
        assert f'{verdict} Episodes cost {row["cost_mean"]:.1f} on average' in found.text()
    assert '2 episodes at each limit say little' in found.text()
    assert 'traces' not in rows[0], 'the file is as that of evaluate'


def test_the_curves_end_where_progress_csv_does(
    reported: tuple[Page, list[Any]], trained: Path
) -> None:
    found, _ = reported
    last = last_row(trained)
    assert found.pictures('training') == len(figures.PANELS)
    for panel in figures.PANELS:
        ends = ', '.join(f'{label} {last[name]:.4g}' for name, label in panel.columns.items())
        assert f'At the end: {ends}.' in found.text('training')


@pytest.mark.usefixtures('no_simulator')
@pytest.mark.parametrize('cells', ['all', 'all but the last', 'the last'])
def test_what_was_not_evaluated_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: str
) -> None:
    """Where no episode was run, progress.csv has no number."""
    rows = read_csv(run / 'progress.csv')
    for row in {'all': rows, 'all but the last': rows[:-1], 'the last': rows[-1:]}[cells]:
        row.update({name: 'nan' for name in row if name.startswith(('Metrics/', 'Validation/'))})
    with (run / 'progress.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    columns = {'Metrics/EpRet', 'Metrics/EpCost', 'Loss/Loss_imitation'}
    panels = [panel for panel in ALL_PANELS if columns & set(panel.columns)]
    monkeypatch.setattr(figures, 'PANELS', panels)
    assert report(run, tmp_path / 'page.html', '--no-simulator') == 0
    found = Page(tmp_path / 'page.html')
    assert found.pictures('training') == (1 if cells == 'all' else 3)
    assert ('Return and cost are not shown' in found.text('training')) == (cells == 'all')
    for text in found.texts.values():
        assert 'nan' not in ' '.join(text).lower().split()


def test_the_data_and_the_origin_are_told(
    reported: tuple[Page, list[Any]], trained: Path, dataset: Path
) -> None:
    found, _ = reported
    facts = {cells[0]: cells[1] for cells in found.rows if len(cells) == 2}
    assert facts['File'] == str(dataset)
    assert facts['SHA-256'] == file_sha256(dataset)
    assert facts['Episodes'] == f'6, {6 * HORIZON:,} transitions'
    assert facts['Held out of training'].startswith('2 ')
    assert facts['Relabelled'].startswith(f'{round(0.3 * 6)} ')
    assert facts['Folder'] == str(trained)
    assert facts['Seed'] == '3'
    assert facts['Updates'].startswith('10 of 10,')
    assert facts['Evaluated'] == 'epoch-2.pt'
    assert facts['Checkpoints'].startswith('2 in torch_save, the last is epoch-2.pt')
    assert re.search(r'\d+ cores?, 1 thread', facts['Hardware'])
    assert facts['algo_cfgs:candidates'] == '3'
    assert facts['model_cfgs:critic:hidden_sizes'] == '[16, 16, 16]'
    assert facts['omnisafe'] == omnisafe.__version__


def test_nothing_is_fetched_and_nothing_runs(reported: tuple[Page, list[Any]]) -> None:
    found, _ = reported
    assert not {'script', 'link', 'iframe', 'object', 'img', 'base', 'form'} & set(found.tags)
    assert '://' not in found.source
    assert '@import' not in found.source
    assert not found.values('src')
    assert all(link.startswith(('#', 'data:image/png;base64,')) for link in found.values('href'))
    assert set(re.findall(r'url\((.)', found.source)) <= {'#'}
    assert not [name for _, name, _ in found.attributes if name.startswith('on')]


def test_names_inside_are_unique_and_every_reference_is_met(
    reported: tuple[Page, list[Any]],
) -> None:
    found, _ = reported
    names = Counter(found.values('id'))
    assert names.most_common(1)[0][1] == 1
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', found.source))
    assert len(references) > 50
    assert references <= set(names)


def test_figures_take_the_colours_of_the_page(reported: tuple[Page, list[Any]]) -> None:
    found, _ = reported
    drawn = found.source[found.source.index('<main>') :].lower()
    assert not re.search(r'(?:fill|stroke): ?#', drawn)
    used = set(re.findall(r'var\(--(\w+)\)', drawn))
    assert {'blue', 'orange', 'purple', 'muted', 'line'} <= used
    for theme in re.findall(r':root \{(.*?)\}', found.source, flags=re.DOTALL):
        assert used <= set(re.findall(r'--(\w+):', theme))
    assert STYLE['grid.color'].lower() not in drawn


def test_every_figure_says_what_it_shows(reported: tuple[Page, list[Any]]) -> None:
    found, _ = reported
    figures_there = [name for tag, name, _ in found.attributes if tag == 'svg']
    assert (
        figures_there.count('role') == figures_there.count('aria-label') == found.tags.count('svg')
    )
    assert all(label for _, name, label in found.attributes if name == 'aria-label')


def test_text_from_files_is_text(reported: tuple[Page, list[Any]], run: Path) -> None:
    found, _ = reported
    assert 'run' not in found.tags
    assert 'ball &amp; &lt;run&gt;' in found.source
    change_config(run, dataset_record={'name': '<script>alert(1)</script>', 'path': '<b>'})
    out = run / 'page.html'
    assert report(run, out, '--no-simulator') == 0
    assert 'alert(1)' in Page(out).text()
    assert not {'script', 'b'} & set(Page(out).tags)


# ------------------------------------------------------------------ what is missing


def test_without_a_simulator_the_rest_is_there(
    run: Path, no_simulator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['report', str(run), '--no-simulator']) == 0
    assert str(run / 'report.html') in capsys.readouterr().out
    found = Page(run / 'report.html')
    last = last_row(run)
    assert f'in the last evaluation of training: cost {last["Metrics/EpCost"]:.1f}' in found.text()
    assert list(found.texts) == ['', *SECTIONS[3:]]
    assert [found.pictures(name) for name in SECTIONS[3:]] == [len(figures.PANELS), 1, 0]
    assert 'Nothing was simulated.' in found.text()


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (lambda path: path.unlink(), 'no longer at its path'),
        (lambda path: write_dataset(path, seed=5), 'sha256 differs'),
        (lambda path: path.write_bytes(b'gone'), 'no longer be read'),
    ],
)
def test_a_dataset_that_is_gone_or_changed_is_said_to_be(
    run: Path, dataset: Path, tmp_path: Path, spoil: Any, told: str
) -> None:
    moved = Path(shutil.copy(dataset, tmp_path / 'moved.hdf5'))
    change_config(run, dataset_record={'path': str(moved)})
    spoil(moved)
    out = tmp_path / 'page.html'
    assert report(run, out, '--no-simulator') == 0
    found = Page(out)
    assert told in found.text('dataset')
    assert found.pictures('dataset') == 0
    assert found.pictures('training') == len(figures.PANELS)
    assert file_sha256(dataset) in found.text('dataset')


def test_what_another_hook_relabelled_is_not_drawn(run: Path) -> None:
    change_config(run, algo_cfgs={'augmentation_hook': 'mine:relabel'})
    out = run / 'page.html'
    assert report(run, out, '--no-simulator') == 0
    assert 'Augmentation is not drawn: mine:relabel' in Page(out).text('dataset')
    assert 'relabelled targets' not in Page(out).text('dataset')
    assert Page(out).pictures('dataset') == 1


def test_an_unfinished_run_is_said_to_be(run: Path) -> None:
    change_config(run, train_cfgs={'total_steps': 1000})
    shutil.rmtree(run / 'torch_save')
    with (run / 'progress.csv').open('a', encoding='utf-8') as file:
        file.write('3.0,15.0,12')  # killed while it wrote
    out = run / 'page.html'
    assert report(run, out, '--no-simulator') == 0
    assert 'is not finished: 10 of 1,000 updates are done' in Page(out).text()
    assert 'none yet' in Page(out).text('record')


@pytest.mark.parametrize('has_columns', [True, False])
def test_a_run_that_was_never_evaluated_has_no_verdict(run: Path, has_columns: bool) -> None:
    rows = read_csv(run / 'progress.csv')
    with (run / 'progress.csv').open('w', newline='', encoding='utf-8') as file:
        names = [name for name in rows[0] if has_columns or not name.startswith('Metrics/')]
        writer = csv.DictWriter(file, names, extrasaction='ignore')
        writer.writeheader()
        writer.writerows({**row, **dict.fromkeys(METRICS, 'nan')} for row in rows)
    out = run / 'page.html'
    assert report(run, out, '--no-simulator') == 0
    assert 'Not evaluated yet.' in Page(out).text()


METRICS = [f'Metrics/{name}' for name in ('EpRet', 'EpCost', 'NormRet', 'NormCost')]


# ------------------------------------------------------------------ an evaluation done before


def test_an_evaluation_is_shown_without_another(
    reported: tuple[Page, list[Any]], run: Path, no_simulator: None, tmp_path: Path
) -> None:
    simulated, rows = reported
    for row in rows:
        row['run'] = f'/moved/since/{run.name}'
    others = [{**row, 'run': '/another/seed-009', 'cost_mean': 1e6} for row in rows]
    (tmp_path / 'rows.json').write_text(json.dumps([*others, *rows]), encoding='utf-8')
    out = tmp_path / 'page.html'
    assert report(run, out, '--evaluation', tmp_path / 'rows.json') == 0
    found = Page(out)
    assert found.rows[: len(rows) + 1] == simulated.rows[: len(rows) + 1]
    assert found.text('limits') == simulated.text('limits')
    assert found.pictures('limits') == 2
    assert list(found.texts) == ['', 'limits', *SECTIONS[3:]]
    assert 'The results were simulated before.' in found.text()


FIELDS = ('actions', 'rewards', 'costs', 'chosen', 'shift', 'feasible', 'cost_value')
EMPTY: dict[str, list[Any]] = {name: [] for name in FIELDS}


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        ({'zero_action': None}, 'zero_action'),
        ({'traces': [EMPTY]}, 'actions'),
        ({'traces': [{**EMPTY, 'actions': [[0.0]], 'rewards': [None]}]}, 'rewards'),
    ],
)
def test_an_evaluation_of_other_content_is_refused(
    reported: tuple[Page, list[Any]],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    told: str,
) -> None:
    rows = [{**row, **changed} for row in reported[1]]
    (tmp_path / 'rows.json').write_text(json.dumps(rows), encoding='utf-8')
    assert report(run, tmp_path / 'page.html', '--evaluation', tmp_path / 'rows.json') == 1
    assert_one_line(capsys, told)


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        ('{}', 'was not written by omnisafe-qpt evaluate --json'),
        ('[{"run": "a"}]', 'was not written by omnisafe-qpt evaluate --json'),
        ('[', 'not JSON'),
        (None, 'cannot be read'),
        ('another run', 'holds no evaluation of'),
        ('another task', 'holds no evaluation of'),
    ],
)
def test_what_is_no_evaluation_of_the_run_is_refused(
    reported: tuple[Page, list[Any]],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    told: str,
) -> None:
    changed = {'another run': {'run': '/x/seed-9'}, 'another task': {'env_id': 'SafetyCarRun-v0'}}
    if content in changed:
        content = json.dumps([{**row, **changed[content]} for row in reported[1]])
    if content is not None:
        (tmp_path / 'rows.json').write_text(content, encoding='utf-8')
    assert report(run, tmp_path / 'page.html', '--evaluation', tmp_path / 'rows.json') == 1
    assert_one_line(capsys, told)


# ------------------------------------------------------------------ several runs


def test_several_runs_are_averaged(run: Path, no_simulator: None) -> None:
    """The second run is the first with other numbers and seed."""
    other = shutil.copytree(run, run.with_name('seed-004-later'))
    change_config(other, seed=4)
    text = (other / 'progress.csv').read_text(encoding='utf-8').splitlines()
    number = text[0].split(',').index('Loss/Loss_imitation')
    cells = text[-1].split(',')
    cells[number] = '7.5'
    (other / 'progress.csv').write_text('\n'.join([*text[:-1], ','.join(cells)]) + '\n')
    assert main(['report', str(run), str(other), '--no-simulator']) == 0
    found = Page(run.parent / 'report.html')
    mean = (last_row(run)['Loss/Loss_imitation'] + 7.5) / 2
    assert f'squared error {mean:.4g} (mean over runs)' in found.text('training')
    assert ['seed', '3', '4'] in found.rows
    assert '2 runs, seeds 3, 4' in found.text()
    assert found.pictures('dataset') == 1, 'both have the same dataset'


def test_the_mean_of_curves_is_taken_where_all_have_a_value() -> None:
    curves = [
        (np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0])),
        (np.array([20.0, 30.0, 40.0]), np.array([4.0, 9.0, 5.0])),
    ]
    steps, means = figures._mean_curve(curves)
    assert steps.tolist() == [20, 30]
    assert means.tolist() == [3, 6]


def test_runs_are_drawn_pale_behind_their_mean() -> None:
    from matplotlib.figure import Figure

    steps = np.array([10.0, 20.0])
    curves = [(steps, np.array([1.0, 2.0])), (steps, np.array([3.0, 6.0]))]
    axes = Figure().add_subplot()
    figures._draw_curves(axes, curves, 'loss', figures.BLUE, '-')
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 2], [3, 6], [2, 4]]
    assert [line.get_alpha() for line in axes.lines[:2]] == [0.4, 0.4]
    assert axes.lines[2].get_alpha() is None
    assert axes.lines[2].get_label() == 'loss'


# ------------------------------------------------------------------ what is drawn


def test_relabelled_targets_are_those_of_training(trained: Path, dataset: Path) -> None:
    (view,) = gather.read_datasets(gather.read_runs([str(trained)]))
    loaded = Trajectories.load(dataset)
    left, _ = split_off(loaded, choose_held_out(loaded, 0.25))
    rows, _ = augment(left, 0.3, seed=3)
    added = rows.select(slice(len(left.rows), None))
    wanted = np.stack(
        [
            loaded.table[added.starts, -1] + added.cost_shift,
            loaded.table[added.starts, -2] + added.return_shift,
        ],
        axis=1,
    )
    assert len(wanted) == 2
    np.testing.assert_allclose(view.relabelled.targets, wanted, rtol=1e-5)
    np.testing.assert_allclose(view.episodes.returns, left.returns, rtol=1e-5)


def traces(generator: np.random.Generator, lengths: list[int]) -> Iterator[dict[str, list[Any]]]:
    for length in lengths:
        yield {
            'costs': generator.integers(0, 3, length).tolist(),
            'chosen': generator.integers(0, 3, length).tolist(),
            'shift': generator.normal(size=length).tolist(),
            'feasible': (generator.random(length) < 0.5).tolist(),
            'cost_value': generator.random(length).tolist(),
        }


def test_episodes_are_told_apart_by_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, 'to_svg', lambda figure, *_: drawn.append(figure) or '')
    episodes = list(traces(np.random.default_rng(0), [30, 40, 20]))
    costs = [sum(trace['costs']) for trace in episodes]
    limit = float(sorted(costs)[1])
    result = gather.LimitResult(limit, [{'costs': costs, 'traces': episodes}])
    with figures.open_studio() as studio:
        (picture,) = studio.costs_over_time([result])
    assert picture.caption == '3 of 3 episodes, 1 of them over the budget.'
    (axes,) = drawn[0].axes
    lines = axes.lines[:3]
    assert [line.get_ydata()[-1] for line in lines] == costs
    assert [len(line.get_ydata()) for line in lines] == [31, 41, 21]
    is_over = [line.get_color() == figures.ORANGE for line in lines]
    assert is_over == [cost > limit for cost in costs]
    assert set(axes.lines[3].get_ydata()) == {limit}


def test_the_share_over_time_counts_episodes_that_still_run() -> None:
    episodes = [[True, False, True, True], [True, True], [False, False, True]]
    moments, shares = figures._mean_over_time(episodes)
    assert moments.tolist() == [0.5, 1.5, 2.5, 3.5]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 1.0, 1.0])


def test_expected_costs_stand_beside_what_came_and_what_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(figures, 'to_svg', lambda figure, *_: drawn.append(figure) or '')
    episodes = list(traces(np.random.default_rng(2), [4, 4]))
    result = gather.LimitResult(9.0, [{'costs': [0, 0], 'traces': episodes}])
    with figures.open_studio() as studio:
        studio.expected_costs([result])
    costs = [trace['costs'] for trace in episodes]
    wanted = {
        'left of the budget': [[9.0 - sum(each[:step]) for step in range(4)] for each in costs],
        'expected by the critics': [trace['cost_value'] for trace in episodes],
        'what came': [[sum(each[step:]) for step in range(4)] for each in costs],
    }
    lines = {line.get_label(): line.get_ydata() for line in drawn[0].axes[0].lines}
    assert list(lines) == list(wanted)
    for label, values in wanted.items():
        np.testing.assert_allclose(lines[label], np.mean(values, axis=0))


def test_the_choice_is_told_in_shares_of_steps() -> None:
    episodes = list(traces(np.random.default_rng(1), [50, 50]))
    for trace in episodes:
        trace['shift'] = [0.0 if chosen == 0 else 1.0 for chosen in trace['chosen']]
    chosen = np.concatenate([trace['chosen'] for trace in episodes])
    result = gather.LimitResult(10.0, [{'costs': [1.0, 2.0], 'traces': episodes}])
    with figures.open_studio() as studio:
        (picture,) = studio.chosen_shifts([result])
    assert f'selected at {np.mean(chosen == 0):.0%} of steps' in picture.caption
    assert f'higher target at {np.mean(chosen != 0):.0%}, a lower one at 0%' in picture.caption


def test_only_losses_over_more_than_a_decade_get_a_logarithmic_scale() -> None:
    assert figures._spans_decades(np.array([0.1, 2.0, np.nan]))
    assert not figures._spans_decades(np.array([0.1, 0.9]))
    assert not figures._spans_decades(np.array([0.0, 50.0]))
    assert not figures._spans_decades(np.array([np.nan]))


def test_the_command_trains_with_the_same_settings(trained: Path) -> None:
    (run,) = gather.read_runs([str(trained)])
    defaults = load_defaults(ENV_ID)
    words = run.command.replace('\\\n', '').split()
    assert words[:6] == ['omnisafe', 'train', '--algo', 'QPT', '--env-id', ENV_ID]
    values = shlex.split(run.command.replace('\\\n', ''))[6:]
    assert values[::2] == ['--custom-cfgs'] * (len(values) // 2)
    found = defaults
    for key, value in zip(values[1::4], values[3::4]):
        found = merge(found, parse_option(key, value, defaults))
    flat = gather.flatten(found)
    differing = {key for key, value in run.options.items() if flat[key] != value}
    of_the_machine = {
        *('train_cfgs:device', 'train_cfgs:accelerate', 'train_cfgs:evaluate_processes'),
        'logger_cfgs:log_dir',
    }
    assert differing == of_the_machine


# ------------------------------------------------------------------ what is refused


def assert_one_line(capsys: pytest.CaptureFixture[str], told: str) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('Error: ')
    assert told in line


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (shutil.rmtree, 'no such run folder'),
        (lambda run: (run / 'config.json').unlink(), 'not a run folder'),
        (lambda run: (run / 'config.json').write_text('{'), 'not JSON'),
        (lambda run: change_config(run, algo='PPO'), 'a run of PPO; a report is about'),
        (lambda run: (run / 'progress.csv').unlink(), 'has no progress.csv'),
        (lambda run: (run / 'progress.csv').write_text('Train/Epoch\n'), 'no epoch is finished'),
        (lambda run: (run / 'progress.csv').write_text('a\nb\n'), 'cannot be read'),
    ],
)
def test_what_is_no_run_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, told: str
) -> None:
    spoil(run)
    assert report(run, tmp_path / 'page.html', '--no-simulator') == 1
    assert_one_line(capsys, told)
    assert not (tmp_path / 'page.html').exists()


def test_runs_of_two_tasks_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(run, run.with_name('seed-004-later'))
    change_config(other, env_id='SafetyCarRun-v0')
    assert report([run, other], run / 'page.html', '--no-simulator') == 1
    assert_one_line(capsys, 'a report is about one task')


def test_contradicting_options_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run, run / 'page.html', '--no-simulator', '--episodes', 3) == 1
    assert_one_line(capsys, 'leave out')
    with pytest.raises(SystemExit, match='2'):
        report(run, run / 'page.html', '--no-simulator', '--evaluation', 'rows.json')
    with pytest.raises(SystemExit, match='2'):
        report(run, run / 'page.html', '--cost-limit', '-1')


def test_without_a_checkpoint_the_way_out_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / 'torch_save')
    assert report(run, run / 'page.html') == 1
    assert_one_line(capsys, '--no-simulator reports without episodes')


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    run: Path, tmp_path: Path, no_simulator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(run, tmp_path / 'absent' / 'page.html') == 1
    assert_one_line(capsys, 'there is no folder')
    assert report(run, tmp_path) == 1
    assert_one_line(capsys, 'is a folder')


def test_an_existing_page_stays_until_the_new_one_is_complete(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / 'page.html'
    out.write_text('old', encoding='utf-8')
    with monkeypatch.context() as patched:
        patched.setattr(page, 'make_page', fail)
        assert report(run, out, '--no-simulator') == 130
    assert out.read_text(encoding='utf-8') == 'old'
    assert report(run, out, '--no-simulator') == 0
    assert out.read_text(encoding='utf-8').startswith('<!DOCTYPE html>')
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['page.html']
