# SPDX-License-Identifier: Apache-2.0
"""Torch quantisers against the numeric contract, and their gradients against formulas."""

import numpy as np
import pytest
import torch

from ir import numerics
from ir.numerics import Scheme
from quant.nn import quantizers
from quant.nn.apot import APOT4, apot4_values
from quant.nn.quantizers import SCHEMES
from quant.training import device

TWO, HUGE = np.float32(2), np.float32(np.finfo(np.float32).max)


def values_of(scheme: int) -> np.ndarray:
    return apot4_values() if scheme == APOT4 else numerics.weight_values(Scheme(scheme))


def thresholds_of(scheme: int) -> np.ndarray:
    """Largest float32 that are not above the midpoints, which float64 holds with room to spare."""
    if scheme != APOT4:
        return numerics.thresholds(Scheme(scheme))
    exact = (values_of(scheme)[1:] + values_of(scheme)[:-1]) / 20
    near = exact.astype(np.float32)
    return np.where(near > exact, np.nextafter(near, -TWO), near)


def reference(weight: np.ndarray, alpha: np.float32, scheme: int) -> np.ndarray:
    """numerics.quantise_weights, and the same rule for APoT-4."""
    if scheme != APOT4:
        return numerics.quantise_weights(weight, alpha, Scheme(scheme))
    return values_of(scheme)[np.searchsorted(thresholds_of(scheme), weight / np.float32(alpha))]


def torch_values(weight: np.ndarray, alpha: float, scheme: int) -> np.ndarray:
    row = torch.from_numpy(weight)[None]
    return quantizers.weight_to_int(
        row, torch.tensor([alpha]), torch.tensor([scheme], dtype=torch.uint8)
    )[0].numpy()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_at_and_beside_every_threshold(scheme) -> None:
    at = thresholds_of(scheme)
    ratio = np.concatenate([np.nextafter(at, -TWO), at, np.nextafter(at, TWO)])
    expected, values = reference(ratio, np.float32(1), scheme), values_of(scheme)
    np.testing.assert_array_equal(expected, np.concatenate([values[:-1], values[:-1], values[1:]]))
    np.testing.assert_array_equal(torch_values(ratio, 1.0, scheme), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_extreme_ratios(scheme) -> None:
    least = np.float32(1e-45)
    ratio = np.array(
        [0, least, 1e-39, 1e-30, 1, np.nextafter(np.float32(1), TWO), 1e9, HUGE, np.inf], np.float32
    )
    ratio = np.concatenate([ratio, -ratio])
    top = values_of(scheme)[-1]
    expected = [0, 0, 0, 0, *[top] * 5, 0, 0, 0, 0, *[-top] * 5]
    for alpha in (np.float32(1), np.float32(1e-6), np.float32(1e30)):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                torch_values(ratio, float(alpha), scheme), reference(ratio, alpha, scheme)
            )
    np.testing.assert_array_equal(torch_values(ratio, 1.0, scheme), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_with_any_alpha(scheme, seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=20_000).astype(np.float32)
    for alpha in rng.uniform(0.1, 3, 10).astype(np.float32):
        # Ratios around the thresholds, where a product of float32 would round to the wrong side.
        near = np.repeat(thresholds_of(scheme) * alpha, 9).astype(np.float32)
        near = (
            near.view(np.int32) + np.tile(np.arange(-4, 5, dtype=np.int32), len(near) // 9)
        ).view(np.float32)
        for some in (weight, near):
            np.testing.assert_array_equal(
                torch_values(some, float(alpha), scheme), reference(some, alpha, scheme)
            )


def test_rows_follow_their_own_scheme_and_alpha(seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
    alpha = np.array([0.5, 1.5, 2.5, 0.7], np.float32)
    order = [2, 0, APOT4, 1]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = torch.from_numpy(weight).contiguous(memory_format=memory_format)
        arguments = given, torch.from_numpy(alpha), torch.tensor(order, dtype=torch.uint8)
        ours = quantizers.weight_to_int(*arguments)
        fake = quantizers.fake_quantise_weight(*arguments)
        assert fake.stride() == given.stride()
        for row, scheme in enumerate(order):
            expected = reference(weight[row], alpha[row], scheme)
            np.testing.assert_array_equal(ours[row].numpy(), expected)
            level = (expected / values_of(scheme)[-1]).astype(np.float32)
            np.testing.assert_array_equal(fake[row].numpy(), level * alpha[row])


def test_denominators_are_the_largest_values() -> None:
    ours = quantizers.denominators(torch.tensor(list(SCHEMES), dtype=torch.uint8))
    assert ours.tolist() == [64, 7, 127, 10]


def test_not_a_number_is_no_index_out_of_range() -> None:
    weight = torch.full((4, 3), torch.nan)
    scheme = torch.arange(4, dtype=torch.uint8)
    assert quantizers.fake_quantise_weight(weight, torch.ones(4), scheme).shape == (4, 3)


@pytest.mark.parametrize(("bits", "signed"), [(4, False), (8, False), (8, True)])
def test_activations_at_and_beside_every_threshold(bits, signed) -> None:
    zero_point = 1 << (bits - 1) if signed else 0
    low, high = -zero_point, numerics.act_max(bits) - zero_point
    for scale in (np.float32(1), np.float32(0.1), np.float32(0.37)):
        at = (np.arange(low - 2, high + 3, dtype=np.float32) + np.float32(0.5)) * scale
        x = np.concatenate(
            [np.nextafter(at, np.float32(-1e9)), at, np.nextafter(at, np.float32(1e9))]
        )
        ours = quantizers.act_to_steps(torch.from_numpy(x), torch.tensor(scale), low, high)
        expected = numerics.quantise_activations(x, float(scale), zero_point, bits)
        np.testing.assert_array_equal(ours.numpy().astype(np.int64) + zero_point, expected)


def test_fake_weight_is_alpha_times_level(seed) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(4, 50)).astype(np.float32))
    alpha, scheme = torch.tensor([0.5, 1.0, 2.0, 0.9]), torch.arange(4, dtype=torch.uint8)
    fake = quantizers.fake_quantise_weight(weight, alpha, scheme)
    values = quantizers.weight_to_int(weight, alpha, scheme)
    back = fake * quantizers.denominators(scheme)[:, None] / alpha[:, None]
    assert torch.equal(back.round().long(), values)
    assert (back - values).abs().max() < 1e-4


def test_weight_gradient_passes_inside_the_range_only() -> None:
    weight = torch.tensor([[-1.5, -1.0, -0.3, 0.4, 1.0, 1.01]], requires_grad=True)
    scheme = torch.tensor([Scheme.FIXED4], dtype=torch.uint8)
    out = quantizers.fake_quantise_weight(weight, torch.tensor([1.0]), scheme)
    cotangent = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    out.backward(cotangent)
    assert weight.grad.tolist() == [[0, 2, 3, 4, 5, 0]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_alpha_gradient_follows_lsq(scheme, seed) -> None:
    steps = 7  # of 4 bits, for 8 bits too
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(1, 40)).astype(np.float32)
    cotangent = rng.normal(size=(1, 40)).astype(np.float32)
    alpha = torch.tensor([0.8], requires_grad=True)
    out = quantizers.fake_quantise_weight(
        torch.from_numpy(weight), alpha, torch.tensor([scheme], dtype=torch.uint8)
    )
    out.backward(torch.from_numpy(cotangent))
    ratio = weight / np.float32(0.8)
    level = reference(weight, np.float32(0.8), scheme) / values_of(scheme)[-1]
    slope = np.where(np.abs(ratio) <= 1, level - ratio, level)
    expected = (slope * cotangent).sum() * steps**2 / np.sqrt(40 * steps)
    assert alpha.grad.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-128, 127)])
