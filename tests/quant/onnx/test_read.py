# SPDX-License-Identifier: Apache-2.0
"""ONNX models as PyTorch exports them come back as modules, with names, weights and sizes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

import rmsmp
from quant import models
from quant.models.shapes import network_shapes
from quant.onnx import check
from quant.onnx.read import from_onnx

SHAPE = (3, 16, 16)


class Net(nn.Module):
    """Depthwise and grouped layers, upsampling, concatenation, a view by size, functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(16, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(x), 0.1)
        y = F.relu6(self.deep(F.max_pool2d(x, 2)))
        y = torch.cat((x, F.interpolate(y, scale_factor=2.0)), 1)
        y = F.avg_pool2d(F.silu(self.wide(y)), 2)
        return self.head(y.view(y.size(0), -1))


def exported(model: nn.Module, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter that needs no further package
        example = (torch.zeros(1, *SHAPE),)
        torch.onnx.export(model.eval(), example, path, dynamo=False, **options)
    return path


@pytest.fixture
def net(seed: int) -> Net:
    torch.manual_seed(seed)
    net = Net()
    net.train()(torch.rand(16, *SHAPE))  # statistics of its own
    return net.eval()


OPTIONS = {
    "folded": {},
    "as it is": {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
    "free batch": {"input_names": ["image"], "dynamic_axes": {"image": {0: "batch"}}},
    "old": {"opset_version": 11},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_network_of_pytorch(options: str, net: Net, tmp_path: Path, seed: int) -> None:
    path = exported(net, tmp_path / "net.onnx", **OPTIONS[options])
    torch.manual_seed(seed)
    module, x = from_onnx(path), torch.rand(1, *SHAPE)
    session = check.session(onnx.load(path))
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.ptp(np.asarray(wanted)) > 0.02
    with torch.no_grad():
        torch.testing.assert_close(module(x).numpy(), wanted, rtol=1e-5, atol=1e-5)
        several = torch.rand(4, *SHAPE)
        torch.testing.assert_close(module(several), net(several), rtol=1e-5, atol=1e-5)


def test_names_are_those_of_pytorch(net: Net, tmp_path: Path) -> None:
    module = from_onnx(exported(net, tmp_path / "net.onnx", **OPTIONS["as it is"]))
    with torch.no_grad():
        names = {n for n, _ in net.named_parameters()}
        assert {n for n, _ in module.named_parameters()} == names
        assert set(from_onnx(exported(net, tmp_path / "folded.onnx")).state_dict()) == {
            "stem.0.weight", "stem.0.bias", "deep.weight", "deep.bias", "wide.weight", "wide.bias",
            "head.weight", "head.bias",
        }  # fmt: skip


def test_resnet_to_integers(tmp_path: Path, seed: int) -> None:
    """Quantised and exported, its graph is that of the network which the file was made of."""
    torch.manual_seed(seed)
    net = models.build("tiny", shape=SHAPE, classes=4, width=4).eval()
    path = exported(net, tmp_path / "tiny.onnx", **OPTIONS["as it is"])
    images = torch.rand(8, *SHAPE)
    graphs = [
        rmsmp.export(rmsmp.quantise(model, images), tmp_path / "g.safetensors", images=images)
        for model in (net, rmsmp.from_onnx(path))
    ]
    assert graphs[0].digest == graphs[1].digest


def test_network_to_integers(net: Net, tmp_path: Path) -> None:
    module = rmsmp.from_onnx(exported(net, tmp_path / "net.onnx"))
    images = torch.rand(8, *SHAPE)
    graph = rmsmp.export(rmsmp.quantise(module, images), tmp_path / "g.safetensors", images=images)
    assert {"stem.0", "deep", "wide", "head"} <= set(graph.layers)


def saved(path: Path, nodes: list[onnx.NodeProto], x: tuple[str, Any, int], *ys: str) -> Path:
    """Model of ``nodes``; ``x`` has a name, a shape and a type."""
    name, shape, kind = x
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["a"] * 4) for y in ys]
    given = [helper.make_tensor_value_info(name, kind, shape)]
    graph = helper.make_graph(nodes, "test", given, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


RELU = [helper.make_node("Relu", ["x"], ["y"])]


def test_free_sizes_are_those_of_the_images(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", RELU, ("x", ["n", 3, "h", "w"], 1), "y")
    assert from_onnx(path, shape=(3, 4, 5))(torch.ones(2, 3, 4, 5)).shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"a\.onnx: its input 'x' has the free size 'h'"):
        from_onnx(path)
    with pytest.raises(ValueError, match=r"it takes images of 3x.x., not 1x4x5"):
        from_onnx(path, shape=(1, 4, 5))


def test_classifier_for_the_data(net: Net, tmp_path: Path) -> None:
    path = exported(net, tmp_path / "net.onnx")
    assert models.build("onnx", shape=SHAPE, classes=5, source=str(path)).training is False
    for shape, classes, message in (
        (SHAPE, 10, r"net\.onnx gives 5 for an image, and not 10 logits"),
        ((3, 8, 8), 5, "it takes images of 3x16x16, not 3x8x8"),
    ):
        with pytest.raises(ValueError, match=message):
            models.build("onnx", shape=shape, classes=classes, source=str(path))
    with pytest.raises(ValueError, match="takes images and an ONNX file as its"):
        models.build("onnx", shape=SHAPE, classes=5)


def test_shapes_for_the_search_of_an_array(net: Net, tmp_path: Path) -> None:
    path = exported(net, tmp_path / "net.onnx")
    graph = network_shapes(str(path), size=16)
    assert graph.header.name == "net" and len(graph.layers) == 4


def test_several_outputs_have_their_names(tmp_path: Path) -> None:
    nodes = [*RELU, helper.make_node("Neg", ["y"], ["z"])]
    path = saved(tmp_path / "a.onnx", nodes, ("x", [1, 2, 3, 4], 1), "z", "y")
    found = from_onnx(path)(torch.ones(5, 2, 3, 4))
    assert list(found) == ["z", "y"] and found["z"].eq(-1).all()


def test_layers_with_the_same_weights_are_one(tmp_path: Path) -> None:
    weight = helper.make_node("ConstantOfShape", ["size"], ["zeros"])
    size = helper.make_node("Constant", [], ["size"], value_ints=[2, 2, 1, 1])
    convs = [helper.make_node("Conv", [x, "zeros"], [y]) for x, y in (("x", "y"), ("y", "z"))]
    path = saved(tmp_path / "a.onnx", [size, weight, *convs], ("x", [1, 2, 3, 4], 1), "z")
    assert len(list(from_onnx(path).parameters())) == 1


def test_input_of_integers(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", RELU, ("x", [1, 2, 3, 4], TensorProto.INT32), "y")
    with pytest.raises(ValueError, match="its input 'x' is int32, not float"):
        from_onnx(path)


def test_two_inputs(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", RELU, ("x", [1, 2, 3, 4], 1), "y")
    model = onnx.load(path)
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("more", 1, [1]))
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"it has 2 inputs \(x, more\)"):
        from_onnx(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no ONNX model at .*nothing"):
        from_onnx(tmp_path / "nothing.onnx")
    (tmp_path / "a.onnx").write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match=r"a\.onnx is no ONNX model that can be read: ") as told:
        from_onnx(tmp_path / "a.onnx")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="no ONNX model at"):
        from_onnx(tmp_path)
