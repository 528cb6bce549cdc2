# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Learners of other safe offline algorithms, to compare with: BC-Safe, CPQ and FISOR."""
