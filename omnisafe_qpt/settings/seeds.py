# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Seeds of episodes in three disjoint ranges: reported, validation, target calibration.

The episodes that choose a checkpoint say nothing unbiased about it. So others calibrate it, and yet
others are reported.
"""

from __future__ import annotations

from omnisafe_qpt.errors import UserError


# Seeds below are for episodes that are reported, from here on for validation in training, and then
# for target calibration. All of them have 31 bits: some simulators take no more.
FIRST_VALIDATION_SEED = 1_000_000_000
FIRST_CALIBRATION_SEED = 1_500_000_000
_END = 2_000_000_000

# Runs with neighbouring seeds are evaluated on different episodes.
EPISODES_OF_A_RUN = 10_000


def validation_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's episodes after each epoch, by which the best one is chosen.

    Args:
        seed (int): Seed of the run.
        episodes (int): How many.

    Raises:
        UserError: If there are too many, which would be another run's.
    """
    return _seeds_between(FIRST_VALIDATION_SEED, FIRST_CALIBRATION_SEED, seed, episodes)


def calibration_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's target calibration, the same ones for each target cost.

    Args:
        seed (int): Seed of the run.
        episodes (int): How many.

    Raises:
        UserError: If there are too many, which would be another run's.
    """
    return _seeds_between(FIRST_CALIBRATION_SEED, _END, seed, episodes)


def final_seeds(seed: int, episodes: int) -> range:
    """Return the seeds of a run's episodes after the last epoch, and of ``omnisafe eval``.

    Args:
        seed (int): Seed of the run.
        episodes (int): How many.

    Raises:
        UserError: If so many would reach into the seeds of validation.
    """
    return _seeds_between(0, FIRST_VALIDATION_SEED, seed + 1, episodes)


def check_test_seeds(seed: int, episodes: int) -> None:
    """Refuse seeds of reported episodes that are kept for validation and calibration.

    Args:
        seed (int): Seed of the first episode; each further one has the next.
        episodes (int): How many.

    Raises:
        UserError: If one of them is.
    """
    if not 0 <= seed <= FIRST_VALIDATION_SEED - episodes:
        raise UserError(
            f'seed {seed}: seeds of evaluated episodes go from 0 to {FIRST_VALIDATION_SEED - 1}; '
            'those above belong to the validation that chooses the best checkpoint and to target '
            'calibration',
        )


def _seeds_between(start: int, end: int, number: int, episodes: int) -> range:
    """Return the first seeds of a run's own block of a range."""
    if episodes > EPISODES_OF_A_RUN:
        raise UserError(f'{episodes} episodes of evaluation: {EPISODES_OF_A_RUN} at most')
    first = start + EPISODES_OF_A_RUN * (number % ((end - start) // EPISODES_OF_A_RUN))
    return range(first, first + episodes)
