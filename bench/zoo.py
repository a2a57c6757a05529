# SPDX-License-Identifier: Apache-2.0
"""Take the large networks from random weights to a verified integer graph, at their full size.

python -m bench.zoo                            all, 32 images of 224x224; takes minutes
python -m bench.zoo resnet18 --images 4 --json
python -m bench.zoo resnet18 --images 1 --tile-rows 64 --save runs/zoo    a graph for gateware.build
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gateware.model.work import network_macs
from ir import cli
from ir.arrays import ExportError
from ir.graph import GraphError
from ir.ratio import Ratio
from ir.vectors import Vectors, beside
from quant.lowering import verify
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models import MODELS, build
from quant.nn.layers import quantised_layers

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
RATIO = Ratio.parse("65:30:5")
TILE_ROWS = 16
BATCH = 4  #: images at once; every tensor of the network is kept for each


def warm_norms(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of every batch-norm to those of ``images``, layer after layer."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta, training = [m.momentum for m in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average, here of one batch
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)


def bell_shaped(model: nn.Module) -> None:
    """Random weights of linear layers, bell-shaped like those of a trained classifier.

    Uniform ones, which PyTorch begins with, make the largest sums that engines know: more than 24
    bits of 2,048 terms.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)


def quantised(
    model: nn.Module,
    images: Tensor,
    classes: int,
    *,
    steps: int,
    generator: torch.Generator,
    tile_rows: int = TILE_ROWS,
    ratio: Ratio = RATIO,
) -> fx.GraphModule:
    """A network ready for export: prepared, calibrated, random schemes in the shares of ``ratio``,
    ``steps`` steps of training on random labels, scales aligned."""
    prepared = prepare(model, images[:2])
    calibrate(prepared, images)
    for layer in quantised_layers(prepared).values():
        counts = torch.tensor(ratio.rows(len(layer.weight), tile_rows))
        schemes = torch.arange(len(counts)).repeat_interleave(counts)
        layer.assign(schemes[torch.randperm(len(schemes), generator=generator)])
    optimiser = torch.optim.SGD(prepared.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.randint(classes, (len(images),), generator=generator)
    prepared.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(prepared(images), labels).backward()
        optimiser.step()
    align_scales(prepared)
    return prepared.eval()


def measure(
    name: str,
    size: int,
    images: int,
    steps: int,
    seed: int,
    tile_rows: int = TILE_ROWS,
    ratio: Ratio = RATIO,
    save: Path | None = None,
) -> dict[str, object]:
    """One row of the table; with ``save``, graph and images go to a folder of that name there.

    Raises Mismatch where the two integer models differ.

    Decisions of a network with random weights are ties, so its logits are held against those of
    fake quantisation by their correlation.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the digest depends on it
    generator = torch.Generator().manual_seed(seed)
    pixels = np.random.default_rng(seed).integers(256, size=(images, 3, size, size), dtype=np.uint8)
    warm = torch.from_numpy(pixels[: 2 * BATCH]).float() / 255
    model = build(name, shape=(3, size, size), classes=1000)
    bell_shaped(model)
    warm_norms(model, warm)
    model = quantised(
        model, warm, 1000, steps=steps, generator=generator, tile_rows=tile_rows, ratio=ratio
    )
    started = time.monotonic()
    graph = export(model, warm[:2], name=name, ratio=ratio, tile_rows=tile_rows)
    exported = time.monotonic()
    logits = verify.verify(graph, pixels, BATCH)
    verified = time.monotonic()
    if save is not None:
        folder = save / name
        folder.mkdir(parents=True, exist_ok=True)
        graph.save(folder / "graph.safetensors")
        Vectors.of(graph, pixels, logits).save(beside(folder / "graph.safetensors"))
    with torch.no_grad():
        fake = torch.cat(
            [
                model(torch.from_numpy(part).float() / 255)
                for part in np.array_split(pixels, math.ceil(images / BATCH))
            ]
        ).numpy()
    return {
        "model": name,
        "layers": len(graph.layers),
        "macs": network_macs(graph),
        "images_equal": len(logits),
        "correlation": round(float(np.corrcoef(fake.ravel(), logits.ravel())[0, 1]), 6),
        "export_seconds": round(exported - started, 1),
        "verify_seconds": round(verified - exported, 1),
        "digest": graph.digest,
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.zoo", description=__doc__)
    p.add_argument(
        "models",
        nargs="*",
        default=NETWORKS,
        metavar="MODEL",
        help=f"of {', '.join(MODELS)} (default: {', '.join(NETWORKS)})",
    )
    p.add_argument(
        "--images", type=int, default=32, metavar="N", help="images compared (default: %(default)s)"
    )
    p.add_argument("--size", type=int, default=224, metavar="PIXELS", help="(default: %(default)s)")
    p.add_argument(
        "--steps", type=int, default=1, metavar="N", help="steps of training (default: %(default)s)"
    )
    p.add_argument("--seed", type=int, default=1, metavar="N", help="(default: %(default)s)")
    p.add_argument(
        "--tile-rows",
        type=int,
        default=TILE_ROWS,
        metavar="N",
        help="rows per tile that the schemes are spread for (default: %(default)s)",
    )
    p.add_argument(
        "--ratio",
        default=str(RATIO),
        metavar="A:B:C",
        help="shares of PoT-4, Fixed-4 and Fixed-8 rows (default: %(default)s)",
    )
    p.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="keep each graph and its images in DIR/MODEL, for gateware.build",
    )
    p.add_argument("--json", action="store_true", help="print one JSON document")
    args = p.parse_args(argv)
    rows = []
    for name in args.models:
        try:
            rows.append(
                measure(
                    name,
                    args.size,
                    args.images,
                    args.steps,
                    args.seed,
                    args.tile_rows,
                    Ratio.parse(args.ratio),
                    args.save,
                )
            )
            cli.say(f"{name}: {args.images} images equal")
        except (verify.Mismatch, ExportError, GraphError) as error:
            cli.say(f"error: {name}: {error}")
        except ValueError as error:
            raise cli.UserError(str(error)) from error
    cli.give(json.dumps(rows) if args.json else table(rows))
    return int(len(rows) < len(args.models))


def table(rows: list[dict[str, object]]) -> str:
    """The result for people, in Markdown."""
    lines = [
        "| model | layers | MACs | images equal | correlation with fake quantisation | "
        "export | digest |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row['model']} | {row['layers']} | {row['macs'] / 1e6:.0f} M | "
        f"{row['images_equal']} | {row['correlation']} | {row['export_seconds']} s | "
        f"{row['digest'][:16]} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
