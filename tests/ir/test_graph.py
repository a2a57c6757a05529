# SPDX-License-Identifier: Apache-2.0
"""The graph file: what is saved is loaded, and everything else is refused with one clear line."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import golden
from ir.graph import GraphError, Header, IntGraph, LayerArrays
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import (
    edited,
    random_graph,
    random_images,
    random_tokens,
    residual_graph,
    sequence_graph,
    sequence_host,
)


@pytest.fixture
def graph(seed) -> IntGraph:
    return residual_graph(seed, channels=4, size=4)


@pytest.fixture
def path(graph, tmp_path):
    graph.save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def refused(path) -> str:
    """The message with which ``path`` is refused, which must be one line that names the file."""
    with pytest.raises(GraphError) as error:
        IntGraph.load(path)
    message = str(error.value)
    assert "\n" not in message and path.name in message
    return message


# Files


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_save_and_load(tmp_path_factory, number):
    rng = np.random.default_rng(number)
    graph = random_graph(rng)
    path = tmp_path_factory.mktemp("graph") / "net.safetensors"
    graph.save(path)
    again = IntGraph.load(path)
    assert again.digest == graph.digest
    assert again.header == graph.header
    assert again.layers.keys() == graph.layers.keys()
    for name, layer in graph.layers.items():
        for field in dataclasses.fields(LayerArrays):
            one, two = (getattr(arrays, field.name) for arrays in (layer, again.layers[name]))
            assert one.dtype == two.dtype and np.array_equal(one, two)
    images = random_images(graph, rng)
    assert np.array_equal(golden.logits(again, images), golden.logits(graph, images))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_save_and_load_with_host_nodes(tmp_path, seed):
    graph = sequence_graph(seed)
    graph.save(tmp_path / "net")
    again = IntGraph.load(tmp_path / "net")
    assert again.header == graph.header and again.digest == graph.digest
    inputs = random_tokens(graph, np.random.default_rng(seed), 2)
    assert np.array_equal(
        golden.logits(again, inputs, sequence_host), golden.logits(graph, inputs, sequence_host)
    )


def test_four_bit_rows_take_half_a_byte_per_weight(seed):
    build = GraphBuilder(np.random.default_rng(seed), (5, 1, 1), ratio="50:50:0", tile_rows=2)
    build.linear(INPUT, 4)
    assert build.layers["linear0"].pack()["codes"].shape == (4 * 3,)


def test_digest_follows_every_value(graph):
    name, layer = next(iter(graph.layers.items()))
    digests = {graph.digest}
    for field in ("multiplier", "bias", "shift"):
        array = getattr(layer, field).copy()
        array[0] += 1
        digests.add(
            IntGraph(
                graph.header, graph.layers | {name: dataclasses.replace(layer, **{field: array})}
            ).digest
        )
    values = layer.values.copy()
    values.flat[0] *= -1
    digests.add(
        IntGraph(
            graph.header, graph.layers | {name: dataclasses.replace(layer, values=values)}
        ).digest
    )
    digests.add(edited(graph, name="other").digest)
    assert len(digests) == 5 + bool(layer.values.flat[0])


def test_truncated_file(path):
    content = path.read_bytes()
    for length in {*range(0, 40), *range(40, len(content), 61), len(content) - 1}:
        path.write_bytes(content[:length])
        assert "is not a complete graph file" in refused(path)
    path.write_bytes(content + b"\0")
    assert "is not a complete graph file" in refused(path)


def test_a_flipped_byte_anywhere(tmp_path, seed):
    """One random bit of every byte; all bits of every fifth."""
    path = tmp_path / "net"
    build = GraphBuilder(np.random.default_rng(seed), (3, 3, 3))
    build.conv(INPUT, 4)
    build.build().save(path)
    content = path.read_bytes()
    bits = np.random.default_rng(seed).integers(0, 8, len(content))
    for at, bit in enumerate(bits.tolist()):
        for mask in (1 << bit, 0xFF) if at % 5 == 0 else (1 << bit,):
            damaged = bytearray(content)
            damaged[at] ^= mask
            path.write_bytes(damaged)
            refused(path)


def rewrite(path, change=None, **metadata) -> None:
    """Save the file again with its JSON changed as an editor would do it."""
    with safetensors.safe_open(path, framework="numpy") as file:
        old = file.metadata()
        keys = file.keys()
        stored = {key: file.get_tensor(key) for key in keys}
    if change is not None:
        content = json.loads(old["graph"])
        change(content)
        old["graph"] = json.dumps(content, separators=(",", ":"))
    safetensors.numpy.save_file(stored, path, metadata=old | metadata)


def test_hand_edited_header(path):
    rewrite(path, lambda content: content["tensors"][0].update(scale=0.5))
    assert "does not match its digest" in refused(path)


def test_edits_that_mean_the_same_are_edits(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        text = file.metadata()["graph"]
    rewrite(path, graph=text.replace('"stride":[1,1]', '"stride":[1, 1]'))
    assert "does not match its digest" in refused(path)


def test_digest_missing_or_wrong(path):
    rewrite(path, digest="0" * 64)
    assert "does not match its digest: the file was damaged or edited; export it" in refused(path)


def test_wrong_version(path):
    rewrite(path, lambda content: content.update(version=1))
    assert refused(path).endswith(
        "has graph version 1, this software reads version 3; export it again"
    )


def test_wrong_format(path):
    rewrite(path, lambda content: content.update(format="onnx"))
    assert refused(path).endswith("is not an rmsmp-intgraph file")


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "3"])
def test_no_graph_in_the_header(path, text):
    rewrite(path, graph=text)
    assert "has no graph in its header" in refused(path)


def test_other_safetensors_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    assert "has no graph in its header" in refused(path)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda c: c.pop("nodes"), "nodes: Field required"),
        (lambda c: c["tensors"][0].update(bits=5), "tensors.0.bits: Input should be 4 or 8"),
        (
            lambda c: c["tensors"][0].update(scale=0),
            "tensors.0.scale: Input should be greater than 0",
        ),
        (
            lambda c: c["tensors"][0].update(scale=float("inf")),
            "tensors.0.scale: Input should be a finite number",
        ),
        (lambda c: c["nodes"][0].update(op="softmax"), "nodes.0: Input tag 'softmax' found"),
        (lambda c: c["nodes"][0].update(kernel=[3]), "nodes.0.conv.kernel.1: Field required"),
        (lambda c: c.update(tile_rows=0), "tile_rows: Input should be greater than 0"),
        (lambda c: c.update(outputs=[]), "outputs: Tuple should have at least 1 item"),
        (
            lambda c: c["nodes"][7].update(bias=1 << 46),
            "nodes.7.avg_pool.bias: Input should be less",
        ),
        (
            lambda c: c["nodes"][7].update(shift=13),
            "nodes.7.avg_pool.shift: Input should be greater",
        ),
    ],
)
def test_field_errors_name_the_field(path, change, place):
    rewrite(path, change)
    assert f"graph field {place}" in refused(path)


def forge(path, header: Header, stored: dict) -> None:
    """A file with a right digest and wrong contents."""
    from ir.graph import _digest

    safetensors.numpy.save_file(
        stored,
        path,
        metadata={"graph": header.model_dump_json(), "digest": _digest(header, stored)},
    )


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("codes", lambda a: a[:-1], "codes end early"),
        ("codes", lambda a: np.append(a, a[:1]), "codes are too long"),
        ("codes", lambda a: np.full_like(a, 0x88), "not a POT4 weight code"),
        ("scheme", lambda a: a[:-1], "shape and scheme table disagree"),
        ("scheme", lambda a: a + 7, "7 is not a valid Scheme"),
        ("shape", lambda a: a * 0, "shape and scheme table disagree"),
    ],
)
def test_weights_are_damaged(tmp_path, key, change, message, seed):
    build = GraphBuilder(np.random.default_rng(seed), (4, 1, 1), ratio="100:0:0")
    build.linear(INPUT, 2)
    graph = build.build()
    stored = {f"linear0.{name}": array for name, array in graph.layers["linear0"].pack().items()}
    stored[f"linear0.{key}"] = change(stored[f"linear0.{key}"])
    forge(tmp_path / "net", graph.header, stored)
    assert f"weights are damaged: {message}" in refused(tmp_path / "net")


@pytest.mark.parametrize("stray", ["stray", "linear0.codes.more"])
def test_stray_or_missing_array(tmp_path, stray, seed):
    build = GraphBuilder(np.random.default_rng(seed), (4, 1, 1))
    build.linear(INPUT, 2)
    graph = build.build()
    stored = {f"linear0.{name}": array for name, array in graph.layers["linear0"].pack().items()}
    forge(tmp_path / "net", graph.header, stored | {stray: np.zeros(1)})
    assert "weights are damaged" in refused(tmp_path / "net")


def test_missing_file(tmp_path):
    assert refused(tmp_path / "none").startswith("no graph file at ")
    assert "is a folder without graph.safetensors" in refused(tmp_path)


def test_failed_save_keeps_the_old_file(graph, path, tmp_path, monkeypatch):
    with pytest.raises(GraphError, match=r"^cannot write .*missing"):
        graph.save(tmp_path / "missing" / "net")

    def full_disk(stored, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", full_disk)
    with pytest.raises(GraphError, match=r"^cannot write .*: no space left$"):
        edited(graph, name="other").save(path)
    assert IntGraph.load(path).digest == graph.digest
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
