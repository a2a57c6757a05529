# SPDX-License-Identifier: Apache-2.0
"""Docstrings of the house become Markdown."""

import inspect

import pytest

from docs.docstrings import markdown


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line.", "One line."),
        (
            "Text of :class:`~ir.ratio.Ratio` and :func:`get`.",
            'Text of <autoref optional identifier="ir.ratio.Ratio"><code>Ratio</code></autoref> '
            'and <autoref optional identifier="get"><code>get</code></autoref>.',
        ),
        (
            """Title.

            Parameters
            ----------
            path : str
                Folder, or
                file.
            ratio, rows : optional lanes
            """,
            """Title.

            **Parameters**

            - `path`: `str`
                Folder, or
                file.
            - `ratio`, `rows`: optional lanes""",
        ),
        (
            """Title.

            Members
            -------
            job : In(DrainJob), job_valid : In(1)
            done : Out(1)
                Pulse.
            """,
            """Title.

            **Members**

            - `job : In(DrainJob), job_valid : In(1)`
            - `done`: `Out(1)`
                Pulse.""",
        ),
        (
            """Copy it::

                import driver

            No more.""",
            """Copy it:

                import driver

            No more.""",
        ),
    ],
)
def test_markdown(docstring: str, expected: str) -> None:
    lines = [line for line in markdown(docstring).split("\n") if line.strip()]
    assert lines == [line for line in inspect.cleandoc(expected).split("\n") if line.strip()]
