# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Off-policy evaluation: what a deployed policy would bring, estimated from the data alone.

The policy is rolled out in an ensemble of dynamics learned from the data (:mod:`.dynamics`,
:mod:`.rollouts`). Episodes that the model has not seen say how far it can be trusted
(:mod:`.backtest`), and both lead to a verdict (:mod:`.estimate`). Imports torch and numpy only.
"""
