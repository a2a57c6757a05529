# SPDX-License-Identifier: Apache-2.0
"""Steps from a float PyTorch model to the integer graph."""

import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ir import cli
from ir.graph import IntGraph
from ir.ratio import Ratio
from ir.vectors import Vectors, beside
from quant.calibration import quantise as flow
from quant.capture.nodes import note_shapes
from quant.lowering import export as lowering
from quant.lowering import verify
from quant.lowering.dry_run import untrained_graph
from quant.nn.layers import quantised_layers
from quant.nn.modes import evaluating
from quant.training import loop
from quant.training.progress import Progress
from rmsmp.samples import Samples, check_classes, checked_images, checked_labels

TILE_ROWS = 16  #: of an array that no board was named for
ORIGIN = "origin"  #: attribute of a model's layers, which outlives copies and files of it


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What :func:`quantise` made a model for; shape of one input without the batch."""

    ratio: str
    tile_rows: int
    input_shape: tuple[int, ...]


def from_onnx(
    path: str | os.PathLike[str], *, shape: Sequence[int] | None = None
) -> fx.GraphModule:
    """Float network in an ONNX file, to quantise and to train, with its weights as parameters.

    Parameters
    ----------
    path : str
        The file; docs/onnx.md lists the operators.
    shape : sequence of int, optional
        (C, H, W) of the images, where the file leaves sizes open.

    Raises
    ------
    ValueError
        In one line, for what is no ONNX model or cannot be read, by the name of the node.
    """
    from quant.onnx import read

    return read.from_onnx(Path(path), shape=shape)


def from_qonnx(
    path: str | os.PathLike[str], images: Tensor, *, tile_rows: int = TILE_ROWS
) -> fx.GraphModule:
    """Quantised network of Brevitas in a QONNX file, ready to train or export.

    Weights keep their values, as Fixed-4 or Fixed-8 rows, activations their bits and scales.

    Parameters
    ----------
    path : str
        The file.
    images : Tensor
        Float (N, C, H, W) with values in 0..1. Activations are calibrated on them where the file
        has no grid; a warning names these, and quantisers of the file that are left out.
    tile_rows : int
        Row lanes of the array.

    Raises
    ------
    ValueError
        In one line, for what is no such file, and for grids that ours do not hold, by the node.
    """
    from quant.onnx import qonnx

    images = checked_images(images)
    found = qonnx.from_qonnx(path if isinstance(path, str) else Path(path), images)
    for what, names in (
        ("calibrated on the images, as it has no grid for them", found.calibrated),
        ("left out, where this network is more exact", found.left_out),
    ):
        if names:
            warnings.warn(f"{path}: {what}: {', '.join(names)}", stacklevel=2)
    shape = tuple(images.shape[1:])
    for layer in quantised_layers(found.model).values():
        setattr(layer, ORIGIN, _Origin(str(found.ratio), tile_rows, shape))
    return found.model


def quantise(
    model: nn.Module,
    images: Tensor,
    *,
    board: str | None = None,
    ratio: str | None = None,
    tile_rows: int | None = None,
    method: str = "rmsmp",
    act_bits: int = 4,
    first_last: str = "same",
    compensate: bool = False,
) -> fx.GraphModule:
    """Copy of a float ``model`` with quantised weights and activations, ready to train or export.

    Every row (filter) becomes PoT-4, Fixed-4 or Fixed-8: Hessian eigenvalues choose the Fixed-8
    rows, weight variance splits the others (paper, Algorithm 1).

    Parameters
    ----------
    model : nn.Module
        Trained or not; stays as it is. Parameters of the copy keep their names.
    images : Tensor
        Calibration images, float (N, C, H, W) with values in 0..1. Clips of activations are set by
        the first 256, sensitivities of rows by the first 64.
    board : str, optional
        Decides ratio and rows of a tile by the array that :func:`rmsmp.build` will choose on it for
        this network; takes seconds to two minutes.
    ratio : str, optional
        PoT-4 : Fixed-4 : Fixed-8 in percent, such as ``"65:30:5"`` (the default without a board).
    tile_rows : int, optional
        Row lanes of the array (default: those of the array for the board, else 16).
    method : str
        ``rmsmp`` or a baseline of :data:`quant.assignment.methods.METHODS`.
    act_bits : int
        4 or 8, of the activations that layers read.
    first_last : str
        ``"same"``, or ``"w8a8"`` for 8 bits in the first and the last layer.
    compensate : bool
        Make up for the rounding of weights and activations on the first 256 images, at least 2, so
        that the result is of use without training. Rows are then chosen by the errors of their
        sums. Takes minutes for a large network.

    Raises
    ------
    UnsupportedLayer, CompileError
        For what the accelerator, or that of the board, does not compute, by its name in the model.
    ValueError
        For a board, ratio, method or calibration images that make no sense.
    """
    model, images = _unwrapped(model), checked_images(images)
    settled: list[tuple[Ratio, int]] = []

    def settle(prepared: fx.GraphModule, mix: Ratio, rows: int) -> tuple[Ratio, int]:
        """Ratio and rows, once export and compiler will take the network."""
        graph = untrained_graph(prepared, images[:2], mix, rows)
        compiler = cli.optional("gateware.check")
        if compiler is not None and board:
            given = mix if ratio or method != "rmsmp" else None
            mix, rows = compiler.array_for(graph, board, given, tile_rows)
        elif compiler is not None:
            compiler.check(graph)
        settled.append((mix, rows))
        return mix, rows

    quantised = flow.quantise(
        model,
        images,
        ratio=ratio,
        tile_rows=TILE_ROWS if tile_rows is None else tile_rows,
        method=method,
        act_bits=act_bits,
        first_last=first_last,
        compensate=compensate,
        settle=settle,
    )
    (mix, rows), shape = settled[-1], tuple(images.shape[1:])
    for layer in quantised_layers(quantised).values():
        setattr(layer, ORIGIN, _Origin(str(mix), rows, shape))
    return quantised


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    epochs: int = 1,
    batch_size: int = 32,
    lr: float = 0.01,
    weight_decay: float = 1e-4,
    optimiser: str = "sgd",
    seed: int = 1,
    quiet: bool = False,
) -> list[loop.EpochResult]:
    """Training of a classifier, float or quantised, in place; returns the means of each epoch.

    Cross-entropy, a cosine schedule after a warm-up, batch-norm statistics measured again at the
    end where that lowers the loss. A loop of your own does as well: a quantised model is an
    ordinary module, whose scales are kept in range after every step of an optimiser.

    Parameters
    ----------
    images : Tensor
        Float (N, C, H, W) with values in 0..1.
    labels : Tensor or sequence of int
        Class of each image, 0..classes - 1.
    epochs : int
        Passes over the images, at least 1.
    batch_size : int
        At least 1; more than N count as N. Images that do not fill a last batch are left out,
        others in each epoch.
    lr : float
        Peak learning rate, at the end of the warm-up.
    weight_decay : float
        Of the weights; scales, biases and batch-norm have none.
    optimiser : str
        ``"sgd"`` with Nesterov momentum 0.9, or ``"adamw"``.
    seed : int
        Of the order of the images.

    Raises
    ------
    quant.training.loop.Diverged
        Where the loss is no number or stays far above that of guessing.
    ValueError
        For images, labels or numbers that make no sense.
    """
    if not all(isinstance(n, int) and n >= 1 for n in (epochs, batch_size)):
        raise ValueError(f"epochs and batch_size must be at least 1, not {epochs}, {batch_size}")
    data = _samples(model, images, labels)
    trainer = loop.Trainer(
        model,
        data,
        epochs=epochs,
        batch_size=min(batch_size, len(data)),
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        optimiser=optimiser,
    )
    results = []
    with Progress(-1 if quiet else 0) as progress:
        progress.stage("training", epochs, trainer.batches)
        for epoch in range(epochs):
            progress.epoch_begins(epoch + 1)
            results.append(trainer.epoch(progress.batch))
            last = results[-1]
            progress.note(
                f"epoch {epoch + 1}/{epochs}: loss {last.loss:.4f}, accuracy {last.accuracy:.2%}"
            )
    loop.reestimate_batch_norm(model, data, seed=seed)
    model.eval()
    return results


def evaluate(model: nn.Module, images: Tensor, labels: Tensor | Sequence[int]) -> float:
    """Share of ``images`` that ``model`` classifies right, 0..1, in evaluation mode.

    Images are float (N, C, H, W) with values in 0..1, labels (N,) whole numbers in 0..classes - 1.
    Raises ValueError for others.
    """
    return loop.accuracy(model, _samples(model, images, labels))


def export(
    model: fx.GraphModule,
    path: str | os.PathLike[str],
    *,
    images: Tensor | None = None,
    labels: Tensor | Sequence[int] | None = None,
    name: str | None = None,
    class_names: Sequence[str] = (),
) -> IntGraph:
    """Integer graph of a quantised model, checked and written to ``path`` (``.safetensors``).

    Scales move to what the integers can express, by up to 2^-15. On ``images`` torch's integers
    and the golden model must agree in every element of every tensor; the images and their logits
    are written beside the graph, for builds and simulations.

    Parameters
    ----------
    model : fx.GraphModule
        As :func:`quantise` made it, trained or not.
    images : Tensor, optional
        Test images, float (N, C, H, W) with values in 0..1; rounded to 8-bit pixels.
    labels : Tensor or sequence of int, optional
        Their classes, for the build's report and the driver.
    name : str, optional
        Of the network (default: the file's).

    Raises
    ------
    ir.arrays.ExportError
        For a value that the integer formats cannot hold.
    quant.lowering.verify.Mismatch
        Where the two integer models disagree, a defect of ours.
    ValueError
        For a model, name, images, labels or class names that make no sense.
    """
    inner, origin = _quantised(model)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"the name must be a string, not {name!r}")
    pixels, right = _test_vectors(origin, images, labels)
    path = Path(path)
    example = torch.zeros(2, *origin.input_shape)
    with evaluating(inner):
        note_shapes(inner, example)
        graph = lowering.export(
            inner,
            example,
            name=name or path.stem,
            ratio=Ratio.parse(origin.ratio),
            tile_rows=origin.tile_rows,
            class_names=_names(class_names),
        )
    classes = math.prod(graph.output.shape)
    if class_names and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for a network of {classes} classes")
    if right is not None:
        check_classes(right, classes)
    outputs = None if pixels is None else verify.verify_outputs(graph, pixels)
    graph.save(path)
    beside(path).unlink(missing_ok=True)  # of the graph that was there before
    if pixels is not None and outputs is not None:
        logits = outputs.pop(graph.output.name)
        pixels = pixels.astype(np.uint8)
        vectors = Vectors.of(graph, pixels, logits, outputs=outputs, labels=right)
        vectors.save(beside(path))
    return graph


def _quantised(model: nn.Module) -> tuple[fx.GraphModule, _Origin]:
    """The network inside of wrappers, and what :func:`quantise` noted of it."""
    inner = _unwrapped(model)
    origin = _origin_of(inner)
    if origin is None or not isinstance(inner, fx.GraphModule):
        raise ValueError(
            f"export needs a model that rmsmp.quantise made, not {type(inner).__name__}"
        )
    return inner, origin


def _test_vectors(
    origin: _Origin, images: Tensor | None, labels: Tensor | Sequence[int] | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Pixels int64 (N, C, H, W) and labels int64 (N,), of those that are given."""
    if images is None:
        if labels is not None:
            raise ValueError("labels were given without their images")
        return None, None
    _check_shape(origin, checked_images(images))
    pixels = images.detach().double().mul(255).round().to(torch.int64).cpu().numpy()
    return pixels, None if labels is None else checked_labels(labels, len(images))


def _names(class_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"class_names must be a list of strings, not {class_names!r}")
    return tuple(class_names)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of wrappers of PyTorch's, which pass its results on."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the network must be a torch.nn.Module, not {type(model).__name__}")
    inner: object = getattr(model, "_orig_mod", None)  # of torch.compile
    if isinstance(model, nn.DataParallel | DistributedDataParallel | AveragedModel):
        inner = model.module
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def _origin_of(model: nn.Module) -> _Origin | None:
    """What :func:`quantise` noted of a model; None for one of other making."""
    origins = (getattr(layer, ORIGIN, None) for layer in quantised_layers(model).values())
    return next(origins, None)


def _samples(model: nn.Module, images: Tensor, labels: Tensor | Sequence[int]) -> Samples:
    """The samples, which ``model`` can take."""
    samples, inner = Samples(images, labels), _unwrapped(model)
    origin = _origin_of(inner)
    if origin is not None:
        _check_shape(origin, images)
    samples.check_fit(model)
    return samples


def _check_shape(origin: _Origin, images: Tensor) -> None:
    if tuple(images.shape[1:]) != origin.input_shape:
        raise ValueError(
            f"images of shape {tuple(images.shape)} were given, the network was quantised for "
            f"(N, {', '.join(map(str, origin.input_shape))})"
        )
