# SPDX-License-Identifier: Apache-2.0
"""Version of the project, the same as in pyproject.toml."""

__version__ = "0.2.0"
