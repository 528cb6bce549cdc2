# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation: episodes, sweeps over limits and runs, target calibration, checks on data."""
