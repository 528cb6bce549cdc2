# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the report says about a suite: tables, the notes beneath them, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.differences import find_differences
from benchmarks.notes import notes, numbered
from benchmarks.origin import budgets, origin
from benchmarks.paper import find_paper_score
from benchmarks.rows import Results
from benchmarks.statistics import (
    REPETITIONS,
    Estimate,
    Interval,
    TaskStatistic,
    bootstrap_intervals,
    interquartile_mean,
    mean_of_tasks,
    median_of_tasks,
)
from benchmarks.summary import DECIMALS, Average, Board, Score
from benchmarks.sweeps import varied_settings
from benchmarks.tables import (
    BEST_SIGN,
    NOT_RUN,
    Block,
    Entry,
    Heading,
    Mark,
    Picture,
    Points,
    Table,
)
from omnisafe_qpt.runner import NO_SAFE_TARGET


# How the tables are to be read; once above them all.
LEGEND = (
    'Normalised return / cost over the limit: means over seeds of means over episodes. **Bold**: '
    f'safe, the mean cost is within the limit. {BEST_SIGN}: of the safe rows the one with the '
    f'highest return; those equal to {DECIMALS} decimals share it. Plain: unsafe. No safe target: '
    'the calibration found nothing within the limit, so that every action is zero; a figure with '
    'such seeds or tasks in it is never marked.'
)
_ALL_TASKS = 'All tasks'
# Longer lists are cut, so that a warning stays a line.
_MAX_DIFFERENCES = 12
# Algorithms whose policy is asked for a limit; the others act the same at every limit.
_ADAPTING = ('QPT', 'CDT')


class Pictures(NamedTuple):
    """Titles and files of a suite's pictures.

    Args:
        curves (list[tuple[str, Path]]): Over limits or settings.
        scatters (list[tuple[str, Path]]): Return against cost, the last checkpoint first.
    """

    curves: list[tuple[str, Path]]
    scatters: list[tuple[str, Path]]


@dataclass(frozen=True)
class Surroundings:
    """What a page may point to.

    Args:
        folder (Path, optional): Where the page is, from which links lead. Without, there are none.
        pictures (Mapping[Path, Pictures]): By the folder of a suite's results.
    """

    folder: Path | None = None
    pictures: Mapping[Path, Pictures] = field(default_factory=dict)

    def shown(self, results: Results) -> list[Block]:
        """Return a suite's pictures."""
        curves, scatters = self.pictures.get(results.folder, Pictures([], []))
        return [Picture(title, self.link(path)) for title, path in (*curves, *scatters)]

    def link(self, path: Path) -> str:
        """Return the way from the page to a file, or the file where there is no page."""
        if self.folder is None:
            return path.as_posix()
        return Path(os.path.relpath(path.resolve(), self.folder.resolve())).as_posix()


def suite_page(results: Results, around: Surroundings, level: int = 2) -> list[Block]:
    """Say everything about a suite.

    Args:
        results (Results): Its finished cells.
        around (Surroundings): What may be pointed to.
        level (int, optional): Of its heading. Defaults to 2.
    """
    blocks: list[Block] = [Heading(results.name, level), *_preface(results)]
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in results.settings):
        limits = [limit for each, limit in results.settings if each == checkpoint]
        if len(limits) > 1:
            boards = [Board(results, checkpoint, limit) for limit in limits]
            blocks += [
                Heading(f'Against the cost limit, {checkpoint} checkpoint', level + 1),
                limits_table(boards),
                *_limits_notes(results),
            ]
        for limit in limits:
            blocks += _board_blocks(Board(results, checkpoint, limit), around, level + 1)
    blocks += around.shown(results)
    different = settings_table(results)
    if different.lines:
        blocks += [Heading('What tells rows of one algorithm apart', level + 1), different]
    return [*blocks, Heading('Where it comes from', level + 1), *origin(results)]


