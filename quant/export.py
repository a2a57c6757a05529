# SPDX-License-Identifier: Apache-2.0
"""From a trained model to the integer graph.

Real values on both sides of a layer (``x = s_in * a`` for the input, ``y = s_out * (q - z)`` for
the output, ``w = alpha * k / d`` for the weights of a row) turn ``gamma * (conv - mean) / sigma +
beta`` into ``q = M/2^S * acc + B/2^S`` with ``M/2^S = |gamma| / sigma * alpha / d * s_in / s_out``.
The sign of gamma moves into the weight values, which are symmetric in all three schemes.
"""

import math

import torch
from torch import Tensor, nn

from quant import numerics
from quant.intgraph import (
    BIAS_LIMIT,
    AvgPool,
    Conv,
    Flatten,
    Header,
    IntGraph,
    LayerArrays,
    Linear,
    Residual,
    TensorSpec,
)
from quant.layers import ActQuantiser, QuantAvgPool, QuantConv2d, QuantLinear
from quant.models.tiny_resnet import BasicBlock, TinyResNet
from quant.prepare import UnsupportedLayer
from quant.quantizers import denominators
from quant.ratio import Ratio

INPUT_SCALE = 1 / 255
MOST_STEPS = 3.99       #: of an output per unit of the sum; M / 2^S is less than 4


class ExportError(ValueError):
    """A trained value that the accelerator's number formats cannot hold."""


def export(model: nn.Module, *, name: str, ratio: Ratio, tile_rows: int,
           input_shape: tuple[int, int, int], class_names: tuple[str, ...] = (),
           provenance: dict[str, str] | None = None) -> IntGraph:
    """The integer graph of a prepared model.

    Raises :class:`UnsupportedLayer` for a model that has no lowering, :class:`ExportError` for a
    scale that does not fit.
    """
    if not isinstance(model, TinyResNet):
        raise UnsupportedLayer("", model, "only TinyResNet has a lowering")
    graph = Lowering(input_shape)
    x = graph.conv("conv1", model.conv1, model.bn1, graph.input, "relu", model.relu)
    for stage in ("layer1", "layer2", "layer3"):
        for index, block in enumerate(getattr(model, stage)):
            x = _lower_block(graph, f"{stage}.{index}", block, x)
    x = graph.avg_pool("avgpool", model.avgpool, x, model.layer3[-1].relu2)
    x = graph.flatten("flatten", x)
    output, logit_scale = graph.classifier("fc", model.fc, x, "logits")
    header = Header(name=name, tensors=tuple(graph.tensors), nodes=tuple(graph.nodes),
                    input=graph.input.name, output=output.name, ratio=str(ratio),
                    tile_rows=tile_rows, class_names=class_names, logit_scale=logit_scale,
                    provenance=provenance or {})
    return IntGraph(header, graph.layers)


@torch.no_grad()
def snap_shortcuts(model: nn.Module) -> None:
    """Move scales by up to 2^-15 so that every residual operand's ``n`` is exact.

    Without this, fake quantisation and integers round 1 of 300 sums of a block differently. Where
    the 8-bit shortcut has more than MOST_STEPS codes per unit of the sum, which brings nothing and
    which M cannot express, its scale grows to that.
    """
    source = model.relu
    for stage in ("layer1", "layer2", "layer3"):
        for index, block in enumerate(getattr(model, stage)):
            name, out = f"{stage}.{index}", block.relu2
            shortcut = source
            if block.downsample is not None:
                conv, bn, shortcut = block.downsample
                scale = (source.scale / shortcut.scale).item()
                _, factor = _fold(conv, fold_batch_norm(bn)[0], scale)
                shortcut.clip.mul_(max(1, max(factor) / MOST_STEPS))
            n = _fit(name, numerics.encode_residual, (shortcut.scale / out.scale).item())
            ratio = max(n, 1) / (1 << numerics.SHIFT_MIN)
            if block.downsample is None:        # its input has other readers
                out.clip.copy_(source.scale / ratio * out.high)
            else:
                shortcut.clip.copy_(out.scale * ratio * shortcut.high)
            source = out


def _lower_block(graph: "Lowering", path: str, block: BasicBlock, x: TensorSpec) -> TensorSpec:
    shortcut = x
    if block.downsample is not None:
        conv, bn, quantiser = block.downsample
        shortcut = graph.conv(f"{path}.downsample.0", conv, bn, x, f"{path}.downsample", quantiser)
    x = graph.conv(f"{path}.conv1", block.conv1, block.bn1, x, f"{path}.relu1", block.relu1)
    return graph.conv(f"{path}.conv2", block.conv2, block.bn2, x, f"{path}.relu2", block.relu2,
                      shortcut)


