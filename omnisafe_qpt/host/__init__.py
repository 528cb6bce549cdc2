# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What OmniSafe sees: the algorithm, its adapter, its environments and the plugin door."""
