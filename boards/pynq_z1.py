# SPDX-License-Identifier: Apache-2.0
"""Digilent PYNQ-Z1."""

from boards.pynq import pynq

__all__ = ["PYNQ_Z1"]

PYNQ_Z1 = pynq("pynq_z1", "Digilent PYNQ-Z1", "PYNQ-Z1 reference manual")
