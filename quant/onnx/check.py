# SPDX-License-Identifier: Apache-2.0
"""Comparison of ONNX models with the golden model, in every integer, by onnxruntime."""

import numpy as np
import onnx
import onnxruntime

from ir import golden
from ir.graph import IntGraph
from quant.onnx.write import onnx_model

SILENT = 3  #: severity of onnxruntime's messages from which on they are shown: errors


class Mismatch(Exception):
    """Error of integers of onnxruntime that are not the golden model's: a defect of ours."""


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Session of ``model`` on the CPU, with one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model: onnx.ModelProto, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of ``model`` by name, for integer inputs (N, C, H, W) of 0..255."""
    runner = session(model)
    (given,) = runner.get_inputs()
    names = [output.name for output in runner.get_outputs()]
    results = runner.run(names, {given.name: np.asarray(codes).astype(np.uint8)})
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def compare(graph: IntGraph, codes: np.ndarray) -> int:
    """Number of elements that onnxruntime and the golden model both computed for ``codes``.

    These are all elements of all tensors of the graph for the integer inputs (N, C, H, W), and its
    outputs once more by the model without the others. Raises :class:`Mismatch` at the first
    tensor that differs.
    """
    wanted, count = golden.run(graph, codes), 0
    for every in (True, False):
        for name, found in run(onnx_model(graph, every=every), codes).items():
            if found.shape != wanted[name].shape or (found != wanted[name]).any():
                raise Mismatch(
                    f"onnxruntime computes {name!r} otherwise than the golden model: "
                    f"{_first_difference(found, wanted[name])}"
                )
            count += found.size
    return count


def _first_difference(found: np.ndarray, wanted: np.ndarray) -> str:
    if found.shape != wanted.shape:
        return f"shape {found.shape}, not {wanted.shape}"
    place = tuple(int(i) for i in np.argwhere(found != wanted)[0])
    return f"{found[place]}, not {wanted[place]} at {place}"
