# SPDX-License-Identifier: Apache-2.0
"""Waits: the compiler's are enough, and the checker sees where one is missing."""

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.isa import Opcode
from gateware.compiler.dependencies import Dependencies, Region, Ring, pieces
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator, EmulatorError
from gateware.model.hazards import HazardError, Hazards
from tests.helpers.graphs import random_images, residual_graph
from tests.helpers.units import TINY

QUEUES = tuple(isa.QUEUES)
NONE = dict.fromkeys(QUEUES, 0)


def begin(hazards: Hazards, queue: str, index: int, **waits: int) -> None:
    hazards.begin(queue, index, NONE | waits)


def words(*numbers: int) -> np.ndarray:
    return np.array(numbers)


@pytest.mark.parametrize("queue", ["executes", "stores"])
def test_reading_what_a_load_brings(queue):
    hazards = Hazards({"act": (8,)})
    for index in range(3):
        begin(hazards, "loads", index)
        hazards.write("act", words(index))
    begin(hazards, queue, 3, loads=2)
    hazards.read("act", words(0, 1))
    with pytest.raises(
        HazardError,
        match=r"descriptor 3 reads word \[2\] of buffer act, which "
        "number 3 of the loads uses",
    ):
        hazards.read("act", words(0, 2))


def test_writing_what_is_still_read():
    hazards = Hazards({"slots": (8,)})
    begin(hazards, "loads", 0)
    hazards.write("slots", words(0))
    begin(hazards, "executes", 1, loads=1)
    hazards.read("slots", words(0))
    begin(hazards, "loads", 2)
    hazards.write("slots", words(1))
    with pytest.raises(HazardError, match="descriptor 2 writes word"):
        hazards.write("slots", words(0))
    begin(hazards, "loads", 3, executes=1)
    hazards.write("slots", words(0))


def test_results_of_an_earlier_execute():
    hazards = Hazards({"act": (8,)})
    begin(hazards, "executes", 0)
    hazards.write("act", words(3))
    begin(hazards, "executes", 1)
    with pytest.raises(HazardError, match="reads word"):
        hazards.read("act", words(3))
    hazards.write("act", words(3))  # in order
    hazards.read("act", words(3))  # its own: an operand that lies where results do
    begin(hazards, "executes", 2)
    with pytest.raises(HazardError, match="reads word"):
        hazards.read("act", words(3))
    begin(hazards, "executes", 3, executes=3)
    hazards.read("act", words(3))


def test_chains_of_waits():
    # The second load waits for the execute, which waited for the first store.
    hazards = Hazards({"act": (8,)})
    begin(hazards, "stores", 0)
    hazards.read("act", words(5))
    begin(hazards, "executes", 1, stores=1)
    begin(hazards, "loads", 2, executes=1)
    hazards.write("act", words(5))
    # What an earlier descriptor of the queue waited for need not be said again.
    begin(hazards, "loads", 3)
    hazards.write("act", words(5))


def test_a_wait_for_the_future():
    hazards = Hazards({"act": (8,)})
    begin(hazards, "loads", 0)
    with pytest.raises(HazardError, match="descriptor 1 waits for 2 loads, before it there are 1"):
        begin(hazards, "executes", 1, loads=2)


def test_counts_wrap():
    hazards = Hazards({"act": (8,)})
    for index in range((1 << isa.COUNT_BITS) + 3):
        begin(hazards, "loads", index, loads=index % (1 << isa.COUNT_BITS))
    hazards.write("act", words(1))
    begin(hazards, "executes", 9, loads=3)
    hazards.read("act", words(1))
    begin(hazards, "executes", 10, loads=2)
    hazards.read("act", words(1))  # known from the one before


def test_waits_of_the_compiler_wrap():
    dependencies, hazards = Dependencies(TINY), Hazards({"act": (TINY.act_depth,)})
    word = (Region("act", 1, 1),)
    for index in range((1 << isa.COUNT_BITS) + 3):
        hazards.begin("loads", index, dependencies.add("loads", writes=word))
    hazards.write("act", words(1))
    hazards.begin("executes", 9, dependencies.add("executes", reads=word))
    hazards.read("act", words(1))


def test_dependencies_agree_with_the_checker(seed):
    """Random accesses: with the compiler's waits all is well; one wait less is noticed."""
    rng = np.random.default_rng(seed)
    depths = {
        "act": TINY.act_depth,
        "weights": TINY.weight_depth,
        "slots": TINY.slot_depth,
        "wide": TINY.wide_depth,
    }
    missed = 0
    for round_ in range(40):
        dependencies, hazards = (
            Dependencies(TINY),
            Hazards({name: (depth,) for name, depth in depths.items()}),
        )
        for index in range(30):
            queue = QUEUES[rng.integers(3)]
            regions = []
            for _ in range(2):
                buffer = list(depths)[rng.integers(4)]
                regions.append(
                    Region(buffer, int(rng.integers(depths[buffer])), int(rng.integers(1, 5)))
                )
            reads, writes = ((), regions) if queue == "loads" else (regions[:1], regions[1:])
            if queue == "stores":
                reads, writes = regions, ()
            waits = dependencies.add(queue, reads=reads, writes=writes)
            tampered = round_ > 20 and rng.random() < 0.1 and any(waits.values())
            if tampered:
                name = max(waits, key=waits.get)
                waits[name] -= 1
            try:
                hazards.begin(queue, index, waits)
                for region in reads:
                    hazards.read(region.buffer, place(region, depths))
                for region in writes:
                    hazards.write(region.buffer, place(region, depths))
            except HazardError:
                assert tampered
                missed += 1
                break
    assert missed > 5


def place(region: Region, depths: dict[str, int]) -> np.ndarray:
    return (region.first + np.arange(region.words)) % depths[region.buffer]


def test_the_ring_begins_anew():
    ring = Ring("slots", 8)
    assert [ring.take(n).first for n in (3, 4, 4, 8, 1)] == [0, 3, 7, 3, 3]


def test_pieces():
    users = np.array([0] * 5 + [1] * 3 + [2] * 9)
    assert pieces(users, 1) == [5, 3, 9]
    assert pieces(users, 4) == [5, 12]
    assert pieces(users, 6) == [8, 9]
    assert pieces(users, 10) == [17]
    assert pieces(np.zeros(4, int), 1) == [4]


@pytest.mark.parametrize("opcode", [Opcode.EXECUTE, Opcode.STORE_TENSOR])
def test_the_emulator_refuses_a_program_that_does_not_wait(opcode, seed):
    config = TINY.__class__(pot4_rows=10, fixed4_rows=5, fixed8_rows=1)
    graph = residual_graph(seed, size=8)
    program = compile_graph(graph, config, dump=True)
    image = bytearray(program.image)
    index, found = next(
        (index, d) for index, d in enumerate(isa.descriptors(image)) if d.opcode is opcode
    )
    name = "wait_loads" if opcode is Opcode.EXECUTE else "wait_executes"
    assert found.fields[name] > 0
    word = isa.pack(isa.LAYOUTS[opcode], **found.fields | {name: 0})
    at = index * isa.DESCRIPTOR_BYTES
    image[at : at + isa.DESCRIPTOR_BYTES] = word.to_bytes(isa.DESCRIPTOR_BYTES, "little")
    packed = program.pack(random_images(graph, np.random.default_rng(seed))[0])
    Emulator(config).run(program.image, packed, program.output_size)
    with pytest.raises(EmulatorError, match="without waiting for it"):
        Emulator(config).run(bytes(image), packed, program.output_size)
