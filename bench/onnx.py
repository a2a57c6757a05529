# SPDX-License-Identifier: Apache-2.0
"""Integer graphs as ONNX models: equality of onnxruntime with the golden model, and times.

python -m bench.onnx                    three networks, 100 images; prints the page of results
python -m bench.onnx resnet20 --images 10
python -m bench.onnx --read             networks of bench.networks, exported by PyTorch and read
"""

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

import rmsmp
from bench import networks
from bench.zoo import warm_norms
from examples.detector.network import Detector
from ir import cli, golden
from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering.dry_run import untrained_graph
from quant.lowering.prepare import prepare
from quant.models import build
from quant.onnx import check, write

#: Networks by name, with the shape of their images.
NETWORKS = {
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "detector": (1, 48, 48),
}
HEADS = ("network", "layers", "operators", "bytes", "images", "equal elements", "golden", "ORT")


#: Read in both forms that PyTorch exports, batch-norm folded and not.
FORMS = {
    "folded": {},
    "for training": {
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
    },
}
#: Left out: half a gigabyte of weights, and a shuffle that PyTorch's exporter does not have.
NOT_READ = ("vgg16", "shufflenet_v2")
SIDE = 64  #: pixels of the images of networks that are read
MIX = Ratio(65, 30, 5)


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


def read(name: str, options: dict[str, Any]) -> list[object]:
    """Cells of a line: largest difference of the network that is read to onnxruntime, and nodes
    of its integer graph beside those of the network's own."""
    torch.manual_seed(1)
    made = networks.NETWORKS[name]
    images = torch.rand(2, 3, SIDE, SIDE)
    model = made.make(SIDE)
    warm_norms(model, images)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter that needs no further package
        path = Path(folder) / f"{name}.onnx"
        torch.onnx.export(model.eval(), (images[:1],), path, dynamo=False, **options)
        file = onnx.load(path)
        module = rmsmp.from_onnx(path)
        found = module(images[:1])
        runner = check.session(file)
        given = runner.get_inputs()[0].name
        wanted = runner.run(None, {given: images[:1].numpy()})
    values = list(found.values()) if isinstance(found, dict) else [found]
    pairs = [(v.numpy(), np.asarray(w)) for v, w in zip(values, wanted, strict=True)]
    difference = max(float(abs(v - w).max()) for v, w in pairs)
    size = max(float(abs(w).max()) for _, w in pairs)
    kinds = {node.op_type for node in file.graph.node}
    nodes = [len(untrained_graph(prepare(m, images), images, MIX).nodes) for m in (module, model)]
    sizes = len(file.graph.node), len(kinds), f"{difference:.1e}", f"{size:.2g}"
    return [name, *sizes, " / ".join(map(str, nodes))]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; 1 where integers differ."""
    p = cli.Parser(prog="python -m bench.onnx", description=__doc__)
    p.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    p.add_argument("--images", type=cli.whole(1), default=100, metavar="N", help="(default: 100)")
    p.add_argument("--read", action="store_true", help="read networks instead of writing graphs")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    if args.read:
        return show_read(args.networks or [n for n in networks.NETWORKS if n not in NOT_READ])
    if unknown := set(args.networks) - set(NETWORKS):
        raise cli.UserError(f"unknown network {min(unknown)!r}; known are {', '.join(NETWORKS)}")
    rows: list[Sequence[object]] = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)]]
    try:
        for name in args.networks or NETWORKS:
            rows.append(measure(name, args.images))
            cli.say(f"{name}: equal")
    except check.Mismatch as error:
        cli.say(f"error: {error}")
        return 1
    give_table(rows)
    return 0


def show_read(names: Sequence[str]) -> int:
    """Exit code 0 after the table of networks that are read."""
    if unknown := set(names) - set(networks.NETWORKS):
        known = ", ".join(networks.NETWORKS)
        raise cli.UserError(f"unknown network {min(unknown)!r}; known are {known}")
    heads = (
        "network",
        "form",
        "operators",
        "kinds",
        "largest difference",
        "largest value",
        "nodes",
    )
    rows: list[Sequence[object]] = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for name in names:
        for form, options in FORMS.items():
            first, *rest = read(name, options)
            rows.append([first, form, *rest])
            cli.say(f"{name}, {form}: {rest}")
    give_table(rows)
    return 0


def give_table(rows: Sequence[Sequence[object]]) -> None:
    """Output of a table in Markdown."""
    cli.give(f"onnxruntime {onnxruntime.__version__}, one thread\n")
    for row in rows:
        cli.give(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    sys.exit(cli.run(main))
