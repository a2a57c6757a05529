# SPDX-License-Identifier: Apache-2.0
"""Registers by name, from the map that was built with the accelerator."""

from typing import Any, Dict, Tuple

from .errors import WrongPackage
from .hardware import Hardware

#: Version of the register map that this driver was written for.
MAJOR = 3


class Registers:
    """Registers of ``hardware`` under the names of ``manifest``.

    Raises WrongPackage for a map of another major version.
    """

    def __init__(self, hardware: Hardware, manifest: Dict[str, Any]) -> None:
        self._hardware = hardware
        major, minor = manifest["version"]
        if major != MAJOR:
            raise WrongPackage(
                f"the accelerator has register map {major}.{minor}, this driver knows {MAJOR}.x; "
                "take the driver "
                "of the same release"
            )
        self.identification: int = manifest["id"]
        self.codes = {value: name for name, value in manifest["error_codes"].items()}
        self._offsets: Dict[str, int] = {}
        self._fields: Dict[str, Dict[str, Tuple[int, int]]] = {}
        for register in manifest["registers"]:
            name = register["name"]
            self._offsets[name] = register["offset"]
            self._fields[name] = {
                field["name"]: (field["lsb"], (1 << field["width"]) - 1)
                for field in register["fields"]
            }
        #: Counters of a run, in the order of the map.
        self.counters = [
            register["name"]
            for register in manifest["registers"]
            if register["offset"] >= self._offsets["CYCLES"]
        ]

    def read(self, name: str) -> int:
        """Value of the register, 32 bits."""
        return self._hardware.read(self._offsets[name])

    def fields(self, name: str) -> Dict[str, int]:
        """Values of the register's fields, by name, of one read."""
        word = self.read(name)
        return {field: word >> lsb & mask for field, (lsb, mask) in self._fields[name].items()}

    def write(self, name: str, value: int) -> None:
        """Update of the whole register, 32 bits."""
        self._hardware.write(self._offsets[name], value)

    def set(self, name: str, **fields: int) -> None:
        """Update of ``fields`` of the register; the other fields become zero."""
        places = self._fields[name]
        self.write(name, sum(value << places[field][0] for field, value in fields.items()))