def suite_summary(results: Results) -> list[Block]:
    """Show a suite's last checkpoint in one table, and say what a reader must know of it.

    Averages, notes, spread and warnings are on :func:`suite_page`.
    """
    checkpoint = results.settings[0][0]
    limits = [limit for each, limit in results.settings if each == checkpoint]
    boards = [Board(results, checkpoint, limit) for limit in limits]
    facts = [f'Suite `{results.name}`, {checkpoint} checkpoint.']
    if len(limits) == 1:
        facts.append(f'Cost limit: {limits[0]:g}.')
    facts += [f'Budget: {budgets(results)}.', _protocol(results)]
    if not all(cell.is_dsrl for cell in results.cells):
        facts.append("**Not DSRL's data**: some or all datasets were collected locally.")
    warnings = len(find_differences(results)) + bool(results.missing)
    if warnings:
        facts.append(f'Warnings about missing cells and comparability: {warnings}.')
    names = {row: row for row in results.rows}
    if len(boards) > 1:
        return [' '.join(facts), limits_table(boards, names)]
    return [' '.join(facts), _arranged(boards[0], names, _dataset_columns(boards[0]))]


# -- what stands above ----------------------------------------------------------------------------


def _preface(results: Results) -> Iterator[Block]:
    yield from _statements(results)
    differences = find_differences(results)
    if differences:
        shown = differences[:_MAX_DIFFERENCES]
        if len(differences) > len(shown):
            shown.append(f'and {len(differences) - len(shown)} more of this kind')
        yield '**Attention**: these make the figures less comparable, or harder to repeat:'
        yield Points(tuple(shown))
    if results.missing:
        total = len(set(results.planned))
        yield f'Of the {total} cells of the suite, {results.missing} have not been run.'


def _protocol(results: Results) -> str:
    seeds = {len({cell.seed for cell in results.of(*key)}) for key in _keys(results)}
    episodes = {len(rows) for cell in results.cells for rows in cell.episodes.values()}
    return f'Seeds: {_range(seeds)}, episodes of each: {_range(episodes)}.'


def _keys(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell.row, cell.dataset) for cell in results.cells))


def _range(values: set[float]) -> str:
    low, high = min(values), max(values)
    return f'{low:g}' if low == high else f'{low:g} to {high:g}'


def _statements(results: Results) -> Iterator[str]:
    """Say whose data these are, and on what scale returns are."""
    by_dataset = {cell.dataset: cell for cell in results.cells}
    named = [name for name in results.datasets if name in by_dataset]
    local = [name for name in named if not by_dataset[name].is_dsrl]
    if local:
        files = ', '.join(f'{name} ({by_dataset[name].facts["dataset_file"]})' for name in local)
        yield (
            f"**Not DSRL's data**: {files}. Nothing here says anything about DSRL's tables or the "
            "paper's, whose figures are therefore not shown beside these."
        )
    dsrl = ', '.join(name for name in named if name not in local) if local else 'all'
    if dsrl:
        yield (
            f"DSRL's data, as the files' names say: {dsrl}. The paper chose settings by their "
            'evaluation; here only the best checkpoint is chosen, by validation episodes of its '
            'own.'
        )
    yield f'{_scale(results)} {_protocol(results)}'


def _scale(results: Results) -> str:
    """Say what 0 and 1 are on the scale of returns."""
    texts = {
        True: "Returns are on DSRL's scale of each task: 0 and 1 are the ends of DSRL's dataset.",
        False: 'Where DSRL has no such task, 0 and 1 are the ends of the data themselves.',
    }
    kinds = {cell.task is not None for cell in results.cells}
    return ' '.join(text for kind, text in texts.items() if kind in kinds)


# -- tables ---------------------------------------------------------------------------------------


def _board_blocks(board: Board, around: Surroundings, level: int) -> Iterator[Block]:
    limit = f'cost limit {board.cost_limit:g}'
    yield Heading(f'{board.checkpoint.capitalize()} checkpoint, {limit}', level)
    yield overview(board)
    yield from notes([board])
    yield Heading('With spread and intervals', level + 1)
    yield details(board, around)
    yield (
        "±: standard deviation over seeds (n - 1). 95 %: Student's t interval of the mean over "
        'seeds, wide for few. Episodes above the limit: of all seeds.'
    )
    if len(board.results.datasets) > 1:
        yield Heading('Over all tasks', level + 1)
        yield from _aggregate_blocks(board)
    paper = paper_table(board)
    if paper.lines:
        yield Heading('Beside the paper', level + 1)
        yield paper
        yield (
            "The paper's figures as printed: its Table 1 has no deviations, and … stands for "
            'digits that cannot be read. For our budgets see below.'
        )


