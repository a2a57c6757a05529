# SPDX-License-Identifier: Apache-2.0
"""Torch quantisers against the numeric contract, and their gradients against formulas."""

import numpy as np
import pytest
import torch

from quant import numerics, quantizers
from quant.numerics import Scheme


def torch_values(ratio: np.ndarray, alpha: float, scheme: Scheme) -> np.ndarray:
    weight = torch.from_numpy(ratio)[None]
    return quantizers.weight_to_int(weight, torch.tensor([alpha]),
                                    torch.tensor([scheme], dtype=torch.uint8))[0].numpy()


@pytest.mark.parametrize("scheme", Scheme)
def test_weights_at_and_beside_every_threshold(scheme) -> None:
    at = numerics.thresholds(scheme)
    two = np.float32(2)
    ratio = np.concatenate([np.nextafter(at, -two), at, np.nextafter(at, two)])
    expected = numerics.quantise_weights(ratio, np.float32(1), scheme)
    np.testing.assert_array_equal(torch_values(ratio, 1.0, scheme), expected)
    values = numerics.weight_values(scheme)
    np.testing.assert_array_equal(expected, np.concatenate([values[:-1], values[:-1], values[1:]]))


@pytest.mark.parametrize("scheme", Scheme)
def test_weights_with_any_alpha(scheme, seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=20_000).astype(np.float32)
    for alpha in rng.uniform(0.1, 3, 10).astype(np.float32):
        np.testing.assert_array_equal(torch_values(weight, float(alpha), scheme),
                                      numerics.quantise_weights(weight, alpha, scheme))


def test_rows_follow_their_own_scheme_and_alpha(seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    alpha = np.array([0.5, 1.5, 2.5], np.float32)
    ours = quantizers.weight_to_int(torch.from_numpy(weight), torch.from_numpy(alpha),
                                    torch.tensor([2, 0, 1], dtype=torch.uint8))
    for row, scheme in enumerate((Scheme.FIXED8, Scheme.POT4, Scheme.FIXED4)):
        expected = numerics.quantise_weights(weight[row], alpha[row], scheme)
        np.testing.assert_array_equal(ours[row].numpy(), expected)


@pytest.mark.parametrize(("bits", "signed"), [(4, False), (8, False), (8, True)])
def test_activations_at_and_beside_every_threshold(bits, signed) -> None:
    zero_point = 1 << (bits - 1) if signed else 0
    low, high = -zero_point, numerics.act_max(bits) - zero_point
    for scale in (np.float32(1), np.float32(0.1), np.float32(0.37)):
        at = (np.arange(low - 2, high + 3, dtype=np.float32) + np.float32(0.5)) * scale
        x = np.concatenate([np.nextafter(at, np.float32(-1e9)), at,
                            np.nextafter(at, np.float32(1e9))])
        ours = quantizers.act_to_steps(torch.from_numpy(x), torch.tensor(scale), low, high)
        expected = numerics.quantise_activations(x, float(scale), zero_point, bits)
        np.testing.assert_array_equal(ours.numpy().astype(np.int64) + zero_point, expected)


def test_fake_weight_is_alpha_times_level(seed) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(3, 50)).astype(np.float32))
    alpha, scheme = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0, 1, 2], dtype=torch.uint8)
    fake = quantizers.fake_quantise_weight(weight, alpha, scheme)
    values = quantizers.weight_to_int(weight, alpha, scheme)
    back = fake * torch.tensor([64.0, 7.0, 127.0])[:, None] / alpha[:, None]
    assert torch.equal(back.round().long(), values)
    assert (back - values).abs().max() < 1e-4


def test_weight_gradient_passes_inside_the_range_only() -> None:
    weight = torch.tensor([[-1.5, -1.0, -0.3, 0.4, 1.0, 1.01]], requires_grad=True)
    scheme = torch.tensor([Scheme.FIXED4], dtype=torch.uint8)
    out = quantizers.fake_quantise_weight(weight, torch.tensor([1.0]), scheme)
    cotangent = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    out.backward(cotangent)
    assert weight.grad.tolist() == [[0, 2, 3, 4, 5, 0]]


@pytest.mark.parametrize("scheme", Scheme)
def test_alpha_gradient_follows_lsq(scheme, seed) -> None:
    steps = 7                               # of 4 bits, for 8 bits too
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(1, 40)).astype(np.float32)
    cotangent = rng.normal(size=(1, 40)).astype(np.float32)
    alpha = torch.tensor([0.8], requires_grad=True)
    out = quantizers.fake_quantise_weight(torch.from_numpy(weight), alpha,
                                          torch.tensor([scheme], dtype=torch.uint8))
    out.backward(torch.from_numpy(cotangent))
    ratio = weight / np.float32(0.8)
    level = numerics.quantise_weights(weight, np.float32(0.8), scheme) / scheme.denominator
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


def test_best_alpha_is_the_peak_for_pot_and_no_worse_than_it_for_fixed(seed) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 300)).astype(np.float32))
    scheme = torch.tensor([0, 1, 2], dtype=torch.uint8)
    alpha, peak = quantizers.best_alpha(weight, scheme, 1e-6), weight.abs().amax(1)

    def error(a: torch.Tensor) -> torch.Tensor:
        return (quantizers.fake_quantise_weight(weight, a, scheme) - weight).square().sum(1)

    assert alpha[0] == peak[0]
    assert error(alpha)[1] < 0.9 * error(peak)[1]
    assert error(alpha)[2] <= error(peak)[2]


def test_best_scales_of_nothing_are_positive() -> None:
    alpha = quantizers.best_alpha(torch.zeros(3, 4), torch.tensor([0, 1, 2]).byte(), 1e-6)
    assert (alpha >= 1e-6).all()
    assert quantizers.best_clip(torch.zeros(10), 0, 15, 1e-6) >= 1e-6


def test_best_clip_of_uniform_values_is_their_peak(seed) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).uniform(0, 3, 5000).astype(np.float32))
    assert quantizers.best_clip(x, 0, 15, 1e-6).item() == pytest.approx(3, rel=0.05)
