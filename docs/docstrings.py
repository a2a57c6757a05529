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


def item(match: re.Match, text: list[str]) -> list[str]:
    """A list item of the entry ``name : kind`` and of the lines that explain it."""
    names, kind = match[1], match[2] or ""
    if " : " in kind:  # several members on a line
        head = f"- `{match[0].strip()}`"
    else:
        shown = ", ".join(f"`{name.strip('` ')}`" for name in names.split(","))
        is_type = bool(text) and CODE.match(kind)
        head = f"- {shown}" + (f": `{kind}`" if is_type else f": {kind}" if kind else "")
    return [head, *(f"    {line.strip()}" for line in text)]


def markdown(text: str) -> str:
    """Markdown of a docstring."""
    lines = SECTION.sub(r"**\1**\n", ROLE.sub(role, inspect.cleandoc(text))).split("\n")
    result: list[str] = []
    while lines:
        line = lines.pop(0)
        if match := ENTRY.match(line):
            more: list[str] = []
            while lines and lines[0].startswith("    "):
                more.append(lines.pop(0))
            if result and not result[-1].startswith(("- ", "    ")):
                result.append("")  # a list begins after an empty line
            result += item(match, more)
        elif line.endswith("::"):
            result += [f"{line[:-2]}:", ""] if line[:-2].strip() else [""]
        else:
            if line.startswith("    ") and result and result[-1][:4].strip():
                result.append("")  # so does code
            result.append(line)
    return "\n".join(result)


class HouseDocstrings(griffe.Extension):
    """Rewrites every docstring when its object was read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