def overview(board: Board) -> Table:
    """Make the table of all rows and datasets: the longer list goes down the page.

    With averages for each of DSRL's suites of tasks and for all.
    """
    return _arranged(board, numbered(board.results), _overview_columns(board))


def _arranged(
    board: Board,
    names: dict[str, str],
    of_datasets: Iterator[tuple[str, dict[str, Entry]]],
) -> Table:
    """Make a table of rows, by the names shown, and datasets; the longer list goes down."""
    columns = [*of_datasets]
    if len(board.results.datasets) < len(names):
        header = ('', *(title for title, _ in columns))
        lines = [
            (Entry(name), *(entries[row] for _, entries in columns)) for row, name in names.items()
        ]
    else:
        header = ('', *names.values())
        lines = [(Entry(title), *(entries[row] for row in names)) for title, entries in columns]
    return Table(header, tuple(lines))


def _dataset_columns(board: Board) -> Iterator[tuple[str, dict[str, Entry]]]:
    """Yield a title and an entry for each row, of each dataset."""
    for dataset in board.results.datasets:
        yield dataset, {row: _score_entry(board, row, dataset) for row in board.results.rows}


def _overview_columns(board: Board) -> Iterator[tuple[str, dict[str, Entry]]]:
    """Yield a title and an entry for each row: of each dataset, of averages."""
    for name, datasets in board.groups.items():
        for dataset in datasets:
            yield dataset, {row: _score_entry(board, row, dataset) for row in board.results.rows}
        if len(datasets) > 1:
            yield f'{name}, average of {len(datasets)}', _average_entries(board, datasets)
    if len(board.groups) > 1:
        datasets = board.results.datasets
        yield f'{_ALL_TASKS}, average of {len(datasets)}', _average_entries(board, datasets)


def _score_entry(board: Board, row: str, dataset: str) -> Entry:
    score = board.scores.get((row, dataset))
    if score is None:
        return Entry(NOT_RUN)
    text = _pair(score.average, 'seeds')
    expected = len(_expected_seeds(board.results, row, dataset))
    if len(score.seeds) < expected:
        text += f' ({len(score.seeds)} of {expected} seeds)'
    return Entry(text, board.marks[row, dataset])


def _expected_seeds(results: Results, row: str, dataset: str) -> set[int]:
    """Return the seeds that a row should have on a dataset: planned, else those of any row."""
    planned = {cell.seed for cell in results.planned if (cell.row, cell.dataset) == (row, dataset)}
    return planned or {cell.seed for cell in results.cells if cell.dataset == dataset}


def _average_entries(board: Board, datasets: Sequence[str]) -> dict[str, Entry]:
    averages, marks = board.averages(datasets), board.mark_averages(datasets)
    entries = {}
    for row in board.results.rows:
        if row not in averages:
            entries[row] = Entry(NOT_RUN)
            continue
        text = _pair(averages[row], 'tasks')
        if averages[row].parts < len(datasets):
            text += f' ({averages[row].parts} of {len(datasets)} tasks)'
        entries[row] = Entry(text, marks[row])
    return entries


def limits_table(boards: Sequence[Board], names: dict[str, str] | None = None) -> Table:
    """Make the table of all rows at several cost limits, the shape of the paper's Figure 2.

    Args:
        boards (Sequence[Board]): One for each limit.
        names (dict[str, str], optional): What rows are called. Defaults to their names with the
            numbers of their notes.
    """
    results = boards[0].results
    names = numbered(results) if names is None else names
    header = ('dataset', 'row', *(f'limit {board.cost_limit:g}' for board in boards))
    lines = []
    for dataset in results.datasets:
        for row in results.rows:
            entries = (_score_entry(board, row, dataset) for board in boards)
            lines.append((Entry(dataset), Entry(names[row]), *entries))
    return Table(header, tuple(lines))


