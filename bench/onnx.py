# SPDX-License-Identifier: Apache-2.0
"""Integer graphs as ONNX models: equality of onnxruntime with the golden model, and times.

python -m bench.onnx                    three networks, 100 images; prints the page of results
python -m bench.onnx resnet20 --images 10
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from torch import nn

import rmsmp
from bench.zoo import warm_norms
from examples.detector.network import Detector
from ir import cli, golden
from ir.graph import IntGraph
from quant.models import build
from quant.onnx import check, write

#: Networks by name, with the shape of their images.
NETWORKS = {
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "detector": (1, 48, 48),
}
HEADS = ("network", "layers", "operators", "bytes", "images", "equal elements", "golden", "ORT")


def graph_of(name: str, folder: Path) -> IntGraph:
    """Integer graph of a network with random weights, quantised on random images."""
    shape = NETWORKS[name]
    torch.manual_seed(1)
    model = Detector() if name == "detector" else build(name, shape=shape, classes=10)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.05)
    images = torch.rand(64, *shape)
    warm_norms(model, images)
    return rmsmp.export(rmsmp.quantise(model.eval(), images), folder / f"{name}.safetensors")


def measure(name: str, count: int) -> list[object]:
    """Cells of a line; raises :class:`quant.onnx.check.Mismatch`."""
    with TemporaryDirectory() as folder:
        graph = graph_of(name, Path(folder))
    codes = np.random.default_rng(2).integers(0, 256, (count, *graph.input.shape), np.uint8)
    model = write.onnx_model(graph)
    elements = check.compare(graph, codes)
    began = time.monotonic()
    golden.run(graph, codes)
    middle = time.monotonic()
    check.run(model, codes)
    seconds = middle - began, time.monotonic() - middle
    sizes = len(graph.layers), len(model.graph.node), f"{model.ByteSize():,}"
    return [name, *sizes, count, f"{elements:,}", *(f"{s:.1f} s" for s in seconds)]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; 1 where integers differ."""
    p = cli.Parser(prog="python -m bench.onnx", description=__doc__)
    p.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    p.add_argument("--images", type=cli.whole(1), default=100, metavar="N", help="(default: 100)")
    args = p.parse_args(argv)
    if unknown := set(args.networks) - set(NETWORKS):
        raise cli.UserError(f"unknown network {min(unknown)!r}; known are {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    rows: list[Sequence[object]] = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)]]
    try:
        for name in args.networks or NETWORKS:
            rows.append(measure(name, args.images))
            cli.say(f"{name}: equal")
    except check.Mismatch as error:
        cli.say(f"error: {error}")
        return 1
    cli.give(f"onnxruntime {onnxruntime.__version__}, one thread\n")
    for row in rows:
        cli.give(f"| {' | '.join(map(str, row))} |")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