def test_activation_gradients(low, high, seed) -> None:
    rng = np.random.default_rng(seed)
    scale = 2 / high
    x = rng.uniform(1.5 * low * scale - 0.5, 3, (2, 60)).astype(np.float32)
    cotangent = rng.normal(size=(2, 60)).astype(np.float32)
    leaf, clip = torch.from_numpy(x).requires_grad_(), torch.tensor(2.0, requires_grad=True)
    quantizers.fake_quantise_act(leaf, clip, low, high).backward(torch.from_numpy(cotangent))
    v = x / scale
    inside = (v > low) & (v < high)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(leaf.grad.numpy(), cotangent * inside)
    q = np.clip(np.floor(v + 0.5), low, high)
    slope = np.where(inside, q - v, q) / high
    expected = (slope * cotangent).sum() * 15**2 / np.sqrt(60 * 15)
    assert clip.grad.item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_layout_in_memory_does_not_change_gradients(seed) -> None:
    torch.manual_seed(seed)
    x, cotangent = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4)
    alpha, scheme = torch.rand(3) + 0.5, torch.tensor([0, 1, 2], dtype=torch.uint8)

    def gradients(memory_format: torch.memory_format, of_cotangent: torch.memory_format):
        act, weight = (x.clone(memory_format=memory_format).requires_grad_() for _ in range(2))
        scales = [torch.tensor(1.3, requires_grad=True), alpha.clone().requires_grad_()]
        given = cotangent.clone(memory_format=of_cotangent)
        quantizers.fake_quantise_act(act, scales[0], 0, 15).backward(given)
        quantizers.fake_quantise_weight(weight, scales[1], scheme).backward(given)
        return [leaf.grad for leaf in (act, weight, *scales)]

    formats = torch.contiguous_format, torch.channels_last
    first, *others = [gradients(a, b) for a in formats for b in formats]
    for other in others:
        assert torch.equal(other[0], first[0]) and torch.equal(other[1], first[1])
        torch.testing.assert_close(other[2:], first[2:], rtol=1e-4, atol=1e-4)