class Lowering:
    """Collects tensors, nodes and arrays, one method per kind of layer, each giving its output."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.input = TensorSpec(name="input", shape=input_shape, bits=8, scale=INPUT_SCALE)
        self.tensors, self.nodes, self.layers = [self.input], [], {}

    def _tensor(self, **fields: object) -> TensorSpec:
        self.tensors.append(TensorSpec(**fields))
        return self.tensors[-1]

    def conv(self, name: str, conv: QuantConv2d, bn: nn.BatchNorm2d, source: TensorSpec,
             target: str, quantiser: ActQuantiser,
             shortcut: TensorSpec | None = None) -> TensorSpec:
        """Convolution, batch-norm, an addition if there is a ``shortcut``, and a quantiser."""
        spec = self._quantised(target, quantiser, _conv_shape(conv, source))
        gamma, beta = fold_batch_norm(bn)
        if conv.bias is not None:
            beta = beta + gamma * conv.bias.detach().double()
        residual, zero_points = None, spec.zero_point
        if shortcut is not None:
            n = _fit(name, numerics.encode_residual, shortcut.scale / spec.scale)
            residual = Residual(tensor=shortcut.name, n=n)
            zero_points -= shortcut.zero_point * n / (1 << numerics.SHIFT_MIN)
        values, factor = _fold(conv, gamma, source.scale / spec.scale)
        offset = [b / spec.scale + zero_points for b in beta.tolist()]
        rows = [_fit(name, encode_row, f, o) for f, o in zip(factor, offset, strict=True)]
        self._arrays(name, conv, values, rows)
        top, left = conv.padding
        self.nodes.append(Conv(
            name=name, input=source.name, output=target, low=0, high=numerics.act_max(spec.bits),
            residual=residual, kernel=conv.kernel_size, stride=conv.stride,
            padding=(top, top, left, left), groups=conv.groups))
        return spec

    def avg_pool(self, name: str, pool: QuantAvgPool, source: TensorSpec,
                 quantiser: ActQuantiser) -> TensorSpec:
        """Average over the whole of ``source``, the output of ``quantiser``."""
        if pool.source is not quantiser:
            raise UnsupportedLayer(name, pool, "its input is not the quantiser defined before it")
        channels, height, width = source.shape
        spec = self._tensor(name=name, shape=(channels, 1, 1), bits=8,
                            scale=pool.scale(height * width).item())
        m, b, s = _fit(name, encode_row, source.scale / spec.scale / (height * width), 0.0)
        self.nodes.append(AvgPool(name=name, input=source.name, output=name, kernel=(height, width),
                                  stride=(height, width), multiplier=m, bias=b, shift=s,
                                  high=numerics.act_max(spec.bits)))
        return spec

    def flatten(self, name: str, source: TensorSpec) -> TensorSpec:
        spec = self._tensor(name=name, shape=(math.prod(source.shape), 1, 1), bits=source.bits,
                            scale=source.scale)
        self.nodes.append(Flatten(name=name, input=source.name, output=name))
        return spec

    def classifier(self, name: str, linear: QuantLinear, source: TensorSpec,
                   target: str) -> tuple[TensorSpec, float]:
        """The wide layer, all rows with one shift so that logits compare; also their scale."""
        one = torch.ones(len(linear.weight), dtype=torch.float64)
        values, factor = _fold(linear, one, source.scale)
        _, shift = _fit(name, numerics.encode_multiplier, max(factor))
        bias = [0.0] * len(factor) if linear.bias is None else linear.bias.tolist()
        rows = [(numerics.round_scaled(f, shift), numerics.round_scaled(b, shift), shift)
                for f, b in zip(factor, bias, strict=True)]
        self._arrays(name, linear, values, rows)
        scale = math.ldexp(1, -shift)
        spec = self._tensor(name=target, shape=(len(rows), 1, 1), bits=8, scale=scale)
        self.nodes.append(Linear(name=name, input=source.name, output=target, wide=True))
        return spec, scale

    def _quantised(self, name: str, quantiser: ActQuantiser,
                   shape: tuple[int, int, int]) -> TensorSpec:
        return self._tensor(name=name, shape=shape, bits=quantiser.bits,
                            scale=quantiser.scale.item(), zero_point=quantiser.zero_point)

    def _arrays(self, name: str, layer: QuantConv2d | QuantLinear, values: Tensor,
                rows: list[tuple[int, int, int]]) -> None:
        self.layers[name] = LayerArrays(values.cpu().numpy(), layer.scheme.cpu().numpy(),
                                        *zip(*rows, strict=True))


def fold_batch_norm(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """``(gamma', beta')``, float64, with ``bn(x) = gamma' * x + beta'`` in evaluation."""
    mean, var, gamma, beta = (v.detach().double() for v in
                              (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    gamma = gamma / torch.sqrt(var + bn.eps)
    return gamma, beta - gamma * mean


def _fold(layer: QuantConv2d | QuantLinear, gamma: Tensor,
          scale: float) -> tuple[Tensor, list[float]]:
    """Weight values with the sign of ``gamma``, and the positive factor of each row."""
    sign = torch.where(gamma < 0, -1, 1).view(-1, *[1] * (layer.weight.dim() - 1))
    alpha = layer.alpha.detach().double() / denominators(layer.scheme)
    return layer.to_int() * sign, (gamma.abs() * alpha * scale).tolist()


def _conv_shape(conv: QuantConv2d, source: TensorSpec) -> tuple[int, int, int]:
    size = [(source.shape[1 + i] + 2 * conv.padding[i] - conv.kernel_size[i]) // conv.stride[i] + 1
            for i in (0, 1)]
    return (conv.out_channels, *size)


def encode_row(factor: float, offset: float) -> tuple[int, int, int]:
    """``(M, B, S)`` with ``(acc*M + B) >> S`` nearest to ``factor * acc + offset``.

    A row with a factor near zero would have a shift at which B does not fit; M loses bits instead.
    """
    multiplier, shift = numerics.encode_multiplier(factor)
    while shift > numerics.SHIFT_MIN:
        if abs(numerics.round_scaled(offset + 0.5, shift)) < BIAS_LIMIT:
            break
        shift -= 1
        multiplier = numerics.round_scaled(factor, shift)
    bias = numerics.round_scaled(offset, shift) + (1 << (shift - 1))
    if abs(bias) >= BIAS_LIMIT:
        raise ValueError(f"bias of {offset:g} steps does not fit {numerics.BIAS_BITS} bits")
    return multiplier, bias, shift


def _fit(name: str, encode, *values: float):
    try:
        return encode(*values)
    except ValueError as error:
        raise ExportError(f"layer {name!r}: {error}") from error
