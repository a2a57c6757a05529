# SPDX-License-Identifier: Apache-2.0
"""Tables of activation functions: programs equal the golden model, in order and in time.

Mirrors no module: tables go through all of this package.
"""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode, descriptors
from gateware.compiler.operations import CompileError
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator, EmulatorError
from gateware.model.estimate import cycles
from ir import golden
from ir.ratio import Ratio
from tests.helpers.builder import GraphBuilder
from tests.helpers.graphs import random_images
from tests.helpers.table_graphs import product_graph, table_graph

CONFIGS = {
    "R4 Q2 bus32": AccelConfig(
        pot4_rows=2, fixed4_rows=1, fixed8_rows=1, requant_lanes=2, bus_bits=32, tables=True
    ),
    "R16 Q8 bus64 2 ports": AccelConfig.from_ratio(Ratio(65, 30, 5), 16, ports=2, tables=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("make", [table_graph, product_graph])
@pytest.mark.parametrize("number", range(4))
def test_programs_equal_the_golden_model(seed, number, make, config) -> None:
    rng = np.random.default_rng([seed, number])
    graph = make(rng)
    images = random_images(graph, rng, 2)
    program = compile_graph(graph, config, dump=True)
    emulator = Emulator(config)
    used = {d.fields["product"] for d in descriptors(program.image) if d.opcode is Opcode.EXECUTE}
    assert (1 in used) == (make is product_graph)
    reference = golden.run(graph, images)
    for index, image in enumerate(images):
        memory = emulator.run(program.image, program.pack(image), program.output_size)
        for name, found in program.read(memory)[0].items():
            np.testing.assert_array_equal(found, reference[name][index], name)


def test_a_table_is_loaded_once_for_all_tiles(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (4, 5, 5))
    build.linear(build.avg_pool(build.conv("image", 60, table=True)), 3, wide=True)
    program = compile_graph(build.build(), CONFIGS["R16 Q8 bus64 2 ports"])
    found = [d for d in descriptors(program.image) if d.opcode is Opcode.LOAD_TABLE]
    assert [d.fields["beats"] for d in found] == [256]
    using = [d.fields["table"] for d in descriptors(program.image) if d.opcode is Opcode.EXECUTE]
    assert using == sorted(using, reverse=True) and 4 <= sum(using) < len(using)
    assert all(count > 0 for count in cycles(program).values())


def test_an_array_without_tables_is_refused_in_a_line(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (4, 5, 5))
    build.linear(build.avg_pool(build.conv("image", 6, table=True)), 3, wide=True)
    graph, config = build.build(), CONFIGS["R4 Q2 bus32"]
    without = dataclasses.replace(config, tables=False)
    with pytest.raises(CompileError, match=r"layer 'conv0' needs a table .* AccelConfig\(tables"):
        compile_graph(graph, without)
    build = GraphBuilder(np.random.default_rng(seed), (4, 5, 5))
    x = build.conv("image", 6)
    build.mul(x, build.avg_pool(x), table=False)
    with pytest.raises(CompileError, match=r"layer 'mul2' needs products, and the array has none"):
        compile_graph(build.build(), without)
    program = compile_graph(graph, config)
    other = Emulator(dataclasses.replace(config, tables=False))
    with pytest.raises(EmulatorError, match="opcode 8"):
        other.run(program.image, program.pack(np.zeros((4, 5, 5), np.int64)), program.output_size)


def test_an_array_without_tables_is_known_as_before() -> None:
    config = dataclasses.replace(CONFIGS["R4 Q2 bus32"], tables=False)
    assert "tables" not in config.to_json()
    assert AccelConfig.from_json(config.to_json()) == config
    with_tables = CONFIGS["R4 Q2 bus32"]
    assert AccelConfig.from_json(with_tables.to_json()) == with_tables
