# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
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
    from omnisafe_qpt.host.deployment import load_policy
    from omnisafe_qpt.host.limits import evaluate_runs as evaluate

__all__ = ['UserError', '__version__', 'evaluate', 'load_policy']


def __getattr__(name: str) -> Any:
    """Import the heavy public names on first use."""
    if name == 'load_policy':
        from omnisafe_qpt.host.deployment import load_policy

        return load_policy
    if name == 'evaluate':
        from omnisafe_qpt.host.limits import evaluate_runs

        return evaluate_runs
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
