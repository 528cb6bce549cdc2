# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
r"""Makes tables, plots and the section of the README from the raw rows of a comparison.

    python -m benchmarks.report benchmarks/results/local
    python -m benchmarks.report benchmarks/results/local benchmarks/results/ablation \
        --markdown benchmarks/TABLES.md --plots benchmarks/results/plots --readme README.md

Reads what ``benchmarks.compare`` wrote, one CSV and one JSON file for each cell, and computes all
figures from these. A folder may hold one suite or several. Where the suite's YAML file is in
``benchmarks/suites``, cells that have not been run are named too. Without --markdown and --readme
the page is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import notes, tables
from benchmarks.command import make_parser
from benchmarks.rows import PlannedCell, Results, read_results
from benchmarks.scores import DECIMALS, REPETITIONS, Board, make_boards
from benchmarks.tables import Medium, span
from omnisafe_qpt.cli.common import check_writable, print_in_any_encoding
from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.errors import UserError
from omnisafe_qpt.report.templates import open_template


# What stands between these lines of a README is the report's, and nothing else.
README_BEGIN = '<!-- benchmarks.report: begin -->'
README_END = '<!-- benchmarks.report: end -->'

_SUITES = Path(__file__).with_name('suites')
_SCALES = {
    True: "Returns are on DSRL's scale of each task: 0 and 1 are the ends of DSRL's dataset.",
    False: 'Where DSRL has no such task, 0 and 1 are the ends of the data themselves.',
}
# Titles and files of each suite's pictures, by its folder.
Pictures = dict[Path, list[tuple[str, Path]]]


def main() -> int:
    """Run the report from the command line."""
    print_in_any_encoding()
    options = _parser().parse_args()
    try:
        run(options)
    except UserError as error:
        print(f'Error: {error}', file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument('results', nargs='+', type=Path, metavar='RESULTS_DIR')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='where to write the page')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='where to draw the plots')
    parser.add_argument(
        '--readme',
        type=Path,
        metavar='FILE',
        help=f'fill what is between {README_BEGIN} and {README_END}',
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Read the results and write what was asked for."""
    if options.markdown is not None:
        check_writable(options.markdown, '--markdown')
    if options.plots is not None and options.plots.exists() and not options.plots.is_dir():
        raise UserError(f'--plots {options.plots}: is a file; give the name of a folder')
    readme = None if options.readme is None else _read_readme(options.readme)
    suites = [_with_plan(results) for results in read_results(options.results)]
    pictures: Pictures = {}
    if options.plots is not None:
        from benchmarks.pictures import draw  # matplotlib takes a second

        for results in suites:
            pictures[results.folder] = draw(results, options.plots)
            for _, path in pictures[results.folder]:
                print(f'Drawn: {path}')
    if options.markdown is not None:
        text = render_page(suites, Medium(options.markdown.parent), pictures)
        with atomic_path(options.markdown) as temporary:
            temporary.write_text(text, encoding='utf-8')
        print(f'Written: {options.markdown}')
    if readme is not None:
        section = render_summary(suites, Medium(options.readme.parent), options.markdown)
        _fill_readme(options.readme, readme, section)
    if options.markdown is None and readme is None:
        print(render_page(suites, Medium(colours=sys.stdout.isatty()), pictures))


def _with_plan(results: Results) -> Results:
    """Add the suite's cells, if its file is among ours, so that none is left out unsaid."""
    path = _SUITES / f'{results.folder.name}.yaml'
    if not path.is_file():
        return results
    from benchmarks.suite_file import load_suite

    try:
        cells = load_suite(path).cells()
    except UserError as error:  # the figures do not depend on it
        print(f'Warning: cells that were not run cannot be named: {error}', file=sys.stderr)
        return results
    planned = (
        (cell.dataset.name, cell.dataset.env_id, cell.row.name, cell.row.algo, cell.seed)
        for cell in cells
    )
    return replace(results, planned=tuple(PlannedCell(*each) for each in planned))


# -- pages ----------------------------------------------------------------------------------------


def render_page(suites: Sequence[Results], medium: Medium, pictures: Pictures | None = None) -> str:
    """Return the page with everything about some suites.

    Args:
        suites (Sequence[Results]): Their results.
        medium (Medium): How the page is shown.
        pictures (dict, optional): By the folders of suites. Defaults to none.
    """
    shown = [
        _suite(results, medium, (pictures or {}).get(results.folder, ())) for results in suites
    ]
    return _render(medium, suites=shown)


def render_summary(suites: Sequence[Results], medium: Medium, page: Path | None = None) -> str:
    """Return what a README shows: one table for each suite, and the way to the rest.

    Args:
        suites (Sequence[Results]): Their results.
        medium (Medium): How the page is shown.
        page (Path, optional): Of everything. Defaults to None.
    """
    link = '' if page is None else medium.link(page.name, page)
    shown = [_summary(results, medium) for results in suites]
    return _render(medium, suites=shown, page=link, is_summary=True)


def _render(medium: Medium, **values: Any) -> str:
    template = open_template(
        'benchmarks', 'report.md.jinja', escapes=False, filters={'table': medium.table}
    )
    constants = {'decimals': DECIMALS, 'repetitions': f'{REPETITIONS:,}'}
    return template.render({'is_summary': False, **constants, **values}).strip() + '\n'


