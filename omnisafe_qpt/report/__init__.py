# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""A run as one page to look at: what it learned, what it reaches at each limit, how it chooses."""
