# SPDX-License-Identifier: Apache-2.0
"""The page of operations says of each how it is computed and what it costs."""

from docs import operations
from quant.capture.rewrites import REWRITES


def test_text_and_cost_come_from_the_docstring() -> None:
    def rewrite() -> None:
        """Sum of :class:`a.B` and ``x | y``,
        in a layer.

        Cost: none behind a layer.
        """

    found = operations.rows({"add": rewrite, "add_": rewrite, "other": lambda: None})
    assert found == [["`add`", r"Sum of `a.B` and `x \| y`, in a layer.", "none behind a layer."]]


def test_every_common_operation_is_on_the_page() -> None:
    names = " ".join(row[0] for row in operations.rows(REWRITES))
    for name in ("linear", "batch_norm", "relu", "add", "mul", "cat", "flatten", "pad"):
        assert f"`{name}`" in names, name
    for row in operations.rows(REWRITES):
        assert all(cell and "\n" not in cell for cell in row), row