def _limits_notes(results: Results) -> Iterator[str]:
    fixed = [row for row, algo in results.algorithms.items() if algo not in _ADAPTING]
    if fixed:
        limits = {cell.facts['config']['training']['cost_limit'] for cell in results.cells}
        yield (
            f'Trained for limit {_range(limits)}, and acting the same at every limit, so that only '
            f'what the cost is held against changes: {", ".join(fixed)}.'
        )


def details(board: Board, around: Surroundings) -> Table:
    """Make the table with spread, intervals and the way to each cell's facts."""
    header = (
        *('dataset', 'row', 'return', '95 %', 'cost / limit', '95 %'),
        *('episodes above the limit', 'safe seeds', 'episodes', 'seeds'),
    )
    lines = []
    for dataset in board.results.datasets:
        for row in board.results.rows:
            score = board.scores.get((row, dataset))
            names = (Entry(dataset), Entry(row))
            if score is None:
                lines.append((*names, Entry(NOT_RUN), *([Entry('')] * (len(header) - 3))))
                continue
            mark = board.marks[row, dataset]
            lines.append(
                (*names, *_detail_entries(score, mark), _seed_links(board, row, dataset, around))
            )
    return Table(header, tuple(lines))


def _detail_entries(score: Score, mark: Mark) -> Iterator[Entry]:
    found = score.average.has_target
    yield _return_entry(score, mark)
    yield Entry(_interval(score.returns.interval) if found else '')
    yield _cost_entry(score, Mark.SAFE if mark is Mark.BEST else mark)
    yield Entry(_interval(score.costs.interval) if found else '')
    yield Entry(f'{100 * score.unsafe_share:.0f} %' if found else '')
    yield Entry(f'{score.safe_seeds} of {len(score.seeds)}')
    yield Entry(_range(set(score.episodes)))


def _return_entry(score: Score, mark: Mark) -> Entry:
    return Entry(_with_fallbacks(_spread(score.returns), score.average, 'seeds'), mark)


def _cost_entry(score: Score, mark: Mark = Mark.NONE) -> Entry:
    return Entry(_spread(score.costs), mark) if score.average.has_target else Entry('')


def _seed_links(board: Board, row: str, dataset: str, around: Surroundings) -> Entry:
    setting = (board.checkpoint, board.cost_limit)
    cells = [cell for cell in board.results.of(row, dataset) if setting in cell.episodes]
    links = tuple((str(cell.seed), around.link(cell.path)) for cell in cells)
    return Entry(', '.join(text for text, _ in links), links=links if around.folder else ())


def paper_table(board: Board) -> Table:
    """Make the table of our figures beside the paper's, for rows on the paper's data."""
    lines = []
    for dataset in board.results.datasets:
        for row in board.results.rows:
            score = board.scores.get((row, dataset))
            if score is None:
                continue
            (cell, *_) = board.results.of(row, dataset)
            paper = find_paper_score(board.results, cell, board.cost_limit)
            if paper is None:
                continue
            ours = (_return_entry(score, board.marks[row, dataset]), _cost_entry(score))
            figures = (ours[0], Entry(paper.returns), ours[1], Entry(paper.costs))
            lines.append((Entry(dataset), Entry(row), *figures, Entry(paper.title)))
    header = ('dataset', 'row', 'return', "paper's", 'cost / limit', "paper's", 'printed in')
    return Table(header, tuple(lines))


def settings_table(results: Results) -> Table:
    """Make the table of the settings in which rows of one algorithm differ."""
    found = varied_settings(results)
    names = sorted({name for varied in found.values() for name in varied.names})
    lines = [
        (Entry(row), *(Entry(str(settings.get(name, ''))) for name in names))
        for varied in found.values()
        for row, settings in varied.settings.items()
    ]
    return Table(('row', *(f'`{name}`' for name in names)), tuple(lines))


