# SPDX-License-Identifier: Apache-2.0
"""Poolings from PyTorch to the emulator; fake quantisation is exactly what the integers do."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.constructs import RATIO, TILE_ROWS, cbr, chain, head
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.activations import QuantAvgPool

SHAPE = (3, 14, 17)


def unsigned(*pools: nn.Module) -> nn.Module:
    return nn.Sequential(cbr(3, 16), *pools, cbr(16, 16), head(16))


def signed(*pools: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), *pools, nn.Conv2d(16, 16, 1), head(16))


POOLS = {
    "adaptive": [nn.AdaptiveAvgPool2d((3, 5))],
    "adaptive, larger": [nn.AdaptiveAvgPool2d((20, 19))],
    "adaptive maximum": [nn.AdaptiveMaxPool2d((3, 5))],
    "padded": [nn.AvgPool2d(3, 2, 1)],
    "not counted": [nn.AvgPool2d(3, 2, 1, count_include_pad=False)],
    "ceil": [nn.AvgPool2d(3, 2, 1, ceil_mode=True)],
    "divisor": [nn.AvgPool2d(3, 2, 1, divisor_override=2)],
    "large stride": [nn.AvgPool2d(5, 5)],
    "twice": [nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1)],
    "maximum, ceil": [nn.MaxPool2d(2, 2, 1, ceil_mode=True)],
    "maximum, large stride": [nn.MaxPool2d((3, 6), (4, 5), (1, 2))],
    "zeros before a maximum": [nn.ZeroPad2d((1, 0, 2, 1)), nn.MaxPool2d(2)],
    "zeros before a mean": [nn.ZeroPad2d((1, 0, 2, 1)), nn.AvgPool2d(3, 2)],
}


@pytest.mark.parametrize("kind", [unsigned, signed])
@pytest.mark.parametrize("name", POOLS)
def test_pool(seed, name, kind) -> None:
    chain(lambda: kind(*POOLS[name]), SHAPE, seed=seed)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)])
def test_pool_of_the_image(seed, pool) -> None:
    chain(lambda: nn.Sequential(pool, cbr(3, 8), head(8)), SHAPE, seed=seed)


def test_zeros_before_flatten(seed) -> None:
    net = nn.Sequential(cbr(3, 8, 3, 3), nn.ZeroPad2d((0, 1, 2, 0)), nn.Flatten())
    chain(lambda: nn.Sequential(net, nn.Linear(8 * 7 * 7, 4)), SHAPE, seed=seed)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", [unsigned, signed])
@pytest.mark.parametrize("name", POOLS)
def test_fake_quantisation_is_what_the_integers_do(seed, name, kind, bits) -> None:
    """Codes of every average, computed by the trained module from the codes in front of it."""
    torch.manual_seed(seed)
    images = torch.rand(4, *SHAPE)
    model = prepare(kind(*POOLS[name]).eval(), images, act_bits=bits)
    calibrate(model, images)
    graph = export(model, images, name="pool", ratio=RATIO, tile_rows=TILE_ROWS)
    codes = (images * 255).round().long()
    tensors = verify.run(graph, codes)
    for node in graph.nodes:
        module = model.get_submodule(node.name) if "zeros" not in node.name else None
        if not isinstance(module, QuantAvgPool):
            continue
        spec, result = graph.tensor(node.input), graph.tensor(node.output)
        real: Tensor = (tensors[node.input] - spec.zero_point) * spec.scale
        found = module(real.float()) / module.scale + result.zero_point
        assert np.array_equal(found.round().long().numpy(), tensors[node.output].numpy())
