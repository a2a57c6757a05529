# SPDX-License-Identifier: Apache-2.0
"""Transposed and dilated convolutions, larger maps and any padding, from torch to the emulator."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import chain
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer
from quant.lowering.prepare import calibrate, prepare
from quant.nn.layers import float_mode


class Around(nn.Module):
    """A layer between two others."""

    def __init__(self, layer: nn.Module, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1), nn.ReLU())
        self.layer, self.norm = layer, nn.BatchNorm2d(out)
        self.last = nn.Conv2d(out, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.layer(self.first(x))))
        return self.last(y).flatten(1)


class Interpolated(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, **self.options)


def transposed(*args: int, **options: int) -> nn.Module:
    return nn.ConvTranspose2d(8, 8, *args, **options)


LAYERS = {
    "2x2": lambda: transposed(2, 2),
    "4x4, padding": lambda: transposed(4, 2, 1),
    "3x3, odd size": lambda: transposed(3, 2, 1),
    "3x3, output padding": lambda: transposed(3, 2, 1, output_padding=1),
    "stride 1": lambda: transposed(3),
    "stride 3, kernel 2": lambda: transposed(2, 3),
    "groups": lambda: transposed(4, 2, 1, groups=2),
    "depthwise": lambda: transposed(3, 2, groups=8),
    "dilated": lambda: transposed(3, 2, dilation=2),
    "unequal": lambda: nn.ConvTranspose2d(8, 8, (3, 2), (1, 2), (1, 0)),
    "dilation": lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "dilation, stride": lambda: nn.Conv2d(8, 8, (3, 2), (1, 2), (3, 1), dilation=(3, 2)),
    "same, even kernel": lambda: nn.Conv2d(8, 8, (4, 2), padding="same"),
    "same, dilated": lambda: nn.Conv2d(8, 8, 2, padding="same", dilation=3),
    "stride 5": lambda: nn.Conv2d(8, 8, (1, 3), (1, 5), (1, 4)),
    "nearest": lambda: nn.Upsample(scale_factor=(2, 3)),
    "nearest size": lambda: Interpolated(size=(12, 7)),
    "nearest, fewer pixels": lambda: Interpolated(size=(3, 7)),
    "nearest exact": lambda: Interpolated(scale_factor=2, mode="nearest-exact"),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, odd": lambda: Interpolated(scale_factor=(3, 2), mode="bilinear"),
    "pixel shuffle": lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.PixelShuffle(2)),
    "pixel unshuffle": lambda: nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 0)), nn.Conv2d(8, 2, 1), nn.PixelUnshuffle(2)
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_level_computes_the_same(name: str) -> None:
    chain(lambda: Around(LAYERS[name](), 8, 8), (3, 6, 7))


@pytest.mark.parametrize("name", LAYERS)
def test_the_prepared_network_computes_what_the_users_does(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    network, x = Around(LAYERS[name](), 8, 8).eval(), torch.rand(2, 3, 6, 7)
    expected = network(x)
    torch.testing.assert_close(capture(network, x).eval()(x), expected)
    prepared = prepare(network, x)
    calibrate(prepared, x)
    with float_mode(prepared):
        torch.testing.assert_close(prepared.eval()(x), expected, rtol=0.05, atol=0.05)


def test_a_transposed_convolution_at_the_end() -> None:
    chain(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.BatchNorm2d(3)
        ),
        (3, 6, 7),
    )


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.same = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.relu(self.down(x)))
        return F.relu(self.up(self.down(x)) + self.same(x)) + F.relu(y)


def test_a_transposed_convolution_used_twice_and_added() -> None:
    chain(lambda: nn.Sequential(Skip(), nn.Conv2d(8, 4, 1)), (3, 6, 8))


def test_a_float_checkpoint_of_a_transposed_convolution_is_turned(seed: int) -> None:
    torch.manual_seed(seed)
    networks = [Around(transposed(4, 2, 1), 8, 8).eval() for _ in range(2)]
    x = torch.rand(2, 3, 6, 7)
    prepared = prepare(networks[0], x)
    prepared.load_state_dict(networks[1].state_dict(), strict=False)
    expected = prepare(networks[1], x)
    assert torch.equal(prepared.layer.weight, expected.layer.weight)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: Interpolated(size=(9, 7)), "a whole number of times"),
        (
            lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            "needs align_corners=False",
        ),
        (lambda: transposed(2, 2, 2), "padding must be less than its kernel"),
    ],
)
def test_refusals(layer, reason: str) -> None:
    with pytest.raises(UnsupportedLayer, match=reason):
        prepare(Around(layer(), 8, 8), torch.rand(2, 3, 6, 7))
