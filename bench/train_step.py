# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of one training step: float, quantised by this project, quantised by Brevitas.

python -m bench.train_step                     ResNet-18, 64 images of 32x32; takes a minute
python -m bench.train_step --model tiny --size 28 --steps 50 --json

A step is forward, backward and the optimiser. The three take turns in one process; the medians of
their times and of the turns' ratios are shown. Brevitas (0.13.4 was tried) is not installed with
this project; where it is missing, its line says so.
"""

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import cli
from quant import models
from quant.assignment.assign import assign
from quant.assignment.methods import METHODS, method
from quant.lowering.prepare import calibrate, prepare
from quant.nn.layers import quantised_layers
from quant.training.device import lay_out

TILE_ROWS = 64
CLASSES = 10


class Unavailable(Exception):
    """Brevitas is not here, or does not run with this torch."""


def ours(model: nn.Module, images: Tensor, name: str) -> nn.Module:
    """``model`` with 4-bit activations and weight rows in the method's ratio, chosen at random."""
    prepared = prepare(model, images[:2])
    calibrate(prepared, images)
    scores = {n: torch.rand(len(m.weight)) for n, m in quantised_layers(prepared).items()}
    assign(prepared, method(name), TILE_ROWS, scores)
    return prepared


def brevitas(model: nn.Module) -> nn.Module:
    """``model`` with Brevitas' layers: 4-bit weights with a learned scale per row, 4-bit ReLUs with
    a learned scale. Sums and pools stay float, which our side quantises."""
    try:
        import brevitas.nn as qnn
        from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloatMaxInit
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] == "brevitas"
        raise Unavailable("not installed" if missing else str(error)) from error

    weights = {
        "weight_quant": Int8WeightPerChannelFloat,
        "weight_bit_width": 4,
        "weight_scaling_impl_type": "parameter_from_stats",
    }

    def replacement(module: nn.Module) -> nn.Module:
        match module:
            case nn.Conv2d():
                return qnn.QuantConv2d(
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size,
                    module.stride,
                    module.padding,
                    groups=module.groups,
                    bias=module.bias is not None,
                    **weights,
                )
            case nn.Linear():
                return qnn.QuantLinear(
                    module.in_features, module.out_features, module.bias is not None, **weights
                )
            case nn.ReLU() | nn.ReLU6():
                return qnn.QuantReLU(
                    act_quant=Uint8ActPerTensorFloatMaxInit, bit_width=4, max_val=6.0
                )
        return module

    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, replacement(child))
    return model


def step_of(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of training as a function, with the model laid out as in training."""
    model = lay_out(model, images.device.type)
    optimiser = torch.optim.SGD(model.train().parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step


def warm(step: Callable[[], None]) -> Callable[[], None]:
    """The step of Brevitas after its first call. Raises Unavailable where that fails."""
    try:
        step()
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise Unavailable(f"does not run with torch {torch.__version__}: {reason}") from error
    return step


def measure(args: object) -> dict[str, object]:
    """Milliseconds of each, or why there are none, and their ratios to float."""
    torch.manual_seed(args.seed)
    shape = (3, args.size, args.size)
    try:
        model = models.build(args.model, shape=shape, classes=CLASSES, width=args.width)
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    images, labels = torch.rand(args.batch, *shape), torch.randint(CLASSES, (args.batch,))
    steps = {
        "float": step_of(copy.deepcopy(model), images, labels),
        "ours": step_of(ours(model, images, args.method), images, labels),
    }
    failed = {}
    try:
        steps["brevitas"] = warm(step_of(brevitas(model), images, labels))
    except Unavailable as error:
        failed["brevitas"] = str(error)
    seconds = {name: [] for name in steps}
    for turn in range(1 + args.steps):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
    # of each turn, because a busy machine slows neighbours alike
    ratios = {
        name: [a / b for a, b in zip(s, seconds["float"], strict=True)]
        for name, s in seconds.items()
    }
    return {
        "model": args.model,
        "size": args.size,
        "batch": args.batch,
        "method": args.method,
        "steps": args.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "milliseconds": {n: round(1000 * statistics.median(s), 1) for n, s in seconds.items()},
        "ratio": {n: round(statistics.median(r), 2) for n, r in ratios.items()},
        "unavailable": failed,
    }


def show(result: dict[str, object]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table(
        "step",
        "ms",
        "of float",
        title=f"{result['model']}, {result['batch']} images of "
        f"{result['size']}x{result['size']}, {result['threads']} threads",
    )
    names = {"float": "float", "ours": f"ours, {result['method']}", "brevitas": "Brevitas, 4 bits"}
    for key, name in names.items():
        if key in result["unavailable"]:
            table.add_row(name, result["unavailable"][key], "")
        else:
            table.add_row(
                name, f"{result['milliseconds'][key]:.1f}", f"{result['ratio'][key]:.2f} x"
            )
    rich.console.Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.train_step", description=__doc__)
    p.add_argument(
        "--model", default="resnet18", choices=tuple(models.MODELS), help="(default: %(default)s)"
    )
    p.add_argument("--width", type=int, metavar="N", help="channels of the stem")
    p.add_argument("--size", type=int, default=32, metavar="PIXELS", help="(default: %(default)s)")
    p.add_argument("--batch", type=int, default=64, metavar="N", help="(default: %(default)s)")
    p.add_argument(
        "--method", default="rmsmp", choices=tuple(METHODS), help="(default: %(default)s)"
    )
    p.add_argument(
        "--steps",
        type=int,
        default=7,
        metavar="N",
        help="of each, behind one to warm up (default: %(default)s)",
    )
    p.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    args = p.parse_args(argv)
    for name, least in (("size", 1), ("batch", 2), ("steps", 1), ("threads", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise cli.UserError(f"--{name} must be at least {least}, not {value}")
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(args)
    if args.json:
        cli.give(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
