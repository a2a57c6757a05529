# SPDX-License-Identifier: Apache-2.0
"""Where quantisers go, and that a prepared network without them is the float one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from quant.capture.writer import UnsupportedLayer
from quant.lowering.prepare import calibrate, prepare
from quant.models import build
from quant.nn import layers
from quant.nn.activations import ActQuantiser, QuantAvgPool
from quant.nn.layers import QuantConv2d, QuantLinear

X = torch.rand(2, 1, 8, 8)


@pytest.fixture
def model(seed) -> nn.Module:
    torch.manual_seed(seed)
    return build("tiny", shape=(1, 8, 8), classes=10, width=4).eval()


def quantisers(model: nn.Module) -> dict[str, ActQuantiser]:
    return {n: m for n, m in model.named_modules() if isinstance(m, ActQuantiser)}


def test_layers_are_swapped_and_the_model_is_left_alone(model) -> None:
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model, X)
    kinds = [type(m) for m in prepared.modules()]
    assert kinds.count(QuantConv2d) == 9 and kinds.count(QuantLinear) == 1
    assert kinds.count(ActQuantiser) == 9 and kinds.count(QuantAvgPool) == 1
    assert nn.ReLU not in kinds and nn.Conv2d not in kinds
    assert set(before) <= set(prepared.state_dict())
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_quantisers_off_is_the_float_model(model) -> None:
    prepared, x = prepare(model, X), torch.rand(3, 1, 8, 8)
    prepared.train()
    with layers.float_mode(prepared):
        assert not prepared.training
        assert torch.equal(prepared(x), model(x))
    assert prepared.training
    assert not torch.equal(prepared.eval()(x), model(x))


def test_shortcuts_have_8_bits_and_the_rest_4(model) -> None:
    found = quantisers(prepare(model, X))
    shortcuts = {n: q for n, q in found.items() if n.endswith("_quant")}
    assert set(shortcuts) == {f"layer{i}.0.downsample.1_quant" for i in (2, 3)}
    assert all(q.signed and q.bits == 8 for q in shortcuts.values())
    assert all(not q.signed and q.bits == 4 for n, q in found.items() if n not in shortcuts)


def test_activation_bits(model) -> None:
    assert {q.bits for q in quantisers(prepare(model, X, act_bits=8)).values()} == {8}


def test_w8a8_widens_what_the_last_layer_reads() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    found = quantisers(prepare(net, X, first_last="w8a8"))
    assert [found[n].bits for n in ("1", "4")] == [4, 8]
    assert [q.bits for q in quantisers(prepare(net, X)).values()] == [4, 4]
    with pytest.raises(ValueError, match="first_last must be"):
        prepare(net, X, first_last="w8a4")


class Bottleneck(nn.Module):
    """A linear bottleneck with its addition, as in MobileNet-v2."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
        self.expand, self.project = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.norm(self.project(F.relu6(self.expand(x))))
        return self.last(x)


def test_linear_bottlenecks_are_signed_4_bit(seed) -> None:
    torch.manual_seed(seed)
    prepared = prepare(Bottleneck(), X)
    found = quantisers(prepared)
    assert {n: (q.bits, q.signed, q.limit) for n, q in found.items()} == {
        "first.1_quant": (4, True, None),
        "relu6": (4, False, 6.0),
        "add_quant": (4, True, None),
    }
    calibrate(prepared, torch.rand(8, 1, 8, 8))
    assert all(0 < q.zero_point < 15 for q in found.values() if q.signed)
    assert max(q.clip.item() for q in found.values() if q.limit) <= 6


def test_relu6_stays_within_6() -> None:
    act = ActQuantiser(4, limit=6.0)
    act.quantise = False
    assert act(torch.tensor([-1.0, 5.0, 9.0])).tolist() == [0, 5, 6]
    act.clip.data.fill_(9)
    act.clamp_scales_()
    assert act.clip.item() == 6


def test_pool_before_relu_is_swapped(seed) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)
    ).eval()
    prepared, x = prepare(net, X), torch.rand(3, 1, 8, 8)
    assert len(quantisers(prepared)) == 1
    with layers.float_mode(prepared):
        assert torch.equal(prepared(x), net(x))


class Adds(nn.Module):
    """``how(x, conv(x))``, with a ReLU and a classifier behind it."""

    def __init__(self, how) -> None:
        super().__init__()
        self.how, self.conv, self.other = how, nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
        self.fc = nn.Linear(3 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.how(self.conv(x), self.other(x))).flatten(1))


def test_the_later_of_two_sums_is_accumulated() -> None:
    assert set(quantisers(prepare(Adds(lambda a, b: a + b), X))) == {"conv_quant", "relu"}
    assert set(quantisers(prepare(Adds(lambda a, b: b + a), X))) == {"conv_quant", "relu"}


