# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A run's folder on disk: checkpoints, training state, records, and how to resume."""
