# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The report's tables: frames of text, with marks and links as the medium shows them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.paper import find_paper_score
from benchmarks.rows import Results, flat
from benchmarks.scores import (
    BEST,
    DECIMALS,
    NONE,
    SAFE,
    STATISTICS,
    UNSAFE,
    Board,
    Interval,
    bootstrap_intervals,
)
from benchmarks.sweeps import row_settings, varied_settings
from omnisafe_qpt.runner import NO_SAFE_TARGET
from omnisafe_qpt.scores import fixed


BEST_SIGN = '★'
NOT_RUN = 'not run'
_BOLD, _GREY, _PLAIN = '\x1b[1m', '\x1b[2m', '\x1b[0m'


@dataclass(frozen=True)
class Medium:
    """How a page shows marks, links and tables.

    Args:
        folder (Path, optional): Of a Markdown page, from which links lead. Defaults to None: a
            terminal, which shows aligned columns and no links.
        colours (bool, optional): Whether a terminal shows bold and grey. Defaults to False.
    """

    folder: Path | None = None
    colours: bool = False

    def marked(self, text: str, mark: str) -> str:
        """Show safe in bold, the best also with a star; unsafe is plain, or grey."""
        if mark == UNSAFE and self.colours:
            return f'{_GREY}{text}{_PLAIN}'
        if mark in (NONE, UNSAFE):
            return text
        bold = f'{_BOLD}{text}{_PLAIN}' if self.colours else f'**{text}**'
        return f'{bold} {BEST_SIGN}' if mark == BEST else bold

    def path(self, path: Path) -> str:
        """Return the way from the page to a file, or the file where there is no page."""
        if self.folder is None:
            return path.as_posix()
        return Path(os.path.relpath(path.resolve(), self.folder.resolve())).as_posix()

    def link(self, text: str, path: Path) -> str:
        """Return a link to a file, or its text alone."""
        return text if self.folder is None else f'[{text}]({self.path(path)})'

    def picture(self, title: str, path: Path) -> str:
        """Show a picture, or name it."""
        target = self.path(path)
        return f'{title}: {target}' if self.folder is None else f'![{title}]({target})'

    def table(self, frame: pd.DataFrame) -> str:
        """Lay out a frame of text."""
        lines = [[str(each) for each in line] for line in (frame.columns, *frame.to_numpy())]
        if self.folder is not None:
            lines = [[each.replace('|', '\\|') for each in line] for line in lines]
            lines.insert(1, ['---'] * len(frame.columns))
            return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        widths = [max(map(_width, column)) for column in zip(*lines)]
        return '\n'.join(
            '  '.join(each + ' ' * (width - _width(each)) for each, width in zip(line, widths))
            .rstrip()
            for line in lines
        )  # fmt: skip


def _width(text: str) -> int:
    """Return how many columns a text takes: codes for bold and grey take none."""
    return len(re.sub(r'\x1b\[\dm', '', text))


# -- numbers --------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Write a number with the decimals of the tables."""
    return fixed(float(value), DECIMALS)  # numpy rounds ties in another way


