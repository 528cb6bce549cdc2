# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The algorithms, by the names that OmniSafe's users give, and the modules of their classes."""

from __future__ import annotations


ALGORITHMS = {
    'QPT': 'omnisafe_qpt.omnisafe_plugin.algorithms',
    'CDT': 'omnisafe_qpt.omnisafe_plugin.algorithms',
    'BCSafe': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
    'CPQ': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
    'FISOR': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
}
# Algorithms whose default update takes seconds on a CPU.
SLOW_ON_CPU = ('QPT', 'CDT')
