# SPDX-License-Identifier: Apache-2.0
"""Sensitivity of each weight row: largest Hessian eigenvalue, Fisher trace, or chance.

In a network of piecewise linear operations with fixed batch-norm, logits are piecewise linear in
the weights of one layer, so a row's block of the Hessian of the mean cross entropy *is* its
Gauss-Newton block ``H_j = 1/N sum_n J_n^T (diag(p) - p p^T) J_n``. In networks with smooth parts
(GELU, softmax and layer-norm of BERT) the block is the Gauss-Newton approximation of the Hessian.

With ``diag(p) - p p^T = L L^T`` one backward pass per column c of L gives ``delta_c``, the
derivative of ``L_c . logits`` at the layer's output. A product of all rows' blocks with a vector
each is then

    ``t[n, j, c] = <delta_c[n, j], layer(a; v)[n, j]>``         one forward convolution
    ``H_j v_j = 1/N sum_{n, c} t[n, j, c] * dlayer_j^T delta_c``  one weight-gradient convolution

for all rows j together. A product of the whole Hessian with all vectors at once would mix the rows.
Layers with few weights per row and many pixels form their blocks instead, which needs less time
and holds no derivatives.

Algorithm 1's power iteration becomes a Lanczos iteration: the same products, but the Rayleigh
quotient is the largest over all combinations of the vectors so far instead of that of the last.
"""

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quant.assignment.derivatives import (
    WORKSPACE,
    Inputs,
    Layer,
    Sweep,
    measuring,
    pieces,
    weighted,
)
from quant.assignment.errors import row_errors, savings

Report = Callable[[int, int], None]

#: Bytes of derivatives that are used at a time, to be read from the cache the second time.
TILE = 1 << 24


def row_scores(
    kind: str,
    model: nn.Module,
    inputs: Inputs,
    *,
    iterations: int = 20,
    seed: int = 0,
    report: Report | None = None,
) -> dict[str, Tensor]:
    """Scores (O,) of the rows of every layer, by its name; larger is more sensitive.

    ``kind`` is ``hessian`` (:func:`row_eigenvalues`), ``fisher`` (:func:`row_traces`), ``error``
    (what Fixed-8 saves, :mod:`quant.assignment.errors`) or ``random``, a control that looks at
    neither weights nor inputs; ValueError for others.
    """
    if kind == "hessian":
        return row_eigenvalues(model, inputs, iterations=iterations, seed=seed, report=report)
    if kind == "fisher":
        return row_traces(model, inputs, seed=seed, report=report)
    if kind == "error":
        return savings(row_errors(model, inputs, seed=seed, report=report))
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.rand(len(module.weight), generator=generator)
            for name, module in weighted(model).items()
        }
    raise ValueError(f"unknown score {kind!r}: it is one of hessian, fisher, error, random")


