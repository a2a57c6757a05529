# SPDX-License-Identifier: Apache-2.0
"""Quantise a trained network with some images, without training, and export its integer graph.

python -m quant.calibrate --model resnet18 --pretrained FILE --data DIR --images 256
python -m quant.calibrate --dataset cifar10 --data DIR --model resnet20 --pretrained FILE
python -m quant.calibrate --onnx FILE --data DIR

The result is a run like one of python -m quant.train; sensitivity.json in it, and its picture, say
which layers and rows cost how much. To train it on: python -m quant.train --from RUN.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ir import cli
from quant.train import add_setting, group_of, summary
from quant.training.config import FLOAT32, TrainConfig

if TYPE_CHECKING:
    from quant.data import Dataset
    from quant.training.runs import RunFolder

IMAGES = 256  #: calibration images unless told otherwise
#: Settings of training that count here, too, and those of schemes that do not.
ALSO = ("seed", "integer_samples", "threads", "plots")
NOT = ("start", "reassign_every", "hessian_images", "calibration_images")
#: Defaults that are not those of the paper's method: no gradients are needed.
RULES = {"assign": "error", "split": "error"}


def parser() -> cli.Parser:
    """Command line of ``python -m quant.calibrate``."""
    p = cli.Parser(prog="python -m quant.calibrate", description=__doc__)
    p.add_argument("-q", "--quiet", action="store_true", help="only the result")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    p.add_argument(
        "--images",
        type=int,
        default=IMAGES,
        metavar="N",
        help="training samples to calibrate on (default: %(default)s)",
    )
    p.add_argument(
        "--out", default="runs", metavar="DIR", help="folder of runs (default: %(default)s)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace the run of this name")
    p.add_argument(
        "--name", help="the run's folder in DIR (default: the data set's name and -calibrated)"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in TrainConfig.model_fields.items():
        title = group_of(field)
        if name in NOT or (title not in ("task", "network", "schemes") and name not in ALSO):
            continue
        if title not in groups:
            groups[title] = p.add_argument_group(title)
        if name in RULES:
            field = field.merge_field_infos(field, default=RULES[name])
        add_setting(groups[title], name, field)
    return p


def settings(options: dict[str, object]) -> TrainConfig:
    """Settings of the run; raises UserError."""
    images = options.pop("images")
    given = {key: value for key, value in options.items() if value is not None}
    if "dataset" not in given and "data" in given:
        given["dataset"] = "imagenet"  # the form of one's own images
    if not given.get("pretrained") and not given.get("onnx"):
        raise cli.UserError(
            "--pretrained FILE or --onnx FILE is missing: the weights of the trained network"
        )
    try:
        config = TrainConfig.resolve(
            **RULES | given | {"calibration_images": images, "float_epochs": 0, "epochs": 0}
        )
    except ValueError as error:
        message = str(error).replace("calibration_images", "--images")
        raise cli.UserError(message) from error
    if config.method == FLOAT32 or "apot4" in config.method:
        raise cli.UserError(f"method {config.method} has no integer graph: train it instead")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; raises UserError."""
    options = vars(parser().parse_args(argv))
    quiet, as_json, out, overwrite, name = (
        options.pop(key) for key in ("quiet", "json", "out", "overwrite", "name")
    )
    config = settings(options)
    # From here on torch is needed, which takes seconds to import.
    from quant.training import pipeline
    from quant.training.runs import RunFolder

    name = f"{config.dataset}-calibrated" if name is None else name
    run = RunFolder.plan(out, name, overwrite)
    try:
        return session(config, pipeline.load_data(config), run, -1 if quiet else 0, as_json)
    finally:
        run.release()


def session(
    config: TrainConfig, dataset: "Dataset", run: "RunFolder", verbosity: int, as_json: bool
) -> int:
    """Exit code of the session, whose result goes to stdout: 0, or 1 where it failed."""
    from ir.arrays import ExportError
    from ir.graph import GraphError
    from quant.capture.writer import UnsupportedLayer
    from quant.lowering.verify import Mismatch
    from quant.training.calibrated import calibrate_run
    from quant.training.progress import Progress

    with Progress(verbosity) as progress:
        try:
            result = calibrate_run(config, dataset, run, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(progress.place) from None
        except (GraphError, UnsupportedLayer) as error:
            raise cli.UserError(str(error)) from error
        except (ExportError, Mismatch) as error:
            cli.say(f"error: {error}")
            return 1
    if as_json:
        cli.give(json.dumps(result))
        return 0
    found = result["calibration"]
    cli.give(summary(result))
    cli.give(
        f"squared error of the logits on {found['held_out']} images held out: "
        f"{found['error']:.2%} of their variance; costliest layers: "
        + ", ".join(found["costliest"])
    )
    cli.give(f"to train it on: python -m quant.train --from {result['run']}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
