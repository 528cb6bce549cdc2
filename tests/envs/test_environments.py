# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""OmniSafe's environments as evaluation uses them."""

from __future__ import annotations

import numpy as np
import pytest

from omnisafe_qpt.envs import environments


def test_a_navigation_task_builds_one_world_for_each_episode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safety-Gymnasium by itself builds the first one twice, seconds each."""
    from safety_gymnasium.world import World

    built = []
    build = World.build

    def counted(world: World) -> None:
        built.append(world)
        build(world)

    environment = environments.NumpyEnvironment('SafetyPointCircle1-v0')
    monkeypatch.setattr(World, 'build', counted)
    first = environment.reset(3)
    assert len(built) == 1
    other = environment.reset(4)
    assert len(built) == 2
    np.testing.assert_array_equal(environment.reset(3), first)
    assert (other != first).any()
    environment.close()


def test_environments_without_such_a_world_start_the_same_episode_again() -> None:
    environment = environments.NumpyEnvironment('SafetySwimmerVelocity-v1')
    first = environment.reset(3)
    environment.reset(4)
    np.testing.assert_array_equal(environment.reset(3), first)
    environment.close()
