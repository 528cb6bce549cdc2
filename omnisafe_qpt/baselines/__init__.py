# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Baselines: learners of BC-Safe, CPQ and FISOR. Imports torch and numpy only."""
