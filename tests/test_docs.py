# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""README and the pages of docs/: their size, their links, and the code that they name.

``make docs`` builds the pages; here nothing is built.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
README = ROOT / 'README.md'
RESULTS = ROOT / 'benchmarks' / 'results'
PAGES = [README, *sorted(path for path in DOCS.glob('**/*.md') if '_build' not in path.parts)]
# What the paper map's paths are relative to.
BASES = {'paper_map.md': (ROOT / 'omnisafe_qpt', ROOT), 'architecture.md': (ROOT,)}


def text_of(page):
    """Return a page without its blocks of code."""
    return re.sub(r'^```.*?^```', '', page.read_text('utf-8'), flags=re.MULTILINE | re.DOTALL)


def references(page):
    """Return what a page names: a file, and a function, class or method of it."""
    names = re.findall(r'`([\w/.-]+?\.(?:py|yaml|csv|toml))(?::([\w.]+))?`', text_of(page))
    return [pytest.param(page.name, *name, id=':'.join(filter(None, name))) for name in names]


@cache
def defined_in(path):
    """Return the names of functions, classes, their methods and constants of a module."""
    names = set()

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f'{prefix}{node.name}.')

    visit(ast.parse(path.read_text('utf-8')).body, '')
    return names


@pytest.mark.parametrize(
    ('page', 'file', 'name'),
    [case for page in BASES for case in references(DOCS / page)],
)
def test_code_that_the_maps_name_exists(page, file, name):
    found = [base / file for base in BASES[page] if (base / file).is_file()]
    assert found, f'{page} names {file}, which does not exist'
    if name:
        assert name in defined_in(found[0]), f'{page} names {name}, which {file} does not define'


def test_the_maps_name_code():
    assert all(len(references(DOCS / page)) > 20 for page in BASES)


def test_the_map_of_the_paper_has_every_equation():
    text = (DOCS / 'paper_map.md').read_text('utf-8')
    covered = set()
    for cell in re.findall(r'^\| (Eq\. .+?) \|', text, flags=re.MULTILINE):
        for first, last in re.findall(r'Eq\. (\d+)(?:-(\d+))?', cell):
            covered |= set(range(int(first), int(last or first) + 1))
    assert covered == set(range(1, 40))


def test_the_architecture_names_every_folder_and_module_at_the_top_of_the_package():
    text = (DOCS / 'architecture.md').read_text('utf-8')
    package = ROOT / 'omnisafe_qpt'
    names = [f'{path.parent.name}/' for path in package.glob('*/__init__.py')]
    names += [path.name for path in package.glob('*.py') if path.name != '__init__.py']
    assert len(names) > 8
    assert [
        name for name in names if not re.search(rf'─ (\S+, )*{re.escape(name)}[ ,]', text)
    ] == []


def test_readme_is_short():
    lines = README.read_text('utf-8').splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


def slug(heading):
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r'[^\w -]', '', heading.lower().replace('`', '')).strip().replace(' ', '-')


def anchors(page):
    """Return the anchors of a page, with those of the page of benchmarks/ that it shows."""
    text = page.read_text('utf-8')
    for shown in re.findall(r'\{repository-page\} (\S+)', text):
        text += (ROOT / shown).read_text('utf-8')
    return {slug(heading) for heading in re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE)}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', text_of(page)):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        if RESULTS in file.parents and not RESULTS.exists():  # a source distribution has none
            continue
        assert file.exists(), f'{page}: {target}'
        if anchor:
            assert anchor in anchors(file), f'{page}: {target}'


def test_every_page_is_in_the_contents():
    contents = (DOCS / 'index.md').read_text('utf-8').split('\n')
    pages = {page.relative_to(DOCS).with_suffix('').as_posix() for page in PAGES[1:]} - {'index'}
    assert pages - set(contents) == set()
