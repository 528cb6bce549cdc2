# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The algorithms, by the names that OmniSafe's users give, and the modules of their classes."""

from __future__ import annotations

from typing import Any, TypeGuard


ALGORITHMS = {
    'QPT': 'omnisafe_qpt.omnisafe_plugin.algorithms',
    'CDT': 'omnisafe_qpt.omnisafe_plugin.algorithms',
    'BCSafe': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
    'CPQ': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
    'FISOR': 'omnisafe_qpt.omnisafe_plugin.baseline_algorithms',
}
# Algorithms whose default update takes seconds on a CPU.
SLOW_ON_CPU = ('QPT', 'CDT')


def is_known(name: Any) -> TypeGuard[str]:
    """Return whether a value, perhaps from a file and of any type, names one of them."""
    return isinstance(name, str) and name in ALGORITHMS
