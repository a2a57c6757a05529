# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The sequencer with a fetcher and units in Python: order, waits, errors, abort, restart."""

import dataclasses
import random

import pytest

from gateware.arch import isa
from gateware.arch.isa import Base, Opcode
from gateware.arch.registers import ErrorCode
from gateware.rtl.control import Sequencer
from sim.backend import pysim
from tests.helpers.units import TINY, descriptor

BASES = {Base.PROGRAM: 0x1000_0000, Base.INPUT: 0x2000_0000, Base.OUTPUT: 0x3000_0000}
SIZE = 0x4000_0000  #: of each buffer
END = descriptor(isa.TRANSFER, opcode=Opcode.END)


def execute(**fields: int) -> int:
    return descriptor(isa.EXECUTE, opcode=Opcode.EXECUTE, **(dict.fromkeys(isa.LOOPS, 1) | fields))


def transfer(opcode: Opcode, base: Base, offset: int, beats: int, **waits: int) -> int:
    return descriptor(isa.TENSOR, opcode=opcode, base=base, offset=offset, beats=beats, **waits)


PROGRAM = [
    transfer(Opcode.LOAD_TENSOR, Base.INPUT, 0x40, 3),
    transfer(Opcode.LOAD_WEIGHTS, Base.PROGRAM, 0x400, 5),
    transfer(Opcode.LOAD_SLOTS, Base.PROGRAM, 0x800, 2),
    execute(out_height=7, wait_loads=3),
    transfer(Opcode.STORE_TENSOR, Base.OUTPUT, 0x80, 4, wait_executes=1),
    transfer(Opcode.STORE_WIDE, Base.OUTPUT, 0xC0, 1),
    END,
]
#: Unit, its number there, address and beats, or the output height.
LOG = [
    ("load", 0, 0x2000_0040, 3),
    ("load", 1, 0x1000_0400, 5),
    ("load", 2, 0x1000_0800, 2),
    ("execute", 0, 7),
    ("store", 0, 0x3000_0080, 4),
    ("store", 1, 0x3000_00C0, 1),
]
UNITS = ("load", "execute", "store")
QUEUE = {"load": "loads", "execute": "executes", "store": "stores"}


