# SPDX-License-Identifier: Apache-2.0
"""Networks return what they like: several tensors in any structure, and functions at the end."""

import dataclasses
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import RATIO, Fn, cbr, chain
from ir import golden
from quant.capture.results import leaves
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.tail import Tail, without_tails

SHAPE = (3, 8, 8)
Pair = namedtuple("Pair", "boxes scores")


@dataclasses.dataclass
class Found:
    boxes: Tensor
    scores: Tensor


torch.export.register_dataclass(Found)

#: Functions of a map (N, 4, 8, 8) of a network, which the host computes.
TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda y: y.softmax(1),
    "log_softmax": lambda y: F.log_softmax(y, dim=-1),
    "argmax": lambda y: y.argmax(1),
    "sigmoid": torch.sigmoid,
    "sigmoid in place": lambda y: y.sigmoid_(),
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "elu": F.elu,
    "clamp": lambda y: y.clamp(-0.5, 0.5),
    "hardtanh": F.hardtanh,
    "scaled": lambda y: 1 - (y * 2 + 1) / 4,
    "negative": lambda y: -y - 3,
    "relu behind another": lambda y: F.relu(y + 1),
    "relu6 behind another": lambda y: F.relu6(y * 3),
    "flatten": lambda y: y.flatten(1),
    "boxes": lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 2).sigmoid(),
    "sequence": lambda y: y.flatten(2).transpose(1, 2).contiguous(),
    "view": lambda y: torch.tanh(y.view(y.size(0), 2, -1)),
}


def network(f: Callable[[Tensor], object]) -> nn.Module:
    return Fn(lambda s, x: f(s.d(s.c(x))), c=cbr(3, 8), d=nn.Conv2d(8, 4, 1))


def prepared(net: nn.Module, images: Tensor) -> nn.Module:
    model = prepare(net.eval(), images[:2])
    calibrate(model, images)
    return model


@pytest.mark.parametrize("name", TAILS)
def test_functions_are_the_hosts(name: str, seed: int) -> None:
    """Torch computes them while training; the golden model from its exact integers."""
    torch.manual_seed(seed)
    net, images = network(TAILS[name]).eval(), torch.randint(256, (5, *SHAPE)) / 255
    assert torch.equal(capture(net, images[:2])(images), net(images))
    model = prepared(net, images)
    graph = export(model, images, name="x", ratio=RATIO, tile_rows=16)
    assert len(graph.header.outputs) == 1 and graph.nodes[-1].wide
    tensors = golden.run(graph, (images * 255).round().to(torch.int64).numpy())
    raw = torch.from_numpy(tensors[graph.output.name] * graph.output.scale).contiguous()
    expected = TAILS[name](raw.clone())
    (found,) = golden.results(graph, tensors)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    with torch.no_grad(), without_tails(model):
        fake = model(images).reshape(raw.shape)
    torch.testing.assert_close(fake, raw.float(), atol=1e-3 * float(fake.std()), rtol=0)


STRUCTURES = {
    "tuple": lambda y: (y, y.mean((2, 3))),
    "list": lambda y: [y, y.mean((2, 3))],
    "dict": lambda y: {"boxes": y, "scores": y.mean((2, 3))},
    "nested": lambda y: {"all": [y, (y.mean((2, 3)), None)]},
    "named tuple": lambda y: Pair(y, y.mean((2, 3))),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_is_kept(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, images = network(STRUCTURES[name]).eval(), torch.rand(5, *SHAPE)
    with torch.no_grad():
        captured, expected = capture(net, images)(images), net(images)
    assert type(captured) is type(expected)
    assert str(captured) == str(expected)


def test_dataclass_becomes_a_dict(seed: int) -> None:
    torch.manual_seed(seed)
    net, images = network(lambda y: Found(y, y.mean((2, 3)))).eval(), torch.rand(5, *SHAPE)
    captured, expected = capture(net, images)(images), net(images)
    assert isinstance(captured, dict) and list(captured) == ["boxes", "scores"]
    assert torch.equal(captured["boxes"], expected.boxes)


def test_a_single_result_is_the_tensor_itself() -> None:
    images = torch.rand(2, *SHAPE)
    assert isinstance(capture(network(lambda y: (y,)), images)(images), Tensor)


def test_names_of_results() -> None:
    captured = capture(network(STRUCTURES["nested"]), torch.rand(2, *SHAPE))
    results = captured.graph.output_node().args[0]
    assert [name for name, _ in leaves(results)] == ["all.0", "all.1.0"]


@pytest.mark.parametrize(
    "sizes", [{}, {"pixels": 4, "requant_lanes": 4, "act_depth": 1024}], ids=["small", "large"]
)
def test_results_of_all_kinds_through_the_emulator(sizes: dict[str, int], seed: int) -> None:
    def forward(s: nn.Module, x: Tensor) -> object:
        body = s.c(x)
        logits = s.g(body.mean((2, 3)))
        maps = s.d(body)
        return {
            "classes": (logits.softmax(1), logits),
            "boxes": maps.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6),
            "body": body,
            "pooled": F.max_pool2d(body, 2).flatten(1),
            "features": F.relu(s.e(body)),
        }

    graph = chain(
        lambda: Fn(
            forward, c=cbr(3, 20), d=nn.Conv2d(20, 6, 1), e=nn.Conv2d(20, 3, 3), g=nn.Linear(20, 5)
        ),
        SHAPE,
        sizes,
        seed,
    )
    names = [output.name for output in graph.header.outputs]
    assert names == ["classes.0", "classes.1", "boxes", "body", "pooled", "features"]
    assert len(graph.header.output_tensors) == 5
    assert graph.tensor(graph.header.outputs[-1].tensor).bits == 8


def test_a_result_that_is_read_inside_leaves_as_it_is_read(seed: int) -> None:
    torch.manual_seed(seed)
    net = Fn(lambda s, x: (lambda y: (y, s.d(y)))(s.c(x)), c=nn.Conv2d(3, 4, 1), d=cbr(4, 5))
    images = torch.rand(5, *SHAPE)
    first, _ = prepared(net, images)(images)
    assert len(first.unique()) <= 16
    chain(lambda: net, SHAPE, seed=seed)


def test_gradients_pass_through_the_functions(seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(5, *SHAPE)
    model = prepared(network(lambda y: y.mean((2, 3)).softmax(1)), images).train()
    model(images)[:, 0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert any(isinstance(m, Tail) for m in model.modules())


REFUSED = {
    "its input": (lambda s, x: (x, s.c(x)), "it returns its input"),
    "nothing": (lambda s, x: {"a": None}, "it returns no tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=reason):
        prepare(Fn(function, c=cbr(3, 8)), torch.rand(2, *SHAPE))


def test_softmax_over_the_batch_is_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="softmax"):
        prepare(network(lambda y: y.softmax(0)), torch.rand(2, *SHAPE))
