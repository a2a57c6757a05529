# SPDX-License-Identifier: Apache-2.0
"""Attacks on a whole accelerator: damaged programs, faults of the memory, aborts and resets.

After each attack, or some of them, a run of the right program must give every byte that it gave
before. The bus is checked throughout, and that no access leaves the host's buffers.
"""

import collections
import json
import os
import random
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cocotb
from cocotb.triggers import ClockCycles

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.arch.registers import SILENCE_CYCLES, ErrorCode
from gateware.rtl.axi import Resp
from sim.benches.accelerator_bench import BUFFERS, begin, check_bus, dump, error_of, start
from sim.benches.damage import REFUSALS, Damaged, damaged

WATCHDOG = 2 * SILENCE_CYCLES
#: Cycles that a run may go on after its watchdog or its end: to hear of it, and to flush the bus.
FLUSH_CYCLES = SILENCE_CYCLES + 1000
#: Cycles of a run whose first descriptor is refused: register accesses, fetch, flush of what was
#: fetched ahead.
REFUSED_CYCLES = 400
FILL = 0xA5  #: bytes of the output before a run
OTHER_OUTPUT = "the right program gives another output"
READS, WRITES = (isa.QUEUES["loads"], isa.QUEUES["stores"])
BASES = dict(zip(Base, BUFFERS, strict=True))