@dataclasses.dataclass
class World:
    """Everything around a :class:`Sequencer`, advanced cycle by cycle.

    Descriptors come with gaps; a unit takes one job at a time, after random pauses, and is busy for
    some cycles. ``trouble`` names inputs to raise in the next cycle.
    """

    dut: Sequencer
    descriptors: list[int]
    rng: random.Random
    most: int = 3  #: longest pause
    hold: tuple = ()  #: units that never complete

    def __post_init__(self) -> None:
        self.trouble: dict[str, int] = {}
        self.ends: list[tuple] = []  # ("finished",) or ("failed", code), index
        self.forget()

    def forget(self) -> None:
        """As at the beginning of a run."""
        self.log: list[tuple] = []
        self.completed = dict.fromkeys(UNITS, 0)
        self.working: dict[str, int] = {}  # cycles that are left
        self.next = 0  # descriptor
        self.fetching = False
        self.dispatched = 0
        self.bus = 0  # cycles until the bus is idle
        self.causes: dict[str, int] = dict.fromkeys(("load", "execute", "store", "fetch"), 0)

    def _pause(self) -> int:
        return self.rng.randint(0, self.most)

    async def cycle(self, ctx) -> None:
        dut, get = self.dut, ctx.get
        for name in ("start", "abort", "watchdog", "read_error", "write_error"):
            ctx.set(getattr(dut, name), self.trouble.pop(name, 0))
        ctx.set(dut.bus_idle, self.bus == 0)
        ctx.set(dut.array_idle, 1)
        offered = (
            self.fetching
            and self.next < len(self.descriptors)
            and (get(dut.descriptor.valid) or self._pause() == 0)
        )
        ctx.set(dut.descriptor.valid, offered)
        ctx.set(
            dut.descriptor.payload,
            self.descriptors[self.next] if offered else self.rng.getrandbits(512),
        )
        for unit in UNITS:
            ctx.set(getattr(dut, unit).ready, unit not in self.working and self._pause() == 0)
            ctx.set(getattr(dut, f"{unit}_completed"), self.working.get(unit) == 0)
        self._look(ctx)
        await ctx.tick()

    def _look(self, ctx) -> None:
        """What happens at the coming clock edge."""
        dut, get = self.dut, ctx.get
        self.bus = max(0, self.bus - 1)
        if get(dut.flush):
            assert get(dut.reset_units) and get(dut.busy) and get(dut.fetch_halt)
            self.working, self.fetching = {}, False
        else:
            for unit in [u for u, left in self.working.items() if left == 0]:
                del self.working[unit]
                self.completed[unit] += 1
            self.working = {u: left - (u not in self.hold) for u, left in self.working.items()}
            for unit in UNITS:
                port = getattr(dut, unit)
                if get(port.valid) and get(port.ready):
                    self._begin(ctx, unit, port)
        if get(dut.descriptor.valid) and get(dut.descriptor.ready):
            self.next += 1
        self.dispatched += get(dut.dispatched)
        causes = [cause for cause in self.causes if get(getattr(dut.cause, cause))]
        assert len(causes) == (get(dut.busy) and not get(dut.flush)) or get(dut.flush)
        for cause in causes:
            self.causes[cause] += 1
        index = get(dut.descriptor_index)
        if get(dut.fetch_start):
            self.forget()
            self.fetching = True
        if get(dut.finished):
            self.ends.append(("finished", index))
        if get(dut.failed):
            assert get(dut.flush)
            self.ends.append(("failed", ErrorCode(get(dut.error_code)), index))

    def _begin(self, ctx, unit: str, port) -> None:
        number = sum(entry[0] == unit for entry in self.log)
        if unit == "execute":
            what = (ctx.get(port.p.out_height),)
            waits = {other: ctx.get(getattr(port.p, f"wait_{QUEUE[other]}")) for other in UNITS}
        else:
            tensor = port.p.tensor
            what = (ctx.get(port.p.address), ctx.get(tensor.beats))
            waits = {other: ctx.get(getattr(tensor, f"wait_{QUEUE[other]}")) for other in UNITS}
        for other, count in waits.items():
            assert self.completed[other] >= count, (unit, number, other)
        self.log.append((unit, number, *what))
        self.working[unit] = self._pause() + (unit in self.hold)

    async def run(self, ctx, trouble_at: int | None = None, **trouble: int) -> int:
        """Start, raise ``trouble`` in one cycle, go on to the end; returns the cycles it took."""
        before = len(self.ends)
        self.trouble = {"start": 1}
        await self.cycle(ctx)
        for cycle in range(3000):
            if trouble and cycle == trouble_at:
                self.trouble = dict(trouble)
                self.bus = self._pause()
            await self.cycle(ctx)
            if len(self.ends) > before:
                await self.cycle(ctx)
                assert not ctx.get(self.dut.busy)
                assert len(self.ends) == before + 1
                return cycle
            assert ctx.get(self.dut.busy)
        raise AssertionError("the run never ends")

    async def run_well(self, ctx) -> int:
        """A run of PROGRAM without trouble, checked."""
        self.ends = []
        cycles = await self.run(ctx)
        for unit in UNITS:
            assert [e for e in self.log if e[0] == unit] == [e for e in LOG if e[0] == unit]
        assert self.ends == [("finished", len(PROGRAM) - 1)]
        assert self.dispatched == len(PROGRAM)
        return cycles


def simulate(
    scenario,
    descriptors: list[int],
    seed: int,
    *,
    cycles: int,
    most: int = 3,
    hold: tuple = (),
    silence_cycles: int = 1 << 12,
) -> None:
    dut = Sequencer(TINY, silence_cycles=silence_cycles)
    world = World(dut, descriptors, random.Random(seed), most, hold)

    async def bench(ctx) -> None:
        for base, address in BASES.items():
            ctx.set(dut.bases[base.name.lower()], address)
            ctx.set(dut.sizes[base.name.lower()], SIZE)
        await scenario(ctx, world)

    pysim.run(dut, bench, cycles=cycles)


def test_order(seed):
    async def scenario(ctx, world: World) -> None:
        await world.cycle(ctx)
        assert not ctx.get(world.dut.busy)
        for _ in range(3):
            await world.run_well(ctx)

    simulate(scenario, PROGRAM, seed, cycles=2000)


