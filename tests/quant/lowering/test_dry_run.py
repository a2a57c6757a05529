# SPDX-License-Identifier: Apache-2.0
"""What export and compiler will refuse is refused before the first epoch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import boards
import rmsmp
from bench.constructs import CONSTRUCTS, RATIO, Construct, Fn, cbr, head
from gateware.check import check
from gateware.compiler.operations import CompileError
from gateware.explore.choose import choose
from ir.graph import IntGraph
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.capture.writer import UnsupportedLayer
from quant.lowering.dry_run import untrained_graph
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.layers import RowQuantised, quantised_layers

SHAPE = (3, 12, 12)


def structure(graph: IntGraph) -> tuple[object, ...]:
    """All but the numbers."""
    header = graph.header
    nodes = [
        node.model_copy(update={"residual": getattr(node, "residual", None) is not None})
        for node in header.nodes
    ]
    tensors = [(t.name, t.shape, t.bits) for t in header.tensors]
    return nodes, tensors, header.outputs, header.border, header.input


@pytest.mark.parametrize(
    "construct",
    [c for c in CONSTRUCTS if "output" in c.name or "normalisation" in c.name],
    ids=lambda c: c.name,
)
def test_the_dry_run_gives_the_graph_but_for_its_numbers(construct: Construct, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(4, *construct.shape)
    model = prepare(construct.make().eval(), images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    early = untrained_graph(model, images, RATIO)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    calibrate(model, images)
    trained = export(model, images, name="network", ratio=RATIO, tile_rows=16)
    assert structure(early) == structure(trained)
    check(early)


def test_rows_are_those_of_the_ratio() -> None:
    images = torch.rand(2, *SHAPE)
    model = prepare(nn.Sequential(cbr(3, 40), head(40)).eval(), images)
    graph = untrained_graph(model, images, RATIO, 20)
    counts = np.bincount(graph.layers["0.0"].scheme, minlength=3)
    assert tuple(counts) == RATIO.rows(40, 20)
    assert not any(layer.values.any() for layer in graph.layers.values())
    assert any(bool(m.weight.any()) for m in model.modules() if isinstance(m, RowQuantised))


class Tall(nn.Module):
    """More rows than a descriptor counts: only the compiler knows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), head(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_quantise_asks_the_compiler_before_it_measures_anything(monkeypatch) -> None:
    monkeypatch.setattr("quant.calibration.quantise.calibrate", lambda *_: pytest.fail("too late"))
    with pytest.raises(CompileError, match="has a height or width over 1023"):
        rmsmp.quantise(Tall(), torch.rand(2, 1, 1100, 2))


def test_a_board_decides_ratio_and_rows(monkeypatch) -> None:
    """By the array that the build will choose for the network; what is given is handed on."""
    asked = []

    def array_for(graph, *given):
        asked.append(given)
        return given[1] or Ratio(50, 44, 6), 32

    monkeypatch.setattr("gateware.check.array_for", array_for)
    model = nn.Sequential(cbr(3, 64), head(64))
    made = rmsmp.quantise(model, torch.rand(4, *SHAPE), board="zc706")
    (layer, *_) = quantised_layers(made).values()
    assert [int(layer.scheme.eq(s).sum()) for s in Scheme] == [*Ratio(50, 44, 6).rows(64, 32)]
    rmsmp.quantise(model, torch.rand(4, *SHAPE), board="zc706", ratio="65:30:5", tile_rows=16)
    rmsmp.quantise(model, torch.rand(4, *SHAPE), board="zc706", method="fixed4")
    assert asked == [
        ("zc706", None, None),
        ("zc706", Ratio(65, 30, 5), 16),
        ("zc706", Ratio(0, 100, 0), None),
    ]


def test_training_and_build_agree(seed: int, tmp_path) -> None:
    """The array is the same for the network before training and for its trained graph."""
    torch.manual_seed(seed)
    images = torch.rand(8, *SHAPE)
    net = nn.Sequential(cbr(3, 16), cbr(16, 32), head(32))
    model = rmsmp.quantise(net, images, board="zedboard")
    graph = rmsmp.export(model, tmp_path / "own.safetensors")
    found = choose(graph, boards.get("zedboard"))
    assert found.config.lanes == Ratio.parse(graph.header.ratio).lanes(graph.header.tile_rows)
    assert not found.advice


def test_a_tuple_of_one_input(seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(4, *SHAPE)
    model = prepare(nn.Sequential(cbr(3, 8), head(8)).eval(), (images,))
    calibrate(model, images)
    graph = export(model, (images,), name="x", ratio=RATIO, tile_rows=16)
    assert graph.input.shape == SHAPE


def test_two_inputs_are_refused_by_name() -> None:
    net = Fn(lambda s, x: s.c(x), c=cbr(3, 8))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.net(left) + self.net(right)

    images = torch.rand(2, *SHAPE)
    with pytest.raises(UnsupportedLayer, match=r"it takes 2 inputs \(left, right\)"):
        prepare(Two(), (images, images))
