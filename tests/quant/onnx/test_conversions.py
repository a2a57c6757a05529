# SPDX-License-Identifier: Apache-2.0
"""Every ONNX operator that is read gives what onnxruntime gives, within float tolerance."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from quant.onnx import check
from quant.onnx.conversions import CONVERSIONS
from quant.onnx.read import from_onnx
from tests.helpers.imports import ROOT

MAP, VECTOR, LINE = (2, 8, 6, 10), (2, 8), (2, 8, 11)
WHOLE = np.int64


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator between an input ``x`` and an output; a shape stands for random floats, and None
    for an input that is left out."""

    kind: str
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    shape: tuple[int, ...] = MAP
    opset: int = 18
    first: bool = True  #: whether x is the first input
    outputs: int = 1

    def model(self, rng: np.random.Generator) -> onnx.ModelProto:
        names, constants = [], []
        for number, value in enumerate(self.constants):
            name = "" if value is None else f"c{number}"
            names.append(name)
            if isinstance(value, tuple):
                value = rng.uniform(0.2, 1.2, value).astype(np.float32)
            if name:
                constants.append(numpy_helper.from_array(np.array(value), name))
        inputs = ["x", *names] if self.first else [*names, "x"]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.kind, inputs, outputs, name="/part/It", **self.attributes)
        kind = TensorProto.INT64 if self.kind == "ArgMax" else TensorProto.FLOAT
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            constants,
        )
        imports = [helper.make_opsetid("", self.opset)]
        return infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, WHOLE)


