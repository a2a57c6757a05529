# SPDX-License-Identifier: Apache-2.0
"""Test vectors beside a graph: stored exactly, tied to it by its digest, refused when damaged."""

from pathlib import Path

import numpy as np
import pytest

from ir import golden, vectors
from ir.graph import IntGraph
from ir.vectors import Vectors, VectorsError
from tests.helpers.graphs import (
    random_images,
    random_tokens,
    residual_graph,
    sequence_graph,
    sequence_host,
)


def of_images(seed: int, count: int = 5) -> tuple[IntGraph, Vectors]:
    graph, rng = residual_graph(seed, channels=4, size=4), np.random.default_rng(seed)
    images = random_images(graph, rng, count).astype(np.uint8)
    logits = golden.logits(graph, images)
    return graph, Vectors.of(
        graph, images, logits, labels=logits.argmax(1), accuracies={"integer": 1.0}
    )


def of_tokens(seed: int) -> tuple[IntGraph, Vectors]:
    graph = sequence_graph(seed)
    tokens = random_tokens(graph, np.random.default_rng(seed), 4)
    some = golden.run(graph, tuple(array[:2] for array in tokens), sequence_host)
    codes = {
        name: some[name].astype(np.uint8)
        for node in graph.nodes
        for name in getattr(node, "outputs", ())
    }
    logits = golden.logits(graph, tokens, sequence_host)
    return graph, Vectors.of(graph, tokens, logits, codes=codes)


def assert_equal(got: Vectors, expected: Vectors) -> None:
    for field in ("inputs", "codes"):
        a, b = getattr(got, field), getattr(expected, field)
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(got.logits, expected.logits)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert got.accuracies == expected.accuracies and got.graph_digest == expected.graph_digest


@pytest.mark.parametrize("make", [of_images, of_tokens])
def test_saved_vectors_are_loaded(make, tmp_path: Path, seed: int) -> None:
    graph, saved = make(seed)
    path = tmp_path / "vectors.npz"
    saved.save(path)
    before = path.read_bytes()
    assert_equal(Vectors.load(path, graph), saved)
    saved.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.npz"]


def test_tensors_that_come_to_the_accelerator(seed: int) -> None:
    graph, some = of_images(seed)
    assert {name: array.shape for name, array in some.read(graph).items()} == {
        graph.header.input: (5, 3, 4, 4)
    }
    graph, some = of_tokens(seed)
    reads = {node.input for node in graph.nodes if node.op != "host"}
    assert set(some.read(graph)) == reads


def test_head(seed: int) -> None:
    _, some = of_images(seed)
    assert len(some) == 5 and len(some.head(2)) == 2 and len(some.head(9)) == 5
    np.testing.assert_array_equal(some.head(2).images, some.images[:2])
    np.testing.assert_array_equal(some.head(2).labels, some.labels[:2])


@pytest.mark.parametrize(
    ("graph", "file"),
    [
        ("runs/a/graph.safetensors", "runs/a/vectors.npz"),
        ("own.safetensors", "own.vectors.npz"),
        ("there/x.y.safetensors", "there/x.y.vectors.npz"),
        ("plain", "plain.vectors.npz"),
    ],
)
def test_place_beside_the_graph(graph: str, file: str) -> None:
    assert vectors.beside(graph) == Path(file)


def test_vectors_of_another_graph_are_refused(tmp_path: Path, seed: int) -> None:
    graph, some = of_images(seed)
    other, path = residual_graph(seed + 1, channels=4, size=4), tmp_path / "own.safetensors"
    assert vectors.find(path, graph) is None
    some.save(vectors.beside(path))
    assert_equal(vectors.find(path, graph), some)
    with pytest.raises(VectorsError) as error:
        vectors.find(path, other)
    assert str(error.value) == (
        f"{tmp_path / 'own.vectors.npz'} belongs to another network ({graph.digest[:16]}) than "
        f"the graph ({other.digest[:16]}): take both files from one training"
    )


def test_vectors_of_an_older_release_say_what_to_do(tmp_path: Path, seed: int) -> None:
    graph, some = of_images(seed)
    path = tmp_path / "vectors.npz"
    np.savez_compressed(path, images=some.images, logits=some.logits)
    with pytest.raises(VectorsError, match=r"which network .* run python -m quant.train again"):
        Vectors.load(path, graph)


def test_wrong_content_is_refused(tmp_path: Path, seed: int) -> None:
    graph, some = of_images(seed)
    images, logits = some.images, some.logits
    for inputs, results, more, message in (
        (images[:4], logits, {}, r"images must have the shape \(5, 3, 4, 4\), not \(4,"),
        (images[:, :2], logits, {}, r"images must have the shape \(5, 3, 4, 4\), not \(5, 2"),
        (images / 255, logits, {}, "images must be integers, not float64"),
        (images.astype(int) + 256, logits, {}, r"images must lie in 0\.\.255"),
        (images, logits[:, :3], {}, r"logits must have the shape \(5, 10\), not \(5, 3\)"),
        (images, logits.astype(float), {}, "logits must be integers"),
        (images, logits, {"labels": np.zeros(4, int)}, r"labels must have the shape \(5,\)"),
        (images, logits, {"codes": {"conv0": images}}, "no layer reads 'conv0' from the host"),
        ((images, images), logits, {}, r"1 inputs are needed \(images\)"),
    ):
        with pytest.raises(VectorsError, match=message):
            Vectors.of(graph, inputs, results, **more)
    path = tmp_path / "vectors.npz"
    np.savez(path, images=images[:2], logits=logits, graph_digest=np.array(graph.digest))
    with pytest.raises(VectorsError, match=r"vectors.npz is damaged: images must have the shape"):
        Vectors.load(path, graph)


def test_codes_are_those_of_their_tensors(seed: int) -> None:
    graph, some = of_tokens(seed)
    name, array = next(iter(some.codes.items()))
    with pytest.raises(VectorsError, match=f"{name} must have the shape"):
        Vectors.of(graph, tuple(some.inputs.values()), some.logits, codes={name: array[:, 1:]})


def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, seed: int) -> None:
    """Truncated and edited anywhere; an edit of what nobody reads, such as a time, may pass."""
    graph, some = of_images(seed, count=1)
    path = tmp_path / "vectors.npz"
    some.save(path)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(seed), 0
    damaged = [whole[:size] for size in range(0, len(whole), 97)]
    for at in range(0, len(whole), 5):
        edited = bytearray(whole)
        edited[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(edited))
    for content in damaged:
        path.write_bytes(content)
        try:
            assert_equal(Vectors.load(path, graph), some)
        except VectorsError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused > len(damaged) // 2
    np.save(path.with_suffix(".npy"), some.images)
    with pytest.raises(VectorsError, match="is damaged"):
        Vectors.load(path.with_suffix(".npy"), graph)
    with pytest.raises(VectorsError, match=r"^cannot read .*: Is a directory$"):
        Vectors.load(tmp_path, graph)


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path, seed: int) -> None:
    graph, some = of_images(seed)
    path = tmp_path / "vectors.npz"
    some.save(path)
    (tmp_path / "vectors.npz.partial").mkdir()
    with pytest.raises(OSError):
        some.head(1).save(path)
    assert len(Vectors.load(path, graph)) == len(some)
