# SPDX-License-Identifier: Apache-2.0
"""One torch thread per test process: on these small tensors a second one makes it ten times slower,
and pytest-xdist has the other cores. Set before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
