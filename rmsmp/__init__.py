# SPDX-License-Identifier: Apache-2.0
"""The door: 4-bit networks with row-wise mixed schemes, from PyTorch to a proven accelerator."""

__version__ = "0.2.0"
