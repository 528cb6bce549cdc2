# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Directives that write reference pages from the sources: command lines, YAML files, other pages.

Each directive makes Markdown and hands it to the parser of the page that it is in.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


ROOT = Path(__file__).resolve().parent.parent.parent


class MarkdownDirective(SphinxDirective):
    """A directive whose content is Markdown that it writes itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse what :meth:`lines` yields."""
        self.env.note_dependency(__file__)
        # As MyST includes a file: sections become sections of the page.
        self.state._renderer.nested_render_text(
            '\n'.join(self.lines(self.arguments[0])), self.lineno
        )
        return []

    def lines(self, argument: str) -> Iterator[str]:
        """Yield lines of Markdown."""
        raise NotImplementedError


def _cell(text: str) -> str:
    """Return text as it may stand in a cell of a table."""
    return text.replace('|', '\\|').replace('\n', ' ')


# ---------------------------------------------------------------------- command line


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands that are no groups of commands."""
    groups = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from _commands(command)


class CommandLine(MarkdownDirective):
    """The commands of a parser; the argument is ``module:function`` of what makes it."""

    def lines(self, argument: str) -> Iterator[str]:
        """Yield a section for each command."""
        module, _, name = argument.partition(':')
        parser = getattr(__import__(module, fromlist=[name]), name)()
        for command in _commands(parser):
            # argparse formats for a terminal's width; a page has room for this many columns.
            command.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, width=92
            )
            yield from ('', f'## {command.prog}', '', _markdown(command.description or ''), '')
            yield from ('```text', command.format_usage().strip(), '```', '')
            for group in command._action_groups:
                yield from _options(group)
            if command.epilog:
                yield from ('```text', command.epilog.strip() % {'prog': command.prog}, '```', '')


def _options(group: argparse._ArgumentGroup) -> Iterator[str]:
    """Yield a table of a group's options."""
    actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
    actions = [action for action in actions if not isinstance(action, argparse._HelpAction)]
    if not actions:
        return
    yield from (f'| {(group.title or "options").capitalize()} | meaning |', '| --- | --- |')
    formatter = argparse.HelpFormatter('')
    for action in actions:
        takes = formatter._format_args(action, action.dest.upper())
        if action.choices and action.metavar is None:
            takes = action.dest.upper()
        name = f'{", ".join(action.option_strings)} {takes}'.strip()
        text = _markdown((action.help or '') % {**vars(action), 'prog': ''})
        if action.choices and action.metavar is None:
            text = f'{text}; one of {", ".join(f"`{choice}`" for choice in action.choices)}'
        if action.required and action.option_strings:
            text = f'{text} (required)'.strip()
        yield f'| `{_cell(name)}` | {_cell(text)} |'
    yield ''
    if group.description:
        yield from (_markdown(group.description), '')


def _markdown(text: str) -> str:
    """Escape what help texts do not mean as markup, and set options as code."""
    text = re.sub(r'([*_<>\[\]$])', r'\\\1', text)
    return re.sub(r'(?<![\w`-])(--[a-z][a-z-]*)', r'`\1`', text)


# ---------------------------------------------------------------------- configuration


_KEY = re.compile(r'^( *)([\w.-]+):(?: (.*))?$')


def read_options(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the key with its sections, the value and the comment of each option of a YAML file.

    Sections by environment, which hold only what differs from the defaults, are left out, and so
    is the comment at the head of the file.
    """
    sections: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in path.read_text(encoding='utf-8').split('\n'):
        stripped = line.strip()
        match = _KEY.match(line)
        if stripped.startswith('#'):
            comment.append(stripped.lstrip('# '))
            continue
        if match is None:
            comment = []
            continue
        indent, key, value = len(match[1]), match[2], match[3] or ''
        while sections and sections[-1][0] >= indent:
            sections.pop()
        if value.startswith(('&', '*')):  # environments begin
            return
        names = [name for _, name in sections if name != 'defaults']
        if value:
            yield '.'.join([*names, key]), value, ' '.join(comment)
        sections.append((indent, key))
        comment = []


def head_of(path: Path) -> str:
    """Return the comment at the head of a YAML file, without the licence."""
    text = path.read_text(encoding='utf-8')
    comment = re.search(r'\n\n((?:#.*\n)+)', text)
    return '' if comment is None else re.sub(r'^# ?', '', comment[1], flags=re.MULTILINE)


class Configuration(MarkdownDirective):
    """The options of a YAML file of ``configs/``."""

    def lines(self, argument: str) -> Iterator[str]:
        """Yield the head of the file, and a table for each of its sections."""
        path = ROOT / 'configs' / argument
        self.env.note_dependency(str(path))
        yield from ('', _head_in_markdown(head_of(path)), '')
        section = None
        for key, value, comment in read_options(path):
            group, _, name = key.rpartition('.')
            if group != section:
                section = group
                title = f'`{group}`' if group else 'Top level'
                yield from ('', f'| {title} | value | meaning and origin |', '| --- | --- | --- |')
            yield f'| `{name}` | `{_cell(value)}` | {_cell(_markdown(comment))} |'
        yield ''
        sections = [name for name in yaml.safe_load(path.read_text('utf-8')) if name[:4] == 'Safe']
        if sections:
            names = ', '.join(f'`{name}`' for name in sections)
            yield f'Environments with values of their own, at the end of the file: {names}.'


def _head_in_markdown(text: str) -> str:
    """Set indented command lines as code."""
    parts = []
    for line in text.split('\n'):
        if line.startswith('  '):
            parts.append(f'\n    {line.strip()}\n')
        else:
            parts.append(_markdown(line))
    return '\n'.join(parts)


# ---------------------------------------------------------------------- pages of benchmarks/


# Pages of benchmarks/ and the pages here that show them.
_PAGES = {
    'README.md': 'side_by_side.md',
    'LIMITS.md': 'limits.md',
    'OFF_POLICY.md': 'off_policy.md',
    '../docs/guides/offline_checks.md': '../guides/offline_checks.md',
    'SPEED.md': 'speed.md',
    'TABLES.md': 'tables.md',
}


class RepositoryPage(MarkdownDirective):
    """A Markdown page of ``benchmarks/``, without its title, with links that hold here."""

    def lines(self, argument: str) -> Iterator[str]:
        """Yield the page."""
        path = ROOT / argument
        self.env.note_dependency(str(path))
        text = path.read_text(encoding='utf-8').partition('\n')[2]
        # Pairs such as 0.70 / 0.66 are not broken into lines.
        text = re.sub(r'(?<=\d) / (?=\**-?\d)', '\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}', text)
        yield re.sub(r'(!?)\[([^\]]*)\]\(([^)]+)\)', self._link, text)

    @staticmethod
    def _link(match: re.Match[str]) -> str:
        is_picture, text, target = match.groups()
        page, _, anchor = target.partition('#')
        if target.startswith(('http', '#')):
            return match[0]
        if is_picture:
            return f'![{text}](../../benchmarks/{target})'
        if page in _PAGES:
            return f'[{text}]({_PAGES[page]}{"#" + anchor if anchor else ""})'
        return text  # files of results, which are in the repository only


def setup(app: Sphinx) -> dict[str, Any]:
    """Declare the directives."""
    app.add_directive('command-line', CommandLine)
    app.add_directive('configuration', Configuration)
    app.add_directive('repository-page', RepositoryPage)
    return {'parallel_read_safe': True}
