# SPDX-License-Identifier: Apache-2.0
"""ONNX models of integer graphs compute the golden model's integers, in every operation."""

import json
import typing
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from ir import numerics
from ir.graph import GraphError, IntegerNode, IntGraph
from ir.numerics import Scheme
from quant.onnx import check, write
from tests.helpers import graphs, table_graphs
from tests.helpers.builder import INPUT, GraphBuilder

IMAGES = 3


def windows(rng: np.random.Generator) -> IntGraph:
    """Maxima and means of windows of any place, also of places that are not there."""
    build = GraphBuilder(rng, (3, 9, 7), bits=4, zero_point=int(rng.integers(16)))
    sides = ((9, 3), (7, 4))
    first = build.window_pool(INPUT, *(graphs.random_windows(rng, *side) for side in sides))
    means = (graphs.random_windows(rng, *side, mean=True) for side in sides)
    last = build.window_pool(INPUT, *means, mean=True, steps=int(rng.integers(1, 4)))
    return build.build(outputs=(last, first))


MAKERS: dict[str, Callable[[np.random.Generator], IntGraph]] = {
    "residual": lambda rng: graphs.residual_graph(int(rng.integers(100))),
    "random": lambda rng: graphs.random_graph(rng, 6),
    "gathers": lambda rng: graphs.random_gathers(rng, "50:25:25"),
    "blocks": lambda rng: graphs.random_blocks(rng, "50:25:25"),
    "border": graphs.bordered,
    "outputs": graphs.several_outputs,
    "tables": table_graphs.table_graph,
    "products": table_graphs.product_graph,
    "windows": windows,
}


@pytest.mark.parametrize("name", MAKERS)
def test_integers_are_those_of_the_golden_model(name: str, seed: int) -> None:
    for number in range(8):
        rng = np.random.default_rng([seed, number])
        graph = MAKERS[name](rng)
        onnx.checker.check_model(write.onnx_model(graph), full_check=True)
        assert check.compare(graph, graphs.random_images(graph, rng, IMAGES)) > 0


def test_every_operation_of_the_contract_is_compared(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = {type(node) for make in MAKERS.values() for node in make(rng).nodes}
    assert kinds == set(typing.get_args(IntegerNode))


def test_largest_products_do_not_saturate(seed: int) -> None:
    """Two of 255 * 127 are beyond 16 bits, where some processors end."""
    build = GraphBuilder(np.random.default_rng(seed), (16, 4, 4), bits=8, ratio="0:0:100")
    build.conv(INPUT, 16, 3, wide=True)
    for layer in build.layers.values():
        layer.values[:] = np.where(np.arange(16)[:, None, None, None] % 2, 127, -127)
    graph = build.build()
    codes = np.full((2, 16, 4, 4), 255)
    assert check.compare(graph, codes) > 0
    (total,) = check.run(write.onnx_model(graph), codes).values()
    assert abs(total).max() > 255 * 127 * 16 * 4


def test_metadata_has_the_scheme_of_every_row(seed: int) -> None:
    graph = graphs.residual_graph(seed)
    model = write.onnx_model(graph)
    content = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert content["rmsmp.digest"] == graph.digest
    assert content["rmsmp.ratio"] == graph.header.ratio
    for name, layer in graph.layers.items():
        assert content["rmsmp.schemes"][name] == [Scheme(s).name for s in layer.scheme]
    assert content["rmsmp.tensors"][graph.output.name]["scale"] == graph.output.scale


def test_operators_have_the_names_of_their_layers(seed: int) -> None:
    graph = graphs.residual_graph(seed)
    model = write.onnx_model(graph)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == {node.name for node in graph.nodes}
    known = {value.name for value in (*model.graph.output, *model.graph.value_info)}
    assert known == {spec.name for spec in graph.header.tensors} - {graph.header.input}


def test_weights_are_those_of_the_graph(seed: int) -> None:
    graph = graphs.residual_graph(seed)
    model = write.onnx_model(graph)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    for name, layer in graph.layers.items():
        stored = constants[f"{name}/ConvInteger/1"].astype(np.int64) - write.WEIGHT_ZERO
        assert np.array_equal(stored.ravel(), layer.values.ravel())
        for row, scheme in zip(stored.reshape(layer.rows.shape), layer.scheme, strict=True):
            assert np.isin(row, numerics.weight_values(Scheme(scheme))).all()


def test_names_of_tensors_are_not_taken(seed: int) -> None:
    graph = graphs.residual_graph(seed)
    (clash,) = (n.name for n in graph.nodes if n.op == "avg_pool")
    text = graph.header.model_dump_json().replace(f'"{clash}"', '"flatten7/Reshape"')
    renamed = IntGraph(type(graph.header).model_validate_json(text), graph.layers)
    rng = np.random.default_rng(seed)
    assert "flatten7/Reshape" in {spec.name for spec in renamed.header.tensors}
    assert check.compare(renamed, graphs.random_images(renamed, rng)) > 0


def test_float_operations_of_the_host_are_refused(seed: int) -> None:
    with pytest.raises(GraphError, match=r"node 'host0' of graph .* is the host's \(embedding\)"):
        write.onnx_model(graphs.sequence_graph(seed))


def test_equal_graphs_give_equal_files(seed: int, tmp_path) -> None:
    for name in ("a", "b"):
        write.save(write.onnx_model(graphs.residual_graph(seed)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
