# SPDX-License-Identifier: Apache-2.0
"""Largest Hessian eigenvalue of every weight row, of all rows of a layer at once.

In a network of piecewise linear operations with fixed batch-norm, logits are piecewise linear in
the weights of one layer, so a row's block of the Hessian of the mean cross entropy *is* its
Gauss-Newton block ``1/N sum_n J_n^T (diag(p) - p p^T) J_n``. With ``diag(p) - p p^T = S S^T``,
``S = (I - p 1^T) diag(sqrt p)``, one backward pass per class c gives ``delta_c``, the derivative of
``S_c . logits`` at the layer's output, and one step of the power iteration is

    ``t[c, n, j] = <delta_c[n, j], layer(a; v)[n, j]>``        one forward convolution
    ``H_j v_j = 1/N sum_{c, n} t[c, n, j] * dlayer_j^T delta_c``  one weight-gradient convolution

for all rows j together. A product of the whole Hessian with all vectors at once would mix the rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant import layers

#: Bytes of derivatives that are held at a time.
MEMORY = 1 << 30


def row_eigenvalues(model: nn.Module, images: Tensor, *, iterations: int = 10, seed: int = 0,
                    batch: int = 256) -> dict[str, Tensor]:
    """Largest eigenvalue (Rayleigh quotient) per row of every layer with weights, by layer name.

    The float network is measured: quantisers are off, batch-norm uses its running statistics. The
    result does not depend on labels.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    generator = torch.Generator().manual_seed(seed)
    result = {}
    with layers.float_mode(model):
        for group in _groups(model, found, images):
            factors = [_factors(model, group, part) for part in images.split(batch)]
            for name, layer in group.items():
                start = torch.randn(layer.weight.shape, generator=generator,
                                    dtype=layer.weight.dtype).to(layer.weight.device)
                parts = [(f[name][0], f[name][1]) for f in factors]
                result[name] = _power_iteration(layer, parts, start, iterations, len(images))
    return result


def _groups(model: nn.Module, found: dict[str, nn.Module], images: Tensor) -> list[dict]:
    """Split the layers so that the derivatives of each group fit MEMORY."""
    with torch.no_grad(), _Recorder(found) as record:
        classes = model(images[:1]).shape[1]
    groups, free = [], 0
    for name, layer in found.items():
        need = record.outputs[name].numel() * classes * len(images) * images.element_size()
        if need > free:
            groups.append({})
            free = MEMORY
        groups[-1][name] = layer
        free -= need
    return groups


class _Recorder:
    """Keeps input and output of each layer during a forward pass."""

    def __init__(self, found: dict[str, nn.Module]) -> None:
        self.found, self.inputs, self.outputs = found, {}, {}

    def __enter__(self) -> "_Recorder":
        self.handles = [m.register_forward_hook(self._hook(n)) for n, m in self.found.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str):
        def keep(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = inputs[0].detach(), output
        return keep


def _factors(model: nn.Module, group: dict[str, nn.Module], images: Tensor) -> dict[str, tuple]:
    """For each layer its input and ``delta`` (classes, N, O, ...)."""
    with _Recorder(group) as record:
        logits = model(images)
    p = logits.detach().softmax(1)
    outputs = list(record.outputs.values())
    deltas = []
    for c in range(p.shape[1]):
        cotangent = -p.clone()
        cotangent[:, c] += 1
        deltas.append(torch.autograd.grad(logits, outputs, p[:, c:c + 1].sqrt() * cotangent,
                                          retain_graph=c + 1 < p.shape[1]))
    return {name: (record.inputs[name], torch.stack([d[i] for d in deltas]))
            for i, name in enumerate(record.outputs)}


@torch.no_grad()
def _power_iteration(layer: nn.Module, parts: list[tuple[Tensor, Tensor]], v: Tensor,
                     iterations: int, count: int) -> Tensor:
    eigenvalue = torch.zeros(len(v), dtype=v.dtype, device=v.device)
    for _ in range(iterations):
        norm = v.flatten(1).norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)
        v = v / norm.view(-1, *[1] * (v.dim() - 1))
        product = torch.zeros_like(v)
        eigenvalue.zero_()
        for a, delta in parts:
            out = _apply(layer, a, v)
            t = (delta * out).flatten(3).sum(3) if delta.dim() > 3 else delta * out
            eigenvalue += t.square().sum((0, 1)) / count
            weights = t.view(*t.shape, *[1] * (delta.dim() - 3))
            product += _weight_gradient(layer, a, (weights * delta).sum(0)) / count
        v = product
    return eigenvalue


def _apply(layer: nn.Module, a: Tensor, v: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(a, v)
    return F.conv2d(a, v, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _weight_gradient(layer: nn.Module, a: Tensor, cotangent: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return cotangent.T @ a
    return torch.nn.grad.conv2d_weight(a, layer.weight.shape, cotangent, layer.stride,
                                       layer.padding, layer.dilation, layer.groups)
