# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""The scripted controllers of each environment id."""

from __future__ import annotations

from omnisafe_qpt.collect import ant, bullet, circle, driving, drone, navigation
from omnisafe_qpt.collect.controller import Family


FAMILIES: dict[str, Family] = {
    **ant.FAMILIES,
    **bullet.FAMILIES,
    **circle.FAMILIES,
    **driving.FAMILIES,
    **drone.FAMILIES,
    **navigation.FAMILIES,
}
