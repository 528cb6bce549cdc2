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

A family of tasks has controllers with a risk knob; each episode draws its own controller, so that
returns and costs are spread. An episode depends on the environment, the seed and its number only:
neither the number of processes nor the other episodes change it.

- ``controller``: what a controller and a family of tasks are.
- ``simulator``: an OmniSafe environment as controllers see it.
- ``engine``: :func:`collect`, from what is asked for to the file.
- ``selection``: which of the collected episodes are kept.
- ``navigation``: the controllers of the Button tasks.
- ``families``: which controllers an environment id has.
"""

from __future__ import annotations

from omnisafe_qpt.collect.engine import collect, supported_env_ids


__all__ = ['collect', 'supported_env_ids']
