# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Offline datasets collected in the real simulators.

Each episode draws its behaviour: a scripted controller of its task with its own risk, or one of a
mixture of trained agents, so that returns and costs are spread. An episode depends only on the
environment, the seed, the mixture and its index: not on the number of processes or on other
episodes. An interrupted collection resumes.

- ``engine``: :func:`collect`, from the request to the file.
- ``request``: the checked request.
- ``episodes``: running and recording episodes.
- ``store``: finished episodes on disk, until the file is written.
- ``selection``: selection of the episodes to keep.
- ``agents``: policies trained by OmniSafe as behaviours.
- ``controller``, ``simulator``: interfaces of scripted controllers and of the simulator.
- ``families``: the scripted controllers of an environment id; the other modules define them.
"""

from __future__ import annotations

from omnisafe_qpt.collect.engine import collect, supported_env_ids


__all__ = ['collect', 'supported_env_ids']
