# SPDX-License-Identifier: Apache-2.0
"""A training run from data set to verified integer graph: the steps, in order."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from ir import cli, golden
from ir.board_arrays import board_array
from ir.cli import UserError
from ir.graph import Host, IntGraph
from ir.numerics import Scheme
from ir.ratio import Ratio
from ir.vectors import Vectors
from quant import data, models
from quant.assignment.assign import scheme_table
from quant.assignment.methods import method
from quant.data.splits import Inputs
from quant.lowering import verify
from quant.lowering.align import align_scales
from quant.lowering.dry_run import untrained_graph
from quant.lowering.export import export
from quant.lowering.partition import HostRunner, is_hybrid
from quant.lowering.prepare import prepare
from quant.models import bert, weights
from quant.nn.layers import quantised_layers
from quant.nn.quantizers import SCHEMES
from quant.training import loop, plots
from quant.training.config import FLOAT32, TrainConfig, is_hugging_face
from quant.training.device import placed, setup_torch
from quant.training.distributed import Processes
from quant.training.progress import Progress
from quant.training.runs import RunFolder, has_graph
from quant.training.session import Training
from quant.training.starts import check_images, flat, start_quantised

VECTORS = 1000  #: most test samples in vectors.npz
CHECKED = 250  #: most samples that the integer models compute at once
CHECKED_BYTES = 1 << 30  #: for every tensor of those samples, in both models
OFFLOADED_TEXTS = 4  #: texts in vectors.npz with all that layers read


def train(
    config: TrainConfig,
    dataset: data.Dataset,
    run: RunFolder,
    progress: Progress,
    processes: Processes | None = None,
) -> dict[str, Any] | None:
    """Training, export and checks as ``config`` says, written into ``run``.

    Returns the content of result.json; None in all but the first of several processes.
    """
    processes = processes or Processes(config.device)
    setup_torch(config)
    there = on_device(dataset, config, processes)
    model = start(config, dataset, run, progress)
    if processes.first and not run.resuming:
        config = for_array(model, config, dataset, progress)
        run.begin(config)
    config = processes.of_first(config)
    model = placed(model, processes)
    if config.subset and config.subset > len(dataset.train):
        progress.note(f"{dataset.name} has {len(dataset.train)} training samples, all are taken")
    progress.note(f"training on {config.device}, run folder {run.path}")
    training = Training(
        config=config, dataset=there, run=run, progress=progress, processes=processes
    )
    if not training.quantised_already:
        training.fit(model, "float", config.float_epochs, config.float_lr)
        training.keep(float_accuracy=training.test_accuracy(model))
        training.save("float.pt", model)
    if config.method != FLOAT32:
        model = placed(quantisable(model.cpu(), config, dataset), processes)
        if not training.quantised_already:
            start_quantised(flat(model), config, there, progress)
            processes.equalise(model)
            if processes.first and not training.assigns(0):
                run.save_schemes(scheme_table(model, {}))
        training.fit(model, "quantised", config.epochs, config.lr)
        if has_graph(config):
            align_scales(flat(model))
        training.save("quantised.pt", model)
    training.close()
    if not processes.first:
        return None
    result = finish(model.eval().cpu(), config, dataset, run, progress, training.record)
    result["weights"] = run.weights()
    result["seconds"] = round(training.elapsed, 1)
    if config.plots:
        plots.draw(run)
    run.finish(result)
    return result


def finish(
    model: nn.Module,
    config: TrainConfig,
    dataset: data.Dataset,
    run: RunFolder,
    progress: Progress,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Result of a trained ``model`` after its export and comparisons: most of result.json.

    Networks without an integer graph are measured alone.
    """
    result = {
        "run": str(run.final_path),
        "dataset": dataset.name,
        "model": config.model,
        "method": config.method,
        "ratio": config.ratio,
        "tile_rows": config.tile_rows,
        "seed": config.seed,
        "images": len(dataset.test),
        "digest": None,
        "accuracy": {"float": record["float_accuracy"]},
    }
    if config.method == FLOAT32:
        return result
    schemes = Scheme if has_graph(config) else SCHEMES
    result["rows"] = {
        name: [int(layer.scheme.eq(s).sum()) for s in schemes]
        for name, layer in quantised_layers(model).items()
    }
    result["reassignments"] = record["reassignments"]
    if not has_graph(config):
        progress.note(f"{config.method}: APoT-4 rows are for training only, no integer graph")
        result["accuracy"]["quantised"] = loop.accuracy(model, dataset.test)
        return result
    graph = export_run(model, config, dataset)
    graph.save(run / "graph.safetensors")
    measured, agreement, logits = check(model, graph, dataset, config.integer_samples, progress)
    result["accuracy"] |= measured
    result |= {"digest": graph.digest, "agreement": agreement, "integer_images": len(logits)}
    save_vectors(
        run,
        dataset,
        graph,
        logits,
        result["accuracy"],
        HostRunner(flat(model)) if is_hybrid(model) else None,
    )
    return result


