# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m omnisafe_qpt.cli``."""

from __future__ import annotations

import sys

from omnisafe_qpt.cli import main


if __name__ == '__main__':
    sys.exit(main())
