# SPDX-License-Identifier: Apache-2.0
"""Host of :class:`sim.world.system.System` in a few register accesses: runs programs on images."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gateware.arch.registers import COUNTERS, REGISTERS, ErrorCode
from sim.world.axi3_checker import Rule, window_bits

OFFSETS = {register.name: register.offset for register in REGISTERS}
BUFFERS = ("program", "input", "output")
CLOCK_NS = 10
LIMIT_CYCLES = 20_000_000  # one image
LINE_SECONDS = 30
COUNTER_NAMES = ("CYCLES", *(counter.upper() for counter in COUNTERS))


class RegisterPort:
    """Register accesses over AXI4-Lite, one at a time."""

    def __init__(self, dut) -> None:
        self._dut = dut

    async def write(self, name: str, value: int) -> None:
        """Access that writes a register; returns after its response."""
        dut = self._dut
        dut.axil__awaddr.value, dut.axil__wdata.value = OFFSETS[name], value
        dut.axil__awvalid.value = dut.axil__wvalid.value = 1
        await self._until(dut.axil__awready)
        dut.axil__awvalid.value = dut.axil__wvalid.value = 0
        dut.axil__bready.value = 1
        await self._until(dut.axil__bvalid)
        dut.axil__bready.value = 0

    async def read(self, name: str) -> int:
        """Value of a register, 32 bits unsigned."""
        dut = self._dut
        dut.axil__araddr.value, dut.axil__arvalid.value = OFFSETS[name], 1
        await self._until(dut.axil__arready)
        dut.axil__arvalid.value, dut.axil__rready.value = 0, 1
        await self._until(dut.axil__rvalid)
        value = int(dut.axil__rdata.value)
        dut.axil__rready.value = 0
        return value

    async def _until(self, signal) -> None:
        """Past the clock edge at which ``signal`` is high."""
        while True:
            await RisingEdge(self._dut.clk)
            if signal.value == 1:
                return


async def start(dut) -> RegisterPort:
    """Start of the clock, reset, and the registers that every run shares."""
    for name in (
        "awaddr",
        "awvalid",
        "wdata",
        "wvalid",
        "bready",
        "araddr",
        "arvalid",
        "rready",
        "awprot",
        "arprot",
    ):
        getattr(dut, f"axil__{name}").value = 0
    dut.axil__wstrb.value = 0xF
    Clock(dut.clk, CLOCK_NS, unit="ns", impl="gpi").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    host = RegisterPort(dut)
    await host.write("IRQ_ENABLE", 1)
    return host


async def begin(dut, host: RegisterPort, job: dict[str, int]) -> None:
    """Start of a run; ``job`` says where its ``program``, ``input`` and ``output`` are, and their
    bytes. The accelerator may go nowhere else."""
    for name in BUFFERS:
        await host.write(f"{name.upper()}_BASE", job[name])
        await host.write(f"{name.upper()}_SIZE", job[f"{name}_size"])
    windows = ((job[name], job[f"{name}_size"], name == "output") for name in BUFFERS)
    dut.windows.value = window_bits(*windows)
    await host.write("CONTROL", 1)


async def run(
    dut,
    host: RegisterPort,
    job: dict[str, int],
    *,
    abort_after: int | None = None,
    sample: tuple[int, Callable[[dict[str, int]], None]] | None = None,
) -> int:
    """Register accesses of one run; returns STATUS.

    ``sample`` is a number of cycles and what to do with the registers that often. Raises
    AssertionError when the run does not end or breaks a bus rule.
    """
    await begin(dut, host, job)
    if abort_after is not None:
        await ClockCycles(dut.clk, abort_after)
        await host.write("CONTROL", 2)
    interval, look = sample or (LIMIT_CYCLES, lambda registers: None)
    for _ in range(-(-LIMIT_CYCLES // interval)):
        if dut.irq.value == 1:
            break
        await First(RisingEdge(dut.irq), Timer(interval * CLOCK_NS, unit="ns"))
        if sample and dut.irq.value == 0:
            look({"CYCLES": await host.read("CYCLES")})
    status = await host.read("STATUS")
    await host.write("IRQ_STATUS", 1)
    check_bus(dut)
    assert not status & 1, f"still busy after {LIMIT_CYCLES} cycles, {await where(host)}"
    return status


def check_bus(dut) -> None:
    """Check of the bus. Raises AssertionError for a rule that was broken."""
    broken = Rule(int(dut.violation.value))
    assert broken is Rule.NONE, f"bus rule {broken.name} broken"


async def where(host: RegisterPort) -> str:
    """Position of a run, for messages."""
    return f"at descriptor {await host.read('ERROR_DESCRIPTOR')}"


def error_of(status: int) -> ErrorCode:
    """Error code in a value of STATUS."""
    return ErrorCode(status >> 8 & 0xFF)


async def collect(
    dut, host: RegisterPort, job: dict[str, int], bus_bytes: int, result: dict
) -> None:
    """Addition of a run's counters and output, in hexadecimal, to ``result``."""
    result["counters"].append({name: await host.read(name) for name in COUNTER_NAMES})
    result["memory"].append(dump(dut, job["output"], job["output_size"], bus_bytes))