CONV = {"strides": [2, 1], "pads": [1, 0, 1, 0], "group": 2}
CASES = [
    *(Case(kind, ((1, 8, 1, 1),)) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")),
    *(Case(kind, (np.float32(0.7),), first=False) for kind in ("Sub", "Div")),
    Case("ArgMax", (), {"axis": 1, "keepdims": 0}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (), {"kernel_shape": [2, 3], "pads": [1, 0, 0, 2], "count_include_pad": 1}),
    Case("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", (), {"kernel_shape": [3], "strides": [2]}, LINE),
    Case("BatchNormalization", ((8,),) * 4, {"epsilon": 1e-3}),
    Case("BatchNormalization", ((8,),) * 4, {}, VECTOR),
    Case("BatchNormalization", ((8,),) * 4, {}, LINE),
    Case("Clip", (np.float32(0), np.float32(6))),
    Case("Clip", (None, np.float32(0.5))),
    Case("Clip", (), {"min": 0.0, "max": 3.4028235e38}, opset=6),
    Case("Conv", ((6, 4, 3, 3), (6,)), CONV),
    Case("Conv", ((6, 8, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", ((6, 8, 2, 3),), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", ((6, 8, 2, 2),), {"pads": [0, 1, 1, 0], "dilations": [2, 1]}),
    Case("Conv", ((6, 8, 3),), {"pads": [1, 1]}, LINE),
    Case("ConvTranspose", ((8, 3, 2, 3), (6,)), {"strides": [2, 2], "group": 2}),
    Case("ConvTranspose", ((8, 5, 3, 3),), {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    Case("DepthToSpace", (), {"blocksize": 2}),
    Case("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}),
    Case("Dropout", (np.float32(0.3),)),
    Case("Elu", (), {"alpha": 0.7}),
    Case("Erf"),
    Case("Exp"),
    Case("Expand", (whole(2, 8, 6, 10),), {}, (2, 8, 1, 1)),
    Case("Flatten"),
    Case("Gather", (whole(3, 0, -1, 3),), {"axis": 1}),
    Case("Gather", (np.array(2, WHOLE),), {"axis": 3}),
    Case("Gelu", opset=20),
    Case("Gelu", (), {"approximate": "tanh"}, opset=20),
    Case("Gemm", ((5, 8), (5,)), {"transB": 1, "alpha": 0.5, "beta": 2.0}, VECTOR),
    Case("Gemm", ((8, 5), np.float32(0.5)), {}, VECTOR),
    Case("GlobalAveragePool"),
    Case("GlobalAveragePool", (), {}, LINE),
    Case("GlobalMaxPool"),
    Case("HardSigmoid"),
    Case("HardSigmoid", (), {"alpha": 1 / 6}),
    Case("HardSwish"),
    Case("Identity"),
    Case("LeakyRelu", (), {"alpha": 0.2}),
    Case("LogSoftmax", (), {"axis": 1}),
    Case("MatMul", ((8, 5),), {}, VECTOR),
    Case("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", (), {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", (), {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    Case("Mish"),
    Case("Neg"),
    Case("PRelu", ((8, 1, 1),)),
    Case("PRelu", ((1,),)),
    Case("Pad", (whole(0, 0, 1, 2, 0, 0, 0, 3), np.float32(0.5))),
    Case("Pad", (whole(0, 1, 0, 0, 0, 2, 0, 0),)),
    Case("Pad", (), {"pads": [0, 0, 1, 0, 0, 0, 0, 2], "value": 0.0}, opset=10),
    Case("ReduceMax", (whole(-1, 2),), {"keepdims": 0}),
    Case("ReduceMean", (), {"axes": [2, 3], "keepdims": 1}, opset=17),
    Case("Relu"),
    Case("Reshape", (whole(0, 4, 2, -1),)),
    Case("Resize", (None, floats(1, 1, 2, 3)), {"coordinate_transformation_mode": "asymmetric",
         "nearest_mode": "floor"}),
    Case("Resize", (None, floats(1, 1, 2, 2))),
    Case("Resize", (None, None, whole(2, 8, 12, 20)), {"mode": "linear"}),
    Case("Resize", (None, floats(1, 1, 2, 2)),
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    Case("Sigmoid"),
    Case("Slice", (whole(1, 0), whole(-1, 9), whole(1, -1), whole(1, 2))),
    Case("Slice", (), {"starts": [2], "ends": [5], "axes": [1]}, opset=9),
    Case("Softmax", (), {"axis": 1}),
    Case("Softmax", (), {}, VECTOR, opset=12),
    Case("Softplus"),
    Case("SpaceToDepth", (), {"blocksize": 2}),
    Case("Split", (whole(3, 5),), {"axis": 1}, outputs=2),
    Case("Split", (), {"axis": 1, "split": [2, 2, 4]}, opset=11, outputs=3),
    Case("Squeeze", (whole(2, 3),), {}, (2, 8, 1, 1)),
    Case("Squeeze", (), {"axes": [2, 3]}, (2, 8, 1, 1), opset=11),
    Case("Tanh"),
    Case("Transpose", (), {"perm": [0, 2, 3, 1]}),
    Case("Unsqueeze", (whole(2, 3),), {}, VECTOR),
    Case("Upsample", (floats(1, 1, 2, 2),), {}, opset=9),
]  # fmt: skip


def outcome(model: onnx.ModelProto, path: Path, rng: np.random.Generator) -> list[tuple]:
    """Pairs of what torch and onnxruntime compute."""
    onnx.save(model, path)
    module = from_onnx(path)
    (given,) = model.graph.input
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    x = rng.normal(0, 2, shape).astype(np.float32)
    wanted = check.session(model).run(None, {given.name: x})
    with torch.no_grad():
        found = module(torch.from_numpy(x))
    values = list(found.values()) if isinstance(found, dict) else [found]
    return list(zip((v.numpy() for v in values), wanted, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.kind}-{c.opset}")
def test_operator(case: Case, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for found, wanted in outcome(case.model(rng), tmp_path / "one.onnx", rng):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_two_computed_operands_and_concatenation(tmp_path: Path, seed: int) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "x"], ["m"]),
        helper.make_node("Concat", ["m", "x", "r"], ["y"], axis=-3),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", MAP), ("y", None))
    ]
    graph = helper.make_graph(nodes, "several", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 18)]
    model = infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))
    ((found, wanted),) = outcome(model, tmp_path / "a.onnx", np.random.default_rng(seed))
    assert np.array_equal(found, wanted) and found.shape[1] == 3 * MAP[1]


def test_every_operator_is_compared() -> None:
    assert {case.kind for case in CASES} | {"Concat"} == set(CONVERSIONS)


def test_page_lists_the_operators() -> None:
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    listed = page[page.index("These operators are read") : page.index("what depends on constants")]
    assert set(re.findall(r"`(\w+)`", listed)) == {*CONVERSIONS, "Cast"}


REFUSED = [
    (Case("Celu"), "operator Celu: it is not one of those that can be read; did you mean"),
    (Case("Concat", ((2, 8, 6, 10),), {"axis": 1}), "'c0', is a constant"),
    (Case("MatMul", ((2, 8, 10, 3),)), "it multiplies two computed matrices"),
    (Case("Pad", (whole(0, 0, 1, 1, 0, 0, 1, 1),), {"mode": "reflect"}), "it pads by reflect"),
    (Case("Resize", (None, floats(1, 1, 1.5, 2))), "is no repetition"),
    (Case("Resize", (None, floats(1, 1, 2, 2)), {"mode": "cubic"}), "mode cubic by half_pixel"),
    (Case("ReduceMean", (), {"keepdims": 0}), "it reduces over the batch"),
    (Case("Transpose", (), {"perm": [1, 0, 2, 3]}), "it moves the batch"),
    (Case("Reshape", (whole(4, -1),)), "across images"),
    (Case("Softmax", (), {"axis": 1}, opset=12), "as before opset 13"),
    (Case("PRelu", ((8, 6, 1),)), "it has a slope for each pixel"),
    (Case("Slice", (whole(-1), whole(-100), whole(2), whole(-1))), "it goes backwards"),
    (Case("AveragePool", (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}), "is not counted"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "reason"), REFUSED, ids=lambda x: getattr(x, "kind", ""))
def test_refused(case: Case, reason: str, tmp_path: Path, seed: int) -> None:
    onnx.save(case.model(np.random.default_rng(seed)), tmp_path / "one.onnx")
    with pytest.raises(ValueError) as told:
        from_onnx(tmp_path / "one.onnx")
    assert f"one.onnx: node '/part/It', operator {case.kind}: " in str(told.value)
    assert reason in str(told.value) and "\n" not in str(told.value)
