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
"""The one exception type for mistakes that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a file, an option or a value that the user gave.

    The message is one line: it names the file or option, says what is wrong and how to mend it.
    Command lines print it without a traceback and exit with status 1.
    """
