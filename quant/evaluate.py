# SPDX-License-Identifier: Apache-2.0
"""Evaluate a finished run: float, fake-quantised and integer accuracy, and bit equality."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ir import cli

if TYPE_CHECKING:
    from torch import nn

    from ir.graph import IntGraph
    from quant.training.runs import RunFolder


def parser() -> cli.Parser:
    """Command line of ``python -m quant.evaluate``."""
    p = cli.Parser(prog="python -m quant.evaluate", description=__doc__)
    p.add_argument(
        "run",
        nargs="?",
        default="runs/latest",
        metavar="RUN",
        help="folder of the run, or its name (default: %(default)s)",
    )
    p.add_argument("--dataset", metavar="NAME", help="other data set than the run was trained on")
    p.add_argument("--data", metavar="DIR", help="folder of the data set's files")
    p.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of texts: where the Hugging Face model is now (default: as in the run)",
    )
    p.add_argument(
        "--integer-samples",
        type=cli.whole(1),
        metavar="N",
        help="test samples that the integer models compute (default: as in the run)",
    )
    p.add_argument("--plots", action="store_true", help="draw the run again, into RUN/plots")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; raises UserError."""
    options = parser().parse_args(argv)
    from ir.graph import GraphError
    from quant.lowering.verify import Mismatch
    from quant.training import plots
    from quant.training.runs import RunFolder

    run = RunFolder.open(options.run)
    try:
        result = evaluate(
            run, options.dataset, options.data, options.integer_samples, options.tokenizer
        )
    except GraphError as error:
        raise cli.UserError(str(error)) from error
    except Mismatch as error:
        cli.say(f"error: {error}")
        return 1
    if options.plots:
        for name in plots.draw(run):
            cli.say(f"drew {run / name}")
    if options.json:
        cli.give(json.dumps(result))
    else:
        show(result)
    return 0


def evaluate(
    run: "RunFolder",
    dataset_name: str | None = None,
    directory: str | None = None,
    integer_samples: int | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Result of ``run``, measured again from its files: accuracies 0..1 by model, digest, sizes.

    ``dataset_name`` and ``directory`` name another test set with the same classes,
    ``integer_samples`` the number of samples that integer models are compared on. Raises UserError.
    """
    from quant.training import loop, pipeline
    from quant.training.config import FLOAT32, PRESETS, check_model_reads
    from quant.training.device import setup_torch
    from quant.training.progress import Progress
    from quant.training.runs import has_graph

    config = run.config()
    if dataset_name in PRESETS:
        try:
            check_model_reads(config.model, dataset_name)
        except ValueError as error:
            raise cli.UserError(str(error)) from error
    if tokenizer:
        config = config.model_copy(update={"tokenizer": tokenizer})
    graph = read_graph(run) if has_graph(config) else None
    dataset = pipeline.load_data(config, dataset_name, directory)
    if graph and dataset.class_names != graph.header.class_names:
        raise cli.UserError(
            f"the run was trained on {config.dataset}, whose classes are not those "
            f"of {dataset.name}"
        )
    setup_torch(config)
    model = with_weights(pipeline.build(config, dataset), run, "float.pt", dataset.name)
    accuracy = {"float": loop.accuracy(model, dataset.test)}
    result = {
        "run": str(run.path),
        "dataset": dataset.name,
        "model": config.model,
        "method": config.method,
        "ratio": config.ratio,
        "tile_rows": config.tile_rows,
        "images": len(dataset.test),
        "accuracy": accuracy,
        "digest": None,
    }
    if config.method == FLOAT32:
        return result
    model = with_weights(
        pipeline.quantisable(model, config, dataset), run, "quantised.pt", dataset.name
    )
    if graph is None:
        accuracy["quantised"] = loop.accuracy(model, dataset.test)
        return result
    with Progress() as progress:
        measured, agreement, logits = pipeline.check(
            model, graph, dataset, integer_samples or config.integer_samples, progress
        )
    accuracy |= measured
    return result | {"digest": graph.digest, "agreement": agreement, "integer_images": len(logits)}


def read_graph(run: "RunFolder") -> "IntGraph":
    """Graph of ``run``; raises UserError for one that the run did not export."""
    from ir.graph import IntGraph

    graph, recorded = IntGraph.load(run / "graph.safetensors"), run.result().get("digest")
    if graph.digest != recorded:
        raise cli.UserError(
            f"{run / 'graph.safetensors'} has digest {graph.digest}, the run "
            f"exported {recorded}; train again"
        )
    return graph


def with_weights(model: "nn.Module", run: "RunFolder", name: str, dataset: str) -> "nn.Module":
    """``model`` with what the run learned; raises UserError where it is of another run.

    It is laid out in memory as in training: float32 sums depend on it.
    """
    from quant.training.device import lay_out
    from quant.training.runs import restore, weights_digest

    state = run.load_state(name)["model"]
    try:
        restore(model, state)
    except ValueError as error:
        raise cli.UserError(
            f"{run / name} does not belong to this run's network for samples of {dataset}"
        ) from error
    recorded = run.result().get("weights", {}).get(name)  # runs of 0.1.0 have no record
    if recorded not in (None, weights_digest(state)):
        raise cli.UserError(
            f"{run / name} does not belong to this run: its weights are not those that "
            "result.json records; copy the whole run folder, or train again"
        )
    return lay_out(model, "cpu")


def show(result: dict[str, Any]) -> None:
    """Output of ``result`` as a table to stdout."""
    import rich.console
    import rich.table

    table = rich.table.Table(
        "model",
        "accuracy",
        "same as",
        title=f"{result['run']} on {result['images']} test samples of {result['dataset']}",
    )
    accuracy = result["accuracy"]
    table.add_row("float32", f"{accuracy['float']:.2%}", "")
    if "quantised" in accuracy:
        table.add_row("fake-quantised, torch", f"{accuracy['quantised']:.2%}", "")
    if "integer" in accuracy:
        some = (
            ""
            if result["integer_images"] == result["images"]
            else f" (first {result['integer_images']})"
        )
        table.add_row(
            f"integers, torch{some}",
            f"{accuracy['integer']:.2%}",
            f"fake-quantised: {result['agreement']:.2%} of the decisions",
        )
        table.add_row(
            f"integers, golden model{some}", f"{accuracy['integer']:.2%}", "torch: every bit"
        )
    console = rich.console.Console()
    with console.capture() as shown:
        console.print(table)
    cli.give(shown.get().rstrip("\n"))
    cli.give(
        f"{result['model']}, method {result['method']}, "
        + (
            f"ratio {result['ratio']} in tiles of {result['tile_rows']} rows, digest "
            f"{result['digest']}"
            if result["digest"]
            else "no integer graph"
        )
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