def test_three_terms_take_two_requantisations() -> None:
    class Three(Adds):
        def __init__(self) -> None:
            super().__init__(None)
            self.third = nn.Conv2d(1, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x) + self.other(x) + self.third(x)
            return self.fc(F.relu(x).flatten(1))

    found = quantisers(prepare(Three(), X))
    assert {n: q.bits for n, q in found.items()} == {"conv_quant": 8, "add_quant": 8, "relu": 4}


@pytest.mark.parametrize(
    ("net", "message"),
    [],
)
def test_layers_in_places_where_they_cannot_be_had(net, message) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        prepare(net, X)


def test_calibration_sets_every_clip_and_turns_quantisers_on(model) -> None:
    prepared = prepare(model, X)
    calibrate(prepared, torch.rand(64, 1, 8, 8))
    assert 1.0 not in [q.clip.item() for q in quantisers(prepared).values()]
    assert all(m.quantise for m in prepared.modules() if hasattr(m, "quantise"))
    out = prepared.relu(torch.randn(1, 4, 8, 8))
    steps = out / prepared.relu.scale
    assert torch.allclose(steps, steps.round(), atol=1e-4) and steps.max() <= 15.001


def test_calibration_follows_a_checkpoint_loaded_after_prepare(model) -> None:
    """Scales are those of the weights that are there, whatever :func:`prepare` saw."""
    x, other = torch.rand(64, 1, 8, 8), build("tiny", shape=(1, 8, 8), classes=10, width=4).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(10)
    late, expected = prepare(other, X), prepare(model, X)
    scheme = torch.tensor([0, 1, 2, 1], dtype=torch.uint8)
    for prepared in (late, expected):
        prepared.conv1.assign(scheme)
    late.load_state_dict(model.state_dict(), strict=False)
    for prepared in (late, expected):
        calibrate(prepared, x)
    assert torch.equal(late.conv1.scheme, scheme)
    for name, value in expected.state_dict().items():
        assert torch.equal(late.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(8, 1, 8, 8), r"lie in -.*, but .* pixels in 0\.\.1: give pixels divided"),
        (torch.rand(8, 1, 8, 8) * 2 - 1, "leave their normalisation out"),
        (torch.rand(8, 1, 8, 8) * 255, r"images lie in .*\.\.25\d, .*0\.\.1: divide them by 255"),
        (torch.rand(8, 1, 8, 8) / 2 + 0.6, "divide them by 255"),
        (torch.full((8, 1, 8, 8), torch.nan), "images have values that are not finite"),
        (torch.full((8, 1, 8, 8), -torch.inf), "images have values that are not finite"),
        (torch.zeros(8, 1, 8, 8, dtype=torch.uint8), r"images are uint8: .* x.float\(\) / 255"),
        (torch.zeros(8, 1, 8, 8, dtype=torch.int64), "images are int64"),
        (torch.zeros(8, 1, 8, 8, dtype=torch.bool), "images are bool"),
        (torch.zeros(8, 1, 8, 8, dtype=torch.float64), "are float64, the network is float32"),
        (torch.rand(8, 3, 8, 8), r"shape \(8, 3, 8, 8\) were given, .* for \(N, 1, 8, 8\)"),
        (torch.rand(8, 1, 9, 8), r"prepared for \(N, 1, 8, 8\)"),
        (torch.rand(1, 8, 8), r"prepared for \(N, 1, 8, 8\)"),
        (torch.rand(0, 1, 8, 8), r"prepared for \(N, 1, 8, 8\)"),
    ],
)
def test_images_that_the_accelerator_reads_as_others_are_refused(model, images, message) -> None:
    prepared = prepare(model, X)
    before = copy.deepcopy(prepared.state_dict())
    with pytest.raises(ValueError, match=message) as raised:
        calibrate(prepared, images)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in prepared.state_dict().items())


def test_images_beside_pixels_by_rounding_alone_are_taken(model) -> None:
    prepared, x = prepare(model, X), torch.rand(8, 1, 8, 8)
    x[0, 0, 0, :2] = torch.tensor([-0.4, 255.4]) / 255  # a resized picture overshoots
    calibrate(prepared, x)
    x[0, 0, 0, 0] = -0.6 / 255
    with pytest.raises(ValueError, match="images lie in"):
        calibrate(prepared, x)


def test_images_are_checked_where_the_accelerator_reads_them(model) -> None:
    """Whatever a wrapper does to them first; afterwards everything is as before."""

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = prepare(model, X)

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - 0.5) / 0.2)

    wrapped = Normalised().train()
    with pytest.raises(ValueError, match=r"images lie in -2.*: give pixels divided by 255"):
        calibrate(wrapped, torch.rand(8, 1, 8, 8))
    assert wrapped.training and all(m.training for m in wrapped.modules())
    assert all(m.quantise for m in layers.quantised_layers(wrapped).values())
    assert not any(q.observe for q in quantisers(wrapped).values())
    wrapped.net(torch.full((2, 1, 8, 8), 7.0))  # training may feed what it likes


