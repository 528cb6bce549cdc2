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
"""Settings of the baselines; impossible values are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from omnisafe_qpt.errors import UserError


# What a value must be, and how that is called.
_Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: _Rule = (lambda value: value > 0, 'positive')
_NOT_NEGATIVE: _Rule = (lambda value: value >= 0, '0 or more')
_COUNT: _Rule = (lambda value: value >= 1, 'at least 1')
_SIZES: _Rule = (
    lambda value: len(value) > 0 and min(value) >= 1,
    'a list of sizes of at least 1',
)
_SHARE: _Rule = (lambda value: 0 <= value < 1, 'in [0, 1)')

_RULES: dict[str, _Rule] = {
    'total_steps': _COUNT,
    'actor_lr': _POSITIVE,
    'actor_hidden_sizes': _SIZES,
}


@dataclass(frozen=True)
class BaselineConfig:
    """What all baselines have in common.

    Args:
        total_steps (int): Updates in the whole run.
    """

    total_steps: int = 100_000

    def __post_init__(self) -> None:
        """Check each value by itself."""
        for field in fields(self):
            value, (is_sound, needed) = getattr(self, field.name), _RULES[field.name]
            if not is_sound(value):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f'{field.name} is {shown!r}; it must be {needed}')


@dataclass(frozen=True)
class BCSafeConfig(BaselineConfig):
    """Settings of BC-Safe: those of BC in OSRL, the library of Liu et al. (2023), DSRL.

    Args:
        total_steps (int): Updates in the whole run; DSRL's results are after 100,000.
        actor_lr (float): Learning rate of Adam (OSRL).
        actor_hidden_sizes (tuple[int, ...]): Hidden layers, with ReLU (OSRL).
    """

    actor_lr: float = 1e-3
    actor_hidden_sizes: tuple[int, ...] = (256, 256)
