# SPDX-License-Identifier: Apache-2.0
"""The examples that documentation points at do what it says."""

import numpy as np

from examples import own_model
from gateware.arch.config import AccelConfig
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.ratio import Ratio


def test_own_model_is_exported_and_runs_on_the_accelerator(capsys) -> None:
    graph, vectors = own_model.main()
    np.testing.assert_array_equal(vectors.logits, golden.logits(graph, vectors.images))
    assert "integers decide as the trained network on" in capsys.readouterr().out
    assert [n.op for n in graph.nodes] == [
        "conv",
        "max_pool",
        "conv",
        "avg_pool",
        "flatten",
        "linear",
    ]
    config = AccelConfig.from_ratio(Ratio.parse(graph.header.ratio), graph.header.tile_rows)
    program = compile_graph(graph, config)
    image = np.random.default_rng(1).integers(256, size=(3, 16, 16))
    memory = Emulator(config).run(program.image, program.pack(image), program.output_size)
    logits = program.outputs[0].read(memory)
    np.testing.assert_array_equal(logits.reshape(-1), golden.logits(graph, image[None])[0])