def test_number_of_inputs(model) -> None:
    with pytest.raises(ValueError, match="the network takes 1 inputs, not 2"):
        calibrate(prepare(model, X), X, X)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_example_of_integers(model, kind) -> None:
    with pytest.raises(ValueError, match=r"give pixels as float in 0\.\.1"):
        prepare(model, X.to(kind))


def test_prepared_model_is_refused(model) -> None:
    with pytest.raises(UnsupportedLayer, match="prepared already"):
        prepare(prepare(model, X), X)
    with pytest.raises(UnsupportedLayer, match="prepared already"):
        prepare(nn.Sequential(ActQuantiser(4)), X)


@pytest.mark.parametrize(
    "model",
    [nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), nn.Identity(), nn.ReLU()],
)
@pytest.mark.parametrize("first_last", ["same", "w8a8"])
def test_model_without_weights_is_refused(model, first_last) -> None:
    with pytest.raises(UnsupportedLayer, match="no layer with weights"):
        prepare(model, X, first_last=first_last)


def test_activation_bits_are_4_or_8(model) -> None:
    with pytest.raises(ValueError, match="act_bits must be 4 or 8, not 5"):
        prepare(model, X, act_bits=5)


class BasicBlock(nn.Module):
    """A residual block with one activation object, as torchvision's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def test_each_call_of_an_activation_has_its_own_quantiser(seed) -> None:
    torch.manual_seed(seed)
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), relu, BasicBlock(4), nn.Conv2d(4, 4, 1), relu)
    prepared, x = prepare(net.eval(), X), torch.rand(8, 1, 8, 8)
    assert set(quantisers(prepared)) == {"1", "2.relu", "2.relu_2", "4"}
    with layers.float_mode(prepared):
        assert torch.equal(prepared(x), net(x))
    calibrate(prepared, x)
    assert len({q.clip.item() for q in quantisers(prepared).values()}) == 4


def test_activation_called_graph() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.graph = nn.Conv2d(1, 2, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.graph(self.conv(x))

    assert set(quantisers(prepare(Net(), X))) == {"graph_"}


class PaddedConv(nn.Conv2d):
    """Pads by a module of its own, activates, and holds another layer."""

    def __init__(self) -> None:
        super().__init__(2, 4, 3)
        self.pad, self.inner, self.act = nn.ZeroPad2d(1), nn.Conv2d(1, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(self.act(self.inner(x))))


def test_convolution_that_holds_modules(seed) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(PaddedConv(), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 2))
    prepared, x = prepare(net.eval(), X), torch.rand(3, 1, 8, 8)
    assert set(layers.quantised_layers(prepared)) == {"0", "0.inner", "4"}
    assert prepared.get_submodule("2").source is prepared.get_submodule("1")
    with layers.float_mode(prepared):
        assert torch.equal(prepared(x), net(x))


def test_lopsided_tensors_get_a_lopsided_zero_point(seed) -> None:
    torch.manual_seed(seed)
    act = ActQuantiser(4, signed=True)
    act.observe = True
    act(F.gelu(torch.randn(50_000)))
    assert 1 <= act.zero_point <= 3
    act(torch.randn(50_000))
    assert 7 <= act.zero_point <= 8


def test_zero_points_are_part_of_the_state() -> None:
    a, b = ActQuantiser(4, signed=True), ActQuantiser(4, signed=True)
    a.zero_point = 3
    b.load_state_dict(a.state_dict())
    assert (b.zero_point, b.low, b.high) == (3, -3, 12)


@pytest.mark.parametrize(("channels", "steps"), [(64, 16), (512, 8), (2048, 2)])
def test_pooled_codes_fit_the_accumulator_behind_them(channels, steps) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, channels, 5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 2),
    )
    pool = next(m for m in prepare(net, X).modules() if isinstance(m, QuantAvgPool))
    assert pool.steps == steps and 127 * channels * 15 * steps < 1 << 23


def test_parameters_that_cannot_be_quantised(seed: int) -> None:
    torch.manual_seed(seed)
    layers, images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), torch.rand(2, 1, 8, 8)
    prune.l1_unstructured(layers[0], "weight", 0.3)
    with pytest.raises(ValueError, match=r"layer '0' is computed by a hook .*prune\.remove"):
        prepare(layers, images)
    prune.remove(layers[0], "weight")
    with torch.no_grad():
        layers[0].bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"parameter '0\.bias' holds NaN or infinity"):
        prepare(layers, images)
