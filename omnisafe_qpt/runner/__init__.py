# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The policy in the user's own loop, and the runner of exported policies.

Copy this folder to a machine that has no torch, together with the model that
``omnisafe-qpt export`` wrote, and use :class:`OnnxPolicy`. It acts as the policy of
``omnisafe_qpt.load_policy`` does.

The folder needs numpy and onnxruntime and imports nothing of the package around it. So its modules
name each other by relative imports, and a few checks of ``omnisafe_qpt`` are repeated here.
"""

from __future__ import annotations

from .actions import in_environment_units, zero_action
from .loop_policy import LoopPolicy
from .metadata import FORMAT, check_metadata
from .model_file import BLANK_DIGEST, sealed
from .onnx_policy import OnnxPolicy
from .targets import (
    CALIBRATION_FORMAT,
    CERTIFIED,
    ESTIMATED,
    MODEL,
    NO_SAFE_TARGET,
    NOT_CERTIFIED,
    SIMULATOR,
    Guarantee,
    serving_level,
    share_bound,
    targets_for,
)
