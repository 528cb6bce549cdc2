# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Colours, style and writing of figures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisafe_qpt.data.atomic import atomic_path
from omnisafe_qpt.errors import UserError


if TYPE_CHECKING:
    from matplotlib.figure import Figure


SUFFIXES = ('.png', '.pdf', '.svg')

# Colour-blind safe: Okabe and Ito's, with Tol's purple.
BLUE, ORANGE, PURPLE = '#0072B2', '#D55E00', '#AA4499'
BLACK, GREY = '#000000', '#707070'
STYLE: dict[str, Any] = {
    'figure.figsize': (8.0, 5.8),  # inches
    'figure.dpi': 100,
    'savefig.dpi': 150,
    'font.size': 11,
    'axes.titlesize': 12,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.axisbelow': True,
    'axes.grid': True,
    'grid.color': '#E4E4E4',
    'legend.fontsize': 10,
    'legend.frameon': False,
    'svg.fonttype': 'none',  # text stays text
}
# Of a line at a cost limit.
LIMIT_LINE: dict[str, Any] = {'color': GREY, 'linestyle': '--', 'linewidth': 1.3}


@contextmanager
def drawing_style(style: dict[str, Any] = STYLE) -> Iterator[None]:
    """Use this style over matplotlib's defaults, independent of the process's settings."""
    import matplotlib.style

    with matplotlib.style.context(style, after_reset=True):
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG; the file appears only when it is complete.

    Args:
        figure (Figure): The figure.
        path (Path): The file; its suffix sets the format.

    Raises:
        UserError: If the suffix is another; see :func:`check_suffix`.
    """
    check_suffix(path)
    # Through memory: matplotlib's writers raise other errors if a disk is full.
    buffer = io.BytesIO()
    with drawing_style():
        figure.savefig(buffer, format=path.suffix[1:].lower())
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def check_suffix(path: Path) -> None:
    """Check that the suffix of a figure's file is a known format."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f'{path}: unknown kind of figure; name it {", ".join(SUFFIXES)}')
