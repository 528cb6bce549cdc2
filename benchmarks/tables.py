# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and text for two media: Markdown, and a terminal."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Mark(enum.Enum):
    """What an entry of a table stands out for."""

    NONE = enum.auto()
    UNSAFE = enum.auto()
    SAFE = enum.auto()
    BEST = enum.auto()


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Args:
        text (str): In plain words, without markup.
        mark (Mark, optional): What it stands out for. Defaults to nothing.
        links (tuple[tuple[str, str], ...], optional): Words and where they lead, which stand in
            Markdown in place of the text. Defaults to none.
    """

    text: str
    mark: Mark = Mark.NONE
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        header (tuple[str, ...]): Names of the columns.
        lines (tuple[tuple[Entry, ...], ...]): As many entries in each as there are columns.
    """

    header: tuple[str, ...]
    lines: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Heading:
    """A heading.

    Args:
        text (str): What it says.
        level (int): 1 is the page's title.
    """

    text: str
    level: int


@dataclass(frozen=True)
class Picture:
    """A picture, which a terminal only names.

    Args:
        text (str): What it shows.
        link (str): Where it is, relative to the page.
    """

    text: str
    link: str


@dataclass(frozen=True)
class Points:
    """A list of points.

    Args:
        texts (tuple[str, ...]): One for each.
    """

    texts: tuple[str, ...]


# A paragraph is plain text.
Block = str | Heading | Picture | Points | Table

BEST_SIGN = '★'
# What stands where there is no result.
NOT_RUN = 'not run'


def in_markdown(blocks: Sequence[Block]) -> str:
    """Render a page as Markdown: safe in bold, the best safe marked, unsafe plain."""
    return _render(blocks, _markdown_table, lambda picture: f'![{picture.text}]({picture.link})')


def in_terminal(blocks: Sequence[Block], colours: bool) -> str:
    """Render a page as text with aligned columns.

    Args:
        blocks (Sequence[Block]): The page.
        colours (bool): Whether the terminal shows bold and grey. Without, bold is Markdown's.
    """
    return _render(
        blocks,
        lambda table: _aligned_table(table, _coloured if colours else _marked),
        lambda picture: f'{picture.text}: {picture.link}',
    )


def _render(
    blocks: Sequence[Block],
    render_table: Callable[[Table], str],
    render_picture: Callable[[Picture], str],
) -> str:
    texts = []
    for block in blocks:
        match block:
            case Table():
                texts.append(render_table(block))
            case Picture():
                texts.append(render_picture(block))
            case Heading():
                texts.append(f'{"#" * block.level} {block.text}')
            case Points():
                texts.append('\n'.join(f'- {text}' for text in block.texts))
            case _:
                texts.append(block)
    return '\n\n'.join(texts) + '\n'


def _markdown_table(table: Table) -> str:
    header = [_linked(Entry(name)) for name in table.header]
    lines = [header, ['---'] * len(header)]
    lines += [[_marked(entry, _linked(entry)) for entry in line] for line in table.lines]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _linked(entry: Entry) -> str:
    if entry.links:
        return ', '.join(f'[{text}]({target})' for text, target in entry.links)
    return entry.text.replace('|', '\\|')


def _marked(entry: Entry, text: str) -> str:
    if entry.mark in (Mark.NONE, Mark.UNSAFE):
        return text
    return f'**{text}**' + (f' {BEST_SIGN}' if entry.mark is Mark.BEST else '')


_STYLES = {
    Mark.NONE: '{}',
    Mark.UNSAFE: '\x1b[2m{}\x1b[0m',
    Mark.SAFE: '\x1b[1m{}\x1b[0m',
    Mark.BEST: '\x1b[1m{}\x1b[0m ' + BEST_SIGN,
}


def _coloured(entry: Entry, text: str) -> str:
    return _STYLES[entry.mark].format(text)


def _aligned_table(table: Table, style: Callable[[Entry, str], str]) -> str:
    lines = [[Entry(name) for name in table.header], *table.lines]
    shown = [[style(entry, entry.text) for entry in line] for line in lines]
    widths = [max(map(_width, column)) for column in zip(*shown)]
    return '\n'.join(
        '  '.join(text + ' ' * (width - _width(text)) for text, width in zip(line, widths)).rstrip()
        for line in shown
    )


def _width(text: str) -> int:
    """Return how many columns a text takes: codes for bold and grey take none."""
    return len(re.sub(r'\x1b\[\dm', '', text))
