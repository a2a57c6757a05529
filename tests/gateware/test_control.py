# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The sequencer with a memory, a bus and units written in Python: order, errors, abort, restart."""

import dataclasses
import random

import pytest

from gateware import isa
from gateware.control import Sequencer
from gateware.isa import Base, Opcode
from gateware.regs import ErrorCode
from sim import pysim
from tests.gateware.units import TINY, descriptor

BEATS = isa.DESCRIPTOR_BITS // TINY.bus_bits
BASES = {Base.PROGRAM: 0x1000_0000, Base.INPUT: 0x2000_0000, Base.OUTPUT: 0x3000_0000}


def program(*steps: tuple) -> list[int]:
    """Descriptors of (opcode, base, offset, beats), distinguishable by their last bits."""
    return [descriptor(isa.TRANSFER, opcode=opcode, base=base, offset=offset, beats=beats)
            | index << isa.DESCRIPTOR_BITS - 8
            for index, (opcode, base, offset, beats) in enumerate(steps)]


PROGRAM = program(
    (Opcode.LOAD_TENSOR, Base.INPUT, 0x40, 3),
    (Opcode.LOAD_WEIGHTS, Base.PROGRAM, 0x400, 5),
    (Opcode.LOAD_SLOTS, Base.PROGRAM, 0x800, 2),
    (Opcode.EXECUTE, 0, 0, 0),
    (Opcode.STORE_TENSOR, Base.OUTPUT, 0x80, 4),
    (Opcode.STORE_WIDE, Base.OUTPUT, 0xC0, 1),
    (Opcode.END, 0, 0, 0),
)
LOG = [("load", 0x2000_0040, 3, 0), ("load", 0x1000_0400, 5, 1), ("load", 0x1000_0800, 2, 2),
       ("execute", None, None, 3), ("store", 0x3000_0080, 4, 4), ("store", 0x3000_00C0, 1, 5)]