def span(values: Sequence[float], form: Callable[[float], str] = '{:g}'.format) -> str:
    """Write the least and the largest of some values, or one where they are the same."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f'{low} to {high}'


def _with_fallbacks(text: str, average: pd.Series, parts: str) -> str:
    """Say of a figure how many seeds or tasks have no safe target, or that alone if all."""
    if not average.has_target:
        return NO_SAFE_TARGET
    if not average.fallbacks:
        return text
    return f'{text} (no safe target: {average.fallbacks} of {average.parts} {parts})'


def _pair(average: pd.Series, parts: str, expected: int, medium: Medium) -> str:
    """Write return and cost, and how many of the seeds or tasks there are."""
    text = f'{number(average.returns)} / {number(average.costs)}'
    text = _with_fallbacks(text, average, parts)
    if average.parts < expected:
        text += f' ({average.parts} of {expected} {parts})'
    return medium.marked(text, average['mark'])


def _spread(score: pd.Series, name: str) -> str:
    text = number(score[name])
    return text if score.parts == 1 else f'{text} ± {number(score[f"{name}_std"])}'


def _interval(interval: Interval | None) -> str:
    return 'one seed' if interval is None else f'{number(interval[0])} to {number(interval[1])}'


def _lines(header: Sequence[str], lines: Iterator[Sequence[str]]) -> pd.DataFrame:
    """Make a table; lines that are too short are filled up."""
    padded = [[*line, *([''] * (len(header) - len(line)))] for line in lines]
    return pd.DataFrame(padded, columns=list(header), dtype=object)


# -- tables of scores -----------------------------------------------------------------------------


def overview(
    board: Board,
    names: dict[str, str],
    medium: Medium,
    with_averages: bool = True,
) -> pd.DataFrame:
    """Make the table of all rows and datasets: the longer list goes down the page.

    Args:
        board (Board): The scores.
        names (dict[str, str]): What rows are called.
        medium (Medium): How marks are shown.
        with_averages (bool, optional): Whether to add those over each of DSRL's suites of tasks
            and over all. Defaults to True.
    """
    datasets = board.results.datasets
    columns = {}
    for group, members in board.groups.items():
        for dataset in members:
            columns[dataset] = [_score(board, dataset, row, medium) for row in names]
        if with_averages and len(members) > 1:
            title = f'{group}, average of {len(members)}'
            columns[title] = _averages(board, members, names, medium)
    if with_averages and len(board.groups) > 1:
        title = f'All tasks, average of {len(datasets)}'
        columns[title] = _averages(board, datasets, names, medium)
    if not with_averages:
        columns = {dataset: columns[dataset] for dataset in datasets}
    table = pd.DataFrame(columns, index=list(names.values()), dtype=object)
    table = table if len(datasets) < len(names) else table.T
    return table.rename_axis('').reset_index()


def _score(board: Board, dataset: str, row: str, medium: Medium) -> str:
    if (dataset, row) not in board.scores.index:
        return NOT_RUN
    expected = board.results.expected_seeds(dataset, row)
    return _pair(board.scores.loc[(dataset, row)], 'seeds', expected, medium)


def _averages(
    board: Board,
    datasets: Sequence[str],
    names: dict[str, str],
    medium: Medium,
) -> list[str]:
    averages = board.averages(datasets)
    return [
        _pair(averages.loc[row], 'tasks', len(datasets), medium)
        if row in averages.index
        else NOT_RUN
        for row in names
    ]


def limits_table(boards: Sequence[Board], names: dict[str, str], medium: Medium) -> pd.DataFrame:
    """Make the table of all rows at several cost limits, the shape of the paper's Figure 2."""
    header = ('dataset', 'row', *(f'limit {board.cost_limit:g}' for board in boards))
    lines = (
        (dataset, name, *(_score(board, dataset, row, medium) for board in boards))
        for dataset in boards[0].results.datasets
        for row, name in names.items()
    )
    return _lines(header, lines)


def details(board: Board, medium: Medium) -> pd.DataFrame:
    """Make the table with spread, intervals and the way to each cell's facts."""
    header = (
        *('dataset', 'row', 'return', '95 %', 'cost / limit', '95 %'),
        *('episodes above the limit', 'safe seeds', 'episodes', 'seeds'),
    )
    return _lines(header, _detail_lines(board, medium))


def _detail_lines(board: Board, medium: Medium) -> Iterator[Sequence[str]]:
    for dataset in board.results.datasets:
        for row in board.results.rows:
            if (dataset, row) not in board.scores.index:
                yield dataset, row, NOT_RUN
                continue
            score = board.scores.loc[(dataset, row)]
            costs_mark = SAFE if score['mark'] == BEST else score['mark']
            figures = (
                _interval(score.returns_interval),
                medium.marked(_spread(score, 'costs'), costs_mark),
                _interval(score.costs_interval),
                f'{100 * score.unsafe_share:.0f} %',
            )
            yield (
                *(dataset, row, _returns(score, medium)),
                *(figures if score.has_target else [''] * len(figures)),
                f'{score.safe_seeds} of {score.parts}',
                span(score.episodes),
                ', '.join(
                    medium.link(str(seed), path) for seed, path in zip(score.seeds, score.paths)
                ),
            )


def _returns(score: pd.Series, medium: Medium) -> str:
    text = _with_fallbacks(_spread(score, 'returns'), score, 'seeds')
    return medium.marked(text, score['mark'])


def paper_table(board: Board, medium: Medium) -> pd.DataFrame:
    """Make the table of our figures beside the paper's, for rows on the paper's data."""
    header = ('dataset', 'row', 'return', "paper's", 'cost / limit', "paper's", 'printed in')
    return _lines(header, _paper_lines(board, medium))