def test_scale_gradient_of_a_plain_sum(seed) -> None:
    """Its cotangent is one number in memory, repeated."""
    torch.manual_seed(seed)
    x = torch.randn(4, 50)
    clips = [torch.tensor(1.3, requires_grad=True) for _ in range(2)]
    quantizers.fake_quantise_act(x, clips[0], 0, 15).sum().backward()
    quantizers.fake_quantise_act(x, clips[1], 0, 15).backward(torch.ones(4, 50))
    assert torch.equal(clips[0].grad, clips[1].grad)


def some_arguments() -> tuple[torch.Tensor, ...]:
    weight = torch.randn(8, 4, 3, 3)
    return (weight, weight.abs().amax((1, 2, 3)) * 0.7, torch.randn(2, 99), torch.tensor(2.0))


def both(weight: torch.Tensor, alpha: torch.Tensor, x: torch.Tensor, clip: torch.Tensor):
    scheme = torch.tensor([0, 1, 2, 3] * 2, dtype=torch.uint8)
    return (
        quantizers.fake_quantise_weight(weight, alpha, scheme),
        quantizers.fake_quantise_act(x, clip, 0, 15),
    )


def forward_and_backward(function, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    leaves = [a.clone().requires_grad_() for a in arguments]
    outputs = function(*leaves)
    sum(out.square().sum() for out in outputs).backward()
    return [*(out.detach() for out in outputs), *(leaf.grad for leaf in leaves)]


def test_autocast_changes_nothing(seed) -> None:
    torch.manual_seed(seed)
    arguments = some_arguments()
    plain = forward_and_backward(both, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = forward_and_backward(both, arguments)
    assert all(
        torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(plain, mixed, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype, seed) -> None:
    torch.manual_seed(seed)
    arguments = [a.to(dtype) for a in some_arguments()]
    plain = both(*(a.float() for a in arguments))
    for ours, expected in zip(both(*arguments), plain, strict=True):
        assert torch.equal(ours, expected.to(dtype)) and ours.dtype == dtype
    scheme = torch.tensor([0, 1, 2, 3] * 2, dtype=torch.uint8)
    weight, alpha, x, clip = arguments
    assert torch.equal(
        quantizers.weight_to_int(weight, alpha, scheme),
        quantizers.weight_to_int(weight.float(), alpha.float(), scheme),
    )
    assert torch.equal(
        quantizers.act_to_steps(x, clip / 15, 0, 15),
        quantizers.act_to_steps(x.float(), (clip / 15).float(), 0, 15),
    )


@pytest.mark.skipif(
    torch.torch_version.TorchVersion(torch.__version__) < device.COMPILES,
    reason="refused by the trainer: 2.11 computes wrong gradients",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_quantisers_compile_without_a_break(seed) -> None:
    torch.manual_seed(seed)
    arguments = some_arguments()
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    plain, ours = (forward_and_backward(f, arguments) for f in (both, compiled))
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], ours[:2], strict=True))
    torch.testing.assert_close(ours[2:], plain[2:])


def test_best_alpha_is_the_peak_for_pot_and_no_worse_than_it_for_fixed(seed) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 300)).astype(np.float32))
    scheme = torch.arange(4, dtype=torch.uint8)
    alpha, peak = quantizers.best_alpha(weight, scheme, 1e-6), weight.abs().amax(1)

    def error(a: torch.Tensor) -> torch.Tensor:
        return (quantizers.fake_quantise_weight(weight, a, scheme) - weight).square().sum(1)

    assert alpha[0] == peak[0]
    assert error(alpha)[1] < 0.9 * error(peak)[1]
    assert error(alpha)[2] <= error(peak)[2]
    assert error(alpha)[3] < error(peak)[3]


def test_best_scales_of_nothing_are_positive() -> None:
    alpha = quantizers.best_alpha(torch.zeros(3, 4), torch.tensor([0, 1, 2]).byte(), 1e-6)
    assert (alpha >= 1e-6).all()
    assert quantizers.best_clip(torch.zeros(10), 0, 15, 1e-6) >= 1e-6


def test_best_clip_of_uniform_values_is_their_peak(seed) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).uniform(0, 3, 5000).astype(np.float32))
    assert quantizers.best_clip(x, 0, 15, 1e-6).item() == pytest.approx(3, rel=0.05)
