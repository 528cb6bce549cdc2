# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Seeds of episodes in three disjoint ranges: reported, validation, target calibration.

The episodes that select a checkpoint give biased results for it. So calibration uses other
episodes, and the report yet others.
"""

from __future__ import annotations

from omnisafe_qpt.errors import UserError


# Lower seeds are for reported episodes, seeds from here on for validation, then for target
# calibration. All fit in 31 bits, the limit of some simulators.
FIRST_VALIDATION_SEED = 1_000_000_000
FIRST_CALIBRATION_SEED = 1_500_000_000
_END = 2_000_000_000

# Runs with adjacent seeds are evaluated on different episodes.
EPISODES_OF_A_RUN = 10_000


def validation_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's validation episodes.

    Args:
        seed (int): Seed of the run.
        episodes (int): Number of episodes.

    Raises:
        UserError: If there are too many, so that they would overlap with another run's.
    """
    return _seeds_between(FIRST_VALIDATION_SEED, FIRST_CALIBRATION_SEED, seed, episodes)


def calibration_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's target calibration, the same for each target cost.

    Args:
        seed (int): Seed of the run.
        episodes (int): Number of episodes.

    Raises:
        UserError: If there are too many, so that they would overlap with another run's.
    """
    return _seeds_between(FIRST_CALIBRATION_SEED, _END, seed, episodes)


def final_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's reported episodes, also for ``omnisafe eval``.

    Args:
        seed (int): Seed of the run.
        episodes (int): Number of episodes.

    Raises:
        UserError: If there are too many, so that they would overlap with validation.
    """
    return _seeds_between(0, FIRST_VALIDATION_SEED, seed + 1, episodes)


def check_test_seeds(seed: int, episodes: int) -> None:
    """Check that the seeds of reported episodes are not reserved for validation or calibration.

    Args:
        seed (int): Seed of the first episode; it increases by one per episode.
        episodes (int): Number of episodes.

    Raises:
        UserError: If one of them is reserved.
    """
    if not 0 <= seed <= FIRST_VALIDATION_SEED - episodes:
        raise UserError(
            f'seed {seed}: seeds of evaluated episodes go from 0 to {FIRST_VALIDATION_SEED - 1}; '
            'higher ones are reserved for validation, which selects checkpoints, and target '
            'calibration',
        )


def _seeds_between(start: int, end: int, number: int, episodes: int) -> range:
    """Return the first seeds of a run's own block of a range."""
    if episodes > EPISODES_OF_A_RUN:
        raise UserError(f'{episodes} episodes of evaluation: {EPISODES_OF_A_RUN} at most')
    first = start + EPISODES_OF_A_RUN * (number % ((end - start) // EPISODES_OF_A_RUN))
    return range(first, first + episodes)
