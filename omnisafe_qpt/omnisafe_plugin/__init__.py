# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin for OmniSafe: import hooks, options, commands, algorithms."""
