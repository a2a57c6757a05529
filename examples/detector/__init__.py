# SPDX-License-Identifier: Apache-2.0
"""A one-stage detector with two heads, from training to the proof of its accelerator."""
