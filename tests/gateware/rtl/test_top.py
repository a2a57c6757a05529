# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""A whole accelerator in Amaranth's simulator: a small network, an abort and a bus error."""

import dataclasses
import re

import numpy as np
import pytest
from amaranth.back import rtlil

from gateware.arch.config import AccelConfig
from gateware.arch.registers import COUNTERS, REGISTERS, ErrorCode
from gateware.compiler.program import Program, compile_graph
from gateware.rtl.top import Accelerator, hp_ports
from ir import golden
from sim.backend import pysim
from tests.helpers.axi_memory import Memory
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images
from tests.helpers.units import TINY

OFFSETS = {register.name: register.offset for register in REGISTERS}
PROGRAM, IMAGE, OUTPUT = 0x0, 0x6000, 0x7000
CONFIG = dataclasses.replace(TINY, weight_depth=64, slot_depth=16)
PORTS = {1: CONFIG, 4: dataclasses.replace(CONFIG, ports=4)}


def small_graph(seed: int):
    """Every kind of layer, an 8-bit residual, a stride, a partial pixel group, two row tiles."""
    build = GraphBuilder(np.random.default_rng(seed), (2, 4, 5), bits=8, tile_rows=4, zero_point=7)
    stem = build.conv(INPUT, 4, bits=8)
    wide = build.conv(stem, 6, (2, 3), stride=2, padding=(0, 0, 1, 1), bits=8)
    last = build.conv(stem, 6, (2, 3), stride=2, padding=(0, 0, 1, 1), residual=wide)
    pooled = build.max_pool(last, 2, stride=1)
    build.linear(build.flatten(build.avg_pool(pooled)), 3, wide=True)
    return build.build()


class Host:
    """Register accesses, one at a time."""

    def __init__(self, dut: Accelerator) -> None:
        self.axil, self.irq = dut.axil, dut.irq

    async def write(self, ctx, name: str, value: int) -> None:
        axil = self.axil
        ctx.set(axil.awaddr, OFFSETS[name])
        ctx.set(axil.wdata, value)
        ctx.set(axil.wstrb, 15)
        for signal in (axil.awvalid, axil.wvalid, axil.bready):
            ctx.set(signal, 1)
        await ctx.tick().until(axil.awready & axil.wready)
        ctx.set(axil.awvalid, 0)
        ctx.set(axil.wvalid, 0)
        await ctx.tick().until(axil.bvalid)

    async def read(self, ctx, name: str) -> int:
        axil = self.axil
        ctx.set(axil.araddr, OFFSETS[name])
        ctx.set(axil.arvalid, 1)
        ctx.set(axil.rready, 1)
        await ctx.tick().until(axil.arready)
        ctx.set(axil.arvalid, 0)
        (value,) = await ctx.tick().sample(axil.rdata).until(axil.rvalid)
        return value

    async def run(self, ctx, abort_after: str | None = None) -> int:
        """STATUS at the end of one run, which is aborted when the named counter has moved."""
        await self.write(ctx, "CONTROL", 1)
        if abort_after is not None:
            while not await self.read(ctx, abort_after):
                assert not ctx.get(self.irq)
            await self.write(ctx, "CONTROL", 2)
        await ctx.tick().until(self.irq)
        await self.write(ctx, "IRQ_STATUS", 1)
        return await self.read(ctx, "STATUS")


def prepare(dut: Accelerator, program: Program, image: np.ndarray, seed: int) -> list[Memory]:
    """A memory for each port; the first is also the others' contents."""
    memories = [
        Memory(getattr(dut, port), seed=seed + i, pause=0.2, latency=3)
        for i, port in enumerate(hp_ports(dut.config))
    ]
    memory = memories[0]
    for other in memories:
        other.bytes = memory.bytes
    assert len(program.image) <= IMAGE and OUTPUT + program.output_size <= len(memory.bytes)
    memory.bytes[PROGRAM : PROGRAM + len(program.image)] = program.image
    packed = program.pack(image)
    memory.bytes[IMAGE : IMAGE + len(packed)] = packed
    return memories


