# SPDX-License-Identifier: Apache-2.0
"""Docstrings of the house as Markdown, for the reference of the site.

A docstring has paragraphs, reST roles (``:class:`~quant.nn.layers.QuantConv2d```), literal blocks
after ``::``, and numpydoc sections of entries ``name : what it is``, where indented lines go on.
"""

import inspect
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:\w+:)?\w+:`(~?)([^`]+)`")
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.M)
ENTRY = re.compile(r"^([\w*`][^\n:]*?) :(?: (.*)|$)")
#: What is code rather than prose: no two words side by side.
CODE = re.compile(r"^(?!.*[a-z]{2,} [a-z]{2,}).*[(\[.\w].*$")


def role(match: re.Match) -> str:
    """A link where the reference has the name, code where it has not."""
    name = match[2]
    shown = name.rpartition(".")[2] if match[1] else name
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'


def entry(line: str, text: list[str]) -> list[str]:
    """One item of a list."""
    names, kind = ENTRY.match(line).groups()
    names = ", ".join(f"`{name.strip('` ')}`" for name in names.split(","))
    kind = kind or ""
    if kind and text and CODE.match(kind):
        kind = f"`{kind}`"
    elif "In(" in kind or "Out(" in kind:
        names, kind = f"`{line.strip()}`", ""
    body = [part.strip() for part in text]
    head = f"- {names}" + (f": {kind}" if kind else "")
    return [
        head + ("." if kind.endswith("`") and body else ":" if body and not kind else ""),
        *(f"    {part}" for part in body),
    ]


def markdown(text: str) -> str:
    """Markdown of a docstring."""
    text = SECTION.sub(r"**\1**\n", ROLE.sub(role, inspect.cleandoc(text)))
    lines = text.split("\n")
    result: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if ENTRY.match(line):
            more: list[str] = []
            while at < len(lines) and lines[at].startswith("    "):
                more.append(lines[at])
                at += 1
            if result and result[-1] and not result[-1].startswith(("- ", "    ")):
                result.append("")
            result += entry(line, more)
        elif line.endswith("::"):
            result += [line[:-1]] if line[:-2].strip() else []
            result.append("")
        elif line.startswith("    ") and result and result[-1] and not result[-1].startswith(" "):
            result += ["", line]
        else:
            result.append(line)
    return "\n".join(result)


class HouseDocstrings(griffe.Extension):
    """Rewrites every docstring when its object was read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
