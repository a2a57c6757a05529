# SPDX-License-Identifier: Apache-2.0
"""``python -m rmsmp``, the same as the command ``rmsmp``."""

import sys

from rmsmp.cli import start

if __name__ == "__main__":
    sys.exit(start())
