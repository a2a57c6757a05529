# SPDX-License-Identifier: Apache-2.0
"""Choice of what a simulation reads: test vectors of training, of the build, or random codes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gateware.flow.manifest import GOLDEN
from ir import golden
from ir.graph import GRAPH, GraphError, IntGraph, TensorSpec, graph_file
from ir.vectors import Vectors, beside

PYTORCH = "PyTorch's integers"
GOLDEN_MODEL = "the golden model's"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of a network with the logits that they must give.

    Parameters
    ----------
    images : np.ndarray
        Integers (N, C, H, W).
    logits : np.ndarray
        Int64 (N, classes).
    outputs : mapping of str to np.ndarray
        Other tensors that the network gives, int64 (N, C, H, W), by name.
    origin : str
        Where they come from, for people.
    reference : str
        Whose the logits are: :data:`PYTORCH` or :data:`GOLDEN_MODEL`.
    """

    images: np.ndarray
    logits: np.ndarray
    origin: str
    reference: str
    _: dataclasses.KW_ONLY
    outputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """Inputs of the layers of a hybrid network.

    Parameters
    ----------
    codes : mapping of str to np.ndarray
        By tensor, the integers (N, C, H, W) that training left; layers without read random ones.
    count : int
        Most inputs of a layer.
    origin, reference : str
        As in :class:`Inputs`.
    """

    codes: Mapping[str, np.ndarray]
    count: int
    origin: str
    reference: str


def load_graph(build: Path, path: Path | None) -> tuple[IntGraph, Path]:
    """Network of a build, or that of ``path``, and where its file lies. Raises GraphError."""
    if path is None:
        path = build / GRAPH
        if not path.is_file():
            raise GraphError(
                f"no network in {build}: run python -m gateware.build --graph FILE first"
            )
    path = graph_file(path)
    return IntGraph.load(path), path


def find_vectors(build: Path, graph: IntGraph, graph_path: Path) -> tuple[Vectors, Path] | None:
    """Test vectors beside the graph, else those that the build carries, and their file.

    Raises VectorsError for damaged ones, and those of another network.
    """
    for path in (beside(graph_path), beside(build / GRAPH)):
        if path.exists():
            return Vectors.load(path, graph), path
    return None


def choose(build: Path, graph: IntGraph, graph_path: Path, count: int, seed: int) -> Inputs:
    """Inputs of a network that has an input tensor, at most ``count``, the best there are.

    Test vectors, else the golden images of the driver, else random codes. Raises VectorsError.
    """
    found = find_vectors(build, graph, graph_path)
    if found is not None:
        vectors, path = found[0].head(count), found[1]
        return Inputs(vectors.images, vectors.logits, str(path), PYTORCH, outputs=vectors.outputs)
    path = build / GOLDEN
    if path.exists():
        vectors = Vectors.load(path, graph).head(count)
        return Inputs(
            vectors.images, vectors.logits, str(path), GOLDEN_MODEL, outputs=vectors.outputs
        )
    assert graph.header.input is not None
    images = random_codes(graph.tensor(graph.header.input), count, np.random.default_rng(seed))
    tensors = golden.run(graph, images)
    logits = tensors[graph.output.name].reshape(count, -1)
    others = {name: tensors[name] for name in graph.header.output_tensors[1:]}
    return Inputs(images, logits, f"random, seed {seed}", GOLDEN_MODEL, outputs=others)


def choose_codes(
    build: Path, graph: IntGraph, graph_path: Path, count: int, seed: int
) -> LayerInputs:
    """Inputs of the layers of a hybrid network, at most ``count``: those of training, or random.

    Raises VectorsError.
    """
    found = find_vectors(build, graph, graph_path)
    if found is not None and found[0].codes:
        return LayerInputs(found[0].codes, count, str(found[1]), PYTORCH)
    return LayerInputs({}, count, f"random, seed {seed}", GOLDEN_MODEL)


def random_codes(spec: TensorSpec, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random codes, int64 (count, C, H, W), uniform over the range of the tensor."""
    return rng.integers(0, 1 << spec.bits, (count, *spec.shape))
