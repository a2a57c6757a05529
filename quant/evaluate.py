# SPDX-License-Identifier: Apache-2.0
"""Evaluate a finished run: float, fake-quantised and integer accuracy, and bit equality."""

import json
import sys
from collections.abc import Sequence

from quant import cli


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m quant.evaluate", description=__doc__)
    p.add_argument("run", nargs="?", default="runs/latest", metavar="RUN",
                   help="folder of the run (default: %(default)s)")
    p.add_argument("--dataset", metavar="NAME", help="other data set than the run was trained on")
    p.add_argument("--data", metavar="DIR", help="folder of the data set's files")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    from quant.inference import Mismatch
    from quant.intgraph import GraphError

    try:
        result = evaluate(options.run, options.dataset, options.data)
    except GraphError as error:
        raise cli.UserError(str(error)) from error
    except Mismatch as error:
        cli.say(f"error: {error}")
        return 1
    if options.json:
        cli.give(json.dumps(result))
    else:
        show(result)
    return 0


def evaluate(path: str, dataset_name: str | None = None,
             directory: str | None = None) -> dict[str, object]:
    """What the run at ``path`` achieves, measured again from its files."""
    from quant import pipeline, qat
    from quant.data import load
    from quant.intgraph import IntGraph
    from quant.prepare import prepare
    from quant.runs import RunFolder

    run = RunFolder.open(path)
    config, recorded = run.config(), run.result()
    graph = IntGraph.load(run / "graph.safetensors")
    if graph.digest != recorded.get("digest"):
        raise cli.UserError(f"{run / 'graph.safetensors'} has digest {graph.digest}, the run "
                            f"exported {recorded.get('digest')}; train again")
    dataset = load(dataset_name or config.dataset, directory or config.data)
    if dataset.shape != graph.tensor(graph.header.input).shape \
            or dataset.class_names != graph.header.class_names:
        raise cli.UserError(f"the run was trained on {config.dataset}, whose images and classes "
                            f"are not those of {dataset.name}")
    pipeline.setup_torch(config)
    model = pipeline.build(config, dataset)
    test_set = pipeline.images_of(dataset, "cpu")[1]
    load_weights(model, run, "float.pt")
    accuracy = {"float": qat.accuracy(model, test_set)}
    model = prepare(model)
    load_weights(model, run, "checkpoint.pt")
    measured, agreement, logits = pipeline.check(model, graph, dataset)
    return {"run": str(run.path), "dataset": dataset.name, "digest": graph.digest,
            "ratio": graph.header.ratio, "tile_rows": graph.header.tile_rows,
            "images": len(logits), "accuracy": accuracy | measured, "agreement": agreement}


def load_weights(model, run, name: str) -> None:
    try:
        model.load_state_dict(run.load_state(name)["model"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise cli.UserError(f"{run / name} does not belong to this run's network") from error


def show(result: dict[str, object]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table("model", "accuracy", "same as", title=f"{result['run']} on "
                             f"{result['images']} test images of {result['dataset']}")
    accuracy = result["accuracy"]
    table.add_row("float32", f"{accuracy['float']:.2%}", "")
    table.add_row("fake-quantised, torch", f"{accuracy['quantised']:.2%}", "")
    table.add_row("integers, torch", f"{accuracy['integer']:.2%}",
                  f"fake-quantised: {result['agreement']:.2%} of the decisions")
    table.add_row("integers, golden model", f"{accuracy['integer']:.2%}", "torch: every bit")
    rich.console.Console().print(table)
    cli.give(f"ratio {result['ratio']} in tiles of {result['tile_rows']} rows, "
             f"digest {result['digest']}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
