# SPDX-License-Identifier: Apache-2.0
"""Synthesised netlists: the JSON of Yosys' ``write_json``, all instances of the hierarchy joined.

Nets are numbers from 0. Constants and what nothing drives are :data:`NONE`.
"""

import array
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NONE = -1  #: net of a bit that is constant
_BOXES = ("blackbox", "whitebox")
_REMARKS = ("$scopeinfo",)  #: cells that are no circuit


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """Net as the text of a design calls it, ``sequencer.state``, and the line of its source."""

    text: str
    source: str


class _Scope:
    """An instance of a module: where it is, and which net each of its bits is."""

    __slots__ = ("module", "nets", "path", "root", "source")

    def __init__(self, path: tuple[str, ...], module: str, root: str, source: str) -> None:
        self.path = path
        self.module = module
        self.root = root
        self.source = source
        self.nets: dict[int, int] = {}


class Cell:
    """Primitive of a netlist.

    Attributes
    ----------
    kind : str
        Such as ``LUT6``.
    parameters : mapping
        As Yosys writes them: text of bits, or text.
    path : tuple of str
        Names of the instances around it, without the top module.
    """

    __slots__ = ("_json", "_scope", "name")

    def __init__(self, name: str, json: Mapping[str, Any], scope: _Scope) -> None:
        self.name = name
        self._json = json
        self._scope = scope

    @property
    def kind(self) -> str:
        """Type of the primitive, such as ``LUT6``."""
        return self._json["type"]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters by name, as Yosys writes them: text of bits, or text."""
        return self._json.get("parameters", {})

    @property
    def path(self) -> tuple[str, ...]:
        """Instances around it by name, the outermost first, without the top module."""
        return self._scope.path

    @property
    def source(self) -> str:
        """Line of Amaranth that it comes from, below the root; else that of its component."""
        return _source(self._json, self._scope.root) or self._scope.source

    @property
    def inputs(self) -> Iterator[str]:
        """Input ports by name."""
        return (port for port, way in self._json["port_directions"].items() if way == "input")

    @property
    def outputs(self) -> Iterator[str]:
        """Output ports by name."""
        return (port for port, way in self._json["port_directions"].items() if way == "output")

    def pins(self, port: str) -> list[int]:
        """Nets at the bits of a port, the least significant first; none for an open port."""
        nets = self._scope.nets
        bits = self._json["connections"].get(port, ())
        return [nets[bit] if isinstance(bit, int) else NONE for bit in bits]

    def is_constant(self, port: str) -> str | None:
        """Constant ``"0"``, ``"1"`` or ``"x"`` at a port of one bit, None where there is a net."""
        bits = self._json["connections"].get(port, ("x",))
        return bits[0] if isinstance(bits[0], str) else None

    def integer(self, parameter: str, default: int = 0) -> int:
        """Parameter as a number; ``default`` where it is not given or is no number."""
        value = self.parameters.get(parameter, default)
        if isinstance(value, str):
            return int(value, 2) if re.fullmatch("[01]+", value) else default
        return int(value)


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """Bit of a port of the top module."""

    name: str
    direction: str
    net: int


class JoinedNetlist:
    """Netlist of all primitives below the module ``top``, and of the nets between them.

    Parameters
    ----------
    document : mapping
        What ``write_json`` wrote.
    top : str
    root : path, optional
        Folder of the sources. A line elsewhere, in a library, counts as the one around it.

    Attributes
    ----------
    cells : list of Cell
    ports : list of Port
    size : int
        Nets are numbers below it.

    Raises
    ------
    ValueError
        For a document without the module ``top``.
    """

    def __init__(self, document: Mapping[str, Any], top: str, root: Path | None = None) -> None:
        self._modules: Mapping[str, Any] = document["modules"]
        if top not in self._modules:
            raise ValueError(f"the netlist has no module {top!r}")
        self._root_folder = f"{root}/" if root else ""
        self._parent = array.array("q")
        self._scopes: list[_Scope] = []
        self.cells: list[Cell] = []
        outermost = self._visit(top, (), {}, "")
        for scope in self._scopes:
            scope.nets = {bit: self._root(net) for bit, net in scope.nets.items()}
        self.size = len(self._parent)
        self.ports = [
            Port(name, port["direction"], outermost.nets[bit])
            for name, port in self._modules[top]["ports"].items()
            for bit in port["bits"]
            if isinstance(bit, int)
        ]

    def _root(self, net: int) -> int:
        parent = self._parent
        while parent[net] != net:
            parent[net] = parent[parent[net]]
            net = parent[net]
        return net

    def _visit(
        self,
        module: str,
        path: tuple[str, ...],
        bound: Mapping[str, list[int]],
        around: str,
    ) -> _Scope:
        """Add an instance, the nets at whose ports are ``bound``, below a line of source."""
        text = self._modules[module]
        root = self._root_folder
        scope = _Scope(path, module, root, _source(text, root) or around)
        nets = scope.nets
        self._scopes.append(scope)
        for name, port in text["ports"].items():
            for bit, outer in zip(port["bits"], bound.get(name, ()), strict=False):
                if not isinstance(bit, int) or outer == NONE:
                    continue
                if bit in nets:  # two ports of the module are one net
                    self._parent[self._root(nets[bit])] = self._root(outer)
                else:
                    nets[bit] = outer
        for bits in _bits(text):
            for bit in bits:
                if isinstance(bit, int) and bit not in nets:
                    nets[bit] = len(self._parent)
                    self._parent.append(nets[bit])
        for name, cell in text["cells"].items():
            kind = cell["type"]
            inner = self._modules.get(kind)
            if inner is not None and not any(box in inner.get("attributes", ()) for box in _BOXES):
                pins = {
                    port: [nets[bit] if isinstance(bit, int) else NONE for bit in bits]
                    for port, bits in cell["connections"].items()
                }
                self._visit(kind, (*path, name), pins, scope.source)
            elif kind not in _REMARKS:
                self.cells.append(Cell(name, cell, scope))
        return scope

    def wire(self, path: tuple[str, ...], name: str) -> list[int]:
        """Nets of the bits of a wire of the instance at ``path``, the least significant first.

        Raises KeyError where there is no such instance or wire.
        """
        scope = next((scope for scope in self._scopes if scope.path == path), None)
        if scope is None:
            raise KeyError(".".join(path))
        bits = self._modules[scope.module]["netnames"][name]["bits"]
        return [scope.nets[bit] if isinstance(bit, int) else NONE for bit in bits]

    def names(self, wanted: Mapping[int, tuple[str, ...]]) -> dict[int, Name]:
        """Best name of each net; ``wanted`` has the path of the cell that drives each.

        Of all that a net has, the text's own before those that Yosys made, then the nearest to the
        driver, inside or around it, then the shortest.
        """
        best: dict[int, tuple[tuple, Name]] = {}
        for scope in self._scopes:
            here = {bit: net for bit, net in scope.nets.items() if net in wanted}
            if not here:
                continue
            for name, entry in self._modules[scope.module]["netnames"].items():
                for index, bit in enumerate(entry["bits"]):
                    if bit not in here:
                        continue
                    net = here[bit]
                    away = _distance(scope.path, wanted[net])
                    rank = (bool(entry.get("hide_name")), away, len(name), name)
                    if net not in best or rank < best[net][0]:
                        text = f"{name}[{index}]" if len(entry["bits"]) > 1 else name
                        source = _source(entry, scope.root) or scope.source
                        best[net] = rank, Name(".".join((*scope.path, text)), source)
        return {net: name for net, (_, name) in best.items()}


def _distance(around: tuple[str, ...], driver: tuple[str, ...]) -> float:
    """Levels of the hierarchy from a driver up to an instance around it, infinite for others."""
    if driver[: len(around)] != around:
        return math.inf
    return len(driver) - len(around)


def _bits(module: Mapping[str, Any]) -> Iterator[list[int | str]]:
    for port in module["ports"].values():
        yield port["bits"]
    for cell in module["cells"].values():
        yield from cell["connections"].values()


def _source(entry: Mapping[str, Any], root: str) -> str:
    """The line that an entry comes from: of Amaranth, below ``root``; else nothing."""
    lines = entry.get("attributes", {}).get("src", "").split("|")
    found = (
        line
        for line in lines
        if re.search(r"\.py:\d+$", line)
        and line.startswith(root)
        and "/site-packages/" not in line  # an environment inside the checkout
    )
    return next(found, "").removeprefix(root)
