# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the documentation: `make docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path


HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / '_ext')]

from omnisafe_qpt.version import __version__  # noqa: E402 - the path comes first


project = 'omnisafe-qpt'
author = 'The omnisafe-qpt Authors'
project_copyright = f'2026, {author}'
release = version = __version__

extensions = [
    'myst_parser',
    'reference',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
]
exclude_patterns = ['_build']

# Headings down to this level can be linked to: page.md#heading.
myst_heading_anchors = 4
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
napoleon_numpy_docstring = False

html_theme = 'furo'
html_title = f'omnisafe-qpt {release}'
html_static_path = ['_static']
html_css_files = ['tables.css']