def random_program(rng: random.Random, count: int) -> list[int]:
    """Descriptors whose waits are any that can end."""
    words, counts = [], dict.fromkeys(QUEUE.values(), 0)
    for _ in range(count):
        waits = {
            f"wait_{queue}": max(0, done - rng.randint(0, 5)) for queue, done in counts.items()
        }
        queue = rng.choice(list(counts))
        # A full queue must not keep back what its head waits for.
        counts[queue] += 1
        if queue == "executes":
            words.append(execute(**waits))
        else:
            opcode = Opcode.LOAD_WEIGHTS if queue == "loads" else Opcode.STORE_TENSOR
            words.append(transfer(opcode, Base.OUTPUT, 8 * len(words), 1, **waits))
    return [*words, END]


def test_waits(seed):
    # World asserts that nothing begins before what it waits for is complete.
    rng = random.Random(seed)
    descriptors = random_program(rng, 300)

    async def scenario(ctx, world: World) -> None:
        await world.run(ctx)
        assert world.ends == [("finished", 300)]
        assert len(world.log) == 300
        addresses = [entry[2] for entry in world.log if entry[0] == "load"]
        assert addresses == sorted(addresses)
        assert sum(world.causes.values()) > 300

    simulate(scenario, descriptors, seed, cycles=6000)


def test_queues_run_beside_each_other(seed):
    # Loads and stores go on while an EXECUTE never ends, and a second one waits for it.
    descriptors = [
        execute(),
        execute(wait_executes=1),
        *[transfer(Opcode.LOAD_SLOTS, Base.INPUT, 8 * i, 1) for i in range(40)],
        transfer(Opcode.STORE_TENSOR, Base.OUTPUT, 0, 1),
        END,
    ]

    async def scenario(ctx, world: World) -> None:
        world.trouble = {"start": 1}
        for _ in range(1000):
            await world.cycle(ctx)
        assert world.completed == {"load": 40, "store": 1, "execute": 0}
        assert ctx.get(world.dut.busy) and not world.ends
        assert ctx.get(world.dut.descriptor_index) == 0
        assert world.causes["execute"] > 900

    simulate(scenario, descriptors, seed, cycles=1100, hold=("execute",))


@pytest.mark.parametrize(("hold", "queue"), [("load", "loads"), ("store", "stores")])
def test_causes(hold, queue, seed):
    opcode = Opcode.LOAD_SLOTS if hold == "load" else Opcode.STORE_WIDE
    descriptors = [
        transfer(opcode, Base.OUTPUT, 0, 1),
        execute(**{f"wait_{queue}": 1}),
        END,
    ]

    async def scenario(ctx, world: World) -> None:
        world.trouble = {"start": 1}
        for _ in range(100):
            await world.cycle(ctx)
        assert world.causes[hold] > 60 and world.causes["fetch"] > 0

    simulate(scenario, descriptors, seed, cycles=200, hold=(hold,))


@pytest.mark.parametrize("opcode", [0, 8, 0x87, 255])
def test_unknown_opcode(opcode, seed):
    descriptors = [PROGRAM[0], PROGRAM[1], opcode, PROGRAM[-1]]

    async def scenario(ctx, world: World) -> None:
        for _ in range(2):
            world.ends = []
            await world.run(ctx)
            assert world.ends == [("failed", ErrorCode.BAD_DESCRIPTOR, 2)]
            assert world.dispatched == 2

    simulate(scenario, descriptors, seed, cycles=2000)


@pytest.mark.parametrize(
    ("pin", "code"),
    [
        ("abort", ErrorCode.ABORTED),
        ("watchdog", ErrorCode.WATCHDOG),
        ("read_error", ErrorCode.READ_ERROR),
        ("write_error", ErrorCode.WRITE_ERROR),
    ],
)
def test_trouble_in_every_cycle(pin, code, seed):
    # At any moment of a run: it ends with the reason, and can run again.
    async def scenario(ctx, world: World) -> None:
        length = 0
        for at in range(0, 400, 1 if pin == "abort" else 5):
            world.ends = []
            await world.run(ctx, at, **{pin: 1})
            if world.ends[0][0] == "finished":
                break
            length = at
            assert world.ends == [("failed", code, world.ends[0][2])]
        assert length > 15
        world.trouble = {pin: 1}  # idle: nothing happens
        await world.cycle(ctx)
        await world.cycle(ctx)
        assert len(world.ends) == 1
        await world.run_well(ctx)

    simulate(scenario, PROGRAM, seed, cycles=20000, most=1)


