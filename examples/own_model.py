# SPDX-License-Identifier: Apache-2.0
"""A network of your own: quantise, train with your own loop, export, build for a board, prove.

python -m examples.own_model                  files go to build/own
python -m examples.own_model --no-simulation  stops before the simulator, which compiles a minute
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rmsmp
from ir import cli

CLASSES = 4
FOLDER = Path("build/own")


class Network(nn.Module):
    """Any module of convolutions, batch-norm, ReLU, additions, pools and linear layers will do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


def random_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Coloured noise, float (count, 3, 16, 16) in 0..1, and its classes: brightness, in steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pixels = torch.randint(128, (count, 3, 16, 16), generator=generator)
    return (pixels + 32 * labels[:, None, None, None]) / 255, labels


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """An ordinary training loop: nothing in it knows of quantisation."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    model.eval()


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m examples.own_model", description=__doc__)
    p.add_argument("--no-simulation", action="store_true", help="stop before the simulation")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    torch.manual_seed(1)
    images, labels = random_images(512, seed=1)
    test_images, test_labels = random_images(100, seed=2)
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "own.safetensors").open("ab").close()  # before the time that training takes
    except OSError as error:
        raise cli.UserError(f"cannot write to {FOLDER}: {error.strerror}") from error

    network = Network()
    fit(network, images, labels, epochs=12)
    model = rmsmp.quantise(network, images, ratio="65:30:5", tile_rows=16)
    fit(model, images, labels, epochs=4)
    for name, trained in (("float", network), ("quantised", model)):
        cli.give(f"{name}: {rmsmp.evaluate(trained, test_images, test_labels):.1%} right")

    file = FOLDER / "own.safetensors"
    graph = rmsmp.export(model, file, images=test_images, labels=test_labels)
    cli.give(f"{file}: {len(graph.nodes)} nodes, digest {graph.digest}")

    build = rmsmp.build(file, board="zedboard", out=FOLDER, search=False)
    if args.no_simulation:
        return 0
    result = rmsmp.simulate(build, images=10)
    if result.equal < result.images:
        cli.say(f"error: {result.differences[0]}")
        return 1
    cli.give(f"{result.images} images, {result.cycles} cycles each: logits equal")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
