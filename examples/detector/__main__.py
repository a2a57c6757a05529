# SPDX-License-Identifier: Apache-2.0
"""A detector of handwritten digits: train, quantise, export, build for a board, prove.

python -m examples.detector                  files go to build/detector
python -m examples.detector --no-simulation  stops before the simulator

The two heads are read through concatenation, upsampling and leaky ReLU, and leave the array as
maps. Mean average precision is of scenes of digits that training never saw.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import rmsmp
from examples.detector import boxes, scenes
from examples.detector.network import Detector, fit, predict
from ir import cli, golden

FOLDER = Path("build/detector")


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m examples.detector", description=__doc__)
    p.add_argument("--scenes", type=cli.whole(64), default=3000, metavar="N", help="of training")
    p.add_argument(
        "--test-scenes", type=cli.whole(12), default=500, metavar="N", help="of the test"
    )
    p.add_argument("--epochs", type=cli.whole(1), default=30, metavar="N", help="in float")
    p.add_argument("--quantised-epochs", type=cli.whole(1), default=10, metavar="N")
    p.add_argument("--images", type=cli.whole(1), default=4, metavar="N", help="to simulate")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of scenes and weights")
    p.add_argument("--no-simulation", action="store_true", help="stop before the simulation")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    torch.manual_seed(args.seed)
    start = time.monotonic()
    training = scenes.draw(args.scenes, held_out=False, seed=args.seed)
    test = scenes.draw(args.test_scenes, held_out=True, seed=args.seed + 1)
    FOLDER.mkdir(parents=True, exist_ok=True)

    network = Detector()
    fit(network, training, epochs=args.epochs, lr=4e-3, seed=args.seed)
    cli.give(f"float: mAP {_precision(predict(network, test.images), test):.1%}")
    model = rmsmp.quantise(network, training.images[:256], board="zedboard")
    fit(model, training, epochs=args.quantised_epochs, lr=2e-3, seed=args.seed)
    cli.give(f"quantised: mAP {_precision(predict(model, test.images), test):.1%}")

    file = FOLDER / "detector.safetensors"
    graph = rmsmp.export(model, file, images=test.images[: max(12, args.images)])
    pixels = (test.images * 255).round().long().numpy()
    heads = golden.results(graph, golden.run(graph, pixels))
    found = boxes.decode(heads)
    cli.give(f"integers: mAP {boxes.mean_average_precision(found, test):.1%}")
    boxes.draw(test.images[:12].numpy(), found[:12], FOLDER / "detections.png")
    cli.give(f"{FOLDER / 'detections.png'}: boxes of the integer network in 12 scenes")

    build = rmsmp.build(file, board="zedboard", out=FOLDER)
    if not args.no_simulation:
        result = rmsmp.simulate(build, images=args.images)
        if result.equal < result.images:
            cli.say(f"error: {result.differences[0]}")
            return 1
        cli.give(f"{result.images} images, {result.cycles} cycles each: both heads equal")
    cli.give(f"{time.monotonic() - start:.0f} seconds")
    return 0


def _precision(heads: list[np.ndarray], test: scenes.Scenes) -> float:
    return boxes.mean_average_precision(boxes.decode(heads), test)


if __name__ == "__main__":
    sys.exit(cli.run(main))