def _suite(
    results: Results,
    medium: Medium,
    pictures: Sequence[tuple[str, Path]],
) -> dict[str, Any]:
    """Return all that the page says about a suite."""
    cells, boards = results.cells, make_boards(results)
    names = notes.numbered(results)
    dsrl, local = _data(results)
    limits = cells.training.str['cost_limit']
    return {
        'results': results,
        'local': local,
        'dsrl': 'all' if not local else ', '.join(dsrl),
        'scale': ' '.join(text for kind, text in _SCALES.items() if (cells.has_task == kind).any()),
        'protocol': notes.protocol(results),
        'warnings': notes.cut(notes.warnings(results)),
        'checkpoints': [
            _checkpoint(name, [each for each in boards if each.checkpoint == name], names, medium)
            for name in dict.fromkeys(board.checkpoint for board in boards)
        ],
        'fixed_rows': notes.fixed_rows(results),
        'trained_limits': span(limits),
        'notes': [
            f'{notes.raised(at)} {", ".join(rows)}: {text}'
            for at, (text, rows) in enumerate(notes.row_notes(results).items(), 1)
        ],
        'own_baselines': notes.own_baselines(results),
        'pictures': [medium.picture(*picture) for picture in pictures],
        'settings': tables.settings_table(results),
        'effort': tables.effort_table(results),
        'data': tables.data_table(results),
        'origin': notes.origin(results),
    }


def _data(results: Results) -> tuple[list[str], list[str]]:
    """Return the names of DSRL's datasets, and those of others with their files."""
    first = results.cells.groupby('dataset').first()
    named = [name for name in results.datasets if name in first.index]
    dsrl = [name for name in named if first.is_dsrl[name]]
    return dsrl, [f'{name} ({first.dataset_file[name]})' for name in named if name not in dsrl]


def _checkpoint(
    name: str,
    boards: Sequence[Board],
    names: dict[str, str],
    medium: Medium,
) -> dict[str, Any]:
    return {
        'name': name,
        'limits': tables.limits_table(boards, names, medium) if len(boards) > 1 else None,
        'boards': [dict(_board(board, names, medium)) for board in boards],
    }


def _board(board: Board, names: dict[str, str], medium: Medium) -> Iterator[tuple[str, Any]]:
    """Yield what the page says about one checkpoint and limit."""
    datasets = board.results.datasets
    yield 'title', f'{board.checkpoint.capitalize()} checkpoint, cost limit {board.cost_limit:g}'
    yield 'overview', tables.overview(board, names, medium)
    yield 'certified', notes.certified(board)
    yield 'without_target', notes.without_target(board)
    yield 'details', tables.details(board, medium)
    yield 'aggregates', tables.aggregates(board, datasets) if len(datasets) > 1 else None
    run = board.scores.index.to_frame(index=False).groupby('row').dataset
    common = [dataset for dataset in datasets if all(dataset in set(each) for _, each in run)]
    yield 'common', None if common == datasets else common
    if common and common != datasets:
        yield 'common_aggregates', tables.aggregates(board, common)
    yield 'paper', tables.paper_table(board, medium)


def _summary(results: Results, medium: Medium) -> dict[str, Any]:
    """Return what a reader must know of a suite: its last checkpoint in one table."""
    first, *others = make_boards(results)
    boards = [first, *(each for each in others if each.checkpoint == first.checkpoint)]
    names = {row: row for row in results.rows}
    facts = [f'Suite `{results.name}`, {first.checkpoint} checkpoint.']
    if len(boards) == 1:
        facts.append(f'Cost limit: {first.cost_limit:g}.')
    facts += [f'Budget: {notes.budgets(results)}.', notes.protocol(results)]
    if not results.cells.is_dsrl.all():
        facts.append("**Not DSRL's data**: some or all datasets were collected locally.")
    warnings = len(notes.warnings(results)) + bool(results.missing)
    if warnings:
        facts.append(f'Warnings about missing cells and comparability: {warnings}.')
    if len(boards) > 1:
        table = tables.limits_table(boards, names, medium)
    else:
        table = tables.overview(first, names, medium, with_averages=False)
    return {'facts': ' '.join(facts), 'table': table}


# -- the README -----------------------------------------------------------------------------------


def _read_readme(path: Path) -> str:
    """Read a README as it is, line ends included, and see that it has the two markers."""
    check_writable(path, '--readme')
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise UserError(f'--readme {path}: cannot be read ({error})') from error
    if [text.count(marker) for marker in (README_BEGIN, README_END)] != [1, 1]:
        raise UserError(
            f'--readme {path}: must have the lines {README_BEGIN} and {README_END} once each, '
            'around the place for the tables',
        )
    if text.index(README_BEGIN) > text.index(README_END):
        raise UserError(f'--readme {path}: {README_END} comes before {README_BEGIN}')
    return text


def _fill_readme(path: Path, text: str, section: str) -> None:
    """Write the section between the markers; the file is not touched where nothing changes."""
    head, _, rest = text.partition(README_BEGIN)
    _, _, tail = rest.partition(README_END)
    section = f'{README_BEGIN}\n\n{section}\n{README_END}'
    if '\r\n' in text:
        section = section.replace('\n', '\r\n')
    filled = f'{head}{section}{tail}'
    if filled == text:
        print(f'Unchanged: {path}')
        return
    with atomic_path(os.path.realpath(path)) as temporary:
        temporary.write_bytes(filled.encode())
    print(f'Written: {path}')


if __name__ == '__main__':
    sys.exit(main())
