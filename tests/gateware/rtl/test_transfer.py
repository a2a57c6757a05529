# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Loader and storer: tensors go where the compiler says, whatever the bus does meanwhile.

One file for both, which take the same descriptors and tensors.

Mirrors no module: loader and storer against the same memory.
"""

import dataclasses

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.layout import Strip, TensorLayout
from gateware.compiler.operations import TensorKey
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.transfers import Home, load_rows
from gateware.rtl.buffers import GATHER_CYCLES
from gateware.rtl.loader import LOADS_IN_FLIGHT, Loader
from gateware.rtl.payloads import TransferJob
from gateware.rtl.storer import Storer
from sim.backend import pysim
from tests.helpers.units import TINY, WIDER, act_memory, descriptor

BUS64 = AccelConfig(pot4_rows=2, fixed4_rows=1, fixed8_rows=1, requant_lanes=2, act_depth=64)
CONFIGS = {"bus 32, P 2": TINY, "bus 32, P 4": WIDER, "bus 64, P 2": BUS64}
SHAPES = [(1, 1, 1, 4), (3, 2, 5, 8), (9, 3, 4, 4), (17, 2, 3, 8), (20, 1, 9, 4)]
PAUSES = [0.0, 0.5]


def place_of(shape, config: AccelConfig, address: int = 3) -> TensorLayout:
    *size, bits = shape
    place = TensorLayout.of(tuple(size), config, bits=bits)
    return dataclasses.replace(place, address=address)


def whole(place: TensorLayout) -> dict[str, int]:
    """Descriptor fields of a whole tensor, but what tells a load from a store and waits."""
    image = ProgramImage(TINY)
    load_rows(image, TensorKey("t"), Strip.whole(place), 0, place.height, Home(isa.Base.INPUT, 0))
    ((_, fields, _),) = image.descriptors
    left_out = {"opcode", "base", "offset", *(name for name in fields if name.startswith("wait_"))}
    return {name: value for name, value in fields.items() if name not in left_out}


def random_tensor(place: TensorLayout, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1 << place.bits, (place.channels, place.height, place.width))


def beats_of(stored: bytes, config: AccelConfig) -> list[int]:
    size = config.bus_bits // 8
    return [int.from_bytes(stored[i : i + size], "little") for i in range(0, len(stored), size)]


def job_of(layout, at: int, **given: int):
    """A TransferJob for ``ctx.set``, from descriptor fields."""
    bits = descriptor(layout, **given)
    return TransferJob().from_bits(bits | at << isa.TENSOR.size)


@dataclasses.dataclass
class Arrivals:
    """What a :class:`Loader` did.

    commands : (address, beats) of each port
    fills : (buffer, address or None, data or None) of each port: a start or a beat
    writes : (address, bank, data) of the activation buffer
    completed : jobs complete when each of the port's beats had gone
    """

    commands: list[list[tuple[int, int]]]
    fills: list[list[tuple]]
    writes: list[tuple[int, int, int]]
    completed: int = 0


def load(
    config: AccelConfig,
    jobs: list,
    beats: list[list[list[int]]],
    *,
    pause: float,
    rng: np.random.Generator,
) -> Arrivals:
    """Run ``jobs``; ``beats[job][port]`` is what memory answers, some cycles after the command."""
    dut, ports = Loader(config), config.ports
    result = Arrivals([[] for _ in range(ports)], [[] for _ in range(ports)], [])

    async def bench(ctx) -> None:
        left, answers = list(jobs), [[] for _ in range(ports)]
        taken, now, offered = [0] * ports, 0, False
        expected = np.array([[len(part) for part in job] for job in beats])
        while result.completed < len(jobs):
            now += 1
            # What is on offer stays so until it is taken.
            offered = bool(left) and (offered or rng.random() >= pause)
            ctx.set(dut.job.valid, offered)
            if left:
                ctx.set(dut.job.payload, left[0])
            ctx.set(dut.act.ready, rng.random() >= pause)
            for p in range(ports):
                ctx.set(dut.commands[p].ready, rng.random() >= pause)
                due = answers[p] and answers[p][0][0] <= now and rng.random() >= pause
                ctx.set(dut.beats[p].valid, bool(due))
                ctx.set(dut.beats[p].payload, answers[p][0][1] if due else 0x55)
            for p in range(ports):
                command = dut.commands[p]
                if ctx.get(command.valid) and ctx.get(command.ready):
                    what = (ctx.get(command.p.address), ctx.get(command.p.beats))
                    part = beats[len(result.commands[p])][p]
                    assert what[1] == len(part)
                    result.commands[p].append(what)
                    answers[p] += [(now + 9, word) for word in part]
                for name in ("weights", "slots"):
                    fill = getattr(dut, name)[p]
                    if ctx.get(fill.start):
                        result.fills[p].append((name, ctx.get(fill.address), None))
                    if ctx.get(fill.enable):
                        result.fills[p].append((name, None, ctx.get(fill.data)))
            if ctx.get(dut.act.valid) and ctx.get(dut.act.ready):
                word = dut.act.p
                result.writes.append(
                    (ctx.get(word.place.address), ctx.get(word.place.bank), ctx.get(word.data))
                )
            for p in range(ports):
                if ctx.get(dut.beats[p].valid) and ctx.get(dut.beats[p].ready):
                    answers[p].pop(0)
                    taken[p] += 1
            if ctx.get(dut.completed):
                result.completed += 1
                # Everything of the job has been written, on every port.
                assert (np.array(taken) >= expected[: result.completed].sum(0)).all()
            if ctx.get(dut.job.valid) and ctx.get(dut.job.ready):
                left.pop(0)
                offered = False
            await ctx.tick()
        for _ in range(20):
            assert not ctx.get(dut.completed) and not ctx.get(dut.act.valid)
            await ctx.tick()

    pysim.run(dut, bench, cycles=40 * sum(len(p) for job in beats for p in job) + 500)
    return result


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_load_tensor(name, pause, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    for shape in SHAPES:
        place = place_of(shape, config)
        if place.address + place.words > config.act_depth:
            continue
        tensor = random_tensor(place, rng)
        words = beats_of(place.pack(tensor), config)
        assert len(words) == place.beats
        job = job_of(isa.TENSOR, 0x1230, opcode=Opcode.LOAD_TENSOR, **whole(place))
        others = [[]] * (config.ports - 1)
        result = load(config, [job], [[words, *others]], pause=pause, rng=rng)
        assert result.commands[0] == [(0x1230, place.beats)]
        memory = np.zeros((config.banks, config.act_depth, config.k), np.int64)
        for address, bank, word in result.writes:
            memory[bank, address] = [word >> 4 * j & 15 for j in range(config.k)]
        np.testing.assert_array_equal(memory, act_memory(place, tensor, config.act_depth))
        assert len({write[:2] for write in result.writes}) == place.beats
        assert not any(result.fills)


@pytest.mark.parametrize("pause", [0.0, 0.3])
@pytest.mark.parametrize("ports", [1, 2, 4])
def test_loads_in_order_through_all_ports(ports, pause, seed):
    """Weights, slots and tensors one after the other; tensors come through the first port."""
    config, rng = dataclasses.replace(TINY, ports=ports), np.random.default_rng(seed)
    place = place_of((3, 2, 5, 4), config)
    jobs, beats, fills, commands = [], [], [[] for _ in range(ports)], [[] for _ in range(ports)]
    for _ in range(12):
        opcode = Opcode(
            int(rng.choice([Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS, Opcode.LOAD_TENSOR]))
        )
        address = int(rng.integers(1 << 28)) * 4
        if opcode is Opcode.LOAD_TENSOR:
            jobs.append(job_of(isa.TENSOR, address, opcode=opcode, **whole(place)))
            count = [place.beats] + [0] * (ports - 1)
        else:
            count = [int(rng.integers(0, 9))] * ports
            destination = int(rng.integers(8))
            jobs.append(
                job_of(
                    isa.TRANSFER, address, opcode=opcode, beats=count[0], destination=destination
                )
            )
        parts = [rng.integers(0, 1 << 32, n).tolist() for n in count]
        beats.append(parts)
        for p in range(ports):
            first = address + p * count[0] * 4
            if opcode is not Opcode.LOAD_TENSOR:
                buffer = "weights" if opcode is Opcode.LOAD_WEIGHTS else "slots"
                fills[p] += [(buffer, destination, None)]
                fills[p] += [(buffer, None, word) for word in parts[p]]
                commands[p].append((first, count[p]))
            else:
                commands[p].append((first, count[p]))
    result = load(config, jobs, beats, pause=pause, rng=rng)
    assert result.fills == fills
    # Where nothing is read the address does not matter.
    assert [[c for c in port if c[1]] for port in result.commands] == [
        [c for c in port if c[1]] for port in commands
    ]


def test_loads_are_ordered_ahead():
    """The commands of LOADS_IN_FLIGHT + 1 jobs go out before the first data comes."""
    dut = Loader(TINY)

    async def bench(ctx) -> None:
        ctx.set(dut.job.payload, job_of(isa.TRANSFER, 64, opcode=Opcode.LOAD_WEIGHTS, beats=5))
        ctx.set(dut.job.valid, 1)
        ctx.set(dut.commands[0].ready, 1)
        commands = 0
        for _ in range(30):
            commands += ctx.get(dut.commands[0].valid)
            await ctx.tick()
        assert commands == LOADS_IN_FLIGHT + 1

    pysim.run(dut, bench, cycles=40)


def store(
    config: AccelConfig,
    jobs: list,
    count: int,
    memory: np.ndarray,
    wide: list[int],
    *,
    pause: float,
    rng: np.random.Generator,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Beats and commands of ``jobs``; raw outputs come a cycle after their address."""
    dut, beats, commands, cycles = Storer(config), [], [], [0]

    async def bench(ctx) -> None:
        waiting, left, answer, words = None, list(jobs), 0, [0]
        while left:
            ctx.set(dut.job.valid, 1)
            ctx.set(dut.job.payload, left[0])
            ctx.set(dut.command.ready, rng.random() >= pause)
            ctx.set(dut.beats.ready, rng.random() >= pause)
            ready = rng.random() >= pause
            ctx.set(dut.gather.ready, ready)
            answer = max(0, answer - 1)
            ctx.set(dut.write_idle, answer == 0)
            if ctx.get(dut.command.valid) and ctx.get(dut.command.ready):
                commands.append((ctx.get(dut.command.p.address), ctx.get(dut.command.p.beats)))
            if ctx.get(dut.beats.valid):
                payload = ctx.get(dut.beats.payload)
                assert waiting in (None, payload), "payload changed before it was taken"
                waiting = payload
                if ctx.get(dut.beats.ready):
                    beats.append(payload)
                    waiting, answer = None, 20
            else:
                assert waiting is None, "valid fell before the beat was taken"
            assert ctx.get(dut.completed) == ctx.get(dut.job.ready)
            if ctx.get(dut.completed):
                assert answer == 0
                left.pop(0)
            bank, address = ctx.get(dut.gather.p.bank), ctx.get(dut.gather.p.address)
            number = ctx.get(dut.wide_address)
            await ctx.tick()
            cycles[0] += 1
            # Where the address did not reach the buffer another one's word comes.
            nibbles = memory[bank, address % config.act_depth] if ready else [0xA] * config.k
            words.append(sum(int(n) << 4 * j for j, n in enumerate(nibbles)))
            ctx.set(dut.gather_data, words[-GATHER_CYCLES:][0])
            ctx.set(dut.wide_data, wide[number % len(wide)])

    pysim.run(dut, bench, cycles=30 * count + 200)
    assert len(beats) == count
    if not pause:
        assert cycles[0] <= count + 30 * len(jobs)
    return beats, commands


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_store_tensor(name, pause, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    for shape in SHAPES:
        place = place_of(shape, config)
        if place.address + place.words > config.act_depth:
            continue
        tensor = random_tensor(place, rng)
        job = job_of(isa.TENSOR, 0x40, opcode=Opcode.STORE_TENSOR, **whole(place))
        beats, commands = store(
            config,
            [job, job],
            2 * place.beats,
            act_memory(place, tensor, config.act_depth),
            [0],
            pause=pause,
            rng=rng,
        )
        assert commands == [(0x40, place.beats)] * 2
        assert beats[: place.beats] == beats[place.beats :]
        stored = b"".join(
            beat.to_bytes(config.bus_bits // 8, "little") for beat in beats[: place.beats]
        )
        np.testing.assert_array_equal(place.unpack(stored), tensor)
        assert stored == place.pack(tensor)


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_store_wide(name, pause, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    wide = [-1, 1, 0, -(1 << 47), (1 << 47) - 1, *rng.integers(-(1 << 47), 1 << 47, 3).tolist()]
    count = len(wide) * 64 // config.bus_bits
    jobs = [
        job_of(isa.TRANSFER, 8, opcode=Opcode.STORE_WIDE, beats=count, destination=first)
        for first in (0, 3)
    ]
    beats, _ = store(
        config,
        jobs,
        2 * count,
        np.zeros((config.banks, config.act_depth, config.k), int),
        wide,
        pause=pause,
        rng=rng,
    )
    stored = b"".join(beat.to_bytes(config.bus_bits // 8, "little") for beat in beats)
    assert np.frombuffer(stored, "<i8").tolist() == [*wide, *wide[3:], *wide[:3]]


def test_storing_nothing(seed):
    job = job_of(isa.TRANSFER, 8, opcode=Opcode.STORE_WIDE, beats=0)
    memory = np.zeros((TINY.banks, TINY.act_depth, TINY.k), int)
    beats, commands = store(
        TINY, [job, job], 0, memory, [0], pause=0.0, rng=np.random.default_rng(seed)
    )
    assert not beats and commands == [(8, 0)] * 2