def load_data(
    config: TrainConfig, name: str | None = None, directory: str | None = None
) -> data.Dataset:
    """Data set of ``config``, or another one with its options."""
    return data.load(
        name or config.dataset,
        directory or config.data,
        size=config.size,
        tokenizer=config.tokenizer,
        max_length=config.max_length,
    ).subset(config.subset)


def on_device(dataset: data.Dataset, config: TrainConfig, processes: Processes) -> data.Dataset:
    """``dataset`` for training, on the device of ``processes``.

    Raises UserError for batches that are too large or cannot be shared.
    """
    processes.part(config.batch_size)
    if len(dataset.train) < config.batch_size:
        raise UserError(
            f"batch_size {config.batch_size} is more than the {len(dataset.train)} training samples"
        )
    return dataclasses.replace(
        dataset, train=dataset.train.to(processes.device), test=dataset.test.to(processes.device)
    )


def build(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """Float network for samples of ``dataset``, with random weights; raises UserError."""
    try:
        model = models.build(
            config.model,
            shape=dataset.shape,
            classes=len(dataset.class_names),
            width=config.width,
            stem=config.stem,
            source=config.onnx or config.tokenizer,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.normalised:
        try:
            tf = models.MODELS[config.model].tf
            mean = weights.TF_MEAN if tf else weights.IMAGENET_MEAN
            weights.normalise(model, mean, weights.TF_STD if tf else weights.IMAGENET_STD)
        except ValueError as error:
            raise UserError(f"normalised: {error}") from error
    return model


def quantisable(model: nn.Module, config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """``model``, on the CPU, with quantising layers."""
    example = dataset.test.batch(torch.arange(2))[0]
    return prepare(
        model,
        example,
        act_bits=config.act_bits,
        first_last=config.first_last,
        host=models.MODELS[config.model].reads == "texts",
    )


def for_array(
    model: nn.Module, config: TrainConfig, dataset: data.Dataset, progress: Progress
) -> TrainConfig:
    """Settings with ratio and rows of the array that the build will choose for ``model`` on the
    board, after a check that export and compiler will take it.

    The compiler is asked where it is installed; without it, and for networks with a part on the
    host, the array is the one kept for the board. Raises UserError.
    """
    check_images(config, dataset)
    example = dataset.test.batch(torch.arange(2))[0]
    compiler = cli.optional("gateware.check")
    try:
        if not has_graph(config):
            return _with_kept_array(config)
        with torch.random.fork_rng():
            prepared = flat(quantisable(model, config, dataset))
        if is_hybrid(prepared):
            return _with_kept_array(config)
        ratio = method(config.method, config.ratio).ratio
        graph = untrained_graph(prepared, example, ratio, config.tile_rows)
        if compiler is None or not config.board:
            if compiler is not None:
                compiler.check(graph)
            return _with_kept_array(config)
        progress.note(f"looking for the array of {config.board} that suits {config.network}")
        given = config.ratio and Ratio.parse(config.ratio)
        ratio, rows = compiler.array_for(graph, config.board, given or None, config.given_rows)
    except ValueError as error:
        raise UserError(str(error)) from error
    progress.note(f"training for ratio {ratio} in tiles of {rows} rows, as the build will choose")
    return config.model_copy(update={"ratio": str(ratio), "tile_rows": rows})


def _with_kept_array(config: TrainConfig) -> TrainConfig:
    """Settings of the array that is kept for the board. Raises ValueError where there is none."""
    if not config.board or config.method == FLOAT32:
        return config
    array = board_array(config.board)
    rows = config.given_rows or array.rows
    return config.model_copy(update={"ratio": config.ratio or str(array.ratio), "tile_rows": rows})


def start(
    config: TrainConfig, dataset: data.Dataset, run: RunFolder, progress: Progress
) -> nn.Module:
    """Float network that training begins with; raises UserError.

    Its weights do not matter where ``run`` has a checkpoint.
    """
    model = build(config, dataset)
    if config.pretrained and not run.resuming:
        if isinstance(model, bert.BertClassifier) and is_hugging_face(config.pretrained):
            fresh = bert.load_weights(model, config.pretrained)
        else:
            fresh = models.load_pretrained(model, config.pretrained)
        for name in fresh:
            progress.note(f"{name} starts at random: {config.pretrained} has none that fits")
    return model


def export_run(model: nn.Module, config: TrainConfig, dataset: data.Dataset) -> IntGraph:
    """Integer graph of a trained model, with where it comes from.

    No times: the digest of two equal runs is equal.
    """
    provenance = {
        "dataset": dataset.name,
        "model": config.model,
        "method": config.method,
        "seed": str(config.seed),
        "float_epochs": str(config.float_epochs),
        "epochs": str(config.epochs),
        "torch": torch.__version__,
    }
    return export(
        flat(model),
        dataset.test.batch(torch.arange(2))[0],
        name=f"{config.network}-{dataset.name}",
        ratio=Ratio.parse(config.ratio or ""),
        tile_rows=config.tile_rows,
        class_names=dataset.class_names,
        provenance=provenance,
    )


def integers(inputs: Inputs) -> np.ndarray | tuple[np.ndarray, ...]:
    """Batch as the accelerator reads it: pixels uint8 (N, C, H, W), or tokens."""
    if isinstance(inputs, tuple):
        return tuple(i.cpu().numpy() for i in inputs)
    return (inputs * 255).round().to(torch.uint8).cpu().numpy()


def check(
    model: nn.Module, graph: IntGraph, dataset: data.Dataset, most: int | None, progress: Progress
) -> tuple[dict[str, float], float, np.ndarray]:
    """Comparison of fake quantisation, torch's integers and the golden model on the test set.

    Returns accuracies (that of fake quantisation of all samples, that of integers of the first
    ``most``, or all), the share of those samples on which both decide alike, and the integer
    logits (N, classes). Raises :class:`~quant.lowering.verify.Mismatch` when integers differ.
    """
    some = torch.arange(len(dataset.test))[:most]
    progress.compared(0, len(some))
    predicted = loop.predict(model, dataset.test).numpy()
    host = HostRunner(flat(model)) if is_hybrid(model) else None
    size = 2 * sum(8 * math.prod(tensor.shape) for tensor in graph.header.tensors)
    parts = []
    for part in some.split(min(CHECKED, max(1, CHECKED_BYTES // size))):
        parts.append(verify.verify(graph, integers(dataset.test.batch(part)[0]), host=host))
        progress.compared(int(part[-1]) + 1, len(some))
    logits = np.concatenate(parts)
    decided, labels = logits.argmax(1), dataset.test.labels
    accuracies = {
        "quantised": float((predicted == labels).mean()),
        "integer": float((decided == labels[: len(some)]).mean()),
    }
    return accuracies, float((predicted[: len(some)] == decided).mean()), logits


def save_vectors(
    run: RunFolder,
    dataset: data.Dataset,
    graph: IntGraph,
    logits: np.ndarray,
    accuracies: dict[str, float],
    host: golden.HostCallback | None,
) -> None:
    """Export of the first test samples with their logits, for the simulation of the accelerator.

    With a ``host`` also of what comes from it to the accelerator in the first of them.
    """
    some = torch.arange(min(VECTORS, len(logits)))
    inputs = integers(dataset.test.batch(some)[0])
    codes = {}
    if host is not None:
        tensors = golden.run(graph, tuple(array[:OFFLOADED_TEXTS] for array in inputs), host)
        codes = {
            name: tensors[name].astype(np.uint8)
            for node in graph.nodes
            if isinstance(node, Host)
            for name in node.outputs
        }
    run.save_vectors(
        Vectors.of(
            graph,
            inputs,
            logits[: len(some)],
            labels=dataset.test.labels[: len(some)],
            codes=codes,
            accuracies=accuracies,
        )
    )