@pytest.mark.slow
@pytest.mark.parametrize("ports", PORTS)
def test_a_network(ports, seed):
    graph = small_graph(seed)
    program = compile_graph(graph, PORTS[ports], dump=True)
    image = random_images(graph, np.random.default_rng(seed))
    reference = golden.run(graph, image)
    dut = Accelerator(PORTS[ports])
    memories, host = prepare(dut, program, image[0], seed), Host(dut)
    memory = memories[0]
    # The first store follows the first layer; its region's neighbours must stay as they are.
    before = bytes(memory.bytes)

    async def bench(ctx) -> None:
        for name, base in (
            ("PROGRAM_BASE", PROGRAM),
            ("INPUT_BASE", IMAGE),
            ("OUTPUT_BASE", OUTPUT),
            ("PROGRAM_SIZE", len(program.image)),
            ("INPUT_SIZE", len(program.pack(image[0]))),
            ("OUTPUT_SIZE", program.output_size),
            ("IRQ_ENABLE", 1),
        ):
            await host.write(ctx, name, base)
        for counter in ("READ_BEATS", "ARRAY_CYCLES", "WRITE_BEATS"):
            status = await host.run(ctx, abort_after=counter)
            assert status == 4 | ErrorCode.ABORTED << 8
            # Nothing goes on after the end.
            stopped = await host.read(ctx, counter)
            for _ in range(20):
                await ctx.tick()
            assert await host.read(ctx, counter) == stopped
        memory.bad_reads = {IMAGE + 8}
        assert await host.run(ctx) == 4 | ErrorCode.READ_ERROR << 8
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == 0  # the load of the image
        memory.bad_reads = set()
        memory.bytes[OUTPUT : OUTPUT + program.output_size] = bytes(program.output_size)

        assert await host.run(ctx) == 2
        count = program.segments[-1].last + 1
        assert await host.read(ctx, "DESCRIPTORS") == count
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == count - 1
        cycles, issued = await host.read(ctx, "CYCLES"), await host.read(ctx, "ARRAY_CYCLES")
        assert 0 < issued < cycles
        # Every cycle has one cause.
        causes = [await host.read(ctx, name.upper()) for name in COUNTERS if "stall" in name]
        assert issued + sum(causes) == cycles
        assert await host.read(ctx, "READ_BEATS") > len(program.image) // 8
        assert await host.read(ctx, "WRITE_BEATS") * 4 == sum(o.size for o in program.outputs)

    serve = tuple(other.serve for other in memories)
    pysim.run(dut, bench, cycles=14000, background=serve, fair_bench=True)
    for output in program.outputs:
        np.testing.assert_array_equal(
            output.read(memory.bytes[OUTPUT:]), reference[output.name][0], output.name
        )
    assert memory.bytes[:OUTPUT] == before[:OUTPUT]
    assert memory.bytes[OUTPUT + program.output_size :] == before[OUTPUT + program.output_size :]


CONFIGS = {
    "bus 32": TINY,
    "4 ports": PORTS[4],
    "bus 64, POT4 only": AccelConfig(pot4_rows=2, fixed4_rows=0, fixed8_rows=0, requant_lanes=2),
    "P 4, FIXED8 only": AccelConfig(
        pot4_rows=0, fixed4_rows=0, fixed8_rows=1, pixels=4, requant_lanes=1, bus_bits=32
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_ports(name):
    config = CONFIGS[name]
    text = rtlil.convert(Accelerator(config), name="accelerator", emit_src=False)
    top = text.partition("module \\accelerator\n")[2].partition("\nend\n")[0]
    ports = {
        name: (direction, int(width))
        for width, direction, name in re.findall(
            r"wire width (\d+) (input|output) +\d+ +\\(\w+)", top
        )
    }
    axil = [
        "awaddr",
        "awprot",
        "awvalid",
        "awready",
        "wdata",
        "wstrb",
        "wvalid",
        "wready",
        "bresp",
        "bvalid",
        "bready",
        "araddr",
        "arprot",
        "arvalid",
        "arready",
        "rdata",
        "rresp",
        "rvalid",
        "rready",
    ]
    address = [
        "id",
        "addr",
        "len",
        "size",
        "burst",
        "lock",
        "cache",
        "prot",
        "qos",
        "valid",
        "ready",
    ]
    hp0 = [
        *(f"aw{n}" for n in address),
        *(f"ar{n}" for n in address),
        *(f"w{n}" for n in ("id", "data", "strb", "last", "valid", "ready")),
        *(f"b{n}" for n in ("id", "resp", "valid", "ready")),
        *(f"r{n}" for n in ("id", "data", "resp", "last", "valid", "ready")),
    ]
    assert set(ports) == {
        "clk",
        "rst",
        "irq",
        *(f"axil__{n}" for n in axil),
        *(f"hp{p}__{n}" for p in range(config.ports) for n in hp0),
    }
    assert ports["irq"] == ("output", 1)
    assert ports["hp0__rdata"] == ("input", config.bus_bits)
    assert ports["hp0__wstrb"] == ("output", config.bus_bits // 8)
    assert ports["hp0__araddr"] == ("output", 32)
    assert ports["axil__awaddr"] == ("input", 12)
