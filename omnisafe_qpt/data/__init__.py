# SPDX-FileCopyrightText: 2026 The omnisafe-qpt Authors
# SPDX-License-Identifier: Apache-2.0
"""Files to tensors: reading, validating, windowing and augmenting offline datasets."""
