# SPDX-License-Identifier: Apache-2.0
"""Networks to train; state-dict names follow torchvision."""
