# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Offline datasets collected in the real simulators.

Each episode draws who acts in it: a scripted controller of its task with a risk of its own, or one
of a mixture of trained agents, so that returns and costs are spread. An episode depends on the
environment, the seed, the mixture and its number only: neither the number of processes nor the
other episodes change it, and a broken collection goes on where it was.

- ``engine``: :func:`collect`, from what is asked for to the file.
- ``request``: what is asked for, checked.
- ``episodes``: running and recording episodes.
- ``store``: finished episodes on disk, until the file is written.
- ``selection``: which of the collected episodes are kept.
- ``agents``: policies trained by OmniSafe as behaviours.
- ``controller``, ``simulator``: what scripted controllers are, and the simulator as they see it.
- ``families``: which scripted controllers an environment id has; the other modules are theirs.
"""

from __future__ import annotations

from omnisafe_qpt.collect.engine import collect, supported_env_ids


__all__ = ['collect', 'supported_env_ids']
