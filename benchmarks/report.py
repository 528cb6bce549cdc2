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
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.command import make_parser
from benchmarks.page import LEGEND, Surroundings, suite_page, suite_summary
from benchmarks.rows import PlannedCell, Results, read_results
from benchmarks.tables import Block, Heading, in_markdown, in_terminal
from omnisafe_qpt.cli.common import check_writable, print_in_any_encoding
from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.errors import UserError


# What stands between these lines of a README is the report's, and nothing else.
README_BEGIN = '<!-- benchmarks.report: begin -->'
README_END = '<!-- benchmarks.report: end -->'

_SUITES = Path(__file__).with_name('suites')
_TITLE = 'Side by side'


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
    pictures = {}
    if options.plots is not None:
        from benchmarks.pictures import draw  # matplotlib takes a second

        pictures = {results.folder: draw(results, options.plots) for results in suites}
        for each in pictures.values():
            for _, path in (*each.scatters, *each.curves):
                print(f'Drawn: {path}')
    if options.markdown is not None:
        around = Surroundings(options.markdown.parent, pictures)
        with atomic_path(options.markdown) as temporary:
            temporary.write_text(in_markdown(_page(suites, around)), encoding='utf-8')
        print(f'Written: {options.markdown}')
    if readme is not None:
        around = Surroundings(options.readme.parent, pictures)
        _fill_readme(options.readme, readme, _section(suites, around, options.markdown))
    if options.markdown is None and readme is None:
        print(in_terminal(_page(suites, Surroundings(None, pictures)), sys.stdout.isatty()))


def _with_plan(results: Results) -> Results:
    """Add the suite's cells, if its file is among ours, so that none is left out unsaid."""
    path = _SUITES / f'{results.folder.name}.yaml'
    if not path.is_file():
        return results
    from benchmarks.suite import load_suite

    try:
        cells = load_suite(path).cells()
    except UserError as error:  # the figures do not depend on it
        print(f'Warning: cells that were not run cannot be named: {error}', file=sys.stderr)
        return results
    planned = tuple(
        PlannedCell(
            *(cell.dataset.name, cell.dataset.env_id, cell.row.name, cell.row.algo, cell.seed),
        )
        for cell in cells
    )
    return replace(results, planned=planned)


def _page(suites: Sequence[Results], around: Surroundings) -> list[Block]:
    blocks: list[Block] = [Heading(_TITLE, 1), LEGEND]
    for results in suites:
        blocks += suite_page(results, around)
    return blocks


def _section(suites: Sequence[Results], around: Surroundings, page: Path | None) -> Iterator[Block]:
    """Yield what a README shows: a table for each suite, and the way to the rest."""
    yield LEGEND
    for results in suites:
        yield from suite_summary(results)
    if page is not None:
        yield (
            'All tables, with notes on single rows, warnings, spread and intervals, plots and '
            f'settings: [{page.name}]({around.link(page)}).'
        )


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


def _fill_readme(path: Path, text: str, blocks: Iterator[Block]) -> None:
    """Write the section between the markers; the file is not touched where nothing changes."""
    head, _, rest = text.partition(README_BEGIN)
    _, _, tail = rest.partition(README_END)
    wrapped = [_wrapped(block) if isinstance(block, str) else block for block in blocks]
    section = f'{README_BEGIN}\n\n{in_markdown(wrapped)}\n{README_END}'
    if '\r\n' in text:
        section = section.replace('\n', '\r\n')
    filled = f'{head}{section}{tail}'
    if filled == text:
        print(f'Unchanged: {path}')
        return
    with atomic_path(os.path.realpath(path)) as temporary:
        temporary.write_bytes(filled.encode())
    print(f'Written: {path}')


def _wrapped(text: str) -> str:
    """Break a paragraph into lines, as those of a README written by hand."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


if __name__ == '__main__':
    sys.exit(main())
