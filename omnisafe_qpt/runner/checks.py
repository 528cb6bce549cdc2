# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Shared checks of this folder's modules.

``omnisafe_qpt.errors`` and ``omnisafe_qpt.schema`` have the same for the package, but this folder
must not depend on them.
"""

from __future__ import annotations


# Beyond this, the squares in the networks' norms may overflow, and the action would be NaN.
LARGEST_NUMBER = 1e15


def printable(text: str) -> str:
    """Replace unprintable characters, such as escape sequences."""
    return ''.join(letter if letter.isprintable() else '?' for letter in text)


def reason(error: BaseException) -> str:
    """Return the first line of an exception's text, or its name without one."""
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:300] if lines else type(error).__name__