class Lines:
    """Progress where there is no terminal: a plain line now and then."""

    def __init__(self) -> None:
        self._file, self._next = os.environ.get("ACCELERATOR_LINES"), LINE_SECONDS

    def say(self, done: int, total: int, elapsed: float) -> None:
        """Line about the progress, if there was none for :data:`LINE_SECONDS`."""
        if self._file is None or elapsed < self._next:
            return
        self._next = elapsed + LINE_SECONDS
        left = (total - done) * elapsed / max(done, 1)
        with contextlib.suppress(OSError), Path(self._file).open("a") as file:
            file.write(
                f"simulated {done} of about {total} cycles, {done / elapsed:.0f}/s, "
                f"{left / 60:.0f} minutes left\n"
            )


@cocotb.test()
async def run_images(dut) -> None:
    """Simulation of every run of the job."""
    job = json.loads(Path(os.environ["ACCELERATOR_JOB"]).read_text())
    host, result = await start(dut), {"memory": [], "counters": []}
    runs, before = job["runs"], 0
    total = sum(each["expected_cycles"] for each in runs)
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TextColumn("{task.fields[runs]} runs, {task.fields[speed]:.0f} cycles/s"),
        TimeRemainingColumn(),
    )
    terminal = os.environ.get("ACCELERATOR_TERMINAL", os.devnull)
    with (
        Path(terminal).open("w") as screen,
        Progress(
            *columns,
            console=Console(file=screen, force_terminal=terminal != os.devnull),
            transient=True,
        ) as progress,
    ):
        lines = Lines()
        task = progress.add_task("", total=total, runs=f"0/{len(runs)}", speed=0.0)
        for number, each in enumerate(runs):

            def look(registers: dict[str, int], number=number, each=each, before=before) -> None:
                done = before + min(each["expected_cycles"], registers["CYCLES"])
                elapsed = progress.tasks[task].elapsed or 1.0
                progress.update(
                    task, completed=done, speed=done / elapsed, runs=f"{number}/{len(runs)}"
                )
                lines.say(done, total, elapsed)

            status = await run(dut, host, each, sample=(each["sample_cycles"], look))
            assert status & 2, f"run failed with {error_of(status).name} {await where(host)}"
            await collect(dut, host, each, job["bus_bytes"], result)
            before += each["expected_cycles"]
    Path(job["result"]).write_text(json.dumps(result))


@cocotb.test()
async def run_until(dut) -> None:
    """Simulation of the first run as far as cycle ``end``; the waveform is Verilator's."""
    job = json.loads(Path(os.environ["ACCELERATOR_JOB"]).read_text())
    host = await start(dut)
    await run(dut, host, job["runs"][0], abort_after=job["end"])
    Path(job["result"]).write_text("{}")


@cocotb.test()
async def recover(dut) -> None:
    """Bus error (by plusarg, in the first run), watchdog, aborts; then runs are right again."""
    job = json.loads(Path(os.environ["ACCELERATOR_JOB"]).read_text())
    host, result = await start(dut), {"memory": [], "counters": []}
    first = job["runs"][0]
    assert error_of(await run(dut, host, first)) is ErrorCode.READ_ERROR
    await host.write("WATCHDOG", 500)
    assert error_of(await run(dut, host, first)) is ErrorCode.WATCHDOG
    await host.write("WATCHDOG", 0)
    for cycles in (1, 60, 150, 700, 1500, 4000):
        status = await run(dut, host, first, abort_after=cycles)
        assert error_of(status) is ErrorCode.ABORTED, (cycles, hex(status))
    for each in job["runs"]:
        assert await run(dut, host, each) & 2, await where(host)
        await collect(dut, host, each, job["bus_bytes"], result)
    Path(job["result"]).write_text(json.dumps(result))


def dump(dut, start: int, size: int, bus_bytes: int) -> str:
    """Hex text of ``size`` bytes of memory from ``start`` on."""
    memory = dut.ddr_0.model.mem
    words = (
        int(memory[i].value) for i in range(start // bus_bytes, -(-(start + size) // bus_bytes))
    )
    return b"".join(word.to_bytes(bus_bytes, "little") for word in words)[:size].hex()
