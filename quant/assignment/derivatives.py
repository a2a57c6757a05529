# SPDX-License-Identifier: Apache-2.0
"""Derivatives at the outputs of a network's layers, of every image apart.

What :mod:`quant.assignment.sensitivity` is made from: with ``diag(p) - p p^T = L L^T``, ``delta_c``
is the derivative of ``L_c . logits`` at a layer's output, one backward pass per column c of L."""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant.nn import layers
from quant.nn.tail import without_tails

Inputs = Tensor | tuple[Tensor, ...]
Weighted = nn.Conv2d | nn.Linear

#: Up to this number of classes the factor of ``diag(p) - p p^T`` is exact.
EXACT_CLASSES = 32
#: Labels that are drawn from p for every image where there are more classes.
SAMPLES = 16
#: Bytes of what a batch leaves behind for its backward passes, and of other short-lived tensors.
WORKSPACE = 1 << 29


def weighted(model: nn.Module) -> dict[str, Weighted]:
    """Convolutions and linear layers by name, in order of definition, but for exact copies."""
    return {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and not isinstance(m, layers.CopyLayer)
    }


@contextlib.contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Context with ``model`` in float mode, without tails, and parameters without gradients."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with layers.float_mode(model), without_tails(model):
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


class Layer:
    """Layer as a linear map of each row's weights: (n, rows, positions) from (rows, terms)."""

    def __init__(self, module: Weighted, a: Tensor, out: Tensor) -> None:
        self.module = module
        self.conv = module if isinstance(module, nn.Conv2d) else None
        self.groups = 1 if self.conv is None else self.conv.groups
        self.rows, self.terms = len(module.weight), module.weight[0].numel()
        self.positions = out.numel() // self.rows  # of one image
        self.inputs = a.numel()

    @staticmethod
    def padded(module: Weighted, a: Tensor, count: int) -> Tensor:
        """Input as the layer's weights meet it: a padded image, or (count, positions, terms)."""
        if isinstance(module, nn.Linear):
            return a.reshape(count, -1, a.shape[-1])
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        return F.pad(a, module._reversed_padding_repeated_twice, mode=mode)

    def apply(self, a: Tensor, v: Tensor) -> Tensor:
        """Sums (n, rows, positions) with the weights ``v`` (rows, terms) for the layer's."""
        if self.conv is None:
            return F.linear(a, v).mT
        m = self.conv
        return F.conv2d(a, v.view_as(m.weight), None, m.stride, 0, m.dilation, m.groups).flatten(2)

    def patches(self, a: Tensor) -> Tensor:
        """Factors of the weights: (n, groups, positions, terms)."""
        if self.conv is None:
            return a[:, None]
        m = self.conv
        unfolded = F.unfold(a, m.kernel_size, m.dilation, 0, m.stride)
        return unfolded.view(len(a), self.groups, self.terms, -1).mT

    def row_gradients(self, a: Tensor, delta: Tensor) -> Tensor:
        """Gradients (rows, n * columns, terms) of delta (n, rows, columns, positions)."""
        n, rows, columns, positions = delta.shape
        grouped = delta.view(n, self.groups, -1, positions) @ self.patches(a)
        return grouped.view(n, rows, columns, -1).transpose(0, 1).reshape(rows, n * columns, -1)

    def squared_gradients(self, a: Tensor, delta: Tensor) -> Tensor:
        """Squared norms (rows,) of the row gradients, summed over everything but rows."""
        _, rows, columns, positions = delta.shape
        total = torch.zeros(rows, dtype=delta.dtype, device=delta.device)
        size = self.terms * self.groups * positions + rows * columns * max(self.terms, positions)
        for a_part, part in pieces(a, delta, size, WORKSPACE):
            grouped = part.view(len(part), self.groups, -1, positions)
            patches = self.patches(a_part)
            if positions < self.terms:
                norms = (grouped @ (patches @ patches.mT) * grouped).sum(3)
            else:
                norms = (grouped @ patches).square_().sum(3)
            total += norms.view(-1, rows, columns).sum((0, 2))
        return total