@pytest.mark.parametrize(
    ("pin", "hold", "index"),
    [("read_error", "load", 0), ("write_error", "store", 2), ("abort", "execute", 1)],
)
def test_which_descriptor_failed(pin, hold, index, seed):
    descriptors = [PROGRAM[1], execute(), PROGRAM[5], END]

    async def scenario(ctx, world: World) -> None:
        await world.run(ctx, 60, **{pin: 1})
        assert world.ends == [("failed", world.ends[0][1], index)]
        # A read error of a fetch is about the descriptor that does not come.
        if pin == "read_error":
            ctx.set(world.dut.fetch_owns, 1)
            world.ends = []
            await world.run(ctx, 60, read_error=1)
            assert world.ends == [("failed", ErrorCode.READ_ERROR, 3)]

    simulate(scenario, descriptors, seed, cycles=400, hold=(hold,))


def test_which_reason_wins(seed):
    async def scenario(ctx, world: World) -> None:
        for pins, code in (
            (("abort", "watchdog", "read_error", "write_error"), "ABORTED"),
            (("watchdog", "read_error", "write_error"), "WATCHDOG"),
            (("read_error", "write_error"), "READ_ERROR"),
        ):
            world.ends = []
            await world.run(ctx, 4, **dict.fromkeys(pins, 1))
            assert world.ends[0][:2] == ("failed", ErrorCode[code])

    simulate(scenario, PROGRAM, seed, cycles=500)


@pytest.mark.parametrize(
    "bad",
    [
        transfer(Opcode.LOAD_WEIGHTS, Base.PROGRAM, SIZE - 4, 2),
        transfer(Opcode.LOAD_TENSOR, Base.INPUT, SIZE, 1),
        transfer(Opcode.STORE_WIDE, Base.OUTPUT, 0xFFFF_FFFC, 1),
    ],
)
def test_a_transfer_outside_never_begins(bad, seed):
    descriptors = [PROGRAM[0], *[PROGRAM[1]] * 5, bad, PROGRAM[-1]]

    async def scenario(ctx, world: World) -> None:
        for _ in range(3):
            world.ends = []
            await world.run(ctx)
            assert world.ends == [("failed", ErrorCode.OUT_OF_BOUNDS, 6)]
            assert all(entry in LOG or entry[2:] == LOG[1][2:] for entry in world.log)

    simulate(scenario, descriptors, seed, cycles=2000)


@pytest.mark.parametrize(
    ("descriptors", "index"),
    [
        ([execute(wait_loads=1), END], 0),
        ([PROGRAM[0], transfer(Opcode.STORE_TENSOR, Base.OUTPUT, 0, 1, wait_stores=1), END], 1),
        # A full queue keeps back what its head waits for.
        (
            [transfer(Opcode.LOAD_SLOTS, Base.INPUT, 0, 1, wait_executes=1)] * 40
            + [execute(), END],
            0,
        ),
    ],
)
def test_waits_for_what_never_comes(descriptors, index, seed):
    async def scenario(ctx, world: World) -> None:
        for _ in range(2):
            world.ends = []
            cycles = await world.run(ctx)
            assert world.ends == [("failed", ErrorCode.DEADLOCK, index)]
            assert cycles < 600

    simulate(scenario, descriptors, seed, cycles=2000, silence_cycles=64)


def test_a_memory_that_does_not_answer(seed):
    """The run fails all the same; the accelerator stays busy until the memory answers."""

    async def scenario(ctx, world: World) -> None:
        world.trouble = {"start": 1}
        for _ in range(20):
            await world.cycle(ctx)
        world.trouble, world.bus = {"watchdog": 1}, 1000
        for _ in range(300):
            await world.cycle(ctx)
        assert ctx.get(world.dut.busy)
        assert [end[:2] for end in world.ends] == [("failed", ErrorCode.WATCHDOG)]
        world.bus = 0
        for _ in range(4):
            await world.cycle(ctx)
        assert not ctx.get(world.dut.busy) and len(world.ends) == 1
        await world.run_well(ctx)

    simulate(scenario, PROGRAM, seed, cycles=1000, hold=(), silence_cycles=64)
