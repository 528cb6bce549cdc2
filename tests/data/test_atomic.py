# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from omnisafe_qpt.data.atomic import atomic_path, file_sha256


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / 'data'
    path.write_bytes(b'x' * 5_000_000)
    assert file_sha256(path) == hashlib.sha256(b'x' * 5_000_000).hexdigest()


def test_atomic_path_is_beside_the_file_and_has_the_usual_rights(tmp_path):
    path = tmp_path / 'result.json'
    with atomic_path(path) as temporary:
        temporary.write_text('{}')
        assert temporary.parent == tmp_path
        assert temporary.suffix == '.json'
        assert not path.exists()
    plain = tmp_path / 'plain'
    plain.touch()
    assert path.read_text() == '{}'
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ['plain', 'result.json']


def test_atomic_path_drops_what_was_interrupted(tmp_path):
    path = tmp_path / 'result.json'
    with suppress(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text('{')
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
