# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG within the page, with colours set by the page."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from omnisafe_qpt.plots import BLACK, BLUE, GREY, ORANGE, PURPLE, STYLE


if TYPE_CHECKING:
    from matplotlib.figure import Figure


SVG_STYLE = {
    **STYLE,
    'font.size': 10,
    'axes.titlesize': 10,
    'axes.labelsize': 10,
    'legend.fontsize': 9,
    # Equal figures get equal ids, so that the same run gives the same page.
    'svg.hashsalt': 'omnisafe-qpt',
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
}
# The page's CSS variable for each colour of the style, with values for light and dark.
_NAMES = {
    BLACK: 'ink',
    GREY: 'muted',
    STYLE['grid.color']: 'line',
    '#FFFFFF': 'paper',
    BLUE: 'blue',
    ORANGE: 'orange',
    PURPLE: 'purple',
}
_VARIABLES = {colour.lower(): f'var(--{name})' for colour, name in _NAMES.items()}


def to_svg(figure: Figure, prefix: str, description: str) -> str:
    """Return a figure as an ``svg`` element that fits any page.

    Args:
        figure (Figure): The figure.
        prefix (str): Prefix of the ids, which must be unique on the page.
        description (str): Text for screen readers.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', transparent=True, metadata=nothing)
    text = buffer.getvalue()
    svg = text[text.index('<svg') :]
    svg = re.sub(r'#[0-9a-f]{6}\b', lambda match: _VARIABLES.get(match[0], match[0]), svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}', svg)
    # HTML does not need XML namespaces, which look like URLs.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', '', svg).replace('xlink:href', 'href')
    return svg.replace('<svg', f'<svg role="img" aria-label="{html.escape(description)}"', 1)
