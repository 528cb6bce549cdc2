# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors to policy: networks, losses, learner and deployment. Imports torch and numpy only."""
