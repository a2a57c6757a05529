# SPDX-License-Identifier: Apache-2.0
"""Seconds and agreement of the scores that decide which rows get 8 bits.

python -m bench.assignment                     ResNet-18, 1,024 images of 32x32; takes minutes
python -m bench.assignment --model tiny --images 128 --json
python -m bench.assignment --dataset cifar10 --data DIR --weights model.pth

The scores are computed three times: with all iterations, with 3, and on other images.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ir import cli
from quant import data, models
from quant.assignment.sensitivity import row_scores

FEW = 3  #: iterations that the full number is held against
SHARE = 0.05  #: rows of a layer that get Fixed8, at least one
SYNTHETIC = ((3, 32, 32), 10)  #: shape and classes without a data set


def sensitive(score: Tensor) -> set[int]:
    """The rows of a layer that would get Fixed8."""
    count = max(1, round(SHARE * len(score)))
    return set(torch.argsort(score, descending=True, stable=True)[:count].tolist())


def overlap(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Share of the rows that both choose, over all layers."""
    both = sum(len(sensitive(first[n]) & sensitive(second[n])) for n in first)
    return both / sum(len(sensitive(score)) for score in first.values())


def warm_statistics(model: nn.Module, images: Tensor) -> None:
    """Give batch-norm the statistics of random weights on these images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)


def timed(task: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Result of the task, its seconds and those of all processor cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = task()
    return result, {
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def prepare(args: object) -> tuple[nn.Module, Tensor, Tensor]:
    """The network and two disjoint sets of images."""
    generator = torch.Generator().manual_seed(args.seed)
    if args.dataset:
        train = data.load(args.dataset, args.data)
        shape, classes = train.shape, len(train.class_names)
        if len(train.train) < 2 * args.images:
            raise cli.UserError(
                f"{args.dataset} has {len(train.train)} training images, two sets "
                f"of {args.images} are needed: give a smaller --images"
            )
        chosen = torch.randperm(len(train.train), generator=generator)[: 2 * args.images]
        images, _ = train.train.batch(chosen)
        if not isinstance(images, Tensor):
            raise cli.UserError(f"{args.dataset} holds no images: choose another --dataset")
    else:
        shape, classes = SYNTHETIC
        images = torch.rand(2 * args.images, *shape, generator=generator)
    torch.manual_seed(args.seed)
    try:
        model = models.build(args.model, shape=shape, classes=classes)
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    if args.weights:
        models.load_pretrained(model, args.weights)
    else:
        warm_statistics(model, images[:128])
    return model.eval(), *images.split(args.images)


def measure(args: object) -> dict:
    model, images, others = prepare(args)

    def scores(kind: str, images: Tensor, iterations: int) -> dict[str, Tensor]:
        def report(done: int, total: int) -> None:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{kind}, {iterations} iterations: {done / total:4.0%}")

        result = row_scores(
            kind, model, images, iterations=iterations, seed=args.seed, report=report
        )
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        return result

    full, seconds = timed(lambda: scores("hessian", images, args.iterations))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    few, few_seconds = timed(lambda: scores("hessian", images, FEW))
    fisher, fisher_seconds = timed(lambda: scores("fisher", images, args.iterations))
    return {
        "model": args.model,
        "weights": str(args.weights) if args.weights else "random",
        "inputs": args.dataset or "random",
        "images": args.images,
        "iterations": args.iterations,
        "threads": torch.get_num_threads(),
        "hessian": seconds,
        f"hessian_{FEW}_iterations": few_seconds,
        "fisher": fisher_seconds,
        "peak_gib": round(peak / 2**30, 2),
        "overlap": {
            f"after {FEW} iterations": overlap(full, few),
            "other images": overlap(full, scores("hessian", others, args.iterations)),
            "fisher": overlap(full, fisher),
            "random": overlap(full, row_scores("random", model, images, seed=args.seed)),
        },
        "layers": {
            name: {
                "rows": len(score),
                "largest": float(score.max()),
                "median": float(score.median()),
                "sensitive": sorted(sensitive(score)),
            }
            for name, score in full.items()
        },
    }


def show(result: dict, table: bool) -> None:
    """The result for people."""
    note = (
        ""
        if result["weights"] != "random"
        else " Random weights: a trained network's overlaps are others."
    )
    cli.give(
        f"{result['model']}, {result['weights']} weights, {result['images']} images "
        f"({result['inputs']}), {result['threads']} threads.{note}"
    )
    for name in ("hessian", f"hessian_{FEW}_iterations", "fisher"):
        cli.give(
            f"{name.replace('_', ' ')}: {result[name]['seconds']} s "
            f"({result[name]['cpu_seconds']} s of processor time)"
        )
    cli.give(f"peak memory {result['peak_gib']} GiB")
    cli.give(f"rows among the most sensitive {SHARE:.0%} that stay, against all iterations:")
    for name, value in result["overlap"].items():
        cli.give(f"  {name}: {value:.1%}")
    if table:
        cli.give("| layer | rows | largest | median | sensitive rows |\n|---|---:|---:|---:|---|")
        for name, row in result["layers"].items():
            cli.give(
                f"| {name} | {row['rows']} | {row['largest']:.3g} | {row['median']:.3g} | "
                f"{' '.join(map(str, row['sensitive']))} |"
            )


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m bench.assignment", description=__doc__)
    p.add_argument(
        "--model", default="resnet18", choices=tuple(models.MODELS), help="(default: %(default)s)"
    )
    p.add_argument(
        "--weights", type=Path, metavar="FILE", help="checkpoint (default: random weights)"
    )
    p.add_argument(
        "--dataset",
        metavar="NAME",
        help="take the images of its training set (default: random images)",
    )
    p.add_argument("--data", metavar="DIR", help="folder of the data set's files")
    p.add_argument("--images", type=int, default=1024, metavar="N", help="(default: %(default)s)")
    p.add_argument(
        "--iterations",
        type=int,
        default=20,
        metavar="N",
        help="most iterations per layer (default: %(default)s)",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="threads of torch (default: %(default)s)",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    p.add_argument("--table", action="store_true", help="a line for every layer")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for name in ("images", "iterations", "threads"):
        if getattr(args, name) < 1:
            raise cli.UserError(f"--{name} must be at least 1, not {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    result = measure(args)
    if args.json:
        cli.give(json.dumps(result))
    else:
        show(result, args.table)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
