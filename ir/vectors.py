# SPDX-License-Identifier: Apache-2.0
"""Test vectors of an integer graph: inputs, the logits they must give, what layers read between.

They lie beside the graph (:func:`beside`) as one ``.npz`` file, written by training and read by
build and simulation. The file carries the graph's digest, so that vectors of one network are never
held against another.
"""

import dataclasses
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ir import numerics
from ir.graph import Host, IntGraph, TensorSpec
from ir.numerics import act_max

__all__ = ["Vectors", "VectorsError", "beside", "find"]

GRAPH_SUFFIX = ".safetensors"
IMAGES = "images"  #: key of the input of a graph that has an input tensor
DIGEST = "graph_digest"
OUTPUT = "output."  #: key of an output but the first, before the name of the tensor
CODES = "codes."  #: key of codes, before the name of the tensor
ACCURACY = "accuracy_"  #: key of an accuracy, before its kind
RESERVED = (DIGEST, "logits", "labels")
#: What zipfile and numpy raise for a damaged file.
DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,  # an .npy file, which holds one array
    MemoryError,  # an array that claims more elements than there are
    OverflowError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
REMEDY = "run python -m quant.train again, or remove it"


class VectorsError(ValueError):
    """Error of damaged vectors, or those of another graph; one line with the remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Test vectors of one graph; :meth:`of` makes and checks them.

    Parameters
    ----------
    graph_digest : str
        Digest of the graph, :attr:`ir.graph.IntGraph.digest`.
    inputs : mapping of str to np.ndarray
        By name, N first: ``images`` (N, C, H, W), integers in the range of the graph's input; of a
        hybrid graph the arrays of its host inputs.
    logits : np.ndarray
        Int64 (N, classes), the first output, which every implementation must reproduce.
    outputs : mapping of str to np.ndarray
        Of a graph that gives several tensors: the others, int64 (N, C, H, W), by name.
    labels : np.ndarray, optional
        Int64 (N,), the right classes.
    codes : mapping of str to np.ndarray
        Of a hybrid graph: by tensor, the integers (M, C, H, W) that its layers read in the first M
        of the inputs.
    accuracies : mapping of str to float
        By kind, of the whole test set: 0..1.
    """

    graph_digest: str
    inputs: Mapping[str, np.ndarray]
    logits: np.ndarray
    labels: np.ndarray | None = None
    outputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    codes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    accuracies: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        graph: IntGraph,
        inputs: np.ndarray | tuple[np.ndarray, ...],
        logits: np.ndarray,
        *,
        outputs: Mapping[str, np.ndarray] | None = None,
        labels: np.ndarray | None = None,
        codes: Mapping[str, np.ndarray] | None = None,
        accuracies: Mapping[str, float] | None = None,
    ) -> Self:
        """Vectors of ``graph`` for ``inputs`` as :func:`ir.golden.run` takes them.

        Raises VectorsError where shapes, types or ranges are not those of the graph.
        """
        names = graph.header.host_inputs or (IMAGES,)
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(arrays) != len(names):
            raise VectorsError(f"{len(names)} inputs are needed ({', '.join(names)})")
        if not graph.header.host_inputs and arrays[0].ndim in (2, 3):  # vectors or lines
            (flat,) = arrays
            arrays = (flat.reshape(len(flat), *numerics.map_shape(flat.shape[1:])),)
        vectors = cls(
            graph_digest=graph.digest,
            inputs=dict(zip(names, arrays, strict=True)),
            logits=logits,
            outputs=outputs or {},
            labels=labels,
            codes=codes or {},
            accuracies=accuracies or {},
        )
        vectors.check(graph)
        return vectors

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def images(self) -> np.ndarray:
        """Images (N, C, H, W) of a graph with an input tensor; raises KeyError for others."""
        return self.inputs[IMAGES]

    def read(self, graph: IntGraph) -> dict[str, np.ndarray]:
        """Integers (N, C, H, W) that come to the accelerator, by tensor of ``graph``."""
        if graph.header.input is not None:
            return {graph.header.input: self.images}
        return dict(self.codes)

    def head(self, count: int) -> Self:
        """First ``count`` inputs with what belongs to them."""
        return dataclasses.replace(
            self,
            inputs={name: array[:count] for name, array in self.inputs.items()},
            logits=self.logits[:count],
            outputs={name: array[:count] for name, array in self.outputs.items()},
            labels=None if self.labels is None else self.labels[:count],
            codes={name: array[:count] for name, array in self.codes.items()},
        )

    def check(self, graph: IntGraph) -> None:
        """Check of digest, names, shapes and ranges against ``graph``; raises VectorsError."""
        if self.graph_digest != graph.digest:
            raise VectorsError(
                f"they belong to network {self.graph_digest[:16]}, the graph is {graph.digest[:16]}"
            )
        header = graph.header
        names = header.host_inputs or (IMAGES,)
        if set(self.inputs) != set(names):
            raise VectorsError(f"inputs are {', '.join(self.inputs)} instead of {', '.join(names)}")
        count = next(iter(np.shape(self.logits)), 0)
        if not count:
            raise VectorsError("there are no inputs in them")
        for name, array in self.inputs.items():
            if name in RESERVED or name.startswith((OUTPUT, CODES, ACCURACY)):
                raise VectorsError(f"an input must not be called {name!r}")
            _check(name, array, (count, *np.shape(array)[1:]))
        _check("logits", self.logits, (count, int(np.prod(graph.output.shape))))
        others = header.output_tensors[1:]
        if set(self.outputs) != set(others):
            raise VectorsError(
                f"outputs are {', '.join(self.outputs) or 'missing'} instead of "
                f"{', '.join(others) or 'none'}"
            )
        for name, array in self.outputs.items():
            _check(name, array, (count, *graph.tensor(name).shape))
        if self.labels is not None:
            _check("labels", self.labels, (count,))
        if header.input is not None:
            _check_codes(IMAGES, self.images, graph.tensor(header.input))
        written = {name for n in graph.nodes if isinstance(n, Host) for name in n.outputs}
        for name, array in self.codes.items():
            if name not in written:
                raise VectorsError(f"no layer reads {name!r} from the host")
            _check_codes(name, array, graph.tensor(name))

    def save(self, path: pathlib.Path | str) -> None:
        """Export to ``path``; the old file stays until the new one is complete. Raises OSError.

        Equal vectors give equal bytes.
        """
        path = pathlib.Path(path)
        arrays: dict[str, Any] = {**self.inputs}
        arrays |= {CODES + name: array for name, array in self.codes.items()}
        if self.labels is not None:
            arrays["labels"] = self.labels
        arrays["logits"] = self.logits
        arrays |= {OUTPUT + name: array for name, array in self.outputs.items()}
        arrays |= {ACCURACY + kind: np.array(share) for kind, share in self.accuracies.items()}
        arrays[DIGEST] = np.array(self.graph_digest)
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: pathlib.Path | str, graph: IntGraph) -> Self:
        """Vectors in a file, checked against ``graph``; raises VectorsError for anything else."""
        path = pathlib.Path(path)
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                stored = {key: arrays[key] for key in arrays.files}
            if DIGEST not in stored:
                raise VectorsError(
                    f"{path} does not say which network it is of: an older release wrote it; "
                    f"{REMEDY}"
                )
            logits = stored.pop("logits")
        except VectorsError:
            raise
        except DAMAGE as error:
            if isinstance(error, OSError) and error.strerror:
                raise VectorsError(f"cannot read {path}: {error.strerror}") from error
            raise VectorsError(f"{path} is damaged ({error}); {REMEDY}") from error
        digest, labels = str(stored.pop(DIGEST)), stored.pop("labels", None)
        prefixes = (OUTPUT, CODES, ACCURACY)
        parts: dict[str, dict[str, np.ndarray]] = {prefix: {} for prefix in ("", *prefixes)}
        for key, array in stored.items():
            prefix = next((p for p in prefixes if key.startswith(p)), "")
            parts[prefix][key.removeprefix(prefix)] = array
        for kind, array in parts[ACCURACY].items():
            if array.shape or array.dtype.kind != "f" or not 0 <= array <= 1:
                raise VectorsError(f"{path} is damaged: accuracy {kind!r} is no share; {REMEDY}")
        vectors = cls(
            graph_digest=digest,
            inputs=parts[""],
            logits=logits,
            outputs=parts[OUTPUT],
            labels=labels,
            codes=parts[CODES],
            accuracies={kind: float(array) for kind, array in parts[ACCURACY].items()},
        )
        if digest != graph.digest:
            raise VectorsError(
                f"{path} belongs to another network ({digest[:16]}) than the graph "
                f"({graph.digest[:16]}): take both files from one training"
            )
        try:
            vectors.check(graph)
        except VectorsError as error:
            raise VectorsError(f"{path} is damaged: {error}; {REMEDY}") from error
        return vectors


