# SPDX-License-Identifier: Apache-2.0
"""Write an integer graph as an ONNX model of standard operators, for onnxruntime and Netron.

python -m quant.to_onnx runs/digits                    writes runs/digits/graph.onnx
python -m quant.to_onnx own.safetensors -o own.onnx

onnxruntime then computes some images, and every element of every tensor must be the golden model's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ir import cli, numerics, vectors
from ir.graph import GraphError, IntGraph, graph_file

IMAGES = 10  #: that onnxruntime computes unless told otherwise


def parser() -> cli.Parser:
    """Command line of ``python -m quant.to_onnx``."""
    p = cli.Parser(prog="python -m quant.to_onnx", description=__doc__)
    p.add_argument("graph", metavar="GRAPH", help="graph file, or folder or name of its run")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="model to write (default: the graph's name with .onnx)",
    )
    p.add_argument(
        "--images",
        type=cli.whole(0),
        default=IMAGES,
        metavar="N",
        help="images that onnxruntime and the golden model both compute: those beside the graph, "
        "or random ones where there are none (default: %(default)s)",
    )
    return p


def codes_for(path: Path, graph: IntGraph, count: int) -> tuple[np.ndarray, str]:
    """Integer images (N, C, H, W), at most ``count`` of those beside the graph, and their kind.

    Where there are none they are random. Raises VectorsError for damaged ones.
    """
    known = vectors.find(path, graph)
    if known is not None:
        return known.images[:count], "test images"
    spec = graph.input
    most = numerics.act_max(spec.bits)
    rng = np.random.default_rng(count)
    return rng.integers(0, most, (count, *spec.shape), endpoint=True), "random images"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: 1 where integers differ. Raises UserError."""
    args = parser().parse_args(argv)
    for package in ("onnx", "onnxruntime"):
        cli.require(package)
    from quant.onnx import check, write

    path = graph_file(args.graph)
    try:
        graph = IntGraph.load(path)
        model = write.onnx_model(graph)
        codes, kind = codes_for(path, graph, args.images)
    except (GraphError, vectors.VectorsError) as error:
        raise cli.UserError(str(error)) from error
    if len(codes):
        try:
            count = check.compare(graph, codes)
        except check.Mismatch as error:
            cli.say(f"error: {error}")
            return 1
        cli.give(
            f"onnxruntime's integers are the golden model's: {count:,} elements on {len(codes)} "
            f"{kind}"
        )
    output = args.output or path.with_suffix(".onnx")
    write.save(model, output)
    cli.give(f"{output}: {len(model.graph.node)} operators, {output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
