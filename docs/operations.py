# SPDX-License-Identifier: Apache-2.0
"""Page of the operations that a network may have, out of the code that takes them.

The docstring of a rewrite says how the accelerator computes it and, behind ``Cost:``, what that
takes.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from types import ModuleType

from ir.tail import FUNCTIONS
from quant.capture import functions, gathers, results
from quant.capture.rewrites import REWRITES
from quant.capture.trace import IDENTITIES
from quant.lowering import normalisation
from quant.nn.elementwise import TableQuantiser

INTRODUCTION = """# Operations

A network of these operations, written as methods, functions or modules of PyTorch, becomes a
program of the accelerator that computes what torch computed, to the bit. Names are those of ATen.
Another operation is refused in one line with the layer's name, before anything is trained.
"""
COST = "Cost:"


def _text(docstring: str | None) -> str:
    """Docstring in one line of Markdown, without the roles of Sphinx."""
    text = " ".join(inspect.cleandoc(docstring or "").split())
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`").replace("|", r"\|")


def rows(table: dict[str, Callable]) -> list[list[str]]:
    """Names, computation and cost of the operations in a table of rewrites."""
    names: dict[Callable, list[str]] = {}
    for name, function in table.items():
        names.setdefault(function, []).append(name)
    found = []
    for function, operations in names.items():
        text, _, cost = _text(function.__doc__).partition(COST)
        if cost:
            found.append([_names(operations), text.strip(), cost.strip()])
    return found


def _names(operations: Iterable[str]) -> str:
    plain = dict.fromkeys(name.strip("_") for name in operations)
    return ", ".join(f"`{name}`" for name in plain)


def _about(module: ModuleType) -> str:
    """Module's docstring, but for its heading."""
    _, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return "\n\n".join(_text(part) for part in rest.split("\n\n"))


def page(table: Callable[[list[str], list[list]], str]) -> str:
    """Text of the page; ``table`` makes a Markdown table of heads and rows."""
    return f"""{INTRODUCTION}
{table(["operation", "computed as", "cost"], rows(REWRITES))}
Without effect: {_names(sorted(IDENTITIES))}.

## Elementwise functions

{_about(functions)}

{_text(TableQuantiser.__doc__).partition(" Parameters ")[0]}

## Channels

{_about(gathers)}

## Functions at the end

{_about(results)}
These are {", ".join(f"`{name}`" for name in FUNCTIONS)}.

## Normalisation at the beginning

{_about(normalisation)}
"""
