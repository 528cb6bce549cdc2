# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Independent random streams from one seed, one for each purpose.

The same integer given to two generators makes them draw the same numbers. A run's seed goes to
torch's global generator (OmniSafe does that) and an episode's seed to the simulator, so whatever
else is drawn needs a stream of its own.
"""

from __future__ import annotations

import numpy as np


# A purpose's position determines its draws: append only. runner/, which imports nothing from the
# package, repeats the position of the candidates.
_PURPOSES = ('batches', 'augmentation', 'candidates', 'dropout', 'dynamics')


def stream(seed: int, purpose: str, *numbers: int) -> np.random.SeedSequence:
    """Return a seed's stream for a purpose, independent of its other streams.

    Args:
        seed (int): 0 or more.
        purpose (str): ``batches``, ``augmentation``, ``candidates`` (all draws of a policy in an
            episode), ``dropout`` (of all but the first process) or ``dynamics`` (learned ones).
        numbers (int): Distinguish several streams of a purpose.
    """
    return np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), *numbers))


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a seed for a torch generator; arguments as in :func:`stream`."""
    return int(stream(seed, purpose, *numbers).generate_state(1, np.uint64)[0]) >> 1
