# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The environment that stands for a dataset without a simulator."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from omnisafe.envs.core import CMDP, env_register

from omnisafe_qpt.errors import UserError
from omnisafe_qpt.settings.files import OFFLINE_ENV_ID


@env_register
class OfflineEnv(CMDP):
    """Registered so that OmniSafe takes its id; it cannot be made."""

    _support_envs: ClassVar[list[str]] = [OFFLINE_ENV_ID]

    def __new__(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse to make it.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f'{OFFLINE_ENV_ID} is a dataset without a simulator, so no episode can be run: add '
            '--offline DATASET to omnisafe-qpt evaluate or calibrate'
        )
