# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What OmniSafe sees: import hooks, options, commands, algorithms."""
