# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Figures in one style; matplotlib is imported on first use, and its settings do not change."""

from __future__ import annotations

from omnisafe_qpt.plots.calibrations import plot_calibrations
from omnisafe_qpt.plots.dataset import Relabelled, plot_return_cost, relabel
from omnisafe_qpt.plots.limits import draw_limits, plot_limits
from omnisafe_qpt.plots.style import (
    BLACK,
    BLUE,
    GREY,
    LIMIT_LINE,
    ORANGE,
    PURPLE,
    STYLE,
    check_suffix,
    drawing_style,
    save_figure,
)
