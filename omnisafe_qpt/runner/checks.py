# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""What the modules of this folder share for refusing input.

``omnisafe_qpt.errors`` and ``omnisafe_qpt.schema`` hold the same for the package. This folder must
do without them.
"""

from __future__ import annotations


# Beyond this, the squares in the networks' norms may overflow, and the action would be NaN.
LARGEST_NUMBER = 1e15


def printable(text: str) -> str:
    """Replace what is not printable, such as a terminal's escape sequences."""
    return ''.join(letter if letter.isprintable() else '?' for letter in text)


def reason(error: BaseException) -> str:
    """Return the first line of an exception's text; its name where it has none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:300] if lines else type(error).__name__
