# SPDX-License-Identifier: Apache-2.0
"""Steps from a float PyTorch model to the integer graph."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from ir.board_arrays import board_array
from ir.graph import IntGraph
from ir.ratio import Ratio
from ir.vectors import Vectors, beside
from quant.assignment.methods import method as find_method
from quant.data.splits import EVERYTHING, Split, labels_of
from quant.lowering import export as lowering
from quant.lowering import quantise as flow
from quant.lowering import verify
from quant.training import loop
from quant.training.progress import Progress

OPTIMISERS = ("sgd", "adamw")
TILE_ROWS = 16  #: of an array that no board was named for
MIX = "mix"  #: place of ratio and rows of a tile in a model's ``meta``


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
        Decides ratio and rows of a tile by the array that suits it, see ``boards/arrays``.
    ratio : str, optional
        PoT-4 : Fixed-4 : Fixed-8 in percent, such as ``"65:30:5"`` (the default without a board).
    tile_rows : int, optional
        Row lanes of the array (default: those of the board's array, else 16).
    method : str
        ``rmsmp`` or a baseline of :data:`quant.assignment.methods.METHODS`.
    act_bits : int
        4 or 8, of the activations that layers read.
    first_last : str
        ``"same"``, or ``"w8a8"`` for 8 bits in the first and the last layer.

    Raises
    ------
    UnsupportedLayer
        For an operation that the accelerator does not compute, by its name in the model.
    ValueError
        For a board, ratio, method or calibration images that make no sense.
    """
    array = board_array(board) if board else None
    if ratio is None and array and method == "rmsmp":
        ratio = str(array.ratio)
    rows = tile_rows if tile_rows is not None else array.rows if array else TILE_ROWS
    if rows < 1:
        raise ValueError(f"tile_rows must be at least 1, not {rows}")
    quantised = flow.quantise(
        model,
        images,
        ratio=ratio,
        tile_rows=rows,
        method=method,
        act_bits=act_bits,
        first_last=first_last,
    )
    quantised.meta[MIX] = (str(find_method(method, ratio).ratio), rows)
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
    """Train a classifier, float or quantised, in place; loss and accuracy of each epoch.

    Cross-entropy, a cosine schedule after a warm-up, batch-norm statistics measured again at the
    end where that lowers the loss. A loop of your own does as well: a quantised model is an
    ordinary module, whose scales are kept in range after every step of an optimiser.

    Parameters
    ----------
    images : Tensor
        Float (N, C, H, W) with values in 0..1.
    labels : Tensor or sequence of int
        Class of each image, 0..classes - 1.
    batch_size : int
        At most N; images that do not fill a last batch are left out, others in each epoch.
    optimiser : str
        ``"sgd"`` with Nesterov momentum 0.9, or ``"adamw"``.

    Raises
    ------
    ValueError
        For options that make no sense, and labels that are not those of the images.
    quant.training.loop.Diverged
        Where the loss is no number or stays far above that of guessing.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, not {epochs}, {batch_size}")
    if optimiser not in OPTIMISERS:
        raise ValueError(f"unknown optimiser {optimiser!r}; known are {', '.join(OPTIMISERS)}")
    data = _Samples(images, labels)
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
    """Share of ``images`` (N, C, H, W) that ``model`` classifies right, 0..1; in evaluation."""
    return loop.accuracy(model, _Samples(images, labels))


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
    ValueError
        For images that are none of the network's. The files at ``path`` are then as they were.
    quant.lowering.verify.Mismatch
        Where the two integer models disagree, a defect of ours.
    """
    if MIX not in getattr(model, "meta", {}):
        raise ValueError("export needs a model that rmsmp.quantise made")
    ratio, tile_rows = model.meta[MIX]
    path = Path(path)
    example = torch.zeros(1, *_input_shape(model))
    model.eval()
    graph = lowering.export(
        model,
        example,
        name=name or path.stem,
        ratio=Ratio.parse(ratio),
        tile_rows=tile_rows,
        class_names=tuple(class_names),
    )
    vectors = None if images is None else _vectors(graph, images, labels)
    graph.save(path)  # after all checks: until here the former files stay
    beside(path).unlink(missing_ok=True)  # of the graph that was there before
    if vectors is not None:
        vectors.save(beside(path))
    return graph


def _vectors(graph: IntGraph, images: Tensor, labels: Tensor | Sequence[int] | None) -> Vectors:
    """Test vectors of ``images``, on which the integer models agree."""
    shape = tuple(graph.input.shape)
    if tuple(images.shape[1:]) != shape or not len(images):
        raise ValueError(f"images must have the shape (N, {', '.join(map(str, shape))}) with N > 0")
    if not (images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all())):
        raise ValueError("images must be float with values in 0..1: divide pixels by 255")
    pixels = images.mul(255).round().to(torch.int64).cpu().numpy()
    logits = verify.verify(graph, pixels)
    right = None if labels is None else np.asarray(labels, np.int64)
    return Vectors.of(graph, pixels.astype(np.uint8), logits, labels=right)


def _input_shape(model: fx.GraphModule) -> tuple[int, ...]:
    """Shape of one input, without the batch."""
    placeholder = next(node for node in model.graph.nodes if node.op == "placeholder")
    return tuple(int(size) for size in placeholder.meta["shape"][1:])


class _Samples(Split):
    """Images in memory, float (N, C, H, W), with labels (N,)."""

    def __init__(self, images: Tensor, labels: Tensor | Sequence[int] | np.ndarray) -> None:
        self.images = images
        self.labels = np.asarray(labels, np.int64)
        if self.labels.shape != tuple(images.shape[:1]) or not len(images):
            raise ValueError(
                f"{len(images)} images need as many labels, not labels {self.labels.shape}"
            )
        self.shape = tuple(images.shape[1:])

    def to(self, device: str | torch.device) -> Self:
        return type(self)(self.images.to(device), self.labels)

    def first(self, count: int | None) -> Self:
        return type(self)(self.images[:count], self.labels[:count])

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[Tensor, Tensor]:
        chosen = indices[part]
        return self.images[chosen], labels_of(self, chosen, self.images.device)