def row_eigenvalues(
    model: nn.Module,
    inputs: Inputs,
    *,
    iterations: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
    memory: int | None = None,
    report: Report | None = None,
) -> dict[str, Tensor]:
    """Largest Hessian eigenvalue (O,) of each row of every convolution and linear layer, by name.

    The float network is measured: quantisers are off, batch-norm uses its running statistics. The
    result depends neither on labels nor, but for rounding, on how the inputs are cut into batches.
    With more than EXACT_CLASSES classes it is an estimate from SAMPLES labels per image drawn from
    the network's own output.

    Parameters
    ----------
    model : maps the inputs to logits (N, classes); of a layer that is called several
        times the values of its calls are added
    inputs : a tensor, or a tuple of them, batch first
    iterations : most products with the Hessian per layer
    tolerance : a layer is done when no row's value grew by more than this fraction in an iteration
    memory : bytes of derivatives that are held at a time, by default a quarter of the machine's (or
        GPU's) memory. With less, backward passes are repeated. A layer that alone needs more takes
        what it needs.
    report : called with (steps done, steps in all)
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    with measuring(model):
        sweep = Sweep(model, inputs, seed)
        products = {
            name: _product(layer, sweep, iterations) for name, layer in sweep.layers.items()
        }
        groups = _groups(products, _quarter(sweep.device) if memory is None else memory)
        step = _steps(report, len(groups) * len(sweep.batches) + len(products))
        for group in groups:
            for factors in sweep.run(group):
                for name, (a, delta) in factors.items():
                    products[name].add(a, delta)
                del factors
                step()
            for name in group:
                layer = sweep.layers[name]
                start = torch.randn(layer.rows, layer.terms, generator=generator)
                # Taken out, so that its memory is free afterwards.
                found[name] = _lanczos(
                    products.pop(name), start.to(sweep.device, sweep.dtype), iterations, tolerance
                )
                step()
    return sweep.complete(found)


def row_traces(
    model: nn.Module, inputs: Inputs, *, seed: int = 0, report: Report | None = None
) -> dict[str, Tensor]:
    """Trace (O,) of each row's Hessian block, the sum of its eigenvalues, by layer name.

    It is the mean over the inputs of the expected squared norm of the row's gradient of
    ``log p(y)``, y distributed like the network's own output: the diagonal of the Fisher
    information. The expectation is exact up to EXACT_CLASSES classes, else over SAMPLES labels.
    """
    with measuring(model):
        sweep = Sweep(model, inputs, seed)
        found = {
            name: torch.zeros(layer.rows, dtype=sweep.dtype, device=sweep.device)
            for name, layer in sweep.layers.items()
        }
        step = _steps(report, len(sweep.batches))
        for factors in sweep.run(list(found)):
            for name, (a, delta) in factors.items():
                found[name] += sweep.layers[name].squared_gradients(a, delta) / sweep.count
            del factors
            step()
    return sweep.complete(found)


def _quarter(device: torch.device) -> int:
    """Bytes of a quarter of the physical memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _steps(report: Report | None, total: int) -> Callable[[], None]:
    """A function that reports one more step."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if report:
            report(done, total)

    return step


class _Block:
    """Products with blocks that are formed, (rows, terms, terms)."""

    def __init__(self, layer: Layer, sweep: Sweep) -> None:
        self.layer, self.count = layer, sweep.count
        self.shape = (layer.rows, layer.terms, layer.terms)
        self.bytes = math.prod(self.shape) * sweep.dtype.itemsize
        self.multiplications = sweep.columns * (layer.positions + layer.terms)
        self.blocks: Tensor | None = None

    def add(self, a: Tensor, delta: Tensor) -> None:
        if self.blocks is None:
            self.blocks = delta.new_zeros(self.shape)
        _, rows, columns, positions = delta.shape
        size = self.layer.terms * (self.layer.groups * positions + 2 * rows * columns)
        for a_part, part in pieces(a, delta, size, WORKSPACE):
            gradients = self.layer.row_gradients(a_part, part)
            self.blocks.baddbmm_(gradients.mT, gradients, alpha=1 / self.count)

    def __call__(self, v: Tensor) -> Tensor:
        if self.blocks is None:  # of no images
            return torch.zeros_like(v)
        return torch.bmm(self.blocks, v[..., None])[..., 0]


class _Factors:
    """Products through the layer with the derivatives that are held."""

    def __init__(self, layer: Layer, sweep: Sweep, iterations: int) -> None:
        self.layer, self.count = layer, sweep.count
        image = layer.rows * layer.positions * sweep.columns + layer.inputs
        self.bytes = image * sweep.count * sweep.dtype.itemsize
        self.multiplications = 2 * layer.positions * iterations
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, a: Tensor, delta: Tensor) -> None:
        self.parts.append((a, delta))

    def __call__(self, v: Tensor) -> Tensor:
        v = v.detach().requires_grad_()
        product = torch.zeros_like(v)
        for inputs, deltas in self.parts:
            for a, delta in pieces(inputs, deltas, deltas[0].numel(), TILE):
                with torch.enable_grad():
                    out = self.layer.apply(a, v)
                factors = delta.flatten(0, 1)  # (n * rows, columns, positions)
                t = torch.bmm(factors, out.detach().reshape(len(factors), -1, 1))
                weighted = torch.bmm(t.mT, factors).view_as(out)
                product += torch.autograd.grad(out, v, weighted)[0]
        return product / self.count


def _product(layer: Layer, sweep: Sweep, iterations: int) -> _Block | _Factors:
    """The form that needs fewer multiplications per image and weight, if it needs less memory."""
    block, factors = _Block(layer, sweep), _Factors(layer, sweep, iterations)
    cheaper = block.multiplications < factors.multiplications and block.bytes < factors.bytes
    return block if cheaper else factors


def _groups(products: dict[str, _Block | _Factors], memory: int) -> list[list[str]]:
    """Cut the layers, in the order of their calls, so that each group's bytes fit ``memory``."""
    groups, free = [], 0
    for name, product in products.items():
        if not groups or product.bytes > free:
            groups.append([])
            free = memory
        groups[-1].append(name)
        free -= product.bytes
    return groups


@torch.no_grad()
def _lanczos(
    product: Callable[[Tensor], Tensor], v: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Largest eigenvalue of each row's positive semidefinite matrix, from start vectors ``v``."""
    eps = torch.finfo(v.dtype).eps
    v = v / v.norm(dim=1, keepdim=True)
    previous, beta = torch.zeros_like(v), v.new_zeros(len(v), 1)
    value = v.new_zeros(len(v))
    # The matrix in the basis of the vectors so far. float64: its entries differ in magnitude.
    small = torch.zeros(len(v), iterations, iterations, dtype=torch.float64, device=v.device)
    for k in range(iterations):
        w = product(v) - beta * previous
        alpha = (w * v).sum(1, keepdim=True)
        w -= alpha * v
        small[:, k, k] = alpha[:, 0]
        if k:
            small[:, k, k - 1] = beta[:, 0]  # eigvalsh reads the lower half
        last, value = value, torch.linalg.eigvalsh(small[:, : k + 1, : k + 1])[:, -1].to(v.dtype)
        if (value - last <= tolerance * value).all():
            break
        beta = w.norm(dim=1, keepdim=True, dtype=torch.float64).to(v.dtype)  # squares underflow
        # Where only rounding is left, the vectors span all that the product can reach.
        beta *= beta > eps * value[:, None]
        previous, v = v, torch.where(beta > 0, w / beta, 0)
    return value
