# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The DMA engines and the DDR model as Verilog: one design, built once, with a port for each."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.rtl.axi import Axi3Signature
from gateware.rtl.dma_port import DmaPort
from sim.backend.harness import BenchFailed, build_simulation, run_bench
from sim.world.axi3_checker import Rule
from sim.world.ddr import DDR_VERILOG, Ddr

BENCH = "sim.benches.dma_bench"
DDR_BEATS = 2048
DDR_BASE = 0x10_0000


class DmaSystem(wiring.Component):
    """Design of one DMA port on ``hp0``, for a memory in the bench, and one on the DDR model."""

    def __init__(self) -> None:
        self._axi = Axi3Signature(32, 64, 6)
        members = {
            name: member.flip()
            for name, member in DmaPort().signature.members.items()
            if name != "axi"
        }
        control = wiring.Signature(members)
        super().__init__(
            {"hp0": Out(self._axi), "ram": In(control), "ddr": In(control), "violation": Out(Rule)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dma_ram = dma_ram = DmaPort()
        m.submodules.dma_ddr = dma_ddr = DmaPort()
        m.submodules.memory = memory = Ddr(self._axi, beats=DDR_BEATS, base=DDR_BASE)
        connect(m, dma_ram.axi, flipped(self.hp0))
        connect(m, dma_ddr.axi, memory.axi)
        m.d.comb += self.violation.eq(memory.violation)
        for outer, inner in (self.ram, dma_ram), (self.ddr, dma_ddr):
            for name, member in inner.signature.members.items():
                if name == "axi":
                    continue
                ours, theirs = getattr(outer, name), getattr(inner, name)
                if member.is_signature:
                    connect(m, flipped(ours), theirs)
                else:
                    m.d.comb += theirs.eq(ours) if member.flow == In else ours.eq(theirs)
        return m


@pytest.fixture(scope="module")
def run() -> Callable[..., None]:
    """Simulation of the bench, or of one test of it; keyword arguments are its environment."""
    built = build_simulation(DmaSystem(), toplevel="dma_system", extra_verilog=[DDR_VERILOG])

    def on_design(testcase: str | None = None, plusargs: tuple[str, ...] = (), **env: str) -> None:
        results = run_bench(
            built,
            toplevel="dma_system",
            test_module=BENCH,
            testcase=testcase,
            plusargs=plusargs,
            env=env,
        )
        shutil.rmtree(results.parent)

    return on_design


def test_dma_and_ddr(run) -> None:
    """All tests of the bench, without stalls of the DDR model."""
    run()


@pytest.mark.parametrize("stall", [40, 200])
def test_ddr_stalls(run, stall: int, seed: int) -> None:
    run("ddr_random", (f"+ddr_stall={stall}", f"+ddr_seed={seed}"))


def test_ddr_starts_with_a_file(run, tmp_path, seed: int) -> None:
    rng = random.Random(seed)
    contents = tmp_path / "ddr.hex"
    contents.write_text("\n".join(f"{rng.getrandbits(64):016x}" for _ in range(DDR_BEATS)) + "\n")
    run("ddr_contents", (f"+ddr_init={contents}",), DDR_CONTENTS=str(contents))


@pytest.mark.parametrize("latency", [2, 40, 100])
def test_ddr_read_latency(run, latency: int) -> None:
    run("ddr_latency", (f"+ddr_read_latency={latency}",), LATENCY=str(latency))


@pytest.mark.parametrize("beats,cycles", [(1, 2), (3, 4)])
def test_ddr_bandwidth(run, beats: int, cycles: int) -> None:
    run(
        "ddr_bandwidth",
        (f"+ddr_bandwidth_beats={beats}", f"+ddr_bandwidth_cycles={cycles}"),
        BEATS=str(beats),
        CYCLES=str(cycles),
    )


def test_a_lost_beat_is_noticed(run) -> None:
    with pytest.raises(BenchFailed, match="failed: ddr_random") as error:
        run("ddr_random", ("+ddr_drop_beat=1500",))
    shutil.rmtree(Path(str(error.value).rpartition(" ")[2]).parent)  # kept after a failure


@pytest.mark.parametrize("direction", ["read", "write"])
def test_ddr_error_response(run, direction: str) -> None:
    option = {"read": "ddr_error_beat", "write": "ddr_write_error_beat"}[direction]
    run("ddr_error", (f"+{option}=37",), DIRECTION=direction)
