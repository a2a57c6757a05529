# SPDX-License-Identifier: Apache-2.0
"""Products of two tensors: squeeze and excitation, gates, exact from training to integers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import golden
from ir.graph import IntGraph, Mul
from ir.ratio import Ratio
from quant.capture.writer import UnsupportedLayer
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.product import ProductQuantiser

SHAPE = (3, 7, 6)


class Gated(nn.Module):
    """A map and what it is multiplied with."""

    def __init__(self, kind: str, channels: int = 12) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.gate = (nn.Conv2d(3, channels, 3, padding=1) for _ in range(2))
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.pixels = nn.Conv2d(channels, 1, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.body, self.head = nn.Conv2d(channels, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = getattr(self, self.kind)(x)
        return self.head(F.relu(self.body(y)).mean((2, 3)))

    def excitation(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        return y * torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))

    def excitation_of_signed(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.stem(x))
        return F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(y, 1))))) * y

    def excitation_by_linear(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        n, c, _, _ = y.shape
        gate = torch.sigmoid(
            self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1).view(n, c))))
        )
        return F.silu(y * gate.view(n, c, 1, 1).expand_as(y))

    def maps(self, x: Tensor) -> Tensor:
        return F.silu(self.stem(x)) * torch.tanh(self.gate(x))

    def sums(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x) * self.gate(x))

    def clamped(self, x: Tensor) -> Tensor:
        return F.relu6(F.relu(self.stem(x)) * self.gate(x))

    def gate_of_pixels(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        return y * torch.sigmoid(self.pixels(y))

    def linear_unit(self, x: Tensor) -> Tensor:
        return F.glu(torch.cat([self.stem(x), self.gate(x)], 1), 1)

    def indexed(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        return (
            y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))[:, :, None, None]
        )


KINDS = [
    "excitation",
    "excitation_of_signed",
    "excitation_by_linear",
    "maps",
    "sums",
    "clamped",
    "gate_of_pixels",
    "linear_unit",
    "indexed",
]


def trained(kind: str, seed: int) -> tuple[nn.Module, IntGraph, np.ndarray]:
    torch.manual_seed(seed)
    model, codes = Gated(kind).eval(), torch.randint(256, (30, *SHAPE), dtype=torch.uint8)
    images = codes / 255
    prepared = prepare(model, images[:2])
    calibrate(prepared, images)
    optimiser = torch.optim.SGD(prepared.train().parameters(), 0.02)
    for _ in range(2):
        optimiser.zero_grad()
        prepared(images).square().mean().backward()
        optimiser.step()
    ratio = Ratio.parse("0:0:100")
    graph = export(prepared.eval(), images[:1], name="test", ratio=ratio, tile_rows=8)
    return prepared, graph, codes.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_those_of_the_trained_network(seed, kind) -> None:
    model, graph, codes = trained(kind, seed)
    logits = verify.verify(graph, codes)
    (product,) = [n for n in graph.nodes if isinstance(n, Mul)]
    tensors, seen = golden.run(graph, codes), []
    model.get_submodule(product.name).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        fake = model(torch.from_numpy(codes) / 255).double().numpy()
    spec = graph.tensor(product.output)
    steps = (seen[0].double() / spec.scale + spec.zero_point).round().long().numpy()
    np.testing.assert_array_equal(steps, tensors[product.output])
    assert len(np.unique(steps)) > 5
    np.testing.assert_allclose(logits * graph.output.scale, fake, atol=1e-3 * fake.std())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_follow_the_float_product(seed, kind) -> None:
    """Every weight before the product is trained, in about the direction of the float network."""
    torch.manual_seed(seed)
    model, images = Gated(kind), torch.rand(20, *SHAPE)
    prepared = prepare(model, images[:2])
    calibrate(prepared, images)
    for one in (model, prepared):
        one(images).square().mean().backward()
    ours, theirs = (m.get_parameter("stem.weight").grad.flatten() for m in (prepared, model))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.8


def test_state_dict_has_the_products_grid(seed) -> None:
    model, _, codes = trained("maps", seed)
    torch.manual_seed(seed)
    other = prepare(Gated("maps").eval(), torch.rand(2, *SHAPE))
    other.load_state_dict(model.state_dict())
    (product,) = [m for m in model.modules() if isinstance(m, ProductQuantiser)]
    assert product.middle > 0
    images = torch.from_numpy(codes) / 255
    assert torch.equal(other.eval()(images), model(images))


def test_shapes_that_do_not_match_are_refused() -> None:
    class Rows(nn.Module):
        """A value for each channel and row."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, (3, 6))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.stem(x) * torch.sigmoid(self.gate(x))).mean((2, 3)))

    with pytest.raises(UnsupportedLayer, match=r"mul is not.*\(8, 5, 4\) by \(8, 5, 1\)"):
        prepare(Rows(), torch.rand(2, *SHAPE))
