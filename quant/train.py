# SPDX-License-Identifier: Apache-2.0
"""Train a network with row-wise mixed schemes and export its integer graph.

python -m quant.train                          handwritten digits, about a minute
python -m quant.train --dataset fashion-mnist  28x28 images, about ten minutes
"""

import json
import sys
from collections.abc import Sequence

from quant import cli
from quant.config import PRESETS, TrainConfig


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m quant.train", description=__doc__)
    d = TrainConfig()
    p.add_argument("-q", "--quiet", action="store_true", help="only the result")
    p.add_argument("-v", "--verbose", action="store_true", help="a line for every epoch")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")

    g = p.add_argument_group("task")
    g.add_argument("--dataset", default=d.dataset, metavar="NAME",
                   help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    g.add_argument("--data", metavar="DIR", help="folder of the data set's files")
    g.add_argument("--subset", type=int, metavar="N",
                   help="train on the first N images only (default: all)")
    g.add_argument("--width", type=int, default=d.width, metavar="N",
                   help="channels of the first layer (default: %(default)s)")

    g = p.add_argument_group("schemes")
    g.add_argument("--ratio", default=d.ratio, metavar="A:B:C",
                   help="percent of rows in PoT-4, Fixed-4 and Fixed-8 (default: %(default)s)")
    g.add_argument("--tile-rows", type=int, default=d.tile_rows, metavar="N",
                   help="rows of one row tile of the hardware (default: %(default)s)")
    g.add_argument("--reassign-every", type=int, default=d.reassign_every, metavar="N",
                   help="epochs between two assignments of schemes (default: %(default)s)")

    presets = "; ".join(f"{name}: {preset.float_epochs} float epochs, {preset.epochs} quantised, "
                        f"batch {preset.batch_size}" for name, preset in PRESETS.items())
    g = p.add_argument_group("training", f"defaults depend on the data set ({presets})")
    g.add_argument("--float-epochs", type=int, metavar="N", help="epochs before quantisation")
    g.add_argument("--epochs", type=int, metavar="N", help="epochs of quantised training")
    g.add_argument("--batch-size", type=int, metavar="N", help="images in a batch")
    g.add_argument("--float-lr", type=float, default=d.float_lr, metavar="LR",
                   help="peak learning rate before quantisation (default: %(default)s)")
    g.add_argument("--lr", type=float, default=d.lr, metavar="LR",
                   help="peak learning rate of quantised training (default: %(default)s)")
    g.add_argument("--seed", type=int, default=d.seed, metavar="N", help="(default: %(default)s)")
    g.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"),
                   help="auto takes CUDA where there is one (default: %(default)s)")
    g.add_argument("--threads", type=int, default=d.threads, metavar="N",
                   help="threads of torch, 0 for one per core (default: %(default)s)")

    g = p.add_argument_group("output")
    g.add_argument("--out", default="runs", metavar="DIR", help="(default: %(default)s)")
    g.add_argument("--name", help="the run's folder in DIR (default: the data set's name)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = vars(parser().parse_args(argv))
    quiet, verbose, as_json = (options.pop(k) for k in ("quiet", "verbose", "json"))
    out, name, device = (options.pop(k) for k in ("out", "name", "device"))
    try:
        config = TrainConfig.resolve(device="cpu" if device == "auto" else device, **options)
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    # From here on torch is needed, which takes seconds to import.
    from quant import pipeline
    from quant.data import load
    from quant.export import ExportError
    from quant.inference import Mismatch
    from quant.intgraph import GraphError
    from quant.progress import Progress
    from quant.runs import RunFolder

    config = pipeline.choose_device(config, device)
    dataset = load(config.dataset, config.data).subset(config.subset)
    run = RunFolder.create(out, name or config.dataset, config)
    with Progress(-1 if quiet else int(verbose)) as progress:
        progress.note(f"training on {config.device}, run folder {run.path}")
        try:
            result = pipeline.train(config, dataset, run, progress)
        except KeyboardInterrupt:
            kept = ", ".join(file for file in run.FILES if (run / file).exists())
            raise KeyboardInterrupt(f"{progress.place}; {run.path} keeps {kept}") from None
        except GraphError as error:
            raise cli.UserError(str(error)) from error
        except (ExportError, Mismatch) as error:
            cli.say(f"error: {error}")
            return 1
    cli.give(json.dumps(result) if as_json else summary(result))
    return 0


def summary(result: dict) -> str:
    """The result for people."""
    accuracy = result["accuracy"]
    return "\n".join((
        f"float {accuracy['float']:.2%}, quantised {accuracy['quantised']:.2%}, integer "
        f"{accuracy['integer']:.2%} of {result['images']} test images",
        f"integers agree with the golden model bit for bit, with fake quantisation on "
        f"{result['agreement']:.2%} of the decisions",
        f"graph {result['run']}/graph.safetensors, digest {result['digest']}",
        f"{result['seconds']} s"))


if __name__ == "__main__":
    sys.exit(cli.run(main))
