# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Environments: DSRL's Bullet and MetaDrive tasks, OmniSafe's own and users'."""
