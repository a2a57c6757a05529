# SPDX-License-Identifier: Apache-2.0
"""What the tests of the accelerator's units share: small configurations and descriptors."""

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph
from ir.ratio import Ratio
from sim.formal.designs import CONFIG
from tests.helpers.graphs import random_graph, random_images

TINY = CONFIG  #: The smallest array with every scheme; k = 8.

#: Sixteen row lanes on a bus of 64 bits.
LARGE = AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=4, requant_lanes=8)

#: Four pixel lanes, eight banks.
WIDER = AccelConfig(
    pot4_rows=2,
    fixed4_rows=1,
    fixed8_rows=1,
    pixels=4,
    requant_lanes=4,
    bus_bits=32,
    act_depth=32,
    weight_depth=32,
    slot_depth=8,
    wide_depth=8,
)


def fields(layout, **given: int) -> dict[str, int]:
    """Every field of ``layout``: those ``given``, the others 0."""
    unknown = set(given) - {name for name, _ in layout}
    assert not unknown, unknown
    return {name: int(given.get(name, 0)) for name, _ in layout}


def descriptor(layout, **given: int) -> int:
    """Bits of a descriptor whose other fields are 0."""
    return isa.pack(layout, **fields(layout, **given))


def act_memory(place, tensor: np.ndarray, depth: int) -> np.ndarray:
    """Activation buffer (banks, depth, k) that holds ``tensor`` (C, H, W) at ``place`` and zeros.

    Word by word from the layout's definition: pixel x in bank ``x % banks``, a group of k channels
    after the other, the hi plane before the lo plane.
    """
    memory = np.zeros((place.banks, depth, place.k), np.int64)
    row_pitch = -(-place.width // place.banks)
    groups = -(-place.channels // place.k)
    for plane in range(place.bits // 4):
        shift = 4 * (place.bits // 4 - 1 - plane)
        for (c, y, x), value in np.ndenumerate(tensor):
            word = ((plane * groups + c // place.k) * place.height + y) * row_pitch
            address = (place.address + word + x // place.banks) % depth
            memory[x % place.banks, address, c % place.k] = int(value) >> shift & 15
    return memory


def random_program(
    rng: np.random.Generator, config: AccelConfig, **sizes: int
) -> tuple[IntGraph, Program]:
    """A random graph that ``config`` can run, and its program with every tensor dumped.

    Graphs are drawn until one has nothing that the compiler refuses: grouped convolutions, maxima
    of 8 bits, what does not fit.
    """
    for _ in range(100):
        graph = random_graph(rng, **sizes)
        try:
            return graph, compile_graph(graph, config, dump=True)
        except CompileError:
            pass
    raise AssertionError("hardly any random graph can be compiled")


def assert_golden(graph: IntGraph, program: Program, config: AccelConfig, seed: int) -> None:
    """The emulator's outputs of one random image are the golden model's tensors."""
    image = random_images(graph, np.random.default_rng(seed))
    memory = Emulator(config).run(program.image, program.pack(image[0]), program.output_size)
    reference = golden.run(graph, image)
    for output in program.outputs:
        np.testing.assert_array_equal(output.read(memory), reference[output.name][0], output.name)


def descriptors(program: Program) -> list[tuple[Opcode, dict[str, int]]]:
    return [(found.opcode, found.fields) for found in isa.descriptors(program.image)]


def executes(program: Program) -> list[dict[str, int]]:
    return [fields for opcode, fields in descriptors(program) if opcode == Opcode.EXECUTE]
