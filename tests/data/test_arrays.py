# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of rows."""

from __future__ import annotations

import h5py
import pytest

from omnisafe_qpt.data.arrays import row_blocks


@pytest.mark.parametrize(
    ('chunk_rows', 'rows', 'expected'),
    [
        (None, 40, [(0, 40), (40, 80), (80, 100)]),
        (15, 40, [(0, 30), (30, 60), (60, 90), (90, 100)]),
        (60, 40, [(0, 60), (60, 100)]),
        (90, 20, [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]),  # too much memory
    ],
)
def test_blocks_end_where_chunks_do(tmp_path, chunk_rows, rows, expected):
    with h5py.File(tmp_path / 'data.hdf5', 'w') as file:
        chunks = None if chunk_rows is None else (chunk_rows, 2)
        array = file.create_dataset('array', (100, 4), 'f4', chunks=chunks)
        assert list(row_blocks(array, rows)) == expected
