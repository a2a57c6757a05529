# SPDX-License-Identifier: Apache-2.0
"""Networks of Brevitas against what Brevitas computed, and grids that ours do not hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import rmsmp
from ir.numerics import Scheme
from quant.nn.layers import quantised_layers
from quant.onnx import qonnx

FILES = Path(__file__).with_name("files")  # brevitas_networks.py there made them
IMAGES = torch.linspace(0, 1, 256).reshape(4, 1, 8, 8)


def outcome(name: str) -> tuple[torch.Tensor, np.ndarray]:
    """Images, and Brevitas' logits."""
    with np.load(FILES / f"{name}.npz") as stored:
        return torch.from_numpy(stored["images"]), stored["logits"]


def test_network_without_sums_is_the_same(tmp_path: Path) -> None:
    images, wanted = outcome("plain")
    model = rmsmp.from_qonnx(FILES / "plain.onnx", IMAGES).eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), wanted, rtol=1e-6, atol=1e-7)
    assert wanted.std() > 0.05
    graph = rmsmp.export(model, tmp_path / "a.safetensors", images=images)
    schemes = {name: set(layer.scheme) for name, layer in graph.layers.items()}
    assert schemes == {
        "conv1": {Scheme.FIXED8}, "conv2": {Scheme.FIXED4}, "fc": {Scheme.FIXED4}
    }  # fmt: skip
    stored = onnx.load(FILES / "plain.onnx").graph.initializer
    constants = {c.name: numpy_helper.to_array(c) for c in stored}
    scale = constants["/conv2/weight_quant/export_handler/Constant_output_0"]
    whole = np.clip(np.round(constants["conv2.weight"] / scale), -7, 7)
    assert np.array_equal(graph.layers["conv2"].values, whole)
    assert graph.header.ratio == "0:69:31"


def test_operands_of_a_sum_are_rounded_once(tmp_path: Path) -> None:
    """Where Brevitas rounds both to 8 bits first, and leaves a mean unrounded."""
    images, wanted = outcome("residual")
    with pytest.warns(UserWarning, match=r"left out, .*: /sum/act_quant/.*/Quant, /sum/act_q"):
        model = rmsmp.from_qonnx(FILES / "residual.onnx", IMAGES).eval()
    with torch.no_grad():
        found = model(images).numpy()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    assert rmsmp.export(model, tmp_path / "a.safetensors", images=images).header.ratio == "0:100:0"


def test_what_has_no_grid_is_calibrated(tmp_path: Path) -> None:
    model = onnx.load(FILES / "plain.onnx")
    relu = next(n for n in model.graph.node if n.name.startswith("/relu2") and n.op_type == "Quant")
    relu.op_type, relu.domain = "Identity", ""
    del relu.input[1:], relu.attribute[:]
    onnx.save(model, tmp_path / "a.onnx")
    found = qonnx.from_qonnx(tmp_path / "a.onnx", IMAGES)
    assert len(found.calibrated) == 1 and found.calibrated[0].startswith("relu2")
    assert not found.left_out


def test_rows_beyond_four_bits_are_fixed8(tmp_path: Path) -> None:
    """-8 is a weight of four bits that are not narrow, in one row."""
    model = onnx.load(FILES / "plain.onnx")
    quant = next(n for n in model.graph.node if n.name.startswith("/conv2/weight_quant"))
    next(a for a in quant.attribute if a.name == "narrow").i = 0
    (weight,) = (c for c in model.graph.initializer if c.name == "conv2.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3, 0, 1, 1] = -100
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "a.onnx")
    layer = quantised_layers(qonnx.from_qonnx(tmp_path / "a.onnx", IMAGES).model)["conv2"]
    assert layer.scheme.tolist() == [2 if row == 3 else 1 for row in range(8)]
    assert layer.to_int()[3, 0, 1, 1] == -8


def change(model: onnx.ModelProto, start: str, index: int, value: float) -> None:
    """Change of a constant that the first Quant whose name begins so reads."""
    quant = next(n for n in model.graph.node if n.name.startswith(start))
    old = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}[quant.input[index]]
    new = numpy_helper.from_array(np.full_like(old, value), f"{quant.name}.{index}")
    model.graph.initializer.append(new)
    quant.input[index] = new.name


@pytest.mark.parametrize(
    ("start", "index", "value", "message"),
    [
        ("/image", 1, 0.01, "images of 0..255 times 0.01; the accelerator has 0..255 times 1/255"),
        ("/conv1/weight", 2, 3, "zero point 3, 8 bits, ROUND: only 0, whole bits and ROUND"),
        ("/conv1/weight", 3, 2.5, "zero point 0, 2.5 bits"),
        ("/conv1/weight", 3, 9, "layer 'conv1' has weights of 9 bits, beyond Fixed-8"),
        (
            "/relu1/act_quant/export",
            3,
            5,
            "activations of 5 bits and 1 scales; the accelerator has 4 or 8",
        ),
    ],
)
def test_grids_that_ours_do_not_hold(tmp_path, start, index, value, message) -> None:
    model = onnx.load(FILES / "plain.onnx")
    change(model, start, index, value)
    if value == 9:
        change(model, start, 1, 1e-4)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError) as told:
        rmsmp.from_qonnx(tmp_path / "a.onnx", IMAGES)
    assert message in str(told.value) and "a.onnx: " in str(told.value)
    assert "\n" not in str(told.value)


def test_float_network_is_no_qonnx(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(n, 1, [1, 1, 8, 8]) for n in "xy"]
    graph = helper.make_graph([node], "float", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx: it has no operators of QONNX: "):
        qonnx.from_qonnx(tmp_path / "a.onnx", IMAGES)


def test_layer_without_a_quantiser(tmp_path: Path) -> None:
    model = onnx.load(FILES / "plain.onnx")
    quant = next(n for n in model.graph.node if n.name.startswith("/conv2/weight_quant"))
    quant.op_type, quant.domain = "Identity", ""
    del quant.input[1:], quant.attribute[:]
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="layer 'conv2' has weights without a quantiser"):
        qonnx.from_qonnx(tmp_path / "a.onnx", IMAGES)