def pieces(a: Tensor, delta: Tensor, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of ``a`` (n, ...) and ``delta`` (n, ...), cut along the images.

    ``limit`` bytes hold ``size`` elements for each image of a part.
    """
    n = max(1, limit // (size * delta.element_size()))
    return zip(a.split(n), delta.split(n), strict=True)


class Sweep:
    """Forward and backward passes over the inputs, batch by batch.

    Of use inside :func:`measuring`. ``columns`` is the number of backward passes for a batch,
    ``layers`` holds the layers that the network calls, in the order of the calls. Where the network
    gives something else than logits, such as maps, its results take the place of the loss: squares
    of their changes, in SAMPLES random directions.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, seed: int) -> None:
        self.model, self.seed = model, seed
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.count = len(self.inputs[0])
        self.modules = weighted(model)
        self._look(tuple(x[:1] for x in self.inputs))

    def _look(self, one: tuple[Tensor, ...]) -> None:
        """Learn the sizes of everything from one image."""
        with torch.no_grad(), _Recorder(self.modules, 1) as record:
            logits = self._values(one)
        self.device, self.dtype = logits.device, logits.dtype
        self.layers = {
            name: Layer(self.modules[_module(name)], record.inputs[name], out)
            for name, out in record.outputs.items()
        }
        exact = self.classifies and logits.shape[1] <= EXACT_CLASSES
        self.columns = logits.shape[1] - 1 if exact else SAMPLES
        generator = torch.Generator().manual_seed(self.seed)
        self.draws = None if exact else torch.rand(self.count, 1, generator=generator)
        if not self.classifies:
            signs = torch.randint(2, (SAMPLES, *logits.shape[1:]), generator=generator)
            self.signs = (2 * signs - 1).to(logits) / math.sqrt(SAMPLES)
        outputs = sum(layer.rows * layer.positions for layer in self.layers.values())
        # Autograd keeps about three tensors (convolution, batch-norm, activation) for each output.
        size = outputs * (3 + self.columns) * logits.element_size()
        self.batches = torch.arange(self.count).split(max(1, min(64, WORKSPACE // size)))

    def _values(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, classes), or all values of another network's results, (N, values)."""
        results = self.model(*inputs)
        self.classifies = (
            isinstance(results, Tensor) and results.dim() == 2 and results.shape[1] > 1
        )
        if self.classifies:
            return results
        values = [
            r.flatten(1) for r in tree_leaves(results) if isinstance(r, Tensor) and r.dim() > 1
        ]
        if not values:
            raise ValueError("the network gives no values of several dimensions")
        return torch.cat(values, 1)

    def run(self, names: list[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        """Padded input and delta (n, rows, columns, positions) of each batch, by layer."""
        modules = {_module(name): self.modules[_module(name)] for name in names}
        for batch in self.batches:
            part = slice(int(batch[0]), int(batch[-1]) + 1)
            with torch.enable_grad(), _Recorder(modules, len(batch), names) as record:
                logits = self._values(tuple(x[part] for x in self.inputs))
            if self.classifies:
                draws = None if self.draws is None else self.draws[part].to(logits.device)
                cotangents = _cotangents(logits.detach().softmax(1), draws, self.columns)
            else:
                cotangents = self.signs[:, None].expand(-1, len(logits), -1)
            yield self._backward(logits, cotangents, record)

    def _backward(self, logits: Tensor, cotangents: Tensor, record: "_Recorder") -> dict:
        n, columns = len(logits), len(cotangents)
        deltas = {
            name: logits.new_empty(n, layer.rows, columns, layer.positions)
            for name, layer in self.layers.items()
            if name in record.outputs
        }
        outputs = list(record.outputs.values())
        for c, cotangent in enumerate(cotangents):
            gradients = torch.autograd.grad(
                logits, outputs, cotangent, materialize_grads=True, retain_graph=c + 1 < columns
            )
            for name, gradient in zip(record.outputs, gradients, strict=True):
                layer = self.layers[name]
                if layer.conv is None:
                    deltas[name][:, :, c] = gradient.reshape(n, -1, layer.rows).mT
                else:
                    deltas[name][:, :, c] = gradient.flatten(2)
        return {name: (record.inputs[name], delta) for name, delta in deltas.items()}

    def complete(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values (O,) of all layers by name, in order of definition.

        Those of several calls of a layer are added. Rows of layers that were never called have no
        influence: zeros.
        """
        total = {}
        for call, values in found.items():
            name = _module(call)
            total[name] = total[name] + values if name in total else values
        return {
            name: total[name]
            if name in total
            else torch.zeros(len(module.weight), dtype=self.dtype, device=self.device)
            for name, module in self.modules.items()
        }


def _module(call: str) -> str:
    """Name of the layer of a call: ``layer``, or ``layer#2`` for its second."""
    return call.partition("#")[0]


class _Recorder:
    """Keeps input and output of each layer during a forward pass, in the order of the calls.

    ``calls`` names the calls that are of interest, by default all.
    """

    def __init__(
        self, modules: dict[str, Weighted], count: int, calls: Collection[str] | None = None
    ) -> None:
        self.modules, self.count, self.calls = modules, count, calls
        self.inputs, self.outputs = {}, {}

    def __enter__(self) -> "_Recorder":
        self.handles = [m.register_forward_hook(self._hook(n)) for n, m in self.modules.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[Any, tuple[Tensor], Tensor], Tensor]:
        counter = itertools.count(1)

        def keep(module: Weighted, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            number = next(counter)
            call = name if number == 1 else f"{name}#{number}"
            if self.calls is not None and call not in self.calls:
                return output
            if isinstance(module, nn.Conv2d) and len(output) != self.count:
                raise ValueError(f"layer {name} does not have the batch as its first axis")
            self.inputs[call] = Layer.padded(module, inputs[0].detach(), self.count)
            # Parameters have no gradients, so autograd records from the first of the layers on.
            self.outputs[call] = output if output.requires_grad else output.requires_grad_()
            return output.clone()  # may be changed in place

        return keep


def _cotangents(p: Tensor, draws: Tensor | None, columns: int) -> Tensor:
    """Columns of L with ``L L^T = diag(p) - p p^T``, (columns, N, classes).

    ``draws`` (N, 1) in 0..1 asks for an unbiased estimate from labels drawn evenly along the
    cumulative distribution. Without, L is the Cholesky factor, which has a closed form and, the
    matrix being singular, one column less than classes.
    """
    if draws is not None:
        points = (torch.arange(columns, device=p.device) + draws) / columns
        labels = torch.searchsorted(p.double().cumsum(1), points.double(), right=True)
        chosen = F.one_hot(labels.clamp(max=p.shape[1] - 1).T, p.shape[1])
        return (chosen.to(p.dtype) - p) / math.sqrt(columns)
    tail = p.flip(1).cumsum(1).flip(1).clamp_min(torch.finfo(p.dtype).tiny)
    diagonal = (p[:, :-1] * tail[:, 1:] / tail[:, :-1]).sqrt()
    below = (p[:, None] / tail[:, 1:, None]).triu(1)
    unit = torch.eye(columns, p.shape[1], dtype=p.dtype, device=p.device)
    return ((unit - below) * diagonal[..., None]).transpose(0, 1)