class Machine:
    """Accelerator under attack, with one program and its right output.

    Parameters
    ----------
    dut : handle of a :class:`sim.world.system.System`
    job : dict
        ``runs`` of :mod:`sim.benches.accelerator_bench`, of which the first is used; ``config``,
        ``program``, ``expected`` and ``matters`` in hexadecimal, ``seed``, ``first``, ``count``,
        ``seconds``.
    """

    def __init__(self, dut, host, job: dict[str, Any]) -> None:
        self.dut, self.host, self.job = dut, host, job
        self.run_job = dict(job["runs"][0])
        self.config = AccelConfig.from_json(job["config"])
        self.image = bytes.fromhex(job["program"])
        self.matters = bytes.fromhex(job["matters"])  # 1 where a byte does not depend on the past
        self.expected = self.masked(bytes.fromhex(job["expected"]))
        self._seen = False
        self.bus_bytes = job["bus_bytes"]
        self.cycles = self.run_job["expected_cycles"]
        self.memories = [getattr(dut, f"ddr_{p}").model for p in range(self.config.ports)]
        end = next(i for i, d in enumerate(isa.descriptors(self.image)) if d.opcode is Opcode.END)
        self.descriptors = [*isa.descriptors(self.image)][:end]
        self.words = [self._word(index) for index in range(end + 1 + isa.FETCH_AHEAD)]
        blocks = range(len(self.words), len(self.image) // isa.DESCRIPTOR_BYTES)
        self.data = tuple(self._word(index) for index in blocks)
        self.sizes = {base: self.run_job[f"{name}_size"] for base, name in BASES.items()}

    def _word(self, index: int) -> int:
        start = index * isa.DESCRIPTOR_BYTES
        return int.from_bytes(self.image[start : start + isa.DESCRIPTOR_BYTES], "little")

    def masked(self, output: bytes) -> bytes:
        """Output with 0 where it depends on what was in the accelerator before."""
        return bytes(a if b else 0 for a, b in zip(output, self.matters, strict=True))

    def write(self, address: int, content: bytes) -> None:
        """Update of whole words of the memory of every port."""
        for at in range(0, len(content), self.bus_bytes):
            word = int.from_bytes(content[at : at + self.bus_bytes], "little")
            for memory in self.memories:
                memory.mem[(address + at) // self.bus_bytes].value = word

    def load(self, words: list[int]) -> None:
        """Update of the program's descriptors."""
        content = b"".join(word.to_bytes(isa.DESCRIPTOR_BYTES, "little") for word in words)
        self.write(self.run_job["program"], content)

    def fault(self, first: int, bound: int, resp: Resp) -> None:
        """Response of the memory to beats at ``first`` to ``bound``, exclusive."""
        for memory in self.memories:
            memory.fault_first.value, memory.fault_bound.value = first, bound
            memory.fault_resp.value = int(resp)

    def silence(self, silent: bool) -> None:
        """Silence of the memory, or its end."""
        for memory in self.memories:
            memory.silent.value = int(silent)

    async def reset(self) -> None:
        """Reset of the logic, and the registers that every run shares."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)
        await self.prepare()

    async def prepare(self) -> None:
        """Registers that every run shares."""
        await self.host.write("IRQ_ENABLE", 1)
        await self.host.write("WATCHDOG", WATCHDOG)

    async def begin(self, sizes: dict[Base, int] | None = None) -> None:
        """Start of a run, with buffers of other ``sizes``."""
        named = {f"{BASES[base]}_size": size for base, size in (sizes or {}).items()}
        await begin(self.dut, self.host, self.run_job | named)

    async def interrupt(self, limit: int = WATCHDOG + FLUSH_CYCLES) -> int:
        """STATUS after the interrupt, which must come within ``limit`` cycles."""
        for _ in range(limit // 50):
            if self.dut.irq.value == 1:
                break
            await ClockCycles(self.dut.clk, 50)
        assert self.dut.irq.value == 1, f"no interrupt within {limit} cycles"
        check_bus(self.dut)
        status = await self.host.read("STATUS")
        await self.host.write("IRQ_STATUS", 1)
        return status

    async def end(self) -> tuple[ErrorCode, int, int]:
        """Error of the run, its descriptor, and cycles."""
        status = await self.interrupt()
        assert status & 7 in (2, 4), f"STATUS {status:#x}"
        assert bool(status & 4) == (error_of(status) is not ErrorCode.NONE)
        cycles = await self.host.read("CYCLES")
        return error_of(status), await self.host.read("ERROR_DESCRIPTOR"), cycles

    async def right(self) -> None:
        """A run of the right program gives the right output."""
        self.write(self.run_job["output"], bytes([FILL]) * len(self.expected))
        await self.begin()
        code, index, _ = await self.end()
        assert code is ErrorCode.NONE, f"the right program fails with {code.name} at {index}"
        stored = bytes.fromhex(
            dump(self.dut, self.run_job["output"], len(self.expected), self.bus_bytes)
        )
        found = self.masked(stored)
        if not self._seen:  # what the program leaves alone the emulator says is 0
            self._seen, filled = True, zip(found, self.expected, strict=True)
            assert all(a == b or (a, b) == (FILL, 0) for a, b in filled), OTHER_OUTPUT
            self.expected = found
        assert found == self.expected, OTHER_OUTPUT


class Attack:
    """Numbered attacks until there are enough or the time is over, and what came of them."""

    def __init__(self, machine: Machine) -> None:
        self.machine, job = machine, machine.job
        self.numbers = range(job["first"], job["first"] + job["count"])
        self.until = time.monotonic() + job["seconds"]
        self.counts = collections.Counter()
        self.most = 0  # cycles of a refusal at the first descriptor
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, random.Random]]:
        for number in self.numbers:
            if time.monotonic() > self.until:
                return
            self.counts["attacks"] += 1
            yield number, random.Random(f"{self.machine.job['seed']} {number}")

    async def stood(self, number: int, said: str, steps: Awaitable[None]) -> None:
        """``steps`` of an attack; where they fail that is kept, and all begins anew."""
        try:
            await steps
        except AssertionError as error:
            reason = str(error).partition("\n")[0]
            self.failures.append(f"{number}, {said}: {reason}")
            self.machine.silence(False)
            self.machine.fault(0, 0, Resp.OKAY)
            self.machine.load(self.machine.words)
            await self.machine.reset()

    def save(self) -> None:
        """Counts for the caller."""
        content = {"counts": dict(self.counts), "most": self.most, "failures": self.failures}
        Path(self.machine.job["result"]).write_text(json.dumps(content))


async def machine_of(dut) -> Machine:
    """The accelerator, which gives the right output."""
    job = json.loads(Path(os.environ["ACCELERATOR_JOB"]).read_text())
    machine = Machine(dut, await start(dut), job)
    await machine.prepare()
    await machine.right()
    return machine


@cocotb.test()
async def programs(dut) -> None:
    """Damaged programs: each ends as it must, within its cycles, and leaves nothing behind."""
    machine = await machine_of(dut)
    attack = Attack(machine)
    for number, rng in attack:
        program = damaged(rng, machine.words, machine.sizes, machine.config)
        program.data = machine.data
        await attack.stood(number, program.said, _run_program(attack, number, program))
    attack.save()


async def _run_program(attack: Attack, number: int, program: Damaged) -> None:
    machine = attack.machine
    machine.load(program.words)
    await machine.begin(program.sizes)
    code, index, cycles = await machine.end()
    check_end(program, machine.config, code, index, cycles)
    attack.counts[code.name] += 1
    if index == 0 and code in REFUSALS:
        attack.most = max(attack.most, cycles)
    machine.load(machine.words)
    if number % 10 == 9 or number == attack.numbers[-1]:
        await machine.right()


def check_end(
    program: Damaged, config: AccelConfig, code: ErrorCode, index: int, cycles: int
) -> None:
    """Check of how a run of ``program`` ended. Raises AssertionError for a way that it may not."""
    foreseen = program.end(config)
    if code in (ErrorCode.NONE, *REFUSALS):
        said = f"{code.name} at {index}, not {foreseen[1].name} at {foreseen[0]}"
        assert (index, code) == foreseen, said
    else:
        assert code in (ErrorCode.DEADLOCK, ErrorCode.WATCHDOG), code.name
    if index == 0 and code in REFUSALS:
        assert cycles <= REFUSED_CYCLES, f"refused after {cycles} cycles"
    assert cycles <= WATCHDOG + FLUSH_CYCLES, f"{cycles} cycles"


@cocotb.test()
async def moments(dut) -> None:
    """Aborts, and resets of the logic, at random moments; the run after each is right."""
    machine = await machine_of(dut)
    attack = Attack(machine)
    for number, rng in attack:
        what, cycle = rng.choice(["abort", "reset"]), rng.randrange(machine.cycles)
        await attack.stood(number, f"{what} in cycle {cycle}", _stop(machine, what, cycle))
        attack.counts[what] += 1
    attack.save()


async def _stop(machine: Machine, what: str, cycle: int) -> None:
    await machine.begin()
    await ClockCycles(machine.dut.clk, cycle)
    if what == "abort":
        await machine.host.write("CONTROL", 2)
        code, *_ = await machine.end()
        assert code in (ErrorCode.ABORTED, ErrorCode.NONE), code.name
    else:
        await machine.reset()
    await machine.right()


@cocotb.test()
async def faults(dut) -> None:
    """SLVERR and DECERR at every kind of transfer, early and late; the run after each is right."""
    machine = await machine_of(dut)
    attack, kinds = Attack(machine), _kinds(machine)
    for number, rng in attack:
        kind, resp = kinds[number // 2 % len(kinds)], (Resp.SLVERR, Resp.DECERR)[number % 2]
        beat = _beat(machine, kind, rng)
        said = f"{resp.name} of {kind.name} at descriptor {beat.descriptor}, {beat.address:#x}"
        await attack.stood(number, said, _refuse(machine, kind, beat, resp))
        attack.counts[f"{kind.name} {resp.name}"] += 1
    attack.save()


class Beat(NamedTuple):
    """Beat of the transfer of a descriptor."""

    descriptor: int
    address: int


def _kinds(machine: Machine) -> list[Opcode]:
    """Kinds of transfers of the program; END stands for the fetch of descriptors."""
    found = {descriptor.opcode for descriptor in machine.descriptors}
    return [Opcode.END, *(kind for kind in (*READS, *WRITES) if kind in found)]


def _beat(machine: Machine, kind: Opcode, rng: random.Random) -> Beat:
    """First, last or another beat of the first, last or another transfer of a kind."""
    place = machine.run_job
    if kind is Opcode.END:
        index = rng.choice([0, len(machine.descriptors), rng.randrange(len(machine.descriptors))])
        return Beat(index, place["program"] + index * isa.DESCRIPTOR_BYTES)
    of_kind = [(i, d) for i, d in enumerate(machine.descriptors) if d.opcode is kind]
    index, descriptor = rng.choice([of_kind[0], of_kind[-1], rng.choice(of_kind)])
    spread = machine.config.ports if kind in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS) else 1
    beats = descriptor.fields["beats"] * spread
    beat = rng.choice([0, beats - 1, rng.randrange(beats)])
    start = place[BASES[Base(descriptor.fields["base"])]] + descriptor.fields["offset"]
    return Beat(index, start + beat * machine.bus_bytes)


async def _refuse(machine: Machine, kind: Opcode, beat: Beat, resp: Resp) -> None:
    machine.fault(beat.address, beat.address + machine.bus_bytes, resp)
    await machine.begin()
    code, failing, _ = await machine.end()
    expected = ErrorCode.WRITE_ERROR if kind in WRITES else ErrorCode.READ_ERROR
    # Of what several transfers read the first fails.
    said = f"{code.name} at {failing}"
    assert code is expected and failing <= beat.descriptor, said
    machine.fault(0, 0, Resp.OKAY)
    await machine.right()


@cocotb.test()
async def silence(dut) -> None:
    """A memory that answers no more: the watchdog's interrupt comes all the same, and when the
    memory answers again, or after a reset, the run is right."""
    machine = await machine_of(dut)
    attack = Attack(machine)
    for number, rng in attack:
        what, cycle = rng.choice(["answer", "reset"]), rng.randrange(machine.cycles // 2)
        said = f"silence from cycle {cycle} on, then {what}"
        await attack.stood(number, said, _keep_silent(machine, what, cycle))
        attack.counts[what] += 1
    attack.save()


async def _keep_silent(machine: Machine, what: str, cycle: int) -> None:
    await machine.host.write("WATCHDOG", 2 * machine.cycles)
    await machine.begin()
    await ClockCycles(machine.dut.clk, cycle)
    machine.silence(True)
    status = await machine.interrupt(2 * machine.cycles + FLUSH_CYCLES)
    assert error_of(status) is ErrorCode.WATCHDOG, f"STATUS {status:#x}"
    machine.silence(False)
    if what == "reset":
        await machine.reset()
    else:
        await ClockCycles(machine.dut.clk, 1000)
        assert not await machine.host.read("STATUS") & 1, "still busy"
        await machine.prepare()
    await machine.right()
