# SPDX-License-Identifier: Apache-2.0
"""The emulator, from the program's bytes alone, equals the golden model in every tensor."""

import dataclasses

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator, EmulatorError
from ir import golden
from ir.graph import IntGraph
from ir.numerics import Scheme, weight_values
from ir.ratio import Ratio
from tests.helpers.graphs import random_images, residual_graph
from tests.helpers.units import TINY, descriptor, random_program

SIZES = {"act_depth": 512, "weight_depth": 256}
CONFIGS = {
    "R4 P2 Q2 bus32": AccelConfig(
        pot4_rows=2, fixed4_rows=1, fixed8_rows=1, requant_lanes=2, bus_bits=32, **SIZES
    ),
    "R8 P4 Q8 bus32": AccelConfig.from_ratio(
        Ratio(50, 25, 25), 8, pixels=4, bus_bits=32, requant_lanes=8, **SIZES
    ),
    "R16 P2 Q16 bus64": AccelConfig.from_ratio(Ratio(65, 30, 5), 16, requant_lanes=16, **SIZES),
    "R24 P4 Q4 bus32": AccelConfig.from_ratio(
        Ratio(60, 35, 5), 24, pixels=4, bus_bits=32, requant_lanes=4, **SIZES
    ),
    "R64 P8 Q8 bus64": AccelConfig.from_ratio(Ratio(65, 30, 5), 64, pixels=8, **SIZES),
    "R8 P2 Q1 bus64": AccelConfig(
        pot4_rows=1, fixed4_rows=3, fixed8_rows=4, requant_lanes=1, **SIZES
    ),
    "R16 P2 Q8 bus64 4 ports": AccelConfig.from_ratio(Ratio(65, 30, 5), 16, ports=4, **SIZES),
    "R3 P2 Q1 bus32 2 ports": AccelConfig(
        pot4_rows=1,
        fixed4_rows=1,
        fixed8_rows=1,
        requant_lanes=1,
        bus_bits=32,
        ports=2,
        slot_depth=8,
        **SIZES,
    ),
    "R3 P2 Q1 bus32": AccelConfig(
        pot4_rows=1, fixed4_rows=1, fixed8_rows=1, requant_lanes=1, bus_bits=32, **SIZES
    ),
}


def assert_golden(
    graph: IntGraph, program: Program, images: np.ndarray, emulator: Emulator
) -> None:
    reference = golden.run(graph, images)
    for i, image in enumerate(images):
        memory = emulator.run(program.image, program.pack(image), program.output_size)
        assert len(memory) == program.output_size
        for output in program.outputs:
            np.testing.assert_array_equal(
                output.read(memory), reference[output.name][i], f"{output.name} of image {i}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_random_graphs(name, seed):
    # One emulator for all: what a program leaves in the buffers must not matter to the next.
    config, emulator = CONFIGS[name], Emulator(CONFIGS[name])
    rng = np.random.default_rng([seed, len(name)])
    kinds = set()
    for layers in (1, 2, 3, 5, 7):
        channels, size = int(rng.integers(1, 25)), int(rng.integers(3, 12))
        graph, program = random_program(rng, config, layers=layers, channels=channels, size=size)
        kinds |= {node.op for node in graph.nodes}
        assert_golden(graph, program, random_images(graph, rng, 2), emulator)
    assert {"conv", "linear"} <= kinds


@pytest.mark.parametrize("name", CONFIGS)
def test_residual_graph(name, seed):
    rng = np.random.default_rng(seed)
    graph = residual_graph(seed, size=8)
    program = compile_graph(graph, CONFIGS[name], dump=True)
    assert {output.name for output in program.outputs} == {
        node.output for node in graph.nodes if node.op != "flatten"
    }
    assert_golden(graph, program, random_images(graph, rng, 2), Emulator(CONFIGS[name]))


@pytest.mark.parametrize("scheme", Scheme)
def test_layers_of_one_scheme(scheme, seed):
    """No row is in PoT-4, or all are: 0:100:0, 0:0:100, first and last layer in 8 bits."""
    rng = np.random.default_rng(seed)
    graph = residual_graph(seed, size=8)
    layers = {
        name: dataclasses.replace(
            layer,
            scheme=np.full_like(layer.scheme, scheme),
            values=rng.choice(
                weight_values(scheme)[abs(weight_values(scheme)) < 16], layer.values.shape
            ),
        )
        for name, layer in graph.layers.items()
    }
    graph = IntGraph(graph.header, layers)
    config = CONFIGS["R16 P2 Q16 bus64"]
    program = compile_graph(graph, config, dump=True)
    assert_golden(graph, program, random_images(graph, rng, 2), Emulator(config))


def test_dumping_changes_nothing(seed):
    graph, config = residual_graph(seed), CONFIGS["R16 P2 Q16 bus64"]
    image = random_images(graph, np.random.default_rng(seed))[0]
    results = []
    for dump in (False, True):
        program = compile_graph(graph, config, dump=dump)
        memory = Emulator(config).run(program.image, program.pack(image), program.output_size)
        results.append(program.outputs[0].read(memory).tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("opcode", [0, 8, 255])
def test_unknown_opcode(opcode):
    end = descriptor(isa.TRANSFER, opcode=Opcode.END)
    image = b"".join(
        word.to_bytes(isa.DESCRIPTOR_BYTES, "little")
        for word in (descriptor(isa.TRANSFER, opcode=Opcode.LOAD_WEIGHTS), opcode, end)
    )
    with pytest.raises(EmulatorError, match=f"descriptor 1 has opcode {opcode}"):
        Emulator(TINY).run(image, b"", 0)


def test_a_program_without_an_end():
    with pytest.raises(EmulatorError, match="descriptor 0 has opcode 0"):
        Emulator(TINY).run(b"", b"", 0)


def test_slots_go_where_they_are_loaded(seed):
    rng = np.random.default_rng(seed)
    size = isa.slot_beats(TINY) * TINY.bus_bits // 8
    stored = rng.bytes(3 * size)
    emulator = Emulator(TINY)
    for first, count, destination in ((0, 3, 0), (2, 1, 1)):
        word = descriptor(
            isa.TRANSFER,
            opcode=Opcode.LOAD_SLOTS,
            offset=128 + first * size,
            beats=count * isa.slot_beats(TINY),
            destination=destination,
        )
        end = descriptor(isa.TRANSFER, opcode=Opcode.END)
        image = b"".join(w.to_bytes(isa.DESCRIPTOR_BYTES, "little") for w in (word, end)) + stored
        emulator.run(image, b"", 0)
    assert None not in emulator.slots[:3] and set(map(id, emulator.slots[3:])) == {id(None)}
    assert emulator.slots[1] == emulator.slots[2] != emulator.slots[0]
