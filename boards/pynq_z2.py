# SPDX-License-Identifier: Apache-2.0
"""TUL PYNQ-Z2."""

from boards.pynq import pynq

__all__ = ["PYNQ_Z2"]

PYNQ_Z2 = pynq("pynq_z2", "TUL PYNQ-Z2", "PYNQ-Z2 reference manual v1.0")
