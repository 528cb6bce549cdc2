# Copyright 2026 The omnisafe-qpt Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Offline datasets collected in the real simulators.

Each episode draws who acts in it: a scripted controller of its task with a risk of its own, or one
of a mixture of trained agents, so that returns and costs are spread. An episode depends on the
environment, the seed, the mixture and its number only: neither the number of processes nor the
other episodes change it, and a broken collection goes on where it was.

- ``engine``: :func:`collect`, from what is asked for to the file.
- ``request``: what is asked for, checked.
- ``episodes``: running and recording an episode.
- ``workers``: the processes that do so.
- ``store``: finished episodes on disk, until the file is written.
- ``selection``: which of the collected episodes are kept.
- ``agents``: policies trained by OmniSafe as behaviours.
- ``controller``, ``simulator``: what scripted controllers are, and the simulator as they see it.
- ``families``: which scripted controllers an environment id has; the other modules are theirs.
"""

from __future__ import annotations

from omnisafe_qpt.collect.engine import collect, supported_env_ids


__all__ = ['collect', 'supported_env_ids']
