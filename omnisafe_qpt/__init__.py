# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""QPT, the Q-learning Penalized Transformer, as a plugin for OmniSafe.

:func:`evaluate` runs trained models at any cost limits; :func:`load_policy` loads one for your own
loop. Importing this package is cheap: torch, OmniSafe and the simulators are only imported by the
functions that need them. Once installed, QPT and the algorithms that it is compared with, CDT,
BCSafe, CPQ and FISOR, are known to OmniSafe without any import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.version import __version__


if TYPE_CHECKING:
    from omnisafe_qpt.evaluation.deployment import load_policy
    from omnisafe_qpt.evaluation.sweep import evaluate_runs as evaluate

__all__ = ['UserError', '__version__', 'evaluate', 'load_policy']


def __getattr__(name: str) -> Any:
    """Import the heavy public names on first use."""
    if name == 'load_policy':
        from omnisafe_qpt.evaluation.deployment import load_policy

        return load_policy
    if name == 'evaluate':
        from omnisafe_qpt.evaluation.sweep import evaluate_runs

        return evaluate_runs
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
