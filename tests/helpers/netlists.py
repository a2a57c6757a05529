# SPDX-License-Identifier: Apache-2.0
"""Netlists made by hand, in the form of Yosys' ``write_json``."""

import itertools
from typing import Any

INPUTS = frozenset(
    {"A", "A0", "A1", "B", "B0", "B1", "C", "C0", "C1", "CE", "CI", "CIN", "CLK", "CYINIT", "D"}
    | {"D0", "D1", "DI", "I", "I0", "I1", "I2", "I3", "I4", "I5", "LSR", "PCIN", "R", "S", "WCLK"}
    | {"WE", "ADDRA", "ADDRARDADDR", "CLKARDCLK", "ENARDEN", "M"}
)


class Module:
    """A module that grows cell by cell; bits are numbers, constants are text."""

    def __init__(self, source: str = "") -> None:
        self._bits = itertools.count(2)
        attributes = {"src": source} if source else {}
        self.json: dict[str, Any] = {
            "attributes": attributes,
            "ports": {},
            "cells": {},
            "netnames": {},
        }

    def bits(self, count: int = 1) -> list[int]:
        """New nets."""
        return [next(self._bits) for _ in range(count)]

    def port(self, name: str, direction: str, bits: list[int]) -> list[int]:
        self.json["ports"][name] = {"direction": direction, "bits": bits}
        self.name(name, bits)
        return bits

    def name(self, name: str, bits: list[int], source: str = "") -> list[int]:
        attributes = {"src": source} if source else {}
        entry = {"hide_name": int(name.startswith("$")), "bits": bits, "attributes": attributes}
        self.json["netnames"][name] = entry
        return bits

    def cell(
        self, kind: str, name: str, parameters: dict | None = None, /, **pins: list[int | str]
    ) -> None:
        """A cell; which of its ports are inputs follows from their names."""
        self.json["cells"][name] = {
            "type": kind,
            "parameters": parameters or {},
            "attributes": {},
            "port_directions": {port: "input" if port in INPUTS else "output" for port in pins},
            "connections": pins,
        }