def _paper_lines(board: Board, medium: Medium) -> Iterator[Sequence[str]]:
    for dataset in board.results.datasets:
        for row in board.results.rows:
            paper = find_paper_score(board.results, dataset, row, board.cost_limit)
            if paper is None or (dataset, row) not in board.scores.index:
                continue
            score = board.scores.loc[(dataset, row)]
            costs = _spread(score, 'costs') if score.has_target else ''
            yield (
                *(dataset, row, _returns(score, medium), paper.returns, costs, paper.costs),
                paper.title,
            )


def aggregates(board: Board, datasets: Sequence[str]) -> pd.DataFrame:
    """Make the table of each row's statistics over tasks and seeds together."""
    header = (
        *('row', 'tasks', 'safe tasks'),
        *(f'return: {name}' for name in STATISTICS),
        *(f'cost / limit: {name}' for name in STATISTICS),
    )
    return _lines(header, _aggregate_lines(board, datasets))


def _aggregate_lines(board: Board, datasets: Sequence[str]) -> Iterator[Sequence[str]]:
    for row in board.results.rows:
        keys = [(name, row) for name in datasets if (name, row) in board.scores.index]
        if not keys:
            yield row, NOT_RUN
            continue
        scores = board.scores.loc[keys]
        safe = int(scores['mark'].isin((SAFE, BEST)).sum())
        fallbacks = int((scores.fallbacks > 0).sum())
        yield (
            *(row, f'{len(scores)} of {len(datasets)}'),
            f'{safe} (no safe target: {fallbacks})' if fallbacks else str(safe),
            *_statistics(scores.returns_values),
            *_statistics(scores.costs_values),
        )


def _statistics(tasks: Sequence[Sequence[float]]) -> Iterator[str]:
    intervals = bootstrap_intervals(tasks, list(STATISTICS.values()))
    for index, statistic in enumerate(STATISTICS.values()):
        text = number(float(statistic(tasks)))
        if intervals is not None:
            low, high = intervals[index]
            text += f' [{number(low)}, {number(high)}]'
        yield text


# -- other tables ---------------------------------------------------------------------------------


def settings_table(results: Results) -> pd.DataFrame:
    """Make the table of the settings in which rows of one algorithm differ."""
    found, settings = varied_settings(results).values(), row_settings(results)
    names = sorted({name for varied in found for name in varied})
    lines = (
        (row, *(str(settings[row].get(name, '')) for name in names))
        for varied in found
        for row in varied.index
    )
    return _lines(('row', *(f'`{name}`' for name in names)), lines)


def effort_table(results: Results) -> pd.DataFrame:
    """Make the table of what the training and evaluation of each row took."""
    header = (
        *('row', 'trainings', 'updates', 'training, min'),
        *('validation and calibration, min', 'evaluation, min'),
    )
    return _lines(header, (_effort(results, row) for row in results.rows))


def _effort(results: Results, row: str) -> Sequence[str]:
    cells = results.cells[results.cells.row == row]
    if cells.empty:
        return row, NOT_RUN
    minutes = [cells[f'{name}_seconds'] / 60 for name in ('train', 'validate', 'evaluate')]
    return (
        *(row, str(len(trainings(cells))), span(cells.updates, '{:,}'.format)),
        *(span(each, '{:.1f}'.format) for each in minutes),
    )


def trainings(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one cell for each training: cells that only act differently share theirs."""
    return cells[~cells.training.map(lambda each: json.dumps(each, sort_keys=True)).duplicated()]


def data_table(results: Results) -> pd.DataFrame:
    """Make the table of the datasets, and of the cost limit in units of OmniSafe's algorithms."""
    cells = results.cells
    lines: dict[str, dict[str, Any]] = {}
    for dataset in results.datasets:
        for cell in cells[cells.dataset == dataset].itertuples():
            facts = (cell.dataset_file, f'`{cell.dataset_sha256[:12]}`')
            known = zip(('environment', 'file', 'sha256'), (cell.env_id, *facts))
            line = lines.setdefault(dataset, {'dataset': dataset, **dict(known)})
            for name, value in flat(cell.converted_limit or {}):
                line[f'{cell.row}: `{name}`'] = f'{value:.4g}'
    return pd.DataFrame(lines.values()).fillna('')
