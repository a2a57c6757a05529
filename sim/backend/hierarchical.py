# SPDX-License-Identifier: Apache-2.0
"""Hierarchical build: modules that a design has many times, compiled once for all designs.

Verilator unrolls a design to all its instances; time and memory for it grow with an array. A
hierarchical module becomes a library of its own (Verilator's ``--lib-create``), and the design sees
a wrapper that calls it.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

_MODULE = re.compile(r"^module\s+(\\\S+|\w+).*?^endmodule$", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\\\S+|\w+")


@dataclasses.dataclass(frozen=True)
class Module:
    """Module that is compiled on its own.

    text : of it and of all that it instantiates
    """

    name: str
    text: str

    @property
    def digest(self) -> str:
        """Digest of the text in hexadecimal, 8 bytes of BLAKE2s."""
        return hashlib.blake2s(self.text.encode(), digest_size=8).hexdigest()


def split(texts: Iterable[str], names: Iterable[str]) -> tuple[list[str], list[Module]]:
    """Texts without the modules called ``names``, and these; unknown names are left out."""
    texts, names = list(texts), set(names)
    found = {match[1]: match[0] for text in texts for match in _MODULE.finditer(text)}
    modules = [Module(name, _closure(name, found)) for name in sorted(names & set(found))]
    rest = [
        _MODULE.sub(lambda match: "" if match[1] in names else match[0], text) for text in texts
    ]
    return rest, modules


def _closure(name: str, found: dict[str, str]) -> str:
    """Text of module ``name`` and, after it, of what it instantiates; the order does not depend on
    the file's."""
    order, waiting = [], [name]
    while waiting:
        module = waiting.pop(0)
        if module not in order:
            order.append(module)
            waiting += sorted((set(_WORD.findall(found[module])) & set(found)) - set(order))
    return "\n".join(found[module] for module in order) + "\n"


@dataclasses.dataclass(frozen=True)
class Library:
    """Files of a library that Verilator made of a module.

    wrapper : Verilog of the module for the design
    fast, slow : C++ of what runs each cycle, and of what runs once
    """

    wrapper: Path
    fast: list[Path]
    slow: list[Path]


def plan(folder: Path, name: str) -> Library:
    """Files of a library whose JSON list is ``V<name>.json``."""
    sources = json.loads((folder / f"V{name}.json").read_text())["sources"]
    paths = {
        kind: [folder / Path(file).name for file in files]
        for kind, files in sources.items()
        if kind != "deps"
    }
    return Library(
        folder / f"{name}.sv",
        [*paths["classes_fast"], *paths.get("support_fast", []), folder / f"{name}.cpp"],
        [*paths["classes_slow"], *paths.get("support_slow", [])],
    )