@dataclasses.dataclass
class World:
    """Everything around a :class:`Sequencer`, advanced cycle by cycle.

    A command is accepted after random pauses, beats come with gaps, units are busy for some cycles.
    ``trouble`` names inputs to raise in the next cycle; :attr:`log` lists the units' starts as
    (unit, address, beats, descriptor index).
    """

    dut: Sequencer
    descriptors: list[int]
    rng: random.Random
    most: int = 3           #: longest pause

    def __post_init__(self) -> None:
        self.log: list[tuple] = []
        self.ends: list[tuple] = []                 # ("finished",) or ("failed", code), index
        self.executed = 0
        self.fetched: list[int] = []                # addresses
        self.beats: list[int] = []                  # of the descriptor being fetched
        self.units = dict.fromkeys(("load", "store", "execute"), 0)
        self.bus = 0                                # cycles until the bus is idle
        self.trouble: dict[str, int] = {}

    def _pause(self) -> int:
        return self.rng.randint(0, self.most)

    async def cycle(self, ctx) -> None:
        dut, get = self.dut, ctx.get
        for name in ("start", "abort", "watchdog", "read_error", "write_error"):
            ctx.set(getattr(dut, name), self.trouble.pop(name, 0))
        for unit, left in self.units.items():
            ctx.set(getattr(dut, f"{unit}_done"), left == 0)
        ctx.set(dut.bus_idle, self.bus == 0)
        ctx.set(dut.write_idle, self.bus == 0)
        ctx.set(dut.fetched.valid, bool(self.beats) and self.bus == 0 and not get(dut.flush))
        ctx.set(dut.fetched.payload, self.beats[0] if self.beats else 0)
        for port in (dut.read_command, dut.write_command):
            ctx.set(port.ready, bool(get(port.valid)) and self._pause() == 0)
        await self._look(ctx)
        await ctx.tick()

    async def _look(self, ctx) -> None:
        """What happens at the coming clock edge."""
        dut, get = self.dut, ctx.get
        index = get(dut.descriptor_index)
        starts = [unit for unit in self.units if get(getattr(dut, f"{unit}_start"))]
        assert len(starts) <= 1
        self.units = {unit: max(0, left - 1) for unit, left in self.units.items()}
        self.bus = max(0, self.bus - 1)
        if get(dut.fetched.valid) and get(dut.fetched.ready):
            assert get(dut.fetching)
            self.beats.pop(0)
        for unit in starts:
            port = {"load": dut.read_command, "store": dut.write_command}.get(unit)
            accepted = (None, None)
            if port is not None:
                assert get(port.valid) and get(port.ready) and get(dut.transferring)
                accepted = (get(port.payload.address), get(port.payload.beats))
            self.log.append((unit, *accepted, index))
            assert get(dut.descriptor) == self.descriptors[index]
            self.units[unit] = 1 + self._pause()
            # A store's last responses come after its last beats.
            self.bus = self.units[unit] + 4 if unit == "store" else 0
        if get(dut.read_command.valid) and get(dut.read_command.ready) and not starts:
            assert get(dut.read_command.payload.beats) == BEATS
            address = get(dut.read_command.payload.address)
            self.fetched.append(address)
            word = self.descriptors[(address - BASES[Base.PROGRAM]) // isa.DESCRIPTOR_BYTES]
            assert not self.beats
            self.beats = [word >> i * TINY.bus_bits & (1 << TINY.bus_bits) - 1
                          for i in range(BEATS)]
            self.bus = self._pause()
        elif get(dut.write_command.valid) and get(dut.write_command.ready):
            assert starts == ["store"]
        self.executed += get(dut.executed)
        if get(dut.flush):
            assert get(dut.reset_units) and get(dut.busy)
            assert not (get(dut.read_command.valid) or get(dut.write_command.valid) or starts)
            self.beats = []
            self.units = dict.fromkeys(self.units, 0)
        if get(dut.finished):
            self.ends.append(("finished", index))
        if get(dut.failed):
            assert get(dut.flush) and get(dut.bus_idle)
            self.ends.append(("failed", ErrorCode(get(dut.error_code)), index))

    async def run(self, ctx, trouble_at: int | None = None, **trouble: int) -> int:
        """Start, raise ``trouble`` in one cycle, go on to the end; returns the cycles it took."""
        before = len(self.ends)
        self.trouble = {"start": 1}
        await self.cycle(ctx)
        for cycle in range(2000):
            if trouble and cycle == trouble_at:
                self.trouble = dict(trouble)
                self.bus = max(self.bus, self._pause())
            await self.cycle(ctx)
            if len(self.ends) > before:
                await self.cycle(ctx)
                assert not ctx.get(self.dut.busy)
                assert len(self.ends) == before + 1
                return cycle
            assert ctx.get(self.dut.busy)
        raise AssertionError("the run never ends")

    async def run_well(self, ctx) -> int:
        """A run without trouble, checked."""
        self.log, self.ends, self.fetched, self.executed = [], [], [], 0
        cycles = await self.run(ctx)
        assert self.log == LOG
        assert self.ends == [("finished", len(PROGRAM) - 1)]
        assert self.fetched == [BASES[Base.PROGRAM] + i * isa.DESCRIPTOR_BYTES
                                for i in range(len(PROGRAM))]
        assert self.executed == len(PROGRAM)
        return cycles


def simulate(scenario, descriptors: list[int], seed: int, *, cycles: int, most: int = 3) -> None:
    dut = Sequencer(TINY)
    world = World(dut, descriptors, random.Random(seed), most)

    async def bench(ctx) -> None:
        for base, address in BASES.items():
            ctx.set(getattr(dut, f"{base.name.lower()}_base"), address)
        await scenario(ctx, world)

    pysim.run(dut, bench, cycles=cycles)


def test_order(seed):
    async def scenario(ctx, world: World) -> None:
        await world.cycle(ctx)
        assert not ctx.get(world.dut.busy)
        for _ in range(3):
            await world.run_well(ctx)

    simulate(scenario, PROGRAM, seed, cycles=2000)


@pytest.mark.parametrize("opcode", [0, 8, 0x87, 255])
def test_unknown_opcode(opcode, seed):
    descriptors = [PROGRAM[0], PROGRAM[3], opcode, PROGRAM[-1]]

    async def scenario(ctx, world: World) -> None:
        for _ in range(2):
            world.ends, world.executed = [], 0
            await world.run(ctx)
            assert world.ends == [("failed", ErrorCode.BAD_DESCRIPTOR, 2)]
            assert world.executed == 2

    simulate(scenario, descriptors, seed, cycles=2000)


@pytest.mark.parametrize(("pin", "code"), [
    ("abort", ErrorCode.ABORTED), ("watchdog", ErrorCode.WATCHDOG),
    ("read_error", ErrorCode.READ_ERROR), ("write_error", ErrorCode.WRITE_ERROR)])
def test_trouble_in_every_cycle(pin, code, seed):
    # At any moment of a run: it ends with the reason, starts nothing more, and can run again.
    descriptors = [PROGRAM[0], PROGRAM[3], PROGRAM[4], PROGRAM[-1]]

    async def scenario(ctx, world: World) -> None:
        length = 0
        for at in range(0, 400, 1 if pin == "abort" else 5):
            world.log, world.ends = [], []
            await world.run(ctx, at, **{pin: 1})
            if world.ends[0][0] == "finished":
                break
            length = at
            assert world.ends == [("failed", code, world.ends[0][2])]
            started = [entry[0] for entry in world.log]
            assert started == ["load", "execute", "store"][:len(started)]
        assert length > 60
        world.trouble = {pin: 1}    # idle: nothing happens
        await world.cycle(ctx)
        await world.cycle(ctx)
        assert len(world.ends) == 1

    simulate(scenario, descriptors, seed, cycles=20000, most=1)


@pytest.mark.parametrize("at", [0, 1, 5, 17, 18, 19, 20, 21, 22, 23, 30, 45, 60, 80, 100])
def test_a_good_run_after_an_abort(at, seed):
    async def scenario(ctx, world: World) -> None:
        await world.run(ctx, at, abort=1)
        assert world.ends[0][:2] == ("failed", ErrorCode.ABORTED)
        await world.run_well(ctx)

    simulate(scenario, PROGRAM, seed, cycles=2000, most=2)


def test_which_reason_wins(seed):
    async def scenario(ctx, world: World) -> None:
        for pins, code in ((("abort", "watchdog", "read_error", "write_error"), "ABORTED"),
                           (("watchdog", "read_error", "write_error"), "WATCHDOG"),
                           (("read_error", "write_error"), "READ_ERROR")):
            world.ends = []
            await world.run(ctx, 4, **dict.fromkeys(pins, 1))
            assert world.ends[0][:2] == ("failed", ErrorCode[code])

    simulate(scenario, PROGRAM, seed, cycles=500)


def test_a_store_waits_for_its_responses(seed):
    # The unit is idle long before the bus is.
    async def scenario(ctx, world: World) -> None:
        world.trouble = {"start": 1}
        await world.cycle(ctx)
        while not world.log:
            await world.cycle(ctx)
        world.bus = 30
        for _ in range(28):
            assert ctx.get(world.dut.transferring)
            await world.cycle(ctx)
        while not world.ends:
            await world.cycle(ctx)
        assert world.ends == [("finished", 1)]

    simulate(scenario, [PROGRAM[4], PROGRAM[-1]], seed, cycles=500)
