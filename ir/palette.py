# SPDX-License-Identifier: Apache-2.0
"""Colours of the schemes on every page and plot; told apart by colour-blind people, too."""

POT4 = "#0072b2"
FIXED4 = "#e69f00"
FIXED8 = "#9e1b32"
APOT4 = "#009e73"