def _check(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise VectorsError unless ``array`` holds integers in ``shape``."""
    if np.asarray(array).dtype.kind not in "iu":
        raise VectorsError(f"{name} must be integers, not {np.asarray(array).dtype}")
    if np.shape(array) != shape:
        raise VectorsError(f"{name} must have the shape {shape}, not {np.shape(array)}")


def _check_codes(name: str, array: np.ndarray, spec: TensorSpec) -> None:
    """Raise VectorsError unless ``array`` holds N tensors of ``spec``."""
    _check(name, array, (*np.shape(array)[:1], *spec.shape))
    if array.size and not 0 <= array.min() <= array.max() <= act_max(spec.bits):
        raise VectorsError(f"{name} must lie in 0..{act_max(spec.bits)}")


def beside(graph_path: pathlib.Path | str) -> pathlib.Path:
    """Path of the vectors of a graph file.

    It is ``vectors.npz`` beside ``graph.safetensors``, ``X.vectors.npz`` beside ``X.safetensors``.
    """
    path = pathlib.Path(graph_path)
    stem = path.name.removesuffix(GRAPH_SUFFIX)
    return path.with_name("vectors.npz" if stem == "graph" else f"{stem}.vectors.npz")


def find(graph_path: pathlib.Path | str, graph: IntGraph) -> Vectors | None:
    """Vectors beside a graph file, or None where there are none.

    Raises VectorsError for damaged ones, and those of another graph.
    """
    path = beside(graph_path)
    return Vectors.load(path, graph) if path.exists() else None
