# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Off-policy evaluation: a deployed policy's return and cost, estimated from data alone.

The policy is rolled out in an ensemble of learned dynamics (:mod:`.dynamics`, :mod:`.rollouts`).
Held-out episodes test the model (:mod:`.backtest`). The verdict combines both (:mod:`.estimate`).
Imports torch and numpy only.
"""