# -- aggregates -----------------------------------------------------------------------------------

_STATISTICS: dict[str, TaskStatistic] = {
    'mean': mean_of_tasks,
    'median': median_of_tasks,
    'IQM': interquartile_mean,
}


def _aggregate_blocks(board: Board) -> Iterator[Block]:
    datasets = board.results.datasets
    yield aggregates(board, datasets)
    run = {row: {key[1] for key in board.scores if key[0] == row} for row in board.results.rows}
    present = [each for each in run.values() if each]
    common = tuple(name for name in datasets if all(name in each for each in present))
    if len(common) < len(datasets):
        yield (
            'A row that was not run on all tasks is averaged over its own, and is not comparable '
            'with the others.'
        )
        if common:
            yield f'On the tasks that all these rows have, {", ".join(common)}:'
            yield aggregates(board, common)
    yield (
        "Mean and median are of the tasks' means over seeds. IQM, the interquartile mean, is of "
        'the middle half of all seeds of all tasks. In brackets: 95 % bootstrap intervals, which '
        f"draw each task's seeds anew ({REPETITIONS:,} times). They are about other seeds, not "
        'other tasks; with two or three they are too narrow, and a task with one seed adds nothing.'
    )
    if any(score.average.fallbacks for score in board.scores.values()):
        yield (
            'Seeds without a safe target count with what zero actions bring; a task with such a '
            'seed is not counted as safe.'
        )


def aggregates(board: Board, datasets: Sequence[str]) -> Table:
    """Make the table of each row's statistics over tasks and seeds together."""
    header = (
        *('row', 'tasks', 'safe tasks'),
        *(f'return: {name}' for name in _STATISTICS),
        *(f'cost / limit: {name}' for name in _STATISTICS),
    )
    lines = []
    for row in board.results.rows:
        scores = [board.scores[row, name] for name in datasets if (row, name) in board.scores]
        if not scores:
            lines.append((Entry(row), Entry(NOT_RUN), *([Entry('')] * (len(header) - 2))))
            continue
        safe = sum(score.average.is_safe for score in scores)
        fallbacks = sum(score.average.fallbacks > 0 for score in scores)
        lines.append(
            (
                Entry(row),
                Entry(f'{len(scores)} of {len(datasets)}'),
                Entry(f'{safe} (no safe target: {fallbacks})' if fallbacks else str(safe)),
                *_statistics([score.returns.values for score in scores]),
                *_statistics([score.costs.values for score in scores]),
            ),
        )
    return Table(header, tuple(lines))


def _statistics(tasks: Sequence[Sequence[float]]) -> Iterator[Entry]:
    statistics = list(_STATISTICS.values())
    intervals = bootstrap_intervals(tasks, statistics) or [None] * len(statistics)
    for statistic, interval in zip(statistics, intervals):
        text = number(float(statistic([np.asarray(task) for task in tasks])))
        if interval is not None:
            text += f' [{number(interval[0])}, {number(interval[1])}]'
        yield Entry(text)


# -- numbers --------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Write a number with the decimals of the tables, and no minus before a zero."""
    return f'{round(value, DECIMALS) + 0.0:.{DECIMALS}f}'


def _pair(average: Average, parts: str) -> str:
    return _with_fallbacks(
        f'{number(average.episode_return)} / {number(average.cost)}', average, parts
    )


def _with_fallbacks(text: str, average: Average, parts: str) -> str:
    """Say of a figure on how many seeds or tasks every action is zero, or that alone if on all."""
    if not average.has_target:
        return NO_SAFE_TARGET
    if not average.fallbacks:
        return text
    return f'{text} (no safe target: {average.fallbacks} of {average.parts} {parts})'


def _spread(estimate: Estimate) -> str:
    text = number(estimate.mean)
    return text if estimate.deviation is None else f'{text} ± {number(estimate.deviation)}'


def _interval(interval: Interval | None) -> str:
    return 'one seed' if interval is None else f'{number(interval[0])} to {number(interval[1])}'
